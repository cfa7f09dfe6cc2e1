"""What a model may do that would make an audit mean something else: one small function a check."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from mohs.errors import ModelRaised
from mohs.models.base import Model
from mohs.models.findings import Finding, Probe, error, warning
from mohs.models.gradients import AGREE, STEP, Call, agreement, mixed, where_lost, where_random, where_wrong
from mohs.models.hypotheses import accuracy
from mohs.models.raised import said
from mohs.models.torch_model import TorchModel, in_training
from mohs.threat import Knowledge

PROBES = 16  # rows that most checks look at
DRAWS = 5  # forward passes that must agree
RANDOM = 1e-4  # of the scale of the logits: repeated passes of a deterministic model differ by less
COUPLED = 1e-3  # of the scale of the logits: a row alone and in company differs by less


def training(model: Model | nn.Module) -> Iterator[Finding]:
    module = model.module if isinstance(model, TorchModel) else model
    layers = in_training(module) if isinstance(module, nn.Module) else []
    if layers:
        names = ", ".join(layers[:4]) + (f" and {len(layers) - 4} more" if len(layers) > 4 else "")
        yield error("training", f"the model is in training mode ({names}): call model.eval()")


def shape(probe: Probe) -> Iterator[Finding]:
    got, want = list(probe.logits.shape), [len(probe.rows), probe.model.classes]
    if got != want:
        yield error("shape", f"the model returned {got} for {want[0]} rows; expected {want}, one score a class")


def finite(probe: Probe) -> Iterator[Finding]:
    bad = ~probe.logits.isfinite().all(1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        if probe.model.remote:  # which was heard before: a row without an answer is told where it counts
            return
        yield error("nan", f"the model's output for example {row} holds NaN or infinity; expected finite scores")


def constant(probe: Probe) -> Iterator[Finding]:
    if probe.model.gives >= Knowledge.SCORES and _varies(probe.rows) and not _varies(probe.logits):
        count = len(probe.rows)
        yield error("constant", f"the model gives {count} different examples the same scores: is it trained, is x used?")


def outputs(probe: Probe) -> Iterator[Finding]:
    """Logits, probabilities and margins, each taken for another."""
    declared, z = getattr(probe.model, "outputs", "logits"), probe.logits
    if declared == "logits" and _sums_to_one(z):
        found, say = "the outputs lie in [0, 1] and sum to one: they are probabilities", "--outputs probabilities"
    elif declared == "probabilities" and not _sums_to_one(z.exp()):
        found, say = f"outputs were declared probabilities and sum to {float(z[0].exp().sum()):g}", "--outputs logits"
    elif declared == "margin" and len(z) >= 4 and bool(((z[:, 1] >= 0) & (z[:, 1] <= 1)).all()):
        found = "outputs were declared a margin, negative for class 0, and all lie in [0, 1] as probabilities do"
        say = "--outputs probabilities"
    else:
        return
    yield error("outputs", f"{found}; say {say}")


@torch.no_grad()
def random(probe: Probe) -> Iterator[Finding]:
    if probe.model.remote:  # measured when it was met
        return
    again = [probe.model.logits(probe.rows).float() for _ in range(DRAWS - 1)]
    spread = max(float((z - probe.logits).abs().max()) for z in again)
    if spread > RANDOM * probe.scale:
        probe.model.random = True
        told = f"the model is random{_at(probe, where_random)}: {DRAWS} passes over the same rows differ by {spread:.2g}"
        then = "gradients and scores are averaged over draws (EOT), hits are confirmed on fresh draws"
        yield warning("random", f"{told}; {then}, and one counts if at least half succeed")


@torch.no_grad()
def coupled(probe: Probe) -> Iterator[Finding]:
    """A row must get the same output alone as in company; the draws of a random model would hide whether it does."""
    if probe.model.random or len(probe.rows) < 2:
        return
    alone = torch.cat([probe.model.logits(row).float() for row in probe.rows[:4].split(1)])
    moved = float((alone - probe.logits[:4]).abs().max())
    if moved > COUPLED * probe.scale:
        told = f"an example's output moves by {moved:.2g} ({moved / probe.scale:.0%} of the largest) when it comes alone"
        yield error("coupled", f"{told}: it depends on the statistics of its batch; run or export it in evaluation mode")


def saturated(probe: Probe) -> Iterator[Finding]:
    """Probabilities that say nothing of the classes behind the first: of that, no attack is told."""
    count = int(_saturated(probe).sum())
    if count:
        told = f"the softmax is saturated at {count} of {len(probe.rows)} examples: one probability is 1 and the others are 0"
        then = "neither scores nor gradients tell there how far another class is, and an attack that fails shows no robustness"
        yield warning("saturated", f"{told} in float32; {then}: {_WITHOUT_SOFTMAX}")


def gradient(probe: Probe) -> Iterator[Finding]:
    """Absent, zero at all examples or at some, or not the slope of the scores."""
    if probe.model.gives < Knowledge.GRADIENT:
        return
    reason, lost = _lost_gradient(probe)
    if reason:
        probe.model.gives = Knowledge.SCORES
        told = f"the model gives no gradient ({reason}{_at(probe, where_lost)})"
        yield warning("gradient", f"{told}: attacks that need one are inapplicable here, which is not robustness; {_REMEDY}")
        return
    sharp = _saturated(probe)
    flat = int((lost | sharp).sum())
    if flat:
        probe.model.flat = True
        told = f"the model gives no gradient of use at {flat} of {len(probe.rows)} examples"
        then = "attacks that follow it may fail there, which is not robustness, and attacks by scores stand behind them"
        yield warning("flat", f"{told}: {then}; {_WITHOUT_SOFTMAX if bool(sharp.any()) else _REMEDY}")
    if probe.model.differentiable:
        low, high = probe.model.bounds
        cosine = agreement(probe.model.logits, probe.rows[:4], STEP * (high - low))
        if cosine < AGREE:
            told = f"the model's gradient is not its slope (cosine {cosine:.2f} with finite differences{_at(probe, where_wrong)})"
            yield warning("gradient", f"{told}: attacks that follow it may fail here, which is not robustness; {_REMEDY}")


_WITHOUT_SOFTMAX = "export the model without its softmax, and say --outputs logits"
_REMEDY = "declare the layer by mohs.defend.bpda, or the change of the input as a mohs.defend.Defence, to attack through it"


def _at(probe: Probe, search: Callable[[nn.Module, Tensor], Call | None]) -> str:
    """Where in the module, with a leading comma; '' where that cannot be told."""
    if not isinstance(probe.model, TorchModel):
        return ""
    try:
        call = search(probe.model.module, probe.rows[:4])
    except Exception:  # a layer may not run by itself, or refuse hooks, in any way
        return ""
    return f", in the {call}" if call else ""


def _varies(x: Tensor) -> bool:
    return bool((x != x[:1]).any())


def _sums_to_one(p: Tensor) -> bool:
    """Whether every row is a distribution."""
    return bool(((p.sum(1) - 1).abs() <= 1e-3).all() and (p >= 0).all())


def _saturated(probe: Probe) -> Tensor:
    """[rows] bool: where of declared probabilities all but one are too small for float32, so that their logarithms are alike."""
    floor = math.log(torch.finfo(torch.float32).tiny) + 1e-3
    declared = getattr(probe.model, "outputs", "logits") == "probabilities"
    return (probe.logits > floor).sum(1) <= 1 if declared else probe.logits.new_zeros(len(probe.rows), dtype=torch.bool)


def _lost_gradient(probe: Probe) -> tuple[str, Tensor]:
    """Why there is none, '' where there is one somewhere; and [rows] bool, where it is zero or no number."""
    x = probe.rows.detach().requires_grad_()
    everywhere = torch.ones(len(x), dtype=torch.bool)
    try:
        with torch.enable_grad():
            logits = probe.model.logits(x)
            if not logits.requires_grad:
                return "its output is detached from its input", everywhere
            found: Tensor | None = torch.autograd.grad(mixed(logits).sum(), x, allow_unused=True)[0]
    except (RuntimeError, ModelRaised) as failure:  # of the pass backward, or forward
        return said(failure.__cause__ or failure), everywhere
    if found is None:
        return "its output is detached from its input", everywhere
    broken = ~found.flatten(1).isfinite().all(1)
    if bool(broken.all()):
        return "it is NaN or infinite", everywhere
    lost = broken | (found == 0).flatten(1).all(1)
    return "it is zero: is the input rounded, or the last layer saturated?" if bool(lost.all()) else "", lost


CHECKS: tuple[Callable[[Probe], Iterator[Finding]], ...] = (
    shape,
    finite,
    constant,
    outputs,
    random,
    coupled,
    saturated,
    gradient,
    accuracy,
)

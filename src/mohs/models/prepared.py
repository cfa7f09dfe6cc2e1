"""Guides and judges. A guide is a fast copy of a model that steers an attack; the judge is the model itself, untouched,
and alone decides. Each step of preparing is kept only if logits and gradients stay those of the original, on probes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from mohs.models.base import Model
from mohs.models.batched import Batched, measure_quantum
from mohs.models.blinding import Blinding
from mohs.models.convolution import computes_in_bfloat16, half_gradients, narrow_gradients
from mohs.models.cpu import keep_freed_memory
from mohs.models.fold import count_convolutions, fold_batch_norm, fold_normalisation
from mohs.models.inplace import in_place
from mohs.models.straight import straighten
from mohs.models.torch_model import TorchModel
from mohs.threat import Aim, Goal, Knowledge

LOGITS = 1e-4  # of the scale of the logits: the most a step may move them
COSINE = 0.999  # of gradients before and after a step: the least it may be
CONVOLUTIONS = 8  # from so many on, channels-last memory pays for the conversion of the input
PROBES = 16  # examples a step is compared on
EXACT_ROWS = 16  # of a call in float64 on a CPU, whose convolutions fall out of its caches at more
CONFIRM_SEED = 0x6D6F6873  # no attack searches on the draws that follow it
CONFIRM_DRAWS = 100  # fresh draws on which a hit against a random model is confirmed


@dataclass(frozen=True)
class Guide(Batched):
    """slack: four times the largest difference from the judge's logits seen on probes. A point within it is put to the
    judge, so that a fast guide never hides a success. log: what was done to the copy, and why not."""

    slack: float = 0.0
    log: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """The judge's word on n points. reached, doubted [n] bool; margin [n] float32; label [n]; hits, trials [n] int64."""

    reached: Tensor
    doubted: Tensor
    margin: Tensor
    label: Tensor
    hits: Tensor
    trials: Tensor


@dataclass(frozen=True)
class Judge(Batched):
    """exact: the model in float64, where it is to be had. noise: the largest difference of its float32 logits seen
    on probes, which margins must exceed fourfold where float64 is not to be had."""

    exact: Model | None = None
    noise: float = 0.0

    def reference(self, x: Tensor) -> Tensor:
        """The logits of clean inputs x [n, *input], [n, classes]; of a random model, one draw that can be had again."""
        if not self.model.random:
            return self.scores(x)
        with seeded(-1):
            return self.scores(x)

    @torch.no_grad()
    def confirm(self, x: Tensor, goal: Goal, aim: Aim) -> Verdict:
        """Whether inputs x [n, *input] reach the goal.

        A deterministic model must reach it in float32 and in float64, strictly; `doubted` where only float32 does.
        A random one must reach it in at least half of fresh draws.
        """
        if self.model.random:
            return self._confirm_random(x, goal, aim)
        logits = self.scores(x)
        margin = goal.margin(logits, aim)
        if self.exact is None:
            reached = margin > 4 * self.noise
        else:
            exact = _in_float64(self.exact, x, self.rows)
            reached = (margin > 0) & (goal.margin(exact, aim) > 0)
        doubted = (margin > 0) & ~reached
        trials = torch.ones_like(aim.y)
        return Verdict(reached, doubted, margin, logits.argmax(1), reached.long(), trials)

    def clean(self, x: Tensor, goal: Goal, aim: Aim) -> Verdict:
        """`confirm` of clean inputs: one that the model gets wrong counts against it where no goal is reached, too, be it by a
        tie or by a refusal; of a random model, the draws have the say."""
        verdict = self.confirm(x, goal, aim)
        if self.model.random:
            return verdict
        return replace(verdict, reached=verdict.reached | goal.given_away(verdict.label, aim) & ~verdict.margin.isnan())

    def _confirm_random(self, x: Tensor, goal: Goal, aim: Aim) -> Verdict:
        hits, total = torch.zeros_like(aim.y), torch.zeros(len(x), self.model.classes, device=x.device)
        margins = torch.zeros(len(x), device=x.device)
        for number in range(CONFIRM_DRAWS):
            with seeded(number):
                logits = self.scores(x)
            margin = goal.margin(logits, aim)
            hits += margin > 0
            margins += margin / CONFIRM_DRAWS
            total += logits.softmax(1)
        trials = torch.full_like(aim.y, CONFIRM_DRAWS)
        return Verdict(2 * hits >= trials, torch.zeros_like(aim.y, dtype=torch.bool), margins, total.argmax(1), hits, trials)


@dataclass(frozen=True)
class Prepared:
    """What the Oracle is handed: the judge, the guide and how they were made. surrogate: the adversary's own models in one,
    the guide where the threat lets nothing be asked, and the start of hybrid attacks. blinding: of what is asked of a watched
    model."""

    judge: Judge
    guide: Guide
    surrogate: Guide | None = None
    blinding: Blinding | None = None
    notes: dict[str, object] = field(default_factory=dict)

    def with_rows(self, rows: int) -> Prepared:
        """The same in micro-batches of `rows`."""
        own = self.surrogate and replace(self.surrogate, rows=rows)
        return replace(self, judge=replace(self.judge, rows=rows), guide=replace(self.guide, rows=rows), surrogate=own)

    def pinned(self, rows: int, quantum: int, slack: float, noise: float) -> Prepared:
        """The same with the numbers of a plan in place of those measured just now."""
        judge = replace(self.judge, rows=rows, quantum=quantum, noise=noise)
        own = self.surrogate and replace(self.surrogate, rows=rows, quantum=max(quantum, self.surrogate.quantum))
        return replace(self, judge=judge, guide=replace(self.guide, rows=rows, quantum=quantum, slack=slack), surrogate=own)


def prepare(model: Model, x: Tensor, *, rows: int = 128, accelerate: bool = True, compile: bool = False) -> Prepared:
    """Make judge and guide of a model from a few clean examples x [n, *input] inside its bounds.

    rows: micro-batch. accelerate: fold batch norm and use channels-last; False guides by the model itself. compile:
    torch.compile the guide too; off unless it pays.
    """
    rows = model.batch or rows
    if model.remote:  # nothing is measured that costs queries: a row is alone in any company, and its answer is what counts
        return Prepared(Judge(model, rows, 1), Guide(model, rows, 1), notes={"guide": [], "quantum": 1})
    if model.device.type == "cpu":
        keep_freed_memory()
    probes = _probes(x.to(model.device), model)
    log: list[str] = []
    guide_model = (
        _accelerate(model, probes, log, rows if compile else 0) if accelerate and isinstance(model, TorchModel) else model
    )
    measured = probes if model.batch is None else probes[: model.batch]
    one_shape = compile and guide_model is not model  # compiled once, for it alone
    quantum = rows if one_shape else 1 if model.random else _quantum(model, guide_model, measured, rows)
    exact = None if model.random else model.double()
    plain = Batched(model, rows, quantum)
    if model.random:
        noise, slack = 0.0, 0.0
    else:
        with torch.no_grad():
            reference = plain.scores(probes)
            truth = reference if exact is None else _in_float64(exact, probes, rows)
            one_by_one = torch.cat([model.logits(part).float() for part in probes[:4].split(1)])
            noise = max(float((reference - truth).abs().max()), float((one_by_one - reference[:4]).abs().max()))
            drift = float((Batched(guide_model, rows, quantum).scores(probes) - reference).abs().max())
        slack = 4 * max(drift, noise) if model.gives >= Knowledge.SCORES else 0.0
    notes: dict[str, object] = {
        "guide": log,
        "quantum": quantum,
        "slack": slack,
        "noise": noise,
        "float64": exact is not None,
    }
    return Prepared(
        Judge(model, rows, quantum, exact=exact, noise=noise),
        Guide(guide_model, rows, quantum, slack=slack, log=tuple(log)),
        notes=notes,
    )


@contextmanager
def seeded(number: int) -> Iterator[None]:
    """A draw of a random module from torch's own generator, the same whenever it is asked for."""
    with torch.random.fork_rng():
        torch.manual_seed(CONFIRM_SEED + number)
        yield


def _in_float64(model: Model, x: Tensor, rows: int) -> Tensor:
    """Logits [n, classes] of a float64 twin."""
    small = x.device.type == "cpu" and model.batch is None
    return Batched(model, min(rows, EXACT_ROWS) if small else rows, 1).scores(x.double())


def _probes(x: Tensor, model: Model) -> Tensor:
    """Half clean examples, half the same under noise: what attacked inputs look like to the arithmetic."""
    low, high = model.bounds
    clean = x[: PROBES // 2].float()
    noise = torch.linspace(-1, 1, clean.numel(), device=x.device).view_as(clean).mul(997).sin() * 0.1 * (high - low)
    return torch.cat([clean, (clean + noise).clamp(low, high)])


def _quantum(model: Model, guide: Model, probes: Tensor, rows: int) -> int:
    if model.batch is not None:
        return model.batch
    quantum = measure_quantum(guide, probes, rows, gradients=True)
    return quantum if guide is model else measure_quantum(model, probes, rows, gradients=False, least=quantum)


def _accelerate(model: TorchModel, probes: Tensor, log: list[str], compiled: int) -> TorchModel:
    """The model after every step that changed nothing worth a word; the reason of each goes to the log. compiled: the rows
    it is compiled for, 0 where it is not."""
    if model.random or isinstance(model.module, torch.jit.ScriptModule):
        log.append("untouched: " + ("random" if model.random else "TorchScript"))
        return model
    try:
        guide = model.twin(copy.deepcopy(model.module).requires_grad_(False))
    except (RuntimeError, TypeError) as error:
        log.append(f"untouched: cannot be copied ({_first_line(error)})")
        return model
    reference = _response(Batched(model, len(probes), 1), probes)
    steps: list[tuple[str, Callable[[nn.Module], nn.Module]]] = [
        ("fold batch norm", _folded(fold_batch_norm)),
        ("fold normalisation", _folded(fold_normalisation)),
    ]
    if compiled:
        steps.append(("compile", _compile))  # which chooses layouts and gradients of its own
    else:
        large = probes.ndim == 4 and count_convolutions(model.module) >= CONVOLUTIONS
        if probes.ndim == 4 and model.device.type == "cpu":
            steps.append(("narrow gradients", _folded(narrow_gradients)))
            if large and computes_in_bfloat16():
                steps.append(("gradients in bfloat16", _folded(half_gradients)))
            steps.append(("in place", _folded(in_place)))
        steps.append(("channels last", _channels_last) if large else ("straight-line code", _folded(straighten)))
    for name, step in steps:
        quantum = compiled if name == "compile" else 1
        try:
            candidate = guide.twin(step(guide.module))
            answers = Batched(candidate, len(probes), quantum)
            kept, reason = _same(reference, _response(answers, probes))
            answers.scores(probes)  # a traced graph has lost an `enable_grad` of the module's own, and then cannot
        except Exception as error:  # a step may fail in any way: the guide then goes without it
            kept, reason = False, _first_line(error)
        log.append(f"{name}: {'kept' if kept else 'dropped'} ({reason})")
        if kept:
            guide = candidate
    return guide


def _folded(fold: Callable[[nn.Module], tuple[nn.Module, int]]) -> Callable[[nn.Module], nn.Module]:
    def step(module: nn.Module) -> nn.Module:
        folded, count = fold(module)
        if count == 0:
            raise ValueError("nothing to fold")
        return folded.requires_grad_(False)

    return step


class _ChannelsLast(nn.Module):
    """Weights and inputs in channels-last memory, which CPU and GPU convolutions prefer."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> object:
        return self.module(x.contiguous(memory_format=torch.channels_last))


def _channels_last(module: nn.Module) -> nn.Module:
    return _ChannelsLast(copy.deepcopy(module).to(memory_format=torch.channels_last))  # type: ignore[call-overload]


def _compile(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.compile(module, dynamic=False)  # type: ignore[return-value]


def _response(model: Batched, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Logits and the gradient of a fixed mix of them, the probes' answer before and after a step."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = model.logits(x)
        if not logits.requires_grad:
            return logits.detach(), None
        weights = torch.arange(1, logits.shape[1] + 1, device=x.device).to(logits.dtype).mul(0.618034).frac().sub(0.5)
        gradient = torch.autograd.grad((logits * weights).sum(), x, allow_unused=True)[0]
    return logits.detach(), gradient


def _same(before: tuple[Tensor, Tensor | None], after: tuple[Tensor, Tensor | None]) -> tuple[bool, str]:
    scale = float(before[0].abs().max().clamp_min(1e-12))
    moved = float((after[0] - before[0]).abs().max()) / scale
    if before[1] is None or after[1] is None:
        return moved <= LOGITS and (before[1] is None) == (after[1] is None), f"logits within {moved:.1e} of their scale"
    one, two = before[1].double().flatten(1), after[1].double().flatten(1)
    cosine = float(nn.functional.cosine_similarity(one, two, dim=1, eps=1e-300).masked_fill(one.norm(dim=1) == 0, 1).min())
    reason = f"logits within {moved:.1e} of their scale, gradient cosine {cosine:.6f}"
    return moved <= LOGITS and cosine >= COSINE, reason


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]

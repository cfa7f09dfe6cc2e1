"""What --fix runs: the remedy of a sign, and how many examples stand before and after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mohs.attacks.blackbox.square import Square
from mohs.attacks.gradient.apgd import APGD
from mohs.defend import bpda
from mohs.diagnosis import searches
from mohs.diagnosis.bench import Bench
from mohs.diagnosis.sign import Found, Grade
from mohs.errors import MohsError
from mohs.losses import cross_entropy
from mohs.models import TorchModel, prepare
from mohs.models.gradients import Call, where_lost, where_wrong
from mohs.threat import Knowledge

DRAWS = 10  # passes averaged at each step
ROWS = 4  # examples on which the layer to declare is looked for
QUERIES = 2000


@dataclass(frozen=True)
class Remedy:
    """before, after: the share of the examples that stands, as evaluated and with the remedy; None where it could not be run,
    and `said` says why. before of a model without gradients is 1: no attack by gradients applies."""

    name: str
    words: str
    said: str
    before: float | None = None
    after: float | None = None


def mend(bench: Bench, found: list[Found]) -> list[Remedy]:
    """Each remedy that a warning or a failure asks for, once, in the order of the signs."""
    asked = [f.sign.remedy for f in found if f.grade in (Grade.WARN, Grade.FAIL) and f.sign.remedy is not None]
    return [REMEDIES[name](bench) for name in dict.fromkeys(_resolved(name, bench) for name in asked)]


def eot(bench: Bench) -> Remedy:
    """Expectation over transformation. Athalye, Engstrom, Ilyas, Kwok, ICML 2018, arXiv:1707.07397."""
    words = f"gradients averaged over {DRAWS} draws at each of {searches.STEPS} steps (EOT)"
    if not bench.graded:
        return Remedy("eot", words, "there is no gradient to average: see `gradients`")
    return _told("eot", words, bench, searches.naive(bench) | bench.broken(searches.plain(), draws=DRAWS))


def loss(bench: Bench) -> Remedy:
    names = " and ".join(name for name, one in searches.losses(bench).items() if one is not cross_entropy)
    found = [bench.broken(searches.plain(loss=one)) for one in searches.losses(bench).values()]
    return _told("loss", f"the worst of the cross-entropy, {names} an example", bench, torch.stack(found).any(0))


def steps(bench: Bench) -> Remedy:
    after = searches.naive(bench) | bench.broken(APGD(restarts=2))
    return _told("steps", "APGD of 100 steps, which sets their size, from two starts", bench, after)


def scores(bench: Bench) -> Remedy:
    after = searches.naive(bench) | bench.broken(Square(queries=QUERIES))
    return _told("scores", f"Square by scores alone, {QUERIES} queries an example", bench, after)


def transfer(bench: Bench) -> Remedy:
    made = bench.margins(searches.points_on(bench, searches.plain(2 * searches.STEPS))) > 0
    return _told("transfer", "points made on the surrogate alone", bench, searches.naive(bench) | made)


def through(bench: Bench) -> Remedy:
    """Backward pass differentiable approximation: the first layer that loses or shatters the gradient, and all of its kind, are
    passed as the identity; scores stay what they are. Athalye, Carlini, Wagner, ICML 2018, arXiv:1802.00420."""
    words = "the gradient passes the layer that stops it as it passes the identity (BPDA)"
    model, call = bench.model, _culprit(bench)
    if call is None or not isinstance(model, TorchModel) or not call.name or next(call.module.children(), None) is not None:
        where = f"the {call}" if call else "no layer of its own"
        return Remedy("bpda", words, f"what stops the gradient is in {where}: make it a layer, or declare it by hand")
    names = [name for name, part in model.module.named_modules() if isinstance(part, type(call.module))]
    try:
        twin = bpda(model, names)
        twin.gives = Knowledge.GRADIENT
        other = replace(bench, model=twin, prepared=prepare(twin, bench.x[:8]), _known={})
        after = searches.naive(bench) | searches.by_gradients(other)
    except MohsError as error:
        return Remedy("bpda", words, f"the identity does not stand for the {call}: {error}")
    bench.forwards, bench.backwards = other.forwards, other.backwards
    words = f"the gradient passes {', '.join(names)} ({type(call.module).__name__}) as it passes the identity (BPDA)"
    return _told("bpda", words, bench, after)


def _culprit(bench: Bench) -> Call | None:
    if not isinstance(bench.model, TorchModel):
        return None
    x = bench.rows[:ROWS]
    try:
        return where_wrong(bench.model.module, x) if bench.graded else where_lost(bench.model.module, x)
    except Exception:  # a layer may not run by itself, or refuse hooks, in any way
        return None


def _resolved(name: str, bench: Bench) -> str:
    """`gradient` is mended by another loss where there is a gradient of the scores, else by passing the layer that stops it."""
    return name if name != "gradient" else "loss" if bench.graded else "bpda"


def _told(name: str, words: str, bench: Bench, after: Tensor) -> Remedy:
    before, left = (float((~broken).double().mean()) for broken in (searches.naive(bench), after))
    was = f"{before:.0%} of the examples stood" if bench.graded else "no attack by gradients applied"
    return Remedy(name, words, f"{was}, {left:.0%} stand", before, left)


REMEDIES: dict[str, Callable[[Bench], Remedy]] = {
    "eot": eot,
    "bpda": through,
    "loss": loss,
    "steps": steps,
    "scores": scores,
    "transfer": transfer,
}

"""Signs in what attacks find: one that ought to be weaker succeeds where a stronger one failed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.attacks.blackbox.square import Square
from mohs.attacks.gradient.apgd import APGD
from mohs.attacks.gradient.fgsm import FGSM
from mohs.attacks.gradient.pgd import PGD
from mohs.diagnosis.bench import Bench
from mohs.diagnosis.sign import Evidence, Plot
from mohs.losses import Loss, cross_entropy, dlr, logit_difference
from mohs.oracle import Oracle

STEPS = 20
POINTS = 100  # random points an example
QUERIES = 500
SHARES = (0.25, 0.5, 1.0, 2.0, 4.0)  # of epsilon
TAIL = 10  # steps by whose rise an ascent is unfinished


def plain(steps: int = STEPS, loss: Loss = cross_entropy, size: float = 2.5, restarts: int = 1) -> PGD:
    """PGD whose steps add up to `size` budgets."""
    return PGD(steps=steps, step_size=size / steps, loss=loss, restarts=restarts)


def losses(bench: Bench) -> dict[str, Loss]:
    """Cross-entropy, margin and, from three classes on, the difference of logits ratio."""
    found: dict[str, Loss] = {"cross-entropy": cross_entropy, "margin": logit_difference}
    return {**found, "DLR": dlr} if bench.model.classes >= 3 else found


def naive(bench: Bench) -> Tensor:
    """[n] bool: what the evaluation under doubt breaks: PGD on the cross-entropy, one draw a step."""
    return bench.broken(plain()) if bench.graded else torch.zeros(bench.n, dtype=torch.bool)


def by_gradients(bench: Bench) -> Tensor:
    """[n] bool: what PGD of any loss breaks."""
    found = [bench.broken(plain(loss=loss)) for loss in losses(bench).values()]
    return torch.stack([*found, bench.broken(plain(restarts=3))]).any(0)


def one_step(bench: Bench) -> Evidence:
    """The share of examples that FGSM breaks and PGD does not."""
    if unfit := _unfit(bench):
        return unfit
    return _excess(bench, {"PGD": bench.broken(plain())}, {"one step": bench.broken(FGSM())})


def more_steps(bench: Bench) -> Evidence:
    """The share of examples that four times the steps break beside."""
    if unfit := _unfit(bench):
        return unfit
    return _excess(bench, {f"{STEPS} steps": bench.broken(plain())}, {f"{4 * STEPS} steps": bench.broken(plain(4 * STEPS))})


def restarts(bench: Bench) -> Evidence:
    if unfit := _unfit(bench):
        return unfit
    return _excess(bench, {"1 start": bench.broken(plain())}, {"3 starts": bench.broken(plain(restarts=3))})


def step_size(bench: Bench) -> Evidence:
    """The share of examples that a half or a double step breaks beside."""
    if unfit := _unfit(bench):
        return unfit
    sizes = {f"step x {factor:g}": bench.broken(plain(size=2.5 * factor)) for factor in (0.5, 2.0)}
    return _excess(bench, {"step": bench.broken(plain())}, sizes)


def other_losses(bench: Bench) -> Evidence:
    """The share of examples that another loss breaks and the cross-entropy, from three starts, does not."""
    if unfit := _unfit(bench):
        return unfit
    others = {name: bench.broken(plain(loss=loss)) for name, loss in losses(bench).items() if loss is not cross_entropy}
    return _excess(bench, {"cross-entropy": bench.broken(plain(restarts=3))}, others)


def unbounded(bench: Bench) -> Evidence:
    """Indicator I6: the share of examples that the cross-entropy does not break with the whole box to go."""
    if unfit := _unfit(bench):
        return unfit
    whole = bench.of(math.inf)
    left = ~bench.broken(plain(), whole)
    told = f"with the whole box to go, {whole}, PGD leaves {int(left.sum())} of {bench.n} examples"
    return Evidence(float(left.double().mean()), told)


def epsilons(bench: Bench) -> Evidence:
    """The share of examples broken at some budget and not at a larger one, by independent runs."""
    if unfit := _unfit(bench):
        return unfit
    threats = [bench.of(share) for share in SHARES]
    found = torch.stack([bench.broken(plain(), threat) for threat in threats])
    lost = (found[:-1].cummax(0).values & ~found[1:]).any(0)
    standing = (~found).double().mean(1)
    told = f"{int(lost.sum())} of {bench.n} examples fall at a budget and stand at a larger one"
    plot = Plot([t.epsilon for t in threats], {"accuracy": standing.tolist()}, "epsilon", "accuracy")
    return Evidence(float(lost.double().mean()), told, plot)


def random_points(bench: Bench) -> Evidence:
    """The share of examples that random points of the set break and gradients do not."""
    if bench.model.random:
        return Evidence(None, "the model is random: see the draws")
    x = bench.rows
    threat = bench.of(1.0)
    hit = torch.zeros(bench.n, dtype=torch.bool)
    for number in range(POINTS):
        hit |= bench.margins(threat.random_point(x, bench.stream.at("point", number))) > 0
    reference = {"gradients": by_gradients(bench)} if bench.graded else {"no gradients": torch.zeros(bench.n, dtype=torch.bool)}
    return _excess(bench, reference, {f"{POINTS} random points": hit})


def gradient_free(bench: Bench) -> Evidence:
    """The share of examples that Square breaks by scores and gradients do not."""
    if bench.model.random:
        return Evidence(None, "the model is random: see the draws")
    reference = {"gradients": by_gradients(bench)} if bench.graded else {"no gradients": torch.zeros(bench.n, dtype=torch.bool)}
    return _excess(bench, reference, {f"Square, {QUERIES} queries": bench.broken(Square(queries=QUERIES))})


def transfer(bench: Bench) -> Evidence:
    """The share of examples broken by what was made on the surrogate alone and not by the model's own gradients."""
    if bench.surrogate is None:
        return Evidence(None, "no surrogate was given")
    made = points_on(bench, plain(2 * STEPS))
    reference = {"gradients": by_gradients(bench)} if bench.graded else {"no gradients": torch.zeros(bench.n, dtype=torch.bool)}
    return _excess(bench, reference, {"transfer": bench.margins(made) > 0})


def silent(bench: Bench) -> Evidence:
    """Indicator I3: the share of examples with a success on the path of PGD that its last point has lost."""
    if unfit := _unfit(bench):
        return unfit
    _, margins = bench.path(plain(), torch.arange(bench.n))
    lost = (margins[:-1] > 0).any(0) & ~(margins[-1] > 0)
    told = f"at {int(lost.sum())} of {bench.n} examples PGD passes a success and ends elsewhere"
    plot = Plot(list(range(STEPS)), {"misclassified": (margins > 0).double().mean(1).tolist()}, "step", "share")
    return Evidence(float(lost.double().mean()), told, plot)


def unfinished(bench: Bench) -> Evidence:
    """Indicator I4: the share of examples that stand, of all, and whose loss still rises by more than 5% of its range in the
    last ten of so many steps as an evaluation has."""
    if unfit := _unfit(bench):
        return unfit
    rows = (~bench.broken(plain())).nonzero()[:, 0]
    if len(rows) == 0:
        return Evidence(0.0, "no example stands")
    values, margins = bench.path(APGD(), rows)
    best = values.cummax(0).values
    span = (best[-1] - values.amin(0)).clamp_min(1e-12)
    rising = ((best[-1] - best[-TAIL]) > 0.05 * span) & ~(margins > 0).any(0)
    told = f"the loss still rises at {int(rising.sum())} of {bench.n} examples after {len(values)} points of APGD"
    plot = Plot(list(range(len(best))), {"best loss": ((best - values.amin(0)) / span).mean(1).tolist()}, "point", "of its range")
    return Evidence(int(rising.sum()) / bench.n, told, plot)


def points_on(bench: Bench, attack: Attack) -> Tensor:
    """The last points [n, *input] of an attack on the surrogate."""
    assert bench.surrogate is not None
    oracle = Oracle.begin(
        bench.surrogate, bench.threat, bench.goal, bench.x, bench.y, ids=torch.arange(bench.n), seed=bench.seed, stop=False
    )
    oracle.judged = False
    return attack.run(oracle, oracle.x0, oracle.threat)


def _unfit(bench: Bench) -> Evidence | None:
    """Why an attack by gradients cannot be compared with another, if so."""
    if not bench.graded:
        return Evidence(None, "there is no gradient to follow")
    return Evidence(None, "the model is random: see the draws") if bench.model.random else None


def _excess(bench: Bench, reference: dict[str, Tensor], others: dict[str, Tensor]) -> Evidence:
    """The share of examples that any of `others` breaks beside the one reference."""
    ((name, known),) = reference.items()
    beside = torch.stack(list(others.values())).any(0) & ~known
    shares = {key: float((~value).double().mean()) for key, value in {**reference, **others}.items()}
    left = ", ".join(f"{key} leaves {share:.0%}" for key, share in shares.items())
    told = f"{left}; {int(beside.sum())} of {bench.n} examples fall beside those that fall to {name}"
    plot = Plot(list(shares), {"accuracy": list(shares.values())}, "", "accuracy", bars=True)
    return Evidence(float(beside.double().mean()), told, plot)

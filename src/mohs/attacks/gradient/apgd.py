"""Auto-PGD, which sets its own step size, and its targeted form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mohs.aim import Aim
from mohs.attacks.base import Attack
from mohs.errors import Refused
from mohs.geometry import per_row
from mohs.losses import Loss, cross_entropy, dlr, dlr_targeted, name_of
from mohs.models import Model
from mohs.oracle import Oracle
from mohs.threat import L1, Goal, NormThreat, Threat

CLASSES: dict[Loss, int] = {dlr: 3, dlr_targeted: 4}  # the fewest a loss is defined for


@dataclass(frozen=True, kw_only=True)
class APGD(Attack):
    """Auto-PGD. Croce & Hein, ICML 2020, arXiv:2003.01690; in L1, ICML 2021, arXiv:2103.01208.

    Ascent from the surface of the ball. In Linf and L2 with momentum, at a step that halves, from the best point so
    far, where progress stalls; in L1 with sparse steps that adapt to how many entries the best point changes.
    1 + steps forward and backward passes a try, as in the authors' AutoAttack.

    rho: the share of rising steps below which progress has stalled. multi_epsilon, L1 only: 30, 30 and 40% of the steps
    in balls of 3, 2 and 1 epsilon, each from the best point of the one before; 3 + steps passes.

    When to use: the default for a budget in Linf, L2 and L1: no step size to set, and among the strongest for its cost. It
    climbs one loss; where gradients of the cross-entropy vanish take `loss=dlr` or `apgd-t`, which is nine times as dear and
    finds more. In L1 take `multi_epsilon`.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # boundary: 1/7 = 0.1429 in linf, 1/5 in l2
    >>> threats = ("linf:0.1425", "linf:0.1435", "l2:0.199", "l2:0.201")
    >>> [bool(attacks.APGD()(model, x, y, threat=threat).broken) for threat in threats]
    [False, True, False, True]
    """

    steps: int = 100
    loss: Loss = cross_entropy
    rho: float = 0.75
    multi_epsilon: bool = False

    paper = "Croce & Hein, ICML 2020, arXiv:2003.01690; in L1, ICML 2021, arXiv:2103.01208"
    sets = ("linf", "l2", "l1")

    def check(self, threat: Threat, goal: Goal, model: Model) -> None:
        super().check(threat, goal, model)
        if model.classes < CLASSES.get(self.loss, 2):
            raise Refused(
                f"the loss {name_of(self.loss)} needs {CLASSES[self.loss]} classes, and the model {model.name} has "
                f"{model.classes}; take the loss logit_difference"
            )
        if self.multi_epsilon and not isinstance(threat, L1):
            raise Refused(f"{type(self).__name__}: multi_epsilon is for the threat l1, and the threat is {threat}")

    def passes(self, classes: int) -> tuple[int, int]:
        each = self.steps + (3 if self.multi_epsilon else 1)
        return self.restarts * each, self.restarts * each

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, NormThreat)
        start = oracle.stream.at("start")
        if not isinstance(threat, L1):
            offset = threat.norm.sphere(x0, start).mul_(threat.epsilon)
            return self._climb(oracle, threat.project(offset.add_(x0), x0), threat)
        side = threat.bounds[1] - threat.bounds[0]
        x = start.normal(*x0.shape[1:]).mul_(side if math.isfinite(side) else 1.0).add_(x0)
        dense = not self.multi_epsilon
        for factor, steps in _multi_epsilon(self.steps) if self.multi_epsilon else [(1, self.steps)]:
            ball, oracle.roams = replace(threat, epsilon=factor * threat.epsilon), factor > 1
            x = self._climb_sparsely(oracle, ball.project(x, oracle.x0), ball, steps, dense)
        return x

    def _ascent(self, oracle: Oracle, x: Tensor) -> tuple[Tensor, Tensor]:
        answer = oracle.gradient(x, self.loss)
        return answer.loss, answer.gradient

    def _climb(self, oracle: Oracle, x: Tensor, threat: Threat) -> Tensor:
        """Algorithm 1 of arXiv:2003.01690. eta, the step size, is in units of epsilon."""
        x0, ends = oracle.x0, checkpoints(self.steps)
        f, g = self._ascent(oracle, x)
        x_old, x_best, g_best, f_best, f_last = x, x.clone(), g.clone(), f.clone(), f.clone()
        eta, rises, halved = torch.full_like(f, 2.0), torch.zeros_like(f), torch.ones_like(f, dtype=torch.bool)
        last = 0
        for k in oracle.steps(self.steps):
            z = threat.step(x, g, x0, eta)
            if k > 0:  # x + 0.75 (z - x) + 0.25 (x - x_old)
                z = threat.project(z.mul_(0.75).add_(x, alpha=0.5).add_(x_old, alpha=-0.25), x0)
            x_old, x, f_old = x, z, f
            f, g = self._ascent(oracle, x)
            rises += f > f_old
            adopt(f > f_best, (x_best, x), (g_best, g), (f_best, f))
            if k + 1 in ends:
                stalled = (rises <= self.rho * (k + 1 - last)) | ~halved & (f_best <= f_last)
                eta[stalled] /= 2
                adopt(stalled, (x, x_best), (g, g_best))
                halved, f_last, last = stalled, f_best.clone(), k + 1
                rises.zero_()
            x0, x, x_old, x_best, g, g_best, f, f_best, f_last, eta, rises, halved = oracle.compact(
                x0, x, x_old, x_best, g, g_best, f, f_best, f_last, eta, rises, halved
            )
        return x_best

    def _climb_sparsely(self, oracle: Oracle, x: Tensor, threat: NormThreat, steps: int, dense: bool) -> Tensor:
        """Algorithm 1 of arXiv:2103.01208. support: how many entries x_best changes; kept: how many a step moves."""
        x0, every = oracle.x0, max(steps // 25, 1)
        f, g = self._ascent(oracle, x)
        x_best, g_best, f_best = x.clone(), g.clone(), f.clone()
        eta, support = torch.ones_like(f), _support(x, x0)
        kept = (2 * support + 2) // 3
        if dense:  # at the first point: a fifth of all entries
            support = torch.full_like(support, x0[0].numel())
            kept = (support + 4) // 5
        for k in oracle.steps(steps):
            direction, moved = _sparse_sign(threat.constraints.mutable(g), kept)
            x = threat.project(direction.mul_(per_row(threat.epsilon * eta / moved, x)).add_(x), x0)
            f, g = self._ascent(oracle, x)
            adopt(f > f_best, (x_best, x), (g_best, g), (f_best, f))
            if (k + 1) % every == 0:
                before, support = support, _support(x_best, x0)
                sparser = support < 0.95 * before
                eta = torch.where(sparser, 1.0, (eta / 1.5).clamp(min=0.1))
                kept = (2 * support + 2) // 3
                adopt(sparser, (x, x_best), (g, g_best))
            x0, x, x_best, g, g_best, f_best, eta, support, kept = oracle.compact(
                x0, x, x_best, g, g_best, f_best, eta, support, kept
            )
        return x_best


@dataclass(frozen=True, kw_only=True)
class APGDTargeted(APGD):
    """APGD towards one class after another, by falling clean logit; any class counts where the goal names none.

    Croce & Hein, ICML 2020, arXiv:2003.01690, section 5. restarts: of every class.

    When to use: for the last word of a budget: it tries one class after another and finds what one untargeted climb does not,
    at `targets` times the passes. Run it on what `apgd` left, as the profiles do. With fewer than four classes its loss is not
    defined: take `loss=logit_difference`.

    >>> from mohs import attacks, demo
    >>> attacks.APGD().passes(10), attacks.APGDTargeted().passes(10)  # forward and backward, of an example that survives
    ((101, 101), (909, 909))
    >>> model, x, y = demo.linear_example()
    >>> bool(attacks.APGDTargeted(targets=2)(model, x, y, threat="l2:0.201").broken)
    True
    """

    targets: int = 9
    loss: Loss = dlr_targeted

    def passes(self, classes: int) -> tuple[int, int]:
        forwards, backwards = super().passes(classes)
        return min(self.targets, classes - 1) * forwards, min(self.targets, classes - 1) * backwards

    def tries(self, oracle: Oracle) -> Iterator[Aim]:
        return (aim for aim in towards(oracle, self.targets) for _ in range(self.restarts))


def towards(oracle: Oracle, targets: int) -> Iterator[Aim]:
    """An aim at each of a row's `targets` likeliest wrong classes; at the goal's class alone where it names one."""
    aim = oracle.aim
    if aim.target is not None:
        yield aim
        return
    assert aim.reference is not None
    others = aim.reference.scatter(1, aim.y[:, None], -torch.inf)
    if oracle.goal.rejected is not None:
        others[:, oracle.goal.rejected] = -torch.inf
    choices = others.shape[1] - (1 if oracle.goal.rejected is None else 2)
    order = others.argsort(dim=1, descending=True, stable=True)
    for rank in range(min(targets, choices)):
        yield aim._replace(toward=order[:, rank])


def checkpoints(steps: int) -> list[int]:
    """w_j = ceil(p_j steps), p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06)."""
    p, gap, ends = 22, 22, []
    while p <= 100:
        ends.append(-(-p * steps // 100))
        gap = max(gap - 3, 6)
        p += gap
    return ends


def _multi_epsilon(steps: int) -> list[tuple[int, int]]:
    """(factor of epsilon, steps in that ball)."""
    first = -(-3 * steps // 10)
    second = min(first, steps - first)
    return [(3, first), (2, second), (1, steps - first - second)]


def adopt(chosen: Tensor, *pairs: tuple[Tensor, Tensor]) -> None:
    """The chosen rows of each pair's second tensor into its first; nothing else is touched."""
    rows = chosen.nonzero()[:, 0]
    if len(rows):
        for old, new in pairs:
            old.index_copy_(0, rows, new.index_select(0, rows))


def _support(x: Tensor, x0: Tensor) -> Tensor:
    """||x - x0||_0 [rows] int64."""
    return (x != x0).flatten(1).sum(1)


def _sparse_sign(g: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """sign(g) on the `kept` [rows] largest |g| of each row, at least one, ties included, and how many are not zero."""
    size = g.flatten(1).abs()
    nth = kept.clamp(min=1)[:, None]
    threshold = size.topk(int(nth.max()), dim=1).values.gather(1, nth - 1)
    direction = g.sign().mul_((size >= threshold).view_as(g))
    return direction, direction.count_nonzero(tuple(range(1, g.ndim))).clamp_(min=1)

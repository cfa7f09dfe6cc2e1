"""Attacks in the Wasserstein ball: their projections and best plans against the conditions and solvers that define them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from scipy.special import lambertw
from torch import Tensor, nn

from mohs import demo
from mohs.attacks.base import Attack
from mohs.attacks.spatial.sinkhorn import ProjectedSinkhorn, sinkhorn, wright_omega
from mohs.attacks.spatial.wasserstein import WassersteinDual, WassersteinFrankWolfe, best_plan, scaled
from mohs.threat import WassersteinThreat

SIDE = 4


def image(n: int = 3, channels: int = 1) -> Tensor:
    return 0.1 + 0.3 * torch.rand(n, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(4))


def most(g: Tensor, x0: Tensor, threat: WassersteinThreat) -> float:
    """The largest <Pi, g> over plans of one image x0 [1, ...] within the budget, by linear programming."""
    shape = threat.origin(x0).shape[1:]
    cost = threat.cost(g.double()).expand(shape).numpy().ravel()
    rows = np.zeros((math.prod(shape[1:]), math.prod(shape)))
    for plane in range(shape[0]):
        rows[np.arange(len(rows)), plane * len(rows) + np.arange(len(rows))] = 1
    free = threat.open(x0).numpy().ravel()
    found = linprog(
        -g[0].double().numpy().ravel(),
        A_eq=rows,
        b_eq=x0[0].double().numpy().ravel(),
        A_ub=cost[None],
        b_ub=[threat.epsilon * float(x0.double().sum())],
        bounds=[(0, None if is_free else 0) for is_free in free],
    )
    assert found.success
    return -float(found.fun)


@pytest.mark.parametrize("epsilon", [0.05, 0.4, 5.0])
def test_the_best_plan_is_that_of_linear_programming(epsilon: float) -> None:
    """Up to gamma times the entropy of a plan, at most log 25 a unit of brightness; at 5 pixels the budget does not bind."""
    x0, threat = image(), WassersteinThreat(epsilon=epsilon)
    g = scaled(torch.randn(threat.origin(x0).shape, generator=torch.Generator().manual_seed(1)))
    plan = best_plan(g, x0, threat, gamma=1e-3)
    assert bool((threat.distance(plan, x0) <= epsilon * (1 + 1e-6)).all())
    assert torch.allclose(plan.sum(1), x0, atol=1e-6)
    assert not bool(plan.masked_select(~threat.open(x0)).any())
    for i in range(len(x0)):
        gained, best = float((plan[i] * g[i]).double().sum()), most(g[i : i + 1], x0[i : i + 1], threat)
        assert best - 1e-3 * math.log(25) * float(x0[i].sum()) - 1e-3 <= gained <= best + 1e-5


def test_wright_omega_is_lamberts_function() -> None:
    t = torch.linspace(-30, 300, 100, dtype=torch.float64)
    known = torch.from_numpy(np.array([lambertw(math.exp(v)).real for v in t.tolist()]))
    assert torch.allclose(wright_omega(t), known, rtol=1e-10)
    assert wright_omega(torch.tensor([-torch.inf, 1e4], dtype=torch.float64)).tolist() == pytest.approx(
        [0.0, 1e4 - math.log(1e4 - math.log(1e4))], rel=1e-6
    )


@pytest.mark.parametrize(("epsilon", "binds"), [(0.1, True), (4.0, False)])
def test_sinkhorn_solves_the_entropic_projection(epsilon: float, binds: bool) -> None:
    """The conditions of its optimum, which is the only one: log Pi_ij + lambda (z_j - y_j) is -alpha_i - psi C_ij - 1, psi >= 0
    is one for all, the rows are those of x0, and the budget is spent where psi is above 0."""
    x0, threat, weight = image(channels=2), WassersteinThreat(epsilon=epsilon), 300.0
    x = x0 + 0.1 * torch.randn(x0.shape, generator=torch.Generator().manual_seed(2))
    plan = sinkhorn(x.double(), x0.double(), threat, weight, 3000, tolerance=0.0)
    assert torch.allclose(plan.sum(1), x0.double(), rtol=1e-9)
    mass = x0.double().sum((1, 2, 3), keepdim=True)
    pull = weight * (threat.arrivals(plan) - x.double()) / mass
    for (i, j), plane, stay in zip(threat.offsets(), plan.unbind(1), plan[:, 12:13].expand_as(plan).unbind(1), strict=True):
        rows, columns = slice(max(0, -i), SIDE - max(0, i)), slice(max(0, -j), SIDE - max(0, j))
        there = pull.roll((-i, -j), (2, 3))
        price = (stay.log() + pull - plane.log() - there)[..., rows, columns]  # psi C
        psi = price / math.hypot(i, j) if (i, j) != (0, 0) else price
        if (i, j) == (0, 1):
            known = psi[:, :1, :1, :1].clone()
            assert bool((known > 1e-3).all()) == binds
        elif (i, j) > (0, 1):
            assert torch.allclose(psi, known.expand_as(psi), atol=1e-3 * max(1.0, float(known.max())))
    assert torch.allclose(threat.distance(plan, x0), torch.full((3,), epsilon).double(), rtol=1e-4) == binds


def test_a_strong_weight_makes_sinkhorn_the_projection_of_images() -> None:
    """Without entropy to speak of, no image of the ball on the way to a linear programme's is nearer."""
    x0, threat = image(), WassersteinThreat(epsilon=0.1)
    x = x0 + 0.1 * torch.randn(x0.shape, generator=torch.Generator().manual_seed(2))
    near, far = (sinkhorn(x.double(), x0.double(), threat, weight, 2000, tolerance=0.0) for weight in (1e4, 100.0))
    slack = []
    for plan in (near, far):
        z = threat.arrivals(plan)
        toward = (x.double() - z)[:, None].expand_as(plan).clone()
        for k, (i, j) in enumerate(threat.offsets()):
            toward[:, k] = (x.double() - z).roll((-i, -j), (2, 3))
        slack.append(
            [most(toward[i : i + 1], x0[i : i + 1], threat) - float((plan[i] * toward[i]).sum()) for i in range(len(x0))]
        )
    assert max(slack[0]) < 3e-3
    assert min(slack[1]) > 5 * max(slack[0])


class Weighs(nn.Module):
    """z_1 - z_0 = <w, x> - c."""

    def __init__(self, w: Tensor, c: float) -> None:
        super().__init__()
        self.w, self.c = nn.Parameter(w), c

    def forward(self, x: Tensor) -> Tensor:
        z = (x * self.w).flatten(1).sum(1) - self.c
        return torch.stack([torch.zeros_like(z), z], 1)


@pytest.mark.parametrize(
    ("attack", "share"),
    [
        (WassersteinDual(steps=100), 0.98),
        (WassersteinFrankWolfe(steps=20), 0.99),
        (ProjectedSinkhorn(steps=10, inner=60), 0.35),
    ],
)
def test_attacks_gain_what_linear_programming_can(attack: Attack, share: float) -> None:
    """A linear model is broken at `share` of the gain of the best plan, and never beyond it. Steps along the sign of a gradient
    and an entropy keep projected Sinkhorn from the best."""
    x0, threat = 0.2 * image(n=1), WassersteinThreat(epsilon=0.2)  # dark, so that no pixel fills up
    w = torch.randn(1, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    slope = torch.stack([w.roll((-i, -j), (1, 2)) for i, j in threat.offsets()])[None]
    clean = float((w * x0[0]).double().sum())
    gain = most(slope, x0, threat) - clean
    assert gain > 0.01
    for part, reached in ((share, True), (1.001, False)):
        found = attack(Weighs(w, clean + part * gain), x0, torch.zeros(1, dtype=torch.long), threat=str(threat))
        assert bool(found.broken) == reached, part


def test_the_dual_forms_break_more_than_projected_sinkhorn() -> None:
    """As Wu et al. report, on the embedded digits."""
    model, x, y = demo.example(16)
    attacks = (ProjectedSinkhorn(steps=20, inner=50), WassersteinDual(steps=40), WassersteinFrankWolfe(steps=40))
    entropic, dual, linear = (int(attack(model, x, y, threat="wasserstein:0.1").broken.sum()) for attack in attacks)
    assert entropic < min(dual, linear)


def test_black_images_and_corners_stay_finite() -> None:
    """Where there is no brightness there is nothing to move; a lone bright pixel sends everything."""
    x = torch.zeros(2, 1, SIDE, SIDE)
    x[1, 0, 0, 0] = 1.0
    y = torch.zeros(2, dtype=torch.long)
    w = torch.linspace(-1, 1, SIDE * SIDE).view(1, SIDE, SIDE)
    for attack in (ProjectedSinkhorn(steps=5, inner=20), WassersteinDual(steps=5), WassersteinFrankWolfe(steps=5)):
        found = attack(Weighs(w, 2.0), x, y, threat="wasserstein:0.5")
        assert [str(status) for status in found.status] == ["survived", "survived"]
        assert bool(found.adversarial.isfinite().all())
        assert torch.equal(found.adversarial[0], x[0])

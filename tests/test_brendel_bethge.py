"""Brendel-Bethge: the problem of a step against a general solver, and where the attack comes to."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from mohs import geometry
from mohs.attacks import BrendelBethge
from mohs.geometry import Norm
from mohs.geometry.trust import boundary_step
from mohs.oracle import Oracle
from mohs.threat import Constraints, Untargeted, parse_goal, parse_threat
from tests.conformance import linear, world
from tests.test_minimal import sphere

NORMS = (geometry.L2, geometry.LINF, geometry.L1)
D = 6
SLSQP = {"maxiter": 500, "ftol": 1e-12}


def problems(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, x0 in the box, unit normals, and gaps that a radius of 0.4 often, not always, reaches."""
    g = torch.Generator().manual_seed(seed)
    x, x0 = torch.rand(2, n, D, generator=g)
    x0[::3] = x0[::3].round()
    x0[3::6] = (x + 0.2 * (x0 - x))[3::6]
    w = torch.randn(n, D, generator=g)
    w[1::4, 2] = 0
    gap = torch.rand(n, generator=g, dtype=torch.float64) - 0.5
    return x, x0, w * 3, gap * 3 * w.double().norm(dim=1)


def by_scipy(norm: str, x: np.ndarray, x0: np.ndarray, w: np.ndarray, gap: float, radius: float) -> float | None:
    """The least distance from x0, None where the constraints leave nothing."""
    e = x0 - x
    k = {"l2": 0, "linf": 1, "l1": D}[norm]
    bounds = [*zip(-x, 1 - x, strict=True), *[(0, None)] * k]
    constraints = [
        {"type": "eq", "fun": lambda v: w @ v[:D] - gap},
        {"type": "ineq", "fun": lambda v: radius**2 - v[:D] @ v[:D]},
    ]
    if k:
        constraints += [
            {"type": "ineq", "fun": lambda v: v[D:] - (v[:D] - e)},
            {"type": "ineq", "fun": lambda v: v[D:] + (v[:D] - e)},
        ]
        cost = lambda v: v[D:].sum()  # noqa: E731
    else:
        cost = lambda v: ((v - e) ** 2).sum()  # noqa: E731
    best = None
    for start in (np.zeros(D), e, w * gap / (w @ w)):
        first = np.r_[start, np.abs(start - e).max() * np.ones(k)]
        found = minimize(
            cost, first, method="SLSQP", bounds=bounds, constraints=constraints, options={"maxiter": 500, "ftol": 1e-12}
        )
        d = found.x[:D]
        if found.success and abs(w @ d - gap) < 1e-6 and d @ d < radius**2 + 1e-6:
            value = float({"l2": np.linalg.norm, "linf": lambda v: np.abs(v).max(), "l1": lambda v: np.abs(v).sum()}[norm](d - e))
            best = value if best is None else min(best, value)
    return best


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: norm.name)
def test_a_step_solves_its_problem(norm: Norm) -> None:
    x, x0, w, gap = problems(40, 3)
    radius, seen = 0.4, {"bound": 0, "free": 0, "short": 0}
    y = boundary_step(norm, x, x0, w, gap, radius, 0.0, 1.0)
    assert bool(((y >= 0) & (y <= 1)).all())
    d = (y - x).double()
    assert bool((d.norm(dim=1) <= radius * (1 + 1e-4)).all())
    for i in range(len(x)):
        one = [t[i].double().numpy() for t in (x, x0, w)]
        best = by_scipy(norm.name, *one, float(gap[i]), radius)
        gained = float(w[i].double() @ d[i])
        if best is None:
            seen["short"] += 1
            assert abs(gained) <= abs(float(gap[i])) * (1 + 1e-3)
            assert gained * float(gap[i]) >= 0
            continue
        assert gained == pytest.approx(float(gap[i]), rel=3e-3, abs=1e-3)
        assert float(norm.distance(y[i : i + 1] - x0[i : i + 1])) <= best + 3e-3
        seen["free" if float(d[i].norm()) < 0.98 * radius else "bound"] += 1
    assert min(seen.values()) >= 3, seen


@pytest.mark.parametrize("norm", [*NORMS, geometry.L0], ids=lambda norm: norm.name)
def test_out_of_reach_it_goes_as_near_as_the_radius_lets(norm: Norm) -> None:
    x, x0, w, gap = problems(20, 4)
    y = boundary_step(norm, x, x0, w, gap.sign() * 1e3, 0.2, 0.0, 1.0)
    way = w.double() * gap.sign()[:, None]
    for i in range(len(x)):
        v, at = way[i].numpy(), x[i].double().numpy()
        found = minimize(
            lambda d, v=v: -v @ d,
            np.zeros(D),
            bounds=list(zip(-at, 1 - at, strict=True)),
            constraints=[{"type": "ineq", "fun": lambda d: 0.2**2 - d @ d}],
            method="SLSQP",
        )
        assert float(way[i] @ (y[i] - x[i]).double()) == pytest.approx(-found.fun, rel=1e-3)


def test_a_step_in_l0_changes_as_few_as_any_choice() -> None:
    """Every choice of the entries that may differ from x0 is tried: the fewest with which the constraints can be met."""
    x, x0, w, gap = problems(24, 5)
    x0[:, 3:] = x[:, 3:]
    radius = 0.7
    y = boundary_step(geometry.L0, x, x0, w, gap, radius, 0.0, 1.0)
    assert bool(((y - x).norm(dim=1) <= radius * (1 + 1e-4)).all())
    tried = 0
    for i in range(len(x)):
        fewest = next((k for k in range(D + 1) if _possible(k, x[i], x0[i], w[i], float(gap[i]), radius)), None)
        if fewest is not None:
            tried += 1
            gained = float(w[i].double() @ (y[i] - x[i]).double())
            assert gained * np.sign(float(gap[i])) >= abs(float(gap[i])) * (1 - 3e-3)
            assert int((y[i] != x0[i]).sum()) <= fewest + 1
    assert tried >= 10


def _possible(k: int, x: Tensor, x0: Tensor, w: Tensor, gap: float, radius: float) -> bool:
    for chosen in itertools.combinations(range(D), k):
        free = torch.zeros(D, dtype=torch.bool)
        free[list(chosen)] = True
        low, high = torch.where(free, 0.0, x0), torch.where(free, 1.0, x0)
        start = torch.where(free, x, x0)
        missing = torch.tensor([gap], dtype=torch.float64) - (w.double() @ (start - x).double())
        y = geometry.L2.hyperplane(start[None], w[None], missing, low[None], high[None])[0]
        if abs(float(w.double() @ (y - x).double()) - gap) < 1e-4 and float((y - x).norm()) <= radius:
            return True
    return False


def test_a_sphere_is_left_where_it_is_nearest() -> None:
    prepared, x, y = sphere(0.3, 0.1)
    out = BrendelBethge(steps=80, decays=6, radius=0.05, ascents=0)(prepared, x, y, threat="l2:inf", stop=False)
    assert bool(out.broken.all())
    assert float(out.distance.min()) >= 0.2 * (1 - 1e-5)
    assert float(out.distance.max()) <= 0.2 * 1.005


def test_it_starts_from_the_best_point_known() -> None:
    w = world()
    threat = parse_threat("l2:inf").within((0.0, 1.0))
    oracle = Oracle.begin(w.prepared, threat, Untargeted(), w.x, w.y, ids=w.ids, stop=False)
    oracle.settle_origin()
    known = BrendelBethge(steps=5, starts=2)(w.prepared, w.x, w.y, threat=threat, stop=False)
    rows = known.broken.nonzero()[:, 0]
    oracle.recall(rows, known.point[rows])
    before = oracle.ledger.forwards.clone()
    start = BrendelBethge(bisections=0, starts=9).start(oracle, w.x, threat)
    assert torch.equal(start[rows], known.point[rows])
    assert torch.equal(oracle.ledger.forwards[rows], before[rows])


def test_the_margin_is_climbed_to_a_start() -> None:
    w = world()
    goal = parse_goal("targeted:2")
    out = BrendelBethge(steps=30, starts=0)(w.prepared, w.x, w.y, threat="l2:inf", goal=goal, stop=False)
    assert out.broken[w.y != 2].all()


def test_masked_entries_stay_and_the_rest_is_used() -> None:
    model = linear()
    mask = torch.arange(36).view(1, 6, 6) % 3 == 0
    threat = replace(parse_threat("l2:inf"), constraints=Constraints(mask=mask))
    out = BrendelBethge(steps=40, decays=4, radius=0.1, ascents=0)(
        model.world.prepared, model.world.x, model.world.y, threat=threat, stop=False
    )
    fixed = ~mask.expand_as(model.world.x)
    assert torch.equal(out.adversarial[fixed], model.world.x[fixed])
    wanted = model.gap / float(model.w[mask.flatten()].norm())
    assert float(out.distance.max()) <= wanted * 1.02

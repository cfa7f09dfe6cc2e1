"""C&W and its kin against closed forms: the objectives, Adam, the search over c, shrinkage, pairs, and the surplus of a goal."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from mohs import losses
from mohs.aim import Aim
from mohs.attacks.adam import Adam
from mohs.attacks.minimal.cw import CW
from mohs.attacks.minimal.ead import EAD, shrink
from mohs.attacks.minimal.jsma import JSMA, best_pair
from mohs.attacks.minimal.lbfgs import LBFGS, in_lockstep
from mohs.attacks.minimal.objective import ConstantSearch, TanhBox, toward
from mohs.errors import RequestError
from mohs.ledger import Status
from mohs.losses import Loss
from mohs.oracle import Oracle
from mohs.threat import Constraints, parse_goal, parse_threat
from tests.conformance import go, linear, world

OBJECTIVES = [losses.f1, losses.f2, losses.f3, losses.f4, losses.f5, losses.f6, losses.f7]
Y, T = torch.tensor([0, 2, 1, 0]), torch.tensor([1, 0, 2, 2])
Z = torch.tensor([[2.0, 1.0, -1.0], [0.5, 0.2, 0.4], [-1.0, 0.0, 3.0], [1.0, 1.5, 0.0]])


def printed(z: list[float], y: int, t: int | None) -> list[float]:
    """f1 to f7 as printed (f1 and f5 as read), by plain arithmetic."""
    e = [math.exp(v) for v in z]
    p = [v / sum(e) for v in e]
    if t is None:
        t = max((j for j in range(len(z)) if j != y), key=lambda j: z[j])
        beaten = [y]
    else:
        beaten = [j for j in range(len(z)) if j != t]
    in_f, in_z = (max(v[j] for j in beaten) - v[t] for v in (p, z))
    plus = lambda v: max(v, 0.0)  # noqa: E731
    soft = lambda v: math.log1p(math.exp(v)) - math.log(2)  # noqa: E731
    return [1 - math.log(p[t]), plus(in_f), soft(in_f), plus(0.5 - p[t]), plus(-math.log(2 * p[t])), plus(in_z), soft(in_z)]


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("number", range(7))
def test_objectives_are_those_of_the_paper(number: int, named: bool) -> None:
    got = -OBJECTIVES[number](Z, Aim(Y, target=T if named else None))
    wanted = [printed(z, y, t if named else None)[number] for z, y, t in zip(Z.tolist(), Y.tolist(), T.tolist(), strict=True)]
    assert torch.allclose(got, torch.tensor(wanted), atol=1e-6)
    assert losses.by_name(f"f{number + 1}") is OBJECTIVES[number]


@pytest.mark.parametrize("goal", ["untargeted", "targeted:1", "confidence:0.3", "topk:2"])
def test_a_surplus_comes_off_every_margin(goal: str) -> None:
    plain = parse_goal(goal)
    aim = Aim(Y, target=torch.ones_like(Y) if goal.startswith("targeted") else None, reference=Z)
    assert torch.equal(replace(plain, surplus=1.5).margin(Z, aim), plain.margin(Z, aim) - 1.5)


@pytest.mark.parametrize("goal", ["untargeted", "targeted:1", "confidence:0.3", "topk:2"])
@pytest.mark.parametrize("objective", [losses.f2, losses.f6])
def test_the_hinge_ends_where_the_goal_and_its_surplus_are_reached(objective: Loss, goal: str) -> None:
    z = torch.randn(400, 4, generator=torch.Generator().manual_seed(0)) * 3
    y = torch.arange(400) % 4
    aim = Aim(y, target=torch.ones_like(y) if goal.startswith("targeted") else None)
    sure = replace(parse_goal(goal), surplus=0.7)
    reached = sure.margin(z, aim) > 0
    assert 20 < int(reached.sum()) < 380
    assert torch.equal(toward(sure, objective)(z, aim) == 0, reached)
    if objective is losses.f6:
        assert torch.allclose(toward(sure, objective)(z, aim), sure.margin(z, aim).clamp(max=0), atol=1e-6)


def test_adam_is_torchs() -> None:
    torch.manual_seed(0)
    w = torch.randn(3, 5)
    theirs = torch.nn.Parameter(w.clone())
    optimiser, ours = torch.optim.Adam([theirs], lr=0.01), Adam(w, 0.01)
    for i in range(30):
        g = torch.sin(w * (i + 1)) * 10.0 ** (i % 5 - 4)
        theirs.grad = g.clone()
        optimiser.step()
        w = w + ours.step(g)
        assert torch.allclose(w, theirs, atol=1e-6)
    ours.restart(torch.tensor([False, True, False]))
    g = torch.ones(3, 5)
    assert torch.allclose(ours.step(g)[1], torch.full((5,), -0.01), rtol=1e-5)  # a first step is the rate


def test_c_is_bracketed_and_halved() -> None:
    """From 1, needing 37.3: tenfold to 100, then to the middle of the bracket; the tenth of ten takes the least success."""
    search = ConstantSearch(torch.zeros(2, 1), 1.0, 10)
    tried = []
    for _ in range(10):
        tried.append(float(search.c[0]))
        search.reached |= search.c >= torch.tensor([37.3, math.inf])
        search.end(torch.tensor([True, True]))
    assert tried == [1, 10, 100, 55, 32.5, 43.75, 38.125, 35.3125, 36.71875, 38.125]
    assert float(search.c[1]) == 1e10
    assert not bool(search.going.any())


def test_the_tanh_box_is_the_box() -> None:
    threat = parse_threat("l2:inf")
    x0 = torch.tensor([[0.0, 0.25, 1.0, 0.5]])
    masked = replace(threat, constraints=Constraints(mask=torch.tensor([True, True, True, False])))
    box = TanhBox.of(x0, masked)
    x, slope = box.point(box.variable(x0))
    assert torch.allclose(x, x0, atol=1e-6)
    w = torch.tensor([[-50.0, 0.3, 50.0, 7.0]], requires_grad=True)
    x, slope = box.point(w.detach())
    assert x.tolist()[0][0] == 0.0
    assert x.tolist()[0][2:] == [1.0, 0.5]
    assert torch.allclose(slope[0, 1], 0.5 * (1 - torch.tensor(0.3).tanh() ** 2))
    assert float(slope[0, 3]) == 0.0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_cw_reaches_the_linear_optimum_by_every_objective(objective: Loss) -> None:
    model = linear()
    made = CW(search_steps=6, steps=100, initial_const=0.1, objective=objective)
    out = go("cw", model.world, "l2:inf", made=made).outcome
    assert bool(out.broken.all())
    assert float(out.distance.max()) < model.distance("l2") * 1.25
    if objective is losses.f6:
        assert float(out.distance.max()) < model.distance("l2") * 1.01


@pytest.mark.parametrize(
    "made", [CW(search_steps=5, steps=80, initial_const=0.1), EAD(search_steps=5, steps=80, initial_const=0.1)]
)
def test_confidence_exceeds_the_goal(made: CW | EAD) -> None:
    """The point beats the label by kappa, and is farther away by that much: on a linear model (gap + kappa) / gap."""
    model, threat = linear(), f"{made.sets[0]}:inf"
    name = "cw" if isinstance(made, CW) else "ead"
    sure = go(name, model.world, threat, made=replace(made, confidence=0.4)).outcome
    with torch.no_grad():
        z = model.world.module(sure.adversarial)
    assert bool(((z[:, 1] - z[:, 0]) > 0.4).all())
    plain = go(name, model.world, threat, made=made).outcome
    ratio = (sure.distance / plain.distance).mean()
    assert float(ratio) == pytest.approx((model.gap + 0.4) / model.gap, rel=0.05 if name == "cw" else 0.1)
    with pytest.raises(RequestError, match="confidence"):
        go(name, model.world, threat, made=replace(made, confidence=-1.0))


def test_shrinkage_is_the_elastic_nets() -> None:
    x0 = torch.tensor([[0.5, 0.5, 0.5, 0.5, 0.98]])
    z = torch.tensor([[0.55, 0.45, 0.8, 0.2, 1.5]])
    assert torch.allclose(shrink(z, x0, 0.1, 0.0, 1.0), torch.tensor([[0.5, 0.5, 0.7, 0.3, 1.0]]))


def test_ead_rules_choose_by_their_own_distance() -> None:
    w = world()
    found = {}
    for rule in ("l1", "en"):
        out = go("ead", w, "l1:inf", made=EAD(search_steps=4, steps=60, initial_const=0.1, beta=0.02, rule=rule)).outcome
        assert bool(out.broken.all())
        d = (out.adversarial - w.x).flatten(1).double()
        found[rule] = d.abs().sum(1), 0.02 * d.abs().sum(1) + d.square().sum(1)
    assert bool((found["l1"][0] <= found["en"][0] + 1e-9).all())
    assert bool((found["en"][1][:-1] <= found["l1"][1][:-1] + 1e-9).all())
    assert not torch.equal(found["en"][0], found["l1"][0])


@pytest.mark.parametrize("side", ["norm", "loss"])
def test_lbfgs_searches_the_way_its_constant_points(side: str) -> None:
    model = linear()
    made = LBFGS(search_steps=12, steps=15, constant_on=side)
    out = go("lbfgs", model.world, "l2:inf", made=made).outcome
    assert bool(out.broken.all())
    assert float(out.distance.max()) < model.distance("l2") * 1.05


def test_a_failed_line_search_is_an_error_of_its_example(monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy import optimize

    real = optimize.minimize

    def failing(f: Callable[..., object], x: np.ndarray, **options: object) -> object:
        found = real(f, x, **options)
        if np.array_equal(x, world().x[0].flatten().double().numpy()):
            found.status, found.message = 2, "ABNORMAL: "
        return found

    monkeypatch.setattr(optimize, "minimize", failing)
    out = go("lbfgs", world(), "l2:0.001", made=LBFGS(search_steps=2, steps=5)).outcome
    assert out.status[0] == Status.ERROR
    assert "ABNORMAL" in out.reason[0]
    assert set(out.status[1:-1]) == {Status.SURVIVED}


def test_jobs_in_lockstep_are_answered_together() -> None:
    batches: list[list[int]] = []

    def ask(rows: list[int], points: list[np.ndarray]) -> list[tuple[float, np.ndarray] | None]:
        batches.append(rows)
        return [None if i == 2 and float(p[0]) > 1 else (float(p[0]), 2 * p) for i, p in zip(rows, points, strict=True)]

    def job(i: int, f: Callable[[np.ndarray], tuple[float, np.ndarray]]) -> float:
        return sum(f(np.full(1, float(k)))[0] for k in range(i + 1))

    assert dict(in_lockstep([0, 1, 2, 3], job, ask)) == {0: 0.0, 1: 1.0, 2: None, 3: 6.0}
    assert batches == [[0, 1, 2, 3], [1, 2, 3], [2, 3], [3]]

    def broken(rows: list[int], points: list[np.ndarray]) -> list[tuple[float, np.ndarray] | None]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        in_lockstep([0, 1], job, broken)


def test_the_best_pair_is_the_best_of_all() -> None:
    g = torch.Generator().manual_seed(5)
    a, b = torch.randn(30, 9, generator=g), torch.randn(30, 9, generator=g)
    a[:5], b[5:8] = (a[:5] * 2).round(), (b[5:8] * 2).round()  # ties
    room = torch.rand(30, 9, generator=g) < 0.6
    a[29] = -a[29].abs()
    pair, found = best_pair(a, b, room)
    for i in range(30):
        values = {
            (p, q): float((a[i, p] + a[i, q]).double() * (b[i, p] + b[i, q]).double())
            for p, q in combinations(range(9), 2)
            if room[i, p] and room[i, q] and a[i, p] + a[i, q] > 0 and b[i, p] + b[i, q] > 0
        }
        assert bool(found[i]) == bool(values)
        if values:
            p, q = sorted(pair[i].tolist())
            assert values[p, q] == pytest.approx(max(values.values()), rel=1e-5)
    assert not bool(found[29])


@pytest.mark.parametrize(("goal", "theta"), [("targeted:1", 1.0), ("untargeted", 1.0), ("untargeted", -0.5)])
def test_jsma_moves_the_pair_of_the_saliency_map(goal: str, theta: float) -> None:
    """One step on a linear model: the pair is that of its weights, each moved by theta and clipped."""
    model = linear()
    w, weight = model.world, model.world.module[1].weight.detach().double()
    aimed = weight[1] if goal == "targeted:1" else weight.sum(0) - weight[0]
    others = weight.sum(0) - weight[1] if goal == "targeted:1" else weight[0]
    a, b = (math.copysign(1, theta) * t for t in (aimed, -others))
    value, wanted = max(((a[p] + a[q]) * (b[p] + b[q]), (p, q)) for p, q in combinations(range(36), 2)
                        if a[p] + a[q] > 0 and b[p] + b[q] > 0)  # fmt: skip
    assert value > 0
    oracle = Oracle.begin(w.prepared, parse_threat("l0:inf"), parse_goal(goal), w.x, w.y, ids=w.ids, stop=False)
    x = JSMA(theta=theta, steps=1).run(oracle, oracle.x0, oracle.threat)
    for i in range(len(x)):
        change = (x[i] - w.x[i]).flatten()
        assert change.nonzero()[:, 0].tolist() == list(wanted)
        assert torch.allclose(x[i].flatten()[list(wanted)], (w.x[i].flatten()[list(wanted)] + theta).clamp(0, 1))

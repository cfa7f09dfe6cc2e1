"""APGD, APGD-T and FAB-T against closed forms, against plain per-example transcriptions of the papers, and by count."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mohs.asking import Answer
from mohs.attacks.base import Attack
from mohs.attacks.gradient.apgd import APGD, APGDTargeted, checkpoints, towards
from mohs.attacks.minimal.fab import FABT
from mohs.errors import Refused
from mohs.ledger import Outcome
from mohs.losses import cross_entropy, dlr, dlr_targeted, logit_difference
from mohs.models import Guide, Prepared, TorchModel, prepare
from mohs.oracle import Oracle
from mohs.threat import Constraints, Goal, Targeted, Untargeted, parse_goal, parse_threat

NORMS = ("linf", "l2", "l1")
SHAPE = (2, 4, 5)
D = math.prod(SHAPE)
ROWS = 12
NEAR = {"linf": 0.9999, "l2": 0.999, "l1": 0.8}  # of the best gain; in L1, 2 entries ask for 2 / 1.5, rounded up, again


def draw(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


class Linear(nn.Module):
    """Weights from 1e-3 to 1, of both signs; every class but 0 is `gap` behind it at the origin of the box's middle."""

    def __init__(self, classes: int, gap: float) -> None:
        super().__init__()
        w = (draw(1, classes, D) * 2 - 1) * torch.logspace(-3, 0, D)[torch.randperm(D, generator=_generator(2))]
        self.weight = nn.Parameter(w, requires_grad=False)
        self.bias = nn.Parameter(-w @ torch.full((D,), 0.5) - gap * (torch.arange(classes) > 0), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Smooth(nn.Module):
    """A small network without kinks, so that two ways of writing an attack stay together."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.first = nn.Parameter((draw(3, 24, D) * 2 - 1) * 0.4, requires_grad=False)
        self.last = nn.Parameter(draw(4, classes, 24) * 2 - 1, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.first.T).sin() @ self.last.T


class Spy(nn.Module):
    """Every input that was asked about, those with a gradient apart."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.climbed: list[Tensor] = []
        self.checked: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float32:
            (self.climbed if x.requires_grad else self.checked).append(x.detach().clone())
        out: Tensor = self.module(x)
        return out


def ready(module: nn.Module, x: Tensor, classes: int, rows: int = 16) -> Prepared:
    return prepare(TorchModel(module.eval(), classes=classes), x, rows=rows)


def go(
    attack: Attack,
    prepared: Prepared,
    x: Tensor,
    y: Tensor,
    threat: str,
    *,
    goal: Goal | None = None,
    ids: Tensor | None = None,
    stop: bool = True,
    constraints: Constraints | None = None,
) -> Outcome:
    parsed = parse_threat(threat)
    if constraints is not None:
        parsed = dataclasses.replace(parsed, constraints=constraints)
    ids = torch.arange(len(x)) if ids is None else ids
    return attack.on(Oracle.begin(prepared, parsed, goal or Untargeted(), x, y, ids=ids, stop=stop))


def spied(attack: Attack, module: nn.Module, x: Tensor, y: Tensor, threat: str) -> Spy:
    """What a model is asked; the guide is the model itself."""
    spy = Spy(module).eval()
    judge = ready(spy, x, int(module(x[:1]).shape[1])).judge
    spy.climbed.clear()
    spy.checked.clear()
    go(attack, Prepared(judge, Guide(judge.model, judge.rows, judge.quantum)), x, y, threat, stop=False)
    spy.climbed = [p[: len(x)] for p in spy.climbed]
    spy.checked = [p[: len(x)] for p in spy.checked]
    return spy


# closed forms


def most(w: Tensor, room: Tensor, epsilon: float, norm: str) -> Tensor:
    """max <|w|, r> over 0 <= r <= room, ||r|| <= epsilon; all of them [d] float64."""
    w = w.abs()
    if norm == "linf":
        return (w * room.clamp(max=epsilon)).sum()
    if norm == "l1":
        order = w.argsort(descending=True)
        before = room[order].cumsum(0) - room[order]
        return (w[order] * torch.minimum(room[order], (epsilon - before).clamp(min=0))).sum()
    low, high = 0.0, 1e12
    for _ in range(200):
        s = (low + high) / 2
        low, high = (s, high) if float(torch.minimum(s * w, room).norm()) < epsilon else (low, s)
    return (w * torch.minimum(low * w, room)).sum()


def nearest(w: Tensor, room: Tensor, gap: float, norm: str) -> float:
    """min ||r|| over 0 <= r <= room, <|w|, r> = gap."""
    low, high = 0.0, 1e6 if norm == "l2" else float(D)
    for _ in range(100):
        s = (low + high) / 2
        gain = (w.abs() * torch.minimum(s * w.abs(), room)).sum() if norm == "l2" else most(w, room, s, norm)
        low, high = (s, high) if float(gain) < gap else (low, s)
    return float(torch.minimum(high * w.abs(), room).norm()) if norm == "l2" else high


def room(x: Tensor, w: Tensor) -> Tensor:
    return torch.where(w > 0, 1 - x, x)


def test_the_closed_forms_agree_with_dual_norms_where_the_box_is_far() -> None:
    w, wide = draw(5, D).double() - 0.5, torch.full((D,), 1e6, dtype=torch.float64)
    duals = {"linf": w.abs().sum(), "l2": w.norm(), "l1": w.abs().max()}
    for norm in NORMS:
        assert float(most(w, wide, 2.0, norm)) == pytest.approx(float(2 * duals[norm]), rel=1e-9)
        assert nearest(w, wide, 0.1, norm) == pytest.approx(0.1 / float(duals[norm]), rel=1e-6)


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 0.6), ("l1", 3.0)])
def test_apgd_reaches_the_optimum_of_a_linear_loss_over_ball_and_box(norm: str, epsilon: float, boxed: bool) -> None:
    module = Linear(2, 50.0)
    x = draw(6, ROWS, *SHAPE) if boxed else 0.4 + 0.2 * draw(6, ROWS, *SHAPE)
    if boxed:
        x = (x * 3 - 1).clamp(0, 1)  # two thirds of the entries at an end of the box
    y = torch.zeros(ROWS).long()
    out = go(APGD(loss=logit_difference), ready(module, x, 2), x, y, f"{norm}:{epsilon}")
    check_optimum(out, module, x, norm, epsilon)
    if norm == "l1":
        check_optimum(
            go(APGD(loss=logit_difference, multi_epsilon=True), ready(module, x, 2), x, y, f"l1:{epsilon}"),
            module,
            x,
            norm,
            epsilon,
        )


def check_optimum(out: Outcome, module: Linear, x: Tensor, norm: str, epsilon: float) -> None:
    w = (module.weight[1] - module.weight[0]).double()
    reached = []
    for i, row in enumerate(x.flatten(1).double()):
        start = float(w @ row + (module.bias[1] - module.bias[0]).double())
        reached.append((float(out.margin[i]) - start) / float(most(w, room(row, w), epsilon, norm)))
    assert NEAR[norm] <= min(reached) + 1e-4
    assert max(reached) <= 1 + 1e-4
    assert sum(reached) / ROWS >= 0.95
    delta = out.adversarial.double() - x.double()
    assert float(delta.flatten(1).norm(p={"linf": math.inf, "l2": 2, "l1": 1}[norm], dim=1).max()) <= epsilon * (1 + 1e-6)
    assert float(out.adversarial.min()) >= 0
    assert float(out.adversarial.max()) <= 1


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_fab_finds_the_nearest_point_of_a_linear_model(norm: str, boxed: bool) -> None:
    module = Linear(4, 0.3)
    x = (draw(7, ROWS, *SHAPE) * 3 - 1).clamp(0, 1) if boxed else 0.49 + 0.02 * draw(7, ROWS, *SHAPE)
    with torch.no_grad():
        z = module(x).double()
    y = z.argmax(1)
    out = go(FABT(steps=40), ready(module, x, 4), x, y, f"{norm}:inf", stop=False)
    assert out.broken.all()
    for i, row in enumerate(x.flatten(1).double()):
        distances = []
        for t in set(range(4)) - {int(y[i])}:
            w = (module.weight[t] - module.weight[y[i]]).detach().double()
            distances.append(nearest(w, room(row, w), float(z[i, y[i]] - z[i, t]), norm))
        assert min(distances) * (1 - 1e-4) <= float(out.distance[i]) <= min(distances) * 1.01


def test_fab_leaves_masked_entries_alone_and_finds_the_nearest_of_the_rest() -> None:
    module, x = Linear(2, 0.3), (draw(8, ROWS, *SHAPE) * 3 - 1).clamp(0, 1)
    mask = draw(9, *SHAPE) > 0.4
    with torch.no_grad():
        z = module(x).double()
    y = z.argmax(1)
    out = go(FABT(steps=40), ready(module, x, 2), x, y, "l2:inf", stop=False, constraints=Constraints(mask=mask))
    assert torch.equal(out.adversarial[:, ~mask], x[:, ~mask])
    sign = 1 - 2 * y.double()
    for i, row in enumerate(x.flatten(1).double()):
        w = (module.weight[1] - module.weight[0]).detach().double() * sign[i]
        reach = nearest(w, torch.where(mask.flatten(), room(row, w), 0.0), float((z[i, 0] - z[i, 1]).abs()), "l2")
        assert reach * (1 - 1e-4) <= float(out.distance[i]) <= reach * 1.01


@pytest.mark.parametrize("norm", NORMS)
def test_apgd_leaves_masked_entries_alone(norm: str) -> None:
    module, x, mask = Linear(2, 50.0), (draw(8, ROWS, *SHAPE) * 3 - 1).clamp(0, 1), draw(9, *SHAPE) > 0.4
    y = torch.zeros(ROWS).long()
    constraints = Constraints(mask=mask)
    out = go(APGD(loss=logit_difference), ready(module, x, 2), x, y, f"{norm}:3", constraints=constraints)
    assert torch.equal(out.adversarial[:, ~mask], x[:, ~mask])
    w = (module.weight[1] - module.weight[0]).detach().double()
    for i, row in enumerate(x.flatten(1).double()):
        gain = most(w, torch.where(mask.flatten(), room(row, w), 0.0), 3.0, norm)
        start = float(w @ row + (module.bias[1] - module.bias[0]).double())
        assert float(out.margin[i]) >= start + NEAR[norm] * float(gain) - 1e-4


# the papers, an example at a time


def test_checkpoints_are_those_of_the_paper() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(50) == [11, 21, 29, 35, 40, 44, 47, 50]


def gradient_of(module: nn.Module, y: int, target: int | None) -> Callable[[Tensor], tuple[float, Tensor]]:
    """Cross-entropy, or the targeted DLR, and its gradient at one point [d]."""

    def ask(p: Tensor) -> tuple[float, Tensor]:
        q = p.clone().requires_grad_()
        z = module(q.view(1, *SHAPE))[0]
        if target is None:
            loss = z.logsumexp(0) - z[y]
        else:
            top = z.sort(descending=True).values
            loss = (z[target] - z[y]) / (top[0] - (top[2] + top[3]) / 2)
        return float(loss.detach()), torch.autograd.grad(loss, q)[0]

    return ask


def box_ball(v: Tensor, x0: Tensor, epsilon: float, norm: str) -> Tensor:
    """The nearest point of ball and box by bisection, in float64."""

    def shrunk(lam: float) -> Tensor:
        step = v - x0
        step = step / (1 + lam) if norm == "l2" else step.sign() * (step.abs() - lam).clamp(min=0)
        return (x0 + step).clamp(0, 1)

    if norm == "linf":
        return torch.maximum(torch.minimum(v, x0 + epsilon), x0 - epsilon).clamp(0, 1)
    p = {"l2": 2, "l1": 1}[norm]
    low, high = 0.0, 1e4
    if float((shrunk(0.0) - x0).norm(p=p)) <= epsilon:
        return shrunk(0.0)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float((shrunk(middle) - x0).norm(p=p)) > epsilon else (low, middle)
    return shrunk(high)


def apgd_by_the_paper(
    ask: Callable[[Tensor], tuple[float, Tensor]], x0: Tensor, start: Tensor, epsilon: float, norm: str, steps: int
) -> list[Tensor]:
    """arXiv:2003.01690, Algorithm 1, one example: every point asked about."""
    points, losses, grads = [start], [], []
    f, g = ask(start)
    losses.append(f)
    grads.append(g)
    x, x_before, eta, last, top_at_last, cut_at_last = start, start, 2 * epsilon, 0, f, True
    best = 0
    for k in range(steps):
        direction = g.sign() if norm == "linf" else g / g.norm()
        z = box_ball(x + eta * direction, x0, epsilon, norm)
        alpha = 0.75 if k else 1.0
        new = box_ball(x + alpha * (z - x) + (1 - alpha) * (x - x_before), x0, epsilon, norm)
        x_before, x = x, new
        points.append(x)
        f, g = ask(x)
        losses.append(f)
        grads.append(g)
        if f > losses[best]:
            best = k + 1
        if k + 1 in checkpoints(steps):
            rises = sum(losses[i + 1] > losses[i] for i in range(last, k + 1))
            slow = rises <= 0.75 * (k + 1 - last)
            stuck = not cut_at_last and losses[best] <= top_at_last
            cut_at_last, top_at_last, last = slow or stuck, losses[best], k + 1
            if cut_at_last:
                eta, x, g = eta / 2, points[best], grads[best]
    return points


def sparse_apgd_by_the_paper(
    ask: Callable[[Tensor], tuple[float, Tensor]], x0: Tensor, start: Tensor, epsilon: float, steps: int, dense: bool
) -> tuple[list[Tensor], Tensor]:
    """arXiv:2103.01208, Algorithm 1, one example: every point asked about, and the best."""
    support = int((start != x0).sum())
    share, support = (0.2, D) if dense else (support / D / 1.5, support)
    x, eta, points = start, epsilon, [start]
    f, g = ask(x)
    best, f_best, g_best = x, f, g
    for k in range(steps):
        kept = D - min(max(math.floor((1 - share) * D + 1e-9), 0), D - 1)
        s = g.sign() * (g.abs() >= g.abs().sort(descending=True).values[kept - 1])
        x = box_ball(x + eta * s / s.abs().sum(), x0, epsilon, "l1")
        points.append(x)
        f, g = ask(x)
        if f > f_best:
            best, f_best, g_best = x, f, g
        if (k + 1) % max(int(0.04 * steps + 1e-9), 1) == 0:
            now = int((best != x0).sum())
            if now / support < 0.95:
                eta, x, g = epsilon, best, g_best
            else:
                eta = max(eta / 1.5, epsilon / 10)
            share, support = now / D / 1.5, now
    return points, best


def close(ours: list[Tensor], theirs: list[Tensor], row: int) -> None:
    """To 1e-5; to 1e-3 once a checkpoint has chosen the best of points whose losses agree in float32."""
    assert len(ours) == len(theirs)
    for k, (mine, paper) in enumerate(zip(ours, theirs, strict=True)):
        assert float((mine[row].flatten() - paper).abs().max()) < (1e-5 if k <= 22 else 1e-3), f"row {row}, point {k}"


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 0.7)])
def test_apgd_takes_the_steps_of_the_paper(norm: str, epsilon: float) -> None:
    module, x = Smooth(), draw(10, 4, *SHAPE)
    y = module(x).argmax(1)
    spy = spied(APGD(), module, x, y, f"{norm}:{epsilon}")
    double = Smooth().double()
    for row in range(len(x)):
        ask = gradient_of(double, int(y[row]), None)
        start = spy.climbed[0][row].flatten().double()
        close(spy.climbed, apgd_by_the_paper(ask, x[row].flatten().double(), start, epsilon, norm, 100), row)


class Script:
    """An oracle whose k-th answer has loss losses[k] and a random gradient; it keeps what it was asked."""

    def __init__(self, x0: Tensor, losses: list[float]) -> None:
        self.x0, self.losses = x0, losses
        self.points: list[Tensor] = []
        self.gradients: list[Tensor] = []

    def steps(self, n: int) -> range:
        return range(n)

    def compact(self, *state: Tensor) -> tuple[Tensor, ...]:
        return state

    def gradient(self, x: Tensor, loss: object) -> Answer:
        k = len(self.points)
        self.points.append(x.clone())
        self.gradients.append(draw(100 + k, *x.shape) - 0.5)
        f = torch.full((len(x),), self.losses[k])
        return Answer(f, f[:, None], f, self.gradients[k].clone())


def halved_at(losses: list[float]) -> list[int]:
    """The checkpoints at which APGD goes back to its best point, told from the point that follows."""
    x0, threat = torch.full((2, *SHAPE), 0.5), parse_threat("linf:0.1")
    oracle = Script(x0, losses)
    last = APGD()._climb(oracle, x0.clone(), threat)  # type: ignore[arg-type]
    points, gradients, eta, found = oracle.points, oracle.gradients, 2.0, []
    assert torch.equal(last, points[max(range(101), key=losses.__getitem__)])
    before = x0
    for k in range(100):
        best = max(range(k + 1), key=losses.__getitem__)  # the first of equals
        follows = {}
        for name, at, step in (("on", k, eta), ("back", best, eta / 2)):
            x = points[at]
            z = threat.project(x + 0.1 * step * gradients[at].sign(), x0)
            mixed = threat.project(x + 0.75 * (z - x) + 0.25 * (x - before), x0) if k else z
            follows[name] = torch.allclose(mixed, points[k + 1], atol=1e-6)
        before = points[k]
        if k not in checkpoints(100):
            assert follows["on"]
            continue
        assert follows["on"] != follows["back"]
        if follows["back"]:
            found.append(k)
            before, eta = points[best], eta / 2
    return found


def test_apgd_halves_its_step_where_too_few_steps_rise_or_the_best_stays_after_no_halving() -> None:
    rising = [float(k) for k in range(101)]
    assert halved_at(rising) == []
    falls = [-float(k) for k in range(101)]
    assert halved_at(falls) == [22, 41, 57, 70, 80, 87, 93, 99]
    # From 22 to 41, 18 of 19 steps rise but the best stays: back at 41, as 22 did not go back. From 41 to 57 the same:
    # on, as 41 went back. Then at 70 back again.
    saw = [*rising[:23], *range(-100, -22)]
    assert halved_at([float(f) for f in saw]) == [41, 70, 87, 99]
    # 16 rises of 22 are too few, 17 are enough.
    for flat, expected in ((6, [22]), (5, [])):
        assert [k for k in halved_at([0.0] * flat + rising[: 101 - flat]) if k == 22] == expected


@pytest.mark.parametrize("norm", NORMS)
def test_apgd_returns_its_best_point(norm: str) -> None:
    module, x = Smooth(), draw(10, 8, *SHAPE)
    y = module(x).argmax(1)
    spy = Spy(module).eval()
    judge = ready(spy, x, 5).judge
    prepared = Prepared(judge, Guide(judge.model, judge.rows, judge.quantum))
    threat = parse_threat({"linf": "linf:0.3", "l2": "l2:2", "l1": "l1:8"}[norm])
    oracle = Oracle.begin(prepared, threat, Untargeted(), x, y, ids=torch.arange(8), stop=False)
    spy.climbed.clear()
    point = APGD(steps=12).run(oracle, oracle.x0, oracle.threat)
    losses = torch.stack([nn.functional.cross_entropy(module(p[:8]), y, reduction="none") for p in spy.climbed])
    best = losses.argmax(0)
    assert torch.equal(point, torch.stack([spy.climbed[int(k)][row] for row, k in enumerate(best)]))
    assert int(best.min()) < 12


def test_apgd_towards_a_class_climbs_the_targeted_dlr() -> None:
    module, x = Smooth(), draw(11, 4, *SHAPE)
    z = module(x)
    y = z.argmax(1)
    spy = spied(APGDTargeted(steps=30, targets=2), module, x, y, "l2:1.5")
    second = spy.climbed[31:62]
    double = Smooth().double()
    for row in range(len(x)):
        ask = gradient_of(double, int(y[row]), int(z[row].argsort(descending=True)[2]))
        start = second[0][row].flatten().double()
        close(second, apgd_by_the_paper(ask, x[row].flatten().double(), start, 1.5, "l2", 30), row)


def test_sparse_apgd_takes_the_steps_of_the_paper() -> None:
    module, x = Smooth(), draw(12, 8, *SHAPE)
    y = module(x).argmax(1)
    spy = spied(APGD(steps=50), module, x, y, "l1:3")
    double = Smooth().double()
    for row in range(len(x)):
        start, x0 = spy.climbed[0][row].flatten().double(), x[row].flatten().double()
        points, _ = sparse_apgd_by_the_paper(gradient_of(double, int(y[row]), None), x0, start, 3.0, 50, True)
        close(spy.climbed, points, row)


def test_multi_epsilon_goes_through_three_balls_each_from_the_best_of_the_one_before() -> None:
    module, x = Smooth(), draw(13, 8, *SHAPE)
    y = module(x).argmax(1)
    spy = spied(APGD(steps=20, multi_epsilon=True), module, x, y, "l1:1")
    double = Smooth().double()
    assert len(spy.climbed) == 23
    for row in range(len(x)):
        ask, x0 = gradient_of(double, int(y[row]), None), x[row].flatten().double()
        point = spy.climbed[0][row].flatten().double()
        points: list[Tensor] = []
        for epsilon, steps in ((3.0, 6), (2.0, 6), (1.0, 8)):
            start = box_ball(point, x0, epsilon, "l1")
            asked, point = sparse_apgd_by_the_paper(ask, x0, start, epsilon, steps, False)
            points += asked
        close(spy.climbed, points, row)


@pytest.mark.parametrize(("norm", "p"), [("linf", math.inf), ("l2", 2), ("l1", 1)])
def test_apgd_starts_on_the_surface_of_the_ball_and_restarts_elsewhere(norm: str, p: float) -> None:
    x = 0.4 + 0.2 * draw(14, 4, *SHAPE)
    spy = spied(APGD(steps=3, restarts=2), Linear(2, 50.0), x, torch.zeros(4).long(), f"{norm}:0.3")
    assert len(spy.climbed) == 2 * 4
    starts = [(spy.climbed[k] - x).flatten(1) for k in (0, 4)]
    for start in starts:
        assert torch.allclose(start.norm(p=p, dim=1), torch.full((4,), 0.3), rtol=1e-5)
    assert float((starts[0] - starts[1]).abs().amax(1).min()) > 1e-3
    assert float((starts[0][0] - starts[0][1]).abs().max()) > 1e-3
    if norm == "linf":  # uniform in the cube, not at its corners
        assert 0.35 * 0.3 < float(starts[0].abs().mean()) < 0.65 * 0.3


@pytest.mark.parametrize("norm", NORMS)
def test_apgd_starts_the_same_in_any_units(norm: str) -> None:
    x, y, starts = 0.4 + 0.2 * draw(14, 4, *SHAPE), torch.zeros(4).long(), []
    for scale in (1, 4):
        spy = Spy(Linear(2, 50.0)).eval()
        prepared = prepare(TorchModel(spy, classes=2, bounds=(0.0, float(scale))), scale * x, rows=16)
        prepared = Prepared(prepared.judge, Guide(prepared.judge.model, 16, prepared.judge.quantum))
        spy.climbed.clear()
        go(APGD(steps=1), prepared, scale * x, y, f"{norm}:{0.3 * scale}")
        starts.append(spy.climbed[0][:4] / scale)
    assert torch.allclose(starts[0], starts[1], atol=1e-6)


# FAB's own loop


def onto_hyperplane(x: Tensor, w: Tensor, gap: float, norm: str) -> Tensor:
    """The nearest point of the box with <w, . - x> = gap, or the one that comes nearest to it; float64, one example."""
    w = w if gap >= 0 else -w
    space = room(x, w)
    if norm == "l1":
        step = torch.zeros_like(x)
        left = abs(gap)
        for i in w.abs().argsort(descending=True):
            step[i] = min(float(space[i]), left / float(w[i].abs()))
            left -= float(step[i] * w[i].abs())
        return x + step * w.sign()
    low, high = 0.0, 1e9

    def step_of(s: float) -> Tensor:
        return torch.minimum(s * (w.abs() if norm == "l2" else torch.ones_like(w)), space)

    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((step_of(middle) * w.abs()).sum()) < abs(gap) else (low, middle)
    return x + step_of(high) * w.sign()


@pytest.mark.parametrize(("norm", "p"), [("linf", math.inf), ("l2", 2), ("l1", 1)])
def test_fab_takes_the_steps_of_the_paper(norm: str, p: float) -> None:
    module, x = Smooth(), (draw(23, 6, *SHAPE) * 1.4 - 0.2).clamp(0, 1)
    z = module(x)
    y, target = z.argmax(1), z.argsort(descending=True)[:, 1]
    spy = spied(FABT(steps=6, targets=1), module, x, y, f"{norm}:1e-3")
    double = Smooth().double()
    checked = spy.checked[1:]  # the first are the clean logits
    for row in range(len(x)):
        x0 = x[row].flatten().double()
        for climbed, check in zip(spy.climbed, checked, strict=False):
            point = climbed[row].flatten().double()
            q = point.clone().requires_grad_()
            out = double(q.view(1, *SHAPE))[0]
            f = out[target[row]] - out[y[row]]
            w = torch.autograd.grad(f, q)[0]
            gap = -float(f.detach())
            d1 = onto_hyperplane(point, w, gap, norm) - point
            d2 = onto_hyperplane(x0, w, gap + float(w @ (point - x0)), norm) - x0
            near, far = float(d1.norm(p=p)), float(d2.norm(p=p))
            alpha = min(near / (near + far), 0.1)
            want = ((1 - alpha) * (point + 1.05 * d1) + alpha * (x0 + 1.05 * d2)).clamp(0, 1)
            assert float((check[row].flatten() - want).abs().max()) < 2e-5


def test_fab_starts_at_x0_and_goes_back_a_tenth_of_the_way_from_adversarial_points() -> None:
    module, x = Smooth(), draw(15, 12, *SHAPE)
    y = module(x).argmax(1)
    attack = FABT(steps=10, targets=1, eta=1.0)  # without overshoot, about half of the points are adversarial
    spy = spied(attack, module, x, y, "l2:1e-3")  # no iterate lies in the ball, so the judge is never asked
    assert torch.equal(spy.climbed[0], x)
    assert len(spy.climbed) == 10
    back = misses = 0
    for checked, climbed in zip(spy.checked[1:], spy.climbed[1:], strict=False):
        z = module(checked)
        margin = z.scatter(1, y[:, None], -math.inf).amax(1) - z.gather(1, y[:, None])[:, 0]
        clear, hit = margin.abs() > 1e-5, margin > 0
        back += int((hit & clear).sum())
        misses += int((~hit & clear).sum())
        want = torch.where(hit.view(-1, 1, 1, 1), x + 0.9 * (checked - x), checked)
        assert torch.allclose(want[clear], climbed[clear], atol=1e-6)
    assert min(back, misses) > 5


@pytest.mark.parametrize(("norm", "p"), [("linf", math.inf), ("l2", 2), ("l1", 1)])
def test_fab_restarts_at_half_the_least_of_epsilon_and_its_best(norm: str, p: float) -> None:
    module, x = Linear(2, 0.3), 0.49 + 0.02 * draw(15, 6, *SHAPE)
    y = module(x).argmax(1)
    best = go(FABT(steps=8), ready(module, x, 2), x, y, f"{norm}:inf", stop=False).distance
    for threat, reach in ((f"{norm}:inf", best), (f"{norm}:0.01", torch.full((6,), 0.01))):
        climbed = spied(FABT(steps=8, restarts=3), module, x, y, threat).climbed
        start = climbed[8] - x
        assert float((climbed[16] - climbed[8]).abs().flatten(1).amax(1).min()) > 1e-4
        assert torch.allclose(start.flatten(1).norm(p=p, dim=1).double(), reach.double() / 2, rtol=1e-3)
        assert float((start[0] - start[1]).abs().max()) > 1e-5


def test_fab_returns_where_it_went_when_it_finds_nothing() -> None:
    module, x, y = Linear(2, 50.0), 0.4 + 0.2 * draw(16, 5, *SHAPE), torch.zeros(5).long()
    oracle = Oracle.begin(ready(module, x, 2), parse_threat("linf:0.05"), Untargeted(), x, y, ids=torch.arange(5))
    point = FABT(steps=5).run(oracle, oracle.x0, oracle.threat)
    corner = (module.weight[1] - module.weight[0]).sign().view(SHAPE)
    assert torch.allclose(point, x + 0.05 * corner, atol=1e-6)


# counts


def hard(classes: int = 5) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model that survives any of the budgets below."""
    return Linear(classes, 50.0), draw(16, 5, *SHAPE), torch.zeros(5).long()


@pytest.mark.parametrize(
    ("attack", "norms", "forwards", "backwards"),
    [
        (APGD(), NORMS, 101, 101),
        (APGD(steps=7, loss=dlr, restarts=3), NORMS, 24, 24),
        (APGDTargeted(), NORMS[:1], 4 * 101, 4 * 101),
        (APGDTargeted(steps=10, targets=2, restarts=3), NORMS, 2 * 3 * 11, 2 * 3 * 11),
        (FABT(), NORMS[:1], 4 * 200, 4 * 100),
        (FABT(steps=6, targets=2, restarts=3), NORMS, 2 * 3 * 12, 2 * 3 * 6),
    ],
)
def test_a_row_that_survives_pays_every_pass(attack: Attack, norms: tuple[str, ...], forwards: int, backwards: int) -> None:
    module, x, y = hard()
    for norm in norms:
        out = go(attack, ready(module, x, 5), x, y, f"{norm}:0.05")
        assert not out.broken.any()
        assert out.forwards.tolist() == [forwards] * 5
        assert out.backwards.tolist() == [backwards] * 5
    assert attack.passes(5) == (forwards, backwards)


def test_multi_epsilon_pays_one_pass_more_a_ball() -> None:
    module, x, y = hard()
    for attack, passes in ((APGD(multi_epsilon=True), 103), (APGDTargeted(multi_epsilon=True, targets=3), 309)):
        out = go(attack, ready(module, x, 5), x, y, "l1:0.05")
        assert out.forwards.tolist() == out.backwards.tolist() == [passes] * 5
        assert attack.passes(5) == (passes, passes)


@pytest.mark.parametrize("attack", [APGD(), APGDTargeted(), FABT()], ids=lambda value: type(value).__name__)
def test_a_row_stops_at_its_first_success_and_the_others_go_on(attack: Attack) -> None:
    module, x = Linear(4, 0.3), 0.49 + 0.02 * draw(17, 8, *SHAPE)
    module.bias.data[1:] += torch.tensor([0.0, -0.1, -0.2])
    away = (module.weight[1:] - module.weight[0]).sum(0)
    x[4:] -= (4 * away / away.norm()).view(SHAPE)
    x = x.clamp(0, 1)
    y = torch.zeros(8).long()
    out = go(attack, ready(module, x, 4), x, y, "l2:0.6")
    assert out.broken.tolist() == [True] * 4 + [False] * 4
    assert (out.forwards[:4] <= 5).all()
    assert (out.forwards[4:] == attack.passes(4)[0]).all()
    alone = go(attack, ready(module, x, 4), x[4:], y[4:], "l2:0.6", ids=torch.arange(4, 8))
    assert torch.equal(alone.point, out.point[4:])


# targets


def oracle_for(goal: str, rejected: int | None = None) -> Oracle:
    module = Linear(6, 0.0)
    x = draw(18, 9, *SHAPE)
    y = torch.arange(9) % 6  # for most rows not what the model says
    spec = dataclasses.replace(parse_goal(goal), rejected=rejected)
    return Oracle.begin(ready(module, x, 6), parse_threat("linf:0.1"), spec, x, y, ids=torch.arange(9))


def test_targets_are_ranked_on_clean_logits_without_the_label() -> None:
    oracle = oracle_for("untargeted")
    aims = list(APGDTargeted(targets=9, restarts=2).tries(oracle))
    assert len(aims) == 2 * 5
    z, y = Linear(6, 0.0)(oracle.x0), oracle.aim.y
    for row in range(9):
        order = [c for c in z[row].argsort(descending=True).tolist() if c != int(y[row])]
        assert [int(aim.toward[row]) for aim in aims if aim.toward is not None] == [c for c in order for _ in range(2)]
    assert [len(list(kind(targets=3).tries(oracle))) for kind in (APGDTargeted, FABT)] == [3, 3]


def test_a_targeted_goal_names_the_only_target_and_a_refusal_is_none() -> None:
    oracle = oracle_for("targeted:next")
    (aim,) = towards(oracle, 9)
    assert aim.wanted is not None
    assert torch.equal(aim.wanted, oracle.aim.target)
    oracle = oracle_for("untargeted", rejected=2)
    aims = [aim.toward for aim in towards(oracle, 9)]
    rows = oracle.aim.y != 2
    assert len(aims) == 4
    assert not any((toward[rows] == 2).any() for toward in aims if toward is not None)


@pytest.mark.parametrize("attack", [APGD(), APGDTargeted(), FABT(steps=30)], ids=lambda value: type(value).__name__)
def test_targeted_goals_are_reached(attack: Attack) -> None:
    module, x = Linear(4, 0.3), 0.49 + 0.02 * draw(19, 6, *SHAPE)
    y = module(x).argmax(1)
    out = go(attack, ready(module, x, 4), x, y, "l2:2", goal=Targeted(to=3))
    assert out.broken.all()
    assert (module(out.adversarial).argmax(1) == 3).all()


# refusals


@pytest.mark.parametrize(("attack", "classes"), [(APGD(loss=dlr), 2), (APGDTargeted(), 3), (APGD(loss=dlr_targeted), 3)])
def test_a_loss_that_needs_more_classes_is_refused_by_name(attack: Attack, classes: int) -> None:
    model = TorchModel(Linear(classes, 1.0), classes=classes)
    with pytest.raises(Refused, match=r"needs \d classes.*logit_difference"):
        attack.check(parse_threat("linf:0.1"), Untargeted(), model)
    enough = TorchModel(Linear(classes + 1, 1.0), classes=classes + 1)
    attack.check(parse_threat("linf:0.1"), Untargeted(), enough)
    dataclasses.replace(attack, loss=logit_difference).check(parse_threat("linf:0.1"), Untargeted(), model)


def test_multi_epsilon_is_refused_outside_l1() -> None:
    model = TorchModel(Linear(5, 1.0), classes=5)
    with pytest.raises(Refused, match="multi_epsilon"):
        APGD(multi_epsilon=True).check(parse_threat("l2:1"), Untargeted(), model)
    APGD(multi_epsilon=True, loss=cross_entropy).check(parse_threat("l1:1"), Untargeted(), model)


# company


def convolution() -> nn.Module:
    torch.manual_seed(20)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(160, 6)
    )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "attack",
    [APGD(steps=24, restarts=2), APGDTargeted(steps=12, targets=2), FABT(steps=8, targets=2, restarts=2)],
    ids=lambda value: type(value).__name__,
)
def test_company_changes_no_bit(attack: Attack, norm: str) -> None:
    module, x = convolution(), draw(21, 21, *SHAPE)
    with torch.no_grad():
        y = module(x).argmax(1)
    prepared, ids = ready(module, x, 6), torch.arange(100, 121)
    threat = {"linf": "linf:0.04", "l2": "l2:0.2", "l1": "l1:0.5"}[norm]
    together = go(attack, prepared, x, y, threat, ids=ids)
    assert 2 < int(together.broken.sum()) < 20
    order = torch.randperm(21, generator=_generator(22))
    permuted = go(attack, prepared, x[order], y[order], threat, ids=ids[order])
    alone = [go(attack, prepared, x[i : i + 1], y[i : i + 1], threat, ids=ids[i : i + 1]) for i in (0, 7, 20)]
    for name in ("point", "margin", "distance", "forwards", "backwards", "queries"):
        want = getattr(together, name)
        assert torch.equal(getattr(permuted, name), want[order]), name
        assert torch.equal(torch.cat([getattr(out, name) for out in alone]), want[[0, 7, 20]]), name


def test_what_a_model_refuses_is_no_success_of_an_attack_called_directly() -> None:
    """Class 2 is a refusal and within easy reach; class 1 is out of reach."""
    layer = nn.Linear(2, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]))
        layer.bias.copy_(torch.tensor([0.0, -9.0, 0.0]))
    model = TorchModel(layer, classes=3)
    x, y = torch.tensor([[0.55, 0.5]]), torch.tensor([0])
    assert bool(APGD(steps=5)(model, x, y, threat="linf:0.2").broken)
    model.rejected = 2
    assert not bool(APGD(steps=5)(model, x, y, threat="linf:0.2").broken)

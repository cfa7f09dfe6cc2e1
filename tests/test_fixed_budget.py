"""Fixed-budget attacks against their papers: conjugate directions, momenta, optimisers, guided and noisy losses, sparse steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mohs.aim import Aim
from mohs.attacks import BrendelBethge
from mohs.attacks.gradient.acg import ACG, hestenes_stiefel
from mohs.attacks.gradient.gama import GAMA, guided_margin
from mohs.attacks.gradient.jitter import jittered
from mohs.attacks.gradient.mifgsm import MIFGSM, NIFGSM
from mohs.attacks.gradient.optimizer import OPTIMIZERS, OptimizerPGD, State
from mohs.attacks.gradient.slide import SLIDE
from mohs.attacks.sparse.pgd_l0 import PGDL0
from mohs.attacks.sparse.sparse_rs import SparseRS
from mohs.errors import Refused, RequestError, UnknownName
from mohs.models import TorchModel, prepare
from mohs.oracle import Oracle
from mohs.threat import Constraints, Threat, Untargeted, parse_threat
from tests.conformance import world


class Recorder(nn.Module):
    """z = (q(x), 0), q(x) = <w, x> - <x, c x> / 2, and every batch of inputs it was asked about."""

    def __init__(self, w: Tensor, c: float = 0.0) -> None:
        super().__init__()
        self.w, self.c, self.seen = nn.Parameter(w), c, []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        q = x @ self.w - self.c * x.square().sum(1) / 2
        return torch.stack([torch.zeros_like(q), q - 30], 1)  # class 1 is never within reach


def bench(module: nn.Module, x: Tensor, threat: Threat | str, bounds: tuple[float, float] = (-100.0, 100.0)) -> Oracle:
    prepared = prepare(TorchModel(module, classes=2, bounds=bounds), x, rows=16, accelerate=False)
    prepared = replace(prepared, judge=replace(prepared.judge, quantum=1), guide=replace(prepared.guide, quantum=1))
    threat = parse_threat(threat) if isinstance(threat, str) else threat
    y = torch.zeros(len(x), dtype=torch.long)
    return Oracle.begin(prepared, threat, Untargeted(), x, y, ids=torch.arange(len(x)))


def path(module: Recorder, attack, x: Tensor, threat: str) -> list[Tensor]:
    """The points an attack asks about, and the last one."""
    oracle = bench(module, x, threat)
    module.seen.clear()
    last = attack.run(oracle, oracle.x0, oracle.threat)
    return [*module.seen, last]


# ACG


def test_conjugate_directions_are_conjugate() -> None:
    g, g_old, s_old = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0)).unbind(0)
    s = g + hestenes_stiefel(g, g_old, s_old)[:, None] * s_old
    assert torch.allclose((s * (g_old - g)).sum(1), torch.zeros(5), atol=1e-5)
    assert torch.equal(hestenes_stiefel(g, g, s_old), torch.zeros(5))  # a gradient that does not change


def test_acg_climbs_as_its_directions_say() -> None:
    """The second step of L2 goes along s_1, of full length 2 epsilon, from where the first one ended."""
    w = torch.tensor([1.0, 0.3, -0.2])
    module, x0 = Recorder(w, c=0.3), torch.tensor([[0.5, -2.0, 1.0]])
    seen = path(module, ACG(steps=2), x0, "l2:1")
    g = [w - 0.3 * p for p in seen[:2]]
    s = g[1] + hestenes_stiefel(g[1], g[0], g[0])[:, None] * g[0]
    step = seen[1] + 2 * s / s.norm()
    wanted = x0 + (step - x0) / (step - x0).norm().clamp_min(1)
    assert torch.allclose(seen[2], wanted, atol=1e-5)


def test_acg_returns_its_best_point() -> None:
    """A bowl whose top lies inside: every step of 2 epsilon passes it, and they halve until one does not."""
    module, x0 = Recorder(torch.tensor([0.1, 0.2]), c=1.0), torch.zeros(1, 2)
    last = path(module, ACG(steps=100), x0, "l2:1")[-1]
    assert float((last - torch.tensor([[0.1, 0.2]])).norm()) < 0.05


# momentum


def test_momentum_outlives_the_gradient_that_made_it() -> None:
    """Gradients are scaled to a mean entry of 1, so that g_2 = g_1 + u_2; without decay the sign is u_2's alone."""

    class Turning(Recorder):
        def forward(self, x: Tensor) -> Tensor:
            self.seen.append(x.detach().clone())
            factor = torch.tensor([3.0, 1.0]) if len(self.seen) == 1 else torch.tensor([-100.0, 101.0])
            q = x @ factor.to(x.dtype)
            return torch.stack([torch.zeros_like(q), q - 30], 1)

    x0 = torch.zeros(1, 2)
    with_momentum = path(Turning(torch.zeros(2)), MIFGSM(steps=2, step_size=0.1), x0, "linf:1")
    without = path(Turning(torch.zeros(2)), MIFGSM(steps=2, step_size=0.1, decay=0.0), x0, "linf:1")
    assert torch.allclose(with_momentum[-1], torch.tensor([[0.2, 0.2]]))
    assert torch.allclose(without[-1], torch.tensor([[0.0, 0.2]]))


def test_looking_ahead_is_along_the_momentum() -> None:
    """The second gradient is asked for at x_1 + step epsilon mu g_1, g_1 = u / mean|u|."""
    module, x0 = Recorder(torch.tensor([1.0, 3.0])), torch.zeros(2, 2)
    seen = path(module, NIFGSM(steps=2, step_size=0.1), x0, "linf:0.5")
    assert torch.allclose(seen[0], x0)
    assert torch.allclose(seen[1], torch.full((2, 2), 0.05) + 0.05 * torch.tensor([0.5, 1.5]))
    assert torch.allclose(seen[2], torch.full((2, 2), 0.1))


def test_looking_ahead_outside_the_set_makes_no_success() -> None:
    """Where NI-FGSM looks beyond epsilon, a success there does not count."""

    class Wall(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([torch.zeros(len(x)), (x - 1.001).sum(1)], 1)

    oracle = bench(Wall(), torch.full((1, 1), 0.5), "linf:0.5")
    NIFGSM(steps=10, step_size=0.3).run(oracle, oracle.x0, oracle.threat)
    assert not bool(oracle.ledger.broken.any())
    assert float(oracle.ledger.closest[0, 0]) <= 1 + 1e-6


def test_looking_ahead_is_for_linf() -> None:
    model = world().prepared.judge.model
    with pytest.raises(Refused, match="linf"):
        MIFGSM(lookahead=True).check(parse_threat("l2:0.5"), Untargeted(), model)


# optimisers


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("sgd", lambda p: torch.optim.SGD([p], lr=0.1)),
        ("adam", lambda p: torch.optim.Adam([p], lr=0.1, eps=1e-7)),
        ("rmsprop", lambda p: torch.optim.RMSprop([p], lr=0.1, alpha=0.9, eps=1e-7)),
        ("adagrad", lambda p: torch.optim.Adagrad([p], lr=0.1, initial_accumulator_value=0.1, eps=1e-7)),
    ],
)
def test_optimisers_are_those_of_torch(name: str, made) -> None:
    update, accumulator = OPTIMIZERS[name]
    p = nn.Parameter(torch.zeros(4, 6))
    state = State(torch.zeros(4, 6), torch.zeros(4, 6), torch.full((4, 6), accumulator))
    theirs = made(p)
    for step in range(1, 8):
        g = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        p.grad = g.clone()
        theirs.step()
        state = update(state, g, step, 0.1)
        assert torch.allclose(state.delta, p.detach(), atol=1e-6), step


def test_ftrl_is_the_leader() -> None:
    """Without projection delta minimises <sum of g - sigma delta, d> + |d|^2 sqrt(n) / (2 rate): -z rate / sqrt(n)."""
    update, accumulator = OPTIMIZERS["ftrl"]
    state = State(torch.zeros(1, 1), torch.zeros(1, 1), torch.full((1, 1), accumulator))
    w, z, n = 0.0, 0.0, 0.1
    for step, g in enumerate([1.0, -2.0, 0.5], start=1):
        sigma = ((n + g * g) ** 0.5 - n**0.5) / 0.2
        z, n = z + g - sigma * w, n + g * g
        w = -z * 0.2 / n**0.5
        state = update(state, torch.full((1, 1), g), step, 0.2)
        assert float(state.delta) == pytest.approx(w, rel=1e-5)


def test_the_perturbation_is_projected_and_not_added_up() -> None:
    """A step of twice epsilon ends at epsilon, and so does the next."""
    module, x0 = Recorder(torch.tensor([1.0, -1.0])), torch.zeros(1, 2)
    for name in OPTIMIZERS:
        seen = path(module, OptimizerPGD(steps=3, optimizer=name, rate=8.0), x0, "linf:0.5")
        for p in seen[1:]:
            assert torch.allclose(p, torch.tensor([[0.5, -0.5]])), name


def test_the_optimiser_goes_on_from_the_projected_point() -> None:
    """From 0 to 0.75, cut to 0.5, beyond the top of the hill: the way back is from 0.5."""
    module = Recorder(torch.tensor([1.0]), c=4.0)
    seen = path(module, OptimizerPGD(steps=2, optimizer="sgd", rate=1.5), torch.zeros(1, 1), "linf:0.5")
    assert [float(p) for p in seen] == pytest.approx([0.0, 0.5, -0.25])


def test_gradients_that_vanish_do_not_matter_where_they_are_normalised() -> None:
    module, x0 = Recorder(torch.tensor([1e-12, -1e-12])), torch.zeros(1, 2)
    moved = path(module, OptimizerPGD(steps=3, optimizer="sgd"), x0, "linf:0.5")[-1]
    stuck = path(module, OptimizerPGD(steps=3, optimizer="sgd", normalise=False), x0, "linf:0.5")[-1]
    assert torch.allclose(moved, torch.tensor([[0.15, -0.15]]))
    assert float(stuck.abs().max()) < 1e-6


def test_unknown_optimisers_are_refused() -> None:
    with pytest.raises(UnknownName, match="adam"):
        OptimizerPGD(optimizer="adan")


# losses


def test_the_guided_margin() -> None:
    logits, reference = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    aim = Aim(torch.tensor([0, 1, 2, 3, 0]), reference=reference)
    p, p0 = logits.softmax(1), reference.softmax(1)
    for i in range(5):
        others = [float(p[i, j]) for j in range(4) if j != int(aim.y[i])]
        margin = max(others) - float(p[i, aim.y[i]])
        assert float(guided_margin(logits, aim, weight=0.0)[i]) == pytest.approx(margin, abs=1e-6)
        guided = margin + 3 * float((p[i] - p0[i]).square().sum())
        assert float(guided_margin(logits, aim, weight=3.0)[i]) == pytest.approx(guided, abs=1e-6)


def test_gama_starts_at_a_corner_and_its_steps_shrink() -> None:
    """One entry and a hill between its ends: steps of 2 epsilon go from end to end, then 0.2 and 0.02."""
    module, x0 = Recorder(torch.tensor([0.07]), c=1.0), torch.zeros(1, 1)
    seen = torch.cat(path(module, GAMA(steps=20), x0, "linf:1"))[:, 0]
    assert float(seen[0].abs()) == 1.0
    steps = (seen[1:] - seen[:-1]).abs()
    assert torch.allclose(steps[:12], torch.full((12,), 2.0))
    assert torch.allclose(steps[12:17], torch.full((5,), 0.2), atol=1e-6)
    assert torch.allclose(steps[17:20], torch.full((3,), 0.02), atol=1e-6)


def test_the_jittered_loss() -> None:
    logits = torch.tensor([[2.0, -4.0, 1.0]])
    noise = torch.tensor([[1.0, -1.0, 0.5]])
    p = functional.softmax(torch.tensor([5.0, -10.0, 2.5]), 0) + 0.1 * noise[0]
    away = (p - torch.tensor([1.0, 0.0, 0.0])).square().sum()
    to = -(p - torch.tensor([0.0, 0.0, 1.0])).square().sum()
    y = torch.tensor([0])
    assert float(jittered(logits, Aim(y, noise=noise), scale=10.0, std=0.1)) == pytest.approx(float(away), rel=1e-5)
    wanted = Aim(y, target=torch.tensor([2]), noise=noise)
    assert float(jittered(logits, wanted, scale=10.0, std=0.1)) == pytest.approx(float(to), rel=1e-5)


# sparse steps


def test_slide_moves_the_largest_that_the_box_does_not_stop() -> None:
    """Of 8 entries a quarter moves; the largest stands at its bound and is passed over."""
    w = torch.tensor([9.0, -8.0, 7.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    x0 = torch.full((1, 8), 0.5)
    x0[0, 0] = 1.0
    oracle = bench(Recorder(w), x0, "l1:0.4", bounds=(0.0, 1.0))
    attack = SLIDE(steps=1, step_size=0.5, quantile=0.75, random_start=False)
    moved = attack.run(oracle, oracle.x0, oracle.threat) - x0
    assert torch.allclose(moved, torch.tensor([[0.0, -0.1, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0]]), atol=1e-6)
    with pytest.raises(RequestError):
        SLIDE(quantile=1.5)


def test_pgd_l0_steps_by_the_mean_change() -> None:
    """x + 0.15 g / mean|g|, of which the two largest changes stay."""
    w = torch.tensor([3.0, -2.0, 1.0, 0.5, -0.5])
    x0 = torch.full((1, 5), 0.5)
    oracle = bench(Recorder(w), x0, "l0:2", bounds=(0.0, 1.0))
    moved = PGDL0(steps=1, random_start=False).run(oracle, oracle.x0, oracle.threat) - x0
    assert torch.allclose(moved, torch.tensor([[0.15 * 3 / 1.4, -0.15 * 2 / 1.4, 0.0, 0.0, 0.0]]), atol=1e-6)


def test_pgd_l0_counts_pixels_where_the_threat_does() -> None:
    w = world()
    out = PGDL0(steps=10)(w.prepared, w.x, w.y, threat="l0:3px")
    pixels = ((out.adversarial != w.x).any(1)).flatten(1).sum(1)
    assert int(pixels.max()) <= 3
    assert bool(out.broken[:-1].any())


# Sparse-RS


def test_sparse_rs_exchanges_by_the_schedule() -> None:
    """alpha over 1, 2, 4, 5, 6, 8, 10, 12, 15, 20 after steps 0, 50, 200, 500, ... of 10,000, scaled to the queries."""
    attack = SparseRS(alpha=0.6)
    wanted = {0: 1, 1: 2, 50: 2, 51: 4, 200: 4, 201: 5, 501: 6, 1001: 8, 2001: 10, 4001: 12, 6001: 15, 8001: 20, 9999: 20}
    for step, part in wanted.items():
        assert attack.part(step) == pytest.approx(0.6 / part), step
    assert SparseRS(alpha=0.6, queries=1000).part(6) == pytest.approx(0.6 / 4)


@pytest.mark.parametrize("threat", ["l0:6", "l0:3px"])
def test_sparse_rs_moves_units_to_the_ends_of_the_box(threat: str) -> None:
    w = world()
    out = SparseRS(queries=60)(w.prepared, w.x, w.y, threat=threat)
    changed = out.adversarial != w.x
    assert bool(((out.adversarial == 0) | (out.adversarial == 1))[changed].all())
    most = changed.flatten(1).sum(1) if threat == "l0:6" else changed.any(1).flatten(1).sum(1)
    assert int(most.max()) <= (6 if threat == "l0:6" else 3)
    assert int(out.queries.max()) <= 60 + 4
    assert bool(out.broken[:-1].any())
    assert not bool(out.backwards.any())


def test_sparse_rs_finds_the_units_that_matter() -> None:
    """Of 12 entries 2 carry all the weight: a search that keeps what is better finds both, and their better ends."""
    w = torch.zeros(12)
    w[3], w[8] = 5.0, -4.0
    x0 = torch.full((4, 12), 0.5)
    oracle = bench(Recorder(w), x0, "l0:2", bounds=(0.0, 1.0))
    last = SparseRS(queries=400).run(oracle, oracle.x0, oracle.threat)
    assert torch.equal(last[:, 3], torch.ones(4))
    assert torch.equal(last[:, 8], torch.zeros(4))


def test_sparse_rs_with_fewer_units_than_its_budget() -> None:
    """Where all may change, new values are drawn for some; a mask limits the units."""
    w = torch.tensor([5.0, -4.0, 3.0, 100.0])
    mask = torch.tensor([True, True, True, False])
    threat = replace(parse_threat("l0:4"), constraints=Constraints(mask=mask))
    x0 = torch.tensor([0.5, 0.5, 0.5, 0.0]).repeat(3, 1)
    oracle = bench(Recorder(w), x0, threat, bounds=(0.0, 1.0))
    last = SparseRS(queries=100).run(oracle, oracle.x0, oracle.threat)
    assert torch.equal(last, torch.tensor([[1.0, 0.0, 1.0, 0.0]]).expand(3, 4))
    with pytest.raises(Refused, match="ends of the box"):
        SparseRS().check(parse_threat("l0:2"), Untargeted(), TorchModel(Recorder(w), classes=2, bounds=(0.0, float("inf"))))


# settings


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("steps", 0, "steps should be a whole number, 1 or more, not 0"),
        ("steps", -3, "1 or more"),
        ("steps", 2.5, "a whole number"),
        ("steps", "a", "a whole number"),
        ("steps", True, "a whole number"),
        ("restarts", 0, "1 or more"),
        ("step_size", 0.0, "a finite number above 0"),
        ("step_size", -1.0, "a finite number above 0"),
        ("step_size", float("nan"), "a finite number above 0"),
        ("step_size", float("inf"), "a finite number above 0"),
        ("decay", -0.1, "a finite number, 0 or more"),
    ],
)
def test_an_attack_that_does_nothing_cannot_be_made(setting: str, value: object, said: str) -> None:
    """What it left standing would read as robust."""
    with pytest.raises(RequestError, match=said):
        MIFGSM(**{setting: value})  # type: ignore[arg-type]


def test_zero_is_allowed_where_it_means_something() -> None:
    assert MIFGSM(decay=0).decay == 0
    assert BrendelBethge(ascents=0).ascents == 0


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(Refused, match="a budget above 0"):
        OptimizerPGD()(nn.Linear(4, 3).eval(), torch.rand(2, 4), torch.tensor([0, 1]), threat="linf:0")

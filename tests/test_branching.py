"""Branch and bound: the exact verdict on small networks, soundness, budgets, counterexamples, and what a user sees."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import LinearConstraint, milp
from torch import Tensor, nn

import mohs
from mohs import certificates
from mohs.certificates import beta, branching, neurons
from mohs.certificates.beta import Subdomains, ascend, bound, boxes, lines
from mohs.certificates.branching import Tree, branch_and_bound
from mohs.certificates.crown import crown, margins
from mohs.certificates.graph import Network, trace
from mohs.certificates.leaves import decided, folded
from mohs.certificates.reduced import Reduced, reduced
from mohs.certificates.region import region_of
from mohs.errors import RequestError, UnknownName
from mohs.store import Run
from mohs.threat import parse_threat
from tests.small import labelled, network
from tests.test_certificates import draws, seeded, world
from tests.test_cli import Mohs, command_line

LONG = 60.0  # seconds: far more than any of these takes


def mlp(seed: int, slope: float = 0.0, gain: float = 1.5) -> nn.Sequential:
    act = nn.LeakyReLU(slope) if slope else nn.ReLU()
    module = seeded(
        lambda: nn.Sequential(nn.Linear(3, 8), act, nn.Linear(8, 8), act, nn.Linear(8, 8), act, nn.Linear(8, 3)), seed
    )
    for layer in module[::2]:
        layer.weight.mul_(gain)
    return module.double()  # type: ignore[no-any-return]


def left(module: nn.Module, x: Tensor, threat: str, y: int) -> tuple[Network, Reduced]:
    """The network around one example x [1, *input], with CROWN's boxes and its margins."""
    net, A = trace(module, x), margins(int(module(x).shape[1]), torch.tensor([y]), x.dtype)
    with torch.no_grad():
        _, bounds = crown(net, region_of(parse_threat(threat), x), A)
        return net, reduced(net, bounds, A[0])


def grown(net: Reduced, seconds: float = LONG) -> Tree:
    with torch.no_grad():
        return branch_and_bound(net, seconds, 5, 0.1)


def exactly(module: nn.Sequential, x: Tensor, radius: float, c: np.ndarray) -> float:
    """The least of c times the logits over the box, by mixed-integer programming over the neurons' sides (Tjeng, Xiao, Tedrake,
    ICLR 2019, arXiv:1711.07356), with intervals for the big M."""
    low, high = np.maximum(x.numpy()[0] - radius, 0), np.minimum(x.numpy()[0] + radius, 1)
    kinds, ends, rows, limits = [0] * len(low), [*zip(low, high, strict=True)], [], []
    here = list(range(len(low)))

    def row(entries: dict[int, float], most: float) -> None:
        rows.append(entries), limits.append(most)

    for layer, act in zip(module[:-1:2], module[1::2], strict=True):
        W, b = layer.weight.numpy(), layer.bias.numpy()
        slope = getattr(act, "negative_slope", 0.0)
        least, most = W.clip(min=0) @ low + W.clip(max=0) @ high + b, W.clip(min=0) @ high + W.clip(max=0) @ low + b
        after = []
        for k in range(len(b)):
            a, d = len(kinds), len(kinds) + 1  # a = leaky(z), d = 1 where z >= 0
            kinds += [0, 1]
            ends += [(-np.inf, np.inf), (0, 1)]
            z = dict(zip(here, W[k], strict=True))
            M = max(abs(least[k]), abs(most[k])) + 1
            row({**z, a: -1.0}, -b[k])  # a >= z
            row({**{i: slope * w for i, w in z.items()}, a: -1.0}, -slope * b[k])  # a >= slope z
            row({**{i: -w for i, w in z.items()}, a: 1.0, d: M}, b[k] + M)  # a <= z + M (1 - d)
            row({**{i: -slope * w for i, w in z.items()}, a: 1.0, d: -M}, slope * b[k])  # a <= slope z + M d
            after.append(a)
        here = after
        low, high = (np.where(side > 0, side, slope * side) for side in (least, most))
    matrix = np.zeros((len(rows), len(kinds)))
    for i, entries in enumerate(rows):
        for j, value in entries.items():
            matrix[i, j] = value
    cost = np.zeros(len(kinds))
    cost[here] = c @ module[-1].weight.numpy()
    found = milp(cost, integrality=kinds, bounds=tuple(np.array(ends).T), constraints=LinearConstraint(matrix, -np.inf, limits))
    assert found.success
    return float(found.fun + c @ module[-1].bias.numpy())


@cache
def truths() -> list[tuple[nn.Sequential, Tensor, int, np.ndarray]]:
    """Networks, an input, its class and the least of each of its margins within 0.3."""
    found = []
    for seed in range(12):
        module = mlp(seed, slope=0.1 * (seed % 2), gain=1.8 + 0.1 * seed)
        x = torch.rand(1, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        y = int(module(x).argmax())
        rows = margins(3, torch.tensor([y]), x.dtype)[0].numpy()
        found.append((module, x, y, np.array([exactly(module, x, 0.3, c) for c in rows])))
    return found


def test_verdicts_are_exact() -> None:
    """Proved where the least margin is above 0, and a counterexample that holds where it is below: nothing is left open."""
    proved = broken = branched = 0
    for module, x, y, truth in truths():
        _, net = left(module, x, "linf:0.3", y)
        tree = grown(net)
        assert bool((tree.lower.numpy() <= truth + 1e-7).all())
        assert bool((tree.lower > 0).all()) == (truth.min() > 0)
        assert (tree.point is not None) == (truth.min() < 0)
        if tree.point is not None:
            assert int(module(tree.point[None]).argmax()) != y
            assert float((tree.point - x[0]).abs().max()) <= 0.3 + 1e-5
        proved, broken = proved + (truth.min() > 0), broken + (truth.min() < 0)
        branched += tree.subdomains > 2
    assert min(proved, broken) >= 3
    assert branched >= 3


@pytest.mark.parametrize("name", ["mlp", "conv", "residual relu", "leaky", "residual silu", "clipped"])
def test_the_reduced_network_is_the_network(name: str) -> None:
    """Of inputs of the region, the functions are what the network computes, up to the bounds of the constants."""
    module, net, x, y = world(name, torch.float64)
    with torch.no_grad():
        A = margins(net.classes, y, x.dtype)
        _, bounds = crown(net, region_of(parse_threat("linf:0.1"), x), A)
        for i in range(len(x)):
            small = reduced(net, bounds.rows(torch.tensor([i])), A[i])
            points = draws(x, "linf:0.1", 16)[:, i]
            assert torch.allclose(small.values(points), module(points) @ A[i].t(), atol=1e-9)
            assert bool((small.low <= small.high).all())
            assert float((small.high - small.low).max()) < 1e-9
            whole = Subdomains.whole(small)
            straight = torch.cat([bounds.rows(torch.tensor([i])).relaxed[k].loose.sum()[None] for k in bounds.relaxed]).sum()
            assert small.neurons == int(straight)
            plain = bound(small, lines(small, whole.sign), whole, sound=True).lower
            there, _ = crown(net, region_of(parse_threat("linf:0.1"), x[i : i + 1]), A[i : i + 1])
            assert torch.allclose(plain, there[0], atol=1e-6)


def test_a_constraint_holds_on_its_side_only() -> None:
    """Bounds of a subdomain, at any slopes and multipliers, are below the function wherever the subdomain is, and the more its
    neuron is split, the higher."""
    for module, x, y, _ in truths()[:6]:
        network_, net = left(module, x, "linf:0.3", y)
        points = draws(x, "linf:0.3", 400)[:, 0]
        generator = torch.Generator().manual_seed(0)
        values, z = net.values(points), points @ net.W[: net.layers[0][1].stop].t() + net.low[: net.layers[0][1].stop]
        whole = Subdomains.whole(net)
        for k in range(z.shape[1]):
            for part, inside in zip(
                (whole.split(torch.full((2,), k)).rows(slice(0, 2)), whole.split(torch.full((2,), k)).rows(slice(2, 4))),
                (z[:, k] >= 0, z[:, k] <= 0),
                strict=True,
            ):
                for _ in range(4):
                    random = part._replace(
                        alpha=torch.rand(part.alpha.shape, generator=generator, dtype=x.dtype),
                        beta=torch.rand(part.beta.shape, generator=generator, dtype=x.dtype),
                    )
                    low = bound(net, lines(net, part.sign), random, sound=True).lower
                    assert bool((values[inside] >= low - 1e-9).all())
                better = ascend(net, part, 20, 0.1)
                assert bool((values[inside] >= better.lower - 1e-9).all())
                box = boxes(net, part.sign)
                assert float(box.lower[0, k] if bool((part.sign > 0).any()) else -box.upper[0, k]) >= 0
        assert network_.classes == 3


def test_multipliers_gain() -> None:
    """Where the constraint binds at the minimiser, a positive multiplier lifts the bound."""
    gains = []
    for module, x, y, _ in truths():
        _, net = left(module, x, "linf:0.3", y)
        whole = Subdomains.whole(net)
        if net.neurons == 0:
            continue
        parts = [whole.split(torch.full((2,), k)) for k in range(net.neurons)]
        part = Subdomains.cat(parts)
        best = ascend(net, part, 20, 0.1)
        without = bound(net, lines(net, part.sign), best._replace(beta=0 * best.beta)).lower
        gains.append(float((best.lower - without).max()))
        assert bool((best.lower >= bound(net, lines(net, part.sign), part).lower - 1e-12).all())
    assert max(gains) > 0.1


def test_linear_programs_decide_leaves() -> None:
    """With every neuron on a side: the dual solution attains the minimum, and a side on which nothing lies is proved empty."""
    met = empty = 0
    for module, x, y, _ in truths()[:6]:
        _, net = left(module, x, "linf:0.3", y)
        generator = torch.Generator().manual_seed(1)
        points = draws(x, "linf:0.3", 3)[:, 0]
        for i in range(12):
            sign = torch.randn(1, net.neurons, generator=generator, dtype=x.dtype).sign()
            if i < 3:  # a side that a point of the region is on
                a = points[i : i + 1, :0]
                for operator, at in net.layers:
                    z = points[i : i + 1] @ net.W[at].t() + a @ net.M[at, : at.start].t() + net.low[at]
                    sign[:, at], a = z.sign(), torch.cat([a, operator.forward(z)], 1)
            leaf = Subdomains.whole(net).rows(slice(0, 1))._replace(sign=sign)
            one, at = decided(net, leaf)
            lower = float(bound(net, lines(net, sign), one, sound=True).lower)
            assert (at is not None) or i >= 3
            if at is None:
                empty += 1
                assert lower > 0
            else:
                met += 1
                value = float(net.values(at[None])[0, 0])
                assert lower == pytest.approx(value, abs=1e-5)
                if i < 3:
                    assert lower <= float(net.values(points[i : i + 1])[0, 0]) + 1e-9
                W, c = folded(net, sign)
                assert bool((sign[0] * (W @ at.flatten() + c)[: net.neurons] >= -1e-6).all())
    assert min(met, empty) >= 5


def test_what_is_below_zero_is_never_proved() -> None:
    """A margin that is a millionth short of robust is broken or open, one that is a millionth above is proved."""
    module, x, y, truth = next(t for t in truths() if t[3].min() > 0)
    _, net = left(module, x, "linf:0.3", y)
    for short, proved in ((1e-5, False), (-1e-4, True)):
        shift = -float(truth.min()) - short
        moved = replace(net, low=net.low.clone(), high=net.high.clone())
        for side in (moved.low, moved.high):
            side[net.neurons :] += shift
        tree = grown(moved)
        assert bool((tree.lower > 0).all()) == proved


def test_time_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the process counts, a round is done at least, and what is not finished stays at its bound."""
    module, x, y, truth = max(truths(), key=lambda t: grown(left(t[0], t[1], "linf:0.3", t[2])[1]).subdomains)
    _, net = left(module, x, "linf:0.3", y)
    now = iter(range(1000))
    monkeypatch.setattr(branching, "affordable", lambda net, seconds: False)
    whole = grown(net)
    monkeypatch.setattr(branching.time, "process_time", lambda: float(next(now)))
    counts = [grown(net, seconds).subdomains for seconds in (0.0, 2.0, 500.0)]
    assert counts[0] == net.functions
    assert counts[0] < counts[1] <= counts[2] == whole.subdomains
    short = grown(net, 0.0)
    assert float(short.lower.min()) <= 0
    assert bool((short.lower.numpy() <= truth + 1e-7).all())


def test_trees_of_neurons_come_near_the_truth() -> None:
    """What enters a hidden layer: never above the least that mixed-integer programming finds, and nearer to it than CROWN's."""
    before, after = [], []
    for module, x, _, _ in truths()[:6]:
        for depth in (3, 5):
            part, c = module[:depth], torch.cat([torch.eye(8), -torch.eye(8)]).double()
            with torch.no_grad():
                network_ = trace(part, x)
                plain, bounds = crown(network_, region_of(parse_threat("linf:0.3"), x), c[None])
                found = neurons.grown(reduced(network_, bounds, c), float("inf"), 5, 0.1)
            truth = torch.tensor([exactly(part, x, 0.3, row.numpy()) for row in c])
            assert bool((found <= truth + 1e-7).all())
            open_ = (plain[0] < -1e-3) & (truth < 0)  # a tree stops growing at 0
            before += (truth - plain[0])[open_].tolist()
            after += (truth - torch.maximum(found, plain[0]))[open_].tolist()
    assert len(before) > 50
    assert np.mean(after) < 0.6 * np.mean(before)


def test_sharpened_boxes_hold() -> None:
    narrower = []
    for module, x, y, _ in truths():
        _, net = left(module, x, "linf:0.3", y)
        points = draws(x, "linf:0.3", 400)[:, 0]
        sharp = neurons.sharpened(net, LONG, 5, 0.1)
        for layer, (_, at) in enumerate(net.layers):
            if layer == 0:
                continue
            z, opposite = net.before(layer).values(points).chunk(2, 1)
            assert torch.allclose(z, -opposite, atol=1e-9)
            assert bool((z >= sharp.box.lower[0, at] - 1e-9).all())
            assert bool((z <= sharp.box.upper[0, at] + 1e-9).all())
        here, there = (box.upper - box.lower for box in (net.box, sharp.box))
        assert bool((there <= here).all())
        narrower.append(float((here - there).sum()))
    assert max(narrower) > 0.5


def test_time_bounds_what_neurons_get(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x, y, _ = truths()[0]
    _, net = left(module, x, "linf:0.3", y)
    assert neurons.affordable(net, 1.0)
    assert not neurons.affordable(net, 0.0)
    monkeypatch.setattr(neurons, "ROUNDS", 0)
    rooted = neurons.sharpened(net, LONG, 5, 0.1)
    monkeypatch.undo()
    late = neurons.sharpened(net, 0.0, 5, 0.1)
    assert torch.equal(late.box.lower, rooted.box.lower)
    for seconds in (4.0, 8.0, 12.0):
        ticks = itertools.count()
        monkeypatch.setattr(neurons.time, "process_time", lambda ticks=ticks: float(next(ticks)))
        neurons.sharpened(net, seconds, 5, 0.1)
        assert next(ticks) <= seconds + len(net.layers)


def test_what_a_quarter_of_the_time_settled_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds of functions that the second search is spared are those of the first."""
    spared = 0
    for module, x, y, truth in truths():
        _, net = left(module, x, "linf:0.3", y)
        ticks = itertools.count()
        monkeypatch.setattr(branching.time, "process_time", lambda ticks=ticks: float(next(ticks)))
        tree = grown(net, 8.0)
        monkeypatch.undo()
        assert bool((tree.lower.numpy() <= truth + 1e-7).all())
        spared += bool((tree.lower > 0).any()) and bool((tree.lower <= 0).any())
    assert spared


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, x, y, truth in truths()[:4]:
        _, net = left(module, x, "linf:0.3", y)
        together = grown(net)
        monkeypatch.setattr(branching, "ELEMENTS", 1)
        alone = grown(net)
        monkeypatch.undo()
        assert bool((together.lower > 0).all()) == bool((alone.lower > 0).all()) == (truth.min() > 0)


@pytest.mark.parametrize("threat", ["l2:0.4", "l1:0.6"])
def test_other_norms_are_sound(threat: str) -> None:
    for module, x, y, _ in truths()[:6]:
        _, net = left(module, x, threat, y)
        tree = grown(net, 0.2)
        points = draws(x, threat, 300)[:, 0]
        if tree.point is None:
            assert bool((net.values(points).amin(0) >= tree.lower - 1e-9).all())
        else:
            point = tree.point[None]
            assert int(module(point).argmax()) != y
            assert float((parse_threat(threat).project(point, x) - point).abs().max()) < 1e-5


def test_a_network_without_unstable_neurons_is_decided_at_once() -> None:
    module = mlp(0)
    x = torch.rand(1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, net = left(module, x, "linf:1e-6", int(module(x).argmax()))
    assert net.neurons == 0
    tree = grown(net)
    assert bool((tree.lower > 0).all())
    assert tree.subdomains == 2


def test_smooth_activations_are_left_as_they_are() -> None:
    module, net, x, y = world("sigmoid")
    less = certificates.Crown().bound(net, parse_threat("linf:0.05"), x, y)
    found = certificates.BranchAndBound(seconds=0.1).bound(net, parse_threat("linf:0.05"), x, y)
    assert bool((found >= less - 1e-4).all())
    values = torch.stack([torch.einsum("bsk,bk->bs", margins(4, y, x.dtype), module(p)) for p in draws(x, "linf:0.05", 64)])
    assert bool((found <= values.amin(0) + 1e-5).all())


# the job


def test_an_audit_keeps_what_was_proved_and_what_was_met(tmp_path: Path) -> None:
    """Nothing is left open of a small network; a counterexample is stored, and confirms alone."""
    module = network()
    x, y = labelled(module, 24)
    plain = mohs.certify(module, (x, y), threat="linf:0.1", method="alpha-crown")
    found = mohs.certify(module, (x, y), threat="linf:0.1", method="branch-and-bound seconds=5", out=tmp_path / "r")
    attacked = mohs.audit(module, (x, y), threats=["linf:0.1"], profile="quick")
    assert bool((found.proved | ~plain.proved).all())
    assert found.open == []
    threat = found.result.verdict.threats[0]
    assert int(found.proved.sum()) + int((threat.status == "broken").sum()) == 24
    broken = attacked.verdict.threats[0]
    assert not set(broken.ids[broken.status == "broken"].tolist()) & set(found.proved.nonzero()[:, 0].tolist())
    records = Run.open(tmp_path / "r").records().to_pandas().query("stage >= 0 and status == 'broken'")
    assert len(records) > 0
    stored = found.result.run.adversarial() if hasattr(found.result.run, "adversarial") else None
    assert stored is None or len(stored) > 0


def test_lines_of_methods() -> None:
    made = certificates.make("branch-and-bound seconds=20 steps=7")
    assert made == certificates.BranchAndBound(seconds=20.0, steps=7)
    assert certificates.made(certificates.spec_of(made)) == made
    with pytest.raises(UnknownName, match="seconds"):
        certificates.make("crown seconds=3")
    with pytest.raises(RequestError, match="NAME setting=value"):
        certificates.make("crown 3")
    with pytest.raises(UnknownName, match="branch-and-bound"):
        certificates.make("branch-and-bond")
    for line in ("alpha-crown lr=-5", "alpha-crown decay=inf", "branch-and-bound steps=-2", "branch-and-bound seconds=nan"):
        with pytest.raises(RequestError, match=r"should be a (finite|whole) number"):
            certificates.make(line)


@pytest.fixture
def mohs_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mohs:
    monkeypatch.chdir(tmp_path)
    return command_line(monkeypatch, capsys)


def test_the_command(mohs_: Mohs, tmp_path: Path) -> None:
    x, y = labelled(network(), 12)
    np.savez(tmp_path / "test.npz", x=x.numpy(), y=y.numpy())
    words = [
        "tests.small:network",
        "--data",
        "test.npz",
        "--threat",
        "linf:0.1",
        "--method",
        "branch-and-bound",
        "--seconds",
        "5",
    ]
    done = mohs_("certify", *words, "--json", "--out", "run")
    assert done.code == 0, done.err
    assert json.loads(done.out)["threats"][0]["open"] == []
    plan = json.loads((tmp_path / "run" / "run.json").read_text())["plan"]
    assert plan["threats"][0]["stages"][0]["certificate"] == {"method": "branch-and-bound", "seconds": 5.0, "steps": 5, "lr": 0.1}
    bad = mohs_("certify", *words[:5], "--method", "crown", "--seconds", "5", "--out", "bad")
    assert bad.code == 2
    assert "seconds" in bad.said
    assert not (tmp_path / "bad").exists()


def test_a_picture_that_relaxations_leave_open(cases) -> None:  # type: ignore[no-untyped-def]
    """mnist_kw_0.1 at 0.1: 394 is proved by branching alone, and 2093, which APGD does not break, is broken."""
    module, dataset = cases.load("mnist_kw_0.1")
    x, y = (part[[394, 2093]] for part in cases.data(dataset))
    assert not bool(mohs.certify(module, (x, y), threat="linf:0.1", method="alpha-crown").proved.any())
    found = mohs.certify(module, (x, y), threat="linf:0.1", method="branch-and-bound seconds=5")
    assert found.proved.tolist() == [True, False]
    assert found.open == []
    assert beta is not None

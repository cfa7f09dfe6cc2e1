"""Threats, goals and constraints: what the grammar says, where a goal is reached, what a set holds."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mohs.aim import Aim
from mohs.attacks import PGD
from mohs.errors import ThreatError, UnknownName
from mohs.rng import Stream
from mohs.threat import (
    L0,
    L1,
    L2,
    Confidence,
    Constraints,
    Goal,
    Knowledge,
    Linf,
    NormThreat,
    SourceTarget,
    Targeted,
    Threat,
    TopK,
    Untargeted,
    parse_goal,
    parse_knowledge,
    parse_threat,
)

BITS8 = Constraints(bits=8)


# the grammar of threats


@pytest.mark.parametrize(
    ("text", "threat"),
    [
        ("linf:8/255", Linf(8 / 255)),
        ("linf: 8 / 255 ", Linf(8 / 255)),
        ("linf:0.1", Linf(0.1)),
        ("linf:1e-3", Linf(1e-3)),
        ("linf:0", Linf(0.0)),
        ("l2:0.5", L2(0.5)),
        ("l2:inf", L2(math.inf)),
        ("l1:12", L1(12.0)),
        ("l0:20", L0(20.0)),
        ("l0:20px", L0(20.0, pixels=True)),
        ("linf:8/255+quantise:8bit", Linf(8 / 255, constraints=BITS8)),
        ("linf:8/255 + quantise:8", Linf(8 / 255, constraints=BITS8)),
        ("l2:0.5+knowledge:scores", L2(0.5, knowledge=Knowledge.SCORES)),
        ("l1:3+knowledge:label+quantise:8bit", L1(3.0, knowledge=Knowledge.LABEL, constraints=BITS8)),
    ],
)
def test_threats_parse(text: str, threat: Threat):
    parsed = parse_threat(text)
    assert parsed == threat
    assert type(parsed) is type(threat)
    told = parse_threat(str(parsed))  # the text a threat gives of itself means the same, its knowledge aside
    assert math.isclose(told.epsilon, threat.epsilon, rel_tol=1e-5) or told.epsilon == threat.epsilon
    assert told.constraints == threat.constraints


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("lnif:0.1", UnknownName, "did you mean 'linf'"),
        ("l3:0.1", UnknownName, "l2"),
        (
            "mahalanobis:3",
            UnknownName,
            "known: brightness, contrast, flow, hue, l0, l1, l2, linf, manifold, patch",
        ),
        ("linf", ThreatError, "no budget; examples: linf:8/255"),
        ("linf:", ThreatError, "no budget"),
        ("", UnknownName, "unknown threat ''"),
        ("linf:x", ThreatError, "'x' is not a number or a fraction; examples"),
        ("linf:8/0", ThreatError, "not a number"),
        ("linf:nan", ThreatError, "not a number"),
        ("linf:-0.1", ThreatError, "epsilon -0.1; it must be 0 or more"),
        ("linf:0.1+quantize:8bit", UnknownName, "did you mean 'quantise'"),
        ("linf:0.1+quantise:0bit", ThreatError, "quantise:Nbit with N from 1 to 16"),
        ("linf:0.1+quantise:lots", ThreatError, "quantise:Nbit"),
        ("linf:0.1+knowledge:score", UnknownName, "did you mean 'scores'"),
        ("linf:0.1+mask:nowhere.npy", ThreatError, "nowhere.npy does not exist"),
        ("linf:0.1+", UnknownName, "unknown constraint ''"),
    ],
)
def test_bad_threats_say_what_was_meant(text: str, error: type[Exception], words: str):
    with pytest.raises(error, match=re.escape(words)):
        parse_threat(text)


def test_constraints_come_from_arrays(tmp_path: Path):
    mask, limit = np.array([[1, 0], [1, 1]]), np.full((2, 2), 0.1)
    np.save(tmp_path / "mask.npy", mask)
    np.savez(tmp_path / "mask.npz", anything=mask)
    np.save(tmp_path / "limit.npy", limit)
    np.savez(tmp_path / "bounds.npz", low=limit, high=limit + 0.5)
    for name in ("mask.npy", "mask.npz"):
        threat = parse_threat(f"linf:0.2+mask:{tmp_path / name}+limit:{tmp_path / 'limit.npy'}+bounds:{tmp_path / 'bounds.npz'}")
        assert torch.equal(threat.constraints.mask, torch.tensor([[True, False], [True, True]]))
        assert torch.equal(threat.constraints.limit, torch.full((2, 2), 0.1))
        assert torch.equal(threat.constraints.low, torch.full((2, 2), 0.1))
        assert torch.equal(threat.constraints.high, torch.full((2, 2), 0.6))
        assert str(threat) == "linf:0.2+mask+limit+bounds"


def test_arrays_that_are_none_are_refused_and_pickles_not_opened(tmp_path: Path):
    np.savez(tmp_path / "half.npz", low=np.zeros(2))
    np.savez(tmp_path / "two.npz", a=np.zeros(2), b=np.zeros(2))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "objects.npz", low=np.array([{}], dtype=object), high=np.zeros(1))
    np.save(tmp_path / "texts.npy", np.array(["a"]))
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "text.npy").write_text("0 1 1")
    (tmp_path / "torn.npz").write_bytes((tmp_path / "half.npz").read_bytes()[:40])
    for part, words in (
        ("bounds:half.npz", "need an .npz with the arrays low and high"),
        ("mask:two.npz", "holds a, b"),
        ("mask:objects.npy", "not a plain"),
        ("bounds:objects.npz", "not a plain"),
        ("limit:texts.npy", "not a plain"),
        ("limit:empty.npy", "not a plain"),
        ("mask:text.npy", "not a plain"),
        ("mask:torn.npz", "not a plain"),
    ):
        name, _, file = part.partition(":")
        with pytest.raises(ThreatError, match=words):
            parse_threat(f"linf:0.1+{name}:{tmp_path / file}")


def test_knowledge_parses_and_each_level_includes_those_below():
    for level in Knowledge:
        assert parse_knowledge(str(level)) == level
    assert Knowledge.TRANSFER < Knowledge.LABEL < Knowledge.SCORES < Knowledge.GRADIENT
    with pytest.raises(UnknownName, match="did you mean 'gradient'"):
        parse_knowledge("gradients")


# the grammar of goals


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("untargeted", Untargeted()),
        ("targeted", Targeted(to="least-likely")),
        ("targeted:3", Targeted(to=3)),
        ("targeted:least-likely", Targeted(to="least-likely")),
        ("targeted:next", Targeted(to="next")),
        ("targeted:random", Targeted(to="random")),
        ("targeted:all", Targeted(to="all")),
        ("source-target:3->5", SourceTarget(source=3, to=5)),
        ("source-target:3->all", SourceTarget(source=3, to="all")),
        ("confidence:0.5", Confidence(below=0.5)),
        ("confidence", Confidence(below=0.5)),
        ("topk:5", TopK(k=5)),
        ("topk:2", TopK(k=2)),
    ],
)
def test_goals_parse_and_tell_themselves(text: str, goal: Goal):
    assert parse_goal(text) == goal
    assert type(parse_goal(text)) is type(goal)
    assert parse_goal(str(goal)) == goal


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("untarget", UnknownName, "did you mean 'untargeted'"),
        ("targetted:3", UnknownName, "targeted"),
        ("targeted:least-liked", UnknownName, "did you mean 'least-likely'"),
        ("targeted:-1", UnknownName, "unknown target '-1'"),
        ("source-target:3", ThreatError, "should read source-target:S->T"),
        ("source-target:a->5", ThreatError, "not a number; examples"),
        ("source-target:3->al", UnknownName, "did you mean 'all'"),
        ("confidence:high", ThreatError, "'high', which is not a number"),
        ("topk:many", ThreatError, "not a number"),
        ("", UnknownName, "unknown goal ''"),
    ],
)
def test_bad_goals_say_what_was_meant(text: str, error: type[Exception], words: str):
    with pytest.raises(error, match=re.escape(words)):
        parse_goal(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("targeted:10", "names class 10, but the model has classes 0 to 9"),
        ("source-target:12->3", "names class 12"),
        ("source-target:3->12", "names class 12"),
        ("source-target:3->3", "ends where it begins"),
        ("confidence:0", "between 0 and 1"),
        ("confidence:1.5", "between 0 and 1"),
        ("topk:0", "1 <= k < 10"),
        ("topk:10", "1 <= k < 10"),
    ],
)
def test_goals_that_do_not_fit_a_model_are_refused(text: str, words: str):
    with pytest.raises(ThreatError, match=words):
        parse_goal(text).check(10)
    parse_goal("targeted:9").check(10)
    parse_goal("topk:9").check(10)


# where a goal is reached: brute force over probabilities and labels

CLASSES, ROWS = 6, 4000


def draws(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [n, classes] without ties, labels, and targets that are other classes."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, CLASSES - 1, (ROWS,), generator=g)
    shift = torch.randint(1, CLASSES - 1, (ROWS,), generator=g)
    logits = torch.randn(ROWS, CLASSES, generator=g) * 2
    logits[torch.arange(ROWS), y] += 1
    return logits, y, (y + shift) % (CLASSES - 1)  # the last class is left to the refusal


def label(z: Tensor) -> int:
    return int(z.argmax())


def rank(z: Tensor, y: int, without: int | None) -> int:
    """How many other classes are likelier."""
    return sum(float(v) > float(z[y]) for k, v in enumerate(z) if k not in (y, without))


REACHED: dict[str, tuple[Goal, Callable[[Tensor, int, int, int | None], bool]]] = {
    "untargeted": (Untargeted(), lambda z, y, t, r: label(z) != y),
    "targeted": (Targeted(to=0), lambda z, y, t, r: label(z) == t),
    "source-target": (SourceTarget(source=1, to=0), lambda z, y, t, r: label(z) == t),
    "confidence:0.5": (Confidence(below=0.5), lambda z, y, t, r: float(z.double().softmax(0)[y]) < 0.5),
    "confidence:0.1": (Confidence(below=0.1), lambda z, y, t, r: float(z.double().softmax(0)[y]) < 0.1),
    "topk:1": (TopK(k=1), lambda z, y, t, r: rank(z, y, r) >= 1),
    "topk:3": (TopK(k=3), lambda z, y, t, r: rank(z, y, r) >= 3),
}


@pytest.mark.parametrize("rejected", [None, CLASSES - 1])
@pytest.mark.parametrize("name", REACHED)
def test_a_margin_is_positive_exactly_where_the_goal_is_reached(name: str, rejected: int | None):
    """A detector's refusal reaches no goal."""
    goal, rule = REACHED[name]
    logits, y, target = draws()
    margin = replace(goal, rejected=rejected).margin(logits, Aim(y, target=target))
    assert margin.shape == (ROWS,)
    for z, a, t, m in zip(logits[:1500], y.tolist(), target.tolist(), margin.tolist(), strict=False):
        refused = rejected is not None and label(z) == rejected
        assert (m > 0) == (rule(z, a, t, rejected) and not refused)
    assert 0.02 < float((margin > 0).float().mean()) < 0.98


@pytest.mark.parametrize("name", REACHED)
def test_a_tie_reaches_nothing(name: str):
    goal, _ = REACHED[name]
    if isinstance(goal, Confidence):  # five other classes: a sixth, a half and a tenth each
        z = torch.tensor([[math.log(5 * goal.below / (1 - goal.below)), 0, 0, 0, 0, 0]], dtype=torch.float64)
    else:
        z = torch.zeros(1, CLASSES)
    margin = goal.margin(z, Aim(torch.tensor([0]), target=torch.tensor([1])))
    assert abs(float(margin)) < 1e-12
    assert not isinstance(goal, Untargeted | Targeted | TopK) or float(margin) == 0


def test_margins_have_gradients():
    logits, y, target = draws()
    for goal, _ in REACHED.values():
        z = logits[:20].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(goal.margin(z, Aim(y[:20], target=target[:20])).sum(), z)
        assert (gradient.abs().sum(1) > 0).all()
        assert gradient.isfinite().all()


def test_targets_by_rule():
    logits, y, _ = draws()
    stream = Stream.of(0, torch.arange(ROWS))
    others = logits.scatter(1, y[:, None], torch.nan)
    least, following = (torch.from_numpy(f(others.numpy(), 1)) for f in (np.nanargmin, np.nanargmax))
    assert torch.equal(Targeted(to="least-likely").aim(y, logits, stream).target, least)
    assert torch.equal(Targeted(to="next").aim(y, logits, stream).target, following)
    assert torch.equal(Targeted(to=3).aim(y, logits, stream).target, torch.full_like(y, 3))
    drawn = Targeted(to="random").aim(y, logits, stream).target
    assert (drawn != y).all()
    counts = torch.bincount(((drawn - y) % CLASSES) - 1, minlength=CLASSES - 1)
    assert ((counts - ROWS / (CLASSES - 1)).abs() < 5 * math.sqrt(ROWS / (CLASSES - 1))).all()
    some = torch.tensor([7, 3])  # by the address of the example, not by its company
    assert torch.equal(Targeted(to="random").aim(y[some], logits[some], stream.take(some)).target, drawn[some])
    assert not torch.equal(Targeted(to="random").aim(y, logits, Stream.of(1, torch.arange(ROWS))).target, drawn)
    with pytest.raises(ThreatError, match="one case a class"):
        Targeted(to="all").aim(y, logits, stream)


def test_the_refusal_is_never_a_target():
    logits, y, _ = draws()
    stream = Stream.of(0, torch.arange(ROWS))
    last = CLASSES - 1
    for rule in ("least-likely", "next", "random"):
        target = Targeted(to=rule, rejected=last).aim(y, logits, stream).target
        assert (target != last).all()
        assert (target != y).all()
    assert [goal.to for goal in Targeted(to="all", rejected=last).cases(CLASSES)] == list(range(last))
    assert not Targeted(to=last, rejected=last).applies(Aim(y, target=torch.full_like(y, last))).any()


def test_where_goals_apply():
    y = torch.tensor([0, 1, 2, 1])
    target = torch.tensor([1, 1, 1, 0])
    for goal in (Untargeted(), Confidence(), TopK()):
        assert goal.applies(Aim(y)).all()
    assert Targeted(to=1).applies(Aim(y, target=target)).tolist() == [True, False, True, True]
    assert SourceTarget(source=1, to=0).applies(Aim(y, target=target)).tolist() == [False, False, False, True]


def test_goals_for_every_class_are_cases():
    assert Targeted(to="all").cases(3) == [Targeted(to=0), Targeted(to=1), Targeted(to=2)]
    assert [str(goal) for goal in parse_goal("source-target:1->all").cases(3)] == [f"source-target:1->{t}" for t in range(3)]
    for text in ("untargeted", "targeted:2", "targeted:next", "topk:2"):
        assert parse_goal(text).cases(3) == [parse_goal(text)]


def test_aims_carry_the_clean_logits():
    logits, y, _ = draws()
    for goal in (Untargeted(), Targeted(to="next"), Confidence()):
        aim = goal.aim(y, logits, Stream.of(0, torch.arange(ROWS)))
        assert aim.reference is logits
        assert torch.equal(aim.take(torch.tensor([5])).reference, logits[5:6])
    aim = Aim(y[:2], target=torch.tensor([1, 2]), toward=torch.tensor([3, 4]))
    assert aim.wanted.tolist() == [3, 4]
    assert aim._replace(toward=None).wanted.tolist() == [1, 2]


# constraints

THREATS = [Linf(0.1), L2(0.4), L1(0.9), L0(3.0), L0(2.0, pixels=True)]
SHAPE = (2, 3, 4)


def inputs(n: int = 40, seed: int = 0) -> Tensor:
    """On the 8-bit grid, some at the ends of the box."""
    x = torch.randint(0, 256, (n, *SHAPE), generator=torch.Generator().manual_seed(seed)) / 255
    return x.where(torch.rand(x.shape, generator=torch.Generator().manual_seed(seed + 1)) > 0.1, x.round())


def limits() -> dict[str, Constraints]:
    g = torch.Generator().manual_seed(3)
    low = torch.rand(SHAPE, generator=g) * 0.3
    return {
        "none": Constraints(),
        "mask": Constraints(mask=torch.rand(SHAPE, generator=g) > 0.4),
        "limit": Constraints(limit=torch.rand(SHAPE, generator=g) * 0.08),
        "bounds": Constraints(low=low, high=low + 0.5),
        "quantise": Constraints(bits=8),
        "all": Constraints(
            mask=torch.rand(SHAPE, generator=g) > 0.3, limit=torch.full(SHAPE, 0.07), low=low, high=low + 0.6, bits=8
        ),
    }


def test_the_box_of_mask_limit_and_bounds():
    x0 = torch.tensor([[0.5, 0.5, 0.9, 0.05], [0.2, 0.8, 0.1, 0.95]])
    assert Constraints().box(x0, (0.0, 1.0)) == (0.0, 1.0)
    constraints = Constraints(
        mask=torch.tensor([True, False, True, True]),
        limit=torch.tensor([0.1, 0.1, 0.2, 0.1]),
        low=torch.tensor([0.3, 0.0, 0.0, 0.0]),
        high=torch.tensor([0.55, 1.0, 1.0, 1.0]),
    )
    low, high = constraints.box(x0, (0.0, 1.0))
    torch.testing.assert_close(low, torch.tensor([[0.4, 0.5, 0.7, 0.0], [0.2, 0.8, 0.0, 0.85]]))  # 0.2 lies below its bound
    torch.testing.assert_close(high, torch.tensor([[0.55, 0.5, 1.0, 0.15], [0.3, 0.8, 0.3, 1.0]]))
    g = torch.ones(2, 4)
    assert torch.equal(constraints.mutable(g)[0], torch.tensor([1.0, 0.0, 1.0, 1.0]))
    assert Constraints().mutable(g) is g


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_the_grid_of_a_file(bits: int, bounds: tuple[float, float]):
    constraints, (low, high) = Constraints(bits=bits), bounds
    grid = torch.linspace(low, high, 2**bits, dtype=torch.float64)
    x = torch.rand(500, generator=torch.Generator().manual_seed(0)) * (high - low) + low
    nearest = grid[(x.double()[:, None] - grid).abs().argmin(1)]
    tolerance = 1e-6 * (high - low)
    torch.testing.assert_close(constraints.snap(x, bounds).double(), nearest, atol=tolerance, rtol=0)
    x0 = constraints.snap(x.flip(0), bounds)
    shown = constraints.toward(x, x0, bounds)
    assert float((grid - shown.double()[:, None]).abs().amin(1).max()) <= tolerance
    assert ((shown - x0).abs() <= (x - x0).abs() + tolerance).all()  # never farther than x
    assert ((x - shown).abs() < (high - low) / (2**bits - 1) * (1 + 1e-4)).all()
    torch.testing.assert_close(constraints.toward(x0, x0, bounds), x0)
    assert Constraints().snap(x, bounds) is x


def test_rounding_has_the_derivative_of_the_identity():
    x0 = inputs(3)
    p = (x0 + 0.03).clamp(0, 1).requires_grad_()
    shown = Linf(0.1, constraints=BITS8).apply(p, x0)
    assert torch.allclose(shown * 255, (shown * 255).round(), atol=1e-3)
    (gradient,) = torch.autograd.grad((shown * 3).sum(), p)
    assert (gradient == 3).all()
    assert Linf(0.1).apply(p, x0) is p


@pytest.mark.parametrize("name", ["none", "mask", "limit", "bounds", "quantise", "all"])
@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_steps_projections_and_random_points_stay_inside(threat: NormThreat, name: str):
    constraints, x0 = limits()[name], inputs()
    threat = replace(threat, constraints=constraints)
    g = torch.Generator().manual_seed(7)
    random = threat.random_point(x0, Stream.of(0, torch.arange(len(x0))))
    far = threat.project(x0 + torch.randn(x0.shape, generator=g), x0)
    p = random
    for _ in range(3):
        p = threat.step(p.clone(), torch.randn(x0.shape, generator=g), x0, 0.7)
    least = 1.0 if threat.name == "l0" else 0.1 * threat.epsilon
    per_row = torch.linspace(least, threat.epsilon, len(x0))
    for number, points in enumerate((threat.origin(x0), random, far, p, threat.project(far.clone(), x0, per_row))):
        assert threat.contains(points, x0).all()
        shown = threat.apply(points, x0)
        distance = brute(threat, shown, x0)
        assert (distance <= threat.epsilon * (1 + 1e-6) + 2e-7).all()
        torch.testing.assert_close(threat.distance(points, x0), distance, rtol=1e-9, atol=1e-12)
        assert_allowed(constraints, shown, x0)
        if number:
            assert (points != x0).flatten(1).any(1).float().mean() > 0.8  # and goes somewhere
        else:
            assert torch.equal(points, x0)


@pytest.mark.parametrize("threat", [L2(0.4), L1(0.9), L0(3)], ids=str)
def test_a_step_spends_nothing_on_what_may_not_change(threat: NormThreat):
    """Large gradients outside the mask take nothing from a step inside it, which is that of the free entries alone."""
    x0, free = torch.full((2, 12), 0.5), torch.arange(12) % 2 == 0
    g = torch.randn(2, 12, generator=torch.Generator().manual_seed(0)) * torch.where(free, 1.0, 100.0)
    masked = replace(threat, constraints=Constraints(mask=free))
    moved = masked.step(x0.clone(), g.clone(), x0, 0.1) - x0
    alone = threat.step(x0[:, free].clone(), g[:, free].clone(), x0[:, free].contiguous(), 0.1) - x0[:, free]
    assert (moved[:, ~free] == 0).all()
    assert torch.allclose(moved[:, free], alone, atol=1e-7)
    assert (alone != 0).any(1).all()


def brute(threat: NormThreat, x: Tensor, x0: Tensor) -> Tensor:
    delta = x.double() - x0.double()
    if threat.name == "l0":
        changed = (delta != 0).any(1, keepdim=True) if threat.pixels else delta != 0
        return changed.flatten(1).sum(1).double()
    return torch.linalg.vector_norm(delta.flatten(1), ord={"linf": math.inf, "l2": 2, "l1": 1}[threat.name], dim=1)


def assert_allowed(constraints: Constraints, x: Tensor, x0: Tensor) -> None:
    ulp = 1.2e-7
    assert ((x >= 0) & (x <= 1)).all()
    if constraints.mask is not None:
        assert float((x - x0)[:, ~constraints.mask].abs().max()) <= ulp
    if constraints.limit is not None:
        assert ((x - x0).abs() <= constraints.limit + ulp).all()
    if constraints.low is not None:
        assert ((x >= torch.minimum(constraints.low, x0) - ulp) & (x <= torch.maximum(constraints.high, x0) + ulp)).all()
    if constraints.bits is not None:
        assert torch.allclose(x * 255, (x * 255).round(), atol=1e-3)


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.4), L1(0.9)], ids=str)
def test_what_a_set_contains_has_an_ulp_to_spare_and_no_more(threat: NormThreat):
    x0 = torch.full((1, *SHAPE), 0.05)
    towards = torch.ones_like(x0) if threat.name == "linf" else torch.nn.functional.one_hot(torch.tensor(0), 24).view(1, *SHAPE)
    for factor, inside in ((1.0, True), (1 - 1e-5, True), (1 + 1e-5, False), (1.5, False)):
        p = x0.double() + threat.epsilon * factor * towards.double()
        assert threat.contains(p.float(), x0).tolist() == [inside], factor
    for value in (math.nan, math.inf):
        assert threat.contains(torch.full_like(x0, value), x0).tolist() == [False]
    assert threat.minimal().contains(torch.ones_like(x0), x0).tolist() == [True]


def test_what_a_set_of_entries_contains_is_counted():
    x0 = torch.full((1, *SHAPE), 0.5)
    p = x0.clone()
    p[0, :, 0, :3] = 0.9  # three positions, six entries
    assert L0(6.0).contains(p, x0).all()
    assert not L0(5.0).contains(p, x0).any()
    assert L0(3.0, pixels=True).contains(p, x0).all()
    assert not L0(2.0, pixels=True).contains(p, x0).any()


def test_the_box_is_part_of_the_set():
    x0 = torch.full((1, *SHAPE), 0.95)
    assert not Linf(0.1).contains(x0 + 0.08, x0).any()
    assert Linf(0.1, bounds=(0.0, 2.0)).contains(x0 + 0.08, x0).all()
    assert Linf(0.1).within((-1.0, 2.0)).bounds == (-1.0, 2.0)


@pytest.mark.parametrize(
    ("constraints", "words"),
    [
        (Constraints(mask=torch.ones(5, dtype=torch.bool)), "mask has shape [5], which does not broadcast"),
        (Constraints(limit=torch.ones(3, 3)), "limit has shape [3, 3]"),
        (Constraints(mask=torch.zeros(SHAPE, dtype=torch.bool)), "no entry change"),
        (Constraints(limit=torch.full(SHAPE, -0.1)), "negative"),
        (Constraints(bits=2), "not on it; quantise the data first"),
    ],
)
def test_constraints_that_do_not_fit_are_refused(constraints: Constraints, words: str):
    with pytest.raises(ThreatError, match=re.escape(words)):
        Linf(0.1, constraints=constraints).check(inputs())


def test_an_attack_looks_at_every_example():
    """The second is off the grid, where no point of the set would be the adversary's to choose."""
    x = torch.tensor([[1 / 3, 2 / 3], [0.5, 0.5]])
    with pytest.raises(ThreatError, match="not on it"):
        PGD()(nn.Linear(2, 2).eval(), x, torch.zeros(2).long(), threat="linf:0.1+quantise:2bit")


@pytest.mark.parametrize(
    ("threat", "widest"), [(Linf, 1), (L2, math.sqrt(24)), (L1, 24), (L0, 24), (lambda e: L0(e, pixels=True), 12)]
)
def test_a_budget_outside_the_box_is_refused(threat: Callable[[float], NormThreat], widest: float):
    threat(widest).check(inputs())
    threat(math.inf).check(inputs())
    with pytest.raises(ThreatError, match="outside the box"):
        threat(widest * 1.01).check(inputs())
    threat(widest * 200).within((0.0, 255.0)).check(inputs() * 255) if threat in (Linf, L2, L1) else None


def test_threats_in_plain_words():
    assert Linf(8 / 255).words() == (
        "An adversary who knows the model and its gradients may change every entry of the input by at most 0.0313725 "
        "(3.1% of the range, 8 of 255 grey levels), inside [0, 1]."
    )
    said = L2(0.5, knowledge=Knowledge.SCORES, constraints=limits()["all"]).words()
    for part in ("sees the model's scores", "Euclidean length at most 0.5", "entries", "own limit", "bounds given", "8-bit file"):
        assert part in said
    assert "sum, without sign, to at most 12" in L1(12.0, knowledge=Knowledge.LABEL).words()
    assert "sees only the predicted class" in L1(12.0, knowledge=Knowledge.LABEL).words()
    assert "set 20 pixels of the input to anything" in L0(20.0, pixels=True, knowledge=Knowledge.TRANSFER).words()
    assert "never asks the model" in L0(20.0, knowledge=Knowledge.TRANSFER).words()
    assert "as little as will do" in L2(math.inf).words()


def test_the_digest_of_constraints_is_that_of_their_arrays():
    assert Constraints(bits=8).digest() is None
    seen = {Constraints(mask=limits()["mask"].mask).digest(), Constraints(mask=~limits()["mask"].mask).digest()}
    seen |= {Constraints(low=torch.zeros(3)).digest(), Constraints(high=torch.zeros(3)).digest()}
    assert len(seen) == 4
    assert limits()["all"].digest() == limits()["all"].digest()


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_shrinking_is_the_projection_of_what_lies_farther_out(threat: NormThreat):
    x0 = inputs()
    x = threat.minimal().project(threat.random_point(x0, Stream.of(0, torch.arange(len(x0)))) * 1.1 + 0.05, x0)
    size = threat.distance(x, x0)
    epsilon = size * torch.linspace(0.1, 0.9, len(x0), dtype=torch.float64)
    found = threat.shrink(x, x0, epsilon, size)
    assert torch.allclose(found, threat.project(x.clone(), x0, epsilon.float()), atol=1e-6)
    assert bool((threat.distance(found, x0) <= epsilon * (1 + 1e-6)).all())
    none = torch.zeros_like(size)
    assert torch.equal(threat.shrink(x0, x0, none, none), x0)


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_a_rough_distance_is_within_a_thousandth(threat: NormThreat):
    x0 = inputs()
    x = threat.random_point(x0, Stream.of(0, torch.arange(len(x0))))
    assert torch.allclose(threat.roughly(x, x0), threat.distance(x, x0), rtol=1e-4)

"""Every attack of the table against every promise an attack makes. Rows and what they share: conformance.py."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mohs import attacks
from mohs import oracle as oracle_module
from mohs.errors import Refused
from mohs.ledger import Outcome, Status
from mohs.models import TorchModel, prepare
from mohs.threat import Constraints, Knowledge, Untargeted, parse_threat
from tests.conformance import (
    ALL,
    CASES,
    CLASSES,
    FREE,
    GOALS,
    WIDE,
    Run,
    World,
    applies,
    attack,
    cached,
    counted,
    distance,
    frozen_module,
    go,
    linear,
    reaches,
    row,
    spent,
    world,
)

NAMES = sorted(set(attacks.table()) - {"replay"})  # which finds nothing itself: test_universal.py
by_name = pytest.mark.parametrize("name", NAMES)
by_case = pytest.mark.parametrize(("name", "threat"), CASES)
by_set = pytest.mark.parametrize(("name", "threat"), {(name, parse_threat(t).name): (name, t) for name, t in CASES}.values())


def assert_same(one: Run, two: Run, rows: Tensor | None = None) -> None:
    """Verdicts, points and counts of `two` are bit for bit those of the given rows of `one`."""
    take = torch.arange(len(one.outcome)) if rows is None else rows
    for name in ("point", "adversarial", "distance", "margin", "label", "forwards", "backwards", "queries"):
        assert torch.equal(getattr(one.outcome, name)[take], getattr(two.outcome, name)), name
    assert torch.equal(one.outcome.queries_to_success[take], two.outcome.queries_to_success)
    assert [one.outcome.status[i] for i in take.tolist()] == two.outcome.status
    assert [one.outcome.reason[i] for i in take.tolist()] == two.outcome.reason


def assert_inside(run: Run, x0: Tensor, low: Tensor | float = 0.0, high: Tensor | float = 1.0) -> None:
    """In the box exactly, and in the ball in float64, with one float32 ulp of the bounds to spare.

    Attacks that look for the nearest success may end a failed row outside the ball."""
    out = run.outcome
    rows = out.broken if run.minimal else torch.ones_like(out.broken)
    assert bool(((out.adversarial >= low) & (out.adversarial <= high)).all())
    far = spent(run, x0)
    ulp = 2.0**-23 / (0.01 if run.threat.name == "composite" else 1)  # whose unit is its norm's budget
    assert bool((far[rows] <= run.threat.epsilon * (1 + 1e-6) + ulp).all())
    assert torch.allclose(far[out.broken], out.distance[out.broken], rtol=1e-12)
    assert bool((out.distance[~out.broken] == torch.inf).all())


def asked(name: str, out: Outcome) -> Tensor:
    """[rows] int64: how often an attack asked, beside the last point's judgement; those that see labels alone ask the
    judge."""
    return out.queries - 2 if attack(name).knowledge == Knowledge.LABEL else out.forwards


@by_name
def test_has_a_row(name: str) -> None:
    settings = row(name)
    kinds = {parse_threat(threat).name for threat in settings.threats}
    assert kinds == set(attacks.find(name).sets), "a row tries every set that the attack moves in"
    assert settings.optimum.keys() == kinds & set(ALL)


@by_case
def test_points_lie_in_set_and_box(name: str, threat: str) -> None:
    assert_inside(cached(name, threat), world().x)


@by_case
def test_successes_are_real(name: str, threat: str) -> None:
    """On the module itself, in float32 and float64, and there is one; clean errors are successes at distance 0."""
    out, w = cached(name, threat).outcome, world()
    with torch.no_grad():
        logits, exact = w.module(out.adversarial), frozen_module().double()(out.adversarial.double())
    for z in (logits, exact):
        assert bool(reaches("untargeted", z, w.reference, w.y)[out.broken].all())
    assert torch.equal(out.label[out.broken], logits.argmax(1)[out.broken])
    assert torch.allclose(out.margin, Untargeted().margin(logits, w.aim), atol=1e-4)
    assert bool((out.margin[out.broken] > 0).all())
    assert bool((out.broken & w.clean).any())
    assert set(out.status) <= {Status.BROKEN, Status.SURVIVED}
    assert out.status[-1] == Status.BROKEN
    assert float(out.distance[-1]) == 0.0
    assert int(out.queries_to_success[-1]) <= 2  # asked and confirmed before the attack began


@by_case
def test_survivors_were_attacked(name: str, threat: str) -> None:
    """The closest point of one that no attempt brought closer is its input; not so for all of them."""
    out, w = cached(name, threat).outcome, world()
    survived = ~out.broken
    assert bool((asked(name, out)[survived] > 0).all())
    assert bool((distance("linf", out.adversarial, w.x)[survived] > 0).any()) or not bool(survived.any())


@pytest.mark.parametrize(("name", "threat"), [case for case in CASES if parse_threat(case[1]).name in ALL])
def test_is_near_the_optimum_of_a_linear_model(name: str, threat: str) -> None:
    model, norm, made = linear(), parse_threat(threat).name, attack(name, **row(name).enough)
    nearest, factor = model.distance(norm), row(name).optimum[norm]
    if made.minimal:
        out = go(name, model.world, FREE[norm], made=made).outcome
        assert bool(out.broken.all())
        assert float(out.distance.max()) <= nearest * factor
        assert float(out.distance.min()) >= nearest * (1 - 1e-5)
    else:
        enough = go(name, model.world, f"{norm}:{nearest * factor!r}", made=made).outcome
        assert bool(enough.broken.all())
    too_little = go(name, model.world, f"{norm}:{nearest * (1 - 1e-4)!r}", made=made).outcome
    assert not bool(too_little.broken.any())


@pytest.mark.parametrize("goal", GOALS)
@by_name
def test_goals_are_served_or_refused(name: str, goal: str) -> None:
    w, norm = world(), parse_threat(row(name).threats[0]).name
    if goal in row(name).refuses:
        with pytest.raises(Refused):
            go(name, w, WIDE[norm], goal=goal)
        return
    out = go(name, w, WIDE[norm], goal=goal).outcome
    fits = applies(goal, w.y)
    assert [status == Status.INAPPLICABLE for status in out.status] == (~fits).tolist()
    assert not bool(out.broken[~fits].any())
    assert not bool(out.queries[~fits].any())
    assert bool((out.broken & w.clean).any())
    with torch.no_grad():
        for z in (w.module(out.adversarial), frozen_module().double()(out.adversarial.double())):
            assert bool(reaches(goal, z, w.reference, w.y)[out.broken].all())
    assert bool((asked(name, out)[fits & ~out.broken] > 0).all())


@by_case
def test_batch_mates_do_not_matter(name: str, threat: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points, counts and verdicts are the same batched, alone, in another order and however often rows are dropped; torch's own
    generator does not count."""
    together, w = cached(name, threat), world()
    torch.manual_seed(99)
    some = torch.tensor([8, 1, 6])
    assert_same(together, go(name, w.take(some), threat), some)
    for i in (3, 11):
        alone = torch.tensor([i])
        assert_same(together, go(name, w.take(alone), threat), alone)
    monkeypatch.setattr(oracle_module, "COMPACT_AT", 2.0)
    monkeypatch.setattr(oracle_module, "CARRY", 1_000_000)
    assert_same(together, go(name, w, threat))
    monkeypatch.setattr(oracle_module, "COMPACT_AT", -1.0)
    order = torch.tensor([7, 2, 10, 0, 11, 5, 9, 1, 3, 8, 4, 6])
    assert_same(together, go(name, w.take(order), threat), order)


@by_case
def test_seeds(name: str, threat: str) -> None:
    """The seed matters, to random attacks alone."""
    first = cached(name, threat)
    other = go(name, world(), threat, seed=1)
    if attack(name).random and not row(name).later:
        assert not torch.equal(first.outcome.point, other.outcome.point)
    else:
        assert_same(first, other)


@by_case
def test_restarts_never_lose_a_success(name: str, threat: str) -> None:
    w = world()
    tight = parse_threat(threat)
    if tight.epsilon < torch.inf:
        tight = replace(tight, epsilon=tight.epsilon * (0.3 if tight.name != "l0" else 0.5))
    if not attack(name).random:
        with pytest.raises(Refused, match="each of 3 tries would be the first again"):
            attack(name, restarts=3).check(tight, Untargeted(), w.prepared.judge.model)
        return
    once = go(name, w, tight).outcome
    thrice = go(name, w, tight, made=attack(name, restarts=3)).outcome
    assert bool((thrice.broken | ~once.broken).all())
    assert bool((thrice.distance <= once.distance).all() or tight.epsilon < torch.inf)
    survived = ~thrice.broken
    assert bool((thrice.queries >= once.queries)[survived].all())
    assert bool(once.broken.all()) or row(name).later or not torch.equal(thrice.point, once.point)  # every try draws anew


@by_case
def test_counts_are_those_of_the_module(name: str, threat: str) -> None:
    """Rows that went through the module forwards and backwards, none padded, are what the ledger says."""
    w, counter = counted()
    run = go(name, w, threat)
    out = run.outcome
    elsewhere = int(out.backwards.sum()) if row(name).copies else 0
    assert counter.forwards == int(run.queries.sum()) - elsewhere + row(name).traced
    assert counter.backwards == int(out.backwards.sum()) - elsewhere
    forwards, backwards = attack(name).passes(CLASSES)
    assert int(out.forwards.max()) <= forwards
    assert int(out.backwards.max()) <= backwards


@by_name
def test_model_and_inputs_are_left_alone(name: str) -> None:
    module, w = frozen_module(), world()
    for i, parameter in enumerate(module.parameters()):
        parameter.requires_grad_(i % 2 == 0)
    module[0].train()  # a flag to keep; a convolution does not heed it
    prepared = replace(prepare(TorchModel(module, classes=6), w.x, rows=16), surrogate=w.prepared.surrogate)
    w = replace(w, module=module, prepared=prepared, x=w.x.clone())
    state = {key: value.clone() for key, value in module.state_dict().items()}
    x, y, generator = w.x.clone(), w.y.clone(), torch.random.get_rng_state()
    go(name, w, row(name).threats[0])
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert torch.equal(w.x, x)
    assert torch.equal(w.y, y)
    assert not w.x.requires_grad
    for key, value in module.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert [p.requires_grad for p in module.parameters()] == [i % 2 == 0 for i in range(len(list(module.parameters())))]
    assert all(p.grad is None for p in module.parameters())
    assert [m.training for m in module.modules()] == [m is module[0] for m in module.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in module.modules())


@by_name
def test_spec_and_pickle_round_trip(name: str) -> None:
    for made in (attack(name), attacks.find(name)(restarts=2)):
        spec = json.loads(json.dumps({"attack": attacks.name_of(made), **made.spec()}))
        assert spec["attack"] == name
        assert attacks.make(spec) == made
        again = pickle.loads(pickle.dumps(made))
        assert again == made
        assert hash(again) == hash(made)
        assert made.paper
        assert made.__doc__


def constraints() -> dict[str, Constraints]:
    shape = world().x.shape[1:]
    mask = torch.arange(8) % 4 != 3  # columns
    g = torch.Generator().manual_seed(4)
    return {
        "mask": Constraints(mask=mask.expand(shape)),
        "limit": Constraints(limit=torch.rand(shape, generator=g) * 0.2),
        "quantise": Constraints(bits=8),
        "bounds": Constraints(low=torch.full(shape, 0.1), high=torch.full(shape, 0.8)),
    }


@pytest.mark.parametrize("constraint", ["mask", "limit", "quantise", "bounds"])
@by_set
def test_constraints_are_honoured(name: str, threat: str, constraint: str) -> None:
    w, limits = world(), constraints()[constraint]
    run = go(name, w, replace(parse_threat(threat), constraints=limits))
    x, x0 = run.outcome.adversarial, w.x
    assert_inside(run, x0)
    match constraint:
        case "mask":
            fixed = ~limits.mask.expand_as(x0)
            assert torch.equal(x[fixed], x0[fixed])
        case "limit":
            assert bool(((x - x0).abs() <= limits.limit + 1e-7).all())
        case "quantise":
            assert torch.allclose(x * 255, (x * 255).round(), atol=1e-4)
        case "bounds":  # an example outside them is left where it is
            assert bool((x >= torch.minimum(x0, limits.low)).all())
            assert bool((x <= torch.maximum(x0, limits.high)).all())
    with torch.no_grad():
        assert bool(reaches("untargeted", w.module(x), w.reference, w.y)[run.outcome.broken].all())
    assert bool((x[w.clean] != x0[w.clean]).any())


@by_name
def test_knowledge_is_enforced(name: str) -> None:
    """What the threat or the model does not grant is refused by a message that names both sides, and what an attack says
    it needs, it needs."""
    made, threat = attack(name), parse_threat(row(name).threats[0])
    for level in Knowledge:
        if Knowledge.TRANSFER < level < made.knowledge:
            with pytest.raises(Refused, match=rf"{made.knowledge}.*{level}") as refusal:
                go(name, world(), replace(threat, knowledge=level))
            assert type(made).__name__ in str(refusal.value)
            with pytest.raises(Refused, match=rf"{made.knowledge}.*{level}"):
                go(name, gives(world(), level), threat)
    least = go(name, world(), replace(threat, knowledge=made.knowledge))
    assert_same(cached(name, row(name).threats[0]), least)
    assert bool(least.outcome.backwards.any()) == (made.knowledge == Knowledge.GRADIENT)


def gives(w: World, level: Knowledge) -> World:
    model = TorchModel(w.module, classes=6)
    model.gives = level
    judge, guide = w.prepared.judge, w.prepared.guide
    return replace(w, prepared=replace(w.prepared, judge=replace(judge, model=model), guide=replace(guide, model=model)))


@by_name
def test_other_sets_and_missing_budgets_are_refused(name: str) -> None:
    made = attack(name)
    for kind, text in WIDE.items():
        threat = parse_threat(text)
        if kind not in made.sets:
            with pytest.raises(Refused, match=re.escape(str(threat))):
                go(name, world(), threat)
        elif not made.minimal:
            with pytest.raises(Refused, match="epsilon"):
                go(name, world(), threat.minimal())

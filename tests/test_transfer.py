"""Transfer: transformations of the input, surrogates that guide and a victim that only judges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

import mohs
from mohs.attacks import find
from mohs.attacks.base import Attack
from mohs.attacks.blackbox.hybrid import Hybrid
from mohs.attacks.gradient.apgd import APGD
from mohs.attacks.gradient.mifgsm import MIFGSM
from mohs.attacks.gradient.pgd import PGD
from mohs.attacks.transfer.fgsm import DIFGSM, SIFGSM, TIFGSM, VMIFGSM
from mohs.attacks.transfer.lgv import lgv
from mohs.attacks.transfer.transforms import diversify, jump, shrink, smooth
from mohs.defend.smooth import SmoothedModel
from mohs.engine.profiles import PROFILES, TenClasses
from mohs.engine.transfers import transferred
from mohs.errors import ModelError, Refused, RequestError, RunError
from mohs.jobs import describe, make_job
from mohs.losses import cross_entropy, logit_difference
from mohs.models import TorchModel, as_model, prepare
from mohs.models.ensemble import Ensemble, surrogate
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.store import Run
from mohs.threat import Knowledge, Linf, Untargeted, parse_threat
from tests.conformance import frozen_module, world
from tests.small import Linear

IDS = torch.arange(40)
STREAM = Stream.of(0, IDS)


def images(n: int = 40) -> Tensor:
    return torch.rand(n, 3, 12, 12, generator=torch.Generator().manual_seed(5))


# transformations


def test_diverse_inputs_are_resized_and_padded() -> None:
    """Each is its own resizing by torch at one of the places where it fits; all sizes and the identity are met."""
    x = images()
    shown = diversify(x, STREAM, probability=0.7, resize=0.5, step=3)
    sizes = set()
    for i in range(len(x)):
        found = []
        for side in range(6, 13):
            small = functional.interpolate(x[i : i + 1], size=(side, side), mode="bilinear", align_corners=False)
            for top in range(12 - side + 1):
                for left in range(12 - side + 1):
                    whole = functional.pad(small, (left, 12 - side - left, top, 12 - side - top))
                    if torch.allclose(whole[0], shown[i], atol=1e-5):
                        found.append(side)
        assert len(found) == 1, i
        sizes.add(found[0])
    assert {6, 12} <= sizes
    assert len(sizes) >= 5


def test_diverse_inputs_have_a_gradient_of_their_own() -> None:
    x = images(8).requires_grad_()
    weights = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    stream = Stream.of(0, torch.arange(8))

    def total(x: Tensor) -> Tensor:
        return (diversify(x, stream, probability=0.9, resize=0.6, step=0) * weights).sum()

    (gradient,) = torch.autograd.grad(total(x), x)
    toward = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        slope = (total(x + toward) - total(x - toward)) / 2  # linear in x
    assert float((gradient * toward).sum()) == pytest.approx(float(slope), rel=1e-3)


def test_no_diversity_is_the_identity() -> None:
    x = images()
    assert torch.equal(diversify(x, STREAM, probability=0.0, resize=0.5, step=0), x)
    assert torch.equal(diversify(x, STREAM, probability=1.0, resize=1.0, step=0), x)
    first = diversify(x, STREAM, probability=1.0, resize=0.5, step=0)
    assert not torch.equal(first, diversify(x, STREAM, probability=1.0, resize=0.5, step=1))


def test_smoothing_is_a_convolution_with_a_gaussian() -> None:
    u = images(4)
    line = torch.exp(-0.5 * torch.linspace(-3, 3, 7) ** 2)
    kernel = torch.outer(line, line) / line.sum() ** 2
    wanted = functional.conv2d(u, kernel.expand(3, 1, 7, 7), padding=3, groups=3)
    assert torch.allclose(smooth(u, 7), wanted, atol=1e-6)
    assert torch.equal(smooth(u, 1), u)


def test_neighbours_lie_in_the_ball_around() -> None:
    x = images()
    moved = jump(x, STREAM, ball=Linf(0.1).norm.ball, radius=0.3, step=0, number=0) - x
    assert 0.29 < float(moved.abs().max()) <= 0.3 + 1e-6
    assert abs(float(moved.mean())) < 0.01
    assert not torch.equal(moved, jump(x, STREAM, ball=Linf(0.1).norm.ball, radius=0.3, step=0, number=1) - x)
    assert torch.equal(shrink(x, STREAM, power=2), x / 4)


# the gradient of a changed input


def begin(**options: object) -> Oracle:
    w = world()
    return Oracle.begin(w.prepared, Linf(0.05), Untargeted(), w.x, w.y, ids=w.ids, **options)  # type: ignore[arg-type]


def test_a_transform_is_differentiated_and_makes_no_success() -> None:
    """The gradient is by the chain rule; a changed input that is adversarial is no success at the point."""
    oracle, w = begin(), world()
    x = oracle.x0

    def change(x: Tensor, stream: Stream) -> Tensor:
        assert torch.equal(stream.keys, oracle.stream.keys)
        return 1 - x / 2

    answer = oracle.gradient(x, cross_entropy, transform=change)
    p = x.clone().requires_grad_()
    losses = functional.cross_entropy(w.module(1 - p / 2), w.y, reduction="none")
    assert torch.allclose(answer.gradient, torch.autograd.grad(losses.sum(), p)[0], atol=1e-4)
    assert torch.allclose(answer.loss, losses.detach(), atol=1e-4)
    assert bool((answer.margin > 0).any())
    assert not bool(oracle.ledger.broken.any())
    assert int(oracle.ledger.judged.sum()) == 0
    assert torch.equal(oracle.ledger.forwards, torch.ones_like(oracle.ledger.forwards))
    assert bool((oracle.ledger.closest_margin == -torch.inf).all())


def test_streams_follow_the_rows_asked_about() -> None:
    oracle = begin()
    oracle.ledger.closed[::2] = True
    rows = torch.tensor([3, 1, 1, 5])
    seen = []

    def change(x: Tensor, stream: Stream) -> Tensor:
        seen.append(stream.keys)
        return x

    oracle.gradient(oracle.x0[rows], cross_entropy, rows, transform=change)
    assert torch.equal(torch.cat(seen), oracle.stream.keys[rows])
    seen.clear()
    oracle.gradient(oracle.x0, cross_entropy, transform=change)
    assert torch.equal(torch.cat(seen), oracle.stream.keys[1::2])


def test_draws_change_an_input_anew() -> None:
    oracle = begin(draws=3)
    seen = []

    def change(x: Tensor, stream: Stream) -> Tensor:
        seen.append(stream.keys)
        return x

    oracle.gradient(oracle.x0, logit_difference, transform=change)
    assert len(seen) == 3
    assert len({tuple(keys.tolist()) for keys in seen}) == 3


# the family


def first_step(attack: MIFGSM) -> tuple[Tensor, Tensor]:
    """The first point of an attack, less x0, and the plain gradient at x0."""
    oracle = begin(stop=False)
    g = oracle.gradient(oracle.x0, cross_entropy).gradient
    x = replace(attack, steps=1).run(oracle, oracle.x0, replace(oracle.threat, bounds=(-10.0, 10.0)))
    return x - oracle.x0, g


def test_translation_invariant_steps_follow_the_smoothed_gradient() -> None:
    moved, g = first_step(TIFGSM(kernel=3))
    assert torch.equal(moved.sign(), smooth(g, 3).sign())
    assert not torch.equal(moved.sign(), g.sign())


def test_scale_invariant_steps_follow_the_mean_over_scales() -> None:
    moved, _ = first_step(SIFGSM(scales=3))
    w = world()
    p = w.x.clone().requires_grad_()
    losses = sum(functional.cross_entropy(w.module(p / 2**i), w.y, reduction="none") for i in range(3))
    wanted = torch.autograd.grad(losses.sum(), p)[0]
    clear = wanted.abs() > 1e-4
    assert torch.equal(moved.sign()[clear], wanted.sign()[clear])


def test_variance_tunes_the_second_step_alone() -> None:
    """The first step of VMI-FGSM is that of MI-FGSM; the second is not where the gradient changes around."""
    one, g = first_step(VMIFGSM(neighbours=3))
    assert torch.equal(one.sign(), g.sign())
    ends = []
    for attack in (VMIFGSM(steps=2, neighbours=3, radius=4.0), MIFGSM(steps=2)):
        oracle = begin(stop=False)
        ends.append(attack.run(oracle, oracle.x0, oracle.threat))
    assert not torch.equal(ends[0], ends[1])


def test_settings_that_make_no_sense_are_refused() -> None:
    for options in ({"kernel": 4}, {"scales": 0}, {"resize": 0.0}, {"diversity": 1.5}):
        with pytest.raises(RequestError):
            MIFGSM(**options)  # type: ignore[arg-type]
    flat = Linear(torch.randn(3, 5), torch.zeros(3)).eval()
    x = torch.rand(4, 5)
    with pytest.raises(Refused, match="images"):
        DIFGSM()(prepare(TorchModel(flat, classes=3), x, rows=16), x, flat(x).argmax(1), threat="linf:0.1")


# surrogates


def members(n: int = 3) -> list[TorchModel]:
    return [TorchModel(frozen_module(seed), classes=6, name=f"m{seed}") for seed in range(2, 2 + n)]


def test_an_ensemble_is_the_mean_of_logits() -> None:
    models, x = members(), world().x
    with torch.no_grad():
        logits = [model.logits(x) for model in models]
        assert torch.allclose(Ensemble(models).logits(x), (logits[0] + logits[1] + logits[2]) / 3, atol=1e-5)
        weighted = Ensemble(models, weights=[0.5, 0.25, 0.25]).logits(x)
        assert torch.allclose(weighted, logits[0] / 2 + logits[1] / 4 + logits[2] / 4, atol=1e-5)
        twin = Ensemble(models).double()
        assert twin is not None
        assert twin.logits(x.double()).dtype == torch.float64


def test_models_that_do_not_fit_together_are_refused() -> None:
    model = members(1)[0]
    with pytest.raises(ModelError, match="no models"):
        Ensemble([])
    with pytest.raises(ModelError, match="classes"):
        Ensemble([model, TorchModel(frozen_module(), classes=5)])
    with pytest.raises(ModelError, match="sum to 1"):
        Ensemble([model, model], weights=[0.5, 0.6])
    with pytest.raises(ModelError, match="bounds"):
        surrogate(world().prepared, [TorchModel(frozen_module(), classes=6, bounds=(-1.0, 1.0))], world().x)


class Counting(TorchModel):
    """A victim that grants labels alone, and counts what it is asked."""

    asked = 0
    gives = Knowledge.LABEL

    def logits(self, x: Tensor) -> Tensor:
        Counting.asked += len(x) if x.dtype == torch.float32 else 0  # its float64 twin confirms and is no query
        return super().logits(x)


@pytest.mark.parametrize("name", ["pgd", "di-fgsm", "mi-fgsm", "si-fgsm"])
def test_a_transferred_attack_asks_the_victim_once_an_example(name: str) -> None:
    """The guide does the work; what breaks the surrogate is carried over, and the judge sees the last points alone."""
    w = world()
    victim = Counting(w.module, classes=6)
    near = frozen_module()
    with torch.no_grad():
        near[0].weight.add_(0.02 * torch.randn(near[0].weight.shape, generator=torch.Generator().manual_seed(0)))
    alone = prepare(victim, w.x, rows=16, accelerate=False)
    alone = replace(alone, judge=replace(alone.judge, quantum=1))
    prepared = surrogate(alone, [TorchModel(near, classes=6), *members(1)], w.x)
    assert prepared.surrogate is not None
    assert isinstance(prepared.surrogate.model, Ensemble)
    assert prepared.judge.model is victim
    threat = Linf(0.02, knowledge=Knowledge.TRANSFER)
    attack = find(name)()
    attack.check(threat, Untargeted(), victim)
    oracle = Oracle.begin(prepared, threat, Untargeted(), w.x, w.y, ids=w.ids, reference=w.reference)
    assert oracle.aim.reference is not None
    torch.testing.assert_close(oracle.aim.reference, prepared.surrogate.scores(w.x))  # targets are ranked by what one has
    assert not torch.allclose(oracle.aim.reference, w.reference, atol=1e-3)
    Counting.asked = 0
    outcome = attack.on(oracle)
    assert torch.equal(oracle.ledger.judged, 1 + outcome.broken.long())  # asked once, and a success confirmed
    assert Counting.asked == int(oracle.ledger.judged.sum())
    assert int(outcome.forwards.min()) >= 10
    assert 2 <= int(outcome.broken[:-1].sum()) < 11


def test_a_surrogate_that_gives_no_gradient_is_refused() -> None:
    w = world()
    prepared = surrogate(w.prepared, members(1), w.x)
    assert prepared.surrogate is not None
    prepared.surrogate.model.gives = Knowledge.SCORES
    with pytest.raises(Refused, match="gives scores"):
        PGD()(prepared, w.x, w.y, threat=Linf(0.06, knowledge=Knowledge.TRANSFER))


def test_lgv_collects_models_on_the_way() -> None:
    module, w = frozen_module(), world()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    generator = torch.random.get_rng_state()
    collected = lgv(module, w.x, w.y, models=3, epochs=6, batch=6, rate=0.01)
    assert len(collected) == 3
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(not part.training for made in collected for part in made.modules())
    again = lgv(module, w.x, w.y, models=3, epochs=6, batch=6, rate=0.01)
    for one, two in zip(collected, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    weights = [made[0].weight for made in collected]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    prepared = surrogate(w.prepared, [TorchModel(made, classes=6) for made in collected], w.x)
    assert prepared.surrogate is not None
    assert isinstance(prepared.surrogate.model, Ensemble)
    assert isinstance(collected[0], nn.Module)


# audits by surrogates


class Labels(TorchModel):
    """A victim that grants labels alone."""

    gives = Knowledge.LABEL


@pytest.mark.parametrize("text", ["linf:0.06", "l2:0.5", "l1:4", "l0:12"])
@pytest.mark.parametrize("profile", ["quick", "standard"])
def test_an_audit_by_surrogates_asks_the_model_once_an_example(text: str, profile: str) -> None:
    w = world()
    victim = Labels(w.module, classes=6)
    near = frozen_module()
    with torch.no_grad():
        near[0].weight.add_(0.02 * torch.randn(near[0].weight.shape, generator=torch.Generator().manual_seed(0)))
    found = mohs.audit(victim, (w.x, w.y), threats=[text], surrogates=[near, frozen_module(2)], profile=profile, rows=16)
    (threat,) = found.verdict.threats
    assert threat.text == f"{text}+knowledge:transfer"
    assert found.run.spec["plan"]["threats"][0]["knowledge"] == "transfer"
    assert found.verdict.profile.startswith(f"{profile}-transfer")
    assert [stage.name for stage in threat.stages] == ["transfer"]
    assert threat.score.undecided == 0
    assert threat.boundary > 0
    rows = found.run.records().to_pylist()
    made = [row for row in rows if row["stage"] == 0]
    assert len(made) == threat.score.n - threat.natural
    for row in made:  # asked once, and a success confirmed
        assert row["queries"] - row["forwards"] == 1 + (row["status"] == "broken")
        assert row["backwards"] > 0
    assert len(found.run.spec["surrogates"]) == 2


def test_what_is_transferred_is_a_whole_attack() -> None:
    def attack(profile: str, threat: str) -> Attack:
        (step,) = transferred(PROFILES[profile]).compose(parse_threat(threat), TenClasses())
        return step.attacks[0]

    for threat in ("linf:0.1", "l2:0.5"):
        assert (attack("quick", threat), attack("standard", threat)) == (MIFGSM(), VMIFGSM())
    assert attack("standard", "l1:4") == APGD(steps=100, multi_epsilon=True)
    assert attack("standard", "rotation:30deg") == PGD(steps=100, step_size=1.0, loss=logit_difference)


def test_surrogates_that_break_the_model_less_the_more_they_differ() -> None:
    w = world()
    same, other = (
        mohs.audit(w.module, (w.x, w.y), threats=["linf:0.03"], surrogates=[frozen_module(seed)], profile="quick", rows=16)
        for seed in (1, 7)
    )
    assert same.robust_accuracy["linf:0.03+knowledge:transfer"] < other.robust_accuracy["linf:0.03+knowledge:transfer"]


def test_a_model_that_refuses_is_attacked_by_surrogates_that_do_not() -> None:
    """With no noise to speak of, what breaks the model breaks its votes."""
    w = world()
    options = {"threats": ["linf:0.03"], "surrogates": [frozen_module()], "profile": "quick", "rows": 16}
    votes = SmoothedModel(as_model(w.module, w.x), sigma=1e-6, samples=4, alpha=0.3)
    bare, through = (mohs.audit(model, (w.x, w.y), **options) for model in (w.module, votes))
    assert bare.verdict.threats[0].boundary > 0
    assert through.verdict.threats[0].score.undecided == 0
    assert through.robust_accuracy == bare.robust_accuracy


def test_surrogates_that_do_not_fit_an_audit_are_refused() -> None:
    w = world()
    wrong = {
        "5 classes": TorchModel(nn.Sequential(*list(frozen_module())[:-1], nn.Linear(256, 5)).eval(), classes=5),
        "does not fit": nn.Sequential(nn.Flatten(), nn.Linear(50, 6)).eval(),
        "gives label,": Labels(frozen_module(2), classes=6),
        "bounds": TorchModel(frozen_module(2), classes=6, bounds=(-1.0, 1.0)),
    }
    for said, model in wrong.items():
        with pytest.raises(ModelError, match=said):
            mohs.audit(w.module, (w.x, w.y), threats=["linf:0.03"], surrogates=[model], profile="quick")
    threats = ["linf:0.03+knowledge:scores"]
    with pytest.raises(RequestError, match="grants scores"):
        mohs.audit(w.module, (w.x, w.y), threats=threats, surrogates=[frozen_module(2)], profile="quick")


def test_an_audit_by_surrogates_is_resumed_with_the_same_ones(tmp_path: Path) -> None:
    w = world()
    options = {"threats": ["linf:0.03"], "profile": "quick", "rows": 16}
    job = make_job(w.module, (w.x, w.y), surrogates=[frozen_module(2)], **options)
    run = Run.create(tmp_path / "run", describe(job))
    with pytest.raises(RunError, match="surrogates"):
        mohs.resume(run.folder, model=w.module, data=(w.x, w.y), surrogates=[frozen_module(3)])
    done = mohs.resume(run.folder, model=w.module, data=(w.x, w.y), surrogates=[frozen_module(2)])
    whole = mohs.audit(w.module, (w.x, w.y), surrogates=[frozen_module(2)], **options)
    assert done.robust_accuracy == whole.robust_accuracy
    columns = ["seconds"]
    assert done.run.records().drop_columns(columns).equals(whole.run.records().drop_columns(columns))


def test_without_surrogates_what_was_made_elsewhere_alone_is_judged(tmp_path: Path) -> None:
    """The model's own gradients are no surrogate's, and bisection asks the model at every radius."""
    w, threat = world(), "linf:0.03+knowledge:transfer"
    options = {"threats": [threat], "profile": "quick", "rows": 16}
    with pytest.raises(RequestError, match=r"apgd-ce, apgd-t: the threat linf:0\.03 grants transfer, and no surrogate was given"):
        mohs.audit(w.module, (w.x, w.y), out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    with pytest.raises(Refused, match="grants transfer, and no surrogate was given"):
        PGD()(w.module, w.x, w.y, threat=threat)
    with pytest.raises(Refused, match="Hybrid starts on a surrogate, and no surrogate was given"):
        Hybrid()(w.module, w.x, w.y, threat="linf:0.03")
    save_file({"point": 0.03 * torch.ones_like(w.x[0])}, tmp_path / "made.safetensors")
    found = mohs.audit(w.module, (w.x, w.y), attacks=[f"replay point={tmp_path / 'made.safetensors'}"], **options)
    stages = found.run.spec["plan"]["threats"][0]["stages"]
    assert [stage["name"] for stage in stages if stage["inapplicable"] is None] == ["replay"]
    assert "asks the model at every radius" in stages[-1]["inapplicable"]

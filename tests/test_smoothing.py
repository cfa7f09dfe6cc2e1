"""Randomised smoothing: certificates against closed forms, their statistics, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from mohs.aim import Aim
from mohs.attacks import PGD
from mohs.certificates import confidence
from mohs.certificates.radii import smoothing
from mohs.certificates.sampling import Sampler
from mohs.certificates.smoothing import AtRadius, Fixed, certify, certify_points, denoised, select
from mohs.defend import SmoothedModel
from mohs.defend.noise import NOISES
from mohs.defend.smooth import votes_needed
from mohs.errors import ModelError, RequestError, RunError, ThreatError, UnknownName
from mohs.models import Prepared, TorchModel, as_model, prepare
from mohs.models.batched import Batched
from mohs.rng import Stream
from mohs.threat import Targeted, Untargeted
from tests.small import Linear, network

W = torch.tensor([3.0, -4.0, 0.5, 1.0])
PHI = NormalDist()


def halves(scale: float = 1.0) -> Linear:
    """Two classes parted by the plane W x = 0.3, at any scale of the logits."""
    return Linear(torch.stack([torch.zeros(4), W]) * scale, torch.tensor([0.0, -0.3]) * scale).eval()


def points(*distances: float) -> Tensor:
    """At these distances from the plane, on the side of class 1."""
    d = torch.tensor(distances)[:, None]
    return W / W.norm() * (d + 0.3 / W.norm())


def ready(module: nn.Module, x: Tensor, rows: int = 128) -> Prepared:
    return prepare(as_model(module, x), x[:8], rows=rows)


# the bounds


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (1, 10), (7, 10), (10, 10), (990, 1000), (100_000, 100_000)])
def test_the_lower_bound_is_the_exact_one_sided_one(hits: int, n: int) -> None:
    exact = stats.binomtest(hits, n, alternative="greater").proportion_ci(0.999, method="exact").low
    assert confidence.clopper_pearson(np.array(hits), n, 0.001) == pytest.approx(exact, rel=1e-9)
    if hits == n:
        assert exact == pytest.approx(0.001 ** (1 / n), rel=1e-12)  # and not 0.0005


def test_what_is_needed_is_the_least_that_will_do() -> None:
    for p, n in ((0.5, 10), (0.5, 200), (0.9, 500)):
        k = confidence.hits_needed(n, p, 0.001)
        bounds = confidence.clopper_pearson(np.array([k - 1, min(k, n)]), n, 0.001)
        assert bounds[0] <= p < bounds[1]
        least = confidence.draws_needed(p, 0.001)
        assert 0.001 ** (1 / least) > p >= 0.001 ** (1 / (least - 1))
    assert confidence.hits_needed(9, 0.5, 0.001) == 10
    for n in range(60):
        rejected = [k for k in range(n // 2 + 1, n + 1) if stats.binomtest(k, n).pvalue <= 0.01]
        assert votes_needed(60, 0.01)[n] == (rejected[0] if rejected else n + 1)


def test_evidence_is_the_mean_likelihood_ratio() -> None:
    p, hits, misses = 0.7, np.array([8]), np.array([2])
    for found, low, high in ((confidence.above, p, 1.0), (confidence.below, 0.0, p)):
        q = np.linspace(low, high, 200_001)[1:-1]
        ratio = (q / p) ** 8 * ((1 - q) / (1 - p)) ** 2
        assert math.exp(found(hits, misses, p)[0]) == pytest.approx(ratio.mean(), rel=1e-4)


def test_looking_often_keeps_the_confidence() -> None:
    """At the threshold itself, of 2,000 runs looked at every 8 draws, at most alpha are certified; a bound that is exact for one
    look alone fails here."""
    rule = AtRadius(smoothing("l2", 1.0, 1), 0.5, 800, 0.05)
    draw = np.random.default_rng(0)
    hits, naive = np.zeros(2000, np.int64), np.zeros(2000, bool)
    going, certified = np.ones(2000, bool), np.zeros(2000, bool)
    for seen in range(8, 801, 8):
        hits[going] += draw.binomial(8, rule.p, int(going.sum()))
        certified |= going & (rule.radius(hits, np.full(2000, seen)) > 0)
        naive |= going & (confidence.clopper_pearson(hits, seen, 0.05) > rule.p)
        going &= rule.undecided(hits, np.full(2000, seen))
    assert 0 < certified.sum() <= 0.05 * 2000
    assert naive.sum() > 0.15 * 2000


# certificates


def test_a_linear_classifier_is_certified_up_to_its_distance_from_below() -> None:
    x = points(0.05, 0.2, 0.4)
    prepared, kind = ready(halves(), x), smoothing("l2", 0.25, 4)
    gaps = []
    for n in (100, 1000, 20_000):
        found = certify_points(prepared, x, None, Fixed(kind, n))
        assert (found.predicted[1:] == 1).all()
        assert (found.radius <= [0.05, 0.2, 0.4]).all()
        gaps.append(0.4 - found.radius[2])
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.025
    assert found.radius[1] == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize(("norm", "noise"), [("l1", "laplace"), ("l1", "uniform"), ("l1", "gaussian"), ("linf", "gaussian")])
def test_the_radii_of_other_norms_and_noises(norm: str, noise: str) -> None:
    """Of the plane x_0 = c, whose distance is the same in l1 and linf: the probability in closed form is that of the first
    coordinate, of standard deviation sigma."""
    sigma, d = 0.5, 4
    kind = smoothing(norm, sigma, d, noise)
    spread = {
        "gaussian": stats.norm(scale=sigma),
        "laplace": stats.laplace(scale=sigma / math.sqrt(2)),
        "uniform": stats.uniform(-math.sqrt(3) * sigma, 2 * math.sqrt(3) * sigma),
    }[noise]
    for distance in (0.05, 0.3, 0.6):
        held = kind.radius(float(spread.cdf(distance)))
        assert held == pytest.approx(distance / (math.sqrt(d) if norm == "linf" else 1), rel=1e-6)  # tight along one axis
        assert kind.probability(held) == pytest.approx(spread.cdf(distance), rel=1e-9)
    generator = torch.Generator().manual_seed(0)
    drawn = NOISES[noise](torch.empty(200_000), sigma, generator).double().numpy()
    assert stats.kstest(drawn, spread.cdf).pvalue > 1e-3


def test_abstention_and_a_wrong_class() -> None:
    x = points(0.0005, -0.3, 0.3)
    found = certify_points(ready(halves(), x), x, torch.tensor([1, 1, 1]), Fixed(smoothing("l2", 0.25, 4), 500))
    assert found.predicted.tolist()[1:] == [0, 1]
    assert found.radius[0] == 0  # nothing to be said at the plane
    assert found.samples[1] == 0  # wrong at every radius
    assert found.radius[2] > 0.2
    assert found.samples[2] == 500


def test_a_lost_cause_is_given_up_without_a_change_of_the_answer() -> None:
    rule = Fixed(smoothing("l2", 0.25, 4), 1000)
    for hits in range(0, 1001, 13):
        wins = rule.radius(np.array([hits]), np.array([1000]))[0] > 0
        assert wins == (hits >= rule.needed)
    assert rule.undecided(np.array([0]), np.array([1000 - rule.needed]))[0]
    assert not rule.undecided(np.array([0]), np.array([1001 - rule.needed]))[0]


def test_one_radius_is_decided_in_few_samples() -> None:
    x = points(0.05, 0.35, 0.5, 0.25)
    found = certify_points(
        ready(halves(), x), x, torch.ones(4, dtype=torch.int64), AtRadius(smoothing("l2", 0.25, 4), 0.25, 3000)
    )
    assert found.radius[:3].tolist() == [0, 0.25, 0.25]
    assert found.samples[0] < found.samples[1] < 1500
    assert found.samples[2] < 300
    assert found.radius[3] == 0  # just at the radius: never certified, and too near to be refuted
    assert found.open.tolist() == [False, False, False, True]


def test_selection_and_estimation_draw_apart() -> None:
    """Where both classes are equally likely, a bound at alpha is above 1/2 in alpha of all cases. With the samples that chose the
    class it would be twice as often."""
    n, alpha = 1500, 0.2
    x = points(0.0).expand(n, 4).contiguous()
    found = certify_points(ready(halves(), x), x, None, Fixed(smoothing("l2", 0.25, 4), 100, alpha), n0=100)
    assert 0.12 * n < (found.radius > 0).sum() < 0.24 * n


def test_an_example_gets_the_same_in_any_company() -> None:
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    prepared = ready(network(), x)
    ids, kind = torch.tensor([5, 9, 2, 44, 7, 1]), smoothing("l2", 0.4, 64)
    for rule in (Fixed(kind, 333), AtRadius(kind, 0.2, 500, 0.01)):
        together = certify_points(prepared, x, None, rule, n0=50, ids=ids)
        for i in (0, 3, 5):
            alone = certify_points(prepared, x[i : i + 1], None, rule, n0=50, ids=ids[i : i + 1])
            for name in ("predicted", "hits", "samples", "radius"):
                assert getattr(alone, name)[0] == getattr(together, name)[i], name
        assert len(np.unique(together.hits)) > 1


class Bent(nn.Module):
    """A guide that is off by what `slack` allows."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(x)), 0.2 - (x @ W - 0.3)], 1)


def test_near_ties_are_the_judges_to_decide() -> None:
    x = points(0.0)
    true = ready(halves(0.1), x)
    guide = Prepared(true.judge, type(true.guide)(TorchModel(Bent(), classes=2), 128, 1, slack=1e9))
    kind = smoothing("l2", 0.25, 4)
    sampler = [Sampler(p, x, kind, Stream.of(0, torch.tensor([0]))) for p in (true, guide)]
    assert np.array_equal(sampler[0](np.array([128]))[1], sampler[1](np.array([128]))[1])


def test_a_model_that_computes_no_number_is_certified_nothing() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 2), math.nan)

    x = points(0.1)
    plain = Batched(TorchModel(Broken(), classes=2), 128, 1)
    guide = Prepared(plain, plain)  # type: ignore[arg-type]
    object.__setattr__(plain, "slack", 0.0)
    sampler = Sampler(guide, x, smoothing("l2", 0.25, 4), Stream.of(0, torch.tensor([0])))
    assert select(sampler, 2, 64).tolist() == [-1]


def test_a_denoiser_stands_before_the_model() -> None:
    class Mean(nn.Module):
        """Along W alone."""

        def forward(self, x: Tensor) -> Tensor:
            return (x @ W / W.square().sum())[:, None] * W

    x = points(0.2, 0.4)
    y = torch.ones(2, dtype=torch.int64)
    model = as_model(halves(), x)
    behind = denoised(model, Mean().eval(), x)
    assert torch.allclose(behind.logits(x), model.logits(x), atol=1e-5)
    found = certify(halves(), (x, y), sigma=0.25, samples=2000, denoiser=Mean().eval(), bounds=(-9.0, 9.0))
    assert (found.certificates.radius > 0.1).all()
    with pytest.raises(ModelError, match="gives back the shape it takes"):
        denoised(model, nn.Flatten(0), x)
    with pytest.raises(ModelError, match="there is no Python module"):
        denoised(model, "nowhere.at_all:made", x)


# the smoothed classifier


def test_predict_votes_abstains_and_can_be_attacked() -> None:
    x = points(0.4, 0.001)
    model = SmoothedModel(as_model(halves(), x), sigma=0.25, samples=60)
    stream = Stream.of(0, torch.arange(2))
    logits = model.drawn(stream).logits(x)
    assert logits.argmax(1).tolist() == [1, model.abstained]
    assert torch.equal(model.drawn(stream).logits(x), logits)
    assert torch.equal(model.drawn(stream.take(torch.tensor([1]))).logits(x[1:]), logits[1:])
    asked = x.clone().requires_grad_()
    z = model.drawn(stream).logits(asked)
    assert torch.equal(z.detach(), logits)
    (gradient,) = torch.autograd.grad((z[:, 0] - z[:, 1]).sum(), asked)
    assert torch.nn.functional.cosine_similarity(gradient, -W.expand(2, 4)).min() > 0.999


def test_an_abstention_is_an_error_and_nobodys_target() -> None:
    model = SmoothedModel(as_model(halves(), points(0.4)), sigma=0.25, samples=20)
    logits = torch.tensor([[1.0, 2.0, 3.0]])  # of 0, 1 and no answer
    aim = Aim(torch.tensor([1]), reference=logits)
    assert Untargeted().facing(model).margin(logits, aim) > 0
    assert Untargeted().facing(model).margin(logits[:, [0, 2, 1]], aim) < 0
    assert [goal.to for goal in Targeted(to="all").facing(model).cases(3)] == [0, 1]
    for rule in ("next", "least-likely", "random"):
        goal = Targeted(to=rule).facing(model)
        assert goal.aim(aim.y, logits, Stream.of(0, torch.arange(1))).target == 0
    assert not Targeted(to=2).facing(model).applies(aim._replace(target=torch.tensor([2])))


def test_no_attack_breaks_what_is_certified() -> None:
    x, y = points(0.02, 0.05, 0.3, 0.5, 0.6), torch.ones(5, dtype=torch.int64)
    sigma, radius = 0.25, 0.35
    model = as_model(halves(), x, (-9.0, 9.0))
    held = certify_points(prepare(model, x), x, y, AtRadius(smoothing("l2", sigma, 4), radius, 5000)).radius > 0
    outcome = PGD(steps=3, step_size=1.0)(SmoothedModel(model, sigma=sigma, samples=300), x, y, threat=f"l2:{radius}")
    assert held.tolist() == [False, False, False, True, True]
    assert outcome.broken[:2].all()
    assert not outcome.broken[torch.from_numpy(held)].any()


# requests


@pytest.mark.parametrize(
    ("error", "said", "options"),
    [
        (RequestError, "certifies nothing", {"sigma": 0.0}),
        (RequestError, "at least 10,", {"samples": 9}),
        (RequestError, "larger sigma", {"radii": [1.5], "samples": 1000}),
        (RequestError, "at least", {"at_radius": 0.9, "samples": 1000}),
        (RequestError, "no number of samples", {"at_radius": 100.0}),
        (RequestError, "should be above 0", {"at_radius": 0.0}),
        (RequestError, "alpha", {"alpha": 0.0}),
        (RequestError, "select no class", {"selection": 0}),
        (ThreatError, "no certificate for 'l0'", {"norm": "l0"}),
        (ThreatError, "linf takes gaussian", {"norm": "linf", "noise": "uniform"}),
        (UnknownName, "gaussian", {"noise": "gausian"}),
    ],
)
def test_a_wrong_request_says_what_would_do(
    error: type[Exception], said: str, options: dict[str, object], tmp_path: Path
) -> None:
    x = points(0.3)
    request: dict[str, object] = {"sigma": 0.25, "bounds": (-9.0, 9.0), "out": tmp_path / "out", **options}
    with pytest.raises(error, match=said):
        certify(halves(), (x, torch.ones(1, dtype=torch.int64)), **request)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_what_is_said_to_be_enough_is_enough() -> None:
    kind = smoothing("l2", 0.25, 4)
    for rule in (lambda n: Fixed(kind, n), lambda n: AtRadius(kind, 0.6, n), lambda n: AtRadius(kind, 1.75, n)):
        with pytest.raises(RequestError) as error:
            rule(5)
        least = int(str(error.value).partition("at least ")[2].partition(", or")[0].replace(",", ""))
        enough = rule(least)
        assert enough.radius(np.array([least]), np.array([least]))[0] > 0
        assert enough.radius(np.array([least - 1]), np.array([least - 1]))[0] == 0
        with pytest.raises(RequestError):
            rule(least - 1)


def test_a_result_is_kept_as_json_and_as_a_page(tmp_path: Path) -> None:
    x, y = points(0.3, 0.1, -0.2), torch.ones(3, dtype=torch.int64)
    model = TorchModel(halves(), classes=2, bounds=(-9.0, 9.0), name="<script>evil</script>")
    found = certify(model, (x, y), sigma=0.25, samples=500, radii=[0.0, 0.05, 0.2], out=tmp_path / "out")
    kept = json.loads((tmp_path / "out/smoothing.json").read_text())
    assert [row["low"] for row in kept["certified_accuracy"]] == [
        pytest.approx(2 / 3),
        pytest.approx(2 / 3),
        pytest.approx(1 / 3),
    ]
    assert kept["wrong"] == 1
    assert found.wrong == 1
    assert [row["radius"] > 0 for row in kept["examples"]] == [True, True, False]
    page = (tmp_path / "out/report.html").read_text()
    assert "<script>evil" not in page
    assert "of the smoothed classifier" in page
    assert "http" not in page
    for again in (lambda: certify(model, (x, y), sigma=0.25, samples=500, out=tmp_path), lambda: found.save(tmp_path / "out")):
        with pytest.raises(RunError, match="exists and is not empty"):
            again()
    with pytest.raises(RunError, match="is a file"):
        certify(model, (x, y), sigma=0.25, samples=500, out=tmp_path / "out/report.html")

"""Training on bounds: they bound, they are those of the certificates, their gradients are right, and what comes out is proved."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mohs.certificates import Crown, Interval
from mohs.certificates.graph import Live, Unsupported
from mohs.errors import ModelError, RequestError
from mohs.hardening import harden
from mohs.threat import Linf, parse_threat
from mohs.train import parse
from mohs.train.batch import Batch
from mohs.train.crown_ibp import CROWNIBP
from mohs.train.ibp import IBP, worst
from mohs.train.loop import fit
from mohs.train.pgd import PGDTraining
from mohs.train.schedules import smooth_ramp
from tests.test_train import Stopped, batch, data, network, same, stop_after, task, weights

RECIPES = [IBP(), CROWNIBP()]


def relu(*hidden: int, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        widths, parts = [16, *hidden, 2], [nn.Flatten()]
        for a, b in itertools.pairwise(widths):
            parts += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*parts[:-1])


def normalised() -> nn.Module:
    """In training mode, with batch norm whose running averages are far from what a batch has."""
    module = network()
    module[3] = nn.Identity()
    return module.train()


def step(module: nn.Module, progress: float = 1.0, n: int = 16) -> Batch:
    return replace(batch(module, n), progress=progress, aids={"operators": Live(module)})


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("made", [lambda: relu(8, 8), normalised])
def test_the_loss_is_above_that_of_every_point_of_the_ball(recipe: IBP, made: object) -> None:
    module = made()
    here = step(module, progress=0.5)  # epsilon is about half of the whole
    grown = smooth_ramp((0.5 - recipe.warmup) / (recipe.ramp - recipe.warmup))
    inside = here.against(Linf(grown * 0.1))
    operators = here.aids["operators"](here.x0)  # with the statistics of the clean batch
    bound = worst(recipe.least(here, grown)).detach()
    seen = replace(inside, network=lambda x: operators.logits(x))
    points = [inside.threat.random_point(here.x0, here.stream.at("try", k)) for k in range(20)]
    points.append(PGDTraining().attacked(replace(inside, network=Frozen(operators))))
    highest = torch.stack([seen.misled(seen.network(point)) for point in points]).amax(0).detach()
    assert (highest <= bound + 1e-5).all()
    assert (highest > seen.misled(seen.network(here.x0))).all()  # the points are worse than the examples
    assert bound.mean() < 3 * highest.mean() + 1  # and the bound says something


class Frozen(nn.Module):
    def __init__(self, operators: object) -> None:
        super().__init__()
        self.operators = operators

    def forward(self, x: Tensor) -> Tensor:
        return self.operators.logits(x)


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sin()


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_worst_of_a_linear_network_is_known(recipe: IBP) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    here = step(module)
    here.x0 = 0.3 + 0.2 * here.x0  # no bound of the inputs within reach
    w, z = module[1].weight, module(here.x0)
    logits = torch.zeros(len(z), 3)
    for k in range(3):
        logits[:, k] = z[:, k] - z.gather(1, here.y[:, None])[:, 0] + 0.1 * (w[k] - w[here.y]).abs().sum(1)
    logits.scatter_(1, here.y[:, None], 0.0)
    expected = functional.cross_entropy(logits, here.y)
    loss = 0.5 * functional.cross_entropy(z, here.y) + 0.5 * expected
    torch.testing.assert_close(recipe.loss(here), loss, rtol=1e-4, atol=1e-5)


def test_the_bounds_are_those_of_the_certificates() -> None:
    module = relu(12).eval()  # of one hidden layer, whose box is exact in both
    here = step(module)
    interval, crown = (kind()(module, here.x0, here.y, threat=here.threat).float() for kind in (Interval, Crown))
    torch.testing.assert_close(IBP().least(here, 1.0), interval, rtol=0, atol=1e-4)
    torch.testing.assert_close(CROWNIBP(beta=1.0).least(here, 1.0), crown, rtol=0, atol=1e-4)
    torch.testing.assert_close(CROWNIBP().least(here, 1.0), interval, rtol=0, atol=1e-4)
    half = here.against(Linf(0.05))
    least = [recipe.least(half, 1.0) for recipe in (CROWNIBP(beta=1.0), IBP())]
    torch.testing.assert_close(CROWNIBP().least(here, 0.5), 0.5 * least[0] + 0.5 * least[1])
    assert (crown - interval).abs().max() > 0.01


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("made", [lambda: relu(8, 8), normalised])
def test_gradients_are_those_of_finite_differences(recipe: IBP, made: object) -> None:
    module = made().double()
    here = step(module, progress=0.4)
    here.x0 = here.x0.double()
    recipe.loss(here).backward()
    with torch.no_grad():
        for parameter in module.parameters():
            direction = torch.randn(parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
            losses = []
            for h in (1e-6, -2e-6):
                parameter += h * direction
                losses.append(recipe.loss(here))
            parameter += 1e-6 * direction
            assert parameter.grad is not None
            expected = (parameter.grad * direction).sum()
            torch.testing.assert_close((losses[0] - losses[1]) / 2e-6, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_begins_as_standard_training(recipe: IBP) -> None:
    module = relu(8)
    expected = functional.cross_entropy(module(batch(module).x0), batch(module).y)
    assert torch.equal(recipe.loss(step(module, progress=0.0)), expected)
    assert torch.equal(recipe.loss(step(module, progress=recipe.warmup)), expected)
    here = step(module, progress=0.4)
    assert recipe.loss(here) > expected + 1e-3
    torch.testing.assert_close(worst(recipe.least(here, 0.0)).mean(), expected, rtol=1e-4, atol=1e-4)


def test_epsilon_grows_smoothly_and_kappa_falls() -> None:
    assert [smooth_ramp(p) for p in (-0.1, 0.0, 1.0, 1.1)] == pytest.approx([0, 0, 1, 1])
    values = [smooth_ramp(k / 1000) for k in range(1001)]
    slopes = [1000 * (b - a) for a, b in itertools.pairwise(values)]
    assert min(slopes) >= 0
    assert max(abs(b - a) for a, b in itertools.pairwise(slopes)) < 0.02  # no jump in the slope
    assert slopes[400] == pytest.approx(slopes[900]) == pytest.approx(16 / 13)
    assert smooth_ramp(0.25) == pytest.approx(1 / 13)
    here = step(relu(8), progress=0.6)
    clean = functional.cross_entropy(here.network(here.x0), here.y)
    bound = worst(IBP().least(here, 1.0)).mean()
    torch.testing.assert_close(IBP(kappa=0.2).loss(here), 0.2 * clean + 0.8 * bound)
    torch.testing.assert_close(IBP(kappa=1.0).loss(here), clean)


def test_a_bound_leaves_no_trace_and_a_step_one() -> None:
    module = normalised()
    before = weights(module)
    live = Live(module)
    operators = live(batch(module).x0)
    assert same(before, weights(module))
    torch.testing.assert_close(operators.logits(batch(module).x0), copy.deepcopy(module)(batch(module).x0))
    IBP().loss(replace(step(module), aids={"operators": live}))
    assert module[1].num_batches_tracked == 1
    module.eval()
    inference = live(batch(module).x0)  # by the running averages
    torch.testing.assert_close(inference.logits(batch(module).x0), module(batch(module).x0))


def test_what_it_trains_is_proved(tmp_path: Path) -> None:
    settings = {"threat": "linf:0.1", "test": data(32, seed=1), "epochs": 10, "batch": 32, "rate": 0.2}
    found = harden(relu(8), data(128), recipe="crown-ibp", out=tmp_path / "out", **settings)
    assert found.after is not None
    facts = found.facts
    assert facts["before"]["proved_accuracy"] < 0.2
    assert facts["after"]["proved_accuracy"] > 0.7
    assert facts["after"]["proved_accuracy"] <= facts["after"]["robust_accuracy"]
    proved = [row["proved"] for row in found.history]
    assert found.standing.best_epoch == proved.index(max(proved))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "intervals prove" in page
    assert "the best is" in page


def test_patience_waits_for_the_whole_epsilon(tmp_path: Path) -> None:
    trained = task(IBP(ramp=0.5), relu(8), epochs=20, patience=2, rate=1e-9)
    trained.aids["operators"] = Live(trained.network)
    found = fit(trained, tmp_path)
    assert found.stopped
    assert len(found.history) == 13  # two after the tenth, which is the first at the whole epsilon


def test_stopped_and_gone_on_with_the_weights_are_the_same(tmp_path: Path) -> None:
    def fresh() -> object:
        made = task(CROWNIBP(), normalised())
        made.aids["operators"] = Live(made.network)
        return made

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    once = fit(fresh(), whole)
    with pytest.raises(Stopped):
        fit(fresh(), parts, stop_after(2))
    twice = fit(fresh(), parts)
    assert same(once.best, twice.best)
    assert [row["loss"] for row in once.history] == [row["loss"] for row in twice.history]


def test_what_it_cannot_train_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RequestError, match="hardens against linf, and the threat is l2"):
        harden(relu(8), data(64), recipe="ibp", threat="l2:0.1", batch=32, out=out)
    with pytest.raises(RequestError, match="give --threat"):
        harden(relu(8), data(64), recipe="crown-ibp", batch=32, out=out)
    with pytest.raises(ModelError, match=r"the network draws \(aten.*as dropout does"):
        harden(network(), data(64), recipe="ibp", threat="linf:0.1", batch=32, out=out)
    with pytest.raises(RequestError, match="one label an example"):
        harden(relu(8), data(64), recipe="ibp", threat="linf:0.1", batch=32, augment=("mixup",), out=out)
    with pytest.raises(RequestError, match="attacks no inputs"):
        harden(relu(8), data(64), recipe="ibp+awp", threat="linf:0.1", batch=32, out=out)
    with pytest.raises(Unsupported, match=r"no bound covers the operator aten\.sin"):
        harden(nn.Sequential(relu(8), Sine()), data(64), recipe="ibp", threat="linf:0.1", batch=32, out=out)
    with pytest.raises(RequestError, match="between"):
        harden(relu(8), data(64), recipe="ibp", warmup=0.7, threat="linf:0.1", batch=32, out=out)
    with pytest.raises(RequestError, match="from 0 to 1, and is 2"):
        harden(relu(8), data(64), recipe="crown-ibp", beta=2.0, threat="linf:0.1", batch=32, out=out)
    assert not out.exists()


def test_a_modifier_leaves_it_what_it_is(tmp_path: Path) -> None:
    recipe, (smooth,) = parse("ibp+smooth", {"activation": "softplus:5", "anneal": 50.0})
    module = smooth.architecture(relu(8))
    whole = smooth.around(recipe)
    assert whole.certified
    assert whole.settled == recipe.settled
    trained = task(whole, module, epochs=3)
    trained.aids["operators"] = Live(trained.network)
    assert all("proved" in row for row in fit(trained, tmp_path).history)
    assert parse_threat("linf:0.1") == Linf(0.1)

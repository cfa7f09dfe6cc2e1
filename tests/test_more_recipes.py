"""What more recipes promise, in closed form: sources and shared changes, attacks of the table, class manifolds, smoothing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from docs.recipes import PAGE, page
from torch import Tensor, nn
from torch.nn import functional

from mohs.errors import RequestError, UnknownName
from mohs.geometry.solve import length
from mohs.hardening import harden
from mohs.models.sustainability import layer_regularised
from mohs.rng import Stream
from mohs.threat import L2, Linf, ManifoldThreat, PerceptualThreat, parse_threat
from mohs.train import Recipe, parse
from mohs.train.adversary import facing
from mohs.train.attack import ByAttack, Perceptual
from mohs.train.batch import Batch
from mohs.train.ensemble import Ensemble
from mohs.train.fast import Fast
from mohs.train.gradient import GradientRegularised
from mohs.train.hat import HAT
from mohs.train.layers import LayerRegularised
from mohs.train.loop import Task, fit
from mohs.train.manifold import Manifolds, OnManifold
from mohs.train.nfgsm import NFGSM
from mohs.train.pgd import PGDTraining
from mohs.train.smoothed import MACER, SmoothAdv, Smoothed
from mohs.train.trades import TRADES
from mohs.train.training import Training
from mohs.train.universal import Universal
from mohs.training_jobs import make_job
from tests.test_train import THREAT, batch, data, network, plain, same, task, weights

EPSILON = THREAT.epsilon


def linear(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))


def away(module: nn.Module, label: Tensor) -> Tensor:
    """The sign of the gradient of the cross-entropy at these labels, of a linear model of two classes."""
    w = module[1].weight.detach()
    toward = torch.where(label[:, None] == 0, w[1] - w[0], w[0] - w[1])
    return toward.sign().view(-1, 1, 4, 4)


def inner(step: Batch) -> Batch:
    """Far from the bounds, so that nothing is clipped."""
    return replace(step, x0=0.4 + 0.2 * step.x0)


# ensemble


def test_ensemble_is_one_step_after_a_random_one_at_the_label_the_source_predicts() -> None:
    source, module = linear(1), plain()
    step = inner(replace(batch(module), aids={"static-0": source}))
    recipe = Ensemble(members=1, decoupled=True, alpha=0.25)
    start = step.x0 + 0.25 * EPSILON * step.stream.at("start").normal(1, 4, 4).sign()
    expected = start + 0.75 * EPSILON * away(source, source(start).argmax(1))
    torch.testing.assert_close(recipe.attacked(step), expected)
    assert torch.equal(recipe.attacked(replace(step, y=1 - step.y)), recipe.attacked(step))  # no true label leaks
    point = recipe.attacked(step)
    clean, attacked = (functional.cross_entropy(module(x), step.y) for x in (step.x0, point))
    torch.testing.assert_close(recipe.outer(step, point), (clean + attacked) / 2)


def test_ensemble_draws_its_source_for_the_joint_batch() -> None:
    module, aids = plain(), {f"static-{k}": linear(k) for k in range(3)}

    def drawn(recipe: Ensemble, n: int) -> list[nn.Module]:
        steps = [replace(batch(module), aids=aids, joint=Stream.of(k, torch.arange(1))) for k in range(n)]
        return [recipe.source(step) for step in steps]

    sources = drawn(Ensemble(), 400)
    for part in (*aids.values(), module):
        assert 70 <= sum(found is part for found in sources) <= 130
    assert not any(found is module for found in drawn(Ensemble(decoupled=True), 50))
    step = replace(batch(module), aids=aids)
    other = replace(batch(module, 4), aids=aids)  # another process of the same batch
    assert Ensemble().source(step) is Ensemble().source(other)
    with pytest.raises(RequestError, match="members should be a whole number, 1 or more"):
        parse("ensemble", {"members": "0"})


def test_the_members_are_trained_first_and_the_best_epoch_is_by_clean_accuracy(tmp_path: Path) -> None:
    settings = {"recipe": "ensemble", "members": 2, "threat": "linf:0.1", "epochs": 3, "batch": 32, "rate": 0.05}
    found = harden(plain(), data(128), out=tmp_path / "out", test=data(32, seed=1), **settings)
    kept = [torch.load(tmp_path / "out" / f"static-{k}" / "checkpoint.pt", weights_only=True)["network"] for k in range(2)]
    assert not same(kept[0], kept[1])
    clean = [row["clean"] for row in found.history]
    assert found.standing.best_epoch == clean.index(max(clean))
    assert not Universal().by_robustness
    assert PGDTraining().by_robustness


# universal


def test_universal_has_one_change_that_climbs_to_the_corner_of_the_ball() -> None:
    module = linear()
    memory: dict[str, Tensor] = {}
    for k in range(1, 7):
        step = inner(replace(batch(module, 5 + k), memory=memory))
        step.y = torch.zeros_like(step.y)
        for loss in Universal(step_size=0.25).losses(step):
            loss.backward()
            seen = step.x0 + memory["change"]
            torch.testing.assert_close(loss, functional.cross_entropy(module(seen), step.y))
        torch.testing.assert_close(memory["change"], min(0.25 * k, 1) * EPSILON * away(module, torch.zeros(1)))
    assert Universal().updates == 1


# any attack, and the perceptual one


def test_an_attack_of_the_table_is_an_inner_maximisation() -> None:
    module = linear()
    step = inner(batch(module))
    expected = step.x0 + EPSILON * away(module, step.y)
    for attack in ("fgsm", "pgd:steps=20,step_size=0.25", "apgd:steps=20", "mi-fgsm"):
        torch.testing.assert_close(ByAttack(attack=attack).attacked(step), expected, msg=attack)
    one = replace(step, x0=step.x0[3:4], y=step.y[3:4], rows=step.rows[3:4], stream=step.stream.take(torch.tensor([3])))
    drawn = ByAttack(attack="pgd:steps=1,step_size=0.1")
    torch.testing.assert_close(drawn.attacked(one), drawn.attacked(step)[3:4])
    later = replace(step, stream=step.stream.at("epoch", 2))
    assert not torch.equal(drawn.attacked(later), drawn.attacked(step))  # draws are of the epoch


def test_a_minimal_attack_gives_its_nearest_success_and_stays_in_the_ball() -> None:
    module = linear()
    step = inner(batch(module)).against(L2(0.05))
    with torch.no_grad():
        logits, w = module(step.x0), module[1].weight
    gap = (logits.gather(1, step.y[:, None]) - logits.gather(1, 1 - step.y[:, None]))[:, 0]
    nearest = (gap / (w[0] - w[1]).norm()).clamp(min=0)
    reached = nearest < 0.05
    assert 2 < int(reached.sum()) < len(reached) - 2
    far = (ByAttack(attack="deepfool").attacked(step) - step.x0).flatten(1).norm(dim=1)
    torch.testing.assert_close(far[reached], nearest[reached], atol=2e-3, rtol=0.05)
    torch.testing.assert_close(far[~reached], torch.full_like(far[~reached], 0.05), atol=1e-5, rtol=0)


def test_of_several_tries_the_worst_is_learned() -> None:
    step = batch(plain())
    losses = []
    for restarts in (1, 4):
        point = ByAttack(attack=f"pgd:steps=1,step_size=0.05,restarts={restarts}").attacked(step)
        with torch.no_grad():
            losses.append(step.misled(step.network(point)))
    assert (losses[1] >= losses[0]).all()
    assert (losses[1] > losses[0] + 1e-4).any()


def test_attacks_that_do_not_fit_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    asked = {"threat": "linf:0.1", "batch": 16, "out": tmp_path / "out"}
    for change, error, message in [
        ({"recipe": "attack", "attack": "pgdd"}, UnknownName, "pgd"),
        ({"recipe": "attack", "attack": "pgd:step=3"}, UnknownName, "steps"),
        ({"recipe": "attack", "attack": "stadv"}, RequestError, "moves in flow"),
        ({"recipe": "perceptual"}, RequestError, "hardens against perceptual"),
        ({"recipe": "attack", "autoencoder": "a:b"}, RequestError, "for the threat manifold"),
        ({"recipe": "standard", "threat": None, "perceptual_model": "a:b"}, RequestError, "give --threat"),
    ]:
        with pytest.raises(error, match=message):
            harden(plain(), data(40), **{**asked, **change})
        assert not (tmp_path / "out").exists()


def test_perceptual_points_are_near_as_the_network_sees_at_this_step() -> None:
    module = network().train()
    before = weights(module)
    threat = facing(PerceptualThreat(0.3), module)
    step = replace(batch(module), given=threat)
    point = Perceptual(right=False).attacked(step)
    assert same(before, weights(module))  # running averages, too
    assert module.training

    def seen(x: Tensor) -> Tensor:
        phi = functional.relu(module[1](module[0](x)))
        return (phi / (phi.norm(dim=1, keepdim=True) + 1e-10) / 4).flatten(1)

    module.eval()
    with torch.no_grad():
        far = length(seen(point) - seen(step.x0))
        assert (far <= 0.3 * (1 + 1e-4)).all()
        assert (far > 0.1).any()
        assert step.misled(module(point)).mean() > step.misled(module(step.x0)).mean()
        right = module(step.x0).argmax(1) == step.y
        module[0].weight.add_(torch.linspace(-1, 1, 36).view(4, 1, 3, 3))  # it goes on learning
        assert torch.allclose(threat.distance(point, step.x0).float(), length(seen(point) - seen(step.x0)).float(), atol=1e-5)
        module[0].weight.sub_(torch.linspace(-1, 1, 36).view(4, 1, 3, 3))
    assert right.any()
    assert not right.all()
    kept = Perceptual().attacked(step)
    assert torch.equal(kept[~right], step.x0[~right])
    assert not torch.equal(kept[right], step.x0[right])


@pytest.mark.parametrize("recipe", ["perceptual", "pgd", "fast"])
def test_training_in_the_perceptual_set(recipe: str, tmp_path: Path) -> None:
    trained = replace(task(parse(recipe)[0], network(), epochs=2), threat=parse_threat("perceptual:0.3"))
    found = fit(trained, tmp_path)
    assert all(0 <= row["robust"] <= row["clean"] for row in found.history)
    assert all(value.isfinite().all() for value in weights(trained.network).values())


def test_threats_are_made_with_what_they_need() -> None:
    job = make_job(plain(), data(64), threat="manifold:0.3", batch=16, recipe="pgd", steps=2)
    assert isinstance(job.task.threat, ManifoldThreat)
    assert job.task.threat.autoencoder is not None
    own = make_job(network(), data(64), threat="perceptual:0.3", batch=16, recipe="perceptual")
    assert own.task.threat.network is None  # the one that is trained, at each step
    other = make_job(
        network(),
        data(64),
        threat="perceptual:0.3",
        batch=16,
        recipe="perceptual",
        perceptual_model="tests.test_more_recipes:seer",
    )
    assert other.task.threat.network is not None


def seer() -> nn.Module:
    return network(3).eval()


# on the manifold


def test_every_row_goes_through_the_autoencoder_of_its_class() -> None:
    x, y = data(64)
    manifolds = Manifolds(x, y, (0.0, 1.0))
    order = torch.tensor([5, 2, 2, 9, 12, 7])
    with torch.no_grad():
        z = manifolds.encode(x[order], y[order])
        back = manifolds.decode(z, y[order])
        for k, row in enumerate(order.tolist()):
            own = manifolds.of[str(int(y[row]))]
            torch.testing.assert_close(z[k : k + 1], own.encode(x[row : row + 1]))
            torch.testing.assert_close(back[k : k + 1], own.decode(z[k : k + 1]))
        error = {
            c: functional.mse_loss(manifolds.decode(manifolds.encode(x, torch.full_like(y, c)), torch.full_like(y, c)), x)
            for c in (0, 1)
        }
        assert functional.mse_loss(manifolds.decode(manifolds.encode(x, y), y), x) < 0.5 * min(error.values())


def test_half_of_a_batch_moves_along_the_manifold() -> None:
    x, y = data(64)
    manifolds = Manifolds(x, y, (0.0, 1.0))
    module = plain()
    step = replace(batch(module, 20), aids={"manifolds": manifolds})
    point = OnManifold(steps=10, rate=0.1).attacked(step)
    assert torch.equal(point[10:], step.x0[10:])
    still = OnManifold(steps=1, rate=1e-30).attacked(step)
    with torch.no_grad():
        z = manifolds.encode(step.x0[:10], step.y[:10])
        corners = [manifolds.decode(z + 0.3 * sign, step.y[:10]) for sign in (-1, 1)]
    assert step.misled(module(point))[:10].mean() > step.misled(module(still))[:10].mean() + 0.01
    reach = max((corner - manifolds.decode(z, step.y[:10])).flatten(1).norm(dim=1).max() for corner in corners)
    assert (point[:10] - manifolds.decode(z, step.y[:10])).flatten(1).norm(dim=1).max() < 3 * reach
    torch.testing.assert_close(OnManifold().outer(step, point), functional.cross_entropy(module(point), step.y))
    assert all(parameter.grad is None for parameter in manifolds.parameters())


class Straight(Manifolds):
    """One latent a pixel, decoded as it is."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return 10 * (x - 0.5)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        return z / 10 + 0.5


def test_latents_move_by_epsilon_and_stay_where_data_lie() -> None:
    module = linear()
    step = replace(batch(module), aids={"manifolds": Straight()})
    step = replace(step, x0=torch.where(step.x0 > 0.85, 0.85, step.x0))  # latents to 3.5: beyond 2 they move inward alone
    point = OnManifold(steps=60, rate=0.1).attacked(step)[:8]
    z, away_from = 10 * (step.x0[:8] - 0.5), away(module, step.y[:8])
    expected = torch.clamp(z + 0.3 * away_from, min=z.clamp(max=-2), max=z.clamp(min=2))
    torch.testing.assert_close(10 * (point - 0.5), expected, atol=1e-4, rtol=0)


# layers, gradients, one step


def test_layers_are_named_or_found() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    step = batch(module)
    recipe = LayerRegularised(gamma=0.5, layers="4, 2")
    point = recipe.attacked(step)
    expected = layer_regularised(module, step.x0, point, step.y, {"2": 0.5, "4": 0.5})
    torch.testing.assert_close(recipe.outer(step, point), expected)
    wrapped = replace(step, network=nn.Sequential(module))
    torch.testing.assert_close(recipe.outer(wrapped, point), expected)
    found = LayerRegularised(gamma=0.5).outer(step, point)
    alone = [layer_regularised(module, step.x0, point, step.y, {name: 0.5}) for name in ("2", "4")]
    torch.testing.assert_close(found, max(alone))
    assert LayerRegularised(gamma=0.0).outer(step, point) == PGDTraining().outer(step, point)
    with pytest.raises(UnknownName, match="activation layer"):
        LayerRegularised(layers="9").outer(step, point)


def test_the_gradient_penalty_of_a_linear_model() -> None:
    module = linear()
    step = batch(module)
    with torch.no_grad():
        z, w = module(step.x0), module[1].weight
        wrong = 1 - z.softmax(1).gather(1, step.y[:, None])[:, 0]
        expected = functional.cross_entropy(z, step.y) + 3 * (wrong * (w[0] - w[1]).norm()).square().mean()
    loss = GradientRegularised(weight=3.0).loss(step)
    torch.testing.assert_close(loss, expected)
    loss.backward()  # through the gradient, too
    taught = module[1].weight.grad[0, 0].item()
    losses = []
    for change in (1e-2, -1e-2):
        with torch.no_grad():
            module[1].weight[0, 0] += change
        losses.append(GradientRegularised(weight=3.0).loss(step).item())
        with torch.no_grad():
            module[1].weight[0, 0] -= change
    assert taught == pytest.approx((losses[0] - losses[1]) / 2e-2, abs=2e-4)


def test_n_fgsm_steps_from_wide_noise_and_does_not_clip() -> None:
    module = linear()
    step = inner(batch(module)).against(Linf(0.05))
    start = step.threat.random_point(step.x0, step.stream.at("start"), 0.1)
    assert 0.08 < (start - step.x0).abs().max() <= 0.1 + 1e-6
    torch.testing.assert_close(NFGSM().attacked(step), start + 0.05 * away(module, step.y))
    wide = replace(step, x0=batch(module).x0).against(Linf(0.3))
    point = NFGSM().attacked(wide)
    assert point.min() >= 0
    assert point.max() <= 1
    assert (point - wide.x0).abs().max() > 0.35
    assert NFGSM().calmer() == NFGSM(noise=3.0)


def test_hat_learns_what_a_standard_network_says_beyond_the_attack() -> None:
    teacher, module = plain(1).eval(), plain()
    step = replace(batch(module), aids={"standard": teacher})
    recipe = HAT(steps=3)
    point = recipe.attacked(step)
    helped = functional.cross_entropy(module(step.x0 + 2 * (point - step.x0)), teacher(point).argmax(1))
    assert torch.equal(point, TRADES(steps=3).attacked(step))
    torch.testing.assert_close(recipe.outer(step, point), TRADES(beta=2.5).outer(step, point) + 0.5 * helped)


# smoothing


def test_smooth_adv_attacks_the_mean_probability_and_learns_under_the_same_noise() -> None:
    module = plain()
    step = replace(batch(module).against(L2(0.5)), progress=0.5)
    recipe = SmoothAdv(samples=4, steps=4, sigma=0.3)
    noise = 0.3 * step.stream.at("noise").normal(4, 1, 4, 4)
    probabilities = torch.stack([module(step.x0 + noise[:, k]).softmax(1) for k in range(4)]).mean(0)
    torch.testing.assert_close(Smoothed(module, noise)(step.x0).exp(), probabilities)
    point = recipe.attacked(step)
    assert (point - step.x0).flatten(1).norm(dim=1).max() <= 0.5 * (1 + 1e-5)
    asked = replace(step, network=Smoothed(module, noise))
    assert torch.equal(point, asked.ascend(step.misled, step.x0, steps=4, step_size=0.5))
    losses = torch.stack([functional.cross_entropy(module(point + noise[:, k]), step.y) for k in range(4)])
    torch.testing.assert_close(recipe.outer(step, point), losses.mean())
    early = recipe.attacked(replace(step, progress=0.05))
    assert (early - step.x0).flatten(1).norm(dim=1).max() == pytest.approx(0.25, rel=1e-4)


def test_macer_widens_the_radius_where_it_is_right_and_narrow() -> None:
    recipe = MACER(beta=1.0, gamma=3.0, sigma=0.5, weight=2.0)
    p = torch.tensor([[0.7, 0.3], [0.3, 0.7], [0.999, 0.001], [1.0, 0.0]])
    logits = p.clamp_min(1e-30).log()[:, None].expand(-1, 3, -1).clone().requires_grad_()
    y = torch.zeros(4, dtype=torch.int64)
    gap = 2 * torch.distributions.Normal(0, 1).icdf(torch.tensor(0.7))
    expected = torch.tensor([0.25 * (3 - float(gap)), 0, 0, 0])  # wrong, wide enough, infinite
    found = recipe.narrowness(logits, y)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[0, :, 0].max() < 0  # more of its own class
    module = plain()
    step = batch(module)
    recipe = MACER(samples=5)
    noise = 0.25 * step.stream.at("noise").normal(5, 1, 4, 4)
    z = torch.stack([module(step.x0 + noise[:, k]) for k in range(5)], 1)
    first = -z.softmax(2).mean(1).gather(1, step.y[:, None])[:, 0].log().mean()
    torch.testing.assert_close(recipe.loss(step), first + 12 * recipe.narrowness(z, step.y).mean())


# what changes a recipe keeps the rest of it


def test_a_modifier_keeps_aids_guard_and_checks(tmp_path: Path) -> None:
    recipe, (awp,) = parse("fast+awp", {"gradalign": "0.1"})
    assert awp.around(recipe).calmer() == awp.around(Fast(gradalign=0.2))
    assert not awp.around(Ensemble()).by_robustness
    assert awp.around(PGDTraining()).calmer() is None
    settings = {"recipe": "hat+awp", "steps": 1, "threat": "linf:0.1", "epochs": 2, "batch": 32, "rate": 0.05}
    found = harden(plain(), data(96), out=tmp_path / "out", test=data(16, seed=1), **settings)
    assert all(math.isfinite(row["loss"]) for row in found.history)
    with pytest.raises(RequestError, match="hardens against linf, l2"):
        awp.around(Ensemble()).check(parse_threat("l1:3"))


def test_the_table_of_recipes_is_what_they_say() -> None:
    assert PAGE.read_text() == page(), "write it anew: python -m docs.recipes"


def test_fast_goes_back_and_on_with_gradalign(tmp_path: Path) -> None:
    """A step and a rate that are too large: robust accuracy breaks down, again and again where nothing is done."""
    x, y = data(160)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Flatten(), nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    settings = {"epochs": 16, "batch": 20, "rate": 0.3, "schedule": "constant", "weight_decay": 0.0}
    found = fit(Task(module, Fast(step_size=4.0), x[:80], y[:80], x[80:], y[80:], 2, Training(**settings), THREAT), tmp_path)
    notes = [row["note"] for row in found.history]
    broken = [k for k, note in enumerate(notes) if note.startswith("broke down")]
    assert len(broken) == found.returns >= 1
    assert found.history[broken[0] + 1]["epoch"] == found.history[broken[0]]["epoch"]  # the same epoch anew
    assert found.epoch == 16
    assert found.best_score > 0.8
    recipe: Recipe | None = Fast(step_size=4.0)
    for _ in range(found.returns):
        recipe = recipe.calmer()
    assert recipe == Fast(step_size=4.0, gradalign=0.1 * 2**found.returns)

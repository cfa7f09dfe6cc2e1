"""What single recipes promise, in closed form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mohs.errors import ModelError, RequestError
from mohs.hardening import harden
from mohs.threat import parse_threat
from mohs.train import find, parse
from mohs.train.alp import ALP
from mohs.train.awp import AWP
from mohs.train.batch import Batch
from mohs.train.distillation import RSLAD, Distillation, Tempered
from mohs.train.loop import fit
from mohs.train.mart import MART, boosted
from mohs.train.multi import MSD, Average, Worst
from mohs.train.noise import Gaussian
from mohs.train.pgd import PGDTraining
from mohs.train.recipe import Trainer
from mohs.train.smooth import Smooth
from mohs.train.trades import TRADES
from tests.small import labelled
from tests.small import network as small_network
from tests.test_train import THREAT, batch, data, heated, network, plain, same, task, weights


def misled(step: Batch, point: Tensor) -> Tensor:
    with torch.no_grad():
        return step.misled(step.network(step.shown(point)))


def test_mart_by_hand() -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.0, 3.0]])
    y = torch.tensor([0, 1])
    p = logits.softmax(1)
    expected = torch.stack([-p[0, 0].log() - (1 - p[0, 1]).log(), -p[1, 1].log() - (1 - p[1, 2]).log()])
    torch.testing.assert_close(boosted(logits, y), expected)
    sure = torch.tensor([[200.0, 0.0], [0.0, 200.0]])
    torch.testing.assert_close(boosted(sure, torch.tensor([0, 0])), torch.tensor([0.0, 27.631 * 2]), atol=1e-3, rtol=0)
    module = heated(plain())
    step = batch(module)
    still = MART(steps=2)
    point = still.attacked(step)
    z, z2 = module(step.x0), module(point)
    kl = (z.softmax(1) * (z.log_softmax(1) - z2.log_softmax(1))).sum(1)
    own = z.softmax(1).gather(1, step.y[:, None])[:, 0]
    torch.testing.assert_close(still.outer(step, point), (boosted(z2, step.y) + 5 * kl * (1 - own)).mean())
    assert not MART.mixes


def test_alp_pairs_logits() -> None:
    module = plain()
    step = batch(module)
    point = ALP(steps=1, step_size=1e-30).attacked(step)
    z, z2 = module(step.x0), module(point)
    ce = functional.cross_entropy
    expected = (ce(z, step.y) + ce(z2, step.y)) / 2 + 0.5 * ((z - z2) ** 2).sum(1).mean()
    torch.testing.assert_close(ALP().outer(step, point), expected)


@pytest.mark.parametrize("recipe", [PGDTraining(steps=2), TRADES(steps=2), MART(steps=2)])
def test_awp_raises_the_loss_puts_back_and_leaves_the_averages_as_one_pass_would(recipe: PGDTraining) -> None:
    module = network().train()
    module[3].p = 0.0
    twin = network().train()
    twin[3].p = 0.0
    around = AWP(gamma=0.05, warmup=0.0).around(recipe)
    before = weights(module)
    step = batch(module)
    perturbed = around.loss(step)
    moved = {
        name: (now.detach() - before[name]).norm() / before[name].norm()
        for name, now in module.named_parameters()
        if now.ndim > 1
    }
    assert all(float(ratio) == pytest.approx(0.05, rel=1e-3) for ratio in moved.values())
    plain_loss = recipe.loss(batch(twin))
    assert perturbed > plain_loss
    perturbed.backward()
    for call in step.done:
        call()
    assert all(torch.equal(now, before[name]) for name, now in module.named_parameters())
    tracked = module[1].num_batches_tracked
    assert tracked == twin[1].num_batches_tracked  # the pass that looked for v left no trace


def test_awp_waits_and_asks_for_an_attack(tmp_path: Path) -> None:
    module = plain()
    early = replace(batch(module), progress=0.05)
    assert torch.equal(AWP().around(PGDTraining()).loss(early), PGDTraining().loss(early))
    assert early.done == []
    with pytest.raises(RequestError, match="attacks no inputs"):
        AWP().around(find("standard")())
    recipe, (modifier,) = parse("trades+awp", {"beta": "2", "gamma": "0.01"})
    assert recipe == TRADES(beta=2.0)
    assert modifier == AWP(gamma=0.01)
    trained = task(AWP(warmup=0.0).around(PGDTraining(steps=1)))
    fit(trained, tmp_path)
    assert all(value.isfinite().all() for value in weights(trained.network).values())


def test_unions_are_the_mean_and_the_worst_of_their_parts() -> None:
    module = plain().eval()
    step = batch(module)
    others = "l2:0.5"
    parts = [step, step.against(parse_threat(others))]
    losses = torch.stack([misled(part, PGDTraining().attacked(part)) for part in parts])
    torch.testing.assert_close(Average(others=others).loss(step), losses.mean(1).mean())
    torch.testing.assert_close(Worst(others=others).loss(step), losses.amax(0).mean())
    for recipe in (Average(others=others), Worst(others=others)):
        assert torch.equal(AWP(warmup=0.5).around(recipe).loss(step), recipe.loss(step))  # before its weights are attacked


@pytest.mark.parametrize("name", ["avg", "max", "msd"])
def test_a_union_of_one_is_a_wrong_request_before_anything_is_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="needs other threats"):
        harden(plain(), data(64), recipe=name, threat="linf:0.1", batch=32, out=tmp_path / "out")
    with pytest.raises(RequestError, match="l3"):
        harden(plain(), data(64), recipe=name, threat="linf:0.1", others="l3:1", batch=32, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_msd_stays_in_the_union_and_takes_the_steepest_of_the_steps() -> None:
    module = plain().eval()
    step = batch(module)
    point = MSD(others="l2:0.2", steps=8).attacked(step)
    change = (point - step.x0).flatten(1)
    inside = (change.abs().amax(1) <= THREAT.epsilon + 1e-6) | (change.norm(dim=1) <= 0.2 + 1e-6)
    assert inside.all()
    assert misled(step, point).mean() > misled(step, step.x0).mean()
    weak = MSD(others="l2:0.0001", steps=8).attacked(step)  # a norm that is never the steepest changes nothing
    alone = PGDTraining(steps=8, step_size=0.1)
    from_here = step.ascend(step.misled, step.x0, steps=alone.steps, step_size=alone.step_size)
    assert torch.equal(weak, from_here)
    with pytest.raises(RequestError, match="norms alone"):
        MSD(others="rotation:10deg").check(THREAT)


def test_noise_has_its_sigma_and_is_not_clipped() -> None:
    seen: list[Tensor] = []

    class Looking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return x.flatten(1)[:, :2]

    step = batch(Looking(), 96)
    Gaussian(sigma=0.5).loss(step)
    noise = seen[0] - step.x0
    assert noise.std() == pytest.approx(0.5, rel=0.05)
    assert seen[0].min() < 0


def test_a_distilled_student_is_trained_at_its_temperature(tmp_path: Path) -> None:
    teacher = plain(1).eval()
    step = replace(batch(plain()), aids={"teacher": teacher})
    z, taught = step.network(step.x0), (teacher(step.x0) / 50).softmax(1)
    expected = -(taught * (z / 50).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(Distillation(temperature=50.0).loss(step), expected)
    torch.testing.assert_close(Tempered(temperature=50.0).loss(step), functional.cross_entropy(z / 50, step.y))
    assert not Tempered().by_robustness  # its best epoch, as its student's, is by clean accuracy


def test_the_teacher_is_trained_first_and_once(tmp_path: Path) -> None:
    x, y = data(96)
    settings = {"recipe": "distillation", "temperature": 5.0, "epochs": 3, "batch": 32, "out": tmp_path / "out"}
    found = harden(plain(), (x, y), **settings)
    kept = (tmp_path / "out" / "teacher" / "checkpoint.pt").stat().st_mtime_ns
    again = harden(plain(), (x, y), **settings)
    assert same(weights(found.network), weights(again.network))
    assert (tmp_path / "out" / "teacher" / "checkpoint.pt").stat().st_mtime_ns == kept
    assert found.before is None


def test_rslad_learns_from_a_teacher_that_is_given() -> None:
    x, y = labelled(small_network(), 8)
    train = Trainer(plain(), lambda name, recipe: pytest.fail("a teacher was trained"), x, y, (0.0, 1.0))
    recipe = RSLAD(teacher="tests.small:network")
    teacher = recipe.aids(train)["teacher"]
    assert torch.equal(teacher(x), small_network()(x))
    assert not any(weight.requires_grad for weight in teacher.parameters())
    recipe.suits(small_network(seed=1), x)
    with pytest.raises(ModelError, match=r"answers with \[8, 10\] and the network with \[8, 3\]"):
        recipe.suits(small_network(classes=3), x)


def test_rslad_pulls_both_answers_to_the_teacher() -> None:
    teacher, module = plain(1).eval(), plain()
    step = replace(batch(module), aids={"teacher": teacher})
    recipe = RSLAD(steps=3)
    point = recipe.attacked(step)
    t, z, z2 = teacher(step.x0), module(step.x0), module(point)

    def kl(p: Tensor, q: Tensor) -> Tensor:
        return (p.softmax(1) * (p.log_softmax(1) - q.log_softmax(1))).sum(1).mean()

    torch.testing.assert_close(recipe.outer(step, point), kl(t, z) / 6 + 5 * kl(t, z2) / 6)
    assert kl(t, z2) > kl(t, z)
    own = replace(step, aids={"teacher": module})
    assert RSLAD(steps=1, step_size=1e-30, noise=0.0).loss(own).detach().abs() < 1e-6


def test_every_relu_becomes_smooth_and_the_rest_stays() -> None:
    def made() -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 2)
        )

    changed = Smooth(activation="silu").architecture(made())
    assert [type(part) for part in changed.modules() if not isinstance(part, nn.Sequential)] == [
        nn.Flatten,
        nn.Linear,
        nn.SiLU,
        nn.Linear,
        nn.SiLU,
        nn.Linear,
    ]
    assert Smooth().around(PGDTraining()) == PGDTraining()
    with pytest.raises(ModelError, match=r"no nn\.ReLU"):
        Smooth().architecture(plain())
    with pytest.raises(RequestError, match="only a softplus"):
        Smooth(anneal=20.0).architecture(made())


def test_annealing_sharpens_and_its_beta_goes_with_the_best_weights(tmp_path: Path) -> None:
    smooth = Smooth(activation="softplus:2", anneal=32.0)
    module = smooth.architecture(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2)))
    assert float(module[2].beta) == 2
    for progress, beta in ((0.0, 2.0), (0.5, 8.0), (1.0, 32.0)):
        smooth.around(PGDTraining(steps=1, step_size=1e-30)).loss(replace(batch(module), progress=progress))
        assert float(module[2].beta) == pytest.approx(beta)
    trained = task(smooth.around(PGDTraining(steps=1)), module)
    found = fit(trained, tmp_path)
    assert float(found.best["2.beta"]) == pytest.approx(2 * 16 ** ((found.best_epoch + 1) * 4 / 16 - 1 / 16), rel=1e-3)

"""The training loop and its recipes: exact resume, joint batches, what recipes promise, bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from mohs.cli.recipes import listed
from mohs.errors import Missing, ModelError, RequestError, RunError, UnknownName
from mohs.hardening import SPEC, export, harden
from mohs.models import load_model
from mohs.models.cpu import threads
from mohs.models.trainable import network_of
from mohs.rng import Stream
from mohs.store import faults
from mohs.threat import Linf, parse_threat
from mohs.train import RECIPES, Recipe, find, parse
from mohs.train.augment import augmentation
from mohs.train.average import Average
from mohs.train.awp import AWP
from mohs.train.batch import Batch, crafting
from mohs.train.fast import Fast
from mohs.train.free import Free
from mohs.train.launch import launched
from mohs.train.layers import LayerRegularised
from mohs.train.loop import Epoch, Standing, Task, broke_down, fit
from mohs.train.manifold import Manifolds, OnManifold
from mohs.train.multi import Worst
from mohs.train.pgd import PGDTraining
from mohs.train.schedules import SCHEDULES
from mohs.train.trades import TRADES, divergence
from mohs.train.training import Training
from mohs.train.universal import Universal
from mohs.training_jobs import make_job

THREAT = Linf(0.1)


def data(n: int = 96, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two classes of grey 4x4 images: the left half is the brighter one, or the right."""
    stream = Stream.of(seed, torch.arange(n))
    y = torch.arange(n) % 2
    x = 0.6 * stream.at("x").uniform(1, 4, 4)
    x[:, :, :, :2] += 0.3 * (y == 0).float().view(-1, 1, 1, 1)
    x[:, :, :, 2:] += 0.3 * (y == 1).float().view(-1, 1, 1, 1)
    return x, y


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(64, 2)
        )


def plain(seed: int = 0) -> nn.Module:
    """Without batch norm and dropout."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(16, 8), nn.SiLU()), nn.Linear(8, 2))


def task(recipe: Recipe, module: nn.Module | None = None, **settings: object) -> Task:
    x, y = data()
    training = Training(**{"epochs": 4, "batch": 20, "rate": 0.05, **settings})
    return Task(module or network(), recipe, x[:80], y[:80], x[80:], y[80:], 2, training, THREAT)


def batch(module: nn.Module, n: int = 16) -> Batch:
    x, y = data(n)
    return Batch(network=module, x0=x, y=y, rows=torch.arange(n), stream=Stream.of(0, torch.arange(n)), given=THREAT)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Stopped(Exception):
    pass


def stop_after(epochs: int) -> object:
    def watch(epoch: Epoch) -> None:
        if epoch.number == epochs:
            raise Stopped

    return watch


SETTINGS = [
    ("standard", {}),
    ("pgd", {"average": "ema:0.9", "augment": ("crop:1", "flip")}),
    ("free", {"epochs": 8}),
    ("fast", {"optimizer": "adamw", "rate": 0.01, "average": "swa:0.3", "clip": 0.5}),
    ("trades", {"schedule": "cosine"}),
]


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_a_training_that_was_stopped_goes_on_to_the_bit(name: str, settings: dict[str, object], tmp_path: Path) -> None:
    recipe = find(name)(**({"replays": 2} if name == "free" else {}))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    straight, again = task(recipe, **settings), task(recipe, **settings)
    once = fit(straight, whole)
    with pytest.raises(Stopped):
        fit(task(recipe, **settings), parts, stop_after(2))
    torch.rand(7)  # whatever happened to torch's generator meanwhile
    twice = fit(again, parts)
    assert same(weights(straight.network), weights(again.network))
    assert same(once.best, twice.best)
    assert [row["loss"] for row in once.history] == [row["loss"] for row in twice.history]
    assert len(once.history) == 4


def test_the_seed_matters(tmp_path: Path) -> None:
    one, other = task(PGDTraining(steps=1)), task(PGDTraining(steps=1), seed=1)
    for part, name in ((one, "a"), (other, "b")):
        (tmp_path / name).mkdir()
        fit(part, tmp_path / name)
    assert not same(weights(one.network), weights(other.network))


def test_crafting_leaves_no_trace() -> None:
    module = network().train()
    module[1].eval()  # one that the caller keeps in evaluation mode
    module[5].weight.requires_grad_(False)
    before = weights(module)
    with crafting(module):
        assert not any(part.training for part in module.modules())
        assert not any(parameter.requires_grad for parameter in module.parameters())
    step = batch(module)
    PGDTraining(steps=2).attacked(step)
    assert same(before, weights(module))
    assert module.training
    assert not module[1].training
    assert [parameter.requires_grad for parameter in module.parameters()] == [True] * 4 + [False, True]
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("text", ["linf:0.1", "l2:0.4", "l1:1", "rotation:20deg"])
def test_what_pgd_trains_on_lies_in_the_set(text: str) -> None:
    step = batch(network().eval()).against(parse_threat(text))
    point = PGDTraining().attacked(step)
    assert step.threat.contains(point, step.x0).all()
    right = (step.network(step.shown(point)).argmax(1) == step.y).sum()
    assert right <= (step.network(step.x0).argmax(1) == step.y).sum()


def test_trades_without_an_attack_is_cross_entropy() -> None:
    module = plain()
    step = batch(module)
    assert torch.equal(TRADES(steps=1, step_size=1e-30, noise=0.0).loss(step), functional.cross_entropy(module(step.x0), step.y))


def test_trades_climbs_the_divergence_and_both_sides_get_gradients() -> None:
    p, q = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    expected = (p.softmax(1) * (p.softmax(1) / q.softmax(1)).log()).sum(1)
    torch.testing.assert_close(divergence(p, q), expected)
    assert not torch.isclose(divergence(p, q), divergence(q, p))
    module = plain().eval()
    step = batch(module)
    clean = module(step.x0).detach()
    points = [TRADES(steps=k, step_size=size).attacked(step) for k, size in ((1, 1e-30), (2, 0.25), (10, 0.25))]
    steps = [divergence(clean, module(point)).mean() for point in points]
    assert steps[0] < steps[1] < steps[2]
    assert (points[2] - step.x0).abs().flatten(1).amax(1).min() == pytest.approx(THREAT.epsilon)  # not back and forth at x0
    module = heated(plain())
    step = batch(module)
    z, attacked = module(step.x0), module(points[2])
    expected = functional.cross_entropy(z, step.y) + 6 * divergence(z, attacked).mean()
    parameters = list(module.parameters())
    for one, other in zip(
        torch.autograd.grad(TRADES().outer(step, points[2]), parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(one, other)


def heated(module: nn.Module) -> nn.Module:
    """With ten times the scores, so that divergences matter."""
    with torch.no_grad():
        for parameter in list(module.parameters())[-2:]:
            parameter.mul_(10)
    return module


def test_free_keeps_one_perturbation_in_the_ball() -> None:
    module = plain()
    memory: dict[str, Tensor] = {}
    optimiser = torch.optim.SGD(module.parameters(), 0.01)
    for n in (8, 16, 4):  # the first batch may be a short one
        step = replace(batch(module, n), memory=memory)
        step.y = 1 - step.y if n == 4 else step.y
        before = memory["change"].clone() if memory else None
        for loss in Free(replays=3, step_size=0.3).losses(step):
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            assert memory["change"].abs().max() <= THREAT.epsilon * (1 + 1e-6)
    assert before is not None
    assert memory["change"].shape == before.shape == (16, 1, 4, 4)
    assert not torch.equal(before[:4], memory["change"][:4])
    assert torch.equal(before[4:], memory["change"][4:])  # a short batch uses a slice
    assert Free(replays=8).updates == 8
    losses = []
    for loss in Free(replays=4, step_size=0.2).losses(batch(module)):  # the weights stand still: it climbs
        loss.backward()
        losses.append(loss.item())
    assert losses == sorted(losses)
    assert losses[-1] > losses[0] + 0.01


@pytest.mark.parametrize("recipe", [Free(replays=2), Universal()])
def test_gradients_that_overflow_leave_no_trace_in_what_is_kept(recipe: Recipe) -> None:
    step = batch(plain()).against(parse_threat("l2:0.4"))
    for loss in recipe.losses(step):
        (loss * torch.inf).backward()
    assert step.memory["change"].isfinite().all()


def test_fast_stays_in_the_ball_although_its_step_does_not() -> None:
    step = batch(plain())
    point = step.ascend(
        lambda z: functional.cross_entropy(z, step.y, reduction="none"), step.random_point(), steps=1, step_size=1.25
    )
    change = (point - step.x0).abs()
    assert change.max() <= THREAT.epsilon * (1 + 1e-6)
    assert (change > 0.99 * THREAT.epsilon).float().mean() > 0.3


def test_gradalign_is_zero_where_the_loss_is_linear_and_teaches_the_weights() -> None:
    step = batch(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)))
    assert Fast().misalignment(step).detach() < 1e-6  # with two classes, its gradients have one direction
    module = plain()
    loss = Fast().misalignment(batch(module))
    assert loss.detach() > 1e-4
    loss.backward()
    assert module[2].weight.grad is not None
    assert module[2].weight.grad.abs().sum() > 0


@dataclass(frozen=True, kw_only=True)
class BreaksDown(PGDTraining):
    """Robust for an epoch, then on swapped labels until it is calmed."""

    wild: bool = True

    def loss(self, batch: Batch) -> Tensor:
        swapped = self.wild and batch.progress > 0.4
        return functional.cross_entropy(batch.network(batch.x0), 1 - batch.y if swapped else batch.y)

    def calmer(self) -> BreaksDown:
        return replace(self, wild=False)


def test_the_guard_goes_back_and_on(tmp_path: Path) -> None:
    seen: list[Epoch] = []
    settings = {"epochs": 10, "rate": 0.3, "schedule": "constant"}
    found = fit(task(BreaksDown(), plain(), **settings), tmp_path, seen.append)
    notes = [epoch.note for epoch in seen]
    assert sum(note.startswith("broke down") for note in notes) == 1
    assert found.returns == 1
    assert found.epoch == 10
    assert found.history[-1]["robust"] > 0.7
    (tmp_path / "unguarded").mkdir()
    unguarded = fit(task(BreaksDown(), plain(), guard=False, **settings), tmp_path / "unguarded")
    assert unguarded.history[-1]["robust"] < 0.3


def test_patience_ends_it(tmp_path: Path) -> None:
    found = fit(task(find("standard")(), plain(), epochs=50, patience=2, rate=1e-9), tmp_path)
    assert found.stopped
    assert len(found.history) == found.best_epoch + 3


def test_a_loss_that_is_no_number_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        fit(task(find("standard")(), plain()), tmp_path, stop_after(2))
    before = (tmp_path / "checkpoint.pt").read_bytes()
    broken = task(find("standard")(), plain())
    broken.x[11] = torch.nan
    with pytest.raises(RequestError, match="no number any more in epoch 3"):
        fit(broken, tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_training_that_collapses_says_so(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        module[1].bias -= 100.0  # no unit is ever on
    with pytest.raises(RequestError, match="after epoch 1 the network gives every held-out example the same scores"):
        fit(task(find("standard")(), module), tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()
    wild = task(find("standard")(), plain(), epochs=1, batch=80, rate=1e50, schedule="step")  # one step; its loss is a number
    with pytest.raises(RequestError, match="or some that are no numbers"):
        fit(wild, tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()


JOINTLY: dict[str, tuple[Recipe, dict[str, Any]]] = {
    "pgd": (PGDTraining(steps=2), {}),
    "universal": (Universal(), {}),
    "max": (Worst(steps=2, others="l2:0.3"), {}),
    "awp": (AWP(gamma=0.05, warmup=0.0).around(PGDTraining(steps=1)), {}),
    "layers": (LayerRegularised(steps=1), {}),
    "on-manifold": (OnManifold(steps=2, rate=0.1), {"batch": 30}),
    "mixed": (PGDTraining(steps=1), {"augment": ("crop:1", "mixup:1", "cutmix:1")}),
    "tail": (PGDTraining(steps=1), {"batch": 79}),  # of one row
}


def jointly(name: str, strategy: str) -> Task:
    recipe, settings = JOINTLY[name]
    made = task(recipe, plain(), **{"batch": 25, "strategy": strategy, **settings})
    aids = {"manifolds": Manifolds(made.x, made.y, (0.0, 1.0)).requires_grad_(False)} if name == "on-manifold" else {}
    return replace(made, aids=aids)


JOINT = """
import os, sys, torch
from pathlib import Path
from tests.test_train import task, plain, network, stop_after
from tests.test_train import JOINTLY, Stopped, jointly
from mohs.errors import RequestError
from mohs.train.free import Free
from mohs.train.loop import fit
torch.set_num_threads(1)
out, strategy = Path(sys.argv[1]), sys.argv[2]
for name, (recipe, _) in JOINTLY.items():
    folder = out / name
    folder.mkdir(exist_ok=True, parents=True)
    if recipe.shards or strategy == "ddp":
        fit(jointly(name, strategy), folder)
for name in ("whole", "parts"):
    folder = out / name
    folder.mkdir(exist_ok=True)
    settings = {"batch": 24, "epochs": 8, "clip": 1.0, "strategy": strategy}
    if name == "parts":
        try:
            fit(task(Free(replays=2), network(), **settings), folder, stop_after(2))
        except Stopped:
            torch.rand(7)
    fit(task(Free(replays=2), network(), **settings), folder)
broken = task(JOINTLY["pgd"][0], plain(), batch=80, strategy=strategy)
broken.x[11] = torch.nan  # which one of the processes sees
try:
    (out / "broken").mkdir(exist_ok=True)
    fit(broken, out / "broken")
except RequestError as error:
    (out / os.environ["RANK"]).write_text(str(error))
"""


def torchrun(*words: object) -> None:
    """Run in two processes of one thread."""
    root = Path(__file__).parents[1]
    environ = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'src'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, words)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_what_one_does(strategy: str, tmp_path: Path) -> None:
    """Batches of 25 over 80 rows: 13 and 12 a process, 3 and 2 in the last. Gradients are averaged, so the weights agree but for
    rounding; what was stopped goes on to the bit, with each process's own perturbation and dropout; and a loss that is no number
    in one process stops both."""
    script = tmp_path / "joint.py"
    script.write_text(JOINT)
    torchrun(script, tmp_path / "two", strategy)
    for name, (recipe, _) in JOINTLY.items():
        if strategy == "fsdp" and not recipe.shards:
            continue
        one = jointly(name, "ddp")
        (tmp_path / "one" / name).mkdir(parents=True)
        alone = fit(one, tmp_path / "one" / name)
        two = checkpoint(tmp_path / "two" / name)
        for part, value in weights(one.network).items():
            torch.testing.assert_close(two["network"][part], value, rtol=1e-4, atol=1e-5, msg=f"{name}: {part}")
        for part, value in alone.own[0]["memory"].items():  # Universal's one change
            torch.testing.assert_close(two["standing"]["own"][0]["memory"][part], value, rtol=1e-4, atol=1e-6)
        losses = [[row["loss"] for row in history] for history in (two["standing"]["history"], alone.history)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert all("no number any more" in (tmp_path / "two" / rank).read_text() for rank in "01")
    whole, parts = (checkpoint(tmp_path / "two" / name) for name in ("whole", "parts"))
    assert same(whole["network"], parts["network"])
    first, second = whole["standing"]["own"]
    assert not torch.equal(first["memory"]["change"], second["memory"]["change"])
    with pytest.raises(RunError, match="begun with 2 processes, and these are 1"):
        fit(task(find("free")(replays=2), network(), batch=24, epochs=8), tmp_path / "two" / "parts")


@pytest.mark.parametrize(
    ("recipe", "settings", "told"),
    [
        ("pgd+awp", {}, "takes them whole: --strategy ddp"),
        ("crown-ibp", {}, "takes them whole"),
        ("fast", {"gradalign": 0.2, "guard": False}, "takes them whole"),
        ("fast", {}, "--no-guard"),
        ("pgd", {"average": "ema:0.9"}, "no --average"),
        ("pgd", {"precision": "16"}, "not 16"),
    ],
)
def test_what_takes_weights_whole_is_not_given_parts(recipe: str, settings: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=told):
        harden(plain(), data(), out=tmp_path / "run", recipe=recipe, threat=THREAT, batch=20, strategy="fsdp", **settings)
    assert not (tmp_path / "run").exists()


def checkpoint(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "checkpoint.pt", weights_only=True)
    return found


def test_the_command_runs_in_two_processes(tmp_path: Path) -> None:
    """The first audits and writes, the second trains with it."""
    x, y = data(120)
    np.savez(tmp_path / "data.npz", x=x.numpy(), y=y.numpy())
    words = ["train", "mlp", "--data", tmp_path / "data.npz", "--threat", "linf:0.1", "--recipe", "fast"]
    torchrun("-m", "mohs", *words, "--epochs", 2, "--batch", 24, "--rate", 0.05, "--out", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"report.html", "audit-before", "audit-after", "model.pt2"}
    assert len(checkpoint(tmp_path / "out")["standing"]["own"]) == 2


@pytest.mark.parametrize("name", ["fast", "pgd+awp", "gradient"])
def test_mixed_precision_trains_about_the_same(name: str, tmp_path: Path) -> None:
    """With gradients in the input, in the weights, and of gradients."""
    recipe, modifiers = parse(name, {"gradalign": 0.2} if name == "fast" else {})
    for modifier in modifiers:
        recipe = modifier.around(recipe)
    found = {}
    for precision in ("32", "bf16"):
        (tmp_path / precision).mkdir()
        done = task(recipe, network(), precision=precision, epochs=2)
        found[precision] = fit(done, tmp_path / precision), weights(done.network)
    (full, exact), (mixed, rough) = found.values()
    assert [row["loss"] for row in mixed.history] == pytest.approx([row["loss"] for row in full.history], rel=0.1)
    assert not same(exact, rough)
    assert all(value.dtype == rough[name].dtype for name, value in exact.items())


def test_devices_and_batches_that_are_not_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong, message in [
        ({"device": "banana"}, "unknown device"),
        ({"device": "cuda:99"}, "there is no device cuda:99"),
        ({"device": "meta"}, "on cpu or cuda"),
        ({"precision": "16"}, "say --precision bf16"),
    ]:
        with pytest.raises(RequestError, match=message):
            launched(Training(**wrong))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RequestError, match="give --batch 4 or more"):
        launched(Training(batch=3))


def test_a_last_batch_of_one_row_joins_the_one_before(tmp_path: Path) -> None:
    """Batch norm over rows alone refuses a single one."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    fit(task(find("standard")(), module, batch=79, epochs=1), tmp_path)
    assert int(module[2].num_batches_tracked) == 1


class Fails(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise OSError("of its own")
        out: Tensor = self.linear(x.flatten(1))
        return out


def test_a_network_that_fails_in_training_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"fails in training, on inputs \[20, 1, 4, 4\]: OSError: of its own"):
        fit(task(PGDTraining(steps=1), Fails()), tmp_path)


def test_mixed_labels_have_as_many_classes_as_the_network_has_scores(tmp_path: Path) -> None:
    wide = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    job = make_job(wide, data(), recipe="standard", augment=("mixup:1", "cutmix:1"), batch=20, epochs=1)
    assert len(fit(job.task, tmp_path).history) == 1


@pytest.mark.parametrize(
    ("value", "best", "broke"),
    [
        (0.31, 0.5, False),
        (0.29, 0.5, True),
        (0.06, 0.25, True),  # less than a quarter is left
        (0.07, 0.25, False),
        (0.0, 0.12, True),
        (0.0, 0.04, False),  # as by chance
    ],
)
def test_when_robust_accuracy_breaks_down(value: float, best: float, broke: bool) -> None:
    assert broke_down(value, best) == broke


def test_a_factory_in_a_package_may_give_a_network_in_training_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ownpackage").mkdir()
    (tmp_path / "ownpackage" / "__init__.py").touch()
    code = "from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2), nn.BatchNorm1d(2))\n"
    (tmp_path / "ownpackage" / "models.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    found = network_of("ownpackage.models:net", data()[0], 2, seed=0)
    assert isinstance(found[2], nn.BatchNorm1d)


def test_an_exported_network_says_what_of_it_is_held_still(tmp_path: Path) -> None:
    for module, notes in ((network(), ["the exported network has batch norm and dropout"]), (plain(), [])):
        export(module.eval(), data()[0], tmp_path / "model.pt2")
        job = make_job(str(tmp_path / "model.pt2"), data(), recipe="standard", batch=20)
        assert [note.partition(",")[0] for note in job.notes] == notes
    torch.jit.script(plain().eval()).save(tmp_path / "model.ts")
    with pytest.raises(ModelError, match="is TorchScript"):
        make_job(str(tmp_path / "model.ts"), data(), recipe="standard", batch=20)


def test_schedules() -> None:
    assert [SCHEDULES["one-cycle"](p) for p in (0.0, 0.2, 0.4, 0.7, 1.0)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert [SCHEDULES["cosine"](p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1, 0.5, 0])
    assert [SCHEDULES["step"](p) for p in (0.0, 0.49, 0.5, 0.8)] == pytest.approx([1, 1, 0.1, 0.01])


def test_the_rate_follows_the_schedule(tmp_path: Path) -> None:
    """Of the last of four updates of each epoch."""
    found = fit(task(find("standard")(), schedule="cosine", rate=0.2), tmp_path)
    expected = [0.2 * SCHEDULES["cosine"]((4 * epoch + 3) / 16) for epoch in range(4)]
    assert [row["rate"] for row in found.history] == pytest.approx(expected)


def test_gradients_are_clipped(tmp_path: Path) -> None:
    module = plain()
    before = weights(module)
    plainly = {"schedule": "constant", "momentum": 0.0, "weight_decay": 0.0, "rate": 1.0, "clip": 1e-3, "epochs": 1}
    fit(task(find("standard")(), module, **plainly), tmp_path)
    moved = torch.cat([(after - before[name]).flatten() for name, after in weights(module).items()]).norm()
    assert 1e-3 < moved <= 4e-3 * (1 + 1e-4)  # four updates


def test_averages_of_weights() -> None:
    module = nn.Linear(1, 1, bias=False)
    found = {"ema:0.9": [], "ema:0.5": [], "swa:0.5": []}
    for text, seen in found.items():
        average = Average(text, module)
        for k, value in enumerate((1.0, 2.0, 4.0, 8.0)):
            nn.init.constant_(module.weight, value)
            average.update(module)
            average.epoch(module, (k + 1) / 4)
            seen.append(average.model.module.weight.item() if average.model.n_averaged else None)
    first = [1.0, 2 / 11 * 1 + 9 / 11 * 2]
    third = 3 / 12 * first[1] + 9 / 12 * 4
    assert found["ema:0.9"] == found["ema:0.5"] == pytest.approx([*first, third, 4 / 13 * third + 9 / 13 * 8])
    assert found["swa:0.5"] == [None, 2.0, 3.0, pytest.approx(14 / 3)]


def test_an_average_of_each_update_is_what_is_kept(tmp_path: Path) -> None:
    """After one epoch of four updates it lags behind the last weights."""
    done = task(find("standard")(), plain(), average="ema:0.9", epochs=1)
    found = fit(done, tmp_path)
    assert found.best_epoch == 0
    assert not same(found.best, weights(done.network))
    first = plain().state_dict()["2.weight"]
    assert 0 < (found.best["2.weight"] - first).norm() < (done.network.state_dict()["2.weight"] - first).norm()


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    """One that carries a pickle is refused, and what the pickle would do is not done."""

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "done",)

    torch.save({"network": Bomb()}, tmp_path / "checkpoint.pt")
    with pytest.raises(RunError, match="cannot be read"):
        fit(task(find("standard")()), tmp_path)
    assert not (tmp_path / "done").exists()


def test_what_is_kept_is_what_was_asked_for(tmp_path: Path) -> None:
    """A rate that is too large: the best epoch is not the last one."""
    x, y = data(256)
    settings = {"recipe": "fast", "threat": "linf:0.1", "epochs": 6, "batch": 32, "rate": 0.3, "schedule": "constant"}
    best, last = (harden(network(), (x, y), out=tmp_path / keep, keep=keep, **settings) for keep in ("best", "last"))
    assert best.standing.best_epoch < 5
    for keep, found in (("best", best), ("last", last)):
        assert same(weights(found.network), load_file(tmp_path / keep / f"{keep}.safetensors"))
    assert not same(weights(best.network), weights(last.network))


def test_augmentation_draws_by_row() -> None:
    x, y = data(12)
    stream = Stream.of(0, torch.arange(12))
    some = torch.tensor([3, 7, 8])
    for text in ("crop:1", "flip", "cutout:2"):
        changed, labels = augmentation(text, 2)(x, y, stream)
        alone, _ = augmentation(text, 2)(x[some], y[some], stream.take(some))
        assert torch.equal(changed[some], alone)
        assert not torch.equal(changed, x)
        assert torch.equal(labels, y)
    flipped = augmentation("flip", 2)(x, y, stream)[0]
    assert all(torch.equal(a, b) or torch.equal(a, b.flip(2)) for a, b in zip(flipped, x, strict=True))
    assert ((augmentation("cutout:2", 2)(x, y, stream)[0] == 0) & (x > 0)).sum((1, 2, 3)).max() <= 4


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixed_labels_say_how_much_of_each_image_is_left(name: str) -> None:
    x = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 8, 8)
    y = torch.arange(6)
    mixed, labels = augmentation(name, 6)(x, y, Stream.of(0, torch.arange(6)))
    torch.testing.assert_close(labels.sum(1), torch.ones(6))
    torch.testing.assert_close(mixed.mean((1, 2, 3)), labels @ torch.arange(6.0))


def test_recipes_are_parsed_with_their_options() -> None:
    recipe, modifiers = parse("trades", {"beta": "3"})
    assert recipe == TRADES(beta=3.0)
    assert modifiers == ()
    with pytest.raises(UnknownName, match="did you mean 'trades'"):
        parse("trade")
    with pytest.raises(UnknownName, match="option of the recipe"):
        parse("pgd", {"beta": "3"})
    with pytest.raises(RequestError, match="should name one recipe"):
        parse("trades+pgd")
    options = {"activation": "softplus:5", "anneal": 50.0}
    assert parse("pgd+smooth+awp", options) == parse("pgd+awp+smooth", options)
    for modifier in (changed := parse("pgd+smooth+awp", options))[1]:
        recipe = modifier.around(changed[0] if recipe == TRADES(beta=3.0) else recipe)
    assert isinstance(recipe.of.of, PGDTraining)
    with pytest.raises(RequestError, match="names awp 2 times"):
        parse("pgd+awp+awp")
    with pytest.raises(UnknownName) as told:
        parse("distillation", {"set": 1})
    assert "sets" not in str(told.value)


def test_recipes_are_listed_as_plain_data() -> None:
    rows = json.loads(json.dumps(listed()))
    assert {row["name"] for row in rows} >= {"pgd", "+awp"}
    for row in rows:
        assert find(row["name"].lstrip("+")).from_spec(row["options"]).spec() == row["options"]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_what_it_is(name: str) -> None:
    cls = find(name)
    assert all(getattr(cls, word) for word in ("paper", "cost", "purpose"))
    assert cls.from_spec(cls().spec()) == cls()


# the main job


def test_a_network_is_hardened_and_measured(tmp_path: Path) -> None:
    x, y = data(256)
    held = data(64, seed=1)
    settings = {"recipe": "pgd", "threat": "linf:0.1", "test": held, "epochs": 5, "batch": 32, "out": tmp_path / "out"}
    found = harden(plain(), (x, y), **settings)
    assert found.before is not None
    assert found.after is not None
    assert found.after.robust_accuracy["linf:0.1"] > found.before.robust_accuracy["linf:0.1"] + 0.2
    for name in ("best.safetensors", "last.safetensors", SPEC):
        assert (tmp_path / "out" / name).exists()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Robust accuracy at linf:0.1 went from" in page
    assert (tmp_path / "out" / "audit-after" / "report.html").exists()
    assert found.facts["after"]["robust_accuracy"] == found.after.robust_accuracy["linf:0.1"]
    exported = load_model(str(tmp_path / "out" / "model.pt2"), x=x)
    torch.testing.assert_close(exported.logits(x[:7]), found.network(x[:7]))
    again = harden(plain(), (x, y), **settings)
    assert same(weights(again.network), weights(found.network))
    with pytest.raises(RunError, match=r"begun with another request \(then training epochs 5\)"):
        harden(plain(), (x, y), **{**settings, "epochs": 6})
    with pytest.raises(RunError, match="another weights"):
        harden(plain(1), (x, y), **settings)


class Branches(nn.Module):
    """Code that torch.export cannot follow, and first weights of zero."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 2)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.linear(x.flatten(1))
        return z if x.sum() > 0 else 2 * z


def test_what_cannot_be_had_of_a_training_is_told(tmp_path: Path) -> None:
    held = data(64, seed=1)
    settings = {"recipe": "fast", "threat": "linf:0.05", "test": held, "epochs": 3, "batch": 32}
    found = harden(Branches(), data(128), out=tmp_path / "out", **settings)
    assert found.before is None
    assert found.after is not None
    assert not (tmp_path / "out" / "model.pt2").exists()
    assert [note.partition(":")[0] for note in found.notes] == [
        "the first weights were not audited",
        "model.pt2 was not written, since torch.export cannot follow the network's code",
    ]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Robust accuracy at linf:0.05 is" in page
    assert "the first weights were not audited" in page


def test_a_union_is_audited_and_judged_threat_by_threat_and_at_once(tmp_path: Path) -> None:
    settings = {"recipe": "max", "threat": "rotation:30deg", "others": "linf:0.12", "test": data(64, seed=1), "epochs": 2}
    found = harden(plain(), data(128), batch=32, out=tmp_path / "out", **settings)
    for result, name in ((found.before, "before"), (found.after, "after")):
        assert result is not None
        one, other = result.verdict.threats
        assert (one.ids == other.ids).all()
        told = found.facts[name]
        assert told["by_threat"] == {"rotation:30deg": one.score.low, "linf:0.12": other.score.low}
        assert told["robust_accuracy"] == ((one.status == "robust") & (other.status == "robust")).mean()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Robust accuracy at rotation:30deg and linf:0.12 at once went from" in page
    assert '<th scope="col">all at once</th>' in page


class FourWays(nn.Module):
    """Classes 0 and 1 differ by one entry, 2 and 3 by sixteen: linf moves the one by its budget and the other by four times as
    much, l2 moves both alike."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        pair, one, many = 10 * (2 * x[:, :1] - 1), x[:, 1:2] - 0.5, (x[:, 2:] - 0.5).sum(1, keepdim=True) / 4
        return self.scale * torch.cat([pair + one, pair - one, many - pair, -many - pair], 1)


def test_an_epoch_is_judged_by_what_withstands_every_threat(tmp_path: Path) -> None:
    x = torch.full((8, 18), 0.5)
    x[:4, 0], x[4:, 0], x[:4, 1] = 1.0, 0.0, 0.7  # which l2 breaks, and linf does not
    x[4:, 2:] += 0.35 / 4  # which linf breaks, and l2 does not
    y = torch.tensor([0] * 4 + [2] * 4)
    shares = {}
    for others in ("linf:0.1", "l2:0.3"):
        recipe, settings = Worst(steps=1, others=others), Training(epochs=1, batch=8, rate=1e-9)
        (tmp_path / others).mkdir()
        found = fit(Task(FourWays(), recipe, x, y, x, y, 4, settings, Linf(0.1)), tmp_path / others)
        shares[others] = found.history[0]["robust"]
        assert found.best_score == shares[others]
    assert shares == {"linf:0.1": 0.5, "l2:0.3": 0.0}


def test_other_examples_under_the_same_name_are_not_the_same_training(tmp_path: Path) -> None:
    x, y = data(32, seed=1)
    settings = {"recipe": "fast", "threat": "linf:0.05", "epochs": 1, "batch": 32, "out": tmp_path / "out"}
    harden(plain(), data(64), test=(x, y), **settings)
    with pytest.raises(RunError, match="begun with another test"):
        harden(plain(), data(64), test=(x, 1 - y), **settings)


def test_audits_on_what_was_trained_on_say_so(tmp_path: Path) -> None:
    x, y = data(64)
    own, others = data(8, seed=1)
    settings = {"recipe": "fast", "threat": "linf:0.05", "epochs": 1, "batch": 16, "validate": 0.25}
    made = make_job(plain(), (x, y), test=(torch.cat([x, own]), torch.cat([y, others])), **settings)
    assert made.spec["test"]["seen"] == 48
    assert "48 of the 72 examples of the audits" in made.notes[0]
    found = harden(plain(), (x, y), test=(torch.cat([x, own]), torch.cat([y, others])), out=tmp_path / "out", **settings)
    assert found.notes == list(made.notes)
    assert "48 of which the weights were fitted to" in (tmp_path / "out" / "report.html").read_text()
    assert make_job(plain(), (x, y), **settings).notes == ()


def test_a_request_that_came_to_nothing_makes_room(tmp_path: Path) -> None:
    settings = {"recipe": "fast", "test": data(32, seed=1), "epochs": 1, "batch": 16, "out": tmp_path / "out"}
    with pytest.raises(RequestError, match="no number any more"):
        harden(plain(), data(64), threat="linf:0.1", rate=1e38, **settings)
    found = harden(plain(), data(64), threat="linf:0.05", **settings)
    assert found.before is not None
    assert list(found.before.robust_accuracy) == ["linf:0.05"]
    with pytest.raises(RunError, match="another request"):
        harden(plain(), data(64), threat="linf:0.1", **settings)


@pytest.mark.parametrize(("point", "name"), [("rename", "train.json"), ("write", "run.json"), ("rename", "run.json")])
def test_what_was_killed_as_it_began_begins_again(point: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(where: str, path: Path) -> None:
        if (where, path.name) == (point, name):
            raise KeyboardInterrupt

    settings = {"recipe": "fast", "threat": "linf:0.05", "epochs": 1, "batch": 32, "out": tmp_path / "out"}
    monkeypatch.setattr(faults, "_hooks", [die])
    with pytest.raises(KeyboardInterrupt):
        harden(plain(), data(64), **settings)
    monkeypatch.setattr(faults, "_hooks", [])
    assert list((tmp_path / "out").iterdir()) != []
    assert harden(plain(), data(64), **settings).after is not None


def test_a_network_is_exported_by_one_example_too(tmp_path: Path) -> None:
    found = harden(plain(), data(64), recipe="standard", epochs=1, batch=32, validate=0.01, out=tmp_path / "out")
    assert found.notes == []
    x, _ = data(5)
    torch.testing.assert_close(load_model(str(tmp_path / "out" / "model.pt2"), x=x).logits(x), found.network(x))


X, Y = data(40)
WRONG = [
    ({"data": (255 * X, Y), "test": (X, Y)}, "outside the bounds"),
    ({"test": (X, Y + 6)}, "labels run from 6 to 7"),
    ({"test": (3 * X, Y)}, "outside the bounds"),
    ({"profile": "banana"}, "unknown profile"),
    ({"threat": "linf:0.1+knowledge:label"}, "grants label"),
    ({"recipe": "layers", "layers": "1.1,nosuch"}, r"unknown activation layer 'nosuch'; known: 1\.1$"),
    ({"recipe": "max", "others": "perceptual:0.4"}, "is made with a network"),
    ({"augment": ("crop:0.5",)}, "whole pixels"),
    ({"augment": ("cutout:inf",)}, "whole pixels"),
    ({"threat": None}, "give --threat"),
    ({"threat": "linf:0"}, "needs a budget above 0"),
    ({"threat": "rotation:10deg", "recipe": "trades"}, "hardens against linf, l2, l1, l0"),
    ({"data": (X, torch.zeros(40, dtype=torch.int64))}, "one class alone"),
    ({"data": (X, torch.where(Y == 1, 7, 0))}, "labels go to 7"),
    ({"model": nn.Sequential(nn.Flatten(), nn.Softmax(1))}, "no parameter"),
    ({"batch": 64}, "a batch of 64 is more"),
    ({"validate": 0.7}, "28 of 40 are held out"),
    ({"model": nn.Linear(5, 2)}, "does not take the data"),
    ({"epochs": 0}, "epochs"),
    ({"augment": ("flipp",)}, "did you mean 'flip'"),
    ({"average": "ema:2"}, "between 0 and 1"),
    ({"recipe": "fas"}, "did you mean 'fast'"),
    ({"steppes": 3}, "option of the recipe"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_a_wrong_request_writes_nothing(change: dict[str, object], message: str, tmp_path: Path) -> None:
    asked = {"model": plain(), "data": (X, Y), "threat": "linf:0.1", "batch": 16, **change}
    with pytest.raises(RequestError, match=message):
        harden(asked.pop("model"), asked.pop("data"), out=tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


def test_a_killed_training_goes_on_with_the_same_command(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    environ = {**os.environ, "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}
    words = "train demo:standard --data digits --recipe fast --threat linf:0.2 --epochs 4 --rate 0.01 --batch 50 --limit 100"
    command = [sys.executable, "-m", "mohs", *words.split(), "--out", str(tmp_path / "killed")]
    killed = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "killed" / "checkpoint.pt").exists():
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    again = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)
    assert "after" in again.stdout
    with threads(1):
        settings = {"recipe": "fast", "threat": "linf:0.2", "epochs": 4, "rate": 0.01, "batch": 50, "limit": 100}
        harden("demo:standard", "digits", out=tmp_path / "whole", **settings)
    for name in ("best", "last"):
        one, other = ((tmp_path / folder / f"{name}.safetensors").read_bytes() for folder in ("whole", "killed"))
        assert one == other


def test_standing_is_plain_data() -> None:
    assert Standing(**vars(Standing())) == Standing()


def test_tensorboard_gets_every_epoch(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'mohs[track]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = harden(
        plain(), data(), threat="linf:0.1", recipe="fast", epochs=3, batch=24, out=tmp_path / "out", log=["tensorboard"]
    )
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    events.Reload()
    seen = events.Scalars("robust_accuracy")
    assert [event.step for event in seen] == [1, 2, 3]
    assert [event.value for event in seen] == pytest.approx([row["robust"] for row in found.history], abs=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of its database
def test_mlflow_gets_every_epoch_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'mohs[track]'")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'tracked.db'}")
    wanted: dict[str, Any] = {"threat": "linf:0.1", "recipe": "fast", "epochs": 3, "batch": 24, "out": tmp_path / "out"}
    with pytest.raises(Stopped):
        harden(plain(), data(), **wanted, log=["mlflow"], watch=stop_after(2))
    found = harden(plain(), data(), **wanted, log=["mlflow"])
    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("mohs").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["recipe"] == "fast"
    seen = client.get_metric_history(run.info.run_id, "loss")
    assert {metric.step: metric.value for metric in seen} == {row["epoch"]: row["loss"] for row in found.history}


def test_what_cannot_be_tracked_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: dict[str, Any] = {"threat": "linf:0.1", "recipe": "fast", "epochs": 1, "batch": 24, "out": tmp_path / "out"}
    with pytest.raises(UnknownName, match="wandb"):
        harden(plain(), data(), **wanted, log=["wandb"])
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(Missing, match=r"mohs\[track\]"):
        harden(plain(), data(), **wanted, log=["mlflow"])
    assert not (tmp_path / "out").exists()

"""The training loop: one for every recipe, on one device or many, resumable at every epoch to the bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mohs.errors import RequestError, RunError
from mohs.models.cpu import keep_freed_memory
from mohs.rng import Stream
from mohs.threat import Threat
from mohs.train import checkpoint, together
from mohs.train.adversary import facing
from mohs.train.augment import MIXING, Change, augmentation
from mohs.train.average import Average
from mohs.train.batch import Batch
from mohs.train.called import Called
from mohs.train.launch import launched
from mohs.train.recipe import Recipe
from mohs.train.schedules import SCHEDULES
from mohs.train.training import Training
from mohs.train.validation import Score, score
from mohs.train.weights import Sharded, Whole

CHECK_EVERY = 50  # updates: how often the loss is looked at, which waits for the device
BROKE_DOWN = 0.2  # of robust accuracy lost against the best epoch: catastrophic overfitting
LITTLE, NOISE = 0.25, 0.05  # so is what leaves less than this share of the best one, and takes more than chance does
MOST_RETURNS = 3


@dataclass(frozen=True)
class Epoch:
    """What is known after an epoch. loss: the mean over it. rate: the last one. validated: on the held-out part."""

    number: int
    of: int
    loss: float
    rate: float
    seconds: float
    validated: Score
    note: str = ""


@dataclass
class Task:
    """A training made concrete. network: what is trained, in place. x, y: the data of it; held_x, held_y: what is held out.
    classes: how many scores the network gives."""

    network: nn.Module
    recipe: Recipe
    x: Tensor
    y: Tensor
    held_x: Tensor
    held_y: Tensor
    classes: int
    training: Training
    threat: Threat | None = None
    aids: dict[str, nn.Module] = field(default_factory=dict)


@dataclass
class Standing:
    """What a checkpoint holds beside the weights. own: of each process, what recipes carry from batch to batch, `memory`, and the
    state of its random numbers, `random`."""

    epoch: int = 0
    best_epoch: int = -1
    best_score: float = -1.0
    best: dict[str, Tensor] = field(default_factory=dict)
    own: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    returns: int = 0  # how often it went back, each time with a calmer recipe
    stopped: bool = False


def fit(task: Task, folder: Path, watch: Callable[[Epoch], None] | None = None) -> Standing:
    """Train `task.network`, in place, from the folder's checkpoint on. What is kept of it is in the folder, and in
    `Standing.best`; the network itself ends as it was last. Raises RequestError where the loss is no number any more, or the
    network answers every example alike: the checkpoint of the epoch before stays."""
    return _Loop(task, folder, watch or (lambda epoch: None)).run()


class _Loop:
    def __init__(self, task: Task, folder: Path, watch: Callable[[Epoch], None]) -> None:
        training = task.training
        keep_freed_memory()
        self.task, self.folder, self.watch, self.training = task, folder, watch, training
        self.fabric = launched(training)
        network = task.network.to(self.fabric.device)
        parted = training.strategy == "fsdp" and self.fabric.world_size > 1
        self.weights = Sharded(network) if parted else Whole(network)
        self.network = Called(self.fabric.setup_module(self.weights.trained)._forward_module, self.fabric)
        self.optimiser: Any = self.fabric.setup_optimizers(_optimiser(self.weights.trained, training))
        self.average = Average(training.average, network) if training.average else None
        self.aids = {name: aid.to(self.fabric.device) for name, aid in task.aids.items()}
        self.changes: list[Change] = [augmentation(text, task.classes) for text in training.augment]
        self.mixes = any(text.partition(":")[0] in MIXING for text in training.augment)
        self.schedule = SCHEDULES[training.schedule]
        self.recipe = task.recipe
        self.threat = task.threat and facing(task.threat, network)
        self.streams = Stream.of(training.seed, torch.arange(len(task.x)))
        self.standing, self.memory = Standing(), dict[str, Tensor]()

    @property
    def passes(self) -> int:
        """Over the data."""
        return math.ceil(self.training.epochs / self.recipe.updates)

    @property
    def used(self) -> nn.Module:
        """What is validated and kept: the average of the weights where there is one yet."""
        return self.average.model.module if self.average is not None and self.average.model.n_averaged else self.weights.whole

    def run(self) -> Standing:
        self._restore()
        while self.standing.epoch < self.passes and not self.standing.stopped:
            started = time.perf_counter()
            loss = self._epoch(self.standing.epoch)
            self.weights.settle()
            if self.average:
                self.average.epoch(self.weights.whole, (self.standing.epoch + 1) / self.passes)
            validated = self._validate()
            if validated.flat:
                raise RequestError(
                    f"after epoch {self.standing.epoch + 1} the network gives every held-out example the same scores, or some "
                    "that are no numbers: training collapsed. The checkpoint of the epoch before is kept. Lower --rate, or clip "
                    "gradients (--clip 1)"
                )
            seconds = time.perf_counter() - started
            note = self._judge(validated)
            rate = self.optimiser.param_groups[0]["lr"]
            epoch = Epoch(self.standing.epoch + 1, self.passes, loss, rate, seconds, validated, note)
            if note.startswith("broke down"):
                self._go_back(epoch)
            else:
                self.standing.epoch += 1
                self.standing.history.append(_row(epoch))
                self._save()
            self.watch(epoch)
        return self.standing

    def _epoch(self, number: int) -> float:
        """One pass over the data; the mean loss."""
        self.network.train()
        batches, streams = self._batches(number), self.streams.at("epoch", number)
        total, last = len(batches) * self.passes, 0.0
        seen: list[Tensor] = []
        for k, rows in enumerate(batches):
            here = number * len(batches) + k
            batch = self._batch(rows, streams, here / total)
            share = len(batch.x0) * together.processes() / len(rows)
            for replay, loss in enumerate(self.recipe.losses(batch)):
                self._set_rate((here + replay / self.recipe.updates) / total)
                self._update(loss if share == 1 else loss * share, batch)
                seen.append(loss.detach() * share)
            if len(seen) >= CHECK_EVERY or k + 1 == len(batches):
                last += self._sum(seen, number, k)
                seen = []
        return last / (len(batches) * self.recipe.updates)

    def _update(self, loss: Tensor, batch: Batch) -> None:
        """loss: weighed by this process's share of the rows; gradients are averaged, so that the mean is over all rows."""
        self.optimiser.zero_grad()
        self.fabric.backward(loss)
        for call in batch.done:
            call()
        batch.done.clear()
        if self.training.clip is not None:
            self.fabric.clip_gradients(self.network, self.optimiser, max_norm=self.training.clip)
        self.optimiser.step()
        if self.average:
            self.average.update(self.weights.whole)

    def _batches(self, epoch: int) -> list[Tensor]:
        """Positions of the joint batch of all processes. A last one that is shorter is kept; it joins the one before where it
        has less than two rows for each of them, since one row has no spread that batch norm could go by."""
        order = Stream.of(self.training.seed, torch.arange(1)).at("order", epoch).permutation(len(self.task.x))[0]
        batches = list(order.split(self.training.batch))
        if len(batches) > 1 and len(batches[-1]) < min(self.training.batch, 2 * together.processes()):
            batches[-2:] = [torch.cat(batches[-2:])]
        return batches

    def _batch(self, joint: Tensor, streams: Stream, progress: float) -> Batch:
        """This process's rows of the joint batch. streams: of all the data, in this epoch."""
        mine = torch.tensor(together.mine(len(joint)))
        rows = joint[mine]
        drawn = joint if self.mixes else rows  # a row is mixed with the next of the joint batch
        x, y, stream = self.task.x.index_select(0, drawn), self.task.y.index_select(0, drawn), streams.take(drawn)
        for change in self.changes:
            x, y = change(x, y, stream)
        if self.mixes:
            x, y, stream = x[mine], y[mine], stream.take(mine)
        device = self.fabric.device
        return Batch(
            network=self.network,
            x0=x.to(device),
            y=y.to(device),
            rows=rows,
            stream=Stream(stream.keys.to(device)),
            joint=streams.take(joint[:1]),
            given=self.threat,
            progress=progress,
            memory=self.memory,
            aids=self.aids,
        )

    def _set_rate(self, progress: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self.training.peak * self.schedule(progress)

    def _sum(self, losses: list[Tensor], epoch: int, k: int) -> float:
        values = together.summed(torch.stack(losses).double()).cpu() / together.processes()
        if not values.isfinite().all():
            raise RequestError(
                f"the loss is no number any more in epoch {epoch + 1}, at about batch {k + 1}; the checkpoint of the epoch "
                "before is kept. Lower --rate, clip gradients (--clip 1), or see whether the data are scaled as it expects"
            )
        return float(values.sum())

    def _validate(self) -> Score:
        task, seed, device, prove = self.task, self.training.seed, self.fabric.device, self.recipe.certified
        threats = [] if task.threat is None else [facing(part, self.used) for part in self.recipe.threats(task.threat)]
        return score(self.used, task.held_x, task.held_y, threats, seed, device, prove)

    def _judge(self, validated: Score) -> str:
        """Note the best epoch; what is to be said of this one."""
        standing, value = self.standing, validated.robust if self.recipe.by_robustness else validated.clean
        value = value if validated.proved is None else validated.proved
        if value > standing.best_score:
            standing.best_epoch, standing.best_score = standing.epoch, value
            standing.best = {name: v.detach().clone().cpu() for name, v in self.used.state_dict().items()}
            return "best so far"
        broke = broke_down(value, standing.best_score) and standing.returns < MOST_RETURNS
        if self.training.guard and broke and self.recipe.calmer() is not None:
            return f"broke down from {standing.best_score:.1%} to {value:.1%} robust: goes back, calmer"
        patience, since = self.training.patience, max(standing.best_epoch, int(self.recipe.settled * self.passes))
        if patience is not None and standing.epoch - since >= patience:
            standing.stopped = True
            return f"no better for {patience} epochs: stopped"
        return ""

    def _go_back(self, epoch: Epoch) -> None:
        """To the checkpoint before, with a calmer recipe."""
        returns = self.standing.returns + 1
        self._restore()
        self.standing.returns = returns
        self.standing.history.append(_row(epoch))
        self._calm()
        self._save()

    def _calm(self) -> None:
        self.recipe = self.task.recipe
        for _ in range(self.standing.returns):
            self.recipe = self.recipe.calmer() or self.recipe

    # what outlives the process

    def _save(self) -> None:
        memory = {name: value.detach().cpu() for name, value in self.memory.items()}
        self.standing.own = together.gathered({"memory": memory, "random": self._random()})
        state = self.weights.state(self.optimiser)
        if self.fabric.global_rank == 0:
            checkpoint.save(
                self.folder,
                {
                    **state,
                    "average": self.average.model.state_dict() if self.average else None,
                    "standing": vars(self.standing),
                    "threads": torch.get_num_threads(),
                },
            )
        self.fabric.barrier()

    def _restore(self) -> None:
        state = checkpoint.load(self.folder)
        if state is None:
            torch.manual_seed(self.training.seed)
            return
        self.weights.load(state, self.optimiser)
        if self.average:
            self.average.model.load_state_dict(state["average"])
        self.standing = Standing(**state["standing"])
        if len(self.standing.own) != self.fabric.world_size:
            raise RunError(
                f"{self.folder} was begun with {len(self.standing.own)} processes, and these are {self.fabric.world_size}: go on "
                "with as many, or name another folder"
            )
        own = self.standing.own[self.fabric.global_rank]
        self.memory = {name: value.to(self.fabric.device) for name, value in own["memory"].items()}
        torch.set_rng_state(own["random"]["cpu"])
        if "cuda" in own["random"]:
            torch.cuda.set_rng_state(own["random"]["cuda"], self.fabric.device)
        self._calm()

    def _random(self) -> dict[str, Tensor]:
        """The state of torch's own random numbers, which modules such as dropout draw from."""
        device = self.fabric.device
        there = {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
        return {"cpu": torch.get_rng_state(), **there}


def broke_down(value: float, best: float) -> bool:
    """Whether robust accuracy fell too far below the best. Where a task is hard the best is below 20 points itself."""
    return value < max(best - BROKE_DOWN, min(LITTLE * best, best - NOISE))


def _optimiser(network: nn.Module, training: Training) -> torch.optim.Optimizer:
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    decay = training.weight_decay
    fused = training.precision != "16" and training.strategy == "ddp"  # not where clipping scales gradients, or in parts
    if training.optimizer == "adamw":
        return torch.optim.AdamW(trained, training.peak, weight_decay=decay, fused=fused)
    return torch.optim.SGD(trained, training.peak, momentum=training.momentum, weight_decay=decay, fused=fused)


def _row(epoch: Epoch) -> dict[str, Any]:
    scored = epoch.validated
    return {
        "epoch": epoch.number,
        "loss": epoch.loss,
        "rate": epoch.rate,
        "seconds": epoch.seconds,
        "clean": scored.clean,
        "robust": scored.robust,
        **({} if scored.proved is None else {"proved": scored.proved}),
        "note": epoch.note,
    }

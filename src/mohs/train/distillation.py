"""Distillation: as a defence that fell, and of robustness."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mohs.errors import ModelError
from mohs.models.load import load_model
from mohs.models.torch_model import TorchModel
from mohs.train.batch import Batch
from mohs.train.recipe import Adversarial, Recipe, Trainer
from mohs.train.trades import divergence


@dataclass(frozen=True, kw_only=True)
class Tempered(Recipe):
    """Cross-entropy of softmax(z / temperature): the teacher of defensive distillation."""

    temperature: float = 20.0

    paper = "Papernot et al., S&P 2016, arXiv:1511.04508"
    cost = "F+Bw"
    purpose = "the teacher of `distillation`"
    sets = ()

    def loss(self, batch: Batch) -> Tensor:
        return functional.cross_entropy(batch.network(batch.x0) / self.temperature, batch.y)


@dataclass(frozen=True, kw_only=True)
class Distillation(Recipe):
    """Defensive distillation: a student learns the teacher's softmax(z / T), at T itself, and is used at temperature 1, where its
    probabilities are saturated: gradients of the cross-entropy vanish, and attacks by them fail. The network is no safer: attacks
    on logits get through (Carlini & Wagner, S&P 2017, arXiv:1608.04644).

    temperature: T, 20 in most figures of the paper, up to 100. The teacher is trained first, on the same data.
    Papernot, McDaniel, Wu, Jha, Swami, S&P 2016, arXiv:1511.04508.
    """

    temperature: float = 20.0

    paper = "Papernot et al., S&P 2016, arXiv:1511.04508"
    cost = "2F+Bw, after the teacher's training"
    purpose = "a lesson: saturated outputs are not robustness"
    sets = ()

    def aids(self, train: Trainer) -> dict[str, nn.Module]:
        return {"teacher": train.fit("teacher", Tempered(temperature=self.temperature))}

    def loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            taught = (batch.aids["teacher"](batch.x0) / self.temperature).softmax(1)
        return functional.cross_entropy(batch.network(batch.x0) / self.temperature, taught)


@dataclass(frozen=True, kw_only=True)
class RSLAD(Adversarial):
    """Robust soft-label adversarial distillation: (1 - weight) KL(teacher(x) || f(x)) + weight KL(teacher(x) || f(x')), where x'
    climbs the second divergence.

    teacher: a robust model, as `mohs audit` takes a torch one; without it one like the network is trained first, by TRADES.
    weight: 5/6 in the paper. steps, step_size: of the inner maximisation.
    Zi, Zhao, Ma, Jiang, ICCV 2021, arXiv:2108.07969.
    """

    teacher: str = ""
    weight: float = 5 / 6
    steps: int = 10
    step_size: float = 0.25
    noise: float = 0.001

    paper = "Zi et al., ICCV 2021, arXiv:2108.07969"
    cost = "k(F+Bx)+3F+2Bx+2Bw, after the teacher's training"
    purpose = "a small network that learns from a robust one"
    sets = ("linf", "l2", "l1", "l0")

    def suits(self, network: nn.Module, x: Tensor) -> None:
        if not self.teacher:
            return
        with torch.no_grad():
            taught, own = given(self.teacher, x)(x), network(x)
        if taught.shape != own.shape:
            raise ModelError(
                f"the teacher {self.teacher} answers with {list(taught.shape)} and the network with {list(own.shape)}"
            )

    def aids(self, train: Trainer) -> dict[str, nn.Module]:
        from mohs.train.trades import TRADES

        return {"teacher": given(self.teacher, train.x[:8]) if self.teacher else train.fit("teacher", TRADES())}

    def attacked(self, batch: Batch) -> Tensor:
        taught = self._taught(batch)
        noise = self.noise * batch.stream.at("start").normal(*batch.x0.shape[1:])
        start = batch.threat.project(batch.x0 + noise, batch.x0)
        return batch.ascend(lambda z: divergence(taught, z), start, steps=self.steps, step_size=self.step_size)

    def outer(self, batch: Batch, point: Tensor) -> Tensor:
        taught = self._taught(batch)
        clean, attacked = batch.network(batch.x0), batch.network(batch.shown(point))
        return ((1 - self.weight) * divergence(taught, clean) + self.weight * divergence(taught, attacked)).mean()

    @staticmethod
    def _taught(batch: Batch) -> Tensor:
        with torch.no_grad():
            taught: Tensor = batch.aids["teacher"](batch.x0)
        return taught


def given(source: str, x: Tensor) -> nn.Module:
    """A trained network that answers batches like x [n, *input]; its weights stay as they are."""
    model = load_model(source, x=x)
    if not isinstance(model, TorchModel) or model.batch is not None:
        raise ModelError(
            f"the teacher {source} is to be a torch network that takes any batch: a factory, TorchScript or .pt2 file"
        )
    return model.module.requires_grad_(False).eval()

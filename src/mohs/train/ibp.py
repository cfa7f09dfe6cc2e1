"""Training on interval bounds: the loss of the worst input that the bounds admit."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn import functional

from mohs.certificates.backward import Bounds, Functions, substitute
from mohs.certificates.crown import margins
from mohs.certificates.graph import Live, Network
from mohs.certificates.region import region_of
from mohs.errors import RequestError
from mohs.threat import Threat
from mohs.train.batch import Batch
from mohs.train.recipe import Recipe, Trainer
from mohs.train.schedules import smooth_ramp


@dataclass(frozen=True, kw_only=True)
class IBP(Recipe):
    """kappa CE(f(x), y) + (1 - kappa) CE(z, y), where z are the worst logits that interval bound propagation admits over the
    ball: 0 for y, and for another class j the upper bound of z_j - z_y, the last layer in one with that difference. The bounds
    are those of `mohs certify --method interval`, in the box, differentiable in the weights; layers that normalise by a batch
    do so by its clean examples.

    kappa: at full epsilon; until then it falls from 1, as epsilon grows. warmup, ramp: the shares of the training at whose
    ends epsilon leaves 0 and has grown, smoothly, to the whole.
    Gowal, Dvijotham, Stanforth, Bunel, Qin, Uesato, Arandjelovic, Mann, Kohli, ICCV 2019, arXiv:1810.12715.
    """

    kappa: float = 0.5
    warmup: float = 0.05
    ramp: float = 0.6

    paper = "Gowal et al., ICCV 2019, arXiv:1810.12715"
    cost = "6F+4Bw, about"
    purpose = "a network of which `mohs certify` proves much, at some loss of accuracy"
    sets = ("linf",)
    mixes = False

    @property
    def certified(self) -> bool:
        return True

    @property
    def shards(self) -> bool:
        return False

    @property
    def settled(self) -> float:
        return self.ramp

    def check(self, threat: Threat | None) -> None:
        super().check(threat)
        if not (0 <= self.warmup < self.ramp <= 1 and 0 <= self.kappa <= 1):
            raise RequestError(
                f"epsilon grows from warmup {self.warmup:g} to ramp {self.ramp:g}, shares of the training, and kappa falls to "
                f"{self.kappa:g}: all should lie between 0 and 1, and ramp above warmup"
            )

    def aids(self, train: Trainer) -> dict[str, nn.Module]:
        return {"operators": Live(train.network)}

    def suits(self, network: nn.Module, x: Tensor) -> None:
        Live(network.train())(x)

    def loss(self, batch: Batch) -> Tensor:
        grown = smooth_ramp((batch.progress - self.warmup) / (self.ramp - self.warmup))
        clean = functional.cross_entropy(batch.network(batch.x0), batch.y)
        if grown == 0:
            return clean
        kappa = 1 - grown * (1 - self.kappa)
        return kappa * clean + (1 - kappa) * worst(self.least(batch, grown)).mean()

    def least(self, batch: Batch, grown: float) -> Tensor:
        """[n, classes - 1]: what the margins of y come to at least over the ball of `grown` epsilon."""
        bounds, functions = reached(batch, grown)
        return substitute(bounds, functions, relax=False, sound=False)


def reached(batch: Batch, grown: float) -> tuple[Bounds, Functions]:
    """Interval bounds of every node over the ball of `grown` epsilon, and the margins [n, classes - 1] to be bounded."""
    network: Network = batch.aids["operators"](batch.x0)
    threat = replace(batch.threat, epsilon=grown * batch.threat.epsilon)
    bounds = Bounds(network, region_of(threat, batch.x0))
    for i in range(len(network.nodes)):
        bounds.reach(i)
    return bounds, Functions({len(network.nodes) - 1: margins(network.classes, batch.y, network.dtype)})


def worst(least: Tensor) -> Tensor:
    """[n]: cross-entropy where the margins to all other classes are these [n, classes - 1]."""
    return functional.pad(-least, (1, 0)).logsumexp(1)

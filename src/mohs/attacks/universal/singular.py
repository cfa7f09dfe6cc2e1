"""Singular vectors of a hidden layer's Jacobian, as universal perturbations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mohs.aim import Aim
from mohs.attacks.universal.craft import Craft, reached, shuffled, within
from mohs.errors import Refused, RequestError
from mohs.losses import Loss
from mohs.models import Model, TorchModel
from mohs.models.hidden import Hidden, layers
from mohs.models.prepared import Guide
from mohs.oracle import Oracle
from mohs.threat import NormThreat, Threat, Untargeted

SMALL = 1e-3  # of the side of the box: how far an entry moves where derivatives are taken as differences


@dataclass(frozen=True, kw_only=True)
class SingularVectors(Craft):
    """epsilon v, v the (p, q)-singular vector of a layer's Jacobian J over a batch: argmax sum_x ||J(x) v||_q^q, ||v||_p = 1, by
    the generalised power method v = psi_p'(sum_x J(x)^T psi_q(J(x) v)), psi_r(z) = sign(z) |z|^(r-1), 1/p + 1/p' = 1. p is
    that of the threat.

    layer: its name, such as `conv1` or `features.3`; without one, each of the first `tried` convolutions and linear layers,
    of which the one that fools most examples is kept, as the authors tried layer by layer. batch: examples the vector is
    made from. iterations: of the power method, a forward and backward pass of each. Of v and -v, which are equally
    singular, the better is kept.

    J v is the difference of the layer between x + t v and x over t, t v at most a thousandth of the box, and the
    transposed product is taken at x + t v: one ordinary gradient does both. `rate` ends nothing but the trying of layers.
    Khrulkov, Oseledets, CVPR 2018, arXiv:1709.03582; power method: Boyd, Linear Algebra Appl. 1974.
    """

    layer: str = ""
    tried: int = 4
    q: float = 10.0
    batch: int = 64
    iterations: int = 30

    paper = "Khrulkov & Oseledets, CVPR 2018, arXiv:1709.03582"
    sets: ClassVar[tuple[str, ...]] = ("linf", "l2")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.q <= 1:
            raise RequestError(f"SingularVectors: q should be above 1, not {self.q:g}")

    def check(self, threat: Threat, model: Model) -> None:
        super().check(threat, model)
        if not isinstance(model, TorchModel):
            raise Refused(f"SingularVectors looks inside a torch module, and the model {model.name} is none")

    def run(self, oracle: Oracle, threat: Threat, rate: float) -> Tensor:
        assert isinstance(threat, NormThreat)  # as `sets` says
        model = oracle.judge.model  # the guide's layers may be folded into one another
        assert isinstance(model, TorchModel)
        best, most = torch.zeros_like(oracle.x0[:1]), -1.0
        for name in [self.layer] if self.layer else layers(model)[: self.tried]:
            v = self.singular_vector(oracle, Hidden(model, name), threat)
            for change in (within(threat.epsilon * v, threat), within(-threat.epsilon * v, threat)):
                share = float(reached(oracle, change, threat).double().mean())
                if share > most:
                    best, most = change, share
            if most >= rate:
                break
        return best

    def singular_vector(self, oracle: Oracle, hidden: Model, threat: NormThreat) -> Tensor:
        """v [1, *input], ||v||_p = 1."""
        seen = oracle.guided_by(Guide(hidden, oracle.judge.rows, oracle.judge.quantum))
        seen.keep(shuffled(oracle, 0)[: self.batch])
        z0 = seen.guide.scores(seen.x0)
        if z0.shape[1] < oracle.judge.model.classes:
            raise Refused(f"the layer {hidden.name} has {z0.shape[1]} outputs, fewer than classes; name a wider one")
        seen.goal, seen.aim = Untargeted(), Aim(seen.aim.y, reference=z0)
        v = threat.constraints.mutable(threat.norm.sphere(seen.x0[:1], seen.stream.take(torch.zeros(1, dtype=torch.long))))
        side = threat.bounds[1] - threat.bounds[0]
        for _ in range(self.iterations):
            points = seen.x0 + v * (SMALL * side / float(v.abs().max()))
            scale = float((seen.scores(points).logits - z0).abs().max()) or 1.0
            g = seen.gradient(points, powers(self.q, scale)).gradient.sum(0, keepdim=True)
            last, v = v, threat.norm.steepest(threat.constraints.mutable(g))
            if not v.any():
                raise Refused(f"the layer {hidden.name} does not depend on the input at these examples; name another")
            if torch.equal(last, v):
                break
        return v


def powers(q: float, scale: float) -> Loss:
    """||(z - z0) / scale||_q^q, z0 in the aim; the scale keeps high powers within float32 and changes no direction."""

    def loss(z: Tensor, aim: Aim) -> Tensor:
        assert aim.reference is not None
        return ((z - aim.reference) / scale).abs().pow(q).sum(1)

    return loss

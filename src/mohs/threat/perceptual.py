"""The neural perceptual threat: inputs that a network sees as it sees x0."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from mohs.errors import ThreatError
from mohs.geometry import Number, per_row
from mohs.geometry.l2 import unit
from mohs.geometry.solve import clip_, length, total
from mohs.geometry.solve import pick as rows_of
from mohs.rng import Stream
from mohs.threat.constraints import Constraints
from mohs.threat.threat import Knowledge, Threat, unit_of

if TYPE_CHECKING:
    from mohs.models import Model
    from mohs.models.perception import Perception

NOISE = 0.01  # the standard deviation of a random point, in units of the range: at x0 the distance has no slope
CONJUGATE = 5  # iterations of conjugate gradients
DIFFERENCE = 1e-3  # how far, in units of the range, an input is moved where phi is differentiated by differences
HALVINGS = 10  # of the way from x0, by which a point is projected


@dataclass(frozen=True)
class PerceptualThreat(Threat):
    """All inputs of the box with d(x, x0) = ||phi(x) - phi(x0)||_2 <= epsilon, phi what a network sees (`Perception`): the point
    is the input. With LPIPS's weights d is the root of LPIPS.

    network: whose phi; where None, that of the model attacked (self-bounded), given by `facing`. layers: of the network,
    compared in place of those found. Distances are decided in float64 where the network computes in it. Its passes are no
    queries and are counted nowhere. phi jumps where all channels of a place fall silent, and so does the distance.
    Laidlaw, Singla, Feizi, ICLR 2021, arXiv:2006.12655.
    """

    epsilon: float
    network: Perception | None = field(default=None, kw_only=True, compare=False, repr=False)
    layers: tuple[str, ...] = field(default=(), kw_only=True)
    knowledge: Knowledge = field(default=Knowledge.GRADIENT, kw_only=True)
    constraints: Constraints = field(default_factory=Constraints, kw_only=True)
    bounds: tuple[float, float] = field(default=(0.0, 1.0), kw_only=True)

    name = "perceptual"

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:
            raise ThreatError(f"the threat {self.name} has epsilon {self.epsilon}; it must be 0 or more")

    def __str__(self) -> str:
        layers = f"+layers:{','.join(self.layers)}" if self.layers else ""
        return f"{self.name}:{self.epsilon:g}{layers}{self.constraints}"

    def facing(self, model: Model) -> Self:
        network = model.perception(self.layers) if self.network is None else self.network
        return replace(self.within(model.bounds), network=network)

    def digest(self) -> str | None:
        parts = [part for part in (self.constraints.digest(), self.network and self.network.fingerprint()) if part]
        return " ".join(parts) or None

    def phi(self, x: Tensor) -> Tensor:
        """[n, features], differentiable."""
        if self.network is None:
            raise ThreatError(f"the threat {self} has no network to see with yet: give it one by `facing(model)`")
        return self.network(x)

    def origin(self, x0: Tensor) -> Tensor:
        return x0.clone()

    def apply(self, p: Tensor, x0: Tensor, draw: Stream | None = None) -> Tensor:
        return self.shown(p, x0)

    def distance(self, p: Tensor, x0: Tensor) -> Tensor:
        with torch.no_grad():
            seen = self.phi(x0.double())
        return length(self.phi(self.apply(p, x0).double()) - seen)

    @torch.no_grad()
    def project(self, p: Tensor, x0: Tensor, epsilon: Number | None = None) -> Tensor:
        """The identity inside; else the last point of the set found by halving the way from x0 to p, the paper's bisection,
        which is not the nearest point."""
        budget = self.epsilon if epsilon is None else epsilon
        p = clip_(p, *self.constraints.box(x0, self.bounds))
        out = (self.distance(p, x0) > budget).nonzero()[:, 0]
        if len(out) == 0:
            return p
        origin, end, most = x0[out], p[out], rows_of(budget, out, x0)
        seen = self.phi(origin.double())
        low = torch.zeros(len(out), dtype=p.dtype, device=p.device)
        step = 0.5
        for _ in range(HALVINGS):
            middle = torch.lerp(origin, end, per_row(low + step, end))
            near = length(self.phi(self.shown(middle, origin).double()) - seen) <= most
            low, step = torch.where(near, low + step, low), step / 2
        p[out] = torch.lerp(origin, end, per_row(low, end))
        return p

    def step(self, p: Tensor, g: Tensor, x0: Tensor, size: Number, epsilon: Number | None = None) -> Tensor:
        """argmax <g, v> over ||J v||_2 <= size epsilon, J the Jacobian of phi at p: J^T J v = g by conjugate gradients, from
        zero, with J v a difference. Projected."""
        budget = self.epsilon if epsilon is None else epsilon
        at = p.detach().requires_grad_()
        with torch.enable_grad():
            phi = self.phi(at)
        far = DIFFERENCE * (self.bounds[1] - self.bounds[0])

        def along(v: Tensor) -> tuple[Tensor, Tensor]:
            """J v, v scaled to the length of the difference; and what it was scaled by."""
            scale = far / length(v).clamp(min=1e-12)
            with torch.no_grad():
                return self.phi(p + v * per_row(scale.to(v.dtype), v)) - phi.detach(), scale

        v = torch.zeros_like(g)
        r = unit(self.constraints.mutable(g))  # how long it is makes no difference
        q, rest = r, total(r * r)
        for _ in range(CONJUGATE):
            moved, scale = along(q)
            back = torch.autograd.grad(phi, at, moved, retain_graph=True)[0]
            turned = self.constraints.mutable(back) * per_row((1 / scale).to(g.dtype), g)
            bent = total(q * turned)
            a = torch.where(bent > 0, rest / bent, 0.0)  # what moves nothing that is seen ends the search
            v = v + q * per_row(a.to(g.dtype), g)
            r = r - turned * per_row(a.to(g.dtype), g)
            left = total(r * r)
            q, rest = r + q * per_row((left / rest.clamp(min=1e-30)).to(g.dtype), g), left
        moved, scale = along(v)
        size = size * unit_of(budget) * scale / length(moved).clamp(min=1e-12)
        return self.project(p + v * per_row(size.to(g.dtype), g), x0, budget)

    def random_point(self, x0: Tensor, stream: Stream, epsilon: Number | None = None) -> Tensor:
        """x0 + N(0, 0.01^2) in units of the range, projected: where the paper's attacks start."""
        noise = self.constraints.mutable(stream.normal(*x0.shape[1:])) * (NOISE * (self.bounds[1] - self.bounds[0]))
        return self.project(x0 + noise, x0, epsilon)

    def check(self, x0: Tensor) -> None:
        self.constraints.check(x0, self.bounds)
        if self.network is None:
            return
        try:
            with torch.no_grad():
                self.phi(x0[:1])
        except RuntimeError as error:
            raise ThreatError(
                f"{self.network.name}, which the threat {self} sees with, does not take inputs of shape {list(x0.shape[1:])}: "
                f"{(str(error).splitlines() or [''])[0]}"
            ) from error

    def describe(self) -> str:
        seer = "a network" if self.network is None else self.network.name
        return f"change the input as long as what {seer} sees of it moves by at most {self.epsilon:g} in the perceptual distance"

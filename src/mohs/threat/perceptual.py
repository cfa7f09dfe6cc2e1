"""The neural perceptual threat: inputs that a network sees as x0."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor, nn

from mohs.errors import ThreatError, UnknownName
from mohs.geometry import Number, per_row
from mohs.geometry.solve import clip_, length, total
from mohs.rng import Stream
from mohs.threat.constraints import Constraints
from mohs.threat.threat import Knowledge, Threat

ROWS, QUANTUM = 128, 16  # of a call of the network: few shapes, so that a row's features are not its batch mates' to say
START = 0.01  # the standard deviation of a random point: the distance has no gradient at x0
ITERATIONS = 5  # of conjugate gradients
DIFFERENCE = 1e-3  # the length of the finite difference that a Jacobian is multiplied by
HALVINGS = 10  # of the segment from x0 that a point is projected along
NEWTON, OVERSHOOT = 10, 0.1  # steps of the projection before that, at most, each longer by this part
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus, nn.Tanh, nn.Sigmoid)


class Features(nn.Module):
    """phi(x) [n, features]: the outputs of layers of a network, of unit length over the channels at each place, divided by
    the square root of the number of places, concatenated. layers: names of `named_modules`, all activations without any."""

    def __init__(self, module: nn.Module, layers: Sequence[str] = ()) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        named = dict(self.module.named_modules())
        for name in layers:
            if name not in named:
                raise UnknownName("layer", name, named)
        self.layers = tuple(layers) or tuple(name for name, part in named.items() if isinstance(part, ACTIVATIONS))
        if not self.layers:
            raise ThreatError(f"{type(module).__name__} has no activation layers: name the layers of the perceptual distance")

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._some(part) for part in x.split(ROWS)]) if len(x) else x.flatten(1)

    def _some(self, x: Tensor) -> Tensor:
        seen: list[Tensor] = []

        def see(part: nn.Module, inputs: object, output: Tensor) -> None:
            seen.append(_unit(output[: len(x)]))

        hooks = [self.module.get_submodule(name).register_forward_hook(see) for name in self.layers]
        missing = -len(x) % QUANTUM
        try:
            self.module(torch.cat([x, x[:1].expand(missing, *x.shape[1:])]) if missing else x)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat(seen, 1)


def _unit(activation: Tensor) -> Tensor:
    size = (activation.square().sum(1, keepdim=True) + 1e-20).sqrt()
    return (activation / size).flatten(1) / activation[0, 0].numel() ** 0.5


@dataclass(frozen=True)
class Perceptual(Threat):
    """All inputs of the box with ||phi(x) - phi(x0)||_2 <= epsilon, phi the `Features` of a network: the point is the input.

    network: the attacked one itself where None (self-bounded). layers: of it, that are compared.
    Its passes are no queries, and are counted nowhere. Laidlaw, Singla, Feizi, ICLR 2021, arXiv:2006.12655.
    """

    epsilon: float
    network: nn.Module | None = field(default=None, kw_only=True, compare=False, repr=False)
    layers: tuple[str, ...] = field(default=(), kw_only=True)
    knowledge: Knowledge = field(default=Knowledge.GRADIENT, kw_only=True)
    constraints: Constraints = field(default_factory=Constraints, kw_only=True)
    bounds: tuple[float, float] = field(default=(0.0, 1.0), kw_only=True)

    name = "perceptual"

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:
            raise ThreatError(f"the threat {self.name} has epsilon {self.epsilon}; it must be 0 or more")

    def __str__(self) -> str:
        return f"{self.name}:{self.epsilon:g}{self.constraints}"

    def facing(self, module: nn.Module | None) -> Self:
        if isinstance(self.network, Features):
            return self
        seen = module if self.network is None else self.network
        if seen is None:
            raise ThreatError("the perceptual threat needs a torch module to see with: give it a network of its own")
        return replace(self, network=Features(seen, self.layers))

    def features(self, x: Tensor) -> Tensor:
        """phi(x), differentiable."""
        if not isinstance(self.network, Features):
            raise ThreatError("the perceptual threat does not face a model yet: give it one by `facing`")
        return self.network(x)  # type: ignore[no-any-return]

    def origin(self, x0: Tensor) -> Tensor:
        return x0.clone()

    def apply(self, p: Tensor, x0: Tensor, draw: Stream | None = None) -> Tensor:
        return p

    def distance(self, p: Tensor, x0: Tensor) -> Tensor:
        with torch.no_grad():
            seen = self.features(x0)
        return length(self.features(p) - seen)

    def contains(self, p: Tensor, x0: Tensor) -> Tensor:
        low, high = self.constraints.box(x0, self.bounds)
        with torch.no_grad():
            near = self.distance(p, x0) <= self.epsilon * (1 + 1e-6)
        return near & ((p >= low) & (p <= high)).flatten(1).all(1)

    def project(self, p: Tensor, x0: Tensor, epsilon: Number | None = None) -> Tensor:
        """Newton's steps down the distance, each clipped to the box, then for what is still outside the last point of the
        set by halving the segment from x0. Inside it is the identity; it is not the nearest point."""
        budget = self.epsilon if epsilon is None else epsilon
        low, high = self.constraints.box(x0, self.bounds)
        p = clip_(p, low, high)
        out = torch.arange(len(p), device=p.device)
        for _ in range(NEWTON):
            x = p[out].requires_grad_()
            with torch.enable_grad():
                distance = self.distance(x, x0[out])
                g = torch.autograd.grad(distance.sum(), x)[0]
            over = distance.detach() - _of(budget, out)
            far = (over > 0).nonzero()[:, 0]
            if len(far) == 0:
                return p
            out, g = out[far], self.constraints.mutable(g[far])
            size = over[far] / length(g).square().clamp(min=1e-20) * (1 + OVERSHOOT)
            moved = p[out] - g * per_row(size.to(p.dtype), g)
            p[out] = clip_(moved, *(_rows(side, out, x0) for side in (low, high)))
        return self._on_segment(p, x0, budget, out)

    def step(self, p: Tensor, g: Tensor, x0: Tensor, size: Number, epsilon: Number | None = None) -> Tensor:
        """argmax <g, v> over ||J v||_2 <= size epsilon, J the Jacobian of phi at p: J^T J v ~ g by conjugate gradients."""
        budget = self.epsilon if epsilon is None else epsilon
        at = p.detach().requires_grad_()
        with torch.enable_grad():
            phi = self.features(at)
        seen = phi.detach()

        def forward(v: Tensor) -> Tensor:
            per = per_row((DIFFERENCE / length(v).clamp(min=1e-20)).to(v.dtype), v)
            with torch.no_grad():
                moved = self.features(p + v * per) - seen
            return moved / per.flatten(1)

        def normal(v: Tensor) -> Tensor:
            back = torch.autograd.grad(phi, at, forward(v), retain_graph=True)[0]
            return self.constraints.mutable(back)

        g = self.constraints.mutable(g)
        v, r = torch.zeros_like(g), g
        way, rest = r, total(r * r)
        for _ in range(ITERATIONS):
            turned = normal(way)
            share = rest / total(way * turned).clamp(min=1e-30)
            v = v + way * per_row(share.to(v.dtype), v)
            r = r - turned * per_row(share.to(v.dtype), v)
            following = total(r * r)
            way = r + way * per_row((following / rest.clamp(min=1e-30)).to(v.dtype), v)
            rest = following
        scale = size * budget / length(forward(v)).clamp(min=1e-12)
        return self.project(p + v * per_row(scale.to(v.dtype), v), x0, budget)

    def random_point(self, x0: Tensor, stream: Stream, epsilon: Number | None = None) -> Tensor:
        """x0 + N(0, 0.01^2) in units of the range, projected."""
        noise = stream.normal(*x0.shape[1:]) * (START * (self.bounds[1] - self.bounds[0]))
        return self.project(self.constraints.mutable(noise) + x0, x0, epsilon)

    def check(self, x0: Tensor) -> None:
        self.constraints.check(x0, self.bounds)
        if self.constraints.bits is not None:
            raise ThreatError("the perceptual threat takes no quantising; leave it out")

    def words(self) -> str:
        return (
            f"An adversary who {'knows the model and its gradients' if self.knowledge == Knowledge.GRADIENT else 'asks'} may change "
            f"the input as far as the features of a network move by {self.epsilon:g} at most, inside "
            f"[{self.bounds[0]:g}, {self.bounds[1]:g}]{self.constraints.words()}."
        )

    @torch.no_grad()
    def _on_segment(self, p: Tensor, x0: Tensor, budget: Number, out: Tensor) -> Tensor:
        far = (self.distance(p[out], x0[out]) > _of(budget, out)).nonzero()[:, 0]
        out = out[far]
        if len(out) == 0:
            return p
        origin, end = x0[out], p[out]
        low = torch.zeros(len(out), dtype=torch.float64, device=p.device)
        high = torch.ones_like(low)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            inside = self.distance(torch.lerp(origin, end, per_row(middle.to(p.dtype), end)), origin) <= _of(budget, out)
            low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
        p[out] = torch.lerp(origin, end, per_row(low.to(p.dtype), end))
        return p


def _of(value: Number, rows: Tensor) -> Number:
    return value[rows] if isinstance(value, Tensor) and value.ndim == 1 else value


def _rows(side: Number, rows: Tensor, x0: Tensor) -> Number:
    return side.expand_as(x0)[rows] if isinstance(side, Tensor) else side

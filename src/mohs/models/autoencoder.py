"""An autoencoder: the user's own, or a small one fitted to the data at hand."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mohs.errors import ModelError
from mohs.models.cpu import threads
from mohs.models.factory import call_factory
from mohs.models.torch_model import in_double
from mohs.rng import Stream

ROWS, QUANTUM = 128, 16  # of a call: few shapes
LATENT, HIDDEN = 10, 128  # of the fitted one; the paper's latents have 10 dimensions
STEPS, BATCH, RATE = 1000, 64, 3e-3
WANTED = (
    "an autoencoder is a torch module with encode(x) -> [n, ...] and decode(z) -> x, from a factory `package.module:name`; "
    "a .pt2 file holds one function alone, and so cannot be one"
)


class Autoencoder:
    """`encode` [n, *input] -> [n, *latent] and `decode` back, of a module in evaluation mode, which is copied. It computes in
    float64 and answers in float32, so that a row's bits are not its batch mates' to say."""

    def __init__(self, module: nn.Module, name: str) -> None:
        for part in ("encode", "decode"):
            if not callable(getattr(module, part, None)):
                raise ModelError(f"{name} has no {part}: {WANTED}")
        self.name = name
        self.module = in_double(module).eval()
        self._latent: dict[torch.Size, torch.Size] = {}

    @torch.no_grad()
    def latent(self, x: Tensor) -> torch.Size:
        """The shape of the latents of one input such as those of x [n, *input]."""
        shape = x.shape[1:]
        if shape not in self._latent:
            self._latent[shape] = self.encode(x[:1]).shape[1:]
        return self._latent[shape]

    def encode(self, x: Tensor) -> Tensor:
        return _padded(self.module.encode, x)

    def decode(self, z: Tensor) -> Tensor:
        return _padded(self.module.decode, z)

    @torch.no_grad()
    def check(self, x: Tensor) -> None:
        """ModelError where inputs of this shape do not come back in it, or come back at random."""
        shape = list(x.shape[1:])
        try:
            back = [self.decode(self.encode(x[:2])) for _ in range(2)]
        except (RuntimeError, ValueError, TypeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(f"the autoencoder {self.name} does not take inputs {shape} in float64: {reason}") from error
        if back[0].shape != x[:2].shape:
            raise ModelError(f"the autoencoder {self.name} makes {list(back[0].shape[1:])} of inputs of shape {shape}")
        if not torch.equal(*back):
            raise ModelError(f"the autoencoder {self.name} answers at random: decode(encode(x)) should be the same twice")

    def fingerprint(self) -> str:
        """sha256 of its numbers."""
        digest = hashlib.sha256()
        for name, value in self.module.state_dict().items():
            digest.update(f"{name} {list(value.shape)};".encode() + value.detach().double().cpu().numpy().tobytes())
        return digest.hexdigest()


def _padded(function: Any, x: Tensor) -> Tensor:
    parts = [torch.cat([part, part[:1].expand(-len(part) % QUANTUM, *part.shape[1:])]) for part in x.double().split(ROWS)]
    return torch.cat([function(part) for part in parts])[: len(x)].to(x.dtype)


def load_autoencoder(source: str, device: torch.device) -> Autoencoder:
    """The autoencoder that `package.module:factory` names."""
    if source.count(":") != 1:
        raise ModelError(f"{source!r} is no autoencoder: {WANTED}")
    module = call_factory(source)
    if not isinstance(module, nn.Module):
        raise ModelError(f"{source} returned {type(module).__name__}: {WANTED}")
    return Autoencoder(module.to(device), source)


class Small(nn.Module):
    """Two layers each way; the latents of the data it is fitted to have mean 0 and standard deviation 1."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, shape: tuple[int, ...], bounds: tuple[float, float]) -> None:
        super().__init__()
        self.shape, self.bounds = shape, bounds
        width = math.prod(shape)
        self.down = nn.Sequential(nn.Flatten(), nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, LATENT))
        self.up = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, width))
        self.register_buffer("mean", torch.zeros(LATENT))
        self.register_buffer("deviation", torch.ones(LATENT))

    def encode(self, x: Tensor) -> Tensor:
        z: Tensor = (self.down(x) - self.mean) / self.deviation
        return z

    def decode(self, z: Tensor) -> Tensor:
        x: Tensor = self.up(z * self.deviation + self.mean)
        if all(map(math.isfinite, self.bounds)):
            x = self.bounds[0] + (self.bounds[1] - self.bounds[0]) * x.sigmoid()
        return x.view(-1, *self.shape)


def fit_autoencoder(
    x: Tensor, bounds: tuple[float, float], device: torch.device | None = None, steps: int = STEPS
) -> Autoencoder:
    """A small autoencoder of x [n, *input], by Adam on the squared error, in seconds; the same for the same data."""
    with torch.random.fork_rng(), threads(1), torch.enable_grad():
        torch.manual_seed(0)
        module = Small(tuple(x.shape[1:]), bounds)
        data = x.float().cpu()
        optimiser = torch.optim.Adam(module.parameters(), lr=RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
        order = Stream.of(0, torch.arange(steps))
        for rows in order.at("batch").integers(len(data), BATCH):
            optimiser.zero_grad()
            functional.mse_loss(module.decode(module.encode(data[rows])), data[rows]).backward()
            optimiser.step()
            schedule.step()
    with torch.no_grad():
        z = module.encode(data)
        module.mean, module.deviation = z.mean(0), z.std(0, correction=0).clamp(min=1e-6)
    return Autoencoder(module.to(device or x.device), "an autoencoder fitted to the data")

"""Defense-GAN: the input as the nearest image that a generator makes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mohs.data.cache import kept
from mohs.data.digits import load_digits
from mohs.defend.base import Defence, back, unit
from mohs.errors import ModelError, RequestError
from mohs.geometry import per_row
from mohs.models import Model
from mohs.models.cpu import threads
from mohs.rng import Stream

VERSION = 1  # of the recipe: a change makes new weights
LATENT, WIDTH = 16, 128
QUANTUM = 16  # rows that the generator's calls are padded to, so that a row's bits are not its batch mates' to say
BATCH, RATE, CRITIC_STEPS, PENALTY = 64, 5e-4, 5, 10.0
DECAY_AT, DECAY, MOMENTUM = 0.8, 0.1, 0.7  # of the projection's rate: after that share of the steps it is a tenth


class Generator(nn.Module):
    """Latents [n, latent], standard normal, to images [n, *shape] in [0, 1]: two hidden layers."""

    def __init__(self, shape: tuple[int, ...], latent: int = LATENT, width: int = WIDTH) -> None:
        super().__init__()
        self.shape, self.latent = tuple(shape), latent
        self.layers = nn.Sequential(
            nn.Linear(latent, width), nn.ReLU(), nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, math.prod(shape))
        )

    def forward(self, z: Tensor) -> Tensor:
        x: Tensor = self.layers(z).sigmoid()
        return x.view(-1, *self.shape)


class DefenseGAN(Defence):
    """The model sees G(z*), z* = argmin_z mean (G(z) - x)^2, found by gradient descent from `restarts` random latents, of which
    the nearest counts. No derivative: attacks pass it as the identity, since an image that G makes is its own projection.

    generator: a module with the number `latent`, from latents [n, latent], standard normal, to images in [0, 1]; in evaluation
    mode. steps: L of the paper; restarts: R, drawn at every pass. rate: of descent with momentum 0.7, a tenth of it in the last
    fifth: read from memory of the authors' code, since the paper does not give them.
    Samangouei, Kabkab, Chellappa, ICLR 2018, arXiv:1805.06605; broken by Athalye, Carlini, Wagner, ICML 2018, arXiv:1802.00420.
    """

    def __init__(self, model: Model, generator: Generator, *, restarts: int = 10, steps: int = 200, rate: float = 10.0) -> None:
        if not (restarts >= 1 and steps >= 1 and 0 < rate < math.inf):
            raise ModelError(f"{restarts} restarts, {steps} steps, rate {rate}: should be >= 1, >= 1, above 0 and finite")
        self.generator = generator.to(model.device).requires_grad_(False).eval()
        self.restarts, self.steps, self.rate = restarts, steps, rate
        digest = hashlib.sha256(b"".join(p.detach().cpu().numpy().tobytes() for p in generator.parameters())).hexdigest()[:16]
        super().__init__(model, f"Defense-GAN {digest} ({restarts} x {steps}, rate {rate:g})", differentiable=False, random=True)

    def transform(self, x: Tensor, stream: Stream) -> Tensor:
        if x.shape[1:] != self.generator.shape:
            raise ModelError(f"the generator makes images {list(self.generator.shape)}, and the inputs are {list(x.shape[1:])}")
        return back(self.nearest(unit(x, self.bounds), stream).to(x), self.bounds)

    def nearest(self, u: Tensor, stream: Stream) -> Tensor:
        """G(z*) of images u [n, *shape] in [0, 1]."""
        n, tries = len(u), self.restarts
        z = stream.at("latent").normal(tries, self.generator.latent).flatten(0, 1)
        wanted = u.float().repeat_interleave(tries, 0)
        missing = -len(z) % QUANTUM
        z, wanted = (torch.cat([t, t[:1].expand(missing, *t.shape[1:])]) for t in (z, wanted))
        speed = torch.zeros_like(z)
        for step in range(self.steps):
            speed = MOMENTUM * speed + self._slope(z, wanted)
            z = z - self.rate * (1.0 if step < DECAY_AT * self.steps else DECAY) * speed
        with torch.no_grad():
            made: Tensor = self.generator(z)
        off = (made - wanted).double().flatten(1).square().sum(1)[: n * tries].view(n, tries)
        return made[: n * tries].view(n, tries, *u.shape[1:])[torch.arange(n, device=u.device), off.argmin(1)]

    def _slope(self, z: Tensor, wanted: Tensor) -> Tensor:
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            off = (self.generator(z) - wanted).flatten(1).square().mean(1)
            slope: Tensor = torch.autograd.grad(off.sum(), z)[0]
        return slope


def with_generator(
    model: Model, *, generator: str = "digits", restarts: int = 10, steps: int = 200, rate: float = 10.0
) -> DefenseGAN:
    """The model sees the nearest image that a generator makes, found by gradient descent on the latents from several starts.
    generator: `digits`, or a file of `save_generator`.

    When to use: where a good generator of the data is at hand and hundreds of passes an answer can be paid for. An attacked
    image has a neighbour among the generated ones too, which is of the class the adversary wants where the generator draws that
    as well.
    """
    return DefenseGAN(model, load_generator(generator), restarts=restarts, steps=steps, rate=rate)


def load_generator(source: str) -> Generator:
    """`digits`, trained on the embedded digits at its first use (about a minute) and kept; or a file of `save_generator`."""
    if source == "digits":
        x, _ = load_digits("train")
        return _generator(kept(f"generator-{VERSION}-digits", lambda: fit_generator(x).state_dict()), x.shape[1:])
    path = Path(source)
    if path.suffix != ".safetensors" or not path.is_file():
        wanted = "`digits`, or a .safetensors file that mohs.defend.save_generator(fit_generator(x), FILE) wrote"
        raise RequestError(f"{source!r} is no generator; expected {wanted}")
    with safe_open(path, "pt") as file:
        shape = (file.metadata() or {}).get("shape")
        if shape is None:
            raise RequestError(f"{source} does not say which shape its images have: write it by mohs.defend.save_generator")
        return _generator({name: file.get_tensor(name) for name in file.keys()}, json.loads(shape))  # noqa: SIM118


def save_generator(generator: Generator, path: str | Path) -> None:
    """Keep a generator for `--with defense-gan:generator=FILE.safetensors`."""
    save_file(generator.state_dict(), path, {"shape": json.dumps(generator.shape)})


def _generator(state: dict[str, Tensor], shape: Sequence[int]) -> Generator:
    width, latent = state["layers.0.weight"].shape
    generator = Generator(tuple(shape), latent, width)
    generator.load_state_dict(state)
    return generator.eval()


def fit_generator(
    x: Tensor,
    bounds: tuple[float, float] = (0.0, 1.0),
    *,
    steps: int = 4000,
    latent: int = LATENT,
    width: int = WIDTH,
) -> Generator:
    """A generator of images like x [n, *input], trained as a WGAN with gradient penalty, which the authors' code uses: Adam
    (0.5, 0.9), five steps of the critic to one of the generator, each of 64 images. The same for the same data.

    Arjovsky, Chintala, Bottou, ICML 2017, arXiv:1701.07875; Gulrajani et al., NeurIPS 2017, arXiv:1704.00028.
    """
    images = unit(x.float().cpu(), bounds)
    with torch.random.fork_rng(), threads(1), torch.enable_grad():
        torch.manual_seed(0)
        generator = Generator(images.shape[1:], latent, width)
        size = images[0].numel()
        hidden = (nn.Linear(size, 2 * width), nn.LeakyReLU(0.2), nn.Linear(2 * width, width), nn.LeakyReLU(0.2))
        critic = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, 1))
        made_by, told_by = (torch.optim.Adam(m.parameters(), RATE, betas=(0.5, 0.9)) for m in (generator, critic))
        stream = Stream.of(0, torch.arange(1)).at("gan")
        for step in range(steps):
            at = stream.at(step)
            latents = at.at("latent").normal(CRITIC_STEPS + 1, BATCH, latent)[0]
            shares = at.at("share").uniform(CRITIC_STEPS, BATCH)[0]
            for turn, rows in enumerate(at.at("rows").integers(len(images), CRITIC_STEPS, BATCH)[0]):
                real, fake = images[rows], generator(latents[turn]).detach()
                told_by.zero_grad()
                (critic(fake).mean() - critic(real).mean() + PENALTY * _steepness(critic, real, fake, shares[turn])).backward()
                told_by.step()
            made_by.zero_grad()
            (-critic(generator(latents[-1])).mean()).backward()
            made_by.step()
    return generator.requires_grad_(False).eval()


def _steepness(critic: nn.Module, real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """The mean of (||gradient|| - 1)^2 at points between real and made images."""
    between = torch.lerp(fake, real, per_row(share, real)).requires_grad_()
    slope: Tensor = torch.autograd.grad(critic(between).sum(), between, create_graph=True)[0]
    steepness: Tensor = torch.linalg.vector_norm(slope.flatten(1), dim=1)
    return (steepness - 1).square().mean()

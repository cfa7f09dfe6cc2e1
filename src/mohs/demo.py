"""The embedded model: a small network on the scikit-learn digits, trained in seconds, once as usual and once on attacked
images. `demo` and `demo:robust` name the second, `demo:standard` the first. For the examples of the documentation,
`example` gives it with digits, `transfer_example` one to be attacked by way of the other, and `linear_example` a model whose
nearest adversarial points are known."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from mohs.data.cache import kept
from mohs.data.digits import load_digits
from mohs.errors import UnknownName
from mohs.models import Prepared, TorchModel, prepare
from mohs.models.cpu import threads
from mohs.models.ensemble import surrogate
from mohs.rng import Stream
from mohs.threat import Linf

VERSION = 1  # of the recipe: a change makes new weights
EPSILON = 0.2
EPOCHS, BATCH, RATE, SEED = 40, 64, 2e-3, 0
STEPS, STEP_SIZE = 7, 0.25  # of the attack in training; the step in units of epsilon


class DigitNet(nn.Module):
    """Two convolutions and two linear layers for 8x8 digits in [0, 1]: [n, 1, 8, 8] -> [n, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 16, 128),
            nn.ReLU(),
            nn.Linear(128, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def load_demo(name: str = "demo") -> nn.Module:
    """`demo`, `demo:robust` or `demo:standard`, in evaluation mode; trained at the first call and kept in the cache folder."""
    variants = {"demo": True, "demo:robust": True, "demo:standard": False}
    if name not in variants:
        raise UnknownName("embedded model", name, variants)
    model = DigitNet()

    def make() -> dict[str, Tensor]:
        with threads(1):  # so small a network only waits for a second one
            return train(robust=variants[name]).state_dict()

    model.load_state_dict(kept(f"demo-{VERSION}-{'robust' if variants[name] else 'standard'}", make))
    return model.eval()


def example(count: int = 32, name: str = "demo") -> tuple[nn.Module, Tensor, Tensor]:
    """An embedded model, and the first `count` held-out digits x [count, 1, 8, 8] that it classifies as their labels y."""
    model = load_demo(name)
    x, y = load_digits("test")
    with torch.no_grad():
        right = (model(x).argmax(1) == y).nonzero()[:count, 0]
    return model, x[right], y[right]


def transfer_example(count: int = 32) -> tuple[Prepared, Tensor, Tensor]:
    """`demo:standard` as a victim that is not to be asked, with `demo` as the surrogate that guides; and as many digits
    which the victim classifies rightly."""
    victim, x, y = example(count, "demo:standard")
    prepared = prepare(TorchModel(victim, classes=10), x[:8])
    return surrogate(prepared, [TorchModel(load_demo(), classes=10)], x[:8]), x, y


def linear_example() -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model of four classes and one grey image x [1, 1, 2, 2] of class 0, whose neighbour is class 1:
    z_0 - z_1 = 1 - 4 (x_1 - 0.5) - 3 (x_2 - 0.5). That boundary is 1/5 away in l2, 1/7 in linf, 1/4 in l1 and one entry
    in l0; the other classes are out of reach."""
    linear = nn.Linear(4, 4)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[0.0] * 4, [4.0, 3.0, 0.0, 0.0], [0.0] * 4, [0.0] * 4]))
        linear.bias.copy_(torch.tensor([0.0, -4.5, -40.0, -40.0]))
    return nn.Sequential(nn.Flatten(), linear).eval(), torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])


def train(*, robust: bool, epochs: int = EPOCHS) -> DigitNet:
    """Standard training, or adversarial training (Madry et al., ICLR 2018, arXiv:1706.06083) at linf:0.2."""
    images, labels = load_digits("train")
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model = DigitNet()
    steps = epochs * -(-len(images) // BATCH)
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    for x, y, stream in _batches(images, labels, epochs):
        shown = _attacked(model, x, y, stream) if robust else x
        optimiser.zero_grad()
        functional.cross_entropy(model(shown), y).backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def _batches(x: Tensor, y: Tensor, epochs: int) -> Iterator[tuple[Tensor, Tensor, Stream]]:
    order = Stream.of(SEED, torch.arange(1))
    for epoch in range(epochs):
        for rows in order.at("order", epoch).permutation(len(x))[0].split(BATCH):
            yield x[rows], y[rows], Stream.of(SEED, rows).at("epoch", epoch)


def _attacked(model: nn.Module, x0: Tensor, y: Tensor, stream: Stream) -> Tensor:
    threat = Linf(EPSILON)
    x = threat.random_point(x0, stream)
    for _ in range(STEPS):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(functional.cross_entropy(model(x), y, reduction="sum"), x)
        x = threat.step(x.detach(), gradient, x0, STEP_SIZE)
    return x

"""What networks are made of: activations, normalisations, the first layer, and the weights they start with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from mohs.errors import RequestError, UnknownName
from mohs.rng import Stream

Activation = Callable[[], nn.Module]  # a module of its own at each place, so that hooks tell the places apart

CHANNELS_A_GROUP = 16  # of group normalisation: Wu, He, ECCV 2018, arXiv:1803.08494


class Normalise(nn.Module):
    """(x - mean) / std, an entry a channel (the first dimension of an input `shape`)."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], shape: Sequence[int]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != shape[0]:
                raise RequestError(f"the {name} has {len(values)} entries; inputs {list(shape)} have {shape[0]} channels")
        if min(std) <= 0:
            raise RequestError(f"the standard deviations {list(std)} should be above 0: inputs are divided by them")
        wide = (-1, *[1] * (len(shape) - 1))
        self.register_buffer("mean", torch.tensor(mean).view(wide))
        self.register_buffer("std", torch.tensor(std).view(wide))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def statistics(x: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of x [n, channels, ...]; 1 for a channel that never changes."""
    over = [k for k in range(x.ndim) if k != 1]
    mean, std = x.double().mean(over), x.double().std(over, correction=0)
    return mean.tolist(), torch.where(std > 0, std, 1.0).tolist()


class SmoothReLU(nn.Module):
    """x - log(a x + 1) / a for x above 0, else 0, with a = root^2 learned. Xie, Tan, Gong, Yuille, Le, 2020, arXiv:2006.14536.

    Once differentiable at 0, and near ReLU where a is large. The paper leaves open how a stays positive and where it starts;
    its published code learns the root, from 20.
    """

    def __init__(self, root: float = 20.0) -> None:
        super().__init__()
        self.root = nn.Parameter(torch.tensor(root))

    def forward(self, x: Tensor) -> Tensor:
        a, x = self.root.square(), x.relu()
        return x - (a * x).log1p() / a


ACTIVATIONS: dict[str, Activation] = {
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "smooth-relu": SmoothReLU,
}


def activation(name: str) -> Activation:
    """`relu`, `silu`, `softplus:10` (its beta) and so on."""
    kind, colon, beta = name.partition(":")
    if kind not in ACTIVATIONS or (colon and kind != "softplus"):
        raise UnknownName("activation", name, [*ACTIVATIONS, "softplus:10"])
    if not colon:
        return ACTIVATIONS[kind]
    try:
        sharpness = float(beta)
    except ValueError:
        sharpness = 0.0
    if not 0 < sharpness < math.inf:
        raise RequestError(f"softplus:{beta}: its beta should be a number above 0, such as softplus:10")
    return partial(nn.Softplus, beta=sharpness)


def normalisation(kind: str, channels: int) -> nn.Module:
    """Of feature maps [n, channels, h, w]: `batch`, `group` or `none`."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(math.gcd(channels, max(1, channels // CHANNELS_A_GROUP)), channels)
    if kind == "none":
        return nn.Identity()
    raise UnknownName("normalisation", kind, ("batch", "group", "none"))


def convolution(inputs: int, outputs: int, kernel: int, stride: int, norm: str) -> nn.Conv2d:
    """Padded to keep its size at stride 1, with a bias where no normalisation brings one."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=norm == "none")


class Block(nn.Module):
    """Of a residual network. starts_at_zero: whether its branch does, as it must where no normalisation keeps the sum of
    many branches small (Zhang, Dauphin, Ma, ICLR 2019, arXiv:1901.09321)."""

    conv2: nn.Conv2d
    starts_at_zero: bool


@torch.no_grad()
def initialise(module: nn.Module, seed: int) -> None:
    """Weights of convolutions and linear layers from N(0, gain / inputs), biases at 0 (He et al., ICCV 2015, arXiv:1502.01852).

    Each layer has a stream of its own, whose address is its name. gain: 2, or what the module says. The last layer begins with a
    tenth of that, so that the first answers are near even: with all of it small networks without normalisation may collapse.
    """
    stream, gain = Stream.of(seed, torch.zeros(1, dtype=torch.int64)), getattr(module, "gain", 2.0)
    for name, part in module.named_modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            std = math.sqrt(gain / part.weight[0].numel())
            part.weight.copy_(std * stream.at(name).normal(*part.weight.shape)[0])
            if part.bias is not None:
                part.bias.zero_()
    *_, last = (part for part in module.modules() if isinstance(part, nn.Linear))
    last.weight.mul_(0.1)
    for part in module.modules():
        if isinstance(part, Block) and part.starts_at_zero:
            part.conv2.weight.zero_()

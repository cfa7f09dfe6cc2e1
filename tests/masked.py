"""Models whose gradients are masked, in every way known, around any network: what a diagnosis must catch. None of them
declares anything: to mohs each is a plain module."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


class Before(nn.Module):
    """A network behind a change of its input."""

    def __init__(self, network: nn.Module, change: nn.Module) -> None:
        super().__init__()
        self.change, self.network = change, network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.change(x))


class Bits(nn.Module):
    def __init__(self, bits: int = 3) -> None:
        super().__init__()
        self.levels = 2**bits - 1

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.levels).round() / self.levels


class Jpeg(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        from PIL import Image

        shown = []
        for image in (x.detach().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy():
            file = io.BytesIO()
            Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(file, "JPEG", quality=75)
            shown.append(np.asarray(Image.open(file)).reshape(image.shape))
        return torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2).float() / 255


class Resize(nn.Module):
    """To a random smaller side, and back into the frame at a random place."""

    def forward(self, x: Tensor) -> Tensor:
        full = x.shape[-1]
        side = int(torch.randint(full - max(1, full // 8), full, ()))
        top, left = (int(v) for v in torch.randint(0, full - side + 1, (2,)))
        small = functional.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
        return functional.pad(small, (left, full - side - left, top, full - side - top))


class Noise(nn.Module):
    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) * self.sigma


class Times(nn.Module):
    """Logits so large that the softmax saturates."""

    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) * self.factor


class Dropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.2, training=True)


class Winners(nn.Module):
    """k winners take all: the largest share of a layer's activations stay, the others are 0. Xiao, Zhong, Zheng, ICLR 2020,
    arXiv:1905.10510."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        least = flat.topk(max(1, int(self.share * flat.shape[1])), dim=1).values[:, -1:]
        return (flat * (flat >= least)).view_as(x)


def with_relus_replaced(network: nn.Module, by: Callable[[], nn.Module]) -> nn.Module:
    """A copy of a network of which every ReLU module is another."""
    copied = copy.deepcopy(network)
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(parent, name, by())
    return copied


def trained(network: nn.Module, x: Tensor, y: Tensor, *, epochs: int, rate: float = 2e-3, temperature: float = 1.0) -> nn.Module:
    """Fitted to labels y [n], or to probabilities y [n, classes], by Adam at a temperature of the softmax."""
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    draw = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=draw).split(64):
            optimiser.zero_grad()
            functional.cross_entropy(network(x[rows]) / temperature, y[rows]).backward()
            optimiser.step()
    return network.eval().requires_grad_(False)

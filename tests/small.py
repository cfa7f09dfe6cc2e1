"""Small models and data that tests share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def network(classes: int = 10, seed: int = 0, channels: int = 1) -> nn.Module:
    """A convolution and two linear layers for [n, channels, 8, 8], in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = nn.Sequential(
            nn.Conv2d(channels, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 32),
            nn.ReLU(),
            nn.Linear(32, classes),
        )
    return module.eval()


def labelled(module: nn.Module, n: int, channels: int = 1, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Random images and the labels the module gives them, one in eight wrong."""
    x = torch.rand(n, channels, 8, 8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        logits = module(x)
    y = logits.argmax(1)
    y[::8] = (y[::8] + 1) % logits.shape[1]
    return x, y


class Linear(nn.Module):
    """z = W x + b over flattened inputs, whose nearest adversarial points are known in closed form."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x.flatten(1), self.weight, self.bias)

"""Training with small input gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


def gradient_regularised(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, *, weight: float = 1.0) -> Tensor:
    """Cross-entropy plus weight * ||its gradient in the input||_2^2, the mean of rows, a number: double backpropagation.

    model: inputs [n, *input] -> logits [n, classes], twice differentiable, coupling no rows. weight: the authors' lambda, for
    which they try 10^-1 to 10^3 and more; its unit is that of the input, squared.
    Ross & Doshi-Velez, AAAI 2018, arXiv:1711.09404.
    """
    x = x.detach().requires_grad_()
    losses = functional.cross_entropy(model(x), y, reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum(), x, create_graph=True)
    return losses.mean() + weight * gradient.flatten(1).square().sum(1).mean()

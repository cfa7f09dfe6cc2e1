"""What of an input a model's answer hangs on.

`gradient`: the absolute gradient of a class's score (Simonyan, Vedaldi, Zisserman, ICLR workshop 2014, arXiv:1312.6034), ours.
`integrated-gradients`: its mean on the way from the lowest input, times the difference (Sundararajan, Taly, Yan, ICML 2017,
arXiv:1703.01365), by Captum.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

from mohs.errors import Missing, Refused
from mohs.models.base import Model
from mohs.models.prepared import seeded
from mohs.threat import Knowledge

Method = Literal["gradient", "integrated-gradients"]
DRAWS = 16  # of a random model, averaged
STEPS = 50  # on the way


def check_saliency(model: Model, method: Method) -> None:
    """Refused where the model gives no gradient, Missing without the package."""
    if model.gives < Knowledge.GRADIENT:
        raise Refused(f"saliency is made of gradients, and the model {model.name} gives {model.gives}: leave --saliency out")
    if method == "integrated-gradients" and find_spec("captum") is None:
        raise Missing("captum", "interpret", "the saliency integrated-gradients")


def saliency(model: Model, x: Tensor, label: Tensor, method: Method) -> Tensor:
    """How much each entry of inputs x [n, *input] matters for the score of class label [n]: [n, *input], 0 or more."""
    function = _gradient if method == "gradient" else _integrated
    x, label = x.to(model.device), label.to(model.device)
    draws = []
    for number in range(DRAWS if model.random else 1):
        with seeded(number):
            draws.append(function(model, x, label))
    return torch.stack(draws).mean(0).abs().cpu()


def _gradient(model: Model, x: Tensor, label: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        score = model.logits(x).gather(1, label[:, None]).sum()
    return torch.autograd.grad(score, x)[0]


def _integrated(model: Model, x: Tensor, label: Tensor) -> Tensor:
    from captum.attr import IntegratedGradients

    low = model.bounds[0]
    start = low if low > -torch.inf else 0.0
    method = IntegratedGradients(model.logits)
    rows = zip(x.split(1), label.split(1), strict=True)  # alone, since Captum makes a batch of the steps
    return torch.cat([method.attribute(row, baselines=start, target=y, n_steps=STEPS).float() for row, y in rows])

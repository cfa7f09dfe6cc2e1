"""Gradients across kinks, and the search that uses them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from mohs.attacks import PGD, AnnealFlip
from mohs.losses import logit_difference
from mohs.models import TorchModel
from mohs.models.smooth import SmoothReLUs


class Ways(nn.Module):
    """A ReLU called in every way there is, twelve in a row."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for way in (
            torch.relu,
            torch.Tensor.relu,
            functional.relu,
            torch.ops.aten.relu.default,
            nn.ReLU(),
            nn.ReLU(inplace=True),
        ):
            x = way(x - 0.1) + way(-0.3 * x)
        return x


def test_scores_are_the_models_and_derivatives_those_of_squareplus() -> None:
    z = torch.linspace(-2, 2, 12).view(2, 6)
    smooth = SmoothReLUs(TorchModel(nn.ReLU(), classes=6), 0.5)
    x = z.clone().requires_grad_()
    out = smooth.logits(x)
    assert torch.equal(out, z.relu())
    (gradient,) = torch.autograd.grad(out.sum(), x)
    u = z.double() / (0.5 * z.double().abs().mean(1, keepdim=True))
    assert torch.allclose(gradient.double(), (1 + u / (1 + u**2).sqrt()) / 2, atol=1e-6)
    x = z.clone().requires_grad_()
    (plain,) = torch.autograd.grad(smooth.model.logits(x).sum(), x)
    assert torch.equal(plain, (z > 0).float())  # outside the smoothed model nothing has changed


def test_every_way_to_call_a_relu_is_seen() -> None:
    module = Ways()
    x = torch.linspace(-1, 1, 8).view(1, 8)
    answers = []
    for model in (TorchModel(module, classes=8), SmoothReLUs(TorchModel(module, classes=8), 0.5)):
        point = x.clone().requires_grad_()
        out = model.logits(point)
        answers.append((out.detach(), torch.autograd.grad(out.sum(), point)[0]))
    assert torch.equal(answers[0][0], answers[1][0])
    assert not torch.equal(answers[0][1], answers[1][1])


def test_every_pass_is_smoothed_alike() -> None:
    """Later ReLUs are smoothed less, and the second pass begins anew."""
    model = SmoothReLUs(TorchModel(nn.Sequential(nn.ReLU(), nn.Linear(6, 6), nn.ReLU()), classes=6), 0.5)
    x = torch.linspace(-2, 2, 6).view(1, 6).requires_grad_()
    first, second = (torch.autograd.grad(model.logits(x).sum(), x)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_flips_reach_the_corner_that_a_flat_gradient_hides() -> None:
    """Every unit is off at x0: the gradient is zero in the whole ball but near one corner."""

    class Off(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            lit = (x.flatten(1) - 0.55).relu()  # each entry wakes on its own
            return torch.stack([torch.full((len(x),), 0.3), lit.sum(1)], 1)

    x, y = torch.full((4, 1, 3, 3), 0.5), torch.zeros(4, dtype=torch.long)
    only_flips = AnnealFlip(steps=1, starts=1, targets=1, rounds=2, together=9)
    assert bool(only_flips(Off().eval(), x, y, threat="linf:0.1").broken.all())
    annealed = replace(only_flips, rounds=1, together=1)  # a round of one entry is too few for nine
    assert not bool(annealed(Off().eval(), x, y, threat="linf:0.1").broken.any())


def test_breaks_what_an_exact_solver_broke_and_pgd_does_not(cases) -> None:
    """Three of the twenty images of mnist_cnn_a_adv, at 0.3."""
    where = [
        json.loads((Path(cases.HERE) / "ground_truth.json").read_text())["bab_attack"]["mnist_cnn_a_adv"]["unsafe"][i]
        for i in (6, 7, 13)
    ]
    module, dataset = cases.load("mnist_cnn_a_adv")
    x, y = (part[where] for part in cases.data(dataset))
    out = AnnealFlip()(module, x, y, threat="linf:0.3")
    assert bool(out.broken.all())
    assert not bool(PGD(steps=50, step_size=0.1, restarts=5, loss=logit_difference)(module, x, y, threat="linf:0.3").broken.any())

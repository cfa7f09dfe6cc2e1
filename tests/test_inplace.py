"""Writing over tensors that nobody reads again changes no number."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from mohs.models.inplace import in_place


class Block(nn.Module):
    """`add` is free to write over its convolution; `trunk` and `early` are read twice, `sigmoid` needs its own output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.relu = nn.ReLU()

    def forward(self, x):
        trunk = self.relu(self.a(x))
        add = self.b(trunk) + trunk
        early = self.c(functional.relu(add))
        twice = torch.relu(early) + early
        return torch.relu(twice.sigmoid() + early).flatten(1)


def respond(module, x, v):
    x = x.clone().requires_grad_()
    out = module(x)
    return out.detach(), torch.autograd.grad((out * v).sum(), x)[0]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch.export's own making
@pytest.mark.parametrize("exported", [False, True])
def test_answers_are_the_same_to_the_bit(exported):
    torch.manual_seed(0)
    x, v = torch.randn(4, 3, 6, 6), torch.randn(4, 108)
    block = Block().eval().requires_grad_(False)
    graph, count = in_place(torch.export.export(block, (x,)).module() if exported else block)
    assert count == 3
    before = x.clone()
    for got, want in zip(respond(graph, x, v), respond(block, x, v), strict=True):
        assert torch.equal(got, want)
    assert torch.equal(x, before)


def test_a_hooked_layer_is_left_alone():
    block = Block().eval()
    block.relu.register_forward_hook(lambda *_: None)
    assert in_place(block)[1] == 2

"""The input gradient of narrow convolutions, against torch's own."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from mohs.models.narrow import NarrowConv2d, conv2d, narrow_gradients

GEOMETRIES = [  # channels, size, kernel, stride, padding
    (1, (9, 9), (3, 3), (1, 1), (0, 0)),
    (3, (8, 10), (4, 4), (2, 2), (1, 1)),
    (3, (11, 7), (3, 5), (2, 1), (0, 2)),
    (2, (9, 9), (1, 1), (3, 3), (0, 0)),  # entries that no window sees
]


def gradient(f, x, v):
    x = x.clone().requires_grad_()
    out = f(x)
    return out.detach(), torch.autograd.grad((out * v).sum(), x)[0]


@pytest.mark.parametrize(("channels", "size", "kernel", "stride", "padding"), GEOMETRIES)
@pytest.mark.parametrize("bias", [True, False])
def test_the_gradient_is_that_of_torch(channels, size, kernel, stride, padding, bias):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5, channels, *size, generator=g, dtype=torch.float64)
    layer = nn.Conv2d(channels, 6, kernel, stride, padding, bias=bias).double().requires_grad_(False)
    v = torch.randn(layer(x).shape, generator=g, dtype=torch.float64)
    for ours in (NarrowConv2d(layer), lambda x: conv2d(x, layer.weight, layer.bias, [*stride], [*padding])):
        for got, want in zip(gradient(ours, x, v), gradient(layer, x, v), strict=True):
            torch.testing.assert_close(got, want)


def test_others_are_left_to_torch():
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    dilated, same = torch.randn(4, 3, 3, 3).double(), torch.randn(4, 3, 3, 3).double()
    grouped = torch.randn(6, 1, 3, 3).double()
    for kwargs, weight in (({"dilation": 2}, dilated), ({"padding": "same"}, same), ({"groups": 3}, grouped)):
        v = torch.randn_like(functional.conv2d(x, weight, **kwargs))
        pair = [gradient(partial(f, weight=weight, **kwargs), x, v)[1] for f in (conv2d, _torchs)]
        torch.testing.assert_close(*pair)


def _torchs(x, weight, **kwargs):
    return functional.conv2d(x, weight, **kwargs)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, stride=2)

    def forward(self, x):
        return self.second(self.first(x).relu()).flatten(1)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch.export's own making
@pytest.mark.parametrize("exported", [False, True])
def test_graphs_take_it_for_their_first_layer(exported):
    x = torch.rand(4, 3, 8, 8)
    net = Net().eval().requires_grad_(False)
    module = torch.export.export(net, (x,)).module() if exported else net
    before = {name: value.clone() for name, value in net.state_dict().items()}
    graph, count = narrow_gradients(module)
    assert count == (2 if exported else 1)  # a graph of functions decides by the weight, when it is called
    v = torch.randn(4, 36)
    for got, want in zip(gradient(graph, x, v), gradient(net, x, v), strict=True):
        torch.testing.assert_close(got, want)
    assert type(net.first) is nn.Conv2d
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())

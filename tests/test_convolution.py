"""The cheap input gradients of convolutions, against torch's own."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from mohs.models.convolution import CheapConv2d, conv2d, half_gradients, narrow_gradients

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
    for ours in (CheapConv2d(layer), lambda x: conv2d(x, layer.weight, layer.bias, [*stride], [*padding])):
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


@pytest.mark.parametrize("size", [(8, 8), (9, 12)])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (4, 2, 1), ((3, 1), (1, 3), (0, 0)), (2, 3, 0)])
def test_a_half_gradient_is_that_of_torch_to_bfloat16(size, kernel, stride, padding):
    """Forward to the bit; the gradient within the seven bits of each factor, whatever the far sides leave unseen."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5, 8, *size, generator=g)
    layer = nn.Conv2d(8, 6, kernel, stride, padding).requires_grad_(False)
    v = torch.randn(layer(x).shape, generator=g)
    got, want = gradient(CheapConv2d(layer, half=True), x, v), gradient(layer, x, v)
    assert torch.equal(got[0], want[0])
    assert not torch.equal(got[1], want[1])
    size_of = gradient(lambda z: functional.conv2d(z, layer.weight.abs(), None, layer.stride, layer.padding), x, v.abs())[1]
    assert bool(((got[1] - want[1]).abs() <= 2.0**-6 * size_of + 1e-6).all())


def test_half_gradients_leave_float64_and_narrow_inputs_alone():
    for dtype, channels in ((torch.float64, 8), (torch.float32, 3)):
        x, weight = torch.randn(2, channels, 8, 8, dtype=dtype), torch.randn(4, channels, 3, 3, dtype=dtype)
        v = torch.randn(2, 4, 6, 6, dtype=dtype)
        pair = [gradient(partial(f, weight=weight), x, v)[1] for f in (partial(conv2d, half=True), _torchs)]
        torch.testing.assert_close(*pair)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("exported", [False, True])
def test_graphs_take_half_gradients_for_the_others(exported):
    x = torch.rand(4, 3, 8, 8)
    net = Net().eval().requires_grad_(False)
    module = torch.export.export(net, (x,)).module() if exported else net
    graph, count = half_gradients(narrow_gradients(module)[0])
    assert count == (2 if exported else 1)
    v = torch.randn(4, 36)
    got, want = gradient(graph, x, v), gradient(net, x, v)
    torch.testing.assert_close(got[0], want[0])
    assert not torch.allclose(got[1], want[1], rtol=1e-6, atol=0)
    torch.testing.assert_close(got[1], want[1], rtol=0.05, atol=0.02)

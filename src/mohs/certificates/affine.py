"""The affine operators: what they compute, with the absolute values of their coefficients, and transposed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mohs.certificates.operators import Affine, Map

NARROW = 4  # channels


def linear(weight: Tensor, bias: Tensor | None = None) -> Affine:
    """x [rows, in] -> weight [out, in] x + bias [out]."""
    size, turned = weight.abs(), weight.t()
    return Affine(
        lambda x: F.linear(x, weight),
        lambda x: F.linear(x, size),
        lambda a: F.linear(a, turned),
        bias,
        terms=weight.shape[1],
        uses=weight.shape[0],
    )


def convolution(
    weight: Tensor,
    bias: Tensor | None,
    shape: Sequence[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> Affine:
    """A convolution, or a transposed one, of inputs [rows, *shape], in the arguments of `aten.convolution`."""
    size, aten = weight.abs(), torch.ops.aten

    def convolve(x: Tensor, weight: Tensor = weight) -> Tensor:
        return aten.convolution(x, weight, None, stride, padding, dilation, transposed, output_padding, groups)  # type: ignore[no-any-return]

    columns = weight.flatten(1).t().contiguous()
    narrow = weight.ndim == 4 and not transposed and groups == 1 and shape[0] <= NARROW

    def transpose(a: Tensor) -> Tensor:
        if narrow:  # a matrix product and a sum: a convolution into so few channels takes four times as long on a CPU
            where = (tuple(size) for size in (shape[1:], weight.shape[2:], dilation, padding, stride))
            return F.fold(columns @ a.flatten(2), *where)
        if transposed:
            return aten.convolution(a, weight, None, stride, padding, dilation, False, [0] * len(stride), groups)  # type: ignore[no-any-return]
        like = a.new_empty(1).expand(len(a), *shape)  # of which only the shape is read
        geometry = (stride, padding, dilation, False, output_padding, groups, (True, False, False))
        return aten.convolution_backward(a, like, weight, None, *geometry)[0]  # type: ignore[no-any-return]

    taps, crossed = weight[0].numel(), weight[:, 0].numel()  # at most: a stride leaves some of the second out
    terms, uses = (crossed, taps) if transposed else (taps, crossed)
    wide = None if bias is None else bias.view(-1, *[1] * (weight.ndim - 2))
    return Affine(convolve, lambda x: convolve(x, size), transpose, wide, terms=terms, uses=uses)


def scale(by: Tensor) -> Affine:
    """x -> by x, entry by entry."""
    size = by.abs()
    return Affine(lambda x: by * x, lambda x: size * x, lambda a: by * a, elementwise=True)


def shift(by: Tensor) -> Affine:
    """x -> x + by."""
    return Affine(lambda x: x, lambda x: x, lambda a: a, by, uses=0, elementwise=True)


def moved(function: Map, shape: Sequence[int], sample: Tensor, terms: int | None = None) -> Affine:
    """Any affine map of [rows, *shape] without negative coefficients; its transpose is its derivative's. terms: in a sum;
    without it, the coefficients are 1 and every output is one input, or constant."""
    bias = function(sample.new_zeros(1, *shape))[0]
    biased = bool(bias.any())

    def only(x: Tensor) -> Tensor:
        return function(x) - bias if biased else function(x)

    def transpose(a: Tensor) -> Tensor:
        zero = a.new_zeros(len(a), *shape, requires_grad=True)
        with torch.enable_grad():
            out = function(zero)
        return torch.autograd.grad(out, zero, a, create_graph=a.requires_grad)[0]

    uses = terms or round(float(transpose(torch.ones_like(bias)[None]).max()))
    only_moved = terms is None and uses <= 1
    return Affine(
        only, only, transpose, bias if biased else None, terms=terms or 1, uses=0 if only_moved else uses, elementwise=only_moved
    )

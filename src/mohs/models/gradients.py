"""Whether a model's gradient is its slope, and the layer where that ends: at which draws differ, gradients stop or mislead."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

DIRECTIONS = 16  # random signs along which slopes are compared
STEP = 2 / 255  # of the range of the inputs: half of the span of a finite difference
INNER_STEP = 1e-2  # of the spread of a layer's input: the same inside
AGREE = 0.5  # the least cosine of the slopes of a gradient that is of use


class Call(NamedTuple):
    """One call of a submodule, in the order in which they end: children stand before their parents."""

    name: str
    module: nn.Module
    inputs: list[Tensor]
    outputs: list[Tensor]

    def __str__(self) -> str:
        kind = type(self.module).__name__
        if next(self.module.children(), None) is None:
            return f"layer {self.name} ({kind})" if self.name else f"module {kind}"
        return f"forward of {self.name or 'the model'} ({kind}), outside its layers"


def mixed(out: Tensor) -> Tensor:
    """[rows]: the features of every row under fixed weights in [-1/2, 1/2)."""
    flat = out.flatten(1)
    weights = torch.arange(1, flat.shape[1] + 1, device=out.device).to(out.dtype).mul(0.618034).frac().sub(0.5)
    return (flat * weights).sum(1)


def agreement(f: Callable[[Tensor], Tensor], x: Tensor, step: float) -> float:
    """The cosine, the mean of rows x [n, *input], between the slopes of f along random signs by its gradient and by central
    differences; rows without any slope count as 1, and so does an f that is random beyond torch's seed."""
    with _seeded():
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            value = mixed(f(x))
            g = torch.autograd.grad(value.sum(), x, allow_unused=True, materialize_grads=True)[0]
    with torch.no_grad():
        with _seeded():
            if not torch.equal(mixed(f(x)), value):
                return 1.0
        u = torch.rand(DIRECTIONS, *x.shape[1:], generator=torch.Generator().manual_seed(0)).sub(0.5).sign().to(x)
        by_gradient = torch.stack([(g * way).flatten(1).sum(1, dtype=torch.float64) for way in u], 1)
        measured = torch.stack([_difference(f, x, way * step) for way in u], 1) / (2 * step)
    cosine = nn.functional.cosine_similarity(by_gradient, measured, dim=1, eps=1e-300)
    flat = (by_gradient == 0).all(1) & (measured == 0).all(1)
    return float(cosine.masked_fill(flat, 1.0).mean())


def where_random(module: nn.Module, x: Tensor) -> Call | None:
    """The first call whose inputs are the same in two passes and whose outputs are not."""
    with torch.no_grad():
        one, two = _calls(module, x), _calls(module, x)
    for a, b in zip(one, two, strict=False):
        if a.name == b.name and _equal(a.inputs, b.inputs) and not _equal(a.outputs, b.outputs):
            return a
    return None


def where_lost(module: nn.Module, x: Tensor) -> Call | None:
    """The innermost call that a gradient reaches from above and does not leave; None where there is none to be seen."""
    module = copy.deepcopy(module).requires_grad_(False)  # so that what needs a gradient is what depends on x
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        calls = _calls(module, x)
        if not calls:
            return None
        top = calls[-1].outputs
        if not any(t.requires_grad for t in top):  # cut off: nothing comes from above, and the cut itself is seen
            return next((c for c in calls if _live(c.inputs) and not _live(c.outputs)), None)
        tensors = list({id(t): t for c in calls for t in (*c.inputs, *c.outputs) if t.requires_grad}.values())
        total = torch.stack([mixed(t).sum() for t in top if t.requires_grad]).sum()
        found: tuple[Tensor | None, ...] = torch.autograd.grad(total, tensors, allow_unused=True)
    moved = {id(t): g is not None and bool(g.any()) for t, g in zip(tensors, found, strict=True)}

    def any_moved(part: list[Tensor]) -> bool:
        return any(moved.get(id(t), False) for t in part)

    return next((c for c in calls if c.inputs and any_moved(c.outputs) and not any_moved(c.inputs)), None)


def where_wrong(module: nn.Module, x: Tensor) -> Call | None:
    """The first call of one tensor whose own gradient is not its slope."""
    with torch.no_grad():
        calls = _calls(module, x)
    for call in calls:
        if len(call.inputs) == len(call.outputs) == 1 and call.inputs[0].is_floating_point() and call.inputs[0].ndim > 1:
            given = call.inputs[0]
            step = INNER_STEP * float(given.std().clamp_min(1e-12))
            if agreement(call.module, given, step) < AGREE:
                return call
    return None


def _calls(module: nn.Module, x: Tensor) -> list[Call]:
    """The calls of one pass; none of TorchScript. Hooks are taken off again, whatever happens."""
    calls: list[Call] = []

    def recorder(name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def record(part: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            calls.append(Call(name, part, _tensors(inputs), _tensors(output)))

        return record

    if isinstance(module, torch.jit.ScriptModule):
        return []
    hooks = [part.register_forward_hook(recorder(name)) for name, part in module.named_modules()]
    try:
        module(x)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _tensors(value: object) -> list[Tensor]:
    parts = value if isinstance(value, tuple | list) else [getattr(value, "logits", value)]
    return [part for part in parts if isinstance(part, Tensor)]


def _live(tensors: list[Tensor]) -> bool:
    return any(t.requires_grad for t in tensors)


def _equal(one: list[Tensor], two: list[Tensor]) -> bool:
    return len(one) == len(two) and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def _difference(f: Callable[[Tensor], Tensor], x: Tensor, move: Tensor) -> Tensor:
    with _seeded():
        ahead = mixed(f(x + move))
    with _seeded():
        return ahead.double() - mixed(f(x - move)).double()


@contextmanager
def _seeded() -> Iterator[None]:
    """The same draw of a random module every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield

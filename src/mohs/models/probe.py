"""The first question put to a model: whatever goes wrong comes back as one line that says what to change."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mohs.errors import DataError, ModelError, ModelRaised, MohsError
from mohs.models.raised import said

_LAYOUTS: tuple[tuple[str, int, Callable[[Tensor], Tensor]], ...] = (
    ("x.permute(0, 3, 1, 2)", 4, lambda x: x.permute(0, 3, 1, 2)),
    ("x.permute(0, 2, 3, 1)", 4, lambda x: x.permute(0, 2, 3, 1)),
    ("x.unsqueeze(1)", 3, lambda x: x.unsqueeze(1)),
    ("x.flatten(1)", 3, lambda x: x.flatten(1)),
    ("x.flatten(1)", 4, lambda x: x.flatten(1)),
)


@torch.no_grad()
def first_answer(call: Callable[[Tensor], Tensor], x: Tensor, module: nn.Module | None = None) -> Tensor:
    """call(x) for a few rows x [n, *input]; ModelError in the user's words where it raises.

    module: the one behind `call`, if there is one, whose parameters tell the dtype it wants.
    """
    if len(x) == 0:
        raise DataError("there are no examples to probe the model with; give at least one")
    try:
        return call(x)
    except Exception as error:  # a model may raise anything
        own = error.__cause__ if isinstance(error, ModelRaised) else error
        if isinstance(own, MohsError) or own is None:
            raise
        raise ModelError(_explain(call, x, module, own)) from own


def _explain(call: Callable[[Tensor], Tensor], x: Tensor, module: nn.Module | None, error: BaseException) -> str:
    shape = f"[n, {', '.join(map(str, x.shape[1:]))}]"
    wants = {p.dtype for p in module.parameters() if p.is_floating_point()} if module is not None else set()
    if wants and wants != {torch.float32}:
        names = " and ".join(sorted(str(dtype) for dtype in wants))
        return f"the model's weights are {names} and mohs gives float32: load it with .float() ({said(error)})"
    for name, ndim, layout in _LAYOUTS:
        if x.ndim == ndim and layout(x).shape != x.shape and _answers(call, layout(x)):
            right = f"[n, {', '.join(map(str, layout(x).shape[1:]))}]"
            return f"the model takes inputs of shape {right} and the data are {shape}: give it {name} ({said(error)})"
    return f"the model does not take the data, {x.dtype} of shape {shape}: {type(error).__name__}: {said(error)}"


def _answers(call: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    try:
        call(x)
    except Exception:  # any failure means no
        return False
    return True

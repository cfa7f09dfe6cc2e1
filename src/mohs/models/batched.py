"""Few shapes: every call of a model is padded to a multiple of a quantum of rows, and split into micro-batches.

A convolution or a matrix product may sum in another order at another number of rows, so the same example can get other
bits in other company. The quantum is the smallest number of rows whose multiples give every row the same bits at
every place; it is measured, not assumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.models.base import Model
from mohs.threat import Knowledge

QUANTA = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Batched:
    """A model, the most rows of one call and the quantum its calls are padded to."""

    model: Model
    rows: int = 128
    quantum: int = 16

    def padded(self, x: Tensor) -> Tensor:
        """x [n, *input] with copies of its first row up to a multiple of the quantum."""
        missing = -len(x) % self.quantum
        return torch.cat([x, x[:1].expand(missing, *x.shape[1:])]) if missing else x

    def logits(self, x: Tensor) -> Tensor:
        """[n, classes] for at most `rows` rows, differentiable; float64 for float64 inputs, else float32."""
        out = self.model.logits(self.padded(x))[: len(x)]
        return out if x.dtype == torch.float64 else out.float()

    @torch.no_grad()
    def scores(self, x: Tensor) -> Tensor:
        """[n, classes] for any number of rows."""
        return self.logits(x) if len(x) <= self.rows else torch.cat([self.logits(part) for part in x.split(self.rows)])


def measure_quantum(model: Model, x: Tensor, rows: int, *, gradients: bool = True, least: int = 1) -> int:
    """The smallest quantum, of `least` at least, at which logits, and gradients where they will be asked for, are bit-equal
    at every place tried.

    x: probes. `rows` itself where there is no such quantum: then every call has one shape.
    """
    probes = x[torch.arange(rows, device=x.device) % len(x)]
    reference = _outputs(model, probes, gradients)
    for quantum in QUANTA:
        if least <= quantum < rows and all(
            torch.equal(got, want[place])
            for place in _places(rows, quantum)
            for got, want in zip(_outputs(model, probes[place], gradients), reference, strict=True)
        ):
            return quantum
    return rows


def _places(rows: int, quantum: int) -> Iterator[Tensor]:
    """Rows in other company, in reverse: a few multiples of the quantum, and about half of the rows."""
    ends = torch.arange(rows - 1, -1, -1)
    half = rows // 2 - rows // 2 % quantum - quantum
    for size in (quantum, 3 * quantum, half):
        if 0 < size < rows:
            yield ends[(rows - size) // 2 + 1 :][:size]
    yield ends[:quantum]


def _outputs(model: Model, x: Tensor, gradients: bool) -> list[Tensor]:
    if not gradients or model.gives < Knowledge.GRADIENT:
        with torch.no_grad():
            return [model.logits(x)]
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = model.logits(x)
        weights = torch.arange(1, logits.shape[1] + 1, device=logits.device).to(logits.dtype).mul(0.618034).frac().sub(0.5)
        gradient: Tensor | None = torch.autograd.grad((logits * weights).sum(), x, allow_unused=True)[0]
    return [part for part in (logits.detach(), gradient) if part is not None]

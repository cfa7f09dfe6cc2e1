"""Aim: what an attack is after, row by row. The Oracle gathers it, so a loss never closes over a tensor."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Aim(NamedTuple):
    """Per-row data of goal and loss. y, target, toward [rows] int64; reference, noise [rows, classes] float32."""

    y: Tensor  # the true label
    target: Tensor | None = None  # the class the goal wants
    toward: Tensor | None = None  # the class this try moves to; success is still the goal's to say
    reference: Tensor | None = None  # clean logits
    noise: Tensor | None = None  # what a loss that is random adds to the scores at this step

    @property
    def wanted(self) -> Tensor | None:
        """The class to move to, or None: away from y."""
        return self.target if self.toward is None else self.toward

    def take(self, rows: Tensor | slice) -> Aim:
        y, *parts = (v if v is None else v[rows] if isinstance(rows, slice) else v.index_select(0, rows) for v in self)
        assert y is not None
        return Aim(y, *parts)

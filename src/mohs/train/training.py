"""Training: the settings of the loop, as plain data."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from mohs.train.average import parse


class Training(BaseModel):
    """Everything that shapes the weights, but for network, data, recipe and threat.

    rate: the peak; None: 0.1 for SGD, 1e-3 for AdamW. clip: the largest norm of a gradient. augment: such as `crop:4`, `flip`.
    average: `ema:0.999`, or `swa:0.75` for the mean over the epochs from there on. validate: the share of the data that is held
    out, to choose the best epoch by. patience: epochs without a better one before it stops. guard: go back where robust
    accuracy breaks down. keep: the weights that are handed over. strategy: of several processes, `ddp` has the weights whole in
    each, `fsdp` in parts (`mohs.train.weights`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    epochs: int = Field(default=30, ge=1)
    batch: int = Field(default=128, ge=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    rate: float | None = Field(default=None, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    schedule: Literal["one-cycle", "cosine", "step", "constant"] = "one-cycle"
    clip: float | None = Field(default=None, gt=0)
    augment: tuple[str, ...] = ()
    average: str | None = None
    validate_share: float = Field(default=0.1, gt=0, lt=1, alias="validate")
    patience: int | None = Field(default=None, ge=1)
    guard: bool = True
    keep: Literal["best", "last"] = "best"
    seed: int = 0
    precision: Literal["32", "bf16", "16"] = "32"
    device: str = "cpu"
    strategy: Literal["ddp", "fsdp"] = "ddp"

    @field_validator("average")
    @classmethod
    def _average(cls, text: str | None) -> str | None:
        if text is not None:
            parse(text)
        return text

    @property
    def peak(self) -> float:
        return self.rate if self.rate is not None else {"sgd": 0.1, "adamw": 1e-3}[self.optimizer]

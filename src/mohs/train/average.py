"""Averages of weights over a training."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mohs.errors import RequestError

HELP = "an average reads ema:DECAY or swa:FROM, such as ema:0.999 or swa:0.75, with a number between 0 and 1"


class Average:
    """`ema:0.999`: after every update, the older weights count 0.999 (less in the first ones, min(decay, (1 + t) / (10 + t))).
    `swa:0.75`: after every epoch of the last quarter, their plain mean. Polyak & Juditsky, 1992; Izmailov et al., UAI 2018,
    arXiv:1803.05407. Running averages of batch norm are averaged likewise, in place of another pass over the data."""

    def __init__(self, text: str, network: nn.Module) -> None:
        kind, self.at = parse(text)
        self.each_update = kind == "ema"
        self.model = AveragedModel(network, avg_fn=self._moved if self.each_update else None, use_buffers=True)

    def _moved(self, old: Tensor, new: Tensor, count: Tensor | int) -> Tensor:
        decay = min(self.at, (1 + float(count)) / (10 + float(count)))
        return old * decay + new * (1 - decay) if old.is_floating_point() else new

    def update(self, network: nn.Module) -> None:
        """After an update of the weights."""
        if self.each_update:
            self.model.update_parameters(network)

    def epoch(self, network: nn.Module, progress: float) -> None:
        """After an epoch."""
        if not self.each_update and progress >= self.at:
            self.model.update_parameters(network)


def parse(text: str) -> tuple[str, float]:
    """The kind of an average, and its number."""
    kind, _, number = text.partition(":")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if kind not in ("ema", "swa") or not 0 < value < 1:
        raise RequestError(f"{text!r}: {HELP}")
    return kind, value

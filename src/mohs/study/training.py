"""Networks that a study trains itself, all alike, so that what differs is the network."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mohs.data import Examples, load_data
from mohs.errors import DataError, RequestError
from mohs.hardening import make_job
from mohs.models import Model, as_model
from mohs.networks import is_network
from mohs.train.loop import fit


@dataclass(frozen=True)
class School:
    """names: of the networks it trains, from scratch, by standard training on `data` for `epochs`; the last weights count."""

    names: tuple[str, ...]
    epochs: int
    data: Examples
    seed: int

    def train(self, name: str, x: Tensor, say: Callable[[str], None] = lambda text: None) -> Model:
        """The network, for examples like x [n, *input]. Raises DataError where it was trained on others."""
        if self.data.x.shape[1:] != x.shape[1:]:
            raise DataError(f"the data to train on are {list(self.data.x.shape[1:])} and the examples {list(x.shape[1:])}")
        batch = min(128, len(self.data))
        job = make_job(name, self.data, recipe="standard", epochs=self.epochs, batch=batch, seed=self.seed)
        with tempfile.TemporaryDirectory(prefix="mohs-study-") as folder:
            fit(job.task, Path(folder), lambda epoch: say(f"training {name}, epoch {epoch.number} of {epoch.of}"))
        return as_model(job.task.network.cpu().eval().requires_grad_(False), x, name=name)


def school_of(models: Sequence[str], epochs: int | None, data: str | None, seed: int) -> School | None:
    """Who trains those models that are networks by name; None where there are none."""
    names = tuple(name for name in models if is_network(name))
    if not names:
        if epochs is not None:
            raise RequestError(f"--train {epochs} trains networks by name, such as resnet20; none is among {', '.join(models)}")
        return None
    if epochs is None:
        raise RequestError(f"{names[0]} is a network without weights: --train EPOCHS trains it first")
    if data is None:
        raise RequestError(f"{names[0]} is to be trained: say on what with --train-data, other than what it is studied on")
    return School(names, epochs, load_data(data), seed)

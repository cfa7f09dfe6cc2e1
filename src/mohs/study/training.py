"""Networks that a study trains itself, all alike, so that what differs is the network."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from mohs.data import Examples, load_data
from mohs.errors import DataError, RequestError
from mohs.models import Model, as_model
from mohs.networks import is_network
from mohs.store.run import locked
from mohs.train.loop import Epoch, Standing, Task, fit
from mohs.training_jobs import Job, make_job, trainer


@dataclass(frozen=True)
class School:
    """names: of the networks it trains, from scratch, by standard training on `data` for `epochs`; the last weights count.
    keep: as of `trained`."""

    names: tuple[str, ...]
    epochs: int
    data: Examples
    keep: Path | None = None

    def train(self, name: str, x: Tensor, seed: int, say: Callable[[str], None] = lambda text: None) -> Model:
        """The network, for examples like x [n, *input]. Raises DataError where it was trained on others."""
        if self.data.x.shape[1:] != x.shape[1:]:
            raise DataError(f"the data to train on are {list(self.data.x.shape[1:])} and the examples {list(x.shape[1:])}")
        batch = min(128, max(1, int(0.8 * len(self.data))))  # some are held out
        job = make_job(name, self.data, recipe="standard", epochs=self.epochs, batch=batch, seed=seed)
        task, _ = trained(job, self.keep, lambda epoch: say(f"training {name}, seed {seed}, epoch {epoch.number} of {epoch.of}"))
        return as_model(task.network.cpu().eval().requires_grad_(False), x, name=name)


def trained(job: Job, keep: Path | None, watch: Callable[[Epoch], None] | None = None) -> tuple[Task, Standing]:
    """Train. Under `keep` every job has a folder, named after what it trains and a digest of all that decides the weights: the
    same job goes on there, or is found done. Without, nothing stays."""
    with ExitStack() as stack:
        if keep is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mohs-")))
        else:
            parts = {name: part for name, part in job.spec.items() if name not in ("environment", "test")}
            digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
            folder = keep / f"{job.request.model}-{job.request.recipe}-{digest}"
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder))
        task = replace(job.task, aids=job.task.recipe.aids(trainer(job, folder)))
        return task, fit(task, folder, watch)


def school_of(
    models: Sequence[str],
    epochs: int | None,
    data: str | None,
    keep: Path | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> School | None:
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
    return School(names, epochs, load_data(data, bounds=bounds), keep)

"""The figures of a training, an epoch at a time, for TensorBoard and MLflow where they are installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from mohs.errors import Missing, UnknownName
from mohs.train.loop import Epoch

Told = Callable[[Epoch], None]
Tracker = Callable[[Path, dict[str, Any]], AbstractContextManager[Told]]  # of a training's folder and spec


def tracker(name: str) -> Tracker:
    """Raises UnknownName, or Missing where its package is not installed."""
    if name not in TRACKERS:
        raise UnknownName("tracker", name, TRACKERS)
    package, found = TRACKERS[name]
    try:
        __import__(package)
    except ImportError as error:
        raise Missing(name, "track", f"--log {name}") from error
    return found


def figures(epoch: Epoch) -> dict[str, float]:
    """Of one epoch, by name."""
    scored = epoch.validated
    shares = {"clean_accuracy": scored.clean, "robust_accuracy": scored.robust, "proved_accuracy": scored.proved}
    return {"loss": epoch.loss, "rate": epoch.rate, **{name: share for name, share in shares.items() if share is not None}}


@contextmanager
def tensorboard(folder: Path, spec: dict[str, Any]) -> Iterator[Told]:
    """Event files in the folder's `tensorboard`: `tensorboard --logdir FOLDER`."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard")) as writer:

        def tell(epoch: Epoch) -> None:
            for name, value in figures(epoch).items():
                writer.add_scalar(name, value, epoch.number)
            writer.flush()

        yield tell


@contextmanager
def mlflow(folder: Path, spec: dict[str, Any]) -> Iterator[Told]:
    """A run in the experiment `mohs` of the server that MLFLOW_TRACKING_URI names, without it of MLflow's own place; a training
    that goes on goes on in its run."""
    from mlflow import MlflowClient

    client, where = MlflowClient(), sha256(str(folder.resolve()).encode()).hexdigest()  # a path may hold what a filter cannot
    known = client.get_experiment_by_name("mohs")
    experiment = known.experiment_id if known else client.create_experiment("mohs")
    found = client.search_runs([experiment], filter_string=f"tags.folder_sha256 = '{where}'", max_results=1)
    if found:
        run = found[0].info.run_id
        client.set_terminated(run, "RUNNING")
    else:
        run = client.create_run(
            experiment, tags={"folder_sha256": where, "folder": str(folder)}, run_name=folder.name
        ).info.run_id
        for name in ("model", "data", "recipe", "threat"):
            client.log_param(run, name, spec["request"][name])
        for name, value in spec["request"]["training"].items():
            client.log_param(run, name, value)

    def tell(epoch: Epoch) -> None:
        for name, value in figures(epoch).items():
            client.log_metric(run, name, value, step=epoch.number)

    try:
        yield tell
    except BaseException:
        client.set_terminated(run, "KILLED")
        raise
    client.set_terminated(run, "FINISHED")


TRACKERS: dict[str, tuple[str, Tracker]] = {  # by name: the package that it takes
    "tensorboard": ("tensorboard", tensorboard),
    "mlflow": ("mlflow", mlflow),
}

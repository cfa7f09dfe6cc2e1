"""The processes that a training runs in, and on which devices."""

from __future__ import annotations

import atexit
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch

from mohs.errors import Missing, RequestError
from mohs.models.load import device_of
from mohs.train.training import Training
from mohs.train.weights import shard

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PATIENCE = timedelta(days=7)  # with which processes wait for one another: the first audits before it trains


def launched(training: Training) -> Fabric:
    """The devices and the precision. `torchrun` and `fabric run` say how many processes; without them there is one. Raises
    RequestError for a device that is not there, and for too small a batch."""
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies.ddp import DDPStrategy
        from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
    except ImportError as error:
        raise Missing("lightning-fabric", "train", "training") from error
    here, everywhere = (int(os.environ.get(name, "1")) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    device = device_of(training.device)
    if device.type not in ("cpu", "cuda"):
        raise RequestError(f"training is on cpu or cuda, not on {training.device}: say --device cpu")
    if everywhere > 1 and training.batch < 2 * everywhere:
        raise RequestError(
            f"a batch of {training.batch} has less than two rows for each of {everywhere} processes: give --batch "
            f"{2 * everywhere} or more, or start fewer"
        )
    if training.precision == "16" and device.type == "cpu":
        raise RequestError("precision 16 is for GPUs: say --precision bf16, which processors have too, or --device cuda")
    strategy: Any = "auto"
    if everywhere > 1 and training.strategy == "fsdp":
        strategy = ModelParallelStrategy(shard, data_parallel_size=everywhere, tensor_parallel_size=1, timeout=PATIENCE)
    elif everywhere > 1:
        strategy = DDPStrategy(timeout=PATIENCE)
    fabric = Fabric(
        accelerator="cuda" if device.type == "cuda" else "cpu",
        devices=here if everywhere > 1 else [device.index or 0] if device.type == "cuda" else 1,
        num_nodes=everywhere // here,
        strategy=strategy,
        precision={"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[training.precision],  # type: ignore[arg-type]
    )
    if os.environ.get("LT_CLI_USED") != "1":  # `fabric run` has launched it
        fabric.launch()
    if everywhere > 1:
        atexit.register(_leave)
    return fabric


def _leave() -> None:
    """Without this a process now and then aborts as it ends."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def leads() -> bool:
    """Whether this is the first of the processes, or the only one."""
    return os.environ.get("RANK", "0") == "0"

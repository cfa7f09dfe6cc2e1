"""Where the weights lie while several processes train them: whole in each, or in parts."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import distributed, nn
from torch.optim import Optimizer

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

State = dict[str, Any]


class Whole:
    """Every process has all the weights. trained: what the loop trains; whole: the same, in place."""

    def __init__(self, network: nn.Module) -> None:
        self.trained = self.whole = network

    def settle(self) -> None:
        """After an epoch: `whole` has the weights that it ended with."""

    def state(self, optimiser: Optimizer) -> State:
        """Of weights and optimiser, for a checkpoint; every process has to ask for it."""
        return {"network": self.whole.state_dict(), "optimiser": optimiser.state_dict()}

    def load(self, state: State, optimiser: Optimizer) -> None:
        self.whole.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])


class Sharded(Whole):
    """Every process keeps a part of each weight, of its gradient and of what the optimiser remembers of it, and gathers a block's
    weights while it computes with them. Zhao et al., VLDB 2023, arXiv:2304.11277; torch's `fully_shard`.

    whole: has all the weights, as they were after the last epoch, to validate with."""

    def __init__(self, network: nn.Module) -> None:
        self.whole, self.trained = network, copy.deepcopy(network)

    def settle(self) -> None:
        from torch.distributed.checkpoint.state_dict import get_model_state_dict

        for buffer in self.trained.buffers():  # such as the averages of batch norm, of which each process has its own
            distributed.broadcast(buffer, 0)
        self.whole.load_state_dict(get_model_state_dict(self.trained, options=_all_of_it()))

    def state(self, optimiser: Optimizer) -> State:
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        gathered = get_optimizer_state_dict(self.trained, optimiser, options=_all_of_it())
        return {"network": self.whole.state_dict(), "optimiser": gathered}

    def load(self, state: State, optimiser: Optimizer) -> None:
        from torch.distributed.checkpoint.state_dict import set_model_state_dict, set_optimizer_state_dict

        self.whole.load_state_dict(state["network"])
        set_model_state_dict(self.trained, state["network"], options=_all_of_it())
        set_optimizer_state_dict(self.trained, optimiser, state["optimiser"], options=_all_of_it())


def shard(network: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """In place. Gathered at once are the blocks, which are elements of a sequence that have parts of their own, and the rest."""
    from torch.distributed.fsdp import fully_shard

    sequences = [part for part in network.modules() if isinstance(part, nn.Sequential | nn.ModuleList)]
    blocks = dict.fromkeys(block for part in sequences for block in part if any(True for _ in block.children()))
    for part in (*reversed(blocks), network):  # inner ones first
        fully_shard(part, mesh=mesh["data_parallel"], reshard_after_forward=True)  # else attacks leave it as they set it
    return network


def _all_of_it() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True)

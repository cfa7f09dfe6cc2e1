"""A string -> a network that can be trained: what `mohs train MODEL` takes."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from mohs.errors import ModelError
from mohs.models.base import Model
from mohs.models.factory import call_factory, is_factory
from mohs.models.load import load_model
from mohs.models.torch_model import TorchModel
from mohs.networks import build, is_network, statistics


def network_of(source: str | nn.Module, x: Tensor, classes: int, seed: int, trust_pickle: bool = False) -> nn.Module:
    """The network that `source` names, its first weights drawn under `seed` where it draws any; a module is copied.

    x: the examples [n, *input], whose statistics a network of mohs's own begins with. A factory may give it in either mode.
    Raises ModelError where there is none to be had.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = copy.deepcopy(source) if isinstance(source, nn.Module) else _named(source, x, classes, seed, trust_pickle)
    if isinstance(found, TorchModel):
        if found.batch is not None:
            raise ModelError(f"{source} was exported for batches of {found.batch}; export it with a dynamic batch to train it")
        found = found.module
    if isinstance(found, torch.jit.ScriptModule):
        raise ModelError(f"{source} is TorchScript, which mohs does not train; give package.module:factory or a .pt2 file")
    if not isinstance(found, nn.Module):
        raise ModelError(f"{source} is a {type(found).__name__}, whose weights cannot be trained; expected a torch network")
    return found.requires_grad_(True)


def held_still(network: nn.Module) -> list[str]:
    """What is to be known of layers that training leaves as they are: in an exported graph the mode is written down."""
    calls = [str(node.target) for node in network.graph.nodes] if isinstance(network, fx.GraphModule) else []
    kinds = {"batch norm": "batch_norm", "dropout": "dropout"}
    still = [kind for kind, word in kinds.items() if any(word in call for call in calls)]
    if not still:
        return []
    return [
        f"the exported network has {' and '.join(still)}, which stay in evaluation mode as they were exported: averages of batch "
        "norm do not move and nothing is dropped out. To train them too, give the network's factory, package.module:name"
    ]


def _named(source: str, x: Tensor, classes: int, seed: int, trust_pickle: bool) -> nn.Module | Model:
    if is_network(source):
        mean, std = statistics(x)
        return build(source, shape=x.shape[1:], classes=classes, mean=mean, std=std, seed=seed)
    if is_factory(source) and not source.startswith("demo:") and not Path(source).is_file():
        return call_factory(source)
    return load_model(source, x=x, trust_pickle=trust_pickle)

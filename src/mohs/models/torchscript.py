"""TorchScript archives, and pickled modules where they are trusted."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from mohs.errors import ModelError
from mohs.models.archive import check_torchscript, is_torchscript


def load_torchscript(path: Path, device: torch.device, trust_pickle: bool = False) -> nn.Module:
    """The module of a .ts, .pt or .pth file: TorchScript, known by its content, or a pickle that is trusted.

    Raises ModelError for a pickle that is not trusted, for a state dict and for what is neither.
    """
    if not is_torchscript(path):
        return _unpickle(path, device, trust_pickle)
    if not trust_pickle:
        check_torchscript(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            module: nn.Module = torch.jit.load(str(path), map_location=device)
        except RuntimeError as error:
            raise ModelError(f"{path} cannot be opened as TorchScript: {str(error).strip().splitlines()[0]}") from error
    return module


def _unpickle(path: Path, device: torch.device, trusted: bool) -> nn.Module:
    if not trusted:
        raise ModelError(
            f"{path} is a pickle, which runs code when loaded, and mohs does not open it: save the model with "
            "torch.export.save (.pt2), or give a factory package.module:function. Say --trust-pickle "
            "(trust_pickle=True) only if you trust whoever made the file"
        )
    try:
        loaded = torch.load(path, map_location=device, weights_only=False)
    except Exception as error:  # an unpickler may raise anything
        raise ModelError(f"{path} cannot be unpickled: {type(error).__name__}: {error}") from error
    if isinstance(loaded, nn.Module):
        return loaded
    if isinstance(loaded, dict):
        raise ModelError(
            f"{path} holds weights without the network ({len(loaded)} entries of a dict): write a factory "
            "that builds the network and loads them, and give package.module:function"
        )
    raise ModelError(f"{path} holds a {type(loaded).__name__}; expected a torch.nn.Module")

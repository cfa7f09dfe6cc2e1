"""What a model's own code raises, told apart from what mohs, or a machine out of memory, does."""

from __future__ import annotations

import torch

from mohs.errors import ModelRaised, MohsError


def is_own(error: Exception) -> bool:
    """Whether a call of the model's code failed by that code: not for want of memory or a device, and not on purpose, as torch
    ends the recomputation of what was checkpointed."""
    ours = isinstance(error, MohsError | torch.AcceleratorError) or type(error).__module__ == "torch.utils.checkpoint"
    return not ours and not out_of_memory(error)


def raised(name: str, error: Exception) -> ModelRaised:
    """To be raised from the error of the model's own code."""
    told = f"the model {name} raised {type(error).__name__}: {said(error)}"
    return ModelRaised(f"{told}; it should answer every input within its bounds")


def out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(error)


def said(error: BaseException) -> str:
    """The first line of an error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

"""The network as recipes call it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from mohs.errors import ModelError, MohsError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Called(nn.Module):
    """Each call is in the precision of the training, by itself, and gives float32. Any gradient may be taken of what it gives,
    which Fabric's own wrapper allows in the loop's backward pass alone. What the network raises comes back as a ModelError.

    module: what Fabric made of it, for one process or many."""

    def __init__(self, module: nn.Module, fabric: Fabric) -> None:
        super().__init__()
        self.module, self.fabric = module, fabric

    def forward(self, x: Tensor) -> Tensor:
        try:
            with self.fabric.autocast():
                out: Tensor = self.module(x)
        except MohsError:
            raise
        except Exception as error:  # it is the user's code
            said = (str(error).strip().splitlines() or [""])[0][:200]
            raise ModelError(
                f"the model fails in training, on inputs {list(x.shape)}: {type(error).__name__}: {said}. The checkpoint of the "
                "epoch before is kept; mend the model's forward, which training calls in both modes, and say the same again"
            ) from error
        return out.float()

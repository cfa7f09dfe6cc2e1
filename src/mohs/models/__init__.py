"""Models: the protocol, its adapters, and the guides and judges made of them."""

from mohs.models.base import Model
from mohs.models.batched import Batched
from mohs.models.load import as_model, load_model
from mohs.models.prepared import Guide, Judge, Prepared, Verdict, prepare
from mohs.models.torch_model import TorchModel

__all__ = ["Batched", "Guide", "Judge", "Model", "Prepared", "TorchModel", "Verdict", "as_model", "load_model", "prepare"]

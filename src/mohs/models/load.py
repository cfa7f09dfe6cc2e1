from __future__ import annotations
import torch
from torch import Tensor, nn
from mohs.models.base import Model
from mohs.models.torch_model import TorchModel


def as_model(model: Model | nn.Module, x: Tensor, bounds: tuple[float, float] = (0.0, 1.0)) -> Model:
    if isinstance(model, Model):
        return model
    with torch.no_grad():
        z = model(x[:2])
    return TorchModel(model, classes=z.shape[1], bounds=bounds)

"""Logistic regression over what the layers of a network say."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Logistic(nn.Module):
    """Log-odds [n] of being attacked, of features [n, layers], in float64."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.double())
        self.register_buffer("bias", bias.double())

    def forward(self, features: Tensor) -> Tensor:
        return (features * self.weight).sum(1) + self.bias


def fit_logistic(clean: Tensor, attacked: Tensor) -> Logistic:
    """Fitted on features [n, layers] and [m, layers], each standardised, classes weighed evenly."""
    from sklearn.linear_model import LogisticRegression

    features = torch.cat([clean, attacked]).double().cpu()
    centre, spread = features.mean(0), features.std(0).clamp_min(1e-12)
    label = torch.cat([torch.zeros(len(clean)), torch.ones(len(attacked))])
    model = LogisticRegression(class_weight="balanced", max_iter=1000)
    model.fit(((features - centre) / spread).numpy(), label.numpy())
    weight = torch.from_numpy(model.coef_[0]) / spread
    return Logistic(weight, torch.from_numpy(model.intercept_)[0] - (weight * centre).sum())

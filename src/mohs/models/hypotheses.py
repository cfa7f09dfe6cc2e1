"""Why a model may do badly on data it was trained for: each usual mistake is undone, and accuracy taken again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from mohs.models.base import Model
from mohs.models.findings import Finding, Probe, warning

SAMPLE = 100  # rows that accuracy is taken on
FEWEST = 20  # rows on which it means something
POOR = 0.7  # accuracy at which it is worth asking why
BETTER = 0.2  # by how much another reading must win to be told

_NORMS = {3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), 1: ((0.1307,), (0.3081,))}  # ImageNet; MNIST


def accuracy(probe: Probe) -> Iterator[Finding]:
    """A model that is no better than chance here, or much better once the data are read in another way."""
    pick = torch.linspace(0, len(probe.x) - 1, min(SAMPLE, len(probe.x))).long()
    if len(pick) < FEWEST:
        return
    share, explanation = best_explanation(probe.model, probe.x[pick].float(), probe.y[pick])
    chance = 1 / probe.model.classes
    told = f"accuracy is {share:.0%} on {len(pick)} examples"
    if explanation:
        yield warning("range", f"the data look wrong for this model: {told} and {explanation}")
    elif share <= chance + 2 * (chance * (1 - chance) / len(pick)) ** 0.5:
        where = "the range of the data, normalisation (inside the model, once), the order of the labels"
        yield warning("chance", f"{told}, no better than chance: look at {where}")


def best_explanation(model: Model, x: Tensor, y: Tensor) -> tuple[float, str]:
    """Accuracy on x [n, *input], y [n], and the reading of the data under which it would be much better, or ''."""
    predicted = _predict(model, x)
    accuracy = _share(predicted, y)
    if accuracy >= POOR:
        return accuracy, ""
    found = {
        "with labels counted from 0: they are one too high": _share(predicted, y - 1),
        "with labels one higher": _share(predicted, y + 1),
    }
    for name, reading in ({} if model.remote else _readings(model, x)).items():
        try:
            found[name] = _share(_predict(model, reading(x)), y)
        except Exception:  # a reading the model cannot take explains nothing
            continue
    name = max(found, key=lambda key: found[key])
    return accuracy, f"would be {found[name]:.0%} {name}" if found[name] > accuracy + BETTER else ""


def _readings(model: Model, x: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    low, high = model.bounds
    readings: dict[str, Callable[[Tensor], Tensor]] = {
        "with inputs in [0, 255]": lambda x: (x - low) / (high - low) * 255,
        "with inputs in [0, 1]": lambda x: (x - low) / (high - low),
        "with inputs in [-1, 1]": lambda x: (x - low) / (high - low) * 2 - 1,
        "with dark and light exchanged": lambda x: low + high - x,
    }
    if x.ndim == 4:
        readings["with height and width exchanged"] = lambda x: x.transpose(2, 3)
        readings["with the channels last, [n, height, width, channels]"] = lambda x: x.permute(0, 2, 3, 1)
        if x.shape[1] in _NORMS:
            mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in _NORMS[x.shape[1]])
            readings["with inputs normalised outside the model"] = lambda x: (x - mean) / std
            readings["without normalising twice"] = lambda x: x * std + mean
        if x.shape[1] == 3:
            readings["with the channels in the order blue, green, red"] = lambda x: x.flip(1)
    return readings


@torch.no_grad()
def _predict(model: Model, x: Tensor) -> Tensor:
    return torch.cat([model.logits(part.to(model.device)).argmax(1).cpu() for part in x.split(64)])


def _share(predicted: Tensor, y: Tensor) -> float:
    return float((predicted == y.to(predicted.device)).double().mean())

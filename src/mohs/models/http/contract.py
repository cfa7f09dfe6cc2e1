"""Whether an endpoint is what was described, before any attack spends on it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mohs.errors import ModelError
from mohs.models.findings import Finding, warning
from mohs.models.http.model import HttpModel
from mohs.threat import Knowledge

SAME = 3  # examples that are asked about several times
DRAWS = 5  # times
SAMPLE = 100  # examples on which the order of the classes is looked at
FEWEST = 20


def meet(model: HttpModel, x: Tensor, y: Tensor) -> Iterator[Finding]:
    """The findings about an endpoint on examples x [n, *input], y [n]; sets `model.random`. ModelError where nothing can be
    measured."""
    first = _asked(model, x[:1])
    if model.gives >= Knowledge.SCORES:
        yield from _kind(model, first)
    yield from _noise(model, x[:SAME])
    yield from _order(model, x, y)
    if model.bits is not None and model.endpoint.input.encoding == "jpeg":
        told = f"at quality {model.endpoint.input.quality} the endpoint is sent a picture that compression changed"
        yield warning("jpeg", f"{told}: the threat bounds the picture before it, and success is of what was sent")


def _asked(model: HttpModel, x: Tensor) -> Tensor:
    z = model.logits(x)
    silent = z.isnan().any(1).nonzero()[:, 0]
    if len(silent) == len(x):
        reason = model.lapse(x[silent[:1]])[0].removeprefix("undecided: ")
        raise ModelError(f"the endpoint {model.name} is not as described: {reason}")
    return z


def _kind(model: HttpModel, z: Tensor) -> Iterator[Finding]:
    """Logits and probabilities, each taken for the other."""
    if model.endpoint.answer.kind == "logits":
        if bool((z >= 0).all()) and float((z.sum(1) - 1).abs().max()) < 1e-3:
            raise ModelError(
                f"the endpoint {model.name} answered {_shown(z[0])}, which sums to one: say kind = 'probabilities' in [answer]"
            )
        return
    p = z.exp()
    if float(p.max()) > 1 + 1e-6:
        raise ModelError(f"the endpoint {model.name} answered {_shown(p[0])}, no probabilities: say kind = 'logits' in [answer]")
    if abs(total := float(p[0].sum()) - 1) > 0.05:
        yield warning("outputs", f"the scores of an example sum to {total + 1:.3g}, and not to 1: each class may have its own")


def _noise(model: HttpModel, x: Tensor) -> Iterator[Finding]:
    """Whether the same bytes get the same answer."""
    draws = torch.stack([model.draw(x, [number] * len(x)) for number in range(DRAWS)])
    spread = float((draws - draws[0]).abs().nan_to_num().max())
    if spread == 0:
        return
    model.random = True
    flips = int((draws.argmax(2) != draws[0].argmax(1)).any(0).sum())
    told = f"the endpoint is not deterministic: {DRAWS} answers to the same bytes differ by up to {spread:.2g} in logits"
    then = "searches average fresh answers, and a success counts if at least half of 100 fresh answers confirm it"
    yield warning("random", f"{told}, and {flips} of {len(x)} examples change class; {then}")


def _order(model: HttpModel, x: Tensor, y: Tensor) -> Iterator[Finding]:
    """Whether another order of the classes explains the answers much better."""
    from scipy.optimize import linear_sum_assignment

    pick = torch.linspace(0, len(x) - 1, min(SAMPLE, len(x))).long()
    z = _asked(model, x[pick])
    heard = ~z.isnan().any(1)
    label, truth = z.argmax(1)[heard], y[pick][heard]
    if len(label) < FEWEST:
        return
    table = torch.zeros(model.classes, model.classes, dtype=torch.int64)
    table.index_put_((label, truth), torch.ones_like(label), accumulate=True)
    right, (told, true) = int(table.trace()), linear_sum_assignment(-table.numpy())
    better = int(table[told, true].sum())
    if right <= len(label) / 2 and better >= right + 0.4 * len(label):
        names = model.endpoint.names
        moved = [f"{names[int(a)]!r} where the data say {b}" for a, b in zip(told, true, strict=True) if a != b and table[a, b]]
        raise ModelError(
            f"the classes seem to stand in another order: {right} of {len(label)} examples are right, and {better} would be; "
            f"the endpoint says {', '.join(moved[:4])}. Mend `classes` in the description, or the labels of the data"
        )
    yield from ()


def _shown(values: Tensor) -> str:
    listed = ", ".join(f"{value:.4g}" for value in values[:6].tolist())
    return f"[{listed}{', …' if len(values) > 6 else ''}]"

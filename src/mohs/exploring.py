"""What an adversary learns of a model by asking: before, and beside, any attack."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mohs.data import Examples, load_data
from mohs.errors import RunFailed
from mohs.models.contract import check_contract
from mohs.models.http import HttpModel
from mohs.request import make_request
from mohs.rng import Stream
from mohs.subjects import load_http
from mohs.threat import Knowledge

HELD_OUT = 0.25  # of the examples, with the noise around them: what the substitute is judged on
FEWEST = 20  # answers that a substitute is trained on at least
NOISE = 0.1  # of the range: what is added to examples that were asked about already


@dataclass(frozen=True)
class Exploration:
    """classes: how often each was answered. deterministic: equal bytes got equal answers. decimals: of a score, at most, or None
    where they are not rounded to 8 or fewer. latency: seconds of a request, the median and the 95th percentile. agreement: of the
    substitute's label with the endpoint's on `held_out` answers it was not trained on, None where there were too few; chance: of
    the most frequent label there."""

    gives: str
    queries: int
    answered: int
    classes: dict[str, int]
    deterministic: bool
    decimals: int | None
    latency: tuple[float, float]
    agreement: float | None
    chance: float | None
    held_out: int
    account: dict[str, float]
    findings: list[str]


def explore(
    url: str, data: str | tuple[Tensor, Tensor] | Examples, *, describe: str | Path, queries: int = 1000, **options: Any
) -> Exploration:
    """Ask about `queries` inputs, the examples first and then the same under noise, and train a substitute on the answers: a
    network of one hidden layer, so that its agreement is a lower bound of what extraction would reach.

    The queries of the contract's check count. options: as of `mohs.probing.probe`, without those of an attack.
    """
    total = min(queries, options.pop("total", None) or queries)
    chosen = {"profile": "probe", "describe": str(describe), "queries": queries, "total": total, **options}
    request = make_request(url, data, [], chosen)
    examples = (
        data if isinstance(data, Examples) else load_data(data, limit=request.limit, seed=request.seed, bounds=request.bounds)
    )
    model = load_http(url, request)
    try:
        findings = check_contract(model, examples.x, examples.y)
        x, z, example = _answers(model, examples.x.float(), request.seed)
        agreement, chance, held_out = _substitute(x, z.argmax(1), example, request.seed)
        latencies = model.client.latencies
        return Exploration(
            gives=str(model.gives),
            queries=queries,
            answered=len(x),
            classes=dict(Counter(model.endpoint.names[i] for i in z.argmax(1).tolist()).most_common()),
            deterministic=not model.random,
            decimals=_decimals(model, z) if model.gives >= Knowledge.SCORES else None,
            latency=(median(latencies), float(np.quantile(latencies, 0.95))),
            agreement=agreement,
            chance=chance,
            held_out=held_out,
            account=model.client.answers.tally(),
            findings=[finding.message for finding in findings],
        )
    finally:
        model.client.close()


def _answers(model: HttpModel, x: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, the logits they got, and of which example each is: the examples, then noise around them until the budget is
    spent."""
    low, high = model.bounds
    asked, heard, owner = [], [], []
    most = model.client.answers.left or 0
    for round_ in range(1 + math.ceil(most / len(x))):
        noise = Stream.of(seed, torch.arange(len(x))).at("explore", round_).normal(*x.shape[1:]) * NOISE * (high - low)
        candidates = x if round_ == 0 else (x + noise).clamp(low, high)
        z = model.logits(candidates)
        silent = z.isnan().any(1)
        asked.append(candidates[~silent])
        heard.append(z[~silent])
        owner.append(torch.arange(len(x))[~silent])
        if model.client.answers.left == 0:
            break
    found = torch.cat(asked)
    if len(found) == 0:
        raise RunFailed(f"the endpoint {model.name} answered none of the queries: {model.lapse(x[:1])[0]}")
    return found, torch.cat(heard), torch.cat(owner)


def _substitute(x: Tensor, label: Tensor, example: Tensor, seed: int) -> tuple[float | None, float | None, int]:
    """Agreement on the answers about examples held out, that of the most frequent label, and how many there were."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    known = example.unique()
    order = known[Stream.of(seed, known).at("held out").uniform(1)[:, 0].argsort()]
    held = torch.isin(example, order[: round(len(known) * HELD_OUT)])
    n = int(held.sum())
    if n == 0 or len(x) - n < FEWEST or len(label[~held].unique()) < 2:
        return None, None, n
    small = MLPClassifier((64,), max_iter=200, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is judged by what it says, not by when it stopped
        small.fit(x[~held].flatten(1).numpy(), label[~held].numpy())
    same = torch.from_numpy(small.predict(x[held].flatten(1).numpy())) == label[held]
    return float(same.float().mean()), float(label[held].bincount().max() / n), n


def _decimals(model: HttpModel, z: Tensor) -> int | None:
    """The fewest decimals that all scores have in common, up to 8."""
    scores = z.double().exp() if model.endpoint.answer.kind == "probabilities" else z.double()
    values = scores[:64].flatten().tolist()
    for decimals in range(9):
        if all(abs(round(value, decimals) - value) <= 1e-6 * max(1e-3, abs(value)) for value in values):
            return decimals
    return None

"""What studies of training share: small networks, each trained one way under several seeds, and audited by `quick`."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, ClassVar

import torch
from torch import nn

from mohs.attacks.settings import Settings
from mohs.auditing import audit
from mohs.data import Examples, load_data
from mohs.errors import RequestError
from mohs.models.cpu import threads
from mohs.report.words import percent
from mohs.rng import Stream
from mohs.study.base import Claim, Findings, Grid, Table
from mohs.study.seeds import interval, verdict
from mohs.study.training import trained
from mohs.threat import parse_threat
from mohs.training_jobs import make_job

CLEAN = "clean"


@dataclass(frozen=True)
class Materials:
    """What is trained on and what is judged on. options: of `mohs.audit`, such as rows, and the first seed. say: told what is
    being done. keep: the folder of trained networks, see `mohs.study.training.trained`."""

    data: Examples
    test: Examples
    options: dict[str, Any] = field(default_factory=dict)
    say: Callable[[str], None] = lambda text: None
    keep: Path | None = None


@dataclass(frozen=True)
class Way:
    """To train: as of `mohs train NETWORK --recipe RECIPE --threat THREAT`, with the recipe's own options."""

    network: str
    recipe: str = "standard"
    threat: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def materials(
    data: str | None,
    test: str | None,
    *,
    limit: int | None = None,
    options: dict[str, Any] | None = None,
    say: Callable[[str], None] = lambda text: None,
    keep: Path | None = None,
) -> Materials:
    """From what `--data` takes: the embedded digits without any, and a fifth of the data held out where no test is named."""
    options = options or {}
    seed = int(options.get("seed", 0))
    bounds = options.get("bounds", (0.0, 1.0))
    examples = load_data(data or "digits:train", limit=limit, seed=seed, bounds=bounds)
    if test is not None or data is None:
        return Materials(examples, load_data(test or "digits", seed=seed, bounds=bounds), options, say, keep)
    order = Stream.of(seed, torch.arange(1)).at("study").permutation(len(examples))[0]
    held = max(1, len(examples) // 5)
    kept, out = examples.take(order[held:].sort().values), examples.take(order[:held].sort().values)
    return Materials(kept, replace(out, name=f"{out.name}, a fifth held out"), options, say, keep)


Shares = dict[str, dict[str, tuple[float, ...]]]  # by way, then by `clean` or threat: a share of the test examples a seed


@dataclass(frozen=True, kw_only=True)
class Trains(Settings, ABC):
    """A study of networks that it trains itself. Its docstring's first line is its title.

    seeds: networks trained each way, from the seed that was asked for on. epochs, batch, rate: of AdamW, on a one-cycle
    schedule. examples: of the test data that are attacked, a seeded sample.
    """

    seeds: int = 3
    epochs: int = 15
    batch: int = 64
    rate: float = 3e-3
    examples: int = 200

    corner: ClassVar[str] = "trained"  # what the rows of the table are

    @abstractmethod
    def run(self, materials: Materials) -> Findings:
        """Train, attack, judge; RequestError where nothing can be."""

    def measured(self, materials: Materials, ways: Mapping[str, Way], threats: Sequence[str]) -> tuple[Shares, tuple[str, ...]]:
        """The clean and robust accuracy of every way, and what has to be said of it. Threats are judged together, so that all
        ways face the same examples."""
        for text in threats:
            if parse_threat(text).epsilon == torch.inf:
                raise RequestError(f"the study needs a budget, such as linf:0.2; not {text!r}")
        first = int(materials.options.get("seed", 0))
        drawn = Stream.of(first, torch.arange(1)).at("attacked").permutation(len(materials.test))[0][: self.attacked(materials)]
        test = materials.test.take(drawn.sort().values)
        found: dict[str, dict[str, list[float]]] = {name: {what: [] for what in (CLEAN, *threats)} for name in ways}
        notes = []
        for name, way in ways.items():
            for seed in range(first, first + self.seeds):
                materials.say(f"{name}, seed {seed}")
                with threads(1):  # so small a network only waits for a second one
                    network = self._trained(materials, way, seed)
                rows = _told_apart(network, test)
                if rows is None:
                    notes.append(f"{name}, seed {seed}: training failed, every example gets the same scores; none was attacked")
                    share = _accuracy(network, test)
                    shares = dict.fromkeys((CLEAN, *threats), share)
                else:
                    result = audit(network, test.take(rows), threats=threats, profile="quick", **materials.options)
                    shares = {CLEAN: result.clean_accuracy}
                    # where scores tie, an answer is wrong and no goal is reached: nobody is robust there
                    lows = (min(threat.score.low, shares[CLEAN]) for threat in result.verdict.threats)
                    shares |= dict(zip(threats, lows, strict=True))
                for what, value in shares.items():
                    found[name][what].append(value)
        return {name: {what: tuple(values) for what, values in by.items()} for name, by in found.items()}, tuple(notes)

    def attacked(self, materials: Materials) -> int:
        """How many test examples there are to attack."""
        return min(self.examples, len(materials.test))

    def _trained(self, materials: Materials, way: Way, seed: int) -> nn.Module:
        job = make_job(
            way.network,
            materials.data,
            threat=way.threat,
            recipe=way.recipe,
            bounds=materials.options.get("bounds", (0.0, 1.0)),
            seed=seed,
            epochs=self.epochs,
            batch=self.batch,
            optimizer="adamw",
            rate=self.rate,
            device=materials.options.get("device", "cpu"),
            **way.options,
        )
        try:
            task, standing = trained(job, materials.keep)
        except RequestError as error:  # it collapsed: what is left of it answers every example alike
            materials.say(str(error))
            return job.task.network.cpu().eval()
        task.network.load_state_dict(standing.best)
        return copy.deepcopy(task.recipe.deployed(task.network.cpu().eval()))

    def findings(
        self,
        words: str,
        shares: Shares,
        cells: Mapping[str, Mapping[str, Sequence[float]]],
        claims: Sequence[Claim],
        notes: tuple[str, ...],
    ) -> Findings:
        """cells: by row and column, shares, one a seed."""
        columns = tuple(next(iter(cells.values())))
        texts = tuple(tuple(map(_text, row.values())) for row in cells.values())
        means = tuple(tuple(map(fmean, row.values())) for row in cells.values())
        return Findings(
            words=(
                f"{words} Shares of {self.examples} test examples at most, attacked by `quick`: the mean over {self.seeds} "
                "networks, and its standard deviation. A robust accuracy is an upper bound: another attack may break more. "
                "A claim is decided by the 95% t interval of the mean difference over the seeds, on the same test examples: "
                "held where it lies above what is claimed, did not hold where it lies below, else undecided. Shares come in "
                "steps of one example, and the standard deviation of the differences is taken as one such step at least. Claims "
                "are tested one by one."
            ),
            table=Table((self.corner, *columns), tuple((row, *line) for row, line in zip(cells, texts, strict=True))),
            figures=(Grid("Accuracy", tuple(cells), columns, means, texts),),
            claims=tuple(claims),
            notes=notes,
            facts=tuple(
                {"way": name, "on": what, "shares": list(values)} for name, by in shares.items() for what, values in by.items()
            ),
        )


def decided(claim: str, differences: Sequence[float], examples: int, least: float = 0.0) -> Claim:
    """A claim that a difference of shares of so many examples, one a seed, is above `least` on the mean: by its 95% t interval,
    the spread of the seeds no less than one example."""
    n, said = len(differences), f"{100 * fmean(differences):+.1f} points"
    if n < 2:
        return Claim(claim, f"{said}, one seed: no interval", None)
    low, high = interval(differences, 1 / examples)
    than = f", against {100 * least:+g}" if least else ""
    return Claim(claim, f"{said} [{100 * low:+.1f}, {100 * high:+.1f}] over {n} seeds{than}", verdict(low, high, least))


def minus(one: Sequence[float], two: Sequence[float]) -> tuple[float, ...]:
    """Seed by seed."""
    return tuple(a - b for a, b in zip(one, two, strict=True))


def mean(several: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Of several ways, seed by seed."""
    return tuple(fmean(values) for values in zip(*several, strict=True))


def _text(values: Sequence[float]) -> str:
    return percent(fmean(values)) + (f" ± {100 * stdev(values):.1f}" if len(values) > 1 else "")


def _told_apart(network: nn.Module, test: Examples) -> torch.Tensor | None:
    """An order of the test examples [n] whose first two get different scores, as an audit wants to see of a model that is hardly
    trained; None where all get the same, or no number."""
    with torch.no_grad():
        scores = network(test.x).nan_to_num()
    same = (scores == scores[:1]).all(1)
    same[0] = False
    if len(test) == 1:
        return torch.arange(1)
    return None if same[1:].all() else same.long().argsort(stable=True)


def _accuracy(network: nn.Module, test: Examples) -> float:
    with torch.no_grad():
        return float((network(test.x).argmax(1) == test.y).double().mean())

"""A study under several seeds, each with its own draw of examples, attacks and trainings, and what they say together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev

from mohs.report.study import VERDICTS
from mohs.study.base import Claim, Findings, Study, Subject, Table

RULE = (
    "A claim about training is decided by the 95% t interval of its effect over the seeds; every other holds, or does not, where "
    "its own test says so under every seed, and else is undecided."
)


def studied(study: Study, subject: Callable[[int], Subject], first: int = 0) -> Findings:
    """The findings of `study.seeds` seeds, from the first on, on the subject of each. Raises RequestError."""
    study.check()
    found = {seed: study.on(subject(seed)) for seed in range(first, first + study.seeds)}
    return found[first] if study.seeds == 1 else together(found)


def together(found: Mapping[int, Findings]) -> Findings:
    """By seed: the rows and facts of all, the figures of the first, and the claims decided over them."""
    first, *_ = found.values()
    name, *columns = first.table.columns
    rows = [
        (row[0], str(seed), *row[1:])
        for same in zip(*(one.table.rows for one in found.values()), strict=True)
        for seed, row in zip(found, same, strict=True)
    ]
    return Findings(
        words=f"{first.words} Under {len(found)} seeds; the figures are those of seed {next(iter(found))}. {RULE}",
        table=Table((name, "seed", *columns), tuple(rows)),
        figures=first.figures,
        claims=tuple(over_seeds(same) for same in zip(*(one.claims for one in found.values()), strict=True)),
        notes=tuple(dict.fromkeys(note for one in found.values() for note in one.notes)),
        facts=tuple({"seed": seed, **fact} for seed, one in found.items() for fact in one.facts),
    )


def over_seeds(same: Sequence[Claim]) -> Claim:
    """One claim under several seeds, decided as RULE says."""
    first = same[0]
    effects = [claim.effect for claim in same if claim.effect is not None]
    if len(effects) == len(same):
        if wild := sum(not math.isfinite(effect) for effect in effects):
            return Claim(first.claim, f"not a finite number under {wild} of {len(effects)} seeds: no interval", None)
        low, high = interval(effects)
        said = f"{fmean(effects):+.3g} [{low:+.3g}, {high:+.3g}] over {len(effects)} seeds"
        return Claim(first.claim, said, verdict(low, high))
    verdicts = Counter(claim.held for claim in same)
    said = ", ".join(f"{VERDICTS[held]} under {n}" for held, n in verdicts.items())
    return Claim(
        first.claim, f"{said} of {len(same)} seeds; the first: {first.measured}", first.held if len(verdicts) == 1 else None
    )


def interval(values: Sequence[float], spread: float = 0.0) -> tuple[float, float]:
    """95%, of the mean of finite values, by Student's t; infinite for one value. spread: the least standard deviation, of values
    that come in steps: below it they show none, and have some."""
    from scipy.stats import t

    n, mean = len(values), fmean(values)
    half = float(t.ppf(0.975, n - 1)) * max(stdev(values), spread) / math.sqrt(n) if n > 1 else math.inf
    return mean - half, mean + half


def verdict(low: float, high: float, least: float = 0.0) -> bool | None:
    """Whether what lies in the interval is above `least`."""
    return True if low > least else False if high < least else None

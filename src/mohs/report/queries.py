"""What an attack by queries cost, and what it brought: success against queries, and the account of an endpoint."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mohs.report.words import cost, count, number, percent
from mohs.store.answers import read_tally
from mohs.store.verdict import Verdict

# shares are told at these, as far as the budget goes, and at the budget
AT = (100, 500, 1000, 5000)


@dataclass(frozen=True)
class Effort:
    """One threat. queries: of each success, ascending; of `attacked` cases, those that were right before and heard. median: the
    queries within which half of them fell, None where fewer did. within: the share that fell at most so soon. nearest:
    without a budget of distance, the median over all of them of the distance found within so many queries, inf where fewer
    than half fell; else empty."""

    text: str
    attack: str
    why: str
    attacked: int
    queries: list[int]
    median: int | None
    within: dict[int, float]
    nearest: dict[int, float]

    def steps(self, most: int) -> list[tuple[float, float]]:
        """(queries, share broken) where the share rises, from 0 to `most`."""
        n, found = max(1, self.attacked), [(0.0, 0.0)]
        for i, q in enumerate(self.queries):
            found += [(float(q), i / n), (float(q), (i + 1) / n)]
        return [*found, (float(most), len(self.queries) / n)]


@dataclass(frozen=True)
class Account:
    """Of a whole run, see `mohs.store.answers`; money in `currency`, None where no price is known."""

    asked: int
    cached: int
    answered: int
    failed: int
    refused: int
    sent: int
    requests: int
    repeated: int
    seconds: float
    money: float | None
    currency: str


def account(verdict: Verdict) -> Account | None:
    """None of a run that asked no endpoint."""
    told, tally = verdict.run.spec.get("endpoint"), read_tally(verdict.run.folder)
    if told is None or tally is None:
        return None
    price = float(told["price"])
    return Account(**tally, money=price * tally["sent"] if price else None, currency=told["currency"])  # type: ignore[arg-type]


def efforts(verdict: Verdict) -> list[Effort]:
    """A threat each, from the records."""
    table = verdict.run.records()
    stage, threat, status, first = (
        table[name].to_numpy(zero_copy_only=False) for name in ("stage", "threat", "status", "queries_to_success")
    )
    budget = verdict.run.spec["plan"].get("queries") or max(AT)
    marks = sorted({at for at in AT if at < budget} | {budget})
    found = []
    for i, (seen, plan) in enumerate(zip(verdict.threats, verdict.run.spec["plan"]["threats"], strict=True)):
        hit = (stage >= 0) & (threat == i) & (status == "broken") & (first >= 0)
        queries = sorted(int(q) for q in first[hit])
        attacked = seen.score.n - seen.natural
        middle = math.ceil(attacked / 2)
        found.append(
            Effort(
                text=seen.text,
                attack=plan["stages"][0]["name"],
                why=plan["stages"][0].get("note") or "",
                attacked=attacked,
                queries=queries,
                median=queries[middle - 1] if 0 < middle <= len(queries) else None,
                within={at: sum(q <= at for q in queries) / attacked if attacked else math.nan for at in marks},
                nearest=_nearest(verdict, i, attacked, budget),
            )
        )
    return found


def _nearest(verdict: Verdict, threat: int, attacked: int, budget: int) -> dict[int, float]:
    """From what was stored of the successes; those that never fell are infinitely far."""
    found: dict[int, list[float]] = {}
    for stored in verdict.run.examples():
        if "trail" in stored:
            of = stored["threat"] == threat
            for at, column in zip(stored["trail_at"][:1].reshape(-1).tolist(), stored["trail"][of].T.tolist(), strict=True):
                found.setdefault(at, []).extend(column)
    late = min((at for at in found if at >= budget), default=budget)  # the first mark beyond it is what the budget brought
    return {
        min(at, budget): float(np.median(far + [math.inf] * (attacked - len(far))))
        for at, far in sorted(found.items())
        if at <= late
    }


def as_json(verdict: Verdict) -> dict[str, Any] | None:
    spent = account(verdict)
    if spent is None:
        return None
    told = [
        asdict(effort)
        | {name: {str(k): number_or_none(v) for k, v in getattr(effort, name).items()} for name in ("within", "nearest")}
        for effort in efforts(verdict)
    ]
    return {"account": asdict(spent), "threats": told}


def number_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def lines(verdict: Verdict) -> list[str]:
    """For a terminal; none of a run that asked no endpoint."""
    spent = account(verdict)
    if spent is None:
        return []
    said = []
    for effort in efforts(verdict):
        within = ", ".join(f"{percent(share)} within {count(at)}" for at, share in effort.within.items() if math.isfinite(share))
        median = f"half within {count(effort.median)} queries" if effort.median is not None else "fewer than half fell"
        if effort.nearest:
            far = ", ".join(f"{number(d)} within {count(at)}" for at, d in effort.nearest.items() if math.isfinite(d))
            median += f"; median distance {far}" if far else ""
        said.append(f"{effort.text}: {effort.attack} broke {len(effort.queries)} of {effort.attacked}; {within}; {median}")
    return [*said, sentence(spent)]


def sentence(spent: Account) -> str:
    """`3,609 asked: 3,018 from the cache, 591 answered, 0 failed; 789 sent in 4.4 s, 0.79 USD`."""
    money = f", {number(spent.money)} {spent.currency}" if spent.money is not None else ""
    again = f"; {count(spent.repeated)} were in flight when a process died, and sent again" if spent.repeated else ""
    guarded = f", {count(spent.refused)} of them refused by a guard" if spent.refused else ""
    return (
        f"{count(spent.asked)} asked: {count(spent.cached)} from the cache, {count(spent.answered)} answered, "
        f"{count(spent.failed)} failed{guarded}; {count(spent.sent)} sent in {cost(spent.seconds)}{money}{again}"
    )


def drawing(effort: Effort, most: int) -> dict[str, Any]:
    """The curve for the report, in a box of 600 x 200: a polyline, and ticks."""
    most = max(most, 1)
    points = " ".join(f"{600 * q / most:.1f},{200 - 200 * share:.1f}" for q, share in effort.steps(most) if q <= most)
    ticks = np.unique(np.linspace(0, most, 6).round().astype(int)).tolist()
    return {
        "points": points,
        "ticks": [{"at": f"{600 * tick / most:.1f}", "text": count(tick)} for tick in ticks],
        "median": None if effort.median is None else f"{600 * effort.median / most:.1f}",
    }


def falling(effort: Effort) -> dict[str, Any] | None:
    """The distance against queries, both in powers of ten, in a box of 600 x 200; None where there is nothing to draw."""
    known = {at: distance for at, distance in effort.nearest.items() if 0 < distance < math.inf}
    if len(known) < 2:
        return None
    x, y = np.log(list(known)), np.log(list(known.values()))
    wide, high = x[-1] - x[0], max(y.max() - y.min(), 1e-9)
    places = [(600 * (a - x[0]) / wide, 200 * (y.max() - b) / high) for a, b in zip(x, y, strict=True)]
    return {
        "points": " ".join(f"{a:.1f},{b:.1f}" for a, b in places),
        "ticks": [{"at": f"{a:.1f}", "text": count(at)} for (a, _), at in zip(places, known, strict=True)],
        "most": number(max(known.values())),
        "least": number(min(known.values())),
    }

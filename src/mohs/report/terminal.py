"""The verdict in a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mohs.report.proofs import sentence
from mohs.report.queries import lines
from mohs.report.tables import broken_by
from mohs.report.words import cost, count, interval, percent, score, spent
from mohs.store.verdict import ThreatVerdict, Verdict

SHOWN = 3  # attacks named a threat


def summary(verdict: Verdict) -> RenderableType:
    """The verdict first, then what `deep` spent where, then why examples are undecided; stamped with the profile."""
    stamp = f"profile {verdict.profile}, n = {verdict.clean.n}, 95% intervals"
    apart = (0, 1, 0, 0)  # one space between columns: two would cut the last one's unit in 80 columns
    table = Table(box=None, pad_edge=False, padding=apart, header_style="bold", caption=escape(stamp), caption_justify="left")
    table.add_column("threat", overflow="fold", min_width=10)
    table.add_column("clean", justify="right")
    table.add_column("robust accuracy\n[95%]", justify="right", no_wrap=True)
    table.add_column("natural +\nboundary error", justify="right", min_width=12)
    table.add_column("broken by", overflow="fold")
    table.add_column("passes", justify="right")
    table.add_column("time", justify="right", no_wrap=True, min_width=6)
    for threat in verdict.threats:
        table.add_row(*(escape(cell) for cell in _row(verdict, threat)))
    costs = [Text(spent(threat)) for threat in verdict.threats] if verdict.profile.startswith("deep") else []
    asked = [Text(line) for line in lines(verdict)]
    proofs = [Text(said) for threat in verdict.threats if (said := sentence(threat)) is not None]
    return Group(table, *proofs, *costs, *asked, *_undecided(verdict))


def _row(verdict: Verdict, threat: ThreatVerdict) -> list[str]:
    top = list(broken_by(threat).items())
    named = ", ".join(f"{name} {broken}" for name, broken in top[:SHOWN])
    rest = sum(broken for _, broken in top[SHOWN:])
    return [
        threat.text,
        score(verdict.clean),
        f"{score(threat.score)}\n[{interval(threat.score)}]" if threat.score.n else score(threat.score),
        f"{percent(threat.natural_error)} + {percent(threat.boundary_error)}" if threat.score.n else "-",
        (f"{named}, others {rest}" if rest else named) or "-",
        count(sum(stage.forwards + stage.backwards for stage in threat.stages)),
        cost(sum(stage.seconds for stage in threat.stages)),
    ]


def _undecided(verdict: Verdict) -> list[Text]:
    found = []
    if not verdict.finished:
        found.append(Text(f"not finished: mohs resume {verdict.run.folder}", style="yellow"))
    for threat in verdict.threats:
        for reason, cases in threat.reasons.items():
            found.append(Text(f"undecided at {threat.text}: {cases} ({reason})", style="yellow"))
    return found

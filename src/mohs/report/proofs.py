"""What a run proved: in a terminal, and the sentences of the report."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mohs.report.words import cost, count, interval, percent, plural, score
from mohs.store.verdict import Score, ThreatVerdict, Verdict

SHOWN = 20  # ids of open examples


def sentence(threat: ThreatVerdict) -> str | None:
    """`robust accuracy at linf:0.1 lies in [94.7%, 95.9%], proved and not broken: 12 cases open (3, 18, ...)`; None where
    nothing was to be proved."""
    found = threat.certified
    if found is None or not found.n:
        return None
    ids = ", ".join(str(i) for i in threat.open[:SHOWN]) + (", ..." if len(threat.open) > SHOWN else "")
    left = f"{plural(len(threat.open), 'case')} open ({ids})" if len(threat.open) else "none open"
    low, high = percent(found.low), percent(found.high)
    return f"robust accuracy at {threat.text} lies in [{low}, {high}], proved and not broken: {left}"


def summary(verdict: Verdict) -> RenderableType:
    """A row a threat of `mohs certify`."""
    stamp = f"profile {verdict.profile}, n = {verdict.clean.n}, 95% intervals; open: neither proved nor broken"
    table = Table(box=None, pad_edge=False, header_style="bold", caption=escape(stamp), caption_justify="left")
    table.add_column("threat", overflow="fold", min_width=10)
    for name in ("clean", "proved\n[95%]", "open", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for threat in verdict.threats:
        table.add_row(*(escape(cell) for cell in _row(verdict, threat)))
    said = [] if verdict.finished else [Text(f"not finished: mohs resume {verdict.run.folder}", style="yellow")]
    return Group(table, *said)


def _row(verdict: Verdict, threat: ThreatVerdict) -> list[str]:
    found = threat.certified
    assert found is not None
    proved = Score(found.robust, 0, found.n)
    return [
        threat.text,
        score(verdict.clean),
        f"{score(proved)}\n[{interval(proved)}]" if found.n else "no example",
        f"{percent(found.undecided / found.n)} ({count(found.undecided)})" if found.n else "-",
        cost(sum(stage.seconds for stage in threat.stages)),
    ]

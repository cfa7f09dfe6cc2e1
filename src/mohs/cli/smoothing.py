"""mohs certify --method smoothing"""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from mohs.errors import RequestError

if TYPE_CHECKING:
    from mohs.certificates.smoothing import Smoothed

NAME = "smoothing"


def smoothing(
    model: str,
    data: str,
    threats: Sequence[str],
    votes: dict[str, Any],
    asked: dict[str, Any],
    out: Path | None,
    json: bool,
) -> int:
    """Certify by votes under noise. threats: balls of one norm; votes, asked: options of `mohs.certificates.smoothing.certify`
    and the request."""
    from mohs.certificates.smoothing import certify
    from mohs.cli.show import counting, fresh, tell, verdict_line
    from mohs.report.policy import check

    require, confident = asked.pop("require"), asked.pop("confident")
    if asked.pop("goal") != "untargeted" or asked.pop("time") is not None:
        raise RequestError("smoothing certifies that no class changes, with a number of samples: leave --goal and --time out")
    if votes["sigma"] is None:
        raise RequestError("smoothing needs --sigma, the standard deviation of its noise in the units of the input, such as 0.25")
    radii, norm = _balls(threats)
    if votes["at_radius"] not in (None, *radii) or (votes["at_radius"] is not None and len(radii) > 1):
        raise RequestError(f"--at-radius asks of one radius alone: give the threat {norm}:{votes['at_radius']:g} and no other")
    folder = out or fresh(NAME)
    with counting("certified") as watch:
        found = certify(model, data, norm=norm, radii=radii, out=folder, watch=watch, **votes, **asked)
    tell(found.findings)
    scores = {text: found.accuracy(r) for text, r in zip(threats, radii, strict=True)}
    requirements = check(require, confident, {"clean": found.clean, **scores})
    if json:
        typer.echo(json_module.dumps(found.facts(), indent=1))
    else:
        _show(found)
        for line in requirements:
            Console().print(verdict_line(line))
        typer.echo(f"report: {folder / 'report.html'}")
    return 0 if all(line.met for line in requirements) else 1


def _balls(threats: Sequence[str]) -> tuple[list[float], str]:
    """The radii of threats and their one norm."""
    from mohs.threat import NormThreat, parse_threat

    parsed = [parse_threat(text) for text in threats]
    for text, threat in zip(threats, parsed, strict=True):
        if not isinstance(threat, NormThreat) or "+" in text:
            raise RequestError(f"smoothing certifies whole balls, such as l2:0.5, and the threat is {text}")
    names = {threat.name for threat in parsed}
    if len(names) > 1:
        raise RequestError(f"smoothing certifies one norm at a time, and the threats are of {' and '.join(sorted(names))}")
    return [threat.epsilon for threat in parsed], names.pop()


def _show(found: Smoothed) -> None:
    facts, console = found.facts(), Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in (f"{facts['norm']} radius", "certified accuracy", "95% interval"):
        table.add_column(heading, justify="right")
    for r in found.radii:
        score = found.accuracy(r)
        low, high = score.interval
        table.add_row(f"{r:g}", f"{score.low:.1%}", f"{low:.1%} to {high:.1%}")
    console.print(table)
    console.print(
        f"{facts['n']} examples under {facts['noise']} noise of sigma {facts['sigma']:g}: {found.wrong} of another class, "
        f"{found.abstained} without a certificate, {facts['open']} whose samples ran out\n"
        f"{facts['samples_mean']:,.0f} samples an example, {facts['seconds']:.1f} s. A certificate is of the smoothed classifier "
        f"and false with probability {facts['alpha']:g} at most ({facts['bound']})",
        highlight=False,
    )

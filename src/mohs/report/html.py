"""The report: one HTML file that opens anywhere and asks nobody. A pure reader of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mohs.report import classes, detection, figures, pictures, proofs, queries, words
from mohs.report.page import environment, plotly, put
from mohs.report.policy import Requirement, check
from mohs.report.tables import broken_by
from mohs.store import SCHEMA, Run
from mohs.store.verdict import ThreatVerdict, Verdict, verdict_of

FILES = 200  # names of record files listed


def write_report(run: Run | str | Path, path: str | Path) -> Path:
    """Write the report of a run, finished or not, as one HTML file; RequestError where it cannot be written."""
    run = run if isinstance(run, Run) else Run.open(run)
    return put(render(verdict_of(run)), path)


def render(verdict: Verdict) -> str:
    """The page of a run."""
    jinja = environment()
    spec = verdict.run.spec
    names = spec["data"].get("class_names")
    jinja.globals |= {"class_name": lambda label: words.class_name(label, names)}
    galleries = pictures.gallery(verdict.run, verdict.threats)
    plans = spec["plan"]["threats"]
    threats = [_threat(*parts, number) for number, parts in enumerate(zip(verdict.threats, plans, galleries, strict=True), 1)]
    return jinja.get_template("report.html.j2").render(
        verdict=verdict,
        spec=spec,
        plan=spec["plan"],
        headline=words.headline(verdict),
        threats=threats,
        groups=classes.groups(verdict),
        probe=_probe(verdict),
        detection=detection.read(verdict.run),
        detections=detection,
        policy=_policy(verdict),
        findings=spec.get("findings") or [],
        curves=[threat["curve"] for threat in threats],
        columns={name: words.COLUMNS[name] for name in SCHEMA.names},
        files=_files(verdict.run),
        most_files=FILES,
        plotly=plotly(),
    )


def _threat(verdict: ThreatVerdict, plan: dict[str, Any], shown: list[pictures.Picture], number: int) -> dict[str, Any]:
    """What the template needs to know of one threat."""
    drawn = figures.curve(verdict)
    return {
        "number": number,
        "verdict": verdict,
        "plan": plan,
        "score": verdict.score,
        "proofs": proofs.sentence(verdict),
        "curve": drawn,
        "sample": figures.sample(drawn),
        "matrix": figures.matrix(verdict),
        "pictures": shown,
        "broken_by": broken_by(verdict),
        "stages": list(zip(verdict.stages, plan["stages"], strict=True)),
    }


def _probe(verdict: Verdict) -> dict[str, Any] | None:
    """What the template needs to know of an endpoint's account; None of a run without."""
    spent = queries.account(verdict)
    if spent is None:
        return None
    most = verdict.run.spec["plan"].get("queries") or 0
    drawn = [
        (effort, queries.drawing(effort, most or max(effort.queries, default=1)), queries.falling(effort))
        for effort in queries.efforts(verdict)
    ]
    return {"account": spent, "efforts": drawn}


def _policy(verdict: Verdict) -> list[dict[str, Any]]:
    """As the run recorded it; else the lines that were asked for, held against the verdict."""
    spec = verdict.run.spec
    if spec.get("policy"):
        return list(spec["policy"])
    asked = {**spec["request"].get("defaulted", {}), **spec["request"].get("given", {})}
    lines: list[Requirement] = check(asked.get("require") or [], asked.get("confident") or [], verdict.scores)
    return [{"requirement": line.text, "met": line.met, "value": line.value} for line in lines]


def _files(run: Run) -> list[str]:
    return sorted(path.name for path in (run.folder / "records").glob("*.parquet"))

"""docs/defences: a page a defence, written from its docstring, the table of defences and what it did on the embedded digits.

    python -m docs.defences            every page anew, from what was measured
    python -m docs.defences jpeg       measure these first
    python -m docs.defences --all      measure every defence (half an hour)

What was measured is kept in docs/defences/measured.json, so that the text of a page follows from the code alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from docs.broken import Roomy, accuracy, fit
from torch import nn

import mohs
from mohs.attacks import PGD
from mohs.attacks.about import about, linked
from mohs.data import Examples, load_data, load_digits
from mohs.defend import Defence, defended, parse_defence
from mohs.defend.table import TABLE, factory, settings
from mohs.defending import latency
from mohs.demo import DigitNet, load_demo
from mohs.models import Model, TorchModel
from mohs.report.tables import broken_by
from mohs.rng import Stream

FOLDER = Path(__file__).parent / "defences"
MEASURED = FOLDER / "measured.json"
NONE = "none"  # the entry of the network alone
KINDS = {"linf:0.15": "linf", "l2:0.8": "l2", "l1:2": "l1", "l0:4": "l0", "rotation:20deg": "spatial"}
EXAMPLES, EPOCHS = 64, 30
SHORT, DRAWS = PGD(steps=10, step_size=0.25), 4


@dataclass(frozen=True)
class Case:
    """text: the defence as measured. network: one that is trained on what the defence shows it; without, the defence stands
    before the demo's standard network. attack: the adaptive one, where a pass costs too much for the profile."""

    text: str
    network: Callable[[], nn.Module] | None = None
    attack: PGD | None = None
    n: int = EXAMPLES


def thermometer_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), *DigitNet().layers[1:])


CASES: dict[str, Case] = {
    "jpeg": Case("jpeg:75"),
    "bits": Case("bits:3"),
    "median": Case("median:2"),
    "squeeze": Case("squeeze:bits=4,window=2"),
    "tv": Case("tv:dropped=0.5,weight=0.03,steps=30", attack=SHORT, n=32),
    "resize": Case("resize:smallest=8,size=12", Roomy, SHORT, n=32),
    "noise": Case("noise:0.1", DigitNet),
    "smooth": Case("smooth:sigma=0.25,samples=12,alpha=0.05", DigitNet, SHORT, n=32),
    "thermometer": Case("thermometer:16", thermometer_net),
    "kwta": Case("kwta:0.1", DigitNet),
    "defense-gan": Case("defense-gan:restarts=2,steps=25", attack=SHORT, n=32),
}


# a run


def plain() -> Model:
    return TorchModel(load_demo("demo:standard"), classes=10)


def subject(name: str) -> Model:
    """A defence before the network it is shown on."""
    case = CASES[name]
    if case.network is None:
        return defended(plain(), [case.text])
    net = case.network()
    made = defended(TorchModel(net, classes=10), [case.text])
    if isinstance(made, Defence):
        fit(net, epochs=EPOCHS, sees=lambda x: made.transform(x, Stream(torch.randint(2**62, (len(x),)))))
    else:
        assert isinstance(made, TorchModel)
        fit(made.module, epochs=EPOCHS)
    return made


def run(name: str) -> dict[str, Any]:
    """Measure a defence; returns its entry of measured.json. `none` is the network alone."""
    model, (x, y) = plain(), load_digits("test")
    if name == NONE:
        through = audited(model, load_data("digits", limit=EXAMPLES))
        return {"clean": round(accuracy(model, x, y), 4), "threats": {threat: left(one) for threat, one in through.items()}}
    case, made = CASES[name], subject(name)
    data = load_data("digits", limit=case.n)
    through = audited(made, data) if case.attack is None else attacked(made, data, case.attack)
    around = audited(made, data, surrogates=[model])
    return {
        "with": case.text,
        "settings": given(name),
        "clean": round(accuracy(made, x, y), 4),
        "latency": round(median(latency(model, x[:EXAMPLES], made, x[:EXAMPLES]) for _ in range(5)), 1),
        "n": case.n,
        "threats": {threat: both(one, around[threat], case.n) for threat, one in through.items()},
    }


@dataclass(frozen=True)
class Standing:
    """What attacks left of n examples. by: how many each of them broke; those that were wrong already are of none."""

    n: int
    ids: frozenset[int]
    by: dict[str, int]


def audited(model: Model, data: Examples, **options: Any) -> dict[str, Standing]:
    """By threat."""
    found = mohs.audit(model, data, threats=list(KINDS), profile="quick", **options).verdict.threats
    return {
        threat: Standing(len(data), frozenset(one.ids[one.status == "robust"].tolist()), broken_by(one))
        for threat, one in zip(KINDS, found, strict=True)
    }


def attacked(model: Model, data: Examples, attack: PGD) -> dict[str, Standing]:
    """By threat."""
    found = {}
    for threat in KINDS:
        outcome = attack(model, data.x, data.y, threat=threat, draws=DRAWS)
        broken = int((outcome.broken & (outcome.distance > 0)).sum())
        found[threat] = Standing(len(data), frozenset(data.ids[~outcome.broken].tolist()), {"pgd": broken} if broken else {})
    return found


def left(through: Standing) -> dict[str, Any]:
    return {"adaptive": round(len(through.ids) / through.n, 4), "by": through.by}


def both(through: Standing, around: Standing, n: int) -> dict[str, Any]:
    """worse: what neither the adaptive nor the naive adversary broke."""
    naive, worse = (round(len(ids) / n, 4) for ids in (around.ids, through.ids & around.ids))
    return {**left(through), "naive": naive, "worse": worse}


def given(name: str) -> dict[str, Any]:
    """All settings of a defence as measured."""
    return {**settings(name), **parse_defence(CASES[name].text).settings}


# the text


def measured() -> dict[str, dict[str, Any]]:
    return json.loads(MEASURED.read_text()) if MEASURED.exists() else {}


def stale() -> list[str]:
    """Defences whose settings are not those that were measured."""
    return [name for name, found in measured().items() if name != NONE and found["settings"] != given(name)]


def page(name: str, known: dict[str, dict[str, Any]]) -> str:
    row, case, found = TABLE[name], CASES[name], known.get(name)
    said = about(factory(name))
    source = f"src/mohs/defend/{row.path.partition(':')[0]}.py"
    facts = {
        "differentiable": "yes" if row.differentiable else "no: attacks pass a substitute in the backward pass (BPDA)",
        "random": "yes: attacks average over draws (EOT), a hit fools half of 100 fresh ones" if row.random else "no",
        "a pass costs": row.cost,
        "what breaks it": row.falls,
        **({} if found is None else _costs(case, found, known[NONE])),
    }
    again = f"python -m docs.defences {name}"
    if found is None:
        shown = [f"Not measured yet: `{again}` does it."]
    else:
        shown = [*_broken(case, found, known[NONE]), "", "Again, in a shell:", "", "```bash", _command(case) or again, "```"]
    return "\n".join(
        [
            f"<!-- written by `python -m docs.defences` from {source}: edit the docstring there -->",
            f"# {name}",
            "",
            linked(said.method[0]),
            "",
            f"{linked(row.paper)}. Source: [{source}](../../{source})",
            "",
            "## When to use it",
            "",
            said.when[:1].upper() + said.when[1:],
            "",
            "## Facts and cost",
            "",
            "| | |",
            "|---|---|",
            *(f"| {key} | {value} |" for key, value in facts.items()),
            "",
            "## What breaks it",
            "",
            *shown,
            "",
            "[All defences](README.md)",
            "",
        ]
    )


def _costs(case: Case, found: dict[str, Any], bare: dict[str, Any]) -> dict[str, str]:
    network = "the demo's standard network" if case.network is None else "a small network trained on what the defence shows it"
    lost = 100 * (bare["clean"] - found["clean"])
    return {
        "measured as": f"`--with {case.text}`, before {network}",
        "clean accuracy": f"{found['clean']:.1%}, without {bare['clean']:.1%}: {lost:.1f} points lost",
        "latency": f"{found['latency']:g} times a pass of the network",
    }


def _broken(case: Case, found: dict[str, Any], bare: dict[str, Any]) -> list[str]:
    how = "by the profile `quick`" if case.attack is None else f"by PGD of {case.attack.steps} steps, {DRAWS} draws averaged"
    lines = [
        f"Robust accuracy of {found['n']} held-out digits. Naive: who attacks the standard network and knows of no defence. "
        f"Adaptive: who attacks through it, {how}. Worse: what neither broke.",
        "",
        "| threat | network alone | naive | adaptive | worse | broken by, adaptive |",
        "|---|---|---|---|---|---|",
    ]
    for threat, shares in found["threats"].items():
        by = ", ".join(f"{stage} {count}" for stage, count in shares["by"].items())
        left = (bare["threats"][threat]["adaptive"], shares["naive"], shares["adaptive"], shares["worse"])
        lines.append(f"| `{threat}` ({KINDS[threat]}) | {' | '.join(map('{:.0%}'.format, left))} | {by or 'nothing'} |")
    return lines


def _command(case: Case) -> str | None:
    """The `mohs defend` that gives the same; None where a network is trained or another attack taken."""
    if case.network is not None or case.attack is not None:
        return None
    threats = "".join(f" --threat {threat}" for threat in KINDS)
    return f"mohs defend demo:standard --with {case.text} --data digits --limit {case.n} --profile quick --audit{threats}"


def index() -> str:
    known = measured()
    bare = known[NONE]
    lines = [
        "<!-- written by `python -m docs.defences` -->",
        "# Defences",
        "",
        "What stands before a model at inference, or inside it: `mohs defend MODEL --with NAME` puts it there and measures,",
        "`mohs defend` lists them. Each declares whether it has a gradient and whether it draws, so that attacks go through it.",
        "",
        "Robust accuracy is what neither a naive nor an adaptive adversary broke of 64 held-out digits, profile `quick`: a 95% "
        "interval is about twelve points to either side, and a longer attack only lowers it. Those with a star cost most and "
        f"were attacked on 32 digits by PGD of {SHORT.steps} steps alone, {DRAWS} draws averaged, which is weaker: their rows "
        "compare with no other.",
        "",
        f"| defence | differentiable | random | clean | latency | {' | '.join(f'`{threat}`' for threat in KINDS)} |",
        f"|---|---|---|---|---|{'---|' * len(KINDS)}",
        f"| none | yes | no | {bare['clean']:.1%} | 1 | "
        + " | ".join(f"{bare['threats'][threat]['adaptive']:.0%}" for threat in KINDS)
        + " |",
    ]
    for name, row in TABLE.items():
        declared = ("yes" if row.differentiable else "no", "yes" if row.random else "no")
        shares = ["not measured", *["-"] * (1 + len(KINDS))]
        if found := known.get(name):
            worse = (f"{found['threats'][threat]['worse']:.0%}" for threat in KINDS)
            shares = [f"{found['clean']:.1%}", f"{found['latency']:g}", *worse]
        star = "" if CASES[name].attack is None else " &ast;"
        lines.append(f"| [{name}]({name}.md){star} | {' | '.join((*declared, *shares))} |")
    return "\n".join(
        [
            *lines,
            "",
            "Raw: [measured.json](measured.json). [Broken defences](../broken.md) are shown safe and then broken, "
            "[detectors](../detectors.md) reject, and [training](../train.md) puts a defence into the weights.",
            "",
        ]
    )


def write() -> None:
    known = measured()
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.md"):
        if old.stem not in (*TABLE, "README"):
            old.unlink()
    for name in TABLE:
        (FOLDER / f"{name}.md").write_text(page(name, known))
    (FOLDER / "README.md").write_text(index())


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for name in [NONE, *TABLE] if names == ["--all"] else names:
        found = {**measured(), name: run(name)}
        MEASURED.write_text(json.dumps({key: found[key] for key in (NONE, *TABLE) if key in found}, indent=1) + "\n")
        print(f"{name}: {found[name]}", flush=True)
    if stale():
        raise SystemExit(f"not measured with their present settings: run python -m docs.defences {' '.join(stale())}")
    write()


if __name__ == "__main__":
    main(sys.argv[1:])

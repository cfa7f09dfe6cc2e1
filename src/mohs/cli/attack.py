"""mohs attack"""

from __future__ import annotations

import json as json_module
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from mohs.cli import options
from mohs.errors import RequestError

if TYPE_CHECKING:
    from mohs.attacks.base import Attack
    from mohs.data import Examples
    from mohs.ledger import Outcome

HELP = "Run one attack and keep what it made. The attack's own options are options here: --steps 100."
EXAMPLE = "Example: `mohs attack pgd model.pt2 --data test.npz --threat linf:0.1 --steps 100 --out adv.safetensors`"
EXTRA = {"allow_extra_args": True, "ignore_unknown_options": True}


def command(
    context: typer.Context,
    attack: Annotated[
        str, typer.Argument(help="A name from `mohs attacks`, or `foolbox:Class`, `art:Class`.", show_default=False)
    ],
    model: options.Model,
    data: options.Data,
    threat: Annotated[
        str | None,
        typer.Option(
            help="`linf:0.1` and the like. Attacks that look for the nearest success need none: `l2:inf`.", show_default=False
        ),
    ] = None,
    goal: options.Goal = "untargeted",
    target: Annotated[str | None, typer.Option(help="A class: short for `--goal targeted:CLASS`.", show_default=False)] = None,
    knowledge: options.Knowledge = None,
    surrogate: Annotated[
        list[str] | None,
        typer.Option(help="A model of the adversary's own, on which `hybrid` starts. As often as wanted.", show_default=False),
    ] = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    bounds: options.Bounds = "0,1",
    outputs: options.Outputs = "logits",
    device: options.Device = "cpu",
    rows: options.Rows = 128,
    trust_pickle: options.TrustPickle = False,
    perceptual_model: options.PerceptualModel = None,
    autoencoder: options.Autoencoder = None,
    every_step: Annotated[bool, typer.Option("--every-step", help="Go on after the first success of an example.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="A .safetensors file: x, y, adversarial, broken, distance, ids.", show_default=False),
    ] = None,
    json: options.Json = False,
) -> int:
    from mohs import attacks as table
    from mohs.cli.show import tell
    from mohs.data import load_data
    from mohs.models import prepare
    from mohs.models.contract import check_contract
    from mohs.models.ensemble import surrogate as aided
    from mohs.request import make_request
    from mohs.store.verdict import Score
    from mohs.subjects import check_aids, facing, load, load_surrogate
    from mohs.threat import parse_goal, parse_threat

    chosen = table.make({"attack": attack, **options.own(context.args)})
    threat = threat or _free(attack, chosen)
    text = f"{threat}+knowledge:{knowledge}" if knowledge else threat
    parsed, aim = parse_threat(text), parse_goal(_goal(goal, target))
    if out is not None and out.suffix != ".safetensors":
        raise RequestError(f"--out should end in .safetensors, not {out.name!r}")
    said = {"bounds": options.bounds_of(bounds), "outputs": outputs, "device": device, "trust_pickle": trust_pickle}
    said |= {"perceptual_model": perceptual_model, "autoencoder": autoencoder}
    request = make_request(model, data, [text], said)
    examples = load_data(data, limit=limit, seed=seed, bounds=request.bounds)
    subject = load(model, examples.x, request)
    check_aids(request, [parsed])
    parsed = facing(parsed, subject, examples.x, request)
    tell(check_contract(subject, examples.x, examples.y))
    prepared = prepare(subject, examples.x[:8], rows=rows)
    if surrogate:
        own = [load_surrogate(name, examples.x, request) for name in surrogate]
        prepared = aided(prepared, own, examples.x[:8])
    outcome = chosen(prepared, examples.x, examples.y, threat=parsed, goal=aim, seed=seed, stop=False if every_step else None)
    if out is not None:
        _keep(out, examples, outcome)
    broken = outcome.broken
    standing = sum(status == "survived" for status in outcome.status)
    applicable = sum(status != "inapplicable" for status in outcome.status)
    score = Score(standing, applicable - standing - int(broken.sum()), applicable)
    facts: dict[str, Any] = {
        "attack": attack,
        "threat": text,
        "goal": str(aim),
        "n": len(outcome),
        "broken": int(broken.sum()),
        "standing": standing,
        "median_distance": float(outcome.distance.median())
        if len(outcome) and bool(outcome.distance.median().isfinite())
        else None,
        "forwards": int(outcome.forwards.sum()),
        "backwards": int(outcome.backwards.sum()),
        "queries": int(outcome.queries.sum()),
        "reasons": dict(Counter(f"{s}: {r}" for s, r in zip(outcome.status, outcome.reason, strict=True) if r)),
        "seconds": round(float(outcome.seconds.sum()), 3),
        "out": str(out) if out else None,
    }
    if json:
        typer.echo(json_module.dumps(facts, indent=1))
    else:
        Console().print(f"{attack} at {text}: {facts['broken']} of {applicable} broken, accuracy left {score}", highlight=False)
        passes = f"{facts['forwards']} forward and {facts['backwards']} backward passes"
        nearest = facts["median_distance"] if chosen.minimal else None
        typer.echo("" if nearest is None else f"median distance {nearest:.4g} of all, ", nl=False)
        typer.echo(f"{passes}, {facts['queries']} queries with the judge's, {facts['seconds']} s")
        for reason, cases in facts["reasons"].items():
            typer.echo(f"{cases} {reason}")
    return 0


def _free(name: str, chosen: Attack) -> str:
    """The threat without a budget of an attack that needs none."""
    if not chosen.minimal:
        raise RequestError(f"{name} spends a budget: give it one by --threat, such as {chosen.sets[0]}:EPSILON")
    return f"{chosen.sets[0]}:inf"


def _goal(goal: str, target: str | None) -> str:
    if target is None:
        return goal
    if goal != "untargeted":
        raise RequestError(f"--target {target} is short for --goal targeted:{target}, and --goal {goal} was given too")
    return f"targeted:{target}"


def _keep(path: Path, examples: Examples, outcome: Outcome) -> None:
    from safetensors.torch import save

    from mohs.store.faults import write_durably

    arrays = {
        "x": examples.x,
        "y": examples.y,
        "ids": examples.ids,
        "adversarial": outcome.adversarial,
        "broken": outcome.broken,
    }
    arrays |= {"distance": outcome.distance, "label": outcome.label}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, save({name: value.contiguous() for name, value in arrays.items()}))

"""mohs audit"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mohs.cli import options

HELP = "How much can an adversary do to this model? Attacks it, judges every success, and reports."
EXAMPLE = (
    "Example: `mohs audit mypkg.models:resnet --data test.npz --threat linf:8/255 --threat l2:0.5 --require 'linf:8/255 >= 0.45'`"
)


def command(
    model: options.Model,
    data: options.Data,
    threat: options.Threats,
    profile: Annotated[str, typer.Option(help="`quick`, `standard`, `deep`, `scores`: `mohs attacks --profiles`.")] = "standard",
    attack: Annotated[
        list[str] | None,
        typer.Option(
            help="One more, after the profile's own: `pgd steps=500`, `foolbox:HopSkipJumpAttack`. As often as wanted.",
            show_default=False,
        ),
    ] = None,
    goal: options.Goal = "untargeted",
    knowledge: options.Knowledge = None,
    surrogate: Annotated[
        list[str] | None,
        typer.Option(
            help="A model of the adversary's own, attacked in place of MODEL, which judges once an example. As often as wanted.",
            show_default=False,
        ),
    ] = None,
    with_: options.With = None,
    certify: Annotated[
        bool, typer.Option("--certify", help="Prove what can be proved first: it is not attacked, and what is neither is listed.")
    ] = False,
    method: options.Method = "crown",
    seconds: options.Seconds = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    bounds: options.Bounds = "0,1",
    outputs: options.Outputs = "logits",
    device: options.Device = "cpu",
    rows: options.Rows = 128,
    compile: options.Compile = False,
    trust_pickle: options.TrustPickle = False,
    perceptual_model: options.PerceptualModel = None,
    autoencoder: options.Autoencoder = None,
    time: Annotated[str | None, typer.Option(help="The best verdict in so long: 90s, 10m, 2h.", show_default=False)] = None,
    saliency: Annotated[
        str | None,
        typer.Option(
            help="Draw in the report what answers hang on, clean and attacked: `gradient`, or `integrated-gradients` by Captum.",
            show_default=False,
        ),
    ] = None,
    require: Annotated[
        list[str] | None, typer.Option(help="`linf:8/255 >= 0.45`, on the estimate with undecided as broken.")
    ] = None,
    confident: Annotated[list[str] | None, typer.Option(help="The same, on the lower 95% bound.")] = None,
    policy: Annotated[
        Path | None, typer.Option(help="A TOML file with `require` and `confident` lists.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/<model>-<time> without it.", show_default=False)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan with its cost, and stop.")] = False,
    json: options.Json = False,
) -> int:
    from mohs.cli.running import carried_out, given
    from mohs.cli.show import finish, fresh, tell
    from mohs.jobs import make_job
    from mohs.report.policy import load_policy, parse_requirement
    from mohs.store.verdict import verdict_of

    lines, sure = load_policy(policy) if policy else ([], [])
    lines, sure = [*lines, *(require or [])], [*sure, *(confident or [])]
    knowledge = "transfer" if surrogate and knowledge is None else knowledge
    texts = [f"{text}+knowledge:{knowledge}" if knowledge else text for text in threat]
    for line in (*lines, *sure):
        parse_requirement(line, texts)
    chosen: dict[str, Any] = {
        "profile": profile,
        "attacks": attack or [],
        "defences": with_ or [],
        "certify": certify,
        "method": options.method_of(method, seconds),
        "goal": goal,
        "limit": limit,
        "seed": seed,
        "outputs": outputs,
        "device": device,
        "rows": rows,
    }
    chosen |= {
        "compile": compile,
        "trust_pickle": trust_pickle,
        "perceptual_model": perceptual_model,
        "autoencoder": autoencoder,
        "time": options.seconds_of(time),
        "saliency": saliency,
        "require": lines,
        "confident": sure,
    }
    chosen["bounds"] = options.bounds_of(bounds)
    work = make_job(model, data, threats=texts, surrogates=surrogate or [], **given(chosen))
    tell(work.findings)
    if dry_run:
        from mohs.cli.plan import show_plan

        show_plan(work, json)
        return 0
    folder = out or fresh(_slug(model))
    run = carried_out(work, folder)
    return finish(run, verdict_of(run), json, lines, sure)


def _slug(model: str) -> str:
    name = model.rsplit("/", 1)[-1]
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:40]

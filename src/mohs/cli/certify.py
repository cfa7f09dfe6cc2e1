"""mohs certify"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mohs.cli import options
from mohs.cli.smoothing import NAME, smoothing
from mohs.errors import RequestError

HELP = "Proofs that no input of a threat changes the class: the lower bound beside what attacks find."
EXAMPLE = "Example: `mohs certify model.pt2 --data test.npz --threat linf:2/255 --method crown`"
VOTES = "Votes under noise (--method smoothing)"


def command(
    model: options.Model,
    data: options.Data,
    threat: options.Threats,
    method: options.Method = "crown",
    seconds: options.Seconds = None,
    goal: options.Goal = "untargeted",
    limit: options.Limit = None,
    seed: options.Seed = 0,
    bounds: options.Bounds = "0,1",
    outputs: options.Outputs = "logits",
    device: options.Device = "cpu",
    rows: options.Rows = 128,
    trust_pickle: options.TrustPickle = False,
    sigma: Annotated[
        float | None,
        typer.Option(
            help="Standard deviation of the noise, in the units of the input.", show_default=False, rich_help_panel=VOTES
        ),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(
            help="`gaussian`, `laplace` or `uniform`; without it, laplace for l1, else gaussian.",
            show_default=False,
            rich_help_panel=VOTES,
        ),
    ] = None,
    samples: Annotated[int, typer.Option(help="Of an example, to estimate its radius.", min=1, rich_help_panel=VOTES)] = 100_000,
    selection: Annotated[
        int, typer.Option(help="Samples that choose the class, apart from the others.", rich_help_panel=VOTES)
    ] = 100,
    alpha: Annotated[
        float, typer.Option(help="Probability of a false certificate, of an example.", rich_help_panel=VOTES)
    ] = 0.001,
    at_radius: Annotated[
        float | None,
        typer.Option(
            help="Ask of this radius alone, the threat's, in as few samples as it takes.",
            show_default=False,
            rich_help_panel=VOTES,
        ),
    ] = None,
    denoiser: Annotated[
        str | None,
        typer.Option(
            help="A module put before the model: `package.module:factory`, a .pt2 file.",
            show_default=False,
            rich_help_panel=VOTES,
        ),
    ] = None,
    time: Annotated[str | None, typer.Option(help="What can be proved in so long: 90s, 10m, 2h.", show_default=False)] = None,
    require: Annotated[list[str] | None, typer.Option(help="`linf:8/255 >= 0.45`, on what is proved.")] = None,
    confident: Annotated[list[str] | None, typer.Option(help="The same, on the lower 95% bound.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/certify-<time> without it.", show_default=False)] = None,
    json: options.Json = False,
) -> int:
    from mohs.cli.running import carried_out, given
    from mohs.cli.show import finish, fresh, tell
    from mohs.jobs import make_job
    from mohs.report.policy import parse_requirement
    from mohs.report.proofs import summary
    from mohs.store.verdict import verdict_of

    for line in (*(require or []), *(confident or [])):
        parse_requirement(line, threat)
    votes: dict[str, Any] = {
        "sigma": sigma,
        "noise": noise,
        "samples": samples,
        "selection": selection,
        "alpha": alpha,
        "at_radius": at_radius,
        "denoiser": denoiser,
    }
    chosen: dict[str, Any] = {
        "goal": goal,
        "limit": limit,
        "seed": seed,
        "bounds": options.bounds_of(bounds),
        "outputs": outputs,
        "device": device,
        "rows": rows,
        "trust_pickle": trust_pickle,
        "time": options.seconds_of(time),
        "require": require or [],
        "confident": confident or [],
    }
    if method == NAME:
        if seconds is not None:
            raise RequestError(f"--seconds is for --method branch-and-bound: {NAME} takes a number of --samples")
        return smoothing(model, data, threat, votes, chosen, out, json)
    if sigma is not None:
        raise RequestError(f"--sigma is for --method {NAME}: the bounds of {method} know no noise")
    proofs = {"profile": "certify", "certify": True, "method": options.method_of(method, seconds, NAME)}
    work = make_job(model, data, threats=threat, **given({**proofs, **chosen}))
    tell(work.findings)
    folder = out or fresh("certify")
    run = carried_out(work, folder)
    return finish(run, verdict_of(run), json, require or [], confident or [], summary=summary)

"""mohs study"""

from __future__ import annotations

import json as json_module
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from mohs.cli import options

HELP = (
    "A question about models that takes more than one attack, or a picture: `difficulty`, `landscape`, `directions`, `regions`, "
    "`optimizers`, `pareto`. The study's own options are options here, behind the models."
)
EXAMPLE = (
    "Example: `mohs study difficulty model.pt2 --data test.npz --threat linf:8/255 --queries 1000 --surrogate substitute.pt2`"
)
EXTRA = {"allow_extra_args": True, "ignore_unknown_options": True}


def command(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            help="`difficulty`: what an adversary wants against what they see; `landscape`: the loss around the weights; "
            "`directions`: the loss around examples; `regions`: classes on a plane through three examples; `optimizers`: of the "
            "perturbation; `pareto`: robustness against accuracy.",
            show_default=False,
        ),
    ],
    models: Annotated[
        list[str],
        typer.Argument(
            help="`demo`, `package.module:factory`, or a .pt2, TorchScript or .onnx file; several where the study compares. With "
            "--train also networks by name, such as resnet20.",
            show_default=False,
        ),
    ],
    data: options.Data,
    surrogate: Annotated[
        list[str] | None, typer.Option(help="A model of the adversary's own. As often as wanted.", show_default=False)
    ] = None,
    train: Annotated[
        int | None,
        typer.Option(
            help="Epochs of standard training, from scratch, for every network that is given by its name; all alike.",
            min=1,
            show_default=False,
        ),
    ] = None,
    train_data: Annotated[
        str | None, typer.Option(help="What they are trained on; `digits:train` for digits.", show_default=False)
    ] = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    bounds: options.Bounds = "0,1",
    outputs: options.Outputs = "logits",
    device: options.Device = "cpu",
    rows: options.Rows = 128,
    trust_pickle: options.TrustPickle = False,
    out: Annotated[
        Path | None, typer.Option(help="The HTML page; runs/study-<name>-<time>.html without it.", show_default=False)
    ] = None,
    json: options.Json = False,
) -> int:
    from mohs import study as table
    from mohs.auditing import load, load_surrogate, make_request
    from mohs.cli.show import errors
    from mohs.data import load_data
    from mohs.models.contract import check_contract
    from mohs.report.study import summary, write_page
    from mohs.study.base import Subject
    from mohs.study.training import school_of

    kind = table.find(name)
    own_words = next((i for i, word in enumerate(models) if word.startswith("--")), len(models))
    models, words = models[:own_words], models[own_words:]
    made = kind.from_spec(dict(options.own([*words, *context.args])))
    said: dict[str, Any] = {"bounds": options.bounds_of(bounds), "outputs": outputs, "device": device, "rows": rows, "seed": seed}
    examples = load_data(data, limit=limit, seed=seed)
    request = make_request(models[0], data, [], {**said, "trust_pickle": trust_pickle})
    school = school_of(models, train, train_data or ("digits:train" if data.startswith("digits") else None), seed)
    with errors.status(name) as status:
        loaded = tuple(
            school.train(text, examples.x, status.update) if school and text in school.names else load(text, examples.x, request)
            for text in models
        )
        for subject in loaded:
            for finding in check_contract(subject, examples.x, examples.y):
                errors.print(f"[yellow]{subject.name}: {finding.severity}[/]: {finding.message}", highlight=False)
        own = tuple(load_surrogate(text, examples.x, request) for text in surrogate or [])
        first, *others = loaded
        found = made.on(Subject(first, examples, own, said, status.update, tuple(others))).plain()
    extra = {"limit": limit, "train": train, "train_data": train_data}
    now = datetime.now(UTC)
    about = {
        "name": name,
        "title": (kind.__doc__ or name).splitlines()[0],
        "model": ", ".join(model.name for model in loaded),
        "data": examples.name,
        "n": len(examples),
        "settings": made.spec(),
        "command": _command(name, models, data, made.spec(), surrogate or [], said | extra),
        "mohs": metadata.version("mohs"),
        "created": now.isoformat(timespec="seconds"),
    }
    page = write_page(found, about, out or Path("runs") / f"study-{name}-{now:%Y%m%d-%H%M%S-%f}.html")
    if json:
        typer.echo(json_module.dumps({**about, **found, "page": str(page)}, indent=1))
        return 0
    console = Console()
    console.print(summary(found))
    console.print(f"page: {page}", soft_wrap=True, highlight=False)
    return 0


def _command(
    name: str, models: list[str], data: str, spec: dict[str, object], surrogates: list[str], said: dict[str, Any]
) -> str:
    import shlex

    words = ["mohs", "study", name, *models, "--data", data]
    words += [word for text in surrogates for word in ("--surrogate", text)]
    for option, value in {**spec, **said}.items():
        if value not in (None, ""):
            words += [f"--{option.replace('_', '-')}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return shlex.join(words)

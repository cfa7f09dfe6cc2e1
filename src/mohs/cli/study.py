"""mohs study"""

from __future__ import annotations

import json as json_module
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from mohs.cli import options
from mohs.errors import RequestError

if TYPE_CHECKING:
    from mohs.study.base import Study
    from mohs.study.ways import Trains

HELP = (
    "A question that takes more than one attack, or a picture: `difficulty`, `holistic`, `directions`, `regions`, `optimizers`, "
    "`landscape`, `clever` and `pareto`, about models; `capacity`, `attention`, `activations` and `transfer`, which train "
    "networks of their own. The study's own options are options here, behind the models."
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
            help="`difficulty`: what an adversary wants against what they see; `holistic`: kinds of attack against it; "
            "`landscape`: the loss around the weights; `directions`: around examples; `regions`: classes on a plane through "
            "three examples; `optimizers`: of the perturbation; `clever`: an estimate between proof and attack; `pareto`: "
            "robustness against accuracy; `capacity`: widths and depths; `attention`: against convolution; `activations`: smooth "
            "ones; `transfer`: of robustness.",
            show_default=False,
        ),
    ],
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="`demo`, `package.module:factory`, or a .pt2, TorchScript or .onnx file; several where the study compares, none "
            "where it trains its own. With --train also networks by name, such as resnet20.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="`digits`, an .npz or .safetensors file (x, y), an image folder, a table; of a study that trains its own, what "
            "it trains on: the embedded digits without it.",
            show_default=False,
        ),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(help="Of a study that trains its own: what is attacked; a fifth of --data without it.", show_default=False),
    ] = None,
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
        Path | None,
        typer.Option(
            help="The HTML page; runs/study-<name>-<time>.html without it. Networks that a study trains stay in a folder, "
            "the page's name without its end, else runs/study-<name>: the same command goes on where it was stopped.",
            show_default=False,
        ),
    ] = None,
    json: options.Json = False,
) -> int:
    from mohs import study as table
    from mohs.cli.show import errors
    from mohs.report.study import summary, write_page
    from mohs.study.base import Study

    now = datetime.now(UTC)
    options.check_page(out)
    keep = out.with_suffix("") if out else Path("runs") / f"study-{name}"
    given = models or []
    own_words = next((i for i, word in enumerate(given) if word.startswith("--")), len(given))
    given, words = given[:own_words], [*given[own_words:], *context.args]
    kind = table.find(name)
    made = kind.from_spec(dict(options.own(words)))
    said: dict[str, Any] = {"bounds": options.bounds_of(bounds), "outputs": outputs, "device": device, "rows": rows, "seed": seed}
    schooling: dict[str, Any] = {"train": train, "train_data": train_data}
    with errors.status(name) as status:
        if isinstance(made, Study):
            if not given or data is None or test is not None:
                raise RequestError(f"the study {name} is of models: mohs study {name} MODEL --data DATA")
            found, of = _of_models(
                made, given, data, surrogate or [], limit, said, schooling | {"keep": keep}, trust_pickle, status.update
            )
        else:
            if given or surrogate or train is not None:
                raise RequestError(f"the study {name} trains its own networks: leave MODEL, --surrogate and --train out")
            found, of = _of_training(made, data, test, limit, said, status.update, keep)
    extra = {"limit": limit, "test": test, **schooling}
    about = {
        "name": name,
        "title": (kind.__doc__ or name).splitlines()[0],
        **of,
        "settings": made.spec(),
        "command": _command(name, given, data, made.spec(), surrogate or [], said | extra),
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


def _of_models(
    study: Study,
    models: list[str],
    data: str,
    surrogates: list[str],
    limit: int | None,
    said: dict[str, Any],
    schooling: dict[str, Any],
    trust_pickle: bool,
    say: Callable[[str], None],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The findings, and what they are of."""
    from mohs.cli.show import tell
    from mohs.data import load_data
    from mohs.models.contract import check_contract
    from mohs.request import make_request
    from mohs.study.base import Subject
    from mohs.study.seeds import studied
    from mohs.study.training import school_of
    from mohs.subjects import load, load_surrogate

    examples = load_data(data, limit=limit, seed=said["seed"], bounds=said["bounds"])
    request = make_request(models[0], data, [], {**said, "trust_pickle": trust_pickle})
    lessons = schooling["train_data"] or ("digits:train" if data.startswith("digits") else None)
    school = school_of(models, schooling["train"], lessons, schooling["keep"], said["bounds"])
    loaded = {text: load(text, examples.x, request) for text in models if school is None or text not in school.names}
    own = tuple(load_surrogate(text, examples.x, request) for text in surrogates)

    def subject(seed: int) -> Subject:
        drawn = load_data(data, limit=limit, seed=seed, bounds=said["bounds"])
        every = [loaded[text] if text in loaded else school.train(text, drawn.x, seed, say) for text in models]  # type: ignore[union-attr]
        for model in every if seed == said["seed"] else ():
            tell(check_contract(model, drawn.x, drawn.y), of=f"{model.name}: ")
        return Subject(every[0], drawn, own, said | {"seed": seed}, say, tuple(every[1:]))

    found = studied(study, subject, said["seed"]).plain()
    names = [loaded[text].name if text in loaded else text for text in models]
    return found, {"model": ", ".join(names), "data": examples.name, "n": len(examples)}


def _of_training(
    study: Trains,
    data: str | None,
    test: str | None,
    limit: int | None,
    said: dict[str, Any],
    say: Callable[[str], None],
    keep: Path,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The findings, and what they are of."""
    from mohs.study.ways import materials

    given = materials(data, test, limit=limit, options=said, say=say, keep=keep)
    found = study.run(given).plain()
    return found, {"model": "networks of its own", "data": given.test.name, "n": min(study.examples, len(given.test))}


def _command(
    name: str, models: list[str], data: str | None, spec: dict[str, object], surrogates: list[str], said: dict[str, Any]
) -> str:
    import shlex

    words = ["mohs", "study", name, *models, *(["--data", data] if data else [])]
    words += [word for text in surrogates for word in ("--surrogate", text)]
    for option, value in {**spec, **said}.items():
        if value not in (None, ""):
            words += [f"--{option.replace('_', '-')}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return shlex.join(words)

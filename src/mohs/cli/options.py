"""Options that several commands share."""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path
from typing import Annotated

import typer

from mohs.errors import RequestError, UnknownName

Model = Annotated[
    str,
    typer.Argument(help="`demo`, `package.module:factory`, or a .pt2, TorchScript or .onnx file.", show_default=False),
]
Data = Annotated[
    str,
    typer.Option("--data", help="`digits`, an .npz or .safetensors file (x, y), an image folder, a .csv or .parquet table."),
]
Threats = Annotated[
    list[str],
    typer.Option(
        "--threat",
        help="`linf:8/255`, `l2:0.5`, `l1:12`, `l0:20px`, `perceptual:0.5`, with `+quantise:8bit` and the like.",
        show_default=False,
    ),
]
Goal = Annotated[
    str,
    typer.Option(help="`untargeted`, `targeted:3`, `targeted:least-likely`, `source-target:3->5`, `confidence:0.5`, `topk:5`."),
]
Knowledge = Annotated[
    str | None, typer.Option(help="`gradient`, `scores`, `label`: what the adversary sees.", show_default=False)
]
Limit = Annotated[int | None, typer.Option(help="A seeded sample of so many examples.", show_default=False)]
Seed = Annotated[int, typer.Option(help="Of every random draw.")]
Bounds = Annotated[str, typer.Option(help="The range inputs live in: low,high. 8-bit data are brought to it.")]
Outputs = Annotated[str, typer.Option(help="What the model returns: `logits`, `probabilities` or `margin`.")]
Device = Annotated[str, typer.Option(help="`cpu` or `cuda`.")]
Rows = Annotated[int, typer.Option(help="Examples in one call of the model, at most.", min=1)]
Compile = Annotated[bool, typer.Option("--compile", help="torch.compile the guide; pays on long runs.")]
TrustPickle = Annotated[bool, typer.Option("--trust-pickle", help="Load files that can run code when loaded.")]
Method = Annotated[
    str,
    typer.Option(
        help="Of certificates: `interval`, `crown`, `alpha-crown`, `branch-and-bound`, and `mohs certify` alone `smoothing`; "
        "slower proves more."
    ),
]
Seconds = Annotated[
    float | None,
    typer.Option(help="Of branch and bound: processor time that an example may take.", min=0.001, show_default="10"),
]
PerceptualModel = Annotated[
    str | None,
    typer.Option(
        help="Whose eyes the threat `perceptual` is measured by, in place of MODEL's own: another MODEL, or `lpips:FILE`.",
        show_default=False,
    ),
]
Autoencoder = Annotated[
    str | None,
    typer.Option(
        help="Whose latents the threat `manifold` moves, `package.module:factory`; without it, one is fitted to the data.",
        show_default=False,
    ),
]
Total = Annotated[int | None, typer.Option(help="That all may cost, retries included.", min=1, show_default=False)]
Spend = Annotated[
    float | None, typer.Option(help="Money that all may cost, at the description's `price`.", min=0, show_default=False)
]
Rate = Annotated[str | None, typer.Option(help="Queries in so long, at most: `50/s`, `600/m`.", show_default=False)]
Authorised = Annotated[
    bool, typer.Option("--i-am-authorised", help="Whoever runs the endpoint has agreed; asked for unless it is this machine.")
]
With = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        help="A defence before the model: `jpeg:75`; `mohs defend` lists them. An input passes them in the order given.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on standard output.")]
Folder = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]


def bounds_of(text: str) -> tuple[float, float]:
    parts = text.split(",")
    try:
        low, high = (float(part) for part in parts)
    except ValueError:
        raise RequestError(f"--bounds should read low,high, such as 0,1; not {text!r}") from None
    if not low < high:
        raise RequestError(f"--bounds: {low:g} is not below {high:g}")
    return low, high


def check_page(out: Path | None, option: str = "--out", end: str = ".html") -> None:
    """Raise RequestError where no page, or picture, can be written under that name, before the work."""
    if out is not None and out.suffix != end:
        raise RequestError(f"{option} should end in {end}, not {out.name!r}")
    if out is not None and out.is_dir():
        raise RequestError(f"{option}: {out} is a folder; name a page in it, such as {out / f'page{end}'}")


def seconds_of(text: str | None) -> float | None:
    """`90s`, `10m`, `2h` in seconds."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if not found or float(found[1]) == 0:
        raise RequestError(f"--time should read 90s, 10m or 2h; not {text!r}")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def method_of(method: str, seconds: float | None, *beside: str) -> str:
    """A certificate's line of the name and the time an example may take. beside: methods that the command knows besides.
    UnknownName for a method there is not, RequestError for one that takes no time."""
    from mohs.certificates import METHODS, BranchAndBound

    name = method.partition(" ")[0]
    if name not in METHODS:
        raise UnknownName("method", name, [*METHODS, *beside])
    if seconds is None:
        return method
    if METHODS[name] is not BranchAndBound:
        raise RequestError(f"--seconds is for --method branch-and-bound: {name} takes as long as it takes; leave it out")
    return f"{method} seconds={seconds:g}"


def own(words: list[str]) -> dict[str, str]:
    """What a command does not know itself, `--step-size 0.1 --loss=dlr --decoupled`, as fields of an attack, recipe or the like;
    a name alone says yes."""
    found, left = dict[str, str](), deque(words)
    while left:
        name, equals, value = left.popleft().partition("=")
        if not re.fullmatch(r"--[A-Za-z][\w-]*", name):
            raise RequestError(
                f"cannot read {name!r} in {' '.join(words)!r}: options are given as --name value or --name=value, and what is "
                "to be switched on as --name alone"
            )
        if not equals:
            value = left.popleft() if left and not left[0].startswith("--") else "true"
        found[name[2:].replace("-", "_")] = value
    return found

"""Replay: a point made elsewhere, put to an example as it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mohs.attacks.base import Attack
from mohs.errors import RequestError
from mohs.models import Model
from mohs.oracle import Oracle
from mohs.threat import Goal, Knowledge, Threat

KEY = "point"  # of a .safetensors file


@dataclass(frozen=True, kw_only=True, eq=False)
class Replay(Attack):
    """The same change of every example, such as a universal perturbation, projected onto the threat's set around each, or a
    patch, at a random place in each: one query an example, the judge's.

    point: the change itself, [*input] or the pixels of the patch, or a .safetensors file that holds it as `point`, such as
    `mohs universal` writes. Nothing is searched for, so that it needs no knowledge of the model; a second try is its first, or
    puts a patch elsewhere.

    When to use: to judge a change that was made elsewhere, such as one of `mohs universal`, on examples it has not seen: one
    query each, and the only honest number of a universal perturbation. It searches for nothing, so its failure says nothing of
    what a search would find.

    >>> import torch
    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # z_0 - z_1 = 1 - 4 (x_1 - 0.5) - 3 (x_2 - 0.5)
    >>> change = torch.tensor([[[0.16, 0.13], [0.0, 0.0]]])
    >>> threats = ("linf:0.1", "linf:0.2")  # the change cut to 0.1, and whole
    >>> [bool(attacks.Replay(point=change)(model, x, y, threat=threat).broken) for threat in threats]
    [False, True]
    """

    point: str | Tensor = ""

    paper = "a made point, judged on other examples: Moosavi-Dezfooli et al., CVPR 2017, arXiv:1610.08401"
    knowledge = Knowledge.TRANSFER
    sets = (*Attack.sets, "patch")

    def passes(self, classes: int) -> tuple[int, int]:
        return 3, 0  # the judge's, in float64 too

    def check(self, threat: Threat, goal: Goal, model: Model) -> None:
        super().check(threat, goal, model)
        self.load()

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        change = self.load().to(x0)
        wanted = threat.change_shape(x0)
        if change.shape != wanted:
            raise RequestError(
                f"Replay: the point has shape {list(change.shape)}, and what {threat} changes of an example has {list(wanted)}; "
                "it was made for other data"
            )
        return threat.shared(change[None], x0, oracle.stream)

    def load(self) -> Tensor:
        """The point; RequestError where there is none."""
        if isinstance(self.point, Tensor):
            return self.point
        return load_point(self.point)


def load_point(path: str) -> Tensor:
    """The tensor `point` of a .safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path:
        raise RequestError("Replay needs a point: give it by --point FILE.safetensors, such as `mohs universal --out` writes")
    if not Path(path).is_file():
        raise RequestError(f"Replay: the file {path} does not exist; `mohs universal ... --out uap.png` writes uap.safetensors")
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RequestError(f"Replay: {path} cannot be read as safetensors: {error}") from error
    if KEY not in stored:
        raise RequestError(f"Replay: {path} holds {', '.join(stored) or 'nothing'}; expected a tensor named {KEY}")
    point = stored[KEY].float()
    if not bool(point.isfinite().all()):
        raise RequestError(f"Replay: the point in {path} holds NaN or infinity")
    return point

"""An estimate of the distance to the nearest wrong input, between what is proved and what an attack finds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mohs.aim import Aim
from mohs.attacks import FMN
from mohs.certificates.certificate import Crown
from mohs.certificates.clever import DUAL, Scores, clever_points
from mohs.certificates.graph import network_of
from mohs.data import Examples
from mohs.errors import MohsError, Refused, RequestError
from mohs.models import Prepared, TorchModel, prepare
from mohs.report.words import number, percent, plural
from mohs.study.base import Claim, Findings, Line, Lines, Study, Subject, Table
from mohs.study.evidence import mostly, ranked
from mohs.threat import Knowledge, parse_threat

Distances = NDArray[np.float64]
FLOOR = 1 / 64  # of the attack's median: the least radius that is tried for a proof
FARTHER = 1.1  # times as far as the nearest success an input is wrong behind stairs, too


class Stairs(nn.Module):
    """A network behind rounding to so many levels: the same answers nearly everywhere, and no gradient."""

    def __init__(self, network: nn.Module, levels: int) -> None:
        super().__init__()
        self.network, self.levels = network, levels

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x * self.levels).round() / self.levels)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Measured:
    """Of one model and n examples that it gets right, [n] each: the largest radius tried that is proved (None where no bound
    covers the network), CLEVER, whether its fit stands, and the nearest success; masked: CLEVER behind stairs, and beyond: the
    distance of an input that is wrong there."""

    name: str
    proved: Distances | None
    estimate: Distances
    fitted: NDArray[np.bool_]
    attacked: Distances
    masked: Distances
    beyond: Distances

    def facts(self) -> dict[str, Any]:
        columns = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return {"model": self.name, **{name: value.tolist() for name, value in columns.items()}}


@dataclass(frozen=True, kw_only=True)
class Clever(Study):
    """Where between certificate and attack does CLEVER lie?

    Of every example the largest radius that CROWN proves, the estimate of the least distance by Weng et al., ICLR 2018,
    arXiv:1801.10578, and the nearest success of an attack, FMN. Then the estimate of the same network behind rounding, whose
    gradient is zero: Goodfellow, arXiv:1804.07870.

    norm: linf, l2 or l1. attacked: examples, the first that every model gets right. radii: that are tried for a proof, from a
    64th of the attack's median distance up to its largest, equally spaced in the logarithm. batches, samples: of gradients, an
    example and class; classes: the likeliest others, which are looked at (500, 1,024 and all in the paper); two batches behind
    the rounding, where all gradients are 0. levels: of the rounding. steps: of the attack.
    """

    norm: str = "l2"
    attacked: int = 50
    radii: int = 16
    batches: int = 50
    samples: int = 128
    classes: int = 3
    levels: int = 255
    steps: int = 200

    several = True

    def check(self) -> None:
        if self.norm not in DUAL:
            raise RequestError(f"CLEVER has no norm {self.norm!r}; it has {', '.join(DUAL)}")
        if min(self.batches, self.radii) < 2:
            raise RequestError(f"batches and radii should be 2 or more, not {self.batches} and {self.radii}")

    def run(self, subject: Subject) -> Findings:
        ready = list[tuple[TorchModel, Prepared]]()
        for model in subject.models:
            if model.gives < Knowledge.GRADIENT or not isinstance(model, TorchModel):
                raise Refused(f"CLEVER is made of gradients, and {model.name} gives {model.gives}")
            if model.random:
                raise Refused(f"{model.name} answers at random, and CLEVER is made of the gradients of one function")
            ready.append((model, prepare(model, subject.data.x, rows=subject.rows)))
        data, notes, found = subject.common(subject.rightly([p for _, p in ready]), self.attacked), list[str](), []
        for model, prepared in ready:
            subject.say(f"attack, proof and estimate of {model.name}")
            found.append(self._measured(model, prepared, data, subject, notes))
        return _findings(found, self, notes)

    def _measured(self, model: TorchModel, prepared: Prepared, data: Examples, subject: Subject, notes: list[str]) -> Measured:
        threat = parse_threat(f"{self.norm}:inf").facing(model)
        outcome = FMN(steps=self.steps)(prepared, data.x, data.y, threat=threat, seed=subject.seed)
        scores = self._scores(prepared, data, subject.seed)
        nearest = np.where(scores.classes >= 0, scores.bound, np.inf).argmin(1)
        masked = prepare(model.twin(Stairs(model.module, self.levels)), data.x, rows=subject.rows, accelerate=False)
        farther = (data.x + FARTHER * (outcome.adversarial - data.x)).clamp(*model.bounds)
        wrong = masked.judge.reference(farther.to(model.device)).argmax(1).cpu() != data.y
        beyond = threat.distance(farther, data.x).double().where(wrong & outcome.broken, torch.inf)
        attacked = outcome.distance.double()
        if missed := int((~outcome.broken).sum()):
            notes.append(f"{model.name}: nothing was found for {missed} of {len(data)}, which the means and claims leave out")
        return Measured(
            name=model.name,
            proved=self._proved(model, data, attacked, notes),
            estimate=scores.score,
            fitted=scores.fitted[np.arange(len(data)), nearest],
            attacked=attacked.cpu().numpy(),
            masked=self._scores(masked, data, subject.seed, batches=2).score,
            beyond=beyond.cpu().numpy(),
        )

    def _scores(self, prepared: Prepared, data: Examples, seed: int, batches: int | None = None) -> Scores:
        return clever_points(
            prepared, data.x, data.y, norm=self.norm, batches=batches or self.batches, per_batch=self.samples,
            top=min(self.classes, prepared.judge.model.classes - 1), seed=seed, ids=data.ids,
        )  # fmt: skip

    def _proved(self, model: TorchModel, data: Examples, attacked: Tensor, notes: list[str]) -> Distances | None:
        """0 where none of the radii is proved."""
        found = attacked[attacked.isfinite()]
        if len(found) == 0:
            return None
        try:
            network, method = network_of(model, data.x.to(model.device)), Crown()
        except MohsError as error:
            notes.append(f"{model.name}: nothing is proved, since {error}")
            return None
        proved = torch.zeros(len(data), dtype=torch.float64)
        for radius in np.geomspace(FLOOR * float(found.median()), float(found.max()), self.radii).tolist():
            threat = parse_threat(f"{self.norm}:{radius!r}").facing(model)
            least = method.prove(network, threat, data.x.to(model.device), Aim(data.y.to(model.device))).least.cpu()
            if not (least > 0).any():
                break
            proved[least > 0] = radius
        return proved.numpy()


def _findings(found: Sequence[Measured], study: Clever, notes: Sequence[str]) -> Findings:
    n = len(found[0].estimate)
    return Findings(
        words=(
            f"The distance in {study.norm} to the nearest wrong input of {plural(n, 'example')} that are told right. The largest "
            f"of {study.radii} radii that CROWN proves lies below it, the success of an attack (FMN, {study.steps} steps) above. "
            f"CLEVER estimates it from gradients at {study.batches} times {study.samples} points around each, for the "
            f"{plural(study.classes, 'likeliest other class', 'likeliest other classes')}. The estimate is no bound. Claims on "
            "shares of examples are decided by the 95% Wilson interval against a half, that on ranks by the permutation test of "
            "Spearman's correlation."
        ),
        table=Table(
            ("model", "proved", "CLEVER", "attack", "CLEVER over attack", "fits that stand", "CLEVER, gradients masked"),
            tuple(_row(m) for m in found),
        ),
        figures=tuple(_figure(m, study.norm) for m in found),
        claims=tuple(claim for m in found for claim in _claims(m)),
        notes=tuple(notes),
        facts=tuple(m.facts() for m in found),
    )


def _row(m: Measured) -> tuple[str, ...]:
    """Means over the examples for which the attack found something."""
    known = np.isfinite(m.attacked)
    stand = percent(float(m.fitted.mean()))
    if not known.any():
        return (m.name, *["nothing found"] * 4, stand, "nothing found")

    def mean(column: Distances) -> str:
        return number(float(column[known].mean()))

    return (
        m.name,
        "not covered" if m.proved is None else mean(m.proved),
        mean(m.estimate),
        mean(m.attacked),
        number(float(np.median((m.estimate / m.attacked)[known]))),
        stand,
        mean(m.masked),
    )


def _claims(m: Measured) -> Iterator[Claim]:
    known = np.isfinite(m.attacked)
    yield Claim(
        f"{m.name}: CLEVER lies below what an attack finds",
        *mostly(int((m.estimate < m.attacked)[known].sum()), int(known.sum())),
    )
    if m.proved is not None:
        yield Claim(f"{m.name}: CLEVER lies above what is proved", *mostly(int((m.estimate > m.proved).sum()), len(m.proved)))
    yield Claim(
        f"{m.name}: where CLEVER is larger, so is the distance that an attack finds",
        *ranked(m.estimate[known].tolist(), m.attacked[known].tolist()),
    )
    beyond = np.isfinite(m.beyond)
    yield Claim(
        f"{m.name}: with its gradient masked, CLEVER lies above the distance of an input that is wrong",
        *mostly(int((m.masked > m.beyond)[beyond].sum()), int(beyond.sum())),
    )


def _figure(m: Measured, norm: str) -> Lines:
    order = np.argsort(m.attacked)
    columns = {"attack": m.attacked, "CLEVER": m.estimate, **({} if m.proved is None else {"proved": m.proved})}
    across = tuple(float(i) for i in range(1, len(order) + 1))
    lines = (Line(name, across, tuple(column[order].tolist())) for name, column in columns.items())
    return Lines(f"{m.name}: {norm} distances", "examples, by the attack's distance", f"{norm} distance", tuple(lines))

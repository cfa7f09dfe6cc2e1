"""The whole picture: kinds of attack against how far the adversary reaches."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from mohs.errors import RequestError
from mohs.report.words import count
from mohs.study.base import Claim, Findings, Grid, Study, Subject, Table
from mohs.study.difficulty import ACCESS, RULE, Cell, added, falls, pursued
from mohs.threat import parse_threat

MISSING = (
    "not among the rows, since mohs has no attack of these kinds: poisoning of training data, backdoors, membership inference, "
    "changes of the model's file; of extraction it has `mohs substitute`"
)


@dataclass(frozen=True, kw_only=True)
class Holistic(Study):
    """Which kind of attack works from how far away?

    Every kind of change (of all pixels, of a few, of place, of a patch) is looked for by every adversary (who sees gradients,
    scores, labels, or only models of their own), each by the battery that mohs has for it: `quick`, the attack of `mohs probe`
    within `queries`, the transfer of `mohs audit --surrogate`. The goal is any wrong class.

    threats: a kind of attack each, as of `--threat`. queries: that an example may cost.
    """

    threats: tuple[str, ...] = ("linf:0.1", "l2:0.8", "l1:4", "l0:4px", "rotation:30deg+translation:1px", "patch:3x3")
    queries: int = 300

    def check(self) -> None:
        for text in self.threats:
            if parse_threat(text).epsilon == torch.inf or "+knowledge:" in text:
                raise RequestError(f"the study needs a budget and sets the access itself; not {text!r}")

    def run(self, subject: Subject) -> Findings:
        kinds = list(dict.fromkeys(self.threats))
        grid = [[self._cell(subject, text, access) for access in ACCESS] for text in kinds]
        columns = tuple(f"{access} only" if access == "transfer" else access for access in ACCESS)
        texts = tuple(tuple(str(cell) for cell in row) for row in grid)
        said = [f"not measured, {cell.goal} by {cell.access}: {cell.refused}" for row in grid for cell in row if cell.refused]
        return Findings(
            words=(
                "The success of an adversary, of the examples that the model gets right, and the median cost of a success: of "
                f"forward passes by gradients, of queries else, {count(self.queries)} at most. All shares are lower bounds: "
                f"another attack may find more. The budgets of two rows do not compare. {RULE}"
            ),
            table=Table(("kind", *columns), tuple((text, *row) for text, row in zip(kinds, texts, strict=True))),
            figures=(
                Grid("Share of success", tuple(kinds), columns, tuple(tuple(cell.rate for cell in row) for row in grid), texts),
            ),
            claims=(Claim("The further an adversary reaches, the more succeeds, for every kind of attack", *falls(grid)),),
            notes=(*dict.fromkeys(said), MISSING),
            facts=tuple({"kind": cell.goal, **cell.facts()} for row in grid for cell in row),
        )

    def _cell(self, subject: Subject, threat: str, access: str) -> Cell:
        subject.say(f"{threat} by {access}")
        cell = Cell(threat, access)
        if access == "transfer" and not subject.surrogates:
            return replace(cell, refused="no surrogate was given: --surrogate FILE, which `mohs substitute` makes")
        try:
            return added(cell, pursued(subject, threat, "untargeted", subject.data, access, self.queries))
        except RequestError as error:
            return replace(cell, refused=str(error))

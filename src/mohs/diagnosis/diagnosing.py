"""Is an evaluation of this model to be believed?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mohs.data import Examples, load_data
from mohs.diagnosis.battery import SIGNS
from mohs.diagnosis.bench import Bench
from mohs.diagnosis.remedies import Remedy, mend
from mohs.diagnosis.searches import naive
from mohs.diagnosis.sign import Found, Grade, Sign
from mohs.errors import DataError, RequestError, UnknownName
from mohs.models import Model, prepare
from mohs.models.contract import check_contract
from mohs.report.diagnosis import sentence, write_page
from mohs.request import make_request
from mohs.subjects import load
from mohs.taxonomy import DIAGNOSIS
from mohs.threat import Knowledge, NormThreat, Threat, parse_threat

LIMIT = 64
FEWEST = 16  # examples below which shares mean little
SETS = ("linf", "l2")  # in l1 plain PGD is too weak to doubt a model by its failure


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What was found. n: examples looked at, all of which the model gets right. clean: its accuracy on those drawn to find them.
    standing: the share of the n that PGD of 20 steps on the cross-entropy leaves, the evaluation that is doubted; None where
    there is no gradient."""

    model: str
    data: str
    threat: str
    n: int
    seed: int
    clean: float
    standing: float | None
    found: list[Found]
    forwards: int
    backwards: int
    seconds: float
    remedies: list[Remedy] = field(default_factory=list)

    @property
    def grade(self) -> Grade:
        """The worst of all signs."""
        return max((f.grade for f in self.found), key=[Grade.SKIPPED, Grade.PASS, Grade.WARN, Grade.FAIL].index)

    def of(self, name: str) -> Found:
        """What was found of a sign."""
        return next(f for f in self.found if f.sign.name == name)

    def facts(self) -> dict[str, Any]:
        """Everything, as JSON knows it."""
        return {
            "grade": str(self.grade),
            "model": self.model,
            "data": self.data,
            "threat": self.threat,
            "n": self.n,
            "seed": self.seed,
            "clean_accuracy": self.clean,
            "standing": self.standing,
            "signs": [_facts(f) for f in self.found],
            "remedies": [asdict(remedy) for remedy in self.remedies],
            "forwards": self.forwards,
            "backwards": self.backwards,
            "seconds": round(self.seconds, 2),
            "taxonomy": DIAGNOSIS.facts(),
            "mohs": metadata.version("mohs"),
        }

    def report(self, path: str | Path) -> Path:
        """Write one HTML page that opens offline."""
        return write_page(self.facts(), path)

    def __str__(self) -> str:
        return sentence(self.facts())


def diagnose(
    model: str | Model | nn.Module,
    data: str | tuple[Tensor, Tensor] | Examples,
    *,
    threat: str | Threat,
    surrogate: str | Model | nn.Module | None = None,
    signs: Sequence[str] | None = None,
    fix: bool = False,
    limit: int = LIMIT,
    seed: int = 0,
    watch: Callable[[str], None] | None = None,
    **options: Any,
) -> Diagnosis:
    """Look for every sign that an evaluation of a model at a threat is not to be believed.

    model, data: as `mohs.audit` takes them; `limit` examples that the model gets right are drawn under `seed`. threat: `linf`
    or `l2` with a budget. surrogate: another model, such as the one without its defence, whose adversarial examples are tried.
    signs: look for these alone. fix: run the remedies. watch: told the name of each sign before it is looked for. options:
    bounds, outputs, device, trust_pickle. Raises RequestError where the request is wrong, among it a model that breaks its
    contract.
    """
    started = time.perf_counter()
    parsed = parse_threat(threat) if isinstance(threat, str) else threat
    if not isinstance(parsed, NormThreat) or parsed.name not in SETS or not 0 < parsed.epsilon < torch.inf:
        raise RequestError(f"a diagnosis is of {' and '.join(SETS)} with a budget, such as linf:8/255; the threat is {parsed}")
    if parsed.knowledge < Knowledge.GRADIENT:
        raise RequestError(f"a diagnosis doubts attacks that know the model, and the threat {parsed} grants {parsed.knowledge}")
    if limit < FEWEST:
        raise RequestError(f"of {limit} examples a share means little: give a limit of {FEWEST} or more")
    wanted = _named(signs)
    request = make_request(model, data, [str(threat)], {"seed": seed, **options})
    examples = data if isinstance(data, Examples) else load_data(data, bounds=request.bounds)
    subject = load(model, examples.x, request)
    declared = subject.random
    findings = check_contract(subject, examples.x, examples.y)
    parsed = parsed.facing(subject)
    parsed.check(examples.x)
    x, y, clean = _right(subject, examples, limit, seed)
    bench = Bench(
        model=subject,
        prepared=prepare(subject, x[:8]),
        x=x,
        y=y,
        threat=parsed,
        findings=findings,
        declared=declared,
        surrogate=None if surrogate is None else prepare(load(surrogate, x, request), x[:8]),
        seed=seed,
    )
    found = []
    for sign in wanted:
        if watch:
            watch(sign.name)
        found.append(Found(sign, sign.look(bench)))
    if fix and watch:
        watch("remedies")
    remedies = mend(bench, found) if fix else []
    standing = float((~naive(bench)).double().mean()) if bench.graded else None
    return Diagnosis(
        model=subject.name,
        data=examples.name,
        threat=str(threat),
        n=len(x),
        seed=seed,
        clean=clean,
        standing=standing,
        found=found,
        forwards=bench.forwards,
        backwards=bench.backwards,
        seconds=time.perf_counter() - started,
        remedies=remedies,
    )


def _named(names: Sequence[str] | None) -> list[Sign]:
    """The signs of these names, in the order of the battery; all of them without."""
    known = {sign.name for sign in SIGNS}
    for name in names or ():
        if name not in known:
            raise UnknownName("sign", name, known)
    return [sign for sign in SIGNS if not names or sign.name in names]


@torch.no_grad()
def _right(model: Model, examples: Examples, limit: int, seed: int) -> tuple[Tensor, Tensor, float]:
    """`limit` examples that the model gets right, and its accuracy on those looked at to find them."""
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))
    kept: list[Tensor] = []
    seen = right = 0
    for rows in order.split(limit):
        answer = model.logits(examples.x[rows].to(model.device)).argmax(1).cpu()
        kept.append(rows[answer == examples.y[rows]])
        seen, right = seen + len(rows), right + len(kept[-1])
        if right >= limit:
            break
    if right < FEWEST:
        told = f"the model gets {right} of {seen} examples right, and a diagnosis needs {FEWEST}"
        raise DataError(f"{told}: give it more data, or the data it was trained for")
    chosen = torch.cat(kept)[:limit].sort().values
    return examples.x[chosen], examples.y[chosen], right / seen


def _facts(f: Found) -> dict[str, Any]:
    sign, evidence = f.sign, f.evidence
    return {
        "name": sign.name,
        "question": sign.question,
        "grade": str(f.grade),
        "number": evidence.number,
        "warn": sign.warn,
        "fail": sign.fail,
        "evidence": evidence.said,
        "todo": sign.todo if f.grade in (Grade.WARN, Grade.FAIL) else "",
        "source": sign.source,
        "plot": None if evidence.plot is None else asdict(evidence.plot),
    }

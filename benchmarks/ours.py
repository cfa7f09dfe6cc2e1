"""One job of mohs on one case: prints seconds and what was found as JSON.

.venv/bin/python -m benchmarks.ours JOB CASE EPSILON N
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

import mohs
from benchmarks.cases import case, folder, zoo
from mohs.attacks import CW, PGD, DeepFool, Parsimonious, Square
from mohs.attacks.base import Attack


def timed(work: Callable[[], object]) -> tuple[float, object]:
    started = time.perf_counter()
    out = work()
    return time.perf_counter() - started, out


def pgd40(model: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> dict:
    """Every step run, preparing included, as the peers are timed."""
    seconds, outcome = timed(lambda: PGD(steps=40)(model, x, y, threat=mohs.Linf(epsilon), stop=False))
    return {"seconds": seconds, "broken": int(outcome.broken.sum()), "forwards": int(outcome.forwards.sum())}


def pgd40_compiled(model: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> dict:
    """The same on a compiled guide; the seconds of compiling beside it."""
    wrapped = mohs.models.as_model(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiling, prepared = timed(lambda: mohs.prepare(wrapped, x, compile=True))
        warming, _ = timed(lambda: PGD(steps=2)(prepared, x, y, threat=mohs.Linf(epsilon), stop=False))
        seconds, outcome = timed(lambda: PGD(steps=40)(prepared, x, y, threat=mohs.Linf(epsilon), stop=False))
    return {
        "seconds": seconds,
        "compile_seconds": compiling + warming,
        "broken": int(outcome.broken.sum()),
        "guide": prepared.guide.log,
    }


def overhead(model: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> dict:
    """PGD-40 on a prepared guide, and the same loop written out on the same guide, in turn."""
    prepared = mohs.prepare(mohs.models.as_model(model, x), x)
    module = prepared.guide.model.module

    def written_out() -> None:
        low, high = (x - epsilon).clamp(min=0), (x + epsilon).clamp(max=1)
        z = torch.clamp(x + (2 * torch.rand_like(x) - 1) * epsilon, low, high)
        for _ in range(40):
            z.requires_grad_()
            (g,) = torch.autograd.grad(functional.cross_entropy(module(z), y, reduction="sum"), z)
            z = torch.clamp(z.detach() + epsilon / 10 * g.sign(), low, high)

    ratios, ours, theirs = [], [], []
    for _ in range(5):
        b, _ = timed(written_out)
        a, _ = timed(lambda: PGD(steps=40)(prepared, x, y, threat=mohs.Linf(epsilon), stop=False))
        ours.append(a), theirs.append(b), ratios.append(a / b)
    return {"ratio": sorted(ratios)[2], "seconds": sorted(ours)[2], "written_out": sorted(theirs)[2], "ratios": ratios}


def stopping(model: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> dict:
    """PGD-100 stopping when broken, against the full run times the share of steps needed."""
    prepared = mohs.prepare(mohs.models.as_model(model, x), x)
    attack, threat = PGD(steps=100), mohs.Linf(epsilon)
    attack(prepared, x, y, threat=threat)
    ratios = []
    for _ in range(5):
        full, _ = timed(lambda: attack(prepared, x, y, threat=threat, stop=False))
        short, outcome = timed(lambda: attack(prepared, x, y, threat=threat))
        ratios.append(short / (full * float(outcome.forwards.double().mean()) / 100))
    return {"ratio": sorted(ratios)[2], "ratios": ratios, "mean_steps": float(outcome.forwards.double().mean())}


def audit(profile: str) -> Callable[..., dict]:
    def job(model: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> dict:
        """The whole audit; then its passes run bare on the guide, which is what no engine can save."""
        seconds, result = timed(lambda: mohs.audit(model, (x, y), threats=[mohs.Linf(epsilon)], profile=profile))
        threat = result.verdict.threats[0]
        forwards = sum(s.forwards for s in threat.stages)
        backwards = sum(s.backwards for s in threat.stages)
        prepared = mohs.prepare(mohs.models.as_model(model, x), x)
        module = prepared.guide.model.module

        def forward() -> None:
            with torch.no_grad():
                module(x)

        def both() -> None:
            z = x.clone().requires_grad_()
            torch.autograd.grad(functional.cross_entropy(module(z), y, reduction="sum"), z)

        forward(), both()
        f = sorted(timed(forward)[0] for _ in range(9))[4] / len(x)
        fb = sorted(timed(both)[0] for _ in range(9))[4] / len(x)
        bare = (forwards - backwards) * f + backwards * fb
        stages = {
            s.name: {
                "tried": s.tried,
                "broken": s.broken,
                "seconds": round(s.seconds, 3),
                "forwards": s.forwards,
                "backwards": s.backwards,
            }
            for s in threat.stages
        }
        return {
            "seconds": seconds,
            "bare_seconds": bare,
            "over_bare": seconds / bare,
            "broken": threat.boundary,
            "undecided": threat.score.undecided,
            "robust": threat.score.low,
            "stages": stages,
            "profile": result.verdict.profile,
        }

    return job


def by_scores(attack: Attack) -> Callable[..., dict]:
    def job(model: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> dict:
        """An attack of 5,000 queries by scores alone; queries to the first success, 5,000 where there is none."""
        prepared = mohs.prepare(mohs.models.as_model(model, x), x)
        threat = mohs.Linf(epsilon, knowledge=mohs.Knowledge.SCORES)
        seconds, outcome = timed(lambda: attack(prepared, x, y, threat=threat))
        needed = outcome.queries_to_success
        within = outcome.broken & (needed <= 5000)
        charged = torch.where(within, needed, 5000).double()
        return {
            "seconds": seconds,
            "broken": int(within.sum()),
            "n": len(x),
            "queries": float(charged.mean()),
            "median_queries": float(charged.median()),
        }

    return job


def memory(model: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> dict:
    """Peak resident memory of a `quick` audit of the first n examples, wrong ones included."""
    result = mohs.audit(model, (x, y), threats=[mohs.Linf(epsilon)], profile="quick")
    peak, worker = (resource.getrusage(who).ru_maxrss * 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "peak": peak,
        "peak_of_a_worker": worker,
        "data": x.numel() * 4,
        "robust": result.verdict.threats[0].score.low,
        "n": len(x),
    }


def truth(profile: str) -> Callable[..., dict]:
    def job(model: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> dict:
        """Robust accuracy of the first n test examples, wrong ones included."""
        seconds, result = timed(lambda: mohs.audit(model, (x, y), threats=[mohs.Linf(epsilon)], profile=profile))
        score = result.verdict.threats[0].score
        recheck = _recheck(model, x, y, epsilon, result)
        return {
            "seconds": seconds,
            "robust": score.robust,
            "undecided": score.undecided,
            "n": score.n,
            "clean": result.clean_accuracy,
            **recheck,
        }

    return job


def _recheck(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, result) -> dict:
    """Set, box and label of every stored success inside epsilon, with nothing of mohs but the file."""
    checked, failed = 0, 0
    for stored in result.run.examples():
        ids, adversarial = torch.from_numpy(stored["ids"]), torch.from_numpy(stored["adversarial"])
        distance = (adversarial.double() - x[ids].double()).abs().flatten(1).amax(1)
        inside = distance <= epsilon + 2**-23
        with torch.no_grad():
            broken = model(adversarial).argmax(1) != y[ids]
        good = (adversarial >= 0).flatten(1).all(1) & (adversarial <= 1).flatten(1).all(1) & broken
        checked += int(inside.sum())
        failed += int((inside & ~good).sum())
    return {"rechecked": checked, "recheck_failed": failed}


def curve(model: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> dict:
    """The curve of every norm against `quick` at six epsilons each, where 10, 25, 40, 55, 70 and 85% of the distances lie; the
    epsilon given is not used."""
    norms = ["linf", "l2", "l1", "l0"]
    seconds, found = timed(lambda: mohs.curve(model, (x, y), norms=norms))
    report: dict = {"seconds": seconds, "norms": {}}
    for norm in norms:
        far = found.distances[norm]
        places = [float(far[(far > 0) & far.isfinite()].quantile(q / 100)) for q in (10, 25, 40, 55, 70, 85)]
        spent, result = timed(
            lambda norm=norm, places=places: mohs.audit(
                model, (x, y), threats=[f"{norm}:{place!r}" for place in places], profile="quick"
            )
        )
        rows = []
        for place, threat in zip(places, result.verdict.threats, strict=True):
            broken = torch.from_numpy(threat.status[threat.ids.argsort()] == "broken")
            late = int((broken & (far > 1.02 * place)).sum())
            rows.append(
                {"epsilon": place, "curve": found.robust_accuracy(norm, place), "quick": threat.score.low, "late": late / len(x)}
            )
        report["norms"][norm] = {"seconds_of_quick": spent, "at": rows}
    every = [row for norm in report["norms"].values() for row in norm["at"]]
    worst = {
        "worst_over_quick": max(row["curve"] - row["quick"] for row in every),
        "worst_late": max(row["late"] for row in every),
    }
    return report | worst


def nearest(make: Callable[[], Attack]) -> Callable[..., dict]:
    def job(model: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> dict:
        """The median L2 distance of an attack without a budget, preparing included; the epsilon given is not used."""
        seconds, outcome = timed(lambda: make()(model, x, y, threat="l2:inf"))
        median = float(outcome.distance.median())
        return {"seconds": seconds, "broken": int(outcome.broken.sum()), "n": len(x), "median": median}

    return job


def hurried(profile: str) -> Callable[..., dict]:
    def job(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, time: str) -> dict:
        """An audit that is given so many seconds."""
        seconds, result = timed(
            lambda: mohs.audit(model, (x, y), threats=[mohs.Linf(epsilon)], profile=profile, time=float(time))
        )
        threat = result.verdict.threats[0]
        return {"given": float(time), "seconds": seconds, "broken": threat.boundary, "undecided": threat.score.undecided}

    return job


def hard(model: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> dict:
    """`deep` on the images of mnist_cnn_a_adv that an exact solver broke at 0.3 and 10 x 100 steps of PGD do not."""
    truth = json.loads((folder() / "ground_truth.json").read_text())
    rows = torch.tensor(truth["bab_attack"]["mnist_cnn_a_adv"]["unsafe"])
    cases = zoo()
    x, y = (part[rows] for part in cases.data(cases.load("mnist_cnn_a_adv")[1]))
    seconds, result = timed(lambda: mohs.audit(model, (x, y), threats=[mohs.Linf(0.3)], profile="deep"))
    threat = result.verdict.threats[0]
    return {
        "seconds": seconds,
        "broken": threat.boundary,
        "n": len(x),
        "by": {stage.name: stage.broken for stage in threat.stages if stage.broken},
    }


JOBS = {
    "cw": nearest(lambda: CW(search_steps=5, steps=200)),
    "deepfool": nearest(DeepFool),
    "hard": hard,
    "deep": audit("deep"),
    "deep-hurried": hurried("deep"),
    "pgd40": pgd40,
    "pgd40-compiled": pgd40_compiled,
    "overhead": overhead,
    "stopping": stopping,
    "standard": audit("standard"),
    "quick": audit("quick"),
    "curve": curve,
    "memory": memory,
    "square": by_scores(Square(queries=5000)),
    "square-rescaled": by_scores(Square(queries=5000, rescale_schedule=True)),
    "parsimonious": by_scores(Parsimonious(queries=5000)),
    "parsimonious-coarse": by_scores(Parsimonious(queries=5000, start=0.5)),
    "truth-quick": truth("quick"),
    "truth-standard": truth("standard"),
}


def main(job: str, name: str, epsilon: str, n: str, *more: str) -> None:
    torch.manual_seed(0)
    correct = not job.startswith(("truth", "memory", "curve"))
    model, x, y = case(name, int(n), correct)
    print(json.dumps(JOBS[job](model, x, y, float(epsilon), *more)))


if __name__ == "__main__":
    zoo()
    main(*sys.argv[1:])

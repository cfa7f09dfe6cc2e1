"""Numbers and sentences, as the reports print them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mohs.store.verdict import Score, ThreatVerdict, Verdict

SEES = {
    "gradient": "knows the model and its gradients",
    "scores": "sees the model's scores",
    "label": "sees only the predicted class",
    "transfer": "never asks the model",
}

COLUMNS = {
    "id": "position of the example in its source",
    "y": "true label",
    "threat": "index into the plan's threats; -1 in the clean stage",
    "goal": "index into the plan's goals",
    "target": "the class the goal wants, -1 where it wants none",
    "stage": "index into the threat's stages; -1 in the clean stage",
    "attack": "name of the stage",
    "status": "broken, survived or proved are evidence; inapplicable, undecided and error are not",
    "reason": "why, where the status needs one",
    "distance": "of the success, in the threat's units; inf without one",
    "margin": "of the goal: above 0 where it is reached",
    "label": "the model's answer at the success; in the clean stage, on the untouched input",
    "hits": "confirmations of a success",
    "trials": "attempts to confirm it: several for a random model",
    "queries": "forward passes that the example cost",
    "queries_to_success": "of these, up to the first success; -1 without one",
    "forwards": "forward passes",
    "backwards": "backward passes",
    "seconds": "share of the unit's time",
}

SALIENCY = {
    "gradient": "the gradient of that class's score (Simonyan, Vedaldi, Zisserman, 2014)",
    "integrated-gradients": "integrated gradients of that class's score (Sundararajan, Taly, Yan, 2017), with Captum",
}


def percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1%}"


def score(value: Score) -> str:
    """`42.2%`, or `42.2% to 45.3%` where examples are undecided."""
    if not value.n:
        return "no example"
    return percent(value.low) if not value.undecided else f"{percent(value.low)} to {percent(value.high)}"


def interval(value: Score, between: str = ", ") -> str:
    low, high = value.interval
    return f"{100 * low:.1f}{between}{100 * high:.1f}"


def spent(threat: ThreatVerdict) -> str:
    """`linf:0.3 cost 1,204,100 passes in 2 min: anneal-flip 61% on 20 examples, fab-t x5 25% on 20, ...`, the dearest stages."""
    passes = {stage: stage.forwards + stage.backwards for stage in threat.stages}
    every, seconds = sum(passes.values()), sum(stage.seconds for stage in threat.stages)
    dearest = sorted((stage for stage in threat.stages if passes[stage]), key=lambda stage: -passes[stage])[:3]
    shares = ", ".join(f"{stage.name} {percent(passes[stage] / every)} on {count(stage.tried)} examples" for stage in dearest)
    return f"{threat.text} cost {count(every)} passes in {cost(seconds)}" + (f": {shares}" if shares else "")


def count(value: int) -> str:
    return f"{value:,}"


def plural(value: int, thing: str, things: str | None = None) -> str:
    return f"{count(value)} {thing if value == 1 else things or thing + 's'}"


def cost(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{seconds / 3600:.1f} h"


def number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "∞"


def distance(value: float, text: str) -> str:
    """A distance in the words of its threat: in 255ths where the budget was."""
    scale, unit = units(text)
    return f"{number(value * scale)}{unit}"


def units(text: str) -> tuple[float, str]:
    """What multiplies an epsilon to read like the threat's text, and what follows it: (255, "/255") of linf:8/255."""
    budget = text.partition("+")[0].partition(":")[2].strip()
    fraction = re.fullmatch(r"[\d.]+\s*/\s*(\d+)", budget)
    if fraction and int(fraction[1]) > 0:
        return float(fraction[1]), f"/{fraction[1]}"
    return 1.0, " px" if budget.endswith("px") else ""


def class_name(label: int, names: Sequence[str] | None) -> str:
    if label < 0:
        return "–"
    return str(names[label]) if names is not None and label < len(names) else str(label)


def goals(texts: Sequence[str]) -> str:
    return ", ".join("any class but the true one" if text == "untargeted" else text for text in texts)


def stage_options(specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """`apgd: steps 100, loss cross_entropy`, an attack a line."""
    named = [(spec.get("attack") or spec.get("method", "?"), spec) for spec in specs]
    return [
        f"{name}: " + ", ".join(f"{key} {value}" for key, value in spec.items() if key not in ("attack", "method"))
        if len(spec) > 1
        else str(name)
        for name, spec in named
    ]


def weakest(verdict: Verdict) -> int:
    """The threat that the model withstands least: where the headline is."""
    lows = [threat.score.low if threat.score.n else math.inf for threat in verdict.threats]
    return lows.index(min(lows))


def headline(verdict: Verdict) -> str:
    """The verdict in one sentence, about the threat that the model withstands least."""
    at = weakest(verdict)
    threat, plan = verdict.threats[at], verdict.run.spec["plan"]
    untargeted = plan["goals"] == ["untargeted"]
    if not threat.score.n:
        return "The goal applies to none of these examples: nothing was measured."
    standing = threat.score.n - threat.natural
    if standing == 0:
        return "This model gets none of these examples right: there is nothing left to attack."
    proofs = threat.certified
    if proofs is not None and all(stage.kind == "prove" for stage in threat.stages):
        share = percent(proofs.robust / standing)
        what = f"{threat.stages[0].name} proves {share} of the examples this model gets right safe"
        return f"At {threat.text} {what}: robust accuracy {sentence(threat.score)} under {verdict.profile}."
    share = percent(threat.boundary / standing)
    least = "at least " if threat.score.undecided else ""
    who = f"an adversary who {SEES.get(plan['threats'][at]['knowledge'], 'attacks it')}"
    what = f"breaks {least}{share} of the examples this model gets right"
    if not untargeted:
        what = f"reaches the goal in {least}{share} of the cases where it is not reached already"
    if math.isinf(threat.epsilon):
        return f"With no limit on the change ({threat.text}), {who} {what} under {verdict.profile}{_half(threat)}."
    return f"At {threat.text} {who} {what}: robust accuracy {sentence(threat.score)} under {verdict.profile}."


def sentence(value: Score) -> str:
    """`42.2% [33.9, 50.9]`."""
    return f"{score(value)} [{interval(value)}]"


def _half(threat: ThreatVerdict) -> str:
    least = sorted(threat.distance.tolist())[: (threat.score.n + 1) // 2]
    if len(least) < (threat.score.n + 1) // 2 or math.isinf(least[-1]):
        return ""
    return f"; half of all cases break within {distance(least[-1], threat.text)}"

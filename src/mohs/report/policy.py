"""What a model must reach: `linf:8/255 >= 0.45`, `clean > 90%`.

`--require` tests the point estimate with every undecided example counted as broken, `--confident` the lower bound of the
95% interval.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from mohs.errors import RequestError, UnknownName
from mohs.store.verdict import CONFIDENCE, Score

SAMPLE = "linf:8/255 >= 0.45"
EXAMPLES = f"examples: {SAMPLE!r}, 'l2:0.5 > 30%', 'clean >= 0.9'"
_FORM = re.compile(r"(?P<name>[^<>=]+?)\s*(?P<sign>>=|>)\s*(?P<bound>\d*\.?\d+)\s*(?P<percent>%?)")


@dataclass(frozen=True)
class Requirement:
    """One line of a policy and whether it is met. value, bound: proportions of examples; value is nan without examples."""

    text: str
    met: bool
    value: float
    bound: float


class Clause(NamedTuple):
    """A parsed line. name: a threat or `clean`; strict: > rather than >=."""

    name: str
    strict: bool
    bound: float


class Policy(NamedTuple):
    """The lines of a policy file."""

    require: list[str]
    confident: list[str]


def parse_requirement(text: str, threats: Iterable[str] | None = None) -> Clause:
    """`NAME >= BOUND` or `NAME > BOUND`, the bound as 0.45 or 45%; RequestError shows examples.

    threats: those of the audit, so that a line about another is an UnknownName before any work is done.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise RequestError(f"the requirement {text!r} does not read NAME >= NUMBER or NAME > NUMBER; {EXAMPLES}")
    bound = Fraction(found["bound"]) / (100 if found["percent"] else 1)  # exact, then rounded once, as a proportion is
    if bound > 1:
        hint = f"write {found['bound']}% for a percentage; " if not found["percent"] and bound <= 100 else ""
        raise RequestError(f"the requirement {text!r} asks for more than every example; {hint}{EXAMPLES}")
    if threats is not None:
        _find(found["name"], ("clean", *threats))
    return Clause(found["name"], found["sign"] == ">", float(bound))


def check(requirements: list[str], confident: list[str], scores: Mapping[str, Score]) -> list[Requirement]:
    """Hold scores, by threat and `clean`, against a policy, line by line; UnknownName where a line names another."""
    lines = [_check(text, scores, sure=False) for text in requirements]
    return lines + [_check(text, scores, sure=True) for text in confident]


def _check(text: str, scores: Mapping[str, Score], sure: bool) -> Requirement:
    clause = parse_requirement(text)
    score = scores[_find(clause.name, scores)]
    value = (score.interval[0] if sure else score.low) if score.n else math.nan
    met = value > clause.bound if clause.strict else value >= clause.bound
    return Requirement(f"{text} ({CONFIDENCE:.0%} confidence)" if sure else text, met, value, clause.bound)


def _find(name: str, known: Iterable[str]) -> str:
    """The name among those known that means the same."""
    known = list(known)
    for candidate in known:
        if _key(candidate) == _key(name):
            return candidate
    raise UnknownName("threat of this audit", name, known)


def _key(text: str) -> tuple[str, ...]:
    """A threat however it is spelled: 8/255 is 0.0313725, and constraints come in any order."""
    first, *rest = (part.strip() for part in text.split("+"))
    name, _, value = first.partition(":")
    try:
        value = f"{float(Fraction(value.replace(' ', ''))):.6g}"
    except (ValueError, ZeroDivisionError):
        value = value.strip()
    return (name.strip(), value, *sorted(rest))


def load_policy(path: str | Path) -> Policy:
    """A TOML file with the lists `require` and `confident`, either or both; every line is parsed."""
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"the policy {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise RequestError(f"the policy {path} is not TOML: {error}") from None
    for key, lines in content.items():
        if key not in Policy._fields:
            raise UnknownName(f"key in the policy {path}:", key, Policy._fields)
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise RequestError(f"the policy {path}: `{key}` must be a list of texts, such as {key} = [{SAMPLE!r}]")
    policy = Policy(content.get("require", []), content.get("confident", []))
    if not policy.require and not policy.confident:
        raise RequestError(f"the policy {path} requires nothing; give it a line such as require = [{SAMPLE!r}]")
    for line in policy.require + policy.confident:
        parse_requirement(line)
    return policy

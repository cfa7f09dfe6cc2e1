"""Policies: what is asked of a model, and whether it is met."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from mohs.errors import RequestError, UnknownName
from mohs.report import Requirement, check, junit_xml, load_policy, parse_requirement
from mohs.report.policy import Clause
from mohs.store.verdict import Verdict, verdict_of, wilson
from tests.hand_made import EVIL, make_run, row, spec, threat


@pytest.fixture
def verdict(tmp_path: Path) -> Verdict:
    """Of 20 examples 19 are right and 9 robust at linf:8/255, 2 of the others undecided; nothing is known of l2:0.5."""
    rows = [row(i, -1, "broken" if i == 19 else "survived") for i in range(20)]
    for i in range(19):
        rows += [row(i, 0, "survived" if i < 9 else "broken" if i < 17 else "error", reason="crashed")]
        rows += [row(i, 1, "survived")] if i < 9 else []
    threats = [threat("linf:8/255", 8 / 255), threat("l2:0.5+quantise:8bit+mask:m.npy", 0.5)]
    rows = [r if r["status"] != "broken" or r["stage"] < 0 else {**r, "distance": 0.01} for r in rows]
    return verdict_of(make_run(tmp_path / "run", spec(20, threats), rows))


@pytest.mark.parametrize(
    ("text", "clause"),
    [
        ("linf:8/255 >= 0.45", Clause("linf:8/255", False, 0.45)),
        ("linf:8/255>=45%", Clause("linf:8/255", False, 0.45)),
        ("  clean > .9 ", Clause("clean", True, 0.9)),
        ("l2:0.5+quantise:8bit > 33.3%", Clause("l2:0.5+quantise:8bit", True, 0.333)),
        ("linf: 8 / 255 >= 1", Clause("linf: 8 / 255", False, 1.0)),
        ("clean >= 0", Clause("clean", False, 0.0)),
    ],
)
def test_requirements_parse(text: str, clause: Clause) -> None:
    assert parse_requirement(text) == clause


@pytest.mark.parametrize(
    "text", ["", "linf:8/255", "linf:8/255 = 0.4", "linf:8/255 < 0.4", ">= 0.4", "clean >= x", "clean >= -1", "a >= 1 >= 0"]
)
def test_what_is_no_requirement_is_refused_with_examples(text: str) -> None:
    with pytest.raises(RequestError, match=r"does not read NAME >= NUMBER.*examples: 'linf:8/255 >= 0\.45'"):
        parse_requirement(text)


def test_a_bound_above_one_is_taken_for_a_forgotten_percent_sign() -> None:
    with pytest.raises(RequestError, match="more than every example; write 45% for a percentage"):
        parse_requirement("clean >= 45")
    with pytest.raises(RequestError, match="more than every example; examples"):
        parse_requirement("clean >= 101%")


@pytest.mark.parametrize(
    ("text", "met", "value"),
    [
        ("linf:8/255 >= 0.45", True, 9 / 20),  # exactly; the two undecided count as broken
        ("linf:8/255 >= 45%", True, 9 / 20),
        ("linf:8/255 > 0.45", False, 9 / 20),
        ("linf:8/255 >= 0.451", False, 9 / 20),
        ("linf:0.0313725 >= 0.4", True, 9 / 20),
        ("clean >= 95%", True, 19 / 20),
        ("clean > 95%", False, 19 / 20),
        ("l2:1/2+mask:m.npy+quantise:8bit >= 0", True, 0.0),
    ],
)
def test_require_tests_the_low_end(verdict: Verdict, text: str, met: bool, value: float) -> None:
    (found,) = check([text], [], verdict.scores)
    assert (found.text, found.met, found.value) == (text, met, value)
    assert found.bound == parse_requirement(text).bound


def test_confident_tests_the_lower_bound(verdict: Verdict) -> None:
    low = wilson(9, 20)[0]
    lenient, strict = check([], ["linf:8/255 >= 25%", "linf:8/255 >= 0.45"], verdict.scores)
    assert lenient.value == strict.value == low
    assert (lenient.met, strict.met) == (True, False)
    assert strict.text == "linf:8/255 >= 0.45 (95% confidence)"


def test_nothing_is_met_without_an_example(tmp_path: Path) -> None:
    verdict = verdict_of(make_run(tmp_path / "run", spec(1), [row(0, -1, "inapplicable")]))
    found = check(["linf:0.1 >= 0"], ["linf:0.1 >= 0"], verdict.scores)
    assert [f.met for f in found] == [False, False]
    assert all(math.isnan(f.value) for f in found)
    assert "no example it could be measured on" in junit_xml(verdict, found)


def test_an_unknown_threat_names_the_nearest(verdict: Verdict) -> None:
    with pytest.raises(UnknownName, match=r"'linf:4/255'; did you mean 'linf:8/255'"):
        check(["linf:4/255 >= 0.4"], [], verdict.scores)


def test_a_line_can_be_held_against_the_threats_before_any_work() -> None:
    assert parse_requirement("linf:0.1 >= 0.4", ["linf:1/10"]).name == "linf:0.1"
    assert parse_requirement("clean >= 0.4", []).name == "clean"
    with pytest.raises(UnknownName, match=r"'l2:0.4'; did you mean 'l2:0.5'"):
        parse_requirement("l2:0.4 >= 0.4", ["linf:0.1", "l2:0.5"])


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_policy_file_holds_both_lists(tmp_path: Path) -> None:
    policy = load_policy(write(tmp_path / "p.toml", "require = ['clean >= 0.9', 'linf:0.1 > 30%']\nconfident = ['clean > 0.8']"))
    assert policy.require == ["clean >= 0.9", "linf:0.1 > 30%"]
    assert policy.confident == ["clean > 0.8"]
    assert load_policy(write(tmp_path / "p.toml", "confident = ['clean > 0.8']")).require == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("require = [", "is not TOML"),
        ("requires = ['clean > 0.8']", "did you mean 'require'"),
        ("require = 'clean > 0.8'", "must be a list of texts, such as require = "),
        ("require = [0.8]", "must be a list of texts"),
        ("", "requires nothing"),
        ("require = ['clean']", "does not read NAME >= NUMBER"),
    ],
)
def test_a_bad_policy_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        load_policy(write(tmp_path / "p.toml", text))


def test_a_missing_policy_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="No such file"):
        load_policy(tmp_path / "none.toml")


def test_junit_has_a_case_a_requirement_with_the_numbers(verdict: Verdict) -> None:
    requirements = check(["linf:8/255 >= 0.45", "clean >= 99%"], ["linf:8/255 >= 0.45"], verdict.scores)
    suite = ET.fromstring(junit_xml(verdict, requirements).encode()).find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "2", "0")
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases] == [r.text for r in requirements]
    failures = [case.find("failure") for case in cases]
    assert failures[0] is None
    assert failures[1] is not None
    assert failures[1].get("message") == "clean >= 99%: not met, it is 0.9500, 0.9900 is asked"
    assert str(verdict.threats[0].score) in str(failures[1].text)
    assert "profile standard 1.0, n = 20" in str(failures[1].text)
    properties = {p.get("name"): p.get("value") for p in suite.iter("property")}
    assert properties == {"profile": "standard 1.0", "n": "20", "run": "run"}


def test_junit_escapes_what_it_is_told(tmp_path: Path) -> None:
    what = spec(1, [threat(EVIL, 0.1)], model={"name": EVIL + "\x00"})
    verdict = verdict_of(make_run(tmp_path / "run", what, [row(0, -1, "survived")]))
    suite = ET.fromstring(junit_xml(verdict, [Requirement(EVIL + "\x1b", False, 0.1, 0.2)]).encode())[0]
    assert suite.get("name") == f"mohs audit {EVIL}\ufffd"
    assert [case.get("name") for case in suite.iter("testcase")] == [EVIL + "\ufffd"]
    assert EVIL in str(next(suite.iter("failure")).text)

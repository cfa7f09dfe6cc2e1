"""Taxonomy: everything mohs has stands in it, by identifiers that are in the tables, and the report groups by them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mohs import attacks, detectors, taxonomy
from mohs.attacks.universal.craft import TABLE as CRAFTS
from mohs.defend import table as defences
from mohs.report import write_report
from mohs.taxonomy import ATLAS, NIST, Place
from mohs.train import MODIFIERS, RECIPES
from tests.hand_made import EVIL, make_run, row, spec, stage, threat
from tests.test_cli import Mohs, command_line

PLACES = {
    **taxonomy.ATTACKS,
    **taxonomy.CRAFTS,
    **taxonomy.DEFENCES,
    **taxonomy.DETECTORS,
    **taxonomy.RECIPES,
    **taxonomy.CERTIFICATES,
    "diagnose": taxonomy.DIAGNOSIS,
    "substitute": taxonomy.EXTRACTION,
}


def test_every_attack_and_nothing_else_has_a_place() -> None:
    assert set(taxonomy.ATTACKS) == set(attacks.TABLE), "add the attack to the tables of mohs.taxonomy"
    assert set(taxonomy.CRAFTS) == set(CRAFTS), "add the craft to the tables of mohs.taxonomy"


def test_every_defence_has_a_place() -> None:
    assert set(taxonomy.DEFENCES) - {"guard", "ensemble"} == set(defences.TABLE), "add the defence to mohs.taxonomy"
    assert set(taxonomy.DETECTORS) == set(detectors.METHODS), "add the detector to mohs.taxonomy"
    hardening = {name for name in RECIPES if name != "standard"} | {f"+{name}" for name in MODIFIERS}
    assert set(taxonomy.RECIPES) == hardening, "add the recipe to mohs.taxonomy"


def test_the_pipeline_names_every_class_of_attack_once() -> None:
    named = [code for codes in taxonomy.PIPELINE.values() for code in codes]
    leaves = {code for code in NIST if code.startswith("NISTAML") and code not in taxonomy.PARENTS}
    assert sorted(named) == sorted(leaves)


def test_an_attack_stands_where_its_needs_are() -> None:
    """What asks for gradients of the model is white-box, what asks for less is black-box."""
    for name, place in taxonomy.ATTACKS.items():
        if name == "replay" or "AML.T0043.002" in place.atlas:
            continue
        seeing = str(attacks.find(name).knowledge) == "gradient"
        assert ("NISTAML.022" in place.nist) == seeing, name
        assert ("AML.T0043.000" in place.atlas) == seeing, name


@pytest.mark.parametrize("name", sorted(PLACES))
def test_places_name_identifiers_of_the_tables(name: str) -> None:
    place = PLACES[name]
    assert place.nist
    assert place.atlas
    assert place.ir8269
    assert set(place.nist) <= set(NIST)
    assert set(place.atlas) <= set(ATLAS)
    assert str(place)


def test_identifiers_are_well_formed() -> None:
    assert all(re.fullmatch(r"NISTAML\.\d{2,3}|\d\.\d\.\d( [a-z ]+)?", code) for code in NIST)
    assert all(re.fullmatch(r"AML\.[TM]\d{4}(\.\d{3})?", code) for code in ATLAS)
    assert all(any(code.startswith(parent) for parent in taxonomy.PARENTS) for code in NIST)


def test_the_module_loads_no_torch() -> None:
    code = "import sys, mohs.taxonomy; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_tree_says_what_is_covered_and_what_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mohs_: Mohs = command_line(monkeypatch, capsys)
    told = mohs_("taxonomy", "--json").json
    has = {row["id"]: row["mohs"] for rows in told.values() for row in rows}
    assert set(has) == {*NIST, *ATLAS}
    assert "pgd" in has["NISTAML.022"]
    assert "square" in has["AML.T0043.001"]
    assert has["2.2.5 randomized smoothing"] != []
    shown = mohs_("taxonomy")
    assert shown.code == 0
    for code, names in has.items():
        assert code in shown.out
        if not names and code not in taxonomy.PARENTS:
            assert re.search(rf"{re.escape(code)} .*: not covered", shown.out)


def test_the_report_groups_by_class(tmp_path: Path) -> None:
    stages = [stage("pgd"), stage("square"), stage("from elsewhere"), stage("fab", inapplicable="no gradient")]
    told = spec(4, [threat(stages=stages)], findings=[{"severity": "warning", "code": "gradient", "message": EVIL}])
    rows = [row(i, -1, "survived") for i in range(4)]
    rows += [row(0, 0, "broken", attack="pgd"), *(row(i, 0, "survived", attack="pgd") for i in (1, 2, 3))]
    rows += [row(i, 1, "broken" if i < 3 else "survived", attack="square") for i in (1, 2, 3)]
    rows += [row(3, 2, "survived", attack="from elsewhere")]
    from mohs.report.classes import groups
    from mohs.store.verdict import verdict_of

    run = make_run(tmp_path / "run", told, rows)
    found = {tuple(group["names"]): group for group in groups(verdict_of(run))}
    assert found[("pgd",)]["broken"] == 1
    assert found[("square",)]["broken"] == 2
    assert found[("from elsewhere",)]["nist"] == ["not classified"]
    assert found[("finding gradient",)]["broken"] is None
    assert not any("fab" in names for names in found)
    page = write_report(run, tmp_path / "report.html").read_text()
    section = page[page.index('<section id="taxonomy">') :].partition("</section>")[0]
    for text in ("NISTAML.022 Evasion", "NISTAML.025 Black-box evasion", "AML.T0043.001", "finding gradient"):
        assert text in section
    assert EVIL not in page


def test_findings_and_facts_are_json() -> None:
    assert json.dumps(taxonomy.of_finding("random").facts())
    assert taxonomy.of_finding("range") != taxonomy.of_finding("gradient")
    assert taxonomy.of_attack("from elsewhere") is None
    assert isinstance(taxonomy.of_attack("pgd"), Place)

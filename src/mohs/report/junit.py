"""A policy's outcome as JUnit XML, for CI: one test case a requirement."""

from __future__ import annotations

import math
from xml.etree import ElementTree as ET

from mohs.report.policy import Requirement
from mohs.store.verdict import Verdict


def junit_xml(verdict: Verdict, requirements: list[Requirement]) -> str:
    """A test suite named after the model; a requirement that is not met is a failure that says by how much."""
    spec = verdict.run.spec
    failures = sum(not requirement.met for requirement in requirements)
    counts = {"tests": str(len(requirements)), "failures": str(failures), "errors": "0"}
    root = ET.Element("testsuites", {"name": "mohs", **counts})
    suite = ET.SubElement(root, "testsuite", {"name": _legal(f"mohs audit {spec['model']['name']}"), **counts})
    if spec.get("created"):
        suite.set("timestamp", spec["created"])
    properties = ET.SubElement(suite, "properties")
    for name, value in (("profile", verdict.profile), ("n", verdict.clean.n), ("run", verdict.run.folder.name)):
        ET.SubElement(properties, "property", name=name, value=_legal(str(value)))
    for requirement in requirements:
        case = ET.SubElement(suite, "testcase", name=_legal(requirement.text), classname="mohs.policy")
        if not requirement.met:
            ET.SubElement(case, "failure", message=_legal(_short(requirement)), type="requirement").text = _facts(verdict)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _short(requirement: Requirement) -> str:
    if math.isnan(requirement.value):
        return f"{requirement.text}: not met, there is no example it could be measured on"
    return f"{requirement.text}: not met, it is {requirement.value:.4f}, {requirement.bound:.4f} is asked"


def _facts(verdict: Verdict) -> str:
    lines = [f"clean accuracy {verdict.clean}"]
    lines += [f"robust accuracy at {threat.text}: {threat.score}" for threat in verdict.threats]
    return _legal("\n".join([*lines, f"profile {verdict.profile}, n = {verdict.clean.n}"]))


def _legal(text: str) -> str:
    """Without the control characters that XML has no way to write."""
    return "".join(c if c in "\t\n" or c >= " " else "\ufffd" for c in text)

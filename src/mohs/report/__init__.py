"""Reports: pure readers of the store. Lazy, and without torch: a report of a finished run waits for nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mohs.report.html import write_report
    from mohs.report.junit import junit_xml
    from mohs.report.policy import Requirement, check, load_policy, parse_requirement
    from mohs.report.tables import as_json, table
    from mohs.report.terminal import summary

_HOME = {
    "Requirement": "policy",
    "as_json": "tables",
    "check": "policy",
    "junit_xml": "junit",
    "load_policy": "policy",
    "parse_requirement": "policy",
    "summary": "terminal",
    "table": "tables",
    "write_report": "html",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"mohs.report.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "Requirement",
    "as_json",
    "check",
    "junit_xml",
    "load_policy",
    "parse_requirement",
    "summary",
    "table",
    "write_report",
]

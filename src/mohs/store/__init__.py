"""Runs on disk: records, examples, events. No torch here: reports read runs and nothing else."""

from mohs.store.records import SCHEMA
from mohs.store.run import SCHEMA_VERSION, Run, Unit

__all__ = ["SCHEMA", "SCHEMA_VERSION", "Run", "Unit"]

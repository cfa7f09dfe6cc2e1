"""Records: one row an example, stage, threat and goal. Plain columns; reports read nothing else."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [
        ("id", pa.int64()),  # position of the example in its source
        ("y", pa.int32()),  # true label
        ("threat", pa.int16()),  # index into the plan's threats; -1 of the clean stage
        ("goal", pa.int16()),  # index into the plan's goals
        ("target", pa.int32()),  # the class the goal wants, -1 where it wants none
        ("stage", pa.int16()),  # index into the threat's stages; -1 of the clean stage
        ("attack", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("distance", pa.float64()),  # of the success, in the threat's units; inf without one
        ("margin", pa.float32()),  # of the goal at the success, else at the closest failure
        ("label", pa.int32()),  # the judge's answer at the success; at the origin in the clean stage
        ("hits", pa.int32()),
        ("trials", pa.int32()),
        ("queries", pa.int64()),
        ("queries_to_success", pa.int64()),
        ("forwards", pa.int64()),
        ("backwards", pa.int64()),
        ("seconds", pa.float64()),
    ]
)


def to_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def concat(tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables([SCHEMA.empty_table(), *tables])

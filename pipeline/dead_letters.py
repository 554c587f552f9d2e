"""Dead letters as rows of a topic: what was not applied, why, and the original bytes, encrypted if sensitive."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from connectors.secrets import Sealer
from pipeline.inputs import DeadLetter

SCHEMA = pa.schema(
    [
        ("stream", pa.string()), ("partition", pa.int32()), ("offset", pa.int64()), ("kind", pa.string()),
        ("cause", pa.string()), ("sealed", pa.bool_()), ("raw", pa.binary()),
    ]
)  # fmt: skip


def dead_topic(app: str) -> str:
    """Return the name of an app's topic of dead letters."""
    return f"{app}.dead"


def to_rows(letters: Iterable[DeadLetter], sensitive: set[str], sealer: Sealer | None) -> pa.RecordBatch:
    """Return letters as rows; those of streams in `sensitive` are encrypted.

    Raises:
        ValueError: a letter must be encrypted and there is no key.
    """
    columns: list[list[object]] = [[] for _ in SCHEMA]
    for letter in letters:
        sealed = letter.stream in sensitive
        if sealed and sealer is None:
            raise ValueError(
                f"a dead letter of {letter.stream!r} must be encrypted and there is no key; set PELTON_KEY"
            )
        raw = sealer.seal(letter.raw, letter.stream.encode()) if sealed and sealer is not None else letter.raw
        row = (letter.stream, letter.partition, letter.offset, letter.kind, letter.cause, sealed, raw)
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def from_rows(rows: pa.RecordBatch, sealer: Sealer | None) -> list[DeadLetter]:
    """Return the letters of rows; encrypted ones without a key have empty bytes."""
    letters = []
    for row in rows.to_pylist():
        raw = row["raw"]
        if row["sealed"]:
            raw = sealer.open(raw, row["stream"].encode()) if sealer is not None else b""
        letters.append(DeadLetter(row["stream"], row["partition"], row["offset"], row["kind"], row["cause"], raw))
    return letters

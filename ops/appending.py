"""Records of files into the topics of the embedded log, as a producer would have sent them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from connectors.files import Block, FileInput
from connectors.json_text import json_objects
from connectors.log import Log
from connectors.schema import Schema
from pipeline.app import App
from pipeline.live import create_topics

BATCH_ROWS = 8192  # records in one append: readers see them soon, and a commit costs little


class AppendError(ValueError):
    """Records cannot be appended as asked."""


def append_files(
    app: App,
    log: Log,
    inputs: Mapping[str, FileInput],
    rate: float | None,
    clock_ms: Callable[[], int],
    sleep: Callable[[float], None],
    step: Callable[[float, float, str], None],
) -> dict[str, tuple[int, int]]:
    """Append the records of all inputs to their topics, made where missing; sensitive streams are encrypted.

    Inputs take turns, a batch each. JSON records keep their bytes, broken ones too; other rows become JSON.

    Args:
        rate: records a second and stream; None for as fast as possible.
        clock_ms: milliseconds since the epoch, the append time.
        step: told bytes done, bytes in all, and a note.

    Returns:
        Stream -> how many records were appended, and where its topic ends now.

    Raises:
        AppendError: the rate is not above 0.
        LogError: the log cannot take them; what it says was appended before is there.
    """
    if rate is not None and not rate > 0:
        raise AppendError(f"rate is {rate}; choose a number above 0")
    create_topics(app, log)
    started_ms = clock_ms()
    appended = dict.fromkeys(inputs, 0)
    waiting = {name: _batches(source, rate) for name, source in inputs.items()}
    while waiting:
        for name in list(waiting):
            values = next(waiting[name], None)
            if values is None:
                del waiting[name]
                continue
            log.append(name, 0, values, clock_ms())
            appended[name] += len(values)
            done, total = (
                sum(getattr(each, what) for each in inputs.values()) for what in ("bytes_read", "bytes_total")
            )
            step(done, total, f"{sum(appended.values()):,} records")
        if rate is not None and waiting:
            due_ms = started_ms + max(appended[name] for name in waiting) / rate * 1000
            if (wait_ms := due_ms - clock_ms()) > 0:
                sleep(wait_ms / 1000)
    return {name: (count, log.end(name, 0)) for name, count in appended.items()}


def _batches(source: FileInput, rate: float | None) -> Iterator[pa.LargeBinaryArray]:
    """Yield records as JSON lines; with a rate, about ten batches a second."""
    rows = BATCH_ROWS if rate is None else max(1, min(BATCH_ROWS, int(rate / 10)))
    for block in source.blocks():
        lines = _as_json(source, block)
        for first in range(0, len(lines), rows):
            yield lines.slice(first, rows)


def _as_json(source: FileInput, block: Block) -> pa.LargeBinaryArray:
    if isinstance(block.content, pa.LargeBinaryArray) and block.header is None:
        return block.content
    chunk = source.decode_block(block)
    good = json_objects(_in_its_unit(chunk.decoded.rows, source.schema), end="\n").cast(pa.large_binary())
    if not chunk.decoded.bad:
        return good
    # What does not fit the schema goes as it is: it becomes a dead letter with its cause, not silence.
    values: list[bytes | None] = [None] * len(chunk)
    for index, value in zip(chunk.decoded.index.tolist(), good.to_pylist(), strict=True):
        values[index] = value
    for bad in chunk.decoded.bad:
        values[bad.index] = chunk.raw(bad.index)
    return pa.array(values, pa.large_binary())


def _in_its_unit(rows: pa.RecordBatch, schema: Schema) -> pa.RecordBatch:
    """Return rows whose time is as the schema says, not milliseconds."""
    if schema.time_unit == "ms":
        return rows
    times_ms = rows.column(schema.time)
    if schema.time_unit == "iso":
        times = pc.strftime(times_ms.cast(pa.timestamp("ms", "UTC")), "%Y-%m-%dT%H:%M:%SZ")
    elif schema.time_unit == "us":
        times = pc.multiply(times_ms, 1000)
    else:
        times = pc.divide(times_ms, 1000)
    return rows.set_column(rows.schema.names.index(schema.time), schema.time, times)

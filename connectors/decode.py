"""Bytes to columns: whole batches at once, and a bad record costs no more than a good one.

A record is judged by its own bytes alone, so the verdict does not depend on the batch it comes in.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from connectors import causes, checks
from connectors.checks import Findings
from connectors.columns import bool_array, plain_array, text_array, views_of
from connectors.errors import ConnectorError
from connectors.image_columns import broken_images
from connectors.records import BadRecord, Decoded, Records
from connectors.schema import Field, Schema
from connectors.times import broken_times_ms, whole_times_ms
from kernels import csv_scan
from kernels.cells import ABSENT, GOOD, HARD, QUOTED, WRONG_KIND, States, read_floats, read_integers, read_text
from kernels.iso_times import UNREADABLE_TIME, read_iso_times
from kernels.json_scan import Cells, scan_objects
from kernels.json_tokens import ESCAPED, FALSE, FLOAT, MISSING, NULL, TEXT, TOO_LONG, TRUE

RECORD_BYTES_MAX = 1 << 20
_CUTS_MAX = 50
SCANNED_MAX = 1 << 30  # bytes at once: places inside a block are int32

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class CsvHeader:
    """The columns of CSV lines, in their order, and the one character between cells."""

    columns: tuple[str, ...]
    delimiter: str = ","

    @classmethod
    def parse(cls, line: str, delimiter: str = ",") -> "CsvHeader":
        """Read the first line of a CSV file.

        Raises:
            ConnectorError: it is empty or names a column twice.
        """
        columns = tuple(name.strip() for name in next(csv.reader([line.rstrip("\r\n")], delimiter=delimiter), []))
        twice = sorted({name for name in columns if name and columns.count(name) > 1})
        if not any(columns) or twice:
            said = f"names {twice[0]!r} twice" if twice else "is empty"
            raise ConnectorError(f"the header of the CSV {said}; its first line must name each column once")
        return cls(columns, delimiter)


def decode(schema: Schema, records: Records, record_bytes_max: int = RECORD_BYTES_MAX) -> Decoded:
    """Decode records that are one JSON object each, with or without a newline at their end.

    Unknown keys are skipped, but must be JSON. A key given twice, NaN, a raw line break or a second object is invalid.

    Args:
        schema: what the records hold.
        records: what was read; records of 1 GiB together and more are decoded in parts.
        record_bytes_max: a longer record is invalid.

    Returns:
        Good rows as `schema.arrow`, and a cause for each bad record.
    """
    names = tuple(name.encode() for name in schema.names)

    def scan(data: Bytes, offsets: NDArray[np.int64]) -> Cells:
        return scan_objects(data, offsets, names, record_bytes_max)

    return _decode(schema, records.values, scan, record_bytes_max, columns=0)


def decode_csv(
    schema: Schema, header: CsvHeader, records: Records, record_bytes_max: int = RECORD_BYTES_MAX
) -> Decoded:
    """Decode records that are CSV lines. An empty cell without quotes is null; 1, 0, true and false are booleans.

    Args, Returns: as of `decode`; `header` names the columns, a field that it does not name is null everywhere.
    """
    places = {name: i for i, name in enumerate(schema.names)}
    fields = np.array([places.get(name, -1) for name in header.columns], np.int32)
    wants = np.array([_wanted(schema, field) for field in schema.fields], np.uint8)

    def scan(data: Bytes, offsets: NDArray[np.int64]) -> Cells:
        return csv_scan.scan_csv(data, offsets, fields, wants, record_bytes_max, header.delimiter.encode())

    return _decode(schema, records.values, scan, record_bytes_max, len(header.columns))


def select(schema: Schema, columns: list[pa.Array], findings: Findings, cause: Callable[[int], str]) -> Decoded:
    """Keep the rows without a problem, and ask for the cause of each other one."""
    rows = pa.RecordBatch.from_arrays(columns, schema=schema.arrow)
    images = broken_images(schema, columns, findings)
    good = findings.problems == checks.FINE
    if good.all():
        return Decoded(rows, np.arange(len(rows), dtype=np.int64))
    bad = [BadRecord(int(i), images.get(int(i)) or cause(int(i))) for i in np.flatnonzero(~good)]
    return Decoded(_without(rows, bad, good), np.flatnonzero(good), bad)


def _without(rows: pa.RecordBatch, bad: list[BadRecord], good: NDArray[np.bool_]) -> pa.RecordBatch:
    """Take the bad rows out."""
    if len(bad) > _CUTS_MAX:
        return rows.filter(pa.array(good))
    edges = [-1, *(each.index for each in bad), len(rows)]  # few cuts: whole runs are copied, four times as fast
    runs = [rows.slice(before + 1, behind - before - 1) for before, behind in pairwise(edges)]
    columns = [pa.concat_arrays(parts) for parts in zip(*(run.columns for run in runs), strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=rows.schema)


def _wanted(schema: Schema, field: Field) -> int:
    if field.name == schema.time:
        return csv_scan.WANTS_TEXT if schema.time_unit == "iso" else csv_scan.WANTS_NUMBER
    return {"string": csv_scan.WANTS_TEXT, "bool": csv_scan.WANTS_BOOL}.get(field.type, csv_scan.WANTS_NUMBER)


def _decode(
    schema: Schema,
    values: pa.LargeBinaryArray,
    scan: Callable[[Bytes, NDArray[np.int64]], Cells],
    record_bytes_max: int,
    columns: int,
) -> Decoded:
    offsets, data = views_of(values)
    first, size = int(offsets[0]), int(offsets[-1] - offsets[0])
    if size > SCANNED_MAX and len(values) > 1:
        half = len(values) // 2
        parts = (values[:half], values[half:])
        return joined([_decode(schema, part, scan, record_bytes_max, columns) for part in parts], half)
    if size > SCANNED_MAX:
        too_long = BadRecord(0, causes.unframed_cause(schema, TOO_LONG, 0, record_bytes_max))
        return Decoded(pa.RecordBatch.from_pylist([], schema.arrow), np.zeros(0, np.int64), [too_long])
    data = data[first : first + size]
    found = scan(data, offsets - first)
    findings = Findings(len(values))
    unframed = found.status != 0
    if unframed.any():
        findings.report(unframed, checks.UNFRAMED, 0)
        found.kinds[:, unframed] = MISSING

    def cause(i: int) -> str:
        if unframed[i]:
            return causes.unframed_cause(schema, int(found.status[i]), int(found.where[i]), record_bytes_max, columns)
        place = findings.fields[i]
        start, end, kind = found.starts[place, i], found.ends[place, i], int(found.kinds[place, i])
        text = bytes(data[start : min(end, start + 4 * causes.SHOWN_MAX)]).decode(errors="replace")
        shown = f'"{text}"' if kind in (TEXT, ESCAPED, QUOTED) else text
        return causes.field_cause(schema, schema.fields[place], int(findings.problems[i]), kind, shown)

    arrays = [_column(schema, place, data, found, findings) for place in range(len(schema.fields))]
    return select(schema, arrays, findings, cause)


def joined(parts: list[Decoded], shift: int) -> Decoded:
    """Put two halves of some records together; the second begins at record `shift`."""
    left, right = parts
    columns = [pa.concat_arrays(both) for both in zip(left.rows.columns, right.rows.columns, strict=True)]
    rows = pa.RecordBatch.from_arrays(columns, schema=left.rows.schema)
    bad = [*left.bad, *(BadRecord(each.index + shift, each.cause) for each in right.bad)]
    return Decoded(rows, np.concatenate([left.index, right.index + shift]), bad)


def _column(schema: Schema, place: int, data: Bytes, found: Cells, findings: Findings) -> pa.Array:
    """Convert one field of all records, and note what is wrong with it."""
    field = schema.fields[place]
    cells = (data, found.kinds[place], found.starts[place], found.ends[place])
    if field.name == schema.time:
        times_ms, states = _times(schema, place, cells, findings)
        valid = _good(schema, place, states, findings)
        findings.check_times(place, times_ms, valid)
        return plain_array(times_ms, valid)
    if field.type == "string":
        offsets, text, states = read_text(*cells)
        valid = _good(schema, place, states, findings)
        if field.name == schema.id:
            findings.check_id(place, np.diff(offsets), valid)
        return text_array(offsets, text, valid)
    if field.type == "bool":
        kinds = found.kinds[place]
        states = np.where(kinds <= NULL, ABSENT, np.where((kinds == TRUE) | (kinds == FALSE), GOOD, WRONG_KIND))
        return bool_array(kinds == TRUE, _good(schema, place, states.astype(np.uint8), findings))
    values, states = read_integers(*cells) if field.type == "int" else _floats(cells)
    valid = _good(schema, place, states, findings)
    findings.check_numbers(field, place, values)
    return plain_array(values, valid)


def _good(schema: Schema, place: int, states: States, findings: Findings) -> NDArray[np.bool_]:
    findings.report(states == WRONG_KIND, checks.WRONG_TYPE, place)
    valid = states == GOOD
    findings.check_present(schema, place, valid)
    return valid


def _floats(cells: tuple[Bytes, Bytes, NDArray[np.int32], NDArray[np.int32]]) -> tuple[NDArray[np.float64], States]:
    """Read numbers as float64, each correctly rounded."""
    data, _, starts, ends = cells
    values, states = read_floats(*cells)
    hard = np.flatnonzero(states == HARD)
    if hard.size:
        offsets, text, _ = read_text(data, np.full(hard.size, TEXT, np.uint8), starts[hard], ends[hard])
        written = text_array(offsets, text, np.ones(hard.size, np.bool_))
        try:
            values[hard] = written.cast(pa.float64()).to_numpy()
        except pa.ArrowInvalid:  # a form that Arrow does not read, such as +1.5
            values[hard] = [float(each) for each in written.to_pylist()]
        states[hard] = GOOD
    values += 0.0  # -0.0 becomes 0.0: they are equal, and shall have equal hashes
    return values, states


def _times(
    schema: Schema, place: int, cells: tuple[Bytes, Bytes, NDArray[np.int32], NDArray[np.int32]], findings: Findings
) -> tuple[NDArray[np.int64], States]:
    if schema.time_unit == "iso":
        offsets, text, states = read_text(*cells)
        times_ms = read_iso_times(offsets, text)
        unreadable = (times_ms == UNREADABLE_TIME) & (states == GOOD)
        findings.report(unreadable, checks.NOT_A_TIME, place)
        times_ms[unreadable | (states != GOOD)] = 0
        return times_ms, states
    whole, states = read_integers(*cells)
    times_ms = whole_times_ms(whole, schema.time_unit)
    if (states == WRONG_KIND).any():
        broken, states = _floats(cells)
        is_broken = cells[1] == FLOAT
        times_ms[is_broken] = broken_times_ms(broken[is_broken], schema.time_unit)
    return times_ms, states

"""Records in Avro or Protobuf, headed by the id of their schema in a registry, to columns.

Records of one schema are decoded together, whichever mix a batch brings; what a value must be is checked as for JSON.
"""

from collections import OrderedDict
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from connectors import causes, checks, wire_causes
from connectors.avro_plan import avro_plan
from connectors.checks import Findings
from connectors.columns import bool_array, plain_array, text_array, views_of
from connectors.decode import RECORD_BYTES_MAX, SCANNED_MAX, decode, joined, select
from connectors.protobuf_plan import protobuf_plan
from connectors.records import BadRecord, Decoded, Records
from connectors.schema import Schema
from connectors.schema_registry import NoSuchSchemaError, RegisteredSchema, SchemaRegistry
from connectors.times import broken_times_ms, whole_times_ms
from connectors.wire_plan import WirePlan, WireSchemaError
from kernels.cells import ABSENT, GOOD, WRONG_KIND, States
from kernels.iso_times import UNREADABLE_TIME, read_iso_times
from kernels.json_tokens import FALSE, FLOAT, INTEGER, MISSING, NULL, TEXT, TRUE
from kernels.wire import HARD_DECIMAL, NO_MAGIC, RECORD_TOO_LONG, STAMP, SYMBOL, Frames, read_frames, read_wire_text

_PLANS_KEPT = 1024
_KINDS = {"avro": "AVRO", "protobuf": "PROTOBUF"}

Bytes = NDArray[np.uint8]
Int64s = NDArray[np.int64]
Cell = tuple[Bytes, Bytes, NDArray[np.uint8], Int64s]  # data, names, and of one field kinds and values


class WireDecoder:
    """Decodes the records of one stream. Threads may share it.

    A schema is fetched when its id is first seen. Records whose schema is not registered, or does not fit the stream,
    are bad ones, with the id in the cause. A record that begins with "{" is decoded as JSON.
    """

    def __init__(
        self, schema: Schema, format: str, registry: SchemaRegistry, record_bytes_max: int = RECORD_BYTES_MAX
    ) -> None:
        """Take the stream's schema, "avro" or "protobuf", where to ask for schemas, and the longest record's bytes."""
        self._schema, self._format, self._registry = schema, format, registry
        self._record_bytes_max = record_bytes_max
        self._plans: OrderedDict[int, WirePlan | str] = OrderedDict()

    def __call__(self, records: Records) -> Decoded:
        """Decode some records; those of 1 GiB together and more in parts.

        Raises:
            RegistryAwayError: a schema is needed and the registry cannot be reached: nothing is lost, try again.
            RegistryError: the registry refuses to answer.
        """
        return self._decode(records.values)

    def _decode(self, values: pa.LargeBinaryArray) -> Decoded:
        offsets, data = views_of(values)
        first, size = int(offsets[0]), int(offsets[-1] - offsets[0])
        if size > SCANNED_MAX and len(values) > 1:
            half = len(values) // 2
            return joined([self._decode(values[:half]), self._decode(values[half:])], half)
        empty = pa.RecordBatch.from_pylist([], self._schema.arrow)
        if size > SCANNED_MAX:
            too_long = wire_causes.head_cause(RECORD_TOO_LONG, self._format, self._record_bytes_max)
            return Decoded(empty, np.zeros(0, np.int64), [BadRecord(0, too_long)])
        data, offsets = data[first : first + size], offsets - first
        frames = read_frames(data, offsets, self._format == "protobuf", self._record_bytes_max)
        is_json = frames.status == NO_MAGIC
        is_json[is_json] = data[offsets[:-1][is_json]] == ord("{")
        bad = [
            BadRecord(i, wire_causes.head_cause(int(frames.status[i]), self._format, self._record_bytes_max))
            for i in np.flatnonzero((frames.status != 0) & ~is_json).tolist()
        ]
        parts = [self._group(data, frames.starts, offsets, key, which) for key, which in _groups(frames)]
        if is_json.any():
            parts.append(self._json(values, np.flatnonzero(is_json)))
        if len(parts) == 1 and not bad:
            return parts[0]
        return _in_order([Decoded(empty, np.zeros(0, np.int64), bad), *parts])

    def _group(self, data: Bytes, starts: Int64s, offsets: Int64s, key: int, which: Int64s) -> Decoded:
        """Decode records of one schema; `which` they are, rising."""
        plan = self._plan(key)
        if isinstance(plan, str):
            bad = [BadRecord(i, plan) for i in which.tolist()]
            return Decoded(pa.RecordBatch.from_pylist([], self._schema.arrow), np.zeros(0, np.int64), bad)
        heads = offsets[which]
        decoded = self._rows(data, plan, heads, starts[which], offsets[which + 1], key >> 32)
        if which.size == starts.size:
            return decoded
        bad = [replace(each, index=int(which[each.index])) for each in decoded.bad]
        return Decoded(decoded.rows, which[decoded.index], bad)

    def _json(self, values: pa.LargeBinaryArray, which: Int64s) -> Decoded:
        """Decode records that are JSON objects: from before the stream changed its format, or a letter put right."""
        decoded = decode(self._schema, Records("", 0, values.take(pa.array(which)), which), self._record_bytes_max)
        bad = [replace(each, index=int(which[each.index])) for each in decoded.bad]
        return Decoded(decoded.rows, which[decoded.index], bad)

    def _rows(self, data: Bytes, plan: WirePlan, heads: Int64s, starts: Int64s, ends: Int64s, id: int) -> Decoded:
        schema, size, cells = self._schema, starts.size, plan.scan(data, starts, ends)
        findings = Findings(size)
        unframed = cells.status != 0
        if unframed.any():
            findings.report(unframed, checks.UNFRAMED, 0)
            cells.kinds[:, : unframed.size][:, unframed] = MISSING

        def cause(i: int) -> str:
            if unframed[i]:
                where = int(cells.where[i]) + int(starts[i] - heads[i])
                return f"{wire_causes.body_cause(int(cells.status[i]), where)} (schema id {id})"
            place = findings.fields[i]
            kind, shown = _shown(data, plan.names, int(cells.kinds[place, i]), int(cells.values[place, i]))
            said = causes.field_cause(schema, schema.fields[place], int(findings.problems[i]), kind, shown)
            return f"{said} (schema id {id})"

        columns = [
            _column(schema, place, (data, plan.names, cells.kinds[place, :size], cells.values[place, :size]), findings)
            for place in range(len(schema.fields))
        ]
        return select(schema, columns, findings, cause)

    def _plan(self, key: int) -> WirePlan | str:
        """Return how to read records with a schema and message, or why none of them can be."""
        plan = self._plans.get(key)
        if plan is None:
            try:
                found = self._registry.schema(key >> 32)
            except NoSuchSchemaError:
                return f"schema id {key >> 32} is not in the schema registry"
            try:
                plan = self._made(found, key & 0xFFFFFFFF)
            except WireSchemaError as error:
                plan = f"{error} (schema id {key >> 32})"
            self._plans[key] = plan
            if len(self._plans) > _PLANS_KEPT:
                self._plans.popitem(last=False)
        return plan

    def _made(self, found: RegisteredSchema, path: int) -> WirePlan:
        if found.kind != _KINDS[self._format]:
            advice = f'; declare the stream with format="{found.kind.lower()}"' if found.kind != "JSON" else ""
            raise WireSchemaError(f"the schema is of {found.kind}, not {_KINDS[self._format]}{advice}")
        if self._format == "avro":
            return avro_plan(self._schema, found.text, tuple(text for _, text in found.references))
        indexes = tuple(byte - 1 for byte in path.to_bytes(4, "big") if byte)
        return protobuf_plan(self._schema, found.text, found.references, indexes)


def _groups(frames: Frames) -> list[tuple[int, Int64s]]:
    """Return which records have a head with each key, in order of the keys."""
    headed = np.flatnonzero(frames.status == 0)
    keys = frames.keys[headed]
    if not keys.size:
        return []
    if keys.min() == keys.max():
        return [(int(keys[0]), headed)]
    return [(int(key), headed[keys == key]) for key in np.unique(keys)]


def _in_order(parts: list[Decoded]) -> Decoded:
    """Put the rows of several groups back in the order of the records."""
    index = np.concatenate([part.index for part in parts])
    order = np.argsort(index, kind="stable")
    rows = pa.Table.from_batches([part.rows for part in parts]).combine_chunks().to_batches()
    bad = sorted((each for part in parts for each in part.bad), key=lambda each: each.index)
    taken = rows[0].take(pa.array(order)) if rows else parts[0].rows
    return Decoded(taken, index[order], bad)


def _column(schema: Schema, place: int, cell: Cell, findings: Findings) -> pa.Array:
    """Convert one field of all records, and note what is wrong with it."""
    field, (data, names, kinds, values) = schema.fields[place], cell
    if field.name == schema.time:
        times_ms, states = _times(schema, place, cell, findings)
        valid = _good(schema, place, states, findings)
        findings.check_times(place, times_ms, valid)
        return plain_array(times_ms, valid)
    if field.type == "string":
        offsets, text, states = read_wire_text(data, names, kinds, values)
        valid = _good(schema, place, states, findings)
        if field.name == schema.id:
            findings.check_id(place, np.diff(offsets), valid)
        return text_array(offsets, text, valid)
    if field.type == "bool":
        return bool_array(kinds == TRUE, _good(schema, place, _states(kinds, TRUE, FALSE), findings))
    if field.type == "int":
        states = _states(kinds, INTEGER)
        numbers: NDArray[np.int64] | NDArray[np.float64] = _only(values, states)
    else:
        states = _states(kinds, INTEGER, FLOAT, HARD_DECIMAL)
        numbers = _floats(data, kinds, _only(values, states))
    valid = _good(schema, place, states, findings)
    findings.check_numbers(field, place, numbers)
    return plain_array(numbers, valid)


def _states(kinds: NDArray[np.uint8], *good: int) -> States:
    of_kind = np.full(256, WRONG_KIND, np.uint8)
    of_kind[[MISSING, NULL]] = ABSENT
    of_kind[list(good)] = GOOD
    return of_kind[kinds]


def _only(values: Int64s, states: States) -> Int64s:
    """Return the values that are good, 0 for the others."""
    good = states == GOOD
    return values if good.all() else np.where(good, values, 0)


def _good(schema: Schema, place: int, states: States, findings: Findings) -> NDArray[np.bool_]:
    findings.report(states == WRONG_KIND, checks.WRONG_TYPE, place)
    valid = states == GOOD
    findings.check_present(schema, place, valid)
    return valid


def _floats(data: Bytes, kinds: NDArray[np.uint8], values: Int64s) -> NDArray[np.float64]:
    """Return numbers as float64, each correctly rounded."""
    is_float, floats = kinds == FLOAT, values.view(np.float64)
    if not is_float.all():
        floats = np.where(is_float, floats, values.astype(np.float64))
    with np.errstate(invalid="ignore"):  # a NaN may be a signalling one
        floats = floats + 0.0  # -0.0 becomes 0.0: they are equal, and shall have equal hashes
    for i in np.flatnonzero(kinds == HARD_DECIMAL).tolist():
        floats[i] = _decimal(data, int(values[i]))
    return floats


def _decimal(data: Bytes, packed: int) -> float:
    """Read a decimal that takes more than one exact operation; its place, size and scale are packed."""
    start, size, scale = packed >> 32, packed >> 8 & 0xFFFFFF, packed & 0xFF
    units = int.from_bytes(bytes(data[start : start + size]), "big", signed=True)
    try:
        return float(Fraction(units, 10**scale))
    except OverflowError:
        return float("inf") if units > 0 else float("-inf")


def _times(schema: Schema, place: int, cell: Cell, findings: Findings) -> tuple[Int64s, States]:
    data, names, kinds, values = cell
    stamps = kinds == STAMP
    if schema.time_unit == "iso":
        offsets, text, states = read_wire_text(data, names, kinds, values)
        times_ms = read_iso_times(offsets, text)
        unreadable = (times_ms == UNREADABLE_TIME) & (states == GOOD)
        findings.report(unreadable, checks.NOT_A_TIME, place)
        times_ms[unreadable | (states != GOOD)] = 0
    else:
        states = _states(kinds, INTEGER, FLOAT)
        times_ms = whole_times_ms(_only(values, states), schema.time_unit)
        broken = kinds == FLOAT
        if broken.any():
            times_ms[broken] = broken_times_ms(values[broken].view(np.float64), schema.time_unit)
    if stamps.any():
        times_ms = np.where(stamps, values, times_ms)
        states[stamps] = GOOD
    return times_ms, states


def _shown(data: Bytes, names: Bytes, kind: int, value: int) -> tuple[int, str]:
    """Return a value for a message: its kind as of JSON, and how it is written there."""
    if kind in (TEXT, SYMBOL):
        start, size = value >> 32, min(value & 0xFFFFFFFF, 4 * causes.SHOWN_MAX)
        text = bytes((data if kind == TEXT else names)[start : start + size]).decode(errors="replace")
        return TEXT, f'"{text}"'
    if kind == HARD_DECIMAL:
        return FLOAT, repr(_decimal(data, value))
    if kind == FLOAT:
        return FLOAT, repr(float(np.int64(value).view(np.float64)))
    if kind in (TRUE, FALSE):
        return kind, "true" if kind == TRUE else "false"
    written = {INTEGER: str(value), STAMP: str(value)}.get(kind, "")
    return INTEGER if kind == STAMP else kind, written

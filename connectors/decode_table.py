"""Arrow tables (Parquet, data frames) to rows of a schema, with the checks that JSON and CSV go through."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from connectors import causes, checks
from connectors.checks import Findings
from connectors.columns import bool_array, bools_of, floats_of, ints_of, plain_array, text_array, valid_rows, views_of
from connectors.decode import select
from connectors.image_columns import as_base64, is_bytes
from connectors.images import ImageField
from connectors.records import Decoded
from connectors.schema import Schema
from connectors.times import broken_times_ms, whole_times_ms
from kernels import json_tokens as tokens
from kernels.iso_times import UNREADABLE_TIME, read_iso_times

_UNITS_PER_MS = {"s": 0, "ms": 1, "us": 1000, "ns": 1_000_000}


def decode_table(schema: Schema, batch: pa.RecordBatch) -> Decoded:
    """Check and convert rows that are columns already.

    Types may be wider or narrower than declared as long as each value fits: integers of any size, floats that are
    whole for "int", 0 and 1 for "bool", dictionary-encoded text. A timestamp column is a time in any declared unit
    (without a zone: UTC). A field without a column is null everywhere. Columns that are no fields are left out.

    Returns:
        Good rows as `schema.arrow`, and a cause for each bad row.
    """
    findings = Findings(len(batch))
    known = set(batch.schema.names)
    given = [batch.column(name) if name in known else pa.nulls(len(batch)) for name in schema.names]
    columns = [_column(schema, place, column, findings) for place, column in enumerate(given)]

    def cause(i: int) -> str:
        place = findings.fields[i]
        kind = _kind(given[place].type)
        try:
            value = given[place][i].as_py()
        except UnicodeDecodeError:
            return f"{schema.names[place]} is not valid UTF-8"
        shown = f'"{value}"' if kind == tokens.TEXT else str(value).lower() if isinstance(value, bool) else str(value)
        return causes.field_cause(schema, schema.fields[place], int(findings.problems[i]), kind, shown)

    return select(schema, columns, findings, cause)


def _kind(arrow: pa.DataType) -> int:
    if pa.types.is_boolean(arrow):
        return tokens.TRUE
    if pa.types.is_integer(arrow):
        return tokens.INTEGER
    if pa.types.is_floating(arrow) or pa.types.is_decimal(arrow):
        return tokens.FLOAT
    if pa.types.is_list(arrow) or pa.types.is_large_list(arrow):
        return tokens.ARRAY
    return tokens.OBJECT if pa.types.is_struct(arrow) or pa.types.is_map(arrow) else tokens.TEXT


def _column(schema: Schema, place: int, column: pa.Array, findings: Findings) -> pa.Array:
    field = schema.fields[place]
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    valid = valid_rows(column)
    findings.check_present(schema, place, valid)
    if not valid.any():
        kind = pa.int64() if field.name == schema.time else field.arrow_type
        return pa.nulls(len(column), kind)
    if field.name == schema.time:
        times_ms = _times(schema, place, column, valid, findings)
        findings.check_times(place, times_ms, valid)
        return plain_array(times_ms, valid)
    if field.type == "string":
        return _text(schema, place, column, valid, findings)
    if field.type == "bool":
        return _bools(place, column, valid, findings)
    values = _numbers(place, column, valid, findings, whole=field.type == "int")
    findings.check_numbers(field, place, values)
    return plain_array(values, valid)


def _is_text(arrow: pa.DataType) -> bool:
    return pa.types.is_string(arrow) or pa.types.is_large_string(arrow) or pa.types.is_string_view(arrow)


def _text(schema: Schema, place: int, column: pa.Array, valid: NDArray[np.bool_], findings: Findings) -> pa.Array:
    if isinstance(schema.fields[place].content, ImageField) and is_bytes(column.type):
        return as_base64(column)
    if not _is_text(column.type):
        findings.report(valid, checks.WRONG_TYPE, place)
        return pa.nulls(len(column), pa.string())
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:  # some value is not UTF-8: look at each
        values = [each.as_buffer() if each.is_valid else None for each in column.cast(pa.large_binary())]
        broken = np.array([value is not None and not _is_utf8(value.to_pybytes()) for value in values])
        findings.report(broken, checks.WRONG_TYPE, place)
        column = pc.if_else(pa.array(broken), pa.scalar(None, column.type), column)
        valid = valid & ~broken
    offsets, data = views_of(column.cast(pa.string()))
    if schema.fields[place].name == schema.id:
        findings.check_id(place, np.diff(offsets), valid)
    return text_array(offsets, data, valid)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _bools(place: int, column: pa.Array, valid: NDArray[np.bool_], findings: Findings) -> pa.Array:
    if pa.types.is_boolean(column.type):
        return bool_array(bools_of(column), valid)
    values = _numbers(place, column, valid, findings, whole=True)
    findings.report(valid & (values != 0) & (values != 1), checks.WRONG_TYPE, place)
    return bool_array(values == 1, valid)


def _numbers(place: int, column: pa.Array, valid: NDArray[np.bool_], findings: Findings, whole: bool) -> NDArray[Any]:
    """Return int64 if `whole`, else float64; 0 for nulls and for what is no number."""
    if pa.types.is_integer(column.type):
        if column.type == pa.uint64():
            column = pc.min_element_wise(column, pa.scalar(np.iinfo(np.int64).max, pa.uint64()))
        return (ints_of if whole else floats_of)(column.cast(pa.int64()))
    if not pa.types.is_floating(column.type) and not pa.types.is_decimal(column.type):
        findings.report(valid, checks.WRONG_TYPE, place)
        return np.zeros(len(column), np.int64 if whole else np.float64)
    values = floats_of(column.cast(pa.float64()))
    if not whole:
        return values
    with np.errstate(invalid="ignore"):
        broken = ~(values == np.floor(values)) | (np.abs(values) > 1 << 53)
    findings.report(valid & broken, checks.WRONG_TYPE, place)
    return np.where(broken, 0, values).astype(np.int64)


def _times(
    schema: Schema, place: int, column: pa.Array, valid: NDArray[np.bool_], findings: Findings
) -> NDArray[np.int64]:
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    if pa.types.is_timestamp(column.type):
        values = ints_of(column.cast(pa.int64()))
        per_ms = _UNITS_PER_MS[column.type.unit]
        return values // per_ms if per_ms else whole_times_ms(values, "s")
    if schema.time_unit == "iso":
        if not _is_text(column.type):
            findings.report(valid, checks.WRONG_TYPE, place)
            return np.zeros(len(column), np.int64)
        offsets, data = views_of(column.cast(pa.string()))
        times_ms = read_iso_times(offsets, data)
        findings.report(valid & (times_ms == UNREADABLE_TIME), checks.NOT_A_TIME, place)
        return np.where(valid & (times_ms != UNREADABLE_TIME), times_ms, 0)
    if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        return broken_times_ms(floats_of(column.cast(pa.float64())), schema.time_unit)
    return whole_times_ms(_numbers(place, column, valid, findings, whole=True), schema.time_unit)

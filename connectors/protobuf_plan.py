"""Messages of .proto files to tables that read them as rows of a stream.

Fields are found by name. Scalar fields, enums and google.protobuf.Timestamp can be read; others are skipped.
"""

import struct
from functools import partial

import numpy as np

from connectors.protobuf_text import ProtoEnum, ProtoField, ProtoFile, ProtoMessage, find_type, parse_proto, unquoted
from connectors.schema import Field, Schema
from connectors.wire_plan import Names, WirePlan, WireSchemaError, check_kinds, check_missing
from kernels import json_tokens as tokens
from kernels import proto_scan as do
from kernels.wire import STAMP, SYMBOL

_SCALARS = {
    "double": (do.DOUBLE, tokens.FLOAT), "float": (do.SINGLE, tokens.FLOAT), "bool": (do.BOOL, tokens.TRUE),
    "int32": (do.INT32, tokens.INTEGER), "int64": (do.INT64, tokens.INTEGER),
    "uint32": (do.UINT32, tokens.INTEGER), "uint64": (do.UINT64, tokens.INTEGER),
    "sint32": (do.SINT32, tokens.INTEGER), "sint64": (do.SINT64, tokens.INTEGER),
    "fixed32": (do.FIXED32, tokens.INTEGER), "fixed64": (do.FIXED64, tokens.INTEGER),
    "sfixed32": (do.SFIXED32, tokens.INTEGER), "sfixed64": (do.SFIXED64, tokens.INTEGER),
    "string": (do.TEXT_OF, tokens.TEXT), "bytes": (do.TEXT_OF, tokens.TEXT),
}  # fmt: skip
_LARGEST = (1 << 63) - 1
_TIMESTAMP = "google.protobuf.Timestamp"
_Row = tuple[int, int, int, int, int, int]


def protobuf_plan(
    schema: Schema, text: str, references: tuple[tuple[str, str], ...] = (), indexes: tuple[int, ...] = (0,)
) -> WirePlan:
    """Make the table that reads one message of a .proto file.

    Args:
        schema: what the stream declares.
        text: the .proto file.
        references: name and text of the files that it imports.
        indexes: which message: its place in the file, then among the messages in that one, and so on.

    Raises:
        WireSchemaError: it is no .proto file, has no such message, or cannot be read as declared.
    """
    file = parse_proto(text)
    for _, imported in references:
        file.types = {**parse_proto(imported).types, **file.types}
    message = _message_at(file, indexes)
    table = _Table(schema, file, message)
    rows = np.array(table.rows or [(0, 0, -1, 0, 0, 0)], np.int64)
    names = np.array(table.symbols or [(0, 0)], np.int64)
    scan = partial(do.scan_proto, table=rows, names=names, absent=np.array(table.absent, np.int64))
    return WirePlan(lambda data, starts, ends: scan(data, starts, ends), table.names.text())


def _message_at(file: ProtoFile, indexes: tuple[int, ...]) -> ProtoMessage:
    messages, found = file.messages, None
    for index in indexes:
        if index >= len(messages):
            said = ", ".join(map(str, indexes))
            raise WireSchemaError(f"the schema has no message with the indexes {said} that the record names")
        found = messages[index]
        messages = found.messages
    if found is None:
        raise WireSchemaError("the record names no message of its schema")
    return found


class _Table:
    """Collects the rows of a table for one message."""

    def __init__(self, schema: Schema, file: ProtoFile, message: ProtoMessage) -> None:
        self.rows: list[_Row] = []
        self.names, self.symbols = Names(), list[tuple[int, int]]()
        self.absent: list[tuple[int, int]] = []
        self._schema, self._file, self._message = schema, file, message
        by_name = {each.name: each for each in message.fields}
        oneofs = set()
        for place, declared in enumerate(schema.fields):
            field = by_name.get(declared.name)
            if field is None:
                check_missing(schema, declared)
                self.absent.append((tokens.MISSING, 0))
            else:
                self._add(place, declared, field)
                oneofs.add(field.oneof)
        for field in message.fields:  # what takes back another field's value, though nobody asks for its own
            if field.oneof and field.oneof in oneofs and field.name not in schema.names:
                self.rows.append((field.number, do.NO_VALUE, -1, field.oneof, 0, 0))
        order = {each.number: i for i, each in enumerate(sorted(message.fields, key=lambda each: each.number))}
        self.rows.sort(key=lambda row: order[row[0]])  # as they come, so that each is found at once

    def _add(self, place: int, declared: Field, field: ProtoField) -> None:
        holds, kind, enum = self._type(declared, field)
        repeated = "repeated " if field.label == "repeated" else ""
        check_kinds(self._schema, declared, set() if repeated else {kind}, f"{repeated}{field.type}")
        first, count = len(self.symbols), 0
        if kind == SYMBOL:
            for number, symbol in enum.numbers:
                self.symbols.append((number, self.names.add(symbol)))
                count += 1
        self.rows.append((field.number, holds, place, field.oneof, first, count))
        self.absent.append(self._default(field, kind, first, enum))

    def _type(self, declared: Field, field: ProtoField) -> tuple[int, int, ProtoEnum]:
        """Return what a field holds, the kind of its values, and its enum, if it is one."""
        nothing = ProtoEnum()
        if field.type in _SCALARS:
            return *_SCALARS[field.type], nothing
        found = find_type(self._file.types, field.type, self._message.name)
        if isinstance(found, ProtoEnum):
            if declared.type == "string":
                return (do.ENUM if found.is_open else do.CLOSED_ENUM), SYMBOL, found
            return do.INT32, tokens.INTEGER, found
        name = found.name if found else field.type.lstrip(".")
        if name == _TIMESTAMP and declared.name == self._schema.time:
            return do.TIMESTAMP, STAMP, nothing
        return do.NO_VALUE, tokens.OBJECT, nothing

    def _default(self, field: ProtoField, kind: int, first: int, enum: ProtoEnum) -> tuple[int, int]:
        """Return kind and value of a field that a message leaves out."""
        feature = field.options.get("features.field_presence")
        implicit = feature == "IMPLICIT" if feature else not self._message.has_presence
        if field.oneof or (field.label in ("optional", "required") and "default" not in field.options) or kind == STAMP:
            return tokens.MISSING, 0
        if "default" not in field.options and not implicit:
            return tokens.MISSING, 0
        return _value_of(field.options.get("default"), kind, self, enum)

    def text(self, written: str) -> int:
        """Keep a text beside the names of enums and return its place << 32 | size."""
        return self.names.add(written)


def _value_of(written: str | None, kind: int, table: _Table, enum: ProtoEnum) -> tuple[int, int]:
    """Read a default; without one it is 0, false, "" or the first name of the enum."""
    if kind == tokens.TRUE:
        return (tokens.TRUE if written == "true" else tokens.FALSE), 0
    if kind == SYMBOL:
        symbol = written or (enum.numbers[0][1] if enum.numbers else "")
        return SYMBOL, table.text(symbol)
    if kind == tokens.TEXT:
        return SYMBOL, table.text(unquoted(written or ""))
    try:
        if kind == tokens.FLOAT:
            return kind, struct.unpack("<q", struct.pack("<d", float(written or 0)))[0]
        numbers = {name: number for number, name in enum.numbers}
        number = numbers[written] if written in numbers else int(written or "0", 0)
        return kind, max(min(number, _LARGEST), -_LARGEST)
    except (ValueError, OverflowError):
        raise WireSchemaError(f"the schema has a default {written!r} that is no number") from None

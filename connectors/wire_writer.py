"""Rows to messages in Avro or Protobuf, with the id of their schema in front: for producers, one row at a time."""

import io
import json
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from connectors.errors import ConnectorError
from connectors.protobuf_text import ProtoEnum, ProtoField, ProtoFile, find_type, parse_proto
from connectors.schema import Field, Schema
from connectors.schema_registry import NoSuchSchemaError, SchemaRegistry

Row = Mapping[str, Any]
Write = Callable[[Row], bytes]

_AVRO_TYPES = {"string": "string", "bool": "boolean", "int": "long", "number": "double", "money": "double"}
_PROTO_TYPES = {"string": "string", "bool": "bool", "int": "int64", "number": "double", "money": "double"}
_FIXED = {"double": (1, "<d"), "fixed64": (1, "<Q"), "sfixed64": (1, "<q"),
          "float": (5, "<f"), "fixed32": (5, "<I"), "sfixed32": (5, "<i")}  # fmt: skip
_ZIGZAG = ("sint32", "sint64")
_VARINTS = ("bool", "int32", "int64", "uint32", "uint64", *_ZIGZAG)


def avro_schema(schema: Schema, name: str) -> str:
    """Return an Avro schema for the rows of a stream: optional fields are unions with null, null being the default."""
    fields: list[dict[str, Any]] = []
    for each in schema.fields:
        kind = _type_of(schema, each, _AVRO_TYPES)
        optional = {"type": ["null", kind], "default": None}
        fields.append({"name": each.name, **(optional if each.optional else {"type": kind})})
    return json.dumps({"type": "record", "name": name, "fields": fields})


def protobuf_schema(schema: Schema, name: str) -> str:
    """Return a .proto file for the rows of a stream: all fields are `optional`, so that null is not 0."""
    lines = [f"  optional {_type_of(schema, each, _PROTO_TYPES)} {each.name} = {number};"
             for number, each in enumerate(schema.fields, 1)]  # fmt: skip
    return "\n".join(['syntax = "proto3";', f"message {name} {{", *lines, "}", ""])


def _type_of(schema: Schema, field: Field, types: Mapping[str, str]) -> str:
    is_text = field.name == schema.time and schema.time_unit == "iso"
    return types["string" if is_text else field.type]


def open_writer(schema: Schema, format: str, registry: SchemaRegistry, subject: str) -> Write:
    """Return what writes rows of a stream as messages.

    The subject's newest schema is used; if it has none, one is made of the stream's fields and registered.

    Args:
        schema: of the stream.
        format: "avro" or "protobuf".
        registry: where the subject is.
        subject: for example "payments-value", the values of topic payments.

    Raises:
        RegistryError: the registry cannot be reached, or refuses.
        ConnectorError: fastavro is not installed, or the subject has schemas of another format.
    """
    kind = {"avro": "AVRO", "protobuf": "PROTOBUF"}[format]
    try:
        schema_id, found = registry.latest(subject)
        text, written = found.text, found.kind
    except NoSuchSchemaError:
        name = "".join(part for part in subject.removesuffix("-value").title() if part.isalnum()) or "Event"
        name = name if name[0].isalpha() else f"Event{name}"
        text, written = (avro_schema if format == "avro" else protobuf_schema)(schema, name), kind
        schema_id = registry.register(subject, text, kind)
    if written != kind:
        raise ConnectorError(f"subject {subject} has schemas of {written}; choose that format, or another subject")
    return avro_writer(text, schema_id) if format == "avro" else protobuf_writer(text, schema_id)


def avro_writer(text: str, schema_id: int) -> Write:
    """Return what writes rows as Avro; keys that the schema lacks are left out.

    Raises:
        ConnectorError: fastavro is not installed; of a row: it does not fit the schema.
    """
    try:
        import fastavro
    except ImportError:
        raise ConnectorError("to write Avro, run: pip install 'pelton[schemas]'") from None
    parsed, head = fastavro.parse_schema(json.loads(text)), struct.pack(">bI", 0, schema_id)

    def write(row: Row) -> bytes:
        out = io.BytesIO(head)
        out.seek(len(head))
        try:
            fastavro.schemaless_writer(out, parsed, row)
        except (ValueError, TypeError, OverflowError, struct.error) as error:
            raise ConnectorError(f"a row does not fit schema id {schema_id}: {error}") from None
        return out.getvalue()

    return write


def protobuf_writer(text: str, schema_id: int) -> Write:
    """Return what writes rows as the first message of a .proto file: its scalar fields and enums.

    Raises:
        WireSchemaError: the text is no .proto file.
        ConnectorError: of a row: a value does not fit its field.
    """
    file = parse_proto(text)
    if not file.messages:
        raise ConnectorError(f"schema id {schema_id} has no message")
    message = file.messages[0]
    head = struct.pack(">bIb", 0, schema_id, 0)
    fields = [(each, _encoder(each, file, message.name)) for each in message.fields]

    def write(row: Row) -> bytes:
        out = [head]
        for field, encode in fields:
            value = row.get(field.name)
            if value is not None:
                try:
                    out.append(encode(value))
                except (ValueError, TypeError, KeyError, AttributeError, OverflowError, struct.error):
                    said = f"{field.name} is {value!r:.60}, which {field.type} cannot hold"
                    raise ConnectorError(f"a row does not fit schema id {schema_id}: {said}") from None
        return b"".join(out)

    return write


def _encoder(field: ProtoField, file: ProtoFile, scope: str) -> Callable[[Any], bytes]:
    kind, number = field.type, field.number << 3
    if field.label == "repeated":
        return _refuse
    if kind in _FIXED:
        wire, form = _FIXED[kind]
        return lambda value: _varint(number | wire) + struct.pack(form, value)
    if kind in ("string", "bytes"):
        return lambda value: _text(number | 2, value)
    if kind in _VARINTS:
        return lambda value: _varint(number) + _varint(_whole(value, kind))
    enum = find_type(file.types, kind, scope)
    if isinstance(enum, ProtoEnum):
        numbers = {name: each for each, name in enum.numbers}
        return lambda value: (
            _varint(number) + _varint(numbers[value] if isinstance(value, str) else _whole(value, kind))
        )
    return _refuse


def _refuse(value: object) -> bytes:
    raise ValueError("only scalar fields and enums can be written")


def _text(tag: int, value: Any) -> bytes:
    encoded = value if isinstance(value, bytes) else value.encode()
    return _varint(tag) + _varint(len(encoded)) + encoded


def _whole(value: Any, kind: str) -> int:
    if int(value) != value or isinstance(value, bool) != (kind == "bool"):
        raise ValueError(value)
    bits = 32 if kind.endswith("32") else 64
    low, high = (0, 1 << bits) if kind.startswith("u") else (-(1 << bits - 1), 1 << bits - 1)
    if not low <= value < high:
        raise ValueError(value)
    return int(value) << 1 ^ (int(value) >> 63) if kind in _ZIGZAG else int(value)


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def write_rows(write: Write, rows: Iterable[Row]) -> list[bytes]:
    """Return the messages of some rows, for example of `batch.to_pylist()`."""
    return [write(row) for row in rows]

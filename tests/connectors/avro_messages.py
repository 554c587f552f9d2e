"""Avro messages for tests: written by fastavro, with a registry's schemas but without the registry."""

import io
import json
import struct

import fastavro
import numpy as np
import pyarrow as pa

from connectors.decode_wire import WireDecoder
from connectors.records import Decoded, Records
from connectors.schema import Schema, parse_field
from connectors.schema_registry import NoSuchSchemaError, RegisteredSchema

FIELDS = {"event_id": "string", "card": "card", "amount": "money", "clicks": "int?", "known": "bool?", "ts": "int"}
GOOD = {"event_id": "e1", "card": "4000", "amount": 12.5, "clicks": 3, "known": True, "ts": 1_000}
TYPES = {"event_id": "string", "card": "string", "amount": "double", "clicks": ["null", "long"],
         "known": ["null", "boolean"], "ts": "long"}  # fmt: skip


class Schemas:
    """A registry's schemas without the registry."""

    def __init__(self, *texts: object) -> None:
        self.known = {i: RegisteredSchema("AVRO", json.dumps(each)) for i, each in enumerate(texts, 1)}

    def schema(self, schema_id: int) -> RegisteredSchema:
        if schema_id not in self.known:
            raise NoSuchSchemaError(f"no schema {schema_id}")
        return self.known[schema_id]


def schema_of(fields: dict[str, str] = FIELDS, time_unit: str = "ms") -> Schema:
    return Schema(tuple(parse_field(*each) for each in fields.items()), "event_id", "ts", time_unit)


def avro(types: dict[str, object], **attributes: object) -> dict:
    fields = [{"name": name, "type": kind} for name, kind in types.items()]
    return {"type": "record", "name": "Payment", "fields": fields, **attributes}


def body(written: dict, record: dict) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(written), record)
    return out.getvalue()


def message(written: dict, record: dict, schema_id: int = 1) -> bytes:
    return struct.pack(">bI", 0, schema_id) + body(written, record)


def records_of(*values: bytes) -> Records:
    return Records("payments", 0, pa.array(values, pa.large_binary()), np.arange(len(values), dtype=np.int64))


def decode(schemas: Schemas, *values: bytes, schema: Schema | None = None) -> Decoded:
    return WireDecoder(schema or schema_of(), "avro", schemas)(records_of(*values))

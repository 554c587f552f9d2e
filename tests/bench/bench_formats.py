"""What does a payment cost to decode as Avro or Protobuf, against JSON, fastavro and Google's parser?

Processor time of one core, 65,536 payments, one schema id; all decoders must give the same rows first.
"""

from __future__ import annotations

import io
import json
import random
import time
from collections.abc import Callable
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from connectors.formats import decoder_of
from connectors.records import Records
from connectors.schema import Schema, parse_field
from connectors.schema_registry import RegisteredSchema
from connectors.wire_writer import avro_schema, avro_writer, protobuf_schema, protobuf_writer
from tests.bench.measuring import machine, parser

FIELDS = {"event_id": "string", "card": "card", "amount": "money", "merchant": "string", "country": "string?",
          "online": "bool?", "items": "int?", "ts": "int"}  # fmt: skip
SCHEMA = Schema(tuple(parse_field(*each) for each in FIELDS.items()), "event_id", "ts")


class Schemas:
    """Two schemas, without a registry."""

    def __init__(self) -> None:
        avro, proto = avro_schema(SCHEMA, "Payment"), protobuf_schema(SCHEMA, "Payment")
        self.known = {1: RegisteredSchema("AVRO", avro), 2: RegisteredSchema("PROTOBUF", proto)}

    def schema(self, schema_id: int) -> RegisteredSchema:
        return self.known[schema_id]


def rows(count: int) -> list[dict[str, object]]:
    rng = random.Random(7)
    return [
        {"event_id": f"tx-{i:09d}", "card": f"4{rng.randrange(10**15):015d}", 
         "amount": round(rng.lognormvariate(3, 1), 2),
         "merchant": f"m{rng.randrange(5000)}", "country": rng.choice(["DE", "FR", "IT", None]),
         "online": rng.random() < 0.3, "items": rng.choice([None, 1, 2, 3]), "ts": 1_700_000_000_000 + i * 7}
        for i in range(count)
    ]  # fmt: skip


def google_class() -> Any:
    """Make Google's class of the message, as protoc does; reading its fields is not even timed."""
    file = descriptor_pb2.FileDescriptorProto(name="p.proto", syntax="proto3")
    message = file.message_type.add(name="Payment")
    kinds = {"string": 9, "bool": 8, "int": 3, "money": 1}
    for number, field in enumerate(SCHEMA.fields, 1):
        message.oneof_decl.add(name=f"_{field.name}")
        message.field.add(name=field.name, number=number, label=1, type=kinds[field.type], oneof_index=number - 1,
                          proto3_optional=True)  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Payment"))


def main() -> None:
    """Compare, time in turns, print a line of JSON."""
    count, rounds = (8_192, 3) if parser(__doc__).parse_args().quick else (65_536, 9)
    made, schemas = rows(count), Schemas()
    avro = avro_writer(schemas.known[1].text, 1)
    proto = protobuf_writer(schemas.known[2].text, 2)
    messages = {
        "json": [json.dumps(each, separators=(",", ":")).encode() for each in made],
        "avro": [avro(each) for each in made],
        "protobuf": [proto(each) for each in made],
    }
    decoders: dict[str, Callable[[], object]] = {}
    expected = None
    for name, each in messages.items():
        records = Records("payments", 0, pa.array(each, pa.large_binary()), np.arange(count, dtype=np.int64))
        decode = decoder_of(SCHEMA, name, schemas)
        found = decode(records)
        expected = expected or found.rows
        assert found.rows.equals(expected)
        assert not found.bad
        decoders[name] = lambda decode=decode, records=records: decode(records)
    parsed = fastavro.parse_schema(json.loads(schemas.known[1].text))
    read = fastavro.schemaless_reader
    assert [read(io.BytesIO(each[5:]), parsed, None) for each in messages["avro"]] == made
    decoders["fastavro"] = lambda: [read(io.BytesIO(each[5:]), parsed, None) for each in messages["avro"]]
    payment = google_class()
    first = [payment.FromString(each[6:]) for each in messages["protobuf"]]
    assert [{name: getattr(each, name) if each.HasField(name) else None for name in FIELDS} for each in first] == made
    decoders["google"] = lambda: [payment.FromString(each[6:]) for each in messages["protobuf"]]
    best = dict.fromkeys(decoders, np.inf)
    for _ in range(rounds):
        for name, decode_all in decoders.items():
            before = time.thread_time()
            decode_all()
            best[name] = min(best[name], time.thread_time() - before)
    figures = {f"{name}_m_records_per_s": round(count / seconds / 1e6, 2) for name, seconds in best.items()}
    sizes = {f"{name}_bytes": round(sum(map(len, each)) / count, 1) for name, each in messages.items()}
    print(json.dumps({"records": count, **figures, **sizes, **machine()}))


if __name__ == "__main__":
    main()

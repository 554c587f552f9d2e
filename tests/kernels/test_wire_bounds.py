"""Broken Avro and Protobuf at the very end of memory: one byte read behind it would end the process."""

import ctypes
import mmap
import random
import sys
from functools import cache

import numpy as np
import pytest

from connectors.avro_plan import avro_plan
from connectors.protobuf_plan import protobuf_plan
from connectors.schema import Schema, parse_field
from connectors.wire_plan import WirePlan
from kernels.wire import read_frames, read_wire_text

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pages are guarded by Linux' mprotect")

PAGE = mmap.PAGESIZE
FIELDS = {"event_id": "string", "text": "string?", "amount": "money?", "sum": "money?", "known": "bool?", "ts": "int"}
SCHEMA = Schema(tuple(parse_field(*each) for each in FIELDS.items()), "event_id", "ts")
AVRO = """{"type": "record", "name": "A", "fields": [
  {"name": "event_id", "type": "string"},
  {"name": "list", "type": {"type": "array", "items": ["null", "string", {"type": "map", "values": "double"}]}},
  {"name": "node", "type": {"type": "record", "name": "N", "fields": [{"name": "n", "type": ["null", "N"]}]}},
  {"name": "text", "type": ["null", {"type": "enum", "name": "E", "symbols": ["A", "B"]}, "string"]},
  {"name": "sum", "type": ["null", {"type": "bytes", "logicalType": "decimal", "scale": 30}]},
  {"name": "fix", "type": {"type": "fixed", "name": "F", "size": 5}},
  {"name": "amount", "type": ["float", "null", "double", "long"]},
  {"name": "known", "type": ["boolean", "null"]},
  {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}}]}"""
PROTO = """syntax = "proto3"; enum E { A = 0; B = 1; } message M { string event_id = 1; E text = 2; float amount = 3;
  oneof o { double sum = 4; bool known = 5; int32 more = 7; } google.protobuf.Timestamp ts = 6; }"""


@cache
def guarded() -> np.ndarray:
    """Return four pages behind which nothing may be read."""
    area = mmap.mmap(-1, 5 * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(address + 4 * PAGE), ctypes.c_size_t(PAGE), 0) == 0
    return np.frombuffer(area, np.uint8, 4 * PAGE)


def at_the_end(records: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    text = b"".join(records)
    area = guarded()
    data = area[area.size - len(text) :]
    data[:] = np.frombuffer(text, np.uint8)
    return data, np.cumsum([0, *map(len, records)])


def noise(rng: random.Random) -> bytes:
    """Return bytes that look like lengths, counts, tags and text often enough to go deep."""
    pieces = [
        lambda: rng.randbytes(rng.randrange(9)),
        lambda: bytes([rng.randrange(0, 40)]),
        lambda: b"\x02a",
        lambda: "é😀".encode()[: rng.randrange(7)],
        lambda: bytes([2 * (size := rng.randrange(20))]) + b"x" * size,
        lambda: b"\x0a" + bytes([size := rng.randrange(20)]) + b"y" * size,
        lambda: b"\xff" * rng.randrange(12),
        lambda: bytes([rng.randrange(1, 9) << 3 | rng.randrange(6)]),
        lambda: b"\x32\x04\x08\x01\x10",
    ]
    return b"".join(rng.choice(pieces)() for _ in range(rng.randrange(12)))


@pytest.mark.parametrize("plan", [avro_plan(SCHEMA, AVRO), protobuf_plan(SCHEMA, PROTO)], ids=["avro", "protobuf"])
def test_no_byte_behind_a_record_is_read(plan: WirePlan):
    rng = random.Random(7)
    for _ in range(3_000):
        data, offsets = at_the_end([noise(rng) for _ in range(rng.randrange(1, 6))] or [b"\0"])
        cells = plan.scan(data, offsets[:-1].copy(), offsets[1:].copy())
        size = offsets.size - 1
        for place in range(len(FIELDS)):
            kinds = np.where(cells.status == 0, cells.kinds[place, :size], 0).astype(np.uint8)
            texts, out, _ = read_wire_text(data, plan.names, kinds, cells.values[place, :size].copy())
            out.tobytes().decode()  # whatever was taken for text is UTF-8
            assert texts[-1] == out.size


@pytest.mark.parametrize("has_path", [False, True])
def test_no_byte_behind_a_head_is_read(has_path):
    rng = random.Random(8)
    for _ in range(3_000):
        heads = [b"\0\0\0\0\1"[: rng.randrange(6)] + noise(rng)[: rng.randrange(8)] for _ in range(rng.randrange(1, 4))]
        data, offsets = at_the_end(heads)
        frames = read_frames(data, offsets, has_path, 1000)
        good = frames.status == 0
        assert (frames.starts[good] <= offsets[1:][good]).all()
        assert (frames.starts[good] >= offsets[:-1][good] + 5).all()

"""Images in records: a broken one makes its record invalid, with a cause, in any format; the others are unharmed."""

import base64
import io
import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from connectors.decode import CsvHeader, decode, decode_csv
from connectors.decode_table import decode_table
from connectors.images import ImageField
from connectors.records import Records
from connectors.schema import Schema, parse_field

PIXELS = np.random.default_rng(3).integers(0, 256, (32, 32)).astype(np.uint8)


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    return file.getvalue()


GOOD = base64.b64encode(png()).decode()
CUT = base64.b64encode(png()[:-30]).decode()
VALUES = [GOOD, CUT, "x", None, f"data:image/png;base64,{GOOD}", "", "s3://bucket/a.png"]
BROKEN = {
    1: "image: the image cannot be decoded",
    2: "image: the image is neither base64 nor a place",
    3: "image is missing or null",
    5: "image: the image cannot be decoded: it is none of PNG, JPEG, BMP",
    6: "image: the image is a place, s3://bucket/a.png, and its field declares no roots",
}


def schema(declared="image") -> Schema:
    fields = (parse_field("id", "string"), parse_field("image", declared), parse_field("ts", "int"))
    return Schema(fields, id="id", time="ts")


def records(lines: list[str]) -> Records:
    return Records("photos", 0, pa.array([line.encode() for line in lines], pa.large_binary()), np.arange(len(lines)))


def decoded(kind: str):
    ids, times = [f"p{i}" for i in range(len(VALUES))], [1_600_000_000_000 + i for i in range(len(VALUES))]
    if kind == "json":
        rows = zip(ids, VALUES, times, strict=True)
        return decode(schema(), records([json.dumps({"id": i, "image": v, "ts": t}) for i, v, t in rows]))
    if kind == "csv":
        lines = [
            f"{i},{'' if v is None else chr(34) + v + chr(34)},{t}" for i, v, t in zip(ids, VALUES, times, strict=True)
        ]
        return decode_csv(schema(), CsvHeader(("id", "image", "ts")), records(lines))
    return decode_table(schema(), pa.RecordBatch.from_pydict({"id": ids, "image": VALUES, "ts": times}))


@pytest.mark.parametrize("kind", ["json", "csv", "table"])
def test_a_broken_image_is_told_and_the_others_are_kept(kind):
    found = decoded(kind)
    assert found.index.tolist() == [0, 4]
    assert found.rows.column("image").to_pylist() == [VALUES[0], VALUES[4]]
    assert [each.index for each in found.bad] == sorted(BROKEN)
    for each in found.bad:
        assert each.cause.startswith(BROKEN[each.index]), each.cause


def test_bytes_of_a_table_become_base64():
    given = pa.RecordBatch.from_pydict(
        {"id": ["a", "b", "c"], "image": pa.array([png(), b"no image", None], pa.binary()), "ts": [1, 2, 3]}
    )
    found = decode_table(schema(), given)
    assert found.rows.column("image").to_pylist() == [GOOD]
    assert [each.index for each in found.bad] == [1, 2]
    optional = decode_table(schema("image?"), given)
    assert optional.rows.column("image").to_pylist() == [GOOD, None]


def test_another_problem_of_a_record_comes_first():
    found = decode(schema(), records([json.dumps({"id": "a", "image": CUT, "ts": "noon"})]))
    assert found.bad[0].cause.startswith("ts is ")


def test_roots_are_declared_with_the_field():
    field = parse_field("image", ImageField(size=64, roots=("s3://bucket",)))
    assert (field.type, field.content.size) == ("string", 64)
    rooted = Schema((parse_field("id", "string"), field, parse_field("ts", "int")), id="id", time="ts")
    line = json.dumps({"id": "a", "image": "s3://bucket/a.png", "ts": 1})
    assert len(decode(rooted, records([line])).rows) == 1  # what lies there is looked at when it is decided

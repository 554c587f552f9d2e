"""Rows as JSON objects: what the kernel writes is what any reader of JSON reads back."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.json_text import json_objects

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
KINDS = {
    pa.float64(): st.floats(),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.int16(): st.integers(-(2**15), 2**15 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.bool_(): st.booleans(),
    pa.string(): TEXT,
    pa.large_string(): TEXT,
    pa.list_(pa.string()): st.lists(TEXT, max_size=3),
}


@st.composite
def batches(draw):
    rows = draw(st.integers(0, 12))
    columns = {}
    for number in range(draw(st.integers(0, 6))):
        kind = draw(st.sampled_from(list(KINDS)))
        value = KINDS[kind] if draw(st.booleans()) else st.none() | KINDS[kind]
        name = draw(TEXT) + str(number)
        columns[name] = pa.array(draw(st.lists(value, min_size=rows, max_size=rows)), kind)
    batch = pa.record_batch(columns) if columns else pa.record_batch([], schema=pa.schema([]))
    return batch.slice(draw(st.integers(0, max(batch.num_rows - 1, 0))))


def as_json(value):
    return None if isinstance(value, float) and not math.isfinite(value) else value


@given(batches(), st.sampled_from(["", "\n"]))
def test_each_row_reads_back_as_itself(rows, end):
    found = json_objects(rows, end).to_pylist()
    assert all(text.endswith("}" + end) and text.count("\n") == len(end) for text in found)
    expected = [{name: as_json(value) for name, value in row.items()} for row in rows.to_pylist()]
    assert [json.loads(text) for text in found] == expected


def test_numbers_are_the_shortest_that_read_back_the_same():
    values = np.concatenate([np.random.default_rng(7).integers(0, 2**64, 20_000, np.uint64).view(np.float64), [-0.0]])
    rows = pa.record_batch({"x": pa.array(values)})
    written = [text.removeprefix('{"x":').removesuffix("}") for text in json_objects(rows).to_pylist()]
    for value, text in zip(values, written, strict=True):
        assert text == "null" if not math.isfinite(value) else float(text).hex() == float(value).hex()


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ({"a": pa.nulls(1, pa.float64()), "b": ["x"], "c": pa.array([[]], pa.list_(pa.string()))},
         '{"a":null,"b":"x","c":[]}'),
        ({"a": pa.nulls(1, pa.string())}, '{"a":null}'),
        ({"n": [1], "a": pa.nulls(1, pa.string()), "b": pa.nulls(1, pa.int64())}, '{"n":1,"a":null,"b":null}'),
        ({"x": [2.0], "y": [0.1], "z": [1e22]}, '{"x":2,"y":0.1,"z":1e+22}'),
    ],
)  # fmt: skip
def test_columns_of_nothing_go_with_their_neighbours(rows, text):
    assert json_objects(pa.record_batch(rows)).to_pylist() == [text]


def test_slices_are_written_as_what_they_are():
    lists = pa.array([["x"], None, ["y", 'z"'], []], pa.list_(pa.string()))
    rows = pa.record_batch({"a": pa.array([1.5, None, 2.5, 3.5]), "b": pa.array(["p", "q", None, "r"]), "c": lists})
    whole = json_objects(rows).to_pylist()
    for first in range(4):
        assert json_objects(rows.slice(first)).to_pylist() == whole[first:]
        assert json_objects(rows.slice(first, 1)).to_pylist() == whole[first : first + 1]

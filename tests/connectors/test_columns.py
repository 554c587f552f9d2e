"""Hashes of Arrow columns."""

import numpy as np
import pyarrow as pa
import pytest

from connectors.columns import hash_column

TEXTS = ["a", None, "", "Köln 東京", "x" * 100, "a"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(TEXTS),
        pa.array(TEXTS, pa.large_string()),
        pa.array(TEXTS, pa.string_view()),
        pa.array(TEXTS).dictionary_encode(),
        pa.array(TEXTS).cast(pa.binary()),
        pa.array(["before", *TEXTS, "behind"])[1:-1],
        pa.array([None, *TEXTS])[1:],
        pa.chunked_array([TEXTS[:2], TEXTS[2:]]),
    ],
    ids=lambda column: str(column.type),
)
def test_text_hashes_alike_in_every_encoding(column):
    hashes = hash_column(column)
    assert hashes.tolist() == hash_column(pa.array(TEXTS)).tolist()
    assert hashes[0] == hashes[5]
    assert (hashes == 0).tolist() == [False, True, False, False, False, False]
    assert np.unique(hashes).size == 5


@pytest.mark.parametrize(
    "column",
    [pa.array([3, None, 3], pa.int16()), pa.array([1.5, None, 1.5]), pa.array([True, None, True])],
    ids=lambda column: str(column.type),
)
def test_a_null_alone_is_zero(column):
    hashes = hash_column(column)
    assert hashes[1] == 0
    assert hashes[0] == hashes[2] != 0
    assert hash_column(column[1:]).tolist() == hashes[1:].tolist()


def test_integers_of_any_size_hash_alike():
    assert hash_column(pa.array([7], pa.int8())).tolist() == hash_column(pa.array([7])).tolist()


def test_both_zeros_are_one_key():
    assert np.unique(hash_column(pa.array([0.0, -0.0]))).size == 1


def test_empty_columns():
    assert hash_column(pa.array([], pa.string())).size == 0
    assert hash_column(pa.array([None, None], pa.string())).tolist() == [0, 0]


def test_what_cannot_be_a_key_is_said():
    with pytest.raises(TypeError, match="cannot be a key; use text, whole numbers or booleans"):
        hash_column(pa.array([[1]]))

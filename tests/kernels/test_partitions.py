"""A key's partition is the one that Kafka's producers choose."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2

from connectors.partitions import partitions_of, split_by_partition
from kernels.partitions import partitions_of_bytes

# of Apache Kafka's UtilsTest.testMurmur2
KAFKAS = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536,
          b"a-little-bit-longer-string": -1486304829,
          b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, b"abc": 479470107}  # fmt: skip


def chosen(keys, partitions):
    offsets = np.cumsum([0, *(len(key) for key in keys)]).astype(np.int32)
    return partitions_of_bytes(offsets, np.frombuffer(b"".join(keys), np.uint8), partitions).tolist()


def test_the_values_of_kafkas_own_test():
    for partitions in (1, 7, 1 << 30):
        assert chosen(list(KAFKAS), partitions) == [(each & 0x7FFFFFFF) % partitions for each in KAFKAS.values()]


@given(st.lists(st.binary(max_size=50)), st.integers(1, 4096))
def test_agrees_with_kafka_pythons(keys, partitions):
    assert chosen(keys, partitions) == [(murmur2(key) & 0x7FFFFFFF) % partitions for key in keys]


@given(st.lists(st.one_of(st.none(), st.text(max_size=20))), st.integers(1, 9))
def test_texts_are_hashed_as_utf_8_in_slices_too(keys, partitions):
    column = pa.array([None, "before", *keys], pa.string()).slice(2)
    expected = [3 if key is None else (murmur2(key.encode()) & 0x7FFFFFFF) % partitions for key in keys]
    assert partitions_of(column, partitions, of_null=3).tolist() == ([0] * len(keys) if partitions == 1 else expected)


@pytest.mark.parametrize(
    ("values", "texts"),
    [([17, -3, 2**40, None], ["17", "-3", "1099511627776", None]), ([True, False, None], ["true", "false", None])],
)
def test_other_keys_are_hashed_by_their_text(values, texts):
    assert partitions_of(pa.array(values), 64).tolist() == partitions_of(pa.array(texts), 64).tolist()


def test_rows_are_split_in_their_order():
    order, bounds = split_by_partition(np.array([2, 0, 2, 3, 0]), 5)
    assert order.tolist() == [1, 4, 0, 2, 3]
    assert bounds.tolist() == [0, 2, 2, 4, 5, 5]


def test_what_cannot_be_split_is_refused():
    none = np.zeros(0, np.uint8)
    with pytest.raises(ValueError, match="there are 0 partitions to choose from"):
        partitions_of_bytes(np.zeros(1, np.int32), none, 0)
    with pytest.raises(ValueError, match=r"offsets run from 0 to 4, outside the 0 bytes"):
        partitions_of_bytes(np.array([0, 4], np.int32), none, 2)

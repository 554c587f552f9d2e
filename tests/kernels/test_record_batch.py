"""Record batches by columns, beside aiokafka's objects."""

import numpy as np
import pytest
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from kernels import record_batch as rb
from kernels.record_batch import Pieces


def made(records, base=0):
    """A batch of (time, key, value, headers) as aiokafka builds it."""
    builder = DefaultRecordBatchBuilder(2, 0, is_transactional=0, producer_id=9, producer_epoch=1, base_sequence=0,
                                        batch_size=1 << 24)  # fmt: skip
    for offset, (time_ms, key, value, headers) in enumerate(records):
        builder.append(offset, time_ms, key, value, headers)
    data = bytearray(builder.build())
    data[:8] = base.to_bytes(8, "big")
    return np.frombuffer(bytes(data), np.uint8)


def some_records(seed, count):
    rng = np.random.default_rng(seed)

    def text(longest):
        return rng.integers(0, 256, rng.integers(0, longest), np.uint8).tobytes()

    return [
        (
            int(rng.integers(0, 1 << 41)),
            None if rng.random() < 0.3 else text(20),
            None if rng.random() < 0.1 else text(300),
            [("a", b"1"), ("bc", None), ("why", text(90))][: int(rng.integers(0, 4))],
        )
        for _ in range(count)
    ]


def piece(data, start, size):
    return None if size < 0 else data[start : start + size].tobytes()


@pytest.mark.parametrize("seed", range(4))
def test_reads_what_aiokafka_wrote(seed):
    records = some_records(seed, 500)
    data = made(records, base=7000)
    header = rb.read_headers(data)[0]
    assert (header[rb.BASE_OFFSET], header[rb.COUNT], header[rb.PRODUCER], header[rb.FORMAT]) == (7000, 500, 9, 2)
    table = rb.read_records(data, rb.HEADER_BYTES, 500, 7000, int(header[rb.FIRST_MS]))
    assert table[:, rb.OFFSET].tolist() == list(range(7000, 7500))
    assert table[:, rb.TIME_MS].tolist() == [time_ms for time_ms, *_ in records]
    assert [piece(data, *row[[rb.KEY, rb.KEY_SIZE]]) for row in table] == [key for _, key, _, _ in records]
    assert [piece(data, *row[[rb.VALUE, rb.VALUE_SIZE]]) for row in table] == [value for _, _, value, _ in records]
    for name in ("a", "bc", "why", "not there"):
        starts, sizes = rb.find_header(data, table, name.encode())
        found = [piece(data, start, size) for start, size in zip(starts, sizes, strict=True)]
        assert found == [dict(headers).get(name) for *_, headers in records]


def test_the_pieces_of_a_column_are_gathered_into_one_buffer():
    data = np.frombuffer(b"0123456789abcdefghijklmnopqrstuvwxyz", np.uint8)
    starts, sizes = np.array([5, 0, 30, 10]), np.array([3, -1, 6, 20])
    bounds, joined = rb.gather(data, starts, sizes)
    assert bounds.tolist() == [0, 3, 3, 9, 29]
    assert joined.tobytes() == b"567uvwxyzabcdefghijklmnopqrst"


def test_a_batch_that_is_cut_off_is_left_out():
    first, second = made(some_records(1, 3)), made(some_records(2, 3), base=3)
    both = np.concatenate([first, second])
    for size in (first.size, first.size + 5, first.size + rb.HEADER_BYTES, both.size - 1):
        assert rb.read_headers(both[:size]).shape == (1, 11)
    assert rb.read_headers(both)[:, rb.BASE_OFFSET].tolist() == [0, 3]
    assert len(rb.read_headers(both[:0])) == 0


@pytest.mark.parametrize("seed", range(30))
def test_broken_bytes_are_refused_or_read_but_never_beyond_the_end(seed):
    rng = np.random.default_rng(seed)
    data = made(some_records(seed, 20)).copy()
    data[rng.integers(rb.HEADER_BYTES, data.size, 12)] = rng.integers(0, 256, 12, np.uint8)
    try:
        table = rb.read_records(data, rb.HEADER_BYTES, 20, 0, 0)
    except ValueError:
        return
    rb.find_header(data, table, b"why")
    assert ((table[:, rb.VALUE] + np.maximum(table[:, rb.VALUE_SIZE], 0)) <= data.size).all()
    assert ((table[:, rb.KEY] + np.maximum(table[:, rb.KEY_SIZE], 0)) <= data.size).all()


def test_too_few_records_are_named():
    data = made(some_records(1, 5))
    with pytest.raises(ValueError, match="record 5 of 6 in the batch at offset 40 cannot be read"):
        rb.read_records(data, rb.HEADER_BYTES, 6, 40, 0)


def pieces(strings):
    return Pieces(np.cumsum([0, *map(len, strings)]), np.frombuffer(b"".join(strings), np.uint8))


@pytest.mark.parametrize("with_keys", [True, False])
def test_aiokafka_reads_what_we_wrote(with_keys):
    values = [b"x" * size for size in (0, 1, 7, 8, 9, 63, 64, 127, 128, 8191, 8192, 70_000)]
    keys = [b"k" * (index % 5) for index in range(len(values))] if with_keys else None
    headers = [b"\x00" if index % 2 else b"\x02\x02h\x04ab" for index in range(len(values))]
    written = rb.write_records(pieces(values), pieces(keys) if keys else None, pieces(headers), 2, len(values))
    whole = bytearray(written.tobytes())
    whole[: rb.HEADER_BYTES] = made([(0, None, b"", [])])[: rb.HEADER_BYTES].tobytes()
    whole[23:27] = (len(values) - 3).to_bytes(4, "big")
    whole[57:61] = (len(values) - 2).to_bytes(4, "big")
    found = list(DefaultRecordBatch(bytes(whole)))
    assert [record.value for record in found] == values[2:]
    assert [record.key for record in found] == (keys[2:] if keys else [None] * (len(values) - 2))
    assert [dict(record.headers) for record in found] == [{} if i % 2 else {"h": b"ab"} for i in range(2, len(values))]
    assert [record.offset for record in found] == list(range(len(values) - 2))

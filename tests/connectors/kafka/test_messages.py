"""Messages as columns: what aiokafka writes we read, and the other way round."""

import numpy as np
import pyarrow as pa
import pytest
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from connectors.kafka.codec import runs
from connectors.kafka.compression import COMPRESSIONS, decompressed
from connectors.kafka.messages import Outgoing, packed_headers, read_messages
from connectors.log import LogError


def batch(values, base=0, compression=0, producer=-1, transactional=0, headers=(), times_ms=1000):
    builder = DefaultRecordBatchBuilder(2, compression, is_transactional=transactional, producer_id=producer,
                                        producer_epoch=0, base_sequence=0, batch_size=1 << 24)  # fmt: skip
    for offset, value in enumerate(values):
        builder.append(offset, times_ms + offset, b"k%d" % offset, value, list(headers))
    data = bytearray(builder.build())
    data[:8] = base.to_bytes(8, "big")
    return bytes(data)


def stamped(data, at_ms):
    """Return a batch as a broker writes it into a topic with LogAppendTime."""
    data = bytearray(data)
    data[22] |= 0x08
    data[35:43] = at_ms.to_bytes(8, "big")  # the largest time
    data[17:21] = calc_crc32c(bytes(data[21:])).to_bytes(4, "big")
    return bytes(data)


def outgoing(values, **how):
    return Outgoing(pa.array(values, pa.large_binary()), 1234, **how)


@pytest.mark.parametrize("compression", COMPRESSIONS.values(), ids=COMPRESSIONS)
def test_every_compression_that_we_write_is_read(compression):
    values = [b"%d repeated repeated" % index for index in range(300)]
    (sent,) = outgoing(values).batches(compression)
    data = bytes(sent.sent_by(1, 2, 3, transactional=True))
    assert not compression or len(data) < len(b"".join(values))
    assert read_messages(data, 0).values.to_pylist() == values
    assert read_messages(data, 0).times_ms.tolist() == [1234] * 300
    if compression <= 1:  # aiokafka has no other codec here
        theirs = DefaultRecordBatch(data)
        assert theirs.validate_crc()
        assert theirs.is_transactional
        assert [record.value for record in theirs] == values


def test_what_aiokafka_writes_is_read():
    values = [b"%d repeated repeated" % index for index in range(300)]
    data = batch(values[:200], 10, compression=1) + batch(values[200:], 210)
    found = read_messages(data, 10)
    assert found.values.to_pylist() == values
    assert found.offsets.tolist() == list(range(10, 310))
    assert found.times_ms.tolist() == [*range(1000, 1200), *range(1000, 1100)]
    assert (found.start, found.end, len(found)) == (10, 310, 300)
    assert found.keys.to_pylist()[:2] == [b"k0", b"k1"]


def test_it_is_known_who_said_the_times():
    ours, theirs = stamped(batch([b"a", b"b"], 0), 7_000), batch([b"c", b"d"], 2)
    assert read_messages(ours, 0).times_ms.tolist() == [7_000, 7_000]
    both = read_messages(ours + theirs, 0)
    assert both.times_ms.tolist() == [7_000, 7_000, 1_000, 1_001]
    claimed = [read_messages(ours, 0), read_messages(theirs, 2), both, both.cut(0, 2), both.cut(1, 2), both.cut(2, 2)]
    assert [each.are_claimed for each in claimed] == [False, True, True, False, True, True]


def test_bytes_that_do_not_compress_are_sent_as_they_are():
    value = np.random.default_rng(1).integers(0, 256, 500, np.uint8).tobytes()
    (sent,) = outgoing([value]).batches(4)
    assert read_messages(bytes(sent.sent_by(0, 0, 0, transactional=False)), 0).values.to_pylist() == [value]


@pytest.mark.parametrize("name", ["lz4", "zstd", "gzip"])
def test_streams_of_unknown_size_are_decompressed(name):
    data = b"abc" * 300_000
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, name) as stream:
        stream.write(data)
    assert decompressed(sink.getvalue().to_pybytes(), {"gzip": 1, "lz4": 3, "zstd": 4}[name]) == data


def test_snappy_comes_as_one_block_or_as_those_of_java():
    parts = [b"abc" * 10_000, b"x", b"yz" * 500]
    codec = pa.Codec("snappy")
    framed = b"\x82SNAPPY\x00" + b"\x00\x00\x00\x01" * 2
    for part in parts:
        block = codec.compress(part, asbytes=True)
        framed += len(block).to_bytes(4, "big") + block
    assert decompressed(framed, 2) == b"".join(parts)
    assert decompressed(codec.compress(parts[0], asbytes=True), 2) == parts[0]


def test_broken_and_unknown_compression_is_told():
    with pytest.raises(LogError, match="a batch cannot be decompressed by zstd"):
        decompressed(b"nonsense", 4)
    with pytest.raises(LogError, match="compressed with codec 6, which this version does not know"):
        decompressed(b"nonsense", 6)


def test_a_read_in_the_middle_of_a_batch_begins_there():
    found = read_messages(batch([b"a", b"b", b"c"], base=5) + batch([b"d"], base=9), 6)
    assert found.values.to_pylist() == [b"b", b"c", b"d"]
    assert found.offsets.tolist() == [6, 7, 9]


def test_messages_can_be_cut_and_know_where_to_go_on():
    found = read_messages(batch([b"a", b"b"], base=5) + batch([b"d", b"e"], base=9), 5)
    first = found.cut(0, 2)
    assert (first.values.to_pylist(), first.end) == ([b"a", b"b"], 9)
    rest = found.cut(first.end, 10)
    assert (rest.values.to_pylist(), rest.start, rest.end) == ([b"d", b"e"], 9, 11)
    assert first.followed_by(rest).values.to_pylist() == [b"a", b"b", b"d", b"e"]
    assert found.cut(11, 5).values.to_pylist() == []
    assert found.cut(10, 5).values.to_pylist() == [b"e"]


def test_what_an_aborted_transaction_wrote_is_left_out():
    #        offset 0         1            2             3 (marker)     4
    # producer 7: aborted   8: open       7: aborted    7 aborts       7: its next transaction
    key, marker = b"\x00\x00\x00\x00", bytearray()
    builder = DefaultRecordBatchBuilder(2, 0, is_transactional=1, producer_id=7, producer_epoch=0, base_sequence=-1,
                                        batch_size=1000)  # fmt: skip
    builder.append(0, 1000, key, b"\x00" * 6, [])
    marker = bytearray(builder.build())
    marker[:8] = (3).to_bytes(8, "big")
    marker[22] |= 0x20
    marker[17:21] = calc_crc32c(bytes(marker[21:])).to_bytes(4, "big")
    data = (
        batch([b"dead"], 0, 0, 7, 1) + batch([b"alive"], 1, 0, 8, 1) + batch([b"dead"], 2, 0, 7, 1)
        + bytes(marker) + batch([b"again"], 4, 0, 7, 1)
    )  # fmt: skip
    assert read_messages(data, 0, aborted=[(7, 0)]).values.to_pylist() == [b"alive", b"again"]
    assert read_messages(data, 0, aborted=[(7, 0)]).offsets.tolist() == [1, 4]
    assert len(read_messages(data, 0, isolated=False)) == 4
    assert read_messages(data[: -len(batch([b"again"], 4, 0, 7, 1))], 0, aborted=[(7, 0)]).end == 4


def test_a_wrong_checksum_is_told_with_its_place():
    data = bytearray(batch([b"a", b"b"], base=5))
    data[-3] ^= 1
    with pytest.raises(LogError, match="topic 'in', partition 2: the batch at offset 5 has a wrong checksum"):
        read_messages(bytes(data), 5, where="topic 'in', partition 2")


def test_headers_are_found_by_name_and_nulls_stay_nulls():
    headers = pa.array([packed_headers([("a", b"1"), ("b", None)]), packed_headers([]), packed_headers([("a", b"")])],
                       pa.large_binary())  # fmt: skip
    (sent,) = outgoing([b"x", b"", b"z"], headers=headers).batches()
    found = read_messages(bytes(sent.sent_by(1, 2, 3, transactional=False)), 0)
    assert found.header("a").to_pylist() == [b"1", None, b""]
    assert found.header("b").to_pylist() == [None] * 3
    assert found.have_headers
    assert found.keys.to_pylist() == [None] * 3
    assert found.values.to_pylist() == [b"x", b"", b"z"]


def test_large_appends_become_batches_that_a_broker_takes():
    values = [bytes([97 + index % 26]) * 200_000 for index in range(10)] + [b"y" * 2_000_000, b"z"]
    sent = outgoing(values).batches()
    assert [each.count for each in sent] == [4, 4, 2, 1, 1]
    assert all(len(each.data) < 1_000_000 for each in sent if each.count > 1)
    found = [read_messages(bytes(each.sent_by(0, 0, 0, transactional=False)), 0) for each in sent]
    assert [value for each in found for value in each.values.to_pylist()] == values


def test_many_small_batches_are_one_part():
    data = b"".join(batch([b"%d" % offset], base=offset) for offset in range(500))
    found = read_messages(data, 0)
    assert len(found.parts) == 1
    assert found.values.to_pylist() == [b"%d" % offset for offset in range(500)]


def test_runs_are_cut_at_gaps():
    assert runs(np.array([1, 2, 5, 6, 9])) == [(0, 2), (2, 4), (4, 5)]
    assert runs(np.zeros(0, np.int64)) == []

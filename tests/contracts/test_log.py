"""What every log must do, whoever keeps the bytes."""

import threading

import numpy as np
import pyarrow as pa
import pytest

from connectors.log import CommitConflictError, LogError, OffsetGoneError, TopicInfo
from connectors.memory_log import MemoryLog
from connectors.sqlite_log import SqliteLog
from tests.contracts.named_log import NamedLog


class Xor:
    """A sealer that anybody can open: enough to see that sealed topics go through one."""

    def seal(self, plain):
        return b"sealed" + bytes(byte ^ 0x5A for byte in plain)

    def open(self, sealed):
        if not sealed.startswith(b"sealed"):
            raise ValueError("not sealed with this key")
        return bytes(byte ^ 0x5A for byte in sealed[6:])


SCHEMA = pa.schema([("n", pa.int64()), ("why", pa.list_(pa.string()))])
ROWS = {"arrow": SCHEMA, "json": SCHEMA.with_metadata({"key": ""})}  # how a log that others read too writes rows


@pytest.fixture(params=["memory", "sqlite", "kafka"])
def log(request, tmp_path):
    if request.param == "kafka":
        log = on_kafka(request.getfixturevalue("kafka"))
    else:
        log = MemoryLog(Xor()) if request.param == "memory" else SqliteLog(tmp_path / "log.db", Xor())
    with log:
        yield log


@pytest.fixture
def own_log(log):
    """A log that is ours alone; what Kafka does instead is tested with the log on Kafka."""
    if isinstance(log, NamedLog):
        pytest.skip("Kafka keeps messages as they are, of a limited size, and removes old ones by its own clock")
    return log


def on_kafka(address):
    from connectors.kafka.log import KafkaLog  # brings a Kafka client
    from connectors.kafka.settings import KafkaSettings
    from tests.kafka_broker import fresh

    return NamedLog(KafkaLog(KafkaSettings((address,)), Xor()), fresh("-"))


def lines(log, topic="in", partition=0, offset=0, limit=1_000_000):
    return log.read(topic, partition, offset, limit).values.to_pylist()


def rows(*numbers):
    return pa.record_batch([pa.array(numbers, pa.int64()), pa.array([["x"]] * len(numbers), SCHEMA.types[1])], SCHEMA)


def numbers_of(log, topic="out", partition=0, offset=0, limit=1_000_000):
    """Read rows to the end as everybody shall: from where a batch ends, and never from a count."""
    numbers, offsets = [], []
    while found := log.read_rows(topic, partition, offset, limit):
        assert sum(batch.num_rows for _, batch in found) <= limit
        for base, batch in found:
            assert base >= offset
            numbers += batch["n"].to_pylist()
            offsets += range(base, base + batch.num_rows)
            offset = base + batch.num_rows
    assert offset <= log.end(topic, partition)
    return numbers, offsets


def test_records_come_back_in_order_with_offsets_and_times(log):
    log.create_topic("in")
    assert log.append("in", 0, [b"a\n", b"bb\n"], append_ms=10) == 0
    assert log.append("in", 0, [b"ccc\n"], append_ms=20) == 2
    got = log.read("in", 0, 0, 100)
    assert got.values.to_pylist() == [b"a\n", b"bb\n", b"ccc\n"]
    assert (got.topic, got.partition) == ("in", 0)
    assert got.offsets.tolist() == [0, 1, 2]
    assert got.append_ms.tolist() == [10, 10, 20] or (isinstance(log, NamedLog) and (got.append_ms > 1 << 40).all())
    assert got.redriven_from is None
    assert (log.begin("in", 0), log.end("in", 0)) == (0, 3)


def test_any_window_of_offsets_can_be_read(log):
    log.create_topic("in")
    rng = np.random.default_rng(5)
    written = [bytes(rng.integers(97, 123, rng.integers(0, 9), np.uint8)) + b"\n" for _ in range(60)]
    at = 0
    for size in (1, 7, 0, 20, 2, 30):
        assert log.append("in", 0, written[at : at + size], append_ms=at) == at
        at += size
    for offset in range(61):
        for limit in (1, 2, 9, 60):
            got = log.read("in", 0, offset, limit)
            assert got.values.to_pylist() == written[offset : offset + limit]
            assert got.offsets.tolist() == list(range(offset, min(offset + limit, 60)))
            assert len(got.append_ms) == len(got)


def test_the_values_of_a_read_are_one_buffer_from_its_first_record_on(log):
    log.create_topic("in")
    log.append("in", 0, [b"a\n", b"bb\n"], 0)
    log.append("in", 0, [b"ccc\n"], 0)
    _, ends, data = log.read("in", 0, 1, 2).values.buffers()
    assert data.to_pybytes() == b"bb\nccc\n"
    assert np.frombuffer(ends, np.int64).tolist() == [0, 3, 7]


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ([b"a", b"b"], [b"a\n", b"b\n"]),
        ([b"a", b"b\n", b"", b"\n"], [b"a\n", b"b\n", b"\n", b"\n"]),
        ([b'{"a":\n1}\n', b"x\ny"], [b'{"a":\n1}\n', b"x\ny\n"]),
        ([b"\xff\x00\r\n"], [b"\xff\x00\r\n"]),
        ([b""], [b"\n"]),
        ([], []),
    ],
)
def test_a_newline_ends_a_record_and_one_inside_does_not(own_log, given, stored):
    own_log.create_topic("in")
    own_log.append("in", 0, given, 0)
    own_log.append("in", 0, pa.array([b"skipped", *given], pa.large_binary())[1:], 0)
    assert lines(own_log) == stored * 2


def test_a_null_record_is_named(log):
    log.create_topic("in")
    with pytest.raises(ValueError, match="record 1 of an append is null"):
        log.append("in", 0, pa.array([b"a", None], pa.large_binary()), 0)
    assert log.end("in", 0) == 0


def test_large_appends_are_stored_in_pieces_and_reads_are_bounded(own_log):
    own_log.create_topic("in")
    large = [bytes([97 + i]) * (6 << 20) for i in range(14)]  # 84 MB in all, reads stop at about 64
    own_log.append("in", 0, large, 0)
    first = own_log.read("in", 0, 0, 100)
    assert 10 <= len(first) < 14
    rest = own_log.read("in", 0, len(first), 100)
    assert first.values.to_pylist() + rest.values.to_pylist() == [one + b"\n" for one in large]


def test_redriven_records_carry_where_they_came_from(log):
    log.create_topic("in")
    log.append("in", 0, [b"a"], 0)
    log.append("in", 0, [b"b", b"c"], 0, redriven_from=[7, -1])
    log.append("in", 0, [b"d"], 0, redriven_from=np.array([-1]))
    assert log.read("in", 0, 0, 10).redriven_from.tolist() == [-1, 7, -1, -1]
    assert log.read("in", 0, 1, 1).redriven_from.tolist() == [7]
    assert log.read("in", 0, 3, 1).redriven_from is None
    with pytest.raises(ValueError, match="redriven_from has 1 offsets for 2 records"):
        log.append("in", 0, [b"b", b"c"], 0, redriven_from=[7])


def test_partitions_have_their_own_offsets(log):
    log.create_topic("in", partitions=2)
    log.append("in", 1, [b"b\n"], 0)
    log.append("in", 0, [b"a\n"], 0)
    assert (lines(log, partition=0), lines(log, partition=1)) == ([b"a\n"], [b"b\n"])


@pytest.mark.parametrize("kind", ROWS)
def test_rows_come_back_from_any_offset_on(log, kind):
    log.create_topic("out", rows=ROWS[kind])
    first = log.append_rows("out", 0, rows(0, 1, 2), 5)
    assert log.append_rows("out", 0, rows(), 5) == log.end("out", 0)
    second = log.append_rows("out", 0, rows(3, 4), 5)
    _, offsets = numbers_of(log)
    assert offsets == [first, first + 1, first + 2, second, second + 1]
    for place in range(6):
        for limit in (1, 2, 5):
            at = offsets[place] if place < 5 else log.end("out", 0)
            assert numbers_of(log, offset=at, limit=limit) == (list(range(5))[place:], offsets[place:])
    assert log.read_rows("out", 0, first, 1)[0][1].equals(rows(0))


def test_large_rows_are_stored_in_pieces(own_log):
    own_log.create_topic("out")
    wide = pa.record_batch({"text": ["x" * (3 << 20)] * 6})
    own_log.append_rows("out", 0, wide, 0)
    assert [base for base, _ in own_log.read_rows("out", 0, 0, 6)] == [0, 1, 3, 4]
    assert sum(batch.num_rows for _, batch in own_log.read_rows("out", 0, 0, 6)) == 6


def test_lines_and_rows_are_not_taken_for_each_other(own_log):
    own_log.create_topic("both")
    own_log.append("both", 0, [b"a"], 0)
    own_log.append_rows("both", 0, rows(1), 0)
    with pytest.raises(ValueError, match="'both' holds rows at offset 1, not lines; read it with read_rows"):
        own_log.read("both", 0, 0, 10)
    with pytest.raises(ValueError, match="'both' holds lines at offset 0, not rows; read it with read"):
        own_log.read_rows("both", 0, 0, 10)
    assert lines(own_log, "both", limit=1) == [b"a\n"]


def test_a_topic_can_be_created_again_but_not_changed(log):
    assert log.create_topic("in", partitions=2, retention_ms=5) == TopicInfo("in", 2, 5)
    log.append("in", 1, [b"a"], 0)
    assert log.create_topic("in", partitions=2).retention_ms == 5
    assert log.create_topic("in", partitions=2, retention_ms=9).retention_ms == 9
    assert log.topics() == [TopicInfo("in", 2, 9)]
    assert len(lines(log, partition=1)) == 1
    with pytest.raises(LogError, match=r"topic 'in' has 2 partitions, not 3; ask for 2, or use another topic name"):
        log.create_topic("in", partitions=3)
    with pytest.raises(LogError, match="topic 'in' is plain, not encrypted"):
        log.create_topic("in", partitions=2, sealed=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "a b"}, "topic 'a b': use 1 to 200 letters"),
        ({"name": "a", "partitions": 0}, "topic 'a' has 0 partitions; use 1 to 4096"),
        ({"name": "a", "retention_ms": 0}, "keeps records for 0 ms; use more than 0, or None"),
    ],
)
def test_a_topic_that_cannot_be_is_refused(log, arguments, message):
    with pytest.raises(LogError, match=message):
        log.create_topic(**arguments)


def test_unknown_topics_and_partitions_are_named(log):
    log.create_topic("payments")
    with pytest.raises(LogError, match=r"no topic 'payment' in this log; did you mean 'payments'\?"):
        log.append("payment", 0, [b"a"], 0)
    with pytest.raises(LogError, match="no topic 'x' in this log; "):
        log.read("x", 0, 0, 1)
    with pytest.raises(LogError, match="'payments' has no partition 1; it has 1, counted from 0"):
        log.end("payments", 1)


def test_positions_outside_the_log_are_refused_not_skipped(own_log):
    own_log.create_topic("in", retention_ms=100)
    for at in range(5):
        own_log.append("in", 0, [b"a", b"b"], append_ms=at * 10)
    assert own_log.enforce_retention(now_ms=120) == 4  # older than 20: the batches of 0 and 10
    assert (own_log.begin("in", 0), own_log.end("in", 0)) == (4, 10)
    assert len(own_log.read("in", 0, 4, 10)) == 6
    with pytest.raises(OffsetGoneError, match="offset 3 is gone, retention removed all before 4; start from 4"):
        own_log.read("in", 0, 3, 10)
    with pytest.raises(OffsetGoneError, match="offset 11 was never written, the log ends at 10"):
        own_log.read("in", 0, 11, 10)
    assert len(own_log.read("in", 0, 10, 10)) == 0


def test_a_commit_writes_outputs_and_manifest_together(log):
    log.create_topic("in")
    log.create_topic("out", partitions=2, rows=SCHEMA)
    assert log.manifest("app", 0) is None
    with log.transaction("app", 0, expected_commit=0) as commit:
        commit.append_rows("out", 1, rows(1, 2), 7)
        commit.append_rows("out", 1, rows(3), 7)
        commit.append("in", 0, [b"again"], 7, redriven_from=[3])
        commit.put_manifest(b"first")
        assert log.end("out", 1) == 0  # nothing is seen before the end
    numbers, offsets = numbers_of(log, partition=1)
    assert numbers == [1, 2, 3]
    assert commit.base_offsets == [offsets[0], offsets[2], 0]
    assert log.read("in", 0, 0, 1).redriven_from.tolist() == [3]
    assert log.manifest("app", 0) == (1, b"first")
    with log.transaction("app", 0, 1) as commit:
        commit.put_manifest(b"second")
    assert log.manifests("app", 0, since_commit=0) == [(1, b"first"), (2, b"second")]
    assert log.manifests("app", 0, since_commit=1) == [(2, b"second")]
    assert log.manifest("app", 1) is None
    assert log.manifest("other", 0) is None


def commit_with(log, group, expected, *actions):
    with log.transaction(group, 0, expected) as commit:
        for action in actions:
            action(commit)


def put(payload):
    return lambda commit: commit.put_manifest(payload)


def add(topic):
    return lambda commit: commit.append_rows(topic, 0, rows(1), 0)


def break_off(_):
    raise RuntimeError("broken")


@pytest.mark.parametrize(
    ("actions", "error", "message"),
    [
        ([add("out"), put(b"x"), break_off], RuntimeError, "broken"),
        ([add("out"), put(b"x"), add("outs")], LogError, "no topic 'outs'"),
        ([add("out")], LogError, "put no manifest into commit 1; call put_manifest in the block"),
        ([add("out"), put(b"x"), put(b"y")], LogError, "put two manifests into commit 1"),
    ],
)
def test_a_commit_that_fails_writes_nothing(log, actions, error, message):
    log.create_topic("out", rows=SCHEMA)
    with pytest.raises(error, match=message):
        commit_with(log, "app", 0, *actions)
    assert (log.end("out", 0), log.manifest("app", 0)) == (0, None)


def test_two_owners_of_a_partition_cannot_both_commit(log):
    log.create_topic("out", rows=SCHEMA)
    with log.transaction("bank", 0, 0) as slow:
        slow.append_rows("out", 0, rows(1), 0)
        slow.put_manifest(b"slow")
        with pytest.raises(CommitConflictError, match=r"app 'bank', partition 0: the newest commit is 0, not 5"):
            commit_with(log, "bank", 5, put(b"early"))
    with pytest.raises(CommitConflictError, match=r"newest commit is 1, not 0; another process seems to run the same"):
        commit_with(log, "bank", 0, add("out"), put(b"second"))
    assert (numbers_of(log)[0], log.manifest("bank", 0)) == ([1], (1, b"slow"))


def test_old_manifests_can_be_forgotten_but_never_the_newest(log):
    for commit in range(5):
        with log.transaction("app", 0, commit) as made:
            made.put_manifest(b"%d" % commit)
    assert log.forget_manifests("app", 0, before_commit=3) == 2
    assert [number for number, _ in log.manifests("app", 0, 0)] == [3, 4, 5]
    assert log.forget_manifests("app", 0, before_commit=99) == 2
    assert log.manifest("app", 0) == (5, b"4")
    assert log.forget_manifests("nobody", 0, before_commit=99) == 0


def test_a_sealed_topic_gives_back_what_it_got(log):
    assert log.create_topic("secret", sealed=True).sealed
    log.append("secret", 0, [b"card 4000\n", b"b\n"], 0)
    assert lines(log, "secret") == [b"card 4000\n", b"b\n"]
    for kind, schema in ROWS.items():
        log.create_topic(kind, sealed=True, rows=schema)
        at = log.append_rows(kind, 0, rows(1), 0)
        assert log.read_rows(kind, 0, at, 1)[0][1].equals(rows(1))


def test_wait_returns_at_once_for_what_is_there_and_false_for_nothing(log):
    log.create_topic("in", partitions=2)
    assert log.wait({("in", 0): 0, ("in", 1): 0}, timeout_s=0.01) is False
    log.append("in", 1, [b"a"], 0)
    assert log.wait({("in", 0): 0, ("in", 1): 0}, timeout_s=60) is True
    assert log.wait({("in", 0): 0, ("in", 1): 1}, timeout_s=0) is False
    with pytest.raises(LogError, match="no topic 'on'"):
        log.wait({("on", 0): 0}, timeout_s=0)


def test_wait_wakes_up_for_an_append_of_another_thread(log):
    log.create_topic("in")
    answers = []
    waiter = threading.Thread(target=lambda: answers.append(log.wait({("in", 0): 0}, timeout_s=60)))
    waiter.start()
    log.append("in", 0, [b"a"], 0)
    waiter.join(timeout=30)
    assert answers == [True]


def test_threads_append_without_gaps(log):
    log.create_topic("in")
    bases = [[], [], []]

    def work(number):
        for i in range(40):
            bases[number].append(log.append("in", 0, [b"%d %d\n" % (number, i)] * (number + 1), 0))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.end("in", 0) == 40 * (1 + 2 + 3)
    got = lines(log)
    for number in range(3):
        for i, base in enumerate(bases[number]):
            assert got[base : base + number + 1] == [b"%d %d\n" % (number, i)] * (number + 1)

"""What the log on Kafka does beyond the contract of all logs."""

import threading

import pyarrow as pa
import pytest

from connectors.kafka import commits
from connectors.kafka.admin import KafkaAdmin
from connectors.kafka.log import KafkaLog
from connectors.kafka.manifests import manifest_topic
from connectors.kafka.messages import Outgoing, read_messages
from connectors.kafka.settings import KafkaSettings
from connectors.log import CommitConflictError, LogError, OffsetGoneError
from tests.kafka_broker import fresh

DECISIONS = pa.schema(
    [("event_id", pa.string()), ("score", pa.float64()), ("why", pa.list_(pa.string())), ("at", pa.int64())],
    metadata={"key": "event_id"},
)
LETTERS = pa.schema(
    [("stream", pa.string()), ("offset", pa.int64()), ("sealed", pa.bool_()), ("raw", pa.binary())],
    metadata={"value": "raw"},
)


def opened(address, **how):
    return KafkaLog(KafkaSettings((address,)), **how)


@pytest.fixture
def log(kafka):
    with opened(kafka) as log:
        yield log


@pytest.fixture
def topic(log):
    name = fresh("in")
    log.create_topic(name)
    return name


def lines(log, topic, offset=0):
    found, at = [], offset
    while len(records := log.read(topic, 0, at, 1000)):
        found += records.values.to_pylist()
        at = int(records.offsets[-1]) + 1
    return found


def commit(log, group, expected, topic, *values):
    with log.transaction(group, 0, expected) as transaction:
        transaction.append(topic, 0, list(values), 0)
        transaction.put_manifest(b"commit %d" % (expected + 1))
    return transaction


def test_messages_are_stored_as_they_are_given(log, topic):
    values = [b"a", b"b\n", b"", b"\x00\x00\x00\x00\x01avro", b"x\ny"]
    log.append(topic, 0, values, 0)
    assert lines(log, topic) == values


def test_positions_outside_the_log_are_refused_not_skipped(log, topic, kafka):
    log.append(topic, 0, [b"%d" % number for number in range(10)], 0)
    with KafkaAdmin(KafkaSettings((kafka,))) as admin:
        admin.delete_before({(topic, 0): 4})
    assert (log.begin(topic, 0), log.end(topic, 0)) == (4, 10)
    with pytest.raises(OffsetGoneError, match="offset 3 is gone, retention removed all before 4; start from 4"):
        log.read(topic, 0, 3, 10)
    with pytest.raises(OffsetGoneError, match="offset 11 was never written, the log ends at 10"):
        log.read(topic, 0, 11, 10)
    assert len(log.read(topic, 0, 10, 10)) == 0
    assert log.wait({(topic, 0): 3}, 5)  # a read there says why


def test_offsets_have_gaps_where_transactions_end(log, topic):
    group = fresh("app")
    for number in range(3):
        commit(log, group, number, topic, b"%d" % number)
    found = log.read(topic, 0, 0, 10)
    assert found.values.to_pylist() == [b"0", b"1", b"2"]
    assert (found.offsets[1:] - found.offsets[:-1]).min() >= 1
    behind = int(found.offsets[-1]) + 1
    assert len(log.read(topic, 0, behind, 10)) == 0
    assert not log.wait({(topic, 0): behind}, 0.05)
    assert log.wait({(topic, 0): behind - 1}, 5)


def test_rows_for_others_are_json_with_a_key_and_come_back_with_their_types(log, kafka):
    name = fresh("decisions")
    log.create_topic(name, rows=DECISIONS)
    rows = pa.record_batch(
        [["e1", "e2"], [0.25, None], [["a", "b"], []], pa.array([1 << 53, None], pa.int64())], DECISIONS
    )
    log.append_rows(name, 0, rows, 0)
    some = rows.select(["event_id", "at"])  # of a task with fewer columns
    log.append_rows(name, 0, some, 0)
    assert lines(log, name)[0] == b'{"event_id":"e1","score":0.25,"why":["a","b"],"at":9007199254740992}'
    ((base, found),) = log.read_rows(name, 0, 0, 10)
    assert base == 0
    assert found.slice(0, 2).to_pylist() == rows.to_pylist()
    assert found.slice(2).to_pylist() == [each | {"score": None, "why": None} for each in some.to_pylist()]
    with opened(kafka, rows={name: DECISIONS}) as other:
        assert other.read_rows(name, 0, 1, 2)[0][1].column("event_id").to_pylist() == ["e2", "e1"]
    with opened(kafka) as other, pytest.raises(LogError, match="or nobody said which columns its rows have"):
        other.read_rows(name, 0, 0, 1)


def test_what_others_wrote_between_our_rows_is_told(log):
    name = fresh("decisions")
    log.create_topic(name, rows=DECISIONS)
    log.append(name, 0, [b'{"event_id":"e1"}', b"nonsense"], 0)
    with pytest.raises(LogError, match="holds something else than our rows from offset 0 on"):
        log.read_rows(name, 0, 0, 10)


def test_letters_are_the_original_bytes_with_headers(log):
    name = fresh("dead")
    log.create_topic(name, rows=LETTERS)
    rows = pa.record_batch(
        [["in", None], pa.array([5, 6]), [False, True], pa.array([b"\xffraw", b""], pa.binary())], LETTERS
    )
    log.append_rows(name, 0, rows, 0)
    assert lines(log, name) == [b"\xffraw", b""]
    ((_, found),) = log.read_rows(name, 0, 0, 10)
    assert found.to_pylist() == rows.to_pylist()


def test_lines_and_arrow_rows_are_not_taken_for_each_other(log, topic):
    name = fresh("stage")
    schema = pa.schema([("n", pa.int64())])
    log.create_topic(name, rows=schema)
    log.append_rows(name, 0, pa.record_batch([[1]], schema), 0)
    with pytest.raises(LogError, match="holds rows at offset 0, not lines; read it with read_rows"):
        log.read(name, 0, 0, 10)
    log.append(topic, 0, [b"line"], 0)
    log.create_topic(topic, rows=schema)
    with pytest.raises(LogError, match="holds lines at offset 0, not rows; read it with read"):
        log.read_rows(topic, 0, 0, 10)


def test_large_rows_become_several_messages(log):
    name = fresh("stage")
    schema = pa.schema([("text", pa.string())])
    log.create_topic(name, rows=schema)
    log.append_rows(name, 0, pa.record_batch([["x" * 300_000] * 8], schema), 0)
    at, count = 0, 0
    while found := log.read_rows(name, 0, at, 3):
        at, count = found[-1][0] + found[-1][1].num_rows, count + sum(rows.num_rows for _, rows in found)
    assert count == 8


def test_a_commit_larger_than_a_batch_is_whole(log, topic):
    values = [b"%06d" % number * 20 for number in range(30_000)]
    made = commit(log, fresh("app"), 0, topic, *values)
    assert made.base_offsets == [0]
    assert lines(log, topic) == values


@pytest.mark.parametrize("at_least_once", [False, True])
def test_a_message_over_the_brokers_limit_is_told_and_nothing_is_written(kafka, topic, at_least_once):
    group = fresh("app")
    with opened(kafka, at_least_once=at_least_once) as log:
        with pytest.raises(LogError, match=r"a message is over the size that the broker takes; raise max\.message"):
            log.append(topic, 0, [b"x" * 2_000_000], 0)
        with pytest.raises(LogError, match=rf"commit 1 of '{group}', partition 0: a message is over the size"):
            commit(log, group, 0, topic, b"x" * 2_000_000)
        assert log.manifest(group, 0) is None
        commit(log, group, 0, topic, b"small")
        assert lines(log, topic) == [b"small"]


def test_a_new_owner_makes_the_old_ones_commit_fail(kafka, log, topic):
    group = fresh("app")
    with opened(kafka) as old:
        commit(old, group, 0, topic, b"old 1")
        commit(old, group, 1, topic, b"old 2")
        assert log.claim(group, 0) == 2  # all that was committed
        with pytest.raises(CommitConflictError, match=r"commit 3 was refused, for another process took the partition"):
            commit(old, group, 2, topic, b"zombie")
        with pytest.raises(CommitConflictError, match="commit 3 was refused"):  # and it does not take it back
            commit(old, group, 2, topic, b"zombie")
        commit(log, group, 2, topic, b"new 3")
        commit(log, group, 3, topic, b"new 4")
        assert log.manifest(group, 0) == (4, b"commit 4")
        assert lines(log, topic) == [b"old 1", b"old 2", b"new 3", b"new 4"]
        assert old.claim(group, 0) == 4  # only when it is told to
        commit(old, group, 4, topic, b"old 5")


@pytest.mark.parametrize("forgotten", [0, 60])
def test_who_claimed_sees_all_manifests_and_then_its_own(kafka, log, topic, forgotten):
    group = fresh("app")
    with opened(kafka) as old:
        for number in range(100):  # more than one look back from the end
            commit(old, group, number, topic, b"old")
        assert log.claim_all([group], 0) == [100]
        assert log.manifest(group, 0) == (100, b"commit 100")
        assert old.forget_manifests(group, 0, forgotten) == max(forgotten - 1, 0)  # a snapshot of the old owner, late
    for since in (99, 100, 98, 50, 0):
        expected = list(range(max(since + 1, forgotten, 1), 101))
        found = [number for number, _ in log.manifests(group, 0, since)]
        assert found[-len(expected) :] == expected if expected else not found
        assert found == sorted(set(found))
    commit(log, group, 100, topic, b"new")
    assert log.manifest(group, 0) == (101, b"commit 101")
    assert [number for number, _ in log.manifests(group, 0, 99)] == [100, 101]


def test_claims_of_several_groups_are_one(log, topic):
    groups = [fresh("app") for _ in range(3)]
    assert log.claim_all(groups, 1, 2) == [0, 0, 0]
    assert [log.manifest(group, 1) for group in groups] == [None] * 3
    commit(log, groups[0], 0, topic, b"a")
    assert log.claim_all(groups, 0, 2) == [1, 0, 0]


@pytest.mark.parametrize("seed", range(3))
def test_owners_that_claim_at_the_same_time_never_both_commit(kafka, topic, seed):
    group = fresh("app")
    outcomes = []

    def own(log, name):
        newest = log.claim(group, 0)
        for number in range(newest, newest + 4):
            try:
                commit(log, group, number, topic, b"%s %d" % (name, number + 1))
            except CommitConflictError:
                return
            outcomes.append(b"%s %d" % (name, number + 1))

    with opened(kafka) as one, opened(kafka) as two, opened(kafka) as reading:
        one.claim(group, 0)  # the topic is there, the connections are open
        two.claim(group, 0)
        threads = [threading.Thread(target=own, args=each) for each in ((one, b"one"), (two, b"two"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        newest = reading.claim(group, 0)
        found = lines(reading, topic)
        assert sorted(found) == sorted(outcomes)
        assert [int(each.split()[1]) for each in found] == list(range(1, newest + 1))
        assert [number for number, _ in reading.manifests(group, 0, 0)] == list(range(1, newest + 1))


def test_what_a_dead_owner_left_open_is_aborted_by_the_claim(kafka, log, topic):
    group = fresh("app")
    commit(log, group, 0, topic, b"1")
    with opened(kafka) as dying:
        assert dying.claim(group, 0) == 1
        producer = dying._owners[group, 0]._producers[0]
        batches = {(topic, 0): Outgoing(pa.array([b"half"], pa.large_binary()), 0).batches()}

        async def half():  # all of a commit but its end
            from aiokafka.protocol.transaction import AddPartitionsToTxnRequest

            until_s = dying._connection.deadline_s
            asked = AddPartitionsToTxnRequest(producer.transactional_id, producer._id, producer._epoch, [(topic, [0])])
            await producer._coordinated(asked, until_s)
            await producer._produce(batches, await dying._connection.leaders(batches, until_s), until_s)

        dying._connection.call(half(), "write half a commit")
    log.append(topic, 0, [b"plain"], 0)
    assert lines(log, topic) == [b"1"]  # readers wait for what is open
    with opened(kafka) as new:
        assert new.claim(group, 0) == 1
        commit(new, group, 1, topic, b"2")
        assert lines(new, topic) == [b"1", b"plain", b"2"]


def test_at_least_once_writes_outputs_before_the_manifest(kafka, topic):
    group = fresh("app")
    with opened(kafka, at_least_once=True) as log:
        for number in range(3):
            commit(log, group, number, topic, b"%d" % number)
        with pytest.raises(CommitConflictError, match="the newest commit is 3, not 1"):
            commit(log, group, 1, topic, b"again")
        assert log.manifests(group, 0, 1) == [(2, b"commit 2"), (3, b"commit 3")]
        assert lines(log, topic) == [b"0", b"1", b"2"]
        assert log.read(topic, 0, 0, 9).offsets.tolist() == [0, 1, 2]  # nothing between


@pytest.mark.parametrize("ending", ["nothing", "another commit", "release", "close"])
def test_at_least_once_writes_the_last_manifest_a_moment_later(kafka, log, topic, ending):
    group = fresh("app")
    with opened(kafka, at_least_once=True) as own:
        commit(own, group, 0, topic, b"0")
        if ending == "another commit":
            commit(own, group, 1, topic, b"1")
            assert log.manifest(group, 0)[0] >= 1  # it went with the outputs of the next one
        elif ending == "release":
            own.release(group, 0)
            assert log.manifest(group, 0) == (1, b"commit 1")
        elif ending == "close":
            own.close()
            assert log.manifest(group, 0) == (1, b"commit 1")
        else:
            assert log.wait({(manifest_topic(group), 0): 0}, 10)
            assert log.manifest(group, 0) == (1, b"commit 1")


def test_at_least_once_what_has_no_manifest_comes_again_and_is_numbered_anew(kafka, topic, monkeypatch):
    monkeypatch.setattr(commits, "HOLD_S", 1e6)
    group = fresh("app")
    own, heir = opened(kafka, at_least_once=True), opened(kafka, at_least_once=True)
    with own, heir:
        commit(own, group, 0, topic, b"0")
        commit(own, group, 1, topic, b"1")  # as if the process died now
        assert heir.claim(group, 0) == 1
        commit(heir, group, 1, topic, b"1 again")
        assert heir.manifest(group, 0) == (2, b"commit 2")
        assert lines(heir, topic) == [b"0", b"1", b"1 again"]


def test_many_manifests_are_found_from_the_end(log, topic):
    group = fresh("app")
    for number in range(60):
        with log.transaction(group, 0, number) as transaction:
            transaction.put_manifest(b"%d" % number)
    assert log.manifest(group, 0) == (60, b"59")
    assert [number for number, _ in log.manifests(group, 0, 3)] == list(range(4, 61))
    assert log.forget_manifests(group, 0, 31) == 30
    assert [number for number, _ in log.manifests(group, 0, 0)] == list(range(31, 61))
    assert log.forget_manifests(group, 0, 31) == 0


def test_manifests_get_as_many_partitions_as_the_topics_have_even_if_all_ask_at_once(kafka):
    name, group, late = fresh("in"), fresh("app"), fresh("sink")
    with opened(kafka) as log, opened(kafka) as other:
        log.create_topic(name, 3)
        logs = [log, other, other]
        threads = [threading.Thread(target=logs[p].claim, args=(group, p, 3)) for p in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with log.transaction(late, 1, 0) as transaction:
            transaction.put_manifest(b"1")
        with KafkaAdmin(KafkaSettings((kafka,))) as admin:
            found = admin.partitions([f"{group}.manifests", f"{late}.manifests"])
        assert found == {f"{group}.manifests": 3, f"{late}.manifests": 3}


def test_a_feed_serves_reads_and_wakes_who_waits(log, topic):
    log.append(topic, 0, [b"a", b"b", b"c"], 0)
    log.start_feed(topic, 0, 1)
    assert len(log.read(topic, 0, 1, 10)) == 0  # the feed brings it
    (sent,) = Outgoing(pa.array([b"fed 1", b"fed 2"], pa.large_binary()), 0).batches()
    data = sent.sent_by(0, 0, 0, transactional=False)
    data[:8] = (1).to_bytes(8, "big")
    answers = []
    waiter = threading.Thread(target=lambda: answers.append(log.wait({(topic, 0): 1}, 60)))
    waiter.start()
    assert log.feed(topic, 0, read_messages(bytes(data), 1), last_stable=3)
    waiter.join(30)
    assert answers == [True]
    assert log.read(topic, 0, 1, 10).values.to_pylist() == [b"fed 1", b"fed 2"]
    assert log.read(topic, 0, 0, 10).values.to_pylist() == [b"a", b"b", b"c"]  # from before: fetched
    log.stop_feed(topic, 0)
    assert log.read(topic, 0, 1, 10).values.to_pylist() == [b"b", b"c"]


def test_a_broker_that_is_not_there_is_told_in_time():
    with (
        opened("localhost:1", timeout_s=0.5) as log,
        pytest.raises(LogError, match="Kafka at localhost:1 does not answer"),
    ):
        log.end("in", 0)


def test_a_closed_log_says_so(kafka):
    log = opened(kafka)
    log.close()
    with pytest.raises(LogError, match="is closed; open it again"):
        log.end("in", 0)


def test_compression_must_be_known(kafka):
    with pytest.raises(LogError, match="compression is 'lz4'; choose none, gzip, snappy, zstd"):
        opened(kafka, compression="lz4")


@pytest.mark.parametrize("compression", ["gzip", "snappy", "zstd"])
def test_brokers_take_what_is_compressed(kafka, topic, compression):
    values = [b"%d repeated repeated" % number for number in range(1000)]
    with opened(kafka, compression=compression) as log:
        commit(log, fresh("app"), 0, topic, *values)
        assert lines(log, topic) == values

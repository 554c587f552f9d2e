"""The log on Kafka when brokers stall, die or refuse: nothing lost, nothing twice, and a sentence that says why."""

import threading

import pytest

from connectors.kafka.log import KafkaLog
from connectors.kafka.settings import KafkaSettings
from connectors.log import CommitConflictError, LogError
from tests.kafka_broker import KafkaBroker


def opened(address, **how):
    return KafkaLog(KafkaSettings((address,)), **how)


def commit(log, group, expected, topic, value):
    with log.transaction(group, 0, expected) as transaction:
        transaction.append(topic, 0, [value], 0)
        transaction.put_manifest(b"commit %d" % (expected + 1))


def lines(log, topic):
    found, at = [], 0
    while len(records := log.read(topic, 0, at, 1000)):
        found += records.values.to_pylist()
        at = int(records.offsets[-1]) + 1
    return found


@pytest.mark.usefixtures("needs_kafka")
def test_commits_are_exact_over_stalls_and_restarts_of_the_broker():
    broker = KafkaBroker()
    group, topic, written = "app", "in", threading.Event()
    try:
        broker.start()
        with opened(broker.address, timeout_s=1.0) as log:
            log.create_topic(topic)
            failed = []

            def work():
                newest = 0
                while newest < 150:
                    try:
                        commit(log, group, newest, topic, b"%d" % (newest + 1))
                        newest += 1
                        written.set()
                    except LogError as error:
                        failed.append(str(error))
                        newest = claimed(log, group, newest)

            worker = threading.Thread(target=work)
            worker.start()
            for trouble in (broker.stall, broker.kill):
                written.clear()
                assert written.wait(60)
                trouble()
                written.clear()
                written.wait(2.5)  # nothing comes, or one that was on its way
                broker.resume() if trouble == broker.stall else broker.start()
            worker.join(120)
            assert not worker.is_alive()
            assert lines(log, topic) == [b"%d" % number for number in range(1, 151)]
            assert [number for number, _ in log.manifests(group, 0, 0)] == list(range(1, 151))
            assert failed
            assert all("does not answer" in each or "newest commit is" in each or "refused" in each for each in failed)
    finally:
        broker.close()


def claimed(log, group, newest):
    """Claim until the broker is back; at most the one commit whose fate was unknown is new."""
    while True:
        try:
            found = log.claim(group, 0)
        except LogError:
            continue
        assert found in (newest, newest + 1)
        return found


@pytest.mark.usefixtures("needs_kafka")
def test_after_a_commit_of_unknown_outcome_nothing_is_committed_before_a_claim():
    broker = KafkaBroker()
    try:
        broker.start()
        with opened(broker.address, timeout_s=1.0) as log:
            log.create_topic("in")
            commit(log, "app", 0, "in", b"1")
            broker.stall()
            with pytest.raises(LogError, match="does not answer"):
                commit(log, "app", 1, "in", b"2")
            with pytest.raises(CommitConflictError, match="commit 2 was refused, for what came of the last one is unk"):
                commit(log, "app", 1, "in", b"too early")
            broker.resume()
            newest = claimed(log, "app", 1)
            commit(log, "app", newest, "in", b"last")
            assert lines(log, "in") == ([b"1", b"last"] if newest == 1 else [b"1", b"2", b"last"])
            assert [number for number, _ in log.manifests("app", 0, 0)] == list(range(1, newest + 2))
    finally:
        broker.close()


@pytest.mark.usefixtures("needs_kafka")
def test_who_is_not_allowed_is_told_what_to_do():
    broker = KafkaBroker(secured=True)
    try:
        broker.start()
        address = broker.address_of("SASL_PLAINTEXT")
        with opened(broker.address) as log:
            log.create_topic("in")
            log.append("in", 0, [b"a"], 0)
        login = {"security": "SASL_PLAINTEXT", "mechanism": "PLAIN", "user": "bob"}
        with (
            KafkaLog(KafkaSettings((address,), password="bob's secret", **login), timeout_s=5) as log,
            pytest.raises(LogError, match="user 'bob' may not look at topic 'in'"),
        ):
            log.read("in", 0, 0, 1)
        with (
            KafkaLog(KafkaSettings((address,), password="wrong", **login), timeout_s=5) as log,
            pytest.raises(LogError, match="refuses user 'bob'"),
        ):
            log.read("in", 0, 0, 1)
    finally:
        broker.close()

"""Commands around Kafka, with a real broker: topics, produce, lag."""

import re
import time

import pytest

from connectors.kafka.admin import KafkaAdmin, KafkaTopic
from connectors.kafka.log import KafkaLog
from connectors.kafka.sending import Sender
from connectors.kafka.settings import KafkaSettings
from ops.producing import produce_file
from ops.record_files import RecordFile
from pipeline.manifest import Manifest, encode

SECONDS_MAX = 10.0


def rows(text):
    return {line.split()[0]: line.split() for line in text.splitlines() if line.split()}


def test_topics_are_made_once_and_described(own, pelton):
    app, payments = own
    assert f"{payments}, " in pelton("topics create bank.py --partitions 2 --retention 30d").stdout
    assert pelton("topics create bank.py --partitions 2").stdout == "0 topics made; all were there\n"
    described = rows(pelton("topics describe bank.py").stdout)
    assert described[payments] == [payments, "stream", "2", "1", "30d", "delete", "broker", "0", "ok"]
    assert described[f"{app}.decisions"][1:4] == ["decisions", "2", "1"]
    assert described[f"{app}.{payments}.manifests"][-1] == "ok"
    assert rows(pelton("topics list bank.py").stdout)[payments][1:] == ["1", "0", "0", "0", "30d"]


def test_what_is_wrong_with_a_topic_is_described(own, pelton, kafka):
    app, payments = own
    with KafkaAdmin(KafkaSettings.read(kafka, {})) as admin:
        admin.create([KafkaTopic(payments, 2, retention_ms=3_600_000), KafkaTopic(f"{app}.dead", 3)])
    described = pelton("topics describe bank.py").stdout
    assert re.search(r"windows need \d+d: raise retention.ms", described)
    assert "3 partitions, the app's other topics have 2" in described
    assert "missing: pelton topics create" in described


def test_another_number_of_partitions_is_refused(own, pelton):
    pelton("topics create bank.py --partitions 2")
    message = pelton("topics create bank.py --partitions 4", code=1).stderr
    assert "has 2 partitions, not 4; ask for 2" in message


def test_topics_without_kafka_are_those_of_the_log(bank, pelton):
    assert pelton("topics create bank.py").stdout.startswith("4 topics made: ")
    assert pelton("topics").stdout == pelton("topics list bank.py").stdout == pelton("topics describe bank.py").stdout


def test_produced_records_are_in_the_topic(own, pelton, stream):
    _, payments = own
    pelton("topics create bank.py --partitions 2")
    result = pelton(f"produce {payments} data/payments.jsonl --key card")
    assert f"{payments}: {stream.records:,} records sent" in result.stdout
    lines = [line.split() for line in pelton("topics list bank.py").stdout.splitlines() if line.startswith(payments)]
    assert sum(int(line[4]) for line in lines) == stream.records
    assert all(int(line[4]) > 0 for line in lines)


def test_a_rate_is_held_by_the_clock_it_is_given(own, bank, pelton, kafka):
    _, payments = own
    pelton("topics create bank.py")
    path = bank / "rated.jsonl"
    path.write_text("".join(f'{{"k":{number}}}\n' for number in range(100)))
    clock_s, waits = [0.0], []

    def sleep(seconds):
        waits.append(seconds)
        clock_s[0] += seconds

    with Sender(KafkaSettings.read(kafka, {}), payments, 1) as sender:
        sent = produce_file(sender, RecordFile(path), "k", 50.0, lambda: int(clock_s[0] * 1000), sleep, lambda *_: None)
    assert sent == (100, 0)
    assert sum(waits) == pytest.approx(1.9)  # 20 batches of 5, a tenth of a second between two


def test_mistakes_of_producing_are_said(own, pelton, kafka):
    _, payments = own
    assert f"there is no topic '{payments}'" in pelton(f"produce {payments} data/payments.jsonl", code=1).stderr
    pelton("topics create bank.py")
    wrong = pelton(f"produce {payments} data/payments.jsonl --key nix", code=1).stderr
    assert "has a field 'nix'; choose another --key" in wrong
    assert (
        "rate is 0.0; choose a number above 0"
        in pelton(f"produce {payments} data/payments.jsonl --rate 0", code=1).stderr
    )


def test_produce_asks_where_kafka_is(bank, pelton):
    assert "say where Kafka is: --kafka host:port" in pelton("produce payments data/payments.jsonl", code=2).stderr


def test_lag_is_what_the_manifests_have_not_taken(own, pelton, kafka):
    app, payments = own
    pelton("topics create bank.py --partitions 1")
    pelton(f"produce {payments} data/payments.jsonl --key card")
    before = rows(pelton("lag bank.py").stdout)[f"{app}.{payments}"]
    with KafkaLog(KafkaSettings.read(kafka, {})) as log, log.transaction(f"{app}.{payments}", 0, 0) as commit:
        commit.put_manifest(encode(Manifest({payments: (0, 100)})))
    lines = [line.split() for line in pelton("lag bank.py").stdout.splitlines()]
    after = next(line for line in lines if line[1] == payments)
    assert before[4] == "-"
    assert after[4] == "100"
    assert int(after[3]) - 100 == int(after[5])


def test_lag_of_the_log(bank, pelton):
    assert "there is no log at" in pelton("lag bank.py", code=1).stderr
    pelton("append bank.py data/payments.jsonl data/frauds.jsonl")
    waiting = pelton("lag bank.py")
    assert "records waiting" in waiting.stderr
    assert {line[2] for line in map(str.split, waiting.stdout.splitlines()[1:])} == {"0"}


@pytest.mark.parametrize("line", ["topics list", "topics create bank.py", "topics describe bank.py", "lag bank.py"])
def test_a_broker_that_is_away_is_told_in_seconds(bank, pelton, line):
    started_s = time.monotonic()
    message = pelton(f"{line} --kafka localhost:1", code=1).stderr
    assert message.startswith("pelton: Kafka at localhost:1 does not answer: nothing listens there")
    assert message.count("\n") == 1
    assert time.monotonic() - started_s < SECONDS_MAX

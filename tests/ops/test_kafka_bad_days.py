"""Bad days of workers on Kafka, with a real broker: what is wrong is told in a sentence, and nothing is lost."""

import itertools
import json
import os
import threading
import time

import pytest
from kafka import KafkaProducer

from connectors.kafka.admin import KafkaAdmin, KafkaTopic
from connectors.kafka.log import KafkaLog
from connectors.kafka.settings import KafkaSettings
from connectors.log import LogError
from ops.kafka.running import KafkaRun, run_on_kafka
from ops.settings import Settings
from pipeline import App, Rule, Stream, Task
from pipeline.dead_letters import dead_topic, from_rows
from pipeline.live import create_topics
from pipeline.loading import load_app
from pipeline.topics import decisions_topic
from tests.chaos.kafka_site import Journal, Workers
from tests.kafka_broker import KafkaBroker, fresh

AWAY_S = float(os.environ.get("PELTON_TEST_AWAY_S", "8"))  # by hand: 120
PARTITIONS, LARGE = 2, 10 << 20
START_MS = 1_700_000_000_000


def made_app(secret=False):
    """An app with two keys, for the tests share a broker."""
    fields = {"card": "card" if secret else "string", "shop": "string?", "amount": "money", "note": "string?"}
    payments = Stream(fresh("payments"), id="event_id", time="ts", lateness="1h", key="card", fields=fields)
    features = {
        "spent": payments.by("card").last("1h").sum("amount"), "std": payments.by("card").last("1h").std("amount"),
        "at_shop": payments.by("shop").last("1h").count(),
    }  # fmt: skip
    rules = [Rule("much", "spent / amount > 3", "review"), Rule("odd", "amount ** 200 > 1e300", "block")]
    return App(fresh("shop"), [Task("risk", payments, features, rules, model=None, learner=None)])


def event(number, **more):
    made = {"event_id": f"e{number}", "ts": START_MS + number, "card": f"c{number % 5}", "shop": "s", "amount": 1.5}
    return json.dumps(made | more).encode()


def poison():
    """Return records that are broken in every way that came to mind."""
    nested = b'{"event_id":"deep","note":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    return [
        b"\xff\xfe\x00\x01", b"", None, b"null", b"[]", b"17", b'"text"', b"{", event(0)[:-1], b"{}", nested,
        event(99, ts=2**63 - 1), event(99, ts=-(2**63)), event(99, ts=10**400), event(99, ts="yesterday"),
        event(99, amount=1e300), event(99, amount=-(10**400)), b'{"event_id":"x","amount":NaN}',
        event(99).replace(b"1.5", b"1e999"), event(99).replace(b"1.5", b"Infinity"),
        event(99, card=None), event(99, event_id=None), event(99, event_id=["x"]), event(99, card={"c": 1}),
        event(99).replace(b'"card": "c4', b'"card": "\xc3\x28'), b"\x00" * LARGE, b"x" * LARGE,
        event(99, amount="much", note="n" * LARGE), b"\x00\x00\x00\x00\x07avro of nobody",
    ]  # fmt: skip


def send(settings, topic, partition, values):
    """Write values as any client may: null ones, and compressed ones that are larger than what a topic takes."""
    with KafkaLog(settings, compression="zstd") as log:
        log.append(topic, partition, [value for value in values if value is not None], 0)
    if None in values:
        producer = KafkaProducer(bootstrap_servers=settings.brokers)
        producer.send(topic, None, key=b"removed", partition=partition).get(30)
        producer.close()


def all_rows(log, topic):
    found = []
    for partition in range(PARTITIONS):
        at = log.begin(topic, partition)
        while stored := log.read_rows(topic, partition, at, 10_000):
            found += [rows for _, rows in stored]
            at = stored[-1][0] + stored[-1][1].num_rows
    return found


def rows_of(settings, app, topic, sealer):
    with KafkaLog(settings, sealer) as log:
        create_topics(app, log, PARTITIONS)
        return all_rows(log, topic)


def run(settings, app, folder):
    said = []
    done = run_on_kafka(
        app, Settings(folder, folder / "log.db"), KafkaRun(settings, until_idle=True, plain=True), said.append
    )
    return dict(done), said


@pytest.mark.parametrize("secret", [False, True])
def test_broken_records_become_dead_letters_and_stop_nobody(kafka, tmp_path, secret):
    settings, app = KafkaSettings.read(kafka, {}), made_app(secret)
    (stream,) = app.streams
    with KafkaAdmin(settings) as admin:
        admin.create([KafkaTopic(stream, PARTITIONS, append_time=True)])
    bad, good = poison(), [event(number) for number in range(40)]
    mixed = [value for pair in itertools.zip_longest(good, bad, fillvalue=event(7)) for value in pair]  # copies of e7
    send(settings, stream, 0, mixed)
    large = [event(51, note="n" * LARGE), event(52, event_id="i" * (2 << 20)), event(53, shop="s" * (2 << 20))]
    small = [event(54, note="n" * 1_000_000), event(55, event_id="i" * 1_000_000), event(56, shop=None)]
    send(settings, stream, 1, [*large, *small])
    done, said = run(settings, app, tmp_path)
    assert not [text for text in said if "problem" in text], said
    assert "problem" not in done
    _, sealer = Settings(tmp_path, tmp_path / "log.db").secrets(app, make=False)
    rows = rows_of(settings, app, decisions_topic(app.name), sealer)
    ids = [each for some in rows for each in some["event_id"].to_pylist()]
    assert sorted(ids) == sorted([f"e{number}" for number in (*range(40), 54, 56)] + ["i" * 1_000_000])
    rows = rows_of(settings, app, dead_topic(app.name), sealer)
    letters = [letter for some in rows for letter in from_rows(some, sealer)]
    assert {letter.kind for letter in letters} == {"invalid"}
    assert all(letter.cause for letter in letters)
    assert sorted(letter.raw for letter in letters) == sorted(value or b"" for value in [*bad, *large])


WAITING = """
from pipeline import App, Stream, Task

payments = Stream("payments", id="event_id", time="ts", lateness="1h", key="card",
                  fields={"card": "string", "shop": "string?", "amount": "money"})
features = {"n": payments.by("card").last("1h").count(), "at_shop": payments.by("shop").last("1h").count()}
app = App("waiting", [Task("risk", on=payments, model=None, learner=None, features=features)])
"""


def wait_until(what, told, seconds=120.0):
    until_s = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until_s, told()
        threading.Event().wait(0.2)


def decided(log):
    try:
        return [each for rows in all_rows(log, decisions_topic("waiting")) for each in rows["event_id"].to_pylist()]
    except LogError:
        return []


@pytest.mark.timeout(180 + 2 * AWAY_S)
@pytest.mark.usefixtures("needs_kafka")
def test_brokers_that_are_away_are_told_and_waited_for(tmp_path):
    (tmp_path / "app.py").write_text(WAITING)
    app, broker = load_app(str(tmp_path / "app.py")), KafkaBroker(settings="group.min.session.timeout.ms=1000")
    workers = Workers(tmp_path, broker.address, 2.0, Journal())
    try:
        broker.start()
        with KafkaLog(KafkaSettings.read(broker.address, {}), timeout_s=5.0) as log:
            create_topics(app, log, PARTITIONS)
            number = workers.start()
            for first in (0, 50):
                for partition in range(PARTITIONS):
                    made = [event(n) for n in range(first, first + 50) if n % PARTITIONS == partition]
                    log.append("payments", partition, made, 0)
                if first == 0:
                    wait_until(lambda: len(decided(log)) == 50, workers.words)
                    broker.kill()
                    wait_until(lambda: "does not answer" in workers.said(number), workers.words)
                    threading.Event().wait(AWAY_S)
                    workers.check()
                    broker.start()
            began_s = time.monotonic()
            wait_until(lambda: len(decided(log)) == 100, workers.words)
            print(f"decided {time.monotonic() - began_s:.1f} s after brokers were back from {AWAY_S:.0f} s")
            wait_until(lambda: "all problems are over" in workers.said(number), workers.words)
            assert sorted(decided(log)) == sorted(f"e{n}" for n in range(100))
            workers.leave(number)
    finally:
        workers.close()
        broker.close()

"""`pelton run --kafka` in this process, on a real broker: what it decides, what it refuses, agents."""

import json
import time

import pytest

from connectors.kafka.admin import KafkaAdmin, KafkaTopic
from connectors.kafka.log import KafkaLog
from connectors.kafka.settings import KafkaSettings
from ops.kafka.running import KafkaRun, run_on_kafka
from ops.settings import Settings, SettingsError
from pipeline import App, Rule, Stream, Task
from pipeline.errors import DeclarationError
from pipeline.live import create_topics, decisions_topic
from tests.kafka_broker import fresh
from tests.ops.witnesses import witnesses

PARTITIONS = 2


def made_app():
    """An app with names of its own, for the tests share a broker."""
    fields = {"card": "string", "amount": "money"}
    payments = Stream(fresh("payments"), id="event_id", time="ts", lateness="5s", fields=fields)
    features = {"amount": payments.amount, "count_1h": payments.by("card").last("1h").count()}
    rules = [Rule("many", "count_1h > 2", "review")]
    return App(fresh("shop"), [Task("risk", payments, features, rules, model=None, learner=None)])


@pytest.fixture
def kafka_settings(kafka):
    return KafkaSettings.read(kafka, {})


@pytest.fixture
def app(kafka_settings):
    app = made_app()
    with KafkaLog(kafka_settings) as log:
        create_topics(app, log, PARTITIONS)
    return app


def append(settings, app, first, count):
    now_ms = int(time.time() * 1000)
    (stream,) = app.streams
    with KafkaLog(settings) as log:
        for partition in range(PARTITIONS):
            lines = [
                json.dumps({"event_id": f"e{number}", "ts": now_ms, "card": f"c{partition}", "amount": 1}).encode()
                for number in range(first, first + count)
                if number % PARTITIONS == partition
            ]
            log.append(stream, partition, lines, now_ms)


def run(kafka_settings, app, folder, **more):
    said = []
    settings = Settings(folder, folder / "log.db")
    done = dict(run_on_kafka(app, settings, KafkaRun(kafka_settings, until_idle=True, plain=True, **more), said.append))
    return done, said


def decided(settings, app):
    with KafkaLog(settings) as log:
        create_topics(app, log, PARTITIONS)
        topic = decisions_topic(app.name)
        rows = [rows for p in range(PARTITIONS) for _, rows in log.read_rows(topic, p, 0, 100_000)]
    return [each for batch in rows for each in batch.column("event_id").to_pylist()]


@pytest.mark.parametrize("at_least_once", [False, True])
def test_everything_is_decided_and_a_second_run_goes_on_there(kafka_settings, app, tmp_path, at_least_once):
    append(kafka_settings, app, 0, 200)
    done, said = run(kafka_settings, app, tmp_path, at_least_once=at_least_once)
    assert "200 events" in done["decided"]
    assert {f"partition {number} joined" for number in range(PARTITIONS)} <= set(said)
    append(kafka_settings, app, 200, 100)
    done, said = run(kafka_settings, app, tmp_path, at_least_once=at_least_once)
    assert "100 events" in done["decided"]
    assert any("going on after commit" in text for text in said)
    (stream,) = app.streams
    assert done[stream].endswith("300 applied: closed")
    assert sorted(decided(kafka_settings, app)) == sorted(f"e{number}" for number in range(300))


def test_agents_get_every_decision_after_its_commit_and_again_what_failed(kafka_settings, app, tmp_path):
    got, batches = witnesses(app, fails_at="e7")
    append(kafka_settings, app, 0, 20)
    done, _ = run(kafka_settings, app, tmp_path)
    assert sorted(event for event, _ in got) == sorted(f"e{number}" for number in range(20))
    assert [what for event, what in got if event == "e0"] == ["allow"]
    assert [what for event, what in got if event == "e19"] == ["review"]
    assert sum(map(len, batches)) == 20
    assert "problem" not in done
    got.clear()
    append(kafka_settings, app, 20, 5)
    run(kafka_settings, app, tmp_path)
    assert sorted(event for event, _ in got) == [f"e{number}" for number in range(20, 25)]  # none again: it ended well


def test_outputs_get_each_decision_in_a_file_of_its_partition(kafka_settings, app, tmp_path):
    for first in (0, 40):
        append(kafka_settings, app, first, 40)
        run(kafka_settings, app, tmp_path, outputs=[str(tmp_path / "out.jsonl")])
    for partition in range(PARTITIONS):
        lines = (tmp_path / f"out-{partition}.jsonl").read_text().splitlines()
        assert [json.loads(line)["event_id"] for line in lines] == [f"e{n}" for n in range(partition, 80, PARTITIONS)]


def test_an_agent_is_an_async_function_with_a_name_of_its_own():
    app = made_app()
    with pytest.raises(DeclarationError, match="agent 'plain' is no async function; declare it with async def"):

        @app.agent
        def plain(decision):
            pass

    async def block(decision):
        pass

    app.agent(block)
    with pytest.raises(DeclarationError, match="two agents are named 'block'"):
        app.agent(block)


def test_a_missing_topic_is_told_with_the_command_that_makes_it(kafka_settings, tmp_path):
    app = made_app()
    (stream,) = app.streams
    with pytest.raises(SettingsError, match=f"there is no topic '{stream}' at .*; make it: pelton topics create APP"):
        run(kafka_settings, app, tmp_path)


def test_topics_with_other_partitions_are_refused(kafka_settings, app, tmp_path):
    (stream,) = app.streams
    with KafkaAdmin(kafka_settings) as admin:
        admin.add_partitions(stream, 3)
    told = f"topic '{app.name}.decisions' has 2 partitions and '{stream}' 3: keys would move away from their state"
    with pytest.raises(SettingsError, match=told):
        run(kafka_settings, app, tmp_path)


def test_a_topic_that_keeps_too_little_is_refused(kafka_settings, tmp_path):
    app = made_app()
    (stream,) = app.streams
    with KafkaAdmin(kafka_settings) as admin:
        admin.create([KafkaTopic(stream, PARTITIONS, 60_000)])
    with pytest.raises(SettingsError, match=rf"topic '{stream}': windows need .*: raise retention.ms"):
        run(kafka_settings, app, tmp_path)

"""Messages in Avro through a real schema registry and processes of `pelton run --kafka`; schemas change on the way."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from connectors.kafka.log import KafkaLog
from connectors.kafka.settings import KafkaSettings
from connectors.schema_registry import RegistryError, RegistrySettings, SchemaRegistry
from connectors.wire_writer import avro_schema, avro_writer
from ops.kafka.running import KafkaRun, run_on_kafka
from ops.producing import messages_of
from ops.settings import Settings
from pipeline.dead_letters import SCHEMA, dead_topic
from pipeline.loading import load_app
from pipeline.topics import create_topics, decisions_schema, decisions_topic
from tests.connectors.fake_registry import FakeRegistry
from tests.kafka_broker import fresh

PELTON = str(Path(sys.executable).with_name("pelton"))
WAIT_S_MAX = 60.0
NOW_MS = int(time.time() * 1000)
APP = """
from pipeline import App, Fixed, Rule, Stream, Task

payments = Stream("{payments}", id="event_id", time="ts", lateness="1m", format="{format}", fields={{
    "card": "string", "amount": "money", "place": "string?"}})
card = payments.by("card")
risk = Task("risk", on=payments, model=None, learner=None, threshold=Fixed(), features={{
    "paid": payments.amount, "sum_1h": card.last("1h").sum("amount"), "places": card.last("1h").distinct("place"),
}}, rules=[Rule("often", "sum_1h > 100", "review")])
app = App("{app}", tasks=[risk])
"""


class Site:
    """An app in a file, with topics of its own."""

    def __init__(self, folder, address, format):
        self.name, self.topic = fresh(f"shop{format}"), fresh("payments")
        self.file = folder / f"{self.name}.py"
        self.file.write_text(APP.format(payments=self.topic, format=format, app=self.name))
        self.app = load_app(str(self.file))
        dead = SCHEMA.with_metadata({"value": "raw"})
        rows = {decisions_topic(self.name): decisions_schema(self.app), dead_topic(self.name): dead}
        self.log = KafkaLog(KafkaSettings.read(address, {}), rows=rows)
        create_topics(self.app, self.log)

    def produce(self, values):
        self.log.append(self.topic, 0, list(values), NOW_MS)

    def rows(self, topic):
        found, at = [], 0
        while stored := self.log.read_rows(topic, 0, at, 10_000):
            at = stored[-1][0] + stored[-1][1].num_rows
            found += [row for _, rows in stored for row in rows.to_pylist()]
        return found

    def wait_for(self, topic, count):
        until_s = time.monotonic() + WAIT_S_MAX
        while len(found := self.rows(topic)) < count:
            left_s = until_s - time.monotonic()
            assert left_s > 0, f"{len(found)} of {count} rows in {topic}"
            self.log.wait({(topic, 0): self.log.end(topic, 0)}, min(left_s, 1.0))
        return found


def payment(number, **more):
    return {"event_id": f"e{number}", "ts": NOW_MS + number, "card": f"c{number % 3}", "amount": number / 4,
            "place": None if number % 5 == 0 else f"p{number % 4}"} | more  # fmt: skip


@pytest.fixture
def run(kafka, registry_url, tmp_path):
    """Return a function that starts a worker of an app, as a process that ends with the test."""
    started = []

    def start(site):
        out = (tmp_path / f"{site.name}.log").open("w+")
        line = [PELTON, "run", str(site.file), "--kafka", kafka, "--plain"]
        more = {"PELTON_DATA": str(tmp_path / site.name), "PELTON_SCHEMA_REGISTRY": registry_url}
        process = subprocess.Popen(line, cwd=tmp_path, stdout=out, stderr=out, env=os.environ | more)
        started.append((process, out))
        return process

    yield start
    for process, out in started:
        process.terminate()
        process.wait(30)
        out.close()


def messages(write, records):
    return write(pa.array(records, pa.large_binary())).to_pylist()


def decided(rows):
    return {row["event_id"]: {name: row[name] for name in ("decision", "rule", "paid", "sum_1h", "places")}
            for row in rows}  # fmt: skip


def test_avro_decides_as_json_does_and_schemas_change_while_it_runs(kafka, registry_url, run, tmp_path):
    as_json, as_avro = Site(tmp_path, kafka, "json"), Site(tmp_path, kafka, "avro")
    registry = SchemaRegistry(RegistrySettings((registry_url,), timeout_s=60))
    schema, environment = as_avro.app.streams[as_avro.topic].schema, {"PELTON_SCHEMA_REGISTRY": registry_url}
    first = [json.dumps(payment(number)).encode() for number in range(60)]
    write = messages_of(as_avro.topic, "avro", schema, environment)
    as_json.produce(first)
    as_avro.produce(messages(write, first))
    assert write.unfit == 0
    worker = run(as_avro)
    run(as_json)
    expected = decided(as_json.wait_for(decisions_topic(as_json.name), 60))
    assert decided(as_avro.wait_for(decisions_topic(as_avro.name), 60)) == expected
    assert {each["decision"] for each in expected.values()} == {"allow", "review"}

    newer = json.loads(avro_schema(schema, "Newer"))
    newer["fields"].append({"name": "device", "type": ["null", "string"], "default": None})
    write_newer = avro_writer(json.dumps(newer), registry.register(fresh("newer"), json.dumps(newer)))
    as_avro.produce([write_newer(payment(number, device="phone")) for number in range(60, 70)])
    assert len(as_avro.wait_for(decisions_topic(as_avro.name), 70)) == 70

    other = json.dumps({"type": "record", "name": "Other", "fields": [{"name": "event_id", "type": "string"}]})
    other_id = registry.register(fresh("other"), other)
    broken = avro_writer(other, other_id)({"event_id": "e99"})
    as_avro.produce([broken, *messages(write, [json.dumps(payment(70)).encode()])])
    (letter,) = as_avro.wait_for(dead_topic(as_avro.name), 1)
    assert letter["kind"] == "invalid"
    assert f"schema id {other_id}" in letter["cause"]
    assert letter["raw"] == broken
    assert decided(as_avro.wait_for(decisions_topic(as_avro.name), 71))["e70"]["paid"] == 17.5
    assert worker.poll() is None


def test_produced_in_avro(kafka, registry_url, pelton, tmp_path, monkeypatch):
    """What does not fit the schema is sent all the same, and told."""
    site = Site(tmp_path, kafka, "avro")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PELTON_KAFKA_BROKERS", kafka)
    line = f"produce {site.topic} records.jsonl --key card --format avro"
    (tmp_path / "records.jsonl").write_text(
        "".join(json.dumps(payment(number)) + "\n" for number in range(20)) + "{}\n"
    )
    assert "messages in avro need a schema registry; set PELTON_SCHEMA_REGISTRY" in pelton(line, code=1).stderr
    monkeypatch.setenv("PELTON_SCHEMA_REGISTRY", registry_url)
    assert f"has no schema of {site.topic}-value yet" in pelton(line, code=1).stderr
    pelton(f"{line} --app {site.file}")
    done = pelton(line)  # the schema is there by now
    assert "21 records sent" in done.stdout
    assert "1 of them do not fit the schema and went as JSON" in done.stderr
    values = site.log.read(site.topic, 0, 0, 100).values.to_pylist()
    assert sorted(value[:1] for value in values) == [b"\0"] * 40 + [b"{"] * 2
    monkeypatch.setenv("PELTON_DATA", str(tmp_path / "data"))
    told = pelton(f"run {site.file} --until-idle --plain").stdout
    assert "42 = 20 applied + 20 duplicate + 2 invalid: closed" in told


def test_protobuf_is_produced_and_decides_as_json_does(kafka, registry_url, run, pelton, tmp_path, monkeypatch):
    as_json, as_protobuf = Site(tmp_path, kafka, "json"), Site(tmp_path, kafka, "protobuf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PELTON_KAFKA_BROKERS", kafka)
    monkeypatch.setenv("PELTON_SCHEMA_REGISTRY", registry_url)
    records = [payment(number) for number in range(60)] + [payment(60, amount="much"), payment(61)]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    assert "62 records sent" in pelton(f"produce {as_json.topic} records.jsonl --key card").stdout
    line = f"produce {as_protobuf.topic} records.jsonl --key card --format protobuf --app {as_protobuf.file}"
    assert "1 of them do not fit the schema and went as JSON" in pelton(line).stderr
    registry = SchemaRegistry(RegistrySettings((registry_url,), timeout_s=60))
    number, registered = registry.latest(f"{as_protobuf.topic}-value")
    assert registered.kind == "PROTOBUF"
    values = as_protobuf.log.read(as_protobuf.topic, 0, 0, 100).values.to_pylist()
    head = b"\0" + number.to_bytes(4, "big") + b"\0"  # then the message, the first in its schema
    assert [value[:6] == head for value in values] == [each != 60 for each in range(62)]
    workers = [run(as_json), run(as_protobuf)]
    expected = decided(as_json.wait_for(decisions_topic(as_json.name), 61))
    assert decided(as_protobuf.wait_for(decisions_topic(as_protobuf.name), 61)) == expected
    assert {each["decision"] for each in expected.values()} == {"allow", "review"}
    for site in (as_json, as_protobuf):
        (letter,) = site.wait_for(dead_topic(site.name), 1)
        assert json.loads(letter["raw"])["amount"] == "much"
    assert [worker.poll() for worker in workers] == [None, None]


@pytest.fixture
def fake():
    registry = FakeRegistry()
    yield registry
    registry.close()


def run_here(site, kafka, folder, url, monkeypatch, said):
    """Run until all is decided; what is wrong on the way is said."""
    monkeypatch.setenv("PELTON_SCHEMA_REGISTRY", url)
    how = KafkaRun(KafkaSettings.read(kafka, {}), until_idle=True, plain=True, learn=False)
    return dict(run_on_kafka(site.app, Settings(folder, folder / "log.db"), how, said))


def test_a_registry_that_is_away_is_waited_for(kafka, fake, tmp_path, monkeypatch):
    site, told = Site(tmp_path, kafka, "avro"), []
    schema = avro_schema(site.app.streams[site.topic].schema, "Payment")
    number = fake.add({"schema": schema}, f"{site.topic}-value")
    site.produce([avro_writer(schema, number)(payment(each)) for each in range(10)])
    fake.broken = (503, b"{}")

    def said(text):
        told.append(text)
        if "answers 503" in text:
            fake.broken = None

    assert "10 events" in run_here(site, kafka, tmp_path, fake.url, monkeypatch, said)["decided"]
    assert any("answers 503" in text and "trying again" in text for text in told)


def test_a_registry_that_refuses_ends_the_worker_with_a_sentence(kafka, fake, tmp_path, monkeypatch):
    site = Site(tmp_path, kafka, "avro")
    schema = avro_schema(site.app.streams[site.topic].schema, "Payment")
    number = fake.add({"schema": schema}, f"{site.topic}-value")
    site.produce([avro_writer(schema, number)(payment(0))])
    fake.login = "alice:secret"
    with pytest.raises(RegistryError, match="check PELTON_SCHEMA_REGISTRY_USER and PELTON_SCHEMA_REGISTRY_PASSWORD"):
        run_here(site, kafka, tmp_path, fake.url, monkeypatch, lambda text: None)
    assert site.rows(dead_topic(site.name)) == []

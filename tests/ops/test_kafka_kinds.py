"""Messages and photographs are decided on a real broker as they are on the embedded log."""

import re
import shutil
from contextlib import closing

import numpy as np
import pyarrow as pa
import pytest

from connectors.images import ImageField, pixels_of
from connectors.kafka.log import KafkaLog
from connectors.kafka.settings import KafkaSettings
from connectors.sqlite_log import SqliteLog
from models.registry import Registry
from ops.demo.stage import APP, BUNDLES
from ops.kafka.running import KafkaRun, run_on_kafka
from ops.runner import AppRunner
from ops.settings import Settings
from ops.simulate.messages import MessageSettings, simulate_messages
from ops.simulate.photos import PhotoSettings, simulate_photos
from pipeline.live import create_topics
from pipeline.loading import load_app
from pipeline.topics import decisions_topic, rows_of
from tests.kafka_broker import fresh

PARTITIONS = 2
NOW_MS = 1_790_000_000_000  # after everything that is made up
EVENTS = 60


def made_messages(folder):
    made = simulate_messages(MessageSettings(messages=EVENTS, seed=5), folder)
    return made.messages_path, made.labels_path


def made_photos(folder):
    made = simulate_photos(PhotoSettings(photos=EVENTS, broken_share=0.05, seed=5), folder)
    return made.photos_path, made.labels_path


KINDS = {
    "support": ("support.py", "messages", "answers", made_messages),
    "defect": ("surfaces.py", "photos", "inspections", made_photos),
}


@pytest.fixture(params=KINDS)
def made(request, tmp_path):
    """An app with names of its own, its registry, and what is to be decided: (app, settings, {topic: lines})."""
    file, events, labels, make = KINDS[request.param]
    text, names = (APP.parent / file).read_text(), {name: fresh(name) for name in (events, labels)}
    for name, own in names.items():
        text = text.replace(f'"{name}"', f'"{own}"')
    text = re.sub(r'App\("\w+"', f'App("{fresh("kinds")}"', text)
    (tmp_path / "app.py").write_text(text)
    shutil.copy(APP.parent / "articles.jsonl", tmp_path)
    settings = Settings(tmp_path, tmp_path / "log.db")
    with closing(Registry.open(None, settings.bundles)) as registry:
        registry.promote(
            request.param, registry.add_bundle(request.param, BUNDLES[request.param], "test", 0), "test", 0
        )
    files = make(tmp_path / "data")
    lines = {names[name]: path.read_bytes().splitlines() for name, path in zip((events, labels), files, strict=True)}
    return load_app(str(tmp_path / "app.py")), settings, lines


def shared_out(lines, partition):
    """Every second line, so that both partitions have events in the order of their time."""
    return lines[partition::PARTITIONS]


def on_embedded_log(app, settings, lines):
    """What one partition after the other decides, each in a log of its own, as a worker of Kafka sees it."""
    rows = []
    for partition in range(PARTITIONS):
        folder = settings.data / f"embedded-{partition}"
        with SqliteLog(folder / "log.db") as log, closing(Registry.open(None, settings.bundles)) as registry:
            create_topics(app, log)
            for topic, all_lines in lines.items():
                log.append(topic, 0, shared_out(all_lines, partition), NOW_MS)
            with AppRunner(app, log, registry, folder) as runner:
                runner.run(until_idle=True)
            rows += [batch for _, batch in log.read_rows(decisions_topic(app.name), 0, 0, 1 << 20)]
    return pa.Table.from_batches(rows).to_pylist()


def on_kafka(app, settings, lines, kafka):
    kafka_settings = KafkaSettings.read(kafka, {})
    with KafkaLog(kafka_settings) as log:
        create_topics(app, log, PARTITIONS)
        for topic, all_lines in lines.items():
            for partition in range(PARTITIONS):
                log.append(topic, partition, shared_out(all_lines, partition), NOW_MS)
    done = dict(run_on_kafka(app, settings, KafkaRun(kafka_settings, until_idle=True, plain=True), lambda text: None))
    with KafkaLog(kafka_settings, rows=rows_of(app)) as log:
        found = [batch for partition in range(PARTITIONS)
                 for _, batch in log.read_rows(decisions_topic(app.name), partition, 0, 1 << 20)]  # fmt: skip
    return pa.Table.from_batches(found).to_pylist(), done


def seen(heat_map):
    return pixels_of(heat_map, ImageField(size=128, channels=1)).astype(int)


def test_decisions_are_those_of_the_embedded_log(made, kafka):
    app, settings, lines = made
    wanted = {row["event_id"]: row for row in on_embedded_log(app, settings, lines)}
    found, done = on_kafka(app, settings, lines, kafka)
    assert len(found) == len({row["event_id"] for row in found})
    assert {row["event_id"] for row in found} == wanted.keys()
    assert EVENTS * 0.8 < len(found) <= EVENTS
    for name in lines:
        assert done[name].endswith(": closed"), done[name]
    assert len({row["decision"] for row in found}) > 1
    for row in found:
        other = wanted[row["event_id"]]
        assert row.keys() == other.keys()
        for name in row.keys() - {"heat_map"}:
            assert plain(row[name]) == (pytest.approx(plain(other[name]), abs=1e-5)), (row["event_id"], name)
        assert (row.get("heat_map") is None) == (other.get("heat_map") is None)
        if row.get("heat_map"):
            assert np.abs(seen(row["heat_map"]) - seen(other["heat_map"])).max() <= 1


def plain(value):
    """Scores of names as one dictionary, so that they can be compared with a tolerance."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return {next(iter(each.values())): each["score"] for each in value}
    return value

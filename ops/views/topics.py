"""Topics of the embedded log and of Kafka, made and shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ops.brokers import kafka_settings
from ops.settings import Settings, SettingsError
from ops.terminal import note, say, table
from pipeline.app import App
from pipeline.durations import duration_ms, in_words
from pipeline.loading import load_app

if TYPE_CHECKING:
    from connectors.kafka.admin import KafkaAdmin, KafkaTopic

DAY_MS = 86_400_000
_HEADERS = ("topic", "partition", "begin", "end", "records", "keeps")


def make_on_log(app: App, data_folder: Path | None, partitions: int, retention: str | None = None) -> list[str]:
    """Make the topics of an app in the embedded log; return the names of the new ones.

    Args:
        retention: of streams, also of those that are there; None leaves them, and new ones are kept for ever.
    """
    from pipeline.live import create_topics
    from pipeline.recovery import history_ms

    retention_ms = duration_ms(retention, "retention") if retention else None
    needed_ms = max(map(history_ms, app.plans.values()))
    if retention_ms is not None and retention_ms < needed_ms:
        needed = in_words(-(-needed_ms // DAY_MS) * DAY_MS)
        raise SettingsError(f"retention is {retention}, and the windows of {app.name!r} need {needed}; choose as much")
    settings = Settings.read(data_folder)
    _, sealer = settings.secrets(app, make=True)
    with settings.open_log(sealer, make=True) as log:
        before = {topic.name for topic in log.topics()}
        create_topics(app, log, partitions)
        for stream in app.streams.values():
            log.create_topic(stream.name, partitions, retention_ms, sealed=stream.schema.has_sensitive)
        return [topic.name for topic in log.topics() if topic.name not in before]


def make_on_kafka(app: App, brokers: str, partitions: int, retention: str | None, copies: int | None) -> list[str]:
    """Make the topics of an app on Kafka; return the names of the new ones."""
    from connectors.kafka.admin import KafkaAdmin
    from ops.app_topics import app_topics

    retention_ms = duration_ms(retention, "retention") if retention else None
    wanted = app_topics(app, partitions, retention_ms, copies)
    for each in wanted:
        if problems := [text for text in each.problems(each.topic) if "windows" in text]:
            note(f"{each.topic.name}: {problems[0]}")
    with KafkaAdmin(kafka_settings(brokers)) as admin:
        return admin.create(each.topic for each in wanted)


def list_of_log(data_folder: Path | None, app: str | None) -> None:
    """Print the topics of the embedded log."""
    settings = Settings.read(data_folder)
    named = names_of(load_app(app)) if app else None
    with settings.open_log() as log:
        rows = [
            (
                topic.name, partition, begin := log.begin(topic.name, partition), end := log.end(topic.name, partition),
                end - begin, _kept(topic.retention_ms), "yes" if topic.sealed else "no",
            )
            for topic in log.topics() if named is None or topic.name in named for partition in range(topic.partitions)
        ]  # fmt: skip
    if not rows:
        say(f"The log {settings.log} has no topics yet. Put records into it: pelton append {app or 'APP'} FILE")
        return
    table((*_HEADERS, "encrypted"), rows)
    note(f"{settings.log}, {settings.log.stat().st_size / 1e6:,.1f} MB")


def list_of_kafka(brokers: str, app: str | None) -> None:
    """Print the topics of a cluster."""
    from connectors.kafka.admin import KafkaAdmin

    settings = kafka_settings(brokers)
    with KafkaAdmin(settings) as admin:
        named = names_of(load_app(app), admin) if app else admin.names()
        found = admin.describe(named)
        rows = _offsets(admin, found)
    if not rows:
        seen = f" that user {settings.user!r} may see" if settings.sasl else ""
        say(f"Kafka at {settings.where} has no such topics{seen}. Make them: pelton topics create {app or 'APP'}")
        return
    table(_HEADERS, rows)


def describe_on_kafka(brokers: str, app: str) -> None:
    """Print what each topic of an app is for, how it is kept, and what is wrong with it."""
    from connectors.kafka.admin import KafkaAdmin
    from ops.app_topics import app_topics

    loaded = load_app(app)
    with KafkaAdmin(kafka_settings(brokers)) as admin:
        wanted = app_topics(loaded, partitions_of_app(loaded, admin))
        found = admin.describe([each.topic.name for each in wanted])
        ends, begins = admin.ends(list(found)), admin.begins(list(found))
    rows = []
    for each in wanted:
        there = found.get(each.topic.name)
        records = sum(ends[at] - begins[at] for at in ends if at[0] == each.topic.name)
        shown = (
            (there.partitions, there.copies, _kept(there.retention_ms), there.cleanup,
             "broker" if there.append_time else "producer", records) if there else ("", "", "", "", "", "")
        )  # fmt: skip
        rows.append((each.topic.name, each.what, *shown, "; ".join(each.problems(there)) or "ok"))
    table(("topic", "holds", "partitions", "copies", "keeps", "cleanup", "clock", "records", ""), rows)
    if any(there.name for there in found.values() if not there.append_time):
        note("clock: whose time a record carries. Pelton's own topics carry the broker's, which no producer can set.")


def partitions_of_app(app: App, admin: KafkaAdmin) -> int:
    """Return how many partitions the app's decided stream has on the cluster, 1 if it is not there."""
    found = admin.partitions(list(app.plans))
    return max(found.values(), default=1)


def names_of(app: App, admin: KafkaAdmin | None = None) -> list[str]:
    """Return the names of an app's topics, with those that only Kafka has where `admin` is given."""
    from ops.app_topics import app_topics

    partitions = partitions_of_app(app, admin) if admin is not None else 1
    return [each.topic.name for each in app_topics(app, partitions)]


def _offsets(admin: KafkaAdmin, topics: dict[str, KafkaTopic]) -> list[tuple[object, ...]]:
    begins, ends = admin.begins(list(topics)), admin.ends(list(topics))
    return [
        (name, partition, begins[name, partition], end, end - begins[name, partition], _kept(topics[name].retention_ms))
        for (name, partition), end in sorted(ends.items())
    ]


def _kept(retention_ms: int | None) -> str:
    return in_words(retention_ms) if retention_ms else "forever"

"""How far an app is in its inputs: what its manifests say was taken, beside where the topics end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from connectors.log import Log
from ops.brokers import kafka_settings
from ops.settings import Settings
from ops.terminal import counted, note, say, table
from pipeline.app import App
from pipeline.errors import PeltonError
from pipeline.manifest import decode
from pipeline.stages import Stage, internal_topics, stages_of


@dataclass(frozen=True)
class PartitionLag:
    """How far a stage is in a partition of one of its inputs.

    Attributes:
        taken: the offset behind the last record that was committed; None before the first commit.
        worker: who works there; "" if nobody does or nobody knows.
    """

    stage: str
    topic: str
    partition: int
    begin: int
    end: int
    taken: int | None
    worker: str = ""

    @property
    def waiting(self) -> int:
        """How many offsets wait; on Kafka the ends of transactions have some too."""
        return max(0, self.end - max(self.begin, self.taken or 0))


def lag_on_log(app: App, data_folder: Path | None) -> list[PartitionLag]:
    """Return the lag on the embedded log."""
    with Settings.read(data_folder).open_log() as log:
        counts = {topic.name: topic.partitions for topic in log.topics()}
        partitions = max((counts.get(name, 0) for name in app.plans), default=0)
        if not partitions:
            raise PeltonError(f"the log has no topic of app {app.name!r} yet; put records into it: pelton append")
        stages = stages_of(app, partitions)
        at = {(name, each): (log.begin(name, each), log.end(name, each))
              for name in {each.topic for stage in stages for each in stage.inputs} & set(counts)
              for each in range(counts[name])}  # fmt: skip
        return _lags(stages, at, lambda group, partition: _taken(log, group, partition), {})


def lag_on_kafka(app: App, brokers: str) -> list[PartitionLag]:
    """Return the lag on Kafka."""
    from connectors.kafka.admin import KafkaAdmin
    from connectors.kafka.log import KafkaLog

    settings = kafka_settings(brokers)
    with KafkaAdmin(settings) as admin:
        partitions = max(admin.partitions(list(app.plans)).values(), default=0)
        if not partitions:
            raise PeltonError(
                f"Kafka at {settings.where} has no topic of app {app.name!r}; make them: pelton topics create"
            )
        stages = stages_of(app, partitions)
        names = sorted({each.topic for stage in stages for each in stage.inputs})
        there = list(admin.partitions(names))
        begins, ends = admin.begins(there), admin.ends(there)
        workers = admin.readers(app.name)
    between = set(internal_topics(stages))
    with KafkaLog(settings, rows={name: pa.schema([]) for name in between}) as log:
        at = {place: (begins[place], end) for place, end in ends.items()}

        def taken(group: str, partition: int) -> dict[str, tuple[int, int]]:
            return {
                topic: (first, _messages_taken(log, topic, partition, end, ends[topic, partition]))
                if topic in between and (topic, partition) in ends else (first, end)
                for topic, (first, end) in _taken(log, group, partition).items()
            }  # fmt: skip

        return _lags(stages, at, taken, workers)


def _messages_taken(log: Log, topic: str, partition: int, row: int, end: int) -> int:
    """Return which message a row stands in, or where the topic ends if nothing but marks of transactions is left."""
    from connectors.kafka.codec import message_offset

    return message_offset(row, pa.schema([])) if log.read_rows(topic, partition, row, 1) else end


def show(lags: list[PartitionLag]) -> None:
    """Print them, and the sum."""
    table(
        ("stage", "topic", "partition", "end", "taken", "waiting", "worker"),
        [(each.stage, each.topic, each.partition, each.end, "-" if each.taken is None else each.taken, each.waiting,
          each.worker or "-") for each in lags],
    )  # fmt: skip
    waiting = sum(each.waiting for each in lags)
    (note if waiting else say)(f"{counted(waiting, 'record')} waiting" if waiting else "everything is decided")


def _taken(log: Log, group: str, partition: int) -> Mapping[str, tuple[int, int]]:
    newest = log.manifest(group, partition)
    return decode(newest[1]).inputs if newest is not None else {}


def _lags(
    stages: list[Stage],
    at: Mapping[tuple[str, int], tuple[int, int]],
    taken: Callable[[str, int], Mapping[str, tuple[int, int]]],
    workers: Mapping[tuple[str, int], str],
) -> list[PartitionLag]:
    found = []
    for stage in stages:
        for partition in range(stage.partitions):
            inputs = taken(stage.group, partition)
            for each in stage.inputs:
                place = (each.topic, partition)
                if place not in at:
                    continue
                ends = inputs.get(each.topic) or inputs.get(each.stream.name)
                worker = workers.get(place) or workers.get((stage.main.topic, partition), "")
                found.append(PartitionLag(stage.group, *place, *at[place], ends[1] if ends else None, worker))
    return found

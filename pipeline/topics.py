"""The topics of an app: the streams' own, those between stages, decisions and dead letters."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from connectors.log import Log
from pipeline import dead_letters
from pipeline.app import App
from pipeline.dead_letters import dead_topic
from pipeline.decisions import Decider
from pipeline.errors import PeltonError
from pipeline.stages import LINES, Stage, internal_topics, stages_of


def decisions_topic(app: str) -> str:
    """Return the name of an app's topic of decisions."""
    return f"{app}.decisions"


def group_of(app: str, stream: str) -> str:
    """Return the name under which the manifests of a stream's first stage are kept."""
    return f"{app}.{stream}"


def decisions_schema(app: App) -> pa.Schema:
    """Return the columns of all tasks' decisions; a row of one task has its own only."""
    deciders = [Decider(task, app.plans[task.on.name]) for task in app.tasks]
    fields = {each.name: each for decider in deciders for each in decider.schema}
    return pa.schema(list(fields.values()), metadata={"key": "event_id"})


def create_topics(app: App, log: Log, partitions: int = 1) -> None:
    """Make the topics of an app where they are missing; those of sensitive streams and dead letters are encrypted.

    Raises:
        LogError: a topic is there with another number of partitions: its keys would move away from their state.
    """
    stages = stages_of(app, partitions)
    for stage in stages:
        for each in stage.inputs:
            if each.kind == LINES:
                log.create_topic(each.topic, partitions, sealed=each.schema.has_sensitive)
    for name in internal_topics(stages):
        log.create_topic(name, partitions, rows=pa.schema([]))  # batches that carry their own schema
    log.create_topic(decisions_topic(app.name), partitions, rows=decisions_schema(app))
    log.create_topic(dead_topic(app.name), partitions, rows=dead_letters.SCHEMA.with_metadata({"value": "raw"}))


def count_partitions(app: App, log: Log) -> int:
    """Return how many partitions the app's topics have.

    Raises:
        PeltonError: a stream's topic is missing, or they have different numbers: equal keys would not meet.
    """
    counts = {topic.name: topic.partitions for topic in log.topics()}
    found = {each.topic: counts.get(each.topic) for stage in stages_of(app) for each in stage.inputs}
    missing = [name for name, count in found.items() if count is None]
    if missing:
        raise PeltonError(f"topic {missing[0]!r} is not in the log; create the app's topics first")
    numbers = {count for count in found.values() if count is not None}
    if len(numbers) > 1:
        said = ", ".join(f"{name} has {count}" for name, count in found.items())
        raise PeltonError(
            f"the topics of app {app.name!r} differ in their partitions: {said}; give all the same number"
        )
    return numbers.pop()


def topics_of(stages: Iterable[Stage]) -> list[str]:
    """Return the topics that some stages read, each once."""
    return list(dict.fromkeys(each.topic for stage in stages for each in stage.inputs))

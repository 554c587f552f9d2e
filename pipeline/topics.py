"""The topics of an app: the streams' own, those between stages, decisions and dead letters."""

from __future__ import annotations

import pyarrow as pa

from connectors.log import Log
from pipeline import dead_letters
from pipeline.app import App
from pipeline.dead_letters import dead_topic
from pipeline.errors import DeclarationError, PeltonError
from pipeline.kinds import decider_of
from pipeline.stages import LINES, internal_topics, stages_of


def decisions_topic(app: str) -> str:
    """Return the name of an app's topic of decisions."""
    return f"{app}.decisions"


def group_of(app: str, stream: str) -> str:
    """Return the name under which the manifests of a stream's first stage are kept."""
    return f"{app}.{stream}"


def decisions_schema(app: App) -> pa.Schema:
    """Return the columns of all tasks' decisions; a row of one task has its own only.

    Raises:
        DeclarationError: a column is of different types in two tasks.
    """
    fields: dict[str, pa.Field] = {}
    for task in app.tasks:
        for each in decider_of(task, app.plans[task.on.name]).schema:
            if fields.setdefault(each.name, each).type != each.type:
                problem = f"column {each.name!r} of its decisions is a {each.type}, of another task's a "
                problem += f"{fields[each.name].type}; rename the feature"
                raise DeclarationError(f"task {task.name!r}: {problem}", task.place)
    return pa.schema(list(fields.values()), metadata={"key": "event_id"})


def rows_of_name(app: str) -> dict[str, pa.Schema]:
    """Return the columns of those topics of rows that are the same for all apps: the dead letters."""
    return {dead_topic(app): dead_letters.SCHEMA.with_metadata({"value": "raw"})}


def rows_of(app: App) -> dict[str, pa.Schema]:
    """Return the columns of an app's topics of rows, on however many partitions; see `Log.create_topic`."""
    between = dict.fromkeys(internal_topics(stages_of(app, 2)), pa.schema([]))  # batches that carry their own schema
    return between | {decisions_topic(app.name): decisions_schema(app)} | rows_of_name(app.name)


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
    rows = rows_of(app)
    for name in (*internal_topics(stages), decisions_topic(app.name), dead_topic(app.name)):
        log.create_topic(name, partitions, rows=rows[name])


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

"""From the log to an engine as of the last commit: the newest good snapshot, then the commits since, silently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from connectors.decode import decode as decode_records
from connectors.log import Log
from connectors.records import Chunk, Records
from connectors.schema import Schema
from connectors.secrets import Tokeniser
from pipeline.durations import in_words
from pipeline.engine import Engine
from pipeline.errors import PeltonError
from pipeline.manifest import Manifest, decode
from pipeline.plan import StreamPlan
from pipeline.restoring import restored
from pipeline.state_store import StateStore
from pipeline.stream import Stream

REBUILD_ROWS = 8192
SNAPSHOT_EVERY_MS = 60_000


@dataclass
class Recovered:
    """An engine at the last commit.

    Attributes:
        commit: number of that commit, 0 before the first.
        manifest: of that commit.
        positions: stream -> offset of the first record not taken yet.
        replayed: how many records were replayed to get there.
        problem: why no snapshot could be read; None if the store answered.
    """

    engine: Engine
    commit: int
    manifest: Manifest | None
    positions: dict[str, int]
    replayed: int
    problem: str | None = None


def streams_of(plan: StreamPlan) -> dict[str, Stream]:
    """Return the streams that an engine of this plan reads, the decided one first."""
    facts = [plan.facts] if plan.facts is not None and plan.facts.derived_from is None else []
    return {stream.name: stream for stream in (plan.stream, *plan.others, *facts)}


def chunk_of(records: Records, schema: Schema) -> Chunk:
    """Decode records of the log."""
    values = records.values
    return Chunk(
        records.topic, records.partition, records.offsets, decode_records(schema, records),
        lambda i: values[i].as_py(), records.append_ms, records.redriven_from,
    )  # fmt: skip


def history_ms(plan: StreamPlan) -> int:
    """Return how much of the log a worker needs to rebuild its state."""
    windows = max((group.retention_ms for group in plan.groups), default=0)
    return max(windows, plan.horizon_ms) + plan.stream.lateness_ms + SNAPSHOT_EVERY_MS


def check_retention(plan: StreamPlan, log: Log) -> None:
    """Refuse a log that forgets faster than the windows.

    Raises:
        PeltonError: a topic keeps less than the longest span, delay, lateness and the time between snapshots.
    """
    needed = history_ms(plan)
    for topic in log.topics():
        if topic.name in streams_of(plan) and topic.retention_ms is not None and topic.retention_ms < needed:
            raise PeltonError(
                f"topic {topic.name!r} keeps {in_words(topic.retention_ms)}, and the app's windows need "
                f"{in_words(needed)} to be rebuilt; raise its retention or shorten the spans"
            )


def recover(
    plan: StreamPlan, log: Log, group: str, partition: int, store: StateStore, tokeniser: Tokeniser | None
) -> Recovered:
    """Return the engine at the last manifest.

    A damaged or missing snapshot is survived by replaying further; a store that cannot be reached too, after a while.

    Raises:
        PeltonError: the store cannot be reached, and the log does not reach back far enough to do without.
    """
    newest = log.manifest(group, partition)
    if newest is None:
        begins = {name: log.begin(name, partition) for name in streams_of(plan)}
        return Recovered(Engine(plan, tokeniser), 0, None, begins, 0)
    commit, payload = newest
    engine, saved, problem = restored(
        lambda: Engine(plan, tokeniser), store, log, group, partition, streams_of(plan), history_ms(plan)
    )
    start = saved.commit if saved is not None else 0
    manifests = [(number, decode(each)) for number, each in log.manifests(group, partition, start)]
    replayed = 0
    if start == 0 and manifests and manifests[0][0] > 1:
        replayed += _rebuild(engine, plan, log, partition, manifests[0][1])
    for _, manifest in manifests:
        replayed += _again(engine, plan, log, partition, manifest.inputs)
    last = decode(payload)
    return Recovered(engine, commit, last, _positions(plan, log, group, partition, last), replayed, problem)


def _positions(plan: StreamPlan, log: Log, group: str, partition: int, last: Manifest) -> dict[str, int]:
    return {
        name: last.inputs[name][1] if name in last.inputs else log.begin(name, partition) for name in streams_of(plan)
    }


def _again(engine: Engine, plan: StreamPlan, log: Log, partition: int, inputs: Mapping[str, tuple[int, int]]) -> int:
    """Apply one commit again."""
    chunks = {}
    for name, stream in streams_of(plan).items():
        first, end = inputs.get(name, (0, 0))
        if end > first:
            chunks[name] = chunk_of(_read_all(log, name, partition, first, end), stream.schema)
    engine.process(chunks)
    return sum(len(chunk) for chunk in chunks.values())


def _rebuild(engine: Engine, plan: StreamPlan, log: Log, partition: int, first: Manifest) -> int:
    """Apply what lies before the oldest manifest that is left, as much as the log still has of it."""
    replayed = 0
    for name in streams_of(plan):
        at, end = log.begin(name, partition), first.inputs.get(name, (0, 0))[0]
        while at < end:
            replayed += _again(engine, plan, log, partition, {name: (at, min(at + REBUILD_ROWS, end))})
            at += REBUILD_ROWS
    return replayed


def _read_all(log: Log, topic: str, partition: int, first: int, end: int) -> Records:
    """Read exactly the records of a commit, however large."""
    parts = [log.read(topic, partition, first, end - first)]
    while (at := int(parts[-1].offsets[-1]) + 1) < end:
        parts.append(log.read(topic, partition, at, end - at))
    if len(parts) == 1:
        return parts[0]

    def joined(name: str, missing: int) -> np.ndarray | None:
        arrays = [getattr(part, name) for part in parts]
        if all(array is None for array in arrays):
            return None
        sizes = [len(part) for part in parts]
        return np.concatenate([np.full(n, missing) if a is None else a for a, n in zip(arrays, sizes, strict=True)])

    values = pa.concat_arrays([part.values for part in parts])
    offsets = np.concatenate([part.offsets for part in parts])
    return Records(topic, partition, values, offsets, joined("append_ms", 0), joined("redriven_from", -1))

"""Runs apps over several partitions: workers of all stages step in any order, die and come back at any commit."""

from __future__ import annotations

import json
import random
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from connectors.log import Log, TopicInfo
from connectors.memory_log import MemoryLog
from connectors.partitions import partitions_of
from connectors.records import Records
from connectors.secrets import Sealer, Tokeniser
from pipeline.app import App
from pipeline.arrivals import Arrival
from pipeline.carried import OFFSET, SOURCE
from pipeline.decisions import Served
from pipeline.engine import Engine, Featured
from pipeline.live import Worker, create_topics, decisions_topic
from pipeline.manifest import Manifest, decode
from pipeline.recovery import chunks_again
from pipeline.stages import LINES, Output, Stage, stages_of

KEY = bytes(range(32))
START_MS = 1_700_000_000_000


class KeepsManifests(MemoryLog):
    """Forgets nothing, so that a test can follow all commits afterwards."""

    def forget_manifests(self, *which: object) -> int:
        """Keep them."""
        return 0


class GappyLog(KeepsManifests):
    """A log whose offsets have gaps, as those of Kafka have: lines stand at every third, stored batches far apart.

    Behind the last record there is nothing for a while before `end`.
    """

    def __init__(self, sealer: Sealer | None = None) -> None:
        """Begin without topics."""
        super().__init__(sealer)
        self._of_rows: set[str] = set()

    def create_topic(self, name: str, *some: Any, rows: pa.Schema | None = None, **more: Any) -> TopicInfo:
        """Make a topic, and note which ones hold rows."""
        if rows is not None:
            self._of_rows.add(name)
        return super().create_topic(name, *some, rows=rows, **more)

    def _inside(self, topic: str, offset: int) -> int:
        return offset // 10_000 + offset % 10_000 if topic in self._of_rows else max(0, -(-(offset - 5) // 3))

    def _outside(self, topic: str, partition: int, offset: int) -> int:
        if topic not in self._of_rows:
            return 3 * offset + 5
        bases = [base for base, _ in self._partitions[topic, partition].stored]
        base = bases[bisect_right(bases, offset) - 1] if bases else offset
        return base * 10_000 + offset - base

    def read(self, topic: str, partition: int, offset: int, limit: int) -> Records:
        """Read lines."""
        records = super().read(topic, partition, min(self._inside(topic, offset), super().end(topic, partition)), limit)
        return replace(records, offsets=3 * records.offsets + 5)

    def read_rows(self, topic: str, partition: int, offset: int, limit: int) -> list[tuple[int, pa.RecordBatch]]:
        """Read rows."""
        found = super().read_rows(topic, partition, self._inside(topic, offset), limit)
        return [(self._outside(topic, partition, first), rows) for first, rows in found]

    def begin(self, topic: str, partition: int) -> int:
        """Return a position at or before the first record."""
        return 0

    def end(self, topic: str, partition: int) -> int:
        """Return a position behind the last record, with nothing between."""
        end = super().end(topic, partition)
        return end * 10_000 if topic in self._of_rows else 3 * end + 7


@dataclass
class Site:
    """An app on a log of several partitions, with its workers.

    Attributes:
        partitions: of all topics.
        now_ms: the clock.
        kills: how often a worker was thrown away.
    """

    app: App
    partitions: int
    folder: Path
    log: Log = field(default_factory=lambda: KeepsManifests(Sealer(KEY)))
    now_ms: int = START_MS
    kills: int = 0

    def __post_init__(self) -> None:
        """Make topics and workers."""
        create_topics(self.app, self.log, self.partitions)
        self.stages = stages_of(self.app, self.partitions)
        self.workers = {
            (stage.group, p): self._worker(stage, p) for stage in self.stages for p in range(self.partitions)
        }

    def _worker(self, stage: Stage, partition: int) -> Worker:
        return Worker(
            self.app, stage, self.log, self.folder, lambda task: Served(), lambda: self.now_ms, lambda: 0.0,
            Tokeniser(KEY), Sealer(KEY), partition,
        )  # fmt: skip

    def append(self, stream: str, records: list[dict], key: str, append_ms: int | None = None) -> None:
        """Send records to the partitions of their keys, as producers do."""
        keys = pa.array([each.get(key) for each in records])
        chosen = partitions_of(keys.cast(pa.string()), self.partitions)
        for partition in range(self.partitions):
            lines = [json.dumps(each).encode() for each, at in zip(records, chosen, strict=True) if at == partition]
            if lines:
                self.log.append(stream, partition, lines, append_ms if append_ms is not None else self.now_ms)

    def disturb(self, draw: random.Random, kill: float = 0.25) -> None:
        """Let some worker do a step, or die and come back; sometimes after a snapshot."""
        name = draw.choice(list(self.workers))
        worker = self.workers[name]
        if draw.random() < kill:
            if worker.commit and draw.random() < 0.5:
                worker.save()
            self.workers[name] = self._worker(worker.stage, worker.partition)
            self.kills += 1
        self.now_ms += draw.choice((1, 50, 400, 1_500))
        self.workers[name].step()

    def drain(self, rounds: int = 1_000) -> None:
        """Let all workers step until nothing is left; time goes on, so markers are written."""
        quiet = 0
        for _ in range(rounds):
            self.now_ms += 300
            busy = [worker.step() is not None for worker in self.workers.values()]
            quiet = 0 if any(busy) else quiet + 1
            if quiet > 8:
                return
        raise AssertionError("the stages never come to rest")

    def commits(self, stage: Stage, partition: int) -> Iterator[dict[str, Arrival]]:
        """Return what each commit of a worker took, in order."""
        for _, payload in self.log.manifests(stage.group, partition, 0):
            yield chunks_again(stage, self.log, partition, decode(payload))

    def replayed(self, stage: Stage, partition: int) -> list[tuple[dict[str, Arrival], Featured]]:
        """Follow a worker's commits with an engine that nobody disturbs."""
        engine = Engine(stage, Tokeniser(KEY))
        return [(chunks, engine.process(chunks)) for chunks in self.commits(stage, partition)]

    def decided(self, partition: int | None = None) -> pa.Table:
        """Return the decisions of one partition, or of all."""
        chosen = range(self.partitions) if partition is None else [partition]
        topic = decisions_topic(self.app.name)
        rows = [each for p in chosen for each in self.all_rows(topic, p)]
        return pa.Table.from_batches(rows) if rows else pa.table({"event_id": pa.array([], pa.string())})

    def all_rows(self, topic: str, partition: int) -> list[pa.RecordBatch]:
        """Return all batches of a topic of rows."""
        found: list[pa.RecordBatch] = []
        at = self.log.begin(topic, partition)
        while stored := self.log.read_rows(topic, partition, at, 10**6):
            found += [rows for _, rows in stored]
            at = stored[-1][0] + stored[-1][1].num_rows
        return found

    def passed_on(self, output: Output, source: int) -> pa.Table:
        """Return what a worker passed on to an output, in the order of its own log where rows say so."""
        found = []
        for partition in range(self.partitions):
            events = [
                rows
                for rows in self.all_rows(output.topic, partition)
                if OFFSET in rows.schema.names or "key" in rows.schema.names
            ]
            found += [rows.append_column("at", pa.array([partition] * len(rows))) for rows in events]
        if not found:
            return pa.table({})
        table = pa.Table.from_batches(found)
        table = table.filter(pa.compute.equal(table[SOURCE], source))
        return table.sort_by(OFFSET) if OFFSET in table.schema.names else table


def entrance_lines(site: Site, stage: Stage, partition: int) -> Mapping[str, Arrival]:
    """Return all that a first stage took on a partition, as one commit."""
    ends = {each.topic: (0, site.log.end(each.topic, partition)) for each in stage.inputs if each.kind == LINES}
    return chunks_again(stage, site.log, partition, Manifest(ends, at_ms=site.now_ms))


def matrix_of(commits: list[tuple[dict[str, Arrival], Featured]], columns: list[int]) -> np.ndarray:
    """Return (events, columns) of some commits."""
    return np.concatenate([np.zeros((0, len(columns))), *(featured.matrix[:, columns] for _, featured in commits)])


__all__ = ["KEY", "START_MS", "KeepsManifests", "Site", "entrance_lines", "matrix_of"]

"""The live loop of one stream and partition: take records, decide, commit outputs and manifest as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from connectors.columns import ints_of
from connectors.log import Log
from connectors.records import Chunk
from connectors.secrets import Sealer, Tokeniser
from pipeline.app import App
from pipeline.dead_letters import dead_topic, to_rows
from pipeline.decisions import Decider, Served
from pipeline.engine import Engine, Featured
from pipeline.heads import rows_to_take
from pipeline.inputs import Ledger
from pipeline.manifest import Manifest, encode
from pipeline.plan import StreamPlan
from pipeline.recovery import SNAPSHOT_EVERY_MS, check_retention, chunk_of, recover, streams_of
from pipeline.replay import split
from pipeline.snapshots import Snapshots
from pipeline.state_store import StateStore

Int64s = NDArray[np.int64]
RECORDS_MAX = 8192  # taken from one input in one commit


@dataclass(frozen=True)
class Step:
    """One commit, for views and metrics.

    Attributes:
        rows: the decided events, sensitive fields as tokens.
        decisions: task -> its rows, one per event.
        append_ms: (events,) when the log took the decided events.
        committed_ms: when the commit was done.
        manifest: with the ledgers since the beginning.
        seconds: where the time went: decode, features, score, commit.
    """

    rows: pa.RecordBatch
    decisions: dict[str, pa.RecordBatch]
    append_ms: Int64s
    committed_ms: int
    manifest: Manifest
    dead: int
    seconds: dict[str, float]


def decisions_topic(app: str) -> str:
    """Return the name of an app's topic of decisions."""
    return f"{app}.decisions"


def group_of(app: str, stream: str) -> str:
    """Return the name under which a stream's manifests are kept."""
    return f"{app}.{stream}"


def create_topics(app: App, log: Log, partitions: int = 1) -> None:
    """Make the topics of an app where they are missing; those of sensitive streams and dead letters are encrypted."""
    for plan in app.plans.values():
        for stream in streams_of(plan).values():
            log.create_topic(stream.name, partitions, sealed=stream.schema.has_sensitive)
    log.create_topic(decisions_topic(app.name), partitions)
    log.create_topic(dead_topic(app.name), partitions)


class Worker:
    """Decides the events of one stream and partition; killed at any moment, it goes on without loss or doubles.

    Args:
        app, plan: what to do.
        log: where records come from and decisions go to.
        state: folder or URL of snapshots.
        served: returns the models of a task; asked between two commits, so a change falls between two batches.
        clock_ms: milliseconds since the epoch.
        timer_s: seconds of a clock that never goes back, for where the time goes.
        tokeniser, sealer: for sensitive fields.
    """

    def __init__(
        self,
        app: App,
        plan: StreamPlan,
        log: Log,
        state: Path | str,
        served: Callable[[str], Served],
        clock_ms: Callable[[], int],
        timer_s: Callable[[], float],
        tokeniser: Tokeniser | None = None,
        sealer: Sealer | None = None,
        partition: int = 0,
    ) -> None:
        self.app, self.plan, self.partition = app, plan, partition
        self.group = group_of(app.name, plan.stream.name)
        self._log, self._served, self._clock_ms, self._timer_s = log, served, clock_ms, timer_s
        self._tokeniser, self._sealer = tokeniser, sealer
        self._streams = streams_of(plan)
        self._sensitive = {name for name, stream in self._streams.items() if stream.schema.has_sensitive}
        self._tasks = [task for task in app.tasks if task.on is plan.stream]
        self.store = StateStore.of(state, self.group, partition)
        self.snapshots = Snapshots(self.store, log, self.group, partition, clock_ms, timer_s)
        check_retention(plan, log)
        self.recover()

    def recover(self) -> None:
        """Throw the state in memory away and take it from the log."""
        self.snapshots.drop()
        found = recover(self.plan, self._log, self.group, self.partition, self.store, self._tokeniser)
        self.engine: Engine = found.engine
        self.commit, self.positions, self.replayed = found.commit, found.positions, found.replayed
        self.ledgers = {name: Ledger() for name in self._streams}
        self.decided = {task.name: 0 for task in self._tasks}
        self.deciders = {task.name: Decider(task, self.plan) for task in self._tasks}
        self.snapshots.problem = found.problem
        if found.manifest is not None:
            for name, counts in found.manifest.ledgers.items():
                self.ledgers[name] = Ledger(**counts)
            self.decided |= found.manifest.decided
            for name, threshold in found.manifest.thresholds.items():
                if name in self.deciders:
                    self.deciders[name].state = threshold

    def waits_for(self) -> dict[tuple[str, int], int]:
        """Return topic, partition and offset of what would be news, for `Log.wait`."""
        return {(name, self.partition): offset for name, offset in self.positions.items()}

    def step(self) -> Step | None:
        """Take what is there, decide it and commit; None if nothing is there.

        If the commit fails, nothing of it is in the log, the state is taken from the log anew, and the error goes on.
        """
        started_s = self._timer_s()
        chunks = self._take()
        if not chunks:
            return None
        decoded_s = self._timer_s()
        try:
            return self._apply(chunks, started_s, decoded_s)
        except BaseException:
            self.recover()
            raise

    def _apply(self, chunks: Mapping[str, Chunk], started_s: float, decoded_s: float) -> Step:
        featured = self.engine.process(chunks)
        featured_s = self._timer_s()
        served = {task.name: self._served(task.name) for task in self._tasks}
        decisions = {name: self.deciders[name].decide(featured, served[name]) for name in self.deciders}
        scored_s = self._timer_s()
        manifest = self._manifest(chunks, featured, served)
        with self._log.transaction(self.group, self.partition, self.commit) as transaction:
            for rows in decisions.values():
                if rows.num_rows:
                    transaction.append_rows(decisions_topic(self.app.name), self.partition, rows, manifest.at_ms)
            if featured.dead:
                letters = to_rows(featured.dead, self._sensitive, self._sealer)
                transaction.append_rows(dead_topic(self.app.name), self.partition, letters, manifest.at_ms)
            transaction.put_manifest(encode(manifest))
        self.commit += 1
        self.positions |= {name: end for name, (_, end) in manifest.inputs.items()}
        done_s = self._timer_s()
        seconds = {
            "decode": decoded_s - started_s, "features": featured_s - decoded_s,
            "score": scored_s - featured_s, "commit": done_s - scored_s,
        }  # fmt: skip
        chunk = chunks.get(self.plan.stream.name)
        append_ms = np.zeros(0, np.int64)
        if chunk is not None and chunk.append_ms is not None:
            append_ms = chunk.append_ms[np.searchsorted(chunk.offsets, featured.offsets)]
        return Step(featured.rows, decisions, append_ms, self._clock_ms(), manifest, len(featured.dead), seconds)

    def _take(self) -> dict[str, Chunk]:
        """Read and decode what each input has; with a backlog, no further than the order of heads is known."""
        chunks, more = {}, []
        for name, stream in self._streams.items():
            records = self._log.read(name, self.partition, self.positions[name], RECORDS_MAX)
            if len(records):
                chunks[name] = chunk_of(records, stream.schema)
                more.append(self._log.end(name, self.partition) > self.positions[name] + len(records))
        if len(chunks) < 2 or not any(more):
            return chunks
        names = list(chunks)
        times_ms = [ints_of(chunks[name].decoded.rows.column(self._streams[name].schema.time)) for name in names]
        rows = rows_to_take(times_ms, more)
        if not any(rows):  # a batch of nothing but broken records: it holds nobody back
            return chunks
        cut = {name: split(chunks[name], taken)[0] for name, taken in zip(names, rows, strict=True)}
        return {name: chunk for name, chunk in cut.items() if len(chunk)}

    def _manifest(self, chunks: Mapping[str, Chunk], featured: Featured, served: Mapping[str, Served]) -> Manifest:
        for name, ledger in featured.ledgers.items():
            if name in self.ledgers:
                self.ledgers[name].add(ledger)
        inputs = {name: (offset, offset) for name, offset in self.positions.items()}
        inputs |= {name: (int(chunk.offsets[0]), int(chunk.offsets[-1]) + 1) for name, chunk in chunks.items()}
        for name in self.decided:
            self.decided[name] += len(featured)
        rungs = {name: each.scorer.rung if each.scorer is not None else "rules" for name, each in served.items()}
        return Manifest(
            inputs, {name: each.bundle for name, each in served.items()},
            {name: each.snapshot for name, each in served.items()}, rungs,
            {name: decider.state for name, decider in self.deciders.items()},
            {name: dict(vars(ledger)) for name, ledger in self.ledgers.items()},
            self.engine.join.counts() if self.engine.join is not None else {}, dict(self.decided), self._clock_ms(),
        )  # fmt: skip

    @property
    def problem(self) -> str | None:
        """Why the last snapshot could not be written, or none be read at the start; decisions go on."""
        return self.snapshots.problem

    def save_if_due(self, every_ms: int = SNAPSHOT_EVERY_MS) -> bool:
        """Begin a snapshot if the last one is old enough, or go on with it for a millisecond; called between batches.

        Returns:
            Whether one begins.
        """
        return self.snapshots.step(self.engine, self.commit, self.positions, every_ms)

    def save(self) -> None:
        """Write a snapshot of the state as of the last commit; return when it is there.

        Raises:
            StateStoreError: it cannot be written. Nothing is lost: the log rebuilds the state, only slower.
        """
        self.snapshots.save(self.engine, self.commit, self.positions)

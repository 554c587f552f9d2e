"""The live loop of one stage and partition: take records, decide or pass on, commit outputs and manifest as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from connectors.log import Log, Transaction
from connectors.secrets import Sealer, Tokeniser
from models.portion import Portion
from pipeline.app import App
from pipeline.arrivals import Arrival
from pipeline.beacon import Beacon
from pipeline.budgets import Budgets
from pipeline.dead_letters import dead_topic, to_rows
from pipeline.decisions import Served
from pipeline.engine import Engine, Featured
from pipeline.forwarding import Forwarder
from pipeline.heads import rows_to_take
from pipeline.inputs import Ledger
from pipeline.kinds import decider_of
from pipeline.laps import Laps
from pipeline.manifest import Manifest, encode
from pipeline.plan import StreamPlan
from pipeline.reading import arrival_of, as_of, first_rows, next_offset, stored_new, times_of
from pipeline.recovery import check_retention, recover
from pipeline.snapshots import SNAPSHOT_EVERY_MS, Snapshots
from pipeline.stages import LINES, Stage, alone, buried_by, stages_of
from pipeline.state_store import StateStore
from pipeline.topics import count_partitions, create_topics, decisions_topic, group_of

__all__ = [
    "Step", "Worker", "count_partitions", "create_topics", "decisions_topic", "group_of", "stages_of",
]  # fmt: skip
Int64s = NDArray[np.int64]
RECORDS_MAX = 8192  # taken from one input in one commit
RECORDS_AT_FIRST = 256  # where steps have a time, until it is known how many fit in


@dataclass(frozen=True)
class Step:
    """One commit, for views and metrics.

    Attributes:
        rows: the decided events, sensitive fields as tokens.
        decisions: task -> its rows, one per event.
        append_ms: (events,) when the log took the decided events.
        committed_ms: when the commit was done.
        manifest: with the ledgers since the beginning.
        stage: whose commit it is; None where nobody asks.
        seconds: where the time went: fetch, decode, features, score, encode, commit. What goes on beside the worker
            (a fetch from a broker before the worker asks) is not in it.
    """

    rows: pa.RecordBatch
    decisions: dict[str, pa.RecordBatch]
    append_ms: Int64s
    committed_ms: int
    manifest: Manifest
    dead: int
    seconds: dict[str, float]
    stage: Stage | None = None


class Worker:
    """Does a stage's work on one partition; killed at any moment, it goes on without loss or doubles.

    Args:
        app: what to do.
        stage: which part of it; a stream's plan stands for all of it on one partition.
        log: where records come from and decisions go to.
        state: folder or URL of snapshots.
        served: returns the models of a task; asked between two commits, so a change falls between two batches.
        clock_ms: milliseconds since the epoch.
        timer_s: seconds of a clock that never goes back, for where the time goes.
        tokeniser, sealer: for sensitive fields.
        step_s: about how long a step may compute; it takes fewer records if it must. None takes what is there.
        ahead: a block in which nothing less urgent begins; steps are in one until they commit.
    """

    def __init__(
        self,
        app: App,
        stage: Stage | StreamPlan,
        log: Log,
        state: Path | str,
        served: Callable[[str], Served],
        clock_ms: Callable[[], int],
        timer_s: Callable[[], float],
        tokeniser: Tokeniser | None = None,
        sealer: Sealer | None = None,
        partition: int = 0,
        step_s: float | None = None,
        ahead: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        if isinstance(stage, StreamPlan):
            stage = alone(stage, group_of(app.name, stage.stream.name))
        self.app, self.stage, self.plan, self.partition, self.group = app, stage, stage.plan, partition, stage.group
        self._log, self._served, self._clock_ms, self._timer_s = log, served, clock_ms, timer_s
        self._tokeniser, self._sealer, self._ahead = tokeniser, sealer, ahead
        self._portion = Portion(step_s, RECORDS_MAX, RECORDS_AT_FIRST) if step_s is not None else None
        lines = [each for each in stage.inputs if each.kind == LINES]
        self._sensitive = {each.stream.name for each in lines if each.schema.has_sensitive}
        self._tasks = [task for task in app.tasks if task.on is stage.main.stream and stage.decides]
        self.budgets = Budgets(self._tasks, f"partition {partition}", clock_ms, timer_s)
        self._forwarder = Forwarder(stage, partition)
        self._buries = buried_by(stages_of(app, stage.partitions), stage.group)
        self.store = StateStore.of(state, self.group, partition)
        self.snapshots = Snapshots(self.store, log, self.group, partition, clock_ms, timer_s)
        check_retention(stage, log)
        self.recover()

    def recover(self) -> None:
        """Throw the state in memory away and take it from the log."""
        self.snapshots.drop()
        found = recover(self.stage, self._log, self.group, self.partition, self.store, self._tokeniser)
        self.engine: Engine = found.engine
        self.commit, self.positions, self.replayed = found.commit, found.positions, found.replayed
        self.ledgers = {each.topic: Ledger() for each in self.stage.inputs}
        self.forwarded = {output.topic: 0 for output in self.stage.outputs}
        self.beacon = Beacon(self.stage, self.partition, self._clock_ms())
        self.decided = {task.name: 0 for task in self._tasks}
        self.deciders = {task.name: decider_of(task, self.plan) for task in self._tasks}
        self.snapshots.problem = found.problem
        if found.manifest is not None:
            for name, counts in found.manifest.ledgers.items():
                self.ledgers[name] = Ledger(**counts)
            self.decided |= found.manifest.decided
            self.forwarded |= found.manifest.forwarded
            self.beacon.said_idle = found.manifest.idle
            for name, threshold in found.manifest.thresholds.items():
                if name in self.deciders:
                    self.deciders[name].state = threshold
        self._is_spoilt = False  # the engine is as of the last commit

    def waits_for(self) -> dict[tuple[str, int], int]:
        """Return topic, partition and offset of what would be news, for `Log.wait`."""
        return {(name, self.partition): offset for name, offset in self.positions.items()}

    def step(self) -> Step | None:
        """Take what is there, decide it or pass it on, and commit; None if nothing is there.

        With nothing there for a while, later stages are told so: an idle partition holds none of them back. If the
        commit fails, nothing of it is in the log, the error goes on, and the next step takes the state from the log
        anew: by then whoever brought records may have let go of the partition, and others may have gone on.
        """
        if self._is_spoilt:
            self.recover()
        laps = Laps(self._timer_s)
        with ExitStack() as until_commit:
            until_commit.enter_context(self._ahead())
            chunks = self._take(laps)
            if not chunks and not self.beacon.is_due(self._clock_ms()):
                return None
            try:
                step = self._apply(chunks, laps, until_commit.close)
            except BaseException:
                self._is_spoilt = True
                self.snapshots.drop()
                raise
        if self._portion is not None and chunks:
            computing_s = sum(spent_s for part, spent_s in laps.seconds.items() if part not in ("fetch", "commit"))
            self._portion.took(max(len(chunk) for chunk in chunks.values()), computing_s)
        return step if chunks else None

    def _apply(self, chunks: Mapping[str, Arrival], laps: Laps, computed: Callable[[], None]) -> Step:
        at_ms = self._clock_ms()
        featured = self.engine.process({name: as_of(chunk, at_ms) for name, chunk in chunks.items()})
        laps("features")
        served = {
            task.name: self.budgets.pick(task.name, self._served(task.name), featured.append_ms) for task in self._tasks
        }
        decisions = {name: self._decide(name, featured, served[name]) for name in self.deciders}
        laps("score")
        with self._log.transaction(self.group, self.partition, self.commit) as transaction:
            for rows in decisions.values():
                if rows.num_rows:
                    transaction.append_rows(decisions_topic(self.app.name), self.partition, rows, at_ms)
            dead = [letter for letter in featured.dead if letter.stream in self._buries]
            if dead:
                letters = to_rows(dead, self._sensitive, self._sealer)
                transaction.append_rows(dead_topic(self.app.name), self.partition, letters, at_ms)
            self._forward(transaction, featured, at_ms, is_idle=not chunks)
            manifest = self._manifest(chunks, featured, served, at_ms)
            transaction.put_manifest(encode(manifest))
            laps("encode")
            computed()  # most of a commit is waiting
        self.commit += 1
        self.positions |= {name: end for name, (_, end) in manifest.inputs.items()}
        laps("commit")
        self.budgets.committed(len(featured))
        append_ms = featured.append_ms if featured.append_ms is not None else np.zeros(0, np.int64)
        return Step(
            featured.rows, decisions, append_ms, self._clock_ms(), manifest, len(dead), laps.seconds, self.stage
        )

    def _decide(self, task: str, featured: Featured, served: Served) -> pa.RecordBatch:
        return self.budgets.decide(task, served, lambda: self.deciders[task].decide(featured, served))

    def _forward(self, transaction: Transaction, featured: Featured, at_ms: int, is_idle: bool) -> None:
        """Pass on what goes to other stages, and say how far this one is to those that get nothing."""
        self.beacon.begin(is_idle, at_ms)
        for output in self.stage.outputs:
            told = set()
            for partition, rows in self._forwarder.parts(output, featured):
                transaction.append_rows(output.topic, partition, rows, at_ms)
                self.forwarded[output.topic] += rows.num_rows
                told.add(partition)
            for partition, rows in self.beacon.markers(output, told, self.engine.floor_ms, at_ms):
                transaction.append_rows(output.topic, partition, rows, at_ms)

    def _take(self, laps: Laps) -> dict[str, Arrival]:
        """Read and decode what each input has; with a backlog, no further than the order of heads is known."""
        chunks, more, inputs = {}, [], []
        limit = self._portion.rows if self._portion is not None else RECORDS_MAX
        for each in self.stage.inputs:
            at = self.positions[each.topic]
            stored = stored_new(self._log, each, self.partition, at, limit)
            laps("fetch")
            if len(stored):
                arrival = chunks[each.topic] = arrival_of(self.stage, each, stored)
                inputs.append(each)
                more.append(self._log.end(each.topic, self.partition) > next_offset(arrival))
                laps("decode")
        if len(chunks) < 2 or not any(more):
            return chunks
        rows = rows_to_take([times_of(each, chunks[each.topic]) for each in inputs], more)
        if not any(rows):  # a batch of nothing but broken records: it holds nobody back
            return chunks
        cut = {each.topic: first_rows(chunks[each.topic], taken) for each, taken in zip(inputs, rows, strict=True)}
        return {name: chunk for name, chunk in cut.items() if len(chunk)}

    def _manifest(
        self, chunks: Mapping[str, Arrival], featured: Featured, served: Mapping[str, Served], at_ms: int
    ) -> Manifest:
        for name, ledger in featured.ledgers.items():
            if name in self.ledgers:
                self.ledgers[name].add(ledger)
        inputs = {name: (offset, offset) for name, offset in self.positions.items()}
        inputs |= {name: (int(chunk.offsets[0]), next_offset(chunk)) for name, chunk in chunks.items()}
        for name in self.decided:
            self.decided[name] += len(featured)
        rungs = {name: each.rung for name, each in served.items()}
        return Manifest(
            inputs, {name: each.bundle for name, each in served.items()},
            {name: each.snapshot for name, each in served.items()}, rungs,
            {name: decider.state for name, decider in self.deciders.items()},
            {name: dict(vars(ledger)) for name, ledger in self.ledgers.items()},
            self.engine.join.counts() if self.engine.join is not None else {}, dict(self.decided), at_ms,
            dict(self.forwarded), self.beacon.said_idle,
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
        return not self._is_spoilt and self.snapshots.step(self.engine, self.commit, self.positions, every_ms)

    def save(self) -> None:
        """Write a snapshot of the state as of the last commit; return when it is there.

        Raises:
            StateStoreError: it cannot be written. Nothing is lost: the log rebuilds the state, only slower.
        """
        if self._is_spoilt:
            self.recover()
        self.snapshots.save(self.engine, self.commit, self.positions)

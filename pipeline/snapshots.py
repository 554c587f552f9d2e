"""Snapshots of a worker's state while it decides: copied between batches, written by a thread, tried again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from connectors.log import Log
from pipeline.copies import Array, EngineCopy
from pipeline.engine import Engine
from pipeline.state_store import StateStore, StateStoreError

SNAPSHOT_EVERY_MS = 15_000  # who takes a partition over replays what came since
SNAPSHOT_EVERY_MS_MAX = 60_000  # where a snapshot is so much work that it comes less often
STEP_SHARE = 0.2  # of the time between two batches that copying may take
STEP_S_MIN, STEP_S_MAX = 0.0005, 0.001
LAYERS_MAX = 12  # then the whole state is written again
LAYERS_SHARE_MAX = 1.0  # or once what changed since is, together, this much of the whole
COST_SHARE_MAX = 0.1  # of the time that may go into snapshots; then they come less often
WRITE_S_MAX = 300.0  # a store that did not take a snapshot in so long is told to be away
SAVE_WAIT_S = 30.0  # at the end of a run, without a byte that gets through
MANIFESTS_KEPT = 1_000  # behind the oldest snapshot: what was served lately can be checked against them


@dataclass
class _Writing:
    """A snapshot that is copied, then written.

    Attributes:
        is_current: the engine that it is of still serves.
        cost_s: what copying and writing it took.
        error: why it did not get to the store.
    """

    commit: int
    positions: dict[str, int]
    copy: EngineCopy
    is_whole: bool
    bytes_before: int
    began_s: float
    thread: threading.Thread | None = None
    is_current: bool = True
    cost_s: float = 0.0
    error: str | None = None


class Snapshots:
    """Keeps the state of one worker safe; nothing that goes wrong here stops a decision.

    Args:
        store: where snapshots go.
        log, group, partition: whose old manifests are forgotten once no recovery needs them.
        clock_ms: milliseconds since the epoch.
        timer_s: seconds of a clock that never goes back.

    Attributes:
        saved_commit: of the newest snapshot that this object wrote, 0 before the first.
        written: how many snapshots it wrote.
    """

    def __init__(
        self, store: StateStore, log: Log, group: str, partition: int, clock_ms: Callable[[], int],
        timer_s: Callable[[], float],
    ) -> None:  # fmt: skip
        self.store, self._log, self._group, self._partition = store, log, group, partition
        self._clock_ms, self._timer_s = clock_ms, timer_s
        self._began_ms, self._stepped_s = clock_ms(), timer_s()
        self._writing: _Writing | None = None
        self._needs_whole, self._whole_bytes, self._layers_bytes = True, 0, 0
        self._cost_s = 0.0
        self._problem: str | None = None
        self.saved_commit = self.written = 0

    @property
    def problem(self) -> str | None:
        """Why there is no new snapshot; it is tried again."""
        if self._writing is not None and self._timer_s() - self._writing.began_s > WRITE_S_MAX:
            return f"{self.store.place} takes no snapshot: no answer for {WRITE_S_MAX:.0f} s; {_MEANWHILE}"
        return self._problem

    @problem.setter
    def problem(self, text: str | None) -> None:
        """Take what went wrong when the worker began; the next snapshot that is written ends it."""
        self._problem = text

    def step(self, engine: Engine, commit: int, positions: Mapping[str, int], every_ms: int) -> bool:
        """Go on with the snapshot in progress, for a millisecond or two, or begin one if the last is old enough.

        Called between two batches.

        Args:
            engine: as of the last commit.
            commit: its number; without any, or without a new one, there is nothing to save.
            positions: input -> offset of the first record that is not in the state.
            every_ms: between two snapshots, if they are little work; else up to SNAPSHOT_EVERY_MS_MAX.

        Returns:
            Whether one begins.
        """
        began_s, now_ms = self._timer_s(), self._clock_ms()
        budget_s = min(max(STEP_SHARE * (began_s - self._stepped_s), STEP_S_MIN), STEP_S_MAX)
        begins = False
        rest_ms = min(self._cost_s * 1000 / COST_SHARE_MAX, SNAPSHOT_EVERY_MS_MAX)
        if self._writing is None and now_ms - self._began_ms >= max(every_ms, rest_ms):
            self._began_ms = now_ms
            begins = commit > self.saved_commit
            if begins:
                self._begin(engine, commit, positions)
        elif self._writing is not None and self._writing.thread is None:
            while not (done := self._writing.copy.step()) and self._timer_s() - began_s < budget_s:
                pass
            self._writing.cost_s += self._timer_s() - began_s
            if done:
                self._start_thread(self._writing)
        else:
            self._end_if_written()
        self._stepped_s = self._timer_s()
        return begins

    def save(self, engine: Engine, commit: int, positions: Mapping[str, int]) -> None:
        """Write a snapshot of the state as of now; return when it is there.

        Raises:
            StateStoreError: it cannot be written. Nothing is lost: the log rebuilds the state, only slower.
        """
        if self._writing is not None and self._writing.thread is None:
            self._writing.copy.end()
            self._writing = None
        if self._writing is not None:
            self._wait(self._writing)
        if commit <= self.saved_commit:
            return
        writing = self._begin(engine, commit, positions)
        while not writing.copy.step():
            pass
        self._start_thread(writing)
        self._wait(writing)
        if writing.error is not None:
            raise StateStoreError(writing.error)

    def drop(self) -> None:
        """The engine is thrown away: end what is in progress, and write the whole state next time."""
        self._needs_whole = True
        if self._writing is not None:
            self._writing.is_current = False
            self._writing.copy.end()
            if self._writing.thread is None:
                self._writing = None

    def _begin(self, engine: Engine, commit: int, positions: Mapping[str, int]) -> _Writing:
        whole = (
            self._needs_whole
            or self.store.layers >= LAYERS_MAX
            or self._layers_bytes > LAYERS_SHARE_MAX * self._whole_bytes
        )
        copy, before = engine.copy(whole), self.store.bytes_written
        self._writing = _Writing(commit, dict(positions), copy, whole, before, self._timer_s())
        return self._writing

    def _start_thread(self, writing: _Writing) -> None:
        # a daemon: a store that hangs does not keep the process from ending
        writing.thread = threading.Thread(target=self._write, args=(writing,), name="snapshot", daemon=True)
        writing.thread.start()

    def _write(self, writing: _Writing) -> None:
        """Write a snapshot, then forget the manifests that no recovery needs any more."""
        began_s = self._timer_s()
        try:
            arrays = {name: _let_go(pieces) for name, pieces in writing.copy.arrays().items()}
            oldest = self.store.save(writing.commit, arrays, writing.positions, writing.copy.onto) - MANIFESTS_KEPT
            writing.cost_s += self._timer_s() - began_s
            if oldest > 0:
                self._log.forget_manifests(self._group, self._partition, oldest)
        except Exception as error:  # whatever happens here, decisions go on
            writing.error = str(error)

    def _wait(self, writing: _Writing) -> None:
        """Wait for the thread as long as bytes get through."""
        assert writing.thread is not None
        before = -1
        while writing.thread.is_alive():
            if self.store.bytes_written == before:
                raise StateStoreError(f"{self.store.place} has not answered for {SAVE_WAIT_S:.0f} s")
            before = self.store.bytes_written
            writing.thread.join(SAVE_WAIT_S)
        self._end_if_written()

    def _end_if_written(self) -> None:
        """Note what became of the snapshot whose thread has ended."""
        writing = self._writing
        if writing is None or writing.thread is None or writing.thread.is_alive():
            return
        self._writing = None
        if writing.error is not None:
            self._problem = f"no snapshot could be written: {writing.error}; {_MEANWHILE}"
            return
        self._problem, self._cost_s = None, writing.cost_s
        self.saved_commit, self.written = writing.commit, self.written + 1
        size = self.store.bytes_written - writing.bytes_before
        self._whole_bytes, self._layers_bytes = (
            (size, 0) if writing.is_whole else (self._whole_bytes, self._layers_bytes + size)
        )
        if writing.is_current:
            self._needs_whole = False
            writing.copy.keep()


_MEANWHILE = "it is tried again, and a restart replays the log from the one before"


def _let_go(pieces: list[Array]) -> Iterator[Array]:
    """Hand out pieces one by one, so that the memory of each is free once it is written."""
    while pieces:
        yield pieces.pop(0)

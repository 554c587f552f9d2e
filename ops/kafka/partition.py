"""One partition of an app on Kafka: taken over, decided, let go; in threads of its own.

A thread per partition, and per family of stages that share a topic: most of a commit is waiting for the broker, and
kernels let go of the interpreter. What goes wrong in one partition is tried again there, later and later; the others go
on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Protocol

from connectors.log import CommitConflictError
from connectors.schema_registry import RegistryAwayError, RegistryError
from ops.mistakes import in_a_sentence
from ops.side_by_side import side_by_side
from pipeline.live import Step, Worker

if TYPE_CHECKING:
    from connectors.kafka.log import KafkaLog
    from ops.metrics.metrics import Metrics

IDLE_WAIT_S = 0.5  # the longest wait for news before it is looked whether the partition must be let go
PAUSE_S = 0.01
BACK_OFF_S, BACK_OFF_S_MAX = 0.5, 10.0
CONFLICT_S = 2.0  # who took the partition over has it, unless the group says that it is ours by then

Places = Mapping[tuple[str, int], int]  # topic, partition -> offset


class Want(Enum):
    """What a partition shall do."""

    RUN, REST, END = range(3)


class Reading(Protocol):
    """Whoever fetches the records of a partition's inputs. Any thread may call."""

    def begin(self, places: Places) -> None:
        """Bring what comes from these offsets on."""

    def halt(self, places: Places) -> None:
        """Bring nothing more."""

    def relieve(self, places: Places) -> None:
        """Go on where the log was full, and is not any more."""


def positions_of(workers: Iterable[Worker]) -> dict[tuple[str, int], int]:
    """Return what the inputs of workers were taken up to."""
    return {place: offset for worker in workers for place, offset in worker.waits_for().items()}


class PartitionRun:
    """Runs the workers of one partition.

    Args:
        partition: its number.
        makers: group -> makes its worker; the state is taken from snapshots and log, which may take a while.
        families: groups that belong together; each family is stepped in a thread of its own.
        log: to claim the partition in.
        partitions: how many the app's topics have.
        reading: fetches its inputs.
        on_step: called after each commit, in a thread of this partition.
        on_taken: called with the workers and how many seconds it took, whenever the state is there.
        snapshot_every_ms: between two snapshots of state.
        metrics: told of everything that happens.
        after: who ran the partition before in this process, and may not have ended yet.

    Attributes:
        workers: [] until the partition was taken over.
        problem: why it does not go on now, in words.
        refused: by the schema registry, for good: only a person can mend it.
    """

    def __init__(
        self,
        partition: int,
        makers: Mapping[str, Callable[[int], Worker]],
        families: Sequence[Sequence[str]],
        log: KafkaLog,
        partitions: int,
        reading: Reading,
        on_step: Callable[[Worker, Step], None],
        on_taken: Callable[[PartitionRun, float], None],
        snapshot_every_ms: int,
        metrics: Metrics | None = None,
        after: PartitionRun | None = None,
    ) -> None:
        self.partition = partition
        self.workers: list[Worker] = []
        self.problem: str | None = None
        self.refused: RegistryError | None = None
        self._makers, self._log, self._partitions, self._reading = makers, log, partitions, reading
        self._families = [tuple(family) for family in families]
        self._on_step, self._on_taken, self._snapshot_every_ms = on_step, on_taken, snapshot_every_ms
        self._metrics, self._after = metrics, after
        self._changed = threading.Condition()
        self._want = Want.RUN
        self._is_fresh = False  # the state in memory is the one of the last commit
        self._outdated = 0  # how often somebody else may have had the partition in between
        self._is_resting = False  # nothing is committed, or claimed
        self._idle_rounds = dict.fromkeys(self._families, 0)
        self._is_broken = False  # one family failed: the others end their steps, and all begin anew
        self._failures = 0
        self._saved: dict[str, int] = {}  # group -> commit
        self._thread = threading.Thread(target=self._run, name=f"partition {partition}", daemon=True)

    def start(self) -> None:
        """Begin to take the partition over."""
        self._thread.start()

    def rest(self) -> None:
        """Commit nothing more after the batch it is in; snapshot what it knows."""
        self._set(Want.REST)

    def go_on(self, *, stale: bool) -> None:
        """Go on after a rest; `stale` if somebody else may have had the partition in between."""
        with self._changed:
            if stale:
                self._is_fresh, self._outdated = False, self._outdated + 1
        self._set(Want.RUN)

    def end(self) -> None:
        """Let go of the partition, for good."""
        self._set(Want.END)

    def wait_until_resting(self, until_s: float) -> bool:
        """Wait until nothing is committed any more; False if that took too long (by the monotonic clock)."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._is_resting or not self._thread.is_alive(), max(until_s - time.monotonic(), 0.0)
            )

    def join(self, timeout_s: float | None) -> bool:
        """Wait until it ended; False if that took too long; None waits as long as it takes."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def is_idle(self) -> bool:
        """Whether it found nothing to do when it last looked, twice."""
        return min(self._idle_rounds.values()) >= 2

    @property
    def positions(self) -> dict[tuple[str, int], int]:
        """What its inputs were taken up to."""
        return positions_of(self.workers)

    def trouble(self, problem: str) -> None:
        """Tell what keeps the partition's records from coming."""
        self.problem = f"partition {self.partition}: {problem}"

    def _set(self, want: Want) -> None:
        with self._changed:
            if self._want is not Want.END:
                self._want = want
            self._changed.notify_all()

    def _run(self) -> None:
        if self._after is not None:
            self._after.join(None)
            self._after = None
        while self._next() is not Want.END:
            try:
                if not self._is_fresh:
                    self._take_over()
                if self._begins():
                    self._reading.begin(self._positions_to_read())
                    self._decide()
            except Exception as error:  # of this partition: the others go on
                self._failed(error)
            finally:
                self._reading.halt(self.positions)
            if self._is_fresh:
                self._save()
        self._let_go()

    def _next(self) -> Want:
        """Return what to do; rest until it is something."""
        with self._changed:
            while self._want is Want.REST:
                self._is_resting = True
                self._changed.notify_all()
                self._changed.wait()
            self._is_resting = False
            return self._want

    def _begins(self) -> bool:
        """Whether to decide now: the state is there, and no rest was asked for."""
        with self._changed:
            if self._is_fresh and self._want is Want.RUN:
                self._is_resting = False
            return self._is_fresh and self._want is Want.RUN

    def _take_over(self) -> None:
        """Fence whoever had the partition, then rebuild the state as of the last commit.

        All stages are fenced before any state is rebuilt: what their last owner left open holds back whoever reads what
        they write. Rebuilding may take long, and is a rest to the group: nothing is claimed or committed meanwhile.
        """
        began_s, outdated = time.perf_counter(), self._outdated
        self._log.claim_all(list(self._makers), self.partition, self._partitions)
        with self._changed:
            self._is_resting = True
            self._changed.notify_all()
        known = {worker.group: worker for worker in self.workers}
        for group, make in self._makers.items():
            if group in known:
                known[group].recover()
            else:
                self.workers.append(make(self.partition))
        self._saved = {worker.group: worker.commit for worker in self.workers}
        seconds = time.perf_counter() - began_s
        with self._changed:
            if outdated != self._outdated or self._want is Want.END:
                return
            self._is_fresh, self._idle_rounds = True, dict.fromkeys(self._families, 0)
            self._on_taken(self, seconds)  # not after it was told that the partition went elsewhere
        if self._metrics is not None:
            for worker in self.workers:
                self._metrics.assigned(worker, seconds)

    def _positions_to_read(self) -> dict[tuple[str, int], int]:
        """Return where to read on: an input of several workers from where the last of them is."""
        found: dict[tuple[str, int], int] = {}
        for worker in self.workers:
            for place, offset in worker.waits_for().items():
                found[place] = min(offset, found.get(place, offset))
        return found

    def _decide(self) -> None:
        """Take, decide, commit, until something else is wanted; each family in a thread of its own."""
        self._is_broken = False
        loops = [partial(self._decide_family, family) for family in self._families]
        side_by_side(loops, self._break, f"partition {self.partition}")

    def _break(self) -> None:
        self._is_broken = True

    def _decide_family(self, family: tuple[str, ...]) -> None:
        workers = [worker for worker in self.workers if worker.group in family]
        while self._want is Want.RUN and not self._is_broken:
            busy = False
            for worker in workers:
                step = worker.step()
                if self._metrics is not None:
                    self._metrics.step(worker, step) if step is not None else self._metrics.beat(worker)
                if step is not None:
                    busy = True
                    self._on_step(worker, step)
                worker.save_if_due(self._snapshot_every_ms)
            if busy:
                self._idle_rounds[family], self._failures, self.problem = 0, 0, None
                self._reading.relieve(positions_of(workers))
            else:
                self._idle_rounds[family] += 1
                if self._log.wait(positions_of(workers), IDLE_WAIT_S) and self._idle_rounds[family] >= 2:
                    self._pause()  # news that is none for its worker, twice

    def _pause(self) -> None:
        """Wait a moment: what must wait for another input, or the rest of a message, may look like news."""
        with self._changed:
            self._changed.wait_for(lambda: self._want is not Want.RUN, PAUSE_S)

    def _failed(self, error: Exception) -> None:
        """Say why, and wait a while: a broker may be back by then, or the group may say whose partition it is."""
        is_away = isinstance(error, RegistryAwayError)
        if isinstance(error, RegistryError) and not is_away:
            self.refused = error
        self._is_fresh = self._is_fresh and is_away  # nothing was decoded, so nothing was applied
        wait_s = min(BACK_OFF_S * 2**self._failures, BACK_OFF_S_MAX)
        if isinstance(error, CommitConflictError):
            wait_s = max(wait_s, CONFLICT_S)
        self._failures += 1
        said = in_a_sentence(error) or f"{type(error).__name__}: {error} (a bug of Pelton or the app)"
        self.problem = f"partition {self.partition}: {said}; trying again"
        with self._changed:
            self._changed.wait_for(lambda: self._want is not Want.RUN, wait_s)

    def _save(self) -> None:
        """Snapshot what changed since the last one: whoever has the partition next has little to replay."""
        for worker in self.workers:
            if worker.commit and self._saved.get(worker.group) != worker.commit:
                try:
                    worker.save()
                    self._saved[worker.group] = worker.commit
                except (OSError, ValueError) as error:
                    self.problem = f"partition {self.partition}: no snapshot when it was let go: {error}"

    def _let_go(self) -> None:
        for worker in self.workers:
            self._log.release(worker.group, self.partition)
            if self._metrics is not None:
                self._metrics.revoked(worker)
        with self._changed:
            self._is_resting = True
            self._changed.notify_all()

"""A worker on Kafka: Faust says which partitions are ours, threads of each partition decide them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from faust.types import TP

from connectors.kafka.settings import KafkaSettings
from connectors.log import LogError
from kernels.compiled import load_imported
from ops.beside import Asked, Following, Learning, quick_to_answer
from ops.kafka.agents import Agents
from ops.kafka.faust import SESSION_S, GroupMember, MemberReading
from ops.kafka.partition import PartitionRun
from ops.kafka.sinks import PartitionSinks
from ops.mistakes import in_a_sentence
from pipeline.app import App
from pipeline.learning import Learned
from pipeline.live import Step, Worker, decisions_topic
from pipeline.snapshots import SNAPSHOT_EVERY_MS

if TYPE_CHECKING:
    from connectors.kafka.log import KafkaLog
    from ops.metrics.metrics import Metrics

REST_S_MAX = 20.0  # for the batches that are under way and a snapshot, before partitions are let go regardless
WATCH_S = 0.2
SILENT_S = 5.0  # a broker that has nothing new answers many times in that
NOTE_S = 2.0  # between two commits of the group's offsets, which only tools look at
REJOIN_S, REJOIN_S_MAX = 1.0, 5.0
IDLE_WATCHES = 3

MakeWorker = Callable[[int], Worker]


class KafkaRunner:
    """One process of an app on Kafka, one of as many as there are partitions.

    Args:
        app: what to run.
        log: the topics; they were made and checked.
        settings: where Kafka is.
        makers: group -> makes the worker of a partition; the models they ask are `following.served`.
        families: groups that belong together: each family of a partition has a thread.
        topics: the inputs of all workers -> whether they hold rows, in Arrow batches.
        partitions: how many each topic has.
        following: the models that serve.
        sinks: where decisions go besides their topic.
        make_learning: makes what learns; only who has partition 0 learns, so there is one learner for all workers.
        on_step: called after each commit, in a thread of the partition.
        say: told of partitions that come and go, in words.
        session_s: how long a silent worker keeps its partitions.
        snapshot_every_ms: between two snapshots of state.
        metrics: told of everything that happens.
    """

    def __init__(
        self,
        app: App,
        log: KafkaLog,
        settings: KafkaSettings,
        makers: Mapping[str, MakeWorker],
        families: Sequence[Sequence[str]],
        topics: Mapping[str, bool],
        partitions: int,
        following: Following,
        sinks: PartitionSinks,
        make_learning: Callable[[], Learning] | None = None,
        on_step: Callable[[Worker, Step], None] | None = None,
        say: Callable[[str], None] = lambda text: None,
        session_s: float = SESSION_S,
        snapshot_every_ms: int = SNAPSHOT_EVERY_MS,
        metrics: Metrics | None = None,
    ) -> None:
        self.app, self._log, self._settings, self._makers = app, log, settings, makers
        self._topics, self._partitions, self._following = list(topics), partitions, following
        self._families = families
        rows = [topic for topic, holds_rows in topics.items() if holds_rows]
        self._reading = MemberReading(log, lambda: self._member, rows)
        self._agents, self._sinks = Agents(app), sinks
        self._make_learning = make_learning
        self._learning: Learning | None = None
        self._on_step, self._say, self._metrics = on_step or (lambda worker, step: None), say, metrics
        self._session_s, self._snapshot_every_ms = session_s, snapshot_every_ms
        self.runs: dict[int, PartitionRun] = {}
        self._ending: dict[int, PartitionRun] = {}
        self._generation = -1
        self._was_assigned = False
        self._trouble: str | None = None
        self._refused: ValueError | None = None
        self._away: str | None = None
        self._told: list[str] = []
        self._noted: dict[tuple[str, int], int] = {}
        self._member: GroupMember | None = None
        self._stopping = threading.Event()
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(self, task: str, rows: Any, within_s: float = 0.0) -> Asked:
        """Ask the models of a task, beside its stream; see `Following.submit`."""
        return self._following.submit(task, rows, within_s)

    def stop(self) -> None:
        """Ask `run` to return after the batches it is in; any thread may, and signal handlers."""
        self._stopping.set()
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: it has stopped
                self._loop.call_soon_threadsafe(self._stop.set)

    @property
    def problems(self) -> list[str]:
        """What is wrong, in words; what can go on does."""
        found: list[str | None] = [
            self._trouble,
            self._away,
            *self._following.problems,
            *self._agents.problems,
            *self._sinks.problems,
        ]
        for run in list(self.runs.values()):
            found += [run.problem, *(worker.problem for worker in run.workers)]
        found += self._learning.problems if self._learning is not None else []
        return [each for each in found if each]

    @property
    def learned(self) -> dict[str, Learned]:
        """How the learners do, per task, where they are in this process."""
        return self._learning.learned if self._learning is not None else {}

    def run(self, until_idle: bool = False) -> None:
        """Take part until stopped; with `until_idle`, until everything in this worker's partitions is decided.

        What goes wrong on the way is in `problems`, and tried again.

        Raises:
            RegistryError: the schema registry refuses to answer, which trying again does not mend.
        """
        load_imported()  # or the first event waits for a kernel
        self._following.start()
        try:
            with quick_to_answer():
                asyncio.run(self._main(until_idle))
        finally:
            self._stop_learning()
            self._following.stop()
        if self._refused is not None:
            raise self._refused

    async def _main(self, until_idle: bool) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        if self._stopping.is_set():
            return
        again_s = REJOIN_S
        while not self._stop.is_set():
            began_s = time.monotonic()
            error = await self._take_part(until_idle)
            if error is None:
                break
            self._trouble = f"the group cannot be kept up: {error}; joining again"
            self._tell_problems()
            again_s = REJOIN_S if time.monotonic() - began_s > REJOIN_S_MAX else min(again_s * 2, REJOIN_S_MAX)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), again_s)
        await self._let_all_go()

    async def _take_part(self, until_idle: bool) -> str | None:
        """Be a member until told to stop or idle (None), or until Faust gives up (why)."""
        member = self._member = GroupMember(
            self.app.name, self._settings, self._log, self._reading, self._topics, self._revoked, self._assigned,
            self._gone, self._agents, self._session_s,
        )  # fmt: skip
        try:
            await member.start()
            return await self._watch(member, until_idle)
        except Exception as error:
            return in_a_sentence(error) or f"{type(error).__name__}: {error}"
        finally:
            await self._rest(set(self.runs))
            with contextlib.suppress(Exception):  # it is given up: why is known already
                await self._note(member)
            with contextlib.suppress(Exception):
                await member.stop()
            self._member = None

    async def _watch(self, member: GroupMember, until_idle: bool) -> str | None:
        assert self._stop is not None
        noted_s, idle = time.monotonic(), 0
        while not member.crashed:
            self._refused = next((run.refused for run in self.runs.values() if run.refused), None)
            if self._refused is not None:
                self._stop.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), WATCH_S)
            if self._stop.is_set():
                return None
            is_silent = member.reader.silent_s() > SILENT_S
            self._away = f"Kafka at {self._settings.where} does not answer; waiting for it" if is_silent else None
            self._tell_problems()
            if time.monotonic() - noted_s >= NOTE_S:
                noted_s = time.monotonic()
                await self._note(member)
            idle = idle + 1 if until_idle and self._is_idle(member) else 0
            if idle >= IDLE_WATCHES:
                return None
        reason = member.crash_reason
        return (in_a_sentence(reason) if reason else None) or f"{type(reason).__name__}: {reason}"

    def _tell_problems(self) -> None:
        """Say what is wrong once, and when nothing is any more."""
        problems = self.problems
        for problem in problems:
            if problem not in self._told:
                self._say(f"problem: {problem}")
        if self._told and not problems:
            self._say("all problems are over")
        self._told = problems

    def _is_idle(self, member: GroupMember) -> bool:
        """Whether everything that is there was read and decided."""
        runs = list(self.runs.values())
        if not self._was_assigned or any(not run.is_idle or run.problem for run in runs):
            return False
        places = [place for run in runs for place in run.positions]
        if self.app.agents:
            places += [(decisions_topic(self.app.name), run.partition) for run in runs]
        return self._agents.is_idle and all(member.reader.is_at_end(TP(*place)) for place in places)

    async def _note(self, member: GroupMember) -> None:
        """Commit the group's offsets: nothing of ours reads them."""
        positions = {place: at for run in list(self.runs.values()) for place, at in run.positions.items()}
        news = {place: at for place, at in positions.items() if self._noted.get(place) != at}
        if news and await member.reader.note(self._reading.messages_at(news)):
            self._noted |= news

    async def _revoked(self, partitions: set[int]) -> None:
        await self._rest(partitions)

    async def _rest(self, partitions: set[int]) -> None:
        """Let partitions commit nothing more, and snapshot; the group waits for it, but not for ever."""
        runs = [self.runs[number] for number in partitions if number in self.runs]
        for run in runs:
            run.rest()
        until_s = time.monotonic() + REST_S_MAX
        await asyncio.gather(*(asyncio.to_thread(run.wait_until_resting, until_s) for run in runs))
        await asyncio.to_thread(self._sinks.end, partitions, until_s)

    async def _assigned(self, partitions: set[int]) -> None:
        """Go on with what stays, begin what is new, end what went elsewhere."""
        assert self._member is not None
        generation = self._member.consumer_generation_id
        stale = generation != self._generation + 1  # others may have had our partitions in a round that we missed
        self._generation, self._was_assigned, self._trouble = generation, True, None
        if self._metrics is not None:
            self._metrics.rebalanced()
        for number in sorted(set(self.runs) - partitions):
            self._end(number)
        for number in sorted(partitions):
            if number in self.runs:
                self.runs[number].go_on(stale=stale)
            else:
                self._begin(number)
            self._sinks.begin(number)
        if 0 in partitions:
            self._start_learning()
        else:
            self._stop_learning()

    def _begin(self, number: int) -> None:
        self.runs[number] = PartitionRun(
            number, self._makers, self._families, self._log, self._partitions, self._reading, self._on_step,
            self._taken, self._snapshot_every_ms, self._metrics, self._ending.pop(number, None),
        )  # fmt: skip
        self.runs[number].start()

    def _end(self, number: int) -> PartitionRun:
        run = self._ending[number] = self.runs.pop(number)
        run.end()
        self._say(f"partition {number} left to another worker")
        for place in run.positions:
            self._noted.pop(place, None)
        return run

    def _taken(self, run: PartitionRun, seconds: float) -> None:
        """Say that a partition is ours (called in its thread)."""
        replayed = sum(worker.replayed for worker in run.workers)
        commits = max((worker.commit for worker in run.workers), default=0)
        told = f", going on after commit {commits:,}: {replayed:,} records replayed in {seconds:.1f} s"
        self._say(f"partition {run.partition} joined{told if commits else ''}")

    def _gone(self, tp: TP, offset: int) -> None:
        """Tell of records that were removed before they were decided: only a person can say that they are lost."""
        run = self.runs.get(tp.partition)
        if run is not None:
            run.trouble(
                f"topic {tp.topic!r}: offset {offset} was removed by retention before it was decided; "
                f"keep more with a longer retention.ms; to go on without these records, start the app under a new name"
            )

    def _start_learning(self) -> None:
        if self._learning is None and self._make_learning is not None:
            try:
                self._learning = self._make_learning()
                self._learning.start()
            except (LogError, ValueError) as error:
                self._trouble = f"nothing is learned: {error}"

    def _stop_learning(self) -> None:
        if self._learning is not None:
            self._learning.stop()
            self._learning = None

    async def _let_all_go(self) -> None:
        ended = [self._end_quietly(number) for number in list(self.runs)] + list(self._ending.values())
        until_s = time.monotonic() + REST_S_MAX
        for run in ended:
            await asyncio.to_thread(run.join, max(until_s - time.monotonic(), 0.0))

    def _end_quietly(self, number: int) -> PartitionRun:
        run = self.runs[number]
        run.end()
        return run

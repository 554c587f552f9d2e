"""Gives committed decisions of the embedded log to the app's own agents, at least once, as workers on Kafka do."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from typing import Any

import pyarrow as pa

from connectors.errors import ConnectorError
from connectors.log import Log
from ops.mistakes import in_a_sentence
from ops.sink_feed import IDLE_WAIT_S, SinkFeed
from pipeline.app import Agent
from pipeline.live import decisions_topic

AGAIN_S, AGAIN_S_MAX = 0.5, 30.0  # between two tries of what failed
BATCH_MAX = 8192  # decisions that an agent of batches gets at once
ROWS_MAX = 100  # decisions between two notes of how far an agent is, if it takes one at a time
END_S_MAX = 20.0  # for the decision that an agent is at when the run ends

Decision = dict[str, Any]


def failure(agent: Agent, what: Decision | list[Decision], error: BaseException) -> str:
    """Say what an agent could not do."""
    first = what[0] if isinstance(what, list) else what
    said = in_a_sentence(error) or f"{type(error).__name__}: {error}"
    return f"agent {agent.name!r}, event {first['event_id']!r}: {said}; trying again"


class AgentLoop:
    """An event loop in a thread of its own, for all agents of a process."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="agents", daemon=True)
        self._thread.start()

    def call(self, agent: Agent, what: Decision | list[Decision], stop: threading.Event) -> None:
        """Call an agent and wait for it, once told to stop no longer than END_S_MAX."""

        async def called() -> None:
            await agent.function(what)

        doing = asyncio.run_coroutine_threadsafe(called(), self._loop)
        while not concurrent.futures.wait([doing], IDLE_WAIT_S).done and not stop.is_set():
            pass
        try:
            doing.result(END_S_MAX)
        except concurrent.futures.TimeoutError:
            doing.cancel()
            raise

    def close(self) -> None:
        """End the loop."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _AgentSink:
    """Calls an agent with the decisions that are written; after a failure it goes on with the one that failed."""

    def __init__(self, agent: Agent, loop: AgentLoop) -> None:
        self._agent, self._loop = agent, loop
        self._done = 0  # of the rows whose writing failed
        self.stop = threading.Event()

    def write(self, rows: pa.RecordBatch) -> None:
        decisions = rows.to_pylist()
        for what in [decisions] if self._agent.batches else decisions[self._done :]:
            try:
                self._loop.call(self._agent, what, self.stop)
            except Exception as error:
                raise ConnectorError(failure(self._agent, what, error)) from error
            self._done += 1
        self._done = 0

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        pass


class AgentFeed(SinkFeed):
    """Calls an agent with all decisions, in order; what fails is tried again until it works or the run ends.

    How far it came is noted in the log: what was done since is done again after a crash.

    Attributes:
        problem: what fails at the moment.
    """

    def __init__(self, app: str, log: Log, agent: Agent, loop: AgentLoop) -> None:
        self._agent_sink = _AgentSink(agent, loop)
        self._limit = BATCH_MAX if agent.batches else ROWS_MAX
        super().__init__(app, log, self._agent_sink, f"agent {agent.name}")

    def run(self, stop: threading.Event) -> None:
        """Call until told to stop, then with what is left; what goes wrong is `problem` for as long as it does.

        What fails is tried twice at least, also at the end.
        """
        self._agent_sink.stop, again_s = stop, AGAIN_S
        place = decisions_topic(self.app), self.partition
        while True:
            stopping = stop.is_set()  # looked at before the step: what was decided until then is given
            try:
                count = self.step(self._limit)
            except (ValueError, OSError) as error:
                tried_before, self.problem = self.problem is not None, str(error)
                if stopping and tried_before:
                    return
                stop.wait(again_s)
                again_s = min(again_s * 2, AGAIN_S_MAX)
                continue
            self.problem, again_s = None, AGAIN_S
            if stopping and not count:
                return
            if not count:
                self.log.wait({place: self.offset}, IDLE_WAIT_S)

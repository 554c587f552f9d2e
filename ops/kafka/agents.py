"""The app's own agents: functions that Faust calls with decisions after they were committed, at least once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import faust
import msgspec

from ops.agent_feed import AGAIN_S, AGAIN_S_MAX, Decision, failure
from pipeline.app import Agent, App
from pipeline.live import decisions_topic


class Agents:
    """Gives the decisions of a worker's partitions to the app's agents.

    Faust commits how far they came, each second: what was done since is done again after a crash.

    Args:
        app: whose agents, and whose decisions.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._failed: dict[str, str] = {}
        self._busy = 0

    @property
    def is_idle(self) -> bool:
        """Whether no agent is being given decisions."""
        return self._busy == 0

    @property
    def problems(self) -> list[str]:
        """What fails at the moment, in words."""
        return list(self._failed.values())

    def register(self, member: faust.App) -> None:
        """Let a member of the group read the decisions of its partitions for the agents."""
        for agent in self._app.agents:
            topic = member.topic(decisions_topic(self._app.name), value_serializer="raw")
            member.agent(topic, name=f"{self._app.name}-{agent.name}")(self._reader(agent))

    def _reader(self, agent: Agent) -> Any:
        async def read(stream: Any) -> None:
            events: AsyncIterator[Any] = stream.events()
            async for event in events:  # the one before is done when the next is asked for
                decisions = [msgspec.json.decode(value) for value in event.message.value.messages.values.to_pylist()]
                self._busy += 1
                try:
                    for each in [decisions] if agent.batches and decisions else decisions:
                        await self._give(agent, each)
                finally:
                    self._busy -= 1

        return read

    async def _give(self, agent: Agent, what: Decision | list[Decision]) -> None:
        """Call an agent until it works: what comes later waits, so that nothing is left out."""
        wait_s = AGAIN_S
        while True:
            try:
                await agent.function(what)
            except Exception as error:
                self._failed[agent.name] = failure(agent, what, error)
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, AGAIN_S_MAX)
            else:
                self._failed.pop(agent.name, None)
                return

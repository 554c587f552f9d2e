"""aiokafka's consumer without an object per record: what a broker answers stays bytes and columns."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import aiokafka
from aiokafka.consumer.fetcher import Fetcher, FetchError
from aiokafka.errors import (
    KafkaError,
    NoError,
    NotLeaderForPartitionError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.structs import TopicPartition

from connectors.kafka.connection import AWAY_S, PatientClient
from connectors.kafka.messages import Messages, read_messages

MOVED = (NotLeaderForPartitionError, UnknownTopicOrPartitionError)
REFUSED = (OffsetOutOfRangeError, TopicAuthorizationFailedError)


@dataclass
class Fetched:
    """What one answer holds of one partition, and was not taken yet.

    Attributes:
        last_stable: the partition's end for readers of committed messages, when the broker answered.
    """

    messages: Messages
    last_stable: int
    until_s: float

    def calculate_backoff(self) -> float:
        """Return for how long other partitions of the broker wait until this is taken."""
        return max(self.until_s - time.monotonic(), 0.0)


class ColumnFetcher(Fetcher):
    """Fetches as aiokafka does; decodes by columns, and gives whole answers.

    Attributes:
        answered_s: when a broker last answered, by the monotonic clock.
    """

    answered_s = 0.0
    _failures = 0

    async def _proc_fetch_request(self, assignment: Any, node_id: int, request: Any) -> bool:
        try:
            response = await self._client.send(node_id, request)
        except KafkaError:  # away, or starting: aiokafka asks for the leaders anew meanwhile
            await asyncio.sleep(min(self._retry_backoff * 2**self._failures, AWAY_S))
            self._failures = min(self._failures + 1, 4)
            return False
        except asyncio.CancelledError:  # closed, or the partition was taken away
            return False
        self.answered_s, self._failures = time.monotonic(), 0
        if not assignment.active:
            return False
        asked = {(topic, number): offset for topic, each in request.topics for number, offset, _ in each}
        answers = [
            self._take(assignment, TopicPartition(topic, number), asked[topic, number], rest)
            for topic, partitions in response.topics
            for number, *rest in partitions
        ]
        return any(answers)

    def _take(self, assignment: Any, tp: TopicPartition, offset: int, answer: list[Any]) -> bool:
        """Keep what came for a partition; True if somebody who waits should look."""
        state = assignment.state_value(tp)
        if not state.has_valid_position or state.position != offset:
            return False  # sent elsewhere in between
        code, highwater, stable, *_, data = answer
        error = for_code(code)
        if error is not NoError:
            return self._refused(tp, offset, error)
        aborted = answer[4 if len(answer) > 6 else -2] or ()
        state.highwater, state.lso, state.timestamp = highwater, stable, int(time.time() * 1000)
        if not data:
            return False
        messages = read_messages(bytes(data), offset, aborted, f"topic {tp.topic!r}, partition {tp.partition}")
        if messages.end == offset:
            return False  # a batch that was cut off: it comes first in another answer
        self._records[tp] = Fetched(messages, stable, time.monotonic() + self._prefetch_backoff)
        return True

    def _refused(self, tp: TopicPartition, offset: int, error: type[Exception]) -> bool:
        if error in REFUSED:
            about = {tp: offset} if error is OffsetOutOfRangeError else tp.topic
            self._set_error(tp, error(about))
            return True
        if error in MOVED:
            self._client.force_metadata_update()
        return False

    async def poll(
        self, places: Collection[tuple[str, int]], timeout_s: float, limit: int
    ) -> dict[TopicPartition, Fetched]:
        """Return what is there of these partitions, waiting for something at most so long, or until a rebalance.

        Args:
            places: looked at whenever something comes: they may change while a poll waits.
            limit: messages of one partition at most.

        Raises:
            KafkaError: the broker refused a partition.
        """
        until_s = time.monotonic() + timeout_s
        if self._subscriptions.reassignment_in_progress:
            await self._subscriptions.wait_for_assignment()
        assigned = self._subscriptions.subscription.assignment
        while True:
            if self._subscriptions.subscription.assignment is not assigned:
                return {}  # who called may have been told to read from elsewhere, and must ask again
            drained: dict[TopicPartition, Fetched] = {}
            for tp in [tp for tp in self._records if tp in places]:
                each = self._records[tp]
                if isinstance(each, FetchError) and drained:
                    break  # told by the next poll
                if taken := self._taken(tp, each, limit):
                    drained[tp] = taken
            left_s = until_s - time.monotonic()
            if drained or left_s <= 0 or self._closed:
                return drained
            waiter = self._create_fetch_waiter()
            await asyncio.wait([waiter], timeout=left_s)
            if waiter.done():
                waiter.result()  # what the coordinator cannot mend
            else:
                waiter.cancel()

    def _taken(self, tp: TopicPartition, each: Any, limit: int) -> Fetched | None:
        """Take at most `limit` messages of what was fetched of a partition."""
        if isinstance(each, FetchError):
            self._drop(tp)
            each.check_raise()
        assignment = self._subscriptions.subscription.assignment
        state = assignment.state_value(tp) if assignment is not None and tp in assignment.tps else None
        if state is None or state.paused or not state.has_valid_position or state.position != each.messages.start:
            self._drop(tp)
            return None
        taken = each.messages.cut(each.messages.start, limit)
        state.consumed_to(taken.end)
        if taken.end < each.messages.end:
            self._records[tp] = Fetched(each.messages.cut(taken.end, len(each.messages)), each.last_stable, 0.0)
        else:
            self._drop(tp)
        return Fetched(taken, each.last_stable, 0.0)

    def _drop(self, tp: TopicPartition) -> None:
        del self._records[tp]
        self._notify(self._wait_consume_future)

    def wake(self) -> None:
        """Let polls that wait look again."""
        for waiter in list(self._fetch_waiters):
            self._notify(waiter)


class ColumnConsumer(aiokafka.AIOKafkaConsumer):
    """aiokafka's consumer around a `ColumnFetcher`."""

    _fetcher: ColumnFetcher | None

    async def start(self) -> None:
        """Connect; nothing is subscribed yet."""
        await super().start()
        self._fetcher.__class__ = ColumnFetcher  # aiokafka names the classes itself; nothing was fetched yet
        self._client.__class__ = PatientClient

    async def poll(
        self, places: Collection[tuple[str, int]], timeout_s: float, limit: int
    ) -> dict[TopicPartition, Fetched]:
        """Return what is there of these partitions (see `ColumnFetcher.poll`)."""
        assert self._fetcher is not None
        with self._subscription.fetch_context():
            return await self._fetcher.poll(places, timeout_s, limit)

    def wake(self) -> None:
        """Let polls that wait look again."""
        if self._fetcher is not None:
            with contextlib.suppress(RuntimeError):
                self._fetcher.wake()

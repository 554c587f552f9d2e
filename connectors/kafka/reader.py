"""Reads of committed messages at any offset, as columns: no group, no position, no object per record."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from aiokafka import errors as kafka
from aiokafka.protocol.admin import DeleteRecordsRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest

from connectors.kafka.connection import AWAY, MOVING, Connection, raise_code, until
from connectors.kafka.messages import Messages, read_messages

FETCH_BYTES_MAX = 8 << 20  # of one partition in one answer; a batch that is larger comes alone
READ_COMMITTED, ALL = 1, 0
EARLIEST, LATEST = -2, -1
READING = "reading"  # the connection for reads that are answered at once

Place = tuple[str, int]


@dataclass(frozen=True)
class Fetched:
    """What one fetch found.

    Attributes:
        messages: committed ones; `messages.end` is where to go on.
        last_stable: the end for readers of committed messages.
        begin: the oldest offset, -1 if the broker did not say.
    """

    messages: Messages
    last_stable: int
    begin: int


class Reader:
    """Fetches from a connection; everything here runs on its event loop."""

    def __init__(self, connection: Connection, *, isolated: bool = True) -> None:
        self._connection = connection
        self._isolation = READ_COMMITTED if isolated else ALL

    async def fetch(
        self, places: Mapping[Place, int], wait_ms: int = 0, bytes_max: int = FETCH_BYTES_MAX, group: object = READING
    ) -> dict[Place, Fetched]:
        """Return what is there from these offsets on, or what comes within `wait_ms`.

        Args:
            places: topic and partition -> offset.
            wait_ms: 0 answers at once; a `group` of its own keeps other reads from waiting behind this one.

        Raises:
            OffsetOutOfRangeError: an offset was removed or never written.
            KafkaError: another error of the broker, or none could be reached in the connection's time.
        """
        return await until(
            self._connection.deadline_s,
            lambda: self._fetch(places, wait_ms, bytes_max, group),
            (*AWAY, *MOVING),
            self._connection,
        )

    async def _fetch(
        self, places: Mapping[Place, int], wait_ms: int, bytes_max: int, group: object
    ) -> dict[Place, Fetched]:
        leaders = await self._connection.leaders(places, time.monotonic() + 5.0)
        asked: dict[int, dict[str, list[tuple[int, int, int]]]] = {}
        for (topic, partition), offset in places.items():
            node = asked.setdefault(leaders[topic, partition], {})
            node.setdefault(topic, []).append((partition, offset, bytes_max))
        requests = [
            self._connection.send(
                node, FetchRequest(wait_ms, 1, bytes_max * len(places), self._isolation, list(topics.items())), group
            )
            for node, topics in asked.items()
        ]
        found: dict[Place, Fetched] = {}
        for response in await asyncio.gather(*requests):
            if response.API_VERSION >= 7:
                raise_code(response.error_code)
            for topic, partitions in response.topics:
                for partition, code, _, stable, *rest in partitions:
                    raise_code(code, topic)
                    begin = rest[0] if response.API_VERSION >= 5 else -1
                    aborted = rest[1 if response.API_VERSION >= 5 else 0]
                    where = f"topic {topic!r}, partition {partition}"
                    start = places[topic, partition]
                    messages = read_messages(
                        rest[-1] or b"", start, aborted or (), where, self._isolation == READ_COMMITTED
                    )
                    found[topic, partition] = Fetched(messages, stable, begin)
        return found

    async def offset(self, topic: str, partition: int, at: int) -> int:
        """Return the EARLIEST or LATEST offset, or the first one of a time in ms; the latest is the last stable one.

        -1 if no record is as late as that time.
        """
        done_s = self._connection.deadline_s
        return await until(done_s, lambda: self._offset(topic, partition, at), (*AWAY, *MOVING), self._connection)

    async def _offset(self, topic: str, partition: int, at: int) -> int:
        leaders = await self._connection.leaders([(topic, partition)], time.monotonic() + 5.0)
        request = OffsetRequest(-1, self._isolation, [(topic, [(partition, at)])])
        response = await self._connection.send(leaders[topic, partition], request, READING)
        ((_, ((_, code, _, offset),)),) = response.topics
        raise_code(code, topic)
        return int(offset)

    async def delete_before(self, topic: str, partition: int, offset: int) -> None:
        """Remove the records before an offset, for good."""
        done_s = self._connection.deadline_s
        await until(done_s, lambda: self._delete(topic, partition, offset), (*AWAY, *MOVING), self._connection)

    async def _delete(self, topic: str, partition: int, offset: int) -> None:
        leaders = await self._connection.leaders([(topic, partition)], time.monotonic() + 5.0)
        request = DeleteRecordsRequest([(topic, [(partition, offset)])], int(self._connection.timeout_s * 1000))
        response = await self._connection.send(leaders[topic, partition], request, READING)
        for name, partitions, *_ in response.topics:
            for _, _, code, *_ in partitions:
                raise_code(code, name)


def is_out_of_range(error: BaseException | None) -> bool:
    """Tell whether an offset was asked for that the broker does not have."""
    return isinstance(error, kafka.OffsetOutOfRangeError)

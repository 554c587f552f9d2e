"""Writes of whole batches, under one producer's id: in transactions, or each exactly once as it is retried."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka import errors as kafka
from aiokafka.client import CoordinationType
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import (
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)

from connectors.kafka.connection import AWAY, MOVING, Connection, raise_code
from connectors.kafka.messages import OutgoingBatch
from connectors.kafka.reader import Place

BUSY_S = 0.001  # a broker that still writes the markers of the last transaction: aiokafka's constant is 20 ms
BUSY_S_MAX = 0.1
TRANSACTION_S = 60.0  # a broker aborts what takes longer
ALL_COPIES = -1
IN_FLIGHT_MAX = 5  # batches of a partition that a broker tells from repeated ones
_BUSY = (kafka.ConcurrentTransactions, kafka.NotEnoughReplicasError)
_FENCED = (kafka.InvalidProducerEpoch, kafka.ProducerFenced, kafka.InvalidProducerIdMapping)
_NOT_YET_LED = (kafka.CoordinatorNotAvailableError, kafka.NotCoordinatorError, kafka.CoordinatorLoadInProgressError)

Writes = Mapping[Place, Sequence[OutgoingBatch]]


class FencedError(Exception):
    """Another producer took this transactional id over, or the broker gave the transaction up."""


@dataclass
class Producer:
    """One producer's id on a connection; everything here runs on its event loop.

    Args:
        transactional_id: None to write without transactions: each batch once, even if it has to be sent again.
        group: names the connection to each broker, so that no request waits for those of other producers.
    """

    connection: Connection
    transactional_id: str | None
    group: object
    _id: int = field(init=False, default=-1)
    _epoch: int = field(init=False, default=-1)
    _sequences: dict[Place, int] = field(init=False, default_factory=dict)
    _coordinator: int | None = field(init=False, default=None)

    async def begin(self, until_s: float) -> None:
        """Get the id: who had it is fenced, and what it left open is aborted; all its markers are written then."""
        request = InitProducerIdRequest(self.transactional_id, int(TRANSACTION_S * 1000))
        response = await self._coordinated(request, until_s)
        self._id, self._epoch = response.producer_id, response.producer_epoch
        self._sequences.clear()

    async def commit(self, writes: Writes, until_s: float) -> dict[Place, int]:
        """Write all batches in one transaction; return the offset of the first of each place.

        Raises:
            FencedError: nothing was written, and this producer can write no more.
            KafkaError: something else; whether it was written is known after the next `begin`.
        """
        topics: dict[str, list[int]] = {}
        for topic, partition in writes:
            topics.setdefault(topic, []).append(partition)
        leaders = await self.connection.leaders(writes, until_s)
        request = AddPartitionsToTxnRequest(self.transactional_id, self._id, self._epoch, list(topics.items()))
        await self._coordinated(request, until_s)
        offsets = await self._produce(writes, leaders, until_s)
        await self._coordinated(EndTxnRequest(self.transactional_id, self._id, self._epoch, True), until_s)
        return offsets

    async def abort(self, until_s: float) -> None:
        """End an open transaction without its writes."""
        await self._coordinated(EndTxnRequest(self.transactional_id, self._id, self._epoch, False), until_s)

    async def write(self, writes: Writes, until_s: float) -> dict[Place, int]:
        """Write all batches without a transaction; return the offset of the first of each place."""
        if self._id < 0:
            await self.begin(until_s)
        return await self._produce(writes, await self.connection.leaders(writes, until_s), until_s)

    async def _coordinated(self, request: Any, until_s: float) -> Any:
        """Ask the coordinator, until it is ready; each of these requests may be repeated."""
        while True:
            try:
                response = await self._send_coordinator(request)
                _check_transaction(response)
            except _BUSY as error:
                await _pause(BUSY_S, until_s, error)
            except (*_NOT_YET_LED, *AWAY) as error:
                self._coordinator = None
                await _pause(0.0, until_s, error)
                await self.connection.stale()
            except _FENCED as error:
                raise FencedError from error
            else:
                return response

    async def _send_coordinator(self, request: Any) -> Any:
        client = await self.connection.client()
        if self._coordinator is None and self.transactional_id is None:
            self._coordinator = client.get_random_node()
        elif self._coordinator is None:
            kind = CoordinationType.TRANSACTION
            self._coordinator = await client.coordinator_lookup(kind, self.transactional_id)
        return await client.send(self._coordinator, request, group=self.group)

    async def _produce(self, writes: Writes, leaders: dict[Place, int], until_s: float) -> dict[Place, int]:
        """Send the first batch of each place, then the others behind one another without waiting for answers."""
        offsets: dict[Place, int] = {}
        rounds = max((len(batches) for batches in writes.values()), default=0)
        sent: list[asyncio.Task[dict[Place, int]]] = []
        try:
            for number in range(rounds):
                batches = {place: each[number] for place, each in writes.items() if number < len(each)}
                owned = {place: self._owned(place, batch) for place, batch in batches.items()}
                if number == 0:
                    offsets = await self._send(owned, leaders, until_s)
                    continue
                sent.append(asyncio.ensure_future(self._send(owned, leaders, until_s)))
                await asyncio.sleep(0)  # it is on its way before the next one
                if len(sent) >= IN_FLIGHT_MAX:
                    await sent.pop(0)
            await asyncio.gather(*sent)
        except BaseException:
            for task in sent:
                task.cancel()
            await asyncio.gather(*sent, return_exceptions=True)
            raise
        return offsets

    def _owned(self, place: Place, batch: OutgoingBatch) -> bytearray:
        sequence = self._sequences.get(place, 0)
        self._sequences[place] = (sequence + batch.count) & 0x7FFFFFFF  # Kafka wraps it so
        return batch.sent_by(self._id, self._epoch, sequence, transactional=self.transactional_id is not None)

    async def _send(
        self, batches: Mapping[Place, bytearray], leaders: dict[Place, int], until_s: float
    ) -> dict[Place, int]:
        """Send one batch to each place; one that has come already is not written twice when it is repeated."""
        offsets: dict[Place, int] = {}
        waiting, busy_s = dict(batches), BUSY_S
        while waiting:
            by_node: dict[int, dict[str, list[tuple[int, bytearray]]]] = {}
            for place, data in waiting.items():
                by_node.setdefault(leaders[place], {}).setdefault(place[0], []).append((place[1], data))
            try:
                problem = await self._send_once(by_node, offsets)
            except AWAY as error:
                problem = error
            waiting = {place: data for place, data in waiting.items() if place not in offsets}
            if isinstance(problem, _BUSY):
                await _pause(busy_s, until_s, problem)
                busy_s = min(busy_s * 2, BUSY_S_MAX)
            elif isinstance(problem, (*AWAY, *MOVING)):
                await _pause(0.0, until_s, problem)
                await self.connection.stale()
                leaders.update(await self.connection.leaders(waiting, until_s))
        return offsets

    async def _send_once(
        self, by_node: Mapping[int, Mapping[str, list[tuple[int, bytearray]]]], offsets: dict[Place, int]
    ) -> Exception | None:
        """Note the offsets of what was written; return what stands in the way of the rest and may pass."""
        requests = [
            self.connection.send(
                node,
                ProduceRequest(self.transactional_id, ALL_COPIES, int(TRANSACTION_S * 1000), list(topics.items())),
                self.group,
            )
            for node, topics in by_node.items()
        ]
        problem: Exception | None = None
        for response in await asyncio.gather(*requests):
            for topic, partitions in response.topics:
                for partition, code, offset, *_ in partitions:
                    try:
                        raise_code(0 if code == kafka.DuplicateSequenceNumber.errno else code, topic)
                    except _FENCED as error:
                        raise FencedError from error
                    except (*_BUSY, *MOVING) as error:
                        problem = error
                    else:
                        offsets[topic, partition] = offset
        return problem


def _check_transaction(response: Any) -> None:
    raise_code(getattr(response, "error_code", 0))
    for topic, partitions in getattr(response, "errors", ()):
        for _, code in partitions:
            if code != kafka.OperationNotAttempted.errno:  # another partition is the reason
                raise_code(code, topic)


async def _pause(seconds: float, until_s: float, error: Exception) -> None:
    if time.monotonic() > until_s:
        raise error
    await asyncio.sleep(seconds)

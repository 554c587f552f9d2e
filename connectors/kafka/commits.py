"""Commits of one group and partition: outputs and manifest in one Kafka transaction, and one owner at a time.

Source: KIP-98 (transactional ids fence their former owner). What is ours: the manifest is a record of the transaction
instead of group offsets, and two transactional ids take turns, for a broker refuses the next transaction of an id while
it writes the markers of the last one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

import pyarrow as pa
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from connectors.kafka.connection import Connection
from connectors.kafka.manifests import Numbered, Tail, manifest_topic, though_others_forget
from connectors.kafka.messages import Outgoing, OutgoingBatch
from connectors.kafka.producing import FencedError, Producer
from connectors.kafka.reader import LATEST, Place, Reader
from connectors.log import CommitConflictError, LogError, conflict

OPEN_S_MAX, OPEN_PAUSE_S = 5.0, 0.01
ABORT_S_MAX = 3.0  # a broker that does not answer by then aborts by itself, after the transaction's time
HOLD_S = 0.02  # at least once: a manifest waits so long for the outputs of the next commit, to go with them


class Owner:
    """Commits for one group and partition; everything here runs on the connection's event loop.

    Before the first commit the owner claims its partition: both ids are initialised, the first before the second, which
    fences whoever owned them and settles what was open. Only then the newest manifest is read. The first commit uses
    the first id, so of two owners that claim at the same time one fails at once. After a commit that was aborted the
    next one claims again; after one that was refused, or whose outcome is unknown, only `claim` does: somebody else may
    have been given the partition, and is not to be robbed of it.

    Args:
        at_least_once: no transactions: outputs first; when they are written, the manifest goes with the outputs of the
            next commit, or by itself a moment later. Nobody is fenced; after a crash what has no manifest comes again.
    """

    def __init__(self, connection: Connection, group: str, partition: int, *, at_least_once: bool = False) -> None:
        self.group, self.partition, self.at_least_once = group, partition, at_least_once
        self._connection = connection
        self._reader, self._everything = Reader(connection), Reader(connection, isolated=False)
        name = f"pelton-{group}-{partition}"
        ids = [None] if at_least_once else [f"{name}-0", f"{name}-1"]
        self._producers = [Producer(connection, each, name) for each in ids]
        self._turn = 0
        self._newest: int | None = None  # None: not claimed
        self._claimed: Tail | None = None  # the manifests as of the claim, until the first commit
        self._lost = ""  # why nothing is committed before the next claim
        self._held: Outgoing | None = None  # the manifest of the newest commit, not written yet
        self._hold: asyncio.TimerHandle | None = None
        self._lock = asyncio.Lock()

    @property
    def place(self) -> Place:
        """Where the manifests are."""
        return manifest_topic(self.group), self.partition

    @property
    def newest(self) -> int:
        """The number of the newest commit, as far as this owner knows; 0 if it does not."""
        return self._newest or 0

    async def claim(self) -> int:
        """Become the owner, whoever was before; return the number of the newest commit, 0 for none."""
        async with self._lock:
            self._lost = ""
            return await self._claim()

    async def flush(self) -> None:
        """Write the manifest of the newest commit, if it is not written yet."""
        async with self._lock:
            await self._flush()

    async def _flush(self) -> None:
        if held := self._take_held():
            try:
                await self._producers[0].write(held, self._connection.deadline_s)
            except BaseException:
                self._newest, self._lost = None, "the manifest of the last one could not be written"
                raise

    async def _flush_soon(self) -> None:
        with contextlib.suppress(KafkaError, OSError, LogError, asyncio.TimeoutError):  # the next commit says so
            await self.flush()

    def _take_held(self) -> dict[Place, list[OutgoingBatch]]:
        held, self._held = self._held, None
        if self._hold is not None:
            self._hold.cancel()
        return {self.place: held.batches()} if held is not None else {}

    async def _claim(self) -> int:
        await self._flush()
        self._newest = self._claimed = None
        until_s = self._connection.deadline_s
        for producer in self._producers:
            await producer.begin(until_s)
        self._turn = 0
        self._claimed, found = await though_others_forget(self._look)
        self._newest = found[0] if found else 0
        return self._newest

    async def _look(self) -> tuple[Tail, Numbered | None]:
        await self._nothing_open()
        tail = await Tail.of(self._reader, *self.place)
        return tail, await tail.newest()

    async def _nothing_open(self) -> None:
        """Wait until no transaction among the manifests is open; both ids are settled, so none should be.

        Raises:
            LogError: one stays open. Kafka 4.x forgets to end transactions in partitions that have no leader at that
                moment (seen in 4.3.1: `getPartitionLeaderEndpoint` answers as for a topic that was deleted). Our next
                commits would end it, and what was aborted, or decided anew since, would come twice.
        """
        if self.at_least_once:
            return
        until_s = time.monotonic() + OPEN_S_MAX
        while True:
            committed, end = await asyncio.gather(
                *(each.offset(*self.place, LATEST) for each in (self._reader, self._everything))
            )
            if committed >= end:
                return
            if time.monotonic() > until_s:
                topic, partition = self.place
                raise LogError(
                    f"topic {topic!r}, partition {partition}: the brokers never ended a transaction of the last owner, "
                    f"at offset {committed}, so nobody may commit after it; end it with kafka-transactions.sh abort "
                    f"--topic {topic} --partition {partition} --start-offset {committed}, and likewise what "
                    f"find-hanging tells of other topics of the app"
                )
            await asyncio.sleep(OPEN_PAUSE_S)

    async def claimed(self, since: int | None = None) -> list[Numbered] | None:
        """Return the manifests of commits after `since`, None for the newest alone, as of the claim.

        None after the first commit, or without a claim. Until then nobody else commits: a recovery, which asks several
        times, need not ask the broker again.
        """
        if self._claimed is None:
            return None
        async with self._lock:
            if (tail := self._claimed) is None:
                return None
            try:
                if since is not None:
                    return await tail.since(since)
                newest = await tail.newest()
            except OffsetOutOfRangeError:  # forgotten meanwhile
                self._claimed = None
                return None
            return [newest] if newest is not None else []

    async def commit(
        self, expected: int, outputs: Sequence[tuple[Place, Outgoing]], manifest: bytes, compression: int
    ) -> list[int]:
        """Write outputs and manifest as one; return the offset of the first message of each output.

        Raises:
            CommitConflictError: another owner took over, or committed in between: nothing was written.
            LogError: it failed. Whether it was written shows after the next claim.
        """
        async with self._lock:
            if self._lost:
                raise self._refused(expected)
            newest = await self._claim() if self._newest is None else self._newest
            if newest != expected:
                self._newest = None
                raise conflict(self.group, self.partition, expected, newest)
            offsets = await self._guarded(expected, outputs, manifest, compression)
            self._newest = expected + 1
            return offsets

    async def _guarded(
        self, expected: int, outputs: Sequence[tuple[Place, Outgoing]], manifest: bytes, compression: int
    ) -> list[int]:
        record = Outgoing(_one(manifest), int(time.time() * 1000), _one(str(expected + 1).encode()))
        self._newest = self._claimed = None  # until it is known
        producer = self._producers[self._turn]
        try:
            writes, firsts = _joined(outputs, compression)
            if self.at_least_once:
                offsets = await producer.write(writes | self._take_held(), self._connection.deadline_s)
                self._held = record
                self._hold = asyncio.get_running_loop().call_later(
                    HOLD_S, lambda: asyncio.ensure_future(self._flush_soon())
                )
            else:
                writes[self.place] = record.batches()
                offsets = await producer.commit(writes, self._connection.deadline_s)
        except FencedError:
            self._lost = "another process took the partition over, or the broker waited too long"
            raise self._refused(expected) from None
        except BaseException:
            await self._give_up(producer)
            raise
        self._turn = (self._turn + 1) % len(self._producers)
        return [offsets[place] + before if offsets[place] >= 0 else -1 for place, before in firsts]

    async def _give_up(self, producer: Producer) -> None:
        """Abort, so that no reader waits for what is open; if that fails too, the next claim or the broker does it."""
        if self.at_least_once:
            return
        self._lost = "what came of the last one is unknown"
        with contextlib.suppress(KafkaError, FencedError, OSError, LogError, asyncio.TimeoutError):
            await asyncio.wait_for(producer.abort(self._connection.deadline_s), ABORT_S_MAX)
            self._lost = ""

    def _refused(self, expected: int) -> CommitConflictError:
        return CommitConflictError(
            f"app {self.group!r}, partition {self.partition}: commit {expected + 1} was refused, for {self._lost}; "
            f"claim the partition anew, or stop"
        )


def _joined(
    outputs: Sequence[tuple[Place, Outgoing]], compression: int
) -> tuple[dict[Place, list[OutgoingBatch]], list[tuple[Place, int]]]:
    """Return the batches of each place, and for each output its place and how many messages lie before it there."""
    writes: dict[Place, list[OutgoingBatch]] = {}
    firsts: list[tuple[Place, int]] = []
    for place, outgoing in outputs:
        at = writes.setdefault(place, [])
        firsts.append((place, sum(batch.count for batch in at)))
        at.extend(outgoing.batches(compression))
    return {place: batches for place, batches in writes.items() if batches}, firsts


def _one(value: bytes) -> pa.LargeBinaryArray:
    return pa.array([value], pa.large_binary())

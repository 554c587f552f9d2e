"""The log on Kafka: topics are Kafka's, a commit is a Kafka transaction, and whoever else reads sees committed only."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
from aiokafka import errors as kafka

from connectors.kafka import codec
from connectors.kafka.commits import Owner
from connectors.kafka.compression import COMPRESSIONS
from connectors.kafka.connection import TIMEOUT_S, Connection, all_of
from connectors.kafka.manifests import Numbered, forget_before, manifest_topic, manifests_since
from connectors.kafka.messages import Messages, Outgoing
from connectors.kafka.producing import Producer
from connectors.kafka.reader import EARLIEST, LATEST, Place, Reader, is_out_of_range
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.shelves import BYTES_MAX, Shelves
from connectors.kafka.tails import Tails
from connectors.kafka.topic_book import TopicBook
from connectors.kafka.transaction import KafkaTransaction
from connectors.kafka.visible import Visible
from connectors.log import (
    READ_BYTES_MAX,
    Lines,
    LogError,
    Sealer,
    TopicInfo,
    Transaction,
    check_position,
)
from connectors.records import Int64s, Records

FLUSH_S_MAX = 5.0  # when a log is let go of
ARROW_MESSAGES_MAX = 64  # taken in one read of rows: each may hold some thousands


class KafkaLog:
    """A `Log` on a Kafka cluster, for many threads, processes and machines.

    Delivery: commits are exactly once for readers of committed messages, which all of ours are. An append outside of
    a commit is written once even if it had to be sent again, but is whole only if it fits into one message batch.
    Records are written as they are given. The broker's clock is the append time where the topic says so.

    A feed (`start_feed`, `feed`) is somebody else who fetches, such as a Faust worker: a read at its position is served
    from memory and never waits for the broker. All other reads fetch by themselves.

    Args:
        settings: where Kafka is, and security.
        sealer: encrypts what is written here to topics that are created with `sealed=True`, each value by itself; what
            others write to them is read as it is.
        rows: topic -> schema, as of `create_topic`, for topics that are read and not created here.
        at_least_once: commits without transactions: outputs are written before the manifest, which may come some
            milliseconds after the commit.
        compression: of what is written: none, gzip, snappy or zstd; all that producers use can be read.
        timeout_s: after this long without an answer a call raises LogError.
        loop: an event loop that runs in another thread; None for one of our own.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        sealer: Sealer | None = None,
        *,
        rows: Mapping[str, pa.Schema] | None = None,
        at_least_once: bool = False,
        compression: str = "none",
        timeout_s: float = TIMEOUT_S,
        loop: asyncio.AbstractEventLoop | None = None,
        feed_bytes_max: int = BYTES_MAX,
    ) -> None:
        if compression not in COMPRESSIONS:
            raise LogError(f"compression is {compression!r}; choose {', '.join(COMPRESSIONS)}")
        self._at_least_once, self._compression = at_least_once, COMPRESSIONS[compression]
        self._connection = Connection(settings, timeout_s, loop)
        self._reader = Reader(self._connection)
        self._shelves = Shelves(feed_bytes_max)
        self._taken: dict[tuple[str, int], tuple[int, int]] = {}  # row offset behind the last row of a message: its end
        self._tails = Tails(self._connection, self._reader, self._shelves)
        self._book = TopicBook(self._connection, sealer, rows or {})
        self._visible = Visible(self._reader)
        self._owners: dict[tuple[str, int], Owner] = {}
        self._appending: dict[Place, tuple[Producer, asyncio.Lock]] = {}
        self._lock = threading.RLock()

    def __enter__(self) -> KafkaLog:
        """Return itself; the block's end closes the log."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the log."""
        self.close()

    # Topics

    def create_topic(
        self,
        name: str,
        partitions: int = 1,
        retention_ms: int | None = None,
        *,
        sealed: bool = False,
        rows: pa.Schema | None = None,
    ) -> TopicInfo:
        """Make a topic, or find it again (see `Log.create_topic`); new ones carry the broker's time."""
        return self._book.create(TopicInfo(name, partitions, retention_ms, sealed, rows))

    def topics(self) -> list[TopicInfo]:
        """Return all topics by name, without those of manifests."""
        return self._book.all()

    # Writing

    def append(
        self,
        topic: str,
        partition: int,
        values: Lines,
        append_ms: int,
        redriven_from: Int64s | Sequence[int] | None = None,
    ) -> int:
        """Store records; return the offset of the first (see `Log.append`)."""
        return self._append(topic, partition, self._book.lines_out(topic, partition, values, append_ms, redriven_from))

    def append_rows(self, topic: str, partition: int, rows: pa.RecordBatch, append_ms: int) -> int:
        """Store rows; return the offset of the first."""
        offset = self._append(topic, partition, self._book.rows_out(topic, partition, rows, append_ms))
        return self._book.row_offset(topic, offset)

    def _append(self, topic: str, partition: int, outgoing: list[Outgoing]) -> int:
        if not outgoing:
            return self._bound(topic, partition, LATEST)
        return self._connection.call(self._write((topic, partition), outgoing), f"write to topic {topic!r}")

    async def _write(self, place: Place, outgoing: list[Outgoing]) -> int:
        producer, lock = self._appending.setdefault(
            place, (Producer(self._connection, None, ("append", *place)), asyncio.Lock())
        )
        batches = [batch for each in outgoing for batch in each.batches(self._compression)]
        async with lock:
            try:
                return (await producer.write({place: batches}, self._connection.deadline_s))[place]
            except BaseException:
                self._appending.pop(place, None)  # what came of it is unknown: the next one counts anew
                raise

    # Commits

    def claim(self, group: str, partition: int, partitions: int = 0) -> int:
        """Become the one who commits for a group and partition, whoever it was; return the newest commit.

        Everybody else's next commit fails, and what was open is settled, so that `manifest` says what holds. The first
        transaction does the same by itself; after another owner took over, or a commit whose outcome is unknown, only
        this does.

        Args:
            partitions: how many the topic of manifests gets if it is not there: as many as the input has.
        """
        return self.claim_all([group], partition, partitions)[0]

    def claim_all(self, groups: Sequence[str], partition: int, partitions: int = 0) -> list[int]:
        """Claim a partition for several groups at once; return the newest commit of each."""
        work = all_of(owner.claim() for owner in self._owners_of(groups, partition, partitions))
        return self._connection.call(work, f"claim partition {partition} of {groups[0]!r}")

    def release(self, group: str, partition: int) -> None:
        """Forget a partition that another one may have; commits of it must have ended."""
        with self._lock:
            owner = self._owners.pop((group, partition), None)
        self._flush([owner] if owner is not None else [])

    def _flush(self, owners: Sequence[Owner]) -> None:
        """Write the manifests that wait to be written; what cannot be written comes again, at least once."""
        late = [owner for owner in owners if owner.at_least_once]

        async def flush() -> None:
            await asyncio.wait_for(all_of(owner.flush() for owner in late), FLUSH_S_MAX)

        if late:
            with contextlib.suppress(LogError):
                self._connection.call(flush(), "write manifests")

    @contextlib.contextmanager
    def transaction(self, group: str, partition: int, expected_commit: int) -> Iterator[Transaction]:
        """Write outputs and a manifest together when the block ends (see `Log.transaction`).

        Raises:
            CommitConflictError: also when another process took the partition over.
        """
        pending = KafkaTransaction(group, partition, expected_commit + 1, self._book.find, None, book=self._book)
        yield pending
        payload = pending.written_manifest()
        widest = max((self._book.find(*place).partitions for place, _ in pending.outputs), default=0)
        (owner,) = self._owners_of([group], partition, widest)
        work = owner.commit(expected_commit, pending.outputs, bytes(payload), self._compression)
        offsets = self._connection.call(work, f"commit {pending.commit} of {group!r}, partition {partition}")
        for (place, outgoing), offset in zip(pending.outputs, offsets, strict=True):
            self._visible.written(place, offset + len(outgoing.values))
        at = 0
        for count in pending.counts:
            found = offsets[at : at + count]
            topic = pending.outputs[at][0][0] if count else ""
            pending.base_offsets.append(self._book.row_offset(topic, found[0]) if found else -1)
            at += count

    def _owners_of(self, groups: Sequence[str], partition: int, partitions: int) -> list[Owner]:
        new = [group for group in groups if (group, partition) not in self._owners]
        if new:
            self._book.make_manifests(new, max(partition + 1, partitions))
        with self._lock:
            for group in new:
                made = Owner(self._connection, group, partition, at_least_once=self._at_least_once)
                self._owners.setdefault((group, partition), made)
            return [self._owners[group, partition] for group in groups]

    def _claimed(self, group: str, partition: int, since_commit: int | None = None) -> list[Numbered] | None:
        """Return what the owner knows since it claimed; None if the broker must be asked."""
        owner = self._owners.get((group, partition))
        work = owner.claimed(since_commit) if owner is not None else None
        return self._connection.call(work, f"read manifests of {group!r}") if work is not None else None

    def manifest(self, group: str, partition: int) -> tuple[int, bytes] | None:
        """Return the number and manifest of the newest commit."""
        topic, known = manifest_topic(group), self._claimed(group, partition)
        if known is not None:
            return (known[-1][0], known[-1][2]) if known else None
        if self._book.partitions([topic]).get(topic, 0) <= partition:
            return None
        owner = self._owners.get((group, partition))
        if owner is not None and owner.at_least_once:
            self._connection.call(owner.flush(), f"write the manifest of {group!r}")
        work = self._visible.manifest(topic, partition, owner.newest if owner is not None else 0)
        return self._connection.call(work, f"read the manifest of {group!r}")

    def manifests(self, group: str, partition: int, since_commit: int) -> list[tuple[int, bytes]]:
        """Return the manifests of commits after `since_commit`, oldest first."""
        found = self._claimed(group, partition, since_commit)
        if found is None:
            if self.manifest(group, partition) is None:  # waits for what this process committed
                return []
            work = manifests_since(self._reader, manifest_topic(group), partition, since_commit)
            found = self._connection.call(work, f"read manifests of {group!r}")
        return [(number, payload) for number, _, payload in found]

    def forget_manifests(self, group: str, partition: int, before_commit: int) -> int:
        """Remove manifests of commits before this one, never the newest; return how many."""
        topic = manifest_topic(group)
        if self._book.partitions([topic]).get(topic, 0) <= partition:
            return 0
        work = forget_before(self._reader, topic, partition, before_commit)
        return self._connection.call(work, f"forget manifests of {group!r}")

    # Reading

    def read(self, topic: str, partition: int, offset: int, limit: int) -> Records:
        """Return at most `limit` records from `offset` on (see `Log.read`)."""
        info = self._book.find(topic, partition)
        messages = self._messages(topic, partition, offset, limit)
        values = codec.opened(messages, messages.values, lambda: self._book.sealer_of(info))
        offsets = messages.offsets
        codec.refuse_rows(topic, offsets, values)
        redriven = codec.redriven(messages)
        return Records(topic, partition, values, offsets, messages.times_ms, redriven, messages.are_claimed)

    def read_rows(self, topic: str, partition: int, offset: int, limit: int) -> list[tuple[int, pa.RecordBatch]]:
        """Return at most `limit` rows from `offset` on, each batch with the offset of its first row."""
        info = self._book.find(topic, partition)
        schema = self._book.columns(topic)
        count = ARROW_MESSAGES_MAX if codec.is_arrow(schema) else limit  # the first may have no rows left
        messages = self._messages(topic, partition, self._message_at(topic, partition, offset), count, keep=True)
        values = codec.opened(messages, messages.values, lambda: self._book.sealer_of(info))
        found = codec.rows_from_messages(messages, offset, limit, schema, values, topic)
        behind = codec.row_offset(messages.end, schema)
        if not found and len(messages) and behind > offset:  # all rows of what is on the shelf were taken: go on behind
            self._taken[topic, partition] = offset, messages.end
            return self.read_rows(topic, partition, behind, limit)
        return found

    def _message_at(self, topic: str, partition: int, offset: int) -> int:
        """Return where to look for what is at an offset: behind its message, if all rows of that were taken."""
        taken, end = self._taken.get((topic, partition), (-1, -1))
        return end if offset == taken else self._book.message_offset(topic, offset)

    def begin(self, topic: str, partition: int) -> int:
        """Return the oldest offset that can be read."""
        self._book.find(topic, partition)
        return self._book.row_offset(topic, self._bound(topic, partition, EARLIEST))

    def offset_since(self, topic: str, partition: int, append_ms: int) -> int:
        """Return the offset of the first record of a time or later, by the topic's clock; the end if there is none."""
        self._book.find(topic, partition)
        offset = self._bound(topic, partition, max(append_ms, 0))
        return self._book.row_offset(topic, offset) if offset >= 0 else self.end(topic, partition)

    def end(self, topic: str, partition: int) -> int:
        """Return the offset behind the last committed record, as far as a feed knows if there is one."""
        self._book.find(topic, partition)
        fed = self._shelves.fed_end((topic, partition))
        offset = fed if fed is not None else self._bound(topic, partition, LATEST)
        return self._book.row_offset(topic, offset)

    def _bound(self, topic: str, partition: int, at: int) -> int:
        work = self._visible.end(topic, partition) if at == LATEST else self._reader.offset(topic, partition, at)
        return self._connection.call(work, f"read the offsets of topic {topic!r}")

    def _messages(self, topic: str, partition: int, offset: int, limit: int, keep: bool = False) -> Messages:
        """Return at most `limit` messages from an offset on: from the shelf, else from the broker.

        `keep` puts all of them on the shelf: the next read may want the last one again.
        """
        place = (topic, partition)
        found = self._shelves.take(place, offset, limit)
        if found is not None:
            return found
        try:
            return self._connection.call(self._fetch(place, offset, limit, keep), f"read topic {topic!r}")
        except LogError as error:
            if is_out_of_range(error.__cause__):
                bounds = self._bound(topic, partition, EARLIEST), self._bound(topic, partition, LATEST)
                check_position(topic, partition, offset, *bounds)
            raise

    async def _fetch(self, place: Place, offset: int, limit: int, keep: bool) -> Messages:
        found = Messages((), offset, offset)
        while True:
            fetched = (await self._reader.fetch({place: found.end}))[place]
            found = found.followed_by(fetched.messages)
            if len(found) >= limit or found.size >= READ_BYTES_MAX:
                break
            if fetched.messages.end == fetched.messages.start and not await self._visible.is_coming(place, found.end):
                break
        if len(found) > limit or keep:  # for the next read
            self._shelves.put(place, found, fetched.last_stable)
        return found.cut(offset, limit)

    def wait(self, after: Mapping[tuple[str, int], int], timeout_s: float) -> bool:
        """Wait until any of these topic partitions has a record at its offset in `after` (see `Log.wait`)."""
        places = {}
        for (topic, partition), offset in after.items():
            self._book.find(topic, partition)
            places[topic, partition] = self._message_at(topic, partition, offset)
        try:
            return self._tails.wait(places, timeout_s)
        except (kafka.KafkaError, OSError) as error:
            raise self._connection.explained(error, "wait for records") from error

    # Feeds

    def start_feed(self, topic: str, partition: int, offset: int) -> None:
        """Expect that `feed` brings what comes from this offset on."""
        self._shelves.start_feed((topic, partition), offset)

    def feed(self, topic: str, partition: int, messages: Messages, last_stable: int = -1) -> bool:
        """Take what was fetched for a partition; wakes who waits for it.

        Args:
            messages: that follow the last ones; what was there already is passed over.
            last_stable: the end of the partition, if the feeder knows it: `end` answers with it.

        Returns:
            False if there is a gap between, or the feed was begun anew elsewhere: nothing was taken.
        """
        return self._shelves.feed((topic, partition), messages, last_stable)

    def is_full(self, topic: str, partition: int) -> bool:
        """Tell whether so much waits in a fed partition that the feeder should pause it."""
        return self._shelves.is_full((topic, partition))

    def stop_feed(self, topic: str, partition: int) -> None:
        """Forget what was fed; reads fetch by themselves again."""
        self._shelves.stop_feed((topic, partition))

    # Housekeeping

    def enforce_retention(self, now_ms: int, keep_from: Mapping[tuple[str, int], int] | None = None) -> int:
        """Do nothing: the brokers remove what is older than a topic's retention."""
        return 0

    def close(self) -> None:
        """Let go of connections and threads; everything is written then."""
        self._flush(list(self._owners.values()))
        self._connection.close()

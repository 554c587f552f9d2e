"""A log in memory: what tests use, and the reference for the one on disk."""

import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa

from connectors.log import (
    READ_BYTES_MAX,
    Append,
    Lines,
    Sealer,
    TopicInfo,
    Transaction,
    agreed,
    check_partition,
    check_position,
    conflict,
    lines_for,
    needed_sealer,
    rows_for,
    unknown_topic,
    unsealed,
)
from connectors.log_batches import Stored, unpack_lines, unpack_rows
from connectors.records import Int64s, Records


@dataclass
class _Partition:
    begin: int = 0
    end: int = 0
    stored: Stored = field(default_factory=list)


class MemoryLog:
    """A `Log` that lives and dies with its process. Delivery as in `Log`; wake-up by a condition variable."""

    def __init__(self, sealer: Sealer | None = None) -> None:
        self._sealer = sealer
        self._topics: dict[str, TopicInfo] = {}
        self._partitions: dict[tuple[str, int], _Partition] = {}
        self._manifests: dict[tuple[str, int], list[tuple[int, bytes]]] = {}
        self._changed = threading.Condition()

    def __enter__(self) -> "MemoryLog":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the log."""
        self.close()

    def create_topic(
        self,
        name: str,
        partitions: int = 1,
        retention_ms: int | None = None,
        *,
        sealed: bool = False,
        rows: pa.Schema | None = None,
    ) -> TopicInfo:
        """Make a topic, or find it again (see `Log.create_topic`); stored rows carry their columns themselves."""
        asked = TopicInfo(name, partitions, retention_ms, sealed, rows)
        if sealed:
            needed_sealer(asked, self._sealer)
        with self._changed:
            topic = agreed(self._topics[name], asked) if name in self._topics else asked
            self._topics[name] = topic
            for partition in range(partitions):
                self._partitions.setdefault((name, partition), _Partition())
        return topic

    def topics(self) -> list[TopicInfo]:
        """Return all topics by name."""
        with self._changed:
            return [self._topics[name] for name in sorted(self._topics)]

    def append(
        self,
        topic: str,
        partition: int,
        values: Lines,
        append_ms: int,
        redriven_from: Int64s | Sequence[int] | None = None,
    ) -> int:
        """Store records; return the offset of the first (see `Log.append`)."""
        info = self._find(topic, partition)
        batches = lines_for(info, self._sealer, values, append_ms, redriven_from)
        with self._changed:
            return self._store(Append(info, partition, batches))

    def append_rows(self, topic: str, partition: int, rows: pa.RecordBatch, append_ms: int) -> int:
        """Store rows; return the offset of the first."""
        info = self._find(topic, partition)
        batches = rows_for(info, self._sealer, rows, append_ms)
        with self._changed:
            return self._store(Append(info, partition, batches))

    def read(self, topic: str, partition: int, offset: int, limit: int) -> Records:
        """Return at most `limit` records from `offset` on (see `Log.read`)."""
        return unpack_lines(topic, partition, self._stored(topic, partition, offset, limit), offset, limit)

    def read_rows(self, topic: str, partition: int, offset: int, limit: int) -> list[tuple[int, pa.RecordBatch]]:
        """Return at most `limit` rows from `offset` on, each batch with the offset of its first row."""
        return unpack_rows(topic, self._stored(topic, partition, offset, limit), offset, limit)

    def begin(self, topic: str, partition: int) -> int:
        """Return the oldest offset that can be read."""
        self._find(topic, partition)
        with self._changed:
            return self._partitions[topic, partition].begin

    def offset_since(self, topic: str, partition: int, append_ms: int) -> int:
        """Return `begin`, from which on everything stands."""
        return self.begin(topic, partition)

    def end(self, topic: str, partition: int) -> int:
        """Return the offset that the next record gets."""
        self._find(topic, partition)
        with self._changed:
            return self._partitions[topic, partition].end

    @contextmanager
    def transaction(self, group: str, partition: int, expected_commit: int) -> Iterator[Transaction]:
        """Write outputs and a manifest together when the block ends (see `Log.transaction`)."""
        pending = Transaction(group, partition, expected_commit + 1, self._find, self._sealer)
        yield pending
        payload = pending.written_manifest()
        with self._changed:
            commits = self._manifests.get((group, partition), [])
            newest = commits[-1][0] if commits else 0
            if newest != expected_commit:
                raise conflict(group, partition, expected_commit, newest)
            pending.base_offsets = [self._store(append) for append in pending.appends]
            self._manifests[group, partition] = [*commits, (pending.commit, bytes(payload))]
            self._changed.notify_all()

    def manifest(self, group: str, partition: int) -> tuple[int, bytes] | None:
        """Return the number and manifest of the newest commit."""
        with self._changed:
            commits = self._manifests.get((group, partition))
            return commits[-1] if commits else None

    def manifests(self, group: str, partition: int, since_commit: int) -> list[tuple[int, bytes]]:
        """Return the manifests of commits after `since_commit`, oldest first."""
        with self._changed:
            return [one for one in self._manifests.get((group, partition), []) if one[0] > since_commit]

    def forget_manifests(self, group: str, partition: int, before_commit: int) -> int:
        """Remove manifests of commits before this one, never the newest; return how many."""
        with self._changed:
            commits = self._manifests.get((group, partition), [])
            kept = [one for one in commits if one[0] >= before_commit] or commits[-1:]
            self._manifests[group, partition] = kept
            return len(commits) - len(kept)

    def enforce_retention(self, now_ms: int, keep_from: Mapping[tuple[str, int], int] | None = None) -> int:
        """Remove stored batches older than their topic keeps (see `Log.enforce_retention`)."""
        removed = 0
        with self._changed:
            for (name, partition), at in self._partitions.items():
                keeps_ms = self._topics[name].retention_ms
                if keeps_ms is None:
                    continue
                kept = (keep_from or {}).get((name, partition), at.end)
                is_old = [
                    batch.append_ms < now_ms - keeps_ms and base + batch.count <= kept for base, batch in at.stored
                ]
                old = is_old.index(False) if False in is_old else len(is_old)
                del at.stored[:old]
                was, at.begin = at.begin, at.stored[0][0] if at.stored else at.end
                removed += at.begin - was
        return removed

    def wait(self, after: Mapping[tuple[str, int], int], timeout_s: float) -> bool:
        """Wait until any of these topic partitions has a record at its offset in `after` (see `Log.wait`)."""
        for topic, partition in after:
            self._find(topic, partition)
        with self._changed:
            return self._changed.wait_for(
                lambda: any(self._partitions[place].end > offset for place, offset in after.items()), timeout_s
            )

    def close(self) -> None:
        """Do nothing: there is nothing to let go of."""

    def _find(self, topic: str, partition: int) -> TopicInfo:
        with self._changed:
            if topic not in self._topics:
                raise unknown_topic(topic, self._topics)
            return check_partition(self._topics[topic], partition)

    def _store(self, append: Append) -> int:
        at = self._partitions[append.topic.name, append.partition]
        first = at.end
        for batch in append.batches:
            at.stored.append((at.end, batch.with_payload(bytes(batch.payload))))
            at.end += batch.count
        self._changed.notify_all()
        return first

    def _stored(self, topic: str, partition: int, offset: int, limit: int) -> Stored:
        info = self._find(topic, partition)
        with self._changed:
            at = self._partitions[topic, partition]
            check_position(topic, partition, offset, at.begin, at.end)
            found: Stored = []
            size = 0
            place = max(bisect_right(at.stored, offset, key=lambda one: one[0]) - 1, 0)
            for base, batch in at.stored[place:]:
                if base >= offset + limit or size > READ_BYTES_MAX or offset == at.end:
                    break
                found.append((base, batch))
                size += len(batch.payload)
        return unsealed(info, self._sealer, found)

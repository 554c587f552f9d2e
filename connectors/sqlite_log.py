"""The embedded log: one SQLite file, each batch one row, outputs and manifest of a commit one transaction."""

import itertools
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from connectors.log import (
    READ_BYTES_MAX,
    Append,
    Lines,
    LogError,
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
from connectors.log_batches import Batch, Stored, unpack_lines, unpack_rows
from connectors.records import Int64s, Records
from connectors.sqlite_file import Checkpointer, begin_write, explained, open_file, rolled_back

POLL_S = (0.001, 0.004)  # how often `wait` looks for other processes' commits: at first, at last
FORGET_STEP = 200  # manifests removed in one transaction, so that no commit waits long for it
RETENTION_STEP = 64  # stored batches removed in one transaction, so that appends get their turn

_ADD_BATCH = """
INSERT INTO batches (topic, partition, base_offset, count, append_ms, format, lengths, redriven, payload)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_READ_BATCHES = """
SELECT base_offset, count, append_ms, format, lengths, redriven, payload FROM batches
WHERE topic = :topic AND partition = :partition AND base_offset < :stop AND base_offset >= coalesce((
    SELECT max(base_offset) FROM batches
    WHERE topic = :topic AND partition = :partition AND base_offset <= :offset), 0)
ORDER BY base_offset"""
_OLDEST_BATCHES = """
SELECT id, count, append_ms, base_offset FROM batches WHERE topic = ? AND partition = ? ORDER BY base_offset LIMIT ?"""

Result = TypeVar("Result")


class SqliteLog:
    """A `Log` in one file, for many threads and processes of one machine (not for network file systems).

    Delivery as in `Log`, also when a process is killed at any moment; across a power cut only with `power_safe`
    (see `connectors.sqlite_file.open_file`). The file does not shrink: what retention removes is written over.
    A forked child opens its own.

    Args:
        path: of the file; it and its folder are made if missing. Two more files, -wal and -shm, lie beside it.
        sealer: encrypts the topics that are created with `sealed=True`.
        power_safe: wait for the disk at every commit.
        bytes_max: refuse to grow beyond this, as if the disk were full.

    Raises:
        LogError: the path cannot be written, is not a log, or was written by a newer version.
    """

    def __init__(
        self,
        path: str | Path,
        sealer: Sealer | None = None,
        *,
        power_safe: bool = False,
        bytes_max: int | None = None,
    ) -> None:
        self.path = Path(path)
        self._sealer = sealer
        self._process = os.getpid()
        self._topics: dict[str, tuple[int, TopicInfo]] = {}  # what cannot change: ids, partitions, seals
        self._write_lock, self._read_lock = threading.RLock(), threading.RLock()
        self._changed = threading.Condition()
        self._commits = 0  # of this object, under `_changed`
        self._writer = open_file(self.path, power_safe=power_safe, bytes_max=bytes_max)
        self._writer.execute("PRAGMA busy_timeout=0")  # begin_write waits in smaller steps
        self._reader = open_file(self.path, power_safe=power_safe, bytes_max=bytes_max)
        spare = open_file(self.path, power_safe=power_safe, bytes_max=bytes_max)
        self._checkpointer = Checkpointer(spare, self.path, self._read_lock)

    def __enter__(self) -> "SqliteLog":
        """Return itself; the block's end closes the log."""
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

        def create(db: sqlite3.Connection) -> TopicInfo:
            found = _topics(db, name)
            if found:
                topic = agreed(found[0][1], asked)
                db.execute("UPDATE topics SET retention_ms = ? WHERE name = ?", (topic.retention_ms, name))
                return topic
            row = (name, partitions, retention_ms, sealed)
            made = db.execute("INSERT INTO topics (name, partitions, retention_ms, sealed) VALUES (?, ?, ?, ?)", row)
            heads = [(made.lastrowid, partition) for partition in range(partitions)]
            db.executemany("INSERT INTO partitions VALUES (?, ?, 0, 0)", heads)
            return asked

        return self._write(create, 0)

    def topics(self) -> list[TopicInfo]:
        """Return all topics by name."""
        return [topic for _, topic in self._read(_topics)]

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
        return self._append(Append(info, partition, lines_for(info, self._sealer, values, append_ms, redriven_from)))

    def append_rows(self, topic: str, partition: int, rows: pa.RecordBatch, append_ms: int) -> int:
        """Store rows; return the offset of the first."""
        info = self._find(topic, partition)
        return self._append(Append(info, partition, rows_for(info, self._sealer, rows, append_ms)))

    def read(self, topic: str, partition: int, offset: int, limit: int) -> Records:
        """Return at most `limit` records from `offset` on (see `Log.read`)."""
        return unpack_lines(topic, partition, self._stored(topic, partition, offset, limit), offset, limit)

    def read_rows(self, topic: str, partition: int, offset: int, limit: int) -> list[tuple[int, pa.RecordBatch]]:
        """Return at most `limit` rows from `offset` on, each batch with the offset of its first row."""
        return unpack_rows(topic, self._stored(topic, partition, offset, limit), offset, limit)

    def begin(self, topic: str, partition: int) -> int:
        """Return the oldest offset that can be read."""
        return self._bounds(topic, partition)[0]

    def offset_since(self, topic: str, partition: int, append_ms: int) -> int:
        """Return `begin`, from which on everything stands."""
        return self.begin(topic, partition)

    def end(self, topic: str, partition: int) -> int:
        """Return the offset that the next record gets."""
        return self._bounds(topic, partition)[1]

    @contextmanager
    def transaction(self, group: str, partition: int, expected_commit: int) -> Iterator[Transaction]:
        """Write outputs and a manifest together when the block ends (see `Log.transaction`)."""
        pending = Transaction(group, partition, expected_commit + 1, self._find, self._sealer)
        yield pending
        payload = pending.written_manifest()

        def commit(db: sqlite3.Connection) -> list[int]:
            newest = db.execute(
                "SELECT coalesce(max(number), 0) FROM manifests WHERE app = ? AND partition = ?", (group, partition)
            ).fetchone()[0]
            if newest != expected_commit:
                raise conflict(group, partition, expected_commit, newest)
            row = (group, partition, pending.commit, payload)
            db.execute("INSERT INTO manifests (app, partition, number, payload) VALUES (?, ?, ?, ?)", row)
            return [self._store(db, append) for append in pending.appends]

        size = sum(_size(append) for append in pending.appends) + len(payload)
        pending.base_offsets = self._write(commit, size)

    def manifest(self, group: str, partition: int) -> tuple[int, bytes] | None:
        """Return the number and manifest of the newest commit."""
        query = "SELECT number, payload FROM manifests WHERE app = ? AND partition = ? ORDER BY number DESC LIMIT 1"
        return self._read(lambda db: db.execute(query, (group, partition)).fetchone())

    def manifests(self, group: str, partition: int, since_commit: int) -> list[tuple[int, bytes]]:
        """Return the manifests of commits after `since_commit`, oldest first."""
        query = "SELECT number, payload FROM manifests WHERE app = ? AND partition = ? AND number > ? ORDER BY number"
        return self._read(lambda db: db.execute(query, (group, partition, since_commit)).fetchall())

    def forget_manifests(self, group: str, partition: int, before_commit: int) -> int:
        """Remove manifests of commits before this one, never the newest; return how many."""
        of = "FROM manifests WHERE app = :group AND partition = :partition"
        bounds = f"min(:before, (SELECT max(number) {of}), (SELECT min(number) {of}) + :step)"
        statement = f"DELETE {of} AND number < {bounds}"
        values = {"group": group, "partition": partition, "before": before_commit, "step": FORGET_STEP}
        removed = 0
        while step := self._write(lambda db: db.execute(statement, values).rowcount, 0):
            removed += step
        return removed

    def enforce_retention(self, now_ms: int, keep_from: Mapping[tuple[str, int], int] | None = None) -> int:
        """Remove stored batches older than their topic keeps (see `Log.enforce_retention`)."""
        removed = 0
        for key, topic in self._read(_topics):
            if topic.retention_ms is None:
                continue
            old_ms = now_ms - topic.retention_ms
            for partition in range(topic.partitions):
                kept = (keep_from or {}).get((topic.name, partition))
                while step := self._write(partial(_forget, at=(key, partition), old_ms=old_ms, keep_from=kept), 0):
                    removed += step
        return removed

    def wait(self, after: Mapping[tuple[str, int], int], timeout_s: float) -> bool:
        """Wait until any of these topic partitions has a record at its offset in `after` (see `Log.wait`).

        This process's commits wake it at once, other processes' at the next look: 1 ms apart at first, 4 ms when
        nothing came for long (then it costs 2 to 3 % of a core).
        """
        began_s = time.monotonic()
        while True:
            with self._changed:
                commits = self._commits
            version = self._version()
            if any(self.end(topic, partition) > offset for (topic, partition), offset in after.items()):
                return True
            while self._version() == version:
                waited_s = time.monotonic() - began_s
                if waited_s >= timeout_s:
                    return False
                poll_s = min(max(waited_s / 100, POLL_S[0]), POLL_S[1], timeout_s - waited_s)
                with self._changed:
                    if self._commits != commits or self._changed.wait(poll_s):
                        break

    def close(self) -> None:
        """Close the file; everything is already in it."""
        with self._write_lock, self._read_lock:
            self._checkpointer.close()
            self._reader.close()
            self._writer.close()

    def _version(self) -> int:
        return self._read(lambda db: db.execute("PRAGMA data_version").fetchone()[0])

    def _read(self, action: Callable[[sqlite3.Connection], Result]) -> Result:
        self._check_process()
        with self._read_lock, explained(self.path):
            return action(self._reader)

    def _write(self, action: Callable[[sqlite3.Connection], Result], size: int) -> Result:
        """Run the action in one transaction: all of it, or nothing and an error."""
        self._check_process()
        with self._write_lock, explained(self.path):
            begin_write(self._writer)
            try:
                result = action(self._writer)
                self._writer.execute("COMMIT")
            except BaseException:
                rolled_back(self._writer)
                raise
            self._checkpointer.wrote(size)
        with self._changed:
            self._commits += 1
            self._changed.notify_all()
        return result

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise LogError(f"log {self.path} was opened before this process was forked; open it again in the child")

    def _find(self, topic: str, partition: int) -> TopicInfo:
        return self._known(topic, partition)[1]

    def _known(self, topic: str, partition: int) -> tuple[int, TopicInfo]:
        if topic not in self._topics:
            self._topics |= {info.name: (key, info) for key, info in self._read(_topics)}
        if topic not in self._topics:
            raise unknown_topic(topic, self._topics)
        key, info = self._topics[topic]
        return key, check_partition(info, partition)

    def _bounds(self, topic: str, partition: int) -> tuple[int, int]:
        key, _ = self._known(topic, partition)
        query = "SELECT begin_offset, end_offset FROM partitions WHERE topic = ? AND partition = ?"
        return self._read(lambda db: db.execute(query, (key, partition)).fetchone())

    def _append(self, append: Append) -> int:
        return self._write(lambda db: self._store(db, append), _size(append))

    def _store(self, db: sqlite3.Connection, append: Append) -> int:
        key, partition = self._known(append.topic.name, append.partition)[0], append.partition
        count = sum(batch.count for batch in append.batches)
        end = db.execute(
            "UPDATE partitions SET end_offset = end_offset + ? WHERE topic = ? AND partition = ? RETURNING end_offset",
            (count, key, partition),
        ).fetchall()[0][0]
        first = at = end - count
        for b in append.batches:
            row = (key, partition, at, b.count, b.append_ms, b.format, b.lengths, b.redriven, b.payload)
            db.execute(_ADD_BATCH, row)
            at += b.count
        return first

    def _stored(self, topic: str, partition: int, offset: int, limit: int) -> Stored:
        key, info = self._known(topic, partition)

        def fetch(db: sqlite3.Connection) -> Stored:
            at = {"topic": key, "partition": partition, "offset": offset, "stop": offset + limit}
            cursor = db.execute(_READ_BATCHES, at)
            found: Stored = []
            size = 0
            try:
                for base, count, append_ms, kind, lengths, redriven, payload in cursor:
                    found.append((base, Batch(count, append_ms, kind, payload, lengths, redriven)))
                    size += len(payload)
                    if size > READ_BYTES_MAX:
                        break
            finally:
                cursor.close()  # an open cursor would hold the write-ahead file back
            return found

        found = self._read(fetch)
        if not found or not found[0][0] <= offset < found[0][0] + found[0][1].count:
            check_position(topic, partition, offset, *self._bounds(topic, partition))
            found = []  # at the end, or what retention left between the two looks
        return unsealed(info, self._sealer, found)


def _topics(db: sqlite3.Connection, name: str | None = None) -> list[tuple[int, TopicInfo]]:
    query = "SELECT id, name, partitions, retention_ms, sealed FROM topics WHERE ?1 IS NULL OR name = ?1 ORDER BY name"
    found = db.execute(query, (name,)).fetchall()
    return [(key, TopicInfo(name, count, keeps_ms, bool(sealed))) for key, name, count, keeps_ms, sealed in found]


def _size(append: Append) -> int:
    return sum(len(batch.payload) for batch in append.batches)


def _forget(db: sqlite3.Connection, at: tuple[int, int], old_ms: int, keep_from: int | None) -> int:
    """Remove some of the stored batches before the first that is new enough or kept; return how many records."""
    oldest = db.execute(_OLDEST_BATCHES, (*at, RETENTION_STEP)).fetchall()
    old = list(itertools.takewhile(
        lambda batch: batch[2] < old_ms and (keep_from is None or batch[3] + batch[1] <= keep_from), oldest
    ))  # fmt: skip
    if not old:
        return 0
    db.executemany("DELETE FROM batches WHERE id = ?", [(each[0],) for each in old])
    removed = sum(each[1] for each in old)
    where = (removed, *at)
    db.execute("UPDATE partitions SET begin_offset = begin_offset + ? WHERE topic = ? AND partition = ?", where)
    return removed

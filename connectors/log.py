"""The log that everything goes through: topics of partitions of batches, and commits that are whole or not at all."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import pyarrow as pa

from connectors.errors import ConnectorError
from connectors.log_batches import Batch, pack_lines, pack_rows
from connectors.records import Int64s, Records

READ_BYTES_MAX = 64 << 20  # a read stops at the stored batch that passes this, however many records were asked for

Lines: TypeAlias = pa.LargeBinaryArray | Sequence[bytes]


class LogError(ConnectorError):
    """The log cannot do what was asked; the message says what to do, and nothing was written."""


class OffsetGoneError(LogError):
    """The offset was removed by retention, or never written: going on elsewhere would lose records silently."""


class CommitConflictError(LogError):
    """Somebody else committed for this group and partition in between."""


class Sealer(Protocol):
    """Encrypts what a sealed topic stores."""

    def seal(self, plain: bytes) -> bytes:
        """Return the encrypted bytes."""

    def open(self, sealed: bytes) -> bytes:
        """Return the plain bytes; a ValueError if the key is another or the bytes were changed."""


@dataclass(frozen=True)
class TopicInfo:
    """What a topic is: its partitions, how long it keeps records (None: forever), whether they are encrypted.

    `rows` as of `Log.create_topic`, where this process said so.
    """

    name: str
    partitions: int = 1
    retention_ms: int | None = None
    sealed: bool = False
    rows: pa.Schema | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,200}", self.name):
            raise LogError(f"topic {self.name!r}: use 1 to 200 letters, digits, dots, dashes or underscores")
        if not 1 <= self.partitions <= 4096:
            raise LogError(f"topic {self.name!r} has {self.partitions} partitions; use 1 to 4096")
        if self.retention_ms is not None and self.retention_ms <= 0:
            raise LogError(f"topic {self.name!r} keeps records for {self.retention_ms} ms; use more than 0, or None")


@dataclass(frozen=True)
class Append:
    """Stored batches on their way to one partition."""

    topic: TopicInfo
    partition: int
    batches: list[Batch]


@dataclass
class Transaction:
    """The outputs and the manifest of one commit, kept in memory until the block ends, so no lock is held meanwhile.

    Attributes:
        group: whose commit it is, usually the app's name.
        partition: of the group.
        commit: the number this commit gets.
        base_offsets: after the block, the first offset of every append, in order.
    """

    group: str
    partition: int
    commit: int
    _find: Callable[[str, int], TopicInfo]
    _sealer: Sealer | None
    base_offsets: list[int] = field(default_factory=list)
    appends: list[Append] = field(default_factory=list)
    manifest: bytes | None = None

    def append(
        self,
        topic: str,
        partition: int,
        values: Lines,
        append_ms: int,
        redriven_from: Int64s | Sequence[int] | None = None,
    ) -> None:
        """Add records, as `Log.append` does, once the block ends."""
        info = self._find(topic, partition)
        self.appends.append(Append(info, partition, lines_for(info, self._sealer, values, append_ms, redriven_from)))

    def append_rows(self, topic: str, partition: int, rows: pa.RecordBatch, append_ms: int) -> None:
        """Add rows, as `Log.append_rows` does, once the block ends."""
        info = self._find(topic, partition)
        self.appends.append(Append(info, partition, rows_for(info, self._sealer, rows, append_ms)))

    def put_manifest(self, payload: bytes) -> None:
        """Set the manifest; needed once in every transaction."""
        if self.manifest is not None:
            raise LogError(f"{self.group!r} put two manifests into commit {self.commit}; put one")
        self.manifest = payload

    def written_manifest(self) -> bytes:
        """Return the manifest; LogError if none was put."""
        if self.manifest is None:
            raise LogError(f"{self.group!r} put no manifest into commit {self.commit}; call put_manifest in the block")
        return self.manifest


class Log(Protocol):
    """Topics of partitions; records are read in their order.

    Offsets of a partition rise and may have gaps, the first is not always 0, and behind the last record there may be
    some that hold nothing before `end`. So whoever reads goes on at the last record's offset + 1, or where the rows of
    a batch end, and never computes an offset from a number of records. Rows of one returned batch have no gaps.

    Delivery: what `append` or a transaction returned from is there for every later reader, once and whole; what raised
    is not there at all. Readers keep their own positions (in manifests). Safe with many threads and, where it is on
    disk, many processes. Everything raises LogError with one sentence that says what to do.
    """

    def create_topic(
        self,
        name: str,
        partitions: int = 1,
        retention_ms: int | None = None,
        *,
        sealed: bool = False,
        rows: pa.Schema | None = None,
    ) -> TopicInfo:
        """Make a topic, or find it again; another partition count or seal than it has is refused.

        Args:
            retention_ms: replaces what an existing topic has, None leaves it (a new one keeps everything).
            rows: the columns of a topic of rows; told wherever such a topic is used on a log that others read too. Rows
                are written as Arrow batches, for which an empty schema will do; with metadata "key": NAME each row is
                a JSON message whose key is that column (no NAME: no key), and rows may have only some of the columns;
                with "value": NAME a message is that column's bytes, and its headers are the others.
        """

    def topics(self) -> list[TopicInfo]:
        """Return all topics by name."""

    def append(
        self,
        topic: str,
        partition: int,
        values: Lines,
        append_ms: int,
        redriven_from: Int64s | Sequence[int] | None = None,
    ) -> int:
        """Store records; return the offset of the first.

        Args:
            values: (records,) the bytes of each; a log that keeps lines adds a newline where there is none at the end.
            append_ms: when, in milliseconds since the epoch.
            redriven_from: (records,) the dead letters' offsets, -1 for none.
        """

    def append_rows(self, topic: str, partition: int, rows: pa.RecordBatch, append_ms: int) -> int:
        """Store rows; each is one offset. Return the offset of the first, `end` if there are none."""

    def read(self, topic: str, partition: int, offset: int, limit: int) -> Records:
        """Return at most `limit` records from `offset` on, fewer at the end or beyond READ_BYTES_MAX.

        None only if there is none between `offset` and `end`.

        Raises:
            OffsetGoneError: the offset was removed by retention, or is beyond the end.
            LogError: the topic holds rows there.
        """

    def read_rows(self, topic: str, partition: int, offset: int, limit: int) -> list[tuple[int, pa.RecordBatch]]:
        """Return at most `limit` rows from `offset` on: the stored batches, each with the offset of its first row."""

    def begin(self, topic: str, partition: int) -> int:
        """Return the oldest offset that can be read (`end` if there is none)."""

    def offset_since(self, topic: str, partition: int, append_ms: int) -> int:
        """Return an offset so that all records appended at a time or later stand from there on; `begin` may be it."""

    def end(self, topic: str, partition: int) -> int:
        """Return the offset behind the last record that can be read: the next one gets this offset or a later one."""

    def transaction(self, group: str, partition: int, expected_commit: int) -> AbstractContextManager[Transaction]:
        """Write outputs and a manifest together when the block ends, or nothing if it or the commit fails.

        Args:
            group: whose manifests these are, usually the app's name.
            expected_commit: the newest commit the caller knows, 0 before the first; this one gets the next number.

        Raises:
            CommitConflictError: the newest commit is another.
        """

    def manifest(self, group: str, partition: int) -> tuple[int, bytes] | None:
        """Return the number and manifest of the newest commit."""

    def manifests(self, group: str, partition: int, since_commit: int) -> list[tuple[int, bytes]]:
        """Return the manifests of commits after `since_commit`, oldest first."""

    def forget_manifests(self, group: str, partition: int, before_commit: int) -> int:
        """Remove manifests of commits before this one, never the newest; return how many."""

    def enforce_retention(self, now_ms: int, keep_from: Mapping[tuple[str, int], int] | None = None) -> int:
        """Remove stored batches older than their topic keeps; return how many records that were.

        Args:
            keep_from: topic and partition -> an offset: what stands there or behind stays, however old it is.
        """

    def wait(self, after: Mapping[tuple[str, int], int], timeout_s: float) -> bool:
        """Wait until any of these topic partitions has a record at its offset in `after`; False if none came in time.

        Positions, not topics, so that a record that came before the call is never slept over.
        """

    def close(self) -> None:
        """Let go of files and threads; everything is already written."""


def lines_for(
    topic: TopicInfo,
    sealer: Sealer | None,
    values: Lines,
    append_ms: int,
    redriven_from: Int64s | Sequence[int] | None,
) -> list[Batch]:
    """Pack records for a topic, encrypted if it is sealed."""
    return _sealed(topic, sealer, pack_lines(values, append_ms, redriven_from))


def rows_for(topic: TopicInfo, sealer: Sealer | None, rows: pa.RecordBatch, append_ms: int) -> list[Batch]:
    """Pack rows for a topic, encrypted if it is sealed."""
    return _sealed(topic, sealer, pack_rows(rows, append_ms))


def _sealed(topic: TopicInfo, sealer: Sealer | None, batches: list[Batch]) -> list[Batch]:
    if not topic.sealed:
        return batches
    key = needed_sealer(topic, sealer)
    return [batch.with_payload(key.seal(bytes(batch.payload))) for batch in batches]


def unsealed(topic: TopicInfo, sealer: Sealer | None, stored: list[tuple[int, Batch]]) -> list[tuple[int, Batch]]:
    """Return stored batches as they were before a sealed topic encrypted them."""
    if not topic.sealed or not stored:
        return stored
    key = needed_sealer(topic, sealer)
    return [(base, batch.with_payload(key.open(bytes(batch.payload)))) for base, batch in stored]


def needed_sealer(topic: TopicInfo, sealer: Sealer | None) -> Sealer:
    """Return the sealer; LogError if there is none."""
    if sealer is None:
        raise LogError(f"topic {topic.name!r} is encrypted and the log was opened without a key; give it a sealer")
    return sealer


def agreed(old: TopicInfo, new: TopicInfo) -> TopicInfo:
    """Return what an existing topic becomes when it is created again; LogError if it would have to change its nature.

    Partitions cannot change: keys would move away from their state.
    """
    if old.partitions != new.partitions:
        raise LogError(
            f"topic {old.name!r} has {old.partitions} partitions, not {new.partitions}; "
            f"ask for {old.partitions}, or use another topic name"
        )
    if old.sealed != new.sealed:
        was, asked = ("encrypted", "plain") if old.sealed else ("plain", "encrypted")
        raise LogError(f"topic {old.name!r} is {was}, not {asked}; use another topic name")
    return new if new.retention_ms is not None else old


def unknown_topic(name: str, known: Iterable[str]) -> LogError:
    """Return the error for a topic that is not there, with the nearest name."""
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"did you mean {near[0]!r}?" if near else "create it first"
    return LogError(f"there is no topic {name!r} in this log; {hint}")


def check_partition(topic: TopicInfo, partition: int) -> TopicInfo:
    """Return the topic if it has this partition, else raise LogError."""
    if not 0 <= partition < topic.partitions:
        raise LogError(f"topic {topic.name!r} has no partition {partition}; it has {topic.partitions}, counted from 0")
    return topic


def check_position(topic: str, partition: int, offset: int, begin: int, end: int) -> None:
    """Raise OffsetGoneError unless `offset` is within begin..end."""
    where = f"topic {topic!r}, partition {partition}"
    if offset < begin:
        raise OffsetGoneError(
            f"{where}: offset {offset} is gone, retention removed all before {begin}; "
            f"start from {begin}, or keep more with a longer retention_ms"
        )
    if offset > end:
        raise OffsetGoneError(
            f"{where}: offset {offset} was never written, the log ends at {end}; "
            f"was the log replaced? start from {end} or before"
        )


def conflict(group: str, partition: int, expected: int, found: int) -> CommitConflictError:
    """Return the error for a commit that somebody else made."""
    return CommitConflictError(
        f"app {group!r}, partition {partition}: the newest commit is {found}, not {expected}; "
        f"another process seems to run the same app: stop one of them, or start this one again"
    )

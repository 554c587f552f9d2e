"""What the topics of a cluster are, and how records and rows for them become messages."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa

from connectors.errors import ConnectorError
from connectors.kafka import codec
from connectors.kafka.admin import OWN_BATCH_BYTES_MAX, KafkaAdmin, KafkaTopic
from connectors.kafka.connection import Connection
from connectors.kafka.manifests import manifest_topic
from connectors.kafka.messages import Outgoing
from connectors.log import Lines, LogError, Sealer, TopicInfo, agreed, check_partition, needed_sealer, unknown_topic
from connectors.records import Int64s

LIST_S = 30.0  # for so long a list of all topics is good: each stage and partition asks when it is taken over


class TopicBook:
    """Topics by name, asked for once; safe with many threads. Everything raises LogError."""

    def __init__(self, connection: Connection, sealer: Sealer | None, rows: Mapping[str, pa.Schema]) -> None:
        self._connection, self._sealer = connection, sealer
        self._rows = dict(rows)
        self._topics: dict[str, TopicInfo] = {}
        self._listed: tuple[float, list[TopicInfo]] = (float("-inf"), [])
        self._lock = threading.RLock()

    def create(self, asked: TopicInfo) -> TopicInfo:
        """Make a topic, or find it again (see `Log.create_topic`); new ones carry the broker's time."""
        if asked.sealed:
            needed_sealer(asked, self._sealer)
        name = asked.name
        with self.administration() as admin:
            there = admin.describe([name]).get(name)
            if there is None:
                most = OWN_BATCH_BYTES_MAX if asked.rows is not None else None
                made = KafkaTopic(name, asked.partitions, asked.retention_ms, append_time=True, batch_bytes_max=most)
                admin.create([made])
                topic = asked
            else:
                seal = self._topics[name].sealed if name in self._topics else asked.sealed
                topic = agreed(TopicInfo(name, there.partitions, there.retention_ms, seal, asked.rows), asked)
                if topic.retention_ms != there.retention_ms:
                    admin.keep(name, topic.retention_ms)
            self._topics[name] = topic
            self._listed = (float("-inf"), [])
            if asked.rows is not None:
                self._rows[name] = asked.rows
        return topic

    def all(self) -> list[TopicInfo]:
        """Return all topics by name, without those of manifests; what others changed a moment ago may not show."""
        with self._lock:
            listed_s, listed = self._listed
            if time.monotonic() - listed_s >= LIST_S:
                listed = self._list()
                self._listed = time.monotonic(), listed
            return list(listed)

    def _list(self) -> list[TopicInfo]:
        with self.administration() as admin:
            found = admin.describe([name for name in admin.names() if not name.endswith(manifest_topic(""))])
            seals = {name: info.sealed for name, info in self._topics.items()}
            return [
                TopicInfo(name, each.partitions, each.retention_ms, seals.get(name, False), self._rows.get(name))
                for name, each in sorted(found.items())
            ]

    def find(self, topic: str, partition: int) -> TopicInfo:
        """Return a topic; LogError if it is not there or has no such partition."""
        info = self._topics.get(topic)
        if info is None:
            counts = self.partitions([topic])
            if topic not in counts:
                raise unknown_topic(topic, self.partitions([]))
            info = self._topics.setdefault(topic, TopicInfo(topic, counts[topic], rows=self._rows.get(topic)))
        return check_partition(info, partition)

    def partitions(self, names: list[str]) -> dict[str, int]:
        """Return how many partitions topics have, of all if none are named; missing ones are left out."""
        doing = f"look at topic {names[0]!r}" if names else "list topics"
        return self._connection.call(self._connection.partitions(names), doing)

    def make_manifests(self, groups: Sequence[str], least: int) -> None:
        """Make the topics of groups' manifests, with as many partitions as the widest topic that was used so far.

        They keep them until they are forgotten, for no newest is too old.
        """
        topics = [manifest_topic(group) for group in groups]
        known = self.partitions(topics)
        widest = max([least, *(each.partitions for each in list(self._topics.values()))])
        for topic in topics:
            if known.get(topic, 0) < least:
                self._make_manifests(topic, topic in known, least, widest)

    def _make_manifests(self, topic: str, is_there: bool, least: int, widest: int) -> None:
        try:
            with self.administration() as admin:
                if is_there:
                    admin.add_partitions(topic, widest)
                else:
                    admin.create([KafkaTopic(topic, widest, None, append_time=True)])
        except LogError:
            if self.partitions([topic]).get(topic, 0) < least:  # nobody else was faster
                raise

    def columns(self, topic: str) -> pa.Schema:
        """Return what the rows of a topic are; LogError if nobody said so."""
        schema = self._rows.get(topic)
        if schema is None:
            raise LogError(
                f"topic {topic!r} holds lines, or nobody said which columns its rows have; "
                f"read it with read, or give its rows to create_topic"
            )
        return schema

    def message_offset(self, topic: str, offset: int) -> int:
        """Return the offset of the message in which a record or row is."""
        return codec.message_offset(offset, self._rows.get(topic))

    def row_offset(self, topic: str, message: int) -> int:
        """Return the offset of the first record or row of a message."""
        return codec.row_offset(message, self._rows.get(topic))

    def sealer_of(self, info: TopicInfo) -> Sealer:
        """Return the key of a topic with encrypted messages; LogError if the log was opened without."""
        return needed_sealer(info, self._sealer)

    def lines_out(
        self,
        topic: str,
        partition: int,
        values: Lines,
        append_ms: int,
        redriven_from: Int64s | Sequence[int] | None = None,
    ) -> list[Outgoing]:
        """Return records as messages; ConnectorError if one is null, or `redriven_from` has another length."""
        info = self.find(topic, partition)
        array = codec.lines_array(values)
        origins = None if redriven_from is None else np.ascontiguousarray(redriven_from, np.int64)
        if origins is not None and origins.size != len(array):
            raise ConnectorError(
                f"redriven_from has {origins.size} offsets for {len(array)} records; give one for each"
            )
        if not len(array):
            return []
        seal = self.sealer_of(info).seal if info.sealed else None
        headers = codec.redriven_headers(len(array), origins, sealed=info.sealed)
        return [Outgoing(codec.sealed_values(array, seal), int(append_ms), None, headers)]

    def rows_out(self, topic: str, partition: int, rows: pa.RecordBatch, append_ms: int) -> list[Outgoing]:
        """Return rows as messages."""
        info = self.find(topic, partition)
        seal = self.sealer_of(info).seal if info.sealed else None
        return codec.rows_to_messages(rows, int(append_ms), self.columns(topic), seal)

    @contextmanager
    def administration(self) -> Iterator[KafkaAdmin]:
        """Open a client for administration: it is needed rarely, and one kept open knocks while brokers are away."""
        with self._lock:
            try:
                with KafkaAdmin(self._connection.settings) as admin:
                    yield admin
            except LogError:
                raise
            except ConnectorError as error:
                raise LogError(str(error)) from error

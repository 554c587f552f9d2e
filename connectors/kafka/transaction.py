"""What one commit is going to write: its messages, kept until it is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from connectors.kafka.messages import Outgoing
from connectors.kafka.reader import Place
from connectors.kafka.topic_book import TopicBook
from connectors.log import Lines, Transaction
from connectors.records import Int64s


@dataclass
class KafkaTransaction(Transaction):
    """A commit's messages, kept until its block ends."""

    outputs: list[tuple[Place, Outgoing]] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)  # of each append: how many outputs it became
    book: TopicBook | None = None

    def append(
        self,
        topic: str,
        partition: int,
        values: Lines,
        append_ms: int,
        redriven_from: Int64s | Sequence[int] | None = None,
    ) -> None:
        """Add records, as `Log.append` does, once the block ends."""
        assert self.book is not None
        self._add((topic, partition), self.book.lines_out(topic, partition, values, append_ms, redriven_from))

    def append_rows(self, topic: str, partition: int, rows: pa.RecordBatch, append_ms: int) -> None:
        """Add rows, as `Log.append_rows` does, once the block ends."""
        assert self.book is not None
        self._add((topic, partition), self.book.rows_out(topic, partition, rows, append_ms))

    def _add(self, place: Place, outgoing: list[Outgoing]) -> None:
        self.outputs += [(place, each) for each in outgoing]
        self.counts.append(len(outgoing))

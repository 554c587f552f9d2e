"""What a topic holds as one input of a replay: its partitions, merged by event time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from connectors.columns import ints_of
from connectors.log import Log
from connectors.records import BadRecord, Chunk, Decoded, Int64s
from pipeline.heads import rows_to_take
from pipeline.reading import chunk_of, first_records
from pipeline.replay import split
from pipeline.stream import Stream
from pipeline.timeline import merged_order

if TYPE_CHECKING:
    from connectors.formats import Decode

BLOCK_ROWS = 16_384  # read from a partition at once


class TopicInput:
    """Chunks of a stream's topic for `Replay`, from an append time on to where the topic ended when this was made.

    Each partition keeps its order; of several, the one whose next record has the smallest event time goes on, so that
    none is late because of the others. Offsets are the log's on one partition; on several they count the records.

    Attributes:
        bytes_total, bytes_read: in offsets, for a progress bar.
    """

    def __init__(
        self, log: Log, stream: Stream, partitions: int, since_ms: int | None = None, decoder: Decode | None = None
    ) -> None:
        self._log, self._stream, self._decoder, self._partitions = log, stream, decoder, partitions
        topic = stream.name
        self._begins = {
            p: log.begin(topic, p) if since_ms is None else log.offset_since(topic, p, since_ms)
            for p in range(partitions)
        }
        self._ends = {p: log.end(topic, p) for p in range(partitions)}
        self.bytes_total = sum(max(self._ends[p] - at, 0) for p, at in self._begins.items())
        self.bytes_read = self._given = 0

    def blocks(self) -> Iterator[Chunk]:
        """Yield chunks of all partitions, merged; the next ones are read beside."""
        with ThreadPoolExecutor(1, thread_name_prefix="read") as pool:
            coming: dict[int, Future[Chunk | None]] = {
                p: pool.submit(self._read, p, at) for p, at in self._begins.items()
            }
            here: dict[int, Chunk] = {}
            while coming or here:
                for p in [p for p in coming if p not in here]:
                    chunk = coming.pop(p).result()
                    if chunk is not None:
                        here[p] = chunk
                        coming[p] = pool.submit(self._read, p, int(chunk.offsets[-1]) + 1)
                if here:
                    yield self._taken(here, coming)

    def decode_block(self, block: Chunk) -> Chunk:
        """Return the chunk: it is decoded."""
        return block

    def _read(self, partition: int, at: int) -> Chunk | None:
        """Return the next records of a partition, None at its end."""
        if at >= self._ends[partition]:
            return None
        records = self._log.read(self._stream.name, partition, at, BLOCK_ROWS)
        records = first_records(records, int(np.searchsorted(records.offsets, self._ends[partition])))
        return chunk_of(records, self._stream.schema, self._decoder) if len(records) else None

    def _taken(self, here: dict[int, Chunk], coming: dict[int, Future[Chunk | None]]) -> Chunk:
        """Take what comes before the next record of any partition that goes on."""
        places = list(here)
        times_ms = [self._times_ms(here[p]) for p in places]
        empty = [p for p, each in zip(places, times_ms, strict=True) if not each.size]  # nothing but broken records
        if empty or len(places) == 1:
            taken = [len(here[p]) if p in empty or len(places) == 1 else 0 for p in places]
        else:
            taken = rows_to_take(times_ms, [p in coming for p in places])
        parts = []
        for p, count in zip(places, taken, strict=True):
            head, rest = split(here.pop(p), count)
            if len(rest):
                here[p] = rest
            if len(head):
                self.bytes_read += int(head.offsets[-1]) + 1 - self._begins[p]
                self._begins[p] = int(head.offsets[-1]) + 1
                parts.append(head)
        if self._partitions == 1:
            return parts[0]
        times_ms = [self._times_ms(each) for each in parts]
        return self._numbered(merged([self._of_its_own(each) for each in parts], times_ms))

    def _times_ms(self, chunk: Chunk) -> Int64s:
        return ints_of(chunk.decoded.rows.column(self._stream.schema.time))

    def _numbered(self, chunk: Chunk) -> Chunk:
        """Return a chunk whose offsets go on where those of the last one ended."""
        self._given += len(chunk)
        return replace(chunk, offsets=np.arange(self._given - len(chunk), self._given))

    def _of_its_own(self, chunk: Chunk) -> Chunk:
        """Return a chunk in which no dead letter that was sent again is taken for one of another partition."""
        origins, p = chunk.redriven_from, chunk.partition
        if origins is None:
            return chunk
        return replace(chunk, redriven_from=np.where(origins < 0, -1, origins * self._partitions + p))


def merged(chunks: Sequence[Chunk], times_ms: Sequence[Int64s]) -> Chunk:
    """Merge chunks of one stream by the event times of their rows; bad records come last."""
    order = merged_order(times_ms)
    starts = np.concatenate([[0], np.cumsum([len(each) for each in chunks])])
    index = np.concatenate([each.decoded.index + start for each, start in zip(chunks, starts, strict=False)])[order]
    bad = [(int(start) + one.index, one.cause) for each, start in zip(chunks, starts, strict=False)
           for one in each.decoded.bad]  # fmt: skip
    places = np.concatenate([index, np.array([place for place, _ in bad], np.int64)])
    rows = pa.concat_batches([each.decoded.rows for each in chunks]).take(pa.array(order))
    causes = [BadRecord(order.size + number, cause) for number, (_, cause) in enumerate(bad)]

    def joined(name: str, missing: int) -> Int64s | None:
        arrays = [getattr(each, name) for each in chunks]
        if all(each is None for each in arrays):
            return None
        filled = [np.full(len(chunk), missing) if each is None else each
                  for chunk, each in zip(chunks, arrays, strict=True)]  # fmt: skip
        return np.concatenate(filled)[places]

    def raw(i: int) -> bytes:
        which = int(np.searchsorted(starts, places[i], side="right")) - 1
        return chunks[which].raw(int(places[i] - starts[which]))

    offsets = np.concatenate([each.offsets for each in chunks])[places]
    decoded = Decoded(rows, np.arange(order.size), causes)
    return Chunk(chunks[0].stream, 0, offsets, decoded, raw, joined("append_ms", 0), joined("redriven_from", -1))

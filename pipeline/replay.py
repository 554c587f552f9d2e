"""History through the engine: files, merged by the times of their heads, in bounded memory.

Reading and decoding run in a thread beside the engine; nothing depends on how the files are cut into batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from connectors.columns import ints_of
from connectors.records import BadRecord, Chunk, Decoded
from pipeline.engine import Engine, Featured
from pipeline.heads import rows_to_take
from pipeline.plan import StreamPlan

if TYPE_CHECKING:
    from connectors.secrets import Tokeniser  # it brings cryptography along, which a replay rarely needs

Int64s = NDArray[np.int64]
AHEAD = 3  # blocks that are decoded, or being decoded, before the engine wants them


class Blocks(Protocol):
    """Undecoded blocks of one input, and how to decode one; `connectors.files.FileInput` is one."""

    def blocks(self) -> Iterator[Any]:
        """Return the blocks in order."""

    def decode_block(self, block: Any) -> Chunk:
        """Decode a block; any thread may."""


class Replay(AbstractContextManager["Replay"]):
    """Iterate over it for (chunks, features) of each commit, in order.

    Args:
        plan: what to compute.
        inputs: stream name -> its records; the decided stream must be there, the others may be.
        tokeniser: for sensitive fields.

    Raises:
        ValueError: the decided stream has no input, or an input is of no stream of the app.
    """

    def __init__(self, plan: StreamPlan, inputs: Mapping[str, Blocks], tokeniser: Tokeniser | None = None) -> None:
        self.engine = Engine(plan, tokeniser)
        known = self.engine.inputs
        for name in inputs:
            if name not in known:
                raise ValueError(f"{name!r} is not an input of this app; its inputs are {', '.join(known)}")
        if known[0] not in inputs:
            raise ValueError(f"there is no input for {known[0]!r}, the stream that is decided")
        self._inputs = {name: inputs[name] for name in known if name in inputs}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="decode")  # the engine takes twice as long

    def __exit__(self, *exception: object) -> None:
        """Stop decoding."""
        self._pool.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[tuple[dict[str, Chunk], Featured]]:
        """Run the engine over everything."""
        for chunks in self._commits():
            yield chunks, self.engine.process(chunks)

    def _commits(self) -> Iterator[dict[str, Chunk]]:
        readers = {name: _Ahead(source, self._pool) for name, source in self._inputs.items()}
        if len(readers) == 1:
            (name,) = readers
            while (chunk := readers[name].next()) is not None:
                yield {name: chunk}
            return
        waiting: dict[str, Chunk | None] = {name: reader.next() for name, reader in readers.items()}
        while any(chunk is not None for chunk in waiting.values()):
            yield from self._merged(readers, waiting)

    def _merged(self, readers: Mapping[str, _Ahead], waiting: dict[str, Chunk | None]) -> Iterator[dict[str, Chunk]]:
        """Take records in merged order until one input must be read on, since its next head is not known."""
        live = [name for name, chunk in waiting.items() if chunk is not None]
        chunks = [each for each in waiting.values() if each is not None]
        times = [
            ints_of(each.decoded.rows.column(self._inputs_time(name))) for name, each in zip(live, chunks, strict=True)
        ]
        taken = rows_to_take(times, [len(live) > 1] * len(live))
        commit: dict[str, Chunk] = {}
        for n, (name, chunk) in enumerate(zip(live, chunks, strict=True)):
            head, rest = split(chunk, taken[n])
            if len(head):
                commit[name] = head
            waiting[name] = rest if len(rest) else readers[name].next()
        if commit:
            yield commit

    def _inputs_time(self, name: str) -> str:
        plan = self.engine.plan
        streams = [plan.stream, *plan.others, *([plan.facts] if plan.facts is not None else [])]
        return next(each.schema.time for each in streams if each.name == name)


class _Ahead:
    """The chunks of one input, some of them read and decoded before they are asked for."""

    def __init__(self, source: Blocks, pool: ThreadPoolExecutor) -> None:
        self._source, self._pool = source, pool
        self._blocks = source.blocks()
        self._futures: deque[Future[Chunk | None]] = deque()

    def next(self) -> Chunk | None:
        """Return the next chunk that holds a record, None at the end."""
        while len(self._futures) < AHEAD:
            self._futures.append(self._pool.submit(self._read))
        return self._futures.popleft().result()

    def _read(self) -> Chunk | None:
        """Read and decode a block, in the pool's only thread, so in order."""
        block = next(self._blocks, None)
        return self._source.decode_block(block) if block is not None else None


def split(chunk: Chunk, rows: int) -> tuple[Chunk, Chunk]:
    """Cut a chunk after its first `rows` decoded rows; bad records between two rows go with the later one."""
    decoded = chunk.decoded
    if rows >= decoded.rows.num_rows:
        return chunk, _part(chunk, len(chunk), len(chunk), decoded.rows.num_rows, decoded.rows.num_rows)
    at = int(decoded.index[rows - 1]) + 1 if rows else 0
    return _part(chunk, 0, at, 0, rows), _part(chunk, at, len(chunk), rows, decoded.rows.num_rows)


def _part(chunk: Chunk, first: int, end: int, first_row: int, end_row: int) -> Chunk:
    decoded = chunk.decoded
    bad = [BadRecord(each.index - first, each.cause) for each in decoded.bad if first <= each.index < end]
    part = Decoded(decoded.rows.slice(first_row, end_row - first_row), decoded.index[first_row:end_row] - first, bad)

    def cut(array: Int64s | None) -> Int64s | None:
        return array[first:end] if array is not None else None

    return replace(
        chunk, offsets=chunk.offsets[first:end], decoded=part, raw=lambda i: chunk.raw(first + i),
        append_ms=cut(chunk.append_ms), redriven_from=cut(chunk.redriven_from),
    )  # fmt: skip

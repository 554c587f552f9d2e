"""A sample of keys with everything that happened to them: small enough for the oracle, and right as if it were all.

Rows of other keys are left out, but for those that say how far time was: lateness and floors stay what they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from connectors.columns import hash_column, ints_of
from connectors.records import Chunk, Decoded, Int64s
from connectors.secrets import Tokeniser
from kernels.floors import EVENT
from pipeline.admission import DUPLICATE, Admission
from pipeline.arrivals import Arrival
from pipeline.carried import FACT_FIELDS, Carried
from pipeline.inputs import judged_as, tokenised
from pipeline.stages import FACTS, LINES, Input, Stage

Mask = NDArray[np.bool_]
ROWS_MAX = 200_000
MASK_MAX = 1 << 40
_LONG_AGO_MS = -(2**62)


class KeySample:
    """Collects commits of a stage, of some keys only: of fewer and fewer, so that at most `rows_max` rows are kept.

    Args:
        stage: whose commits they are.
        seed: which keys.
        tokeniser: for sensitive fields.
        rows_max: that are kept at once.
    """

    def __init__(self, stage: Stage, seed: int, tokeniser: Tokeniser | None, rows_max: int = ROWS_MAX) -> None:
        self._stage, self._tokeniser, self._rows_max = stage, tokeniser, rows_max
        self._wanted = int(np.random.default_rng(seed).integers(0, MASK_MAX))
        self._mask, self._rows = 0, 0
        self._high_ms: dict[str, int] = {}
        self.commits: list[dict[str, Arrival]] = []
        judged = [each for each in stage.inputs if each.kind == LINES and not each.label]
        self._admissions = {
            each.topic: Admission(each.stream.lateness_ms, each.stream.future_tolerance_ms) for each in judged
        }
        self._keys = {each.topic: self._keys_of(each) for each in stage.inputs}

    @property
    def share(self) -> int:
        """One of how many keys is in the sample."""
        return self._mask + 1

    def add(self, chunks: Mapping[str, Arrival]) -> None:
        """Take the next commit; what it leaves of it may be nothing, and stands in `commits` all the same."""
        self.commits.append(self._part({name: self._without_copies(chunk) for name, chunk in chunks.items()}))
        self._rows += sum(len(each) for each in self.commits[-1].values())
        while self._rows > self._rows_max and self._mask < MASK_MAX and any(self._keys.values()):
            self._mask, self._high_ms = 2 * self._mask + 1, {}
            self.commits = [self._part(each) for each in self.commits]
            self._rows = sum(len(each) for commit in self.commits for each in commit.values())

    def checkable(self, chunks: Mapping[str, Arrival]) -> Int64s:
        """Return the offsets of events of which all keys are in the sample: all that their windows saw is there."""
        main = self._stage.main
        if main.topic not in chunks:
            return np.zeros(0, np.int64)
        arrival = chunks[main.topic]
        hashes = self._hashes(main, arrival)
        return _event_offsets(arrival)[np.logical_and.reduce([self._fits(each) | (each == 0) for each in hashes])
                                       if hashes else slice(None)]  # fmt: skip

    def _keys_of(self, each: Input) -> list[str]:
        """Return the columns by which windows find rows of an input; none if all rows are kept, as of labels."""
        if each.label and each is not self._stage.main:
            return []
        if each.kind == FACTS:
            return [FACT_FIELDS[0]]
        groups = [group for group in self._stage.plan.groups if each is self._stage.main or group.source is each.stream]
        return [name for name in dict.fromkeys(group.key for group in groups) if name in each.schema.names]

    def _hashes(self, each: Input, arrival: Arrival) -> list[NDArray[np.uint64]]:
        """Return (events,) the hashes of each key, as facts know them."""
        names = self._keys[each.topic]
        if isinstance(arrival, Carried):
            columns = [arrival.rows.column(name) for name in names]
            return [_hash(column, is_hash=each.kind == FACTS) for column in columns]
        rows = tokenised(arrival.decoded.rows, each.schema, self._tokeniser)
        return [_hash(rows.column(name)) for name in names]

    def _fits(self, hashes: NDArray[np.uint64]) -> Mask:
        return (hashes & np.uint64(self._mask)) == np.uint64(self._wanted & self._mask)

    def _without_copies(self, arrival: Arrival) -> Arrival:
        """Leave duplicates out: what they repeat may be of a key that is not in the sample."""
        if not isinstance(arrival, Chunk) or arrival.stream not in self._admissions:
            return arrival
        each = next(each for each in self._stage.inputs if each.topic == arrival.stream)
        status = judged_as(arrival, each.schema, self._admissions[arrival.stream], self._tokeniser)
        return arrival if not (status == DUPLICATE).any() else _some_lines(arrival, status != DUPLICATE)

    def _part(self, chunks: Mapping[str, Arrival]) -> dict[str, Arrival]:
        found = {}
        for each in self._stage.inputs:
            if each.topic not in chunks:
                continue
            arrival = chunks[each.topic]
            if not self._keys[each.topic] or not self._mask:
                found[each.topic] = arrival
                continue
            kept = np.logical_or.reduce([self._fits(hashes) & (hashes != 0) for hashes in self._hashes(each, arrival)])
            if isinstance(arrival, Carried):
                part: Arrival = _some_carried(arrival, kept)
            else:
                part = _some_lines(arrival, kept | self._witnesses(each, arrival, kept))
            if len(part):
                found[each.topic] = part
        return found

    def _witnesses(self, each: Input, chunk: Chunk, kept: Mask) -> Mask:
        """Return the rows that raised high time last before each kept one, and the last that did: with them it is
        the same at all kept rows.
        """
        times_ms = ints_of(chunk.decoded.rows.column(each.schema.time))
        counts = np.ones(times_ms.size, np.bool_)
        if chunk.append_ms is not None:
            counts = times_ms <= chunk.append_ms[chunk.decoded.index] + each.stream.future_tolerance_ms
        high_ms = self._high_ms.get(each.topic, _LONG_AGO_MS)
        highest = np.maximum.accumulate(np.concatenate([[high_ms], np.where(counts, times_ms, _LONG_AGO_MS)]))
        raised = np.flatnonzero(highest[1:] > highest[:-1])
        self._high_ms[each.topic] = int(highest[-1])
        found = np.zeros(times_ms.size, np.bool_)
        if raised.size:
            at = np.searchsorted(raised, np.flatnonzero(kept), side="right") - 1
            found[raised[at[at >= 0]]] = True
            found[raised[-1]] = True
        return found


def offsets_of(chunks: Iterable[Arrival]) -> Int64s:
    """Return the offsets of the events of some chunks."""
    return np.concatenate([np.zeros(0, np.int64), *(_event_offsets(each) for each in chunks)])


def _event_offsets(arrival: Arrival) -> Int64s:
    if isinstance(arrival, Carried):
        return arrival.offsets[arrival.kinds == EVENT]
    return arrival.offsets[arrival.decoded.index]


def _hash(column: pa.Array, *, is_hash: bool = False) -> NDArray[np.uint64]:
    return column.to_numpy() if is_hash else hash_column(column)


def _some_lines(chunk: Chunk, kept: Mask) -> Chunk:
    at = chunk.decoded.index[kept]
    decoded = Decoded(chunk.decoded.rows.filter(pa.array(kept)), np.arange(at.size))
    return replace(
        chunk, offsets=chunk.offsets[at], decoded=decoded, raw=_nothing,  # the rest can be freed
        append_ms=chunk.append_ms[at] if chunk.append_ms is not None else None,
        redriven_from=chunk.redriven_from[at] if chunk.redriven_from is not None else None,
    )  # fmt: skip


def _nothing(_: int) -> bytes:
    return b""


def _some_carried(carried: Carried, kept_events: Mask) -> Carried:
    """Keep some events, every marker, and what each source said last before one of these."""
    is_event = carried.kinds == EVENT
    kept = ~is_event
    kept[is_event] = kept_events
    for source in np.unique(carried.sources):
        mine = np.flatnonzero(carried.sources == source)
        at = np.searchsorted(mine, np.flatnonzero(kept), side="right") - 1
        kept[mine[at[at >= 0]]] = True
        kept[mine[-1]] = True
    cut = {name: getattr(carried, name)[kept] for name in ("offsets", "kinds", "sources", "floors_ms", "times_ms")}
    return replace(carried, **cut, rows=carried.rows.filter(pa.array(kept[is_event])))

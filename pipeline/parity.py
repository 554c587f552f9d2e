"""Live parity: of what a running system serves, a sample recomputed by the oracle from its topics and manifests.

It only reads, and keeps little: the last commits, and what their windows reach back to, of some keys. How inputs were
merged before the oldest manifest that is left is not known any more: labels are taken to have come after their events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from connectors.log import Log
from connectors.secrets import Tokeniser
from pipeline.app import App
from pipeline.arrivals import Arrival
from pipeline.as_served import AsServed, commits_as_served
from pipeline.key_sample import ROWS_MAX, KeySample, offsets_of
from pipeline.manifest import Manifest, decode
from pipeline.oracle_inputs import LONG_AGO_MS, computed_here
from pipeline.reading import READ_AT_ONCE, next_offset, read_again, read_new, times_of
from pipeline.stages import LINES, Input, Stage
from pipeline.verify import Progress, Verification, Verifier, reaches_ms

COMMITS_MAX = 200
READ_MAX = 5_000_000  # offsets before the first commit, of one input
MARGIN_MS = 60_000  # between the clocks of a worker, a broker and a producer


@dataclass(frozen=True)
class Parity:
    """What came out for a stage and partition.

    Attributes:
        commits: the first and the last that were checked.
        share: one of how many keys was looked at.
    """

    group: str
    partition: int
    commits: tuple[int, int]
    share: int
    found: Verification


def check(
    app: App, stage: Stage, log: Log, partition: int, sample: int, seed: int, tokeniser: Tokeniser | None = None,
    progress: Progress | None = None, commits_max: int = COMMITS_MAX, rows_max: int = ROWS_MAX,
) -> Parity | None:  # fmt: skip
    """Recompute features of a sample of the events in the last commits of a stage and partition.

    Args:
        stage: of the app; with the decoders of its streams' messages.
        sample: how many events at most; of keys that are drawn so that all they did is at hand.
        seed: of the draw.
        progress: is told how many of how many steps of the comparison are done.
        commits_max: how many commits to look at.
        rows_max: how many records are kept in memory.

    Returns:
        None if the stage computes no features, or has not committed yet.

    Raises:
        LogError: the log cannot be read.
    """
    newest = log.manifest(stage.group, partition)
    if newest is None or not computed_here(stage):
        return None
    since = max(newest[0] - commits_max, 0)
    manifests = log.manifests(stage.group, partition, since)
    first = decode(manifests[0][1])
    begun_ms = first.at_ms - MARGIN_MS
    commits = commits_as_served(
        app, stage, log, partition, manifests[0][0] - 1, lambda topic, p: log.offset_since(topic, p, begun_ms)
    )
    parts = KeySample(stage, seed, tokeniser, rows_max)
    history = _History(stage, log, partition, first)
    for chunks in history.chunks():
        parts.add(chunks)
    before, served = len(parts.commits), list[AsServed]()
    for chunks, each in commits:
        parts.add(chunks)
        kept = parts.commits[-1].get(stage.main.topic)
        served.append(_only(each, kept))
    verifier = Verifier(stage, sample, seed, tokeniser)
    for chunks in parts.commits[:before]:
        verifier.before(chunks)
    for chunks, each in zip(parts.commits[before:], served, strict=True):
        verifier.add(chunks, _only(each, chunks.get(stage.main.topic)), parts.checkable(chunks))
    found = verifier.finish(progress, history.known_since_ms, history.high_ms)
    return Parity(stage.group, partition, (manifests[0][0], newest[0]), parts.share, found)


class _History:
    """What the inputs of a stage hold before a commit, as far as windows of its events may see.

    Attributes:
        known_since_ms: event time from which on everything is there; known when `chunks` is through.
        high_ms: the largest event time of the decided stream in it.
    """

    def __init__(self, stage: Stage, log: Log, partition: int, first: Manifest) -> None:
        self._stage, self._log, self._partition = stage, log, partition
        self._ends = {each.topic: first.inputs[each.topic][0] for each in stage.inputs if each.topic in first.inputs}
        self.known_since_ms = self.high_ms = LONG_AGO_MS
        self._oldest_ms = self._needed_ms()
        self._short: set[str] = set()

    def chunks(self) -> Iterator[Mapping[str, Arrival]]:
        """Yield them, of the input first that is furthest behind."""
        at = {each.topic: self._begin(each) for each in self._stage.inputs if each.topic in self._ends}
        inputs = {each.topic: each for each in self._stage.inputs if each.topic in at}
        seen_ms = dict.fromkeys(at, LONG_AGO_MS)
        while waiting := [topic for topic in at if at[topic] < self._ends[topic]]:
            topic = min(waiting, key=seen_ms.__getitem__)
            chunk = self._read(inputs[topic], at[topic])
            if chunk is None:
                at[topic] = self._ends[topic]
                continue
            at[topic] = next_offset(chunk)
            times_ms = times_of(inputs[topic], chunk)
            times_ms = times_ms[times_ms > LONG_AGO_MS // 2]  # markers have none
            if times_ms.size:
                if topic in self._short:
                    self._short.discard(topic)
                    since_ms = int(times_ms[0]) + inputs[topic].stream.lateness_ms
                    self.known_since_ms = max(self.known_since_ms, since_ms)
                seen_ms[topic] = int(times_ms.max())
                if topic == self._stage.main.topic:
                    self.high_ms = max(self.high_ms, seen_ms[topic])
            yield {topic: chunk}

    def _needed_ms(self) -> int:
        """Return the event time from which on records may count for the first commit's windows."""
        main, plan = self._stage.main, self._stage.plan
        reach_ms = max([plan.horizon_ms, *reaches_ms(self._stage).values()])
        end = self._ends.get(main.topic, 0)
        chunk = read_new(self._log, self._stage, main, self._partition, end, READ_AT_ONCE)
        times_ms = times_of(main, chunk) if chunk is not None else np.zeros(0, np.int64)
        times_ms = times_ms[times_ms > LONG_AGO_MS // 2]
        if not times_ms.size:
            return 0
        return int(times_ms.min()) - reach_ms - 2 * plan.stream.lateness_ms - MARGIN_MS

    def _begin(self, each: Input) -> int:
        """Return where to begin; notes if that is too late for some windows."""
        begin, end = self._log.begin(each.topic, self._partition), self._ends[each.topic]
        tolerance_ms = each.stream.future_tolerance_ms
        at = self._log.offset_since(each.topic, self._partition, self._oldest_ms - tolerance_ms - MARGIN_MS)
        at = max(min(at, end), begin)
        if each.kind == LINES and end - at > READ_MAX:
            at = end - READ_MAX
            self._short.add(each.topic)
        elif at == begin > 0:
            self._short.add(each.topic)
        return at

    def _read(self, each: Input, at: int) -> Arrival | None:
        chunk = read_new(self._log, self._stage, each, self._partition, at, READ_AT_ONCE)
        if chunk is None or int(chunk.offsets[0]) >= self._ends[each.topic]:
            return None
        if next_offset(chunk) <= self._ends[each.topic]:
            return chunk
        return read_again(self._log, self._stage, each, self._partition, at, self._ends[each.topic])


def _only(served: AsServed, kept: Arrival | None) -> AsServed:
    """Return what was served for some events."""
    offsets = offsets_of([kept] if kept is not None else [])
    here = np.isin(served.offsets, offsets)
    return AsServed(served.offsets[here], served.matrix[here])

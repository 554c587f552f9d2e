"""From the log to an engine as of the last commit: the newest good snapshot, then the commits since, silently."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from connectors.log import Log
from pipeline.arrivals import Arrival
from pipeline.durations import in_words
from pipeline.engine import Engine
from pipeline.errors import PeltonError
from pipeline.manifest import Manifest, decode
from pipeline.plan import StreamPlan
from pipeline.reading import READ_AT_ONCE, as_of, chunk_of, next_offset, read_again, read_new
from pipeline.restoring import restored
from pipeline.snapshots import SNAPSHOT_EVERY_MS_MAX
from pipeline.stages import LINES, Stage, alone
from pipeline.state_store import StateStore
from pipeline.stream import Stream

if TYPE_CHECKING:
    from connectors.secrets import Tokeniser  # it brings cryptography along, which files rarely need

__all__ = ["Recovered", "check_retention", "chunk_of", "chunks_again", "history_ms", "recover", "streams_of"]


@dataclass
class Recovered:
    """An engine at the last commit.

    Attributes:
        commit: number of that commit, 0 before the first.
        manifest: of that commit.
        positions: topic -> offset of the first record not taken yet.
        replayed: how many records were replayed to get there.
        problem: why no snapshot could be read; None if the store answered.
    """

    engine: Engine
    commit: int
    manifest: Manifest | None
    positions: dict[str, int]
    replayed: int
    problem: str | None = None


def streams_of(plan: StreamPlan) -> dict[str, Stream]:
    """Return the streams that an engine of this plan reads, the decided one first."""
    facts = [plan.facts] if plan.facts is not None and plan.facts.derived_from is None else []
    return {stream.name: stream for stream in (plan.stream, *plan.others, *facts)}


def history_ms(plan: StreamPlan) -> int:
    """Return how much of the log a worker needs to rebuild its state."""
    windows = max((group.retention_ms for group in plan.groups), default=0)
    return max(windows, plan.horizon_ms) + plan.stream.lateness_ms + SNAPSHOT_EVERY_MS_MAX


def check_retention(plan: StreamPlan | Stage, log: Log) -> None:
    """Refuse a log that forgets faster than the windows.

    Raises:
        PeltonError: a topic keeps less than the longest span, delay, lateness and the time between snapshots.
    """
    stage = plan if isinstance(plan, Stage) else alone(plan)
    needed, topics = history_ms(stage.plan), {each.topic for each in stage.inputs}
    for topic in log.topics():
        if topic.name in topics and topic.retention_ms is not None and topic.retention_ms < needed:
            raise PeltonError(
                f"topic {topic.name!r} keeps {in_words(topic.retention_ms)}, and the app's windows need "
                f"{in_words(needed)} to be rebuilt; raise its retention or shorten the spans"
            )


def recover(
    plan: StreamPlan | Stage, log: Log, group: str, partition: int, store: StateStore, tokeniser: Tokeniser | None
) -> Recovered:
    """Return the engine at the last manifest.

    A damaged or missing snapshot is survived by replaying further; a store that cannot be reached too, after a while.

    Raises:
        PeltonError: the store cannot be reached, and the log does not reach back far enough to do without.
    """
    stage = plan if isinstance(plan, Stage) else alone(plan)
    newest = log.manifest(group, partition)
    if newest is None:
        return Recovered(Engine(stage, tokeniser), 0, None, _positions(stage, log, partition, None), 0)
    commit, payload = newest
    judged = [each.topic for each in stage.inputs if each.kind == LINES]
    engine, saved, problem = restored(
        lambda: Engine(stage, tokeniser), store, log, group, partition, judged, history_ms(stage.plan)
    )
    start, known = (saved.commit, saved.positions) if saved is not None else (0, {})
    manifests = [(number, decode(each)) for number, each in log.manifests(group, partition, start)]
    replayed = 0
    if manifests and manifests[0][0] > start + 1:
        at = {each.topic: log.begin(each.topic, partition) for each in stage.inputs if each.topic not in known}
        replayed += _rebuild(engine, log, partition, at | known, manifests[0][1])
    for together in _runs([manifest for _, manifest in manifests]):
        replayed += _again(engine, log, partition, together)
    last = decode(payload)
    return Recovered(engine, commit, last, _positions(stage, log, partition, last), replayed, problem)


def chunks_again(stage: Stage, log: Log, partition: int, manifest: Manifest) -> dict[str, Arrival]:
    """Return what a commit took, read again, as of then."""
    return _chunks(stage, log, partition, [manifest])


def _chunks(stage: Stage, log: Log, partition: int, together: Sequence[Manifest]) -> dict[str, Arrival]:
    """Return what commits took one after the other, read again, each as of then."""
    found = {}
    for each in stage.inputs:
        taken = [(*manifest.inputs.get(each.topic, (0, 0)), manifest.at_ms) for manifest in together]
        taken = [(first, end, at_ms) for first, end, at_ms in taken if end > first]
        if taken:
            ends, at_ms = np.array([(end, at_ms) for _, end, at_ms in taken]).T
            arrival = read_again(log, stage, each, partition, taken[0][0], int(ends[-1]))
            found[each.topic] = as_of(arrival, at_ms[np.searchsorted(ends, arrival.offsets, side="right")])
    return found


def _runs(manifests: Sequence[Manifest]) -> Iterator[list[Manifest]]:
    """Yield commits in order, those together that took records of the same one input, in a row and not too many.

    How a single input is cut into batches changes nothing; how several interleave is the commit's to say.
    """
    run: list[Manifest] = []
    topic, since = "", 0  # of the run, if it takes a single input
    for manifest in manifests:
        taken = {name: span for name, span in manifest.inputs.items() if span[1] > span[0]}
        only, (first, end) = next(iter(taken.items())) if len(taken) == 1 else ("", (0, 0))
        if run and (only != topic or not only or end - since > READ_AT_ONCE):
            yield run
            run = []
        if not run:
            topic, since = only, first
        run.append(manifest)
    if run:
        yield run


def _positions(stage: Stage, log: Log, partition: int, last: Manifest | None) -> dict[str, int]:
    taken = last.inputs if last is not None else {}
    return {
        each.topic: taken[each.topic][1] if each.topic in taken else log.begin(each.topic, partition)
        for each in stage.inputs
    }


def _again(engine: Engine, log: Log, partition: int, together: Sequence[Manifest]) -> int:
    """Apply commits again."""
    chunks = _chunks(engine.stage, log, partition, together)
    if chunks:
        engine.process(chunks)
    return sum(len(chunk) for chunk in chunks.values())


def _rebuild(engine: Engine, log: Log, partition: int, positions: Mapping[str, int], first: Manifest) -> int:
    """Apply what lies before the oldest manifest that is left, as much as the log still has of it."""
    replayed = 0
    for each in engine.stage.inputs:
        at, end = positions[each.topic], first.inputs.get(each.topic, (0, 0))[0]
        while at < end:
            arrival = read_new(log, engine.stage, each, partition, at, min(end - at, READ_AT_ONCE))
            if arrival is None:
                break  # a gap up to the end
            at = min(next_offset(arrival), end)  # with gaps, it may have read beyond: so read again, up to the end
            if next_offset(arrival) > end:
                arrival = read_again(log, engine.stage, each, partition, int(arrival.offsets[0]), end)
            engine.process({each.topic: as_of(arrival, first.at_ms)})
            replayed += len(arrival)
    return replayed

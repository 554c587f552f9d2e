"""What must hold after a chaos run: nothing lost, nothing double, the same bits, closed ledgers."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from connectors.kafka.log import KafkaLog
from connectors.log import LogError
from connectors.memory_log import MemoryLog
from pipeline.app import App
from pipeline.as_served import commits_as_served
from pipeline.dead_letters import dead_topic
from pipeline.decisions import Served
from pipeline.live import Worker, create_topics
from pipeline.manifest import Manifest, decode
from pipeline.stages import FACTS, LINES, Stage, stages_of
from pipeline.topics import decisions_topic
from pipeline.verify import verify
from tests.chaos.kafka_site import NAME, OF_CARD, PARTITIONS, Made, now_ms

POLL_S = 0.4
Where = tuple[str, int]  # group, partition


class Manifests(KafkaLog):
    """A log that remembers all manifests it ever saw, though workers forget old ones, and looks for new ones."""

    seen: dict[Where, list[tuple[int, bytes]]]

    def watch(self, stages: list[Stage]) -> None:
        """Begin to look, in a thread."""
        self.seen = {(stage.group, partition): [] for stage in stages for partition in range(PARTITIONS)}
        self.at_ms: dict[Where, list[int]] = {where: [] for where in self.seen}
        self._ends = threading.Event()
        self._watching = threading.Thread(target=self._watch, name="manifests", daemon=True)
        self._watching.start()

    def _watch(self) -> None:
        while not self._ends.wait(POLL_S):
            self.look()

    def end_watch(self, folder: Path) -> None:
        """Look a last time, and add what workers wrote to a folder before they forgot it."""
        self._ends.set()
        self._watching.join()
        self.look()
        for path in folder.glob("forgotten-*.jsonl"):
            for line in path.read_text().splitlines():
                group, partition, number, payload = json.loads(line)
                self.seen[group, partition].append((number, base64.b64decode(payload)))
        for where, seen in self.seen.items():
            self.seen[where] = sorted(dict(seen).items())

    def look(self) -> None:
        """Remember what is new."""
        for where, seen in self.seen.items():
            try:
                new = super().manifests(*where, seen[-1][0] if seen else 0)
            except LogError:
                return  # brokers are away, for all of them
            seen += new
            self.at_ms[where] += [decode(payload).at_ms for _, payload in new]

    def manifests(self, group: str, partition: int, since_commit: int) -> list[tuple[int, bytes]]:
        """Return what was seen."""
        return [each for each in self.seen[group, partition] if each[0] > since_commit]

    def newest(self) -> dict[Where, Manifest]:
        """Return the newest manifest of each stage and partition."""
        return {where: decode(seen[-1][1]) for where, seen in self.seen.items() if seen}

    def first_commit_ms(self, since_ms: int) -> int | None:
        """Return when the last of all stages and partitions made its first commit since then; None: not all did."""
        firsts = [next((at for at in reversed_until(each, since_ms)), None) for each in self.at_ms.values()]
        return None if any(first is None for first in firsts) else max(first for first in firsts if first is not None)


def reversed_until(times_ms: list[int], since_ms: int) -> list[int]:
    """Return the first of these times that is not before `since_ms`, in a list, or nothing."""
    found = None
    for at in reversed(times_ms):
        if at < since_ms:
            break
        found = at
    return [] if found is None else [found]


def wait_until_taken(log: Manifests, made: Made, alive: Callable[[], None], seconds: float) -> None:
    """Wait until everything that was sent is decided, and every label has come to rest."""
    until_s, ends = time.monotonic() + seconds, {}
    for topic in ("payments", "frauds"):
        for partition in range(PARTITIONS):
            ends[topic, partition] = log.end(topic, partition)
    while True:
        alive()
        newest = log.newest()
        decided = sum(each.decided.get("risk", 0) for each in newest.values())
        behind = sum(
            manifest.inputs[topic][1] < ends[topic, partition] - 1  # the end may be behind a marker
            for (_, partition), manifest in newest.items()
            for topic in ("payments", "frauds")
            if topic in manifest.inputs
        )
        told, taken = facts(newest)
        if decided >= made.good and not behind and told == taken:
            return
        assert time.monotonic() < until_s, (
            f"{decided:,} of {made.good:,} decided, {behind} inputs behind, {taken:,} of {told:,} facts taken"
        )
        threading.Event().wait(POLL_S)


def facts(newest: Mapping[Where, Manifest]) -> tuple[int, int]:
    """Return how many facts stages passed on, and how many others took."""
    told = sum(count for each in newest.values() for topic, count in each.forwarded.items() if topic.endswith("-facts"))
    taken = sum(
        ledger["taken"]
        for each in newest.values()
        for topic, ledger in each.ledgers.items()
        if topic.endswith("-facts")
    )
    return told, taken


def rows_of(log: KafkaLog, topic: str, partition: int) -> pa.Table | None:
    """Return all rows of a topic's partition, None if there are none."""
    found: list[pa.RecordBatch] = []
    at = log.begin(topic, partition)
    while stored := log.read_rows(topic, partition, at, 1 << 17):
        found += [rows for _, rows in stored]
        at = stored[-1][0] + stored[-1][1].num_rows
    return pa.Table.from_batches(found) if found else None


def check_decided_once(log: KafkaLog, made: Made, sent: int) -> tuple[pa.Table, str]:
    """Each good event is decided once; return all decisions, and words."""
    tables = [rows_of(log, decisions_topic(NAME), partition) for partition in range(PARTITIONS)]
    decisions = pa.concat_tables([each for each in tables if each is not None])
    ids = decisions["event_id"].to_pylist()
    counts = Counter(ids)
    doubled = [each for each, count in counts.items() if count > 1]
    foreign = [each for each in counts if not 0 <= int(each[1:]) < sent]
    lost = made.good - (len(counts) - len(foreign))
    told = f"{len(ids):,} decisions of {made.good:,} good events: {lost} lost, {len(doubled)} double"
    assert (lost, doubled[:5], foreign[:5]) == (0, [], []), told
    return decisions, told


def check_first_stage(log: KafkaLog, app: App, decisions: pa.Table, folder: Path) -> str:
    """Features of the first stage have the bits of a local run that nobody disturbed."""
    compared = 0
    served = {name: decisions[name].to_numpy() for name in OF_CARD}
    row_of = {event: row for row, event in enumerate(decisions["event_id"].to_pylist())}
    for partition in range(PARTITIONS):
        alone, at = MemoryLog(), log.begin("payments", partition)
        create_topics(app, alone)
        while len(records := log.read("payments", partition, at, 8192)):
            at = int(records.offsets[-1]) + 1
            assert records.append_ms is not None
            alone.append("payments", 0, records.values, int(records.append_ms.max()))
        worker = Worker(app, app.plans["payments"], alone, folder / str(partition), lambda _: Served(), now_ms,
                        time.perf_counter)  # fmt: skip
        while worker.step() is not None:
            pass
        local = rows_of(alone, decisions_topic(NAME), 0)
        assert local is not None
        rows = np.array([row_of[event] for event in local["event_id"].to_pylist()])
        for name in OF_CARD:
            ours, theirs = served[name][rows].view(np.int64), local[name].to_numpy().view(np.int64)
            wrong = np.flatnonzero(ours != theirs)
            assert not wrong.size, f"{name} of {local['event_id'][int(wrong[0])]} differs, and {wrong.size} more"
            compared += rows.size
    assert compared == len(decisions) * len(OF_CARD)
    return f"{compared:,} features of the first stage have the bits of a local run"


def check_stages(log: Manifests, app: App, sample: int, seed: int, partitions: Sequence[int]) -> str:
    """What each stage served is what an oracle recomputes by its manifests."""
    values, events = 0, 0
    for stage in stages_of(app, PARTITIONS):
        if not stage.decides and all(each.kind == FACTS for each in stage.outputs):
            continue  # a join serves no features
        for partition in partitions:
            numbers = [number for number, _ in log.seen[stage.group, partition]]
            assert numbers == list(range(1, len(numbers) + 1)), f"{stage.group} {partition}: commits are missing"
            found = verify(stage, commits_as_served(app, stage, log, partition), sample, seed)
            assert found.holds, f"{stage.group} {partition}:\n" + "\n".join(map(str, found.first))
            values, events = values + found.values_checked, events + found.events_checked
    return f"{values:,} values of {events:,} events recomputed by the oracle: 0 differ"


def check_ledgers(log: Manifests, app: App, made: Made) -> str:
    """Ledgers are closed in each stage and partition, and their sums fit together."""
    newest, stages = log.newest(), stages_of(app, PARTITIONS)
    summed: dict[str, Counter[str]] = {stage.group: Counter() for stage in stages}
    for stage in stages:
        for partition in range(PARTITIONS):
            manifest, at = newest[stage.group, partition], f"{stage.group} {partition}"
            for topic, ledger in manifest.ledgers.items():
                rest = dict(ledger)
                taken = rest.pop("taken")
                assert taken == sum(rest.values()), f"{at}: {topic} {ledger}"
                summed[stage.group] += Counter({f"{topic} {kind}": count for kind, count in ledger.items()})
            applied = manifest.ledgers[stage.main.topic]["applied"]
            assert all(count == applied for count in manifest.decided.values()), f"{at}: {manifest.decided}, {applied}"
            for output in stage.outputs:
                if output.kind != FACTS:
                    assert manifest.forwarded[output.topic] == applied, f"{at}: {manifest.forwarded}, {applied}"
            summed[stage.group] += Counter({"decided": sum(manifest.decided.values())}) + Counter(manifest.forwarded)
            assert sum(v for k, v in manifest.labels.items() if k != "taken") >= 0
    entrance, last = stages[0], stages[-1]
    sums = summed[entrance.group]
    for topic in ("payments", "frauds"):
        records = sum(_count(log, topic, partition) for partition in range(PARTITIONS))
        for stage in stages:
            if any(each.topic == topic and each.kind == LINES for each in stage.inputs):
                assert summed[stage.group][f"{topic} taken"] == records, (topic, summed[stage.group], records)
    dead = sum(table.num_rows for p in range(PARTITIONS) if (table := rows_of(log, dead_topic(NAME), p)) is not None)
    assert sums["payments applied"] == made.good == summed[last.group]["decided"], (made, sums)
    assert dead == sum(sums[f"payments {kind}"] for kind in ("late", "future", "invalid")) >= made.bad, (dead, sums)
    told = ", ".join(
        f"{sums[f'payments {kind}']:,} {kind}" for kind in ("applied", "late", "future", "duplicate", "invalid")
    )
    return f"{sums['payments taken']:,} payments = {told}; ledgers closed in {len(stages)} stages"


def _count(log: KafkaLog, topic: str, partition: int) -> int:
    at, count = log.begin(topic, partition), 0
    while len(records := log.read(topic, partition, at, 1 << 16)):
        at, count = int(records.offsets[-1]) + 1, count + len(records)
    return count

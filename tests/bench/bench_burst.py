"""How long do payments wait for their decision while a burst of support messages is being read?

The demo's app with its three bundles, in one process that decides; another process appends 200 payments a second, and
after a while some thousand messages at once. From when a payment was due to when its decision could be read: before the
burst, and from the burst until its last message is decided; and how soon messages are. On the embedded log, and on
Kafka with two partitions.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from connectors.log import Log
from ops.demo.stage import set_up
from ops.simulate.messages import MessageSettings, simulate_messages
from pipeline.live import decisions_topic
from tests.bench.kafka_sides import PARTITIONS as KAFKA_PARTITIONS
from tests.bench.kafka_sides import a_broker, create_topics, opened, process, tail
from tests.bench.measuring import PELTON, machine, parser

RATE, TICK_S = 200, 0.005
WARM_S, STEADY_S, AFTER_S = 6.0, 15.0, 2.0
START_S_MAX, END_S_MAX, READ_MAX = 90.0, 240.0, 1 << 16
PAYMENTS_S = 60  # of the demo's stream: 800 a second, of which 200 are sent


class Named(msgspec.Struct):
    """What a decision is known by."""

    event_id: str
    task: str


NAMED = msgspec.json.Decoder(Named)


@dataclass
class Seen:
    """When decisions could be read, in seconds of the monotonic clock, by task and id."""

    at_s: dict[str, dict[str, float]] = field(default_factory=lambda: {"risk": {}, "support": {}, "defect": {}})


class Watch(threading.Thread):
    """Notes when each decision can be read."""

    def __init__(self, log: Log, topic: str, partitions: int, rows: bool) -> None:
        super().__init__(name="watch", daemon=True)
        self._log, self._topic, self._rows = log, topic, rows
        self._at = {(topic, each): log.end(topic, each) for each in range(partitions)}
        self.seen = Seen()
        self.is_over = threading.Event()

    def run(self) -> None:
        """Read until told that it is over."""
        while not self.is_over.is_set():
            self._log.wait(self._at, 0.2)
            for (topic, partition), at in list(self._at.items()):
                found, self._at[topic, partition] = self._read(partition, at)
                now_s = time.monotonic()
                for task, name in found:
                    self.seen.at_s[task].setdefault(name, now_s)

    def _read(self, partition: int, at: int) -> tuple[list[tuple[str, str]], int]:
        if self._rows:
            stored = self._log.read_rows(self._topic, partition, at, READ_MAX)
            pairs = [pair for _, rows in stored
                     for pair in zip(rows["task"].to_pylist(), rows["event_id"].to_pylist(), strict=True)]  # fmt: skip
            return pairs, stored[-1][0] + stored[-1][1].num_rows if stored else at
        records = self._log.read(self._topic, partition, at, READ_MAX)
        named = [NAMED.decode(value) for value in records.values.to_pylist()]
        return [(each.task, each.event_id) for each in named], int(records.offsets[-1]) + 1 if len(records) else at


@dataclass(frozen=True)
class Place:
    """Where it runs: a log, opened by this process too, and the command of the worker."""

    log: Log
    partitions: int
    command: list[str]
    said: Path
    has_rows: bool


@contextmanager
def embedded(folder: Path) -> Iterator[Place]:
    """Set the demo up in a folder."""
    stage = set_up(folder / "embedded", PAYMENTS_S)
    command = [*PELTON, "run", str(stage.folder / "all_tasks.py"), "--data-folder", str(stage.folder), "--plain"]
    try:
        yield Place(stage.log, 1, command, folder / "embedded.txt", has_rows=True)
    finally:
        stage.close()


@contextmanager
def on_kafka(folder: Path) -> Iterator[Place]:
    """The same, on a broker of its own."""
    with a_broker() as address:
        stage = set_up(folder / "kafka", PAYMENTS_S)
        stage.close()
        app = stage.folder / "all_tasks.py"
        create_topics(address, app)
        command = [*PELTON, "run", str(app), "--kafka", address, "--data-folder", str(stage.folder), "--plain"]
        with opened(address) as log:
            yield Place(log, KAFKA_PARTITIONS, command, folder / "kafka.txt", has_rows=False)


def identified(lines: Sequence[bytes], name: str) -> list[tuple[str, bytes]]:
    """Return whole records with their ids, each id once: the simulated stream has broken and double ones."""
    found: dict[str, bytes] = {}
    for line in lines:
        try:
            found.setdefault(str(json.loads(line)[name]), line)
        except (ValueError, KeyError, TypeError):
            continue
    return list(found.items())


def measured(place: Place, payments: list[tuple[str, bytes]], messages: list[tuple[str, bytes]]) -> dict[str, Any]:
    """Produce, and return the quantiles of how long payments waited, in ms, and when messages were decided, in s."""
    watch = Watch(place.log, decisions_topic("demo"), place.partitions, place.has_rows)
    with process(place.command, place.said) as running:
        watch.start()
        warm_up(place, payments, messages, watch.seen, running)
        due_s: list[float] = []
        burst_s, began_s, sent = 0.0, time.monotonic(), 0
        rest = payments[1:]
        while running.poll() is None and sent < len(rest):
            now_s = time.monotonic()
            due = min(int((now_s - began_s) * RATE) + 1, len(rest))
            if due > sent:
                place.log.append("payments", sent % place.partitions, [line for _, line in rest[sent:due]], now_ms())
                due_s += [began_s + number / RATE for number in range(sent, due)]
                sent = due
            if not burst_s and now_s - began_s > WARM_S + STEADY_S:
                burst_s = time.monotonic()
                for partition in range(place.partitions):
                    part = [line for _, line in messages[1:][partition :: place.partitions]]
                    place.log.append("messages", partition, part, now_ms())
            done = len(watch.seen.at_s["support"]) >= len(messages) * 0.98
            if burst_s and (done or now_s - burst_s > END_S_MAX):
                break
            time.sleep(TICK_S)
        end_s = time.monotonic()
        while len(watch.seen.at_s["risk"]) < sent * 0.98 and time.monotonic() - end_s < AFTER_S * 30:
            time.sleep(TICK_S)
        if running.poll() is not None:
            raise SystemExit(f"the worker ended:\n{tail(place.said)}")
    watch.is_over.set()
    watch.join()
    return figures(watch.seen, [name for name, _ in rest[:sent]], due_s, began_s + WARM_S, burst_s, end_s)


def warm_up(
    place: Place, payments: list[tuple[str, bytes]], messages: list[tuple[str, bytes]], seen: Seen,
    running: subprocess.Popen[bytes],
) -> None:  # fmt: skip
    """Wait for the first decision of both tasks: the worker is there."""
    for partition in range(place.partitions):
        place.log.append("payments", partition, [payments[0][1]], now_ms())
        place.log.append("messages", partition, [messages[0][1]], now_ms())
    began_s = time.monotonic()
    while not (seen.at_s["risk"] and seen.at_s["support"]):
        if running.poll() is not None or time.monotonic() - began_s > START_S_MAX:
            raise SystemExit(f"no decision came:\n{tail(place.said)}")
        time.sleep(TICK_S)


def figures(
    seen: Seen, names: list[str], due_s: list[float], since_s: float, burst_s: float, end_s: float
) -> dict[str, Any]:
    """Return what is printed."""
    risk = seen.at_s["risk"]
    due = np.array(due_s)
    late_ms = np.array(
        [(risk[name] - at) * 1e3 if name in risk else np.nan for name, at in zip(names, due, strict=True)]
    )
    support_s = np.array(sorted(seen.at_s["support"].values())[1:]) - burst_s
    support_s = support_s[support_s > 0]
    found: dict[str, Any] = {"messages": int(support_s.size)}
    for name, chosen in (("steady", (due >= since_s) & (due < burst_s)), ("burst", (due >= burst_s) & (due < end_s))):
        some = late_ms[chosen]
        some = some[~np.isnan(some)]
        found |= {f"{name}_payments": int(some.size)}
        found |= {f"{name}_p{q}_ms": round(float(np.percentile(some, q)), 1) for q in (50, 99)} if some.size else {}
    found |= {"p99_times": round(found["burst_p99_ms"] / found["steady_p99_ms"], 2)}
    found |= {f"messages_p{q}_s": round(float(np.percentile(support_s, q)), 2) for q in (1, 50, 100)}
    return found


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Run."""
    options = parser(__doc__)
    options.add_argument("--only", choices=("embedded", "kafka"))
    asked = options.parse_args(arguments)
    burst = 1_000 if asked.quick else 4_000
    result: dict[str, Any] = {}
    for name, opening in (("embedded", embedded), ("kafka", on_kafka)):
        if asked.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as at:
            made = simulate_messages(MessageSettings(messages=burst + burst // 10, seed=3), Path(at) / "made")
            messages = identified(made.messages_path.read_bytes().splitlines(), "message_id")[: burst + 1]
            with opening(Path(at)) as place:
                source = next(Path(at).glob("*/payments.jsonl"))
                payments = identified(source.read_bytes().splitlines(), "event_id")
                found = measured(place, payments, messages)
        print(json.dumps({"log": name, **found, **machine()}), flush=True)
        result |= {f"{name}_{key}": value for key, value in found.items()}
    print(json.dumps({"bench": "burst", **result, **machine()}))


if __name__ == "__main__":
    main(sys.argv[1:])

"""How fast is "card features" on Kafka, beside an echo that computes nothing, and beside Bytewax and Faust?

All on the same broker in the same run, from a topic of 2 partitions to a topic. Throughput: what each wrote, over the
time between its first and its last record as the broker's clock stamped them. Latency: 1,000 events a second from
another thread, from produce to read-committed. Pelton and the echo commit exactly once, the others at least once.
Usage: python -m tests.bench.bench_kafka [--quick] [--without-others] [--workers N] [--keys N].
Bytewax comes with `pip install bytewax[kafka]`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from connectors.kafka.log import KafkaLog
from connectors.kafka.settings import KafkaSettings
from tests.bench.bench_kafka_commit import RATE, WARM_S, echoing
from tests.bench.measuring import APP, PELTON, machine, workload
from tests.kafka_broker import KafkaBroker, fresh

HERE = Path(__file__).parent
PARTITIONS, QUIET_S, START_S_MAX, READ_MAX = 2, 2.0, 60.0, 1 << 16
SOURCE, DECISIONS = "payments", "card_features.decisions"  # named as the app says
SLOW_EVENTS = {"bytewax": 200_000, "faust": 50_000}


@dataclass(frozen=True)
class Wrote:
    """What one side wrote into its topic."""

    records: int
    events_per_s: float
    cpu_us_per_event: float
    mb: float


@contextmanager
def a_broker() -> Iterator[str]:
    """Run a broker of its own."""
    broker = KafkaBroker()
    broker.start()
    try:
        yield broker.address
    finally:
        broker.close()


def opened(address: str) -> KafkaLog:
    """Return a log on the broker."""
    return KafkaLog(KafkaSettings((address,)))


@contextmanager
def process(command: Sequence[str], said: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command beside; its output is kept in a file."""
    with said.open("wb") as file:
        running = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=HERE.parents[1])
        try:
            yield running
        finally:
            running.terminate()
            try:
                running.wait(20)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


def tail(said: Path) -> str:
    """Return the end of what a process printed."""
    return said.read_text(encoding="utf-8", errors="replace")[-2000:]


def used_by(pid: int) -> tuple[float, float]:
    """Return processor seconds and the most MB of memory of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    peak_kb = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), peak_kb / 1024


def ends(log: KafkaLog, topic: str) -> list[int]:
    """Return where the partitions of a topic end, read-committed."""
    return [log.end(topic, partition) for partition in range(PARTITIONS)]


def wait_until_quiet(log: KafkaLog, topic: str, alive: Callable[[], bool], since: list[int]) -> None:
    """Wait until a topic has begun to grow, and then grows no more."""
    began, last, last_s = time.monotonic(), since, time.monotonic()
    while True:
        time.sleep(0.25)
        now = ends(log, topic)
        if now != last:
            last, last_s = now, time.monotonic()
        elif last != since and time.monotonic() - last_s > QUIET_S:
            return
        elif last == since and time.monotonic() - began > START_S_MAX:
            raise SystemExit(f"nothing came into {topic} within {START_S_MAX:.0f} s")
        if not alive():
            raise SystemExit(f"the process that writes {topic} ended")


def stamps(log: KafkaLog, topic: str, since: list[int]) -> np.ndarray:
    """Return when the broker took each record after `since`, in milliseconds, sorted."""
    found = []
    for partition, at in enumerate(since):
        while len(records := log.read(topic, partition, at, READ_MAX)):
            found.append(records.append_ms)
            at = int(records.offsets[-1]) + 1
    return np.sort(np.concatenate(found)) if found else np.zeros(0, np.int64)


def measured(log: KafkaLog, topic: str, command: Sequence[str], said: Path) -> Wrote:
    """Run a command until it has written all, and say how fast it was."""
    since = ends(log, topic)
    with process(command, said) as running:
        wait_until_quiet(log, topic, lambda: running.poll() is None, since)
        cpu_s, mb = used_by(running.pid)
    at_ms = stamps(log, topic, since)
    span_s = max(int(at_ms[-1] - at_ms[0]), 1) / 1e3
    return Wrote(at_ms.size, at_ms.size / span_s, cpu_s / at_ms.size * 1e6, mb)


def run_echo(address: str, source: str, target: str, stop: Any, results: Any) -> None:
    """Run the echo as the main thread of a process, so that a signal can end it."""
    echoing(address, source, target, stop, {}, results)


def echo_command(address: str, source: str, target: str) -> list[str]:
    """Return the command of the echo."""
    code = "import sys, threading; from multiprocessing import Queue; from tests.bench.bench_kafka import run_echo; "
    code += "run_echo(*sys.argv[1:], threading.Event(), Queue())"
    return [sys.executable, "-c", code, address, source, target]


def pelton_command(address: str, folder: Path, more: Sequence[str] = ()) -> list[str]:
    """Return the command of a worker."""
    return [*PELTON, "run", str(APP), "--kafka", address, "--data-folder", str(folder), "--plain", *more]


def produce(address: str, topic: str, file: Path) -> None:
    """Fill a topic from a file, by card."""
    command = [*PELTON, "produce", topic, str(file), "--kafka", address, "--key", "card"]
    subprocess.run(command, check=True, cwd=HERE.parents[1], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def throughputs(address: str, folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Measure all sides and compare."""
    speed = throughput(address, folder, asked)
    result: dict[str, Any] = {f"{side}_events_per_s": rate for side, rate in speed.items()}
    result["of_echo"] = round(speed["pelton"] / speed["echo"], 2)
    return result | {f"times_{side}": round(speed["pelton"] / speed[side], 1) for side in SLOW_EVENTS if side in speed}


def throughput(address: str, folder: Path, asked: argparse.Namespace) -> dict[str, int]:
    """Measure all sides, one after the other; return events per second of each."""
    events = 200_000 if asked.quick else 1_000_000
    result: dict[str, int] = {}
    with opened(address) as log:
        create_topics(address)
        produce(address, SOURCE, workload(events, asked.keys))
        echoed = fresh("echoed")
        log.create_topic(echoed, PARTITIONS)
        sides = {
            "echo": (echoed, echo_command(address, SOURCE, echoed)),
            "pelton": (DECISIONS, pelton_command(address, folder / "data")),
        }
        for name, (topic, command) in sides.items():
            wrote = measured(log, topic, command, folder / f"{name}.txt")
            if wrote.records != events:
                raise SystemExit(f"{name} wrote {wrote.records:,} of {events:,}:\n{tail(folder / f'{name}.txt')}")
            result[name] = report(name, wrote)
        if asked.without_others:
            return result
        for name, count in SLOW_EVENTS.items():
            if name == "bytewax" and importlib.util.find_spec("bytewax") is None:
                print("bytewax is not here: pip install 'bytewax[kafka]'", file=sys.stderr)
                continue
            source, target = fresh("in"), fresh("out")
            for topic in (source, target):
                log.create_topic(topic, PARTITIONS)
            produce(address, source, workload(count, asked.keys))
            command = [sys.executable, str(HERE / f"kafka_{name}.py"), address, source, target, str(folder / name)]
            wrote = measured(log, target, command[: 6 if name == "faust" else 5], folder / f"{name}.txt")
            result[name] = report(name, wrote)
    return result


def report(name: str, wrote: Wrote) -> int:
    """Print a line of what was measured, and return the events per second."""
    line = {"side": name, **{key: round(value, 1) for key, value in vars(wrote).items()}, **machine()}
    print(json.dumps(line), flush=True)
    return round(wrote.events_per_s)


def latency(
    address: str, target: str, source: str, lines: list[bytes], command: Sequence[str], said: Path
) -> dict[str, float]:
    """Produce lines at RATE and return the quantiles of the time to the read-committed answer, in ms."""
    total = len(lines)
    sent_ns, waited = np.zeros(total, np.int64), np.zeros(total, np.int64)
    places = {json.loads(line)["event_id"]: number for number, line in enumerate(lines)}
    with opened(address) as log, opened(address) as reading, process(command, said) as running:
        since = ends(reading, target)
        reader = threading.Thread(target=read_answers, args=(reading, target, since, places, waited))
        reader.start()
        began, sent = time.perf_counter(), 0
        while sent < total and running.poll() is None:
            due = min(int((time.perf_counter() - began) * RATE) + 1, total)
            if due == sent:
                time.sleep(max(began + sent / RATE - time.perf_counter(), 0.0002))
                continue
            sent_ns[sent:due] = time.perf_counter_ns()
            log.append(source, due % PARTITIONS, lines[sent:due], 0)
            sent = due
        reader.join(60)
    late_ms = (waited - sent_ns)[int(WARM_S * RATE) :] / 1e6
    if (waited == 0).any():
        raise SystemExit(f"{int((waited == 0).sum())} of {total} answers never came:\n{tail(said)}")
    return {f"p{q}_ms": round(float(np.percentile(late_ms, q)), 1) for q in (50, 99)}


def read_answers(log: KafkaLog, topic: str, at: list[int], places: dict[str, int], waited: np.ndarray) -> None:
    """Note when each answer could be read; give up when none came for a while."""
    seen, last_s = 0, time.monotonic()
    while seen < len(places) and time.monotonic() - last_s < START_S_MAX:
        log.wait({(topic, partition): at[partition] for partition in range(PARTITIONS)}, 0.5)
        for partition in range(PARTITIONS):
            records = log.read(topic, partition, at[partition], READ_MAX)
            now_ns = time.perf_counter_ns()
            if len(records):
                at[partition], last_s = int(records.offsets[-1]) + 1, time.monotonic()
                found = [places[json.loads(value)["event_id"]] for value in records.values.to_pylist()]
                waited[found] = now_ns
                seen += len(found)


def latencies(address: str, folder: Path, seconds: float) -> dict[str, Any]:
    """Measure the echo, and Pelton exactly and at least once; each side gets events of its own."""
    total = int((seconds + WARM_S) * RATE)
    lines = workload(max(2 * total, 100_000)).read_bytes().splitlines()
    source, echoed = fresh("in"), fresh("out")
    with opened(address) as log:
        for topic in (source, echoed):
            log.create_topic(topic, PARTITIONS)
    create_topics(address)
    run, result = pelton_command(address, folder / "later"), {}
    sides = {
        "echo": (echoed, source, 0, echo_command(address, source, echoed)),
        "pelton": (DECISIONS, SOURCE, 0, run),
        "at_least_once": (DECISIONS, SOURCE, total, [*run, "--at-least-once"]),
    }
    for side, (target, topic, first, command) in sides.items():
        waited = latency(address, target, topic, lines[first : first + total], command, folder / f"{side}.txt")
        print(json.dumps({"latency": side, **waited, **machine()}), flush=True)
        result |= {f"{side}_{key}": value for key, value in waited.items()}
    return result


def create_topics(address: str) -> None:
    """Make the topics of the app."""
    command = [*PELTON, "topics", "create", str(APP), "--kafka", address, "--partitions", str(PARTITIONS)]
    subprocess.run(command, check=True, cwd=HERE.parents[1], stdout=subprocess.DEVNULL)


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--without-others", action="store_true")
    parser.add_argument("--keys", type=int, default=10_000)
    asked = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    with tempfile.TemporaryDirectory() as name:
        with a_broker() as address:
            result = throughputs(address, Path(name), asked)
        with a_broker() as address:
            result |= latencies(address, Path(name), 10.0 if asked.quick else 60.0)
    print(json.dumps({"bench": "kafka", **result, **machine()}))


if __name__ == "__main__":
    main()

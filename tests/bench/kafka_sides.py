"""The sides of the benchmark on Kafka as processes, and how what they write is watched."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from connectors.kafka.log import KafkaLog
from connectors.kafka.settings import KafkaSettings
from tests.bench.measuring import APP, PELTON
from tests.kafka_broker import KafkaBroker, fresh
from tests.prometheus import free_port

HERE = Path(__file__).parent
PARTITIONS, QUIET_S, START_S_MAX, READ_MAX = 2, 2.0, 60.0, 1 << 16
PARTS = ("fetch", "decode", "features", "score", "encode", "commit")


@dataclass(frozen=True)
class Wrote:
    """What one side wrote into its topic.

    Attributes:
        cpu_us_per_event: of its processes together.
        mb: the most that each of them held.
        us_per_event: by part of the work, where the side says so.
        state: bytes and keys of its windows, where the side says so.
    """

    records: int
    events_per_s: float
    cpu_us_per_event: float
    mb: float
    us_per_event: dict[str, float]
    state: dict[str, float]


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
            raise SystemExit(f"a process that writes {topic} ended")


def stamps(log: KafkaLog, topic: str, since: list[int]) -> np.ndarray:
    """Return when the broker took each record after `since`, in milliseconds, sorted."""
    found = []
    for partition, at in enumerate(since):
        while len(records := log.read(topic, partition, at, READ_MAX)):
            found.append(records.append_ms)
            at = int(records.offsets[-1]) + 1
    return np.sort(np.concatenate(found)) if found else np.zeros(0, np.int64)


def measured(log: KafkaLog, topic: str, commands: Sequence[Side], folder: Path) -> Wrote:
    """Run processes until they have written all, and say how fast they were."""
    since = ends(log, topic)
    with ExitStack() as stack:
        running = [stack.enter_context(process(each.command, folder / f"{fresh('side')}.txt")) for each in commands]
        wait_until_quiet(log, topic, lambda: all(each.poll() is None for each in running), since)
        used = [used_by(each.pid) for each in running]
        said = [samples(each.metrics_port) for each in commands if each.metrics_port]
    at_ms = stamps(log, topic, since)
    span_s = max(int(at_ms[-1] - at_ms[0]), 1) / 1e3
    busy = {part: sum(each.get(("pelton_step_busy_seconds_total", part), 0.0) for each in said) for part in PARTS}
    state = {name: sum(each.get((f"pelton_state_{name}", ""), 0.0) for each in said) for name in ("keys", "bytes")}
    return Wrote(
        at_ms.size, at_ms.size / span_s, sum(cpu_s for cpu_s, _ in used) / at_ms.size * 1e6, max(mb for _, mb in used),
        {part: round(spent_s / at_ms.size * 1e6, 2) for part, spent_s in busy.items()} if said else {},
        state if said else {},
    )  # fmt: skip


def samples(port: int) -> dict[tuple[str, str], float]:
    """Return a worker's metrics by name and step, added up over other labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, sample.labels.get("step", "")
            found[key] = found.get(key, 0.0) + sample.value
    return found


@dataclass(frozen=True)
class Side:
    """A process of one side.

    Attributes:
        metrics_port: where it serves metrics; 0 if it does not.
    """

    command: list[str]
    metrics_port: int = 0


def own_echo(address: str, source: str, target: str) -> Side:
    """Return an exactly-once echo on the connector's own batches, which computes nothing."""
    return Side([sys.executable, "-m", "tests.bench.kafka_own_echo", address, source, target])


def echo(address: str, source: str, target: str, *how: str) -> Side:
    """Return an echo on aiokafka alone, exactly once if `how` does not say otherwise."""
    return Side([sys.executable, str(HERE / "kafka_echo.py"), address, source, target, *how])


def pelton(address: str, app: Path, folder: Path, *more: str) -> Side:
    """Return a worker."""
    port = free_port()
    command = [*PELTON, "run", str(app), "--kafka", address, "--data-folder", str(folder), "--plain", *more]
    return Side([*command, "--metrics-port", str(port)], port)


def app_of(folder: Path, name: str, stream: str) -> Path:
    """Write the app of the benchmark under another name, for another topic."""
    path = folder / f"{name}.py"
    text = APP.read_text(encoding="utf-8")
    path.write_text(text.replace('"card_features"', f'"{name}"').replace('"payments"', f'"{stream}"'), encoding="utf-8")
    return path


def create_topics(address: str, app: Path) -> None:
    """Make the topics of an app."""
    command = [*PELTON, "topics", "create", str(app), "--kafka", address, "--partitions", str(PARTITIONS)]
    subprocess.run(command, check=True, cwd=HERE.parents[1], stdout=subprocess.DEVNULL)


def produce(address: str, topic: str, file: Path) -> None:
    """Fill a topic from a file, by card."""
    command = [*PELTON, "produce", topic, str(file), "--kafka", address, "--key", "card"]
    subprocess.run(command, check=True, cwd=HERE.parents[1], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

"""What a chaos run is about: an app with two keys and labels, its stream, its brokers and its workers."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa

from connectors.kafka.log import KafkaLog
from connectors.kafka.settings import KafkaSettings
from connectors.log import LogError
from connectors.partitions import partitions_of

PELTON = str(Path(sys.executable).with_name("pelton"))
PARTITIONS, CARDS, TERMINALS = 8, 2_000, 300
BASE_MS, STEP_MS, JITTER_MS = 1_700_000_000_000, 20, 20_000
BATCH, LABEL_AFTER = 200, 400  # events sent at once, and how many later their labels are told
NAME = "chaos"
APP = f'''
import base64, json, os, sys
from pathlib import Path

from connectors.kafka.log import KafkaLog
from pipeline import App, Rule, Stream, Task


def forget_later(log, group, partition, before_commit, forget=KafkaLog.forget_manifests):  # checks need all of them
    kept = [each for each in log.manifests(group, partition, 0) if each[0] < before_commit]
    with (Path(__file__).parent / f"forgotten-{{os.getpid()}}.jsonl").open("a") as file:
        file.write("".join(json.dumps([group, partition, number, base64.b64encode(payload).decode()]) + "\\n"
                           for number, payload in kept))
    return forget(log, group, partition, before_commit)


if Path(sys.argv[0]).name == "pelton":  # a worker: who checks reads this file too
    KafkaLog.forget_manifests = forget_later

payments = Stream("payments", id="event_id", time="ts", lateness="1m", key="card",
                  fields={{"card": "string", "terminal": "string", "amount": "money"}})
frauds = Stream("frauds", id="event_id", time="known", fields={{"fraud": "bool"}})
card, terminal = payments.by("card"), payments.by("terminal")
risk = Task("risk", on=payments, model=None, learner=None, features={{
    "count_1h": card.last("1h").count(), "sum_24h": card.last("24h").sum("amount"),
    "std_24h": card.last("24h").std("amount"), "largest": card.last("24h").max("amount"),
    "at_terminal": terminal.last("1h").count(), "mean_terminal": terminal.last("24h").mean("amount"),
    "frauds": terminal.last("24h").sum(frauds.fraud), "fraud_rate": terminal.last("24h").rate(frauds.fraud),
}}, rules=[Rule("often", "count_1h > 120", "review"), Rule("bad", "fraud_rate > 0.2", "block")])
app = App("{NAME}", tasks=[risk])
'''
OF_CARD = ("count_1h", "sum_24h", "std_24h", "largest")  # computed by the first stage, over one stream


def now_ms() -> int:
    """Return the time."""
    return time.time_ns() // 1_000_000


class Journal:
    """Prints what happens, and when since the begin."""

    def __init__(self, say: Callable[[str], None] = print) -> None:
        self._began_s, self._say = time.monotonic(), say

    def __call__(self, text: str) -> None:
        """Print a line."""
        self._say(f"{time.monotonic() - self._began_s:7.2f} s  {text}")


@dataclass
class Made:
    """What was sent: of the events, which were good, and how many of each other kind."""

    good: int = 0
    bad: int = 0
    labels: int = 0
    again: int = 0  # batches sent twice, for what came of the first is unknown


class Sending:
    """Sends events by card and labels by event id, from a thread of its own, whatever brokers do.

    One in a thousand events each is broken, late or from the future; one in five hundred comes twice. After a write of
    unknown outcome its records are sent again, as producers do.

    Args:
        settings: where Kafka is.
        seed: of the events.
        events: how many, at least.
        rate: a second, while workers and brokers suffer.
    """

    def __init__(self, settings: KafkaSettings, seed: int, events: int, rate: float, say: Journal) -> None:
        self._draw, self._events, self.rate, self._say = random.Random(seed), events, rate, say
        self._log = KafkaLog(settings, timeout_s=20.0)
        self._calm = threading.Event()
        self._waiting: list[tuple[int, bool]] = []  # events whose labels are not told yet
        self._thread = threading.Thread(target=self._run, name="sending", daemon=True)
        self.made, self.sent = Made(), 0
        self.error: BaseException | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def finish(self) -> Made:
        """Send what is left as fast as it goes; return what there was."""
        self._calm.set()
        self._thread.join()
        self._log.close()
        if self.error is not None:
            raise self.error
        return self.made

    def _run(self) -> None:
        try:
            while not (self._calm.is_set() and self.sent >= self._events):
                began_s = time.monotonic()
                self._send("payments", *self._events_of(range(self.sent, self.sent + BATCH)))
                self._send("frauds", *self._labels())
                self.sent += BATCH
                self._calm.wait(max(began_s + BATCH / self.rate - time.monotonic(), 0.0))
            self._send("frauds", *self._labels(everything=True))
        except BaseException as error:
            self.error = error

    def _send(self, topic: str, values: list[bytes], keys: list[str]) -> None:
        chosen = partitions_of(pa.array(keys, pa.string()), PARTITIONS)
        for partition in range(PARTITIONS):
            some = [value for value, at in zip(values, chosen, strict=True) if at == partition]
            while some:
                try:
                    self._log.append(topic, partition, some, now_ms())
                    break
                except LogError as error:
                    self.made.again += 1
                    self._say(f"a batch for {topic} {partition} is sent again: {error}")

    def _events_of(self, numbers: range) -> tuple[list[bytes], list[str]]:
        values, keys, draw = [], [], self._draw
        for number in numbers:
            card, kind, ts = f"c{draw.randrange(CARDS)}", draw.randrange(1000), BASE_MS + STEP_MS * number
            event = {
                "event_id": f"e{number}", "ts": ts - draw.randrange(JITTER_MS), "card": card,
                "terminal": f"t{draw.randrange(TERMINALS)}", "amount": draw.randrange(1, 50_000) / 100,
            }  # fmt: skip
            if kind == 0:
                event["amount"] = "broken"
            elif kind == 1 and number > 100_000 // STEP_MS:
                event["ts"] = ts - 7_200_000
            elif kind == 2:
                event["ts"] = now_ms() + 86_400_000
            is_good = kind > 2 or (kind == 1 and number <= 100_000 // STEP_MS)
            self.made.good += is_good
            self.made.bad += not is_good
            for _ in range(2 if kind in (4, 5) else 1):
                values.append(json.dumps(event).encode())
                keys.append(card)
            if number % 3 == 0:
                self._waiting.append((number, number % 21 == 0))
        return values, keys

    def _labels(self, *, everything: bool = False) -> tuple[list[bytes], list[str]]:
        due = [each for each in self._waiting if everything or each[0] < self.sent - LABEL_AFTER]
        self._waiting = self._waiting[len(due) :]
        self.made.labels += len(due)
        told = [{"event_id": f"e{n}", "known": BASE_MS + STEP_MS * (n + LABEL_AFTER), "fraud": is_fraud}
                for n, is_fraud in due]  # fmt: skip
        return [json.dumps(each).encode() for each in told], [each["event_id"] for each in told]


class Workers:
    """Processes of `pelton run`, some running and some not any more."""

    def __init__(self, folder: Path, address: str, session_s: float, say: Journal) -> None:
        self._folder, self._address, self._session_s, self._say = folder, address, session_s, say
        self.running: dict[int, tuple[subprocess.Popen[bytes], IO[str]]] = {}
        self._ended: list[IO[str]] = []
        self._started = 0

    def start(self) -> int:
        """Start one more."""
        number, out = self._started, (self._folder / f"worker-{self._started}.log").open("w+")
        command = [PELTON, "run", "app.py", "--kafka", self._address, "--plain", "--session-timeout"]
        environment = os.environ | {
            "PELTON_DATA": str(self._folder / "data"),
            "OMP_NUM_THREADS": "1",
            "PYTHONFAULTHANDLER": "1",
        }
        process = subprocess.Popen(
            [*command, str(self._session_s)], cwd=self._folder, stdout=out, stderr=out, env=environment
        )
        self.running[number] = process, out
        self._started += 1
        return number

    def kill(self, number: int) -> None:
        """End one at once."""
        process, out = self.running.pop(number)
        process.kill()
        process.wait()
        self._ended.append(out)

    def leave(self, number: int) -> None:
        """End one as an operator does; it must end well."""
        process, out = self.running.pop(number)
        self._ended.append(out)
        process.terminate()
        code = process.wait(60)
        assert code == 0, f"worker {number} ended with {code}:\n{_told(out)}"

    def stall(self, number: int) -> None:
        """Freeze one."""
        self.running[number][0].send_signal(signal.SIGSTOP)

    def resume(self, number: int) -> None:
        """Let a frozen one go on."""
        self.running[number][0].send_signal(signal.SIGCONT)

    def said(self, number: int) -> str:
        """Return what a running one printed."""
        return _told(self.running[number][1])

    def check(self) -> None:
        """Fail if one ended by itself."""
        for number, (process, out) in self.running.items():
            assert process.poll() is None, f"worker {number} ended by itself, with {process.poll()}:\n{_told(out)}"

    def close(self) -> None:
        """End all that run."""
        for number in list(self.running):
            self.kill(number)
        for out in self._ended:
            out.close()

    def words(self) -> str:
        """Return what all of them printed."""
        return "\n".join(_told(out) for out in [*self._ended, *(out for _, out in self.running.values())])

    def problems(self) -> dict[str, int]:
        """Return what they had to complain about, without the numbers, and how often."""
        found: dict[str, int] = {}
        for line in re.findall(r"problem: (.*)", self.words()):
            told = re.sub(r"\d+", "N", line)
            found[told] = found.get(told, 0) + 1
        return found


def _told(out: IO[str]) -> str:
    out.flush()
    return Path(out.name).read_text()

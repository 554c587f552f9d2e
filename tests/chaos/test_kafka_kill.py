"""Two workers share the partitions of an app; they are killed and frozen while payments come in, and others take over:
every payment is decided exactly once, with the features of a run that nobody disturbed. Run with -s to see its log.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from connectors.kafka.log import KafkaLog
from connectors.kafka.settings import KafkaSettings
from connectors.log import LogError
from connectors.memory_log import MemoryLog
from pipeline.decisions import Served
from pipeline.live import Worker, create_topics
from pipeline.loading import load_app
from pipeline.manifest import decode
from pipeline.topics import decisions_topic, group_of
from tests.chaos.kafka_site import now_ms

pytestmark = pytest.mark.timeout(180)

PELTON = str(Path(sys.executable).with_name("pelton"))
PARTITIONS, CARDS, SEED = 4, 200, 11
ROUNDS = ("kill", "freeze", "kill", "leave")
SESSION_S, ROUND_S, BATCH, RATE = 2.0, 5.0, 50, 2_000
NAME = "sharing"
APP = f'''
from pipeline import App, Rule, Stream, Task

payments = Stream("payments", id="event_id", time="ts", lateness="1h", fields={{"card": "string", "amount": "money"}})
card = payments.by("card")
risk = Task("risk", on=payments, model=None, learner=None, features={{
    "count_1h": card.last("1h").count(), "sum_24h": card.last("24h").sum("amount"),
    "std_24h": card.last("24h").std("amount"), "largest": card.last("24h").max("amount"),
}}, rules=[Rule("often", "count_1h > 8", "review")])
app = App("{NAME}", tasks=[risk])
'''


class Workers:
    """Processes of `pelton run`, and what was done to them."""

    def __init__(self, folder, address):
        self._folder, self._address = folder, address
        self._began_s = time.monotonic()
        self.running = []
        self.ended = []
        self.started = 0

    def say(self, text):
        print(f"{time.monotonic() - self._began_s:6.2f} s  {text}", flush=True)

    def start(self):
        out = (self._folder / f"worker-{self.started}.log").open("w+")
        line = [PELTON, "run", "app.py", "--kafka", self._address, "--plain", "--session-timeout", str(SESSION_S)]
        environment = os.environ | {"PELTON_DATA": str(self._folder / "data")}
        process = subprocess.Popen(line, cwd=self._folder, stdout=out, stderr=out, env=environment)
        self.running.append((self.started, process, out))
        self.say(f"worker {self.started} started")
        self.started += 1

    def take(self, rng):
        self.running.sort(key=lambda each: each[0])
        return self.running.pop(rng.randrange(len(self.running)))

    def kill(self, rng):
        number, process, out = self.take(rng)
        process.kill()
        process.wait()
        self.say(f"worker {number} killed")
        self.ended.append((number, process, out))

    def freeze(self, rng):
        number, process, out = self.take(rng)
        process.send_signal(signal.SIGSTOP)
        self.say(f"worker {number} frozen")
        threading.Event().wait(SESSION_S * 2)  # longer than the group waits for it
        process.send_signal(signal.SIGCONT)
        self.say(f"worker {number} goes on, as a zombie")
        self.running.append((number, process, out))

    def leave(self, rng):
        number, process, out = self.take(rng)
        process.terminate()
        code = process.wait(30)
        self.say(f"worker {number} left with {code}")
        self.ended.append((number, process, out))
        assert code == 0, self.told(out)

    def close(self):
        for _, process, _ in self.running:
            process.kill()
            process.wait()
        for _, _, out in self.running + self.ended:
            out.close()

    @staticmethod
    def told(out):
        out.seek(0)
        return out.read()


def payments_of(rng, numbers, now_ms):
    """Make payments of cards that stay in their partition; times are not quite in order."""
    made = [[] for _ in range(PARTITIONS)]
    for number in numbers:
        card = rng.randrange(CARDS)
        event = {"event_id": f"e{number}", "ts": now_ms - rng.randrange(20_000), "card": f"c{card}",
                 "amount": rng.randrange(1, 50_000) / 100}  # fmt: skip
        made[card % PARTITIONS].append(json.dumps(event).encode())
    return made


def produce(log, rng, stop, made):
    """Append a few payments at a time, as long as the workers suffer."""
    while not stop.is_set():
        for partition, values in enumerate(payments_of(rng, range(made[0], made[0] + BATCH), int(time.time() * 1000))):
            log.append("payments", partition, values, int(time.time() * 1000))
        made[0] += BATCH
        stop.wait(BATCH / RATE)


@pytest.fixture(scope="module")
def suffered(needs_kafka, tmp_path_factory):
    """Let workers suffer; return the log, the app, and how many payments there were."""
    from tests.kafka_broker import KafkaBroker

    folder = tmp_path_factory.mktemp("sharing")
    (folder / "app.py").write_text(APP)
    app, rng = load_app(str(folder / "app.py")), random.Random(SEED)
    with contextlib.ExitStack() as stack:
        broker = KafkaBroker(settings="group.min.session.timeout.ms=1000")
        stack.callback(broker.close)
        broker.start()
        log = stack.enter_context(KafkaLog(KafkaSettings.read(broker.address, {})))
        create_topics(app, log, PARTITIONS)
        workers = Workers(folder, broker.address)
        stack.callback(workers.close)
        made, stop = [0], threading.Event()
        producing = threading.Thread(target=produce, args=(log, random.Random(SEED), stop, made), daemon=True)
        workers.start()
        workers.start()
        wait_for(log, 1)
        producing.start()
        try:
            for each in ROUNDS:
                stop.wait(rng.uniform(ROUND_S / 2, ROUND_S))
                getattr(workers, each)(rng)
                if each == "kill":
                    workers.start()
                workers.say(f"{each} survived, all partitions go on after {progress(log):.1f} s")
        finally:
            stop.set()
            producing.join()
        taken_s = progress(log, to_the_end=True)
        workers.say(f"{made[0]} payments, the last decided {taken_s:.1f} s after it came")
        while workers.running:
            workers.leave(rng)
        yield log, app, made[0], folder, workers


def wait_for(log, records):
    """Append a payment per partition, and wait until all are decided: the workers are there."""
    for partition in range(PARTITIONS):
        values = [b'{"event_id": "first-%d", "ts": %d, "card": "c%d", "amount": 1}' % (
            partition, int(time.time() * 1000), partition)]  # fmt: skip
        log.append("payments", partition, values * records, int(time.time() * 1000))
    progress(log, to_the_end=True)


def progress(log, to_the_end=False):
    """Wait until each partition has decided what was there when we began to look; return the seconds."""
    began_s = time.monotonic()
    ends = {partition: log.end("payments", partition) for partition in range(PARTITIONS)}
    taken = dict.fromkeys(ends, 0)
    while any(taken[partition] < end for partition, end in ends.items()):
        assert time.monotonic() - began_s < 60, f"taken {taken} of {ends}"
        for partition in ends:
            with contextlib.suppress(LogError):  # a worker forgets old manifests while we look for the newest
                newest = log.manifest(group_of(NAME, "payments"), partition)
                taken[partition] = decode(newest[1]).inputs["payments"][1] if newest else 0
        threading.Event().wait(0.05)
    return time.monotonic() - began_s


def decisions_of(log, partition):
    rows, at = [], 0
    while found := log.read_rows(decisions_topic(NAME), partition, at, 1 << 20):
        rows += [each for _, each in found]
        at = found[-1][0] + found[-1][1].num_rows
        if at >= log.end(decisions_topic(NAME), partition):
            break
    return pa.Table.from_batches(rows)


def test_every_payment_is_decided_exactly_once(suffered):
    log, _, made, *_ = suffered
    tables = [decisions_of(log, partition) for partition in range(PARTITIONS)]
    ids = [each for table in tables for each in table["event_id"].to_pylist()]
    wanted = [f"e{number}" for number in range(made)] + [f"first-{partition}" for partition in range(PARTITIONS)]
    missing, doubled = set(wanted) - set(ids), len(ids) - len(set(ids))
    print(f"{len(ids)} decisions of {len(wanted)} payments: {len(missing)} lost, {doubled} double")
    assert (sorted(missing)[:5], doubled, len(ids)) == ([], 0, len(wanted))
    for table in tables:
        assert (np.diff(table["source_offset"].to_numpy()) > 0).all()


def test_features_are_those_of_a_run_that_nobody_disturbed(suffered, tmp_path):
    log, app, *_ = suffered
    for partition in range(PARTITIONS):
        served = decisions_of(log, partition)
        alone = MemoryLog()
        create_topics(app, alone)
        end = log.end("payments", partition)
        records = log.read("payments", partition, 0, end)
        alone.append("payments", 0, records.values, int(records.append_ms.max()))
        worker = Worker(app, app.plans["payments"], alone, tmp_path / str(partition), lambda _: Served(), now_ms,
                        time.perf_counter)  # fmt: skip
        while worker.step() is not None:
            pass
        replayed = decisions_of(alone, 0)
        assert served["event_id"].to_pylist() == replayed["event_id"].to_pylist()
        for name in ("count_1h", "sum_24h", "std_24h", "largest", "decision"):
            assert served[name].to_pylist() == replayed[name].to_pylist(), (partition, name)


def test_ledgers_are_closed(suffered):
    log, _, made, *_ = suffered
    newest = [decode(log.manifest(group_of(NAME, "payments"), partition)[1]) for partition in range(PARTITIONS)]
    ledgers = [dict(manifest.ledgers["payments"]) for manifest in newest]
    assert sum(ledger["taken"] for ledger in ledgers) == made + PARTITIONS
    for ledger in ledgers:
        assert ledger.pop("taken") == sum(ledger.values())
    assert sum(manifest.decided["risk"] for manifest in newest) == made + PARTITIONS


def test_what_workers_printed_names_the_partitions(suffered):
    *_, workers = suffered
    said = [workers.told(out) for _, _, out in workers.ended]
    assert any("partition 0 joined" in text for text in said)
    assert any("left to another worker" in text for text in said)
    assert not any("Traceback" in text for text in said)

"""From produce to the read-committed answer, at 1,000 events a second: the echo in two ways, and Pelton in three.

Events are sent as Kafka's own producer sends them, what is due every 5 ms in one batch, and count from when they were
due. The first seconds warm a side up and are left out; before that, an echo that nobody measures warms the broker up.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from connectors.kafka.log import KafkaLog
from ops.simulate import SimulationSettings, simulate
from tests.bench.kafka_sides import (
    HERE,
    PARTITIONS,
    READ_MAX,
    START_S_MAX,
    Side,
    app_of,
    create_topics,
    echo,
    ends,
    opened,
    pelton,
    process,
    tail,
)  # fmt: skip
from tests.bench.measuring import PELTON, machine, workload
from tests.kafka_broker import fresh

CARD_RISK = HERE / "card_risk.py"
RATE, LINGER_S, WARM_S = 1000, 0.005, 15.0
QUIET_S_MAX = 10.0
SET_ASIDE_MAX = 0.01  # of the simulated stream is late, broken or comes twice


class Named(msgspec.Struct):
    """What events and answers are known by."""

    event_id: str


NAMED = msgspec.json.Decoder(Named)


def latencies(address: str, folder: Path, seconds: float) -> dict[str, Any]:
    """Measure all, one after the other; each side gets events of its own."""
    total = int((seconds + WARM_S) * RATE)
    lines = workload(max(2 * total, 100_000)).read_bytes().splitlines()
    source, echoed, plain, echoed_plainly = fresh("in"), fresh("out"), fresh("in"), fresh("out")
    with opened(address) as log:
        for topic in (source, echoed, f"{echoed}.notes", plain, echoed_plainly):
            log.create_topic(topic, PARTITIONS)
    app = app_of(folder, "card_features_late", "payments_late")
    create_topics(address, app)
    asked = {
        "echo": (echoed, source, lines[:total], echo(address, source, echoed)),
        "pelton": (f"{app.stem}.decisions", "payments_late", lines[:total], pelton(address, app, folder / "late")),
        "echo_at_least_once": (
            echoed_plainly, plain, lines[:total], echo(address, plain, echoed_plainly, "at_least_once")
        ),
        "at_least_once": (
            f"{app.stem}.decisions", "payments_late", lines[total : 2 * total],
            pelton(address, app, folder / "late", "--at-least-once"),
        ),
        "both_models": with_models(address, folder, total),
    }  # fmt: skip
    warm = fresh("warm")
    with opened(address) as log:
        for topic in (warm, f"{warm}.out", f"{warm}.out.notes"):
            log.create_topic(topic, PARTITIONS)
    warming = lines[: int(2 * WARM_S * RATE)]
    latency(address, f"{warm}.out", warm, warming, echo(address, warm, f"{warm}.out"), folder / "warm.txt")
    result = {}
    for side, (target, topic, events, how) in asked.items():
        waited = latency(address, target, topic, events, how, folder / f"{side}.txt")
        print(json.dumps({"latency": side, **waited, **machine()}), flush=True)
        result |= {f"{side}_{key}": value for key, value in waited.items()}
    return result


def with_models(address: str, folder: Path, total: int) -> tuple[str, str, list[bytes], Side]:
    """Return an app of one key, as "card features" is, with a network of the default size and a learner.

    One epoch of training: what a network takes to answer does not depend on what it knows.
    """
    home = folder / "risk"
    made = simulate(SimulationSettings(days=14, events_per_day=total / 13, cards=1_000, terminals=300), home)
    streams = ["--data", str(made.payments_path), str(made.labels_path)]
    command = [*PELTON, "train", str(CARD_RISK), *streams, "--epochs", "1", "--out", str(home / "bundles")]
    subprocess.run([*command, "--data-folder", str(home)], check=True, stdout=subprocess.DEVNULL)
    create_topics(address, CARD_RISK)
    lines = [line for line in made.payments_path.read_bytes().splitlines() if is_whole(line)][:total]
    return "card_risk.decisions", "payments", lines, pelton(address, CARD_RISK, home)


def is_whole(line: bytes) -> bool:
    """Tell whether a line is an event: the simulated stream has broken ones."""
    try:
        NAMED.decode(line)
    except msgspec.DecodeError:
        return False
    return True


def latency(address: str, target: str, source: str, lines: list[bytes], side: Side, said: Path) -> dict[str, float]:
    """Produce lines at RATE and return the quantiles of the time to the read-committed answer, in ms."""
    total = len(lines)
    waited = np.zeros(total, np.int64)
    places = {NAMED.decode(line).event_id: number for number, line in enumerate(lines)}
    with opened(address) as log, opened(address) as reading, process(side.command, said) as running:
        since = ends(reading, target)
        reader = threading.Thread(target=read_answers, args=(reading, target, since, places, waited))
        reader.start()
        began_ns, sent = time.perf_counter_ns(), 0
        while sent < total and running.poll() is None:
            time.sleep(max((began_ns - time.perf_counter_ns()) / 1e9 + sent / RATE + LINGER_S, 0))
            due = min(int((time.perf_counter_ns() - began_ns) / 1e9 * RATE) + 1, total)
            log.append(source, due % PARTITIONS, lines[sent:due], 0)
            sent = due
        reader.join()
    if (waited == 0).mean() > SET_ASIDE_MAX:
        raise SystemExit(f"{int((waited == 0).sum())} of {total} answers never came:\n{tail(said)}")
    due_ns = began_ns + np.arange(total) * (10**9 // RATE)
    late_ms = (waited - due_ns)[(waited > 0) & (np.arange(total) >= WARM_S * RATE)] / 1e6
    return {f"p{q}_ms": round(float(np.percentile(late_ms, q)), 1) for q in (50, 90, 99)}


def read_answers(log: KafkaLog, topic: str, at: list[int], places: dict[str, int], waited: np.ndarray) -> None:
    """Note when each answer could be read; give up when none came for a while."""
    seen, last_s = 0, time.monotonic()
    while seen < len(places) and time.monotonic() - last_s < (QUIET_S_MAX if seen else START_S_MAX):
        log.wait({(topic, partition): at[partition] for partition in range(PARTITIONS)}, 0.5)
        for partition in range(PARTITIONS):
            records = log.read(topic, partition, at[partition], READ_MAX)
            now_ns = time.perf_counter_ns()
            if len(records):
                at[partition], last_s = int(records.offsets[-1]) + 1, time.monotonic()
                found = [places[NAMED.decode(value).event_id] for value in records.values.to_pylist()]
                waited[found] = now_ns
                seen += len(found)

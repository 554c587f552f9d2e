"""How fast is "card features" on Kafka, beside an echo that computes nothing, and beside Bytewax and Faust? How late?

All on one broker in one run, from a topic of 2 partitions to a topic. Throughput: what each wrote over the time between
its first and its last record as the broker's clock stamped them. Pelton with 1 and 2 workers, and with more keys; where
a worker's time goes and what a key takes in memory, as its own metrics say. Then, with the broker warm, latency: see
`kafka_latency`. Pelton and the echoes commit exactly once, the others at least once.
Bytewax comes with `pip install bytewax[kafka]`.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.kafka_latency import latencies
from tests.bench.kafka_sides import (
    HERE,
    PARTITIONS,
    PARTS,
    Side,
    Wrote,
    a_broker,
    app_of,
    create_topics,
    echo,
    measured,
    opened,
    own_echo,
    pelton,
    produce,
)  # fmt: skip
from tests.bench.measuring import machine, parser, workload
from tests.kafka_broker import fresh

SLOW_EVENTS = {"bytewax": 200_000, "faust": 50_000}
KEYS = (10_000, 100_000, 1_000_000)
WARM_EVENTS = 200_000


def throughputs(address: str, folder: Path, quick: bool, others: bool) -> dict[str, Any]:
    """Measure all sides, one after the other, and compare."""
    events = 200_000 if quick else 1_000_000
    for keys in KEYS:
        produce_new(address, f"payments_{keys}", workload(events, keys))
    echoes(address, "payments_10000", WARM_EVENTS, folder)  # the broker, which compiles what it runs often
    found = {name: each.events_per_s for name, each in echoes(address, "payments_10000", events, folder).items()}
    sides = {
        "pelton": workers(address, KEYS[0], 1, events, folder),
        "pelton_2_workers": workers(address, KEYS[0], 2, events, folder),
    } | {f"pelton_{keys}_keys": workers(address, keys, 1, events, folder) for keys in KEYS[1:]}
    found |= {name: each.events_per_s for name, each in sides.items()}
    if others:
        found |= slow_ones(address, folder)
    table(sides)
    few, many = sides["pelton"].state, sides[f"pelton_{KEYS[-1]}_keys"].state
    speed = max(found["pelton"], found["pelton_2_workers"])
    return {
        **{f"{side}_events_per_s": round(rate) for side, rate in found.items()},
        "of_echo": round(speed / found["echo"], 2), "of_own_echo": round(speed / found["own_echo"], 2),
        **{f"times_{side}": round(speed / found[side], 1) for side in SLOW_EVENTS if side in found},
        "bytes_per_key": round((many["bytes"] - few["bytes"]) / max(many["keys"] - few["keys"], 1)),
    }  # fmt: skip


def echoes(address: str, source: str, events: int, folder: Path) -> dict[str, Wrote]:
    """Measure both echoes."""
    found = {}
    with opened(address) as log:
        for name, make in (("echo", echo), ("own_echo", own_echo)):
            target = fresh("echoed")
            for topic in (target, f"{target}.notes"):
                log.create_topic(topic, PARTITIONS)
            found[name] = told(name, measured(log, target, [make(address, source, target)], folder), events)
    return found


def workers(address: str, keys: int, count: int, events: int, folder: Path) -> Wrote:
    """Measure workers of one app on a topic that is full."""
    name = f"card_features_{keys}_{count}"
    app = app_of(folder, name, f"payments_{keys}")
    create_topics(address, app)
    sides = [
        pelton(address, app, folder / f"{name}-{number}", "--state", str(folder / name)) for number in range(count)
    ]
    with opened(address) as log:
        return told(
            f"pelton, {count} workers, {keys:,} keys", measured(log, f"{name}.decisions", sides, folder), events
        )


def slow_ones(address: str, folder: Path) -> dict[str, float]:
    """Measure Bytewax and Faust, each on as many events as it can take in a while."""
    found = {}
    with opened(address) as log:
        for name, events in SLOW_EVENTS.items():
            if name == "bytewax" and importlib.util.find_spec("bytewax") is None:
                print("bytewax is not here: pip install 'bytewax[kafka]'", file=sys.stderr)
                continue
            source, target = fresh("in"), fresh("out")
            log.create_topic(target, PARTITIONS)
            produce_new(address, source, workload(events, KEYS[0]))
            command = [sys.executable, str(HERE / f"kafka_{name}.py"), address, source, target, str(folder / name)]
            side = Side(command[: 6 if name == "faust" else 5])
            found[name] = told(name, measured(log, target, [side], folder), events).events_per_s
    return found


def produce_new(address: str, topic: str, file: Path) -> None:
    """Make a topic and fill it."""
    with opened(address) as log:
        log.create_topic(topic, PARTITIONS)
    produce(address, topic, file)


def told(name: str, wrote: Wrote, events: int) -> Wrote:
    """Print a line of what was measured; who wrote too little was not."""
    if wrote.records < events:
        raise SystemExit(f"{name} wrote {wrote.records:,} of {events:,}")
    line = {key: round(value, 1) if isinstance(value, float) else value for key, value in vars(wrote).items()}
    print(json.dumps({"side": name, **line, **machine()}), flush=True)
    return wrote


def table(sides: dict[str, Wrote]) -> None:
    """Print where the workers' time goes; beside it are the client's threads: requests, record batches, checksums."""
    print(f"{'µs of an event':24}" + "".join(f"{part:>10}" for part in (*PARTS, "processor")))
    for name, wrote in sides.items():
        spent = [*(wrote.us_per_event[part] for part in PARTS), round(wrote.cpu_us_per_event, 2)]
        print(f"{name:24}" + "".join(f"{value:>10}" for value in spent), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run."""
    options = parser(__doc__)
    options.add_argument("--without-others", action="store_true", help="without Bytewax and Faust")
    options.add_argument("--only", choices=("throughput", "latency"))
    asked = options.parse_args(arguments)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, a_broker() as address:
        if asked.only != "latency":
            result |= throughputs(address, Path(name), asked.quick, not asked.without_others)
        if asked.only != "throughput":
            result |= latencies(address, Path(name), 10.0 if asked.quick else 60.0)
    print(json.dumps({"bench": "kafka", **result, **machine()}))


if __name__ == "__main__":
    main()

"""What does a commit on Kafka cost: an exactly-once echo from a topic of 2 partitions to a topic?

Two workers copy whole reads and commit them with a manifest; nothing is computed. Another process produces, and reads
what is committed. The broker is on the same cores. Last line: JSON.

    python -m tests.bench.bench_kafka_commit [--events 1000000] [--seconds 60] [--at-least-once]
"""

import argparse
import json
import multiprocessing
import os
import threading
import time

import numpy as np
import pyarrow as pa

from connectors.kafka.log import KafkaLog
from connectors.kafka.settings import KafkaSettings
from tests.kafka_broker import KafkaBroker, fresh

PARTITIONS, TAKEN_MAX, RATE, WARM_S, LINGER_S = 2, 8192, 1000, 8.0, 0.005


def opened(address, **how):
    return KafkaLog(KafkaSettings((address,)), **how)


def events(first, count):
    """JSON of about 130 bytes, as a producer of payments writes it."""
    return pa.array(
        [
            b'{"event_id":"e%09d","ts":%d,"card":"c%06d","terminal":"t%04d","amount":%d.%02d,"place":"p%03d","device":"d%05d"}'
            % (i, 1_700_000_000_000 + i, i * 7919 % 100_000, i % 5000, i % 900, i % 100, i % 300, i % 20_000)
            for i in range(first, first + count)
        ],
        pa.large_binary(),
    )


def echo(log, source, target, partition, stop, spent):
    """Copy what comes, exactly once, until told to stop."""
    group = f"{target}.echo"
    commit, at = log.claim(group, partition, PARTITIONS), 0
    while not stop.is_set():
        began = time.perf_counter()
        spent.setdefault("began", began)
        records = log.read(source, partition, at, TAKEN_MAX)
        if not len(records):
            log.wait({(source, partition): at}, 0.2)
            continue
        read = time.perf_counter()
        with log.transaction(group, partition, commit) as transaction:
            transaction.append(target, partition, records.values, int(records.append_ms[-1]))
            at = int(records.offsets[-1]) + 1
            transaction.put_manifest(b'{"inputs":{"payments":[%d,%d]}}' % (records.offsets[0], at))
        commit += 1
        spent["read"] += read - began
        spent["commit"] += time.perf_counter() - read
        spent["commits"] += 1


def echoing(address, source, target, stop, how, results):
    """Run one echo per partition in this process."""
    with opened(address, **how) as log:
        spent = [{"read": 0.0, "commit": 0.0, "commits": 0} for _ in range(PARTITIONS)]
        threads = [
            threading.Thread(target=echo, args=(log, source, target, p, stop, spent[p])) for p in range(PARTITIONS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        began = min(each.pop("began") for each in spent)  # of the system's clock, the same in all processes
        results.put((began, {name: sum(each[name] for each in spent) for name in spent[0]}, time.process_time()))


def count_to(log, target, total):
    """Return when everything is committed, and how many records were read."""
    at, seen = [0] * PARTITIONS, 0
    while seen < total:
        log.wait({(target, p): at[p] for p in range(PARTITIONS)}, 1.0)
        for p in range(PARTITIONS):
            while len(found := log.read(target, p, at[p], 1 << 16)):
                at[p], seen = int(found.offsets[-1]) + 1, seen + len(found)
    return time.perf_counter(), seen


def throughput(address, total, how):
    """Return events/s from the first read to the last committed record that is seen, and where the time went."""
    source, target = fresh("in"), fresh("out")
    with opened(address) as log:
        log.create_topic(source, PARTITIONS)
        log.create_topic(target, PARTITIONS)
        for first in range(0, total, 50_000):
            log.append(source, first // 50_000 % PARTITIONS, events(first, min(50_000, total - first)), 0)
        stop, results = multiprocessing.Event(), multiprocessing.Queue()
        worker = multiprocessing.Process(target=echoing, args=(address, source, target, stop, how, results))
        worker.start()
        ended, seen = count_to(log, target, total)
        stop.set()
        began, spent, cpu_s = results.get()
        worker.join()
    assert seen == total, f"{seen} of {total} came"
    return {"events_per_s": round(total / (ended - began)), "echo_cpu_us_per_event": round(cpu_s / total * 1e6, 2),
            **{f"{name}_s": round(value, 2) for name, value in spent.items()}}  # fmt: skip


def latency(address, seconds, how):
    """Return the quantiles of produce to read-committed at 1,000 events/s, in ms."""
    source, target = fresh("in"), fresh("out")
    with opened(address) as log, opened(address) as reading:
        log.create_topic(source, PARTITIONS)
        log.create_topic(target, PARTITIONS)
        stop, results = multiprocessing.Event(), multiprocessing.Queue()
        worker = multiprocessing.Process(target=echoing, args=(address, source, target, stop, how, results))
        worker.start()
        total, waited = int((seconds + WARM_S) * RATE), []
        reader = threading.Thread(target=measure, args=(reading, target, total, waited))
        reader.start()
        produce(log, source, total)
        reader.join()
        stop.set()
        _, spent, cpu_s = results.get()
        worker.join()
    late_ms = np.array(waited[int(WARM_S * RATE) :])
    quantiles = {f"p{q}_ms": round(float(np.percentile(late_ms, q)), 1) for q in (50, 90, 99)}
    each = {f"{name}_ms": round(spent[name] / spent["commits"] * 1e3, 2) for name in ("read", "commit")}
    commits, cpu = round(spent["commits"] / (seconds + WARM_S)), round(cpu_s / (seconds + WARM_S), 2)
    return quantiles | each | {"commits_per_s": commits, "echo_cores": cpu}


def produce(log, source, total):
    """Append what is due every LINGER_S in one batch, as Kafka's own producer does; an event's time is its append's."""
    began, sent = time.perf_counter(), 0
    while sent < total:
        time.sleep(max(began + sent / RATE + LINGER_S - time.perf_counter(), 0))
        due = min(int((time.perf_counter() - began) * RATE) + 1, total)
        stamps = [b'{"at":%d,"n":%d}' % (time.perf_counter_ns(), i) for i in range(sent, due)]
        log.append(source, due % PARTITIONS, stamps, 0)
        sent = due


def measure(log, target, total, waited):
    """Note for each event how long it took."""
    at = [0] * PARTITIONS
    while len(waited) < total:
        if not log.wait({(target, p): at[p] for p in range(PARTITIONS)}, 5.0):
            continue
        for p in range(PARTITIONS):
            found = log.read(target, p, at[p], TAKEN_MAX)
            now = time.perf_counter_ns()
            if len(found):
                at[p] = int(found.offsets[-1]) + 1
                waited += [(now - json.loads(value)["at"]) / 1e6 for value in found.values.to_pylist()]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--at-least-once", action="store_true")
    asked = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    how = {"at_least_once": asked.at_least_once}
    broker, address = None, os.environ.get("PELTON_TEST_KAFKA")
    if not address:
        broker = KafkaBroker()
        broker.start()
        address = broker.address
    try:
        result = {"delivery": "at least once" if asked.at_least_once else "exactly once", "events": asked.events}
        result |= throughput(address, asked.events, how)
        print(result)
        result |= latency(address, asked.seconds, how)
    finally:
        if broker is not None:
            broker.close()
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""What does it cost an event to pass through a stage: split by key, written as rows, put together again?

CPU time of one thread, in nanoseconds per event. An app of two keys and labels on 8 partitions: each commit of the
first stage passes its events to two topics, with features and all fields to the next key, with ids to the labels.
"""

import json
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from connectors.records import Chunk, Decoded
from pipeline import App, Stream, Task
from pipeline.arrivals import columns_of, merge_column
from pipeline.carried import Carried, carried_of
from pipeline.engine import Engine
from pipeline.forwarding import Forwarder
from pipeline.stages import Stage, stages_of
from tests.bench.measuring import parser

PARTITIONS = 8
START_MS = 1_700_000_000_000


def bank() -> App:
    """Return an app with windows by card and terminal, and labels by terminal."""
    fields = {"card": "string", "terminal": "string", "device": "string", "place": "string", "amount": "money"}
    payments = Stream("payments", id="id", time="ts", key="card", fields=fields)
    frauds = Stream("frauds", id="id", time="known", fields={"fraud": "bool"})
    features = {"fraud_rate": payments.by("terminal").last("1d").rate(frauds.fraud)}
    for key in ("card", "terminal"):
        window = payments.by(key).last("1h")
        features |= {f"{key}_{name}": getattr(window, name)("amount") for name in ("sum", "mean", "std", "max")}
    return App("bank", [Task("risk", on=payments, features=features, model=None, learner=None)])


def commits(stage: Stage, size: int, count: int) -> Iterator[Chunk]:
    """Yield decoded records as a topic gives them."""
    draw = np.random.default_rng(7)

    def texts(form: str, most: int) -> pa.Array:
        return pa.array([form.format(n) for n in draw.integers(0, most, size)])

    for first in range(0, size * count, size):
        offsets = np.arange(first, first + size)
        columns = {
            "id": pa.array([f"e{n}" for n in offsets]), "card": texts("card{:012d}", 50_000),
            "terminal": texts("t{:06d}", 5_000), "device": texts("d{:06d}", 9_000), "place": texts("p{}", 50),
            "amount": pa.array(np.round(draw.uniform(0, 100, size), 2)), "ts": pa.array(offsets + START_MS),
        }  # fmt: skip
        schema = stage.main.schema
        rows = pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema.arrow)
        yield Chunk("payments", 0, offsets, Decoded(rows, offsets - first), lambda i: b"")


def written(rows: pa.RecordBatch) -> pa.Buffer:
    """Return rows as a log stores them."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_batch(rows)
    return sink.getvalue()


def arrived(stage: Stage, first: int, buffers: list[pa.Buffer]) -> Carried:
    """Put what was written together, as if all of it came to one partition."""
    stored = []
    for buffer in buffers:
        rows = pa.ipc.open_stream(buffer).read_next_batch()
        stored.append((first, rows))
        first += rows.num_rows
    return carried_of(stage.main.topic, stored, merge_column(stage.main), columns_of(stage, stage.main))


def measure(size: int, count: int) -> dict[str, float]:
    """Run commits of a size through the first stage and the two that it feeds."""
    stages = {stage.main.topic: stage for stage in stages_of(bank(), PARTITIONS)}
    engines = {topic: Engine(stage) for topic, stage in stages.items()}
    entrance = stages["payments"]
    forwarder, spent, size_bytes, first = (
        Forwarder(entrance, 0),
        dict.fromkeys(("features", "split", "write", "read"), 0),
        0,
        0,
    )
    for number, chunk in enumerate(commits(entrance, size, count + 1)):
        at = [time.thread_time_ns()]
        featured = engines["payments"].process({"payments": chunk})
        at.append(time.thread_time_ns())
        parts = {each.topic: [rows for _, rows in forwarder.parts(each, featured)] for each in entrance.outputs}
        at.append(time.thread_time_ns())
        buffers = {topic: [written(rows) for rows in some] for topic, some in parts.items()}
        at.append(time.thread_time_ns())
        found = {topic: arrived(stages[topic], first, some) for topic, some in buffers.items()}
        at.append(time.thread_time_ns())
        assert all(len(each) == size for each in found.values())
        for topic, each in found.items():
            engines[topic].process({topic: each})
        first += size
        if number:  # the first one loads kernels
            for name, ns in zip(spent, np.diff(at).tolist(), strict=True):
                spent[name] += ns
            size_bytes += sum(buffer.size for some in buffers.values() for buffer in some)
    events = size * count
    figures = {name: round(ns / events, 1) for name, ns in spent.items()}
    return {"events_per_commit": size, **figures, "bytes": round(size_bytes / events, 1)}


def main() -> None:
    """Print a line for each size of a commit."""
    share = 10 if parser(__doc__).parse_args().quick else 1
    for size, count in ((8192, 24), (1024, 60), (256, 100), (32, 100)):
        print(json.dumps(measure(size, count // share)))


if __name__ == "__main__":
    main()

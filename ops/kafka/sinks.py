"""The sinks behind a worker on Kafka: each partition's decisions, written by whoever has the partition."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from connectors.log import Log
from connectors.sinks import open_sink
from ops.mistakes import in_a_sentence
from ops.running import GROWING
from ops.sink_feed import SinkFeed, group_of_sink


def place_of(output: str, partition: int) -> str:
    """Return where a partition's decisions go: two processes never write one file.

    >>> place_of("out/decisions.jsonl", 3), place_of("lake/", 3), place_of("postgresql://db/bank", 3)
    ('out/decisions-3.jsonl', 'lake/partition=3/', 'postgresql://db/bank')
    """
    if "://" in output:
        return output
    if output.endswith("/"):
        return f"{output}partition={partition}/"
    path = PurePosixPath(output)
    return str(path.with_name(f"{path.stem}-{partition}{path.suffix}"))


def name_of(output: str) -> str:
    """Return what an output's position is kept under: a topic's name can hold no URL, and shall hold no password."""
    return hashlib.sha256(output.encode()).hexdigest()[:12]


class PartitionSinks:
    """A thread per output and partition; a broken one ends only itself: the decisions are in their topic.

    Args:
        app: name of the app.
        log: with its decisions.
        outputs: files, folders and database URLs.
    """

    def __init__(self, app: str, log: Log, outputs: Sequence[str]) -> None:
        self._app, self._log, self._outputs = app, log, outputs
        self._running: dict[int, tuple[threading.Event, list[threading.Thread]]] = {}
        self._failed: dict[tuple[str, int], str] = {}

    @property
    def problems(self) -> list[str]:
        """What is wrong, in words."""
        return list(self._failed.values())

    def begin(self, partition: int) -> None:
        """Write the decisions of a partition from where the last one who had it ended."""
        if partition in self._running:
            return
        stop = threading.Event()
        threads = [
            threading.Thread(target=self._run, args=(output, partition, stop), name=f"sink {partition}", daemon=True)
            for output in self._outputs
        ]
        self._running[partition] = stop, threads
        for thread in threads:
            thread.start()

    def end(self, partitions: Iterable[int], until_s: float) -> None:
        """Write what is decided, then let go; wait for it no longer than until then, by the monotonic clock."""
        ended = [self._running.pop(each) for each in partitions if each in self._running]
        for stop, _ in ended:
            stop.set()
        for _, threads in ended:
            for thread in threads:
                thread.join(max(until_s - time.monotonic(), 0.0))

    def _run(self, output: str, partition: int, stop: threading.Event) -> None:
        self._failed.pop((output, partition), None)
        try:
            name = name_of(output)
            began = self._log.manifest(group_of_sink(self._app, name), partition) is not None
            sink = open_sink(place_of(output, partition), resume=began or output.endswith(GROWING))
            feed = SinkFeed(self._app, self._log, sink, name, partition)
            feed.run(stop)
            problem = feed.problem
        except (ValueError, OSError) as error:
            problem = in_a_sentence(error) or str(error)
        if problem:
            self._failed[output, partition] = f"partition {partition}: {problem}"

"""Adds up what the partitions of one worker say, for views that know of one."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace

import msgspec

from pipeline.live import Step, Worker
from pipeline.manifest import Manifest


class Summed:
    """The newest manifest of each stage and partition, as one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: dict[tuple[str, int], Manifest] = {}

    def step(self, worker: Worker, step: Step) -> Step:
        """Return a step whose manifest counts all partitions that this process has or had, since the beginning."""
        with self._lock:
            self._newest[worker.group, worker.partition] = step.manifest
            all_of_them = list(self._newest.values())
        if len(all_of_them) == 1:
            return step
        ledgers: dict[str, Counter[str]] = {}
        decided: Counter[str] = Counter()
        for manifest in all_of_them:
            decided.update(manifest.decided)
            for name, counts in manifest.ledgers.items():
                ledgers.setdefault(name, Counter()).update(counts)
        summed = {name: dict(counts) for name, counts in ledgers.items()}
        return replace(step, manifest=msgspec.structs.replace(step.manifest, ledgers=summed, decided=dict(decided)))

    def forget(self, partition: int) -> None:
        """Forget a partition that left."""
        with self._lock:
            for place in [place for place in self._newest if place[1] == partition]:
                del self._newest[place]

"""Brings decisions from the log to a sink."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field

from connectors.log import Log
from connectors.sinks import Sink
from pipeline.live import decisions_topic

IDLE_WAIT_S = 0.5
ROWS_MAX = 8192


@dataclass
class SinkFeed:
    """Writes decisions to a sink, in order, at least once: its position is noted after the sink has them.

    It runs beside the workers, so a slow database delays no decision, and a broken one ends only its feed: the
    decisions are in the log, and the next run goes on where this one ended.

    Attributes:
        problem: why it ended early, None if it did not.
    """

    app: str
    log: Log
    sink: Sink
    name: str
    partition: int = 0
    commit: int = field(init=False, default=0)
    offset: int = field(init=False, default=0)
    problem: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Go on where the last run of this sink ended."""
        found = self.log.manifest(group_of_sink(self.app, self.name), self.partition)
        if found is not None:
            self.commit, self.offset = found[0], int(found[1])
        else:
            self.offset = self.log.begin(decisions_topic(self.app), self.partition)

    def step(self, limit: int = ROWS_MAX) -> int:
        """Write what is new, then note it; return how many rows."""
        count = 0
        for first, rows in self.log.read_rows(decisions_topic(self.app), self.partition, self.offset, limit):
            self.sink.write(rows)
            self.offset, count = first + rows.num_rows, count + rows.num_rows
        if count:
            self.sink.flush()
            group = group_of_sink(self.app, self.name)
            with self.log.transaction(group, self.partition, self.commit) as transaction:
                transaction.put_manifest(str(self.offset).encode())
            self.commit += 1
            self.log.forget_manifests(group, self.partition, self.commit)
        return count

    def run(self, stop: threading.Event) -> None:
        """Write until told to stop, then what is left, and close the sink; what goes wrong becomes `problem`."""
        topic = decisions_topic(self.app)
        try:
            while True:
                stopping = stop.is_set()  # looked at before the step: what was decided until then is written
                if self.step():
                    continue
                if stopping:
                    self.sink.close()
                    return
                self.log.wait({(topic, self.partition): self.offset}, IDLE_WAIT_S)
        except (ValueError, OSError) as error:
            self.problem = f"output {self.name}: {error}; decisions from {self.offset:,} on are in the log only"
            self._abandon()

    def _abandon(self) -> None:
        with contextlib.suppress(ValueError, OSError):  # it is broken: why we give it up is what is told
            self.sink.abandon()


def group_of_sink(app: str, name: str) -> str:
    """Return the name under which a sink's position is kept in the log."""
    return f"{app}.sink.{name}"

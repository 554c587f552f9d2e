"""Removes from the embedded log what its topics keep no longer, as brokers do by themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from connectors.log import Log, LogError
from ops.sink_feed import SinkFeed
from pipeline.live import Worker, decisions_topic
from pipeline.manifest import decode

RETENTION_EVERY_S = 60.0


class Retention:
    """Enforces the retention of an app's topics: `keeps` of `pelton topics list`, by the clock of the last commit.

    What was not decided yet stays, however old it is, and so does what the oldest manifest that is kept tells of: each
    snapshot that a recovery may begin with is newer. What outputs did not get yet stays too.

    Args:
        app: whose topics.
        log: the embedded log.
        workers: of the app, one for each stream that is decided.
        feeds: of the outputs.

    Attributes:
        removed: how many records so far.
        problem: why the last try failed; it is tried again.
    """

    def __init__(self, app: str, log: Log, workers: Iterable[Worker], feeds: Sequence[SinkFeed]) -> None:
        self._log, self._workers, self._feeds = log, [(each.group, each.partition) for each in workers], feeds
        self._decisions = decisions_topic(app)
        self.removed = 0
        self.problem: str | None = None

    def step(self) -> None:
        """Remove what is old; nothing before every worker has committed."""
        try:
            self.removed += self._remove()
            self.problem = None
        except LogError as error:
            self.problem = f"nothing old is removed from the log: {error}"

    def _remove(self) -> int:
        if all(topic.retention_ms is None for topic in self._log.topics()):
            return 0
        keep_from = {(self._decisions, feed.partition): feed.offset for feed in self._feeds}
        times_ms = []
        for group, partition in self._workers:
            manifests = self._log.manifests(group, partition, 0)
            if not manifests:
                return 0
            for topic, (first, _) in decode(manifests[0][1]).inputs.items():
                keep_from[topic, partition] = min(first, keep_from.get((topic, partition), first))
            times_ms.append(decode(manifests[-1][1]).at_ms)
        return self._log.enforce_retention(min(times_ms), keep_from)

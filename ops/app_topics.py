"""Which topics an app needs, and what they must be: what `pelton topics create` makes and `describe` compares with."""

from __future__ import annotations

from dataclasses import dataclass

from connectors.kafka.admin import OWN_BATCH_BYTES_MAX, KafkaTopic
from connectors.kafka.manifests import manifest_topic
from pipeline.app import App
from pipeline.dead_letters import dead_topic
from pipeline.durations import in_words
from pipeline.live import decisions_topic
from pipeline.recovery import history_ms, streams_of
from pipeline.stages import internal_topics, stages_of

DAY_MS = 86_400_000
KEPT_MS = 7 * DAY_MS  # as Kafka does; streams whose windows reach further back are kept longer


@dataclass(frozen=True)
class AppTopic:
    """A topic of an app.

    Attributes:
        topic: as it is made.
        what: what it holds, in a word or two.
        needs_ms: how long it must keep records for the windows to be rebuilt; 0 if none are.
    """

    topic: KafkaTopic
    what: str
    needs_ms: int = 0

    def problems(self, there: KafkaTopic | None) -> list[str]:
        """Say what is wrong with the topic on the cluster, and what to do."""
        if there is None:
            return ["missing: pelton topics create"]
        found = []
        if there.partitions != self.topic.partitions:
            found.append(f"{there.partitions} partitions, the app's other topics have {self.topic.partitions}")
        if self.needs_ms and there.retention_ms is not None and there.retention_ms < self.needs_ms:
            found.append(f"windows need {in_words(whole_days(self.needs_ms))}: raise retention.ms")
        if self.needs_ms and "compact" in there.cleanup:
            found.append("compaction removes events: set cleanup.policy to delete")
        if self.what == "manifests" and (there.retention_ms is not None or there.cleanup != "delete"):
            found.append("manifests must be kept: set cleanup.policy to delete and retention.ms to -1")
        return found


def app_topics(app: App, partitions: int, retention_ms: int | None = None, copies: int | None = None) -> list[AppTopic]:
    """Return the topics of an app: its streams, what is between stages, decisions, dead letters and manifests.

    Args:
        partitions: of each topic: as many workers can share the app.
        retention_ms: of streams; if not given, 7 days, or as long as the windows need. Others are kept for ever.
        copies: how many brokers hold each partition; None for the cluster's default.
    """
    needs: dict[str, int] = {}
    for plan in app.plans.values():
        for name in streams_of(plan):
            needs[name] = max(needs.get(name, 0), history_ms(plan))
    longest_ms = max(needs.values())
    stages = stages_of(app, partitions)

    def made(name: str, what: str, kept_ms: int | None, needs_ms: int = 0) -> AppTopic:
        most = None if what == "stream" else OWN_BATCH_BYTES_MAX
        topic = KafkaTopic(name, partitions, kept_ms, append_time=True, copies=copies, batch_bytes_max=most)
        return AppTopic(topic, what, needs_ms)

    return [
        *(made(name, "stream", retention_ms or kept_for(need), need) for name, need in needs.items()),
        *(made(name, "between stages", kept_for(longest_ms), longest_ms) for name in internal_topics(stages)),
        made(decisions_topic(app.name), "decisions", None),
        made(dead_topic(app.name), "dead letters", None),
        *(made(manifest_topic(stage.group), "manifests", None) for stage in stages),
    ]


def kept_for(needs_ms: int) -> int:
    """Return how long a topic is kept whose windows need so much."""
    return max(KEPT_MS, whole_days(needs_ms) + DAY_MS)


def whole_days(span_ms: int) -> int:
    """Return a span rounded up to whole days, in milliseconds."""
    return -(-span_ms // DAY_MS) * DAY_MS

"""Administration of Kafka: topics, offsets, groups and their lag."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError as ClientError
from kafka.errors import for_code
from kafka.protocol.consumer import IsolationLevel, OffsetSpec

from connectors.kafka.errors import KafkaError, NoTopicError, in_words
from connectors.kafka.knock import knock_now, quiet
from connectors.kafka.settings import KafkaSettings

ANSWER_S_MAX = 10.0
RETRY_S = 0.1
At = tuple[str, int]  # topic and partition
T = TypeVar("T")

_NO_TOPIC = 3
_EXISTS = 36
_MOVING = (5, 6, 14, 15, 16)  # leader or coordinator is being chosen, as for a cluster's first group

# Of topics that only Pelton writes to. A record that fits into its topic may be far larger there, for what producers
# send is compressed: what becomes of it must fit too, or its partition stands still. Requests may have 100 MiB.
OWN_BATCH_BYTES_MAX = 64 << 20


@dataclass(frozen=True)
class KafkaTopic:
    """What a topic is, or shall be.

    Attributes:
        retention_ms: how long records are kept; None for ever.
        cleanup: "delete" what is older, "compact" to the newest record of a key, or "compact,delete".
        append_time: whether the broker stamps records with its own clock.
        copies: how many brokers hold a partition; None for the default of the cluster.
        batch_bytes_max: the largest batch of messages that brokers take; None for their default, 1 MiB.
    """

    name: str
    partitions: int = 1
    retention_ms: int | None = None
    cleanup: str = "delete"
    append_time: bool = False
    copies: int | None = None
    batch_bytes_max: int | None = field(default=None, compare=False)

    @property
    def configs(self) -> dict[str, str]:
        """The topic's settings, as Kafka calls them."""
        kept = -1 if self.retention_ms is None else self.retention_ms
        stamp = "LogAppendTime" if self.append_time else "CreateTime"
        found = {"cleanup.policy": self.cleanup, "retention.ms": str(kept), "message.timestamp.type": stamp}
        return found | ({"max.message.bytes": str(self.batch_bytes_max)} if self.batch_bytes_max else {})


@dataclass(frozen=True)
class Lag:
    """How far a group is in a partition.

    Attributes:
        begin, end: of the partition; `end` is behind its last committed record.
        committed: the next offset the group wants; None if it never committed.
        member: which process reads it, "client@host"; empty if none does.
    """

    topic: str
    partition: int
    begin: int
    end: int
    committed: int | None
    member: str = ""

    @property
    def records(self) -> int:
        """How many offsets wait; the ends of transactions have some too."""
        return max(0, self.end - max(self.begin, self.committed if self.committed is not None else self.begin))


class KafkaAdmin:
    """A connection for administration; threads may share one. Everything raises KafkaError with one sentence.

    Raises:
        BrokerAwayError: no broker answers.
        NotAllowedError: the brokers refuse user, password or certificate.
    """

    def __init__(self, settings: KafkaSettings, answer_s_max: float = ANSWER_S_MAX) -> None:
        quiet()
        knock_now(settings, min(answer_s_max, 5.0))
        self._settings, self._answer_s_max = settings, answer_s_max
        wait_ms = int(answer_s_max * 1000)
        try:
            self._client = KafkaAdminClient(
                **settings.kafka_python(), bootstrap_timeout_ms=wait_ms, request_timeout_ms=wait_ms
            )
        except (ClientError, OSError) as error:
            raise in_words(error, settings, "connect") from None

    def __enter__(self) -> KafkaAdmin:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def names(self) -> list[str]:
        """Return the names of all topics that are not Kafka's own, sorted."""
        found = self._do(lambda: self._client.describe_topics(None), "list topics")
        return sorted(topic["name"] for topic in found if not topic["is_internal"])

    def partitions(self, names: Sequence[str]) -> dict[str, int]:
        """Return how many partitions each topic has; one that is not there is left out.

        Raises:
            NotAllowedError: a topic may not be looked at.
        """
        return {name: len(each) for name, each in self._found(names).items()}

    def describe(self, names: Sequence[str]) -> dict[str, KafkaTopic]:
        """Return what each topic is; one that is not there is left out.

        Raises:
            NotAllowedError: a topic may not be looked at.
        """
        found = self._found(names)
        if not found:
            return {}
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in found]
        configs = self._do(
            lambda: self._client.describe_configs(resources, config_filter="all"), "look at the settings of topics"
        ).get("topic", {})
        return {name: _topic(name, each, configs.get(name, {})) for name, each in found.items()}

    def create(self, topics: Iterable[KafkaTopic]) -> list[str]:
        """Make the topics that are not there; return their names.

        Raises:
            KafkaError: one that is there has another number of partitions.
        """
        wanted = {topic.name: topic for topic in topics}
        there = self.describe(list(wanted))
        for name, topic in there.items():
            check_partitions(topic, wanted[name].partitions)
        new = {name: topic for name, topic in wanted.items() if name not in there}
        if not new:
            return []
        asked = {
            topic.name: {
                "num_partitions": topic.partitions,
                "replication_factor": topic.copies or -1,
                "configs": topic.configs,
            }
            for topic in new.values()
        }
        answer = self._do(lambda: self._client.create_topics(asked, raise_errors=False), "make topics")
        made = []
        for topic in answer["topics"]:
            self._check(topic["error_code"], f"make topic {topic['name']!r}", topic["error_message"], but=_EXISTS)
            if not topic["error_code"]:
                made.append(topic["name"])
        self._do(lambda: self._client.wait_for_topics(list(new)), "wait until the new topics are ready")
        for name, topic in self.describe([name for name in new if name not in made]).items():  # made by somebody else
            check_partitions(topic, wanted[name].partitions)
        return made

    def delete(self, names: Sequence[str]) -> None:
        """Remove topics with all their records."""
        if not names:
            return
        self._do(lambda: self._client.delete_topics(list(names)), f"delete topics {', '.join(names)}")
        self._wait_until(lambda: not self.partitions(names))

    def keep(self, name: str, retention_ms: int | None) -> None:
        """Change how long a topic keeps records; None for ever."""
        kept = {"retention.ms": str(-1 if retention_ms is None else retention_ms)}
        resource = ConfigResource(ConfigResourceType.TOPIC, name, kept)
        self._do(lambda: self._client.alter_configs([resource]), f"change how long topic {name!r} keeps records")

    def add_partitions(self, name: str, partitions: int) -> None:
        """Give a topic more partitions; keys move to other ones, so an app on it must start anew."""
        self._do(lambda: self._client.create_partitions({name: partitions}), f"add partitions to topic {name!r}")
        self._wait_until(lambda: self.partitions([name]).get(name, 0) >= partitions)

    def begins(self, names: Sequence[str]) -> dict[At, int]:
        """Return the oldest offset of every partition."""
        return self._offsets(names, OffsetSpec.EARLIEST)

    def ends(self, names: Sequence[str]) -> dict[At, int]:
        """Return, for every partition, the offset behind its last committed record."""
        return self._offsets(names, OffsetSpec.LATEST)

    def since(self, names: Sequence[str], time_ms: int) -> dict[At, int]:
        """Return, for every partition, the first offset whose timestamp is `time_ms` or later; the end if none is."""
        found, ends = self._offsets(names, time_ms), self.ends(names)
        return {at: offset if offset >= 0 else ends[at] for at, offset in found.items()}

    def delete_before(self, offsets: Mapping[At, int]) -> None:
        """Remove the records before these offsets, for good."""
        asked = {TopicPartition(*at): offset for at, offset in offsets.items()}
        if asked:
            names = ", ".join(sorted({name for name, _ in offsets}))
            self._do(lambda: self._client.delete_records(asked), f"delete records of {names}")

    def committed(self, group: str) -> dict[At, int]:
        """Return the offsets that a group committed; empty if there is no such group."""
        found = self._do(lambda: self._client.list_group_offsets([group]), f"read the offsets of group {group!r}")
        return {(at.topic, at.partition): each.offset for at, each in found.get(group, {}).items() if each.offset >= 0}

    def members(self, group: str) -> dict[At, str]:
        """Return which member of a group reads which partition, as "client@host"."""
        return self._members([group])

    def readers(self, prefix: str) -> dict[At, str]:
        """Return who reads which partition, in all groups called so, or so with more behind a dot."""
        groups = self._do(lambda: self._client.list_groups(), "list groups")
        names = [each["group_id"] for each in groups]
        return self._members([name for name in names if name == prefix or name.startswith(f"{prefix}.")])

    def _members(self, groups: list[str]) -> dict[At, str]:
        if not groups:
            return {}
        found = self._do(lambda: self._client.describe_groups(groups), f"look at groups {', '.join(groups)}")
        reads: dict[At, str] = {}
        for member in (each for group in found.values() for each in group["members"]):
            assigned = member.get("member_assignment") or {}
            for topic in assigned.get("assigned_partitions", []) if isinstance(assigned, dict) else []:
                for partition in topic["partitions"]:
                    reads[topic["topic"], partition] = f"{member['client_id']}@{member['client_host'].lstrip('/')}"
        return reads

    def lag(self, group: str, names: Sequence[str], members_of: str | None = None) -> list[Lag]:
        """Return how far a group is in each partition of these topics.

        Args:
            group: whose offsets count.
            members_of: the group in which partitions are handed out, if it is another.
        """
        begins, ends, committed = self.begins(names), self.ends(names), self.committed(group)
        members = self.members(members_of or group)
        return [
            Lag(*at, begins[at], ends[at], committed.get(at), members.get(at, "")) for at in sorted(ends)
        ]  # fmt: skip

    def _found(self, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """Return the partitions of the topics that are there."""
        if not names:
            return {}
        found = self._do(lambda: self._client.describe_topics(list(names)), "look at topics")
        for topic in found:
            self._check(topic["error_code"], f"look at topic {topic['name']!r}", but=_NO_TOPIC)
        return {topic["name"]: topic["partitions"] for topic in found if not topic["error_code"]}

    def _offsets(self, names: Sequence[str], spec: Any) -> dict[At, int]:
        counts = self.partitions(names)
        for name in names:
            if name not in counts:
                raise NoTopicError(
                    f"there is no topic {name!r} on Kafka at {self._settings.where}; "
                    f"make it: pelton topics create APP --kafka BROKERS"
                )
        asked = {TopicPartition(name, each): spec for name, count in counts.items() for each in range(count)}
        found = self._do(
            lambda: self._client.list_partition_offsets(asked, IsolationLevel.READ_COMMITTED),
            f"read the offsets of {', '.join(names)}",
        )
        return {(at.topic, at.partition): each.offset for at, each in found.items()}

    def _check(self, code: int, doing: str, said: str | None = None, but: int = 0) -> None:
        if code and code != but:
            raise in_words(for_code(code)(*([said] if said else [])), self._settings, doing)

    def _wait_until(self, done: Callable[[], bool]) -> None:
        """Wait until the brokers have heard of a change; a while at most: it is made already."""
        until_s = time.monotonic() + self._answer_s_max
        while not done() and time.monotonic() < until_s:
            time.sleep(RETRY_S)

    def _do(self, work: Callable[[], T], doing: str) -> T:
        until_s = time.monotonic() + self._answer_s_max
        while True:
            try:
                return work()
            except (ClientError, OSError) as error:
                if getattr(error, "errno", None) not in _MOVING or time.monotonic() > until_s:
                    raise in_words(error, self._settings, doing) from None
            time.sleep(RETRY_S)


def check_partitions(topic: KafkaTopic, partitions: int) -> None:
    """Refuse a topic with another number of partitions than is asked for: keys would move away from their state."""
    if topic.partitions != partitions:
        raise KafkaError(
            f"topic {topic.name!r} has {topic.partitions} partitions, not {partitions}; "
            f"ask for {topic.partitions}, or use another topic name: keys would move away from their state"
        )


def _topic(name: str, partitions: Sequence[Mapping[str, Any]], configs: Mapping[str, Mapping[str, Any]]) -> KafkaTopic:
    def setting(key: str, otherwise: str) -> str:
        return str(configs.get(key, {}).get("value") or otherwise)

    kept_ms = int(setting("retention.ms", "-1"))
    return KafkaTopic(
        name,
        len(partitions),
        kept_ms if kept_ms >= 0 and "delete" in setting("cleanup.policy", "delete") else None,
        setting("cleanup.policy", "delete"),
        setting("message.timestamp.type", "CreateTime") == "LogAppendTime",
        min((len(each["replica_nodes"]) for each in partitions), default=None),
    )

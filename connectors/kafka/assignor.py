"""Who gets which partitions: those of one number stay together, and move as little as possible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata


class Held(msgspec.Struct, frozen=True):
    """What a member says when it joins: the partition numbers it had, and in which round of assignment it got them."""

    round: int = 0
    partitions: tuple[int, ...] = ()


def shared_out(partitions: int, members: Mapping[str, Held]) -> dict[str, list[int]]:
    """Share partition numbers out: evenly to one, and everyone keeps what they had as far as that allows.

    Args:
        partitions: how many there are.
        members: member -> what it had. Who got a number in a later round has it; of equals, the first by name.

    Returns:
        member -> its numbers, rising.

    >>> shared_out(5, {"new": Held(), "old": Held(1, (0, 1, 2, 3, 4))})
    {'old': [0, 1, 2], 'new': [3, 4]}
    """
    owner: dict[int, tuple[int, str]] = {}
    for name in sorted(members, reverse=True):
        for number in members[name].partitions:
            if number < partitions and owner.get(number, (-1, ""))[0] <= members[name].round:
                owner[number] = (members[name].round, name)
    kept = {name: sorted(number for number, (_, by) in owner.items() if by == name) for name in members}
    order = sorted(members, key=lambda name: (-len(kept[name]), name))
    least, more = divmod(partitions, max(len(order), 1))
    quota = {name: least + (place < more) for place, name in enumerate(order)}
    shares = {name: kept[name][: quota[name]] for name in order}
    taken = {number for share in shares.values() for number in share}
    free = [number for number in range(partitions) if number not in taken]
    for name in order:
        room = quota[name] - len(shares[name])
        shares[name] = sorted(shares[name] + free[:room])
        free = free[room:]
    return shares


class TogetherAssignor(AbstractPartitionAssignor):
    """Gives the same partition number of all topics to the same member.

    A topic that a member did not subscribe to is not read in its numbers: a worker of an older version of an app never
    leaves half of a partition to another one.
    """

    name = "pelton-together"
    version = 0

    def __init__(self) -> None:
        self._held = Held()

    def assign(
        self, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Share the topics of all members out; called at the leader of the group."""
        topics = sorted({topic for metadata in members.values() for topic in metadata.subscription})
        counts = {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in topics}
        held = {name: _held(metadata.user_data) for name, metadata in members.items()}
        shares = shared_out(max(counts.values(), default=0), held)
        said = msgspec.json.encode(Held(max((each.round for each in held.values()), default=0) + 1))
        assigned = {}
        for name, share in shares.items():
            mine = sorted(set(members[name].subscription))
            numbers = [(topic, [number for number in share if number < counts[topic]]) for topic in mine]
            assigned[name] = ConsumerProtocolMemberAssignment(self.version, numbers, said)
        return assigned

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """Say what this member wants and has."""
        return ConsumerProtocolMemberMetadata(self.version, list(topics), msgspec.json.encode(self._held))

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """Remember what this member got."""
        numbers = sorted({number for _, numbers in assignment.assignment for number in numbers})
        self._held = Held(_held(assignment.user_data).round, tuple(numbers))


# Made once, here: msgspec crashes if two threads meet a type for the first time at once.
_DECODER = msgspec.json.Decoder(Held)


def _held(said: bytes | None) -> Held:
    try:
        return _DECODER.decode(said or b"{}")
    except msgspec.DecodeError:  # of another kind of member: it had nothing
        return Held()

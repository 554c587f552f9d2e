from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata

from connectors.kafka.assignor import Held, TogetherAssignor, shared_out


class Cluster:
    """Two topics of four partitions, and one of two."""

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return {"payments": {0, 1, 2, 3}, "frauds": {0, 1, 2, 3}, "small": {0, 1}}.get(topic)


def test_a_first_member_gets_everything():
    assert shared_out(3, {"a": Held()}) == {"a": [0, 1, 2]}


def test_a_second_member_takes_no_more_than_its_half():
    assert shared_out(4, {"a": Held(1, (0, 1, 2, 3)), "b": Held()}) == {"a": [0, 1], "b": [2, 3]}


def test_who_stays_keeps_what_it_has_when_another_leaves():
    shares = shared_out(5, {"b": Held(4, (1, 3)), "c": Held(4, (0,))})
    assert {1, 3} <= set(shares["b"])
    assert 0 in shares["c"]
    assert sorted(shares["b"] + shares["c"]) == [0, 1, 2, 3, 4]


def test_of_two_who_claim_a_partition_the_later_owner_keeps_it():
    assert shared_out(2, {"slow": Held(3, (0, 1)), "new": Held(5, (1,))}) == {"slow": [0], "new": [1]}


def test_more_members_than_partitions_leave_some_with_nothing():
    assert shared_out(1, {"a": Held(), "b": Held(2, (0,))}) == {"b": [0], "a": []}


def test_the_same_number_of_all_topics_goes_to_one_member():
    leader, other = TogetherAssignor(), TogetherAssignor()
    topics = ["payments", "frauds", "small"]
    assigned = leader.assign(Cluster(), {"a": leader.metadata(topics), "b": other.metadata(topics)})
    assert assigned["a"].assignment == [("frauds", [0, 1]), ("payments", [0, 1]), ("small", [0, 1])]
    assert assigned["b"].assignment == [("frauds", [2, 3]), ("payments", [2, 3]), ("small", [])]


def test_what_was_assigned_is_claimed_when_joining_again():
    leader, member = TogetherAssignor(), TogetherAssignor()
    member.on_assignment(leader.assign(Cluster(), {"a": member.metadata(["payments"])})["a"])
    again = leader.assign(Cluster(), {"0": leader.metadata(["payments"]), "a": member.metadata(["payments"])})
    assert again["a"].assignment == [("payments", [0, 1])]


def test_a_topic_that_the_owner_does_not_know_is_not_read_by_another():
    assignor = TogetherAssignor()
    both, one = assignor.metadata(["payments", "frauds"]), assignor.metadata(["payments"])
    assigned = assignor.assign(Cluster(), {"new": both, "old": one})
    assert assigned["new"].assignment == [("frauds", [0, 1]), ("payments", [0, 1])]
    assert assigned["old"].assignment == [("payments", [2, 3])]


def test_a_member_of_another_kind_had_nothing():
    assignor = TogetherAssignor()
    strange = ConsumerProtocolMemberMetadata(0, ["payments"], b"\x00\x01")
    assert assignor.assign(Cluster(), {"x": strange})["x"].assignment == [("payments", [0, 1, 2, 3])]

import pytest

from models.features import FeatureSpec
from models.moe.settings import MoESettings
from models.moe.tokens import plan_tokens


def numbers(*groups: str) -> list[FeatureSpec]:
    return [FeatureSpec(f"f{i}", group=group) for i, group in enumerate(groups)]


def sequence(channel: str, *steps: int, kind: str = "number") -> list[FeatureSpec]:
    return [FeatureSpec(f"{channel}_{k}", kind, channel, k) for k in steps]


def test_one_token_per_group_in_order_of_appearance():
    plan = plan_tokens(numbers("card", "payment", "card"), MoESettings())
    assert plan.groups == ((0, 2), (1,))
    assert plan.tokens == 3  # the summary token comes first


def test_too_many_groups_merge_the_smallest_neighbours():
    # sizes      a 1  b 3  c 1  d 1: c and d are the smallest pair of neighbours
    specs = numbers("a", "b", "b", "b", "c", "d")
    assert plan_tokens(specs, MoESettings(tokens_max=4, sequence_tokens_max=1)).groups == ((0,), (1, 2, 3), (4, 5))


@pytest.mark.parametrize("groups", [1, 5, 20, 100])
@pytest.mark.parametrize("steps", [0, 1, 3, 16, 40])
def test_there_are_never_more_tokens_than_allowed_and_every_column_is_in_one(groups, steps):
    specs = numbers(*(str(i) for i in range(groups))) + sequence("amount", *range(1, steps + 1))
    plan = plan_tokens(specs, MoESettings(tokens_max=10))
    assert plan.tokens <= 10
    assert sorted(column for group in plan.groups for column in group) == list(range(groups))
    assert plan.sequence_tokens * plan.steps_per_token >= steps


def test_neighbouring_steps_share_a_token_and_missing_steps_are_left_open():
    specs = sequence("amount", 1, 2, 3, 4, 5) + sequence("place", 2, kind="category")
    plan = plan_tokens(specs, MoESettings(sequence_tokens_max=3))
    assert (plan.sequence_tokens, plan.steps_per_token) == (3, 2)
    assert plan.channels[0].columns == (0, 1, 2, 3, 4)
    assert plan.channels[1].columns == (None, 5, None, None, None)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([], "no feature columns; give the task at least one"),
        ([FeatureSpec("a", "text")], r"column 0 \('a'\) is a 'text'; use number or category"),
        ([FeatureSpec("a", step=-1)], r"column 0 \('a'\) has step -1"),
        (sequence("a", 1, 1), "'a_1' and 'a_1' are both step 1 of sequence 'a'"),
    ],
)
def test_unusable_columns_are_named(specs, message):
    with pytest.raises(ValueError, match=message):
        plan_tokens(specs, MoESettings())


def test_a_sequence_without_room_for_it_is_refused():
    with pytest.raises(ValueError, match="column 'a' describes earlier events, and sequence_tokens_max is 0"):
        plan_tokens(sequence("a", 1), MoESettings(sequence_tokens_max=0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 100, "heads": 3}, "width 100 is not divisible by heads 3"),
        ({"chosen": 17}, "chosen is 17; choose between 1 and 16"),
        ({"tokens_max": 17}, "tokens_max is 17; choose between 3 and 16"),
        ({"tokens_max": 4}, "sequence_tokens_max is 4, which leaves no token for the event itself"),
        ({"experts": 0}, "experts is 0; choose a number above zero"),
        ({"dropout": 1.0}, "dropout is 1.0; choose a share below 1"),
    ],
)
def test_settings_that_cannot_work_say_what_to_choose(wrong, message):
    with pytest.raises(ValueError, match=message):
        MoESettings(**wrong)

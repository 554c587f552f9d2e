"""Copies made while batches go on are of the moment when they began, to the bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import window_state as ws
from pipeline.admission import Admission
from pipeline.copies import GroupCopy, TableCopy, restored_group, restored_table
from pipeline.engine import Engine
from tests.pipeline.made_up import (
    Shape,
    commits_of,
    features_of,
    made_up_features,
    made_up_records,
    plan_of,
    same_bits,
    world_of,
)

seeds = st.integers(0, 1_000_000)
shapes = st.builds(
    Shape,
    seed=seeds,
    events=st.integers(1, 300),
    step_ms=st.sampled_from((0, 20, 400)),
    lateness_ms=st.sampled_from((0, 100, 3_000)),
    late=st.sampled_from((0.0, 0.3)),
    copies=st.sampled_from((0.0, 0.3)),
    keys=st.sampled_from((1, 3, 40)),
    redriven=st.sampled_from((0.0, 0.1)),
)
labels = st.sampled_from((None, "40ms", "2s"))
steps = st.tuples(st.sampled_from((0, 1, 3)), st.sampled_from((1, 20, 3_000)))  # between batches, and how far each


def whole(copy):
    """Complete a copy, and return its arrays."""
    while not copy.step():
        pass
    copy.end()
    return {name: np.concatenate(pieces) for name, pieces in copy.arrays().items()}


def go_on(engine, commits, copy, how):
    """Process commits, and copy a little after each."""
    found = []
    for each in commits:
        found.append(features_of(engine, [each])[1])
        for _ in range(how[0]):
            copy.step(how[1])
    return found


@settings(max_examples=30)
@given(seeds, shapes, labels, st.sampled_from((2, 16_384)), st.tuples(st.floats(0, 1), st.floats(0, 1)), steps)
def test_a_copy_made_between_batches_is_of_the_moment_it_began(seed, shape, known_after, cap, where, how):
    world = world_of(shape.lateness_ms, known_after)
    plan = plan_of(world, made_up_features(seed, world, 8), cap)
    commits = commits_of(plan, made_up_records(shape), 7)
    _, undisturbed = features_of(Engine(plan), commits)
    first, second = sorted(int(share * len(commits)) for share in where)
    engine = Engine(plan)
    _, before = features_of(engine, commits[:first])
    copy = engine.copy()
    assert copy.onto == []
    found = go_on(engine, commits[first:second], copy, how)
    base = whole(copy)
    copy.keep()
    changes = engine.copy(whole=False)
    found += go_on(engine, commits[second:], changes, how)
    layer = whole(changes)
    assert same_bits(np.concatenate([before, *found]), undisturbed)  # copying changes nothing
    for layers, since in (([base], first), ([layer, base], second)):
        for _ in range(2):
            restored = Engine(plan)
            restored.restore(*layers)
            _, again = features_of(restored, commits[since:])
            assert same_bits(again, undisturbed[len(undisturbed) - len(again) :])
    assert set(changes.onto) <= set(layer)


def test_only_keys_that_changed_are_in_the_next_copy():
    world = world_of(0)
    plan = plan_of(world, {"n": world.payments.by("card").last("90d").count()})
    commits = commits_of(plan, made_up_records(Shape(5, 2_000, 20, 0, keys=200)), 10)
    engine = Engine(plan)
    features_of(engine, commits[:-1])
    copy = engine.copy()
    base = whole(copy)
    copy.keep()
    features_of(engine, commits[-1:])
    ((keys, changed),) = [(len(base[name]), len(whole(engine.copy(whole=False))[name])) for name in base
                          if "card.0@" in name and name.endswith("/keys")]  # fmt: skip
    assert keys > 150
    assert 0 < changed <= 10


def filled_group(seed=3):
    """Return a group of windows with a few hundred keys."""
    world = world_of(100)
    plan = plan_of(world, made_up_features(seed, world, 12))
    engine = Engine(plan)
    features_of(engine, commits_of(plan, made_up_records(Shape(seed, 1_500, 3, 100, keys=300)), 50))
    return max(engine.groups, key=lambda group: group.statistics()["rows"])


@pytest.mark.parametrize("piece_bytes", [1, 500, 20_000])
def test_pieces_of_any_size_hold_the_same_keys(piece_bytes):
    group, none = filled_group(), np.zeros(0, np.uint64)
    held = []
    for size in (piece_bytes, 1 << 22):
        copy = GroupCopy(lambda: group.state, tuple(group.plan), none, held.append, lambda: None, size)
        copy.before(group.state.slot_key[5:25].copy())
        arrays = whole(copy)
        width = group.state.pool.shape[1]
        state = restored_group(tuple(group.plan), [arrays], group.state.meta.shape[1], width, 16)
        held.append((arrays, state.ctl[ws.KEYS_LIVE], state.ctl[ws.ROWS_LIVE]))
    (small, *counts), (large, *expected) = held
    assert counts == expected == [group.state.ctl[ws.KEYS_LIVE], group.state.ctl[ws.ROWS_LIVE]]
    for name in ("keys", "meta", "rows"):
        np.testing.assert_array_equal(small[name], large[name])


@pytest.mark.parametrize("piece_bytes", [1, 100, 1 << 22])
def test_ids_seen_while_they_are_copied_are_no_part_of_the_copy(piece_bytes):
    draw = np.random.default_rng(9)
    ids = draw.integers(1, 1 << 63, 6_000).astype(np.uint64)
    ids[3_000:] = (ids[3_000:] & np.uint64(~0xFFF & (2**64 - 1))) | np.uint64(7)  # the newcomers crowd one place
    admission = Admission(1_000_000, 0)
    times = np.arange(6_000)
    admission.judge(times[:3_000], ids[:3_000], None, None)
    copy = TableCopy(admission._ids, admission._times.reshape(-1, 1), admission._ctl, lambda: None, piece_bytes)
    for first in range(3_000, 6_000, 100):
        copy.before(ids[first : first + 100])
        admission.judge(times[first : first + 100], ids[first : first + 100], None, None)
        copy.step(100)
    table, rows, ctl = restored_table(whole(copy), 1)
    assert sorted(table[table != 0]) == sorted(ids[:3_000])
    assert dict(zip(table.tolist(), rows[:, 0].tolist(), strict=True)) == {
        0: 0, **dict(zip(ids[:3_000].tolist(), range(3_000), strict=True))
    }  # fmt: skip
    assert ctl[0] == 2_999


@pytest.mark.parametrize("name", ["keys", "meta", "rows"])
def test_arrays_that_do_not_fit_each_other_are_refused(name):
    group = filled_group()
    saved = group.save()
    saved[name] = saved[name][:-1]
    with pytest.raises(ValueError, match="arrays do not fit each other"):
        group.restore(saved)


def test_a_snapshot_of_other_features_is_refused():
    world = world_of(100)
    payments = world.payments.by("card").last("1s")
    one, other = (Engine(plan_of(world, features)) for features in (
        {"n": payments.count()}, {"n": payments.count(), "mean": payments.mean("amount")}))  # fmt: skip
    with pytest.raises(ValueError, match="belongs to other streams or features"):
        other.restore(one.save())
    with pytest.raises(ValueError, match="has no array 'ctl'"):
        one.restore({name: array for name, array in one.save().items() if not name.endswith("/ctl")})

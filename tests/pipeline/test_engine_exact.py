"""The engine's features are those of the oracle, and do not depend on commits, restarts, starting points or sweeps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import windows
from pipeline.engine import Engine
from pipeline.groups import Group
from pipeline.plan import StreamPlan
from pipeline.verify import verify
from tests.pipeline.made_up import (
    Shape,
    commits_of,
    every_feature,
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
    events=st.integers(1, 120),
    step_ms=st.sampled_from((0, 3, 20, 400)),
    lateness_ms=st.sampled_from((0, 5, 100, 3_000)),
    late=st.sampled_from((0.0, 0.2, 0.9)),
    copies=st.sampled_from((0.0, 0.1, 0.5)),
    keys=st.sampled_from((1, 3, 40)),
    jumps=st.sampled_from((0.0, 0.02)),
    redriven=st.sampled_from((0.0, 0.1)),
)
caps = st.sampled_from((1, 2, 5, 16_384))
labels = st.sampled_from((None, "0ms", "40ms", "2s"))  # a stream of their own, or known that long after their event


def made_up_plan(
    seed: int, shape: Shape, known_after: str | None, cap: int = 16_384, **options: tuple[str, ...]
) -> StreamPlan:
    world = world_of(shape.lateness_ms, known_after)
    return plan_of(world, made_up_features(seed, world, 12, **options), cap)


def check(plan: StreamPlan, shape: Shape, size: int) -> int:
    engine = Engine(plan)
    commits = commits_of(plan, made_up_records(shape), size)
    found = verify(plan, ((chunks, engine.process(chunks)) for chunks in commits), sample=10_000)
    assert found.holds, "\n".join(map(str, found.first))
    assert found.values_skipped == 0
    return found.values_checked


@settings(max_examples=60)
@given(seeds, shapes, labels, caps, st.sampled_from((1, 7, 1_000)))
def test_features_are_those_of_the_oracle(seed, shape, known_after, cap, size):
    check(made_up_plan(seed, shape, known_after, cap), shape, size)


@pytest.mark.parametrize("delay", [None, "7ms"])
@pytest.mark.parametrize("span", ["1ms", "50ms", "2s", "90d"])
def test_every_aggregate_is_that_of_the_oracle(span, delay):
    world = world_of(100)
    for cap in (3, 16_384):
        plan = plan_of(world, every_feature(world, span, delay), cap)
        for late in (0.0, 0.3):
            assert check(plan, Shape(seed=cap, events=150, step_ms=20, lateness_ms=100, late=late), 50) > 1_000


@settings(max_examples=20)
@given(seeds, shapes, labels, caps)
def test_commits_of_any_size_give_the_same_bits(seed, shape, known_after, cap):
    plan, records = made_up_plan(seed, shape, known_after, cap), made_up_records(shape)
    offsets, whole = features_of(Engine(plan), commits_of(plan, records, 1_000_000))
    for size in (1, 7, 1_000):
        again, parts = features_of(Engine(plan), commits_of(plan, records, size))
        assert again.tolist() == offsets.tolist()
        assert same_bits(parts, whole), f"commits of {size}"


@settings(max_examples=20)
@given(seeds, shapes, labels, caps, st.integers(0, 30))
def test_a_restored_engine_goes_on_with_the_same_bits(seed, shape, known_after, cap, stop):
    plan = made_up_plan(seed, shape, known_after, cap)
    commits = commits_of(plan, made_up_records(shape), 7)
    _, whole = features_of(Engine(plan), commits)
    engine = Engine(plan)
    _, before = features_of(engine, commits[:stop])
    saved = engine.save()
    for array in saved.values():
        array.flags.writeable = False  # as from a mapped file
    features_of(engine, commits[stop:])  # what was saved must not change with it
    for _ in range(2):
        restored = Engine(plan)
        restored.restore(saved)
        _, after = features_of(restored, commits[stop:])
        assert same_bits(np.concatenate([before, after]), whole)


@settings(max_examples=20)
@given(seeds, shapes, labels, caps, st.integers(0, 119))
def test_a_later_start_gives_the_same_bits_a_span_a_delay_and_a_lateness_on(seed, shape, known_after, cap, start):
    shape = Shape(**{**vars(shape), "natural": True, "redriven": 0.0, "events": 120})
    plan = made_up_plan(seed, shape, known_after, cap, spans=("1ms", "7ms", "50ms", "100ms"))
    records = made_up_records(shape)
    start_ms = records["payments"][start]["ts"]
    look_back = {group.level: 0 for group in plan.groups}
    for group in plan.groups:
        look_back[group.level] = max(look_back[group.level], group.retention_ms)
    offsets, whole = features_of(Engine(plan), commits_of(plan, records, 50))
    later, parts = features_of(Engine(plan), commits_of(plan, records, 50, start_ms))
    from_ms = start_ms + shape.lateness_ms + sum(look_back.values())
    same = [offset for offset in offsets.tolist() if records["payments"][offset]["ts"] >= from_ms]
    assert set(same) <= set(later.tolist())
    assert same_bits(parts[np.isin(later, same)], whole[np.isin(offsets, same)])


class NeverSweeping(Group):
    """Frees no key."""

    def _sweep(self, floor_ms: int, operations: int) -> None:
        """Do nothing."""


class AlwaysSweeping(Group):
    """Frees every key it can, after every commit."""

    def _sweep(self, floor_ms: int, operations: int) -> None:
        windows.sweep(tuple(self.state), self._plan, floor_ms, 1 << 30)


@settings(max_examples=20)
@given(seeds, shapes, labels, caps)
def test_freeing_keys_early_or_never_changes_no_bit(seed, shape, known_after, cap):
    plan = made_up_plan(seed, shape, known_after, cap)
    commits = commits_of(plan, made_up_records(shape), 3)
    _, usual = features_of(Engine(plan), commits)
    for kind in (NeverSweeping, AlwaysSweeping):
        engine = Engine(plan)
        engine.groups = [kind(group.kernel, group.meta_columns) for group in plan.groups]
        _, found = features_of(engine, commits)
        assert same_bits(found, usual)


def test_idle_keys_are_freed():
    world = world_of(0)
    plan = plan_of(world, {"n": world.payments.by("card").last("50ms").count()})
    engine = Engine(plan)
    features_of(engine, commits_of(plan, made_up_records(Shape(1, 4_000, 200, 0, keys=2_000)), 100))
    assert engine.groups[0].statistics()["keys_freed"] > 500
    assert engine.groups[0].statistics()["keys"] < 300

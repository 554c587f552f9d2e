"""What goes next to the models: by level, by deadline, nobody starves, every row once. The clock is an argument."""

import heapq

import numpy as np
import pytest

from models.portion import Portion
from models.waiting import BUCKET_ROWS_AT_FIRST, BUCKET_ROWS_MAX, PATIENCE_S, Waiting

LEVELS = {"support": 0, "defect": 1, "risk": 2}
FOREVER_S = 1e9


def waiting(threads=2, **more):
    return Waiting(LEVELS, threads, **more)


def add(made, lane, count=1, at_s=0.0, within_s=0.0, model="m"):
    return made.add(lane, model, "score", count, at_s + within_s, at_s)


def rows_of(bucket):
    return [(each.item, each.first, each.end) for each in bucket.slices]


def learned(made, lane, rows, seconds):
    """Let a lane know what rows take."""
    add(made, lane, rows)
    made.ended(made.next(0.0), seconds)


def test_the_highest_level_goes_first_whoever_came_first():
    made = waiting(threads=1)
    for lane in ("support", "defect", "risk"):
        add(made, lane)
    order = []
    for _ in LEVELS:
        bucket = made.next(0.0)
        order.append(bucket.lane.name)
        made.ended(bucket, 0.001)
    assert order == ["risk", "defect", "support"]
    assert made.next(0.0) is None


def test_within_a_level_the_earliest_deadline_goes_first_then_who_came_first():
    made = Waiting({"a": 1, "b": 1}, threads=9)
    late, first, second = (
        add(made, "a", 4, within_s=0.3),
        add(made, "b", 4, within_s=0.2),
        add(made, "a", 4, within_s=0.2),
    )
    assert [made.next(0.0).slices[0].item for _ in range(3)] == [first, second, late]  # each fills a bucket


def test_a_bucket_closes_when_it_is_full_or_its_earliest_deadline_leaves_just_the_time():
    # time      0 . . . . . . 18 . 20     a row takes 1 ms; the first caller wants 2 rows by 20 ms
    # closes                  *           and begins at 18 ms; with two more rows the bucket of 4 is full at once
    made = waiting()
    learned(made, "risk", 4, 0.004)
    made.lanes["risk"].pace("score").portion = Portion(1.0, 4, 4)
    add(made, "risk", 2, within_s=0.020)
    assert made.next(0.0179) is None
    assert made.look_again_s(0.0) == pytest.approx(0.018)
    assert made.next(0.0181).rows == 2
    add(made, "risk", 2, within_s=0.020)
    assert made.next(0.0) is None
    add(made, "risk", 2, within_s=0.5)
    assert made.next(0.0).rows == 4


def test_rows_whose_deadline_is_now_wait_for_nobody_and_take_along_who_is_there():
    made = waiting()
    patient, hurried = add(made, "risk", 1, within_s=5.0), add(made, "risk", 1)
    assert rows_of(made.next(0.0)) == [(hurried, 0, 1), (patient, 0, 1)]


def test_rows_of_different_models_share_no_bucket():
    made = waiting()
    old, new, again = add(made, "risk", model="old"), add(made, "risk", model="new"), add(made, "risk", model="old")
    assert rows_of(made.next(0.0)) == [(old, 0, 1), (again, 0, 1)]
    assert rows_of(made.next(0.0)) == [(new, 0, 1)]


def test_while_somebody_works_at_a_higher_level_nothing_lower_begins():
    made = waiting()
    add(made, "support")
    made.claim(2)
    made.claim(2)
    assert made.next(0.5) is None
    made.release(2)
    assert made.next(0.5) is None
    made.release(2)
    assert made.next(0.5).lane.name == "support"


def test_one_thread_is_left_to_the_highest_level():
    made = waiting(threads=2)
    add(made, "support", 100)
    add(made, "defect", 100)
    running = made.next(0.0)
    assert running.lane.name == "defect"
    assert made.next(0.0) is None
    add(made, "risk")
    assert made.next(0.0).lane.name == "risk"


def test_who_waits_for_results_helps_with_nothing_less_urgent():
    made = waiting()
    add(made, "support")
    assert made.next(0.0, level_min=2) is None
    assert made.next(0.0, level_min=0) is not None


def test_a_full_lane_has_no_room_until_rows_left_it():
    made = waiting(rows_max=10)
    assert made.has_room("support", 1_000)  # alone: or it could never come
    add(made, "support", 8)
    assert made.has_room("support", 2)
    assert not made.has_room("support", 3)
    assert made.has_room("risk", 3)
    made.next(0.0)
    assert made.has_room("support", 3)


def test_buckets_grow_while_there_is_time_and_shrink_when_a_bucket_took_too_long():
    portion = Portion(seconds_max=0.005, rows_max=64, rows=4)
    sizes = []
    for row_s in [0.0001] * 6 + [0.002] * 3 + [1.0] * 2:
        portion.took(portion.rows, portion.rows * row_s)
        sizes.append(portion.rows)
    assert sizes == [8, 16, 32, 32, 32, 32, 2, 2, 2, 1, 1]
    portion.took(1, 0.0)
    portion.took(1, 0.0)  # fewer than a portion: says nothing about one
    assert portion.rows == 2
    with pytest.raises(ValueError, match=r"a portion of 4 to 2 rows in 1 s"):
        Portion(1, 2, 4)


@pytest.mark.parametrize("seed", range(40))
def test_every_row_goes_once_in_order_by_the_rules_and_nobody_starves(seed):
    """Random arrivals, threads, and models of all speeds, simulated; the load is up to twice what can be done."""
    random = np.random.default_rng(seed)
    threads, row_s = int(random.integers(1, 4)), dict(zip(LEVELS, 10 ** random.uniform(-4.5, -2, 3), strict=True))
    made = waiting(threads)
    arrivals = _arrivals(random, row_s)
    items, running, seen, longest_s = [], [], [], max(row_s.values()) * BUCKET_ROWS_AT_FIRST + 0.05
    now_s = 0.0
    while arrivals or running or any(lane.items for lane in made.lanes.values()):
        while arrivals and arrivals[0][0] <= now_s:
            at_s, lane, count, within_s, model = arrivals.pop(0)
            items.append(add(made, lane, count, at_s, within_s, model))
        while running and running[0][0] <= now_s:
            _, _, bucket, seconds = heapq.heappop(running)
            for item in made.ended(bucket, seconds):
                assert item.begun == item.count
        waited = {name: now_s - lane.since_s if lane.items else 0.0 for name, lane in made.lanes.items()}
        closed = {name for name, lane in made.lanes.items() if lane.items and lane.closes_s() <= now_s}
        sizes = {name: lane.pace("score").portion.rows for name, lane in made.lanes.items()}
        bucket = made.next(now_s)
        if bucket is None:
            moments = [arrivals[0][0]] if arrivals else []
            moments += [running[0][0]] if running else []
            again_s = made.look_again_s(now_s)
            now_s = min(moments + ([again_s] if again_s is not None else []), default=now_s)
            continue
        _check(made, bucket, waited, closed, sizes, threads)
        assert waited[bucket.lane.name] < PATIENCE_S + (len(LEVELS) + 1) * longest_s
        seen += rows_of(bucket)
        seconds = bucket.rows * row_s[bucket.lane.name] + 0.0002
        heapq.heappush(running, (now_s + seconds, len(seen), bucket, seconds))
    assert len(items) == 60
    for item in items:
        cuts = [(first, end) for found, first, end in seen if found is item]
        assert [first for first, _ in cuts] + [item.count] == [0] + [end for _, end in cuts]
        assert item.missing == 0


def _check(made, bucket, waited, closed, sizes, threads):
    """Look whether a bucket that begins was the right one."""
    lane = bucket.lane
    assert len({each.item.model for each in bucket.slices}) == 1
    assert {each.item.lane for each in bucket.slices} == {lane}
    assert 0 < bucket.rows <= sizes[lane.name] <= BUCKET_ROWS_MAX
    assert sum(each.running for each in made.lanes.values()) <= threads
    assert sum(each.running for each in made.lanes.values() if each.level < 2) <= max(threads - 1, 1)
    assert lane.name in closed
    if waited[lane.name] < PATIENCE_S:
        others = [each for each in made.lanes.values() if each.name in closed and each.level > lane.level]
        assert not others, "somebody more urgent could have gone"


def _arrivals(random, row_s):
    found, at_s = [], 0.0
    for _ in range(60):
        lane = str(random.choice(list(LEVELS)))
        count = int(random.integers(1, 3 if random.random() < 0.7 else 400))
        at_s += float(random.exponential(count * row_s[lane]))
        within_s = float(random.choice([0.0, 0.01, 0.5]))
        found.append((at_s, lane, count, within_s, str(random.choice(["old", "new"]))))
    return found


def test_a_lane_that_waited_too_long_gets_one_bucket_whatever_its_level():
    made = waiting(threads=1)
    add(made, "support", 100)
    made.claim(2)
    now_s, served = 0.0, []
    while now_s < 3.5:
        add(made, "risk", at_s=now_s)  # there is always something more urgent
        bucket = made.next(now_s)
        served.append((bucket.lane.name, now_s))
        made.ended(bucket, 0.01)
        now_s += 0.01
    at_s = [when_s for name, when_s in served if name == "support"]
    assert np.allclose(np.diff([0.0, *at_s]), PATIENCE_S, atol=0.02)
    assert len(at_s) == 3

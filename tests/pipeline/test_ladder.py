"""The choice of a rung: in time if one can be, no flapping, back up when the backlog is gone; with a clock of ours."""

import numpy as np
import pytest

from models.rung_cost import RungCost, time_rung
from pipeline.ladder import CALM_BUDGETS, COMFORT, Ladder

MOE, STUDENT, RULES = RungCost(0.002, 0.001), RungCost(0.001, 0.0001), RungCost(0.0, 1e-9)
RUNGS = [("moe", MOE), ("distilled", STUDENT), ("rules", RULES)]
NAMES = [name for name, _ in RUNGS]
BUDGET_MS = 50.0
CALM_MS = CALM_BUDGETS * BUDGET_MS


def choose(ladder, rows, waited_ms, now_ms):
    return NAMES[ladder.choose(RUNGS, rows, now_ms - waited_ms, now_ms)]


@pytest.mark.parametrize(
    ("rows", "waited_ms", "chosen"),
    [
        (10, 0, "moe"),  # 12 ms
        (40, 5, "moe"),  # 42 + 5
        (60, 0, "distilled"),  # 62 by the large one, 7 by the small one
        (10, 45, "distilled"),  # 12 + 45, 2 + 45
        (10, 49, "rules"),  # 2 + 49
        (10, 500, "rules"),  # nothing can be in time any more
        (100_000, 0, "rules"),
    ],
)
def test_the_best_rung_that_is_in_time_decides(rows, waited_ms, chosen):
    assert choose(Ladder(BUDGET_MS), rows, waited_ms, now_ms=1000) == chosen


def random_batches(seed, count=400):
    """Give (now, rows, waited) of batches that come at random, now and then in a heap."""
    chance, now_ms = np.random.default_rng(seed), 0.0
    for _ in range(count):
        now_ms += float(chance.exponential(30))
        heap = chance.random() < 0.1
        yield now_ms, int(chance.integers(1, 3000 if heap else 20)), float(chance.exponential(60 if heap else 5))


@pytest.mark.parametrize("seed", range(20))
def test_what_is_chosen_is_in_time_if_any_rung_is(seed):
    ladder = Ladder(BUDGET_MS)
    for now_ms, rows, waited_ms in random_batches(seed):
        chosen = choose(ladder, rows, waited_ms, now_ms)
        needed = {name: ladder.needed_ms(name, rows, now_ms - waited_ms, now_ms) for name in NAMES}
        if min(needed.values()) <= BUDGET_MS:
            assert needed[chosen] <= BUDGET_MS
        else:
            assert chosen == "rules"


@pytest.mark.parametrize("seed", range(20))
def test_it_climbs_only_after_a_calm_time_and_then_to_what_is_comfortable(seed):
    ladder, uncomfortable_ms, was = Ladder(BUDGET_MS), dict.fromkeys(NAMES, -1e9), "moe"
    climbs = 0
    for now_ms, rows, waited_ms in random_batches(seed):
        chosen = choose(ladder, rows, waited_ms, now_ms)
        for name in NAMES:
            if ladder.needed_ms(name, rows, now_ms - waited_ms, now_ms) > COMFORT * BUDGET_MS:
                uncomfortable_ms[name] = now_ms
        if NAMES.index(chosen) < NAMES.index(was):
            climbs += 1
            assert now_ms - uncomfortable_ms[chosen] >= CALM_MS
        was = chosen
    assert climbs > 0


@pytest.mark.parametrize("waited_ms", [0, 10, 20, 30, 40, 45, 48, 49, 50, 51, 1000])
def test_an_older_event_never_gets_a_better_rung(waited_ms):
    for rows in (1, 10, 30, 60, 300):
        younger, older = (
            NAMES.index(choose(Ladder(BUDGET_MS), rows, each, 1e6)) for each in (waited_ms, waited_ms + 7)
        )
        assert younger <= older


def test_when_the_backlog_is_gone_the_best_rung_decides_again():
    # time    0        10       20 ...             210        220
    # rows    2000     5        5                  5          5
    # rung    rules    rules    rules              ...        moe
    ladder = Ladder(BUDGET_MS)
    found = [choose(ladder, 2000 if not step else 5, 0 if step else 400, 10.0 * step) for step in range(40)]
    back = found.index("moe")
    assert set(found[:back]) == {"rules"}
    assert set(found[back:]) == {"moe"}
    assert 10 * back == CALM_MS


def test_the_first_event_after_a_quiet_hour_gets_the_best_rung():
    ladder = Ladder(BUDGET_MS)
    assert choose(ladder, 2000, 400, 0.0) == "rules"
    assert choose(ladder, 1, 0, 3.6e6) == "moe"


def test_more_events_than_the_best_rung_can_ever_decide_make_it_climb_less_and_less_often():
    # 900 events a second arrive: the large network can decide 1,000 at best, with everything else 600
    ladder, now_ms, waiting, changes, was = Ladder(BUDGET_MS), 0.0, 0.0, [], "moe"
    while now_ms < 600_000:
        rows = max(1, round(waiting))
        oldest_ms = rows / 0.9
        chosen = choose(ladder, rows, oldest_ms, now_ms)
        if chosen != was:
            changes.append(now_ms)
        took_s = 1.5 * dict(RUNGS)[chosen].seconds(rows)
        ladder.took(chosen, rows, took_s, 0.002, now_ms + 1000 * took_s)
        passed_ms = 1000 * took_s + 2
        waiting, was, now_ms = 0.9 * passed_ms, chosen, now_ms + passed_ms
    first, last = (sum(low <= at < low + 60_000 for at in changes) for low in (0, 540_000))
    assert first >= 2
    assert last <= 4
    assert len(changes) < 60


def test_what_a_rung_really_takes_is_followed_and_forgotten_where_it_idles():
    ladder = Ladder(BUDGET_MS)
    assert choose(ladder, 30, 0, 0.0) == "moe"  # 32 ms
    for step in range(20):  # twice as slow as when it was loaded
        ladder.took("moe", 30, 2 * MOE.seconds(30), 0.0, float(step))
    assert ladder.needed_ms("moe", 30, 20.0, 20.0) == pytest.approx(64, rel=0.02)
    assert choose(ladder, 30, 0, 20.0) == "distilled"
    assert ladder.needed_ms("moe", 30, 60_000.0, 60_000.0) == pytest.approx(32, rel=0.05)


def test_a_single_pause_is_not_taken_for_a_cost():
    ladder = Ladder(BUDGET_MS)
    choose(ladder, 1, 0, 0.0)
    ladder.took("moe", 1, 10.0, 0.0, 1.0)  # ten seconds: the machine slept
    assert ladder.needed_ms("moe", 1, 1.0, 1.0) < 3 * 1000 * MOE.seconds(1)


def test_what_comes_after_the_decision_counts_too():
    ladder = Ladder(BUDGET_MS)
    for step in range(40):
        choose(ladder, 10, 0, float(step))
        ladder.took("moe", 10, MOE.seconds(10), 0.045, float(step))
    assert choose(ladder, 10, 0, 41.0) == "distilled"


def test_a_rung_that_nobody_timed_is_tried_and_then_known():
    ladder, untimed = Ladder(BUDGET_MS), [("moe", None), ("rules", RULES)]
    assert ladder.choose(untimed, 100, 0.0, 0.0) == 0
    ladder.took("moe", 100, 0.2, 0.0, 1.0)
    assert ladder.choose(untimed, 100, 2.0, 2.0) == 1


def test_other_models_under_the_same_name_are_known_by_their_own_cost():
    ladder = Ladder(BUDGET_MS)
    for step in range(30):
        ladder.choose(RUNGS, 30, float(step), float(step))
        ladder.took("moe", 30, 0.2, 0.0, float(step))
    assert ladder.needed_ms("moe", 30, 30.0, 30.0) > 150
    quicker = [("moe", RungCost(0.0005, 0.0001)), *RUNGS[1:]]
    ladder.choose(quicker, 30, 31.0, 31.0)
    assert ladder.needed_ms("moe", 30, 31.0, 31.0) == pytest.approx(3.5)


def test_a_cost_is_read_off_two_sizes():
    now_s = [0.0]

    def answer(rows):
        now_s[0] += 0.003 + 0.0005 * rows

    cost = time_rung(answer, lambda: now_s[0])
    assert cost == pytest.approx((0.003, 0.0005))

"""The floor of a stage is the smallest of what its sources say, those that are idle left out."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kernels.floors import EVENT, FLOOR, IDLE, UNKNOWN_MS, advance
from pipeline.oracle_inputs import Floors

said = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50), st.sampled_from((EVENT, FLOOR, IDLE))))


def floors_of(rows, sources, cuts=()):
    source_ms, idle = np.full(sources, UNKNOWN_MS), np.zeros(sources, np.int8)
    floor, found = int(UNKNOWN_MS), []
    for part in np.split(np.array(rows, np.int64).reshape(-1, 3), list(cuts)):
        out = np.zeros(len(part), np.int64)
        source, ms, kinds = (np.ascontiguousarray(each) for each in part.T)
        floor = advance(kinds.astype(np.int8), source, ms, source_ms, idle, floor, out)
        found += out.tolist()
    return found


@given(said, st.integers(0, 20))
def test_agrees_with_asking_every_source_after_every_row(rows, cut):
    slow, expected = Floors(4), []
    for source, floor_ms, kind in rows:
        slow.say(source, floor_ms, kind == IDLE)
        expected.append(slow.floor_ms)
    assert floors_of(rows, 4) == expected == floors_of(rows, 4, [cut])


#   source 0   10         30              40
#   source 1        20         idle                 25
#   floor      -    10    20   30         40        40    it never goes back
def test_a_source_that_is_idle_does_not_count_and_one_that_is_silent_holds():
    rows = [(0, 10, EVENT), (1, 20, EVENT), (0, 30, EVENT), (1, 20, IDLE), (0, 40, EVENT), (1, 25, EVENT)]
    assert floors_of(rows, 2) == [UNKNOWN_MS, 10, 20, 30, 40, 40]


def test_a_source_that_was_never_heard_of_holds_all():
    assert floors_of([(0, 10, EVENT), (0, 90, FLOOR)], 3) == [UNKNOWN_MS] * 2


def test_once_all_are_idle_the_furthest_holds():
    assert floors_of([(0, 10, EVENT), (1, 20, EVENT), (1, 20, IDLE), (0, 10, IDLE)], 2) == [UNKNOWN_MS, 10, 10, 20]

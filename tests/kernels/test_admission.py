"""Judgement and merge against sets, dictionaries and comparisons."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import admission
from kernels.admission import APPLIED, DUPLICATE, FUTURE, LATE

LONG_AGO_MS = -(2**62)
LATENESS_MS, TOLERANCE_MS = 50, 20

record = st.tuples(
    st.integers(0, 400),  # event time
    st.integers(0, 400),  # append time
    st.integers(1, 12),  # id
    st.sampled_from((0, 0, 0, 101, 102, 103)),  # where a re-driven one came from
)


def judged(records, has_clock=True, start=0):
    """Judge with the kernel, in the smallest tables that it takes."""
    times, appended, ids, redriven = (np.array(each) for each in zip(*records, strict=True))
    ids, redriven = ids.astype(np.uint64), redriven.astype(np.uint64)
    ctl, limits = np.array([LONG_AGO_MS, 0]), np.array([LATENESS_MS, LATENESS_MS, TOLERANCE_MS])
    seen_id, seen_ms = np.zeros(8, np.uint64), np.zeros(8, np.int64)
    status, floors = np.zeros(times.size, np.int8), np.zeros(times.size, np.int64)
    done, rebuilt, clock = 0, 0, appended if has_clock else times[:0]
    while done < times.size:
        done = admission.judge(
            times, clock, ids, redriven, ctl, seen_id, seen_ms, limits, status, floors, done
        )  # fmt: skip
        if done < times.size:
            oldest = ctl[0] - LATENESS_MS
            kept = int(((seen_id != 0) & (seen_ms >= oldest)).sum())
            size = max(8, 1 << (4 * kept).bit_length())
            larger = np.zeros(size, np.uint64), np.zeros(size, np.int64)
            ctl[1] = admission.keep_recent(seen_id, seen_ms, oldest, *larger)
            seen_id, seen_ms = larger
            rebuilt += 1
    return status.tolist(), floors.tolist(), rebuilt


def looked_up(records, has_clock=True):
    high, applied, redriven = LONG_AGO_MS, {}, set()
    status, floors = [], []
    for time, appended, id, origin in records:
        if has_clock and time > appended + TOLERANCE_MS:
            status.append(FUTURE)
        elif not origin and time < high - LATENESS_MS:
            status.append(LATE)
        elif (id in applied and applied[id] >= high - LATENESS_MS) or (origin and origin in redriven):
            status.append(DUPLICATE)
        else:
            status.append(APPLIED)
            applied[id] = max(time, applied.get(id, time))
            redriven |= {origin} - {0}
            high = max(high, time)
        floors.append(high - LATENESS_MS)
    return status, floors


@settings(max_examples=400)
@given(st.lists(record, min_size=1, max_size=60), st.booleans())
def test_each_record_is_judged_as_by_sets_and_comparisons(records, has_clock):
    status, floors, _ = judged(records, has_clock)
    assert (status, floors) == looked_up(records, has_clock)


def test_ids_are_forgotten_beyond_the_horizon_and_found_within_it():
    records = [(10 * n, 10 * n, n + 1, 0) for n in range(2_000)] + [
        (19_990, 19_990, n + 1, 0) for n in range(1_900, 2_000)
    ]
    status, _, rebuilt = judged(records)
    assert rebuilt > 10
    assert status == looked_up(records)[0]
    assert status[2_000:] == [APPLIED] * 94 + [DUPLICATE] * 6  # 19,940 ms is the oldest within 50 ms


# time     100      160      100       160 - 50 = 110: an ordinary one is late, the re-driven one counts
def test_a_redriven_record_is_never_late_and_counts_once():
    late, again = (100, 160, 2, 0), (100, 170, 2, 77)
    assert judged([(100, 100, 1, 0), (160, 160, 3, 0), late, again, again])[0] == [
        APPLIED, APPLIED, LATE, APPLIED, DUPLICATE,
    ]  # fmt: skip


def test_one_from_the_future_does_not_move_high_time():
    status, floors, _ = judged([(100, 100, 1, 0), (10**9, 100, 2, 0), (101, 101, 3, 0)])
    assert status == [APPLIED, FUTURE, APPLIED]
    assert floors == [50, 50, 51]


@pytest.mark.parametrize(("behind", "verdict"), [(LATENESS_MS, APPLIED), (LATENESS_MS + 1, LATE)])
def test_late_is_older_than_high_time_minus_lateness(behind, verdict):
    assert judged([(200, 200, 1, 0), (200 - behind, 200, 2, 0)])[0] == [APPLIED, verdict]


@given(st.lists(st.lists(st.integers(0, 20), max_size=15), min_size=1, max_size=4))
def test_heads_merge_by_time_then_declared_order_and_each_input_keeps_its_order(inputs):
    waiting = [list(enumerate(each)) for each in inputs]
    starts = np.concatenate([[0], np.cumsum([len(each) for each in inputs])]).astype(np.int64)
    expected = []
    while any(waiting):
        first = min((n for n, each in enumerate(waiting) if each), key=lambda n: waiting[n][0][1])
        expected.append(int(starts[first]) + waiting[first].pop(0)[0])
    order = np.empty(starts[-1], np.int64)
    times = np.array([time for each in inputs for time in each], np.int64)
    admission.merge_heads(times, starts, np.zeros(len(inputs), np.int64), order)
    assert order.tolist() == expected

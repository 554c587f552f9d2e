"""Window kernels where it hurts: the largest values, the fullest keys, many caches, empty windows, long histories."""

import numpy as np
import pytest

from kernels import window_features as wf
from kernels import window_state as ws
from kernels import windows
from kernels.windows import INSERT, QUERY
from pipeline import oracle_aggregates as by_definition
from pipeline.groups import Group

LARGEST, ROWS_MAX = 1 << 46, 1 << 16
LONG_AGO_MS = -(2**62)
NUMERIC = (wf.COUNT_OF, wf.SUM, wf.MEAN, wf.STD, wf.MAX, wf.MIN, wf.LAST, wf.QUANTILE, wf.EWM, wf.ZSCORE)

STEADY = (wf.COUNT_OF, wf.SUM, wf.MEAN, wf.STD, wf.MAX, wf.MIN, wf.LAST, wf.ZSCORE)  # cheap enough to ask every time


def group_of(operations, span_ms, rows_max=ROWS_MAX, delay_ms=0, parameter=500_000, hashed=False, columns=1):
    """Return a group of one window over optional numbers of whole units, or over `columns` columns of hashes."""
    width, layout = 1, []
    for column in range(columns):
        layout.append((column * (1 if hashed else 2), width, 0 if hashed else 1, 0 if hashed else 1, int(hashed)))
        width += 1 if hashed else 6
    caches, program, meta = [], [], ws.HINTS + 1
    for column in range(columns):
        for operation in operations:
            kind = {wf.MAX: ws.C_MAX, wf.MIN: ws.C_MIN}.get(operation, ws.C_COUNTS if hashed else None)
            program.append((operation, 0, column, len(caches), parameter))
            if kind is not None:
                caches.append((kind, 0, column, meta, 1))
                meta += 4 if kind == ws.C_COUNTS else 3
    plan = ws.Plan(
        np.array([(span_ms, delay_ms)], np.int64), np.array(layout, np.int64),
        np.array(caches, np.int64).reshape(-1, 5), np.array(program, np.int64), np.ones(len(program)),
        np.array([width, 0, rows_max, span_ms + delay_ms], np.int64),
    )  # fmt: skip
    return Group(plan, meta)


def run(group, times_ms, values, keys=None, only_last=False, floor_ms=LONG_AGO_MS):
    """Apply events and ask for the features of each, or of the last only.

    `values` holds None for null, or is (events, inputs) as the kernel takes them; without a floor nothing may be late.
    """
    count = len(times_ms)
    floors = np.full(count, floor_ms) if floor_ms is not None else np.array(times_ms)
    times = np.stack([np.array(times_ms), np.array(times_ms), floors], axis=1).astype(np.int64)
    if isinstance(values, np.ndarray):
        inputs = values.astype(np.int64)
    else:
        inputs = np.array([(0 if each is None else each, each is not None) for each in values], np.int64).reshape(-1, 2)
    keys = np.ones(count, np.uint64) if keys is None else np.array(keys, np.uint64)
    kinds = np.full(count, INSERT if only_last else INSERT | QUERY, np.int8)
    kinds[-1] = INSERT | QUERY
    return group.update(kinds, keys, times, inputs, LONG_AGO_MS)


def test_a_full_key_of_the_largest_values_sums_exactly():
    # 65,536 values of +-2**46: sums reach 2**62, sums of squares 2**108
    signs = np.where(np.random.default_rng(5).random(ROWS_MAX) < 0.9, LARGEST, -LARGEST)
    signs[-1] = -LARGEST
    group = group_of(NUMERIC, ROWS_MAX)
    found = run(group, np.arange(ROWS_MAX), signs.tolist(), only_last=True, floor_ms=None)[-1]
    units = signs.tolist()
    expected = [
        ROWS_MAX, by_definition.total(units, 1), by_definition.mean(units, 1), by_definition.std(units, 1), LARGEST,
        -LARGEST, -LARGEST, by_definition.quantile(units, 1, 500_000), None,
        by_definition.zscore(units[:-1], units[-1]),
    ]  # fmt: skip
    for name, value, definition in zip(NUMERIC, found, expected, strict=True):
        if definition is not None:
            assert value == pytest.approx(definition, rel=1e-14, abs=0), name
    twice = np.concatenate([signs, signs]).tolist()
    again = run(group, np.arange(ROWS_MAX, 3 * ROWS_MAX), twice, only_last=True, floor_ms=None)[-1]
    assert again.tolist() == found.tolist()  # the same window, twice 65,536 events later: totals came round meanwhile
    assert group.statistics()["rows_capped"] == 0  # a window of 65,536 ms holds as many


def test_the_cap_keeps_the_newest_in_time_even_of_those_that_come_late():
    group = group_of((wf.COUNT_OF, wf.SUM), 1_000, rows_max=3)
    #   times 10 20 30 | 25 pushes 10 out | 5 is older than all that is kept: not seen, not even by itself
    found = run(group, [10, 20, 30, 25, 5, 31], [1, 2, 4, 8, 16, 32])
    assert found[:, 1].tolist()[:3] == [1, 3, 7]
    assert found[3].tolist() == [2, 10]  # as of 25 ms: 20 and 25
    assert np.array_equal(found[4], [0, np.nan], equal_nan=True)
    assert found[5].tolist() == [3, 44]
    assert group.statistics()["rows_capped"] == 3


@pytest.mark.parametrize("delay_ms", [0, 5])
@pytest.mark.parametrize("operation", [wf.MAX, wf.MIN, wf.LAST, wf.QUANTILE, wf.EWM, wf.SUM, wf.MEAN, wf.STD])
def test_a_window_without_a_value_is_null_whatever_comes_first(operation, delay_ms):
    group = group_of((operation,), 10, delay_ms=delay_ms)
    found = run(group, [100, 101, 102], [None, None, None] if delay_ms == 0 else [7, 8, 9])
    assert np.isnan(found).all()
    assert found.shape == (3, 1)


def test_weights_that_would_all_vanish_still_make_a_mean():
    # half life 1 ms, values 2,000 ms old: 2**-2000 is zero in floating point
    group = group_of((wf.EWM,), 5_000, delay_ms=2_000, parameter=1)
    found = run(group, [0, 1, 2_001], [4, 8, 0])
    assert found[2, 0] == pytest.approx((4 * 0.5 + 8) / 1.5, rel=1e-15)


def test_a_zscore_of_a_value_beside_the_mean_keeps_its_digits():
    values = [LARGEST - 1, LARGEST - 1, LARGEST - 2, LARGEST - 1]
    found = run(group_of((wf.ZSCORE,), 100), range(4), values)[3, 0]
    assert found == pytest.approx(by_definition.zscore(values[:3], values[3]), rel=1e-14)


@pytest.mark.parametrize("millionths", [0, 1, 250_000, 333_333, 499_999, 500_000, 999_999, 1_000_000])
def test_quantiles_between_neighbours_of_opposite_signs_cancel_exactly(millionths):
    draw = np.random.default_rng(millionths)
    for size in (1, 2, 3, 10, 101):
        values = draw.integers(-LARGEST, LARGEST, size, endpoint=True).tolist()
        found = run(group_of((wf.QUANTILE,), 1_000, parameter=millionths), range(size), values)[-1, 0]
        assert found == pytest.approx(by_definition.quantile(values, 1, millionths), rel=1e-10, abs=0)


def test_more_caches_than_bits_of_a_byte_do_not_share_counts():
    columns = 70  # of several keys that follow each other in the table of counts
    group = group_of((wf.DISTINCT_OF, wf.ENTROPY), 1_000, hashed=True, columns=columns)
    draw = np.random.default_rng(3)
    values, keys = draw.integers(1, 6, (400, columns)), draw.integers(1, 8, 400)
    found = run(group, range(400), values, keys)
    for row in range(0, 400, 37):
        before = values[: row + 1][keys[: row + 1] == keys[row]]
        for column in range(columns):
            held = before[:, column].tolist()
            assert found[row, 2 * column] == len(set(held))
            assert found[row, 2 * column + 1] == pytest.approx(by_definition.entropy(held), rel=1e-9, abs=1e-12)


def test_a_snapshot_can_be_restored_twice():
    group = group_of((wf.SUM, wf.MAX), 100)
    run(group, range(10), range(10))
    saved = group.save()
    first, second = group_of((wf.SUM, wf.MAX), 100), group_of((wf.SUM, wf.MAX), 100)
    first.restore(saved)
    run(first, range(10, 500), range(490))
    second.restore(saved)
    assert run(second, [10], [5]).tolist() == [[50, 9]]


def drifted(events, batch, span_ms, seed=11):
    """Push events through one group; return it with the operations of the last span."""
    draw = np.random.default_rng(seed)
    group = group_of(STEADY, span_ms, rows_max=4_096)
    kept_times, kept_values, time_ms = np.zeros(0, np.int64), np.zeros(0, np.int64), 0
    for _ in range(events // batch):
        times = time_ms + np.cumsum(draw.integers(0, 3, batch))
        values = draw.integers(-LARGEST, LARGEST, batch)
        time_ms = int(times[-1])
        run(group, times, np.stack([values, np.ones(batch, np.int64)], axis=1))
        kept_times, kept_values = np.append(kept_times, times), np.append(kept_values, values)
        inside = kept_times > time_ms - span_ms
        kept_times, kept_values = kept_times[inside], kept_values[inside]
    return group, kept_times, kept_values


def test_nothing_drifts_in_a_million_events():
    group, times, values = drifted(1_000_000, 50_000, span_ms=500)
    fresh = group_of(STEADY, 500, rows_max=4_096)
    run(fresh, times, values.tolist())
    last = run(group, [times[-1]], [1]), run(fresh, [times[-1]], [1])
    assert np.array_equal(last[0].view(np.int64), last[1].view(np.int64))
    assert len(times) > 300


def test_looking_at_a_key_changes_nothing():
    group = group_of((wf.COUNT_OF, wf.SUM, wf.MAX), 100)
    run(group, range(0, 100, 10), range(10))
    rows, found = group.look(1, 105, LONG_AGO_MS)
    assert (rows, found.tolist()) == (10, [9, 45, 9])
    assert group.look(2, 105, LONG_AGO_MS)[0] == -1
    assert run(group, [110], [3]).tolist() == [[9, 47, 9]]


def test_freed_segments_and_slots_are_used_again():
    group = group_of((wf.COUNT_OF,), 10)
    for wave in range(50):
        times = np.full(500, 1_000 * wave)
        found = run(group, times, [1] * 500, np.arange(500) + 1_000 * wave + 1, floor_ms=1_000 * wave)
        assert (found == 1).all()
        windows.sweep(tuple(group.state), tuple(group.plan), 1_000 * wave + 500, 1 << 20)
    assert group.statistics()["keys"] == 0
    assert group.state.ctl[ws.POOL_USED] <= 500 * ws.SMALLEST
    assert group.state.ctl[ws.SLOTS_USED] <= 500

"""The benchmark workload: its lines, order, lateness, how busy its cards are, bytes and memory."""

import json
import re
import tracemalloc

import numpy as np
import pytest

from ops.simulate import SimulationError, card_features_stream
from ops.simulate.settings import HOUR_MS, MONDAY_2026_MS


def columns(path):
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    return lines, np.array([line["ts"] for line in lines])


def test_lines_are_as_promised(tmp_path):
    path = tmp_path / "events.jsonl"
    card_features_stream(path, 5_000)
    lines, ts_ms = columns(path)
    assert len(lines) == 5_000
    assert all(list(line) == ["event_id", "card", "merchant", "country", "amount", "ts"] for line in lines)
    assert len({line["event_id"] for line in lines}) == 5_000
    assert all(re.fullmatch(rb'.*"amount":\d+\.\d\d,.*', line) for line in path.read_bytes().splitlines())
    assert np.ptp(ts_ms) == pytest.approx(500_000, rel=0.01)  # ten a second


def test_one_in_twenty_is_late_by_at_most_five_seconds_also_across_chunks(tmp_path):
    path = tmp_path / "events.jsonl"
    card_features_stream(path, 60_000)
    lines, ts_ms = columns(path)
    behind_ms = np.maximum.accumulate(ts_ms) - ts_ms
    assert 0.045 < np.mean(behind_ms > 0) < 0.052
    assert 4_000 < behind_ms.max() <= 5_000
    assert sorted(line["event_id"] for line in lines) == [f"e{number:012d}" for number in range(60_000)]


def test_an_event_sees_about_fifty_of_its_card_within_an_hour(tmp_path):
    path = tmp_path / "events.jsonl"
    card_features_stream(path, 100_000)
    lines, ts_ms = columns(path)
    card = np.array([int(line["card"][1:]) for line in lines])
    clock = np.sort(card * (1 << 43) + ts_ms)
    seen = np.arange(clock.size) - np.searchsorted(clock, clock - HOUR_MS, side="right") + 1
    is_warm = clock % (1 << 43) > MONDAY_2026_MS + HOUR_MS
    assert 40 < seen[is_warm].mean() < 60
    assert 7_000 < np.unique(card).size <= 10_000


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    digests = [card_features_stream(tmp_path / f"{n}.jsonl", 2_000, seed=seed) for n, seed in enumerate((1, 1, 2))]
    assert digests[0] == digests[1] != digests[2]
    assert (tmp_path / "0.jsonl").read_bytes() == (tmp_path / "1.jsonl").read_bytes()


def test_memory_does_not_grow_with_the_events(tmp_path):
    peaks = []
    for events in (200_000, 600_000):
        tracemalloc.start()
        card_features_stream(tmp_path / "events.jsonl", events)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_no_events_make_an_empty_file(tmp_path):
    card_features_stream(tmp_path / "events.jsonl", 0, cards=1)
    assert (tmp_path / "events.jsonl").read_bytes() == b""


def test_counts_out_of_bounds_are_named(tmp_path):
    with pytest.raises(SimulationError, match=r"events is -1; choose between 0 and \d+"):
        card_features_stream(tmp_path / "events.jsonl", -1)
    with pytest.raises(SimulationError, match=r"cards is 0; choose between 1 and 100000000"):
        card_features_stream(tmp_path / "events.jsonl", 10, cards=0)

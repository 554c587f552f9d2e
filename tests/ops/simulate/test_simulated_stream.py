"""The files of a simulated stream: bytes, order, lateness, duplicates, broken records, memory."""

import gzip
import json
import re
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ops.simulate import SimulationError, SimulationSettings, simulate
from ops.simulate.behaviour import slots
from ops.simulate.settings import DAY_MS, HOUR_MS
from ops.simulate.simulator import Part
from ops.simulate.writer import BREAKS

FEW = SimulationSettings(days=3, events_per_day=2_000, cards=200, terminals=60)
UNBROKEN = replace(FEW, malformed_share=0.0, stale_share=0.0)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    one, again = simulate(FEW, tmp_path / "one"), simulate(FEW, tmp_path / "again")
    assert one.payments_path.read_bytes() == again.payments_path.read_bytes()
    assert one.labels_path.read_bytes() == again.labels_path.read_bytes()
    assert one.payments_sha256 == again.payments_sha256
    other = simulate(replace(FEW, seed=8), tmp_path / "other")
    assert (other.payments_sha256, other.labels_sha256) != (one.payments_sha256, one.labels_sha256)


def test_gzip_holds_the_same_lines_in_the_same_bytes_each_time(tmp_path):
    plain, packed = simulate(FEW, tmp_path), simulate(FEW, tmp_path, compress=True)
    assert packed.payments_path.name == "payments.jsonl.gz"
    assert gzip.decompress(packed.payments_path.read_bytes()) == plain.payments_path.read_bytes()
    assert packed.labels_sha256 == plain.labels_sha256
    first = packed.payments_path.read_bytes()
    assert simulate(FEW, tmp_path, compress=True).payments_path.read_bytes() == first


def test_fields_are_as_promised(tmp_path):
    summary = simulate(UNBROKEN, tmp_path)
    payments = read(summary.payments_path)
    assert len(payments) == summary.records == summary.payments + summary.duplicates
    names = ["event_id", "ts", "card", "terminal", "device", "place", "merchant_category", "channel", "amount"]
    assert all(list(payment) == names for payment in payments)
    assert {payment["channel"] for payment in payments} == {"pos", "web", "app"}
    assert all(len(payment["card"]) == 16 and luhn_holds(payment["card"]) for payment in payments)
    assert len({payment["card"] for payment in payments}) <= UNBROKEN.cards
    assert all(0 < payment["amount"] < 100_000 for payment in payments)
    lines = summary.payments_path.read_bytes().splitlines()
    assert all(re.search(rb'"amount":\d+\.\d\d}$', line) for line in lines)
    assert all(UNBROKEN.start_ms <= payment["ts"] < UNBROKEN.end_ms for payment in payments)
    labels = read(summary.labels_path)
    assert all(list(label) == ["event_id", "reported_at", "is_fraud"] for label in labels)
    assert {label["event_id"] for label in labels} < {payment["event_id"] for payment in payments}
    assert sum(label["is_fraud"] for label in labels) <= summary.frauds


def luhn_holds(number: str) -> bool:
    digits = [int(digit) for digit in number[::-1]]
    return (sum(digits[::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])) % 10 == 0


def test_records_are_late_by_five_seconds_at_most_and_some_are(tmp_path):
    summary = simulate(UNBROKEN, tmp_path)
    ts_ms = np.array([payment["ts"] for payment in read(summary.payments_path)])
    behind_ms = np.maximum.accumulate(ts_ms) - ts_ms
    assert 0 < behind_ms.max() <= UNBROKEN.late_max_ms
    assert 0.02 < summary.late / summary.payments < 0.04
    assert summary.stale == 0


def test_stale_records_are_a_minute_to_an_hour_late(stream: Part):
    delay_ms = stream.happened["arrive_ms"] - stream.happened["ts_ms"]
    stale = delay_ms > 5_000
    assert 20 < stale.sum() < 120  # a thousandth of 60,000
    assert delay_ms[stale].min() >= 60_000
    assert delay_ms.max() <= HOUR_MS


def test_arrival_order_holds_across_slots_and_every_payment_arrives(stream: Part):
    assert (np.diff(stream.arrived["arrive_ms"]) >= 0).all()
    assert set(stream.arrived["id"].tolist()) == set(range(stream.happened.size))


def test_a_duplicate_is_the_same_line_again_soon_after(tmp_path):
    settings = replace(UNBROKEN, duplicate_share=0.02)
    summary = simulate(settings, tmp_path)
    counts = Counter(summary.payments_path.read_bytes().splitlines())
    assert 60 < summary.duplicates < 200
    assert sum(count - 1 for count in counts.values()) == summary.duplicates
    ids = Counter(json.loads(line)["event_id"] for line in counts)
    assert max(ids.values()) == 1  # one id, one content


def test_broken_records_are_of_every_kind_and_harm_no_other(tmp_path):
    whole = simulate(replace(FEW, malformed_share=0.0), tmp_path / "whole")
    broken = simulate(replace(FEW, malformed_share=0.05), tmp_path / "broken")
    good = set(whole.payments_path.read_bytes().splitlines())
    lines = broken.payments_path.read_bytes().split(b"\n")[:-1]
    assert len(lines) == broken.records
    assert 200 < broken.malformed < 400
    # All but the malformed are the lines of the whole stream; a raw newline makes two bad lines of one record.
    bad = [line for line in lines if line not in good]
    assert broken.malformed <= len(bad) == broken.records - whole.records + broken.malformed
    text = b"\n".join(bad)
    for mark in (b'"12,50"', b"1e300", b'"value":12.5', b"null", b"yesterday", b"\xff\xfe", b"}{", b"upstream"):
        assert mark in text


@pytest.mark.parametrize("name", BREAKS)
def test_each_break_makes_lines_that_no_longer_read_as_the_payment(name, tmp_path):
    line = simulate(UNBROKEN, tmp_path).payments_path.read_bytes().splitlines()[0] + b"\n"
    broken = BREAKS[name](line)
    assert broken.endswith(b"\n")
    for part in broken.splitlines():
        try:
            read_back = json.loads(part)
        except ValueError:  # not JSON, or not UTF-8
            continue
        before = json.loads(line)
        assert read_back.keys() != before.keys() or {k for k in before if before[k] != read_back[k]} <= {
            "amount", "terminal", "ts"
        }  # fmt: skip
        assert read_back != before


def test_memory_does_not_grow_with_the_length(tmp_path):
    peaks = []
    for days in (4, 16):
        settings = replace(FEW, days=days, events_per_day=4_000, fraud_report_median_h=2.0, genuine_confirm_h=12.0)
        tracemalloc.start()
        simulate(settings, tmp_path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


def test_busy_days_are_made_in_parts_and_join_seamlessly(whole):
    settings = replace(UNBROKEN, days=1, cards=5_000, events_per_day=50_000)
    assert [slot.end_ms - slot.start_ms for slot in slots(settings, events_max=10_000)] == [4 * HOUR_MS] * 6
    assert len(slots(replace(settings, events_per_day=1e6))) == 6
    busy = whole(replace(settings, events_per_day=450_000)).happened
    day = whole(settings).happened
    busy_hours, hours = (np.bincount(rows["ts_ms"] // HOUR_MS % 24) / rows.size for rows in (busy, day))
    np.testing.assert_allclose(busy_hours, hours, atol=0.006)  # the same rhythm


def test_progress_ends_near_what_it_promised(tmp_path):
    seen: list[tuple[int, int]] = []
    summary = simulate(FEW, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert len(seen) == FEW.days + 1
    assert seen[-1] == (summary.records, FEW.events)
    assert abs(summary.payments / FEW.events - 1) < 0.1


def test_a_failure_leaves_the_files_as_they_were(tmp_path):
    before = simulate(FEW, tmp_path).payments_path.read_bytes()

    def fail(done: int, total: int) -> None:
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        simulate(replace(FEW, seed=8), tmp_path, progress=fail)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frauds.jsonl", "payments.jsonl"]
    assert (tmp_path / "payments.jsonl").read_bytes() == before


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    for out in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(SimulationError, match=r"taken.* is not a folder, or lies below a file"):
            simulate(FEW, out)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"days": 0}, r"days is 0; choose between 1 and \d+"),
        ({"days": 2.5}, r"days is 2\.5; choose a whole number"),
        ({"fraud_rate": 0.3}, r"fraud_rate is 0\.3; choose between 0 and 0\.2"),
        ({"late_share": float("nan")}, r"late_share is nan; choose between 0 and 1"),
        ({"cards": -1}, r"cards is -1; choose between 1 and 10000000"),
        ({"start_ms": 5}, r"start_ms is 5; choose between 1000000000000 and"),
    ],
)
def test_a_setting_out_of_bounds_is_named(setting, message):
    with pytest.raises(SimulationError, match=message):
        SimulationSettings(**setting)


def test_settings_can_be_given_per_second():
    settings = SimulationSettings.per_second(2, days=1)
    assert settings.events == 172_800
    assert settings.days == 1


@pytest.mark.parametrize(
    "extreme",
    [
        {"cards": 1, "terminals": 10, "events_per_day": 50},
        {"fraud_rate": 0.0, "days": 1},
        {"events_per_day": 1, "days": 2},
        {"late_share": 1.0, "duplicate_share": 1.0, "late_max_ms": 1},
        {"malformed_share": 1.0, "stale_share": 1.0, "lost_label_share": 1.0},
    ],
)
def test_extreme_settings_work(extreme, tmp_path):
    summary = simulate(replace(FEW, **extreme), tmp_path)
    assert summary.payments_path.read_bytes().count(b"\n") == summary.records
    assert summary.labels_path.read_bytes().count(b"\n") == summary.labels
    assert summary.last_ms - summary.first_ms < FEW.days * DAY_MS

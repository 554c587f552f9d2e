"""What is in a simulated stream: rhythm, patterns of fraud, drift, and when labels become known. Seeded statistics."""

from dataclasses import replace

import numpy as np
import pytest

from ops.simulate.fraud import FRIENDLY, PATTERNS, STOLEN, TAKEOVER, TERMINAL, TESTING, WALLET
from ops.simulate.population import APP, HOMES, POS, WEB
from ops.simulate.settings import DAY_MS, HOUR_MS


def rows_of(stream, pattern):
    return stream.happened[stream.happened["pattern"] == pattern]


def by_card(rows):
    return rows[np.lexsort((rows["ts_ms"], rows["card"]))]


@pytest.mark.parametrize("rate", [0.002, 0.009, 0.05])
def test_the_fraud_rate_is_the_one_asked_for(small, whole, rate):
    happened = whole(replace(small, fraud_rate=rate)).happened
    assert np.mean(happened["pattern"] > 0) == pytest.approx(rate, rel=0.15)


def test_no_fraud_is_possible(small, whole):
    assert not whole(replace(small, days=2, fraud_rate=0.0)).happened["pattern"].any()


def test_people_sleep_and_rest(small, stream):
    honest = rows_of(stream, 0)
    hours = np.bincount(honest["ts_ms"] // HOUR_MS % 24, minlength=24)
    assert hours[17] > 5 * hours[2]
    days = np.bincount((honest["ts_ms"] - small.start_ms) // DAY_MS, minlength=7)[:7]  # the stream begins on a Monday
    assert days[4] > 1.1 * days[0]
    assert days[6] < days[5]


def test_people_stay_near_home_and_keep_their_devices(stream):
    honest = by_card(rows_of(stream, 0))
    same_card = honest["card"][1:] == honest["card"][:-1]
    assert 0.8 < np.mean((honest["place"][1:] == honest["place"][:-1])[same_card]) < 0.97
    pairs = np.unique(honest[["card", "device"]]).size
    assert 2.5 < pairs / np.unique(honest["card"]).size < 8  # some new ones: a new device alone proves nothing


def test_few_terminals_get_much_of_the_business(stream):
    counts = np.sort(np.bincount(stream.happened["terminal"]))[::-1]
    assert 0.25 < counts[: counts.size // 10].sum() / counts.sum() < 0.7


def test_every_pattern_is_there(small, stream):
    counts = np.bincount(stream.happened["pattern"], minlength=len(PATTERNS))
    assert (counts[1:] >= 15).all(), dict(zip(PATTERNS, counts, strict=True))


def test_stolen_cards_come_in_bursts_of_growing_amounts_from_new_devices(stream):
    stolen = by_card(rows_of(stream, STOLEN))
    follows = (stolen["card"][1:] == stolen["card"][:-1]) & (np.diff(stolen["ts_ms"]) < HOUR_MS)
    assert follows.mean() > 0.7
    assert np.median(np.diff(stolen["ts_ms"])[follows]) < 10 * 60_000
    assert np.mean(np.diff(stolen["cents"])[follows] > 0) > 0.6
    assert np.mean(stolen["place"] >= len(HOMES)) > 0.3
    assert np.mean(rows_of(stream, 0)["place"] >= len(HOMES)) < 0.1


def test_card_testing_tries_many_cards_with_tiny_amounts_at_one_merchant(stream):
    tests = rows_of(stream, TESTING)
    assert (tests["channel"] == WEB).all()
    assert np.median(tests["cents"]) < 400
    assert np.unique(tests["terminal"]).size < tests.size / 10
    assert np.unique(tests["card"]).size > tests.size * 0.8


def test_a_compromised_terminal_sees_many_cards_for_days(stream):
    copies = rows_of(stream, TERMINAL)
    assert (copies["channel"] == POS).all()
    terminal = np.bincount(copies["terminal"]).argmax()
    there = copies[copies["terminal"] == terminal]
    assert np.unique(there["card"]).size > there.size / 2 > 6
    assert np.ptp(there["ts_ms"]) > DAY_MS


def test_takeovers_cost_more_and_wander(stream):
    taken = by_card(rows_of(stream, TAKEOVER))
    assert (taken["channel"] != POS).all()
    assert np.median(taken["cents"]) > 2.5 * np.median(stream.happened["cents"])
    follows = (taken["card"][1:] == taken["card"][:-1]) & (np.diff(taken["ts_ms"]) < DAY_MS)
    assert 0.3 < np.mean((taken["place"][1:] != taken["place"][:-1])[follows]) < 0.95
    assert np.mean((taken["device"][1:] == taken["device"][:-1])[follows]) > 0.95


def test_friendly_fraud_looks_like_its_owner(stream):
    known = np.unique(rows_of(stream, 0)[["card", "device"]])
    friendly = rows_of(stream, FRIENDLY)
    assert np.isin(friendly[["card", "device"]], known).mean() > 0.85


def test_the_new_pattern_begins_at_its_point_and_only_with_drift(small, stream, whole):
    wallets = rows_of(stream, WALLET)
    begins_ms = small.start_ms + small.new_pattern_at * small.days * DAY_MS
    assert wallets["ts_ms"].min() >= begins_ms - DAY_MS * 0.001
    assert (wallets["channel"] == APP).all()
    assert (wallets["cents"] % 2500 == 0).all()
    assert not (whole(replace(small, drift=False)).happened["pattern"] == WALLET).any()


def test_drift_shifts_amounts_channels_and_patterns_and_none_does_not(small, whole):
    settings = replace(small, days=14)
    moved = {}
    for drift in (True, False):
        happened = whole(replace(settings, drift=drift)).happened
        week = (happened["ts_ms"] - settings.start_ms) // (7 * DAY_MS)  # whole weeks: weekdays weigh alike
        honest = happened["pattern"] == 0
        moved[drift] = [
            np.diff([np.log(happened["cents"][honest & (week == w)]).mean() for w in (0, 1)])[0],
            np.diff([(happened["channel"][honest & (week == w)] == APP).mean() for w in (0, 1)])[0],
        ]
    assert moved[True][0] > 0.06 > abs(moved[False][0]) * 1.5
    assert moved[True][1] > 0.03 > abs(moved[False][1]) * 2


def test_labels_come_in_the_order_in_which_they_become_known(stream):
    assert (np.diff(stream.known["reported_ms"]) >= 0).all()
    is_older = np.diff(stream.known["id"]) < 0
    assert is_older.sum() > 0  # the label of an older payment after that of a younger one


def test_label_delays_are_as_set(small, stream):
    happened = stream.happened[np.argsort(stream.happened["id"])]
    about = happened[stream.known["id"]]
    delay_h = (stream.known["reported_ms"] - about["ts_ms"]) / HOUR_MS
    is_fraud = stream.known["is_fraud"]
    np.testing.assert_array_equal(is_fraud, about["pattern"] > 0)
    assert (delay_h[~is_fraud] == small.genuine_confirm_h).all()
    plain = is_fraud & ~np.isin(about["pattern"], [TERMINAL, FRIENDLY])
    assert np.median(delay_h[plain]) == pytest.approx(small.fraud_report_median_h, rel=0.2)
    assert np.std(np.log(delay_h[plain])) == pytest.approx(1.0, abs=0.2)
    assert delay_h.min() >= 0.25
    assert delay_h.max() <= 24 * small.fraud_report_median_h


def test_a_few_labels_never_come_and_none_comes_twice(small, stream):
    assert np.unique(stream.known["id"]).size == stream.known.size
    assert 1 - stream.known.size / stream.happened.size == pytest.approx(small.lost_label_share, rel=0.3)

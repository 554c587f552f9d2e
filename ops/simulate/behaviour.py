"""How honest people pay: by hour and weekday, near home or on a trip, from devices they keep for a while."""

from dataclasses import dataclass

import numpy as np

from ops.simulate.population import (
    APP,
    HOMES,
    LOG_AMOUNT,
    LOG_AMOUNT_SPREAD,
    PAYMENT,
    PLACES,
    POS,
    WEB,
    Float64s,
    Int64s,
    Payments,
    Population,
    amount_cents,
    device_of,
)
from ops.simulate.settings import DAY_MS, HOUR_MS, SimulationSettings

# Share of a day's payments in each hour (UTC, people live an hour ahead), up to a factor.
_BY_DAY = [1, 1, 1, 1, 2, 5, 11, 18, 22, 24, 29, 35, 32, 27, 27, 31, 38, 42, 37, 28, 19, 11, 6, 3]
_AT_WEEKEND = [2, 2, 1, 1, 1, 2, 5, 11, 22, 32, 38, 39, 36, 33, 32, 32, 33, 34, 33, 29, 22, 15, 10, 5]
_AT_NIGHT = [20, 17, 13, 9, 6, 4, 4, 5, 7, 9, 11, 13, 14, 15, 16, 18, 21, 24, 26, 28, 30, 30, 28, 24]
_WEEKDAY = np.array([0.92, 0.93, 0.97, 1.0, 1.14, 1.16, 0.88])  # Monday first; the mean is 1

_SESSION_SHARE = 0.24  # payments made some minutes after another one of the same card
_SESSION_GAP_MS = 11 * 60_000
_TRIP_DAYS = 3.0
_PHONE_KEPT_DAYS, _BROWSER_KEPT_DAYS = 120.0, 75.0
_INFLATION = 0.22  # of the logarithm of amounts, over the whole stream


@dataclass(frozen=True)
class Slot:
    """The part of the stream that is generated at once: `start_ms` <= event time < `end_ms`, within one day.

    Attributes:
        weekday: 0 is Monday.
        progress: how far the stream has drifted, 0 to 1; always 0 without drift.
        position: how far the stream is, 0 to 1.
    """

    start_ms: int
    end_ms: int
    weekday: int
    progress: float
    position: float

    @property
    def days(self) -> float:
        """Return the length in days."""
        return (self.end_ms - self.start_ms) / DAY_MS


def slots(settings: SimulationSettings, events_max: int = 200_000) -> list[Slot]:
    """Cut the stream into days, or into parts of days if a day has more than about `events_max` payments."""
    choices = (1, 2, 3, 4, 6, 8, 12, 24, 48, 96, 288, 1440, 8640)
    parts = next((p for p in choices if settings.events_per_day / p <= events_max), choices[-1])
    length_ms = DAY_MS // parts
    made = []
    for start_ms in range(settings.start_ms, settings.end_ms, length_ms):
        position = (start_ms - settings.start_ms) / (settings.end_ms - settings.start_ms)
        weekday = (start_ms // DAY_MS + 3) % 7  # the epoch began on a Thursday
        made.append(Slot(start_ms, start_ms + length_ms, weekday, position if settings.drift else 0.0, position))
    return made


class Behaviour:
    """Honest payments, slot by slot; keeps who is on a trip and which devices are in use: O(cards) memory."""

    def __init__(self, settings: SimulationSettings, population: Population, rng: np.random.Generator) -> None:
        self._people = population
        self._rng = rng
        self._per_day = settings.events_per_day * (1 - settings.fraud_rate)
        cards = settings.cards
        self._away_from = np.zeros(cards, np.int64)
        self._away_until = np.zeros(cards, np.int64)
        self._away_place = population.home.copy()
        self._generation = np.zeros((cards, 4), np.int64)  # of each device, see device_of

    def generate(self, slot: Slot) -> Payments:
        """Return the slot's payments in no particular order; sessions may run past its end. No id, not yet arrived."""
        rng, people = self._rng, self._people
        self._live(slot)
        profiles = [_reached(_AT_WEEKEND if slot.weekday >= 5 else _BY_DAY), _reached(_AT_NIGHT)]
        hours = (np.array([slot.start_ms, slot.end_ms]) - slot.start_ms // DAY_MS * DAY_MS) / HOUR_MS
        edges = np.array([np.interp(hours, np.arange(25), profile) for profile in profiles])  # (profiles, 2)
        mass = (edges[:, 1] - edges[:, 0])[people.night.astype(np.int64)]
        mean = people.rate * mass * (self._per_day / people.rate.size * _WEEKDAY[slot.weekday])
        card = np.repeat(np.arange(people.rate.size), rng.poisson(mean))

        rows = np.zeros(card.size, PAYMENT)
        rows["card"] = card
        rows["ts_ms"] = self._times(slot, card, profiles, edges)
        is_away = (rows["ts_ms"] >= self._away_from[card]) & (rows["ts_ms"] < self._away_until[card])
        where = np.where(is_away, self._away_place[card], people.home[card])
        self._shop(rows, slot, where, is_away)
        self._devices(rows)
        log_eur = LOG_AMOUNT[rows["category"]] + LOG_AMOUNT_SPREAD[rows["category"]] * rng.standard_normal(card.size)
        log_eur += people.log_spend[card] + _INFLATION * slot.progress + 0.25 * is_away
        log_eur += np.where(rng.random(card.size) < 0.008, rng.uniform(1.0, 2.2, card.size), 0.0)  # a rare big purchase
        rows["cents"] = amount_cents(log_eur)
        return rows

    def current_device(self, card: Int64s, slot_number: Int64s) -> np.ndarray:
        """Return the fingerprints of these devices of these cards, as used now."""
        return device_of(self._people.secret[card], slot_number, self._generation[card, slot_number])

    def _live(self, slot: Slot) -> None:
        """Let trips begin and devices be replaced."""
        rng, cards = self._rng, self._people.rate.size
        leaves = (self._away_until < slot.start_ms) & (rng.random(cards) < self._people.trips_per_day * slot.days)
        away = np.flatnonzero(leaves)
        self._away_from[away] = slot.start_ms + (rng.random(away.size) * (slot.end_ms - slot.start_ms)).astype(np.int64)
        lasts_ms = (rng.exponential(_TRIP_DAYS, away.size) * DAY_MS).astype(np.int64)
        self._away_until[away] = self._away_from[away] + lasts_ms
        is_far = rng.random(away.size) < 0.35
        near, far = rng.integers(0, len(HOMES), away.size), rng.integers(len(HOMES), len(PLACES), away.size)
        self._away_place[away] = np.where(is_far, far, near)
        for number, kept_days in ((1, _PHONE_KEPT_DAYS), (2, _BROWSER_KEPT_DAYS), (3, _BROWSER_KEPT_DAYS)):
            self._generation[:, number] += rng.random(cards) < slot.days / kept_days

    def _times(self, slot: Slot, card: Int64s, profiles: list[Float64s], edges: Float64s) -> Int64s:
        """Draw event times by the hour's share, some of them shortly after the card's payment before."""
        rng, at_night = self._rng, self._people.night[card]
        hour = np.empty(card.size)
        for which, profile in enumerate(profiles):
            mine = at_night == bool(which)
            low, high = edges[which]
            hour[mine] = np.interp(low + rng.random(int(mine.sum())) * (high - low), profile, np.arange(25))
        ts_ms = slot.start_ms // DAY_MS * DAY_MS + (hour * HOUR_MS).astype(np.int64)

        follows = rng.random(card.size) < _SESSION_SHARE
        follows[:1] = False
        follows[1:] &= card[1:] == card[:-1]
        first = np.maximum.accumulate(np.where(follows, 0, np.arange(card.size)))  # index of each session's first
        gaps = np.cumsum(np.where(follows, rng.exponential(_SESSION_GAP_MS, card.size), 0.0))
        return np.maximum(ts_ms[first] + (gaps - gaps[first]).astype(np.int64), slot.start_ms)

    def _shop(self, rows: Payments, slot: Slot, where: Int64s, is_away: np.ndarray) -> None:
        """Choose channel and terminal; a payment's place is the shop's, or where the customer is."""
        rng, people, events = self._rng, self._people, rows.size
        card = rows["card"]
        goes_online = rng.random(events) < people.online_share[card] * (1 + 0.3 * slot.progress)
        by_app = goes_online & (rng.random(events) < 0.35 + 0.2 * slot.progress)
        rows["channel"] = np.where(by_app, APP, np.where(goes_online, WEB, POS))

        favourite = rng.random(events) ** 2  # the first favourites are visited most
        shop = people.shops[card, (favourite * people.shops.shape[1]).astype(np.int64)]
        strays = is_away | (rng.random(events) < 0.3)
        nearby = np.where(~is_away & (rng.random(events) < 0.04), rng.integers(0, len(HOMES), events), where)
        shop = np.where(strays, people.by_place.pick(rng.random(events), nearby), shop)
        site = people.sites[card, (favourite * people.sites.shape[1]).astype(np.int64)]
        site = np.where(rng.random(events) < 0.35, people.online.pick(rng.random(events), 0), site)
        rows["terminal"] = np.where(goes_online, site, shop)
        rows["category"] = people.category[rows["terminal"]]

        seen_from = np.where(rng.random(events) < 0.02, rng.integers(0, len(PLACES), events), where)  # VPNs, roaming
        rows["place"] = np.where(goes_online, seen_from, people.place[rows["terminal"]])

    def _devices(self, rows: Payments) -> None:
        """Pay with the chip or phone in shops, the phone in apps, a browser on the web."""
        rng, card = self._rng, rows["card"].astype(np.int64)
        browser = 2 + (rng.random(rows.size) * 1.2 * (self._people.devices[card] - 1)).astype(np.int64).clip(0, 1)
        in_shop = (rng.random(rows.size) < 0.25).astype(np.int64)
        number = np.where(rows["channel"] == POS, in_shop, np.where(rows["channel"] == APP, 1, browser))
        rows["device"] = self.current_device(card, number)
        one_off = (rows["channel"] == WEB) & (rng.random(rows.size) < 0.03)  # a cleared or a borrowed browser
        rows["device"][one_off] = rng.integers(0, 2**32, int(one_off.sum()), dtype=np.uint32)


def _reached(shares: list[int]) -> Float64s:
    """Return (25,) the share of the day's payments before each hour."""
    return np.concatenate([[0.0], np.cumsum(shares) / np.sum(shares)])

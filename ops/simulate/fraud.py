"""How thieves pay: patterns of fraud, and how their mix shifts."""

from collections.abc import Callable

import numpy as np

from ops.simulate.behaviour import Behaviour, Slot
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
)
from ops.simulate.settings import DAY_MS, HOUR_MS, SimulationSettings

PATTERNS = (
    "genuine",
    "stolen_card",  # a burst: growing amounts, goods that sell on, a new device, often far from home
    "card_testing",  # many cards, tiny amounts, one online merchant, few devices
    "terminal",  # a compromised shop: copies of many cards pay there, for days
    "takeover",  # somebody else in the account: a new device, several places, high amounts
    "friendly",  # the owner's own payment, disputed later: looks honest
    "wallet",  # the new pattern: stolen cards in wallets on few phones, round amounts, seemingly at home
)
STOLEN, TESTING, TERMINAL, TAKEOVER, FRIENDLY, WALLET = range(1, len(PATTERNS))

_SHARE_BEFORE = np.array([0.0, 0.34, 0.13, 0.22, 0.20, 0.11, 0.0])  # by pattern, at the start
_SHARE_AFTER = np.array([0.0, 0.23, 0.17, 0.17, 0.31, 0.12, 0.0])  # at the end of the stream, before the new pattern
_NEW_SHARE = 0.22
_MEAN_SIZE = {STOLEN: 6.5, TESTING: 30.0, TAKEOVER: 3.0, WALLET: 14.0}  # payments of one campaign
_PER_TERMINAL_DAY = 12.0  # frauds a day at a compromised terminal
_TERMINAL_DAYS = 4.0


class Thieves:
    """Fraudulent payments, slot by slot; keeps what is owed of each pattern and which terminals are compromised."""

    def __init__(
        self, settings: SimulationSettings, people: Population, behaviour: Behaviour, rng: np.random.Generator
    ) -> None:
        self._settings, self._people, self._behaviour, self._rng = settings, people, behaviour, rng
        self._owed = np.zeros(len(PATTERNS))
        self._compromised = np.zeros(0, np.int64)
        self._compromised_until = np.zeros(0, np.int64)
        self._campaigns: dict[int, Callable[[Slot, int], Payments]] = {
            STOLEN: self._stolen_cards,
            TESTING: self._card_testing,
            TAKEOVER: self._takeovers,
            WALLET: self._wallets,
        }

    def generate(self, slot: Slot, honest: Payments) -> Payments:
        """Return the campaigns that begin in the slot, and turn some of the `honest` payments into friendly fraud.

        Campaigns are whole, so what one slot has too many the next ones have fewer: the rate is met in the long run.
        """
        rate = self._settings.fraud_rate
        self._owed += honest.size * rate / (1 - rate) * _mix(self._settings, slot)
        rows = [self._compromised_terminals(slot)]
        for pattern, mean_size in _MEAN_SIZE.items():
            count = max(0, int(self._owed[pattern] / mean_size + self._rng.random()))
            made = self._campaigns[pattern](slot, count)
            made["pattern"] = pattern
            self._owed[pattern] -= made.size
            rows.append(made)
        self._owed[FRIENDLY] -= self._dispute(honest, int(max(0.0, self._owed[FRIENDLY])))
        return np.concatenate(rows)

    def _stolen_cards(self, slot: Slot, count: int) -> Payments:
        rng, people = self._rng, self._people
        of, step = _steps(2 + rng.poisson(_MEAN_SIZE[STOLEN] - 2, count))
        victim = self._victims(count)
        rows = np.zeros(of.size, PAYMENT)
        rows["card"] = victim[of]
        rows["ts_ms"] = self._starts(slot, count)[of] + _since_first(rng.exponential(6 * 60_000, of.size), step)
        place = self._places(people.home[victim], far_share=0.6)[of]
        in_shop = (rng.random(count) < 0.4)[of]
        shop = people.by_place.pick(rng.random(of.size), place)
        self._pay(rows, np.where(in_shop, shop, people.resale.pick(rng.random(of.size), 0)))
        rows["channel"] = np.where(in_shop, POS, WEB)
        rows["place"] = np.where(in_shop, people.place[shop], place)
        # A stolen card works in shops with its own chip; online the thief's browser is new.
        chip = self._behaviour.current_device(rows["card"].astype(np.int64), np.zeros(of.size, np.int64))
        rows["device"] = np.where(in_shop & (rng.random(count) < 0.45)[of], chip, self._new_devices(count)[of])
        start = rng.normal(3.6, 0.7, count) + people.log_spend[victim]
        rows["cents"] = amount_cents(start[of] + 0.32 * step + rng.normal(0, 0.4, of.size) + 0.15 * slot.progress)
        return rows

    def _card_testing(self, slot: Slot, count: int) -> Payments:
        rng, people = self._rng, self._people
        of, _ = _steps(10 + rng.poisson(_MEAN_SIZE[TESTING] - 10, count))
        rows = np.zeros(of.size, PAYMENT)
        rows["card"] = self._victims(of.size)
        length_ms = rng.uniform(0.3, 3.0, count) * HOUR_MS
        rows["ts_ms"] = self._starts(slot, count)[of] + (rng.random(of.size) * length_ms[of]).astype(np.int64)
        self._pay(rows, people.online.pick(rng.random(count), 0)[of])
        rows["channel"] = WEB
        home = people.home[rows["card"]]
        hides = rng.random(of.size) < 0.5  # behind a proxy in the victim's city
        rows["place"] = np.where(hides, home, self._places(np.zeros(count, np.int64), far_share=0.7)[of])
        rows["device"] = np.where(rng.random(of.size) < 0.5, self._new_devices(count)[of], self._new_devices(of.size))
        rows["cents"] = amount_cents(rng.normal(0.6 + 0.5 * slot.progress, 0.7, of.size))
        return rows

    def _takeovers(self, slot: Slot, count: int) -> Payments:
        rng, people = self._rng, self._people
        of, step = _steps(1 + rng.poisson(_MEAN_SIZE[TAKEOVER] - 1, count))
        victim = self._victims(count)
        rows = np.zeros(of.size, PAYMENT)
        rows["card"] = victim[of]
        rows["ts_ms"] = self._starts(slot, count)[of] + _since_first(rng.exponential(50 * 60_000, of.size), step)
        self._pay(rows, people.online.pick(rng.random(of.size), 0))
        rows["channel"] = np.where((rng.random(count) < 0.4)[of], APP, WEB)
        home = people.home[victim][of]
        rows["place"] = np.where(rng.random(of.size) < 0.25, home, self._places(home, far_share=0.4))
        rows["device"] = self._new_devices(count)[of]
        log_eur = LOG_AMOUNT[rows["category"]] + rng.normal(0, 0.8 * LOG_AMOUNT_SPREAD[rows["category"]])
        rows["cents"] = amount_cents(log_eur + people.log_spend[victim][of] + 1.4 - 0.2 * slot.progress)
        return rows

    def _wallets(self, slot: Slot, count: int) -> Payments:
        rng, people = self._rng, self._people
        of, step = _steps(6 + rng.poisson(_MEAN_SIZE[WALLET] - 6, count))
        rows = np.zeros(of.size, PAYMENT)
        rows["card"] = self._victims(of.size)
        rows["ts_ms"] = self._starts(slot, count)[of] + _since_first(rng.exponential(12 * 60_000, of.size), step)
        self._pay(rows, people.resale.pick(rng.random(count), 0)[of])
        rows["channel"] = APP
        rows["place"] = people.home[rows["card"]]
        rows["device"] = self._new_devices(count)[of]
        rows["cents"] = rng.choice([2500, 5000, 7500, 10_000, 15_000], of.size, p=[0.15, 0.35, 0.1, 0.3, 0.1])
        return rows

    def _compromised_terminals(self, slot: Slot) -> Payments:
        rng, people = self._rng, self._people
        count = max(0, int(self._owed[TERMINAL]))
        self._owed[TERMINAL] -= count
        wanted = int(np.ceil(count / (_PER_TERMINAL_DAY * slot.days)))
        still = self._compromised_until > slot.start_ms
        found = people.by_place.pick(rng.random(max(0, wanted - int(still.sum()))), self._some_homes(wanted, still))
        lasts_ms = (rng.uniform(0.5, 1.5, found.size) * _TERMINAL_DAYS * DAY_MS).astype(np.int64)
        self._compromised = np.concatenate([self._compromised[still], found])
        self._compromised_until = np.concatenate([self._compromised_until[still], slot.start_ms + lasts_ms])

        rows = np.zeros(count, PAYMENT)
        if not count:
            return rows
        self._pay(rows, self._compromised[rng.integers(0, self._compromised.size, count)])
        rows["place"] = people.place[rows["terminal"]]
        local = people.owners.pick(rng.random(count), rows["place"])  # copies are used where their owners shop
        rows["card"] = np.where(rng.random(count) < 0.75, local, self._victims(count))
        rows["ts_ms"] = self._starts(slot, count)
        rows["channel"] = POS
        chip = self._behaviour.current_device(rows["card"].astype(np.int64), np.zeros(count, np.int64))
        rows["device"] = np.where(rng.random(count) < 0.25, chip, self._new_devices(count))
        log_eur = LOG_AMOUNT[rows["category"]] + LOG_AMOUNT_SPREAD[rows["category"]] * rng.standard_normal(count)
        rows["cents"] = amount_cents(log_eur + 0.6 + 0.25 * slot.progress)
        rows["pattern"] = TERMINAL
        return rows

    def _dispute(self, honest: Payments, count: int) -> int:
        """Mark `count` of the larger online payments as friendly fraud, in place; return how many there were."""
        fit = np.flatnonzero((honest["channel"] != POS) & (honest["cents"] > 2500))
        chosen = self._rng.choice(fit, min(count, fit.size), replace=False)
        honest["pattern"][chosen] = FRIENDLY
        return chosen.size

    def _pay(self, rows: Payments, terminal: Int64s) -> None:
        rows["terminal"] = terminal
        rows["category"] = self._people.category[terminal]

    def _starts(self, slot: Slot, count: int) -> Int64s:
        return slot.start_ms + (self._rng.random(count) * (slot.end_ms - slot.start_ms)).astype(np.int64)

    def _victims(self, count: int) -> Int64s:
        """Choose cards: one that pays often is stolen more often."""
        return self._people.owners.pick(self._rng.random(count), self._some_homes(count))

    def _some_homes(self, count: int, less: np.ndarray | None = None) -> Int64s:
        wanted = count if less is None else max(0, count - int(less.sum()))
        return self._people.home[self._rng.integers(0, self._people.home.size, wanted)]

    def _places(self, home: Int64s, far_share: float) -> Int64s:
        """Choose places far away with that share, else the home's or, half as often, another city's nearby."""
        rng = self._rng
        far = rng.integers(len(HOMES), len(PLACES), home.size)
        near = np.where(rng.random(home.size) < 1 / 3, rng.integers(0, len(HOMES), home.size), home)
        return np.where(rng.random(home.size) < far_share, far, near)

    def _new_devices(self, count: int) -> np.ndarray:
        return self._rng.integers(0, 2**32, count, dtype=np.uint32)


def _mix(settings: SimulationSettings, slot: Slot) -> Float64s:
    """Return (patterns,) shares of the slot's frauds, which sum to 1."""
    mix = _SHARE_BEFORE + (_SHARE_AFTER - _SHARE_BEFORE) * slot.progress
    if settings.drift and slot.position >= settings.new_pattern_at:
        mix = mix * (1 - _NEW_SHARE)
        mix[WALLET] = _NEW_SHARE
    return mix


def _steps(sizes: Int64s) -> tuple[Int64s, Int64s]:
    """Return for each payment of campaigns of these sizes which campaign it is of, and the how-manieth of it."""
    of = np.repeat(np.arange(sizes.size), sizes)
    return of, np.arange(of.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def _since_first(gaps_ms: Float64s, step: Int64s) -> Int64s:
    """Return the time since the campaign's first payment, from the gap before each; the first one's is not counted."""
    reached = np.cumsum(np.where(step == 0, 0.0, gaps_ms))
    first = np.maximum.accumulate(np.where(step == 0, np.arange(step.size), 0))
    return (reached - reached[first]).astype(np.int64)

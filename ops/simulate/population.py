"""Who pays and where: places, merchant categories, cards with habits, terminals with popularity."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ops.simulate.settings import SimulationSettings

Int64s = NDArray[np.int64]
Float64s = NDArray[np.float64]

# One payment. `arrive_ms` is when its record reaches the log; `pattern` indexes fraud.PATTERNS, 0 is genuine.
PAYMENT = np.dtype(
    [
        ("ts_ms", "i8"),
        ("arrive_ms", "i8"),
        ("id", "i8"),
        ("card", "i4"),
        ("terminal", "i4"),
        ("device", "u4"),
        ("cents", "i4"),
        ("place", "i2"),
        ("category", "i1"),
        ("channel", "i1"),
        ("pattern", "i1"),
    ]
)
Payments = NDArray[np.void]  # (events,) of PAYMENT

CHANNELS = ("pos", "web", "app")
POS, WEB, APP = range(3)
MOST_CENTS = 9_999_999

# Cities: where customers live, and far away.
HOMES = (
    "DE-BER", "DE-HAM", "DE-MUC", "DE-CGN", "FR-PAR", "FR-LYO", "FR-MRS", "NL-AMS", "NL-RTM", "BE-BRU",
    "ES-MAD", "ES-BCN", "IT-ROM", "IT-MIL", "AT-VIE", "PT-LIS", "IE-DUB", "FI-HEL", "GR-ATH", "SK-BTS",
)  # fmt: skip
FAR = (
    "US-NYC", "US-LAX", "US-MIA", "GB-LON", "BR-SAO", "AE-DXB", "TH-BKK", "HK-HKG", "NG-LOS", "RO-BUH",
    "TR-IST", "MX-MEX",
)  # fmt: skip
PLACES = HOMES + FAR

# name, mean and spread of the logarithm of an amount in EUR, share of shops, share of online merchants
_CATEGORIES = (
    ("grocery", 3.2, 0.75, 0.26, 0.05),
    ("restaurant", 3.1, 0.60, 0.20, 0.06),
    ("fuel", 3.9, 0.40, 0.09, 0.00),
    ("pharmacy", 2.8, 0.60, 0.08, 0.03),
    ("transport", 2.2, 0.80, 0.10, 0.08),
    ("fashion", 4.0, 0.70, 0.11, 0.16),
    ("electronics", 4.8, 0.95, 0.06, 0.14),
    ("jewellery", 5.2, 0.90, 0.03, 0.03),
    ("travel", 5.3, 0.90, 0.02, 0.12),
    ("digital", 2.2, 0.90, 0.00, 0.18),
    ("gaming", 2.4, 1.00, 0.01, 0.10),
    ("home", 4.2, 0.85, 0.04, 0.05),
)
CATEGORIES = tuple(row[0] for row in _CATEGORIES)
LOG_AMOUNT = np.array([row[1] for row in _CATEGORIES])
LOG_AMOUNT_SPREAD = np.array([row[2] for row in _CATEGORIES])
RESALE = ("electronics", "jewellery", "digital", "fashion", "gaming")  # what is bought with a stolen card


class GroupedChoice:
    """Weighted choice among the members of a group, for many draws at once."""

    def __init__(self, groups: NDArray[np.integer], weights: NDArray[np.floating], groups_total: int) -> None:
        """Take (items,) group numbers below `groups_total` and (items,) weights, not all zero."""
        self._items = np.argsort(groups, kind="stable")
        self._reached = np.concatenate([[0.0], np.cumsum(weights[self._items])])
        edges = np.searchsorted(groups[self._items], np.arange(groups_total + 1))
        self._low, self._high = self._reached[edges[:-1]], self._reached[edges[1:]]
        empty = self._high <= self._low
        self._low[empty], self._high[empty] = 0.0, self._reached[-1]

    def pick(self, uniform: Float64s, group: NDArray[np.integer] | int) -> Int64s:
        """Return (draws,) items of `group`, one for each of (draws,) numbers in [0, 1); of any group if it is empty."""
        low, high = self._low[group], self._high[group]
        found = np.searchsorted(self._reached, low + uniform * (high - low), side="right") - 1
        return self._items[np.minimum(found, self._items.size - 1)]


@dataclass(frozen=True)
class Population:
    """Cards and terminals; arrays of (cards, ...) and (terminals,).

    Attributes:
        number: (cards,) 16 digits with a valid check digit, in a range that no scheme issues.
        home: place of each card; `rate`: its payments relative to the mean card; `log_spend`: its amounts, likewise.
        online_share: how much of it is paid online; `night`: whether its owner lives at night; `trips_per_day`.
        secret: (cards,) uint64 that its devices are made of; `devices`: how many browsers it has, 1 or 2.
        shops, sites: (cards, k) favourite terminals at home and online, the best first.
        place, category, is_online: of each terminal.
        by_place: chooses a shop in a place; `online` an online merchant; `resale` one whose goods sell on; `owners` a
        card that lives in a place, one that pays often more often.
    """

    number: NDArray[np.bytes_]
    home: Int64s
    rate: Float64s
    log_spend: Float64s
    online_share: Float64s
    night: NDArray[np.bool_]
    trips_per_day: Float64s
    secret: NDArray[np.uint64]
    devices: Int64s
    shops: Int64s
    sites: Int64s
    place: Int64s
    category: Int64s
    is_online: NDArray[np.bool_]
    by_place: GroupedChoice
    online: GroupedChoice
    resale: GroupedChoice
    owners: GroupedChoice


def make_population(settings: SimulationSettings, rng: np.random.Generator) -> Population:
    """Draw the cards and terminals of `settings`."""
    cards, terminals = settings.cards, settings.terminals
    home_weights = _zipf(len(HOMES), 0.6)
    is_online = rng.permutation(terminals) < max(3, terminals // 4)
    shares = np.array([[row[3], row[4]] for row in _CATEGORIES])
    category = np.where(
        is_online,
        rng.choice(len(CATEGORIES), terminals, p=shares[:, 1] / shares[:, 1].sum()),
        rng.choice(len(CATEGORIES), terminals, p=shares[:, 0] / shares[:, 0].sum()),
    )
    place_weights = np.concatenate([home_weights * 0.9, np.full(len(FAR), 0.1 / len(FAR))])
    place = rng.choice(len(PLACES), terminals, p=place_weights / place_weights.sum())
    popularity = _zipf(terminals, 0.8)[rng.permutation(terminals)]
    by_place = GroupedChoice(place, np.where(is_online, 0.0, popularity), len(PLACES))
    online = GroupedChoice(np.zeros(terminals, np.int64), np.where(is_online, popularity, 0.0), 1)
    sells_on = is_online & np.isin(category, [CATEGORIES.index(name) for name in RESALE])
    resale = GroupedChoice(np.zeros(terminals, np.int64), (sells_on if sells_on.any() else is_online) * 1.0, 1)

    home = rng.choice(len(HOMES), cards, p=home_weights)
    rate = rng.lognormal(0.0, 0.6, cards)
    rate /= rate.mean()
    return Population(
        number=_card_numbers(rng, cards),
        home=home,
        rate=rate,
        log_spend=rng.normal(0.0, 0.4, cards),
        online_share=rng.beta(2.0, 3.2, cards),
        night=rng.random(cards) < 0.15,
        trips_per_day=rng.gamma(1.0, 1 / 40, cards),
        secret=rng.integers(0, 2**63, cards, dtype=np.uint64),
        devices=rng.integers(1, 3, cards),
        shops=by_place.pick(rng.random((cards, 8)), home[:, None]),
        sites=online.pick(rng.random((cards, 6)), 0),
        place=place,
        category=category,
        is_online=is_online,
        by_place=by_place,
        online=online,
        resale=resale,
        owners=GroupedChoice(home, rate, len(PLACES)),
    )


def device_of(secret: NDArray[np.uint64], number: Int64s, generation: Int64s) -> NDArray[np.uint32]:
    """Return the fingerprint of a card's device: number 0 is its chip, 1 its phone, 2 and 3 its browsers.

    Source: the finaliser of splitmix64 (Steele, Lea, Flood 2014), so that neighbours look unrelated.
    """
    mixed = secret + (number.astype(np.uint64) << np.uint64(48))
    mixed += generation.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed >> np.uint64(32)).astype(np.uint32)


def amount_cents(log_eur: Float64s) -> Int64s:
    """Return cents of (events,) logarithms of amounts in EUR, within 0.01 and 99999.99."""
    return np.clip(np.round(np.exp(np.minimum(log_eur, 12.0)) * 100), 1, MOST_CENTS).astype(np.int64)


def _zipf(items: int, exponent: float) -> Float64s:
    weights = np.arange(1, items + 1, dtype=np.float64) ** -exponent
    return weights / weights.sum()


def _card_numbers(rng: np.random.Generator, cards: int) -> NDArray[np.bytes_]:
    """Draw (cards,) distinct numbers of 16 digits; those that begin with 9999 belong to no card scheme."""
    step = 10**11 // cards
    body = 9999 * 10**11 + np.arange(cards) * step + rng.integers(0, step, cards)  # distinct: one in each step
    digits = rng.permutation(body)[:, None] // 10 ** np.arange(14, -1, -1) % 10
    doubled = digits[:, ::2] * 2  # Luhn: every second digit counts twice, from the one before the check digit
    total = (doubled - 9 * (doubled > 9)).sum(axis=1) + digits[:, 1::2].sum(axis=1)
    full = np.concatenate([digits, (-total % 10)[:, None]], axis=1)
    return np.ascontiguousarray(full.astype(np.uint8) + ord("0")).view("S16").ravel()

"""The benchmark workload "card features": a long stream of payments, ten a second."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ops.simulate.lines import Block, LinesFile, Texts, money, padded, timestamps
from ops.simulate.settings import LARGEST_TS_MS, MONDAY_2026_MS, SimulationError

_CHUNK = 25_000
_GAP_MS = 100  # ten events a second
_LATE_SHARE, _LATE_MAX_MS = 0.05, 5_000
_CARD_EXPONENT = 0.71
_MERCHANTS = 5_000
_COUNTRIES = np.array([b"DE", b"FR", b"NL", b"ES", b"IT", b"AT", b"BE", b"US", b"GB", b"BR"])
_EVENT = np.dtype(
    {
        "names": ["arrive_ms", "ts_ms", "id", "card", "merchant", "cents", "country"],
        "formats": ["i8", "i8", "i8", "i4", "i4", "i4", "i1"],
    }
)
Events = NDArray[np.void]  # (events,) of _EVENT


def card_features_stream(path: Path, events: int, cards: int = 10_000, seed: int = 7) -> str:
    """Write `events` lines of `{"event_id","card","merchant","country","amount","ts"}` in arrival order.

    Ten events a second of event time, cards by Zipf 0.71 (an event of the default 10,000 cards then sees about 50 of
    its card within an hour, itself included), 5 % of them up to 5 s late. Memory does not grow with `events`.

    Args:
        path: the file, which appears when it is whole; gzip if its name ends in `.gz`.
        events: how many lines.
        cards: how many cards there are.
        seed: the same one gives the same bytes.

    Returns:
        The sha256 of the lines, in hex.

    Raises:
        SimulationError: `events` or `cards` cannot be used.
        OSError: writing failed; there is no new file then.
    """
    most = (LARGEST_TS_MS - MONDAY_2026_MS) // _GAP_MS - _CHUNK
    if not 0 <= events <= most:
        raise SimulationError(f"events is {events}; choose between 0 and {most}")
    if not 1 <= cards <= 100_000_000:
        raise SimulationError(f"cards is {cards}; choose between 1 and 100000000")
    with LinesFile(path) as file:
        for chunk in _chunks(events, cards, np.random.Generator(np.random.PCG64(seed))):
            file.write(_lines(chunk), chunk.size)
    return file.sha256


def _chunks(events: int, cards: int, rng: np.random.Generator) -> Iterator[Events]:
    """Yield the stream in arrival order."""
    reached = np.cumsum(np.arange(1, cards + 1, dtype=np.float64) ** -_CARD_EXPONENT)
    by_rank = rng.permutation(cards).astype(np.int32)  # so that a card's number says nothing about how often it pays
    under_way = np.zeros(0, _EVENT)
    for first in range(0, events, _CHUNK):
        count = min(_CHUNK, events - first)
        made = np.zeros(count, _EVENT)
        made["id"] = first + np.arange(count)
        made["ts_ms"] = MONDAY_2026_MS + made["id"] * _GAP_MS + rng.integers(0, _GAP_MS, count)
        delay_ms = np.where(rng.random(count) < _LATE_SHARE, rng.integers(1, _LATE_MAX_MS + 1, count), 0)
        made["arrive_ms"] = made["ts_ms"] + delay_ms
        made["card"] = by_rank[np.searchsorted(reached, rng.random(count) * reached[-1], side="right")]
        made["merchant"] = (rng.random(count) ** 2 * _MERCHANTS).astype(np.int32)
        abroad = rng.random(count) < 0.1
        made["country"] = np.where(abroad, rng.integers(0, _COUNTRIES.size, count), made["card"] % _COUNTRIES.size)
        log_eur = 3.2 + rng.standard_normal(count)
        made["cents"] = np.clip(np.round(np.exp(np.minimum(log_eur, 11.0)) * 100), 1, 9_999_999)

        known = np.concatenate([under_way, made])
        known = known[np.argsort(known["arrive_ms"], kind="stable")]
        arrived = known.size
        if first + count < events:  # what arrives after the next chunk has begun waits for it
            arrived = int(np.searchsorted(known["arrive_ms"], MONDAY_2026_MS + (first + count) * _GAP_MS))
        yield known[:arrived]
        under_way = known[arrived:]


def _lines(chunk: Events) -> bytes:
    country: Texts = _COUNTRIES[chunk["country"]]
    parts: list[Texts | bytes] = [
        b'{"event_id":"e', *padded(chunk["id"], 12),
        b'","card":"c', *padded(chunk["card"], 8),
        b'","merchant":"m', *padded(chunk["merchant"], 4),
        b'","country":"', country,
        b'","amount":', *money(chunk["cents"]),
        b',"ts":', *timestamps(chunk["ts_ms"]), b"}\n",
    ]  # fmt: skip
    return Block(parts, chunk.size).text()

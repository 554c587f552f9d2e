"""The records of payments and labels as JSON lines, a few payments broken on purpose."""

import re
from collections.abc import Callable

import numpy as np

from ops.simulate.labels import Labels
from ops.simulate.lines import Block, Texts, hexadecimal, money, padded, timestamps
from ops.simulate.population import CATEGORIES, CHANNELS, PLACES, Payments, Population

_PLACES = np.array([name.encode() for name in PLACES])
_CATEGORIES = np.array([name.encode() for name in CATEGORIES])
_CHANNELS = np.array([name.encode() for name in CHANNELS])
_TRUTH = np.array([b"false", b"true"])


def _amount(replacement: bytes) -> Callable[[bytes], bytes]:
    return lambda line: re.sub(rb'"amount":[0-9.]+', lambda _: b'"amount":' + replacement, line)


# What producers get wrong. Each takes a record with its newline, and returns at least one line that cannot be read.
BREAKS: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda line: line[: len(line) // 2] + b"\n",
    "amount is text": _amount(b'"12,50"'),
    "amount is huge": _amount(b"1e300"),
    "amount is an object": _amount(b'{"value":12.5,"currency":"EUR"}'),
    "card is missing": lambda line: re.sub(rb'"card":"\d+",', b"", line),
    "terminal is null": lambda line: re.sub(rb'"terminal":"t\d+"', b'"terminal":null', line),
    "time is text": lambda line: re.sub(rb'"ts":\d+', b'"ts":"yesterday"', line),
    "bad utf-8": lambda line: line.replace(b'"place":"', b'"place":"\xff\xfe'),
    "two objects on a line": lambda line: line[:-1] + line,
    "raw newline in a text": lambda line: line.replace(b'"channel":"', b'"channel":"\n'),
    "not json": lambda _: b"upstream connect error or disconnect/reset before headers\n",
}


def payment_lines(people: Population, payments: Payments, breaks: dict[int, str]) -> tuple[bytes, int]:
    """Write payments as JSON lines.

    Args:
        people: whose cards these are.
        payments: (records,) in arrival order.
        breaks: index of a record to break: name of the way, one of BREAKS.

    Returns:
        The text and its number of lines (a break may add one).
    """
    block = Block(
        [
            b'{"event_id":"p', *padded(payments["id"], 12),
            b'","ts":', *timestamps(payments["ts_ms"]),
            b',"card":"', people.number[payments["card"]],
            b'","terminal":"t', *padded(payments["terminal"], 8),
            b'","device":"d', *hexadecimal(payments["device"]),
            b'","place":"', _PLACES[payments["place"]],
            b'","merchant_category":"', _CATEGORIES[payments["category"]],
            b'","channel":"', _CHANNELS[payments["channel"]],
            b'","amount":', *money(payments["cents"]),
            b"}\n",
        ],
        payments.size,
    )  # fmt: skip
    text, done = [], 0
    for index in sorted(breaks):
        text += [block.text(done, index), BREAKS[breaks[index]](block.text(index, index + 1))]
        done = index + 1
    whole = b"".join([*text, block.text(done)])
    return whole, payments.size + sum(part.count(b"\n") - 1 for part in text[1::2])


def label_lines(labels: Labels) -> bytes:
    """Write labels as JSON lines."""
    truth: Texts = _TRUTH[labels["is_fraud"].astype(np.int64)]
    parts: list[Texts | bytes] = [
        b'{"event_id":"p', *padded(labels["id"], 12),
        b'","reported_at":', *timestamps(labels["reported_ms"]),
        b',"is_fraud":', truth, b"}\n",
    ]  # fmt: skip
    return Block(parts, labels.size).text()

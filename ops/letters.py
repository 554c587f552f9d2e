"""Dead letters of an app: look at them, read one, send them in again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from connectors.log import Log
from connectors.secrets import Sealer
from pipeline.dead_letters import dead_topic, from_rows
from pipeline.errors import nearest
from pipeline.inputs import DeadLetter

KINDS = ("invalid", "future", "late")
_READ_ROWS = 8192
_SEND_ROWS = 1000  # letters in one append


class LettersError(ValueError):
    """A dead letter is not there, or cannot be read or sent as asked."""


@dataclass(frozen=True)
class Letter:
    """A dead letter and where it stands.

    Attributes:
        number: what commands call it by: its offset on one partition; on several, offset * partitions + partition.
        sealed: whether its bytes were encrypted; `letter.raw` is empty without the key then.
    """

    number: int
    letter: DeadLetter
    sealed: bool


@dataclass(frozen=True)
class Wanted:
    """Which letters: all that fit every filter given.

    Attributes:
        numbers: only these; () for any.
        kind: invalid, future or late.
        stream: of which input.
    """

    numbers: tuple[int, ...] = ()
    kind: str | None = None
    stream: str | None = None

    def __post_init__(self) -> None:
        """Refuse a kind that does not exist."""
        if self.kind is not None and self.kind not in KINDS:
            raise LettersError(f"kind is {self.kind!r}; {nearest(self.kind, KINDS)}")

    def fits(self, row: int, rows: pa.RecordBatch, number: int) -> bool:
        """Tell whether a row of the topic, the letter of a number, is wanted."""
        return (
            (not self.numbers or number in self.numbers)
            and (self.kind is None or rows.column("kind")[row].as_py() == self.kind)
            and (self.stream is None or rows.column("stream")[row].as_py() == self.stream)
        )


def letters(log: Log, app: str, wanted: Wanted, sealer: Sealer | None = None) -> Iterator[Letter]:
    """Yield the dead letters of an app that are wanted, partition by partition, oldest first.

    Raises:
        LettersError: no app of that name has written dead letters here.
        SecretError: another key encrypted them.
    """
    topic = dead_topic(app)
    topics = {each.name: each for each in log.topics()}
    if topic not in topics:
        known = [name.removesuffix(".dead") for name in topics if name.endswith(".dead")]
        raise LettersError(f"no app {app!r} has dead letters in this log; {nearest(app, known)}")
    count = topics[topic].partitions
    for partition in range(count):
        at = log.begin(topic, partition)
        while stored := log.read_rows(topic, partition, at, _READ_ROWS):
            for base, rows in stored:
                at = base + rows.num_rows
                numbers = range(base * count + partition, at * count + partition, count)
                chosen = [row for row, number in enumerate(numbers) if wanted.fits(row, rows, number)]
                some = rows.take(pa.array(chosen, pa.int64()))
                sealed = some.column("sealed").to_pylist()
                for row, letter, closed in zip(chosen, from_rows(some, sealer), sealed, strict=True):
                    yield Letter(numbers[row], letter, closed)


def one_letter(log: Log, app: str, number: int, sealer: Sealer | None) -> Letter:
    """Return a letter by its number.

    Raises:
        LettersError: there is none of that number.
    """
    found = next(letters(log, app, Wanted((number,)), sealer), None)
    if found is None:
        raise LettersError(f"there is no dead letter {number}; see: pelton dlq list {app}")
    return found


def redrive(log: Log, app: str, chosen: Sequence[Letter], fixed: bytes | None, now_ms: int) -> dict[str, int]:
    """Append letters to their topics again, each with the offset it came from: it is applied once, and never late.

    Args:
        chosen: the letters.
        fixed: what to send instead of the original bytes, for a single letter.

    Returns:
        How many were appended, by stream.

    Raises:
        LettersError: a letter's bytes are encrypted and there is no key, or several would get the same bytes.
    """
    if fixed is not None and len(chosen) != 1:
        raise LettersError(f"--fix replaces the bytes of one letter, and {len(chosen)} are chosen; give one number")
    for each in chosen:
        if each.sealed and not each.letter.raw:
            raise LettersError(f"letter {each.number} is encrypted and there is no key; set PELTON_KEY")
    sent: dict[str, int] = {}
    for (stream, partition), some in _by_input(chosen).items():
        for first in range(0, len(some), _SEND_ROWS):
            part = some[first : first + _SEND_ROWS]
            values = [each.letter.raw if fixed is None else fixed for each in part]
            log.append(stream, partition, values, now_ms, [each.letter.offset for each in part])
        sent[stream] = sent.get(stream, 0) + len(some)
    return sent


def shown(raw: bytes) -> str:
    r"""Return a record for people: its text, or its bytes where it is none.

    >>> shown(b'{"a": 1}\n'), shown(b"\x00\x00\x01\xff")
    ('{"a": 1}', '4 bytes: 000001ff')
    """
    try:
        text = raw.decode().rstrip()
    except UnicodeDecodeError:
        text = "\0"
    return text if text.isprintable() or raw[:1] == b"{" else f"{len(raw):,} bytes: {raw[:500].hex()}"


def read_fix(path: Path) -> bytes:
    """Return the record in a file, one line.

    Raises:
        LettersError: the file holds no record, or more than a line.
    """
    lines = [line for line in path.read_bytes().splitlines() if line.strip()]
    if len(lines) != 1:
        raise LettersError(f"{path} holds {len(lines)} lines; write the corrected record as one line")
    return lines[0] + b"\n"


def _by_input(chosen: Sequence[Letter]) -> dict[tuple[str, int], list[Letter]]:
    found: dict[tuple[str, int], list[Letter]] = {}
    for each in chosen:
        found.setdefault((each.letter.stream, each.letter.partition), []).append(each)
    return found

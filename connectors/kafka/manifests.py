"""The manifests of a group, as records of a topic: found by looking back from its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiokafka.errors import OffsetOutOfRangeError

from connectors.kafka.reader import EARLIEST, LATEST, Place, Reader

FIRST_BYTES = 4096  # of one look: a broker gives a whole batch at least, and others are not wanted
LOOK_BACK = 64  # offsets at first; each commit takes two, its manifest and the marker of its transaction

TRIES_MAX = 5

Numbered = tuple[int, int, bytes]  # commit, offset, manifest
Found = TypeVar("Found")


def manifest_topic(group: str) -> str:
    """Return the name of the topic that keeps a group's manifests."""
    return f"{group}.manifests"


class Tail:
    """The newest manifests of a partition as of now, read back from the end as far as anybody asked.

    Args:
        begin, end: the partition's offsets, `end` for readers of committed messages.
    """

    def __init__(self, reader: Reader, place: Place, begin: int, end: int) -> None:
        self._reader, self._place, self._begin = reader, place, begin
        self._found: list[Numbered] = []  # all from `_start` on, oldest first
        self._start, self._back = end, LOOK_BACK

    @classmethod
    async def of(cls, reader: Reader, topic: str, partition: int) -> Tail:
        """Look where the partition ends; nothing of it is read yet."""
        return cls(reader, (topic, partition), *await _bounds(reader, topic, partition))

    async def newest(self) -> Numbered | None:
        """Return the newest commit, None before the first."""
        while not self._found and self._start > self._begin:
            await self._look_back()
        return self._found[-1] if self._found else None

    async def since(self, commit: int) -> list[Numbered]:
        """Return the manifests of later commits than this one, oldest first."""
        while self._start > self._begin and not (self._found and self._found[0][0] <= commit + 1):
            if self._found:
                self._back = max(self._back, 2 * (self._found[0][0] - commit))
            await self._look_back()
        return [each for each in self._found if each[0] > commit]

    async def _look_back(self) -> None:
        start = max(self._start - self._back, self._begin)
        self._found = await _between(self._reader, self._place, start, self._start) + self._found
        self._start, self._back = start, self._back * 4


async def newest_manifest(reader: Reader, topic: str, partition: int) -> Numbered | None:
    """Return the newest commit, None before the first."""

    async def look() -> Numbered | None:
        return await (await Tail.of(reader, topic, partition)).newest()

    return await though_others_forget(look)


async def though_others_forget(look: Callable[[], Awaitable[Found]]) -> Found:
    """Look anew where what was looked at was forgotten meanwhile: a former owner's last snapshot may do so late."""
    for _ in range(TRIES_MAX - 1):
        try:
            return await look()
        except OffsetOutOfRangeError:
            continue
    return await look()


async def manifests_since(reader: Reader, topic: str, partition: int, since: int) -> list[Numbered]:
    """Return the manifests of commits after `since`, oldest first."""

    async def look() -> list[Numbered]:
        return await (await Tail.of(reader, topic, partition)).since(since)

    return await though_others_forget(look)


async def forget_before(reader: Reader, topic: str, partition: int, commit: int) -> int:
    """Remove the manifests of commits before this one, never the newest; return how many."""
    return await though_others_forget(lambda: _forget(reader, topic, partition, commit))


async def _forget(reader: Reader, topic: str, partition: int, commit: int) -> int:
    place = (topic, partition)
    begin, end = await _bounds(reader, topic, partition)
    newest = await Tail(reader, place, begin, end).newest()
    oldest, _ = await _first(reader, place, begin) if newest is not None else (0, 0)
    if newest is None or min(commit, newest[0]) <= oldest:
        return 0
    kept, offset = newest[:2] if commit >= newest[0] else await _search(reader, place, begin, newest[1], commit)
    await reader.delete_before(topic, partition, offset)
    return kept - oldest


async def _search(reader: Reader, place: Place, low: int, high: int, commit: int) -> tuple[int, int]:
    """Return number and offset of the first commit from this one on, by halving the offsets between."""
    while low < high:
        middle = (low + high) // 2
        number, offset = await _first(reader, place, middle)
        if 0 <= number < commit:
            low = offset + 1
        else:
            high = middle
    return await _first(reader, place, low)


async def _first(reader: Reader, place: Place, start: int) -> tuple[int, int]:
    """Return commit and offset of the first manifest from an offset on, (-1, -1) for none."""
    at = start
    while True:
        fetched = (await reader.fetch({place: at}, bytes_max=FIRST_BYTES))[place]
        if len(fetched.messages):
            first = fetched.messages.cut(at, 1)
            return int(first.keys[0].as_py()), int(first.offsets[0])
        if fetched.messages.end <= at or fetched.messages.end >= fetched.last_stable:
            return -1, -1
        at = fetched.messages.end


async def _between(reader: Reader, place: Place, start: int, end: int) -> list[Numbered]:
    found: list[Numbered] = []
    at = start
    while at < end:
        messages = (await reader.fetch({place: at}))[place].messages
        columns = zip(messages.keys.to_pylist(), messages.offsets.tolist(), messages.values.to_pylist(), strict=True)
        found += [(int(key), offset, value) for key, offset, value in columns if offset < end]
        if messages.end <= at:
            break
        at = messages.end
    return found


async def _bounds(reader: Reader, topic: str, partition: int) -> tuple[int, int]:
    begin, end = await asyncio.gather(*(reader.offset(topic, partition, at) for at in (EARLIEST, LATEST)))
    return begin, end

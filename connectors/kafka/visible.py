"""Reading what was committed a moment ago: a broker says that a commit is decided before readers can see it."""

from __future__ import annotations

import asyncio
import time

from connectors.kafka.manifests import newest_manifest
from connectors.kafka.reader import LATEST, Place, Reader

VISIBLE_S_MAX = 1.0  # others' open transactions may hold our commits back: then readers see them later
MANIFEST_S_MAX = 10.0  # of which nobody else writes any
LOOK_S = 0.001


class Visible:
    """Lets reads of this process wait for its own commits, some milliseconds; runs on the connection's event loop."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._written: dict[Place, tuple[int, float]] = {}  # behind the last message, until when to wait for it

    def written(self, place: Place, end: int) -> None:
        """Note that messages before an offset are committed. Any thread may call."""
        before = self._written.get(place, (0, 0.0))[0]
        self._written[place] = (max(end, before), time.monotonic() + VISIBLE_S_MAX)

    async def is_coming(self, place: Place, offset: int) -> bool:
        """Pause and return True if something at or behind an offset is committed and may not be seen yet."""
        end, until_s = self._written.get(place, (0, 0.0))
        if offset >= end or time.monotonic() > until_s:
            return False
        await asyncio.sleep(LOOK_S)
        return True

    async def end(self, topic: str, partition: int) -> int:
        """Return the end for readers of committed messages."""
        while True:
            found = await self._reader.offset(topic, partition, LATEST)
            if not await self.is_coming((topic, partition), found):
                return found

    async def manifest(self, topic: str, partition: int, least: int) -> tuple[int, bytes] | None:
        """Return the newest commit and its manifest, of commit `least` or a later one."""
        until_s = time.monotonic() + MANIFEST_S_MAX
        while True:
            found = await newest_manifest(self._reader, topic, partition)
            if (found[0] if found else 0) >= least or time.monotonic() > until_s:
                return (found[0], found[2]) if found else None
            await asyncio.sleep(LOOK_S)

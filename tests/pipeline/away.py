"""A file system in memory that fails or hangs when it is told to: a store of snapshots on a bad day."""

from __future__ import annotations

import threading

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class ClientError(Exception):
    """What the client of a store raises: no OSError."""


class AwayFileSystem(MemoryFileSystem):
    """`away://`: as `memory://`, unless `error` is set, or `answers` is not.

    Attributes:
        error: what every call raises from then on, None for nothing.
        answers: cleared, every call waits until it is set again.
        writes_left: how many files can still be written before `error` comes; None for no limit.
    """

    protocol = "away"
    cachable = True
    store: dict = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    error: Exception | None = None
    writes_left: int | None = None
    answers = threading.Event()
    answers.set()

    @classmethod
    def reset(cls) -> None:
        """Make it empty and well."""
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]
        cls.error, cls.writes_left = None, None
        cls.answers.set()

    def _be_bad(self) -> None:
        assert self.answers.wait(60), "nobody let the store answer again"
        if self.error is not None and self.writes_left is None:
            raise self.error

    def ls(self, path, detail=True, **options):
        self._be_bad()
        return super().ls(path, detail=detail, **options)

    def cat_file(self, path, start=None, end=None, **options):
        self._be_bad()
        return super().cat_file(path, start, end, **options)

    def _open(self, path, mode="rb", **options):
        if "w" in mode:
            if AwayFileSystem.writes_left == 0:
                AwayFileSystem.writes_left = None
            elif AwayFileSystem.writes_left is not None:
                AwayFileSystem.writes_left -= 1
        self._be_bad()
        return super()._open(path, mode, **options)


fsspec.register_implementation("away", AwayFileSystem, clobber=True)
fsspec.register_implementation("absent", "absent_package.FileSystem", clobber=True, errtxt="install absent_package")

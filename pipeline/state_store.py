"""Snapshots of an engine's state: files that are whole or absent, verified by hash when they are read."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.generic]]
_NAME = re.compile(r"(?P<commit>\d{12})-(?P<digest>[0-9a-f]{64})\.npz")


class StateStore:
    """Snapshots of one group and partition in a folder.

    Args:
        folder: made if missing.
        keep: how many snapshots to keep.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self._folder, self._keep = folder, keep

    def save(self, commit: int, arrays: Mapping[str, NDArray[np.generic]]) -> Path:
        """Write the state as of a commit, and remove older snapshots beyond those that are kept.

        Raises:
            OSError: the folder cannot be written; older snapshots stay.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        part = self._folder / f".{commit}.{os.getpid()}.part"
        try:
            with part.open("wb") as file:
                np.savez(file, **{_escaped(name): array for name, array in arrays.items()})  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            path = self._folder / f"{commit:012d}-{_digest(part)}.npz"
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        for _, old in list(self._all())[self._keep :]:
            old.unlink(missing_ok=True)
        return path

    def newest(self, commit_max: int) -> tuple[int, Arrays] | None:
        """Return commit and state of the newest undamaged snapshot at or before a commit."""
        for commit, path in self._all():
            if commit <= commit_max and (arrays := _read(path)) is not None:
                return commit, arrays
        return None

    def oldest_commit(self) -> int:
        """Return the commit of the oldest snapshot, 0 if there is none."""
        found = list(self._all())
        return found[-1][0] if found else 0

    def _all(self) -> Iterator[tuple[int, Path]]:
        if not self._folder.is_dir():
            return
        for path in sorted(self._folder.iterdir(), reverse=True):
            if match := _NAME.fullmatch(path.name):
                yield int(match["commit"]), path


def _read(path: Path) -> Arrays | None:
    match = _NAME.fullmatch(path.name)
    try:
        if match is None or _digest(path) != match["digest"]:
            return None
        with np.load(path, allow_pickle=False) as file:
            return {_unescaped(name): file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile):
        return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _escaped(name: str) -> str:
    return name.replace("/", "|")


def _unescaped(name: str) -> str:
    return name.replace("|", "/")

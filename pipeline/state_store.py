"""Snapshots of state on any file system that fsspec knows: whole or absent, verified by hash when they are read.

A snapshot is a manifest, `COMMIT-WRITER-SHA256.json`, that names *chunks*, `WRITER/SHA256`: pieces of arrays,
compressed. The manifest is written last, so a snapshot that broke off is none. A writer is one owner of a partition,
from its first snapshot to its last one. It builds on its own chunks only, and removes only what is older than its
own snapshots: two owners that race after a takeover cannot take anything from each other that a restart would need.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import PeltonError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

Array = NDArray[np.generic]
Arrays = dict[str, Array]
CHUNK_BYTES = 4 << 20  # of an array, before compression
READ_AT_ONCE = 16  # chunks: stores on the network give them side by side
# They have no folders to make, and asking for one would make a bucket of a misspelled name.
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci"}
LEVEL = 1  # of zstd: higher ones save a few per cent more and take several times as long
_MANIFEST = re.compile(r"(?P<commit>\d{12})-(?P<writer>\d{12}\.[0-9a-f]{8})-(?P<digest>[0-9a-f]{64})\.json")
_WRITER = re.compile(r"\d{12}\.[0-9a-f]{8}")
_CHUNK = re.compile(r"\d{12}\.[0-9a-f]{8}/[0-9a-f]{64}")


class StateStoreError(PeltonError):
    """The store of snapshots cannot be used or asked; the message says where and why."""


class _Stored(msgspec.Struct):
    """An array in a manifest: chunks are (name, bytes before compression)."""

    dtype: str
    shape: list[int]
    chunks: list[tuple[str, int]]


class _Manifest(msgspec.Struct):
    """Layers are newest first: what a later one has of a key counts."""

    commit: int
    positions: dict[str, int]
    layers: list[dict[str, _Stored]]


# Made once, here: msgspec crashes if two threads meet a type for the first time at once.
_DECODER = msgspec.json.Decoder(_Manifest)


@dataclass(frozen=True)
class Snapshot:
    """State as of a commit.

    Attributes:
        positions: input -> offset of the first record that is not in it.
        layers: named arrays, newest first.
    """

    commit: int
    positions: dict[str, int]
    layers: list[Arrays]


@dataclass(frozen=True, order=True)
class _Found:
    commit: int
    writer: str
    name: str


class StateStore:
    """Snapshots of one group and partition.

    Args:
        place: a folder, or the URL of one: `file://`, `s3://`, `gs://`, `abfs://`, `memory://` and so on.
        keep: how many snapshots to keep.

    Attributes:
        place: as given.
        bytes_written, bytes_read: by this object, as stored.

    Raises:
        StateStoreError: the URL cannot be understood, or its file system needs a package that is not installed.
    """

    def __init__(self, place: Path | str, keep: int = 2) -> None:
        self.place, self._keep = str(place), keep
        self._fs, self._root = open_place(place)
        self._writer: str | None = None
        self._chunks: set[str] = set()  # written by this writer, and there
        self._own: list[tuple[_Found, _Manifest]] = []
        self.bytes_written = self.bytes_read = 0

    @classmethod
    def of(cls, state: Path | str, group: str, partition: int) -> StateStore:
        """Return the store of one group and partition below a folder or URL of all."""
        if isinstance(state, Path):
            return cls(state / group / str(partition))
        return cls(f"{state.rstrip('/')}/{group}/{partition}")

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine: waiting for it changes nothing."""
        return "file" in _protocols(self._fs)

    @property
    def layers(self) -> int:
        """How many layers the last snapshot of this object has; 0 before the first, and after one that failed."""
        return len(self._own[-1][1].layers) if self._own else 0

    def save(
        self,
        commit: int,
        arrays: Mapping[str, Array | Iterable[Array]],
        positions: Mapping[str, int] | None = None,
        onto: Collection[str] = (),
    ) -> int:
        """Write the state as of a commit, then remove older snapshots beyond those that are kept.

        Args:
            commit: not below that of the last one.
            arrays: named; one given in pieces, along the first axis, is stored as one.
            positions: input -> offset of the first record that is not in it.
            onto: names of arrays that are only what changed since the last snapshot of this object: what that one
                has of them stays beneath.

        Returns:
            The commit of the oldest snapshot that is there.

        Raises:
            StateStoreError: it cannot be written, or there is nothing to build on; older snapshots stay.
        """
        if onto and not self._own:
            raise StateStoreError(f"{self.place} has no snapshot of this process to build on; save the whole state")
        beneath = self._own[-1][1].layers if onto else []
        below = [{name: each[name] for name in onto if name in each} for each in beneath]
        try:
            if self._writer is None:
                self._writer = f"{commit:012d}.{secrets.token_hex(4)}"
                if not _protocols(self._fs) & OBJECT_STORES:
                    self._fs.makedirs(f"{self._root}/{self._writer}", exist_ok=True)
            layer = {name: self._store(each) for name, each in arrays.items()}
            manifest = _Manifest(commit, dict(positions or {}), [layer, *below])
            body = msgspec.json.encode(manifest)
            name = f"{commit:012d}-{self._writer}-{hashlib.sha256(body).hexdigest()}.json"
            self._write(f"{self._root}/{name}", body)
        except Exception as error:  # whatever a client of a store raises
            raise StateStoreError(f"{self.place}: {_in_words(error)}") from error
        self._own = [*self._own, (_Found(commit, self._writer, name), manifest)][-self._keep :]
        return self._collect()

    def newest(self, commit_max: int) -> Snapshot | None:
        """Return the newest undamaged snapshot at or before a commit.

        Raises:
            StateStoreError: the store cannot be asked; there may be one.
        """
        try:
            for found in sorted(_found(self._names()), reverse=True):
                if found.commit <= commit_max and (snapshot := self._read(found)) is not None:
                    return snapshot
        except Exception as error:
            raise StateStoreError(f"{self.place}: {_in_words(error)}") from error
        return None

    def oldest_commit(self) -> int:
        """Return the commit of the oldest snapshot, 0 if there is none.

        Raises:
            StateStoreError: the store cannot be asked.
        """
        try:
            return min((found.commit for found in _found(self._names())), default=0)
        except Exception as error:
            raise StateStoreError(f"{self.place}: {_in_words(error)}") from error

    def _store(self, pieces: Array | Iterable[Array]) -> _Stored:
        """Write an array's chunks that are not there yet."""
        stored = _Stored("", [0], [])
        for piece in [pieces] if isinstance(pieces, np.ndarray) else pieces:
            stored.dtype, stored.shape = piece.dtype.str, [stored.shape[0] + len(piece), *piece.shape[1:]]
            stored.chunks += [self._store_chunk(block) for block in _blocks(piece)]
        return stored

    def _store_chunk(self, block: Array) -> tuple[str, int]:
        packed = pa.Codec("zstd", compression_level=LEVEL).compress(pa.py_buffer(block), asbytes=True)
        name = f"{self._writer}/{hashlib.sha256(packed).hexdigest()}"
        if name not in self._chunks:
            self._write(f"{self._root}/{name}", packed)
            self._chunks.add(name)
        return name, block.nbytes

    def _write(self, path: str, data: bytes) -> None:
        with self._fs.open(path, "wb") as file:
            file.write(data)
            if self.is_local:
                file.flush()
                os.fsync(file.fileno())
        self.bytes_written += len(data)

    def _names(self) -> list[str]:
        """Return what lies in the folder, [] if there is no folder."""
        self._fs.invalidate_cache()
        try:
            paths = self._fs.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        return [path.rstrip("/").replace("\\", "/").rpartition("/")[2] for path in paths]

    def _read(self, found: _Found) -> Snapshot | None:
        """Return a snapshot, None if any byte of it is not as it was written."""
        match = _MANIFEST.fullmatch(found.name)
        try:
            body = self._fs.cat_file(f"{self._root}/{found.name}")
            if match is None or hashlib.sha256(body).hexdigest() != match["digest"]:
                return None
            manifest = _DECODER.decode(body)
            layers = [{name: self._load(each) for name, each in layer.items()} for layer in manifest.layers]
        except (FileNotFoundError, _DamagedError, msgspec.MsgspecError):
            return None
        return Snapshot(manifest.commit, manifest.positions, layers)

    def _load(self, stored: _Stored) -> Array:
        array = np.empty(stored.shape, np.dtype(stored.dtype))
        target, at = array.reshape(-1).view(np.uint8), 0
        for first in range(0, len(stored.chunks), READ_AT_ONCE):
            group = stored.chunks[first : first + READ_AT_ONCE]
            names = [name for name, _ in group]
            if not all(map(_CHUNK.fullmatch, names)):
                raise _DamagedError(names)
            got = self._fs.cat_ranges([f"{self._root}/{name}" for name in names], None, None, on_error="return")
            for (name, size), data in zip(group, got, strict=True):
                if isinstance(data, Exception):
                    raise data
                self.bytes_read += len(data)
                target[at : at + size] = np.frombuffer(_unpack(data, name.rpartition("/")[2], size), np.uint8)
                at += size
        if at != array.nbytes:
            raise _DamagedError(stored.shape)
        return array

    def _collect(self) -> int:
        """Remove what no restart needs any more; return the commit of the oldest snapshot that stays, 0 if unknown.

        Never touched: snapshots at or above the oldest one of this writer that is kept, and chunks of writers that
        began at or after this one, who may have a snapshot in progress. Nothing that goes is ever built on again, so
        a removal that comes late, from an owner that lost the partition long ago, harms nobody.
        """
        own = [found for found, _ in self._own]
        try:
            names = self._names()
            found = _found(names)
            older = sorted((each for each in found if each.commit < own[0].commit), reverse=True)
            others = [each for each in older if each.writer != self._writer]
            gone = set(older) - set(others[: self._keep - len(own)])
            for each in gone:
                self._remove(each.name)
            stays = [*own, *(each for each in found if each not in gone)]
            self._remove_chunks(names, {each.writer for each in stays})
        except Exception:  # the snapshot is there; what could not be removed is removed with the next one
            return 0
        return min(each.commit for each in stays)

    def _remove_chunks(self, names: Iterable[str], writers: Collection[str]) -> None:
        """Remove own chunks that no kept snapshot names, and all of earlier writers that have no snapshot left."""
        used = {chunk for _, manifest in self._own for layer in manifest.layers for each in layer.values()
                for chunk, _ in each.chunks}  # fmt: skip
        for chunk in sorted(self._chunks - used):
            self._remove(chunk)
            self._chunks.discard(chunk)
        assert self._writer is not None
        for name in names:
            if _WRITER.fullmatch(name) and name[:12] < self._writer[:12] and name not in writers:
                self._remove(name, recursive=True)

    def _remove(self, name: str, recursive: bool = False) -> None:
        with contextlib.suppress(FileNotFoundError):  # another owner was quicker
            self._fs.rm(f"{self._root}/{name}", recursive=recursive)


class _DamagedError(Exception):
    """A snapshot is not what was written."""


def _found(names: Iterable[str]) -> list[_Found]:
    matches = [match for name in names if (match := _MANIFEST.fullmatch(name))]
    return [_Found(int(match["commit"]), match["writer"], match[0]) for match in matches]


def open_place(place: Path | str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a folder or URL, and the path in it.

    Raises:
        StateStoreError: the URL cannot be understood, or its file system needs a package that is not installed.
    """
    import fsspec  # late: 0.1 s that no other command needs
    from fsspec.implementations.local import LocalFileSystem
    from fsspec.registry import known_implementations

    if isinstance(place, Path) or "://" not in place:
        return LocalFileSystem(), Path(place).absolute().as_posix()
    scheme = place.partition("://")[0]
    try:
        fs, root = fsspec.core.url_to_fs(place)
    except ImportError as error:
        hint = known_implementations.get(scheme, {}).get("err", str(error))
        raise StateStoreError(f"snapshots at {place} need a package: {hint}") from error
    except Exception as error:
        raise StateStoreError(f"snapshots cannot be kept at {place}: {_in_words(error)}") from error
    return fs, root.rstrip("/")


def _protocols(fs: AbstractFileSystem) -> set[str]:
    return {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)


def _blocks(part: Array) -> Iterator[Array]:
    """Cut an array into pieces of at most CHUNK_BYTES, without copying one that is contiguous."""
    flat = np.ascontiguousarray(part).reshape(-1)
    rows = max(CHUNK_BYTES // flat.itemsize, 1)
    for first in range(0, flat.size, rows):
        yield flat[first : first + rows]


def _unpack(data: bytes, digest: str, size: int) -> pa.Buffer:
    if hashlib.sha256(data).hexdigest() != digest:
        raise _DamagedError(digest)
    return pa.Codec("zstd").decompress(data, decompressed_size=size)


def _in_words(error: Exception) -> str:
    """Say what a client said, with its kind where the text alone says little."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__

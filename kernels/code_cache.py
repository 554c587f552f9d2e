"""The files in which compiled kernels wait for the next start.

One file per kernel and signature, whole or absent: it is written aside and renamed, and carries its own checksum.
Readers take no lock. The folder names everything that the code depends on, so a file is never out of date.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import platform
import re
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import IO, NamedTuple

OPTIONS = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_OPT", "NUMBA_BOUNDSCHECK", "NUMBA_LOOP_VECTORIZE",
           "NUMBA_SLP_VECTORIZE", "NUMBA_ERROR_MODEL")  # fmt: skip
VERSIONS_KEPT = 4  # of each module, by age: someone who edits kernels must not fill a disk
CHECKSUM_BYTES = 32


class Entry(NamedTuple):
    """What one piece of machine code was made from."""

    module: str
    source: Path
    name: str
    signature: str


class CodeCache:
    """Compiled kernels of this machine's processor, Python and numba, in a folder that only its owner can write."""

    def holds(self, entry: Entry) -> bool:
        """Tell whether there is a file for `entry`, without reading it."""
        return any(_file(folder, entry).is_file() for folder in self._folders())

    def read(self, entry: Entry) -> bytes | None:
        """Return the code of `entry`; None if there is none or its checksum is wrong."""
        for folder in self._folders():
            with contextlib.suppress(OSError):
                content = _file(folder, entry).read_bytes()
                checksum, code = content[:CHECKSUM_BYTES], content[CHECKSUM_BYTES:]
                if hashlib.sha256(code).digest() == checksum:
                    return code
        return None

    def write(self, entry: Entry, code: bytes) -> None:
        """Keep `code`; where no folder can be written (full, read-only) nothing is kept, and a warning says so."""
        problem = ""
        for folder in self._folders(make=True):
            try:
                _write(_file(folder, entry), hashlib.sha256(code).digest() + code)
            except OSError as error:
                problem = problem or f"kernels cannot be kept in {folder.parent} ({error.strerror})"
                continue
            if problem:
                _say_once(f"{problem}; they are in {folder.parent} instead")
            return
        _say_once(f"{problem}, nor in {_spare_folder().parent}; each start compiles them again")

    @contextlib.contextmanager
    def lock(self, entry: Entry) -> Iterator[None]:
        """Hold the right to compile `entry`: one process of this user at a time, the others wait for its file."""
        file = self._open_lock(entry)
        try:
            if file is not None:
                _lock_file(file)
            yield
        finally:
            if file is not None:
                file.close()  # which gives the lock back; so does a process that dies

    def tidy(self) -> None:
        """Remove the code of sources that were edited several times since."""
        by_module: dict[str, list[Path]] = {}
        for folder in filter(Path.is_dir, cache_folder().glob("*-*")):
            by_module.setdefault(folder.name.rpartition("-")[0], []).append(folder)
        for versions in by_module.values():
            with contextlib.suppress(OSError):  # someone else tidies too: nothing is lost
                for folder in sorted(versions, key=lambda each: each.stat().st_mtime)[:-VERSIONS_KEPT]:
                    for file in folder.iterdir():
                        file.unlink()
                    folder.rmdir()
        with contextlib.suppress(OSError):
            for note in sorted(cache_folder().glob("ready-*.json"), key=lambda each: each.stat().st_mtime)[
                :-VERSIONS_KEPT
            ]:
                note.unlink()

    def _open_lock(self, entry: Entry) -> IO[bytes] | None:
        for folder in self._folders(make=True):
            with contextlib.suppress(OSError):
                file = _file(folder, entry).with_suffix(".lock")
                file.parent.mkdir(parents=True, exist_ok=True)
                return file.open("a+b")
        return None

    def _folders(self, make: bool = False) -> Iterator[Path]:
        yield cache_folder()
        spare = _spare_folder()
        with contextlib.suppress(OSError):
            if make:
                spare.parent.mkdir(exist_ok=True, mode=0o700)
            found = spare.parent.lstat()
            if sys.platform == "win32" or (found.st_uid == os.getuid() and not found.st_mode & 0o022):
                yield spare  # in a folder for all users: code that another one put there must never run


def cache_folder() -> Path:
    """Return the folder of compiled kernels for these versions and this processor; it may not exist yet."""
    root = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or os.path.expanduser("~/.cache")
    return Path(root) / "pelton" / f"kernels-{_machine()}"


def _spare_folder() -> Path:
    user = "" if sys.platform == "win32" else f"-{os.getuid()}"  # on Windows the temporary folder is the user's own
    return Path(tempfile.gettempdir()) / f"pelton{user}" / f"kernels-{_machine()}"


@cache
def _machine() -> str:
    import llvmlite.binding as llvm
    import numpy as np

    processor = [platform.machine(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]
    options = [f"{name}={os.environ.get(name)}" for name in OPTIONS]
    parts = [sys.version, _numba_version(), np.__version__, *processor, *options]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


def _numba_version() -> str:
    """Return numba's version, without the 0.2 s of its import."""
    found = importlib.util.find_spec("numba")
    assert found is not None and found.origin is not None
    return Path(found.origin).with_name("_version.py").read_text()


def _file(folder: Path, entry: Entry) -> Path:
    signature = hashlib.sha256(entry.signature.encode()).hexdigest()[:16]
    name = re.sub(r"\W+", "_", entry.name)
    return folder / f"{entry.module}-{_hash_of(entry.source)}" / f"{name}-{signature}.code"


def is_ready() -> bool:
    """Tell whether `note_ready` was called for these very sources; their times and sizes are looked at, not their text.

    Finding out from the texts which kernels are missing takes 50 ms, a tenth of a short run.
    """
    return bool(_noted())


def note_ready(sources: Iterable[Path]) -> None:
    """Note that the kernels of these sources are all compiled, and the hashes under which they are kept."""
    content = json.dumps({str(source): _sources(source) for source in sources}).encode()
    with contextlib.suppress(OSError):  # then the next start looks again
        _write(cache_folder() / _package_stamp(), content)


@cache
def _noted() -> dict[str, str]:
    try:
        found = json.loads((cache_folder() / _package_stamp()).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _package_stamp() -> str:
    parts = []
    for entry in sorted(os.scandir(Path(__file__).parent), key=lambda entry: entry.name):
        if entry.name.endswith(".py"):
            found = entry.stat()
            parts.append(f"{entry.path} {found.st_size} {found.st_mtime_ns}")
    return f"ready-{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:16]}.json"


def _hash_of(source: Path) -> str:
    return _noted().get(str(source)) or _sources(source)


@cache
def _sources(source: Path) -> str:
    """Hash a source and every kernel module that it names, directly or not.

    A module counts as named if its name is any word of the text: that compiles too often, never too rarely.
    """
    package = {file.stem: file for file in Path(__file__).parent.rglob("*.py") if file.stem != "__init__"}
    waiting, seen = [source], {source: _text(source)}
    while waiting:
        for word in _words(waiting.pop()) & package.keys():
            if package[word] not in seen:
                seen[package[word]] = _text(package[word])
                waiting.append(package[word])
    digest = hashlib.sha256()
    for file in sorted(seen):
        digest.update(f"{file.name} {len(seen[file])} ".encode() + seen[file])
    return digest.hexdigest()[:16]


@cache
def _text(source: Path) -> bytes:
    return source.read_bytes()


@cache
def _words(source: Path) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", _text(source).decode(errors="replace")))


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(content)
        os.replace(aside, file)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise


def _lock_file(file: IO[bytes]) -> None:
    if sys.platform == "win32":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


@cache
def _say_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)

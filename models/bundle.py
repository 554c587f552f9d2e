"""A bundle: everything that one release of a task is made of, in one folder whose hash is its name.

`bundle.json` lists the other files with their SHA-256; the first 12 hexadecimal digits of the hash over that list are
the bundle's id, so that the same content has the same id anywhere. Nothing is ever unpickled: parts are bytes.
"""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

FORMAT = "pelton-bundle-1"
MANIFEST = "bundle.json"
FILES_MAX = 64
FILE_BYTES_MAX = 256 << 20
MANIFEST_BYTES_MAX = 1 << 20
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class BundleError(ValueError):
    """A bundle is damaged or made wrongly; the message names the file and says what to do."""


class BundleMeta(msgspec.Struct, frozen=True):
    """What is known about a bundle besides its files.

    Attributes:
        name: for people, for example "risk moe v1".
        task: the task it was made for.
        created_ms: milliseconds since the epoch.
        provenance: how to make it again: command, seed, data hash, versions.
        metrics: how good it was when it was made.
    """

    name: str
    task: str
    created_ms: int
    provenance: dict[str, str | int | float | None] = {}
    metrics: dict[str, float | None] = {}


class Bundle(msgspec.Struct, frozen=True):
    """A bundle whose files were read and agreed with their hashes.

    Attributes:
        id: 12 hexadecimal digits.
        meta: what is known about it.
        files: the SHA-256 of each part by its name.
        parts: the bytes of each part by its name, exactly those that were hashed.
    """

    id: str
    meta: BundleMeta
    files: dict[str, str]
    parts: dict[str, bytes]

    def part(self, name: str) -> bytes:
        """Return the bytes of a part.

        Raises:
            BundleError: there is no such part.
        """
        if name not in self.parts:
            raise BundleError(f"bundle {self.id} has no {name!r}; it has {', '.join(sorted(self.parts))}")
        return self.parts[name]


class _Manifest(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    id: str
    meta: BundleMeta
    files: dict[str, str]


# Made once, here: msgspec crashes if two threads meet a type for the first time at once.
_DECODER = msgspec.json.Decoder(_Manifest)


def sha256(data: bytes) -> str:
    """Return the SHA-256 of bytes, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def bundle_id(files: Mapping[str, str]) -> str:
    """Return the id of a bundle with these files and hashes: the same in any order."""
    return sha256("".join(f"{name} {files[name]}\n" for name in sorted(files)).encode())[:12]


def check_name(name: str, what: str) -> str:
    """Return a name that is safe as a file name anywhere.

    Raises:
        BundleError: it is not: letters, digits, dot, dash and underscore, at most 64, not starting with a dot.
    """
    if not _SAFE_NAME.fullmatch(name) or name.endswith("."):
        raise BundleError(
            f"{what} {name!r} is no safe file name; use at most 64 letters, digits, '.', '-' and '_', "
            "a letter or digit first"
        )
    return name


def write_bundle(folder: Path, parts: Mapping[str, bytes], meta: BundleMeta) -> Bundle:
    """Write parts and their `bundle.json` as a new folder, all or nothing.

    Raises:
        BundleError: a name is not safe, a part is too large, or the folder holds something else already.
    """
    check_name(meta.task, "task")
    files = {name: sha256(data) for name, data in parts.items()}
    _check_files(files, str(folder))
    for name, data in parts.items():
        if len(data) > FILE_BYTES_MAX:
            raise BundleError(f"{name} has {len(data):,} bytes; a file of a bundle has at most {FILE_BYTES_MAX:,}")
    manifest = _Manifest(FORMAT, bundle_id(files), meta, dict(sorted(files.items())))
    content = {**parts, MANIFEST: msgspec.json.format(msgspec.json.encode(manifest), indent=1)}
    folder = Path(folder)
    if folder.exists():
        if read_bundle(folder).id != manifest.id:
            raise BundleError(f"{folder} holds another bundle already; write to a new folder")
    else:
        write_folder(folder, content)
    return Bundle(manifest.id, meta, manifest.files, dict(parts))


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle and check every file against its hash.

    Raises:
        BundleError: a file is missing, too large or damaged; the message names it, what was expected and found.
    """
    folder = Path(folder)
    content = _read(folder / MANIFEST, MANIFEST_BYTES_MAX)
    try:
        manifest = _DECODER.decode(content)
    except msgspec.DecodeError as cause:
        raise BundleError(
            f"{folder / MANIFEST} cannot be read: {cause}; copy the bundle again from its source"
        ) from cause
    if manifest.format != FORMAT:
        raise BundleError(f"{folder / MANIFEST} has format {manifest.format!r}; this version reads {FORMAT}")
    _check_files(manifest.files, str(folder))
    check_name(manifest.meta.task, "task")
    expected = bundle_id(manifest.files)
    if manifest.id != expected:
        raise BundleError(
            f"{folder / MANIFEST} says id {manifest.id}, its files make {expected}; "
            "copy the bundle again from its source"
        )
    parts = {name: read_verified(folder / name, digest) for name, digest in manifest.files.items()}
    return Bundle(manifest.id, manifest.meta, manifest.files, parts)


def read_verified(path: Path, digest: str) -> bytes:
    """Return the bytes of a file whose SHA-256 is `digest`.

    Raises:
        BundleError: the file is missing, too large, or has another hash.
    """
    data = _read(path, FILE_BYTES_MAX)
    found = sha256(data)
    if found != digest:
        raise BundleError(
            f"{path} is damaged: expected SHA-256 {digest[:12]}, found {found[:12]}; "
            "copy it again from its source, or roll back"
        )
    return data


def write_folder(folder: Path, content: Mapping[str, bytes]) -> None:
    """Write files as a new folder: under another name first, on disk, then renamed; all or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder.parent))
    try:
        for name, data in content.items():
            _write_through(unfinished / name, data)
        unfinished.chmod(0o755)
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    _sync_folder(folder.parent)


def write_file(path: Path, data: bytes) -> None:
    """Write a file, or replace one: under another name first, on disk, then renamed; all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".unfinished-", dir=path.parent)
    os.close(handle)
    unfinished = Path(name)
    try:
        _write_through(unfinished, data)
        unfinished.chmod(0o644)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _check_files(files: Mapping[str, str], where: str) -> None:
    if not 0 < len(files) <= FILES_MAX:
        raise BundleError(f"{where}: a bundle has 1 to {FILES_MAX} files, this one {len(files)}")
    for name, digest in files.items():
        check_name(name, "file")
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise BundleError(f"{where}: {name} has hash {digest!r}, which is no SHA-256")
    folded = [name.casefold() for name in files]
    if len(set(folded)) != len(folded) or MANIFEST in folded:
        raise BundleError(
            f"{where}: files {', '.join(sorted(files))} clash; names differ in more than case, and none is {MANIFEST}"
        )


def _read(path: Path, bytes_max: int) -> bytes:
    try:
        if path.is_symlink():
            raise BundleError(f"{path} is a link; a bundle holds plain files only, copy the file itself")
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
    except OSError as cause:
        raise BundleError(
            f"{path} cannot be read ({cause.strerror or cause}); copy the bundle again from its source, or roll back"
        ) from cause
    if len(data) > bytes_max:
        raise BundleError(f"{path} is larger than {bytes_max:,} bytes, the limit for such a file")
    return data


def _write_through(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name != "nt":  # Windows cannot open a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

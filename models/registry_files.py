"""The files of the registry: `bundles/TASK/ID/` and `snapshots/TASK/ID`, written whole or not at all."""

import os
import shutil
from pathlib import Path

from models.bundle import (
    FILE_BYTES_MAX,
    MANIFEST,
    Bundle,
    BundleError,
    check_name,
    read_bundle,
    read_verified,
    write_bundle,
    write_file,
)


class Files:
    """Bundles and snapshots on disk, checked against their hash at every load."""

    def __init__(self, folder: Path) -> None:
        """Keep everything below `folder`."""
        self.folder = folder

    def put_bundle(self, bundle: Bundle) -> None:
        """Store a copy of a bundle; a damaged copy is replaced."""
        path = self._bundle_path(bundle.meta.task, bundle.id)
        try:
            if read_bundle(path).id == bundle.id:
                return
        except BundleError:
            pass  # missing or damaged: write it
        if path.exists():
            aside = path.with_name(f".damaged-{bundle.id}")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(path, aside)
            shutil.rmtree(aside, ignore_errors=True)
        write_bundle(path, bundle.parts, bundle.meta)

    def bundle(self, task: str, id: str) -> Bundle:
        """Load a bundle.

        Raises:
            BundleError: a file is missing or damaged.
        """
        path = self._bundle_path(task, id)
        bundle = read_bundle(path)
        if bundle.id != id:
            raise BundleError(
                f"{path / MANIFEST} holds bundle {bundle.id}, expected {id}; "
                "copy the bundle again from its source, or roll back"
            )
        return bundle

    def put_snapshot(self, task: str, id: str, data: bytes) -> None:
        """Store a learner snapshot."""
        if len(data) > FILE_BYTES_MAX:
            raise BundleError(f"the snapshot has {len(data):,} bytes; the limit is {FILE_BYTES_MAX:,}")
        write_file(self._snapshot_path(task, id), data)

    def snapshot(self, task: str, id: str, digest: str) -> bytes:
        """Load a learner snapshot whose SHA-256 is `digest`.

        Raises:
            BundleError: it is missing or damaged.
        """
        return read_verified(self._snapshot_path(task, id), digest)

    def remove_snapshot(self, task: str, id: str) -> None:
        """Delete a learner snapshot, if it is there."""
        self._snapshot_path(task, id).unlink(missing_ok=True)

    def _bundle_path(self, task: str, id: str) -> Path:
        return self.folder / "bundles" / check_name(task, "task") / check_name(id, "bundle")

    def _snapshot_path(self, task: str, id: str) -> Path:
        return self.folder / "snapshots" / check_name(task, "task") / check_name(id, "snapshot")

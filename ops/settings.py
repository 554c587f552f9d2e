"""Settings of this machine: the environment and the options of a command, read once into one object."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from models.runtimes import GPU_CHOICES, Gpu

if TYPE_CHECKING:
    from connectors.secrets import Sealer, Tokeniser
    from connectors.sqlite_log import SqliteLog
    from models.registry import Registry
    from pipeline.app import App

DATA_FOLDER = ".pelton"


class SettingsError(ValueError):
    """A setting cannot be used; the message names it and says what to do."""


@dataclass(frozen=True)
class Settings:
    """Where things are. Nothing is opened or made before it is asked for.

    Attributes:
        data: folder of log, registry, snapshots and key (PELTON_DATA, `--data-folder`).
        log: file of the embedded log (PELTON_LOG).
        registry: database URL of the registry, None for a file in the data folder (PELTON_REGISTRY).
        key: of sensitive fields, base64, "" for the key file of the data folder (PELTON_KEY).
        gpu: whether a GPU computes networks: "never", "prefer" or "require" (PELTON_GPU, `--gpu`).
        snapshots: folder or URL of snapshots of state, "" for a folder in the data folder (PELTON_STATE, `--state`).
        debug: show where errors come from (PELTON_DEBUG).
    """

    data: Path
    log: Path
    registry: str | None = None
    key: str = field(default="", repr=False)
    debug: bool = False
    snapshots: str = ""
    gpu: Gpu = "never"

    @classmethod
    def read(
        cls,
        data: Path | None = None,
        environment: Mapping[str, str] = os.environ,
        state: str | None = None,
        gpu: str | None = None,
    ) -> Settings:
        """Read the environment; what is given, options of a command, comes before it.

        Raises:
            SettingsError: PELTON_GPU, or `gpu`, is none of what can be chosen.
        """
        folder = data or Path(environment.get("PELTON_DATA") or DATA_FOLDER)
        return cls(
            folder,
            Path(environment.get("PELTON_LOG") or folder / "log.db"),
            environment.get("PELTON_REGISTRY") or None,
            environment.get("PELTON_KEY") or "",
            cls.shows_traces(environment),
            state or environment.get("PELTON_STATE") or "",
            _gpu(gpu or environment.get("PELTON_GPU") or "never"),
        )

    @staticmethod
    def shows_traces(environment: Mapping[str, str] = os.environ) -> bool:
        """Tell whether errors show where they come from, whatever else is set wrongly."""
        return environment.get("PELTON_DEBUG", "") not in ("", "0")

    @property
    def state(self) -> Path | str:
        """Folder, or URL of one, of the snapshots of window state."""
        if not self.snapshots:
            return self.data / "state"
        return self.snapshots if "://" in self.snapshots else Path(self.snapshots)

    @property
    def bundles(self) -> Path:
        """Folder of the registry's files."""
        return self.data / "registry"

    @property
    def key_file(self) -> Path:
        """File of the key where the environment gives none; only its owner can read it."""
        return self.data / "key"

    def secrets(self, app: App | None = None, *, make: bool = False) -> tuple[Tokeniser | None, Sealer | None]:
        """Return what hides sensitive values, (None, None) if the app has none, or there is no key.

        Args:
            app: whose fields to look at; without one the key counts, wherever it is.
            make: make the key file if there is no key yet.

        Raises:
            SecretError: the key is malformed, or others can read its file.
        """
        from connectors.secrets import Sealer, Tokeniser, load_or_create_key, parse_key

        needed = app is None or any(stream.schema.has_sensitive for stream in app.streams.values())
        if not needed or not (self.key or make or self.key_file.exists()):
            return None, None
        key = parse_key(self.key) if self.key else load_or_create_key(self.key_file)
        return Tokeniser(key), Sealer(key)

    def open_log(self, sealer: Sealer | None = None, *, make: bool = False) -> SqliteLog:
        """Open the embedded log.

        Raises:
            SettingsError: there is none yet, and it shall not be made.
            LogError: it cannot be used.
        """
        from connectors.sqlite_log import SqliteLog

        if not make and not self.log.exists():
            raise SettingsError(f"there is no log at {self.log} yet; put records into one: pelton append APP FILE")
        return SqliteLog(self.log, sealer)

    def open_registry(self, *, make: bool = False) -> Registry | None:
        """Open the registry; None if there is none yet, and it shall not be made.

        Raises:
            RegistryError: it cannot be used.
        """
        from models.registry import Registry

        if not make and self.registry is None and not (self.bundles / "registry.db").exists():
            return None
        return Registry.open(self.registry, self.bundles)


def _gpu(wanted: str) -> Gpu:
    for choice in GPU_CHOICES:
        if choice == wanted:
            return choice
    raise SettingsError(f"PELTON_GPU, or --gpu, is {wanted!r}; choose {', '.join(GPU_CHOICES)}")

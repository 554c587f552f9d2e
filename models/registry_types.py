"""What the registry answers with."""

import msgspec

from models.bundle import Bundle


class RegistryError(ValueError):
    """The registry cannot do what was asked; the message says why and what to do."""


class Version(msgspec.Struct, frozen=True):
    """One thing that can serve.

    Attributes:
        task: its task.
        id: 12 hexadecimal digits.
        kind: "bundle" or "snapshot".
        bundle: the bundle it belongs to, itself for a bundle.
        created_ms: milliseconds since the epoch.
        metrics: how good it was.
        live: whether it serves now.
        name: of a bundle, "" for a snapshot.
        provenance: of a bundle, {} for a snapshot.
    """

    task: str
    id: str
    kind: str
    bundle: str
    created_ms: int
    metrics: dict[str, float | None]
    live: bool
    name: str = ""
    provenance: dict[str, str | int | float | None] = {}


class Serving(msgspec.Struct, frozen=True):
    """What serves a task.

    Attributes:
        bundle: id of the bundle.
        snapshot: id of the learner snapshot, None for the bundle's own.
        generation: number of the change that made it serve, from 1.
        at_ms: when that was, milliseconds since the epoch.
    """

    bundle: str
    snapshot: str | None
    generation: int
    at_ms: int

    def __str__(self) -> str:
        """Say it as `bundle` or `bundle+snapshot`."""
        return self.bundle if self.snapshot is None else f"{self.bundle}+{self.snapshot}"


class Deployment(msgspec.Struct, frozen=True):
    """What serves a task, loaded and checked; `snapshot` holds the learner's bytes, None for the bundle's own."""

    task: str
    serving: Serving
    bundle: Bundle
    snapshot: bytes | None


class AuditEntry(msgspec.Struct, frozen=True):
    """Who did what to a task, when."""

    at_ms: int
    who: str
    what: str
    task: str
    detail: str

"""A trained bundle into the registry; the first of a task serves at once."""

from __future__ import annotations

import getpass
from pathlib import Path

from ops.settings import Settings


def user_name() -> str:
    """Return who is at work, for the audit."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such user, as in some containers
        return "somebody"


def register_bundle(settings: Settings, task: str, folder: Path, now_ms: int) -> str:
    """Add a bundle, promote it if nothing serves the task yet, and say what happened.

    Raises:
        RegistryError, BundleError: the registry cannot be used, or the bundle is damaged.
    """
    registry = settings.open_registry(make=True)
    assert registry is not None
    bundle = registry.add_bundle(task, folder, user_name(), now_ms)
    if registry.generation(task):
        return f"{task}: {registry.serving(task)} goes on serving. To change: pelton models promote {task} {bundle}"
    registry.promote(task, bundle, user_name(), now_ms)
    return f"{task}: nothing -> {bundle}, the first bundle, serves now."

"""What the registry holds, in rows for people."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from models.registry_types import AuditEntry, Version

FIGURES = ("held_back.blend.auc", "held_back.blend.average_precision", "auc", "average_precision")
FIGURES_MAX = 2


def when(at_ms: int) -> str:
    """Write a time, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(at_ms / 1000))


def figures(metrics: Mapping[str, float | None], most: int = FIGURES_MAX) -> str:
    """Write the figures that matter most first."""
    known = [name for name in FIGURES if name in metrics]
    names = known + [name for name in metrics if name not in known]
    return ", ".join(f"{name.rpartition('.')[2]} {number(metrics[name])}" for name in names[:most])


def number(value: object) -> str:
    """Write a value shortly; nothing for what is not known."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def version_rows(versions: Sequence[Version]) -> list[tuple[object, ...]]:
    """Return live, task, id, kind, made, figures and name of each."""
    return [
        (
            "yes" if each.live else "-", each.task, each.id, each.kind, when(each.created_ms), figures(each.metrics),
            each.name or f"of {each.bundle}",
        )
        for each in versions
    ]  # fmt: skip


def version_facts(version: Version) -> list[tuple[str, object]]:
    """Return everything that is known about a version."""
    pairs: list[tuple[str, object]] = [
        (version.kind, version.id + (" (live)" if version.live else "")), ("task", version.task),
        ("made", when(version.created_ms)),
    ]  # fmt: skip
    if version.kind == "snapshot":
        pairs.append(("of bundle", version.bundle))
    if version.name:
        pairs.append(("name", version.name))
    pairs += [(name, number(value)) for name, value in version.metrics.items()]
    return pairs + [(name, number(value)) for name, value in version.provenance.items()]


def history_rows(entries: Sequence[AuditEntry], version: Version, most: int = 10) -> list[tuple[object, ...]]:
    """Return the newest changes that name a version."""
    named = [each for each in entries if version.id in each.detail]
    return [(when(each.at_ms), each.who, each.what, each.detail) for each in named[-most:]]

"""What an app file imports: streams, windows, tasks. See README.md for a first app."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from connectors.images import ImageField
    from connectors.schema import TextField
    from models.threshold import Dynamic, Fixed
    from pipeline.app import App, Rule, Task
    from pipeline.defects import DefectTask
    from pipeline.stream import Stream
    from pipeline.support import SupportTask
    from pipeline.windows import hour_of, ratio, weekday_of

__all__ = [
    "App", "DefectTask", "Dynamic", "Fixed", "ImageField", "Rule", "Stream", "SupportTask", "Task", "TextField",
    "hour_of", "ratio", "weekday_of",
]  # fmt: skip

_HOMES = {
    "App": "pipeline.app", "Rule": "pipeline.app", "Task": "pipeline.app", "Stream": "pipeline.stream",
    "SupportTask": "pipeline.support", "TextField": "connectors.schema",
    "DefectTask": "pipeline.defects", "ImageField": "connectors.images",
    "Dynamic": "models.threshold", "Fixed": "models.threshold",
    "hour_of": "pipeline.windows", "ratio": "pipeline.windows", "weekday_of": "pipeline.windows",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `pelton --help` does not wait for kernels."""
    if name not in _HOMES:
        raise AttributeError(f"pipeline has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)

"""What can be said about a bundle: its network from inside, how that was trained, what it does with events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from connectors.files import FileInput
from connectors.secrets import Tokeniser
from models.bundle import Bundle, BundleError, read_bundle
from models.expert_load import dead, entropy, overflow
from models.inspection import Network, Part, Seen
from models.registry import Registry
from models.scorer import MOE, TRAINING
from models.sentences.card import EncoderCard, EncoderParts
from models.training_memory import TrainingMemory, read_memory
from ops.progress import Progress, Stage, silent
from ops.settings import Settings
from ops.training.distilling import NetworkFigures, networks_of
from ops.training.history import read_history
from pipeline.app import App, Task

ROWS_MAX = 10_000  # of the data, evenly spread: shares need no more


class InspectionError(ValueError):
    """A bundle cannot be looked into as asked; the message says why."""


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        bundle: that was looked into.
        network: of the bundle.
        parts: sizes of the network's parts.
        tokens: name and features of each token.
        memory: of the training; None if the bundle has none.
        encoder: the sentence encoder that was brought; None if the bundle reads without one.
        seen: what the network did with data; None without any.
        events: of the data, of which some were looked at.
        networks: how large, good and fast the networks of the bundle are here, where there are several.
    """

    bundle: Bundle
    network: Network
    parts: list[Part]
    tokens: list[tuple[str, str]]
    memory: TrainingMemory | None
    encoder: EncoderCard | None = None
    seen: Seen | None = None
    events: int = 0
    networks: Sequence[NetworkFigures] = ()

    def loads(self) -> tuple[dict[str, NDArray[np.int64]], str] | None:
        """Return each task's (layers, e) visits and where they were seen: the data, else the training's best epoch."""
        if self.seen is not None:
            return {self.bundle.meta.task: self.seen.load()}, f"{self.seen.events:,} of {self.events:,} events"
        if self.memory is None:
            return None
        tasks = self.memory.best.tasks.items()
        found = {task: np.array([layer.visits for layer in its.loads], np.int64) for task, its in tasks}
        return found, f"epoch {self.memory.best_epoch} of the training, while it learned"

    def load(self) -> tuple[NDArray[np.int64], str] | None:
        """Return the (layers, e) visits of all tasks together, and where they were seen."""
        found = self.loads()
        if found is None or self.memory is None or self.seen is not None:
            return None if found is None else (found[0][self.bundle.meta.task], found[1])
        return np.array([layer.visits for layer in self.memory.best.loads], np.int64), found[1]

    def to_json(self) -> bytes:
        """Return everything for machines."""
        found: dict[str, Any] = {
            "bundle": self.bundle.id, "task": self.bundle.meta.task,
            "files": {name: len(data) for name, data in self.bundle.parts.items()},
            "sizes": vars(self.network.settings),
            "parts": {each.name: {"parameters": each.numbers, "active": each.active, "bytes": each.size_bytes}
                      for each in self.parts},
            "tokens": [{"name": name, "features": features} for name, features in self.tokens],
            "training": self.memory, "sentence_encoder": self.encoder, "networks": self.networks,
        }  # fmt: skip
        if (load := self.load()) is not None:
            found["experts"] = {"of": load[1], "layers": [
                {"visits": layer.tolist(), "entropy": entropy(layer), "dead": dead(layer), "overflow": overflow(layer)}
                for layer in load[0]
            ]}  # fmt: skip
        if self.seen is not None:
            found["visits_by_token"] = [layer.tolist() for layer in self.seen.visits]
            found["attention_of_the_summary"] = self.seen.attention.tolist()
        return msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n"


def find_version(settings: Settings, wanted: str) -> Bundle:
    """Return the bundle in a folder, or the one that a version's first digits name; of a snapshot, its bundle.

    Raises:
        BundleError: there is none, or it is damaged.
        InspectionError: several versions begin like this.
    """
    if (Path(wanted) / "bundle.json").is_file():
        return read_bundle(Path(wanted))
    registry: Registry | None = settings.open_registry()
    if registry is None or "/" in wanted:
        raise BundleError(f"{wanted} is no folder with a bundle.json, and no id in a registry; see: pelton models list")
    found = [each for each in registry.versions() if wanted and each.id.startswith(wanted.lower())]
    bundles = sorted({(each.task, each.bundle) for each in found})
    if not bundles:
        raise BundleError(f"no bundle or snapshot starts with {wanted!r}; see: pelton models list")
    if len(bundles) > 1:
        several = ", ".join(f"{bundle} ({task})" for task, bundle in bundles)
        raise InspectionError(f"{wanted!r} could be {several}; give more digits")
    return read_bundle(settings.bundles / "bundles" / bundles[0][0] / bundles[0][1])


def inspect_bundle(bundle: Bundle) -> Inspection:
    """Look into a bundle alone.

    Raises:
        InspectionError: it has no network.
    """
    if MOE not in bundle.parts:
        raise InspectionError(f"bundle {bundle.id} has no network, only {', '.join(sorted(bundle.parts))}")
    network = Network(bundle.part(MOE))
    memory = read_memory(bundle.part(TRAINING)) if TRAINING in bundle.parts else None
    brought = EncoderParts.of(bundle)
    encoder = brought.card if brought is not None else None
    networks = networks_of(bundle)
    return Inspection(bundle, network, network.parts(), network.tokens(), memory, encoder, networks=networks)


def with_data(
    found: Inspection,
    app: App,
    inputs: Mapping[str, FileInput],
    progress: Progress = silent,
    tokeniser: Tokeniser | None = None,
) -> Inspection:
    """Replay files and watch what the network does with their events.

    Raises:
        ValueError: the app has no such task, or computes other features than the bundle was trained with.
    """
    task = app.task(found.bundle.meta.task)
    if not isinstance(task, Task):
        raise InspectionError(f"task {task.name!r} is not decided by event features, which is all that can be replayed")
    data = read_history(app, task, inputs, None, tokeniser, progress)
    if data.specs != found.network.specs:
        raise InspectionError(
            f"bundle {found.bundle.id} was trained with other features than {app.name!r} computes; "
            "give the app that it was trained with"
        )
    if not len(data):
        raise InspectionError("the data has no event that the task decides; give other files")
    rows = data.features[:: -(-len(data) // ROWS_MAX)]
    seen = found.network.look(rows, lambda done: progress(Stage("network", done, len(rows))))
    return replace(found, seen=seen, events=len(data))

"""What is known about a network, in rows for people: sizes, experts, routing, attention, training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.expert_load import dead, entropy, overflow
from models.inspection import Part, Seen
from models.training_memory import TrainingMemory
from ops.terminal import facts, note, say, table
from ops.training.distilling import network_rows

if TYPE_CHECKING:
    from ops.training.inspecting import Inspection

Table = tuple[list[str], list[list[object]]]
Tokens = Sequence[tuple[str, str]]
FEATURES_LETTERS = 70
FIGURES_MAX = 3  # of a validation
_SPANS = (  # unit, its sign, the shortest span that is told in it
    (86_400_000, "d", 172_800_000), (3_600_000, "h", 3_600_000), (60_000, "m", 60_000), (1_000, "s", 1_000),
)  # fmt: skip


def token_in_words(name: str) -> str:
    """Write the spans of windows as people do.

    >>> token_in_words("card:86400000 + terminal:2592000000")
    'card 24h + terminal 30d'
    """

    def span(found: re.Match[str]) -> str:
        ms = int(found[1])
        unit_ms, unit = next((each for each in _SPANS if ms % each[0] == 0 and ms >= each[2]), (1, "ms", 1))[:2]
        return f" {ms // unit_ms}{unit}"

    return re.sub(r":(\d+)", span, name)


def size_table(parts: Sequence[Part]) -> Table:
    """Return the sizes of the network's parts, and of all."""
    columns = [[each.numbers for each in parts], [each.active for each in parts], [each.size_bytes for each in parts]]
    texts = [_grouped([*column, sum(column)]) for column in columns]
    names = [*(each.name for each in parts), "all"]
    return ["part", "parameters", "active", "bytes"], [list(row) for row in zip(names, *texts, strict=True)]


def file_table(files: Mapping[str, bytes]) -> Table:
    """Return the sizes of a bundle's files."""
    texts = _grouped([len(files[name]) for name in sorted(files)])
    return ["file", "bytes"], [list(row) for row in zip(sorted(files), texts, strict=True)]


def load_table(load: NDArray[np.int64]) -> Table:
    """Return how evenly the experts of each layer are visited, of (layers, e) visits."""
    rows: list[list[object]] = []
    for layer, visits in enumerate(load, start=1):
        most, least = int(visits.argmax()), int(visits.argmin())
        rows.append([
            layer, int(visits.sum()), f"{entropy(visits):.3f}", dead(visits), f"{overflow(visits):.2f}",
            f"{most} ({_times(visits)[most]:.2f})", f"{least} ({_times(visits)[least]:.2f})",
        ])  # fmt: skip
    return ["layer", "visits", "entropy", "dead", "overflow", "most visited", "least visited"], rows


def expert_table(seen: Seen, tokens: Tokens) -> Table:
    """Return the load of each expert over the mean of its layer, and which tokens visit it most."""
    rows: list[list[object]] = []
    load = np.stack([_times(layer) for layer in seen.load()])
    for expert in range(load.shape[1]):
        row: list[object] = [expert, *(f"{times:.2f}" for times in load[:, expert])]
        row.append(_mostly(seen.visits[0][:, expert], tokens))
        rows.append(row)
    return ["expert", *(f"layer {layer}" for layer in range(1, len(load) + 1)), "visited in layer 1 by"], rows


def routing_table(tasks: Mapping[str, NDArray[np.int64]]) -> Table:
    """Return which experts each task visits, of (layers, e) visits per task."""
    rows: list[list[object]] = []
    for task, load in tasks.items():
        for layer, visits in enumerate(load, start=1):
            order = np.argsort(-visits, kind="stable")
            half = int(np.searchsorted(np.cumsum(visits[order]), visits.sum() / 2)) + 1
            alike = visits.size ** entropy(visits)
            first = ", ".join(f"{expert} ({visits[expert] / visits.sum():.0%})" for expert in order[:half])
            rows.append([task, layer, f"{alike:.1f} of {visits.size}", first])
    return ["task", "layer", "as if even over", "half of the visits go to"], rows


def attention_table(seen: Seen, tokens: Tokens) -> Table:
    """Return where the summary token looks, the token looked at most first."""
    order = np.argsort(-seen.attention.mean(axis=0), kind="stable")
    rows: list[list[object]] = [
        [token_in_words(tokens[token][0]), *(f"{share:.1%}" for share in seen.attention[:, token]),
         _short(tokens[token][1])]
        for token in order
    ]  # fmt: skip
    return ["token", *(f"layer {layer}" for layer in range(1, len(seen.attention) + 1)), "features"], rows


def epoch_table(memory: TrainingMemory, task: str) -> Table:
    """Return the epochs of a training: a task's loss and validation, gradient norm, load of all tasks together."""
    known = [epoch.tasks[task] for epoch in memory.epochs if task in epoch.tasks]
    names = list(known[0].validation)[:FIGURES_MAX] if known else []
    rows: list[list[object]] = []
    for number, epoch in enumerate(memory.epochs, start=1):
        loads = [np.array(layer.visits) for layer in epoch.loads]
        its = epoch.tasks.get(task)
        row: list[object] = [f"{number}{' (best)' if number == memory.best_epoch else ''}"]
        row += [f"{its.loss:.4f}", *(f"{its.validation[name]:.4f}" for name in names)] if its else ["-"]
        row += [_norm_in(memory, number), ", ".join(f"{overflow(each):.2f}" for each in loads)]
        rows.append([*row, sum(dead(each) for each in loads)])
    told = [name.replace("_", " ") for name in names]
    return ["epoch", "loss", *told, "gradient norm", "overflow by layer", "dead"], rows


def norm_table(memory: TrainingMemory) -> Table:
    """Return the gradient norm of each part, in the first and the last tenth of the training and at its highest."""
    if memory.curves is None:
        return ["part"], []
    curves: dict[str, Sequence[float | None]] = {"all": memory.curves.gradient_norm, **memory.curves.part_norms}
    rows: list[list[object]] = []
    for part, values in curves.items():
        known = [value for value in values if value is not None]
        tenth = -(-len(known) // 10)
        if known:
            found = (np.mean(known[:tenth]), np.mean(known[-tenth:]), max(known))
            rows.append([part, *(f"{each:.4f}" for each in found)])
    return ["gradient norm of", "first tenth", "last tenth", "highest"], rows


def _norm_in(memory: TrainingMemory, number: int) -> str:
    if memory.curves is None:
        return "-"
    per_epoch = memory.steps / len(memory.epochs)
    inside = [
        norm
        for step, norm in zip(memory.curves.step, memory.curves.gradient_norm, strict=True)
        if (number - 1) * per_epoch < step <= number * per_epoch
    ]
    return f"{np.mean(inside):.3f}" if inside else "-"


def _grouped(values: Sequence[int]) -> list[str]:
    """Write numbers with their thousands apart, below each other."""
    width = max((len(f"{value:,}") for value in values), default=0)
    return [f"{value:,}".rjust(width) for value in values]


def _times(visits: NDArray[np.int64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = visits / max(float(visits.mean()), 1e-12)
    return found


def _mostly(visits: NDArray[np.int64], tokens: Tokens, most: int = 3) -> str:
    order = [token for token in np.argsort(-visits, kind="stable")[:most] if visits[token]]
    return ", ".join(f"{token_in_words(tokens[token][0])} {visits[token] / visits.sum():.0%}" for token in order) or "-"


def _short(text: str) -> str:
    return text if len(text) <= FEATURES_LETTERS else text[: FEATURES_LETTERS - 3].rpartition(",")[0] + ", ..."


def show(found: Inspection) -> None:
    """Print everything that was found, each table under a line that says what it is."""
    sizes = found.network.settings
    parameters, active = (
        sum(values) for values in zip(*((each.numbers, each.active) for each in found.parts), strict=True)
    )
    facts([
        ("bundle", f"{found.bundle.id}, {found.bundle.meta.name}"),
        ("network", f"{sizes.layers} layers, {sizes.experts} experts of which a token visits {sizes.chosen} and a "
                    f"shared one, {len(found.tokens) or 'as many as it reads'} tokens of width {sizes.width}"),
        ("parameters", f"{parameters:,}, of which {active:,} ({active / parameters:.0%}) are active for a token; "
                       "in encoder and head, for an event"),
        *([("sentence encoder", found.encoder.in_words())] if found.encoder is not None else []),
    ])  # fmt: skip
    say()
    table(*size_table(found.parts))
    say()
    table(*file_table(found.bundle.parts))
    if found.networks:
        say("\nnetworks: figures of what was held back in training, times of one thread here")
        table(*network_rows(found.networks))
    loads, load = found.loads(), found.load()
    if loads is not None and load is not None:
        say(f"\nload of the experts, {load[1]}")
        table(*load_table(load[0]))
        say("\nrouting per task")
        table(*routing_table(loads[0]))
    if found.seen is not None:
        say("\neach expert: load over the mean of its layer")
        table(*expert_table(found.seen, found.tokens))
        say("\nwhere the summary token looks")
        table(*attention_table(found.seen, found.tokens))
    elif found.tokens:
        note("routing by token and attention need events: --app APP --data FILES")
    if found.memory is None:
        note("the bundle remembers nothing of its training: it was made by an earlier version, or by hand")
        return
    say("\ntraining")
    table(*epoch_table(found.memory, found.bundle.meta.task))
    if found.memory.curves is not None:
        say()
        table(*norm_table(found.memory))

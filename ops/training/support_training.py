"""From messages to a bundle: the network learns all but the newest, which choose its epoch, temperature and line."""

from __future__ import annotations

import hashlib
import platform
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectors.files import FileInput
from connectors.schema import TextField
from connectors.secrets import Tokeniser
from models.bundle import BundleMeta
from models.text.articles import Article, ArticleError, read_articles
from models.text.calibration import fit_line, fit_temperature
from models.text.inputs import TextInputs, make_inputs
from models.text.pieces import Pieces
from models.text.runtime import OnnxText
from models.text.scorer import SupportSettings, softmax, support_parts
from ops.progress import Progress, Stage, silent
from ops.training.support_history import Messages, read_messages
from ops.training.training import PACKAGES, TrainedBundle, TrainingError, TrainingSettings, _write
from pipeline.app import App
from pipeline.support import OUT_OF_SCOPE, SupportTask

Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]
INTENT_MESSAGES_MIN = 5  # of an intent, to learn it
EPOCHS = 10
EPOCHS_QUICK = 8
HELD_BACK_OUT_OF_SCOPE = 20  # below, nothing is said about how many of them are found
BATCH, AT_ONCE = 64, 128
GATE_MESSAGES = 64
SIZES: dict[str, Any] = {"experts": 8, "dropout": 0.1}
SIZES_QUICK: dict[str, Any] = {
    "width": 64, "heads": 2, "experts": 4, "expert_width": 32, "shared_width": 32, "layers": 1, "dropout": 0.1,
}  # fmt: skip


def train_support(
    app: App,
    task: SupportTask,
    inputs: Mapping[str, FileInput],
    settings: TrainingSettings,
    out_dir: Path,
    progress: Progress = silent,
    tokeniser: Tokeniser | None = None,
) -> TrainedBundle:
    """Replay history, train the task's network on it and write a bundle into `out_dir`; see `ops.training.training`.

    A task with articles alone needs no training: its bundle holds the articles.

    Raises:
        ValueError: too few messages, articles that cannot be read, or a setting that does not fit; in one sentence.
    """
    return train_on_messages(read_messages(app, task, inputs, tokeniser, progress), task, settings, out_dir, progress)


def train_on_messages(
    messages: Messages, task: SupportTask, settings: TrainingSettings, out_dir: Path, progress: Progress = silent
) -> TrainedBundle:
    """Train on messages that were read already; the rest as in `train_support`."""
    started = time.perf_counter()
    articles = articles_of(task)
    content = task.text.field.content
    assert isinstance(content, TextField)
    provenance: dict[str, str | int | float | None] = {
        "command": settings.command, "seed": settings.seed, "epochs": settings.epochs, "quick": int(settings.quick),
        "start_ms": settings.start_ms, "until_ms": settings.until_ms, "python": platform.python_version(),
        "articles": len(articles), "articles_sha256": _digest(article.id + article.title + article.body
                                                              for article in articles),
    }  # fmt: skip
    provenance |= {name: version for name in PACKAGES if (version := _version(name))}
    read = SupportSettings(chars_max=content.max_chars)
    metrics: dict[str, float] = {}
    learned, held_count, pieces, network = 0, 0, None, None
    if task.intent is not None:
        known = messages.known(settings.start_ms, settings.until_ms)
        known = known.where(np.array([intent is not None for intent in known.intents], np.bool_))
        held = _held_back(known, settings.held_back)
        names, classes = _classes(known, task)
        ranks, priorities = _priorities(known)
        pieces, inputs, network = _fit(
            known, held, (names, classes), (ranks, priorities), task, settings, out_dir, progress
        )
        read, metrics = _calibrated(read, task, inputs, network, held, (names, classes), (ranks, priorities))
        learned, held_count = len(known), int(held.sum())
        provenance |= {
            "events": learned, "first_ms": int(known.times_ms.min()), "last_ms": int(known.times_ms.max()),
            "held_back": float(held.mean()), "data_sha256": _digest([*known.texts, *map(str, known.intents)]),
        }  # fmt: skip
    names_of_models = [name for name, there in (("moe", network), ("articles", articles)) if there]
    meta = BundleMeta(
        name=f"{task.name} {'+'.join(names_of_models)}", task=task.name, created_ms=settings.created_ms,
        provenance=provenance, metrics=dict(metrics),
    )  # fmt: skip
    out_dir.mkdir(parents=True, exist_ok=True)
    bundle, folder = _write(support_parts(read, articles, pieces, network), meta, out_dir)
    seconds = {"all": round(time.perf_counter() - started, 1)}
    return TrainedBundle(bundle, folder, learned, learned, held_count, metrics, seconds)


def articles_of(task: SupportTask) -> list[Article]:
    """Read the task's knowledge base, none if it has none.

    Raises:
        TrainingError: it cannot be read.
    """
    path = task.articles_path
    if path is None:
        return []
    try:
        return read_articles(path.read_bytes(), str(path))
    except OSError as problem:
        raise TrainingError(f"the articles {path} cannot be read: {problem.strerror or problem}") from None
    except ArticleError as problem:
        raise TrainingError(str(problem)) from None


def _held_back(known: Messages, share: float) -> NDArray[np.bool_]:
    """Tell which messages are held back: the newest, none of one millisecond split."""
    if not len(known):
        raise TrainingError("no message of the history has an intent that was known in time; give the file of labels")
    in_time = np.sort(known.times_ms)
    return known.times_ms >= in_time[min(len(known) - 1, int(len(known) * (1 - share)))]


def _classes(known: Messages, task: SupportTask) -> tuple[tuple[str, ...], Int64s]:
    """Return the names of the intents, and of each message the number of its own, -2 out of scope."""
    counts = Counter(intent for intent in known.intents if intent is not None and intent != OUT_OF_SCOPE)
    few = sorted(name for name, count in counts.items() if count < INTENT_MESSAGES_MIN)
    if len(counts) < 2 or few:
        what = f"only {counts[few[0]]} of {few[0]!r}" if few else f"{len(counts)} intents"
        raise TrainingError(
            f"task {task.name!r} has {len(known):,} labelled messages, {what}; at least two intents are needed, with "
            f"{INTENT_MESSAGES_MIN} messages each"
        )
    names = tuple(sorted(counts))
    place = {name: number for number, name in enumerate(names)} | {OUT_OF_SCOPE: -2}
    return names, np.array([place[str(intent)] for intent in known.intents], np.int64)


def _priorities(known: Messages) -> tuple[tuple[str, ...], Int64s]:
    names = tuple(sorted({priority for priority in known.priorities if priority is not None}))
    place: dict[str | None, int] = {name: number for number, name in enumerate(names)}
    return names, np.array([place.get(priority, -1) for priority in known.priorities], np.int64)


def _fit(
    known: Messages,
    held: NDArray[np.bool_],
    intents: tuple[Sequence[str], Int64s],
    priorities: tuple[Sequence[str], Int64s],
    task: SupportTask,
    settings: TrainingSettings,
    out_dir: Path,
    progress: Progress,
) -> tuple[Pieces, TextInputs, bytes]:
    from models.export_texts import export_texts
    from models.moe.settings import MoESettings
    from models.moe.text import TextSettings
    from models.train.joint import Progress as Step
    from models.train.joint import fit
    from models.train.settings import TrainSettings
    from models.train.texts import TextChoices, TextData

    sizes = MoESettings(**(SIZES_QUICK if settings.quick else SIZES))
    text = TextSettings(buckets=4096, pieces=512, pieces_max=32) if settings.quick else TextSettings()
    progress(Stage("pieces", 0, 1))
    learned = [each for each, is_held in zip(known.texts, held, strict=True) if not is_held]
    pieces = Pieces.learned(learned, text.pieces)
    inputs = make_inputs(known.texts, pieces, text.pieces_max, text.buckets)
    progress(Stage("pieces", 1, 1, f"{len(pieces):,} pieces"))
    batch = max(1, min(BATCH, int((~held).sum()) // 8))
    counts = len(intents[0]), len(priorities[0])
    data = TextData(inputs, intents[1], priorities[1], counts, held, TextChoices(batch=batch), text)
    epochs = min(EPOCHS_QUICK, settings.epochs) if settings.quick else settings.epochs

    def tell(step: Step) -> None:
        told = "".join(f", {name} {value:.3f}" for name, value in step.figures.items())
        progress(
            Stage("network", step.step, step.steps, f"epoch {step.epoch} of {step.epochs}, loss {step.loss:.3f}{told}")
        )

    wanted = TrainSettings(
        epochs=epochs, patience=epochs, learning_rate=1e-2 if settings.quick else 3e-3, seed=settings.seed,
        device=settings.device, threads=settings.threads, average_decay=0.9 if settings.quick else 0.99,
    )  # fmt: skip
    trained = fit({task.name: data}, wanted, out_dir / "network", tell, sizes=sizes, resume=settings.resume)
    progress(Stage("export", 0, 1))
    exported = export_texts(
        trained.network, inputs.rows(np.arange(0, len(known), -(-len(known) // GATE_MESSAGES)))
    )
    progress(Stage("export", 1, 1, exported.in_words()))
    return pieces, inputs, exported.file


def _calibrated(
    read: SupportSettings,
    task: SupportTask,
    inputs: TextInputs,
    network: bytes,
    held: NDArray[np.bool_],
    intents: tuple[tuple[str, ...], Int64s],
    priorities: tuple[tuple[str, ...], Int64s],
) -> tuple[SupportSettings, dict[str, float]]:
    """Choose temperature and line on the held-back messages, as served; return them and how good they are there."""
    names, classes = intents[0], intents[1][held]
    rows = np.flatnonzero(held)
    served = OnnxText(network)
    logits = np.concatenate(
        [served.logits(inputs.rows(rows[at : at + AT_ONCE])) for at in range(0, len(rows), AT_ONCE)]
    )
    inside = classes >= 0
    if not inside.any():
        raise TrainingError("no held-back message has an intent of ours; give a longer history")
    temperature = fit_temperature(logits[inside, : len(names)], classes[inside])
    shares = softmax(logits[:, : len(names)] / temperature)
    score = shares.max(axis=1)
    line = fit_line(score[inside], task.accept)
    metrics = {
        "held_back.accuracy": float((shares[inside].argmax(1) == classes[inside]).mean()),
        "held_back.temperature": temperature,
        "held_back.line": line,
        "held_back.accepted": float((score[inside] >= line).mean()),
    }
    if (~inside).sum() >= HELD_BACK_OUT_OF_SCOPE:
        metrics["held_back.out_of_scope_found"] = float((score[~inside] < line).mean())
    if priorities[0]:
        told = priorities[1][held] >= 0
        right = logits[:, len(names) :].argmax(1) == priorities[1][held]
        metrics["held_back.priority_accuracy"] = float(right[told].mean()) if told.any() else float("nan")
    settings = SupportSettings(read.chars_max, names, priorities[0], temperature, line)
    return settings, {name: round(value, 4) for name, value in metrics.items() if np.isfinite(value)}


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None

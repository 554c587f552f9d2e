"""What a task on messages learns: all but the newest, which choose the network's epoch, temperature and line.

A network of a task alone is then trained again, up to that epoch, on the newest, too, and this one serves: what is
new is often what is asked next. Temperature and line stay those of the first, for they cannot be fitted to messages
that were learned. Several tasks on one trunk serve the first network.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from connectors.schema import TextField
from models.moe.settings import MoESettings
from models.sentences.card import EncoderParts
from models.sentences.encoder import SentenceEncoder
from models.text.articles import Article, ArticleError, read_articles
from models.text.calibration import fit_line, fit_temperature
from models.text.inputs import TextInputs, make_inputs
from models.text.linear import LinearReaders
from models.text.passages import Passages
from models.text.pieces import Pieces
from models.text.runtime import OnnxText
from models.text.scorer import SupportSettings, softmax, support_parts
from ops.extras import BASELINE, need
from ops.progress import Progress, Stage, silent
from ops.training.contents import Contents
from ops.training.encoders import brought_encoder, vectors_of
from ops.training.recipes import Recipe
from ops.training.training import Lesson, Made, TrainingError, TrainingSettings, newest
from ops.training.tuning import Choice, Value
from pipeline.support import OUT_OF_SCOPE, SupportTask

if TYPE_CHECKING:
    from models.train.joint import Progress as NetworkProgress
    from models.train.joint import Trained
    from models.train.texts import TextData

Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]
INTENT_MESSAGES_MIN = 5  # of an intent, to learn it
EPOCHS, EPOCHS_QUICK = 10, 8
HELD_BACK_OUT_OF_SCOPE = 20  # below, nothing is said about how many of them are found
BATCH, AT_ONCE = 64, 128
GATE_MESSAGES = 64
SMOOTHING_MAX, BAG_DROPOUT = 0.2, (0.1, 0.6)  # of a search
SIZES: dict[str, Any] = {"experts": 8, "dropout": 0.1}
SIZES_QUICK: dict[str, Any] = {
    "width": 64, "heads": 2, "experts": 4, "expert_width": 32, "shared_width": 32, "layers": 1, "dropout": 0.1,
}  # fmt: skip


class TextLesson(Lesson):
    """The messages of a history. A task with articles alone needs no training: its bundle holds the articles.

    Raises:
        TrainingError: too few messages, or articles that cannot be read; in one sentence.
    """

    def __init__(
        self, messages: Contents, task: SupportTask, settings: TrainingSettings, progress: Progress = silent
    ) -> None:
        super().__init__(task, settings)
        content = task.text.field.content
        assert isinstance(content, TextField)
        self._chars_max, self._accept, self._articles = content.max_chars, task.accept, articles_of(task)
        self._encoder: EncoderParts | None = None
        if settings.encoder is not None:
            self._encoder = brought_encoder(settings.encoder, progress)
            self._sentences = SentenceEncoder(self._encoder, settings.threads)
        if task.intent is None:
            return
        known = messages.known(settings.start_ms, settings.until_ms)
        self._known = known = known.where(known.told("intent"))
        self.times_ms, self.held = known.times_ms, newest(known.times_ms, settings.held_back)
        self._names, self._classes = _classes(known, task)
        self._ranks, self._priorities = _priorities(known)
        quick, epochs = settings.quick, settings.epochs_of(EPOCHS, EPOCHS_QUICK)
        sizes = MoESettings(**(SIZES_QUICK if quick else SIZES))
        self.recipe = Recipe(epochs, sizes, epochs, 1e-2 if quick else 3e-3, 0.9 if quick else 0.99)
        self.data: TextData = self._data(progress)

    def _data(self, progress: Progress) -> TextData:
        from models.moe.text import TextSettings
        from models.train.texts import TextChoices, TextData

        text = TextSettings(buckets=4096, pieces=512, pieces_max=32) if self.settings.quick else TextSettings()
        sentences = None
        if self._encoder is not None:
            text = replace(text, sentence=self._encoder.card.width)
            sentences = vectors_of(self._sentences, self._known.values.tolist(), progress)
        progress(Stage("pieces", 0, 1))
        texts, held = self._known.values, self.held
        self._pieces = Pieces.learned(texts[~held].tolist(), text.pieces)
        inputs = make_inputs(texts.tolist(), self._pieces, text.pieces_max, text.buckets, text.pairs_apart, sentences)
        progress(Stage("pieces", 1, 1, f"{len(self._pieces):,} pieces"))
        choices = TextChoices(batch=max(1, min(BATCH, int((~held).sum()) // 8)))
        counts = len(self._names), len(self._ranks)
        return TextData(inputs, self._classes, self._priorities, counts, held, choices, text)

    def space(self) -> dict[str, Choice]:
        """Return how far labels may be smoothed, and how many grams left out while training."""
        choices, sizes = self.data.choices, self.data.sizes
        return {
            "smoothing": Choice(choices.smoothing, 0.0, SMOOTHING_MAX),
            "bag_dropout": Choice(sizes.bag_dropout, *BAG_DROPOUT),
        }  # fmt: skip

    def tune(self, values: Mapping[str, Value]) -> None:
        """Train with some values from now on."""
        super().tune(values)
        self.data = self.data.changed(
            {name: values[name] for name in ("smoothing",) if name in values},
            {name: values[name] for name in ("bag_dropout",) if name in values},
        )

    def make(self, trained: Trained | None, folder: Path, progress: Progress) -> Made:
        """Choose temperature and line by the held-back messages, as served."""
        articles = self._articles
        told: dict[str, str | int | float | None] = {
            "articles": len(articles),
            "articles_sha256": _digest(article.id + article.title + article.body for article in articles),
        }
        read = SupportSettings(chars_max=self._chars_max)
        metrics: dict[str, float] = {}
        pieces: Pieces | None = None
        network: bytes | None = None
        linear: LinearReaders | None = None
        if trained is not None:
            from models.export_texts import export_texts

            gate = self.data.inputs.rows(np.arange(0, len(self._known), -(-len(self._known) // GATE_MESSAGES)))
            whole = trained.network
            network = self.exported(lambda: export_texts(whole, gate, self.task.name), progress)
            pieces = self._pieces
            logits = self._held_back_logits(network)
            linear = self._linear_readers(logits, whole.tasks == (self.task.name,), metrics, progress)
            read, judged = self._calibrated(logits)
            metrics |= judged
            if whole.tasks == (self.task.name,):
                network = self._of_everything(trained, folder, gate, progress)
                told["epochs_of_everything"] = int(trained.report["best_epoch"])
            told["data_sha256"] = _digest([*self._known.values, *self._known.labels["intent"]])
        passages = None
        if self._encoder is not None:
            card = self._encoder.card
            told |= {
                "encoder": card.name,
                "encoder_sha256": _digest(f"{name} {card.files[name]}" for name in card.files),
            }
            if articles:
                passages = self._passages(articles, progress)
        answering = (("encoder", self._encoder), ("moe", network), ("articles", articles))
        parts = support_parts(read, articles, pieces, network, self._encoder, passages, linear)
        return Made(parts, [name for name, there in answering if there], metrics, told)

    def _passages(self, articles: Sequence[Article], progress: Progress) -> Passages:
        texts = [each.passages() for each in articles]
        count = sum(map(len, texts))
        found = Passages.read(texts, self._sentences.embed, lambda done: progress(Stage("articles", done, count)))
        self.clock.stage("articles")
        return found

    def _of_everything(self, first: Trained, folder: Path, gate: TextInputs, progress: Progress) -> bytes:
        """Train a second network on all messages, as long as the first one's best; return its export."""
        from models.export_texts import export_texts
        from models.train.whole import fit_whole

        def tell(step: NetworkProgress) -> None:
            note = f"epoch {step.epoch} of {step.epochs}, loss {step.loss:.4f}"
            progress(Stage("everything", step.step, step.steps, note))

        everything = {self.task.name: self.data.whole()}
        asked = self.settings
        second = fit_whole(
            first, everything, folder / "everything", tell, resume=asked.resume, processes=asked.processes
        )
        self.clock.stage("everything")
        return self.exported(lambda: export_texts(second.network, gate, self.task.name), progress)

    def _held_back_logits(self, network: bytes) -> Float64s:
        """Return what a network says of the held-back messages, as served."""
        rows, inputs, served = np.flatnonzero(self.held), self.data.inputs, OnnxText(network)
        return np.concatenate(
            [served.logits(inputs.rows(rows[at : at + AT_ONCE])) for at in range(0, len(rows), AT_ONCE)]
        )

    def _linear_readers(
        self, logits: Float64s, everything: bool, metrics: dict[str, float], progress: Progress
    ) -> LinearReaders | None:
        """Fit the readers beside a network with a sentence encoder, and add them to held-back logits; None without one.

        Their shares are chosen by readers that learned what the network did; with `everything`, those that serve learn
        what was held back, too.
        """
        kinds, held, inputs = len(self._names), np.flatnonzero(self.held), self.data.inputs
        if self._encoder is None or not (self._classes[held] >= 0).any():
            return None
        from ops.training.linear_readers import choose_shares, fit_readers

        need(BASELINE, "linear readers beside a sentence encoder are fitted with it")
        count, table = 2 if everything else 1, self.data.sizes.buckets + 1
        progress(Stage("linear", 0, count))
        learned = np.flatnonzero(~self.held)
        fitted = fit_readers(inputs.rows(learned), self._classes[learned], kinds, table)
        seen, classes = inputs.rows(held), self._classes[held]
        shares = choose_shares(fitted, seen, logits[:, :kinds], classes)
        inside = classes >= 0
        metrics["held_back.accuracy_of_the_network"] = float(
            (logits[inside, :kinds].argmax(1) == classes[inside]).mean().round(4)
        )
        logits[:, :kinds] = fitted.readers(shares).logits(seen, logits[:, :kinds])
        progress(Stage("linear", 1, count))
        if everything:
            fitted = fit_readers(inputs, self._classes, kinds, table)
            progress(Stage("linear", 2, count))
        self.clock.stage("linear")
        return fitted.readers(shares)

    def _calibrated(self, logits: Float64s) -> tuple[SupportSettings, dict[str, float]]:
        """Choose temperature and line; return them and how good they are on the held-back messages."""
        names, classes, priorities = self._names, self._classes[self.held], self._priorities[self.held]
        inside = classes >= 0
        if not inside.any():
            raise TrainingError("no held-back message has an intent of ours; give a longer history")
        temperature = fit_temperature(logits[inside, : len(names)], classes[inside])
        shares = softmax(logits[:, : len(names)] / temperature)
        score = shares.max(axis=1)
        line = fit_line(score[inside], self._accept)
        metrics = {
            "held_back.accuracy": float((shares[inside].argmax(1) == classes[inside]).mean()),
            "held_back.temperature": temperature,
            "held_back.line": line,
            "held_back.accepted": float((score[inside] >= line).mean()),
        }
        if (~inside).sum() >= HELD_BACK_OUT_OF_SCOPE:
            metrics["held_back.out_of_scope_found"] = float((score[~inside] < line).mean())
        told = priorities >= 0
        if told.any():
            right = logits[:, len(names) :].argmax(1) == priorities
            metrics["held_back.priority_accuracy"] = float(right[told].mean())
        settings = SupportSettings(self._chars_max, names, self._ranks, temperature, line)
        return settings, {name: round(value, 4) for name, value in metrics.items()}


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


def _classes(known: Contents, task: SupportTask) -> tuple[tuple[str, ...], Int64s]:
    """Return the names of the intents, and of each message the number of its own, -2 out of scope."""
    counts = Counter(intent for intent in known.labels["intent"] if intent != OUT_OF_SCOPE)
    few = sorted(name for name, count in counts.items() if count < INTENT_MESSAGES_MIN)
    if len(counts) < 2 or few:
        what = f"only {counts[few[0]]} of {few[0]!r}" if few else f"{len(counts)} intents"
        raise TrainingError(
            f"task {task.name!r} has {len(known):,} labelled messages, {what}; at least two intents are needed, with "
            f"{INTENT_MESSAGES_MIN} messages each"
        )
    names = tuple(sorted(counts))
    place = {name: number for number, name in enumerate(names)} | {OUT_OF_SCOPE: -2}
    return names, np.array([place[str(intent)] for intent in known.labels["intent"]], np.int64)


def _priorities(known: Contents) -> tuple[tuple[str, ...], Int64s]:
    names = tuple(sorted({priority for priority in known.labels["priority"] if priority is not None}))
    place: dict[str | None, int] = {name: number for number, name in enumerate(names)}
    return names, np.array([place.get(priority, -1) for priority in known.labels["priority"]], np.int64)


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()

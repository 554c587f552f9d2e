"""From messages to what their writers want, as one bundle serves it: intents, scope, priority, articles.

Parts of a bundle: `support.json` (names, calibration, bounds), and where the task has them `moe.onnx` with
`pieces.json` (intents and priorities), and `articles.json` (the knowledge base that decisions name articles of). Where
a sentence encoder was brought: the encoder (`models.sentences.card`), whose vectors the network reads, too,
`linear.npz`, readers beside the network (`models.text.linear`), and `passages.npz`, what it says of the articles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle, BundleError
from models.expert_load import ExpertLoad
from models.rung_cost import RungCost, time_rung
from models.runtimes import Gpu
from models.sentences.card import EncoderError, EncoderParts
from models.sentences.encoder import SentenceEncoder
from models.text.articles import Article, ArticleIndex, decode_articles, encode_articles
from models.text.inputs import make_inputs
from models.text.linear import LinearReaders
from models.text.passages import Passages
from models.text.pieces import Pieces
from models.text.runtime import OnnxText
from models.text.words import normalised

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
SUPPORT, PIECES, MOE, ARTICLES = "support.json", "pieces.json", "moe.onnx", "articles.json"
PASSAGES, LINEAR = "passages.npz", "linear.npz"
INTENTS_TOLD = 3
AT_ONCE = 32  # messages in one run of the network
TIMED, TIMED_MANY = ["please tell me when my money arrives, I have waited for a week"], 16


class SupportSettings(msgspec.Struct, frozen=True):
    """What a bundle says about its intents.

    Attributes:
        chars_max: characters of a message that are read.
        intents, priorities: names, in the order of the network's logits: intents first.
        temperature: logits of intents are divided by it, so that probabilities are what held-back messages say.
        line: messages whose intent is less probable are out of scope.
    """

    chars_max: int = 4000
    intents: tuple[str, ...] = ()
    priorities: tuple[str, ...] = ()
    temperature: float = 1.0
    line: float = 0.0


# Made once, here: msgspec crashes if two threads meet a type for the first time at once.
_DECODER = msgspec.json.Decoder(SupportSettings)


@dataclass(frozen=True)
class Reading:
    """What was read in one message.

    Attributes:
        intents: the most probable, with their probabilities.
        score: probability of the first; None without a network.
        is_out_of_scope: whether that is below the line; None without a network, or without a text.
        priority: the most probable; None without priorities.
        articles: ids and scores, best first.
    """

    intents: tuple[tuple[str, float], ...] = ()
    score: float | None = None
    is_out_of_scope: bool | None = None
    priority: str | None = None
    articles: tuple[tuple[str, float], ...] = ()


NONE_READ = Reading()


class SupportScorer:
    """The models of one bundle, warmed up. Messages are read by themselves: batches do not matter beyond rounding.

    Args:
        bundle: with the parts that `support_parts` names.
        gpu: whether a GPU computes the network: "never", "prefer" or "require".

    Attributes:
        line: the probability below which a message is out of scope; None without a network.
        fallback: the same with a small network, for when there is no time; None without one.
        cost: what reading costs; None before `time`.

    Raises:
        BundleError: it is of another kind of task, or its sentence encoder cannot be run here.
        RuntimeRefusedError: a GPU is required, and none can be used.
    """

    fallback: SupportScorer | None = None
    cost: RungCost | None = None

    def __init__(self, bundle: Bundle, gpu: Gpu = "never") -> None:
        if SUPPORT not in bundle.parts:
            raise BundleError(f"bundle {bundle.id} was not made for a support task; train one: pelton train APP")
        self.settings = settings = _DECODER.decode(bundle.part(SUPPORT))
        self._pieces = Pieces.from_json(bundle.part(PIECES)) if PIECES in bundle.parts else None
        self._network = OnnxText(bundle.part(MOE), gpu=gpu) if MOE in bundle.parts else None
        self._encoder = _encoder_of(bundle, gpu)
        expected = self._network.sentence if self._network is not None else 0
        given = self._encoder.card.width if self._encoder is not None else 0
        if expected and expected != given:
            raise BundleError(
                f"the network of bundle {bundle.id} reads {expected} numbers of a sentence encoder, and its encoder "
                f"gives {given}; train it again: pelton train APP --encoder NAME"
            )
        self._linear = LinearReaders.from_part(bundle.part(LINEAR)) if LINEAR in bundle.parts else None
        articles = decode_articles(bundle.part(ARTICLES)) if ARTICLES in bundle.parts else []
        passages = Passages.from_part(bundle.part(PASSAGES)) if articles and self._encoder is not None else None
        self.articles = ArticleIndex(articles, passages) if articles else None
        self.line = settings.line if self._network is not None else None
        self.probabilities(["warm up"])  # not counted

    @property
    def provider(self) -> str:
        """What computes the network: "cpu", "cuda", or "none" without one."""
        return self._network.provider if self._network is not None else "none"

    @property
    def load(self) -> ExpertLoad | None:
        """How served messages visited the network's experts; None without one, or if it does not tell."""
        return self._network.load if self._network is not None else None

    @property
    def rung(self) -> str:
        """Which models answer."""
        models = (("encoder", self._encoder), ("moe", self._network), ("articles", self.articles))
        return "+".join(name for name, model in models if model is not None) or "rules"

    def with_snapshot(self, snapshot: bytes) -> SupportScorer:
        """Return the same models: a support task has no learner."""
        return self

    def time(self, timer_s: Callable[[], float]) -> None:
        """Find out what reading costs, that of the fallback, too; `timer_s` never goes back."""
        self.cost = time_rung(lambda rows: self.read(TIMED * rows, 3), timer_s, TIMED_MANY)
        if self.fallback is not None:
            self.fallback.time(timer_s)

    def read(self, texts: Sequence[str | None], articles_top: int) -> list[Reading]:
        """Read messages; null and texts without a word tell nothing."""
        cleaned = [normalised(text or "", self.settings.chars_max) for text in texts]
        told = [place for place, text in enumerate(cleaned) if text]
        found = [NONE_READ] * len(cleaned)
        asked = [cleaned[place] for place in told]
        vectors = self.vectors(asked)
        intents, priorities = self.probabilities(asked, vectors, counted=True)
        for row, place in enumerate(told):
            vector = None if vectors is None else vectors[row]
            best = self.articles.best(asked[row], articles_top, vector) if self.articles is not None else ()
            found[place] = self._reading(intents[row], priorities[row], best)
        return found

    def vectors(self, cleaned: Sequence[str]) -> Float32s | None:
        """Return (messages, width) what the sentence encoder says of normalised texts; None without one."""
        return self._encoder.embed(cleaned) if self._encoder is not None else None

    def probabilities(
        self, cleaned: Sequence[str], vectors: Float32s | None = None, counted: bool = False
    ) -> tuple[Float64s, Float64s]:
        """Return (messages, intents) and (messages, priorities) of normalised texts; no columns without a network.

        Args:
            cleaned: normalised texts.
            vectors: those of the sentence encoder, made here if not given.
            counted: whether their visits of experts are added to `load`.
        """
        if self._network is None or self._pieces is None:
            return np.zeros((len(cleaned), 0)), np.zeros((len(cleaned), 0))
        kinds, temperature = len(self.settings.intents), self.settings.temperature
        logits = np.zeros((len(cleaned), kinds + len(self.settings.priorities)))
        if vectors is None and self._network.sentence:
            vectors = self.vectors(cleaned)
        for first in range(0, len(cleaned), AT_ONCE):
            rows, network = slice(first, first + AT_ONCE), self._network
            sentences = vectors[rows] if vectors is not None and network.sentence else None
            inputs = make_inputs(
                cleaned[rows], self._pieces, network.pieces_max, network.buckets, network.pairs_apart, sentences
            )
            logits[rows] = network.logits(inputs, counted)
            if self._linear is not None:
                logits[rows, :kinds] = self._linear.logits(inputs, logits[rows, :kinds])
        return softmax(logits[:, :kinds] / temperature), softmax(logits[:, kinds:])

    def _reading(self, intents: Float64s, priorities: Float64s, articles: tuple[tuple[str, float], ...]) -> Reading:
        if not intents.size:
            return Reading(articles=articles)
        order = np.argsort(-intents, kind="stable")[:INTENTS_TOLD]
        named = tuple((self.settings.intents[at], float(intents[at])) for at in order)
        priority = self.settings.priorities[int(priorities.argmax())] if priorities.size else None
        return Reading(named, named[0][1], named[0][1] < self.settings.line, priority, articles)


def _encoder_of(bundle: Bundle, gpu: Gpu) -> SentenceEncoder | None:
    parts = EncoderParts.of(bundle)
    try:
        return None if parts is None else SentenceEncoder(parts, gpu=gpu)
    except EncoderError as problem:
        raise BundleError(f"the sentence encoder of bundle {bundle.id} cannot be run: {problem}") from None


def softmax(logits: Float64s) -> Float64s:
    """Return (n, classes) probabilities of logits."""
    if not logits.shape[1]:
        return logits
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Float64s = powers / powers.sum(axis=1, keepdims=True)
    return shares


def support_parts(
    settings: SupportSettings,
    articles: Sequence[Article],
    pieces: Pieces | None,
    network: bytes | None,
    encoder: EncoderParts | None = None,
    passages: Passages | None = None,
    linear: LinearReaders | None = None,
) -> dict[str, bytes]:
    """Return the parts of a bundle, for `models.bundle.write_bundle`; with an encoder, articles need passages."""
    parts = {SUPPORT: msgspec.json.encode(settings)}
    if network is not None and pieces is not None:
        parts |= {MOE: network, PIECES: pieces.to_json()}
    if articles:
        parts[ARTICLES] = encode_articles(articles)
    if encoder is not None:
        parts |= encoder.parts()
        if passages is not None:
            parts[PASSAGES] = passages.to_part()
        if linear is not None:
            parts[LINEAR] = linear.to_part()
    return parts

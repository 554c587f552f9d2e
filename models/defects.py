"""From pixels to defects: class probabilities, a score, a heat map. Needs numpy and onnxruntime alone.

Letters: n images of s by s pixels with c channels, k classes, g cells along a side of the evidence.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]
Pixels = NDArray[np.uint8]
NETWORK, CARD = "moe.onnx", "defect.json"
BATCHES = (1, 2, 4, 8)  # sizes that are computed; a batch is padded to the next one, and a larger one split


class DefectError(ValueError):
    """What serves defects is damaged, or was given images of another shape; the message says which."""


@dataclass(frozen=True)
class DefectCard:
    """What must be known beside the network; all of it was chosen on images that the network has not learned.

    Attributes:
        classes: (k,) names, in the order of the logits.
        sound: the class of images without a defect, None if there is none.
        size, channels: of the images.
        temperature: what logits are divided by, so that probabilities are right.
        threshold: score from which on an image is alerted; NaN-free, 0 alerts every image.
        heat_low, heat_high: evidence that is drawn as black and as white.
    """

    classes: tuple[str, ...]
    sound: str | None
    size: int
    channels: int
    temperature: float
    threshold: float
    heat_low: float
    heat_high: float

    def to_json(self) -> bytes:
        """Return the card as JSON, exact."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> DefectCard:
        """Read what `to_json` wrote.

        Raises:
            DefectError: it is something else.
        """
        try:
            told = json.loads(data)
            return cls(**{field.name: told[field.name] for field in fields(cls)} | {"classes": tuple(told["classes"])})
        except (ValueError, KeyError, TypeError) as problem:
            raise DefectError(f"{CARD} cannot be read ({problem}); export the bundle again") from None


@dataclass(frozen=True)
class DefectScores:
    """What the network says of n images.

    Attributes:
        score: (n,) probability that there is a defect; 1 without a class for sound images.
        classes: (n, k) probability of each class.
        best: (n,) the likeliest class; of an image with a score from the threshold on, the likeliest defect.
        evidence: (n, g, g) by how much more each cell speaks for a defect than for a sound surface.
    """

    score: Float64s
    classes: Float64s
    best: NDArray[np.int64]
    evidence: Float64s


def read_scores(logits: Float64s, evidence: Float64s, card: DefectCard) -> DefectScores:
    """Make scores of (n, k) logits and (n, k, g, g) evidence."""
    logits, evidence = np.asarray(logits, np.float64), np.asarray(evidence, np.float64)
    probability = softmax(logits / card.temperature)
    if card.sound is None:
        best = logits.argmax(1)
        rest = (evidence.sum(1) - _picked(evidence, best)) / max(evidence.shape[1] - 1, 1)
        return DefectScores(np.ones(len(logits)), probability, best, _picked(evidence, best) - rest)
    place = card.classes.index(card.sound)
    defects = [column for column in range(len(card.classes)) if column != place]
    score = probability[:, defects].sum(1)
    likeliest = np.array(defects)[logits[:, defects].argmax(1)]
    best = np.where(score >= card.threshold, likeliest, logits.argmax(1))
    against = evidence[:, place]
    return DefectScores(score, probability, best, _logsumexp(evidence[:, defects]) - against)


def softmax(logits: Float64s) -> Float64s:
    """Return (n, k) probabilities of (n, k) logits.

    >>> softmax(np.array([[0.0, 0.0, -1e9]])).tolist()
    [[0.5, 0.5, 0.0]]
    """
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def heat_maps(evidence: Float64s, card: DefectCard) -> Pixels:
    """Draw (n, g, g) evidence as (n, s, s) brightness: black is nothing, white is sure."""
    shown = np.clip((evidence - card.heat_low) / max(card.heat_high - card.heat_low, 1e-9), 0, 1)
    return np.rint(255 * enlarged(shown, card.size)).astype(np.uint8)


def enlarged(maps: Float64s, size: int) -> Float64s:
    """Interpolate (n, g, g) linearly to (n, size, size); the middle of a cell keeps its value."""
    cells = maps.shape[-1]
    at = np.clip((np.arange(size) + 0.5) * cells / size - 0.5, 0, cells - 1)
    spread = np.clip(1 - np.abs(at[:, None] - np.arange(cells)), 0, 1)  # (size, g)
    return spread @ maps @ spread.T


def gray_png(pixels: Pixels) -> bytes:
    """Write (high, wide) brightness as a PNG."""
    high, wide = pixels.shape
    rows = np.zeros((high, wide + 1), np.uint8)  # each begins with its filter: none
    rows[:, 1:] = pixels
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", wide, high, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows.tobytes(), 6)),
        (b"IEND", b""),
    )
    chunks = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


class DefectModel:
    """The network of a bundle, ready to score.

    Args:
        network: bytes of the ONNX file, or a session of ONNX Runtime that has it open.
        card: what belongs to it.
        threads: CPU threads for one batch, of a session that is opened here.

    Attributes:
        notes: what the network says of itself, name -> JSON.
        chosen: its outputs that tell which experts were visited.
        on_visits: told of each batch what these outputs were, how many of the images it was given, and how many it
            computed, padding behind them; None asks for nothing.

    Raises:
        DefectError: the network is none, or of other classes or sizes than the card.
    """

    def __init__(self, network: Any, card: DefectCard, threads: int = 1) -> None:
        self.card = card
        self._session = _open(network, threads) if isinstance(network, bytes) else network
        told = {output.name: output.shape for output in self._session.get_outputs()}
        if not {"logits", "evidence"} <= set(told) or told["logits"][1] != len(card.classes):
            raise DefectError(f"{NETWORK} gives {told}; it must be of {len(card.classes)} classes, with evidence")
        self.notes: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.chosen = [name for name in told if name.startswith("chosen_")]
        self.on_visits: Callable[[list[NDArray[Any]], int, int], None] | None = None
        for count in BATCHES:  # the first run of a size plans memory
            self._run(np.zeros((count, card.size, card.size, card.channels), np.uint8))

    def score(self, pixels: Pixels) -> DefectScores:
        """Score (n, s, s, c) uint8 images.

        Raises:
            DefectError: another shape or type, or the weights are broken.
        """
        return read_scores(*self.outputs(pixels), self.card)

    def outputs(self, pixels: Pixels) -> tuple[Float64s, Float64s]:
        """Return (n, k) logits and (n, k, g, g) evidence of images, as `score` reads them."""
        card, expected = self.card, (self.card.size, self.card.size, self.card.channels)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != expected:
            raise DefectError(f"images are {pixels.dtype} {pixels.shape}; the network takes uint8 (n, {expected})")
        parts = [self._padded(pixels[i : i + BATCHES[-1]]) for i in range(0, len(pixels), BATCHES[-1])]
        k = len(card.classes)
        logits = np.concatenate([np.zeros((0, k)), *(part[0] for part in parts)])
        evidence = np.concatenate([part[1] for part in parts]) if parts else np.zeros((0, k, 1, 1))
        if not np.isfinite(logits).all():
            raise DefectError(f"{NETWORK} gives logits that are not finite; its weights are broken, roll it back")
        return logits, np.asarray(evidence, np.float64)

    def heat_maps(self, scores: DefectScores) -> Pixels:
        """Draw where the defect is: (n, s, s) brightness."""
        return heat_maps(scores.evidence, self.card)

    def _padded(self, pixels: Pixels) -> tuple[NDArray[Any], NDArray[Any]]:
        count = next(size for size in BATCHES if size >= len(pixels))
        given = np.zeros((count, *pixels.shape[1:]), np.uint8)
        given[: len(pixels)] = pixels
        logits, evidence = self._run(given, len(pixels))
        return logits[: len(pixels)], evidence[: len(pixels)]

    def _run(self, pixels: Pixels, counted: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
        is_watched = self.on_visits is not None and counted > 0
        outputs = ["logits", "evidence", *(self.chosen if is_watched else [])]
        logits, evidence, *visits = self._session.run(outputs, {"images": pixels})
        if self.on_visits is not None and visits:
            self.on_visits(visits, counted, len(pixels))
        return logits, evidence


def _open(network: bytes, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning takes the other core away
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # onnxruntime's exceptions share no base class of their own
        raise DefectError(f"{NETWORK} cannot be opened: {str(problem)[:200]}") from None


def _picked(evidence: Float64s, classes: NDArray[np.int64]) -> Float64s:
    return evidence[np.arange(len(evidence)), classes]


def _logsumexp(values: Float64s) -> Float64s:
    """Return (n, g, g) log(sum(exp)) over axis 1."""
    top = values.max(axis=1, keepdims=True)
    return np.log(np.exp(values - top).sum(1)) + top[:, 0]


def open_folder(folder: Path, threads: int = 1) -> DefectModel:
    """Open what `pelton export` wrote."""
    card = DefectCard.from_json((folder / CARD).read_bytes())
    return DefectModel((folder / NETWORK).read_bytes(), card, threads)


def main() -> None:
    """Say what is on images, (n, s, s) or (n, s, s, c) uint8 in a file of numpy: one line of JSON for each."""
    model = open_folder(Path(__file__).parent)
    images = np.load(sys.argv[1], allow_pickle=False)
    images = images[..., None] if images.ndim == 3 else images
    scores = model.score(images)
    for row in range(len(images)):
        print(
            json.dumps(
                {
                    "defect": model.card.classes[int(scores.best[row])],
                    "score": float(scores.score[row]),
                    "alert": bool(scores.score[row] >= model.card.threshold),
                }
            )
        )


if __name__ == "__main__":
    main()

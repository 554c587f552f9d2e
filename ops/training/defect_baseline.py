"""What to compare with: histograms of brightness and edges with gradient boosting, on exactly the same images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.defect_card import recall_threshold
from models.defects import DefectCard
from ops.training.contents import Contents
from ops.training.defect_training import class_figures, defective
from ops.training.training import newest

Float64s = NDArray[np.float64]
BASELINE = "edges, boosting"
LEVELS, EDGES, DIRECTIONS, CELLS = 32, 24, 8, 8
EDGE_MIN = 1e-4  # of the whole range of brightness; steps are counted by their logarithm from there to 1
HELD_BACK = 0.15  # the newest, to choose the line of alerts
AT_ONCE = 64


def defects_by_edges(
    learned: Contents, test: Contents, classes: NDArray[np.int64], card: DefectCard, recall: float, seed: int
) -> dict[str, float] | None:
    """Learn the classes of a card by gradient boosting on `texture`; return the figures of the (n,) test's classes.

    The line of alerts is chosen as the bundle's is: on the newest part of what there is to learn, which it does not
    learn. None is returned where that has no defect, or there is one class only to learn.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    known = learned.where(np.isin(learned.labels["label"].astype(str), card.classes))
    if not len(known):
        return None
    truth = np.array([card.classes.index(label) for label in known.labels["label"]], np.int64)
    held = newest(known.times_ms, HELD_BACK)
    if np.unique(truth[~held]).size < 2 or not defective(truth[held], card).any():
        return None
    features = texture(known.values)
    model = HistGradientBoostingClassifier(max_leaf_nodes=15, min_samples_leaf=10, early_stopping=False,
                                           random_state=seed)  # fmt: skip
    model.fit(features[~held], truth[~held])

    def judged(rows: Float64s) -> tuple[NDArray[np.int64], Float64s]:
        shares = np.zeros((len(rows), len(card.classes)))
        shares[:, model.classes_] = model.predict_proba(rows)
        sound = shares[:, card.classes.index(card.sound)] if card.sound is not None else np.zeros(len(rows))
        return shares.argmax(1), 1 - sound

    if card.sound is not None:
        scores = judged(features[held])[1][defective(truth[held], card)]
        card = replace(card, threshold=recall_threshold(scores, recall))
    return class_figures(*judged(texture(test.values)), classes, card)


def texture(pixels: NDArray[np.uint8]) -> Float64s:
    """Describe (n, s, s, c) images: (n, f) shares of levels of brightness, of heights and directions of edges.

    Beside them how much brightness varies in 8 by 8 cells, sorted: where a cell is says nothing of a surface.
    """
    parts = [_texture(pixels[first : first + AT_ONCE]) for first in range(0, len(pixels), AT_ONCE)]
    return np.concatenate(parts)


def _texture(pixels: NDArray[np.uint8]) -> Float64s:
    count, side, channels = len(pixels), pixels.shape[1], pixels.shape[3]
    whole = pixels.astype(np.float64) / 255
    levels = [_shares(whole[..., channel] * (LEVELS - 1e-9), LEVELS) for channel in range(channels)]
    gray = whole.mean(3)
    down, right = np.gradient(gray, axis=(1, 2))
    height = np.hypot(down, right)
    edges = _shares((1 - np.log(np.clip(height, EDGE_MIN, 1)) / np.log(EDGE_MIN)) * (EDGES - 1e-9), EDGES)
    ways = _shares(np.arctan2(down, right) % np.pi / np.pi * (DIRECTIONS - 1e-9), DIRECTIONS, height)
    cell = side // CELLS
    cells = gray[:, : cell * CELLS, : cell * CELLS].reshape(count, CELLS, cell, CELLS, cell)
    return np.concatenate([*levels, edges, ways, np.sort(cells.std((2, 4)).reshape(count, -1), axis=1)], axis=1)


def _shares(places: Float64s, bins: int, weights: Float64s | None = None) -> Float64s:
    """Return (n, bins) shares of (n, s, s) places, each counted once or by its weight."""
    count = len(places)
    at = places.astype(np.int64).clip(0, bins - 1) + np.arange(count)[:, None, None] * bins
    found = np.bincount(at.ravel(), None if weights is None else weights.ravel(), count * bins).reshape(count, bins)
    shares: Float64s = found / np.maximum(found.sum(1, keepdims=True), 1e-12)
    return shares

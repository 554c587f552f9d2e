"""Fit the linear readers that stand beside a network on texts with a sentence encoder, with scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.text.calibration import fit_temperature, log_loss_of
from models.text.inputs import TextInputs
from models.text.linear import LinearReaders, gram_values

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]
INVERSE_PENALTY = 20.0  # of the logistic regression on sentences
ROUNDS_MAX = 300
SHARES = np.linspace(0, 1, 11)
TEMPERATURES = np.exp(np.linspace(np.log(0.3), np.log(1.5), 9))


@dataclass(frozen=True)
class Shares:
    """What the logits of network, grams and sentences are multiplied by, as chosen on held-back messages."""

    network: float
    grams: float
    sentences: float


@dataclass(frozen=True)
class Fitted:
    """Both readers, nothing multiplied yet: (rows, k) and (s, k) weights with (k,) biases."""

    rare: Float32s
    grams: Float64s
    grams_bias: Float64s
    sentences: Float64s
    sentences_bias: Float64s

    def readers(self, shares: Shares) -> LinearReaders:
        """Return them as they serve."""
        bias = shares.grams * self.grams_bias + shares.sentences * self.sentences_bias
        return LinearReaders(
            self.rare, (shares.grams * self.grams).astype(np.float32),
            (shares.sentences * self.sentences).astype(np.float32), bias, shares.network,
        )  # fmt: skip


def fit_readers(inputs: TextInputs, classes: Int64s, intents: int, rows: int) -> Fitted:
    """Fit a linear SVM on TF-IDF of grams, and logistic regression on sentences.

    Args:
        inputs: of the messages to learn.
        classes: (messages,) their intents; those below zero are left out.
        intents: how many there are.
        rows: of the table of grams, padding included.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    assert inputs.sentences is not None
    known = np.flatnonzero(classes >= 0)
    both = np.concatenate([inputs.words[known], inputs.letters[known]], axis=1)
    holders = np.bincount(both.ravel(), minlength=rows)
    rare = (np.log((1 + len(known)) / (1 + np.minimum(holders, len(known)))) + 1).astype(np.float32)
    svm = LinearSVC(random_state=0).fit(_matrix(inputs, known, rare), classes[known])
    logistic = LogisticRegression(C=INVERSE_PENALTY, max_iter=ROUNDS_MAX)
    logistic.fit(inputs.sentences[known].astype(np.float64), classes[known])
    return Fitted(rare, *_weights(svm, intents), *_weights(logistic, intents))


def choose_shares(fitted: Fitted, inputs: TextInputs, network: Float64s, classes: Int64s) -> Shares:
    """Choose how much each reader counts: the least log loss of held-back messages, of intents that we know.

    Each is first divided by its own temperature; then all shares in tenths are tried, together at several temperatures.
    """
    inside = classes >= 0
    alone = [Shares(1, 0, 0), Shares(0, 1, 0), Shares(0, 0, 1)]
    logits = [fitted.readers(each).logits(inputs, network)[inside] for each in alone]
    right = classes[inside]
    scale = [1 / fit_temperature(each, right) for each in logits]
    best, least = (1.0, 0.0, 0.0), np.inf
    for tried in product(SHARES, SHARES):
        third = 1 - sum(tried)
        if third < -1e-9:
            continue
        shares = (*tried, max(third, 0.0))
        mixed = sum(share * factor * each for share, factor, each in zip(shares, scale, logits, strict=True))
        loss = min(log_loss_of(mixed / temperature, right) for temperature in TEMPERATURES)
        if loss < least:
            best, least = shares, loss
    return Shares(*(share * factor for share, factor in zip(best, scale, strict=True)))


def _matrix(inputs: TextInputs, known: Int64s, rare: Float32s) -> Any:
    from scipy.sparse import csr_matrix

    places, values, starts = [], [], [0]
    for message in known:
        owns = [each[message][each[message] > 0] for each in (inputs.words, inputs.letters)]
        places += owns
        values += [gram_values(own, rare) for own in owns]
        starts.append(starts[-1] + sum(len(own) for own in owns))
    return csr_matrix((np.concatenate(values), np.concatenate(places), starts), (len(known), len(rare)))


def _weights(model: Any, intents: int) -> tuple[Float64s, Float64s]:
    """Return (features, k) weights and (k,) biases; an intent that was not seen is as likely as the least likely."""
    weights, bias = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
    if len(model.classes_) == 2:  # one row stands for both
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    all_weights, all_bias = np.zeros((intents, weights.shape[1])), np.full(intents, bias.min())
    all_weights[model.classes_], all_bias[model.classes_] = weights, bias
    return all_weights.T, all_bias

"""Make probabilities of intents honest, and choose below which one a message is out of scope.

Sources: temperature: Guo et al. 2017 (arXiv:1706.04599), section 4.2; never quite sure, however few messages there are:
Platt 1999, "Probabilistic Outputs for Support Vector Machines", section 2.2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]
TEMPERATURES = np.exp(np.linspace(np.log(0.1), np.log(10.0), 241))


def fit_temperature(logits: Float64s, classes: NDArray[np.int64]) -> float:
    """Return the temperature that gives (n, k) logits the least log loss of (n,) classes, between 0.1 and 10.

    One message in n + 2 is taken to be of any class: else messages that are all read rightly would make it certain.

    >>> fit_temperature(np.array([[5.0, 0], [5, 0], [5, 0], [0, 5]]), np.array([0, 0, 1, 1])) > 3
    True
    """
    doubt = 1 / (len(classes) + 2)
    return float(min(TEMPERATURES, key=lambda temperature: log_loss_of(logits / temperature, classes, doubt)))


def log_loss_of(logits: Float64s, classes: NDArray[np.int64], doubt: float = 0.0) -> float:
    """Return the mean log loss of (n, k) logits, a share `doubt` of each label spread over all classes."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    told = (1 - doubt) * shifted[np.arange(len(classes)), classes] + doubt * shifted.mean(axis=1)
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - told))


def fit_line(scores: Float64s, accept: float) -> float:
    """Return the largest line that at least a share `accept` of scores reaches.

    >>> fit_line(np.array([0.2, 0.4, 0.6, 0.8]), 0.75)
    0.4
    """
    in_order = np.sort(scores)
    return float(in_order[int(np.floor(round((1 - accept) * len(in_order), 9)))])

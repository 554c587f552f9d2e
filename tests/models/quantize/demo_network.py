"""The shipped network, and rows like those it was trained on in kind, not in what they say."""

from pathlib import Path

import numpy as np
import onnx

import ops
from models.bundle import read_bundle
from models.scorer import MOE, read_specs

BUNDLE = read_bundle(Path(ops.__file__).parent / "demo" / "bundle")
SPECS = read_specs(BUNDLE)
MODEL = onnx.load_from_string(BUNDLE.part(MOE))


def rows(n: int, seed: int = 0) -> np.ndarray:
    chance = np.random.default_rng(seed)
    categories = np.array([spec.kind == "category" for spec in SPECS])
    numbers = np.exp(chance.normal(size=(n, len(SPECS))))
    features = np.where(categories, chance.integers(0, 1 << 32, numbers.shape), numbers)
    features[chance.random(features.shape) < 0.2] = np.nan
    return features

"""The models of a defect task's bundle. Parts: `moe.onnx` (the network) and `defect.json` (what belongs to it)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from models.bundle import Bundle, BundleError
from models.defects import BATCHES, CARD, NETWORK, DefectCard, DefectError, DefectModel, DefectScores, Pixels
from models.expert_load import load_for
from models.rung_cost import RungCost, time_rung
from models.runtimes import Gpu, open_session


class DefectScorer:
    """The network of one bundle, warmed up.

    Attributes:
        provider: what computes it: "cpu" or "cuda".
        load: visits of the images that were scored; None if the network does not tell them.

    Args:
        bundle: with the parts named above.
        size, channels: of the images that will be given.
        gpu: whether a GPU computes the network: "never", "prefer" or "require".

    Raises:
        BundleError: it is damaged, or was trained for images of another size.
        RuntimeRefusedError: a GPU is required, and none can be used.
    """

    rung = "moe"
    fallback: DefectScorer | None = None
    cost: RungCost | None = None

    def __init__(self, bundle: Bundle, size: int, channels: int, gpu: Gpu = "never") -> None:
        try:
            self.card = DefectCard.from_json(bundle.part(CARD))
            if (self.card.size, self.card.channels) != (size, channels):
                raise BundleError(
                    f"bundle {bundle.id} was trained for images of {self.card.size} pixels and {self.card.channels} "
                    f"channels, the app has {size} and {channels}; train it again"
                )
            network, self.provider = bundle.part(NETWORK), "cpu"
            self._model = DefectModel(network, self.card)
            if gpu != "never":
                session, self.provider = open_session(network, 1, gpu)
                self._model = DefectModel(session, self.card)
            self.load, self._model.chosen = load_for(self._model.notes, self._model.chosen)
            self._model.on_visits = self.load.add if self.load is not None else None
        except DefectError as problem:
            raise BundleError(f"bundle {bundle.id}: {problem}") from None

    def with_snapshot(self, snapshot: bytes) -> DefectScorer:
        """Return the same: no learner serves defects."""
        return self

    def time(self, timer_s: Callable[[], float]) -> None:
        """Find out what an answer costs, that of the fallback, too; `timer_s` never goes back."""
        shape = (self.card.size, self.card.size, self.card.channels)
        self.cost = time_rung(lambda rows: self.score(np.zeros((rows, *shape), np.uint8)), timer_s, BATCHES[-1])
        if self.fallback is not None:
            self.fallback.time(timer_s)

    def score(self, pixels: Pixels) -> DefectScores:
        """Score (n, s, s, c) uint8 images."""
        return self._model.score(pixels)

    def heat_maps(self, scores: DefectScores) -> Pixels:
        """Draw where the defect is: (n, s, s) brightness."""
        return self._model.heat_maps(scores)


def defect_parts(network: bytes, card: DefectCard) -> dict[str, bytes]:
    """Return the parts of a bundle, for `models.bundle.write_bundle`."""
    return {NETWORK: network, CARD: card.to_json()}

"""From features to scores: the MoE, the online learner and their calibrated blend, as one bundle serves them.

Parts of a bundle: `specs.json` (the columns), `blend.json` (calibration), `typical.json` (the baseline of reasons),
`moe.onnx` and `ftrl.npz` where the task has that model, `training.json` (what its training was like) for people only.
A learner snapshot replaces `ftrl.npz`. A bundle that was trained with a student has `distilled.onnx` and, as its blend
with the learner, `distilled.json`: what `Scorer.fallback` answers with, where there is no time for the MoE.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle, BundleError
from models.calibration import Blend, sigmoid
from models.expert_load import ExpertLoad
from models.features import FeatureSpec
from models.ftrl import Ftrl
from models.moe_runtime import OnnxMoE
from models.reasons import explain, in_words
from models.row_memo import RowMemo
from models.rung_cost import MANY, RungCost, time_rung
from models.runtimes import Gpu

Float64s = NDArray[np.float64]
SPECS, BLEND, TYPICAL, MOE, FTRL = "specs.json", "blend.json", "typical.json", "moe.onnx", "ftrl.npz"
TRAINING = "training.json"
DISTILLED, DISTILLED_BLEND = "distilled.onnx", "distilled.json"
REASONS_TOP = 3
# Made once, here: msgspec crashes if two threads meet a type for the first time at once.
_SPECS_DECODER = msgspec.json.Decoder(list[FeatureSpec])


@dataclass(frozen=True)
class Scores:
    """What the models say of n events.

    Attributes:
        probability: (n,) the calibrated blend.
        moe_logits, ftrl_logits: (n,) NaN where a model did not run; the first are the student's where it stands in.
        rung: which models made the score: "moe+ftrl", "moe", "distilled+ftrl", "distilled", "ftrl" or "rules".
    """

    probability: Float64s
    moe_logits: Float64s
    ftrl_logits: Float64s
    rung: str


class Scorer:
    """The models of one bundle, warmed up. Batches do not matter beyond rounding.

    Args:
        bundle: with the parts named above.
        snapshot: a newer state of the learner than the bundle's own.
        specs: the columns that will be given.
        buckets: batch sizes of the MoE, if not those that `OnnxMoE` chooses.
        gpu: whether a GPU computes the MoE: "never", "prefer" or "require".

    Attributes:
        fallback: the same with the student instead of the MoE, for when there is no time; None without a student.
        cost: what an answer without reasons costs; None before `time`.

    Raises:
        BundleError: it was trained for other features.
        RuntimeRefusedError: a GPU is required, and none can be used.
    """

    fallback: Scorer | None = None
    cost: RungCost | None = None

    def __init__(
        self,
        bundle: Bundle,
        snapshot: bytes | None,
        specs: Sequence[FeatureSpec],
        buckets: Sequence[int] | None = None,
        gpu: Gpu = "never",
    ) -> None:
        self.specs = read_specs(bundle)
        _check_specs(bundle.id, self.specs, tuple(specs))
        self.blend = Blend.from_json(bundle.part(BLEND))
        self.typical = np.array(
            [np.nan if v is None else v for v in msgspec.json.decode(bundle.part(TYPICAL))], np.float64
        )
        self._groups = _channels(self.specs)
        self._helper: ThreadPoolExecutor | None = ThreadPoolExecutor(1, thread_name_prefix="reasons")
        self._network = "moe"
        self._moe = _open_network(bundle, MOE, self.specs, buckets, gpu) if MOE in bundle.parts else None
        self._memo = RowMemo(self._moe_logits)
        self._ftrl: Ftrl | None = None
        if FTRL in bundle.parts:
            self._ftrl = Ftrl.restore(snapshot if snapshot is not None else bundle.part(FTRL))
        if self._moe is not None and DISTILLED in bundle.parts:
            student = _open_network(bundle, DISTILLED, self.specs, buckets, "never")  # a CPU is quick enough for it
            blend = Blend.from_json(bundle.part(DISTILLED_BLEND))
            self.fallback = self._copy(_network="distilled", _moe=student, blend=blend)

    def _copy(self, **changed: object) -> Scorer:
        """Return the same models but for some; what it remembers of rows is its own."""
        other = object.__new__(Scorer)
        other.__dict__.update(self.__dict__ | changed)
        other._memo = RowMemo(other._moe_logits)
        return other

    @property
    def provider(self) -> str:
        """What computes the MoE: "cpu", "cuda", "triton", or "none" without one."""
        return self._moe.provider if self._moe is not None else "none"

    @property
    def load(self) -> ExpertLoad | None:
        """How served events visited the MoE's experts; None without one, or if it does not tell."""
        return self._moe.load if self._moe is not None else None

    @property
    def rung(self) -> str:
        """Which models answer."""
        names = [name for name, model in ((self._network, self._moe), ("ftrl", self._ftrl)) if model is not None]
        return "+".join(names) or "rules"

    def with_snapshot(self, snapshot: bytes) -> Scorer:
        """Return the same models with a newer learner; nothing is loaded or warmed up again."""
        other = object.__new__(Scorer)
        other.__dict__.update(self.__dict__)
        other._ftrl = Ftrl.restore(snapshot)
        if other.fallback is not None:
            other.fallback = other.fallback.with_snapshot(snapshot)
        return other

    def on_one_thread(self) -> Scorer:
        """Return the same models for a caller that shares the work among threads of its own."""
        return self._copy(_helper=None)

    def time(self, timer_s: Callable[[], float]) -> None:
        """Find out what answers cost, those of the fallback, too; `timer_s` never goes back."""
        made_up = np.abs(np.random.default_rng(0).normal(size=(MANY, len(self.specs))))
        self.cost = time_rung(lambda rows: self._scored(made_up[:rows], counted=False), timer_s)
        if self.fallback is not None:
            self.fallback.time(timer_s)

    def score(self, features: Float64s) -> Scores:
        """Score (n, f) features, NaN is null."""
        return self._scored(features, counted=True)

    def _scored(self, features: Float64s, counted: bool) -> Scores:
        none = np.full(len(features), np.nan)
        moe = self._moe.logits(features, counted) if self._moe is not None and len(features) else none
        ftrl = self._ftrl.predict(features, moe) if self._ftrl is not None else none
        return Scores(sigmoid(self._blended(moe, ftrl)), moe, ftrl, self.rung)

    def reasons(self, features: Float64s) -> list[list[str]]:
        """Say in words what moved each of (n, f) events' scores most; see `models.reasons` for the method."""
        explained = explain(self._logits, features, self.typical, self.specs, REASONS_TOP, self._groups)
        return [[in_words(reason) for reason in reasons] for reasons in explained]

    def _logits(self, features: Float64s) -> Float64s:
        moe = self._memo(features) if self._moe is not None else np.full(len(features), np.nan)
        ftrl = self._ftrl.predict(features, moe) if self._ftrl is not None else np.full(len(features), np.nan)
        return self._blended(moe, ftrl)

    def _moe_logits(self, features: Float64s) -> Float64s:
        """Score rows in two halves side by side: sessions release the GIL, and an event waits for its reasons."""
        assert self._moe is not None
        half = len(features) // 2
        if self._helper is None or not half:
            return self._moe.logits(features)
        first = self._helper.submit(self._moe.logits, features[:half])
        second = self._moe.logits(features[half:])
        return np.concatenate([first.result(), second])

    def _blended(self, moe: Float64s, ftrl: Float64s) -> Float64s:
        by_name = {self._network: moe, "ftrl": ftrl}
        return self.blend.logit(np.column_stack([by_name[name] for name in self.blend.names]))


def bundle_parts(
    specs: Sequence[FeatureSpec], blend: Blend, typical: Float64s, moe: bytes | None, ftrl: bytes | None
) -> dict[str, bytes]:
    """Return the parts of a bundle, for `models.bundle.write_bundle`."""
    parts = {
        SPECS: msgspec.json.encode(list(specs)),
        BLEND: blend.to_json(),
        TYPICAL: msgspec.json.encode([float(v) if np.isfinite(v) else None for v in typical]),
    }
    if moe is not None:
        parts[MOE] = moe
    if ftrl is not None:
        parts[FTRL] = ftrl
    return parts


def read_specs(bundle: Bundle) -> tuple[FeatureSpec, ...]:
    """Return the columns that a bundle was trained with."""
    return tuple(_SPECS_DECODER.decode(bundle.part(SPECS)))


def _check_specs(bundle: str, trained: tuple[FeatureSpec, ...], given: tuple[FeatureSpec, ...]) -> None:
    if trained == given:
        return
    theirs, ours = [each.name for each in trained], [each.name for each in given]
    missing = [name for name in theirs if name not in ours]
    added = [name for name in ours if name not in theirs]
    what = (
        f"lacks {', '.join(missing)}"
        if missing
        else f"adds {', '.join(added)}"
        if added
        else "changes their order or kind"
    )
    raise BundleError(f"bundle {bundle} was trained with other features: the app {what}; train it again")


def _channels(specs: tuple[FeatureSpec, ...]) -> list[list[int]]:
    """Group the columns: every feature alone, a channel of the key's recent events together."""
    channels: dict[str, list[int]] = {}
    for column, spec in enumerate(specs):
        channels.setdefault(spec.group if spec.step else f"{spec.name}\n", []).append(column)
    return list(channels.values())


def _open_network(
    bundle: Bundle, part: str, specs: tuple[FeatureSpec, ...], buckets: Sequence[int] | None, gpu: Gpu
) -> OnnxMoE:
    with tempfile.TemporaryDirectory(prefix="pelton-") as folder:  # the runtime opens files, and the bytes are verified
        path = Path(folder) / part
        path.write_bytes(bundle.part(part))
        return OnnxMoE(path, specs, buckets=buckets, gpu=gpu)

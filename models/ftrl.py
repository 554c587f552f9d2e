"""FTRL-proximal as an online model: feature matrix in, logits out, learns one labelled event after another."""

import hashlib
import io
import zipfile
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from kernels import ftrl as kernel
from models.features import FeatureSpec
from models.scaling import fit_scaling

Float64s = NDArray[np.float64]

MOE_LOGIT = "moe_logit"
FORMAT = "pelton-ftrl-1"
BYTES_MAX = 1 << 30  # of a snapshot, unpacked
BITS_MAX, BINS_MAX = 24, 256


class LearnerError(ValueError):
    """A learner was given something it cannot use; the message says what to do."""


@dataclass(frozen=True)
class FtrlSettings:
    """How an `Ftrl` learns.

    Attributes:
        alpha: size of the first steps, above zero.
        beta: how many squared gradients a weight sees before its steps shrink, 0 or more.
        l1: pulls weights to exactly zero, 0 or more.
        l2: pulls weights towards zero, 0 or more.
        bits: the categories share 2**bits weights, 0 to 24.
        bins: quantile bins per number, each with a weight of its own, 1 (none) to 256.
        moe: whether the MoE's logit is one more column (NaN where it did not run).
        sequence: whether columns that describe the key's previous events (step above 0) are used too.
    """

    alpha: float = 0.2
    beta: float = 1.0
    l1: float = 0.0
    l2: float = 1.0
    bits: int = 16
    bins: int = 16
    moe: bool = True
    sequence: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that cannot learn."""
        if not self.alpha > 0:
            raise LearnerError(f"alpha is {self.alpha}; it must be above zero, for example 0.2")
        for name in ("beta", "l1", "l2"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise LearnerError(f"{name} is {getattr(self, name)}; it must be zero or more, and finite")
        if not 0 <= self.bits <= BITS_MAX:
            raise LearnerError(f"bits is {self.bits}; choose between 0 and {BITS_MAX}")
        if not 1 <= self.bins <= BINS_MAX:
            raise LearnerError(f"bins is {self.bins}; choose between 1 and {BINS_MAX}")


class Ftrl:
    """Logistic regression that learns online, exactly, sample after sample.

    Numbers are squashed with fixed statistics of training data and, besides, fall into quantile bins with weights of
    their own (so a bend in a feature's effect can be learned); categories share a hashed table; a missing value has a
    weight of its own. All of it is in the snapshot, so a serving process and a learner agree to the bit.

    When it does not work: interactions between features (give them as features, or let the MoE's logit bring them),
    and sudden reversals (its steps shrink with the square root of what was learned; restart it from a new bundle).

    Source: McMahan et al. 2013, see `kernels/ftrl.py`.
    """

    def __init__(
        self, specs: tuple[FeatureSpec, ...], settings: FtrlSettings | None = None, scaling: Float64s | None = None
    ) -> None:
        """Start with no knowledge; without `scaling`, numbers are taken as if centred at 0 with scale 1."""
        self.specs = tuple(specs)
        self.settings = settings = settings or FtrlSettings()
        used = [i for i, spec in enumerate(self.specs) if settings.sequence or spec.step == 0]
        columns = [[i, int(self.specs[i].kind == "category"), _salt(self.specs[i])] for i in used]
        if settings.moe:
            columns.append([len(self.specs), kernel.NUMBER, 0])
        self.columns = np.array(columns, np.int64).reshape(-1, 3)
        if scaling is None:
            scaling = fit_scaling(np.empty((0, len(columns))), settings.bins)
        self.scaling = np.ascontiguousarray(scaling, np.float64)
        if self.scaling.shape != (len(columns), 1 + settings.bins) or not (self.scaling[:, 1] > 0).all():
            raise LearnerError(
                f"scaling has shape {self.scaling.shape} for {len(columns)} columns and {settings.bins} bins; "
                f"make it with Ftrl.fitted"
            )
        self.slots = np.zeros((kernel.slots_needed(len(columns), settings.bins, settings.bits), 3))
        self.learned = 0
        self._rates = np.array([settings.alpha, settings.beta, settings.l1, settings.l2])

    @classmethod
    def fitted(
        cls,
        specs: tuple[FeatureSpec, ...],
        features: Float64s,
        moe_logits: Float64s | None = None,
        settings: FtrlSettings | None = None,
    ) -> "Ftrl":
        """Start with no knowledge but the statistics of training data: (n, f) features, (n,) MoE logits if used."""
        blank = cls(specs, settings)
        features, moe_logits = blank._checked(features, moe_logits)
        whole = np.column_stack([features, moe_logits])[:, blank.columns[:, kernel.INDEX]]
        whole[:, blank.columns[:, kernel.KIND] == kernel.CATEGORY] = np.nan
        return cls(specs, settings, fit_scaling(whole, blank.settings.bins))

    def predict(self, features: Float64s, moe_logits: Float64s | None = None) -> Float64s:
        """Score (n, f) features, with (n,) MoE logits or NaN where it did not run; return (n,) finite logits."""
        features, moe_logits = self._checked(features, moe_logits)
        return kernel.predict_many(features, moe_logits, self.columns, self.scaling, self.slots)

    def learn(self, features: Float64s, labels: NDArray[np.generic], moe_logits: Float64s | None = None) -> Float64s:
        """Learn (n,) labels in [0, 1] (NaN: not known) in order; return the (n,) logits from before each."""
        features, moe_logits = self._checked(features, moe_logits)
        known = np.ascontiguousarray(labels, np.float64)
        logits = kernel.learn_many(features, moe_logits, known, self.columns, self.scaling, self._rates, self.slots)
        self.learned += int(np.isfinite(known).sum())
        return logits

    def snapshot(self) -> bytes:
        """Return everything as an npz file without pickle; equal learners give equal bytes."""
        meta = {
            "format": FORMAT,
            "specs": self.specs,
            "settings": self.settings,
            "learned": self.learned,
            "slots": len(self.slots),
        }
        touched = np.flatnonzero(self.slots.any(axis=1))
        file = io.BytesIO()
        np.savez_compressed(
            file,
            meta=np.frombuffer(msgspec.json.encode(meta), np.uint8),
            scaling=self.scaling,
            touched=touched.astype(np.int64),
            values=self.slots[touched],
        )
        return file.getvalue()

    @classmethod
    def restore(cls, snapshot: bytes) -> "Ftrl":
        """Return the learner that wrote this snapshot, to the bit.

        Raises:
            LearnerError: it is no snapshot, too large, or holds values that are not finite.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(snapshot)) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > BYTES_MAX:
                raise LearnerError(f"the learner snapshot unpacks to {unpacked:,} bytes; the limit is {BYTES_MAX:,}")
            with np.load(io.BytesIO(snapshot), allow_pickle=False) as arrays:
                meta = _META_DECODER.decode(arrays["meta"].tobytes())
                if meta.format != FORMAT:
                    raise LearnerError(f"the learner snapshot has format {meta.format!r}; this version reads {FORMAT}")
                learner = cls(meta.specs, meta.settings, arrays["scaling"])
                touched, values = arrays["touched"], arrays["values"]
            if len(learner.slots) != meta.slots or touched.dtype != np.int64 or values.shape != (len(touched), 3):
                raise LearnerError("the learner snapshot's arrays do not fit its settings; take another snapshot")
            learner.slots[touched] = values
        except LearnerError:
            raise
        except (ValueError, OSError, KeyError, EOFError, IndexError, MemoryError, zipfile.BadZipFile) as cause:
            raise LearnerError(f"this is no learner snapshot, or a damaged one ({cause}); take another one") from cause
        if not np.isfinite(values).all() or (values[:, kernel.SQUARES] < 0).any():
            raise LearnerError("the learner snapshot holds weights that are not finite; take an earlier one")
        learner.learned = meta.learned
        return learner

    def copy(self) -> "Ftrl":
        """Return an equal learner that learns on its own."""
        twin = Ftrl(self.specs, self.settings, self.scaling)
        twin.slots[:] = self.slots
        twin.learned = self.learned
        return twin

    def version(self) -> str:
        """Return the first 12 hexadecimal digits of the snapshot's hash."""
        return hashlib.sha256(self.snapshot()).hexdigest()[:12]

    def is_finite(self) -> bool:
        """Tell whether every weight is finite."""
        return bool(np.isfinite(self.slots).all())

    def _checked(self, features: Float64s, moe_logits: Float64s | None) -> tuple[Float64s, Float64s]:
        features = np.ascontiguousarray(features, np.float64)
        if features.ndim != 2 or features.shape[1] != len(self.specs):
            raise LearnerError(f"features has shape {features.shape}; the learner knows {len(self.specs)} columns")
        if moe_logits is None:
            return features, np.full(len(features), np.nan)
        return features, np.ascontiguousarray(moe_logits, np.float64)


class _Meta(msgspec.Struct):
    format: str
    specs: tuple[FeatureSpec, ...]
    settings: FtrlSettings
    learned: int
    slots: int


# Made once, here: msgspec crashes if two threads meet a type for the first time at once.
_META_DECODER = msgspec.json.Decoder(_Meta)


def _salt(spec: FeatureSpec) -> int:
    """Return a column's salt, from its name: the same in any order of columns."""
    name = f"{spec.name}\n{spec.step}".encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "little", signed=True)

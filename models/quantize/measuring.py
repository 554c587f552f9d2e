"""Build every form of a network, serve each as it would be served, and measure size, speed and quality side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from models.calibration import Blend
from models.moe_runtime import OnnxMoE
from models.quantize.gate import ROWS_MIN, Quality, refusals
from models.quantize.graph import Graph, QuantizeError, differing, experts_in_float, with_chosen, with_outputs_of
from models.quantize.judging import Answers, Judged, ask, quality
from models.quantize.speed import BATCHES, ROUNDS, Speed, measure_speed
from models.quantize.variants import VARIANTS, Variant

Tell = Callable[[str, int, int, str], None]  # a stage, how much of it is done, of how much, a note
PORTABLE = 1.1  # how many times as fast a variant with operators that not every runtime has must be, to be preferred


@dataclass(frozen=True)
class Measured:
    """What was found of a variant.

    Attributes:
        variant: which.
        model: the bytes of its ONNX file; empty if it could not be made.
        blend: calibrated on it.
        quality, speed: None if it could not be made or served.
        refusals: why it must not be written; empty if it may be. Those of fp32 say that there is nothing to write.
    """

    variant: Variant
    model: bytes
    blend: Blend
    quality: Quality | None
    refusals: tuple[str, ...]
    speed: Speed | None = None


def measure(
    model: bytes,
    blend: Blend,
    judged: Judged,
    variants: Sequence[Variant] = VARIANTS,
    rounds: int = ROUNDS,
    tell: Tell = lambda stage, done, total, note: None,
) -> list[Measured]:
    """Measure forms of a network side by side, on one thread.

    Args:
        model: the exported fp32 network.
        blend: its calibration. Each variant gets one of its own, which says of the calibration rows what this one says.
        judged: rows, and what makes decisions of them.
        variants: the first is the reference.
        rounds: how often the speed of each is measured.
        tell: told often.

    Raises:
        QuantizeError: too few rows, a network of another form, or one that cannot be served even as it is.
    """
    _check(judged)
    graph = Graph(onnx.load_from_string(model))
    original, layers = graph.model, graph.layers
    told = with_chosen(original, len(layers))
    found: list[Measured] = []
    served: dict[str, OnnxMoE] = {}
    reference: Answers | None = None
    for number, variant in enumerate(variants):
        tell("variants", number, len(variants), variant.name)
        try:
            telling = variant.build(told, judged.calibration)
            built = with_outputs_of(telling, original)
            network = _open(built, judged)
            answers = ask(network, telling, len(layers), blend, judged)
        except Exception as problem:  # onnxruntime's exceptions share no base class of their own
            sentence = " ".join(str(problem).split())[:160]
            if reference is None:
                raise QuantizeError(f"the network cannot be served as it is: {sentence}") from problem
            found.append(Measured(variant, b"", blend, None, (f"cannot be made or served: {sentence}",)))
            continue
        reference = reference or answers
        own = blend.matched("moe", reference.calibration, answers.calibration) if answers is not reference else blend
        seen = quality(answers, own, reference, blend, judged)
        before = found[0].quality if found else seen
        assert before is not None
        why = refusals(seen, before, differing(original, built, layers), experts_in_float(original, built, layers))
        found.append(Measured(variant, built.SerializeToString(), own, seen, why))
        served[variant.name] = network
    tell("variants", len(variants), len(variants), f"{len(served)} of {len(variants)} made")
    speeds = measure_speed(
        served, judged.features, variants[0].name, rounds, lambda done, total: tell("speed", done, total, "")
    )
    return [replace(each, speed=speeds.get(each.variant.name)) for each in found]


def best(found: Sequence[Measured]) -> Measured | None:
    """Return the one to write, as `choice_in_words` says; None if none passed."""

    def worth(each: Measured) -> float:
        assert each.speed is not None
        return each.speed.overall * (PORTABLE if each.variant.standard else 1.0)

    return max((each for each in found if not each.refusals), key=worth, default=None)


def choice_in_words() -> str:
    """Say how `best` chooses."""
    return (
        "Of those that pass, the fastest is written (geometric mean over batch sizes); one with operators that only\n"
        f"ONNX Runtime has must be {PORTABLE - 1:.0%} faster than one with operators that every runtime and device has"
    )


def _check(judged: Judged) -> None:
    rows, positives = len(judged.labels), int(judged.labels.sum())
    if rows < ROWS_MIN or not len(judged.calibration):
        raise QuantizeError(
            f"there are {rows:,} labelled rows to judge on; the gate needs {ROWS_MIN:,}, give more history"
        )
    if not 0 < positives < rows:
        raise QuantizeError(f"{positives:,} of the {rows:,} rows to judge on are positive; both kinds are needed")


def _open(model: onnx.ModelProto, judged: Judged) -> OnnxMoE:
    with tempfile.TemporaryDirectory(prefix="pelton-") as folder:  # the runtime opens files
        path = Path(folder) / "moe.onnx"
        path.write_bytes(model.SerializeToString())
        return OnnxMoE(path, judged.specs, buckets=BATCHES)

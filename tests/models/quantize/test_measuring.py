"""Forms of the shipped network measured side by side; broken ones are refused, whatever they are called."""

from dataclasses import replace

import numpy as np
import pytest
from onnx import numpy_helper

from models.calibration import Blend
from models.quantize.gate import Quality
from models.quantize.graph import QuantizeError, run
from models.quantize.judging import Judged
from models.quantize.measuring import Measured, best, choice_in_words, measure
from models.quantize.speed import BATCHES, Speed
from models.quantize.variants import FP32, VARIANTS, Variant
from models.scorer import BLEND, MOE
from models.threshold import Fixed
from tests.models.quantize.demo_network import BUNDLE, MODEL, SPECS, rows

BY_NAME = {each.name: each for each in VARIANTS}
NETWORK = Blend(("moe",), {"moe": Blend.from_json(BUNDLE.part(BLEND)).lines["moe"]})


def judged(n=1000, **changes):
    features = rows(n, seed=1)
    logits = run(MODEL, ["logits"], features)[0].astype(np.float64)
    labels = np.random.default_rng(2).random(n) < NETWORK.probability(logits[:, None])
    given = Judged(features, labels.astype(np.float64), rows(300, seed=3), SPECS, None, Fixed())
    return replace(given, **changes)


def spoiled(name, sound, change):
    """A variant that rounds experts as `sound` does; then `change` is made to those of its arrays that it names."""

    def build(model, calibration):
        built = BY_NAME[sound].build(model, calibration)
        for initializer in built.graph.initializer:
            for ending, change_of in change.items():
                if initializer.name.endswith(ending):
                    array = change_of(numpy_helper.to_array(initializer).copy())
                    initializer.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), initializer.name))
        return built

    return Variant(name, "", build, True)


SPOILED = {
    "larger": ("experts-int8", {".up.scales": lambda scales: scales * np.float32(1.05)}),
    "exchanged": ("experts-int8", {".down.levels": lambda levels: levels[::-1]}),  # experts answer for each other
    "shifted": ("experts-int8-fused", {".up.levels": lambda levels: np.roll(levels, 1, axis=1)}),  # gates for values
    "router": ("experts-int8", {".router.weight": lambda weight: weight * np.float32(1.0001)}),
    "nan": ("experts-int8", {".up.scales": lambda scales: np.full_like(scales, np.nan)}),
    "twice": ("experts-int8", {"committee.b": lambda b: b * 2, "committee.base": lambda base: base * 2}),
}
TOLD = []


@pytest.fixture(scope="module")
def found():
    """Return what is found of sound forms and of broken ones, by name."""
    sound = [BY_NAME[name] for name in (FP32, "experts-int8", "experts-int8-fused")]
    broken = [spoiled(name, *given) for name, given in SPOILED.items()]

    def tell(*step):
        TOLD.append(step)

    return {each.variant.name: each for each in measure(BUNDLE.part(MOE), NETWORK, judged(), sound + broken, 2, tell)}


@pytest.mark.parametrize("name", ["experts-int8", "experts-int8-fused"])
def test_sound_forms_pass(found, name):
    assert found[name].refusals == ()
    assert 0 < found[name].quality.dp_p99 < 0.002
    assert len(found[name].model) < 0.5 * len(found[FP32].model)


def test_the_reference_is_compared_with_itself(found):
    quality = found[FP32].quality
    assert quality.dp_max == quality.expert_flips == quality.decision_flips == 0
    assert set(found[FP32].speed.times.values()) == {1.0}
    assert set(found["experts-int8"].speed.ms) == set(BATCHES)


@pytest.mark.parametrize("name", ["larger", "exchanged", "shifted"])
def test_broken_experts_are_refused(found, name):
    assert any(reason.startswith("other experts in") for reason in found[name].refusals)


def test_a_changed_router_is_refused_though_nothing_else_shows_it(found):
    assert found["router"].refusals[0] == "more than the routed experts is quantised"


def test_a_form_that_cannot_be_served_is_told_and_the_others_are_measured(found):
    assert found["nan"].refusals[0].startswith("cannot be made or served: the model scored event 0 as nan")
    assert found["nan"].quality is found["nan"].speed is None


def test_calibration_is_made_again_for_what_is_served(found):
    assert found["twice"].quality.dp_p99 < 0.002  # logits twice as large say the same again
    slope = found["twice"].blend.lines["moe"].slopes[0]
    assert slope == pytest.approx(NETWORK.lines["moe"].slopes[0] / 2, rel=0.01)


def test_progress_names_what_is_measured(found):
    assert ("variants", 1, 9, "experts-int8") in TOLD
    assert ("variants", 9, 9, "8 of 9 made") in TOLD
    assert TOLD[-1][:3] == ("speed", 2, 2)


def test_too_few_rows_or_one_kind_of_label_judge_nothing():
    with pytest.raises(QuantizeError, match="there are 999 labelled rows to judge on; the gate needs 1,000"):
        measure(BUNDLE.part(MOE), NETWORK, judged(999))
    with pytest.raises(QuantizeError, match="0 of the 1,000 rows to judge on are positive"):
        measure(BUNDLE.part(MOE), NETWORK, judged(labels=np.zeros(1000)))


def test_a_network_that_cannot_be_served_is_no_reference():
    with pytest.raises(QuantizeError, match=r"cannot be served as it is: .* takes 42 columns and is given 41"):
        measure(BUNDLE.part(MOE), NETWORK, judged(specs=SPECS[:-1]))


def made(name, standard, times, refused=()):
    quality = Quality(0.9, 0.5, 0.001, 0, 0, 0, 0, 0, 0)
    speed = Speed(dict.fromkeys(BATCHES, 1.0), dict.fromkeys(BATCHES, times))
    return Measured(Variant(name, "", lambda model, rows: model, standard), b"", NETWORK, quality, refused, speed)


def test_the_fastest_that_passed_is_the_best_and_standard_operators_are_worth_a_tenth():
    assert best([made("a", True, 1.0), made("b", False, 1.09)]).variant.name == "a"
    assert best([made("a", True, 1.0), made("b", False, 1.11)]).variant.name == "b"
    assert best([made("a", True, 1.0), made("b", False, 3.0, ("refused",))]).variant.name == "a"
    assert best([made("a", True, 1.0, ("refused",))]) is None
    assert "must be 10% faster than one with operators that every runtime" in choice_in_words()

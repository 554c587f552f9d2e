"""A student learns what its teacher says, is exported exactly, and the loss is the one that is stated."""

import numpy as np
import pytest
import torch

from models.export_student import export_event_student
from models.features import FeatureSpec
from models.moe.student import EventSizes, EventStudent
from models.moe_runtime import OnnxMoE
from models.onnx_export import ExportError
from models.train.dataset import Sampling
from models.train.distill import DistillSettings, distil, soft_loss
from models.train.events import EventData
from models.train.tuning import Tuning

SPECS = (
    FeatureSpec("amount", group="a"),
    FeatureSpec("count", group="b"),
    FeatureSpec("shop", "category", "b"),
    FeatureSpec("amount_before", group="amount", step=1),
)


def events(count, seed=0):
    """Features with nulls, and labels that depend on all of them."""
    chance = np.random.default_rng(seed)
    features = chance.normal(size=(count, 4))
    features[:, 2] = chance.integers(0, 12, count)
    told = 2 * features[:, 0] - features[:, 1] + (features[:, 2] > 8) + features[:, 3] - 3
    labels = (chance.random(count) < 1 / (1 + np.exp(-told))).astype(np.uint8)
    features[chance.random(features.shape) < 0.05] = np.nan
    return features, labels


def data(count=3000):
    features, labels = events(count)
    sampling = Sampling(batch=64, negatives_per_positive=3.0)
    return EventData(features, SPECS, labels, np.arange(count), sampling).with_teacher(known(features))


def student_of(its_data, seed=0):
    torch.manual_seed(seed)
    student = EventStudent(SPECS, EventSizes(hidden=16, buckets=16))
    rows = its_data.data.training_rows()
    student.start(its_data.data.features[rows], its_data.data.labels[rows])
    return student


def known(features):
    """Return what the labels were drawn from, the best that any teacher could say: logits of (n, 4) features."""
    amount, count, shop, before = np.nan_to_num(features).T
    return 2 * amount - count + (shop > 8) + before - 3


def softmax(logits, temperature):
    powers = np.exp(logits / temperature)
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_the_soft_loss_is_the_divergence_of_softened_answers(temperature):
    chance = np.random.default_rng(1)
    student, teacher = chance.normal(size=(2, 7, 5))
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    expected = temperature**2 * (p * np.log(p / q)).sum(1).mean()
    found = soft_loss(torch.tensor(student), torch.tensor(teacher), temperature, classes=(5,))
    assert float(found) == pytest.approx(expected, rel=1e-5)
    parts = [
        soft_loss(
            torch.tensor(student[:, at]), torch.tensor(teacher[:, at]), temperature, classes=(at.stop - at.start,)
        )
        for at in (slice(0, 2), slice(2, 5))
    ]
    both = soft_loss(torch.tensor(student), torch.tensor(teacher), temperature, classes=(2, 3))
    assert float(both) == pytest.approx(float(sum(parts)), rel=1e-5)


def test_a_single_logit_is_that_of_two_classes_shifted_as_the_sampled_problem_is():
    student, teacher = np.array([0.3, -2.0, 1.0]), np.array([1.0, -1.0, 0.0])
    pairs = [np.stack([np.zeros(3), each + 0.7], 1) for each in (student, teacher)]
    p, q = softmax(pairs[1], 2.0), softmax(pairs[0], 2.0)
    found = soft_loss(torch.tensor(student), torch.tensor(teacher), 2.0, shift=0.7)
    assert float(found) == pytest.approx(4 * (p * np.log(p / q)).sum(1).mean(), rel=1e-5)
    assert float(soft_loss(torch.tensor(teacher), torch.tensor(teacher), 2.0)) == 0


def test_a_student_comes_to_say_what_its_teacher_says():
    its_data = data()
    fresh, student = student_of(its_data), student_of(its_data)
    settings = DistillSettings(soft=1.0, tuning=Tuning(epochs=8, learning_rate=3e-3))
    made = distil(its_data, student, settings, shift=its_data.shift)
    rows = its_data.data.features[its_data.data.validation]
    theirs, features = known(rows), torch.from_numpy(rows)
    with torch.no_grad():
        mine, before = (each.logits(features).numpy() for each in (made.student, fresh))
    assert np.corrcoef(theirs, mine)[0, 1] > 0.9
    assert np.abs(theirs - mine).mean() < 0.4 * np.abs(theirs - before).mean()
    assert len(made.epochs) == 8
    assert made.epochs[made.best_epoch - 1]["average_precision"] == max(e["average_precision"] for e in made.epochs)


def test_equal_seeds_give_equal_students_and_labels_count_too():
    its_data = data(1000)
    found = [
        distil(
            its_data,
            student_of(its_data),
            DistillSettings(soft=soft, tuning=Tuning(epochs=1, learning_rate=3e-3)),
        ).student
        for soft in (0.7, 0.7, 0.0)
    ]
    weights = [each.state_dict()["first.weight"] for each in found]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_the_exported_student_is_the_student_in_any_batch(tmp_path, rows):
    its_data = data(500)
    student = student_of(its_data)
    with torch.no_grad():
        student.out.weight.normal_()
    exported = export_event_student(student, its_data.data.features)
    assert max(exported.differences.values()) <= 1e-5
    (tmp_path / "student.onnx").write_bytes(exported.file)
    served = OnnxMoE(tmp_path / "student.onnx", SPECS)
    features = its_data.data.features[:rows]
    with torch.no_grad():
        expected = student.logits(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(served.logits(features), expected, atol=1e-5)
    assert served.load is None


def test_a_student_that_computes_something_else_is_not_exported(monkeypatch):
    its_data = data(500)
    student = student_of(its_data)
    with torch.no_grad():
        student.out.weight.normal_()
    monkeypatch.setattr("models.onnx_export.LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(ExportError, match="ONNX Runtime and torch differ by"):
        export_event_student(student, its_data.data.features)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"soft is 1\.5; choose between 0 and 1"):
        DistillSettings(soft=1.5)
    with pytest.raises(ValueError, match="temperature is 0; choose between"):
        DistillSettings(temperature=0)

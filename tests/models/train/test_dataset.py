import numpy as np
import pytest

from models.features import FeatureSpec
from models.train.dataset import Sampling, prepare

SPECS = [FeatureSpec("amount"), FeatureSpec("count")]
N = 1000


def arrays(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    chance = np.random.default_rng(seed)
    labels = (chance.random(N) < 0.1).astype(np.uint8)
    return chance.normal(size=(N, 2)), labels, chance.permutation(N) * 1000


def test_validation_is_later_than_everything_that_trains():
    features, labels, times_ms = arrays()
    data = prepare(features, SPECS, labels, times_ms, Sampling(validation_share=0.2))
    assert times_ms[data.training_rows()].max() < data.split_ms <= times_ms[data.validation].min()
    assert len(data.validation) == 200
    assert sorted([*data.training_rows(), *data.validation]) == list(range(N))


def test_events_of_one_millisecond_stay_together():
    features, labels, times_ms = arrays()
    data = prepare(features, SPECS, labels, times_ms // 300_000, Sampling(validation_share=0.2))
    assert not set(times_ms[data.validation] // 300_000) & set(times_ms[data.training_rows()] // 300_000)


def test_an_epoch_has_all_positives_and_other_negatives_each_time():
    data = prepare(*arrays()[:1], SPECS, *arrays()[1:], Sampling())
    settings = Sampling(negatives_per_positive=2)
    first, again, second = (data.epoch_rows(settings, epoch) for epoch in (0, 0, 1))
    assert first.tolist() == again.tolist()
    assert sorted(first) != sorted(second)
    for rows in (first, second):
        assert set(data.positives) <= set(rows)
        assert len(rows) == len(set(rows)) == 3 * len(data.positives)
    assert data.kept_share(settings) == 2 * len(data.positives) / len(data.negatives)


def test_zero_negatives_per_positive_takes_all():
    data = prepare(*arrays()[:1], SPECS, *arrays()[1:], Sampling())
    settings = Sampling(negatives_per_positive=0)
    assert sorted(data.epoch_rows(settings, 3)) == data.training_rows().tolist()
    assert data.kept_share(settings) == 1


def test_validation_negatives_that_were_left_out_are_weighed_in():
    features, labels, times_ms = arrays()
    data = prepare(features, SPECS, labels, times_ms, Sampling(validation_share=0.2, validation_negatives_max=20))
    assert (labels[data.validation] == 0).sum() == 20
    assert data.validation_weights.sum() == pytest.approx(200)


def test_other_data_has_another_digest():
    features, labels, times_ms = arrays()
    digest = prepare(features, SPECS, labels, times_ms, Sampling()).digest
    features[17, 1] += 1e-9
    assert prepare(features, SPECS, labels, times_ms, Sampling()).digest != digest


def change(array: np.ndarray, place: object, value: float) -> np.ndarray:
    array = array.copy()
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda f, y, t: (f[:, :1], y, t), r"features are \(1000, 1\); the specs ask for \(events, 2\)"),
        (lambda f, y, t: (f, y[1:], t), r"labels are \(999,\); there are 1000 events"),
        (lambda f, y, t: (change(f, (3, 1), np.inf), y, t), "feature 'count' of event 3 is inf; use NaN"),
        (lambda f, y, t: (f, change(y, 5, 7), t), "the label of event 5 is 7; a label is 0 or 1"),
        (lambda f, y, t: (f, y * 0, t), r"training part has no positive event \(1000 events, 0 positive\)"),
        (lambda f, y, t: (f, y | (t >= 500_000), t), "validation part has no negative event"),
    ],
)
def test_unusable_arrays_are_named(broken, message):
    features, labels, times_ms = broken(*arrays())
    with pytest.raises(ValueError, match=message):
        prepare(features, SPECS, labels, times_ms, Sampling())

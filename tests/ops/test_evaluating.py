"""The days of an evaluation where none, some or all are given."""

import numpy as np
import pytest

from ops.times import TimeError, read_time
from ops.training.evaluating import Days
from ops.training.found import EvaluationError
from ops.training.protocol import DAY_MS
from pipeline.dataset import Dataset

NOON_MS = 1767571200000 + DAY_MS // 2  # 2026-01-05T12:00Z


def history(days, labelled=True):
    times_ms = NOON_MS + np.arange(days * 24) * (DAY_MS // 24)
    labels = np.full(times_ms.size, 0.0 if labelled else np.nan)
    none = np.zeros(times_ms.size, np.uint64)
    return Dataset(np.zeros((times_ms.size, 0)), (), labels, times_ms, times_ms, none, none)


def test_without_days_the_last_30_percent_are_the_test_from_a_midnight_on():
    protocol = Days().protocol(history(20))
    assert protocol.test_start_ms % DAY_MS == 0
    assert 13 * DAY_MS < protocol.test_start_ms - NOON_MS <= 14 * DAY_MS
    assert protocol.test_end_ms == history(20).times_ms[-1] + 1


def test_of_a_short_history_the_test_is_the_last_30_percent():
    data = history(1)
    protocol = Days().protocol(data)
    assert np.mean(data.times_ms >= protocol.test_start_ms) == pytest.approx(0.3, abs=0.05)


def test_training_that_ends_begins_the_test():
    assert Days(train_end_ms=NOON_MS + DAY_MS).protocol(history(5)).test_start_ms == NOON_MS + DAY_MS


def test_a_history_without_labels_is_refused():
    with pytest.raises(EvaluationError, match="no event of the history has a label; give the file of labels too"):
        Days().protocol(history(5, labelled=False))


@pytest.mark.parametrize("text", ["soon", "2026-13-01", "12:00", "123"])
def test_a_time_that_is_none_shows_how_to_write_one(text):
    with pytest.raises(TimeError, match=f"'{text}' is no time; write 2026-01-31"):
        read_time(text)

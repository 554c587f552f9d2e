"""Once the epochs are chosen, a second network learns what was held back, too; it ends with its last weights."""

import json
from dataclasses import replace

import numpy as np
import pytest

from models.moe.settings import MoESettings
from models.moe.text import TextSettings
from models.text.inputs import make_inputs
from models.text.pieces import Pieces
from models.train.joint import fit
from models.train.settings import TrainSettings
from models.train.texts import NO_LABEL, TextChoices, TextData
from models.train.whole import fit_whole

SMALL = MoESettings(width=32, heads=2, experts=4, expert_width=16, shared_width=16, layers=1)
TEXT = TextSettings(buckets=512, pieces=300, pieces_max=8, dropout=0.1)
ABOUT = ("lost card", "exchange rate", "closing my account")  # the last is asked for in what is held back alone


@pytest.fixture(scope="module")
def data():
    texts = [f"{ABOUT[row % 2]} {row}" for row in range(96)] + [f"{ABOUT[2]} {row}" for row in range(32)]
    classes = np.array([row % 2 for row in range(96)] + [2] * 32)
    held = np.arange(128) >= 92
    inputs = make_inputs(texts, Pieces.learned(texts, TEXT.pieces), TEXT.pieces_max, TEXT.buckets)
    return TextData(inputs, classes, np.full(128, NO_LABEL), (3, 0), held, TextChoices(batch=16), TEXT)


@pytest.fixture(scope="module")
def first(data, tmp_path_factory):
    settings = TrainSettings(epochs=4, patience=4, learning_rate=1e-2, average_decay=0.5)
    return fit({"intents": data}, settings, tmp_path_factory.mktemp("first"), sizes=SMALL)


def share_read_rightly(trained, data, rows):
    logits = trained.predict(data.inputs.rows(rows).arrays())
    return (logits.argmax(1) == data.targets[rows, 0]).mean()


def report_of(folder):
    return json.loads((folder / "training_report.json").read_text())


def test_what_was_held_back_is_learned(first, data, tmp_path):
    second = fit_whole(first, {"intents": data.whole()}, tmp_path)
    unseen = np.arange(96, 128)  # an intent that the first network has never seen
    assert share_read_rightly(first, data, unseen) == 0
    assert share_read_rightly(second, data, unseen) > 0.9
    assert data.whole().steps_per_epoch == 8 > data.steps_per_epoch
    assert len(data.learned) == 92  # the first one's data is left as it was


def test_it_takes_as_many_epochs_as_the_best_and_keeps_the_last(first, data, tmp_path):
    told = []
    chosen = replace(first, report=first.report | {"best_epoch": 3})
    second = fit_whole(chosen, {"intents": data.whole()}, tmp_path, told.append)
    assert (told[-1].epochs, told[-1].step, told[-1].steps) == (3, 24, 24)
    rates = TrainSettings(**report_of(tmp_path)["training"])
    assert (rates.epochs, rates.last_epoch) == (4, 3)  # rates of four epochs, of which the last is left out
    accuracies = [epoch["tasks"]["intents"]["validation"]["accuracy"] for epoch in report_of(tmp_path)["epochs"]]
    assert share_read_rightly(second, data, data.held) == pytest.approx(accuracies[-1])


def test_it_goes_on_where_it_was_interrupted(first, data, tmp_path):
    class EnoughError(Exception):
        pass

    def stop(told):
        if told.step == 5:
            raise EnoughError("enough")

    uninterrupted = fit_whole(first, {"intents": data.whole()}, tmp_path / "whole", resume=True)  # nothing to resume
    with pytest.raises(EnoughError, match="enough"):
        fit_whole(first, {"intents": data.whole()}, tmp_path / "parts", stop)
    resumed = fit_whole(first, {"intents": data.whole()}, tmp_path / "parts", resume=True)
    rows = np.arange(128)
    wanted, found = (each.predict(data.inputs.rows(rows).arrays()) for each in (uninterrupted, resumed))
    np.testing.assert_array_equal(wanted, found)


def test_the_last_weights_are_kept_though_they_are_not_the_best(data, tmp_path):
    class Worsening(TextData):
        def validate(self, predict):
            judged = super().validate(predict)
            judged.figures["accuracy"] = 1 / (2 + len(seen))
            seen.append(predict(self.inputs.rows(self.held).arrays()))
            return judged

    seen: list[np.ndarray] = []
    worsening = Worsening(
        data.inputs, data.targets[:, 0], data.targets[:, 1], (3, 0), np.arange(128) >= 92, data.choices, TEXT
    )
    for last_epoch, kept in ((0, 0), (2, 1)):
        seen.clear()
        settings = TrainSettings(epochs=2, patience=2, learning_rate=1e-2, average_decay=0.5, last_epoch=last_epoch)
        trained = fit({"intents": worsening}, settings, tmp_path / str(kept), sizes=SMALL)
        rows = worsening.held
        np.testing.assert_allclose(trained.predict(data.inputs.rows(rows).arrays()), seen[kept], atol=1e-6)

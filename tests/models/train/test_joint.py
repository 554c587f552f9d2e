"""Several tasks on one trunk: who takes part in a step, what resuming gives, whether together is as good as alone."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.features import FeatureSpec
from models.moe.network import Branch, cut_out
from models.moe.settings import MoESettings
from models.train import checkpoint
from models.train.dataset import Sampling
from models.train.events import EventData
from models.train.joint import CHECKPOINT, fit
from models.train.settings import TrainSettings
from models.train.step import together_alike
from models.train.task_data import (
    WHOLE,
    Batch,
    Repeated,
    Share,
    Validation,
    examples_of,
    on_device,
    rows_of,
)

SIZES = MoESettings(
    width=16, heads=2, experts=8, expert_width=8, shared_width=8, bins=8, waves=2, members=2, head_width=16
)
SETTINGS = TrainSettings(epochs=3, learning_rate=1e-2, device="cpu", checkpoint_steps=7)
SPECS = [FeatureSpec("amount", group="a"), FeatureSpec("country", "category", "a"), FeatureSpec("gap", group="b")]


class InterruptedRunError(Exception):
    pass


def events(n: int = 2000, seed: int = 2, batch: int = 64) -> EventData:
    """Positives are likelier with large amounts in one country, about 7 % in all."""
    chance = np.random.default_rng(seed)
    amount, country, gap = chance.lognormal(size=n), chance.integers(0, 4, n), chance.normal(size=n)
    logit = -4 + 1.5 * np.log(amount) + 2 * (country == 1)
    labels = (chance.random(n) < 1 / (1 + np.exp(-logit))).astype(np.uint8)
    features = np.stack([amount, country * 77_777.0, gap], 1)
    return EventData(features, SPECS, labels, np.arange(n) * 1000, Sampling(batch=batch, negatives_per_positive=3))


class Words(nn.Module):
    def __init__(self, settings: MoESettings) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(20, settings.width) * 0.5)

    def forward(self, inputs):
        ids, flags = inputs["ids"], inputs["flags"]
        present = torch.cat([torch.ones(len(ids), 1, dtype=torch.bool), ids > 0], 1)
        return torch.cat([self.table[flags].unsqueeze(1), self.table[ids]], 1), present


class Classes(nn.Linear):
    def __init__(self, classes: int, settings: MoESettings) -> None:
        super().__init__(settings.width, classes)

    def served(self, logits):
        return logits, logits.softmax(1)


class Texts:
    """A stream of texts of three classes, told by their first word: other arrays, another loss, another figure."""

    figure, weight = "accuracy", 0.5

    def __init__(self, steps: int = 10, promised: int | None = None, seed: int = 0) -> None:
        self.made, self.steps_per_epoch, self.seed = steps, promised or steps, seed
        self.asked: list[tuple[int, int]] = []

    def identity(self) -> dict:
        return {"seed": self.seed}

    def branch(self, experts: Sequence[int] | None) -> Branch:
        return Branch(Words, partial(Classes, 3), experts)

    def attach(self, encoder: nn.Module) -> None:
        pass

    def start(self, encoder: nn.Module, head: nn.Module) -> None:
        nn.init.zeros_(head.bias)

    def steps(self, epoch: int, first: int, share: Share = WHOLE) -> Iterator[Sequence[Batch]]:
        self.asked.append((epoch, first))
        for step in range(first, self.made):
            inputs, classes = self._draw(np.random.default_rng([self.seed, epoch, step]), 24)
            inputs["ids"] = np.where(torch.rand(inputs["ids"].shape).numpy() < 0.1, 0, inputs["ids"])  # augmented
            yield [
                Batch(rows_of(inputs, rows), classes[rows], len(classes[rows]))
                for rows in (slice(0, 16), slice(16, 24))
            ]

    def loss(self, output, batch: Batch):
        return nn.functional.cross_entropy(output, batch.targets)

    def validate(self, predict) -> Validation:
        inputs, classes = self._draw(np.random.default_rng(99), 100)
        logits, shares = predict(inputs, at_once=64)
        np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)
        return Validation({"accuracy": float((logits.argmax(1) == classes).mean())})

    def _draw(self, chance, n: int):
        ids = np.where(np.arange(5) < chance.integers(1, 6, (n, 1)), chance.integers(1, 20, (n, 5)), 0)
        return {"ids": ids, "flags": np.zeros(n, np.int64)}, ids[:, 0] % 3


def three() -> dict:
    return {"risk": events(), "support": Texts(steps=5), "fraud": events(seed=3, batch=32)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return fit(three(), SETTINGS, tmp_path_factory.mktemp("run"), sizes=SIZES)


def test_every_task_is_learned(tmp_path):
    tasks = {"risk": events(3000), "support": Texts(steps=15)}
    figures = fit(tasks, replace(SETTINGS, epochs=8), tmp_path, sizes=SIZES).report["validation"]
    assert figures["risk"]["auc"] > 0.75  # the generator's own logit reaches 0.859
    assert figures["support"]["accuracy"] > 0.55  # a third by chance


@pytest.mark.parametrize("stop_at", [1, 9, 20, 31])  # in the first step; between and after checkpoints; an epoch's end
def test_an_interrupted_run_resumes_to_the_same_numbers(trained, tmp_path, stop_at):
    def interrupt(progress):
        if progress.step == stop_at:
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError, match=r"^$"):
        fit(three(), SETTINGS, tmp_path, interrupt, sizes=SIZES)
    tasks = three()
    resumed = fit(tasks, SETTINGS, tmp_path, sizes=SIZES, resume=stop_at > 7)
    for name, array in trained.network.state_dict().items():
        assert torch.equal(array, resumed.network.state_dict()[name]), name
    assert resumed.report["epochs"] == trained.report["epochs"]
    assert resumed.report["curves"] == trained.report["curves"]
    if stop_at == 9:  # the task with the most steps had done seven of an epoch, this one fewer
        assert 0 < tasks["support"].asked[0][1] < 5


@pytest.fixture(scope="module")
def torn(tmp_path_factory):
    """The folder of a run that ended after a checkpoint in the middle of an epoch."""
    folder = tmp_path_factory.mktemp("torn")

    def interrupt(progress):
        if progress.step == 9:
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError, match=r"^$"):
        fit(three(), SETTINGS, folder, interrupt, sizes=SIZES)
    return folder


@contextmanager
def damaged(path: Path, at: int):
    """Flip a bit, and flip it back."""
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)
    yield
    content[at] ^= 4
    path.write_bytes(content)


def test_a_run_does_not_resume_from_a_checkpoint_of_which_any_piece_is_damaged(torn):
    folder, tasks = torn / CHECKPOINT, three()
    told = json.loads((folder / "manifest.json").read_bytes().split(b"\n", 1)[1])
    message = r"\.pieces was changed or torn; delete .*checkpoint and train from the start$"
    assert len(told["pieces"]) > 50
    for file, at, size in told["pieces"].values():
        with damaged(folder / file, at + size // 2), pytest.raises(checkpoint.CheckpointError, match=message):
            checkpoint.load(folder)
    firsts = {name.split(".")[0]: array["of"][0] for name, array in told["arrays"].items()}
    assert firsts.keys() == {"network", "average", "best", "optimizer", "visits", "last"}
    for piece in firsts.values():
        file, at, _ = told["pieces"][piece]
        with damaged(folder / file, at), pytest.raises(checkpoint.CheckpointError, match=message):
            fit(tasks, SETTINGS, torn, sizes=SIZES, resume=True)


def test_a_run_does_not_resume_with_a_manifest_that_was_changed(torn):
    manifest, tasks = torn / CHECKPOINT / "manifest.json", three()
    whole = manifest.read_bytes()
    message = r"manifest\.json was changed or torn|is not a checkpoint .*delete it and train from the start"
    for at in range(0, len(whole), len(whole) // 100):
        with damaged(manifest, at), pytest.raises(checkpoint.CheckpointError, match=message):
            checkpoint.load(manifest.parent)
    later = whole.replace(b'"epoch": 0', b'"epoch": 1')
    assert later != whole
    for changed in (later, whole[:-5], b""):  # of an epoch that never was; cut off; empty
        manifest.write_bytes(changed)
        with pytest.raises(checkpoint.CheckpointError, match=message):
            fit(tasks, SETTINGS, torn, sizes=SIZES, resume=True)
    manifest.write_bytes(whole)


def test_pieces_that_are_gone_are_missed(torn):
    file = next((torn / CHECKPOINT).glob("*.pieces"))
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(checkpoint.CheckpointError, match=r"is not a checkpoint .*delete it and train from the start"):
        fit(three(), SETTINGS, torn, sizes=SIZES, resume=True)
    file.write_bytes(content)


def test_data_that_is_repeated_gives_the_same_steps_wherever_an_epoch_is_taken_up():
    data = Repeated(Texts(steps=3), 2)
    assert data.steps_per_epoch == 6
    made = Texts(steps=3)
    torch.manual_seed(1)
    once = [*made.steps(2, 0), *made.steps(3, 0)]
    for first in range(6):
        steps = list(data.steps(1, first))
        assert len(steps) == 6 - first
        for parts, others in zip(steps, once[first:], strict=True):
            for part, other in zip(parts, others, strict=True):
                np.testing.assert_array_equal(part.targets, other.targets)
    assert data.identity() == {"seed": 0, "passes": 2}


def test_each_task_goes_once_through_its_data_in_an_epoch(trained):
    tasks = three()
    per_epoch = max(data.steps_per_epoch for data in tasks.values())
    assert per_epoch == tasks["fraud"].steps_per_epoch > tasks["risk"].steps_per_epoch > 5
    assert trained.report["steps"] == 3 * per_epoch
    lengths = {task: len(losses) for task, losses in trained.report["curves"]["task_losses"].items()}
    assert lengths == {task: 3 * data.steps_per_epoch for task, data in tasks.items()}


def test_the_report_tells_of_each_task_and_of_all(trained):
    best = trained.report["epochs"][trained.report["best_epoch"] - 1]
    figures = [best["tasks"][task]["figure"] for task in ("risk", "support", "fraud")]
    assert best["score"] == pytest.approx(np.mean(figures)) == max(e["score"] for e in trained.report["epochs"])
    assert best["tasks"]["support"]["validation"]["accuracy"] == figures[1]
    assert trained.report["tasks"]["support"]["experts"] == [0, 1, 2, 3, 4, 6]
    visits = np.array(best["tasks"]["support"]["loads"][0]["visits"])
    assert visits[[5, 7]].tolist() == [0, 0]
    assert (visits[[0, 1, 2, 3, 4, 6]] > 0).sum() >= 2
    assert (trained.out_dir / "training_report.png").read_bytes().startswith(b"\x89PNG")


def test_a_task_cut_out_of_what_was_trained_answers_the_same(trained):
    inputs, _ = Texts()._draw(np.random.default_rng(5), 40)
    together, _ = trained.predict(inputs, "support")
    with torch.no_grad():
        alone, _ = cut_out(trained.network, "support").logits(on_device(inputs, torch.device("cpu")))
    np.testing.assert_allclose(alone.numpy(), together, atol=1e-6)


def test_data_that_breaks_its_promise_is_named(tmp_path):
    with pytest.raises(ValueError, match="data of task 'support' gave fewer than the 6 steps of an epoch that it pro"):
        fit({"support": Texts(steps=5, promised=6)}, SETTINGS, tmp_path, sizes=SIZES)


def test_a_loss_that_is_not_finite_names_the_task(tmp_path):
    data = Texts()
    data.loss = lambda output, batch: output.sum() * torch.inf
    with pytest.raises(
        ValueError, match=r"the loss of task 'support' became .* at step 0; choose a learning_rate below"
    ):
        fit({"risk": events(), "support": data}, SETTINGS, tmp_path, sizes=SIZES)


def test_tasks_count_alike_in_the_load_of_all():
    few, many = torch.tensor([[4, 0]]), torch.tensor([[100, 300]])
    assert together_alike([few]) is few
    assert together_alike([few, many]).tolist() == [[252, 152]]  # 404 visits, in the shares (1 + 1/4) / 2 and 3/8


def test_arrays_are_sliced_and_moved_however_they_are_packed():
    tree = {"a": np.arange(4), "b": (np.ones((4, 2)), [torch.arange(4)])}
    assert examples_of(tree) == 4
    assert examples_of((np.zeros(3), np.zeros(3))) == 3
    moved = on_device(rows_of(tree, slice(1, 3)), torch.device("cpu"))
    assert moved["a"].tolist() == [1, 2]
    assert moved["b"][0].shape == (2, 2)
    assert moved["b"][1][0].tolist() == [1, 2]

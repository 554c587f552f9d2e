"""What each process of `test_processes.py` does; one alone does the same with whole batches.

python -m torch.distributed.run --nproc-per-node 2 -m tests.models.train.together FOLDER step:events norm ...
"""

import contextlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.features import FeatureSpec
from models.moe.image import ImageSizes
from models.moe.settings import MoESettings
from models.moe.text import TextSettings
from models.moe.trunk import share_out
from models.text.inputs import make_inputs
from models.text.pieces import Pieces
from models.train.dataset import Sampling
from models.train.events import EventData
from models.train.handing import Job, dismiss, hand_out, take
from models.train.images import ImageChoices, ImageData
from models.train.joint import assist, fit
from models.train.norms import share_norms
from models.train.processes import Place, Processes
from models.train.run import Run, weights_digest
from models.train.settings import TrainSettings
from models.train.task_data import Repeated
from models.train.texts import NO_LABEL, TextChoices, TextData

SIZES = MoESettings(
    width=16, heads=2, experts=8, expert_width=8, shared_width=8, bins=8, waves=2, members=2, head_width=16,
    dropout=0.0, input_dropout=0.0,
)  # fmt: skip
SETTINGS = TrainSettings(epochs=2, learning_rate=3e-3, device="cpu", checkpoint_steps=3, patience=2)


class InterruptedRunError(Exception):
    pass


def events(n: int = 700) -> EventData:
    """Two batches are accumulated in a step; the last ones of an epoch are smaller than the others."""
    chance = np.random.default_rng(2)
    amount, country = chance.lognormal(size=n), chance.integers(0, 4, n)
    labels = (chance.random(n) < 1 / (1 + np.exp(2 - 1.5 * np.log(amount)))).astype(np.uint8)
    features = np.stack([amount, country * 77_777.0], 1)
    specs = [FeatureSpec("amount", group="a"), FeatureSpec("country", "category", "a")]
    sampling = Sampling(batch=33, accumulate=2, negatives_per_positive=2)
    return EventData(features, specs, labels, np.arange(n) * 1000, sampling)


def texts(n: int = 120) -> Repeated:
    sizes = TextSettings(buckets=256, pieces=280, pieces_max=8, bag_dropout=0.0, piece_dropout=0.0, dropout=0.0)
    said = [f"{('lost card', 'exchange rate')[row % 2]} {row} {'please ' * (row % 5)}" for row in range(n)]
    inputs = make_inputs(said, Pieces.learned(said, sizes.pieces), sizes.pieces_max, sizes.buckets)
    held = np.arange(n) >= n - 20
    classes, none = np.arange(n) % 2, np.full(n, NO_LABEL)
    return Repeated(TextData(inputs, classes, none, (2, 0), held, TextChoices(batch=33), sizes), 2)


def images(n: int = 60) -> ImageData:
    chance = np.random.default_rng(5)
    pixels = chance.integers(0, 255, (n, 64, 64, 1), dtype=np.uint8)
    pixels[::2, 20:40, 20:40] //= 4
    return ImageData(pixels, np.arange(n) % 2, 2, np.arange(n) >= 50, ImageChoices(batch=10), ImageSizes(4, 8))


KINDS = {"events": events, "texts": texts, "images": images}


def one_step(processes: Processes, tasks: dict, folder: Path) -> str:
    """Take three steps; leave the gradients of the last one, weights and what is remembered as arrays."""
    allowed = share_out(list(tasks), SIZES.experts, private=1)
    job = Job(tasks, SETTINGS, SIZES, allowed)
    if processes.leads:
        hand_out(processes, job)
    else:
        job = take(processes)
    run = Run(job, None, processes)
    run.agree()
    batches = {task: data.steps(0, 0, processes.share) for task, data in job.tasks.items()}
    found = {}
    for k in range(3):
        run.step(k, batches)
        found |= {f"step {k} {n}": p.grad.clone() for n, p in run.network.named_parameters() if p.grad is not None}
    found |= run.learner.arrays() | {f"bias {n}": router.bias for n, router in enumerate(run.network.routers())}
    if processes.leads:
        np.savez(folder / "arrays.npz", **{name: array.numpy() for name, array in found.items()})
    return weights_digest(run.network)


def normalise(processes: Processes, folder: Path) -> str:
    """Normalise a share of a batch; leave outputs, gradients and running statistics."""
    torch.manual_seed(1)
    whole, weigh = torch.randn(7, 3, 5, 5) * 3 + 1, torch.randn(7, 3, 5, 5)
    layer = nn.Sequential(nn.BatchNorm2d(3))
    nn.init.normal_(layer[0].weight)
    if processes.several:
        share_norms(layer)
    rows = processes.share.of(np.arange(7))
    x = whole[rows].requires_grad_()
    y = layer(x)
    (y * weigh[rows]).sum().backward()
    found = {"rows": torch.from_numpy(rows), "y": y, "x": x.grad, "weight": layer[0].weight.grad}
    found |= {name: array for name, array in layer[0].named_buffers()}
    np.savez(folder / f"norm-{processes.place.rank}.npz", **{name: its.detach().numpy() for name, its in found.items()})
    return weights_digest(layer)


def ended_early(processes: Processes, tasks: dict, folder: Path) -> str:
    """End a training after its first validation, as a search does, and train once more; return the last digest."""

    def prune(progress):
        if progress.judged == 1:
            raise InterruptedRunError

    if not processes.leads:
        first, second = assist(processes)
        assert first != second
        return second
    with contextlib.suppress(InterruptedRunError):
        fit(tasks, SETTINGS, folder / "ended", prune, sizes=SIZES, processes=processes)
    return trained(processes, tasks, folder, resume=False)


def trained(processes: Processes, tasks: dict, folder: Path, resume: bool, end_at: int = 0) -> str:
    """Train all epochs, or end without a word at a step; return the digest of the last weights."""

    def interrupt(progress):
        if progress.step == end_at:
            os._exit(3)  # as one that is killed

    if not processes.leads:
        return assist(processes)[-1]
    found = fit(tasks, SETTINGS, folder, interrupt, sizes=SIZES, processes=processes, resume=resume)
    dismiss(processes)
    return found.report["weights_sha256"]


def unlike(processes: Processes) -> str:
    """Tell other weights in each process; return what is said about it."""
    try:
        processes.same(f"{processes.place.rank:064x}", "weights")
    except ValueError as problem:
        return str(problem)
    return ""


def do(what: str, processes: Processes, folder: Path) -> str:
    """Do one of these, on the kinds of data named behind it; leave files in `folder`."""
    name, _, kinds = what.partition(":")
    tasks = {kind: KINDS[kind]() for kind in kinds.split(",") if kind and processes.leads}
    if name == "step":
        return one_step(processes, tasks, folder)
    if name == "norm":
        return normalise(processes, folder)
    if name == "unlike":
        return unlike(processes)
    if name == "early":
        return ended_early(processes, tasks, folder)
    return trained(processes, tasks, folder, resume=name == "resume", end_at=5 if name == "interrupt" else 0)


def main(folder: Path, asked: list[str]) -> None:
    places = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    processes = Processes.join(Place(*(int(os.environ.get(name, usual)) for name, usual in places.items())))
    for what in asked:
        its = folder / what
        its.mkdir(parents=True, exist_ok=True)
        (its / f"rank-{processes.place.rank}.json").write_text(json.dumps(do(what, processes, its)))
    processes.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

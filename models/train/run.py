"""The state of a training, its epochs and its checkpoint.

An epoch is one pass over the data of each task. A task with the most steps takes part in every step, one with half of
them in every second, so that all end together; the gradients of the tasks in a step are added. Balance is asked of the
load of all tasks together, each counting alike; of tasks that are not in a step the last batch is remembered.

Everything random is a function of (seed, step, process) or (seed, epoch), so a checkpoint needs no generator state: a
run that was interrupted and resumed equals one that was not, number by number on a CPU. Resumed with another number of
processes it sees the same examples in the same steps; what dropout and augmentation draw differs, and how sums round.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.moe.network import MoENetwork
from models.train import checkpoint
from models.train.handing import Job
from models.train.optimizing import adamw, follow, set_rate
from models.train.processes import Processes
from models.train.report import History, load_figures
from models.train.step import Learner, together_alike
from models.train.task_data import Batch, TaskData, Validation, examples_of, on_device, rows_of


@dataclass(frozen=True)
class Progress:
    """What a progress display needs, once per optimizer step and once more after each validation.

    Attributes:
        step: optimizer steps done, of `steps`.
        steps: steps planned in all; early stopping may end before.
        epoch: the epoch under way, from 1, of `epochs`.
        epochs: epochs planned.
        loss: mean of this epoch's training loss so far.
        figures: task -> its figure (see `TaskData.figure`) in the last validation; empty before the first.
        judged: epochs that were validated; with one more than before, `figures` are new.
    """

    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float
    figures: dict[str, float]
    judged: int


Tell = Callable[[Progress], None]


class DivergedError(ValueError):
    """The loss or its gradient is not finite any more; all processes find that in the same step."""


@torch.no_grad()
def predict(network: MoENetwork, task: str | None, inputs: Any, device: torch.device, at_once: int = 2048) -> Any:
    """Return what the network serves of inputs as numpy arrays, `at_once` examples at a time."""
    network.eval()
    served = []
    for first in range(0, max(examples_of(inputs), 1), at_once):
        found = network.logits(on_device(rows_of(inputs, slice(first, first + at_once)), device), task)
        served.append(found if isinstance(found, tuple) else (found,))
    whole = tuple(
        np.concatenate([each.float().cpu().numpy() for each in column]) for column in zip(*served, strict=True)
    )
    return whole if len(whole) > 1 else whole[0]


class Run:
    """The state of one training run; everything in it is in the checkpoint. Process 0 alone keeps what is for people.

    Args:
        job: what is trained.
        path: of the checkpoint; None for a process that does not lead.
        processes: that train together; all begin the same runs.
    """

    def __init__(self, job: Job, path: Path | None, processes: Processes) -> None:
        self.tasks, self.settings, self.sizes, self.path = dict(job.tasks), job.settings, job.sizes, path
        self.processes, self.device = processes, processes.device(job.settings.device)
        self._branches = {task: data.branch(job.allowed[task]) for task, data in self.tasks.items()}
        torch.manual_seed(self.settings.seed)
        self.network = MoENetwork(self._branches, self.sizes)
        for data, encoder, head in zip(self.tasks.values(), self.network.encoders, self.network.heads, strict=True):
            data.attach(encoder)
            if processes.leads:
                data.start(encoder, head)
        self.network.to(self.device)
        self.learner = Learner(self.network, self.tasks, processes)
        self.optimizer = adamw(self.network, self.settings.weight_decay)
        begin = self.network.state_dict() if processes.leads else {}
        self.average = {name: array.clone() for name, array in begin.items()}
        self.best = dict(self.average)
        self.history = History(tasks=list(self.tasks))
        self.visits = {
            task: torch.zeros(self.sizes.layers, self.sizes.experts, dtype=torch.long) for task in self.tasks
        }
        self.epoch, self.done = 0, 0  # epochs, and steps of the next one
        self.end = self.settings.last_epoch or self.settings.epochs
        self.per_epoch = max(data.steps_per_epoch for data in self.tasks.values())
        self.seconds = 0.0

    def agree(self) -> None:
        """Begin where process 0 is, after it restored a checkpoint or not, with its weights."""
        self.learner.wrap()
        self.epoch, self.done = self.processes.agreed([self.epoch, self.done])
        arrays = checkpoint.optimizer_arrays(self.network, self.optimizer) | self.learner.arrays()
        arrays = self.processes.agreed_arrays(arrays)
        if not self.processes.leads:
            checkpoint.restore_optimizer(self.network, self.optimizer, arrays)
            self.learner.restore(arrays, self.device)

    def train(self, progress: Tell | None) -> None:
        """Go through the epochs until the last, or until nothing becomes better; what `progress` raises ends it.

        Raises:
            ValueError: the loss is not finite, data gave too little, or processes have other weights.
        """
        while self.processes.agreed(self.epoch < self.end and not self.history.stalled(self.settings.patience)):
            started = time.perf_counter()
            batches = {
                task: data.steps(self.epoch, self._own(data, self.done), self.processes.share)
                for task, data in self.tasks.items()
            }
            for k in range(self.done, self.per_epoch):
                self.step(k, batches)
                self.done = k + 1
                self._tell(progress)
                if self.done % self.settings.checkpoint_steps == 0 and self.done < self.per_epoch:
                    now = time.perf_counter()
                    self.seconds, started = self.seconds + now - started, now
                    self._save()
            self.processes.same(weights_digest(self.network), f"weights after epoch {self.epoch + 1}")
            if not self.processes.leads:
                self.epoch, self.done = self.epoch + 1, 0
                continue
            try:
                self._end_epoch(self.validate(self.with_arrays(self.average)))
                self.seconds += time.perf_counter() - started
                self._save()
                self._tell(progress)
            except BaseException:
                self.processes.agreed(False)  # the others wait at the top of this loop
                raise

    def _own(self, data: TaskData, step: int) -> int:
        """Return how many of its own steps a task has done when the epoch has done `step`."""
        return step * data.steps_per_epoch // self.per_epoch

    def step(self, k: int, batches: Mapping[str, Iterator[Sequence[Batch]]]) -> None:
        """Take step `k` of the epoch with what each task that is due gives next."""
        step = self.epoch * self.per_epoch + k
        settings, steps = self.settings, self.settings.epochs * self.per_epoch
        set_rate(self.optimizer, settings.learning_rate, step, steps, settings.warmup_share)
        torch.manual_seed(_seed(self.settings.seed, step, self.processes.place.rank))
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses, visits = {}, {}
        due = [task for task, data in self.tasks.items() if self._own(data, k + 1) > self._own(data, k)]
        for task in due:
            parts = next(batches[task], None)
            if parts is None:
                raise ValueError(
                    f"the data of task {task!r} gave fewer than the {self.tasks[task].steps_per_epoch} steps of an "
                    "epoch that it promised"
                )
            losses[task], visits[task] = self.learner.learn(task, parts, is_last=task == due[-1])
        part_norms = self.learner.part_norms() if self.processes.leads else {}
        norm = float(torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip))
        for task, loss in losses.items():
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise DivergedError(
                    f"the loss of task {task!r} became {loss} (gradient norm {norm}) at step {step}; "
                    f"choose a learning_rate below {self.settings.learning_rate}"
                )
        self.optimizer.step()
        self.learner.rebalance(visits)
        if not self.processes.leads:
            return
        follow(self.average, self.network, settings.average_decay, step)
        for task, its in visits.items():
            self.visits[task] += its.cpu()
        self.history.add_step(losses, {task: data.weight for task, data in self.tasks.items()}, norm, part_norms)

    def _end_epoch(self, judged: Mapping[str, Validation]) -> None:
        together = [load_figures(layer.numpy()) for layer in together_alike(list(self.visits.values()))]
        loads = {task: [load_figures(layer.numpy()) for layer in its] for task, its in self.visits.items()}
        steps = {task: data.steps_per_epoch for task, data in self.tasks.items()}
        chosen = {task: judged[task].figures[data.figure] for task, data in self.tasks.items()}
        figures = {task: validation.figures for task, validation in judged.items()}
        self.history.add_epoch(self.per_epoch, steps, chosen, figures, together, loads)
        if self.settings.last_epoch or self.history.best_epoch == len(self.history.epochs):
            self.best = {name: array.clone() for name, array in self.average.items()}
        for its in self.visits.values():
            its.zero_()
        self.epoch, self.done = self.epoch + 1, 0

    def validate(self, network: MoENetwork) -> dict[str, Validation]:
        """Judge a network by the data of each task."""

        def asked(task: str) -> Callable[..., Any]:
            return lambda inputs, at_once=2048: predict(network, task, inputs, self.device, at_once)

        return {task: data.validate(asked(task)) for task, data in self.tasks.items()}

    def with_arrays(self, arrays: dict[str, Tensor]) -> MoENetwork:
        """Return a network that has some weights, to ask it."""
        network = MoENetwork(self._branches, self.sizes).to(self.device)
        network.load_state_dict(arrays)
        return network.eval()

    def _tell(self, progress: Tell | None) -> None:
        if progress is None:
            return
        epochs, since = self.history.epochs, (self.epoch if self.done else self.epoch - 1) * self.per_epoch
        figures = {task: told["figure"] for task, told in epochs[-1]["tasks"].items()} if epochs else {}
        under_way = self.epoch + (1 if self.done else 0)
        total = self.end * self.per_epoch
        mean = float(np.mean(self.history.losses[since:]))
        progress(Progress(len(self.history.losses), total, under_way, self.end, mean, figures, len(epochs)))

    def provenance(self) -> dict[str, Any]:
        """Tell what decides the numbers, and where and how long it ran."""
        return self._identity() | {
            "device": self.device.type,
            "processes": self.processes.place.count,
            "torch": str(torch.__version__),
            "weights_sha256": weights_digest(self.network),  # the last ones, not the average that is kept
            "seconds": round(self.seconds, 1),
            "parameters": sum(p.numel() for p in self.network.parameters()),
        }

    def _identity(self) -> dict[str, Any]:
        return {
            "tasks": {
                task: data.identity() | {"experts": self.network.trunk.experts_of(task)}
                for task, data in self.tasks.items()
            },
            "training": asdict(self.settings),
            "sizes": asdict(self.sizes),
        }

    def _save(self) -> None:
        if self.path is None:
            return
        arrays = {f"network.{name}": array for name, array in self.network.state_dict().items()}
        arrays |= {f"average.{name}": array for name, array in self.average.items()}
        arrays |= {f"best.{name}": array for name, array in self.best.items()}
        arrays |= checkpoint.optimizer_arrays(self.network, self.optimizer) | self.learner.arrays()
        arrays |= {f"visits.{task}": its for task, its in self.visits.items()}
        notes = {"epoch": self.epoch, "done": self.done, "seconds": self.seconds, "history": asdict(self.history)}
        checkpoint.save(self.path, arrays, notes | {"identity": self._identity()})

    def restore(self) -> None:
        """Go on from the checkpoint.

        Raises:
            CheckpointError: there is none, or it is of another run.
        """
        assert self.path is not None
        arrays, notes = checkpoint.load(self.path)
        _same(self._identity(), notes["identity"], self.path)
        self.network.load_state_dict(checkpoint.part(arrays, "network."))
        self.average = {n: a.to(self.device) for n, a in checkpoint.part(arrays, "average.").items()}
        self.best = {n: a.to(self.device) for n, a in checkpoint.part(arrays, "best.").items()}
        checkpoint.restore_optimizer(self.network, self.optimizer, arrays)
        self.visits = {task: arrays[f"visits.{task}"] for task in self.tasks}
        self.learner.restore(arrays, self.device)
        self.history, self.seconds = History(**notes["history"]), notes["seconds"]
        self.epoch, self.done = notes["epoch"], notes["done"]


def weights_digest(network: MoENetwork) -> str:
    """Return the SHA-256 over all weights and running statistics, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, array in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(array.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of what a process draws in a step: another one in each, else their dropout would be the same."""
    if rank == 0:
        return (seed << 32) + step
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)


def _same(mine: dict[str, Any], theirs: dict[str, Any], path: Path) -> None:
    """Compare identities, tasks one by one."""
    told = {"tasks": (list(mine["tasks"]), list(theirs["tasks"]))}
    told |= {name: (mine[name], theirs[name]) for name in mine if name != "tasks"}
    for task in mine["tasks"].keys() & theirs["tasks"].keys():
        for name, its in mine["tasks"][task].items():
            told[f"{name} of task {task!r}"] = (its, theirs["tasks"][task].get(name))
    for name, (here, there) in told.items():
        if here != there:
            raise checkpoint.CheckpointError(
                f"the checkpoint {path} is of another run: {name} differs; "
                "resume with the same data and settings, or train from the start"
            )

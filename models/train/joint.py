"""The trainer: one task or several on one trunk, AdamW, averaged weights, early stopping, exact resume.

An epoch is one pass over the data of each task. A task with the most steps takes part in every step, one with half of
them in every second, so that all end together; the gradients of the tasks in a step are added. Balance is asked of the
load of all tasks together, each counting alike; of tasks that are not in a step the last batch is remembered.

Everything random is a function of (seed, step) or (seed, epoch), so a checkpoint needs no generator state: a run that
was interrupted and resumed equals one that was not, number by number on a CPU.
"""

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
from models.moe.parts import PARTS, part_of
from models.moe.router import Routing, balance_loss
from models.moe.settings import MoESettings
from models.moe.trunk import share_out
from models.train import checkpoint
from models.train.report import History, load_figures, write_report
from models.train.settings import TrainSettings
from models.train.task_data import Batch, TaskData, Validation, examples_of, on_device, rows_of

CHECKPOINT = "checkpoint"  # a folder in the output folder


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
    """

    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float
    figures: dict[str, float]


@dataclass(frozen=True)
class Trained:
    """A trained network with its provenance.

    Attributes:
        network: on the CPU, in evaluation mode, with the weights of the best epoch, or of the last if asked for.
        report: what training_report.json holds.
        out_dir: where checkpoint, report and plots are.
    """

    network: MoENetwork
    report: dict[str, Any]
    out_dir: Path

    def predict(self, inputs: Any, task: str | None = None) -> Any:
        """Return what is served of inputs, in slices that fit any memory."""
        return predict(self.network, task, inputs, torch.device("cpu"))


def fit(
    tasks: Mapping[str, TaskData],
    settings: TrainSettings,
    out_dir: Path,
    progress: Callable[[Progress], None] | None = None,
    *,
    sizes: MoESettings | None = None,
    allowed: Mapping[str, Sequence[int] | None] | None = None,
    resume: bool = False,
) -> Trained:
    """Train one network for all tasks; leave checkpoint, training_report.json and plots in `out_dir`.

    Args:
        tasks: name -> data; order matters to the numbers.
        settings: how to train.
        out_dir: made if missing.
        progress: called with a `Progress`; what it raises ends the training, which can then be resumed.
        sizes: of the trunk; the defaults if not given.
        allowed: task -> the experts that it may visit; if not given, an eighth is private to each of several tasks.
        resume: go on from the checkpoint in `out_dir`, with the result of a run that was never interrupted.

    Raises:
        ValueError: a loss that is not finite, a GPU asked for where none is, or data that breaks its promise.
        CheckpointError: `resume` without a checkpoint, or with one of other data or settings.
    """
    sizes = sizes or MoESettings()
    allowed = allowed or share_out(list(tasks), sizes.experts, private=max(1, sizes.experts // 8))
    device = _device(settings.device)
    out_dir.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            run = _Run(tasks, settings, sizes, allowed, device, out_dir / CHECKPOINT)
            if resume:
                run.restore()
            run.train(progress)
            network = run.with_arrays(run.best)
            judged = run.validate(network)
    finally:
        torch.set_num_threads(threads)
    report = write_report(out_dir, run.history, run.provenance(), judged)
    return Trained(network.cpu(), report, out_dir)


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


class _Run:
    """The state of one training run; everything in it is in the checkpoint."""

    def __init__(
        self,
        tasks: Mapping[str, TaskData],
        settings: TrainSettings,
        sizes: MoESettings,
        allowed: Mapping[str, Sequence[int] | None],
        device: torch.device,
        path: Path,
    ) -> None:
        self.tasks, self.settings, self.sizes, self.device, self.path = dict(tasks), settings, sizes, device, path
        self._branches = {task: data.branch(allowed[task]) for task, data in tasks.items()}
        torch.manual_seed(settings.seed)
        self.network = MoENetwork(self._branches, sizes)
        for data, encoder, head in zip(tasks.values(), self.network.encoders, self.network.heads, strict=True):
            data.start(encoder, head)
        self.network.to(device)
        self.optimizer = torch.optim.AdamW(self._groups(), lr=0.0, betas=(0.9, 0.98))
        self.average = {name: array.clone() for name, array in self.network.state_dict().items()}
        self.best = dict(self.average)
        self.history = History(tasks=list(tasks))
        self.visits = {task: torch.zeros(sizes.layers, sizes.experts, dtype=torch.long) for task in tasks}
        self.last: dict[str, list[Routing]] = {}  # of each task, in the last step that it took part in
        self.epoch, self.done = 0, 0  # epochs, and steps of the next one
        self.end = settings.last_epoch or settings.epochs
        self.per_epoch = max(data.steps_per_epoch for data in tasks.values())
        self.seconds = 0.0

    def _groups(self) -> list[dict[str, Any]]:
        named = list(self.network.named_parameters())
        matrices = [p for name, p in named if p.ndim >= 2 and not name.endswith(("table", "frequencies", "place"))]
        chosen = {id(p) for p in matrices}
        others = [p for _, p in named if id(p) not in chosen]
        return [
            {"params": matrices, "weight_decay": self.settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]

    def train(self, progress: Callable[[Progress], None] | None) -> None:
        while self.epoch < self.end and not self.history.stalled(self.settings.patience):
            started = time.perf_counter()
            batches = {task: data.steps(self.epoch, self._own(data, self.done)) for task, data in self.tasks.items()}
            for k in range(self.done, self.per_epoch):
                self._step(k, batches)
                self.done = k + 1
                self._tell(progress)
                if self.done % self.settings.checkpoint_steps == 0 and self.done < self.per_epoch:
                    now = time.perf_counter()
                    self.seconds, started = self.seconds + now - started, now
                    self._save()
            judged = self.validate(self.with_arrays(self.average))
            self._end_epoch(judged)
            self.seconds += time.perf_counter() - started
            self._save()
            self._tell(progress)

    def _own(self, data: TaskData, step: int) -> int:
        """Return how many of its own steps a task has done when the epoch has done `step`."""
        return step * data.steps_per_epoch // self.per_epoch

    def _step(self, k: int, batches: Mapping[str, Iterator[Sequence[Batch]]]) -> None:
        step = self.epoch * self.per_epoch + k
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * self._rate(step)
        torch.manual_seed((self.settings.seed << 32) + step)
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses, visits = {}, {}
        for task, data in self.tasks.items():
            if self._own(data, k + 1) > self._own(data, k):
                parts = next(batches[task], None)
                if parts is None:
                    raise ValueError(
                        f"the data of task {task!r} gave fewer than the {data.steps_per_epoch} steps of an epoch "
                        "that it promised"
                    )
                losses[task], visits[task] = self._learn(task, data, parts)
        part_norms = self._part_norms()
        norm = float(torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip))
        for task, loss in losses.items():
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise ValueError(
                    f"the loss of task {task!r} became {loss} (gradient norm {norm}) at step {step}; "
                    f"choose a learning_rate below {self.settings.learning_rate}"
                )
        self.optimizer.step()
        self._rebalance(visits)
        self._average(step)
        for task, its in visits.items():
            self.visits[task] += its.cpu()
        weights = {task: data.weight for task, data in self.tasks.items()}
        self.history.add_step(losses, weights, norm, part_norms)

    def _learn(self, task: str, data: TaskData, parts: Sequence[Batch]) -> tuple[float, Tensor]:
        """Add the gradients of one task's batches; return its mean loss and its (layers, e) visits."""
        total = sum(part.examples for part in parts)
        others = [self.last[other] for other in self.tasks if other != task and other in self.last]
        loss_sum, visits = 0.0, torch.zeros(self.sizes.layers, self.sizes.experts, dtype=torch.long, device=self.device)
        routings: list[Routing] = []
        for part in parts:
            part = Batch(on_device(part.inputs, self.device), on_device(part.targets, self.device), part.examples)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                output, routings = self.network(part.inputs, task)
            loss = data.loss(output, part)
            aside = sum(
                self.sizes.aux_weight * balance_loss([mine, *(other[layer] for other in others)])
                + self.sizes.z_weight * mine.z_loss
                for layer, mine in enumerate(routings)
            )
            ((data.weight * loss + aside) * (part.examples / total)).backward()
            loss_sum += float(loss.detach()) * part.examples / total
            visits += torch.stack([routing.visits for routing in routings])
        self.last[task] = [
            Routing(its, routing.share, routing.mean_score.detach(), routing.z_loss.detach())
            for its, routing in zip(visits, routings, strict=True)
        ]
        return loss_sum, visits

    def _rebalance(self, visits: Mapping[str, Tensor]) -> None:
        together = together_alike([visits.get(task, _stacked(self.last[task], "visits")) for task in self.last])
        for router, layer in zip(self.network.routers(), together, strict=True):
            router.rebalance(layer, self.sizes.bias_step)

    def _part_norms(self) -> dict[str, float]:
        """Compute the gradient's norm of each part of the network, before clipping."""
        gradients: dict[str, list[Tensor]] = {part: [] for part in PARTS}
        for name, parameter in self.network.named_parameters():
            if parameter.grad is not None:
                gradients[part_of(name)].append(parameter.grad)
        return {part: float(torch.nn.utils.get_total_norm(its)) for part, its in gradients.items() if its}

    def _rate(self, step: int) -> float:
        """Share of the learning rate at a step: a linear rise, then half a cosine down to 0."""
        steps = self.settings.epochs * self.per_epoch
        rise = max(1, round(steps * self.settings.warmup_share))
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    @torch.no_grad()
    def _average(self, step: int) -> None:
        follow = max(1 - self.settings.average_decay, 1 / (step + 1))  # early on: the plain mean of what there is
        for name, array in self.network.state_dict().items():
            if array.is_floating_point():
                self.average[name].lerp_(array, follow)

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
        def asked(task: str) -> Callable[..., Any]:
            return lambda inputs, at_once=2048: predict(network, task, inputs, self.device, at_once)

        return {task: data.validate(asked(task)) for task, data in self.tasks.items()}

    def with_arrays(self, arrays: dict[str, Tensor]) -> MoENetwork:
        network = MoENetwork(self._branches, self.sizes).to(self.device)
        network.load_state_dict(arrays)
        return network.eval()

    def _tell(self, progress: Callable[[Progress], None] | None) -> None:
        if progress is None:
            return
        epochs, since = self.history.epochs, (self.epoch if self.done else self.epoch - 1) * self.per_epoch
        figures = {task: told["figure"] for task, told in epochs[-1]["tasks"].items()} if epochs else {}
        under_way = self.epoch + (1 if self.done else 0)
        total = self.end * self.per_epoch
        mean = float(np.mean(self.history.losses[since:]))
        progress(Progress(len(self.history.losses), total, under_way, self.end, mean, figures))

    def provenance(self) -> dict[str, Any]:
        return self._identity() | {
            "device": self.device.type,
            "torch": str(torch.__version__),
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
        arrays = {f"network.{name}": array for name, array in self.network.state_dict().items()}
        arrays |= {f"average.{name}": array for name, array in self.average.items()}
        arrays |= {f"best.{name}": array for name, array in self.best.items()}
        arrays |= checkpoint.optimizer_arrays(self.network, self.optimizer)
        arrays |= {f"visits.{task}": its for task, its in self.visits.items()}
        for task, routings in self.last.items():
            arrays |= {f"last.{task}.{name}": _stacked(routings, name) for name in _REMEMBERED}
        notes = {"epoch": self.epoch, "done": self.done, "seconds": self.seconds, "history": asdict(self.history)}
        checkpoint.save(self.path, arrays, notes | {"identity": self._identity()})

    def restore(self) -> None:
        arrays, notes = checkpoint.load(self.path)
        _same(self._identity(), notes["identity"], self.path)
        self.network.load_state_dict(checkpoint.part(arrays, "network."))
        self.average = {n: a.to(self.device) for n, a in checkpoint.part(arrays, "average.").items()}
        self.best = {n: a.to(self.device) for n, a in checkpoint.part(arrays, "best.").items()}
        checkpoint.restore_optimizer(self.network, self.optimizer, arrays)
        self.visits = {task: arrays[f"visits.{task}"] for task in self.tasks}
        for task in (task for task in self.tasks if f"last.{task}.visits" in arrays):
            remembered = [arrays[f"last.{task}.{name}"].to(self.device) for name in _REMEMBERED]
            self.last[task] = [Routing(*layer) for layer in zip(*remembered, strict=True)]
        self.history, self.seconds = History(**notes["history"]), notes["seconds"]
        self.epoch, self.done = notes["epoch"], notes["done"]


_REMEMBERED = ("visits", "share", "mean_score", "z_loss")


def together_alike(visits: Sequence[Tensor]) -> Tensor:
    """Add the (layers, e) visits of tasks as if each had sent equally many tokens through each layer, rounded."""
    if len(visits) == 1:
        return visits[0]
    shares = [each.double() / each.sum(1, keepdim=True).clamp(min=1) for each in visits]
    return (sum(shares) / len(visits) * sum(each.sum(1, keepdim=True) for each in visits)).round().long()


def _stacked(routings: Sequence[Routing], name: str) -> Tensor:
    return torch.stack([getattr(routing, name) for routing in routings])


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


def _device(asked: str) -> torch.device:
    if asked == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', and torch finds no GPU here; use device 'auto' or 'cpu'")
    return torch.device("cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu")

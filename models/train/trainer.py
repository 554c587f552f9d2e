"""Training: sampled epochs, AdamW, a validation that lies later in time, early stopping, exact resume.

Everything random is a function of (seed, step) or (seed, epoch), so a checkpoint needs no generator state: a run that
was interrupted and resumed equals one that was not, number by number.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.features import FeatureSpec
from models.moe.bins import learn_code, number_columns
from models.moe.network import MoENetwork, event_network
from models.moe.parts import PARTS, part_of
from models.moe.settings import MoESettings
from models.train import checkpoint
from models.train.dataset import Dataset, prepare
from models.train.report import History, load_figures, ranking_figures, write_report
from models.train.settings import TrainSettings

CODE_ROWS_MAX = 200_000  # events, evenly spread, from which pieces of numbers are learned: quantiles need no more


@dataclass(frozen=True)
class Progress:
    """What a progress display needs, once per optimizer step and once more after each validation.

    Attributes:
        step: optimizer steps done, of `steps`.
        steps: steps planned in all; early stopping may end before.
        epoch: the epoch under way, from 1, of `epochs`.
        epochs: epochs planned.
        loss: mean of this epoch's training loss so far.
        validation_ap: average precision of the last validation, None before the first.
    """

    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float
    validation_ap: float | None


@dataclass(frozen=True)
class TrainedMoE:
    """A trained network with its provenance.

    Attributes:
        network: on the CPU, in evaluation mode, with the weights of the best epoch.
        specs: the columns that it expects.
        settings: sizes.
        report: what training_report.json holds.
        out_dir: where checkpoint, report and plots are.
    """

    network: MoENetwork
    specs: tuple[FeatureSpec, ...]
    settings: MoESettings
    report: dict[str, Any]
    out_dir: Path

    def logits(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Score (events, columns) to (events,) logits, in slices that fit any memory."""
        return predict(self.network, np.asarray(features, np.float64), torch.device("cpu"))


def fit(
    features: NDArray[np.float64],
    specs: Sequence[FeatureSpec],
    labels: NDArray[np.uint8],
    times_ms: NDArray[np.int64],
    settings: TrainSettings,
    out_dir: Path,
    progress: Callable[[Progress], None] | None = None,
    *,
    sizes: MoESettings | None = None,
    resume: bool = False,
) -> TrainedMoE:
    """Train the network; leave checkpoint.safetensors, training_report.json and plots in `out_dir`.

    Args:
        features: (events, columns) float64, NaN is null.
        specs: (columns,) what each column is.
        labels: (events,) 0 or 1.
        times_ms: (events,) event times; any order.
        settings: how to train.
        out_dir: made if missing.
        progress: called with a `Progress`; what it raises ends the training, which can then be resumed.
        sizes: of the network; the defaults if not given.
        resume: go on from the checkpoint in `out_dir`, with the result of a run that was never interrupted.

    Raises:
        ValueError: unusable arrays (see `prepare`), a loss that is not finite, or a GPU asked for where none is.
        CheckpointError: `resume` without a checkpoint, or with one of other data or settings.
    """
    sizes = sizes or MoESettings()
    device = _device(settings.device)
    data = prepare(features, specs, labels, times_ms, settings)
    out_dir.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            run = _Run(data, specs, settings, sizes, device, out_dir / "checkpoint.safetensors")
            if resume:
                run.restore()
            run.train(progress)
            network = run.best_network()
            scores = predict(network, data.features[data.validation], device)
    finally:
        torch.set_num_threads(threads)
    report = write_report(out_dir, run.history, run.provenance(), scores, data)
    return TrainedMoE(network.cpu(), tuple(specs), sizes, report, out_dir)


def load_trained(out_dir: Path) -> TrainedMoE:
    """Read the best network of the run in `out_dir`, finished or not, for example to export it again.

    Raises:
        CheckpointError: no checkpoint is there, or it cannot be read.
    """
    arrays, notes = checkpoint.load(out_dir / "checkpoint.safetensors")
    specs = tuple(FeatureSpec(**column) for column in notes["identity"]["columns"])
    sizes = MoESettings(**notes["identity"]["sizes"])
    network = event_network(specs, sizes)
    network.load_state_dict(checkpoint.part(arrays, "best."))
    report = out_dir / "training_report.json"
    told = json.loads(report.read_text()) if report.is_file() else {}
    return TrainedMoE(network.eval(), specs, sizes, told, out_dir)


@torch.no_grad()
def predict(
    network: MoENetwork, features: NDArray[np.float64], device: torch.device, rows_max: int = 2048
) -> NDArray[np.float64]:
    """Score (events, columns) in slices of `rows_max`; returns (events,) float64 logits."""
    network.eval()
    slices = [features[first : first + rows_max] for first in range(0, len(features), rows_max)]
    scored = [network.logits(torch.from_numpy(part).to(device)).cpu().double().numpy() for part in slices]
    return np.concatenate(scored) if scored else np.zeros(0)


class _Run:
    """The state of one training run; everything in it is in the checkpoint."""

    def __init__(
        self,
        data: Dataset,
        specs: Sequence[FeatureSpec],
        settings: TrainSettings,
        sizes: MoESettings,
        device: torch.device,
        path: Path,
    ) -> None:
        self.data, self.specs, self.settings, self.sizes = data, specs, settings, sizes
        self.device, self.path = device, path
        torch.manual_seed(settings.seed)
        self.network = event_network(specs, sizes)
        rows = data.training_rows()
        rows = rows[:: -(-len(rows) // CODE_ROWS_MAX)]
        kinds = [spec.kind for spec in specs]
        encoder = self.network.encoders[0]
        inputs = number_columns(data.features[rows], data.labels[rows], encoder.plan, kinds)
        encoder.load_codes(learn_code(*inputs, bins=sizes.bins))
        with torch.no_grad():  # start at the base rate: the first steps then learn what differs between events
            self.network.heads[0].base.fill_(math.log(len(data.positives) / len(data.negatives)))
        self.network.to(device)
        self.optimizer = torch.optim.AdamW(self._groups(), lr=0.0, betas=(0.9, 0.98))
        self.average = {name: array.clone() for name, array in self.network.state_dict().items()}
        self.best = dict(self.average)
        self.history = History()
        self.epoch = 0
        # logit of the sampled and weighted problem = logit + shift, see TrainSettings
        self.shift = math.log(settings.positive_weight / data.kept_share(settings))
        self.steps_per_epoch = -(-len(data.epoch_rows(settings, 0)) // (settings.batch * settings.accumulate))
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
        settings = self.settings
        while self.epoch < settings.epochs and not self.history.stalled(settings.patience):
            started = time.perf_counter()
            rows = self.data.epoch_rows(settings, self.epoch)
            per_step = settings.batch * settings.accumulate
            visits = [torch.zeros(self.sizes.experts, dtype=torch.long) for _ in range(self.sizes.layers)]
            losses: list[float] = []
            for k in range(self.steps_per_epoch):
                loss, visited = self._step(rows[k * per_step : (k + 1) * per_step])
                losses.append(loss)
                for total, layer in zip(visits, visited, strict=True):
                    total += layer.cpu()
                self._tell(progress, k + 1, losses)
            figures = self._validate()
            self.history.add_epoch(float(np.mean(losses)), figures, [load_figures(v.numpy()) for v in visits])
            if self.history.best_epoch == len(self.history.epochs):
                self.best = {name: array.clone() for name, array in self.average.items()}
            self.epoch += 1
            self.seconds += time.perf_counter() - started
            self._save()
            self._tell(progress, 0, losses)

    def _step(self, rows: NDArray[np.int64]) -> tuple[float, list[Tensor]]:
        step = len(self.history.losses)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * self._rate(step)
        torch.manual_seed((self.settings.seed << 32) + step)
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss_sum = 0.0
        visits = [torch.zeros(self.sizes.experts, dtype=torch.long, device=self.device)] * self.sizes.layers
        for first in range(0, len(rows), self.settings.batch):
            part = rows[first : first + self.settings.batch]
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                members, routings = self.network(torch.from_numpy(self.data.features[part]).to(self.device))
            loss = self._loss(members, torch.from_numpy(self.data.labels[part]).to(self.device))
            balance = sum(self.sizes.aux_weight * r.balance_loss + self.sizes.z_weight * r.z_loss for r in routings)
            ((loss + balance) * (len(part) / len(rows))).backward()
            loss_sum += float(loss.detach()) * len(part) / len(rows)
            visits = [total + r.visits for total, r in zip(visits, routings, strict=True)]
        parts = self._part_norms()
        norm = float(torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip))
        if not (math.isfinite(loss_sum) and math.isfinite(norm)):
            raise ValueError(
                f"the loss became {loss_sum} (gradient norm {norm}) at step {step}; "
                f"choose a learning_rate below {self.settings.learning_rate}"
            )
        self.optimizer.step()
        for router, total in zip(self.network.routers(), visits, strict=True):
            router.rebalance(total, self.sizes.bias_step)
        self._average(step)
        self.history.add_step(loss_sum, norm, parts)
        return loss_sum, visits

    def _part_norms(self) -> dict[str, float]:
        """Compute the gradient's norm of each part of the network, before clipping."""
        gradients: dict[str, list[Tensor]] = {part: [] for part in PARTS}
        for name, parameter in self.network.named_parameters():
            if parameter.grad is not None:
                gradients[part_of(name)].append(parameter.grad)
        return {part: float(torch.nn.utils.get_total_norm(its)) for part, its in gradients.items() if its}

    def _loss(self, members: Tensor, labels: Tensor) -> Tensor:
        target = labels.float().unsqueeze(1).expand_as(members)  # (n, m): each member learns by itself
        weight = torch.tensor(self.settings.positive_weight, device=members.device)
        return torch.nn.functional.binary_cross_entropy_with_logits(
            members.float() + self.shift, target, pos_weight=weight
        )

    def _rate(self, step: int) -> float:
        """Share of the learning rate at a step: a linear rise, then half a cosine down to 0."""
        steps = self.settings.epochs * self.steps_per_epoch
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

    def _validate(self) -> dict[str, float]:
        logits = predict(self._with(self.average), self.data.features[self.data.validation], self.device)
        return ranking_figures(self.data.labels[self.data.validation], logits, self.data.validation_weights)

    def _with(self, arrays: dict[str, Tensor]) -> MoENetwork:
        network = event_network(self.specs, self.sizes).to(self.device)
        network.load_state_dict(arrays)
        return network.eval()

    def best_network(self) -> MoENetwork:
        return self._with(self.best)

    def _tell(self, progress: Callable[[Progress], None] | None, done_in_epoch: int, losses: list[float]) -> None:
        if progress is None:
            return
        last = self.history.epochs[-1]["average_precision"] if self.history.epochs else None
        under_way = self.epoch + (1 if done_in_epoch else 0)
        total = self.settings.epochs * self.steps_per_epoch
        mean = float(np.mean(losses))
        progress(Progress(len(self.history.losses), total, under_way, self.settings.epochs, mean, last))

    def provenance(self) -> dict[str, Any]:
        return {
            "data_sha256": self.data.digest,
            "columns": [asdict(spec) for spec in self.specs],
            "training": asdict(self.settings),
            "sizes": asdict(self.sizes),
            "device": self.device.type,
            "torch": str(torch.__version__),
            "seconds": round(self.seconds, 1),
            "parameters": sum(p.numel() for p in self.network.parameters()),
        }

    def _identity(self) -> dict[str, Any]:
        told = self.provenance()
        return {name: told[name] for name in ("data_sha256", "training", "sizes", "columns")}

    def _save(self) -> None:
        arrays = {f"network.{name}": array for name, array in self.network.state_dict().items()}
        arrays |= {f"average.{name}": array for name, array in self.average.items()}
        arrays |= {f"best.{name}": array for name, array in self.best.items()}
        arrays |= checkpoint.optimizer_arrays(self.network, self.optimizer)
        notes = {"epoch": self.epoch, "seconds": self.seconds, "history": asdict(self.history)}
        checkpoint.save(self.path, arrays, notes | {"identity": self._identity()})

    def restore(self) -> None:
        arrays, notes = checkpoint.load(self.path)
        mine, theirs = self._identity(), notes["identity"]
        for name in mine:
            if mine[name] != theirs[name]:
                raise checkpoint.CheckpointError(
                    f"the checkpoint {self.path} is of another run: {name} differs; "
                    "resume with the same data and settings, or train from the start"
                )
        self.network.load_state_dict(checkpoint.part(arrays, "network."))
        self.average = {n: a.to(self.device) for n, a in checkpoint.part(arrays, "average.").items()}
        self.best = {n: a.to(self.device) for n, a in checkpoint.part(arrays, "best.").items()}
        checkpoint.restore_optimizer(self.network, self.optimizer, arrays)
        self.history, self.epoch, self.seconds = History(**notes["history"]), notes["epoch"], notes["seconds"]


def _device(asked: str) -> torch.device:
    if asked == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', and torch finds no GPU here; use device 'auto' or 'cpu'")
    return torch.device("cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu")

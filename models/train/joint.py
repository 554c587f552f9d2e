"""The trainer: one task or several on one trunk, AdamW, averaged weights, early stopping, exact resume.

`models.train.run` has the epochs, `models.train.step` a step, `models.train.processes` what several processes that
train together say to each other. Process 0 calls `fit`, and the others `assist` it.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.moe.network import MoENetwork
from models.moe.settings import MoESettings
from models.moe.trunk import share_out
from models.train.handing import Job, hand_out, take
from models.train.processes import Processes, lost_as_such
from models.train.report import write_report
from models.train.run import DivergedError, Progress, Run, Tell, predict, weights_digest
from models.train.settings import TrainSettings
from models.train.task_data import TaskData

__all__ = ["CHECKPOINT", "DivergedError", "Progress", "Trained", "assist", "fit", "predict"]
CHECKPOINT = "checkpoint"  # a folder in the output folder


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
    progress: Tell | None = None,
    *,
    sizes: MoESettings | None = None,
    allowed: Mapping[str, Sequence[int] | None] | None = None,
    resume: bool = False,
    processes: Processes | None = None,
) -> Trained:
    """Train one network for all tasks; leave checkpoint, training_report.json and plots in `out_dir`.

    Args:
        tasks: name -> data; order matters to the numbers.
        settings: how to train.
        out_dir: made if missing.
        progress: called with a `Progress`; what it raises ends the training, which can then be resumed. Raised after a
            validation, it leaves other processes ready for the next training; elsewhere, they end.
        sizes: of the trunk; the defaults if not given.
        allowed: task -> the experts that it may visit; if not given, an eighth is private to each of several tasks.
        resume: go on from the checkpoint in `out_dir`, with the result of a run that was never interrupted.
        processes: that share each step; this one leads them, and the others wait in `assist`.

    Raises:
        DivergedError: a loss that is not finite.
        ValueError: a GPU asked for where none is, or data that breaks its promise.
        CheckpointError: `resume` without a checkpoint, or with one of other data or settings.
        ProcessLostError: another process ended.
    """
    sizes, processes = sizes or MoESettings(), processes or Processes()
    allowed = allowed or share_out(list(tasks), sizes.experts, private=max(1, sizes.experts // 8))
    out_dir.mkdir(parents=True, exist_ok=True)
    job = Job(tasks, settings, sizes, allowed)
    with _computing(settings, processes):
        run = Run(job, out_dir / CHECKPOINT, processes)
        if resume:
            run.restore()
        hand_out(processes, job)
        run.agree()
        run.train(progress)
        network = run.with_arrays(run.best)
        judged = run.validate(network)
    report = write_report(out_dir, run.history, run.provenance(), judged)
    return Trained(network.cpu(), report, out_dir)


def assist(processes: Processes) -> list[str]:
    """Compute this process's share of each training that process 0 begins, until it has no more.

    Returns:
        The SHA-256 of each one's last weights; those of the other processes are the same.

    Raises:
        ProcessLostError: another process ended.
    """
    digests = []
    with lost_as_such():
        while (job := take(processes)) is not None:
            with _computing(job.settings, processes):
                run = Run(job, None, processes)
                run.agree()
                with contextlib.suppress(DivergedError):  # process 0 tells it, and may have another training
                    run.train(None)
                digests.append(weights_digest(run.network))
    return digests


@contextlib.contextmanager
def _computing(settings: TrainSettings, processes: Processes) -> Iterator[None]:
    """Set threads and fork what is drawn from, and put both back."""
    device = processes.device(settings.device)
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), lost_as_such():
            yield
    finally:
        torch.set_num_threads(threads)

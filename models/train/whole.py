"""Learning everything: once the epochs are chosen by what is held back, a second network learns that, too.

What is held back is a seventh of all, and the newest. The second network is trained as the first was, from the start,
at the same rates and up to the same epoch. Nothing is left then to judge it by, so temperature and thresholds are those
of the first: it is as sure as that one, for it is the same but for a few more examples. Fewer epochs with a rate that
falls to 0 over them would not do: such a network is less sure.

Source: Goodfellow, Bengio, Courville 2016, "Deep Learning", algorithm 7.2.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from models.moe.settings import MoESettings
from models.train.joint import CHECKPOINT, Progress, Trained, fit
from models.train.processes import Processes
from models.train.settings import TrainSettings
from models.train.task_data import TaskData


def fit_whole(
    first: Trained,
    tasks: Mapping[str, TaskData],
    out_dir: Path,
    progress: Callable[[Progress], None] | None = None,
    *,
    resume: bool = False,
    processes: Processes | None = None,
) -> Trained:
    """Train again on everything.

    Args:
        first: what was trained with a part held back.
        tasks: of `first`, with nothing left out.
        out_dir: of this training, another than that of the first.
        progress: as of `models.train.joint.fit`.
        resume: go on from the checkpoint in `out_dir`, if there is one.
        processes: that share each step, as of `models.train.joint.fit`.

    Raises:
        ValueError: as of `models.train.joint.fit`.
    """
    report = first.report
    training = report["training"]
    end = {"last_epoch": report["best_epoch"], "patience": training["epochs"]}
    settings = TrainSettings(**(training | end))
    allowed = {task: report["tasks"][task]["experts"] for task in tasks}
    resume = resume and (out_dir / CHECKPOINT).exists()
    sizes = MoESettings(**report["sizes"])
    return fit(tasks, settings, out_dir, progress, sizes=sizes, allowed=allowed, resume=resume, processes=processes)

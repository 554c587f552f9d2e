"""What process 0 hands to the others of a training: settings as JSON, data as arrays in files that they map."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from models.moe.settings import MoESettings
from models.train.processes import Processes
from models.train.settings import TrainSettings
from models.train.task_data import Packed, Repeated, TaskData

Allowed = Mapping[str, Sequence[int] | None]


@dataclass(frozen=True)
class Job:
    """A training: see `models.train.joint.fit`."""

    tasks: Mapping[str, TaskData]
    settings: TrainSettings
    sizes: MoESettings
    allowed: Allowed


def hand_out(processes: Processes, job: Job) -> None:
    """Give a training to the other processes, which wait in `take`."""
    if not processes.several:
        return
    packed = {task: data.packed() for task, data in job.tasks.items()}
    processes.agreed({
        "settings": asdict(job.settings), "sizes": asdict(job.sizes), "allowed": dict(job.allowed),
        "tasks": {task: {"kind": its.kind, "told": its.told} for task, its in packed.items()},
    })  # fmt: skip
    for its in packed.values():
        processes.mapped(its.arrays)


def take(processes: Processes) -> Job | None:
    """Wait for a training; None: there is no more."""
    told = processes.agreed()
    if told is None:
        return None
    tasks = {
        task: unpacked(Packed(its["kind"], processes.mapped({}), its["told"])) for task, its in told["tasks"].items()
    }  # fmt: skip
    return Job(tasks, TrainSettings(**told["settings"]), MoESettings(**told["sizes"]), told["allowed"])


def dismiss(processes: Processes) -> None:
    """Tell the other processes that there is no more."""
    processes.agreed(None)


def unpacked(packed: Packed) -> TaskData:
    """Return what learns as the data that was packed.

    Raises:
        ValueError: nobody knows data of this kind.
    """
    from models.train.events import EventData
    from models.train.images import ImageData
    from models.train.texts import TextData

    kinds: dict[str, Callable[[Packed], TaskData]] = {
        "events": EventData.unpacked,
        "texts": TextData.unpacked,
        "images": ImageData.unpacked,
    }
    if packed.kind not in kinds:
        raise ValueError(f"data of kind {packed.kind!r} cannot be handed to another process; give {', '.join(kinds)}")
    data = kinds[packed.kind](packed)
    passes = packed.told.get("passes", 1)
    return Repeated(data, passes) if passes > 1 else data

"""Training in several processes: starting them on this machine, and finding one's place among them.

`pelton train --distributed N` starts itself N times by torch's elastic launcher. On several machines `torchrun` starts
the same command on each. Either way a process learns from its environment which one it is.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ops.extras import NETWORK, need
from ops.terminal import note
from ops.training.training import TrainingError

if TYPE_CHECKING:
    from models.train.processes import Processes

PROCESSES_MAX = 64  # on one machine
LOST_EXIT = 75  # of a process that ended because another one did; EX_TEMPFAIL of sysexits.h


def started_by_launcher(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether torch's launcher started this process."""
    return "TORCHELASTIC_RUN_ID" in environment and "RANK" in environment


def join(count: int | None, environment: Mapping[str, str] = os.environ) -> Processes:
    """Meet the other processes that the launcher started.

    Args:
        count: how many were asked for; None if nobody said.
        environment: as torch's launcher sets it.

    Raises:
        ValueError: another number was started, there are too few GPUs, or the others do not come.
    """
    from models.train.processes import Place, Processes

    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    place = Place(*(int(environment[name]) for name in names))
    if count is not None and count != place.count:
        raise TrainingError(
            f"--distributed is {count}, and torchrun started {place.count} processes; leave --distributed away"
        )
    return Processes.join(place)


def begin(count: int | None, arguments: Sequence[str]) -> tuple[bool, Processes | None]:
    """Start the processes that were asked for, or take one's place among them.

    Args:
        count: how many to start on this machine; None: none, unless torchrun did.
        arguments: of the command, for those that are started.

    Returns:
        Whether this process trains, and which it leads; of those that do not, the work is done already.

    Raises:
        ValueError: see `join` and `launch`.
    """
    if started_by_launcher():
        processes = join(count)
        if processes.leads:
            return True, processes
        _assist(processes)
        return False, None
    if count is None:
        return True, None
    need(NETWORK, "processes share the training of a network")
    launch(count, arguments)
    return False, None


@contextmanager
def leading(processes: Processes | None) -> Iterator[None]:
    """Train with other processes, and let them go in the end.

    Raises:
        SystemExit: another process ended.
    """
    if processes is None:
        yield
        return
    from models.train.handing import dismiss
    from models.train.processes import ProcessLostError

    try:
        yield
        dismiss(processes)
    except ProcessLostError as problem:
        note(str(problem))
        raise SystemExit(LOST_EXIT) from None
    processes.leave()


def _assist(processes: Processes) -> None:
    """Compute a share of what process 0 trains, until it is done."""
    from models.train.joint import assist
    from models.train.processes import ProcessLostError

    try:
        assist(processes)
    except ProcessLostError:  # whoever is the cause says why
        raise SystemExit(LOST_EXIT) from None
    processes.leave()


def launch(count: int, arguments: Sequence[str]) -> None:
    """Run `pelton` with some arguments in several processes of this machine, and wait for them.

    Raises:
        TrainingError: a process was killed, or failed without a word of its own; the others were stopped.
        SystemExit: process 0 ended with an error, and said why.
    """
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ.update({"PYTHONPATH": path, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")})
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # of gloo, whose connections break when a process ends
    logging.disable(logging.ERROR)  # of the launcher: what it has to say is said below
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # they are all here
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=count, run_id=uuid.uuid4().hex, max_restarts=0,
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", local_addr="localhost",
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-P", "-m", "ops.cli", *arguments)
    except SignalException as stopped:
        raise SystemExit(128 + int(stopped.sigval)) from None
    except ChildFailedError as failed:
        exits = {rank: failure.exitcode for rank, failure in failed.failures.items()}
        told = first_to_end(exits, count)
        if told is None:
            raise SystemExit(1) from None
        raise TrainingError(told) from None


def first_to_end(exits: Mapping[int, int], count: int) -> str | None:
    """Say which process of `count` ended the others, by the exit codes of those that failed; None: process 0 said why.

    >>> first_to_end({0: 75, 1: -9}, 2)
    'process 1 of 2 (counted from 0) was killed by SIGKILL, and the others were stopped; the same command with --resume
    goes on from the last checkpoint'
    >>> first_to_end({0: 1, 1: 75}, 2)
    """
    causes = {rank: code for rank, code in exits.items() if code not in (LOST_EXIT, -signal.SIGTERM)} or dict(exits)
    rank, code = min(causes.items(), key=lambda each: (each[1] > 0, each[0]))  # a signal before what it led to
    if rank == 0 and code == 1:
        return None
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return (
        f"process {rank} of {count} (counted from 0) {how}, and the others were stopped; the same command with "
        "--resume goes on from the last checkpoint"
    )

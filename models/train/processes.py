"""Processes that train one network together: what they say to each other.

Process 0 leads: it reads history, validates, writes and exports; the others compute their share of each step. All call
the same methods in the same order. On the CPU they talk by gloo, between GPUs by NCCL. Numbers travel as tensors and
all else as JSON: nothing that comes from another process is ever executed.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from models.train.task_data import Share

STEP_WAIT_MAX = timedelta(minutes=30)  # for the others within a step
LEADER_WAIT_MAX = timedelta(days=30)  # for process 0, that replays history, validates or exports meanwhile
CHUNK_BYTES = 1 << 26
_GONE = ("closed by peer", "reset by peer", "timed out", "broken pipe", "gloo", "nccl", "remote process", "socket")


class ProcessLostError(ValueError):
    """Another process of the training ended, or cannot be reached."""


@dataclass(frozen=True)
class Place:
    """Where a process stands.

    Attributes:
        rank: its number, from 0.
        count: how many processes there are.
        local: its number on its machine; also that of its GPU.
        local_count: how many there are on its machine.
    """

    rank: int = 0
    count: int = 1
    local: int = 0
    local_count: int = 1


class Processes:
    """The processes of one training, seen from one of them. A single one talks to nobody."""

    def __init__(self, place: Place | None = None, waiting: dist.ProcessGroup | None = None) -> None:
        self.place, self._waiting = place or Place(), waiting
        self.several = waiting is not None

    @classmethod
    def join(cls, place: Place) -> Processes:
        """Meet the others where MASTER_ADDR and MASTER_PORT say; torch's launcher sets both.

        Raises:
            ProcessLostError: they do not come.
            ValueError: there are more processes than GPUs on this machine.
        """
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if 0 < gpus < place.local_count:
            raise ValueError(
                f"there are {place.local_count} processes and {gpus} GPU{'' if gpus == 1 else 's'} on this machine; "
                f"start {gpus}, or set CUDA_VISIBLE_DEVICES='' to train on the CPU"
            )
        if gpus:
            torch.cuda.set_device(place.local)
        with lost_as_such():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if gpus else "gloo", rank=place.rank, world_size=place.count,
                timeout=STEP_WAIT_MAX, device_id=torch.device("cuda", place.local) if gpus else None,
            )  # fmt: skip
            return cls(place, dist.new_group(backend="gloo", timeout=LEADER_WAIT_MAX))

    @property
    def leads(self) -> bool:
        """Whether this is process 0."""
        return self.place.rank == 0

    @property
    def share(self) -> Share:
        """Which part of each batch is this process's."""
        return Share(self.place.rank, self.place.count)

    def device(self, asked: str) -> torch.device:
        """Return where this process computes: "auto", "cpu" or "cuda" was asked for.

        Raises:
            ValueError: a GPU was asked for where none is.
        """
        if asked == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is 'cuda', and torch finds no GPU here; use device 'auto' or 'cpu'")
        if asked == "cpu" or not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", self.place.local) if self.several else torch.device("cuda")

    def sum(self, array: Tensor) -> Tensor:
        """Add the arrays of all processes up, in place."""
        if self.several:
            dist.all_reduce(array)
        return array

    def agreed(self, told: Any = None) -> Any:
        """Return what process 0 gives, anything JSON can hold, to all; the others wait for it."""
        if not self.several:
            return told
        written = json.dumps(told).encode() if self.leads else b""
        size = torch.tensor([len(written)])
        dist.broadcast(size, 0, self._waiting)
        content = np.frombuffer(written, np.uint8).copy() if self.leads else np.empty(int(size), np.uint8)
        self._broadcast(content)
        return told if self.leads else json.loads(content.tobytes())

    def agreed_arrays(self, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the arrays that process 0 gives to all."""
        if not self.several:
            return dict(arrays)
        mine = {name: array.detach().cpu().contiguous() for name, array in arrays.items()}
        told = self.agreed({name: [list(each.shape), str(each.dtype)] for name, each in mine.items()})
        found: dict[str, Tensor] = {}
        for name, (shape, kind) in told.items():
            array = mine[name] if self.leads else torch.empty(shape, dtype=getattr(torch, kind.removeprefix("torch.")))
            self._broadcast(array.flatten().view(torch.uint8).numpy() if array.numel() else np.empty(0, np.uint8))
            found[name] = array
        return found

    def mapped(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the arrays that process 0 has to all, mapped from files: what is not looked at is not read.

        Each machine gets them once, into files that have no name any more once they are mapped.
        """
        if not self.several:
            return dict(arrays)
        told = self.agreed({name: [list(each.shape), str(each.dtype)] for name, each in arrays.items()})
        first_here = self.place.local == 0
        folder = Path(tempfile.mkdtemp(prefix="pelton-")) if first_here else Path()
        try:
            machines = self._machines()
            for number, (name, (shape, kind)) in enumerate(told.items()):
                path = folder / f"{number}.npy"
                if self.leads:
                    self._send(np.ascontiguousarray(arrays[name]), machines, path)
                elif first_here:
                    self._receive(np.lib.format.open_memmap(path, "w+", np.dtype(kind), tuple(shape)))
            folder = self._folder_of_machine(folder)
            paths = {name: folder / f"{number}.npy" for number, name in enumerate(told)}
            found = {
                name: np.load(path, mmap_mode="r") if told[name][0] and 0 not in told[name][0] else np.load(path)
                for name, path in paths.items() if not self.leads
            }  # fmt: skip
            dist.barrier(self._waiting)
        finally:
            if first_here:
                shutil.rmtree(folder, ignore_errors=True)
        return dict(arrays) if self.leads else found

    def same(self, digest: str, what: str) -> None:
        """Check that all processes have the same of something, by its hash.

        Raises:
            ValueError: they have not.
        """
        if not self.several:
            return
        mine = torch.frombuffer(bytearray(bytes.fromhex(digest)[:32]), dtype=torch.uint8)
        others = [torch.empty_like(mine) for _ in range(self.place.count)]
        dist.all_gather(others, mine, self._waiting)
        unlike = [rank for rank, its in enumerate(others) if not torch.equal(its, others[0])]
        if unlike:
            raise ValueError(
                f"process {unlike[0]} has other {what} than process 0; train on machines of one kind, with the same "
                "version of torch"
            )

    def leave(self) -> None:
        """End what was begun by `join`."""
        if self.several:
            dist.destroy_process_group()

    def _broadcast(self, content: NDArray[np.uint8]) -> None:
        for first in range(0, len(content), CHUNK_BYTES):
            dist.broadcast(torch.from_numpy(content[first : first + CHUNK_BYTES]), 0, self._waiting)

    def _machines(self) -> list[int]:
        """Return the first process of each machine."""
        mine = torch.tensor([self.place.local])
        locals_ = [torch.empty_like(mine) for _ in range(self.place.count)]
        dist.all_gather(locals_, mine, self._waiting)
        return [rank for rank, local in enumerate(locals_) if int(local) == 0]

    def _send(self, array: NDArray[Any], machines: list[int], path: Path) -> None:
        if self.place.local_count > 1:
            np.save(path, array)
        content = torch.from_numpy(array.reshape(-1).view(np.uint8).copy() if array.size else np.empty(0, np.uint8))
        for machine in machines[1:]:
            for first in range(0, len(content), CHUNK_BYTES):
                dist.send(content[first : first + CHUNK_BYTES], machine, self._waiting)

    def _receive(self, into: Any) -> None:
        content = into.reshape(-1).view(np.uint8)
        for first in range(0, len(content), CHUNK_BYTES):
            part = torch.empty(min(CHUNK_BYTES, len(content) - first), dtype=torch.uint8)
            dist.recv(part, 0, self._waiting)
            content[first : first + len(part)] = part.numpy()
        into.flush()

    def _folder_of_machine(self, folder: Path) -> Path:
        """Return the folder of the first process of this machine to all on it."""
        room = torch.zeros(4096, dtype=torch.uint8)
        first, end = self.place.rank - self.place.local, self.place.rank - self.place.local + self.place.local_count
        if self.place.local:
            dist.recv(room, first, self._waiting)
            return Path(os.fsdecode(room.numpy().tobytes().rstrip(b"\0")))
        named = np.frombuffer(os.fsencode(folder), np.uint8)
        room[: len(named)] = torch.from_numpy(named.copy())
        for other in range(first + 1, end):
            dist.send(room, other, self._waiting)
        return folder


@contextmanager
def lost_as_such() -> Iterator[None]:
    """Tell an error that means that another process is gone as that.

    Raises:
        ProcessLostError: instead of such an error.
    """
    try:
        yield
    except RuntimeError as problem:
        if any(mark in str(problem).lower() for mark in _GONE):
            raise ProcessLostError(
                "another process of this training ended or cannot be reached; its own message says why"
            ) from problem
        raise

"""Checkpoints in a folder: arrays cut into pieces that are known by their hash, and only new pieces are written.

    checkpoint/manifest.json    a hash of the rest; notes; for each array its type, shape and pieces; for each piece
                                where it stands
    checkpoint/000007.pieces    the pieces that were new at the seventh save, one after another

An embedding that no event touched, an expert that nobody visited, weights that are kept as the best so far: all are
written once. The manifest is replaced in one step after its pieces are on the disk, so a crash leaves the checkpoint of
before. The manifest and every piece are verified on load. Nothing in it runs on load.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PIECE_BYTES = 1 << 17
LIVE_SHARE_MIN = 0.2  # of a file of pieces: with less, what is still needed of it is written again and the file deleted
MANIFEST = "manifest.json"
_TYPES = {str(kind).removeprefix("torch."): kind for kind in (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
)}  # fmt: skip


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or belongs to another run."""


def save(folder: Path, arrays: dict[str, Tensor], notes: dict[str, Any]) -> int:
    """Write what changed of arrays, and notes (anything JSON can hold); return how many bytes of arrays that was."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = _worth_keeping(folder)
    described, contents = {}, {}
    for name, array in arrays.items():
        whole = array.detach().cpu().contiguous().flatten()
        data = memoryview(whole.view(torch.uint8).numpy())
        pieces = []
        for first in range(0, len(data), PIECE_BYTES):
            piece = data[first : first + PIECE_BYTES]
            pieces.append(hashlib.sha256(piece).hexdigest())
            contents[pieces[-1]] = piece
        described[name] = {"type": str(array.dtype).removeprefix("torch."), "shape": list(array.shape), "of": pieces}
    files = [int(path.stem) for path in folder.glob("*.pieces")]
    fresh = f"{max(files, default=0) + 1:06d}.pieces"
    places, written = {}, 0
    with (folder / fresh).open("wb") as file:
        for name, piece in contents.items():
            if name in kept:
                places[name] = kept[name]
            else:
                places[name] = [fresh, file.tell(), len(piece)]
                written += file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    _replace(folder, {"format": 1, "notes": notes, "arrays": described, "pieces": places})
    needed = {place[0] for place in places.values()}
    for path in folder.glob("*.pieces"):
        if path.name not in needed:
            path.unlink()
    return written


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save` wrote, and verify it.

    Raises:
        CheckpointError: no such folder, it is not a checkpoint, or manifest or a piece are not what was written.
    """
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(f"there is no checkpoint at {folder}; train from the start, without resuming")
    try:
        told = _manifest(folder)
        files = {name: (folder / name).read_bytes() for name in {place[0] for place in told["pieces"].values()}}
        pieces = {name: files[file][at : at + size] for name, (file, at, size) in told["pieces"].items()}
        for name, piece in pieces.items():
            if hashlib.sha256(piece).hexdigest() != name:
                raise _torn(folder, told["pieces"][name][0])
        arrays = {}
        for name, array in told["arrays"].items():
            data = bytearray(b"".join(pieces[piece] for piece in array["of"]))
            kind = _TYPES[array["type"]]
            flat = torch.frombuffer(data, dtype=kind) if data else torch.empty(0, dtype=kind)
            arrays[name] = flat.reshape(array["shape"])
    except CheckpointError:
        raise
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as problem:
        raise CheckpointError(f"{folder} is not a checkpoint ({problem}); delete it and train from the start") from None
    return arrays, told["notes"]


def _worth_keeping(folder: Path) -> dict[str, list]:
    """Return the places of pieces that the folder has, in files of which enough is still needed."""
    try:
        places: dict[str, list] = _manifest(folder)["pieces"]
    except (OSError, KeyError, TypeError, ValueError):
        return {}
    needed: dict[str, int] = {}
    for file, _, size in places.values():
        needed[file] = needed.get(file, 0) + size
    whole = {path.name: path.stat().st_size for path in folder.glob("*.pieces")}
    good = {file for file, size in needed.items() if size >= LIVE_SHARE_MIN * whole.get(file, float("inf"))}
    return {name: place for name, place in places.items() if place[0] in good}


def _manifest(folder: Path) -> Any:
    """Read the manifest: a line with the hash of the rest, and the rest."""
    digest, told = (folder / MANIFEST).read_bytes().split(b"\n", 1)
    if hashlib.sha256(told).hexdigest().encode() != digest:
        raise _torn(folder, MANIFEST)
    return json.loads(told)


def _torn(folder: Path, name: str) -> CheckpointError:
    return CheckpointError(f"{folder / name} was changed or torn; delete {folder} and train from the start")


def _replace(folder: Path, told: dict[str, Any]) -> None:
    fresh = folder / "manifest.new"
    written = json.dumps(told).encode()
    with fresh.open("wb") as file:
        file.write(hashlib.sha256(written).hexdigest().encode() + b"\n" + written)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, folder / MANIFEST)


def optimizer_arrays(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Name the optimizer's arrays by parameter, so that they do not depend on the order of groups."""
    return {
        f"optimizer.{name}.{key}": value
        for name, parameter in network.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(network: nn.Module, optimizer: torch.optim.Optimizer, arrays: dict[str, Tensor]) -> None:
    """Put back what `optimizer_arrays` named; the step counter stays on the CPU, as AdamW wants it."""
    for name, parameter in network.named_parameters():
        prefix = f"optimizer.{name}."
        for key, value in arrays.items():
            if key.startswith(prefix) and "." not in key.removeprefix(prefix):
                field = key.removeprefix(prefix)
                optimizer.state[parameter][field] = value if field == "step" else value.to(parameter.device)


def part(arrays: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take the arrays whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

"""Checkpoints: one safetensors file (arrays and JSON, nothing that runs on load), replaced in one step."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or belongs to another run."""


def save(path: Path, arrays: dict[str, Tensor], notes: dict[str, Any]) -> None:
    """Write arrays and notes (anything JSON can hold); a crash leaves the old file or the new one, never half."""
    fresh = path.with_suffix(".new")
    whole = {name: array.detach().cpu().contiguous().clone() for name, array in arrays.items()}
    save_file(whole, str(fresh), metadata={"notes": json.dumps(notes)})
    with fresh.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(fresh, path)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save` wrote.

    Raises:
        CheckpointError: no such file, or it is not a checkpoint.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}; train from the start, without resuming")
    try:
        with safe_open(str(path), framework="pt") as file:
            notes = json.loads(file.metadata()["notes"])
            return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118 (not a dict)
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as problem:
        raise CheckpointError(f"{path} is not a checkpoint ({problem}); delete it and train from the start") from None


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

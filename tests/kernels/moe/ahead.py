"""Compile the kernels for GPUs that are not here, and say what the machine code takes. Never with TRITON_INTERPRET.

Usage: python -m tests.kernels.moe.ahead [sm_80] [sm_90] [WORD ...]: kernels with a word in their name, JSON at the end.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed (the extra `train` brings it on Linux)")

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.moe import alignment, products, router, small
from kernels.moe.launching import OPTIONS, precision, product_tiles, route_tiles

D, E, K, F, G = 128, 16, 2, 128, 128  # the shipped network's: width, experts, chosen, hidden numbers of both kinds
TARGETS = {80: 163, 90: 227}  # compute capability: KiB of shared memory that a program may have (A100, H100)
TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
COUNTED = {  # instructions in the machine code
    "spills": r"\b(?:STL|LDL)\b",
    "wgmma": r"\b[HQ]GMMA\b",
    "mma": r"\bHMMA\b",
    "cp_async": r"\bLDGSTS\b",
    "wide": r"\bLDG(?:STS)?\.[\w.]*128\b",  # loads of 128 bits
}
BIN = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Build:
    """A kernel with everything known when it is compiled; `types` are of the arguments that are not constants."""

    name: str
    kernel: object
    types: dict[str, str]
    constants: dict[str, object]


def builds() -> Iterator[Build]:
    """Every kernel, at the shapes of the shipped network; products once with tiles of 64 rows, once of 16."""
    for name, dtype in TYPES.items():
        yield _route(name)
        for visits in (100_000, 100):
            tiles = product_tiles(visits, E, D, F, dtype)
            yield from _products(name, dtype, tiles)
        yield from _small(name)
    padded = {"E": E, "E_PADDED": E}
    yield Build("plan", alignment.plan_kernel, _types("*i32", "counts bases expert first size", i32="parts blocks"),
                {**padded, "ROWS": 64, "PARTS": alignment._PARTS, "BLOCKS": alignment._BLOCKS})  # fmt: skip
    yield Build("count", alignment.count_kernel, _types("*i32", "ids counts", i32="n"),
                {**padded, "K": K, "ROWS": route_tiles(E).rows})  # fmt: skip
    yield Build("order", alignment.order_kernel, _types("*i32", "ids bases order", i32="n"),
                {**padded, "K": K, "ROWS": route_tiles(E).rows})  # fmt: skip


def _types(first: str, names: str, **others: str) -> dict[str, str]:
    return {name: kind for kind, all_names in {first: names, **others}.items() for name in all_names.split()}


def _route(name: str) -> Build:
    tiles = route_tiles(E)
    types = {"rows": f"*{name}", **_types("*fp32", "weight bias weights"), **_types("*i8", "allowed present")}
    types |= _types("*i32", "ids counts flags", i32="n allowed_stride")
    sizes = {"ROWS": tiles.rows, "COLUMNS": tiles.columns, "DEPTH": tiles.depth}
    return Build(f"route {name}", router.route_kernel, types, {"D": D, "E": E, "K": K, "K_PADDED": K, **sizes})


def _products(name: str, dtype: torch.dtype, tiles) -> Iterator[Build]:
    sizes = {"ROWS": tiles.rows, "COLUMNS": tiles.columns, "DEPTH": tiles.depth}
    dots = {"D": D, "PRECISION": precision(dtype), "WIDEN": False, **sizes}
    title = f"{name} {tiles.rows}x{tiles.columns}x{tiles.depth}"
    x, mapped = f"*{name}", _types("*i32", "order expert first size")
    whole = _types(x, "rows up hidden", i32="n")
    yield Build(f"up {title}", products.up_kernel, whole | mapped, {**dots, "F": F, "K": K, "DENSE": False})
    dense = {"F": G, "K": 1, "DENSE": True, **dict.fromkeys(mapped)}
    yield Build(f"shared up {title}", products.up_kernel, whole, dots | dense)
    types = {**_types(x, "hidden down"), **_types("*fp32", "weights answers"), **mapped}
    yield Build(f"down {title}", products.down_kernel, types, {**dots, "F": F})
    types = {**_types(x, "hidden down out", i32="n"), **_types("*fp32", "answers weights")}
    yield Build(f"combine {title}", products.combine_kernel, types, {**dots, "G": G, "K": K})


def _small(name: str) -> Iterator[Build]:
    constants = {"D": D, "F": F, "G": G, "E": E, "K": K, "COLUMNS": small._COLUMNS, "DEPTH": small._DEPTH}
    x, ids = f"*{name}", {"ids": "*i32"}
    types = {**_types(x, "rows up shared_up"), **ids, "hidden": "*fp32"}
    yield Build(f"small up {name}", small.small_up_kernel, types, constants)
    types = {**_types(x, "down shared_down out"), **ids, **_types("*fp32", "hidden weights")}
    yield Build(f"small down {name}", small.small_down_kernel, types, constants)


def compiled(build: Build, capability: int) -> dict[str, object]:
    """Compile for a target, and count what matters in the machine code."""
    names = build.kernel.arg_names
    signature = {name: build.types.get(name, "constexpr") for name in names}
    # without these hints there is no asynchronous copy and no 128-bit load, and nothing warns
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")}
    source = ASTSource(fn=build.kernel, signature=signature, constexprs=build.constants, attrs=aligned)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(OPTIONS))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        # of the machine code that is launched: ptxas run again without Triton's own options gives other registers
        used = _told(BIN / "cuobjdump", "--dump-resource-usage", file.name)
        sass = _told(BIN / "nvdisasm", "-c", file.name)
    counts = {name: len(re.findall(pattern, sass)) for name, pattern in COUNTED.items()}
    return {"kernel": build.name, "sm": capability, "registers": int(re.search(r"REG:(\d+)", used)[1]),
            "shared_kib": round(made.metadata.shared / 1024, 1), **counts}  # fmt: skip


def _told(*command: object) -> str:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=True).stdout


def table(words: Sequence[str] = (), targets: Iterable[int] = tuple(TARGETS)) -> Iterator[dict[str, object]]:
    """Compile the kernels that have one of the words in their name, all if there are none, for each target."""
    for build in builds():
        if not words or any(word in build.name for word in words):
            yield from (compiled(build, capability) for capability in targets)


def main() -> None:
    """Print a line for each kernel and target, and all of them as JSON."""
    targets = [int(word[3:]) for word in sys.argv[1:] if word.startswith("sm_")]
    words = [word for word in sys.argv[1:] if not word.startswith("sm_")]
    rows = []
    for row in table(words, targets or TARGETS):
        rows.append(row)
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()

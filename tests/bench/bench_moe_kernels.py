"""What do the Triton kernels of the sparse layer take on each GPU, how exact are they, and what are they beside others?

Exactness: each kernel against its twin in plain torch, in Triton's interpreter. Registers, shared memory and spills:
from the machine code, compiled here for GPUs that need not be here. With a GPU at hand: microseconds of a layer beside
torch's grouped product and, if it is installed, vLLM's kernel, all as CUDA graphs, at the shipped network's shapes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

from tests.bench.measuring import parser

ROOT = Path(__file__).parents[2]
COLUMNS = ("sm", "registers", "shared_kib", "spills", "wgmma", "mma", "cp_async")


def told(module: str, *arguments: str, interpret: bool = False):
    """Run a module of the tests by itself (Triton decides at import whether it interprets) and read its last line."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", "-m", f"tests.kernels.moe.{module}", *arguments]
    environment = kept | ({"TRITON_INTERPRET": "1"} if interpret else {})
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def error_of(kernel: str, errors: dict[str, float]) -> float | None:
    """Find the error of a compiled kernel: 'up bf16 64x64x64' is 'up bf16', 'small down fp16' is 'small fp16'."""
    words = [word for word in kernel.split() if "x" not in word]
    kind = words.pop() if words[-1] in ("fp16", "bf16", "fp32") else "fp32"
    name = "small" if words[0] == "small" else " ".join(words)
    return errors.get(f"{name} {kind}")


def main() -> None:
    """Print the table of kernels, the times if there is a GPU, and all of it as JSON."""
    quick = parser(__doc__).parse_args().quick  # compiles for bf16 alone
    if importlib.util.find_spec("triton") is None:
        print("Triton is not installed (the extra `train` brings it on Linux): nothing to measure")
        print(json.dumps({"kernels": [], "times": None}))
        return
    errors = told("errors", interpret=True)
    rows = told("ahead", *(["bf16", "plan", "count", "order"] if quick else []))
    print(f"{'kernel':24} {'error':>8} " + " ".join(f"{name:>10}" for name in COLUMNS))
    for row in rows:
        row["error"] = error_of(row["kernel"], errors)
        error = "GPU only" if row["error"] is None else f"{row['error']:.0e}"
        print(f"{row['kernel']:24} {error:>8} " + " ".join(f"{row[name]:>10}" for name in COLUMNS))
    print("whole layer: " + ", ".join(f"{name[12:]} {value:.0e}" for name, value in errors.items() if "whole" in name))
    import torch  # heavy

    times = told("timing", *(["--quick"] if quick else [])) if torch.cuda.is_available() else None
    print(f"times: {times['gpu']}" if times else "times: no CUDA device here")
    for row in times["layer"] if times else []:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    print(json.dumps({"kernels": rows, "errors": errors, "times": times}))


if __name__ == "__main__":
    main()

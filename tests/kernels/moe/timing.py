"""Time the sparse layer on a GPU beside others, every side as a captured CUDA graph, in turns. For the benchmark.

Beside each time stands how far the answers are off the twin's: nobody has run the call of vLLM's kernel so far, and its
time is worth something only if its answers are right.
Usage: python -m tests.kernels.moe.timing [--quick]; the last line is JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from tests.kernels.moe.cases import close, layer, unit_rows
from tests.kernels.moe.others import torch_grouped, vllm_fused

from kernels.moe import flags_for  # isort: skip: as above

ROWS = (1, 4, 16, 128, 1024, 16384)
REPLAYS, ROUNDS = 20, 15


def sides(dtype: torch.dtype) -> tuple[dict[str, Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]]:
    """Return what is timed, by name, and what all have to agree with; the shapes are the shipped network's."""
    case = layer(128, 16, 128, 128, 2, dtype)
    flags = flags_for(case.router.device)
    found = {"pelton": lambda rows: case.answer(rows, flags=flags), "torch grouped_mm": torch_grouped(case)}
    if vllm := vllm_fused(case):
        found["vllm (call never tried)"] = vllm
    return found, case.expected


def captured(answer: Callable[[Tensor], Tensor], rows: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """Capture one call, after one that compiled it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            answer(rows)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = answer(rows)
    return graph, found


def microseconds(graph: torch.cuda.CUDAGraph) -> float:
    """Time one replay, as the mean of some in a row."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(REPLAYS):
        graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1000 / REPLAYS


def main() -> None:
    """Print a line for each number of rows and type, and all of them as JSON."""
    found = []
    for dtype in (torch.bfloat16,) if "--quick" in sys.argv else (torch.bfloat16, torch.float16):
        for n in ROWS:
            rows = unit_rows(n, 128, dtype)
            answers, expected = sides(dtype)
            graphs, off = {}, {}
            for name, answer in answers.items():
                graphs[name], said = captured(answer, rows)
                graphs[name].replay()
                off[f"{name} off"] = (said - expected(rows)).abs().max().item()
                if name == "pelton":  # others round in other places
                    close(said, expected(rows), dtype)
            times = {name: [] for name in graphs}
            for _ in range(ROUNDS):
                for name, graph in graphs.items():
                    times[name].append(microseconds(graph))
            best = {f"{name} us": round(statistics.median(each), 1) for name, each in times.items()}
            found.append({"rows": n, "type": str(dtype).removeprefix("torch."), **best, **off})
            print("  ".join(f"{name} {value}" for name, value in found[-1].items()), flush=True)
    print(json.dumps({"gpu": torch.cuda.get_device_name(), "layer": found}))


if __name__ == "__main__":
    main()

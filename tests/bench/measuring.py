"""What benchmarks share: whole processes on two cores, timed in turns, and the machine they ran on."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CORES = 2
REPOSITORY = Path(__file__).parents[2]
APP = Path(__file__).with_name("card_features.py")
PELTON = [sys.executable, "-c", "from ops.cli import main; main()"]

# A small process between: Linux counts what whoever starts a process holds at that moment as the process's own peak.
LAUNCHER = """
import json, os, subprocess, sys, time
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
before = time.perf_counter()
with open(sys.argv[2], "wb") as said:
    process = subprocess.Popen(sys.argv[3:], stdout=said, stderr=subprocess.STDOUT)
_, status, used = os.wait4(process.pid, 0)
process.returncode = 0
print(json.dumps([status, time.perf_counter() - before, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""


def parser(about: str | None) -> argparse.ArgumentParser:
    """Return what every benchmark understands: `--help`, with its docstring, and `--quick`."""
    found = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--quick", action="store_true", help="small sizes: seconds instead of minutes")
    return found


@dataclass(frozen=True)
class Run:
    """One process: seconds from start to end, seconds of processor time, and the most memory it held."""

    wall_s: float
    cpu_s: float
    mb: float
    output: str


def run(command: Sequence[str], cores: int = CORES) -> Run:
    """Run a command to its end on so many cores; a failure shows what it printed."""
    with tempfile.NamedTemporaryFile() as said:
        launched = subprocess.run(
            [sys.executable, "-c", LAUNCHER, str(cores), said.name, *command], stdout=subprocess.PIPE, check=True,
            cwd=REPOSITORY, env=os.environ | {"POLARS_MAX_THREADS": str(cores)},
        )  # fmt: skip
        output = Path(said.name).read_text(encoding="utf-8", errors="replace")
    status, wall_s, cpu_s, kb = json.loads(launched.stdout)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}:\n{output}")
    return Run(wall_s, cpu_s, kb / 1024, output)


def in_turns(commands: dict[str, Sequence[str]], rounds: int) -> dict[str, Run]:
    """Run commands one after the other, again and again, and return the best of each by wall time."""
    best: dict[str, Run] = {}
    for _ in range(rounds):
        for name, command in commands.items():
            now = run(command)
            if name not in best or now.wall_s < best[name].wall_s:
                best[name] = now
    return best


def machine() -> dict[str, Any]:
    """Say what this ran on, and how busy it was."""
    return {
        "cores": len(os.sched_getaffinity(0)), "load": round(os.getloadavg()[0], 1), "cpu": _processor(),
        "python": platform.python_version(),
    }  # fmt: skip


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def workload(events: int, cards: int = 10_000) -> Path:
    """Return the file of the workload "card features", made once."""
    from ops.simulate.workload import card_features_stream

    path = Path(tempfile.gettempdir()) / f"pelton-card-features-{events}-{cards}.jsonl"
    if not path.exists():
        card_features_stream(path, events, cards)
    return path

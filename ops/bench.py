"""The work of `pelton bench`: the benchmarks of the repository, one process each, gathered in a last line of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.errors import nearest

FOLDER = Path(__file__).parents[1] / "tests" / "bench"


class BenchError(ValueError):
    """A benchmark cannot be run; the message says why."""


def known(folder: Path = FOLDER) -> dict[str, Path]:
    """Return the benchmarks there are, by name."""
    return {path.stem.removeprefix("bench_"): path for path in sorted(folder.glob("bench_*.py"))}


def bench(
    names: Sequence[str], quick: bool = False, folder: Path = FOLDER, say: Callable[[str], None] = print
) -> dict[str, object]:
    """Run benchmarks, say each line as it comes, and in the end the last lines of all as one object.

    Args:
        names: which; all, if none.
        quick: pass --quick on, for small sizes.
        folder: where they are: tests/bench of a checkout.
        say: takes a line.

    Raises:
        BenchError: there is none of that name, none at all, or one failed.
    """
    found = known(folder)
    if not found:
        raise BenchError(f"there are no benchmarks in {folder}; run them in a checkout of the repository")
    for name in names:
        if name not in found:
            raise BenchError(f"there is no benchmark {name!r}; {nearest(name, found)}")
    results: dict[str, object] = {}
    for name in names or found:
        say(f"# {name}: {_question(found[name])}")
        results[name] = _run(found[name], quick, say)
    say(json.dumps(results))
    return results


def _question(path: Path) -> str:
    """Return the first line of a benchmark's docstring."""
    return path.read_text(encoding="utf-8").split('"""', 2)[1].strip().splitlines()[0]


def _run(path: Path, quick: bool, say: Callable[[str], None]) -> object:
    command = [sys.executable, "-m", f"tests.bench.{path.stem}", *(["--quick"] if quick else [])]
    last = ""
    with subprocess.Popen(command, cwd=path.parents[2], stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        assert process.stdout is not None
        for line in process.stdout:
            last = line.strip() or last
            say(line.rstrip("\n"))
    if process.returncode:
        raise BenchError(f"benchmark {path.name} failed; its last line was: {last or 'none'}")
    try:
        return json.loads(last)
    except ValueError:
        raise BenchError(f"benchmark {path.name} did not end with a line of JSON, but with: {last or 'none'}") from None

"""What tests fetch from outside: once for all processes, kept beside the repository's other caches."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pelton"


def fetched(folder: Path, fetch: Callable[[Path], None]) -> Path:
    """Return a folder; if it is not there, `fetch` fills another one that takes its name once it is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several workers of pytest ask at once
        if not folder.is_dir():
            part = folder.with_name(f"{folder.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            fetch(part)
            part.rename(folder)
    return folder


def maven(what: str, *arguments: str, timeout_s: float = 900) -> None:
    """Run Maven; RuntimeError says why it could not bring `what`."""
    done = subprocess.run(["mvn", "-q", "-B", *arguments], cwd=CACHE, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode:
        raise RuntimeError(f"Maven cannot fetch {what}: {(done.stdout + done.stderr)[-1000:]}")

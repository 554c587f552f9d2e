"""Where the jars of the test broker are: fetched once by Maven, kept outside the repository."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

VERSION = "4.3.1"  # as in pom.xml
MISSING = "Kafka needs Java 17 and Maven here; bring them with: apt-get install -y openjdk-17-jre-headless maven"
# Read when this is imported: a fixture of conftest.py hides the settings of the developer from every test.
GIVEN = os.environ.get("PELTON_TEST_KAFKA")
NEEDED = os.environ.get("PELTON_TEST_NEEDS_KAFKA", "") not in ("", "0")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pelton"


def missing() -> str | None:
    """Say in a line what is missing to run a broker; None if nothing is."""
    if shutil.which("java") is None or (not _folder().is_dir() and shutil.which("mvn") is None):
        return MISSING
    return None


def class_path() -> str:
    """Return the class path of Kafka; fetch the 46 jars, 44 MB, if this is the first time."""
    folder = _folder()
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several workers of pytest ask at once
        if not folder.is_dir():
            part = folder.with_name(f"{folder.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            command = ["mvn", "-q", "-B", "-f", str(Path(__file__).parent / "pom.xml"), "dependency:copy-dependencies"]
            arguments = ["-DincludeScope=runtime", f"-DoutputDirectory={part}"]
            done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=600)
            if done.returncode:
                raise RuntimeError(f"Maven cannot fetch Kafka {VERSION}: {(done.stdout + done.stderr)[-1000:]}")
            part.rename(folder)
    return f"{folder}/*"


def _folder() -> Path:
    return CACHE / f"kafka-{VERSION}"

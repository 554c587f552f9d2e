"""A real schema registry for tests: Apicurio, one process on free ports, fetched once by Maven outside the repository.

By hand: python -m tests.registry_server   prints the address of Confluent's API and runs until Ctrl-C.
"""

import atexit
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
import urllib.request
from functools import cache
from pathlib import Path

from tests.fetched import CACHE, fetched, maven

VERSION = "3.3.3"
START_S_MAX = 90.0
MISSING = (
    "a schema registry needs Java 21 and Maven here; bring them with: apt-get install -y openjdk-21-jre-headless maven"
)
# Read when this is imported: a fixture of conftest.py hides the settings of the developer from every test.
GIVEN = os.environ.get("PELTON_TEST_REGISTRY")
_ARTIFACT = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"
_JAVA_MIN = 21


def missing() -> str | None:
    """Say in a line what is missing to run a registry; None if nothing is."""
    return None if _java() and (_folder().is_dir() or shutil.which("mvn")) else MISSING


@cache
def address() -> str:
    """Start a registry that ends with this process, and return the URL of its API."""
    java = _java()
    assert java is not None, MISSING
    port, management = _free_ports(2)
    options = [f"-Dquarkus.http.port={port}", f"-Dquarkus.management.port={management}"]
    options += ["-Dquarkus.http.host=127.0.0.1", "-Dquarkus.management.host=127.0.0.1"]
    folder = tempfile.TemporaryDirectory(prefix="pelton-registry-")
    atexit.register(folder.cleanup)
    log = Path(folder.name) / "out"
    with log.open("wb") as out:
        command = [java, "-Xmx512m", "-XX:TieredStopAtLevel=1", *options, "-jar", str(fetch() / "quarkus-run.jar")]
        process = subprocess.Popen(command, cwd=folder.name, stdout=out, stderr=out, start_new_session=True)
    # A process that outlives this one and kills the registry when this one is gone, however it ended.
    guard = ["sh", "-c", f"read _; kill -9 {process.pid}"]
    guarding = subprocess.Popen(guard, stdin=subprocess.PIPE, start_new_session=True)
    atexit.register(_end, process, guarding)
    url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
    until_s = time.monotonic() + START_S_MAX
    while not _answers(f"{url}/subjects"):
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(0.1)
            raise RuntimeError(f"the registry ended with {code}: {log.read_text(errors='replace')[-2000:]}")
        if time.monotonic() > until_s:
            raise RuntimeError(f"the registry did not answer within {START_S_MAX:.0f} s")
    return url


def _end(process: subprocess.Popen, guarding: subprocess.Popen) -> None:
    for each in (process, guarding):
        each.kill()
        each.wait()
    guarding.stdin.close()


@cache
def _java() -> str | None:
    """Return the first Java that is new enough: the one in the path, else any that Debian's packages install."""
    for each in filter(None, [shutil.which("java"), *sorted(map(str, Path("/usr/lib/jvm").glob("*/bin/java")))]):
        said = subprocess.run([each, "-version"], capture_output=True, text=True, timeout=60).stderr
        version = re.search(r'version "(\d+)', said)
        if version and int(version.group(1)) >= _JAVA_MIN:
            return each
    return None


def _folder() -> Path:
    return CACHE / f"apicurio-{VERSION}"


def fetch() -> Path:
    """Return the registry's folder; fetch its 158 MB if this is the first time."""
    return fetched(_folder(), _fetch)


def _fetch(folder: Path) -> None:
    maven("Apicurio", "dependency:copy", f"-Dartifact={_ARTIFACT}", f"-DoutputDirectory={folder}")
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        content.extractall(folder, filter="data")
    archive.unlink()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as probes:
        found = [probes.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in found]


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


if __name__ == "__main__":
    print(address(), flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        signal.sigwait({signal.SIGINT, signal.SIGTERM})

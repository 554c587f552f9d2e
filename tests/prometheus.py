"""A real Prometheus for tests, with the configuration that we ship: a process on a free port, thrown away after."""

import contextlib
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).parents[1] / "ops" / "deploy" / "prometheus"
MISSING = "Prometheus is not here; bring it with: apt-get install -y --no-install-recommends prometheus"
LOOK_EVERY_S = 0.2


def missing() -> str | None:
    """Say in a line how to bring it; None if it is here."""
    return MISSING if shutil.which("prometheus") is None else None


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def until(what: Callable[[], Any], seconds: float, why: str | Callable[[], str]) -> Any:
    """Ask again and again until the answer is true; fail with `why` when it takes too long."""
    ends_s, pause = time.monotonic() + seconds, threading.Event()
    while not (answer := what()):
        if time.monotonic() > ends_s:
            raise AssertionError(f"after {seconds:g} s: {why if isinstance(why, str) else why()}")
        pause.wait(LOOK_EVERY_S)
    return answer


def get(url: str) -> str | None:
    """Return what a URL answers; None if nobody does, or with an error's status."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError):
        return None


class Prometheus:
    """Scrapes targets every second."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an expression as of now, each with `metric` and `value`."""
        query = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query?{query}", timeout=10) as answer:
                found = json.loads(answer.read())
        except urllib.error.HTTPError as error:  # the query is wrong: say how
            raise AssertionError(f"{expression}: {error.read().decode()}") from None
        result: list[dict[str, Any]] = found["data"]["result"]
        return result


@contextlib.contextmanager
def running(folder: Path, targets: Sequence[str]) -> Iterator[Prometheus]:
    """Run Prometheus with our files in a folder, with these targets ("host:port") instead of the shipped ones."""
    shutil.copytree(SHIPPED, folder)
    for file in (folder / "targets").iterdir():
        file.unlink()
    (folder / "targets" / "workers.json").write_text(json.dumps([{"targets": list(targets)}]))
    settings = folder / "prometheus.yml"
    text = settings.read_text()
    for was, now in (
        ("interval: 5s", "interval: 1s"),
        ("timeout: 4s", "timeout: 1s"),
        ("targets/*.yml", "targets/*.json"),
    ):
        assert was in text
        text = text.replace(was, now)
    settings.write_text(text)
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = ["prometheus", f"--config.file={settings}", f"--storage.tsdb.path={folder / 'data'}"]
    options = [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, *options], stdout=log, stderr=log)
    try:
        until(lambda: get(f"{url}/-/ready") or process.poll() is not None, 30, "Prometheus does not start")
        assert process.poll() is None, (folder / "log").read_text()
        yield Prometheus(url)
    finally:
        process.kill()
        process.wait()

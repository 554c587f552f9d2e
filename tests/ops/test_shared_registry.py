"""Workers on one registry in PostgreSQL: a promote or rollback reaches all within 2 s, and their metrics show it."""

import contextlib
import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models.bundle import read_bundle, write_bundle
from ops.demo.stage import APP, BUNDLE
from tests import postgres
from tests.prometheus import free_port, get, until

pytestmark = [
    pytest.mark.skipif(
        postgres.binaries() is None or importlib.util.find_spec("psycopg") is None, reason=postgres.MISSING
    ),
    pytest.mark.timeout(240),
]
PELTON = [str(Path(sys.executable).with_name("pelton"))]
SEEN_S_MAX = 2.0


def pelton(environment, *arguments):
    done = subprocess.run([*PELTON, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The environment of two workers that share what `docker compose` mounts for both, and a registry in PostgreSQL."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "data").mkdir()
    with postgres.running() as url:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PELTON_")}
        yield folder, kept | {"PELTON_REGISTRY": url, "PELTON_DATA": str(folder / "data")}


@contextlib.contextmanager
def workers(folder, environment):
    """Two workers with a log of their own each, state and files in one folder; gives the URLs of their metrics."""
    with contextlib.ExitStack() as stack:
        urls = []
        for number in range(2):
            port, own = free_port(), environment | {"PELTON_LOG": str(folder / f"log{number}.db")}
            own |= {"PELTON_METRICS_PORT": str(port)}
            log = stack.enter_context((folder / f"worker{number}.log").open("wb"))
            worker = subprocess.Popen([*PELTON, "run", str(APP), "--plain"], env=own, stdout=log, stderr=log)
            stack.callback(worker.wait)
            stack.callback(worker.kill)
            urls.append(f"http://127.0.0.1:{port}")
        until(lambda: all(get(f"{url}/healthz") for url in urls), 90, "the workers do not answer")
        yield urls


def serving(url):
    """What decides there: bundle and snapshot."""
    found = re.findall(r'^pelton_serving_info\{.*bundle="(\w*)".*snapshot="(\w*)".*\} 1', get(f"{url}/metrics"), re.M)
    return found[0] if found else None


def seconds_until(urls, wanted):
    began_s = time.monotonic()
    until(lambda: all(serving(url) == wanted for url in urls), 20, f"not all workers decide with {wanted}")
    seconds = time.monotonic() - began_s
    print(f"both workers decide with {wanted[0]} after {seconds:.2f} s")
    return seconds


def test_a_promote_and_a_rollback_reach_all_workers(shared):
    folder, environment = shared
    first = re.search(r"-> (\w{12})", pelton(environment, "models", "promote", "risk", BUNDLE))[1]
    bundle, other = read_bundle(BUNDLE), folder / "other"
    write_bundle(other, {**bundle.parts, "note.txt": b"the same models, another bundle"}, bundle.meta)
    with workers(folder, environment) as urls:
        until(lambda: all(serving(url) == (first, "") for url in urls), 20, "not all workers decide with the first")
        second = re.search(r"-> (\w{12})", pelton(environment, "models", "promote", "risk", other))[1]
        assert second != first
        assert seconds_until(urls, (second, "")) < SEEN_S_MAX
        pelton(environment, "models", "rollback", "risk")
        assert seconds_until(urls, (first, "")) < SEEN_S_MAX
        for url in urls:
            assert 'pelton_model_changes_total{app="bank",task="risk"} 2' in get(f"{url}/metrics")
            assert get(f"{url}/healthz") == "ok\n"


def test_a_worker_without_the_shared_files_says_so_and_goes_on(shared):
    folder, environment = shared
    pelton(environment, "models", "promote", "risk", BUNDLE)
    alone = folder / "alone"
    with workers(folder, environment | {"PELTON_DATA": str(alone)}) as urls:
        until(lambda: "problem: " in get(f"{urls[0]}/healthz"), 20, "nothing is said of the missing files")
        words = get(f"{urls[0]}/healthz")
        assert words.startswith("ok\n")
        assert str(alone / "registry") in words
        assert re.search(r"^pelton_problems\{.*\} [1-9]", get(f"{urls[0]}/metrics"), re.M)

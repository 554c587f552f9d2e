"""A real PostgreSQL for tests, from the binaries of this machine; thrown away afterwards."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

MISSING = "PostgreSQL is not here; bring it with: apt-get install -y postgresql && pip install 'psycopg[binary]'"


def binaries() -> Path | None:
    """Return the folder of initdb and postgres, None if there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    path = str(found[-1]) if found else shutil.which("initdb")
    return Path(path).parent if path else None


@contextlib.contextmanager
def running() -> Iterator[str]:
    """Run a server on a free port and give its URL; PELTON_TEST_POSTGRES names one that runs already."""
    if url := os.environ.get("PELTON_TEST_POSTGRES"):
        yield url
        return
    folder = binaries()
    assert folder is not None, MISSING
    with tempfile.TemporaryDirectory(prefix="pelton-pg-") as data, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        as_user = {}
        if os.geteuid() == 0:  # the server refuses to run as root
            user = pwd.getpwnam("postgres")
            os.chown(data, user.pw_uid, user.pw_gid)
            as_user = {"user": user.pw_uid, "group": user.pw_gid}
        free.close()
        options = {"check": True, "stdout": subprocess.DEVNULL, "cwd": data, **as_user}
        subprocess.run([folder / "initdb", "-D", data, "-U", "pelton", "-A", "trust", "--no-sync"], **options)
        settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={data} -c fsync=off"
        control = [folder / "pg_ctl", "-D", data, "-w", "-l", f"{data}/log"]
        subprocess.run([*control, "-o", settings, "start"], **options)
        try:
            yield f"postgresql+psycopg://pelton@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **options)

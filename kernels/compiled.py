"""Numba kernels that are compiled once per machine and only loaded afterwards.

Several workers that start together may corrupt numba's own file cache (numba issues 4807 and 10128). So the
cache lives in a folder named after versions, processor and sources; who finds it unfinished compiles under a file lock.
"""

import hashlib
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np


def cache_folder() -> Path:
    """Return the folder of compiled kernels for these versions, this processor and these sources."""
    digest = hashlib.sha256()
    host = llvmlite.binding.get_host_cpu_name()
    digest.update("|".join([sys.version, numba.__version__, np.__version__, platform.machine(), host]).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "pelton" / f"kernels-{digest.hexdigest()[:16]}"


numba.config.CACHE_DIR = str(cache_folder())


def njit(signature: Any, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a kernel for one signature, from the cache if it is there, with the GIL released."""
    return numba.njit(signature, nogil=True, cache=True, **options)

"""How numba reads and writes its compiled functions: our files in place of its own. Imported by a kernel's first call.

Written against numba's internals (numba/core/caching.py, dispatcher.py, cpu.py); the tests run each step of it.
"""

from typing import Any

from numba.core import serialize
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.environment import Environment
from numba.core.runtime import rtsys

from kernels.code_cache import CodeCache, Entry


class NumbaCache(_Cache):
    """One kernel and signature. A dispatcher asks `load_overload`, compiles on None, then calls `save_overload`."""

    def __init__(self, cache: CodeCache, entry: Entry, code: bytes | None) -> None:
        self._cache, self._entry, self._code = cache, entry, code

    @property
    def cache_path(self) -> str:
        """Nothing: numba prints it in statistics only."""
        return ""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled function, or None.

        Unlike numba's own, it does not load numba's type registries first (0.1 to 0.3 s): they are needed to
        compile and not to run, so only the runtime that allocates arrays is started.
        """
        if self._code is None:
            return None
        rtsys.initialize(target_context)
        return CompileResult._rebuild(target_context, *serialize.loads(self._code))

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled function.

        Raises:
            RuntimeError: its code holds addresses of this process, so that it means nothing to another one.
        """
        if data.library.has_dynamic_globals or any(not lifted.can_cache for lifted in data.lifted):
            name = f"{self._entry.module}.{self._entry.name}"
            raise RuntimeError(f"{name} uses a large global array or an object; pass it as an argument instead")
        *parts, environments = data._reduce()
        code = serialize.dumps((*parts, [_without_module(each) for each in environments]))
        self._cache.write(self._entry, code)

    def enable(self) -> None:
        """Nothing: it is always on."""

    def disable(self) -> None:
        """Nothing: it is always on."""

    def flush(self) -> None:
        """Nothing: a file is written at once."""


def _without_module(environment: Environment) -> Environment:
    """Name no module of numba's as the home of a function that was compiled in.

    To load an environment is to import its module, and one of them (np.sum and the like) imports SciPy if it is
    there: 0.2 s, for a namespace that only Python code would look into, which a kernel has none of.
    """
    if not environment.globals.get("__name__", "").startswith("numba."):
        return environment
    bare = Environment({"__name__": "builtins"})
    bare.consts.extend(environment.consts)
    bare.env_name = environment.env_name
    return bare

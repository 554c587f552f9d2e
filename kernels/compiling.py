"""Numba at work: a function and its signature become machine code that another process can load without numba.

Imported only where a kernel is compiled. Written against numba's internals (numba/core/caching.py, compiler.py); the
tests run each step of it.
"""

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

from numba import njit, types
from numba.core.caching import _Cache
from numba.core.registry import cpu_target
from numba.np.numpy_support import as_dtype

from kernels.machine_code import Argument, MachineCode

__all__ = ["compile_kernel", "make_dispatcher", "type_of_global"]


class _Kept(_Cache):
    """Takes what a dispatcher has compiled, instead of writing it to a file."""

    cache_path = ""
    compiled: Any = None

    def load_overload(self, sig: Any, target_context: Any) -> None:
        """Nothing: it is asked only what is not in our cache."""

    def save_overload(self, sig: Any, data: Any) -> None:
        self.compiled = data

    def enable(self) -> None: ...

    def disable(self) -> None: ...

    def flush(self) -> None: ...


def make_dispatcher(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    """Return numba's own form of a function, which other kernels can be compiled against."""
    return njit(nogil=True, **options)(function)


def compile_kernel(function: Callable[..., Any], signature: str, options: dict[str, Any]) -> MachineCode:
    """Compile a function for one signature.

    Raises:
        RuntimeError: its code holds addresses of this process, so that it means nothing to another one; or it returns
            an array, which takes Python's objects, and numba's import, to make.
    """
    dispatcher = make_dispatcher(function, options)
    dispatcher._cache = kept = _Kept()
    dispatcher.compile(signature)
    done = kept.compiled
    name = f"{function.__module__}.{function.__qualname__}"
    if done.library.has_dynamic_globals or any(not lifted.can_cache for lifted in done.lifted):
        raise RuntimeError(f"{name} uses a large global array or an object; pass it as an argument instead")
    if done.environment.consts:
        raise RuntimeError(f"{name} returns an array or another object; take the array as an argument and write to it")
    (_, _, (native_object, _)), *_ = done._reduce()
    arguments = [_argument(each) for each in done.signature.args]
    wrapper, environment = done.fndesc.llvm_cpython_wrapper_name, done.environment.env_name
    return MachineCode(native_object, wrapper, environment, arguments)


def _argument(given: Any) -> Argument:
    if isinstance(given, types.Array):
        return Argument("array", as_dtype(given.dtype).str, given.ndim, given.mutable)
    if isinstance(given, types.BaseTuple):
        return Argument("tuple", parts=[_argument(each) for each in given])
    return Argument("number", str(given))


@cache
def type_of_global(module: str, name: str) -> Any:
    """Return numba's type of something that kernels call, for example an intrinsic, and import it for that."""
    found = getattr(importlib.import_module(module), name)
    cpu_target.typing_context.refresh()  # numba looks for what is new when a compilation starts, and one has
    cpu_target.target_context.refresh()
    return cpu_target.typing_context.resolve_value_type(found)

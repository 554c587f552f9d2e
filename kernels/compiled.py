"""Numba kernels that are compiled once per machine and only loaded afterwards.

Importing a kernel costs nothing: its machine code is read at its first call. Numba itself is imported only to compile.
Code that is not in the cache yet is compiled under a file lock, so workers that start together share the work.
"""

import importlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kernels.arguments import checker, in_words
from kernels.code_cache import CodeCache, Entry, cache_folder, is_ready, note_ready
from kernels.machine_code import MachineCode, decode, encode, link

__all__ = ["Kernel", "cache_folder", "compile_all", "load_imported", "missing", "njit"]

_registered: "dict[str, Kernel]" = {}  # by module and name: a module imported anew replaces its kernels
_loading = threading.RLock()  # taken before numba's compiler lock, always: a kernel may need the ones that it calls


class Kernel:
    """A function of arrays that runs as machine code, without the GIL. Call it as the Python function it was.

    `py_func` is that function: the slow twin that runs without numba.
    """

    def __init__(self, function: Callable[..., Any], signatures: tuple[str, ...], options: dict[str, Any]) -> None:
        self.py_func = self.__wrapped__ = function
        self.signatures = signatures
        self.__name__, self.__qualname__ = function.__name__, function.__qualname__
        self.__module__, self.__doc__ = function.__module__, function.__doc__
        self._options = options
        self._cache = CodeCache()
        self._run: Callable[..., Any] | None = None
        self._dispatcher: Any = None

    def __call__(self, *args: Any) -> Any:
        """Run the kernel; its first call loads it, or compiles it if this machine has never seen it.

        Raises:
            TypeError: the arguments fit no signature.
        """
        return (self._run or self.load())(*args)

    def __repr__(self) -> str:
        """Show name and signatures."""
        return f"<kernel {self.__module__}.{self.__qualname__} {' '.join(self.signatures)}>"

    @property
    def _numba_type_(self) -> Any:  # how numba sees a kernel that another kernel calls
        with _loading:
            if self._dispatcher is None:
                from kernels.compiling import make_dispatcher

                self._dispatcher = make_dispatcher(self.py_func, self._options)
        return self._dispatcher._numba_type_

    @property
    def entries(self) -> list[Entry]:
        """The places of this kernel's machine code in the cache, one per signature."""
        source = Path(self.py_func.__code__.co_filename)
        name = f"{self.__qualname__}-{self.py_func.__code__.co_firstlineno}"
        return [Entry(self.__module__, source, name, f"{signature} {sorted(self._options.items())}")
                for signature in self.signatures]  # fmt: skip

    def is_compiled(self) -> bool:
        """Tell whether the machine code of every signature is in the cache of this machine."""
        return all(self._cache.holds(entry) for entry in self.entries)

    def load(self) -> Callable[..., Any]:
        """Return the function that runs the machine code, from the cache or compiled into it.

        Raises:
            RuntimeError: numba cannot write this function to a file; the message says what to change.
        """
        with _loading:
            if self._run is None:
                disabled = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")  # to step through in a debugger
                self._run = self.py_func if disabled else self._checked(self._codes())
        return self._run

    def _codes(self) -> list[MachineCode]:
        codes = []
        for signature, entry in zip(self.signatures, self.entries, strict=True):
            content = self._cache.read(entry)
            if content is None:
                with self._cache.lock(entry):
                    content = self._cache.read(entry) or self._compile(signature, entry)
            codes.append(decode(content))
        return codes

    def _compile(self, signature: str, entry: Entry) -> bytes:
        from kernels.compiling import compile_kernel

        content = encode(compile_kernel(self.py_func, signature, self._options))
        self._cache.write(entry, content)
        return content

    def _checked(self, codes: list[MachineCode]) -> Callable[..., Any]:
        """Return a function that runs the code whose arguments fit."""
        shared = self.__module__.startswith("kernels.") and "<locals>" not in self.__qualname__
        variants = [(checker(code.arguments), link(code, self.__name__, shared)) for code in codes]

        def run(*args: Any) -> Any:
            for fits, function in variants:
                if fits(args):
                    return function(*args)
            given = ", ".join(in_words(each) for each in args)
            raise TypeError(
                f"{self.__module__}.{self.__qualname__} takes {' or '.join(self.signatures)}, not ({given})"
            )

        return run


def njit(signature: str | Iterable[str], **options: Any) -> Callable[[Callable[..., Any]], Kernel]:
    """Make a function a kernel, for one signature or several, for example "int64(int64[::1], float64[::1])".

    Args:
        signature: numba's notation; write `[::1]` for arrays, all of ours are C-contiguous.
        options: passed on to `numba.njit`, for example `error_model="numpy"`.

    Raises:
        TypeError: no signature was given.
    """
    signatures = (
        (signature,) if isinstance(signature, str) else tuple(signature) if isinstance(signature, Iterable) else ()
    )
    if not signatures or not all(isinstance(each, str) for each in signatures):
        raise TypeError(f"the signature is {signature!r}; write it as text, like @njit('int64(int64[::1])')")

    def decorate(function: Callable[..., Any]) -> Kernel:
        kernel = Kernel(function, signatures, options)
        _registered[f"{kernel.__module__}.{kernel.__qualname__}"] = kernel
        return kernel

    return decorate


def compile_all(say: Callable[[str, int, int], None] | None = None) -> int:
    """Compile what this machine has not compiled yet, and return how many kernels that were.

    Args:
        say: called before each kernel with its name, its number from 1 on, and how many there are to compile.
    """
    waiting = [kernel for kernel in _ours() if not kernel.is_compiled()]
    for number, kernel in enumerate(waiting, start=1):
        if say is not None:
            say(f"{kernel.__module__}.{kernel.__qualname__}", number, len(waiting))
        kernel.load()
    if waiting:
        CodeCache().tidy()
    note_ready({Path(kernel.py_func.__code__.co_filename) for kernel in _ours()})
    return len(waiting)


def missing() -> list[str]:
    """Return the names of kernels without machine code on this machine, sorted: [] when it is ready."""
    if is_ready():
        return []
    found = sorted(f"{kernel.__module__}.{kernel.__qualname__}" for kernel in _ours() if not kernel.is_compiled())
    if not found:
        note_ready({Path(kernel.py_func.__code__.co_filename) for kernel in _ours()})
    return found


def load_imported() -> int:
    """Load each kernel of the modules imported so far, so that no event waits for it; return how many there are.

    A kernel that a function makes for itself is loaded when it is called.
    """
    found = [kernel for kernel in list(_registered.values()) if kernel.__module__ in sys.modules]
    kernels = [kernel for kernel in found if "<locals>" not in kernel.__qualname__]
    for kernel in kernels:
        kernel.load()
    return len(kernels)


def _ours() -> list[Kernel]:
    root = Path(__file__).parent
    for source in sorted(root.rglob("*.py")):
        if re.search(r"^@njit\(", source.read_text(encoding="utf-8"), re.MULTILINE):
            importlib.import_module(".".join(("kernels", *source.relative_to(root).with_suffix("").parts)))
    return [kernel for _, kernel in sorted(_registered.items()) if kernel.__module__.startswith("kernels.")]

"""Machine code that numba made once, loaded without numba: its import alone would be a quarter of a short run's time.

A kernel's code is an object file that holds a function in CPython's calling convention. LLVM links it into the process;
three extension modules of numba's, loaded without the package around them, give it the helpers it calls and make it
callable. Numba's own way (numba/core/compiler.py, CompileResult._rebuild) does the same after importing the compiler.
"""

import builtins
import ctypes
import importlib.util
import platform
import sys
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import Any

import llvmlite.binding as llvm
import msgspec

__all__ = ["Argument", "MachineCode", "decode", "encode", "has_crc32_instruction", "link"]


class Argument(msgspec.Struct, frozen=True, array_like=True):
    """What an argument must be: machine code takes it at its word.

    Attributes:
        kind: array, tuple or number.
        type: of the array's elements, numpy's short form; of a number, numba's name.
        ndim: of the array, which is contiguous in C order.
        writable: whether the array is written to.
        parts: of the tuple.
    """

    kind: str
    type: str = ""
    ndim: int = 0
    writable: bool = False
    parts: "list[Argument]" = []


class MachineCode(msgspec.Struct, frozen=True, array_like=True):
    """One kernel and signature.

    Attributes:
        native_object: the object file (ELF, Mach-O or COFF), as LLVM made it.
        wrapper: symbol of the function that takes and returns Python's objects.
        environment: symbol of the pointer to what the wrapper needs of Python.
        arguments: what it takes.
    """

    native_object: bytes
    wrapper: str
    environment: str
    arguments: list[Argument]


# Made once, here: msgspec crashes if two threads meet a type for the first time at once.
_DECODER = msgspec.msgpack.Decoder(MachineCode)


def encode(code: MachineCode) -> bytes:
    """Write machine code."""
    return msgspec.msgpack.encode(code)


def decode(content: bytes) -> MachineCode:
    """Read machine code.

    Raises:
        ValueError: it is none.
    """
    return _DECODER.decode(content)


def link(code: MachineCode, name: str, shared: bool) -> Any:
    """Return the function that runs the code; it checks nothing but the sizes of what it is given.

    Args:
        shared: link it with the others of this kind, which is quicker; their symbols must differ then.
    """
    helpers = _helpers()
    engine = _shared_engine() if shared else _engine()
    native = llvm.ObjectFileRef.from_data(code.native_object)
    engine.add_object_file(native)
    engine.finalize_object()
    environment = helpers.Environment({"__name__": "builtins"})
    pointer = (ctypes.c_void_p * 1).from_address(engine.get_global_value_address(code.environment))
    pointer[0] = ctypes.c_void_p(id(environment))
    address = engine.get_function_address(code.wrapper)
    return helpers.make_function(builtins, name, "", address, environment, (engine, native))


@cache
def has_crc32_instruction() -> bool:
    """Tell whether this processor has an instruction for CRC-32C (x86 since 2008)."""
    return platform.machine() in ("x86_64", "AMD64") and bool(llvm.get_host_cpu_features().get("sse4.2"))


def _engine() -> Any:
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)


@cache
def _shared_engine() -> Any:
    return _engine()


@cache
def _helpers() -> Any:
    """Make what compiled code calls known to LLVM, under the names that numba gives it; return what makes functions."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    functions = _extension("_helperlib").c_helpers
    memory = _extension("core.runtime._nrt_python").c_helpers
    symbols = {f"numba_{name}": address for name, address in functions.items()}
    symbols |= {name if name.startswith("_") else f"NRT_{name}": address for name, address in memory.items()}
    errors = [each for each in vars(builtins).values() if isinstance(each, type) and issubclass(each, BaseException)]
    symbols |= {f"PyExc_{error.__name__}": id(error) for error in errors}
    for name, address in (symbols | {"_Py_NoneStruct": id(None)}).items():
        llvm.add_symbol(name, address)
    return _extension("_dynfunc")


def _extension(name: str) -> ModuleType:
    """Load an extension module of numba's without the package, or take the one that is there."""
    full = f"numba.{name}"
    if full in sys.modules:
        return sys.modules[full]
    found = importlib.util.find_spec("numba")
    assert found is not None and found.origin is not None
    stem = Path(found.origin).parent.joinpath(*name.split("."))
    path = next(path for suffix in EXTENSION_SUFFIXES if (path := stem.with_name(stem.name + suffix)).exists())
    spec = importlib.util.spec_from_file_location(full, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

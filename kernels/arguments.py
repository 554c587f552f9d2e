"""Checks what a kernel is called with: machine code takes a wrong array at its word and reads or writes elsewhere."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kernels.machine_code import Argument

_Check = Callable[[Any], bool]


def checker(arguments: Sequence[Argument]) -> Callable[[tuple[Any, ...]], bool]:
    """Return a function that tells whether the arguments of a call are those."""
    checks = [_check(each) for each in arguments]
    count = len(checks)

    def fits(args: tuple[Any, ...]) -> bool:
        return len(args) == count and all(check(arg) for check, arg in zip(checks, args, strict=True))

    return fits


def _check(argument: Argument) -> _Check:
    if argument.kind == "tuple":
        inside = checker(argument.parts)
        return lambda value: isinstance(value, tuple) and inside(value)
    if argument.kind == "array":
        return _array_check(np.dtype(argument.type), argument.ndim, argument.writable)
    kinds = (float, np.floating, int, np.integer) if argument.type.startswith("float") else (int, np.integer, np.bool_)
    return lambda value: isinstance(value, kinds)


def _array_check(dtype: np.dtype[Any], ndim: int, writable: bool) -> _Check:
    def is_readable(value: Any) -> bool:
        return (
            isinstance(value, np.ndarray) and value.ndim == ndim and value.dtype == dtype and value.flags.c_contiguous
        )

    def is_writable(value: Any) -> bool:
        return isinstance(value, np.ndarray) and value.ndim == ndim and value.dtype == dtype and value.flags.carray

    return is_writable if writable else is_readable


def in_words(value: Any) -> str:
    """Name the type of an argument, as signatures do."""
    if isinstance(value, tuple):
        return f"({', '.join(in_words(each) for each in value)})"
    if not isinstance(value, np.ndarray):
        return type(value).__name__
    order = "" if value.flags.c_contiguous else " not contiguous"
    return f"{value.dtype}[{','.join(':' * value.ndim)}]{order}{'' if value.flags.writeable else ' read-only'}"

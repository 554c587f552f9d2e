"""What the user can mend, in one sentence; everything else is a bug and keeps its stack trace."""

from __future__ import annotations

import errno
import sqlite3
import traceback

OURS = ("ops", "pipeline", "models", "connectors", "kernels")
TRAINING = ("torch", "sklearn", "onnx", "onnxscript", "matplotlib", "optuna")
_ADVICE = {
    errno.ENOSPC: "free some space there, or choose another place",
    errno.EDQUOT: "free some space there, or choose another place",
    errno.EACCES: "check its rights, or choose another place",
    errno.EPERM: "check its rights, or choose another place",
    errno.EROFS: "choose a place that can be written",
    errno.ENOENT: "check the path",
    errno.EISDIR: "name a file, not a folder",
    errno.ENOTDIR: "check the path: a part of it is a file",
}


def in_a_sentence(error: BaseException) -> str | None:
    """Say what is wrong and what to do; None for a bug of ours.

    >>> in_a_sentence(PermissionError(errno.EACCES, "Permission denied", "out.csv"))
    'out.csv: permission denied; check its rights, or choose another place'
    """
    if isinstance(error, ImportError) and (error.name or "").split(".")[0] in TRAINING:
        return f"{(error.name or '').split('.')[0]} is not installed; training needs it: pip install 'pelton[train]'"
    if isinstance(error, OSError):
        return _of_the_system(error)
    if isinstance(error, sqlite3.Error) or type(error).__module__.startswith("sqlalchemy"):
        first = str(getattr(error, "orig", None) or error).splitlines()[0]
        return f"the database cannot be used: {first}; check its file or server, or restore it from a copy"
    if isinstance(error, ValueError) and (type(error).__module__.split(".")[0] in OURS or _raised_by_us(error)):
        return " ".join(str(error).split("\n")).removeprefix("pelton: ")
    return None


def _of_the_system(error: OSError) -> str:
    reason = (error.strerror or str(error)).lower()
    advice = _ADVICE.get(error.errno or 0)
    where = error.filename2 or error.filename
    return (f"{where}: " if where else "") + reason + (f"; {advice}" if advice else "")


def _raised_by_us(error: BaseException) -> bool:
    """Whether one of our files raised it: a ValueError from deep inside another package is no mistake of the user."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and str(frames[-1][0].f_globals.get("__name__", "")).split(".")[0] in OURS

"""Check this machine: what is installed, what really works, and the one line that repairs what does not.

Every check looks and tries; none changes anything that stays.
"""

import contextlib
import importlib.metadata
import io
import os
import shutil
import stat
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PYTHON_MIN = (3, 11)
FREE_BYTES_MIN = 1_000_000_000  # a million decisions are about 150 MB in the log
PACKAGES = ("numpy", "numba", "pyarrow", "msgspec", "sqlalchemy", "cryptography", "typer", "rich")
TRAIN_PACKAGES = ("torch", "onnx", "onnxscript", "scikit-learn", "matplotlib")
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
KEY_VARIABLE = "PELTON_KEY"
# A network of one node that gives back its input: what a runtime must at least be able to run.
TINY_NETWORK = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801"
    "620f0a0179120a0a08080112040a02080142040a001011"
)


@dataclass(frozen=True)
class Check:
    """One thing looked at. `advice` says what to do, and is empty where nothing needs doing."""

    name: str
    ok: bool
    found: str
    advice: str = ""


def checks(data_folder: Path, key_file: Path | None = None, now_s: float | None = None) -> list[Check]:
    """Look at everything that a run depends on, in the order in which to repair it.

    Args:
        data_folder: where log, snapshots and bundles go; it need not exist yet.
        key_file: the file of the key of sensitive fields, if one is used.
        now_s: seconds since the epoch; the clock's, if not given.
    """
    return [
        _python(sys.version_info[:3]),
        *(_package(name) for name in PACKAGES),
        _one_runtime(_installed()),
        *_providers(),
        _writable(data_folder),
        _free_space(data_folder, FREE_BYTES_MIN),
        _kernels(),
        _clock(time.time() if now_s is None else now_s),
        _key(key_file),
        _training(_installed()),
    ]


def healthy(found: list[Check]) -> bool:
    """Tell whether everything that is needed to serve works."""
    return all(check.ok for check in found)


def _installed() -> dict[str, str]:
    return {found.name.lower(): found.version for found in importlib.metadata.distributions() if found.name}


def _python(version: tuple[int, ...]) -> Check:
    text = ".".join(str(part) for part in version)
    if version[:2] < PYTHON_MIN:
        return Check("Python", False, text, "install Python 3.11 or newer, then: make clean demo PYTHON=python3.11")
    return Check("Python", True, text)


def _package(name: str) -> Check:
    try:
        version = importlib.metadata.version(name)
        __import__(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, False, "not installed", "run: pip install pelton")
    except ImportError as error:
        advice = f"run: pip install --force-reinstall {name}"
        return Check(name, False, f"{version}, but it does not load: {error}", advice)
    return Check(name, True, version)


def _one_runtime(installed: dict[str, str]) -> Check:
    found = [f"{name} {installed[name]}" for name in RUNTIMES if name in installed]
    if len(found) == 1:
        return Check("ONNX Runtime", True, found[0])
    if found:  # both own the folder `onnxruntime`: whichever was installed last has overwritten half of the other
        advice = "keep one: pip uninstall onnxruntime onnxruntime-gpu, then: pip install pelton"
        return Check("ONNX Runtime", False, " and ".join(found), advice)
    return Check("ONNX Runtime", False, "not installed", "run: pip install pelton")


def _providers() -> list[Check]:
    """Run a tiny network on each provider: the list that the package prints names what was built, not what works."""
    try:
        import onnxruntime
    except ImportError as error:
        return [Check("model on CPU", False, f"ONNX Runtime does not load: {error}", "run: pip install pelton")]
    onnxruntime.set_default_logger_severity(4)  # it prints a page about a missing GPU, which our line says shorter
    try:
        offered = onnxruntime.get_available_providers()
        found = [_provider(onnxruntime, "CPUExecutionProvider", "model on CPU", needed=True)]
        if "CUDAExecutionProvider" in offered:
            found.append(_provider(onnxruntime, "CUDAExecutionProvider", "model on GPU", needed=False))
        return found
    finally:
        onnxruntime.set_default_logger_severity(2)  # its default: warnings


def _provider(runtime: Any, provider: str, name: str, needed: bool) -> Check:
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # where it announces that it falls back to the CPU
            session = runtime.InferenceSession(TINY_NETWORK, options, providers=[provider])
        works = session.get_providers()[0] == provider and session.run(None, {"x": _one()})[0].tolist() == [1.0]
        reason = "" if works else "no usable device"
    except Exception as error:  # the runtime raises types of its own, not all of them exported
        works, reason = False, str(error).splitlines()[0][:120]
    if works:
        return Check(name, True, "works")
    if needed:
        return Check(name, False, f"does not work: {reason}", "run: pip install --force-reinstall pelton")
    return Check(name, True, f"not used: {reason}; the CPU serves")


def _one() -> Any:
    import numpy as np

    return np.ones(1, np.float32)


def _writable(folder: Path) -> Check:
    place = _nearest(folder)
    if not place.is_dir():
        return Check("data folder", False, f"{place} is a file", "choose another folder")
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"pelton")
            file.flush()
    except OSError as error:
        advice = "choose a folder that you can write, or free some space"
        return Check("data folder", False, f"{place} cannot be written: {error.strerror}", advice)
    return Check("data folder", True, f"{folder} " + ("can be written" if folder.is_dir() else "can be made"))


def _free_space(folder: Path, needed_bytes: int) -> Check:
    free = shutil.disk_usage(_nearest(folder)).free
    text = f"{free / 1e9:.1f} GB"
    if free < needed_bytes:
        return Check("free space", False, text, f"free at least {needed_bytes / 1e9:.1f} GB at {_nearest(folder)}")
    return Check("free space", True, text)


def _nearest(folder: Path) -> Path:
    folder = folder.absolute()
    return next((place for place in (folder, *folder.parents) if place.exists()), folder)


def _kernels() -> Check:
    from kernels.compiled import cache_folder, missing

    waiting = missing()
    if waiting:
        return Check("kernels", True, f"{len(waiting)} not compiled yet", "the first run compiles them, once")
    return Check("kernels", True, f"compiled, in {cache_folder()}")


def _clock(now_s: float) -> Check:
    newest_s = max(file.stat().st_mtime for file in Path(__file__).parent.rglob("*.py"))
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s))
    if now_s < newest_s - 60:
        advice = "set the clock: events would seem to come from the future"
        return Check("clock", False, f"{shown}, before Pelton was installed", advice)
    return Check("clock", True, shown)


def _key(file: Path | None) -> Check:
    if os.environ.get(KEY_VARIABLE):
        return Check("key", True, f"from {KEY_VARIABLE}")
    if file is None or not file.exists():
        return Check("key", True, "none yet", "only needed for fields with a class, like card or email")
    if os.name == "posix":
        with contextlib.suppress(OSError):
            mode = stat.S_IMODE(file.stat().st_mode)
            if mode & 0o077:
                return Check("key", False, f"{file} can be read by others (mode {mode:03o})", f"run: chmod 600 {file}")
    return Check("key", True, f"{file}, readable by its owner only")


def _training(installed: dict[str, str]) -> Check:
    absent = [name for name in TRAIN_PACKAGES if name not in installed]
    if absent:
        return Check("training", True, f"not installed: {', '.join(absent)}", "to train: pip install 'pelton[train]'")
    return Check("training", True, ", ".join(f"{name} {installed[name]}" for name in TRAIN_PACKAGES))

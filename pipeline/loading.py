"""Loads an app from a Python file, and puts mistakes in it into one sentence with the place."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path

from pipeline.app import App
from pipeline.errors import DeclarationError, PeltonError, nearest


def load_app(where: str) -> App:
    """Load the `App` of a file; `bank.py`, or `bank.py:app` if the file holds several.

    The file's folder goes to the end of the import path, so that a folder of the user's that is called `models` does
    not hide ours.

    Raises:
        DeclarationError: the file is not there, cannot be run, or holds no app; with file and line.
    """
    path_text, _, wanted = where.partition(":") if not Path(where).exists() else (where, "", "")
    path = Path(path_text)
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path(".")
        advice = nearest(path.name, [each.name for each in folder.glob("*.py")])
        raise DeclarationError(f"there is no app file {path_text}; {advice}", place=" ".join(["pelton"]))
    folder_text = str(path.resolve().parent)
    if folder_text not in sys.path:
        sys.path.append(folder_text)
    apps = {name: each for name, each in _run(path).items() if isinstance(each, App)}
    if wanted and wanted not in apps:
        raise DeclarationError(f"there is no app {wanted!r} in it; {nearest(wanted, apps)}", place=path_text)
    distinct = {id(each): each for each in apps.values()}
    if not wanted and len(distinct) != 1:
        found = f"it holds {', '.join(apps)}; name one: {path_text}:{next(iter(apps))}" if apps else "it holds no App"
        raise DeclarationError(found, place=path_text)
    return apps[wanted] if wanted else next(iter(distinct.values()))


def _run(path: Path) -> dict[str, object]:
    spec = importlib.util.spec_from_file_location(f"pelton_app_{path.stem}", path.resolve())
    if spec is None or spec.loader is None:
        raise DeclarationError("it is not a Python file; an app file ends in .py", place=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except PeltonError:
        raise
    except SyntaxError as error:
        raise DeclarationError(f"{error.msg}: {(error.text or '').strip()}", place=f"{path}:{error.lineno}") from None
    except Exception as error:
        frames = [each for each in traceback.extract_tb(error.__traceback__) if Path(each.filename) == path.resolve()]
        line = f"{path}:{frames[-1].lineno}" if frames else str(path)
        raise DeclarationError(_in_words(error), place=line) from error
    return vars(module)


def _in_words(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"it imports {error.name}, which is not installed here"
    if isinstance(error, ValueError):
        return str(error)
    return f"{type(error).__name__}: {error}"

"""Which file belongs to which stream of an app: `NAME=FILE`, or a file that is named after its stream."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from connectors.files import FileInput, open_files
from pipeline.app import App
from pipeline.errors import nearest
from pipeline.recovery import streams_of
from pipeline.stream import Stream


class InputError(ValueError):
    """A file cannot be given to a stream; the message says how to name it."""


def input_streams(app: App) -> dict[str, Stream]:
    """Return the streams that an app reads, the decided ones first; labels made from a stream's own field are none."""
    found: dict[str, Stream] = {plan.stream.name: plan.stream for plan in app.plans.values()}
    for plan in app.plans.values():
        found |= {name: stream for name, stream in streams_of(plan).items() if name not in found}
    return found


def match_files(app: App, values: Sequence[str]) -> dict[str, list[Path]]:
    """Give each file to its stream.

    Args:
        app: whose streams.
        values: `payments=a.jsonl`, or a path whose name begins with the stream's: `payments.jsonl`,
            `payments-2026-01.csv.gz`; a single path of any name is of the decided stream. `*` stands for any letters.

    Raises:
        InputError: no stream has that name, or a path could be of several.
    """
    streams = list(input_streams(app))
    if not values:
        raise InputError(f"no file was given; for example: --input {streams[0]}.jsonl")
    matched: dict[str, list[Path]] = {}
    for value in values:
        named, _, rest = value.partition("=")
        if named in streams and rest:
            name, text = named, rest
        elif rest and not Path(value).exists():
            raise InputError(f"{value}: app {app.name!r} reads no stream {named!r}; {nearest(named, streams)}")
        else:
            name, text = _stream_of(value, streams, alone=len(values) == 1), value
        matched.setdefault(name, []).extend(_expanded(text))
    decided = [plan.stream.name for plan in app.plans.values()]
    if not any(name in matched for name in decided):
        name = decided[0]
        raise InputError(f"no file is of {name!r}, the stream that is decided; say which: {name}=FILE")
    return {name: matched[name] for name in streams if name in matched}


def open_inputs(app: App, values: Sequence[str]) -> dict[str, FileInput]:
    """Open files as inputs of an app's streams; see `match_files`.

    Raises:
        InputError: a file is of no stream.
        FileInputError: a file is missing, or of no known format.
    """
    streams = input_streams(app)
    matched = match_files(app, values)
    return {name: open_files(paths, streams[name].schema, name) for name, paths in matched.items()}


def _stream_of(path: str, streams: Sequence[str], alone: bool) -> str:
    if len(streams) == 1:
        return streams[0]
    stem = Path(path).name.split(".")[0]
    found = [name for name in streams if re.match(rf"{re.escape(name)}($|[-_.*\d])", stem)]
    if found:
        return max(found, key=len)
    if alone:
        return streams[0]
    if "*" not in path and not Path(path).exists():
        raise InputError(f"{path} does not exist; check the path")
    choice = " or ".join(f"{name}={path}" for name in streams)
    raise InputError(f"{path} could be of any stream; say which: {choice}")


def _expanded(text: str) -> list[Path]:
    """Return the files that a pattern means, by name; a path without stars stays as it is."""
    found = sorted(glob.glob(text)) if "*" in text and not Path(text).exists() else []
    return [Path(each) for each in found or [text]]

"""The command `pelton`: which commands there are (they are in `ops.commands`), and how their mistakes are told."""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

# What a person does, in the order in which they come to do it. Modules of `ops.commands`, each with a function or a
# group of commands of its own name; a `_` at the end of a module keeps it apart from a Python name.
SECTIONS = {
    "Decide": ("demo", "run", "append", "produce", "replay", "verify"),
    "Learn": ("train", "evaluate", "quantize", "export", "models"),
    "Look": ("plan", "topics", "lag", "state", "dlq", "dashboards"),
    "This machine": ("simulate", "bench", "doctor"),
}
_EPILOG = """\b
First steps:
  pelton demo
  pelton simulate --out data
  pelton replay bank.py --input data/payments.jsonl --output decisions.csv

\b
Environment: PELTON_DATA is the folder of log, models and state (default .pelton),
PELTON_KEY the key of sensitive fields, PELTON_DEBUG=1 shows where an error comes from."""
_LISTS = ("--input", "-i", "--data")  # take all values up to the next option, as shells expand a *


class Commands(TyperGroup):
    """A group of commands whose help is in sections, and whose mistakes are one sentence."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; tell what the user can mend in a sentence, with exit code 1."""
        from ops.settings import Settings

        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except Exception as error:
            from ops.mistakes import in_a_sentence

            pipe_closed = isinstance(error, OSError) and error.errno == errno.EPIPE
            sentence = None if Settings.shows_traces() or pipe_closed else in_a_sentence(error)
            if sentence is None:
                raise
            typer.echo(f"pelton: {sentence}", err=True)
            raise typer.Exit(1) from None

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of the sections."""
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands in sections; a group with the names of its commands."""
        width = max(map(len, self.commands))
        for title, names in SECTIONS.items():
            rows = [(name.ljust(width), _one_line(self.commands[name])) for name in names if name in self.commands]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def _one_line(command: Any) -> str:
    inner = getattr(command, "commands", None)
    text = command.get_short_help_str(limit=100)
    return f"{', '.join(inner)}: {text[0].lower()}{text[1:]}" if inner else text


def _app() -> typer.Typer:
    made = typer.Typer(
        name="pelton", cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
        context_settings={"max_content_width": 110, "help_option_names": ["--help", "-h"]},
        help="Turn event streams into decisions, and prove that they are right.", epilog=_EPILOG,
    )  # fmt: skip
    for name in (each for names in SECTIONS.values() for each in names):
        if find_spec(f"ops.commands.{name}") is None:
            continue
        command = getattr(import_module(f"ops.commands.{name}"), name)
        if isinstance(command, typer.Typer):
            made.add_typer(command, name=name)
        else:
            made.command(name)(command)

    @made.callback()
    def _all() -> None: ...

    return made


def spread(arguments: Sequence[str]) -> list[str]:
    """Repeat an option that was given several values, as `--input *.jsonl` becomes in a shell.

    >>> spread(["replay", "bank.py", "--input", "a.jsonl", "b.jsonl", "--speed", "10x"])
    ['replay', 'bank.py', '--input', 'a.jsonl', '--input', 'b.jsonl', '--speed', '10x']
    """
    found: list[str] = []
    option, given = "", 0
    for each in arguments:
        if each.startswith("-") and each != "-":
            name, _, value = each.partition("=")
            option, given = (name if name in _LISTS else ""), int(bool(value))
        elif option:
            given += 1
            if given > 1 and not each.split(":")[0].endswith(".py"):  # an app may stand behind the files
                found.append(option)
        found.append(each)
    return found


app = _app()
_MALLOC = {-1: 512 << 20, -3: 64 << 20}  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h, bytes


def _ours_first() -> None:
    """Load our packages before a folder of the user's, on PYTHONPATH or in the current folder, can take their names."""
    root = str(Path(__file__).parents[1])
    sys.path.insert(0, root)
    for name in ("ops", "pipeline", "models", "connectors", "kernels"):
        import_module(name)
    sys.path.remove(root)


def _keep_memory() -> None:
    """Have the C library keep what is freed: batches come and go, and fresh pages cost more than work in them."""
    if sys.platform != "linux":
        return
    import ctypes

    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # musl has none
        for option, value in _MALLOC.items():
            library.mallopt(option, value)


def main() -> None:
    """Run the command line."""
    _keep_memory()
    gc.disable()  # until `ready_kernels`: what imports make is no garbage, and looking for some in it takes time
    _ours_first()
    try:
        app(args=spread(sys.argv[1:]), prog_name="pelton")
    except KeyboardInterrupt:  # while parsing, or while closing
        os._exit(130)


if __name__ == "__main__":  # torchrun -m ops.cli
    main()

"""`pelton dlq`: records that were not applied."""

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from ops.commands.options import DataFolder, Kafka

dlq = typer.Typer(help="Records not applied, and why.", no_args_is_help=True)

AppName = Annotated[str, Argument(metavar="APP", help="The app's file, or its name.")]
Kind = Annotated[str | None, Option(help="Only invalid, future or late ones.", show_default=False)]
StreamName = Annotated[str | None, Option(help="Only those of this stream.", show_default=False)]


@dlq.command("list")
def list_(
    app: AppName,
    kind: Kind = None,
    stream: StreamName = None,
    limit: Annotated[int, Option(min=1, help="At most so many.")] = 20,
    kafka: Kafka = None,
    data_folder: DataFolder = None,
) -> None:
    """List dead letters: number, kind and cause, oldest first.

    \b
    For example: pelton dlq list bank.py --kind late
                 pelton dlq list bank --kafka localhost:9092
    """
    from ops.app_names import app_name
    from ops.letters import Wanted, letters
    from ops.opened import opened_log
    from ops.settings import Settings
    from ops.terminal import note, say, table

    name = app_name(app)
    with opened_log(Settings.read(data_folder), kafka, name) as log:
        found = list(islice(letters(log, name, Wanted((), kind, stream)), limit + 1))
    if not found:
        say("No dead letters of this kind." if kind or stream else "No dead letters.")
        return
    table(
        ("number", "stream", "offset", "kind", "cause"),
        [(each.number, each.letter.stream, each.letter.offset, each.letter.kind, each.letter.cause)
         for each in found[:limit]],
    )  # fmt: skip
    if len(found) > limit:
        note(f"... and more; see them with --limit {10 * limit}")
    note(f"Read one: pelton dlq show {app} {found[0].number}")


@dlq.command()
def show(
    app: AppName,
    number: Annotated[int, Argument(help="As `pelton dlq list` prints it.")],
    raw: Annotated[bool, Option("--raw", help="Only the original bytes, to correct them in a file.")] = False,
    kafka: Kafka = None,
    data_folder: DataFolder = None,
) -> None:
    """Show a dead letter with its original bytes; those of sensitive streams need the key.

    \b
    For example: pelton dlq show bank.py 3 --raw > fixed.jsonl
    """
    from ops.app_names import app_name
    from ops.letters import LettersError, one_letter, shown
    from ops.opened import opened_log
    from ops.settings import Settings
    from ops.terminal import facts, say

    settings = Settings.read(data_folder)
    _, sealer = settings.secrets()
    name = app_name(app)
    with opened_log(settings, kafka, name, sealer) as log:
        found = one_letter(log, name, number, sealer)
    letter, hidden = found.letter, found.sealed and sealer is None
    if raw:
        if hidden:
            raise LettersError(f"letter {number} is encrypted and there is no key; set PELTON_KEY")
        typer.echo(letter.raw.rstrip(b"\n"))
        return
    facts([
        ("number", found.number), ("stream", letter.stream), ("partition", letter.partition),
        ("offset", letter.offset), ("kind", letter.kind), ("cause", letter.cause),
        ("encrypted", "yes" if found.sealed else "no"),
    ])  # fmt: skip
    say("(encrypted, and there is no key; set PELTON_KEY)" if hidden else shown(letter.raw))


@dlq.command()
def redrive(
    app: AppName,
    numbers: Annotated[list[int] | None, Argument(metavar="NUMBER", help="Which letters.")] = None,
    kind: Kind = None,
    stream: StreamName = None,
    limit: Annotated[int | None, Option(min=1, help="At most so many.", show_default=False)] = None,
    every: Annotated[bool, Option("--all", help="All of them.")] = False,
    fix: Annotated[
        Path | None, Option(metavar="FILE", help="The corrected record of one letter.", show_default=False)
    ] = None,
    kafka: Kafka = None,
    data_folder: DataFolder = None,
) -> None:
    """Send dead letters in again; each is applied once, however often it is sent.

    \b
    For example: pelton dlq redrive bank.py 3 --fix fixed.jsonl
                 pelton dlq redrive bank.py --kind late
    """
    import time

    from ops.app_names import app_name
    from ops.letters import LettersError, Wanted, letters, read_fix
    from ops.letters import redrive as send
    from ops.opened import opened_log
    from ops.settings import Settings
    from ops.terminal import say

    if not (numbers or kind or stream or every):
        raise LettersError("which letters? give their numbers, --kind, --stream or --all")
    name, settings = app_name(app), Settings.read(data_folder)
    fixed = read_fix(fix) if fix is not None else None
    _, sealer = settings.secrets()
    with opened_log(settings, kafka, name, sealer) as log:
        chosen = list(islice(letters(log, name, Wanted(tuple(numbers or ()), kind, stream), sealer), limit))
        absent = sorted(set(numbers or ()) - {each.number for each in chosen}) if limit is None else []
        if absent:
            raise LettersError(f"there is no dead letter {absent[0]} of this kind; see: pelton dlq list {app}")
        sent = send(log, name, chosen, fixed, time.time_ns() // 1_000_000)
    if not sent:
        say("No dead letters of this kind; nothing was sent.")
    for topic, count in sent.items():
        say(f"{topic}: {count:,} sent again. `pelton run` applies each once; what is still wrong comes back.")

"""`pelton doctor`."""

import typer

from ops.commands.options import DataFolder


def doctor(data_folder: DataFolder = None) -> None:
    """Check this machine, and say how to repair what does not work.

    \b
    For example: pelton doctor
    """
    from ops.doctor import checks, healthy
    from ops.settings import Settings
    from ops.terminal import say

    settings = Settings.read(data_folder)
    found = checks(settings.data, settings.key_file)
    width = max(len(check.name) for check in found)
    for check in found:
        mark = typer.style("ok ", fg="green") if check.ok else typer.style("BAD", fg="red", bold=True)
        say(f"{mark}  {check.name.ljust(width)}  {check.found}" + (f"  -> {check.advice}" if check.advice else ""))
    if not healthy(found):
        raise typer.Exit(1)
    say("Everything that is needed works.")

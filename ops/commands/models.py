"""`pelton models`: bundles and what serves."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from ops.commands.options import DataFolder, SomeData

if TYPE_CHECKING:
    from models.registry import Registry

models = typer.Typer(help="Which model serves.", no_args_is_help=True)

TaskName = Annotated[str, Argument(metavar="TASK", help="The task's name.")]


def _now_ms() -> int:
    import time

    return time.time_ns() // 1_000_000


def _open(data_folder: Path | None, make: bool = False) -> "Registry":
    from ops.settings import Settings, SettingsError

    settings = Settings.read(data_folder)
    registry = settings.open_registry(make=make)
    if registry is None:
        raise SettingsError(f"there is no registry in {settings.data} yet; fill it: pelton train APP --data FILE")
    return registry


@models.command("list")
def list_(
    task: Annotated[str | None, Argument(metavar="TASK", help="Only of this task.", show_default=False)] = None,
    data_folder: DataFolder = None,
) -> None:
    """List bundles and learner snapshots, oldest first, and which serve.

    \b
    For example: pelton models list risk
    """
    from ops.terminal import say, table
    from ops.views.model import version_rows

    versions = _open(data_folder).versions(task)
    if not versions:
        say(f"No bundle of {task!r} yet." if task else "No bundle yet. Make one: pelton train APP --data FILE")
        return
    table(("serves", "task", "id", "kind", "made", "figures", "name"), version_rows(versions))


@models.command()
def show(
    task: TaskName,
    id: Annotated[str | None, Argument(metavar="ID", help="Its first digits; what serves, if not given.")] = None,
    data_folder: DataFolder = None,
) -> None:
    """Show a bundle or snapshot: figures, provenance, and who let it serve when.

    \b
    For example: pelton models show risk 41c9e2
    """
    from ops.terminal import facts, say, table
    from ops.views.model import history_rows, version_facts

    registry = _open(data_folder)
    version = registry.show(task, id or str(registry.serving(task)))
    facts(version_facts(version))
    history = history_rows(registry.audit(task), version)
    if history:
        say()
        table(("when", "who", "what", "change"), history)


@models.command()
def inspect(
    version: Annotated[str, Argument(metavar="VERSION|DIR", help="A version's first digits, or a bundle's folder.")],
    app: Annotated[
        str | None, Option("--app", "-a", metavar="APP", help="The app's file, with --data.", show_default=False)
    ] = None,
    data: SomeData = None,
    plots: Annotated[
        Path | None, Option(metavar="DIR", help="Where plots and inspection.json go.", show_default=False)
    ] = None,
    data_folder: DataFolder = None,
) -> None:
    """Look into a network: sizes, load of the experts, routing, attention, how its training went.

    Experts, routing and attention are those of the events in --data; without any, the load is that of the training.

    \b
    For example: pelton models inspect 41c9e2
                 pelton models inspect 41c9e2 --app bank.py --data payments.jsonl frauds.jsonl --plots plots
    """
    from ops.extras import PLOTS, QUANTIZER, need
    from ops.inputs import open_inputs
    from ops.settings import Settings
    from ops.terminal import ready_kernels, say, stages
    from pipeline.loading import load_app

    need(QUANTIZER, "the network's file is read with it")
    need(PLOTS * (plots is not None), "plots are drawn with it")
    from ops.training.inspecting import InspectionError, find_version, inspect_bundle, with_data
    from ops.views.network import show

    if bool(app) != bool(data):
        raise InspectionError("--app and --data belong together: the app computes the features of the data's events")
    settings = Settings.read(data_folder)
    found = inspect_bundle(find_version(settings, version))
    if app is not None:
        loaded = load_app(app)
        opened = open_inputs(loaded, data or [])
        ready_kernels()
        tokeniser, _ = settings.secrets(loaded, make=True)
        with stages() as step:
            found = with_data(found, loaded, opened, step, tokeniser)
    show(found)
    if plots is not None:
        from ops.training.inspection_plots import write_plots

        paths = write_plots(found, plots)
        (plots / "inspection.json").write_bytes(found.to_json())
        say(f"\nwritten: {', '.join(str(path) for path in [*paths, plots / 'inspection.json'])}")


@models.command()
def promote(
    task: TaskName,
    id: Annotated[str, Argument(metavar="ID|DIR", help="A version's first digits, or a folder with a bundle.")],
    data_folder: DataFolder = None,
) -> None:
    """Let a bundle or a snapshot serve; running processes follow within 2 seconds.

    \b
    For example: pelton models promote risk 41c9e2
    """
    from ops.terminal import say
    from ops.training.registering import user_name

    is_folder = (Path(id) / "bundle.json").is_file()
    registry = _open(data_folder, make=is_folder)
    if is_folder:
        id = registry.add_bundle(task, Path(id), user_name(), _now_ms())
    was, now = registry.promote(task, id, user_name(), _now_ms())
    undo = f"pelton models rollback {task} --to {was}" if was is not None else "none, it is the first that serves"
    say(f"{task}: {was or 'nothing'} -> {now}. Undo: {undo}")


@models.command()
def rollback(
    task: TaskName,
    to: Annotated[str | None, Option(metavar="ID", help="What shall serve; the bundle before, if not given.")] = None,
    data_folder: DataFolder = None,
) -> None:
    """Let an earlier version serve again, with the learner's state it had.

    \b
    For example: pelton models rollback risk --to 41c9e2
    """
    from ops.terminal import say
    from ops.training.registering import user_name

    was, now = _open(data_folder).rollback(task, user_name(), _now_ms(), to)
    say(f"{task}: {was} -> {now}. Undo: pelton models rollback {task} --to {was}")

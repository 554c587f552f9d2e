"""What decides when no worker runs: the live models of the registry, one bundle that was asked for, or rules alone."""

from __future__ import annotations

from pathlib import Path

from models.bundle import Bundle, BundleError, read_bundle
from ops.settings import Settings
from pipeline.app import AnyTask, App
from pipeline.decisions import Served
from pipeline.errors import nearest
from pipeline.kinds import scorer_of


def served_for(app: App, settings: Settings, wanted: str | None) -> tuple[dict[str, Served], list[str]]:
    """Return what decides each task that has models, and a note for each task that rules decide alone.

    Args:
        app: whose tasks.
        settings: where the registry is.
        wanted: a folder with a bundle, or the first digits of a version's id; None for what serves.

    Raises:
        BundleError: a bundle is damaged, or was made for other features or another app.
        RegistryError: no version has that id.
        RuntimeRefusedError: a GPU is required, and none can be used.
    """
    if wanted is not None:
        bundle = find_bundle(app, settings, wanted)
        task = _task_of(app, bundle)
        return {task.name: Served(scorer_of(task, app.plans[task.on.name], bundle, None, settings.gpu), bundle.id)}, []
    found, notes = {}, []
    registry = settings.open_registry()
    for task in (each for each in app.tasks if each.model or each.learner):
        if registry is None or not registry.generation(task.name):
            notes.append(f"no model serves {task.name} yet, rules decide alone; make one: pelton train APP --data FILE")
            continue
        live = registry.live(task.name)
        scorer = scorer_of(task, app.plans[task.on.name], live.bundle, live.snapshot, settings.gpu)
        found[task.name] = Served(scorer, live.serving.bundle, live.serving.snapshot or "")
    return found, notes


def find_bundle(app: App, settings: Settings, wanted: str) -> Bundle:
    """Return the bundle in a folder, or of the registry by the first digits of its id.

    Raises:
        BundleError: there is none, it is damaged, or it is a learner's snapshot.
    """
    if (Path(wanted) / "bundle.json").is_file():
        return read_bundle(Path(wanted))
    registry = settings.open_registry()
    if registry is None or "/" in wanted:
        raise BundleError(f"{wanted} is no folder with a bundle.json, and no id in a registry; see: pelton models list")
    problems = []
    for task in app.tasks:
        try:
            version = registry.show(task.name, wanted)
        except ValueError as error:
            problems.append(str(error))
            continue
        if version.kind == "snapshot":
            raise BundleError(f"{wanted} is a learner's snapshot of bundle {version.bundle}; name a bundle")
        return read_bundle(settings.bundles / "bundles" / task.name / version.id)
    raise BundleError(problems[0])


def bundle_of(app: App, settings: Settings, task: AnyTask, wanted: str | None) -> tuple[Bundle, bytes | None]:
    """Return a bundle of a task as `find_bundle` does, or what serves, then with the newer state of its learner.

    Raises:
        BundleError: there is none, it is damaged, or of another task.
    """
    if wanted is not None:
        bundle = find_bundle(app, settings, wanted)
        if bundle.meta.task != task.name:
            raise BundleError(f"bundle {bundle.id} was made for task {bundle.meta.task!r}, not for {task.name!r}")
        return bundle, None
    registry = settings.open_registry()
    if registry is None or not registry.generation(task.name):
        raise BundleError(f"no bundle serves {task.name} yet; name one: --bundle DIR, or make one: pelton train")
    live = registry.live(task.name)
    return live.bundle, live.snapshot


def _task_of(app: App, bundle: Bundle) -> AnyTask:
    names = [task.name for task in app.tasks]
    if bundle.meta.task not in names:
        advice = nearest(bundle.meta.task, names)
        raise BundleError(f"bundle {bundle.id} was made for task {bundle.meta.task!r}, not of this app; {advice}")
    return app.task(bundle.meta.task)

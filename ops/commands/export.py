"""`pelton export`."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from ops.commands.options import App, DataFolder


def export(
    app: App,
    bundle: Annotated[str, Argument(metavar="DIR|ID", help="Of a task on images.")],
    out: Annotated[Path, Option(metavar="DIR", help="Folder to make.")] = Path("edge"),
    data: Annotated[
        list[str] | None,
        Option(
            "--data",
            metavar="FILE",
            show_default=False,
            help="Labelled images to judge it by, beside the bundle; NAME=FILE says of which stream.",
        ),
    ] = None,
    test_start: Annotated[
        str | None, Option(metavar="TIME", help="With --data: only images from then on.", show_default=False)
    ] = None,
    data_folder: DataFolder = None,
) -> None:
    """Write a defect network for a device at the line: below 3 MB, and nothing but numpy and onnxruntime.

    \b
    For example: pelton export ops/demo/surfaces.py bundles/defect-41c9e2 --out edge
                 pelton export ops/demo/surfaces.py 41c9e2 --data photos.jsonl inspections.jsonl --test-start 2026-03-01
    """  # fmt: skip
    from ops.edge import write_edge
    from ops.extras import QUANTIZER, need
    from ops.served import find_bundle
    from ops.settings import Settings
    from ops.terminal import note, say
    from pipeline.loading import load_app

    need(QUANTIZER, "the network's file is written with it")
    loaded = load_app(app)
    found = find_bundle(loaded, Settings.read(data_folder), bundle)
    made = write_edge(found, out)
    say(f"{made.folder}: {made.size_bytes / 1e6:.2f} MB for the network, of {made.was_bytes / 1e6:.2f} MB")
    say(f"probabilities differ by {made.largest_difference:.4f} at most on {made.images} made-up images")
    if data:
        _judge(loaded, found, made.folder, data, test_start)
    elif made.changed:
        note(f"{made.changed} of them change their class; judge it on images of yours: --data FILE")
    say(f"Try it there: python {made.folder}/defects.py IMAGES.npy")


def _judge(app: Any, bundle: Any, folder: Path, files: list[str], since: str | None) -> None:
    """Print how good the folder is beside the bundle."""
    from ops.edge import judge_edge
    from ops.inputs import open_inputs
    from ops.terminal import stages, table
    from ops.times import read_time
    from ops.training.contents import read_contents
    from ops.training.found import pairs_table

    task = app.task(bundle.meta.task)
    with stages() as step:
        photos = read_contents(app, task, open_inputs(app, files), None, step)
    photos = photos.where(photos.told("label") & (photos.times_ms >= (read_time(since) or 0)))
    table(*pairs_table(judge_edge(bundle, folder, photos), "device"))

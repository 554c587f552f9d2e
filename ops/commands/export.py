"""`pelton export`."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from ops.commands.options import App, DataFolder


def export(
    app: App,
    bundle: Annotated[str, Argument(metavar="DIR|ID", help="Of a task on images.")],
    out: Annotated[Path, Option(metavar="DIR", help="Folder to make.")] = Path("edge"),
    data_folder: DataFolder = None,
) -> None:
    """Write a defect network for a device at the line: below 3 MB, and nothing but numpy and onnxruntime.

    \b
    For example: pelton export ops/demo/surfaces.py bundles/defect-41c9e2 --out edge
    """
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
    if made.changed:
        note(f"{made.changed} of them change their class; judge it on images of yours before it decides")
    say(f"Try it there: python {made.folder}/defects.py IMAGES.npy")

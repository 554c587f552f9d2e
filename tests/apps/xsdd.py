"""Photographs of hot-rolled steel (X-SDD), 7 classes of defects and none for sound surfaces, by a fixed split.

Data: a folder for each class, as in https://github.com/Fighter20092392/X-SDD-A-New-benchmark. Of each class, with
its files sorted by name, those with an index i where i % 10 is 2, 5 or 8 are the test. Write them as streams, the
test a day later, and judge:

    python -m tests.apps.xsdd FOLDER OUT
    pelton evaluate tests/apps/xsdd.py --data OUT/photos.jsonl OUT/inspections.jsonl --test-start 2026-01-06 --epochs 60
"""

import base64
import json
import sys
from pathlib import Path

import numpy as np

from pipeline import App, DefectTask, ImageField, Stream

photos = Stream("photos", id="photo_id", time="ts", fields={"image": ImageField(size=128, channels=1)})
inspections = Stream("inspections", id="photo_id", time="inspected_at", fields={"defect": "string"})
defect = DefectTask("defect", on=photos, image=photos.image, label=inspections.defect, sound=None)
app = App("xsdd", tasks=[defect])

TRAINING_MS, TEST_MS = 1_767_571_200_000, 1_767_657_600_000  # 2026-01-05 and 06
TEST_PLACES = (2, 5, 8)


def write(folder: Path, out: Path) -> None:
    """Write the photographs and labels of a folder as streams: training in a shuffled order, then the test."""
    found = [
        (each, place % 10 in TEST_PLACES)
        for kind in sorted(path for path in folder.iterdir() if path.is_dir())
        for place, each in enumerate(sorted(kind.iterdir()))
    ]
    out.mkdir(parents=True, exist_ok=True)
    counts = [0, 0]
    with (out / "photos.jsonl").open("w") as pictures, (out / "inspections.jsonl").open("w") as labels:
        for row in sorted(np.random.default_rng(0).permutation(len(found)), key=lambda row: found[row][1]):
            path, is_test = found[row]
            ts = (TEST_MS if is_test else TRAINING_MS) + 1000 * counts[is_test]
            counts[is_test] += 1
            image = base64.b64encode(path.read_bytes()).decode()
            pictures.write(json.dumps({"photo_id": f"x{row}", "ts": ts, "image": image}) + "\n")
            label = {"photo_id": f"x{row}", "inspected_at": ts + 1, "defect": path.parent.name}
            labels.write(json.dumps(label) + "\n")
    print(f"{counts[False]} photographs to learn from, {counts[True]} to judge by, in {out}")


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))

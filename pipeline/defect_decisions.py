"""From images to decisions: whether there is a defect, which, and where."""

from __future__ import annotations

import base64

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from connectors.images import ImageError, Pixels, pixels_of
from models.defect_scorer import DefectScorer
from models.defects import DefectScores, gray_png
from models.threshold import ALLOW, BLOCK, REVIEW
from pipeline.decisions import COMMON, NetworkDecider, Served, common_columns
from pipeline.defects import DefectTask
from pipeline.engine import Featured

DEFECT_SCORES = pa.list_(pa.struct([("defect", pa.string()), ("score", pa.float64())]))
SCHEMA = pa.schema([*COMMON, ("defect", pa.string()), ("defect_scores", DEFECT_SCORES), ("heat_map", pa.string())])
TOGETHER = 64  # images that are in memory at once
LIKELY = 0.5  # score from which on a defect is likelier than none


class DefectDecider(NetworkDecider):
    """Decides the images of one task, in log order.

    The score of a decision is the probability of a defect, the threshold the line of its bundle. `heat_map` of what is
    not allowed is a PNG as a `data:` URL: bright is where the defect is. Without a model every image is reviewed, and
    so is one that cannot be read.
    """

    def __init__(self, task: DefectTask) -> None:
        super().__init__(SCHEMA)
        self.task = task

    def decide(self, featured: Featured, served: Served) -> pa.RecordBatch:
        """Return one row per image."""
        scorer, count = served.scorer, len(featured)
        assert scorer is None or isinstance(scorer, DefectScorer)
        values = featured.rows.column(self.task.image.name)
        looked: list[_Looked] = []
        for first in range(0, count, TOGETHER):
            looked += self._look(values.slice(first, TOGETHER).to_pylist(), served)
        line = scorer.card.threshold if scorer is not None else None
        classes = scorer.card.classes if scorer is not None else ()
        columns = [
            *common_columns(
                self.task, featured, served, np.array([each.code for each in looked], np.int64),
                pa.array([each.score for each in looked], pa.float64()),
                pa.array([line if each.score is not None else None for each in looked], pa.float64()),
                pa.array([each.reasons for each in looked], pa.list_(pa.string())),
            ),
            pa.array([each.defect for each in looked], pa.string()),
            pa.array([_by_name(classes, each.classes) for each in looked], DEFECT_SCORES),
            pa.array([each.heat_map for each in looked], pa.string()),
        ]  # fmt: skip
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _look(self, values: list[str | None], served: Served) -> list[_Looked]:
        scorer = served.scorer
        assert scorer is None or isinstance(scorer, DefectScorer)
        found: list[_Looked] = []
        images: list[Pixels] = []
        readable: list[int] = []
        for place, value in enumerate(values):
            found.append(_Looked([]))
            if scorer is None:
                continue
            try:
                if value is None:
                    raise ImageError("there is no image")
                images.append(pixels_of(value, self.task.image_field))
                readable.append(place)
            except ImageError as cause:  # of a place that is gone by now; images in records were judged before
                found[place].reasons = [str(cause)]
        if scorer is not None and images:
            scores = served.ask(self.task.name, scorer.score, np.stack(images))
            for row, place in enumerate(readable):
                _fill(found[place], row, scores, scorer)
            alerts = [row for row, place in enumerate(readable) if found[place].code != ALLOW]
            maps = scorer.heat_maps(_some(scores, alerts))
            for row, drawn in zip(alerts, maps, strict=True):
                found[readable[row]].heat_map = "data:image/png;base64," + base64.b64encode(gray_png(drawn)).decode()
                found[readable[row]].reasons = [_in_words(found[readable[row]], drawn)]
        return found


class _Looked:
    """What became of one image; as it is made, it could not be read or nothing could look at it."""

    def __init__(self, reasons: list[str]) -> None:
        self.code, self.reasons = REVIEW, reasons
        self.score: float | None = None
        self.defect: str | None = None
        self.classes: list[float] | None = None
        self.heat_map: str | None = None


def _fill(looked: _Looked, row: int, scores: DefectScores, scorer: DefectScorer) -> None:
    score = float(scores.score[row])
    above = score >= scorer.card.threshold
    looked.code = BLOCK if above and score >= LIKELY else REVIEW if above else ALLOW
    looked.score, looked.defect = score, scorer.card.classes[int(scores.best[row])]
    looked.classes = scores.classes[row].tolist()


def _some(scores: DefectScores, rows: list[int]) -> DefectScores:
    return DefectScores(scores.score[rows], scores.classes[rows], scores.best[rows], scores.evidence[rows])


def _in_words(looked: _Looked, drawn: NDArray[np.uint8]) -> str:
    down, right = np.unravel_index(int(drawn.argmax()), drawn.shape)
    across, below = (round(100 * int(at) / size) for at, size in ((right, drawn.shape[1]), (down, drawn.shape[0])))
    return f"{looked.defect}, most of all {across} % from the left and {below} % from the top"


def _by_name(classes: tuple[str, ...], scores: list[float] | None) -> list[dict[str, object]] | None:
    """Return the classes, the likeliest first."""
    if scores is None:
        return None
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    return [{"defect": classes[place], "score": scores[place]} for place in order]

"""What the user declares about a defect task: which image to look at, and what inspectors say about it later."""

from __future__ import annotations

from dataclasses import dataclass, field

from connectors.images import ImageField
from pipeline.declared import ReadByNetwork
from pipeline.errors import caller_place
from pipeline.stream import Stream
from pipeline.windows import Column


@dataclass(frozen=True, eq=False)
class DefectTask(ReadByNetwork):
    """Looks at each image of a stream: whether it shows a defect, which, and where.

    An image is "block"ed if a defect is likelier than none and its score is above the line, "review"ed if its score is
    above the line alone or it cannot be read, else "allow"ed. The line is chosen on held-back images, so that the
    wanted share of defects is above it. Where no class stands for sound surfaces, every image shows a defect and is
    blocked; the class is what is asked for.

    Attributes:
        name: of the task.
        on: the stream whose images are looked at.
        image: its field that is declared as an image.
        label: the field of a stream of labels that names the defect.
        sound: the label of a surface without a defect; None if there are no such images.
        recall: share of defects that shall be found.
        quarter_turns: whether an image means the same after a quarter turn, as on surfaces without a direction; used
            in training. Mirrored it always does.
        entity: the field that reports count by, for example the production line.
        label_wait: how long after its image a label is still joined to it.
        precedence: "high", "normal" or "low": whose turn it is where tasks of an app want the processor at once.
        budget_ms: how old an image may be when it is decided, in milliseconds; when that is predicted to be missed,
            nothing looks at it and it is reviewed. None never falls back.
    """

    name: str
    on: Stream
    image: Column
    label: Column | None = None
    sound: str | None = "none"
    recall: float = 0.98
    quarter_turns: bool = True
    entity: str | None = None
    label_wait: str = "14d"
    precedence: str = "normal"
    budget_ms: float | None = None
    place: str = field(default_factory=caller_place)

    def __post_init__(self) -> None:
        """Check everything that does not need the other tasks."""
        self.check_common()
        self.check_content(self.image, ImageField, "looks at", "an image")
        self.check_label("label", self.label)
        self.check_share("recall", "defects")

    @property
    def image_field(self) -> ImageField:
        """How the image is read."""
        content = self.image.field.content
        assert isinstance(content, ImageField)
        return content

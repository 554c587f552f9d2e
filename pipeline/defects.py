"""What the user declares about a defect task: which image to look at, and what inspectors say about it later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from connectors.images import ImageField
from pipeline.durations import duration_ms
from pipeline.errors import DeclarationError, caller_place
from pipeline.stream import Stream, _checked_name
from pipeline.windows import Column

if TYPE_CHECKING:
    from pipeline.app import Rule


@dataclass(frozen=True, eq=False)
class DefectTask:
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
    place: str = field(default_factory=caller_place)

    features: ClassVar[Mapping[str, str]] = {}
    rules: ClassVar[tuple[Rule, ...]] = ()
    model: ClassVar[str | None] = "moe"
    learner: ClassVar[str | None] = None
    threshold: ClassVar[None] = None
    label_types: ClassVar[tuple[str, ...]] = ("string",)

    def __post_init__(self) -> None:
        """Check everything that does not need the other tasks."""
        _checked_name(self.name, "task")
        if self.image.stream is not self.on or not isinstance(self.image.field.content, ImageField):
            what = f"give a field of {self.on.name!r} that is declared as an image"
            raise DeclarationError(f"task {self.name!r} looks at {self.image!r}; {what}", self.place)
        if self.label is not None and (self.label.stream is self.on or self.label.field.type != "string"):
            problem = f"its label is {self.label!r}, a {self.label.field.type}; give a string of a stream of labels"
            raise DeclarationError(f"task {self.name!r}: {problem}", self.place)
        if not 0.5 <= self.recall < 1:
            problem = f"recall is {self.recall}; it is a share of defects, 0.5 or more and below 1"
            raise DeclarationError(f"task {self.name!r}: {problem}", self.place)

    @property
    def image_field(self) -> ImageField:
        """How the image is read."""
        content = self.image.field.content
        assert isinstance(content, ImageField)
        return content

    @property
    def label_wait_ms(self) -> int:
        """How long after its image a label still counts, 0 without labels."""
        return duration_ms(self.label_wait, "label_wait") if self.label is not None else 0

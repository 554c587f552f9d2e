"""What the declarations of all kinds of tasks have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.durations import duration_ms
from pipeline.errors import DeclarationError, nearest
from pipeline.stream import Stream, checked_name
from pipeline.windows import Column

if TYPE_CHECKING:
    from pipeline.app import Rule


PRECEDENCES = ("low", "normal", "high")


class Declared:
    """A task of any kind: its label, whom reports count by, how urgent it is, and how mistakes are told."""

    name: str
    on: Stream
    entity: str | None
    label_wait: str
    precedence: str
    budget_ms: float | None
    place: str

    if TYPE_CHECKING:

        @property
        def label(self) -> Column | None:
            """The field of labels that events are joined by."""

    def refused(self, problem: str) -> DeclarationError:
        """Return the error that says what is wrong with the task, and where it stands."""
        return DeclarationError(f"task {self.name!r}{problem}", self.place)

    def check_common(self) -> None:
        """Check name, precedence, budget and entity."""
        checked_name(self.name, "task")
        if self.precedence not in PRECEDENCES:
            raise self.refused(f": its precedence is {self.precedence!r}; it is one of {', '.join(PRECEDENCES)}")
        budget = self.budget_ms
        if budget is not None and not (isinstance(budget, int | float) and 0 < budget < float("inf")):
            raise self.refused(f": budget_ms is {budget!r}; give milliseconds above 0, or None to never fall back")
        if self.entity is not None and self.entity not in self.on.schema.names:
            raise self.refused(f": no field {self.entity!r} to report by; {nearest(self.entity, self.on.schema.names)}")

    @property
    def label_wait_ms(self) -> int:
        """How long after its event a label still counts, 0 without labels."""
        return duration_ms(self.label_wait, "label_wait") if self.label is not None else 0


class ReadByNetwork(Declared):
    """A task whose network reads a text or looks at an image: it has no features, no rules and no learner."""

    features: ClassVar[Mapping[str, str]] = {}
    rules: ClassVar[tuple[Rule, ...]] = ()
    model: ClassVar[str | None] = "moe"
    learner: ClassVar[str | None] = None
    threshold: ClassVar[None] = None
    label_types: ClassVar[tuple[str, ...]] = ("string",)

    def check_content(self, column: Column, kind: type[Any], does: str, what: str) -> None:
        """Check that a column is a field of the stream that holds what the network takes."""
        if column.stream is not self.on or not isinstance(column.field.content, kind):
            raise self.refused(f" {does} {column!r}; give a field of {self.on.name!r} that is declared as {what}")

    def check_label(self, what: str, column: Column | None) -> None:
        """Check that a label, if there is one, is a text of another stream."""
        if column is not None and (column.stream is self.on or column.field.type != "string"):
            problem = f"its {what} is {column!r}, a {column.field.type}; give a string of a stream of labels"
            raise self.refused(f": {problem}")

    def check_share(self, name: str, of: str) -> None:
        """Check an attribute that is a share."""
        share = getattr(self, name)
        if not 0.5 <= share < 1:
            raise self.refused(f": {name} is {share}; it is a share of {of}, 0.5 or more and below 1")

"""What the user declares about a support task: which text to read, and what there is to learn and to offer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from connectors.schema import TextField
from pipeline.durations import duration_ms
from pipeline.errors import DeclarationError, caller_place, nearest
from pipeline.stream import Stream, _checked_name
from pipeline.windows import Column

if TYPE_CHECKING:
    from pipeline.app import Rule

OUT_OF_SCOPE = "out_of_scope"  # the intent of labels that say: none of ours
ARTICLES_MAX = 20


@dataclass(frozen=True, eq=False)
class SupportTask:
    """Reads each message of a stream: what its writer wants, how urgent it is, which articles answer it.

    A message whose intent is none of those learned, or is not clear, is decided "review"; others are "allow"ed to go on
    by themselves.

    Attributes:
        name: of the task.
        on: the stream whose messages are read.
        text: its field of type "text".
        intent: the field of a stream of labels that says what a message wanted; "out_of_scope": nothing that we know.
        priority: the field of the same stream that says how urgent it was.
        article: the field of labels that says which article answered; evaluation compares with it.
        articles: a file with the knowledge base: a JSON object a line, with "id", "title" and "body". A path that is
            not absolute is seen from the app's file.
        articles_top: how many articles a decision names.
        accept: share of messages within scope that shall pass without review; the line is chosen on held-back messages.
        entity: the field that reports count by, for example the customer.
        label_wait: how long after its message a label is still joined to it.
    """

    name: str
    on: Stream
    text: Column
    intent: Column | None = None
    priority: Column | None = None
    article: Column | None = None
    articles: str | None = None
    articles_top: int = 3
    accept: float = 0.95
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
        if self.text.stream is not self.on or not isinstance(self.text.field.content, TextField):
            what = f"give a field of {self.on.name!r} that is declared as text"
            raise DeclarationError(f"task {self.name!r} reads {self.text!r}; {what}", self.place)
        if self.intent is None and self.articles is None:
            problem = (
                "has neither intents to learn nor articles to offer; give it intent=labels.intent or articles=FILE"
            )
            raise DeclarationError(f"task {self.name!r} {problem}", self.place)
        labels = (("intent", self.intent), ("priority", self.priority), ("article", self.article))
        for what, column in labels:
            if column is not None and (column.stream is self.on or column.field.type != "string"):
                problem = f"its {what} is {column!r}, a {column.field.type}"
                raise DeclarationError(
                    f"task {self.name!r}: {problem}; give a string of a stream of labels", self.place
                )
        if self.priority is not None and self.intent is None:
            raise DeclarationError(f"task {self.name!r} has a priority and no intent; give it one", self.place)
        if len({column.stream.name for _, column in labels if column is not None}) > 1:
            problem = "intent, priority and article come from different streams; give them in one label"
            raise DeclarationError(f"task {self.name!r}: {problem}", self.place)
        if self.entity is not None and self.entity not in self.on.schema.names:
            advice = nearest(self.entity, self.on.schema.names)
            raise DeclarationError(f"task {self.name!r}: no field {self.entity!r} to report by; {advice}", self.place)
        if not 1 <= self.articles_top <= ARTICLES_MAX:
            problem = f"articles_top is {self.articles_top}; choose between 1 and {ARTICLES_MAX}"
            raise DeclarationError(f"task {self.name!r}: {problem}", self.place)
        if not 0.5 <= self.accept < 1:
            problem = f"accept is {self.accept}; it is a share of messages, 0.5 or more and below 1"
            raise DeclarationError(f"task {self.name!r}: {problem}", self.place)

    @property
    def label(self) -> Column | None:
        """The field of labels that events are joined by."""
        return self.intent if self.intent is not None else self.article

    @property
    def label_wait_ms(self) -> int:
        """How long after its message a label still counts, 0 without labels."""
        return duration_ms(self.label_wait, "label_wait") if self.label is not None else 0

    @property
    def articles_path(self) -> Path | None:
        """Where the knowledge base is, seen from the app's file."""
        if self.articles is None:
            return None
        return Path(self.place.rpartition(":")[0]).parent / self.articles

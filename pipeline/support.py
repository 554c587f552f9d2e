"""What the user declares about a support task: which text to read, and what there is to learn and to offer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from connectors.schema import TextField
from pipeline.declared import ReadByNetwork
from pipeline.errors import caller_place
from pipeline.stream import Stream
from pipeline.windows import Column

OUT_OF_SCOPE = "out_of_scope"  # the intent of labels that say: none of ours
ARTICLES_MAX = 20


@dataclass(frozen=True, eq=False)
class SupportTask(ReadByNetwork):
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
        precedence: "high", "normal" or "low": whose turn it is where tasks of an app want the processor at once.
        budget_ms: how old a message may be when it is decided, in milliseconds; when that is predicted to be missed,
            it is not read but reviewed. None never falls back.
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
    precedence: str = "low"
    budget_ms: float | None = None
    place: str = field(default_factory=caller_place)

    def __post_init__(self) -> None:
        """Check everything that does not need the other tasks."""
        self.check_common()
        self.check_content(self.text, TextField, "reads", "text")
        if self.intent is None and self.articles is None:
            raise self.refused(
                " has neither intents to learn nor articles to offer; give it intent=labels.intent or articles=FILE"
            )
        labels = (("intent", self.intent), ("priority", self.priority), ("article", self.article))
        for what, column in labels:
            self.check_label(what, column)
        if self.priority is not None and self.intent is None:
            raise self.refused(" has a priority and no intent; give it one")
        if len({column.stream.name for _, column in labels if column is not None}) > 1:
            raise self.refused(": intent, priority and article come from different streams; give them in one label")
        if not 1 <= self.articles_top <= ARTICLES_MAX:
            raise self.refused(f": articles_top is {self.articles_top}; choose between 1 and {ARTICLES_MAX}")
        self.check_share("accept", "messages")

    @property
    def label(self) -> Column | None:
        """The field of labels that events are joined by."""
        return self.intent if self.intent is not None else self.article

    @property
    def articles_path(self) -> Path | None:
        """Where the knowledge base is, seen from the app's file."""
        if self.articles is None:
            return None
        return Path(self.place.rpartition(":")[0]).parent / self.articles

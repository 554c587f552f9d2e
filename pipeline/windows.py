"""The vocabulary of features: windows, and what can be asked of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from connectors.schema import Field
from kernels.window_features import TOP_MAX
from pipeline.durations import duration_ms, in_words
from pipeline.errors import DeclarationError, caller_place

if TYPE_CHECKING:
    from pipeline.stream import Stream

FACT_OPERATIONS = ("count", "sum", "mean", "rate")


@dataclass(frozen=True)
class Column:
    """A field of a stream: a feature of the event itself, or the input of a window."""

    stream: Stream
    name: str

    @property
    def field(self) -> Field:
        """The field's type and class."""
        return self.stream.schema.field(self.name)

    def __repr__(self) -> str:
        """Show it as it is written."""
        return f"{self.stream.name}.{self.name}"


@dataclass(frozen=True)
class Derived:
    """A feature computed from fields and other features of the same event."""

    text: str
    place: str = field(compare=False, default="")


@dataclass(frozen=True)
class WindowFeature:
    """One aggregate of one window.

    Attributes:
        operation: what is computed, a method name of `Window`.
        stream, key: whose events, grouped by which field.
        span_ms, delay_ms: the window is (t - delay - span, t - delay].
        input: field or expression that is aggregated, None for counts and times.
        facts: the stream of facts joined by event id that `input` belongs to, None for the stream's own fields.
        parameter: of the operation (quantile in millionths, half life in ms, k of a lag or a share).
    """

    operation: str
    stream: Stream = field(repr=False)
    key: str
    span_ms: int
    delay_ms: int = 0
    input: str | None = None
    facts: Stream | None = field(default=None, repr=False)
    parameter: int = 0
    place: str = field(compare=False, default="", repr=False)

    def in_words(self) -> str:
        """Describe it in a line, for reasons and `pelton plan`."""
        of = f" of {self.input}" if self.input else ""
        delay = f", {in_words(self.delay_ms)} ago" if self.delay_ms else ""
        return f"{self.operation}{of} over {in_words(self.span_ms)}{delay} by {self.key}"


@dataclass(frozen=True)
class Window:
    """The events of a key in (t - delay - span, t - delay], for an event at t. Ask it for an aggregate.

    An aggregate takes a field name ("amount"), a field of a stream of facts (`frauds.is_fraud`), or an expression
    over fields and features ("amount > 3 * amount_mean_30d"). Null adds nothing to numbers; where values are only
    compared (distinct, entropy, seen, changed, top_share) null is a value like any other.
    """

    stream: Stream
    key: str
    span_ms: int
    delay_ms: int = 0

    def count(self, of: Column | str | None = None) -> WindowFeature:
        """How many events; of a field or expression: how many where it is not null."""
        return self._make("count", of)

    def sum(self, of: Column | str) -> WindowFeature:
        """Sum, null if the window holds no value."""
        return self._make("sum", of)

    def mean(self, of: Column | str) -> WindowFeature:
        """Mean, null if the window holds no value."""
        return self._make("mean", of)

    def rate(self, of: Column | str) -> WindowFeature:
        """Share of events for which a bool field or a condition is true."""
        return self._make("rate", of)

    def std(self, of: Column | str) -> WindowFeature:
        """Population standard deviation."""
        return self._make("std", of)

    def min(self, of: Column | str) -> WindowFeature:
        """Smallest value."""
        return self._make("min", of)

    def max(self, of: Column | str) -> WindowFeature:
        """Largest value."""
        return self._make("max", of)

    def last(self, of: Column | str) -> WindowFeature:
        """Newest value that is not null, this event's included."""
        return self._make("last", of)

    def zscore(self, of: Column | str) -> WindowFeature:
        """How many standard deviations this event's value is from the mean of those before it; null below two."""
        return self._make("zscore", of)

    def quantile(self, of: Column | str, q: float) -> WindowFeature:
        """Quantile `q` between 0 and 1, linear between neighbours."""
        if not 0 <= q <= 1:
            raise DeclarationError(f"quantile is asked for q = {q}; choose between 0 and 1")
        return self._make("quantile", of, round(q * 1_000_000))

    def ewm(self, of: Column | str, half_life: str) -> WindowFeature:
        """Mean with weights that halve with every `half_life` of age."""
        half_life_ms = duration_ms(half_life, "half_life")
        if half_life_ms == 0:
            raise DeclarationError(f"half_life is {half_life!r}; it is at least 1ms")
        return self._make("ewm", of, half_life_ms)

    def distinct(self, of: Column | str) -> WindowFeature:
        """How many different values of a field."""
        return self._make("distinct", of)

    def entropy(self, of: Column | str) -> WindowFeature:
        """Entropy, in bits, of the values of a field."""
        return self._make("entropy", of)

    def top_share(self, of: Column | str, k: int = 1) -> WindowFeature:
        """Share of events that have one of the `k` most frequent values."""
        if not 1 <= k <= TOP_MAX:
            raise DeclarationError(f"top_share is asked for k = {k}; choose between 1 and {TOP_MAX}")
        return self._make("top_share", of, k)

    def seen(self, of: Column | str) -> WindowFeature:
        """1 if an event before this one had the same value, else 0: whether a device is known."""
        return self._make("seen", of)

    def changed(self, of: Column | str) -> WindowFeature:
        """1 if the event before this one had another value, 0 if the same, null if there was none."""
        return self._make("changed", of)

    def lag(self, of: Column | str, k: int = 1) -> WindowFeature:
        """Value of the k-th event before this one."""
        return self._make("lag", of, k)

    def lag_seconds(self, k: int = 1) -> WindowFeature:
        """Seconds since the k-th event before this one."""
        return self._make("lag_seconds", None, k)

    def seconds_since_last(self) -> WindowFeature:
        """Seconds since the event before this one."""
        return self._make("seconds_since_last", None)

    def seconds_since_first(self) -> WindowFeature:
        """Seconds since the first event in the window."""
        return self._make("seconds_since_first", None)

    def _make(self, operation: str, of: Column | str | None, parameter: int = 0) -> WindowFeature:
        facts = None
        if isinstance(of, Column):
            facts = of.stream if of.stream is not self.stream else None
            of = of.name
        if facts is not None and operation not in FACT_OPERATIONS:
            known = ", ".join(FACT_OPERATIONS)
            raise DeclarationError(f"{operation} of {facts.name}.{of}: facts joined later can be asked for {known}")
        if self.delay_ms and operation in ("zscore", "seen", "changed", "lag", "lag_seconds", "seconds_since_last"):
            raise DeclarationError(f"{operation} compares an event with those before it; a delay makes no sense there")
        if operation in ("lag", "lag_seconds") and not 1 <= parameter <= 1000:
            raise DeclarationError(f"{operation} is asked for k = {parameter}; choose between 1 and 1000")
        return WindowFeature(
            operation, self.stream, self.key, self.span_ms, self.delay_ms, of, facts, parameter, caller_place()
        )


def hour_of(time: Column) -> Derived:
    """Hour of the day, 0 to 23, in UTC."""
    return Derived(f"hour({time.name})", caller_place())


def weekday_of(time: Column) -> Derived:
    """Day of the week, Monday is 0, in UTC."""
    return Derived(f"weekday({time.name})", caller_place())


def ratio(over: str, under: str) -> Derived:
    """One feature divided by another, null where the second is 0 or null."""
    return Derived(f"({over}) / ({under})", caller_place())

"""An app in words, as an indented tree: what is read, grouped, computed and decided."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from connectors.schema import Field, TextField
from pipeline.app import AnyTask, App, Task
from pipeline.defects import DefectTask
from pipeline.durations import in_words
from pipeline.plan import GroupPlan, StreamPlan
from pipeline.recovery import history_ms, streams_of
from pipeline.stages import CARRIED, FACTS, LINES, ROWS, chain_of, stages_of
from pipeline.stream import Stream
from pipeline.support import SupportTask
from pipeline.windows import Column, Derived, WindowFeature

_KINDS = {"own": "events of {0} by {1}", "facts": "what {0} says about events, by {1}", "other": "events of {0} by {1}"}

_ARRIVES = {LINES: "as sent", CARRIED: "judged", ROWS: "judged", FACTS: "facts"}
_MOVES = {CARRIED: "events", ROWS: "events", FACTS: "what became known about events"}


def lines(app: App) -> Iterator[tuple[int, str]]:
    """Yield (depth, text) for each line of the tree."""
    yield 0, f"app {app.name}"
    for plan in app.plans.values():
        yield 1, f"stream {plan.stream.name} is decided"
        for stream in streams_of(plan).values():
            yield 2, _stream_line(stream)
        for number, (key, _) in enumerate(chain_of(plan), start=1):
            yield 2, f"stage {number}: keyed by {key}"
        yield from _groups(plan)
        yield from _of_the_event(plan)
        yield 2, f"starts anew from {_about(history_ms(plan))} of the log"
    for task in app.tasks:
        yield from _task(task)
    yield from _several(app)


def _several(app: App) -> Iterator[tuple[int, str]]:
    """Say which workers there are on several partitions, and what moves between them."""
    yield 1, "on several partitions: the stages, and the topics between them"
    for stage in stages_of(app, 2):
        what = "decides" if stage.decides else "joins labels to events" if stage.joins else "passes events on"
        yield 2, f"{stage.group}, keyed by {stage.key}: {what}"
        yield 3, "reads " + ", ".join(f"{each.topic} ({_ARRIVES[each.kind]})" for each in stage.inputs)
        for output in stage.outputs:
            features = f" with {len(output.features)} features" if output.features else ""
            yield 3, f"writes {output.topic}: {_MOVES[output.kind]} by {output.key}{features}"


def _about(span_ms: int) -> str:
    """Return a span in whole units, rounded up."""
    unit_ms = next((unit for unit in (86_400_000, 3_600_000, 60_000) if span_ms >= unit), 1000)
    return in_words(-(-span_ms // unit_ms) * unit_ms)


def _stream_line(stream: Stream) -> str:
    fields = ", ".join(
        f"{field.name} {_type(field)}{'?' if field.optional else ''}"
        for field in stream.schema.fields
        if field.name not in (stream.schema.id, stream.schema.time)
    )
    schema = stream.schema
    key = f"topic by {stream.entry_key}"
    return (
        f"reads {stream.name}: id {schema.id}, time {schema.time}, {in_words(stream.lateness_ms)} late, {key}; {fields}"
    )


def _type(field: Field) -> str:
    if field.content is not None:
        return "text" if isinstance(field.content, TextField) else "image"
    return field.sensitive or field.type


def _groups(plan: StreamPlan) -> Iterator[tuple[int, str]]:
    for group in plan.groups:
        level = f", after level {group.level - 1}" if group.level else ""
        yield 2, _KINDS[group.kind].format(group.source.name, group.key) + level
        yield from _windows(plan, group)


def _windows(plan: StreamPlan, group: GroupPlan) -> Iterator[tuple[int, str]]:
    for number, (span_ms, delay_ms) in sorted(enumerate(group.windows), key=lambda each: each[1]):
        yield 3, f"last {in_words(span_ms)}" + (f", {in_words(delay_ms)} ago" if delay_ms else "")
        for (node, _, window), column in zip(group.members, group.outputs, strict=True):
            if window == number:
                yield 4, f"{plan.names[column]} = {_operation(node)}"


def _operation(node: WindowFeature) -> str:
    return node.operation + (f" of {node.input}" if node.input else "")


def _of_the_event(plan: StreamPlan) -> Iterator[tuple[int, str]]:
    named = [(name, node) for name, node in zip(plan.names, plan.nodes, strict=True)
             if isinstance(node, Column | Derived)]  # fmt: skip
    if named:
        yield 2, "from the event itself"
    for name, node in named:
        yield 3, f"{name} = {node.text if isinstance(node, Derived) else node}"


def _task(task: AnyTask) -> Iterator[tuple[int, str]]:
    yield 1, f"task {task.name} decides {task.on.name}"
    if isinstance(task, Task):
        yield 2, f"{len(task.features)} features, threshold {_threshold(task)}"
    elif isinstance(task, DefectTask):
        yield from _defect(task)
    else:
        yield from _support(task)
    for rule in task.rules:
        yield 2, f"rule {rule.name!r}: {rule.when.text} -> {rule.then}"
    models = " + ".join(each for each in (task.model, task.learner) if each)
    yield 2, f"models {models}" if models else "no models: rules decide alone"
    if task.label is not None:
        yield 2, f"learns from {task.label}, joined for {in_words(task.label_wait_ms)}"


def _support(task: SupportTask) -> Iterator[tuple[int, str]]:
    content = task.text.field.content
    yield 2, f"reads {task.text.name}, {content.max_chars:,} characters" if isinstance(content, TextField) else ""
    if task.intent is not None:
        yield 2, f"tells the intent, or that there is none; {task.accept:.0%} of messages with one pass"
    if task.priority is not None:
        yield 2, "tells the priority"
    if task.articles is not None:
        yield 2, f"names up to {task.articles_top} articles of {task.articles}"


def _defect(task: DefectTask) -> Iterator[tuple[int, str]]:
    field = task.image_field
    colours = "brightness" if field.channels == 1 else "colours"
    yield 2, f"looks at {task.image.name}, {field.size} by {field.size} pixels, {colours}"
    if task.sound is not None:
        yield 2, f"finds {task.recall:.0%} of what is not {task.sound!r}"


def _threshold(task: Task) -> str:
    """Return the threshold as it was declared: what has its default is left out."""
    chosen = task.threshold
    given = {each.name: getattr(chosen, each.name) for each in fields(chosen)}
    shown = (f"{each.name}={given[each.name]}" for each in fields(chosen) if given[each.name] != each.default)
    return f"{type(chosen).__name__}({', '.join(shown)})"

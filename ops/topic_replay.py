"""The inputs of `pelton replay`: files, or what an app's topics hold, with the history that windows need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from connectors.log import Log
from ops.inputs import open_inputs
from ops.replaying import ReplayError, Source, replay_files
from ops.settings import Settings
from ops.terminal import note, progress, say
from ops.views.replay import summary
from pipeline.app import App
from pipeline.recovery import history_ms, streams_of

if TYPE_CHECKING:
    from connectors.formats import Decode
    from connectors.secrets import Sealer, Tokeniser
    from pipeline.decisions import Served
    from pipeline.topic_input import TopicInput

MARGIN_MS = 60_000  # between the clocks of brokers and producers


def topic_inputs(app: App, log: Log, since_ms: int | None, decoders: Mapping[str, Decode]) -> dict[str, TopicInput]:
    """Return stream -> what its topic holds.

    Args:
        since_ms: event time from which on features shall be right; None for all that is there.
        decoders: of streams whose messages are no JSON.

    Raises:
        PeltonError: topics are missing or differ in their partitions.
        LogError: the log cannot be read.
    """
    from pipeline.topic_input import TopicInput
    from pipeline.topics import count_partitions

    count, found = count_partitions(app, log), dict[str, TopicInput]()
    for plan in app.plans.values():
        for name, stream in streams_of(plan).items():
            longest_ms = max(history_ms(each) for each in app.plans.values() if name in streams_of(each))
            begin_ms = None if since_ms is None else since_ms - longest_ms - stream.future_tolerance_ms - MARGIN_MS
            found.setdefault(name, TopicInput(log, stream, count, begin_ms, decoders.get(name)))
    return found


@dataclass(frozen=True)
class ReplayInputs:
    """Which inputs a replay was asked for; refused where they do not fit together.

    Attributes:
        files: as of `ops.inputs.match_files`; () with `from_topic`.
        from_topic: what the app's topics hold.
        since_ms: event time from which on features shall be right, of topics only.
        kafka: where the topics are; None for the log of this machine.
        speed: of files only.

    Raises:
        ReplayError: files and topics are both asked for, or what only one of them can do.
    """

    app: App
    settings: Settings
    files: Sequence[str]
    from_topic: bool
    since_ms: int | None
    kafka: str | None
    speed: float | None

    def __post_init__(self) -> None:
        """Refuse what does not fit together."""
        if self.from_topic and self.files:
            raise ReplayError("--from-topic and --input exclude each other; give one of them")
        if self.from_topic and self.speed is not None:
            raise ReplayError("--speed is of files; topics are replayed as fast as possible")
        if not self.from_topic and self.since_ms is not None:
            raise ReplayError("--since goes with --from-topic; files are replayed as a whole")
        if not self.from_topic:
            open_inputs(self.app, self.files)  # a mistake is told before anything else begins

    def open(self, stack: ExitStack, sealer: Sealer | None) -> Mapping[str, Source]:
        """Return stream -> its records from the beginning; the stack closes what must be closed.

        Raises:
            ValueError: files or topics cannot be used, in one sentence.
        """
        if not self.from_topic:
            return open_inputs(self.app, self.files)
        from ops.message_formats import decoders_of  # late: files do without
        from ops.opened import opened_log

        log = stack.enter_context(opened_log(self.settings, self.kafka, self.app, sealer))
        decoders = decoders_of(self.app) if self.kafka is not None else {}
        return topic_inputs(self.app, log, self.since_ms, decoders)


def replay_and_tell(
    source: ReplayInputs,
    output: str | None,
    features_only: bool,
    served: Mapping[str, Served],
    tokeniser: Tokeniser | None,
    sealer: Sealer | None,
    dead: Path | None,
) -> None:
    """Replay, with progress, and print what came out; dead letters go to a file if one is named."""
    app = source.app
    with ExitStack() as stack:
        opened = source.open(stack, sealer)
        with progress("replaying") as step:
            done = replay_files(
                app, opened, output, features_only, source.speed, served, tokeniser,
                lambda read, total, events: step(read, total, f"{events:,} events"), source.since_ms,
            )  # fmt: skip
        if dead is not None:
            from ops.dead_file import dead_of_files, write_dead  # late: with it comes what recovers a log

            hidden = {name for name, stream in app.streams.items() if stream.schema.has_sensitive}
            write_dead(dead, dead_of_files(app, source.open(stack, sealer), tokeniser), hidden, sealer)
        for line in summary(done, output, dead):
            say(line)
        if done.dead and not done.events:
            from ops.dead_file import dead_of_files

            first = next(dead_of_files(app, source.open(stack, sealer), tokeniser))
            note(f"nothing was applied; the first record of {first.stream} is {first.kind}: {first.cause}")

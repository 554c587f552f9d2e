"""Verification of files: every decided stream of an app replayed, and a sample of its features recomputed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from connectors.files import FileInput
from connectors.records import Chunk
from connectors.secrets import Tokeniser
from ops.terminal import Step, progress, say
from pipeline.app import App
from pipeline.engine import Featured
from pipeline.recovery import streams_of
from pipeline.replay import Replay
from pipeline.verify import Verification, verify


def verify_and_tell(
    app: App, inputs: Mapping[str, FileInput], sample: int, seed: int, tokeniser: Tokeniser | None
) -> bool:
    """Verify files and print what came out; return whether everything agrees."""
    with progress("verifying") as step:
        found = verify_files(app, inputs, sample, seed, tokeniser, step)
    for name, each in found.items():
        if each.holds and not each.values_checked and not each.values_skipped:
            say(f"{name}: no features to recompute; {each.events:,} events applied as they should be: 0 ppm")
            continue
        say(
            f"{name}: {each.mismatches + each.misjudged:,} mismatches in {each.values_checked:,} values of "
            f"{each.events_checked:,} of {each.events:,} events: {each.ppm:g} ppm"
        )
        for mismatch in each.first:
            say(f"  {mismatch}")
        if each.values_skipped:
            say(f"  {each.values_skipped:,} values of features over features left out; a smaller --sample checks all")
    return all(each.holds for each in found.values())


def verify_files(
    app: App,
    inputs: Mapping[str, FileInput],
    sample: int,
    seed: int,
    tokeniser: Tokeniser | None,
    step: Step,
) -> dict[str, Verification]:
    """Verify each decided stream that has an input.

    Args:
        step: told what is done, of how much, and a note: bytes while it replays, events while it checks.
    """
    found = {}
    for name, plan in app.plans.items():
        if name not in inputs:
            continue
        some = {each: inputs[each] for each in streams_of(plan) if each in inputs}
        total = sum(each.bytes_total for each in some.values())
        with Replay(plan, some, tokeniser) as replay:
            commits = _told(replay, some, total, step)
            found[name] = verify(
                plan,
                commits,
                sample,
                seed,
                tokeniser,
                lambda done, count: step(done, count, f"{done:,} events checked"),
            )
    return found


def _told(
    replay: Replay, files: Mapping[str, FileInput], total: int, step: Step
) -> Iterator[tuple[dict[str, Chunk], Featured]]:
    """Pass commits on, and say how far they are."""
    for commit in replay:
        step(sum(each.bytes_read for each in files.values()), total, "replaying")
        yield commit

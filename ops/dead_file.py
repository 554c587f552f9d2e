"""Dead letters of a replay as JSON lines, for people and for `--fix`; those of sensitive streams encrypted."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from connectors.secrets import Sealer, Tokeniser
from pipeline.app import App
from pipeline.inputs import DeadLetter
from pipeline.recovery import streams_of
from pipeline.replay import Blocks, Replay


def dead_of_files(app: App, inputs: Mapping[str, Blocks], tokeniser: Tokeniser | None) -> Iterator[DeadLetter]:
    """Yield what an app would not apply, in the order in which it was refused: a replay of its own, without output."""
    for name, plan in app.plans.items():
        if name in inputs:
            some = {each: inputs[each] for each in streams_of(plan) if each in inputs}
            with Replay(plan, some, tokeniser) as replay:
                for _, featured in replay:
                    yield from featured.dead


def write_dead(path: Path, letters: Iterable[DeadLetter], sensitive: set[str], sealer: Sealer | None) -> int:
    """Write letters, one JSON object a line, and return how many.

    `raw` is the record's text; `sealed` stands instead where it is encrypted, `base64` where it is no text.

    Raises:
        ValueError: a letter must be encrypted and there is no key.
        OSError: the file cannot be written.
    """
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for letter in letters:
            row = {"stream": letter.stream, "offset": letter.offset, "kind": letter.kind, "cause": letter.cause}
            file.write(json.dumps(row | _raw(letter, letter.stream in sensitive, sealer), ensure_ascii=False) + "\n")
            count += 1
    return count


def _raw(letter: DeadLetter, is_sensitive: bool, sealer: Sealer | None) -> dict[str, str]:
    if is_sensitive:
        if sealer is None:
            raise ValueError(
                f"a dead letter of {letter.stream!r} must be encrypted and there is no key; set PELTON_KEY"
            )
        return {"sealed": base64.b64encode(sealer.seal(letter.raw, letter.stream.encode())).decode()}
    try:
        return {"raw": letter.raw.decode().rstrip("\n")}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(letter.raw).decode()}

"""`pelton simulate`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option


class What(StrEnum):
    """What can be made up."""

    PAYMENTS = "payments"
    SURFACES = "surfaces"
    MESSAGES = "messages"


def simulate(
    what: Annotated[
        What, Argument(help="Card payments, photographs of steel surfaces, or messages to support.")
    ] = What.PAYMENTS,
    out: Annotated[Path, Option(metavar="DIR", help="Folder for the files.")] = Path("data"),
    days: Annotated[int, Option(help="Length in days of event time.")] = 14,
    events_per_day: Annotated[float, Option(help="Payments a day.")] = 14_300,
    cards: Annotated[int, Option(help="How many cards there are.")] = 2_000,
    terminals: Annotated[int, Option(help="How many terminals there are.")] = 500,
    fraud_rate: Annotated[float, Option(help="Share of payments that are fraud.")] = 0.009,
    seed: Annotated[int, Option(help="The same seed gives the same bytes.")] = 7,
    drift: Annotated[bool, Option(help="Let behaviour shift, and a new fraud pattern appear.")] = True,
    compress: Annotated[bool, Option("--gzip", help="Compress both files.")] = False,
    photos: Annotated[int, Option(help="Surfaces: how many photographs.")] = 2_000,
    messages: Annotated[int, Option(help="Messages: how many.")] = 5_000,
    defect_share: Annotated[float, Option(help="Surfaces: share of them with a defect.")] = 0.5,
) -> None:
    """Make up payments with frauds reported late, photographs of steel, or messages to support.

    \b
    For example: pelton simulate --days 30 --cards 5000 --out data
                 pelton simulate surfaces --photos 3000 --out surfaces
                 pelton simulate messages --messages 5000 --out support
    """
    if what is What.SURFACES:
        _surfaces(out, photos, defect_share, seed)
        return
    if what is What.MESSAGES:
        _messages(out, messages, seed)
        return
    from ops.simulate import SimulationSettings
    from ops.simulate import simulate as write
    from ops.terminal import progress, say

    settings = SimulationSettings(
        days=days, events_per_day=events_per_day, cards=cards, terminals=terminals, fraud_rate=fraud_rate, seed=seed,
        drift=drift,
    )  # fmt: skip
    with progress("simulating", "records") as step:
        made = write(settings, out, lambda done, total: step(done, total, f"{done:,} records"), compress)
    say(f"{made.payments_path}: {made.records:,} records, {made.payments:,} payments, {made.frauds:,} of them fraud")
    say(f"{made.labels_path}: {made.labels:,} labels, in the order in which they became known")
    say(f"seed {seed}, sha256 {made.payments_sha256[:12]} and {made.labels_sha256[:12]}")


def _messages(out: Path, messages: int, seed: int) -> None:
    from ops.simulate.messages import MessageSettings, simulate_messages
    from ops.terminal import say

    made = simulate_messages(MessageSettings(messages=messages, seed=seed), out)
    say(f"{made.messages_path}: {made.messages:,} messages, {made.outside:,} of them out of scope")
    say(f"{made.labels_path}: what {made.labels:,} of them wanted, in the order in which it became known")
    say(f"{made.articles_path}: a knowledge base that answers them")
    say(f"seed {seed}, sha256 {made.sha256[:12]}")


def _surfaces(out: Path, photos: int, defect_share: float, seed: int) -> None:
    from ops.simulate.photos import PhotoSettings, simulate_photos
    from ops.terminal import progress, say

    settings = PhotoSettings(photos=photos, defect_share=defect_share, seed=seed)
    with progress("simulating", "photographs") as step:
        made = simulate_photos(settings, out, lambda done, total: step(done, total, f"{done:,} photographs"))
    counts = ", ".join(f"{count:,} {name}" for name, count in made.by_class.items())
    say(f"{made.photos_path}: {photos:,} photographs ({counts}), {made.broken:,} of them cut off on their way")
    say(f"{made.labels_path}: what inspectors found, in the order in which it became known")
    say(f"{made.masks_path}: where each defect is")
    say(f"seed {seed}, sha256 {made.photos_sha256[:12]}")

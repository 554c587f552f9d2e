"""Made-up messages to the support of a bank, what they turned out to be, and a knowledge base that answers them.

Writers vary: greetings, synonyms, typos, capitals, hurry; some want nothing that the bank knows. Whoever answers says
some hours later what it was. The same settings give the same bytes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from ops.simulate.phrases import HURRY, INTENTS, OUTSIDE, SLOTS, SYNONYMS
from ops.simulate.settings import HOUR_MS, MONDAY_2026_MS, SimulationError

MESSAGES, LABELS, ARTICLES = "messages.jsonl", "answers.jsonl", "articles.jsonl"
OUT_OF_SCOPE = "out_of_scope"
MESSAGES_MAX = 1_000_000


@dataclass(frozen=True)
class MessageSettings:
    """The messages to make.

    Attributes:
        messages: how many.
        per_hour: how many come in an hour, on average.
        outside_share: share that is out of scope.
        typo_rate: share of letters that are mistyped.
        hurry_share: share whose writer is in a hurry, which makes them urgent.
        answer_median_h: hours until half of the messages are answered, which is when their labels are known.
        lost_share: share that nobody ever answers.
        seed: of all randomness.
        start_ms: before the first message, milliseconds since the epoch.
    """

    messages: int = 5_000
    per_hour: float = 40.0
    outside_share: float = 0.1
    typo_rate: float = 0.01
    hurry_share: float = 0.08
    answer_median_h: float = 3.0
    lost_share: float = 0.02
    seed: int = 7
    start_ms: int = MONDAY_2026_MS

    def __post_init__(self) -> None:
        """Refuse what cannot be made."""
        if not 1 <= self.messages <= MESSAGES_MAX:
            raise SimulationError(f"messages is {self.messages}; choose between 1 and {MESSAGES_MAX:,}")
        for name in ("outside_share", "typo_rate", "hurry_share", "lost_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise SimulationError(f"{name} is {getattr(self, name)}; choose between 0 and 1")
        if not (self.per_hour > 0 and self.answer_median_h > 0):
            raise SimulationError("per_hour and answer_median_h are above zero")


@dataclass(frozen=True)
class MessageSummary:
    """What was written: three files, and how many messages and labels there are."""

    messages_path: Path
    labels_path: Path
    articles_path: Path
    messages: int
    outside: int
    labels: int
    sha256: str


def simulate_messages(settings: MessageSettings, out: Path) -> MessageSummary:
    """Write messages in the order in which they came, labels in the order in which they became known, and articles.

    Raises:
        SimulationError: `out` cannot be a folder.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise SimulationError(f"{out} is not a folder, or lies below a file; choose another --out") from error
    chance = np.random.Generator(np.random.PCG64(settings.seed))
    time_ms = float(settings.start_ms)
    messages, labels, outside = [], [], 0
    for number in range(settings.messages):
        time_ms += chance.exponential(HOUR_MS / settings.per_hour)
        text, intent, priority = _message(settings, chance)
        outside += intent == OUT_OF_SCOPE
        event = {"message_id": f"m{number:08d}", "ts": int(time_ms), "customer": f"u{chance.integers(0, 2_000):05d}"}
        messages.append(msgspec.json.encode({**event, "body": text}))
        answered_ms = int(time_ms + settings.answer_median_h * HOUR_MS * chance.lognormal(0.0, 0.8))
        if chance.random() >= settings.lost_share:
            said = {"message_id": event["message_id"], "answered_at": answered_ms, "intent": intent,
                    "priority": priority}  # fmt: skip
            labels.append((answered_ms, msgspec.json.encode(said)))
    labels.sort(key=lambda each: each[0])
    articles = [
        msgspec.json.encode({"id": f"kb-{each.name}", "title": each.title, "body": each.body}) for each in INTENTS
    ]
    whole = b"\n".join(messages) + b"\n"
    for name, data in ((MESSAGES, whole), (LABELS, b"".join(line + b"\n" for _, line in labels)),
                       (ARTICLES, b"".join(line + b"\n" for line in articles))):  # fmt: skip
        (out / name).write_bytes(data)
    digest = hashlib.sha256(whole).hexdigest()
    return MessageSummary(
        out / MESSAGES, out / LABELS, out / ARTICLES, len(messages), int(outside), len(labels), digest
    )


def _message(settings: MessageSettings, chance: np.random.Generator) -> tuple[str, str, str]:
    """Return a text, its intent and its priority."""
    if chance.random() < settings.outside_share:
        text, intent, priority = _one(OUTSIDE, chance), OUT_OF_SCOPE, "low"
    else:
        wanted = INTENTS[int(chance.integers(len(INTENTS)))]
        text, intent, priority = _one(wanted.ways, chance), wanted.name, wanted.priority
    text = f"{_one(SLOTS['hello'], chance)} {text} {_one(SLOTS['please'], chance)}".strip()
    if chance.random() < settings.hurry_share and intent != OUT_OF_SCOPE:
        text, priority = f"{text} {_one(HURRY, chance)}", "urgent"
    for slot, words in SLOTS.items():
        while f"{{{slot}}}" in text:
            text = text.replace(f"{{{slot}}}", _one(words, chance), 1)
    words_now = [_one(SYNONYMS.get(word, (word,)), chance) for word in text.split()]
    text = _mistyped(" ".join(words_now), settings.typo_rate, chance)
    style = chance.random()
    return (text.upper() if style < 0.03 else text.capitalize() if style < 0.5 else text), intent, priority


def _mistyped(text: str, rate: float, chance: np.random.Generator) -> str:
    """Drop, double or swap letters here and there."""
    letters = list(text)
    for at in np.flatnonzero(chance.random(len(letters)) < rate).tolist():
        if letters[at].isalpha():
            kind = int(chance.integers(3))
            if kind == 0:
                letters[at] = ""
            elif kind == 1:
                letters[at] *= 2
            elif at + 1 < len(letters):
                letters[at], letters[at + 1] = letters[at + 1], letters[at]
    return "".join(letters)


def _one(choices: tuple[str, ...], chance: np.random.Generator) -> str:
    return choices[int(chance.integers(len(choices)))]

"""What is known about a sentence encoder, and its parts in a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from models.bundle import Bundle

CARD, MODEL, TOKENIZER = "encoder.json", "encoder.onnx", "encoder.tokenizer.json"
Pooling = Literal["mean", "cls", "max"]
TOKENS_MAX = 512  # of a text, whatever an encoder would read: time grows with them


class EncoderError(ValueError):
    """A sentence encoder cannot be used; the message says what it lacks and what to do."""


class EncoderCard(msgspec.Struct, frozen=True):
    """How texts become vectors.

    Attributes:
        name: what the user called it, with the version if it came as a package.
        width: numbers in a vector.
        pooling: how the vectors of a text's tokens become one: their mean, the first, or the largest of each number.
        normalised: whether that is then scaled to length 1.
        tokens_max: tokens of a text that are read, the special ones included.
        fine_tuned: epochs that it learned the messages of a task; 0 if it is as it was brought.
        files: the SHA-256 of each file that it came from.
    """

    name: str
    width: int
    pooling: Pooling = "mean"
    normalised: bool = True
    tokens_max: int = 256
    fine_tuned: int = 0
    files: dict[str, str] = {}

    def in_words(self) -> str:
        """Describe it in a line."""
        tuned = f", fine-tuned for {self.fine_tuned} epochs" if self.fine_tuned else ""
        return f"{self.name}: {self.width} numbers of the first {self.tokens_max} tokens, {self.pooling}{tuned}"


# Made once, here: msgspec crashes if two threads meet a type for the first time at once.
_DECODER = msgspec.json.Decoder(EncoderCard)


@dataclass(frozen=True)
class EncoderParts:
    """A sentence encoder as it is run and as it stands in a bundle.

    Attributes:
        card: how it is used.
        model: the bytes of an ONNX file: tokens to vectors.
        tokenizer: the bytes of a `tokenizer.json`.
    """

    card: EncoderCard
    model: bytes
    tokenizer: bytes

    def parts(self) -> dict[str, bytes]:
        """Return the parts of a bundle."""
        return {CARD: msgspec.json.encode(self.card), MODEL: self.model, TOKENIZER: self.tokenizer}

    @classmethod
    def of(cls, bundle: Bundle) -> EncoderParts | None:
        """Return what a bundle holds; None if it reads without one.

        Raises:
            BundleError: a part is missing.
        """
        if CARD not in bundle.parts:
            return None
        card = _DECODER.decode(bundle.part(CARD))
        return cls(card, bundle.part(MODEL), bundle.part(TOKENIZER))

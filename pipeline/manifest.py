"""What a commit says about itself: enough to recover, to replay it the same way, and to answer for each decision."""

from __future__ import annotations

import msgspec

from models.threshold import ThresholdState

FORMAT = "pelton manifest 1"


class Manifest(msgspec.Struct, frozen=True):
    """One commit of one stage and partition.

    Attributes:
        inputs: topic -> (first offset, end offset) that this commit took.
        bundles, snapshots: task -> what served it; "" where there was none.
        rungs: task -> which models of that scored it: less than all where a budget was gone, "rules" without any.
        thresholds: task -> the threshold's state after this commit.
        ledgers: topic -> counts since the beginning; taken = applied + late + future + duplicate + invalid.
        labels: counts of the join since the beginning.
        decided: task -> decisions since the beginning.
        at_ms: when its worker took what it took, by its clock; no append time that producers said counts as later.
        forwarded: topic -> rows passed on to other stages since the beginning, markers not counted.
        idle: whether later stages are told that there is nothing to come, for now.
    """

    inputs: dict[str, tuple[int, int]]
    bundles: dict[str, str] = {}
    snapshots: dict[str, str] = {}
    rungs: dict[str, str] = {}
    thresholds: dict[str, ThresholdState] = {}
    ledgers: dict[str, dict[str, int]] = {}
    labels: dict[str, int] = {}
    decided: dict[str, int] = {}
    at_ms: int = 0
    forwarded: dict[str, int] = {}
    idle: bool = False
    format: str = FORMAT


# Made once, here: msgspec crashes if two threads meet a type for the first time at once.
_DECODER = msgspec.json.Decoder(Manifest)


def encode(manifest: Manifest) -> bytes:
    """Write a manifest."""
    return msgspec.json.encode(manifest)


def decode(payload: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        ValueError: it is none of ours, or of a newer version.
    """
    try:
        manifest = _DECODER.decode(payload)
    except msgspec.DecodeError as error:
        raise ValueError(f"a manifest cannot be read: {error}; the log was written by something else") from None
    if manifest.format != FORMAT:
        raise ValueError(
            f"a manifest is {manifest.format!r}; this Pelton reads {FORMAT!r}, use the version that wrote it"
        )
    return manifest

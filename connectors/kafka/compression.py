"""The compressions of Kafka's batches, with the codecs that pyarrow brings."""

from __future__ import annotations

import struct

import pyarrow as pa

from connectors.log import LogError

NAMES = {0: "none", 1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
# To write. Not lz4: Kafka takes only frames of independent blocks, and pyarrow writes others.
COMPRESSIONS = {"none": 0, "gzip": 1, "snappy": 2, "zstd": 4}
_FRAMES = b"\x82SNAPPY\x00"  # what snappy's Java library puts in front of blocks of 32 KiB
_FRAMES_BYTES = 16
_SIZE = struct.Struct(">i")


def decompressed(data: bytes, kind: int) -> bytes:
    """Return what is compressed in a batch.

    Raises:
        LogError: the bytes are broken, or the kind is unknown.
    """
    name = NAMES.get(kind)
    if name is None:
        raise LogError(f"a batch is compressed with codec {kind}, which this version does not know; use {NAMES}")
    try:
        if name == "snappy":
            return _snappy(data)
        with pa.CompressedInputStream(pa.BufferReader(data), name) as stream:
            return stream.read()
    except (OSError, ValueError, struct.error, IndexError) as error:
        raise LogError(f"a batch cannot be decompressed by {name} ({error}); its producer wrote it wrongly") from None


def compressed(data: bytes, kind: int) -> bytes:
    """Return the bytes as they stand in a batch of one of COMPRESSIONS."""
    return pa.Codec(NAMES[kind]).compress(data, asbytes=True)


def _snappy(data: bytes) -> bytes:
    if not data.startswith(_FRAMES):
        return _block(data)
    blocks, at = [], _FRAMES_BYTES
    while at < len(data):
        (size,) = _SIZE.unpack_from(data, at)
        at += _SIZE.size + size
        blocks.append(_block(data[at - size : at]))
    return b"".join(blocks)


def _block(data: bytes) -> bytes:
    """Decompress one block of snappy; its first bytes say how large it becomes."""
    size, shift, at = 0, 0, 0
    while data[at] >= 0x80:
        size |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
    return pa.Codec("snappy").decompress(data, size | data[at] << shift, asbytes=True)

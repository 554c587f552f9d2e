"""Hashes of keys: the slow twin, and how well they spread."""

import random

import numpy as np
import pytest

from kernels.hashing import SEED, hash_bools, hash_bytes, hash_ints

MASK = (1 << 64) - 1
FIRST, SECOND, THIRD = 0xA0761D6478BD642F, 0xE7037ED1A0B428DB, 0x8EBC6AF09C88C6E3


def fold(left: int, right: int) -> int:
    product = left * right
    return (product >> 64) ^ (product & MASK)


def slow_hash(text: bytes, seed: int = SEED) -> int:
    def load(at: int, size: int = 8) -> int:
        return int.from_bytes(text[at : at + size], "little")

    size, state, low, high = len(text), seed ^ fold(seed ^ FIRST, SECOND), 0, 0
    if size > 16:
        at = 0
        while size - at > 16:
            state = fold(load(at) ^ SECOND, load(at + 8) ^ state)
            at += 16
        low, high = load(size - 16), load(size - 8)
    elif size >= 8:
        low, high = load(0), load(size - 8)
    elif size >= 4:
        low, high = load(0, 4), load(size - 4, 4)
    elif size:
        low = text[0] << 16 | text[size >> 1] << 8 | text[-1]
    mixed = fold(low ^ SECOND, high ^ state)
    return fold(THIRD ^ size, mixed ^ SECOND) or 0x589965CC75374CC3


def hashes_of(texts: list[bytes], dtype: type = np.int32, seed: int = SEED) -> np.ndarray:
    offsets = np.cumsum([0, *map(len, texts)]).astype(dtype)
    return hash_bytes(offsets, np.frombuffer(b"".join(texts), np.uint8), seed)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_agrees_with_its_slow_twin(dtype):
    rng = random.Random(3)
    texts = [rng.randbytes(size) for size in (*range(70), 1000, 4096, 100_003)] + ["Köln 東京 😀".encode(), b""]
    assert hashes_of(texts, dtype).tolist() == [slow_hash(text) for text in texts]
    assert hashes_of(texts, dtype, seed=9).tolist() == [slow_hash(text, 9) for text in texts]


def test_hashes_are_the_same_for_ever():
    assert hashes_of([b"", b"card_1", b"a longer key than sixteen bytes"]).tolist() == [
        12287958858371586921, 6743206292818271850, 247784207900001988]  # fmt: skip
    assert hash_ints(np.array([0, -1, 1 << 62])).tolist() == [
        7276688527403662848, 16949107317840576069, 17247666239855189885]  # fmt: skip


def test_no_rows():
    assert hashes_of([]).size == 0
    assert hash_bytes(np.zeros(0, np.int32), np.zeros(0, np.uint8)).size == 0
    assert hash_ints(np.zeros(0, np.int64)).size == 0


def test_slices_start_where_they_start():
    data = np.frombuffer(b"aabbbcc", np.uint8)
    assert hash_bytes(np.array([2, 5], np.int32), data).tolist() == [slow_hash(b"bbb")]


def test_booleans_hash_as_0_and_1():
    assert hash_bools(np.array([True, False])).tolist() == hash_ints(np.array([1, 0])).tolist()


def test_offsets_outside_the_data_are_refused():
    with pytest.raises(ValueError, match="offsets run from 0 to 9, outside the 3 bytes"):
        hash_bytes(np.array([0, 9], np.int32), np.zeros(3, np.uint8))


def test_a_million_close_keys_do_not_collide():
    texts = [b"c%d" % i for i in range(500_000)]
    hashes = np.concatenate([hashes_of(texts), hash_ints(np.arange(500_000))])
    assert np.unique(hashes).size == 1_000_000
    for bits in (16, 48):  # each part of the hash may choose a slot
        counts = np.bincount((hashes >> np.uint64(bits)) & np.uint64(1023), minlength=1024)
        expected = hashes.size / 1024
        assert ((counts - expected) ** 2 / expected).sum() < 1024 + 5 * np.sqrt(2 * 1024)  # chi-squared, 5 sigma


@pytest.mark.parametrize("size", [1, 3, 6, 11, 16, 29, 64])
def test_a_flipped_bit_flips_half_of_the_hash(size):
    rng = random.Random(size)
    texts = [rng.randbytes(size) for _ in range(400)]
    places = [rng.randrange(8 * size) for _ in texts]
    flipped = [bytes(byte ^ (1 << place % 8 if i == place // 8 else 0) for i, byte in enumerate(text))
               for text, place in zip(texts, places, strict=True)]  # fmt: skip
    changed = (hashes_of(texts) ^ hashes_of(flipped)).view(np.uint8)
    assert 0.48 < np.unpackbits(changed).mean() < 0.52
    by_bit = np.unpackbits(changed.reshape(-1, 8), axis=1).mean(axis=0)
    assert 0.35 < by_bit.min() <= by_bit.max() < 0.65

"""Pieces lose nothing, know everything, and are learned as the paper says."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.text.pieces import FIRST_BYTE, FIRST_MERGE, Pieces

TEXTS = ["where is my card", "my card is lost", "the card was stolen", "card, card, card", "größe ☂ café"] * 2
PIECES = Pieces.learned(TEXTS, 320)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(codec=None), max_size=200))
def test_any_unicode_text_comes_back_whole(text):
    assert PIECES.decode(PIECES.encode(text)) == text


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=60), max_size=5), st.integers(1, 16))
def test_rows_are_bounded_and_padded_behind_the_end(texts, longest):
    rows = PIECES.rows(texts, longest)
    assert rows.shape[0] == len(texts)
    assert 1 <= rows.shape[1] <= longest
    for text, row in zip(texts, rows, strict=True):
        pieces = PIECES.encode(text)[:longest]
        assert row.tolist() == pieces + [0] * (rows.shape[1] - len(pieces))


def test_learning_merges_the_most_frequent_pair_as_counting_all_over_again_does():
    # the obvious twin: count every pair of every word anew, merge, repeat
    words = Counter(word for text in TEXTS for word in re.findall(r" ?\w+| ?[^\w\s]+|\s+", text))
    cut = {word: [FIRST_BYTE + byte for byte in word.encode()] for word in words}
    merges = []
    while len(merges) < 320 - FIRST_MERGE:
        pairs = Counter()
        for word, count in words.items():
            for left, right in zip(cut[word], cut[word][1:], strict=False):
                pairs[left, right] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:
            break
        for word, pieces in cut.items():
            joined = []
            for piece in pieces:  # left to right, a piece that was joined takes part in no other pair
                if joined and (joined[-1], piece) == best:
                    joined[-1] = FIRST_MERGE + len(merges)
                else:
                    joined.append(piece)
            cut[word] = joined
        merges.append(best)
    assert PIECES.merges == merges
    assert {word: PIECES.encode(word) for word in words} == cut


def test_a_part_of_a_bundle_reads_back_the_same():
    again = Pieces.from_json(PIECES.to_json())
    assert again.merges == PIECES.merges
    assert len(again) == len(PIECES)


def test_a_merge_of_what_is_not_there_yet_is_refused():
    with pytest.raises(ValueError, match="a merge is of 300 and 1, which are no pieces yet"):
        Pieces([(300, 1)])


def test_a_very_long_word_is_cut_and_still_comes_back():
    text = "a" * 5_000
    assert PIECES.decode(PIECES.encode(text)) == text
    assert np.count_nonzero(PIECES.rows([text], 96)) == 96

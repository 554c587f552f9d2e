"""Words, grams and lines: what a message becomes before the network sees it."""

from zlib import crc32

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.text.calibration import fit_line, fit_temperature, log_loss_of
from models.text.grams import PAIRS_MAX, WORDS_MAX, gram_rows, word_grams, word_pairs
from models.text.words import char_grams, normalised, stem, words_of


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300), st.integers(1, 100))
def test_a_normalised_text_is_bounded_and_stays_as_it_is(text, chars_max):
    once = normalised(text, chars_max)
    assert len(once) <= chars_max
    assert "  " not in once
    assert once == once.strip()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=4), st.integers(1, 1000), st.integers(0, 5))
def test_rows_of_grams_are_their_hashes_sorted_and_padded(texts, buckets, apart):
    words, letters = gram_rows(texts, buckets, apart)
    kinds = {
        "words": (
            words,
            lambda text: ["w" + gram for gram in word_grams(text)] + ["p" + p for p in pairs(text, apart)],
        ),
        "letters": (letters, lambda text: ["l" + gram for gram in char_grams(text, 2, 5)]),
    }
    for rows, grams_of in kinds.values():
        for text, row in zip(texts, rows, strict=True):
            expected = sorted({1 + crc32(gram.encode("utf-8", "surrogatepass")) % buckets for gram in grams_of(text)})
            assert row.tolist() == expected + [0] * (len(row) - len(expected))


def pairs(text, apart):
    stems = [stem(word) for word in words_of(text)]
    places = [(i, j) for j in range(len(stems)) for i in range(j) if j - i <= apart and stems[i] != stems[j]]
    return [" ".join(sorted((stems[i], stems[j]))) for i, j in places]


def test_pairs_of_words_do_not_depend_on_which_came_first():
    assert set(word_pairs("card lost")) == set(word_pairs("lost cards")) == {"card lost"}
    assert word_pairs("card of mine", apart=1) == ["card of", "mine of"]
    assert word_pairs("lost lost", apart=3) == word_pairs("lost", apart=3) == word_pairs("a b", apart=0) == []


def test_a_long_message_has_no_more_rows_than_are_read():
    words, _ = gram_rows([" ".join(f"w{place}" for place in range(4000))], 1 << 30)
    assert words.shape == (1, WORDS_MAX + PAIRS_MAX)


def test_the_temperature_is_the_best_of_all_that_are_tried():
    chance = np.random.default_rng(1)
    truth = chance.integers(0, 4, 500)
    logits = chance.normal(size=(500, 4)) + 2.0 * np.eye(4)[truth]
    found = fit_temperature(3 * logits, truth)  # three times too sure
    assert 2.4 < found / fit_temperature(logits, truth) < 3.6
    assert log_loss_of(3 * logits / found, truth) <= log_loss_of(3 * logits, truth)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.floats(0.5, 0.99))
def test_the_line_lets_the_wanted_share_pass_and_is_the_largest_that_does(scores, accept):
    scores = np.array(scores)
    line = fit_line(scores, accept)
    assert np.mean(scores >= line) >= accept - 1e-9
    above = scores[scores > line]
    assert not above.size or np.mean(scores >= above.min()) < accept

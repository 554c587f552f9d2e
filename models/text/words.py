"""Words of a message: lower case, split, and cut to their stems; the same for messages and for articles."""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(r"\w+(?:[+#]+)?")  # c++ and c# are words
_ENDINGS = ("ations", "ation", "ings", "ing", "edly", "ment", "ed", "ies", "es", "er", "ly", "s")
STEM_LETTERS_MIN = 3
# Words that stand in questions of every kind. Kept short: "not", "from" and "to" tell intents apart.
_STOPPED = """
a about am an and any are as at be been but by can could did do does for had has have he her him his how i if in is it
its just me my of on or our please she should so some that the their them there these they this those to was we were
what when where which who why will with would you your
"""
STOP_WORDS = frozenset(_STOPPED.split())


def normalised(text: str, chars_max: int) -> str:
    """Return the first characters of a text, without differences of case, of width and of white space.

    >>> normalised("Where  is\\nMY card?", 100)
    'where is my card?'
    """
    return " ".join(unicodedata.normalize("NFKC", text[:chars_max]).casefold()[:chars_max].split())


def words_of(text: str) -> list[str]:
    """Return the words of a normalised text.

    >>> words_of("i can't log in to c++!")
    ['i', 'can', 't', 'log', 'in', 'to', 'c++']
    """
    return _WORD.findall(text)


def stem(word: str) -> str:
    """Return a word without its usual English ending; a rough cut, the same for question and answer.

    >>> [stem(word) for word in ("transferred", "transfers", "cities", "delete")]
    ['transfer', 'transfer', 'cit', 'delet']
    """
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= STEM_LETTERS_MIN:
            word = word[: -len(ending)]
            break
    if len(word) > STEM_LETTERS_MIN and word[-1] == word[-2]:
        word = word[:-1]
    return word[:-1] if len(word) > STEM_LETTERS_MIN + 1 and word[-1] in "ey" else word


def stems_of(text: str) -> list[str]:
    """Return the stems of a normalised text, without stop words."""
    return [stem(word) for word in words_of(text) if word not in STOP_WORDS]


def char_grams(text: str, shortest: int, longest: int) -> list[str]:
    """Return the runs of letters within the words of a normalised text, a space at both ends of each word.

    >>> char_grams("my pin", 3, 3)
    [' my', 'my ', ' pi', 'pin', 'in ']
    """
    found = []
    for word in words_of(text):
        padded = f" {word} "
        for length in range(shortest, longest + 1):
            found += [padded[at : at + length] for at in range(max(len(padded) - length + 1, 0))]
    return found

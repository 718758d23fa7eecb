"""The words of a text, as search knows them: the same for what is read and for what is asked.

No dictionary and no language: mail comes in all of them, often several at once. Text is folded (NFKC, case, accents)
and cut into runs of letters and digits. Scripts that put no spaces between words are cut into pairs of neighbouring
characters, and a single one is found, too. Every word has a place, so that a phrase is words at following places.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Final, NamedTuple

MAX_TEXT: Final = 32_768  # characters of a text that are read
MAX_WORDS: Final = 12_000  # of one text; Postgres knows no place behind 16,383
MAX_WORD: Final = 64  # characters; of longer ones only the beginning counts, in texts and in queries alike

# Thai and Lao, Myanmar, Khmer, CJK and kana, Hangul (which does put spaces, but hangs endings on every word)
_SPACELESS: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
)
_ASCII_WORD = re.compile(r"[a-z0-9]+")
# Accents of Latin and Greek; vowel points of Arabic and Hebrew, and the Arabic stroke that only widens a word
_DROPPED = re.compile("(?<![\u0400-\u052f])[\u0300-\u036f]|[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u0610-\u061a]")
_DROPPED_TOO = re.compile("[\u0640\u064b-\u065f\u0670\u00ad\u200b-\u200f\u2060\ufeff]")
_DIAERESIS = re.compile("(?<=\u0435)\u0308")  # ё is written е as often as not; й is a letter of its own


class Term(NamedTuple):
    """A word and where it stands."""

    word: str
    place: int  # 1 = first


def fold(text: str) -> str:
    """The form in which texts are compared: compatibility forms, case and accents gone."""
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    text = _DIAERESIS.sub("", _DROPPED_TOO.sub("", text))
    return unicodedata.normalize("NFC", _DROPPED.sub("", text))


def of_text(text: str) -> list[Term]:
    """Everything that a text can be found by, at most MAX_WORDS; several terms may stand at one place."""
    folded = fold(text[:MAX_TEXT])
    if folded.isascii():
        return [Term(word[:MAX_WORD], place) for place, word in enumerate(_ascii_words(folded), 1)]
    terms: list[Term] = []
    place = 1
    for run in _pattern().finditer(folded):
        found = _pairs(run[0], place, whole=True) if run.lastgroup == "run" else [Term(run[0][:MAX_WORD], place)]
        terms += found
        place = found[-1].place + 1
        if len(terms) >= MAX_WORDS:
            break
    return terms[:MAX_WORDS]


def of_query(text: str) -> list[Term]:
    """What a text must hold, each at its distance from the first, to hold this; empty where `text` has no word."""
    folded = fold(text[:MAX_TEXT])
    terms: list[Term] = []
    place = 1
    for run in _pattern().finditer(folded):
        if run.lastgroup == "run":
            terms += _pairs(run[0], place, whole=False)
            place += len(run[0])
        else:
            terms.append(Term(run[0][:MAX_WORD], place))
            place += 1
    return terms


def holds(text: list[Term], wanted: list[Term]) -> bool:
    """Whether a text's terms hold a query's, at its distances."""
    places: dict[str, set[int]] = {}
    for term in text:
        places.setdefault(term.word, set()).add(term.place)
    if not wanted:
        return False
    first = wanted[0]
    return any(
        all(start + term.place - first.place in places.get(term.word, ()) for term in wanted)
        for start in places.get(first.word, ())
    )


def _ascii_words(folded: str) -> list[str]:
    return _ASCII_WORD.findall(folded)[:MAX_WORDS]


def _pairs(run: str, place: int, *, whole: bool) -> list[Term]:
    """Neighbours of a run without spaces; with `whole` each single character, too, at the same place."""
    pairs = [Term(run[at : at + 2], place + at) for at in range(len(run) - 1)]
    if whole or not pairs:
        pairs += [Term(character, place + at) for at, character in enumerate(run)]
    return pairs


@functools.cache
def _pattern() -> re.Pattern[str]:
    """Runs without spaces, and words; marks belong to the letter that they stand on."""
    marks = _marks()
    letter = rf"(?:[^\W_{_SPACELESS}]|[{marks}])"
    return re.compile(rf"(?P<run>[{_SPACELESS}]+)|(?P<word>[^\W_{_SPACELESS}]{letter}*)")


def _marks() -> str:
    """Combining marks of the scripts whose vowels are such, as the inside of a character class."""
    return "".join(
        character
        for character in map(chr, range(0x0300, 0xAC00))
        if unicodedata.category(character) in {"Mn", "Mc"} and not re.match(f"[{_SPACELESS}]", character)
    )

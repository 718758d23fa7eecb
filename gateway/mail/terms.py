"""The words of a text, as search knows them: the same for what is read and for what is asked.

No dictionary and no language: mail comes in all of them, often several at once. Text is folded (NFKC, case, accents)
and cut into runs of letters and digits. Scripts that put no spaces between words are cut into pairs of neighbouring
characters, and a single one is found, too. Every word has a place, so that a phrase is words at following places.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

MAX_TEXT: Final = 32_768  # characters of a text that are read
MAX_PLACE: Final = 16_000  # words behind it are left out; Postgres knows no place behind 16,383
GAP: Final = 10  # places between two texts
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


Places = Mapping[str, list[int]]  # each word, and where it stands, in order


def fold(text: str) -> str:
    """The form in which texts are compared: compatibility forms, case and accents gone."""
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    text = _DIAERESIS.sub("", _DROPPED_TOO.sub("", text))
    return unicodedata.normalize("NFC", _DROPPED.sub("", text))


def of_text(text: str) -> Places:
    """Everything that a text can be found by."""
    return of_texts([text])


def of_texts(texts: Iterable[str]) -> Places:
    """The same of several texts, so far apart that no phrase reaches from one into the next."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    first = 1
    for text in texts:
        folded = fold(text[:MAX_TEXT])
        end = _ascii(folded, first, places) if folded.isascii() else _mixed(folded, first, places)
        first = end + GAP if end > first else first
        if first > MAX_PLACE:
            break
    return places


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


def holds(text: Places, wanted: Sequence[Term]) -> bool:
    """Whether a text holds a query's words at their distances."""
    if not wanted:
        return False
    first, *rest = wanted
    found = [(set(text.get(term.word, ())), term.place - first.place) for term in rest]
    return any(all(start + distance in at for at, distance in found) for start in text.get(first.word, ()))


def _ascii(folded: str, first: int, places: defaultdict[str, list[int]]) -> int:
    """The place behind the last word. Most mail is ASCII, and all of it is read: nothing is done twice here."""
    words = _ASCII_WORD.findall(folded)[: max(MAX_PLACE - first, 0)]
    for place, word in enumerate(words, first):
        places[word if len(word) <= MAX_WORD else word[:MAX_WORD]].append(place)
    return first + len(words)


def _mixed(folded: str, first: int, places: defaultdict[str, list[int]]) -> int:
    place = first
    for run in _pattern().finditer(folded):
        text = run[0][: MAX_PLACE - place]
        if not text:
            break
        found = _pairs(text, place, whole=True) if run.lastgroup == "run" else [Term(text[:MAX_WORD], place)]
        for term in found:
            places[term.word].append(term.place)
        place = found[-1].place + 1
    return place


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

"""One-time codes in a message: what could be one, and how surely it is.

Numbers and mixtures of letters and digits are candidates by their shape alone. What each is, the nearest word that
names one says: "code", "PIN" or "Bestätigungscode" for it, "order", "promo code" or "Rechnung" against it
(gateway.mail.vocabulary), before it or, as in "482913 is your code", behind it.

Whoever sends the mail chose the text: finding candidates is linear in it, at most 200 of them are weighed in one text,
each by a window of fixed length around it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from gateway.mail import page, vocabulary

MAX_CODES = 20
MAX_CANDIDATES = 100  # that are weighed in one text, with digits and without each
MAX_LOOKS = 2048  # numbers, and words of capitals, of one text that are looked at; the rest is not
SURE = 0.5  # what is less sure is not given
_CERTAIN = 0.85
_MAX_SUBJECT = 1000  # characters
_BEFORE = 160  # characters between a word and the number that it names
_AFTER = 100
_NEAR = 48  # characters before a number that are asked first
_NAMED = 0.2  # what a subject that names a code adds
_AROUND = 48  # characters of context on either side

Source = Literal["text", "html", "subject"]
Name = Literal["other", "code", "weak"]
_Names = list[tuple[Name, int, int]]  # what a word names, where it begins and ends


@dataclass(frozen=True, kw_only=True, slots=True)
class Code:
    """A one-time code."""

    # What one types: digits without what groups them or a service's one or two letters ("482 913", "G-482913" and
    # "٤٨٢٩١٣" are 482913); letters and digits as they stand, with hyphens ("X7K-29QD").
    value: str
    confidence: float  # 0.5 … 0.99
    source: Source
    context: str  # the words around it, at most some 100 characters, one line


@dataclass(frozen=True, kw_only=True, slots=True)
class _Candidate:
    """Something in the text that looks like a code."""

    start: int
    end: int
    value: str
    letters: bool  # it holds letters, and so needs better reasons


def found(subject: str, text: str, html: page.Page) -> tuple[Code, ...]:
    """At most 20 codes, the surest first. HTML is another rendering of the text: asked where that has nothing."""
    subject = subject[:_MAX_SUBJECT]
    about = _Subject(subject)
    codes = _weigh(subject, "subject", _Subject(""), ())
    codes += _weigh(text, "text", about, codes)
    if not any(code.source == "text" for code in codes) and html.may_hold(">"):
        codes += _weigh(_joined(html.text), "html", about, codes)
    best: dict[str, Code] = {}
    for code in sorted(codes, key=lambda code: -code.confidence):
        best.setdefault(code.value, code)
    return tuple(best.values())[:MAX_CODES]


def _weigh(text: str, source: Source, subject: _Subject, already: Sequence[Code]) -> list[Code]:
    """Capitals alone are looked at where nothing else is certainly a code."""
    text = _western(text)
    seen = text.encode("ascii", "replace").translate(_CLASSES)  # as long as the text
    codes = _weighed(text, itertools.islice(_with_digits(text, seen), MAX_CANDIDATES), source, subject)
    if not any(code.confidence >= _CERTAIN for code in (*already, *codes)):
        codes += _weighed(text, itertools.islice(_capitals(text, seen), MAX_CANDIDATES), source, subject)
    return codes


def _weighed(text: str, candidates: Iterator[_Candidate], source: Source, subject: _Subject) -> list[Code]:
    codes = []
    for candidate in candidates:
        confidence = _confidence(text, candidate, subject)
        if confidence >= SURE:
            around = text[max(candidate.start - _AROUND, 0) : candidate.end + _AROUND]
            codes.append(
                Code(
                    value=candidate.value,
                    confidence=round(min(confidence, 0.99), 2),
                    source=source,
                    context=" ".join(around.split()),
                )
            )
    return codes


# --- digits as the rest of this module knows them ---

# Arabic-Indic, Persian, Devanagari; full-width digits, capital letters, hyphen.
_ELSEWHERE = re.compile("[٠-٩۰-۹०-९０-９Ａ-Ｚ－]")
_WEST: Final = {
    ord(there): here
    for scripts, west in (
        (("٠١٢٣٤٥٦٧٨٩", "۰۱۲۳۴۵۶۷۸۹", "०१२३४५६७८९", "０１２３４５６７８９"), "0123456789"),
        (("ＡＢＣＤＥＦＧＨＩＪＫＬＭＮＯＰＱＲＳＴＵＶＷＸＹＺ",), "ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
        (("－",), "-"),
    )
    for script in scripts
    for there, here in zip(script, west, strict=True)
}


def _western(text: str) -> str:
    """The same with digits of other scripts as ASCII, character for character."""
    return text if text.isascii() or not _ELSEWHERE.search(text) else text.translate(_WEST)


_CELLS = re.compile(r"\n[0-9A-Z](?:\n[0-9A-Z]){3,11}(?=\n|\Z)")


def _joined(text: str) -> str:
    """A page's text in which characters that have a line (a table's cell) each stand together."""
    return _CELLS.sub(_in_one_line, "\n" + _western(text))


def _in_one_line(match: re.Match[str]) -> str:
    together = match[0].replace("\n", "")
    return match[0] if together in _COUNTING else "\n" + together


# --- what looks like a code ---

_DIGIT, _CAPITAL, _SMALL_LETTER, _BLANK, _HYPHEN = b"0Aa -"
_KINDS_OF_OCTETS: Final = (
    (_DIGIT, b"0123456789"),
    (_CAPITAL, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    (_SMALL_LETTER, b"abcdefghijklmnopqrstuvwxyz"),
    (_BLANK, b" \t\r\n\f\v"),
    (_HYPHEN, b"-"),
)
_JOINS: Final = frozenset({_CAPITAL, _SMALL_LETTER, _HYPHEN})  # make more of digits than a number
_COUNTING: Final = frozenset(whole[:end] for whole in ("1234567890", "0123456789") for end in range(4, 11))
_CLASSES: Final = bytes(
    next((kind for kind, those in _KINDS_OF_OCTETS if octet in those), 0x2E) for octet in range(256)
)  # for bytes.translate
# Beside a code there may be no letter; but Chinese, Japanese and Korean have no blanks.
_LETTER = r"[^\W\u2e80-\ud7ff\uf900-\uffff]"
_AFTER_NUMBER = rf"(?!{_LETTER}|[@%/€£$¥₹₽]|[-:,+]\w|\.[0-9a-z]|['’]\d|\)?[ \u00a0-]{{1,2}}[0-9€£$¥₹₽])"
_FREE = rf"(?<!{_LETTER})(?<![.,/#$€£¥₹₽+=@%&?~\\-])(?<!\d:)"
# Digits that stand alone, or groups of them, or behind a service's letters; neither a part of a longer number, a
# price, a decimal, a time, a date, a phone number with +, nor a piece of a URL, an address or a word.
_NUMBER = re.compile(
    rf"{_FREE}(?:[A-Z]{{1,2}}-)?"
    r"([0-9]{3}[ \u00a0-][0-9]{3}(?:[ \u00a0-][0-9]{3})?|[0-9]{4}[ \u00a0-][0-9]{4}|[0-9]{2}[ -][0-9]{2}[ -][0-9]{2}"
    rf"|[0-9]{{4,10}}){_AFTER_NUMBER}"
)
_SPACED = re.compile(rf"(?<![0-9][\s]){_FREE}[0-9](?:[\s\u00a0][0-9]){{3,9}}(?![\s\u00a0]?[0-9]|{_LETTER}|[.,:/-]\w)")
_SPACED_RUN = re.compile(r"[0-9](?:\s[0-9](?![0-9]))*")
_SERVICE = re.compile(r"[A-Z]{1,2}-\Z")
# Letters and digits, at most four groups of them: with a digit and a letter, or capitals alone.
_MIXED = re.compile(
    rf"{_FREE}((?>[A-Za-z0-9]{{2,12}}(?:-[A-Za-z0-9]{{2,8}}){{0,3}}))(?!{_LETTER}|[@%/_=&]|[-:+]\w|\.[0-9a-z]|['’]\d)"
)
_MIXED_RUN = re.compile(r"[A-Za-z0-9-]*")
_DIGITS_RUN = re.compile(r"[0-9]*")
_JOINING: Final = frozenset(bytes([octet]) for octet in _JOINS)
_QUANTITY = re.compile(
    r"[0-9]+(?:am|pm|st|nd|rd|th|px|pt|em|[kmgt]i?b|[kmgt]|kg|km|cm|mm|ml|min|mins|h|hrs?|s|ms|x|d|days?|usd|eur|gbp|inr|tl|kr|"
    r"zł|bit|fps|hz|[kmg]hz|w|v|p|ers?|e|er|bis)\Z",
    re.IGNORECASE,
)
_CAMPAIGN = re.compile(r"[A-Z]{4,}[0-9]{1,2}")  # "WELCOME10"
_NAMED_THING = re.compile(r"[A-Za-z]{3,}-?[0-9]{1,2}|[A-Za-z][a-z]+-?[0-9]+|(?:19|20)[0-9]{2}[a-z]?", re.IGNORECASE)


def _with_digits(text: str, seen: bytes) -> Iterator[_Candidate]:
    """Each run of digits as a number, a part of letters and digits, or the first of digits that stand apart."""
    end = 0
    place = seen.find(b"0")
    for _ in range(MAX_LOOKS):
        if place < 0:
            return
        past = _end(_DIGITS_RUN, text, place)
        candidate = _number(text, place, end) if past - place > 1 else _spaced(text, seen, place)
        if candidate is None and (seen[place - 1] in _JOINS or seen[past : past + 1] in _JOINING):
            candidate = _mixed(text, place, end)
            past = _end(_MIXED_RUN, text, place)
        if candidate is not None:
            yield candidate
            past = max(past, candidate.end)
        elif seen[place : place + 3] == b"0 0":
            past = _end(_SPACED_RUN, text, place)
        end = past
        place = seen.find(b"0", past)


def _capitals(text: str, seen: bytes) -> Iterator[_Candidate]:
    """Words of capitals without digits."""
    end = 0
    place = seen.find(b"AAA")
    for _ in range(MAX_LOOKS):
        if place < 0:
            return
        candidate = _mixed(text, place, end)
        if candidate is not None and candidate.value.replace("-", "").isalpha():
            yield candidate
        end = _end(_MIXED_RUN, text, place)
        place = seen.find(b"AAA", end)


def _number(text: str, place: int, end: int) -> _Candidate | None:
    service = _SERVICE.search(text, max(end, place - 3), place) if text[place - 1 : place] == "-" else None
    match = _NUMBER.match(text, service.start() if service else place)
    if match is None:
        return None
    value = match[1] if match[1].isdecimal() else "".join(filter(str.isdecimal, match[1]))
    return _Candidate(start=match.start(), end=match.end(), value=value, letters=False)


def _spaced(text: str, seen: bytes, place: int) -> _Candidate | None:
    match = _SPACED.match(text, place) if seen[place : place + 7] == b"0 0 0 0" else None
    if match is None or (value := "".join(match[0].split())) in _COUNTING:
        return None
    return _Candidate(start=place, end=match.end(), value=value, letters=False)


def _mixed(text: str, place: int, end: int) -> _Candidate | None:
    start = place - _end(_MIXED_RUN, text[max(place - 32, end) : place][::-1], 0)
    match = _MIXED.match(text, start)
    if match is None or not _like_a_code(match[1]):
        return None
    return _Candidate(start=start, end=match.end(), value=match[1], letters=True)


def _end(run: re.Pattern[str], text: str, place: int) -> int:
    """Where a run that begins here ends; the patterns for runs match nothing, too."""
    match = run.match(text, place)
    return match.end() if match else place


def _like_a_code(token: str) -> bool:
    bare = token.replace("-", "")
    if not 4 <= len(bare) <= 16 or bare.isdecimal() or _QUANTITY.match(bare):
        return False
    return any(map(str.isdecimal, bare)) or bare.isupper()


# --- what it is ---


# Asked of text in lower case: ignoring case makes alternatives ten times as slow.
_LISTED: Final[tuple[tuple[Name, list[str]], ...]] = (
    ("other", vocabulary.words(vocabulary.OTHER)),  # first: "promo code" rather than "code"
    ("code", vocabulary.words(vocabulary.CODE)),
    ("weak", vocabulary.words(vocabulary.WEAK)),
)
_EVERY: Final = [word for _, listed in _LISTED for word in listed]
_ANY_NAME = re.compile(vocabulary.pattern(_EVERY))  # without groups it searches three times as fast
_ANY_NAME_ASCII = re.compile(vocabulary.pattern(vocabulary.ascii_alone(_EVERY)))
# "Promo code" and "Kundennummer" are one word each, "Bestätigungscode" is two: the second says more.
_NUMBERED = "codes?|numbers?|id|pin|nummer|kod|kodu|numarası|код|コード|코드"
_TAIL: Final = {
    "other": rf"{_LETTER}*(?:(?<!account)[\s_\-]{{0,2}}(?:{_NUMBERED})\b)?",
    "code": rf"{_LETTER}*",
    "weak": "",
}
_NAMES: Final = tuple((name, re.compile(f"(?:{vocabulary.pattern(each)}){_TAIL[name]}")) for name, each in _LISTED)
_PLAIN_CODES: Final = frozenset(word.strip("^$") for word in _LISTED[1][1] if word.endswith("$"))
_PLAIN_WEAK: Final = tuple(word for word in _LISTED[2][1] if word.isalpha() and word.isascii() and len(word) > 4)
_PLAIN_YOURS: Final = frozenset(vocabulary.words("your|this|the|dein|ihr|votre|tu|su|seu|il|je|uw|twój|ваш"))
_PLAIN_SMALL: Final = frozenset(vocabulary.words("is|:|is:|ist|lautet|lautet:|est|es|es:|è|è:|é|to|to:|=|-"))
_PLAIN_MARKS = ":*_ "
_PROMO = re.compile(vocabulary.pattern(vocabulary.words(vocabulary.PROMO)) + r"|[0-9]\s?%")
_PROMO_PARTS: Final = tuple({"%", *(word.strip("^$").split()[0] for word in vocabulary.words(vocabulary.PROMO))})
_PROMO_PARTS_ASCII: Final = tuple(filter(str.isascii, _PROMO_PARTS))
_ENTERS = re.compile(
    f"(?:{vocabulary.pattern(vocabulary.words(vocabulary.ENTER))})"
    r"(?:\s+(?:the|code|le|el|o|il|den|de|kod|код|código|codice|this))?[\s*_:：\"'“«]*\Z"
)
# "It is …", where a sentence begins: under a subject that names a code.
_IT_IS = re.compile(
    r"(?:\A|[\n.!?。:,])[\s*_>]*"
    f"(?:{'|'.join(re.escape(each).replace(chr(92) + ' ', '[ ]+') for each in vocabulary.words(vocabulary.IT_IS))})"
    r"[\s*_>:：\"'“«„\[({-]*\Z"
)
_MARKS = r"\s*_>|#:：=~–—\"'“”«»„\[\](){}【】「」『』،・"
_SMALL = (
    r"(?:is|are|was|below|here|your|as|follows|shown|following|number|no\.?|nr\.?|n[.º°]{1,2}|№|id|ist|lautet|lauten|est|le|la|les"
    r"|es|el|è|é|e|o|a|to|jest|это|ваш|हैं?|यह|هو|هي|الخاص|بك|التالي|التالية|是|为|為|は|が|는|은|이|가|を|으로)"
)
_CONNECTS = re.compile(rf"(?:[{_MARKS}-]|{_SMALL}(?![^\W\u2e80-\uffff]))*")
_SAYS = re.compile(
    r"(?:[:：=是为為は]|\b(?:is|ist|lautet|est(?: le)?|es|è|é|to|jest|это|هو|هي))[\s*_>|\"'“«„\[({【「-]*\Z"
)
_ENDS = re.compile(r"[!?。！？؟।]|(?<!\bno)(?<!\bnr)(?<!\bn)(?<!\btel)(?<!\bref)\.(?=\s)|\n\s*\n")
_IS = re.compile(
    r"[\s*_»\"'”\])】」]*(?:[-–—:=]\s|(?:is|ist|est|es|è|é|to|jest|это|as|هو|هي|आपका|आपके|यह)\b|[是为為はが이가])"
)
_COLON_OR_DASH: Final = frozenset(":-–—")
_GROUPS: Final = frozenset(" \u00a0-")  # between digits, they make one number of them
_GROUPED: Final = frozenset("0123456789)")
_MONEY = re.compile(r"(?:\b(?:usd|eur|gbp|inr|chf|nt|us|r|rs\.?)|[$€£¥₹₽])\s?\Z")
_UNIT = re.compile(
    r"\s?(?:(?:minutes?|mins?|hours?|days?|seconds?|users?|people|items?|points?|km|kg|px|mm|cm|usd|eur|gbp|inr|ft|kr|zł|tl|euros?"
    r"|руб\w*|человек|supporters|trees|months?|years?|attempts?|s|rs|lei|dh|درهم|ريال|دقيقة|रुपये|मिनट)\b"
    r"|[%年月日元円원人分個个件名回次명개년월일시]|万|億|亿|位)"
)
_YEAR = re.compile(r"(?:19|20)[0-9]{2}")
_ADDRESS = re.compile(r"[!-~]*")
_ADDRESS_SIGNS: Final = ("://", "@", "www.")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Where a candidate stands."""

    before: str  # up to 160 characters, in lower case
    after: str  # up to 100, in lower case
    alone: bool  # in its line
    letters: bool  # the candidate holds some
    word: bool  # it holds nothing else
    names: _Names  # of the words before it

    @property
    def gap(self) -> str:
        """What stands between the nearest of these words and the candidate."""
        return self.before[self.names[-1][2] :] if self.names else self.before

    @property
    def entered(self) -> bool:
        """Whether "enter" or the like stands right before it."""
        return _ENTERS.search(self.before[-40:]) is not None


def _confidence(text: str, candidate: _Candidate, subject: _Subject) -> float:
    """0 … 1 and a little more; under 0.5 where nothing says that it is a code."""
    before = _lowered(text[max(candidate.start - _BEFORE, 0) : candidate.start])
    after = _lowered(text[candidate.end : candidate.end + _AFTER])
    if _is_no_code(before, after, candidate):
        return 0.0
    plainly = _plainly(before)
    if plainly == "weak" or (plainly and not _sells(before, after, [], candidate)):
        return 0.97
    near = before[-_NEAR:]
    near = near[near.find(" ") + 1 :] if len(before) > _NEAR else near
    names = _names(near)
    if names and names[-1][0] == "code" and _CONNECTS.fullmatch(near, names[-1][2]):
        score = 0.97  # "your code is": a short look is enough for most
    else:
        names = _names(before)
        score = _by_words(before, after, names, candidate, subject)
    return 0.0 if score < _needed(candidate) or _sells(before, after, names, candidate) else score


def _plainly(before: str) -> Name | None:
    """Which word goes with "code" where it stands right before it: "verification code is" (weak), "your code:".

    Most mails need no more than this, and this costs a fifth of looking for all words.
    """
    said = [word for word in before[-_NEAR:].split()[-4:] if word not in _PLAIN_SMALL]
    if len(said) < 2 or said[-1].rstrip(_PLAIN_MARKS) not in _PLAIN_CODES or _ENDS.search(said[-2]):
        return None
    if said[-2].startswith(_PLAIN_WEAK):
        return "weak"
    return "code" if said[-2] in _PLAIN_YOURS else None


def _lowered(words: str) -> str:
    """In lower case, the Turkish capital İ as i."""
    return words.lower() if words.isascii() else words.lower().replace("i\u0307", "i")


def _by_words(before: str, after: str, names: _Names, candidate: _Candidate, subject: _Subject) -> float:
    place = _Place(
        before=before,
        after=after,
        alone=not before.rpartition("\n")[2].strip(" *_>|\"'[(【")
        and not after.partition("\n")[0].strip(" *_|\"'.])】"),
        letters=candidate.letters,
        word=candidate.value.isalpha(),
        names=names,
    )
    if _names_another(place):
        return 0.0
    score = max(_by_name(place, subject.hint), _by_what_follows(place))
    return score and score + subject.hint / 2


def _needed(candidate: _Candidate) -> float:
    """How good the reasons must be: anything is rather a year, a phone number or a product than a code."""
    if candidate.letters:
        doubtful = candidate.value.isalpha() and "-" not in candidate.value
        return 0.85 if doubtful or _NAMED_THING.fullmatch(candidate.value) else 0.7
    if _YEAR.fullmatch(candidate.value):
        return 0.85
    return 0.75 if len(candidate.value) > 8 else 0.4


def _is_no_code(before: str, after: str, candidate: _Candidate) -> bool:
    """What stands right beside it makes it a part of something."""
    longer = before[-1:] in _GROUPS and before[-2:-1] in _GROUPED
    if longer or _MONEY.search(before[-5:]) or (_UNIT.match(after) and not candidate.letters):
        return True
    if not any(map(before.__contains__, _ADDRESS_SIGNS)):
        return False
    beside = _ADDRESS.match(before[::-1])
    return beside is not None and any(map(beside[0][::-1].__contains__, _ADDRESS_SIGNS))


def _names(words: str) -> _Names:
    """The words that name a number."""
    search = (_ANY_NAME_ASCII if words.isascii() else _ANY_NAME).search
    names: _Names = []
    match = search(words)
    while match is not None:
        start = match.start()
        name, end = next((name, whole.end()) for name, pattern in _NAMES if (whole := pattern.match(words, start)))
        names.append((name, start, end))
        match = search(words, end)
    return names


def _names_another(place: _Place) -> bool:
    """The nearest word names something else, and nothing stands between but "number" or a few words."""
    if not place.names or place.names[-1][0] != "other":
        return False
    gap = place.gap
    if _CONNECTS.fullmatch(gap):
        return not (place.alone and _led_in(place))
    return len(gap) <= 25 and not place.alone and not _ENDS.search(gap) and "\n" not in gap and not _digits(gap)


def _led_in(place: _Place) -> bool:
    """A word for a code stands in the same sentence: "enter the code for your account:" and a line of its own."""
    start, end = next(((start, end) for name, start, end in reversed(place.names) if name == "code"), (0, 0))
    return end > start and not _ENDS.search(place.before, end, place.names[-1][1])


def _digits(words: str) -> bool:
    return any(map(str.isdecimal, words))


def _by_name(place: _Place, hint: float) -> float:
    """By the nearest word before it; "code de vérification" is both of its words."""
    nearest = place.names[-1][0] if place.names else None
    named = next((end for name, _, end in reversed(place.names) if name == "code"), None)
    if nearest == "code" or (named is not None and nearest == "weak" and not _ENDS.search(place.before, named)):
        return max(_by_gap(place, place.gap), 0.8 * place.entered)
    if named is not None and (place.alone or (_SAYS.search(place.before) and not _ENDS.search(place.before, named))):
        return 0.85 * _by_gap(place, place.before[named:]) if nearest == "other" else 0.8
    if place.entered and (nearest == "weak" or hint or named is not None):
        return 0.75
    if nearest == "weak":
        return 0.65 if place.alone or (_SAYS.search(place.gap) and _CONNECTS.fullmatch(place.gap)) else 0.3
    if nearest is None and hint >= _NAMED and _IT_IS.search(place.before[-_NEAR:]):
        return 0.7
    return 0.3 + 2 * hint if place.alone and hint > 0 and nearest is None else 0.0


def _by_gap(place: _Place, gap: str) -> float:
    """By what stands between "code" and it."""
    if _CONNECTS.fullmatch(gap):
        return 0.95
    ended = _ENDS.search(gap) is not None
    if _SAYS.search(gap):
        return 0.8 if ended else 0.9
    if place.alone:
        return 0.8 if ended else 0.9
    return 0.3 if ended or len(gap) > 60 or _digits(gap) else 0.6


def _by_what_follows(place: _Place) -> float:
    """As in "482913 is your code", "880415 kodunu gir", "enter 604477 when asked for the code"."""
    if place.word and place.after.lstrip()[:1] in _COLON_OR_DASH:
        return 0.0  # "IMPORTANT: your code has expired"
    ended = _ENDS.search(place.after)
    sentence = place.after[: ended.start()] if ended else place.after
    names = _names(sentence)
    first = next((each for each in names if each[0] != "weak"), None)
    if first is not None and first[0] == "code":
        return _by_code_behind(place, sentence, first[1])
    return (0.75 if place.entered else 0.6 * (_begins(place) and _IS.match(sentence) is not None)) if names else 0.0


def _by_code_behind(place: _Place, sentence: str, distance: int) -> float:
    """By what stands between it and "code", which follows in the same sentence."""
    if place.entered:
        return 0.9
    if _IS.match(sentence):
        return 0.9 if _begins(place) else 0.7
    if place.letters:
        return 0.3
    if distance <= 2:
        return 0.8
    within = place.alone or "\n" not in sentence[:distance]
    return 0.6 if within and distance <= _NEAR and _begins(place) else 0.3


def _begins(place: _Place) -> bool:
    """A sentence or a line begins with it."""
    line = place.before.rpartition("\n")[2]
    last = list(_ENDS.finditer(line))
    return not (line[last[-1].end() :] if last else line).strip(" *_>|\"'[(【】]<#").strip()


def _sells(before: str, after: str, names: _Names, candidate: _Candidate) -> bool:
    """It is for the till of a shop."""
    if any(name == "weak" for name, _, _ in names):
        return False
    if _CAMPAIGN.fullmatch(candidate.value):
        return True
    near = before[-100:].rpartition("\n\n")[2] + "\n" + after.partition("\n\n")[0]
    parts = _PROMO_PARTS_ASCII if near.isascii() else _PROMO_PARTS
    if not any(map(near.__contains__, parts)) or not _PROMO.search(near):
        return False
    return not any(name == "weak" for name, _, _ in _names(near))


class _Subject:
    """What the subject says for numbers in the body, found out when first asked."""

    __slots__ = ("_hint", "_words")

    def __init__(self, words: str) -> None:
        self._words = words
        self._hint: float | None = None

    @property
    def hint(self) -> float:
        """0.2 for one like "Your code", 0.1 for "Confirm your address", else 0."""
        if self._hint is None:
            names = {name for name, _, _ in _names(_lowered(self._words))}
            self._hint = 0.0 if "other" in names else _NAMED if "code" in names else 0.1 if "weak" in names else 0.0
        return self._hint

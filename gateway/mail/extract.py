"""What a program wants out of a message: the code, the link, a line to show.

Only the first 64 KiB of each body are looked at, and every step is linear in them: whoever sends the mail chose it.
HTML is taken apart by a small scanner of our own rather than a tree builder, because tree builders take quadratic time
on nested tags (64 KiB of `<div>`: 0.4 s in lexbor), and a message is read while others wait.
"""

from __future__ import annotations

import html as entities
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

MAX_LOOK = 65_536  # characters of a body that are looked at
MAX_CODES = 20
MAX_LINKS = 100
MAX_SNIPPET = 200  # characters
_MAX_CANDIDATES = 200  # numbers weighed in one text
_MAX_URL = 2048  # characters; longer ones are left out, a cut link is worse than none
_MAX_LABEL = 200  # characters of a link's text

Source = Literal["text", "html", "subject"]
Kind = Literal["verify", "login", "reset", "invite", "unsubscribe", "other"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Code:
    """A one-time code."""

    value: str  # digits alone: "482 913" and "G-482913" are 482913
    confidence: float  # 0 … 1; 0.5 and more: a cue word says so
    source: Source
    context: str  # the words around it, at most some 100 characters, one line


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """An http or https link."""

    url: str  # as the message has it, entities decoded
    text: str  # what it is called in HTML, one line; empty in plain text
    kind: Kind


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """All of it, the HTML taken apart once."""

    codes: tuple[Code, ...]  # best first
    links: tuple[Link, ...]  # in their order
    snippet: str  # at most 200 characters, white space folded


def everything(subject: str, text: str | None, html: str | None) -> Found:
    """Codes, links and snippet of one message."""
    page = _Page(html)
    return Found(codes=_codes(subject, text, page), links=_links(text, page), snippet=_snippet(text, page))


def codes(subject: str, text: str | None, html: str | None) -> tuple[Code, ...]:
    """At most 20 codes of 4 to 8 digits, the most likely first. HTML is asked where subject and text have none."""
    return _codes(subject, text, _Page(html))


def links(text: str | None, html: str | None) -> tuple[Link, ...]:
    """At most 100 links, those of the HTML first (they have names), each URL once."""
    return _links(text, _Page(html))


def snippet(text: str | None, html: str | None) -> str:
    """The first 200 characters that a reader would see."""
    return _snippet(text, _Page(html))


def html_to_text(html: str) -> str:
    """What a reader sees: tags, scripts and styles gone, blocks on lines of their own, entities decoded."""
    return _Page(html).text


# --- HTML ---

_BLOCK_NAMES = (
    "address article aside blockquote body br center dd div dl dt fieldset footer form h1 h2 h3 h4 h5 h6 header hr li "
    "main nav ol p pre section table tbody td tfoot th thead tr ul"
)
_BLOCKS: Final = frozenset(_BLOCK_NAMES.split())
_UNSEEN: Final = frozenset({"script", "style", "title", "template", "noscript", "svg", "object", "select", "textarea"})
_TAG_NAME = re.compile(r"/?[a-zA-Z][a-zA-Z0-9]*")
_HREF = re.compile(r"(?:^|\s)href\s{0,9}=\s{0,9}(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'>]+))", re.IGNORECASE)
_SPACES = re.compile(r"[^\S\n]+")
_BLANK_LINES = re.compile(r"\s*\n\s*")
_INVISIBLE = dict.fromkeys([0xAD, 0x34F, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x2060, 0xFEFF, 0xFFFD])


class _Page:
    """An HTML body, taken apart when first asked; None counts as empty."""

    __slots__ = ("_anchors", "_html", "_text")

    def __init__(self, html: str | None) -> None:
        self._html = (html or "")[:MAX_LOOK]
        self._text: str | None = None
        self._anchors: list[tuple[str, str]] = []

    @property
    def text(self) -> str:
        if self._text is None:
            self._read()
        return self._text or ""

    @property
    def anchors(self) -> list[tuple[str, str]]:
        """(href, text) of its links, entities decoded."""
        if self._text is None:
            self._read()
        return self._anchors

    def may_hold(self, words: str) -> bool:
        """A cheap look at the source, before it is taken apart."""
        return words in self._html

    def has_digits(self) -> bool:
        """Likewise, for digits that could be a code."""
        return _ANY_DIGITS.search(self._html) is not None

    def _read(self) -> None:
        out: list[str] = []
        href, start = "", 0
        for tag, attributes, words in _pieces(self._html):
            if tag in _BLOCKS or tag[1:] in _BLOCKS:
                out.append("\n")
            elif tag in {"a", "/a", "area"}:
                if href:
                    self._anchors.append((href, _one_line(entities.unescape("".join(out[start:])))))
                href, start = _href(attributes) if tag != "/a" else "", len(out)
            out.append(words.replace("\n", " "))
        if href:
            self._anchors.append((href, _one_line(entities.unescape("".join(out[start:])))))
        seen = entities.unescape("".join(out))
        self._text = _BLANK_LINES.sub("\n", _SPACES.sub(" ", seen)).strip()


def _pieces(html: str) -> Iterator[tuple[str, str, str]]:
    """(tag name, attributes, text behind it) for every tag whose text is seen; the first has no tag.

    A '>' within an attribute ends the tag too early, which shows as some stray characters.
    """
    first, *rest = _without_comments(html).split("<")
    yield "", "", first
    unseen = ""
    for piece in rest:
        match = _TAG_NAME.match(piece)
        tag = match[0].lower() if match else ""
        if unseen:
            unseen = "" if tag == "/" + unseen else unseen
            if unseen:
                continue
        inside, closed, words = piece.partition(">")
        if not tag:
            yield "", "", words if piece[:1] in {"!", "?", "/"} else "<" + piece
        elif tag in _UNSEEN and not inside.endswith("/"):
            unseen = tag
        else:
            yield tag, inside[len(tag) :] if closed else "", words


def _without_comments(html: str) -> str:
    if "<!--" not in html:
        return html
    first, *rest = html.split("<!--")
    return first + "".join(piece.partition("-->")[2] for piece in rest)


def _href(attributes: str) -> str:
    match = _HREF.search(attributes)
    return entities.unescape(match[1] or match[2] or match[3] or "").strip() if match else ""


def _one_line(text: str) -> str:
    return " ".join(text[: _MAX_LABEL * 4].split())[:_MAX_LABEL]


# --- codes ---

_ANY_DIGITS = re.compile(r"[0-9]{2}[ \u00a0-]?[0-9]")
_DIGITS_ALONE: Final = bytes(0x30 if 0x30 <= octet <= 0x39 else 0x20 for octet in range(256))  # for bytes.translate
_SERVICE = re.compile(r"[A-Z]{1,4}-\Z")
# Digits that stand alone, or two groups of them, or behind a service's letters; neither a part of a longer number, a
# price, a decimal, a time, a date, a phone number with +, nor a piece of a URL, an address or a word.
_NUMBER = re.compile(
    r"(?<![\w.,:/#$€£¥₹₽+=@%&?~\-])(?:[A-Z]{1,4}-)?"
    r"([0-9]{3}[ \u00a0-][0-9]{3}|[0-9]{4}[ \u00a0-][0-9]{4}|[0-9]{2}[ -][0-9]{2}[ -][0-9]{2}|[0-9]{4,8})"
    r"(?![\w@%/€£$¥₹₽]|[-:,.'+]\w|\)?[ \u00a0-]{1,2}[0-9(€£$¥₹₽]|\s?(?:USD|EUR|GBP|Ft|kr|zł|руб))"
)
_LONGER = re.compile(r"[0-9)][ \u00a0-]$")  # the end of what stands before a number that goes on from there
# Those from here to _UNIT are asked of text in lower case: ignoring case makes alternatives ten times as slow.
_CUE = re.compile(
    r"pass(?:code|word|[ -]?key)|codes?\b|verif|one[ -]time|confirm|2fa|authenticat"
    r"|einmal|bestätig|passwort|mot de passe|vérif|código|codigo|clave|contraseña|codice"
    r"|wachtwoord|hasło|doğrulama|şifre|парол|验证码|驗證碼|校验码|动态码|認証|確認|コード|인증|번호"
    r"|\b(?:otp\b|pin\b|tan\b|kod|код)"
)


def _backwards(words: str) -> str:
    """Alternatives that find these words in a text read from its end."""
    return "|".join(re.escape(word[::-1]) for word in words.split())


# Words right before a number that make it something else. Read backwards, they are tried at one place only.
_OTHER_BACKWARDS = re.compile(
    r"[\s.:#]*(?:\b(?:"
    + _backwards("no nr number id is nummer us at on in")
    + r")\b[\s.:#]*){0,2}(?:(?:"
    + _backwards("order invoice ticket tracking account reference ref case zip suite since year version")
    + "|"
    + _backwards("phone tel fax call room flight port page unit ext")
    + r"|edoc\spiz|xob \.?o\.?p|ni gnidne)\b|edoctsop|s?edoc\s?(?:"
    + _backwards("promo coupon discount voucher area error status country source postal zip")
    + r")|\w*(?:"
    + _backwards("bestell rechnung kunden")
    + ")|"
    + _backwards("© (c) copyright commande factura pedido")
    + ")"
)
_NAMES = r"(?:code|otp|\bpin|password|passcode|passwort|\bkod|код|пароль|código|codice|\btan|验证码|驗證碼|コード|번호)"
# "code is", "code: ", "code to continue: ", and the like, right before the number.
_SAYS = re.compile(
    _NAMES + r"[\s*_]*(?:\bis\b|\bist\b|\blautet\b|\best\b|\bes\b|è|é|=|是|为|為|は|[-–—])?[\s*_]*[:：]?[\s*_\[(【「]*$"
    r"|" + _NAMES + r"[^\n.0-9]{0,40}[:：][\s*_\[(【「]*$"
)
_IS_CODE = re.compile(
    r"[\s*_.]*(?:is|ist|est|es|è|é|as|–|-|—|:)\s(?:\S+\s){0,5}?(?:\w*(?:code|kod|código|codice|код)|otp|pin|passcode|password)\b"
)
_UNIT = re.compile(r"\s?(?:minutes?|mins?|hours?|days?|seconds?|users?|people|items?|points?|km|kg|px|%)\b")
_YEAR = re.compile(r"(?:19|20)[0-9]{2}")
_NEAR = 120  # characters between a cue and its number
_AROUND = 48  # characters of context on either side


def _codes(subject: str, text: str | None, page: _Page) -> tuple[Code, ...]:
    """HTML is another rendering of the text, so it is asked only where the text has nothing."""
    found = [*_weigh(subject[:1000], "subject", 0.0), *_weigh((text or "")[:MAX_LOOK], "text", _hint(subject))]
    if not any(code.source == "text" for code in found) and page.has_digits():
        found += _weigh(page.text, "html", _hint(subject))
    best: dict[str, Code] = {}
    for code in sorted(found, key=lambda code: -code.confidence):
        best.setdefault(code.value, code)
    return tuple(best.values())[:MAX_CODES]


def _hint(subject: str) -> float:
    """How much a subject like "Your verification code" adds to lonely numbers in the body."""
    return 0.2 if _CUE.search(subject[:1000].lower()) else 0.0


def _weigh(text: str, source: Source, hint: float) -> Iterator[Code]:
    for count, match in enumerate(_numbers(text)):
        if count == _MAX_CANDIDATES:
            return
        confidence = _confidence(text, match, hint)
        if confidence >= 0.5:
            yield Code(
                value=re.sub(r"[^0-9]", "", match[1]),
                confidence=round(min(confidence, 0.99), 2),
                source=source,
                context=" ".join(text[max(match.start() - _AROUND, 0) : match.end() + _AROUND].split()),
            )


def _numbers(text: str) -> Iterator[re.Match[str]]:
    """What `_NUMBER.finditer` finds, tried only where two digits begin: its own search costs 60 times as much."""
    digits = text.encode("ascii", "replace").translate(_DIGITS_ALONE)  # as long as the text: "0" for each digit
    start = end = 0
    while (start := digits.find(b"00", start)) >= 0:
        service = _SERVICE.search(text, max(end, start - 5), start) if text[start - 1 : start] == "-" else None
        match = _NUMBER.match(text, service.start() if service else start)
        if match:
            yield match
            end = match.end()
        past = digits.find(b" ", start)
        start = max(past, end) if past >= 0 else len(digits)


def _confidence(text: str, match: re.Match[str], hint: float) -> float:
    before = text[max(match.start() - _NEAR, 0) : match.start()].lower()
    after = text[match.end() : match.end() + _NEAR].lower()
    if _LONGER.search(before[-2:]) or _UNIT.match(after) or _OTHER_BACKWARDS.match(before[:-41:-1]):
        return 0.0
    if _SAYS.search(before[-60:]) or _IS_CODE.match(after):
        return 0.95 + hint
    if _YEAR.fullmatch(match[1]):
        return 0.0
    score = hint + _nearness(before, after)
    if not score:
        return 0.0
    alone = before.rpartition("\n")[2].strip(" *_>|") == "" and after.partition("\n")[0].strip(" *_|") == ""
    return score + 0.35 * alone + 0.1 * (len(match[1]) >= 6)


def _nearness(before: str, after: str) -> float:
    """0 … 0.45 by how near the next cue word is; one before the number counts more than one behind it."""
    behind = _CUE.search(after)
    distances = [len(before) - cue.start() for cue in _CUE.finditer(before)]
    distances += [behind.start() + 20] if behind else []
    nearest = min(distances, default=_NEAR + 1)
    return 0.0 if nearest > _NEAR else 0.25 + 0.2 * (1 - nearest / _NEAR)


# --- links ---

_ANY_URL = re.compile("https?://", re.IGNORECASE)
_URL = re.compile(r"https?://[^\s<>\"'`{}|\\^\x00-\x1f]+", re.IGNORECASE)
# Asked of text in lower case
_KIND_WORDS: Final[tuple[tuple[Kind, str], ...]] = (
    (
        "unsubscribe",
        r"unsubscri|opt[-_ ]?out|email[-_ ]?preferences|list-manage|abmelden|abbestell|désabonn|desuscri",
    ),
    (
        "reset",
        r"reset|forgot|recover|(?:change|new|set)[-_ ]?(?:your[-_ ]?)?password|passwort|zurücksetzen|réinitialis",
    ),
    ("verify", r"verif|confirm|activat|validat|bestätig|aktivier|vérifi|confirma|conferma|подтверд|验证|認証|確認"),
    ("invite", r"invit|join|accept|einlad|beitreten"),
    ("login", r"log[-_ ]?in|sign[-_ ]?in|magic|one[-_ ]?time|passwordless|anmeld|connexion|entrar|/auth\b|/sso\b"),
)
_KINDS: Final = tuple((kind, re.compile(words)) for kind, words in _KIND_WORDS)


def _links(text: str | None, page: _Page) -> tuple[Link, ...]:
    found: dict[str, Link] = {}
    for url, label in _candidates(text, page):
        if len(found) == MAX_LINKS:
            break
        if url not in found and len(url) <= _MAX_URL and url.isprintable():
            found[url] = Link(url=url, text=label, kind=_kind(url, label))
    return tuple(found.values())


def _candidates(text: str | None, page: _Page) -> Iterator[tuple[str, str]]:
    if page.may_hold("://"):
        for href, label in page.anchors:
            if _ANY_URL.match(href):
                yield href, label
    for url in _urls((text or "")[:MAX_LOOK]):
        yield _trimmed(url), ""


def _urls(text: str) -> Iterator[str]:
    """What `_URL.findall` finds, tried only where :// stands."""
    end = 0
    while (colon := text.find("://", end)) >= 0:
        starts = (colon - 5, colon - 4)  # https, http
        match = next(filter(None, (_URL.match(text, start) for start in starts if start >= end)), None)
        if match:
            yield match[0]
        end = match.end() if match else colon + 3


def _trimmed(url: str) -> str:
    """Without the punctuation of the sentence around it; a closing bracket stays if the URL opened it."""
    for _ in range(8):
        opening = {")": "(", "]": "["}.get(url[-1])
        opened = opening is not None and url.count(opening) >= url.count(url[-1])
        if url[-1] in ".,;:!?*_)]" and not opened:
            url = url[:-1]
        else:
            break
    return url


def _kind(url: str, label: str) -> Kind:
    """By what it is called, then by what stands in it behind the host's name."""
    path = url.partition("://")[2].partition("/")[2][:300]
    for words in (label.lower(), path.lower()):
        for kind, pattern in _KINDS:
            if pattern.search(words):
                return kind
    return "other"


# --- snippet ---


def _snippet(text: str | None, page: _Page) -> str:
    for words in (text or "", "" if text and text.strip() else page.text):
        for length in (MAX_SNIPPET * 2, MAX_SNIPPET * 10):  # the second where there is much white space
            line = _folded(words[:length])
            if len(line) >= MAX_SNIPPET or len(words) <= length:
                break
        if line:
            return line[:MAX_SNIPPET]
    return ""


def _folded(words: str) -> str:
    seen = words if words.isascii() else words.translate(_INVISIBLE)
    return " ".join(seen.split())

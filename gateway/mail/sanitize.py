"""A stranger's HTML made harmless: nothing in it runs, and nothing is loaded from elsewhere.

What may stay is listed, element by element and attribute by attribute; nh3 parses as browsers do and leaves all the
rest out. Links lead out (http, https, mailto) and say nothing about where from. Pictures are those that came along: a
`cid:` URL becomes a `data:` URL, or stays as it is in mail that takes its pictures with it. Only who asks for it is
given the URLs of pictures that lie elsewhere.

nh3 takes quadratic time for some input (25 s for 64 KB of unclosed formatting [measured]), so whatever a stranger wrote
is cleaned in a process that can be killed: `serve` is what such a process runs.
"""

from __future__ import annotations

import base64
import binascii
import html as entities
import re
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Final, Literal

import nh3

from gateway.mail import parse

MAX_HTML: Final = 5_242_880  # characters that are looked at; more is not cleaned but shown as text
MAX_PICTURES: Final = 5_242_880  # octets of pictures shown in place, all together
MAX_STYLE: Final = 4_096  # characters of one style attribute

# As data: URLs; the same, and those of other hosts by their URLs; by their cid: URLs; or not at all.
Pictures = Literal["shown", "remote", "named", "none"]
_MODES: Final[dict[bytes, Pictures]] = {b"S": "shown", b"R": "remote", b"N": "named", b"0": "none"}

_SIGNATURES: Final = (  # how each safe kind of picture begins
    ("image/png", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("image/jpeg", re.compile(rb"\xff\xd8\xff")),
    ("image/gif", re.compile(rb"GIF8[79]a")),
    ("image/webp", re.compile(rb"RIFF....WEBP", re.DOTALL)),
)

_GONE: Final = {  # with all that is in them
    *("script", "style", "title", "template", "noscript", "noembed", "noframes", "iframe", "object", "embed", "applet"),
    *("svg", "math", "audio", "video", "canvas", "textarea", "select", "xmp", "plaintext", "frameset"),
}
_TAGS: Final = (nh3.ALLOWED_TAGS - {"area", "map"}) | {"font", "big", "tfoot", "address", "section", "main"}
_ANYWHERE: Final = {"style", "align", "valign", "bgcolor", "color", "dir", "lang", "title", "width", "height"}
_ATTRIBUTES: Final[dict[str, set[str]]] = {
    "*": _ANYWHERE,
    "a": {"href"},
    "img": {"src", "alt", "border", "hspace", "vspace"},
    "font": {"face", "size"},
    "hr": {"size"},
    "ol": {"start", "type"},
    "ul": {"type"},
    "table": {"border", "cellpadding", "cellspacing", "summary"},
    "td": {"colspan", "rowspan", "nowrap"},
    "th": {"colspan", "rowspan", "nowrap", "scope"},
    "col": {"span"},
    "colgroup": {"span"},
    "time": {"datetime"},
    "details": {"open"},
}
_SCHEMES: Final = {"http", "https", "mailto", "cid", "data"}  # nh3's own look; `_Filter` is stricter, by attribute

_LINK = re.compile(r"(?:https?://|mailto:)[^\s<>\"'`\\]+", re.IGNORECASE)
_REMOTE = re.compile(r"https?://", re.IGNORECASE)
_IGNORED_IN_URLS = re.compile(r"[\t\n\r]")  # WHATWG URL, "basic URL parser"
_CONTROLS = "".join(map(chr, range(33)))
_CID = re.compile(r"cid:(.{1,900})", re.IGNORECASE)
_DATA = re.compile(r"data:image/(?:png|jpe?g|gif|webp);base64,([A-Za-z0-9+/=\s]+)", re.IGNORECASE)

_PROPERTIES = re.compile(
    r"(?:min-|max-)?(?:width|height)|color|background(?:-color)?|font(?:-(?:family|size|style|weight|variant))?"
    r"|text-(?:align|decoration|indent|transform)|line-height|letter-spacing|word-(?:spacing|break|wrap)|overflow-wrap"
    r"|white-space|vertical-align|direction|display|visibility|float|clear|opacity|list-style-type|table-layout"
    r"|(?:margin|padding)(?:-(?:top|right|bottom|left))?|box-sizing|caption-side|empty-cells"
    r"|border(?:-(?:top|right|bottom|left))?(?:-(?:color|style|width))?|border-(?:radius|collapse|spacing)"
)
# No backslash (escapes), slash (comments, URLs), @ or colon; and no function but those that make colours.
_VALUE = re.compile(
    r"(?:[-#%., \w!+]|\"[- \w.]*\"|'[- \w.]*'|(?:rgba?|hsla?)\([-\d.,% ]*\))+", re.ASCII | re.IGNORECASE
)


def clean(html: str, pictures: Callable[[str], str | None] = lambda _: None, *, remote: bool = False) -> str:
    """The HTML without what could run or load; `pictures` gives the URL to put for a content id, None for no picture.
    `remote`: pictures of other hosts stay, and are loaded by whoever shows it.

    May take minutes where the HTML is hostile: see the module's docstring.
    """
    return nh3.clean(
        html,
        tags=set(_TAGS),
        clean_content_tags=set(_GONE),
        attributes=_ATTRIBUTES,
        attribute_filter=_Filter(pictures, remote=remote),
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
        url_schemes=set(_SCHEMES),
    )


def picture_type(content: bytes) -> str | None:
    """The media type of a picture that browsers show and cannot run, by how it begins; None for anything else."""
    for media_type, signature in _SIGNATURES:
        if signature.match(content):
            return media_type
    return None


def text_as_html(text: str) -> str:
    """Plain text to stand in HTML."""
    return f'<pre style="white-space:pre-wrap">{entities.escape(text)}</pre>'


def request(raw: bytes, pictures: Pictures) -> bytes:
    """What `serve` is asked for the HTML body of a message."""
    return next(mode for mode, meant in _MODES.items() if meant == pictures) + raw


def serve(asked: bytes) -> str:
    """The HTML body of a message made harmless; empty where there is none, or too much of it."""
    raw, pictures = asked[1:], _MODES[asked[:1]]
    parsed = parse.parse_fast(raw) or parse.parse_slow(raw)
    if not parsed.html or len(parsed.html) > MAX_HTML:
        return ""
    if pictures == "none":
        return clean(parsed.html)
    known = {found.content_id: found.index for found in parsed.attachments if found.content_id}
    if pictures == "named":
        return clean(parsed.html, lambda content_id: f"cid:{content_id}" if content_id in known else None)
    return clean(parsed.html, _Shown(raw, known) if known else lambda _: None, remote=pictures == "remote")


class _Shown:
    """Pictures that came along, as data: URLs, as long as there is room."""

    def __init__(self, raw: bytes, known: Mapping[str, int]) -> None:
        self._raw = raw
        self._known = known  # indexes by content id
        self._made: dict[str, str | None] = {}
        self._room = MAX_PICTURES

    def __call__(self, content_id: str) -> str | None:
        if content_id not in self._known:
            return None
        if content_id not in self._made:
            self._made[content_id] = self._url(self._known[content_id])
        url = self._made[content_id]
        self._room -= len(url or "") * 3 // 4  # each time it is shown: the answer holds it each time
        return url if self._room >= 0 else None

    def _url(self, index: int) -> str | None:
        _, content = parse.attachment(self._raw, index)
        media_type = picture_type(content)
        if media_type is None or len(content) > self._room:
            return None
        return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


class _Filter:
    """Decides over the value of each attribute that is allowed where it stands."""

    def __init__(self, pictures: Callable[[str], str | None], *, remote: bool) -> None:
        self._pictures = pictures
        self._remote = remote
        self._room = MAX_PICTURES  # octets, of pictures that stand in the HTML itself

    def __call__(self, tag: str, attribute: str, value: str) -> str | None:
        if attribute == "href":
            return link(value)
        if attribute == "src":
            return self._source(value)
        if attribute == "style":
            return style(value)
        return value

    def _source(self, value: str) -> str | None:
        value = value.strip(_CONTROLS)
        if found := _CID.fullmatch(value):
            return self._pictures(urllib.parse.unquote(found[1]))  # RFC 2392 2
        if found := _DATA.fullmatch(value):
            return self._embedded(found[1])
        return link(value) if self._remote and _REMOTE.match(value) else None

    def _embedded(self, encoded: str) -> str | None:
        self._room -= len(encoded) * 3 // 4
        try:
            content = base64.b64decode("".join(encoded.split()), validate=True) if self._room >= 0 else b""
        except binascii.Error:
            return None
        media_type = picture_type(content)
        return f"data:{media_type};base64,{base64.b64encode(content).decode()}" if media_type else None


def link(url: str) -> str | None:
    """A URL that a reader may follow, as browsers read it; None for any other."""
    seen = _IGNORED_IN_URLS.sub("", url).strip(_CONTROLS).replace(" ", "%20")
    return seen if _LINK.fullmatch(seen) else None


def style(declarations: str) -> str | None:
    """Those declarations that only say how text looks; None where none is left."""
    kept = [kept for part in declarations[:MAX_STYLE].split(";") if (kept := _declaration(part))]
    return ";".join(kept) or None


def _declaration(text: str) -> str | None:
    name, colon, value = (part.strip() for part in text.partition(":"))
    fine = colon and _PROPERTIES.fullmatch(name.lower()) and _VALUE.fullmatch(value)
    return f"{name.lower()}:{value}" if fine else None

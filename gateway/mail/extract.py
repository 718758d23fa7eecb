"""What a program wants out of a message: the code, the link, a line to show.

Only the first 64 KiB of each body are looked at, and every step is linear in them: whoever sends the mail chose it.
How codes are found: gateway.mail.codes; links: gateway.mail.links; HTML: gateway.mail.page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway.mail import codes as finding_codes
from gateway.mail import links as finding_links
from gateway.mail import page

MAX_LOOK: Final = page.MAX_LOOK  # characters of a body that are looked at
MAX_CODES: Final = finding_codes.MAX_CODES
MAX_LINKS: Final = finding_links.MAX_LINKS
MAX_SNIPPET: Final = 200  # characters
_INVISIBLE: Final = dict.fromkeys([0xAD, 0x34F, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x2060, 0xFEFF, 0xFFFD])

Code = finding_codes.Code
Link = finding_links.Link
Source = finding_codes.Source
Kind = finding_links.Kind


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """All of it, the HTML taken apart once."""

    codes: tuple[Code, ...]  # best first
    links: tuple[Link, ...]  # in their order
    snippet: str  # at most 200 characters, white space folded


def everything(subject: str, text: str | None, html: str | None) -> Found:
    """Codes, links and snippet of one message."""
    look, read = (text or "")[:MAX_LOOK], page.Page(html)
    return Found(
        codes=finding_codes.found(subject, look, read),
        links=finding_links.found(look, read),
        snippet=_snippet(text, read),
    )


def codes(subject: str, text: str | None, html: str | None) -> tuple[Code, ...]:
    """At most 20 codes, the surest first; HTML is asked where the text has none.

    Numbers of 4 to 10 digits, and mixtures of letters and digits of 4 to 16, capitals alone among them.
    """
    return finding_codes.found(subject, (text or "")[:MAX_LOOK], page.Page(html))


def links(text: str | None, html: str | None) -> tuple[Link, ...]:
    """At most 100 links, those of the HTML first (they have names), each URL once."""
    return finding_links.found((text or "")[:MAX_LOOK], page.Page(html))


def snippet(text: str | None, html: str | None) -> str:
    """The first 200 characters that a reader would see."""
    return _snippet(text, page.Page(html))


def html_to_text(html: str) -> str:
    """What a reader sees: tags, scripts and styles gone, blocks on lines of their own, entities decoded."""
    return page.Page(html).text


def _snippet(text: str | None, read: page.Page) -> str:
    for words in (text or "", "" if text and text.strip() else read.text):
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

"""The plain text that goes beside an HTML body whose author wrote none: what it says, and where its links lead.

For people who read mail as text, and for filters that want to see both. Paragraphs are parted by an empty line, items
of lists begin with "- ", a link is followed by its address, a picture is its description. In linear time.
"""

from __future__ import annotations

import html as entities
import re
from typing import Final

from gateway.mail import page

MAX_HTML: Final = 1_048_576  # characters; what is longer has no text made of it, rather than half of one
MAX_TAGS: Final = 100_000

_PARAGRAPHS: Final = frozenset(
    f"{slash}{name}"
    for slash in ("", "/")
    for name in (
        "p",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "ul",
        "ol",
        "dl",
        "table",
        "blockquote",
        "pre",
        "hr",
        "article",
    )
)
_LINKED: Final = ("http://", "https://", "mailto:", "tel:")
_ALT = re.compile(r"(?:^|\s)alt\s{0,9}=\s{0,9}(?:\"([^\"]*)\"|'([^']*)')", re.IGNORECASE)
_MARK: Final = "\0"  # stands for an empty line until lines are put together; no text holds one


def of_html(html: str) -> str | None:
    """The text; None where there is nothing to read in it, or too much."""
    if len(html) > MAX_HTML:
        return None
    writing = _Writing()
    for tag, attributes, words in page.pieces(html, MAX_TAGS):
        writing.tag(tag, attributes)
        if words:
            writing.words(words)
    return writing.text() or None


class _Writing:
    """The text as far as it is written."""

    def __init__(self) -> None:
        self._out: list[str] = []
        self._href, self._start = "", 0  # of the link that is open: where it leads, where its words begin

    def tag(self, tag: str, attributes: str) -> None:
        if tag in _PARAGRAPHS:
            self._out.append(f"\n{_MARK}\n")
        elif tag == "li":
            self._out.append("\n- ")
        elif tag in {"td", "th"}:
            self._out.append(" ")
        elif tag in page.BLOCKS and tag not in {"/td", "/th"}:
            self._out.append("\n")
        elif tag == "img" and (found := _ALT.search(attributes)):
            self.words(found[1] or found[2] or "")
        elif tag in {"a", "/a"}:
            self._close_link()
            self._href, self._start = page.target_of(attributes) if tag == "a" else "", len(self._out)

    def words(self, text: str) -> None:
        """As they stand in the HTML, where the end of a line is a space."""
        if "&" in text:
            text = entities.unescape(text)
        self._out.append(text.replace("\n", " ").replace(_MARK, " "))

    def text(self) -> str:
        self._close_link()
        lines = [" ".join(line.split()) for line in "".join(self._out).split("\n")]
        text = "\n".join(line for line in lines if line and line != "-")
        return re.sub(rf"\n?(?:{_MARK}\n?)+", "\n\n", text).strip()

    def _close_link(self) -> None:
        where, self._href = self._href, ""
        if not where.lower().startswith(_LINKED):
            return
        label = "".join(self._out[self._start :])
        said = where.partition(":")[2] if where.lower().startswith(("mailto:", "tel:")) else where
        if said.partition("?")[0] not in label:
            self._out.append(f" ({said})" if label.strip() else said)

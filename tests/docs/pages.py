"""The pages that people read, README.md and docs/*.md: their headings, links, tables and fenced blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
_FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING: Final = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_LINK: Final = re.compile(r"\[[^\]]*\]\(([^)\s]+)(?: \"([^\"]*)\")?\)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A fenced block."""

    page: str  # its file, from the root: "docs/api.md"
    line: int  # of its first line
    language: str  # empty where the page names none
    text: str
    follows: bool  # another one, with nothing but blank lines between

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def files() -> list[Path]:
    """Every page, README first."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """In the order of the page."""
    text, end = page.read_text(), 0
    for found in _FENCE.finditer(text):
        yield Block(
            page=str(page.relative_to(ROOT)),
            line=text.count("\n", 0, found.start(2)) + 1,
            language=found[1],
            text=found[2],
            follows=end > 0 and not text[end : found.start()].strip(),
        )
        end = found.end()


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", page.read_text())


def everything() -> str:
    """All pages, one after the other."""
    return "\n".join(page.read_text() for page in files())


def links(page: Path) -> list[str]:
    """Where its links lead, as they stand there."""
    return [link for link, _ in _LINK.findall(prose(page))]


def claims(text: str) -> list[tuple[str, str]]:
    """Of links to tests, the file and the test's name, which is the link's title."""
    return [(link, title) for link, title in _LINK.findall(text) if title]


def anchors(page: Path) -> set[str]:
    """What may stand behind # in a link to it, made of its headings as GitHub makes them."""
    plain = (re.sub(r"[`*]|\]\([^)]*\)|\[", "", title) for title in _HEADING.findall(prose(page)))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in plain}

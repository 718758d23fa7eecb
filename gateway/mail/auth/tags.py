"""Lists of tag=value pairs, as DKIM, ARC and DMARC write them (RFC 6376 section 3.2)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_FOLDS: Final = re.compile(r"\s+")


class InvalidTags(ValueError):
    """It is no list of tags."""


def parse(text: str) -> dict[str, str]:
    """Tags in their order. Raises InvalidTags, for a tag that stands twice too."""
    found: dict[str, str] = {}
    for piece in text.rstrip().removesuffix(";").split(";"):
        name, equals, value = piece.partition("=")
        name = name.strip()
        if not equals or not _NAME.fullmatch(name):
            raise InvalidTags(f"{piece.strip()[:40]!r} is no tag")
        if name in found:
            raise InvalidTags(f"{name}= stands twice")
        found[name] = value.strip()
    return found


def dense(text: str) -> str:
    """Without white space, as base64 is read."""
    return _FOLDS.sub("", text)


def number(tags: Mapping[str, str], name: str) -> int | None:
    """A tag's number; None = there is no such tag. Raises InvalidTags."""
    value = tags.get(name)
    if value is None:
        return None
    if not value.isascii() or not value.isdigit() or len(value) > 18:
        raise InvalidTags(f"{name}= is no number")
    return int(value)

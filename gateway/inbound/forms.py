"""Form posts, read as octets: multipart/form-data (RFC 7578) and application/x-www-form-urlencoded.

Starlette's reader turns fields into text, and a mail that is no UTF-8 into another mail; here a field is its octets.
What is read is in memory already; delimiters, parts and their headers are bounded.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MAX_PARTS: Final = 1000
MAX_HEADERS: Final = 8192  # octets of one part's header
_MAX_LOOKS: Final = 20_000  # places that look like a delimiter

_BOUNDARY: Final = re.compile(r';\s*boundary=(?:"([^"\r\n]{1,200})"|([^\s;"]{1,200}))', re.IGNORECASE)
_PARAMETER: Final = re.compile(r';\s*([A-Za-z0-9*_-]{1,40})=("(?:[^"\\]|\\.)*"|[^;\s]*)')
_AFTER: Final = re.compile(rb"(--)?[ \t]*(?:\r\n|\Z)")  # what ends a delimiter (RFC 2046 section 5.1.1)


class NotAForm(ValueError):
    """The body is not a form; the text says why, for a person."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One field, or one file."""

    name: str
    filename: str | None  # None = a field
    content_type: str  # as it stands there; empty where it does not
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")


def read(content_type: str, body: bytes) -> list[Part]:
    """The parts in order. Raises NotAForm."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded":
        return _urlencoded(body)
    if kind == "multipart/form-data":
        return list(_multipart(content_type, body))
    raise NotAForm("the content type is no form's")


def _urlencoded(body: bytes) -> list[Part]:
    try:
        pairs = urllib.parse.parse_qsl(
            body.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_PARTS, encoding="latin-1"
        )
    except ValueError:
        raise NotAForm("it has too many fields") from None
    return [
        Part(
            name=name.encode("latin-1").decode("utf-8", "replace"),
            filename=None,
            content_type="",
            content=value.encode("latin-1"),
        )
        for name, value in pairs
    ]


def _multipart(content_type: str, body: bytes) -> Iterator[Part]:
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise NotAForm("the content type names no boundary")
    begun, count = None, 0
    for start, end, last in _delimiters(body, b"--" + (found[1] or found[2]).encode("latin-1", "replace")):
        if begun is not None:
            yield _part(body[begun:start])
        begun, count = end, count + 1
        if last:
            return
        if count > MAX_PARTS:
            raise NotAForm("it has too many parts")
    raise NotAForm("it has no end")


def _delimiters(body: bytes, delimiter: bytes) -> Iterator[tuple[int, int, bool]]:
    """Each one that stands at a line's start: where it begins, with the line end before it, where it ends, and whether
    it is the closing one."""
    at, looks = body.find(delimiter), 0
    while at >= 0:
        after = _AFTER.match(body, at + len(delimiter))
        if after and (at == 0 or body[at - 2 : at] == b"\r\n"):
            yield max(at - 2, 0), after.end(), after[1] is not None
        looks += 1
        if looks > _MAX_LOOKS:
            raise NotAForm("its boundary is everywhere")
        at = body.find(delimiter, at + len(delimiter))


def _part(part: bytes) -> Part:
    end = 0 if part.startswith(b"\r\n") else part.find(b"\r\n\r\n", 0, MAX_HEADERS) + 2
    if end == 1:
        raise NotAForm("a part has no header, or too long a one")
    fields = _fields(part[:end].decode("utf-8", "replace"))
    parameters = {key.lower(): value for key, value in _PARAMETER.findall(fields.get("content-disposition", ""))}
    if "name" not in parameters:
        raise NotAForm("a part has no name")
    return Part(
        name=_unquoted(parameters["name"]),
        filename=_filename(parameters),
        content_type=fields.get("content-type", ""),
        content=part[end + 2 :],
    )


def _fields(block: str) -> dict[str, str]:
    lines = (line.partition(":") for line in block.split("\r\n"))
    return {name.strip().lower(): value.strip() for name, colon, value in lines if colon}


def _filename(parameters: dict[str, str]) -> str | None:
    if "filename*" in parameters:  # RFC 8187; RFC 7578 section 4.2 forbids it here, and it is met
        return urllib.parse.unquote(_unquoted(parameters["filename*"]).rpartition("'")[2])
    return _unquoted(parameters["filename"]) if "filename" in parameters else None


def _unquoted(value: str) -> str:
    """Without quotes; `%22` is how browsers write a quote in them (WHATWG HTML, multipart/form-data)."""
    if not value.startswith('"'):
        return value
    return re.sub(r'\\(["\\])', r"\1", value[1:-1]).replace("%22", '"')

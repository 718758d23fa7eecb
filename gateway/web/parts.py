"""Parts of messages as HTTP answers: a stranger's bytes are to be saved, never run; their name is only a label."""

from __future__ import annotations

import re
import unicodedata
import urllib.parse
from typing import Final

from starlette.responses import Response

from gateway.mail import sanitize

MAX_NAME: Final = 150  # characters, the extension included
MAX_EXTENSION: Final = 20  # characters, the dot included; what is longer is no extension
MAX_OCTETS: Final = 240  # of a name in UTF-8: file systems take 255

NO_SCRIPTS: Final = "sandbox; default-src 'none'"  # Content-Security-Policy of whatever a stranger wrote
NO_LOADING: Final = f"{NO_SCRIPTS}; style-src 'unsafe-inline'; img-src data:"
LINKS_LEAD_OUT: Final = NO_LOADING.replace("sandbox", "sandbox allow-popups allow-popups-to-escape-sandbox", 1)
REMOTE_PICTURES: Final = LINKS_LEAD_OUT.replace("img-src data:", "img-src data: http: https:", 1)
OPAQUE: Final = "application/octet-stream"

# Separators of paths and streams, what shells and Windows take for themselves.
_REFUSED = re.compile(r"[/\\:*?\"<>|]")
# Names that are devices on Windows, whatever extension follows.
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)\s*(?:\.|\Z)", re.IGNORECASE)


def download(content: bytes, media_type: str, filename: str, *, etag: str | None = None) -> Response:
    """To be saved."""
    return _sent(content, media_type, "attachment", filename, etag)


def shown(content: bytes, filename: str, *, etag: str | None = None) -> Response:
    """A picture of a kind that cannot run, in its place; anything else is to be saved."""
    media_type = sanitize.picture_type(content)
    return _sent(content, media_type or OPAQUE, "inline" if media_type else "attachment", filename, etag)


def _sent(content: bytes, media_type: str, disposition: str, filename: str, etag: str | None) -> Response:
    headers = {"content-disposition": f"{disposition}; {parameters(filename)}", "content-security-policy": NO_SCRIPTS}
    if etag is not None:
        headers |= {"etag": etag, "cache-control": "private, no-cache"}
    return Response(content, media_type=media_type, headers=headers)


def parameters(filename: str) -> str:
    """`filename` for everybody and `filename*` for those who read UTF-8 (RFC 6266 4.3, RFC 8187 3.2)."""
    name = safe_name(filename)
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._- ()") else "_" for c in name)
    return f"filename=\"{plain}\"; filename*=UTF-8''{urllib.parse.quote(name, safe='')}"


def safe_name(filename: str, default: str = "attachment") -> str:
    """A name that every system can save under: no path, nothing unseen, nothing reserved, not too long."""
    name = unicodedata.normalize("NFC", filename.encode("utf-8", "replace").decode())
    name = re.split(r"[/\\]", name)[-1]
    name = _REFUSED.sub("_", "".join(c for c in name if not _is_unseen(c)))
    name = _cut(" ".join(name.split()).strip(". "))  # Windows drops dots and spaces at the end, Unix hides the front
    if _RESERVED.match(name):
        name = f"_{name}"
    return name or default


def _is_unseen(character: str) -> bool:
    """Controls, marks that turn the direction of writing or join, surrogates, code points that nobody has."""
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Cn", "Co"} and not character.isspace()


def _cut(name: str) -> str:
    """At most MAX_NAME characters and MAX_OCTETS, the extension kept."""
    stem, dot, extension = name.rpartition(".")
    if not stem or len(dot + extension) > MAX_EXTENSION:
        stem, dot, extension = name, "", ""
    end = dot + extension
    stem = stem[: MAX_NAME - 1 - len(end)]  # one for the mark before a reserved name
    stem = stem.encode()[: MAX_OCTETS - 1 - len(end.encode())].decode(errors="ignore")
    return f"{stem.rstrip('. ')}{end}" if stem.rstrip(". ") else end.lstrip(".")

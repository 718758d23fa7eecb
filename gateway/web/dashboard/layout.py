"""How pages look: the navigation, the templates with what they may use, and the files that they load."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import jinja2

from gateway.storage import events

_PAGES: Final = Path(__file__).parent / "pages"
_FILES: Final = Path(__file__).parent.parent / "static" / "dashboard"
_TYPES: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One line of the navigation; shown once its path has a page."""

    path: str
    label: str
    icon: str  # of icons.svg
    key: str  # behind "g"
    group: str


NAVIGATION: Final[Sequence[Entry]] = (
    Entry(path="/", label="Overview", icon="overview", key="g o", group=""),
    Entry(path="/mail", label="Mail", icon="mail", key="g m", group="In"),
    Entry(path="/mailboxes", label="Mailboxes", icon="mailboxes", key="g b", group="In"),
    Entry(path="/emails", label="Sent", icon="sent", key="g s", group="Out"),
    Entry(path="/queue", label="Queue", icon="queue", key="g q", group="Out"),
    Entry(path="/bounces", label="Bounce rules", icon="warning", key="g r", group="Out"),
    Entry(path="/templates", label="Templates", icon="templates", key="g t", group="Out"),
    Entry(path="/suppressions", label="Suppressions", icon="suppressions", key="g x", group="Out"),
    Entry(path="/statistics", label="Statistics", icon="statistics", key="g c", group="Watch"),
    Entry(path="/events", label="Events", icon="events", key="g e", group="Watch"),
    Entry(path="/webhooks", label="Webhooks", icon="webhooks", key="g w", group="Set up"),
    Entry(path="/domains", label="Domains", icon="domains", key="g d", group="Set up"),
    Entry(path="/keys", label="Keys", icon="keys", key="g k", group="Set up"),
)


def navigation(paths: Collection[str]) -> list[Entry]:
    """The entries that lead somewhere."""
    return [entry for entry in NAVIGATION if entry.path in paths]


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """A script, a style sheet or a picture."""

    content: bytes
    media_type: str
    etag: str


class Assets:
    """All of them, in memory. Their address holds one hash over them all, so that modules may name each other and a
    browser keeps them for good."""

    def __init__(self, folder: Path = _FILES) -> None:
        self._files = {
            path.relative_to(folder).as_posix(): _file(path)
            for path in sorted(folder.rglob("*"))
            if path.suffix in _TYPES
        }
        whole = hashlib.sha256(b"".join(name.encode() + file.content for name, file in self._files.items()))
        self.version = whole.hexdigest()[:12]

    def url(self, name: str) -> str:
        """Raises LookupError for what is not there: a template is wrong."""
        if name not in self._files:
            raise LookupError(name)
        return f"/static/{self.version}/{name}"

    def find(self, name: str) -> File | None:
        return self._files.get(name)


def _file(path: Path) -> File:
    content = path.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:24]}"'
    return File(content=content, media_type=_TYPES[path.suffix], etag=etag)


def templates(assets: Assets) -> jinja2.Environment:
    """The pages. Everything that is put into them is escaped; what is missing is a mistake."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PAGES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals |= {"asset": assets.url, "once": once, "event_types": " ".join(sorted(events.TYPES))}
    environment.filters |= {
        "size": size,
        "day": day,
        "moment": moment,
        "person": person,
        "count": count,
        "plainjson": plainjson,
        "outward": outward,
    }
    environment.globals["ui"] = environment.get_template("macros.html").module
    return environment


def once() -> str:
    """A new Idempotency-Key, for a form."""
    return secrets.token_urlsafe(16)


# Filters


def size(octets: int) -> str:
    """ "12.3 kB": decimal units, as mail programs show them."""
    if octets < 1000:
        return f"{octets} B"
    amount = float(octets)
    for unit in ("kB", "MB", "GB"):
        amount /= 1000
        if amount < 999.5 or unit == "GB":
            return f"{amount:.1f} {unit}" if amount < 100 else f"{amount:.0f} {unit}"
    return ""


def parsed(text: str) -> datetime:
    """A time as the API writes it."""
    return datetime.fromisoformat(text).astimezone(UTC)


def day(text: str) -> str:
    """ "22 Nov 2026, 11:43 UTC"; a script makes it relative, in the reader's own zone."""
    found = parsed(text)
    return f"{found.day} {found:%b %Y, %H:%M} UTC"


def moment(text: str) -> str:
    """To the second, for titles."""
    found = parsed(text)
    return f"{found:%Y-%m-%d %H:%M:%S} UTC"


def person(who: dict[str, Any] | None) -> str:
    """The name, else the address, of {"name", "address"}."""
    if who is None:
        return "(nobody)"
    return str(who.get("name") or who.get("address") or "(nobody)")


def outward(url: str) -> str:
    """A link that a stranger wrote, if it leads to the web or to a mail program; else nothing."""
    return url if url.lower().startswith(("https://", "http://", "mailto:")) else ""


def plainjson(value: Any) -> str:
    """Indented, in the letters that it is written with; it is escaped like any text."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def count(number: int, one: str, many: str = "") -> str:
    """ "1 mail", "2,000 mails"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"

"""The Authentication-Results of a message (RFC 8601), as one field's value: what this house found, and nobody else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~@-]+")
_UNSAFE: Final = re.compile(r"[^\x20-\x7e]")


def value(hostname: str, auth: Mapping[str, Any], mail_from: str, helo: str) -> str | None:
    """`auth` as messages.auth has it; None where the message was not judged."""
    if not auth.get("spf"):
        return None
    details: Mapping[str, Any] = auth.get("details", {})
    said = [
        _spf(auth["spf"], details.get("spf", {}), mail_from, helo),
        *_dkim(auth, details),
        _method("dmarc", auth["dmarc"], details.get("dmarc", {}), {"header.from": "domain"}),
    ]
    if auth.get("arc", "none") != "none":
        said.append(_method("arc", auth["arc"], details.get("arc", {}), {}))
    return "; ".join([hostname, *said])


def _spf(result: str, details: Mapping[str, Any], mail_from: str, helo: str) -> str:
    if details.get("identity") == "helo":
        return _method("spf", result, {**details, "asked": helo}, {"smtp.helo": "asked"})
    return _method("spf", result, {**details, "asked": mail_from}, {"smtp.mailfrom": "asked"})


def _dkim(auth: Mapping[str, Any], details: Mapping[str, Any]) -> list[str]:
    names = {"header.d": "domain", "header.s": "selector", "header.a": "algorithm"}
    found = [_method("dkim", one["result"], one, names) for one in details.get("dkim", [])]
    return found or [f"dkim={auth['dkim']}"]


def _method(method: str, result: str, details: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """One method with its properties, those that are known; the reason as a quoted string."""
    pieces = [f"{method}={result}"]
    if details.get("reason"):
        pieces.append("reason=" + _quoted(details["reason"]))
    pieces += [f"{name}={_word(details[key])}" for name, key in names.items() if details.get(key)]
    return " ".join(pieces)


def _word(text: str) -> str:
    """A property's value (RFC 8601 2.2): as it is, or quoted where it holds what a token may not."""
    return text if _TOKEN.fullmatch(text) else _quoted(text)


def _quoted(text: str) -> str:
    escaped = _UNSAFE.sub("?", text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'

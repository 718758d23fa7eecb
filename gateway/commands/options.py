"""What options mean that many commands have, and the examples under their help."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer

Json = Annotated[
    bool, typer.Option("--json", help="Print JSON, as the API has it: one document, or one object a line for lists")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only what a script would ask for, or nothing")]
Limit = Annotated[int, typer.Option("--limit", "-n", help="How many at most; 0: all", min=0, max=1_000_000)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether it is meant")]

UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s?([smhdw]?)")


def commands(meaning: str) -> typer.Typer:
    """A group of commands under one word, or one command alone."""
    return typer.Typer(
        help=meaning, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
    )


def examples(*lines: str) -> str:
    """What stands under a command's help; kept as it is written here."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def duration(text: str | float) -> float:
    """Seconds of "90", "90s", "10m", "2h", "7d", "1w"."""
    if not isinstance(text, str):
        return float(text)
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no duration: 90, 90s, 10m, 2h or 7d are")
    return float(found[1]) * UNITS[found[2]]


def Duration(*names: str, help: str, **more: Any) -> Any:  # noqa: N802 - stands where typer.Option would
    """An option that takes a duration."""
    return typer.Option(*names, help=help, parser=duration, metavar="DURATION", **more)


def pairs(separator: str, what: str) -> Callable[[str], tuple[str, str]]:
    """What reads "name=value" and the like."""

    def read(text: str) -> tuple[str, str]:
        name, found, value = text.partition(separator)
        if not found or not name.strip():
            raise typer.BadParameter(f"{text!r} is not {what}")
        return name.strip(), value.strip()

    return read

"""No regular expression of the gateway's can be kept busy: each is found, and attacked with what its kind dies of."""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import re
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

import pytest

import gateway

ATOMS: Final = (
    *" \t\n\r\0aA0_-.,:;@=+*?/\\\"'<>()[]{}%&#|~$é",
    *(
        "a ",
        "a-",
        "a.",
        "0 ",
        "0-",
        ".@",
        "a@",
        "<a",
        '\\"',
        '"a',
        "=?",
        "?=",
        "--",
        "::",
        "a:b ",
        ";a=b",
        ", ",
        "\r\n ",
    ),
)
ENDS: Final = ("", "\0", "!", "\n\n", "x@")
PATIENCE: Final = 5.0  # seconds of processor time for one attack; what ends at all takes thousandths


class TooLong(Exception):
    """A match went on and on."""


def patterns() -> Iterator[tuple[str, re.Pattern[Any]]]:
    """Every one that a module keeps, by its name."""
    for found in pkgutil.walk_packages(gateway.__path__, "gateway."):
        module = importlib.import_module(found.name)
        for name, value in vars(module).items():
            if isinstance(value, re.Pattern):
                yield f"{found.name}.{name}", value


def attacks(length: int) -> Iterator[str]:
    """One atom many times, at the front of what cannot match."""
    for atom, end in itertools.product(ATOMS, ENDS):
        yield atom * (length // len(atom)) + end


def _end(_: int, __: FrameType | None) -> None:
    raise TooLong


def attacked(pattern: re.Pattern[Any], text: str, seconds: float = PATIENCE) -> None:
    """Raises TooLong."""
    subject: Any = text if isinstance(pattern.pattern, str) else text.encode()
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        pattern.fullmatch(subject)
        pattern.search(subject)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


@pytest.fixture(autouse=True)
def _alarm() -> Iterator[None]:
    before = signal.signal(signal.SIGVTALRM, _end)
    yield
    signal.signal(signal.SIGVTALRM, before)


@pytest.mark.parametrize("length", [60, pytest.param(600, marks=pytest.mark.faults)])
def test_no_pattern_is_kept_busy(length: int) -> None:
    """60 characters find what doubles with each one, 600 what grows with their fourth power."""
    found = dict(patterns())
    assert len(found) > 80
    texts = list(attacks(length))
    for name, pattern in found.items():
        for text in texts:
            try:
                attacked(pattern, text)
            except TooLong:
                pytest.fail(f"{name} does not end on {text[:20]!r}…{text[-3:]!r}")


def test_a_pattern_that_does_not_end_is_seen() -> None:
    """Control."""
    with pytest.raises(TooLong):
        attacked(re.compile(r"(a+)+b"), "a" * 60, 0.1)

"""HTML cleaned in child processes: what is hostile costs its caller the time limit, and nobody else anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.inbound import cleaning

pytestmark = pytest.mark.anyio

HEAD = b"From: a@b.example\r\nContent-Type: text/html\r\n\r\n"
BUSY = HEAD + "".join(f"<b id={n}><p>" for n in range(4700)).encode()  # half a minute


@pytest.fixture
async def cleaner() -> AsyncIterator[cleaning.Cleaning]:
    made = cleaning.Cleaning(workers=1, seconds=1.0)
    yield made
    await made.close()


async def test_html_is_made_harmless(cleaner: cleaning.Cleaning) -> None:
    assert await cleaner.html(HEAD + b"<p onclick=x()>Hi<script>x()</script>") == "<p>Hi</p>"


async def test_a_message_without_html_has_none(cleaner: cleaning.Cleaning) -> None:
    assert await cleaner.html(b"From: a@b.example\r\n\r\nHi\r\n") is None


async def test_hostile_html_ends_its_child_and_the_next_message_gets_another(cleaner: cleaning.Cleaning) -> None:
    assert await cleaner.html(BUSY) is None
    assert await cleaner.html(HEAD + b"<p>Hi") == "<p>Hi</p>"


async def test_who_comes_while_the_child_is_busy_waits_for_it(cleaner: cleaning.Cleaning) -> None:
    """Negative control: without its turns the second found no child free and got nothing, and the test failed."""
    answers = await asyncio.gather(*(cleaner.html(HEAD + b"<p>%d" % n) for n in range(5)))
    assert answers == [f"<p>{n}</p>" for n in range(5)]


async def test_what_is_closed_cleans_nothing(cleaner: cleaning.Cleaning) -> None:
    await cleaner.close()
    assert await cleaner.html(HEAD + b"<p>Hi") is None

"""Rendering in children: a template that never ends, or eats memory, is given up, and the next one is rendered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.inbound import rendering
from gateway.mail import template

pytestmark = pytest.mark.anyio

ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture
async def room(anyio_backend: object) -> AsyncIterator[rendering.Rendering]:
    made = rendering.Rendering(workers=1, seconds=1.0)
    yield made
    await made.close()


def source(text: str) -> template.Source:
    return template.Source(subject="s", text=text)


@pytest.mark.parametrize(
    "hostile", [ENDLESS, "{{ 10 ** 1000000000 }}", "{{ 'a' * 10 ** 10 }}", "{{ ['a' * 10 ** 8] * 99 }}"]
)
async def test_a_template_that_burns_time_or_memory_is_given_up(room: rendering.Rendering, hostile: str) -> None:
    with pytest.raises(template.Problem):
        await room.render(source(hostile), {})
    assert (await room.render(source("{{ x }}"), {"x": 1})).text == "1"


async def test_the_event_loop_goes_on_meanwhile(room: rendering.Rendering) -> None:
    hostile = asyncio.create_task(room.render(source(ENDLESS), {}))
    fine = asyncio.create_task(room.render(source("fine"), {}))
    beats = 0
    while not hostile.done():
        await asyncio.sleep(0)
        beats += 1
    assert beats > 10
    with pytest.raises(rendering.TookTooLong):
        await hostile
    assert (await fine).text == "fine"


async def test_checking_says_what_is_wrong_and_renders_nothing(room: rendering.Rendering) -> None:
    await room.check(source("{{ x }}"))
    with pytest.raises(template.Problem, match="line 2"):
        await room.check(source("\n{{ x"))


async def test_after_the_end_everything_is_given_up(room: rendering.Rendering) -> None:
    await room.close()
    with pytest.raises(rendering.TookTooLong):
        await room.render(source("x"), {})

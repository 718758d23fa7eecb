"""Renders templates in child processes, each with a time limit: a template may loop for ever, and be killed for it.

It stands beside the parsers because it has their children (`inbound.parsing`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import structlog

from gateway import errors
from gateway.inbound.parsing import ParsingPool
from gateway.mail import template

log = structlog.get_logger(__name__)

SECONDS: Final = 2.0  # for one template
WORKERS: Final = 2
WAIT_SECONDS: Final = 10.0  # for a free child

_encode: Final = msgspec.msgpack.Encoder().encode
_answer: Final = msgspec.msgpack.Decoder(template.Answer)


class TookTooLong(template.Problem):
    """The template was given up: it needs too much time or memory."""

    def __init__(self) -> None:
        super().__init__("html", f"the template takes longer than {SECONDS:g} s, or too much memory")


class Rendering:
    """Asks the children, one template each at a time."""

    def __init__(self, *, workers: int = WORKERS, seconds: float = SECONDS) -> None:
        self._pool = ParsingPool("gateway.mail.template:serve", workers=workers, seconds=seconds)
        self._turns = asyncio.Semaphore(workers)

    async def check(self, source: template.Source) -> None:
        """Raises template.Problem where it could never be rendered; Unavailable where nobody is free to look."""
        await self._ask(template.Request(source=source))

    async def render(self, source: template.Source, given: Mapping[str, Any]) -> template.Rendered:
        """Raises template.Problem, TookTooLong among them; Unavailable where nobody is free to do it."""
        values = template.filled(source.declared, given)
        answer = await self._ask(template.Request(source=source, values=values))
        if answer.rendered is None:
            raise TookTooLong
        return answer.rendered

    async def _ask(self, request: template.Request) -> template.Answer:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            raise errors.Unavailable("Nobody is free to render templates; try again.", retry_after=2) from None
        try:
            answered = await self._pool.ask(_encode(request))
        finally:
            self._turns.release()
        return _read(answered)

    async def close(self) -> None:
        """Kills the children; what is under way is given up."""
        await self._pool.close()


def _read(answered: bytes | None) -> template.Answer:
    if answered is None:
        raise TookTooLong
    try:
        answer = _answer.decode(answered)
    except msgspec.MsgspecError:  # a child may have been taken over by what it rendered
        log.warning("answer to a template is not what it should be")
        raise TookTooLong from None
    if answer.problem is not None:
        raise template.Problem(*answer.problem)
    return answer

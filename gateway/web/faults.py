"""/v1/mailboxes/{mailbox}/faults: failing on purpose, so that a sender's retries can be tested.

The script is done step by step, in its order: the first step that is not over is the one whose turn it is, and it takes
effect when its stage comes. Once the script is over the mailbox takes mail as any other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field

from gateway import errors
from gateway.lifecycle import Gateway
from gateway.models import Caller, Input, Output
from gateway.storage import rehearsals
from gateway.web import api
from gateway.web.paths import Paths

MAX_STEPS: Final = 50
MAX_TARPIT_SECONDS: Final = 60
OFF: Final = "Faults are not allowed here; the setting ALLOW_FAULTS turns them on."
_REPLY: Final = re.compile(r"[45][0-9]{2} [\x20-\x7e]{1,400}")  # RFC 5321 4.2: no controls, 512 octets in all
_TARPIT: Final = re.compile(r"tarpit:([0-9]{1,2}(?:\.[0-9]{1,3})?)")


def _reply(text: str) -> str:
    tarpit = _TARPIT.fullmatch(text)
    if tarpit and float(tarpit[1]) <= MAX_TARPIT_SECONDS:
        return text
    if text == "drop" or _REPLY.fullmatch(text):
        return text
    raise ValueError(
        f'a 4xx or 5xx reply such as "451 4.7.1 Later", "drop", or "tarpit:" and up to {MAX_TARPIT_SECONDS} seconds'
    )


class NewFault(Input):
    """A step of the script."""

    stage: Literal["rcpt", "data"] = Field(description="When RCPT names the mailbox, or when its message is there")
    reply: Annotated[str, AfterValidator(_reply)] = Field(
        max_length=410,
        description="What is answered: a 4xx or 5xx reply, `drop` (hang up), `tarpit:<seconds>` (be slow)",
    )
    times: int = Field(1, ge=1, le=1000, description="For so many deliveries")


class Fault(Output):
    """A step of the script, and how often it will still be done."""

    stage: Literal["rcpt", "data"]
    reply: str
    times: int
    remaining: int


class Script(Output):
    """A mailbox's script."""

    object: Literal["list"] = "list"
    data: list[Fault]


class Faults:
    """The operations."""

    def __init__(self, gateway: Gateway, paths: Paths) -> None:
        self._gateway = gateway
        self._paths = paths

    def operations(self) -> Sequence[api.Operation]:
        own: dict[str, Any] = {"tags": ["Mailboxes"], "returns": Script}
        path = "/mailboxes/{mailbox}/faults"
        return [
            api.op("GET", path, self.script, scope={"mailboxes", "read"}, mailbox_token=True, **own),
            api.op("PUT", path, self.rehearse, scope="mailboxes", errors=[errors.InvalidState], **own),
        ]

    async def script(self, caller: Caller, mailbox: str) -> Script:
        """The script and what is left of it."""
        box = await self._paths.mailbox(caller, mailbox)
        async with self._gateway.database.connection() as connection:
            steps = await rehearsals.script(connection, caller.account_id, box.id)
        return _shown(steps)

    async def rehearse(
        self, caller: Caller, mailbox: str, body: Annotated[list[NewFault], Field(max_length=MAX_STEPS)]
    ) -> Script:
        """From now on, deliveries to this mailbox fail like this, in this order; an empty list ends it."""
        box = await self._paths.mailbox(caller, mailbox)
        if not self._gateway.settings.allow_faults:
            raise errors.InvalidState(OFF)
        steps = [
            rehearsals.Step(stage=step.stage, reply=step.reply, times=step.times, remaining=step.times) for step in body
        ]
        async with self._gateway.database.transaction() as connection:
            await rehearsals.put(connection, caller.account_id, box.id, steps)
        return _shown(steps)


def _shown(steps: Sequence[rehearsals.Step]) -> Script:
    return Script(data=[Fault.model_validate(step, from_attributes=True) for step in steps])

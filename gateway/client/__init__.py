"""Postroom for Python programs: mailboxes to wait on, mail to send, events to follow.

    from gateway.client import Postroom          # postroom_client, where only the wheel postroom-client is installed

    with Postroom() as postroom, postroom.mailbox(ttl=600) as inbox:
        sign_up(email=inbox.address)             # your application sends its mail …
        code = inbox.wait(code=True).code        # … and this is what was in it
        inbox.expect_no_mail(2)                  # nothing else came

    sent = postroom.send(from_="Shop <shop@postroom.test>", to=inbox.address, subject="Hello", text="Hello!")
    sent.wait("delivered")

    for event in postroom.events(types=["email.bounced"]):   # reconnects and goes on where it was
        print(event.data["recipient"], event.data["reply"])

`AsyncPostroom` is the same with `await`, `async with` and `async for`. Where the gateway is, and the key to it, come
from POSTROOM_URL and POSTROOM_API_KEY unless they are given.

What is done for you: every request that creates something carries an Idempotency-Key and is tried again, with that same
key, when a connection breaks, the server is busy (Retry-After is obeyed) or away for a moment; waits of any length are
made of short polls, and no message falls between two of them; lists are iterators that turn pages by themselves. What
goes wrong is raised as one of `errors`' classes, with the request's id and never with a key.

    records        what answers hold: frozen dataclasses; fields of a newer server that they do not know are left out
    errors         what can go wrong, by the contract's names
    transport      one request and its retries, over httpx2, blocking or not
    asynchronous   AsyncPostroom: every operation, written once
    blocking       Postroom: the same operations, run to their end
    streams        events by SSE, resumed
    signatures     verify_webhook
    sendmail       sendmail(8), a program of its own; `postroom sendmail`
    pytest_plugin  fixtures; loaded by pytest itself

Nothing of this is imported until it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .asynchronous import AsyncEmail as AsyncEmail
    from .asynchronous import AsyncEvents as AsyncEvents
    from .asynchronous import AsyncMailbox as AsyncMailbox
    from .asynchronous import AsyncMessage as AsyncMessage
    from .asynchronous import AsyncPostroom as AsyncPostroom
    from .asynchronous import AsyncSent as AsyncSent
    from .asynchronous import AsyncSummary as AsyncSummary
    from .blocking import Email as Email
    from .blocking import Events as Events
    from .blocking import Mailbox as Mailbox
    from .blocking import Message as Message
    from .blocking import Postroom as Postroom
    from .blocking import Sent as Sent
    from .blocking import Summary as Summary
    from .errors import AddressTaken as AddressTaken
    from .errors import ApiError as ApiError
    from .errors import ConfigurationError as ConfigurationError
    from .errors import Conflict as Conflict
    from .errors import CursorExpired as CursorExpired
    from .errors import FieldError as FieldError
    from .errors import InvalidApiKey as InvalidApiKey
    from .errors import InvalidSignature as InvalidSignature
    from .errors import NoCode as NoCode
    from .errors import NoLink as NoLink
    from .errors import NotDelivered as NotDelivered
    from .errors import NotFound as NotFound
    from .errors import PayloadTooLarge as PayloadTooLarge
    from .errors import PostroomError as PostroomError
    from .errors import QuotaExceeded as QuotaExceeded
    from .errors import RateLimited as RateLimited
    from .errors import RecipientSuppressed as RecipientSuppressed
    from .errors import RestrictedApiKey as RestrictedApiKey
    from .errors import ServerError as ServerError
    from .errors import UnexpectedMail as UnexpectedMail
    from .errors import Unreachable as Unreachable
    from .errors import ValidationError as ValidationError
    from .errors import WaitTimeout as WaitTimeout
    from .records import Event as Event
    from .records import File as File
    from .records import NewEmail as NewEmail
    from .signatures import verify_webhook as verify_webhook
    from .transport import Patience as Patience
    from .transport import Timing as Timing

_HOMES = {
    "asynchronous": (
        "AsyncEmail",
        "AsyncEvents",
        "AsyncMailbox",
        "AsyncMessage",
        "AsyncPostroom",
        "AsyncSent",
        "AsyncSummary",
    ),
    "blocking": (
        "Email",
        "Events",
        "Mailbox",
        "Message",
        "Postroom",
        "Sent",
        "Summary",
    ),
    "errors": (
        "AddressTaken",
        "ApiError",
        "ConfigurationError",
        "Conflict",
        "CursorExpired",
        "FieldError",
        "InvalidApiKey",
        "InvalidSignature",
        "NoCode",
        "NoLink",
        "NotDelivered",
        "NotFound",
        "PayloadTooLarge",
        "PostroomError",
        "QuotaExceeded",
        "RateLimited",
        "RecipientSuppressed",
        "RestrictedApiKey",
        "ServerError",
        "UnexpectedMail",
        "Unreachable",
        "ValidationError",
        "WaitTimeout",
    ),
    "records": (
        "Event",
        "File",
        "NewEmail",
    ),
    "signatures": ("verify_webhook",),
    "transport": (
        "Patience",
        "Timing",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME_OF]

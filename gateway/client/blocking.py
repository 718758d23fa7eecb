"""`Postroom` and what it gives out: the operations of `asynchronous`, each run to its end before it returns."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator, Sequence
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, cast, overload

import httpx2

from . import asynchronous, records, streams, waits
from .asynchronous import Bound, Remembering, Room, bound
from .transport import BlockingLine, Line, Link, Patience, Place, Timing, finish, query_of

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
B = TypeVar("B", bound=Bound)


class Method(Generic[P, T_co]):
    """How type checkers see an operation: a method. There is none of these when it runs."""

    def __get__(self, instance: object, owner: type | None = None) -> Callable[P, T_co]:
        raise NotImplementedError


Operation = Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]
Listing = Callable[Concatenate[Any, P], AsyncIterator[T]]


@overload
def run(operation: Operation[P, T]) -> Method[P, T]: ...
@overload
def run(operation: Operation[P, Any], into: Callable[[], type[B]]) -> Method[P, B]: ...
def run(operation: Operation[P, Any], into: Callable[[], type[Any]] | None = None) -> Any:
    """The same operation, blocking; what it returns as one of the classes here."""

    @functools.wraps(operation)
    def method(self: Any, *arguments: P.args, **named: P.kwargs) -> Any:
        found = finish(operation(self, *arguments, **named))
        return found if into is None else bound(into(), found, self._link)

    return method


@overload
def each(operation: Listing[P, T]) -> Method[P, Iterator[T]]: ...
@overload
def each(operation: Listing[P, Any], into: Callable[[], type[B]]) -> Method[P, Iterator[B]]: ...
def each(operation: Listing[P, Any], into: Callable[[], type[Any]] | None = None) -> Any:
    """The same list, page by page as it is read."""

    @functools.wraps(operation)
    def method(self: Any, *arguments: P.args, **named: P.kwargs) -> Iterator[Any]:
        for found in stepped(operation(self, *arguments, **named)):
            yield found if into is None else bound(into(), found, self._link)

    return method


def stepped(items: AsyncIterator[T]) -> Iterator[T]:
    """What an asynchronous iterator over a BlockingLine has, one by one."""
    try:
        while True:
            try:
                yield finish(_next(items))
            except StopAsyncIteration:
                return
    finally:
        finish(cast("AsyncGenerator[T, None]", items).aclose())


async def _next(items: AsyncIterator[T]) -> T:
    return await anext(items)


# Mail that came


class MessageCalls(Bound):
    """What can be asked about a message."""

    open = run(asynchronous.MessageCalls.open, lambda: Message)
    raw = run(asynchronous.MessageCalls.raw)
    download = run(asynchronous.MessageCalls.download)
    sanitized_html = run(asynchronous.MessageCalls.sanitized_html)
    transcript = run(asynchronous.MessageCalls.transcript)
    mark = run(asynchronous.MessageCalls.mark, lambda: Message)
    reply = run(asynchronous.MessageCalls.reply, lambda: Sent)
    forward = run(asynchronous.MessageCalls.forward, lambda: Sent)
    delete = run(asynchronous.MessageCalls.delete)


class Message(records.Message, MessageCalls):
    """A whole message."""


class Summary(records.Summary, MessageCalls):
    """A message as lists show it; `open` gets all of it."""


class Mailbox(records.Mailbox, Remembering):
    """A mailbox; as `with` it is deleted at the end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        finish(waits.leave(self._link, self.id, error))

    wait = run(asynchronous.AsyncMailbox.wait, lambda: Message)
    expect_no_mail = run(asynchronous.AsyncMailbox.expect_no_mail)
    messages = each(asynchronous.AsyncMailbox.messages, lambda: Summary)
    refresh = run(asynchronous.AsyncMailbox.refresh, lambda: Mailbox)
    change = run(asynchronous.AsyncMailbox.change, lambda: Mailbox)
    fail = run(asynchronous.AsyncMailbox.fail)
    clear = run(asynchronous.AsyncMailbox.clear)
    delete = run(asynchronous.AsyncMailbox.delete)

    def events(self, after: str | None = None, *, types: Sequence[str] | None = None) -> Events:
        """Its events: from its creation on, or behind the cursor `after`; then as they happen."""
        path = f"/mailboxes/{self.id}/events"
        return Events(streams.Tape(self._link, path, after or self.cursor, query_of({"types": types})))


class Mailboxes(Room):
    """`postroom.mailboxes`."""

    list = each(asynchronous.AsyncMailboxes.list, lambda: Mailbox)
    get = run(asynchronous.AsyncMailboxes.get, lambda: Mailbox)
    delete = run(asynchronous.AsyncMailboxes.delete)


class Messages(Room):
    """`postroom.messages`."""

    list = each(asynchronous.AsyncMessages.list, lambda: Summary)
    get = run(asynchronous.AsyncMessages.get, lambda: Message)


# Mail that goes


class EmailCalls(Bound):
    """What can be asked about an e-mail, and done with it."""

    refresh = run(asynchronous.EmailCalls.refresh, lambda: Email)
    wait = run(asynchronous.EmailCalls.wait, lambda: Email)
    attempts = run(asynchronous.EmailCalls.attempts)
    raw = run(asynchronous.EmailCalls.raw)
    cancel = run(asynchronous.EmailCalls.cancel)
    retry = run(asynchronous.EmailCalls.retry)
    reschedule = run(asynchronous.EmailCalls.reschedule)
    resend = run(asynchronous.EmailCalls.resend, lambda: Sent)


class Sent(records.Sent, EmailCalls):
    """An e-mail that is committed and will be sent."""


class Email(records.Email, EmailCalls):
    """What was sent, and what became of it."""


class Emails(Room):
    """`postroom.emails`."""

    send = run(asynchronous.Sending.send, lambda: Sent)
    batch = run(asynchronous.AsyncEmails.batch)
    list = each(asynchronous.AsyncEmails.list, lambda: Email)
    get = run(asynchronous.AsyncEmails.get, lambda: Email)


# The log


class Events:
    """Events, one after the other, without an end: `for`. It reconnects by itself and goes on where it was.

    It begins when it is made: what happens from there on is heard, however late the loop begins. `cursor` is that of
    the last event; give it as `after` to go on another day. `with` closes its connection at the end."""

    def __init__(self, tape: streams.Tape) -> None:
        self._tape = tape
        finish(tape.begin())
        self._playing = stepped(tape.play())

    @property
    def cursor(self) -> str | None:
        """Of the last event."""
        return self._tape.cursor

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> records.Event:
        return next(self._playing)

    def close(self) -> None:
        """Hear no more."""
        cast("Generator[records.Event, None, None]", self._playing).close()


# The rest of an account


class Webhooks(Room):
    """`postroom.webhooks`."""

    create = run(asynchronous.AsyncWebhooks.create)
    list = each(asynchronous.AsyncWebhooks.list)
    get = run(asynchronous.AsyncWebhooks.get)
    change = run(asynchronous.AsyncWebhooks.change)
    delete = run(asynchronous.AsyncWebhooks.delete)
    test = run(asynchronous.AsyncWebhooks.test)
    rotate = run(asynchronous.AsyncWebhooks.rotate)
    deliveries = each(asynchronous.AsyncWebhooks.deliveries)
    redeliver = run(asynchronous.AsyncWebhooks.redeliver)
    redeliver_dead = run(asynchronous.AsyncWebhooks.redeliver_dead)


class Domains(Room):
    """`postroom.domains`."""

    create = run(asynchronous.AsyncDomains.create)
    list = each(asynchronous.AsyncDomains.list)
    get = run(asynchronous.AsyncDomains.get)
    verify = run(asynchronous.AsyncDomains.verify)
    delete = run(asynchronous.AsyncDomains.delete)


class Keys(Room):
    """`postroom.keys`."""

    create = run(asynchronous.AsyncKeys.create)
    list = each(asynchronous.AsyncKeys.list)
    revoke = run(asynchronous.AsyncKeys.revoke)


class Suppressions(Room):
    """`postroom.suppressions`."""

    create = run(asynchronous.AsyncSuppressions.create)
    list = each(asynchronous.AsyncSuppressions.list)
    delete = run(asynchronous.AsyncSuppressions.delete)


class Templates(Room):
    """`postroom.templates`."""

    create = run(asynchronous.AsyncTemplates.create)
    list = each(asynchronous.AsyncTemplates.list)
    get = run(asynchronous.AsyncTemplates.get)
    change = run(asynchronous.AsyncTemplates.change)
    render = run(asynchronous.AsyncTemplates.render)
    delete = run(asynchronous.AsyncTemplates.delete)


# The client


class Postroom(asynchronous.Placed):
    """A gateway and the key to it; `with` closes its connections.

    Without `url` and `api_key`, POSTROOM_URL and POSTROOM_API_KEY say where. `transport` is httpx2's. Threads may share
    one; a mailbox object belongs to one of them at a time."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        transport: httpx2.BaseTransport | None = None,
        patience: Patience | None = None,
        timing: Timing | None = None,
    ) -> None:
        place = Place.find(url, api_key)
        line: Line = BlockingLine(place, timing or Timing(), transport)
        self._link = Link(line, place, patience or Patience())
        self.mailboxes = Mailboxes(self._link)
        self.messages = Messages(self._link)
        self.emails = Emails(self._link)
        self.webhooks = Webhooks(self._link)
        self.domains = Domains(self._link)
        self.keys = Keys(self._link)
        self.suppressions = Suppressions(self._link)
        self.templates = Templates(self._link)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        finish(self._link.line.close())

    mailbox = run(asynchronous.PostroomCalls.new_mailbox, lambda: Mailbox)
    send = run(asynchronous.Sending.send, lambda: Sent)
    hand_in = run(asynchronous.PostroomCalls.hand_in)
    statistics = run(asynchronous.PostroomCalls.statistics)

    def events(
        self,
        after: str | None = None,
        *,
        types: Sequence[str] | None = None,
        mailbox: str | None = None,
        email: str | None = None,
    ) -> Events:
        """What happens from now on, or behind the cursor `after` ("0" = from the log's beginning)."""
        return Events(streams.of_account(self._link, after, types=types, mailbox=mailbox, email=email))

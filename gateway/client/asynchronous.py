"""Every operation, once: `AsyncPostroom` and what it gives out. `blocking` runs the same operations to their end.

So that it can, what is written here asks only through `self._link`, and calls no other operation of `self`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Generic, Literal, ParamSpec, Self, TypeVar, Unpack
from urllib.parse import quote

import httpx2

from . import records, streams, waits
from .transport import Line, Link, Patience, Place, Request, Timing, WaitingLine, query_of

P = ParamSpec("P")
B = TypeVar("B", bound="Bound")
T = TypeVar("T")


class Bound:
    """A record that can be asked for more: it knows the way to its gateway."""

    _link: Link

    @property
    def url(self) -> str:
        """Where its gateway is."""
        return self._link.place.url


def bound(into: type[B], record: Any, link: Link) -> B:
    """A record's values as one of the classes here or in `blocking`."""
    made = into(**{one.name: getattr(record, one.name) for one in dataclasses.fields(record)})
    object.__setattr__(made, "_link", link)  # records are frozen
    return made


class Making(Generic[T]):
    """What is being made: `await` it to have it, or `async with` it to have it deleted at the end."""

    def __init__(self, made: Coroutine[Any, Any, T]) -> None:
        self._coroutine = made
        self._stack = contextlib.AsyncExitStack()

    def __await__(self) -> Generator[Any, None, T]:
        return self._coroutine.__await__()

    async def __aenter__(self) -> T:
        made: Any = await self._coroutine
        entered: T = await self._stack.enter_async_context(made)
        return entered

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)


def _making(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Making[T]]:
    @functools.wraps(method)
    def make(*arguments: P.args, **named: P.kwargs) -> Making[T]:
        return Making(method(*arguments, **named))

    return make


def segment(text: str) -> str:
    """An id, address or name as one segment of a path."""
    return quote(text, safe="@")


# Mail that came


class MessageCalls(Bound):
    """What can be asked about a message."""

    id: str

    async def open(self) -> AsyncMessage:
        """The whole message as it is now."""
        found = await self._link.get(f"/messages/{self.id}")
        return bound(AsyncMessage, records.read(records.Message, found), self._link)

    async def raw(self) -> bytes:
        """What came over the wire, byte for byte."""
        return await self._link.content(f"/messages/{self.id}/raw")

    async def download(self, attachment: records.Attachment | int) -> bytes:
        """An attachment's bytes; by what `attachments` has, or by its index."""
        index = attachment if isinstance(attachment, int) else attachment.index
        return await self._link.content(f"/messages/{self.id}/attachments/{index}")

    async def sanitized_html(self) -> str:
        """Its HTML made harmless: nothing runs, nothing is loaded from elsewhere. Raises NotFound if it has none."""
        return (await self._link.content(f"/messages/{self.id}/html", sanitized=True)).decode()

    async def transcript(self) -> list[str]:
        """The SMTP dialogue that it came by: "C: …", "S: …"; empty where it came another way."""
        return list((await self._link.get(f"/messages/{self.id}/transcript"))["lines"])

    async def mark(self, *, seen: bool | None = None, labels: Sequence[str] | None = None) -> AsyncMessage:
        """Mark it as seen or not, or give it these labels instead of those it has; the message as it is then."""
        changes = {"seen": seen, "labels": None if labels is None else list(labels)}
        wanted = {name: value for name, value in changes.items() if value is not None}
        found = await self._link.change(f"/messages/{self.id}", wanted)
        return bound(AsyncMessage, records.read(records.Message, found), self._link)

    async def reply(
        self, *, reply_all: bool = False, idempotency_key: str | None = None, **answer: Unpack[records.Answer]
    ) -> AsyncSent:
        """Answer whoever wrote, from the address it was sent to, in its thread."""
        body = {**records.email_body(answer), "reply_all": reply_all}
        found = await self._link.create(f"/messages/{self.id}/reply", body, key=idempotency_key)
        return bound(AsyncSent, records.read(records.Sent, found), self._link)

    async def forward(
        self,
        to: str | Sequence[str],
        *,
        cc: str | Sequence[str] | None = None,
        bcc: str | Sequence[str] | None = None,
        idempotency_key: str | None = None,
        **answer: Unpack[records.Answer],
    ) -> AsyncSent:
        """Send it on, with its attachments."""
        body = records.email_body({**answer, "to": to, "cc": cc, "bcc": bcc})
        found = await self._link.create(f"/messages/{self.id}/forward", body, key=idempotency_key)
        return bound(AsyncSent, records.read(records.Sent, found), self._link)

    async def delete(self) -> None:
        """Delete it, and what events told of it."""
        await self._link.delete(f"/messages/{self.id}")


class AsyncMessage(records.Message, MessageCalls):
    """A whole message."""


class AsyncSummary(records.Summary, MessageCalls):
    """A message as lists show it; `open` gets all of it."""


class Remembering(Bound):
    """A mailbox that knows what its waits gave out."""

    cursor: str

    @functools.cached_property
    def _memory(self) -> waits.Memory:
        return waits.Memory(self.cursor)


class AsyncMailbox(records.Mailbox, Remembering):
    """A mailbox; as `async with` it is deleted at the end."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await waits.leave(self._link, self.id, error)

    async def wait(
        self,
        *,
        timeout: float = 30,
        from_: str | None = None,
        subject: str | None = None,
        text: str | None = None,
        code: bool = False,
        link: bool = False,
        kind: records.LinkKind | None = None,
    ) -> AsyncMessage:
        """The next message that matches, oldest first, as soon as there is one; each wait yields another one.

        Messages that came before the call count, unless an earlier wait of this object gave them out: nothing falls
        between sending and waiting, or between two waits. `from_` is an exact address or "@example.com"; `subject` and
        `text` are parts of it, in any case. `code`: it must carry a code (`.code`); `link` or `kind`: a link (`.link`).
        Raises WaitTimeout, which lists what did arrive, after `timeout` seconds; 0 looks and does not wait.
        """
        wanted = waits.Wanted(from_=from_, subject=subject, text=text, code=code, link=link, kind=kind)
        wait = waits.Wait(link=self._link, box=self, memory=self._memory, wanted=wanted, seconds=timeout)
        return bound(AsyncMessage, await wait.message(), self._link)

    async def expect_no_mail(
        self,
        seconds: float = 5,
        *,
        from_: str | None = None,
        subject: str | None = None,
        text: str | None = None,
    ) -> None:
        """Returns after `seconds` in which nothing (that matches) arrived. Raises UnexpectedMail as soon as it does.

        What is there already and no wait of this object gave out counts, too."""
        wanted = waits.Wanted(from_=from_, subject=subject, text=text)
        wait = waits.Wait(link=self._link, box=self, memory=self._memory, wanted=wanted, seconds=seconds)
        await wait.nothing()

    async def messages(self, q: str | None = None, *, seen: bool | None = None) -> AsyncIterator[AsyncSummary]:
        """What is in it, newest first; `q` in the search language: `from:x@y subject:"a b" has:attachment -is:seen`."""
        path = f"/mailboxes/{self.id}/messages"
        async for one in self._link.each(records.Summary, path, q=q, seen=seen):
            yield bound(AsyncSummary, one, self._link)

    def events(self, after: str | None = None, *, types: Sequence[str] | None = None) -> AsyncEvents:
        """Its events: from its creation on, or behind the cursor `after`; then as they happen."""
        tape = streams.Tape(
            self._link, f"/mailboxes/{self.id}/events", after or self.cursor, query_of({"types": types})
        )
        return AsyncEvents(tape)

    async def refresh(self) -> AsyncMailbox:
        """The mailbox as it is now."""
        found = await self._link.get(f"/mailboxes/{self.id}")
        return bound(AsyncMailbox, records.read(records.Mailbox, found), self._link)

    async def change(self, *, ttl: int | None = None, metadata: records.Json | None = None) -> AsyncMailbox:
        """Let it live `ttl` seconds from now on, or give it other metadata."""
        changes = {"ttl_seconds": ttl, "metadata": metadata}
        wanted = {name: value for name, value in changes.items() if value is not None}
        found = await self._link.change(f"/mailboxes/{self.id}", wanted)
        return bound(AsyncMailbox, records.read(records.Mailbox, found), self._link)

    async def fail(self, reply: str, *, stage: Literal["rcpt", "data"] = "data", times: int = 1) -> None:
        """Answer the next `times` deliveries with this ("451 4.7.1 Later", "drop", "tarpit:3"), to test a sender."""
        script = [{"stage": stage, "reply": reply, "times": times}]
        await self._link.change(f"/mailboxes/{self.id}/faults", script, method="PUT")

    async def clear(self) -> None:
        """Delete all messages in it."""
        await self._link.delete(f"/mailboxes/{self.id}/messages")

    async def delete(self) -> None:
        """End it, with all that is in it."""
        await self._link.delete(f"/mailboxes/{self.id}")


class Room:
    """A part of what a client can do."""

    def __init__(self, link: Link) -> None:
        self._link = link


class AsyncMailboxes(Room):
    """`postroom.mailboxes`."""

    async def list(self) -> AsyncIterator[AsyncMailbox]:
        """All that are active or expired, newest first."""
        async for one in self._link.each(records.Mailbox, "/mailboxes"):
            yield bound(AsyncMailbox, one, self._link)

    async def get(self, mailbox: str) -> AsyncMailbox:
        """One, by id or address; its waits begin with the oldest message in it."""
        found = await self._link.get(f"/mailboxes/{segment(mailbox)}")
        return bound(AsyncMailbox, records.read(records.Mailbox, found), self._link)

    async def delete(self, mailbox: str) -> None:
        """End one, by id or address, with all that is in it."""
        await self._link.delete(f"/mailboxes/{segment(mailbox)}")


class AsyncMessages(Room):
    """`postroom.messages`."""

    async def list(self, q: str | None = None, *, seen: bool | None = None) -> AsyncIterator[AsyncSummary]:
        """The whole account's, newest first; `q` in the search language."""
        async for one in self._link.each(records.Summary, "/messages", q=q, seen=seen):
            yield bound(AsyncSummary, one, self._link)

    async def get(self, id: str) -> AsyncMessage:
        """One whole message."""
        found = await self._link.get(f"/messages/{segment(id)}")
        return bound(AsyncMessage, records.read(records.Message, found), self._link)


# Mail that goes


class EmailCalls(Bound):
    """What can be asked about an e-mail, and done with it."""

    id: str

    async def refresh(self) -> AsyncEmail:
        """What was sent, and what has become of it by now, recipient by recipient."""
        return bound(AsyncEmail, await waits.email(self._link, self.id), self._link)

    async def wait(self, status: str = "delivered", *, timeout: float = 30) -> AsyncEmail:
        """The e-mail once it has this status; "sent" is reached by "delivered", too.

        Raises NotDelivered as soon as its story has ended otherwise, WaitTimeout when `timeout` seconds are over; both
        say what became of each recipient, in the peer's own words."""
        return bound(AsyncEmail, await waits.until(self._link, self.id, status, timeout), self._link)

    async def attempts(self) -> list[records.Attempt]:
        """Every attempt, with its dialogue."""
        found = await self._link.get(f"/emails/{self.id}/attempts")
        return [records.read(records.Attempt, one) for one in found["data"]]

    async def raw(self) -> bytes:
        """The composed mail."""
        return await self._link.content(f"/emails/{self.id}/raw")

    async def cancel(self, recipients: Sequence[str] | None = None) -> None:
        """Do not send it to whom it was not sent yet (None = nobody). Raises Conflict where it has gone."""
        await self._link.call(f"/emails/{self.id}/cancel", {"recipients": list(recipients)} if recipients else None)

    async def retry(self, recipients: Sequence[str] | None = None) -> None:
        """Try again now. Raises Conflict where there is nobody to try again."""
        await self._link.call(f"/emails/{self.id}/retry", {"recipients": list(recipients)} if recipients else None)

    async def reschedule(self, scheduled_at: datetime | str) -> None:
        """Send it at another time: a datetime with a zone, RFC 3339, or "in 10 min"."""
        await self._link.change(f"/emails/{self.id}", {"scheduled_at": records.time_text(scheduled_at)})

    async def resend(
        self,
        to: str | Sequence[str] | None = None,
        *,
        scheduled_at: datetime | str | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncSent:
        """Send the same again as another e-mail, to the same recipients or to others."""
        body = records.email_body({"to": to, "scheduled_at": scheduled_at})
        found = await self._link.create(f"/emails/{self.id}/resend", body, key=idempotency_key)
        return bound(AsyncSent, records.read(records.Sent, found), self._link)


class AsyncSent(records.Sent, EmailCalls):
    """An e-mail that is committed and will be sent."""


class AsyncEmail(records.Email, EmailCalls):
    """What was sent, and what became of it."""


class Sending:
    """Whatever sends."""

    _link: Link

    async def send(self, *, idempotency_key: str | None = None, **email: Unpack[records.NewEmail]) -> AsyncSent:
        """Send an e-mail; when this returns it is committed.

        With an `idempotency_key` of your own ("order-17") it is sent once, however often you call: for a day the same
        key answers what the first call was answered. Attachments are paths, or `File`s."""
        found = await self._link.create("/emails", records.email_body(email), key=idempotency_key)
        return bound(AsyncSent, records.read(records.Sent, found), self._link)


class AsyncEmails(Room, Sending):
    """`postroom.emails`."""

    async def batch(
        self, emails: Sequence[records.NewEmail], *, permissive: bool = False, idempotency_key: str | None = None
    ) -> records.Batch:
        """Send up to 1,000: all or none; `permissive`: the good ones, and `errors` says which were not, and why."""
        mode = {"x-batch-validation": "permissive"} if permissive else {}
        bodies = [records.email_body(one) for one in emails]
        found = await self._link.create("/emails/batch", bodies, key=idempotency_key, **mode)
        problems = tuple(records.read(records.BatchProblem, one) for one in found.get("errors") or ())
        return records.Batch(ids=tuple(one["id"] for one in found["data"]), errors=problems)

    async def list(
        self,
        *,
        status: str | None = None,
        to: str | None = None,
        from_: str | None = None,
        subject: str | None = None,
        tag: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> AsyncIterator[AsyncEmail]:
        """What was sent, newest first; `tag` is a tag's name, its value, or name:value."""
        narrowed = {"status": status, "to": to, "from": from_, "subject": subject, "tag": tag}
        async for one in self._link.each(records.Email, "/emails", since=since, until=until, **narrowed):
            yield bound(AsyncEmail, one, self._link)

    async def get(self, id: str) -> AsyncEmail:
        """One, with all that is known of it."""
        return bound(AsyncEmail, await waits.email(self._link, id), self._link)


# The log


class AsyncEvents:
    """Events, one after the other, without an end: `async for`. It reconnects by itself and goes on where it was.

    As `async with` it begins when it is entered: what happens from there on is heard, however late the loop begins.
    `cursor` is that of the last event; give it as `after` to go on another day."""

    def __init__(self, tape: streams.Tape) -> None:
        self._tape = tape
        self._playing = tape.play()

    @property
    def cursor(self) -> str | None:
        """Of the last event; None = it has not begun."""
        return self._tape.cursor

    async def __aenter__(self) -> Self:
        await self._tape.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> records.Event:
        return await anext(self._playing)

    async def close(self) -> None:
        """Hear no more."""
        await self._playing.aclose()


# The rest of an account


class AsyncWebhooks(Room):
    """`postroom.webhooks`."""

    async def create(
        self, url: str, types: Sequence[str] = ("*",), *, mailbox: str | None = None, ordered: bool = False
    ) -> records.Webhook:
        """Tell a URL what happens from now on; `.secret` signs it and is told this once: see `verify_webhook`."""
        body = {"url": url, "types": list(types), "mailbox": mailbox, "ordered": ordered}
        return records.read(records.Webhook, await self._link.create("/webhooks", body))

    async def list(self) -> AsyncIterator[records.Webhook]:
        """All, newest first."""
        async for one in self._link.each(records.Webhook, "/webhooks"):
            yield one

    async def get(self, id: str) -> records.Webhook:
        """One."""
        return records.read(records.Webhook, await self._link.get(f"/webhooks/{segment(id)}"))

    async def change(
        self,
        id: str,
        *,
        url: str | None = None,
        types: Sequence[str] | None = None,
        status: Literal["active", "disabled"] | None = None,
    ) -> records.Webhook:
        """Tell another URL, or of other things, or nothing."""
        changes = {"url": url, "types": None if types is None else list(types), "status": status}
        wanted = {name: value for name, value in changes.items() if value is not None}
        return records.read(records.Webhook, await self._link.change(f"/webhooks/{segment(id)}", wanted))

    async def delete(self, id: str) -> None:
        """Tell it nothing more."""
        await self._link.delete(f"/webhooks/{segment(id)}")

    async def test(self, id: str) -> records.WebhookDelivery:
        """Tell it a `webhook.test` event."""
        return records.read(records.WebhookDelivery, await self._link.create(f"/webhooks/{segment(id)}/test", None))

    async def rotate(self, id: str) -> records.Webhook:
        """A new `.secret`; the one before signs, too, for 24 hours."""
        return records.read(records.Webhook, await self._link.create(f"/webhooks/{segment(id)}/rotate", None))

    async def deliveries(self, id: str, *, status: str | None = None) -> AsyncIterator[records.WebhookDelivery]:
        """What it was told and how that went, newest first."""
        path = f"/webhooks/{segment(id)}/deliveries"
        async for one in self._link.each(records.WebhookDelivery, path, status=status):
            yield one

    async def redeliver(self, id: str, delivery: str) -> records.WebhookDelivery:
        """Tell it one event again."""
        path = f"/webhooks/{segment(id)}/deliveries/{segment(delivery)}/redeliver"
        return records.read(records.WebhookDelivery, await self._link.call(path))

    async def redeliver_dead(self, id: str, *, since: datetime | None = None) -> int:
        """Tell it again all that was given up; how many that is."""
        count, more = 0, True
        while more:
            found = await self._link.call(f"/webhooks/{segment(id)}/redeliver", since=since)
            count, more = count + int(found["count"]), bool(found["has_more"])
        return count


class AsyncDomains(Room):
    """`postroom.domains`."""

    async def create(self, name: str, *, wildcard: bool = False, catch_all: str | None = None) -> records.Domain:
        """Claim a domain; `.records` must stand in its DNS before `verify` makes it the account's."""
        body = {"name": name, "wildcard": wildcard, "catch_all": catch_all}
        return records.read(records.Domain, await self._link.create("/domains", body))

    async def list(self) -> AsyncIterator[records.Domain]:
        """All, newest first."""
        async for one in self._link.each(records.Domain, "/domains"):
            yield one

    async def get(self, name: str) -> records.Domain:
        """One, with the state of its records at the last look."""
        return records.read(records.Domain, await self._link.get(f"/domains/{segment(name)}"))

    async def verify(self, name: str) -> records.Domain:
        """Look at the DNS now."""
        return records.read(records.Domain, await self._link.call(f"/domains/{segment(name)}/verify"))

    async def delete(self, name: str) -> None:
        """Give it up."""
        await self._link.delete(f"/domains/{segment(name)}")


class AsyncKeys(Room):
    """`postroom.keys`."""

    async def create(
        self,
        name: str,
        scopes: Sequence[str],
        *,
        domains: Sequence[str] = (),
        expires_at: datetime | None = None,
    ) -> records.Key:
        """A key that may do this; `.key` is told this once."""
        body = {"name": name, "scopes": list(scopes), "domains": list(domains)}
        until = {"expires_at": records.time_text(expires_at)} if expires_at else {}
        return records.read(records.Key, await self._link.create("/api-keys", {**body, **until}))

    async def list(self) -> AsyncIterator[records.Key]:
        """All that are not revoked, newest first."""
        async for one in self._link.each(records.Key, "/api-keys"):
            yield one

    async def revoke(self, id: str) -> None:
        """It is worth nothing any more."""
        await self._link.delete(f"/api-keys/{segment(id)}")


class AsyncSuppressions(Room):
    """`postroom.suppressions`."""

    async def create(
        self, address: str, *, reason: str = "manual", expires_at: datetime | None = None, scope: str = ""
    ) -> records.Suppression:
        """Write to this address no more."""
        until = {"expires_at": records.time_text(expires_at)} if expires_at else {}
        body = {"address": address, "reason": reason, "scope": scope, **until}
        return records.read(records.Suppression, await self._link.create("/suppressions", body))

    async def list(self, *, reason: str | None = None) -> AsyncIterator[records.Suppression]:
        """All, newest first."""
        async for one in self._link.each(records.Suppression, "/suppressions", reason=reason):
            yield one

    async def delete(self, address: str, *, scope: str = "") -> None:
        """Write to it again."""
        await self._link.delete("/suppressions", address=address, scope=scope)


class AsyncTemplates(Room):
    """`postroom.templates`."""

    async def create(
        self,
        name: str,
        *,
        subject: str,
        html: str | None = None,
        text: str | None = None,
        variables: Mapping[str, records.Json] | None = None,
    ) -> records.Template:
        """Jinja2 for each part of a mail; `send(template=its.id, variables=…)` uses it."""
        body = {"name": name, "subject": subject, "html": html, "text": text, "variables": dict(variables or {})}
        return records.read(records.Template, await self._link.create("/templates", body))

    async def list(self) -> AsyncIterator[records.Template]:
        """All, newest first."""
        async for one in self._link.each(records.Template, "/templates"):
            yield one

    async def get(self, id: str) -> records.Template:
        """One."""
        return records.read(records.Template, await self._link.get(f"/templates/{segment(id)}"))

    async def change(
        self,
        id: str,
        *,
        name: str | None = None,
        subject: str | None = None,
        html: str | None = None,
        text: str | None = None,
    ) -> records.Template:
        """Other words."""
        changes = {"name": name, "subject": subject, "html": html, "text": text}
        wanted = {key: value for key, value in changes.items() if value is not None}
        return records.read(records.Template, await self._link.change(f"/templates/{segment(id)}", wanted))

    async def render(self, id: str, variables: records.Json) -> records.Preview:
        """What an e-mail would say."""
        found = await self._link.call(f"/templates/{segment(id)}/render", {"variables": dict(variables)})
        return records.read(records.Preview, found)

    async def delete(self, id: str) -> None:
        """E-mails that were made of it stay as they are."""
        await self._link.delete(f"/templates/{segment(id)}")


# The client


class Placed:
    """Whatever stands for a gateway."""

    _link: Link

    @property
    def url(self) -> str:
        """Where the gateway is, without /v1."""
        return self._link.place.url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"


class PostroomCalls(Placed):
    """What a client can do by itself."""

    async def new_mailbox(
        self,
        address: str | None = None,
        *,
        ttl: int | Literal["default"] | None = "default",
        local_part: str | None = None,
        domain: str | None = None,
        metadata: records.Json | None = None,
        sender_policy: Literal["accept", "flag", "drop-on-fail"] | None = None,
    ) -> AsyncMailbox:
        """Make a mailbox: at this address, or at one nobody can guess.

        It lives `ttl` seconds: by default as long as the gateway's setting says; None = for ever, where that is
        allowed."""
        wanted = {
            "address": address,
            "local_part": local_part,
            "domain": domain,
            "metadata": dict(metadata) if metadata is not None else None,
            "sender_policy": sender_policy,
        }
        given = {name: value for name, value in wanted.items() if value is not None}
        life = {} if ttl == "default" else {"ttl_seconds": ttl}
        found = await self._link.create("/mailboxes", {**given, **life})
        return bound(AsyncMailbox, records.read(records.Mailbox, found), self._link)

    async def hand_in(self, raw: bytes, *, mail_from: str, rcpt_to: str) -> None:
        """Hand a mail in by HTTP as it would come by SMTP (scope `inbound`)."""
        query = {"mail_from": mail_from, "rcpt_to": rcpt_to}
        headers = {"content-type": "message/rfc822"}
        await self._link.ask(
            Request(method="POST", path="/inbound/raw", query=query, content=raw, headers=headers, repeatable=False)
        )

    async def statistics(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        interval: Literal["hour", "day", "total"] = "total",
        group_by: Literal["none", "provider", "sender_domain", "recipient_domain", "tag"] = "none",
    ) -> list[records.Statistic]:
        """What became of the account's mail, oldest first; without `since`, of the last day."""
        found = await self._link.get("/statistics", since=since, until=until, interval=interval, group_by=group_by)
        return [records.read(records.Statistic, one) for one in found["data"]]


class AsyncPostroom(PostroomCalls, Sending):
    """A gateway and the key to it; `async with` closes its connections.

    Without `url` and `api_key`, POSTROOM_URL and POSTROOM_API_KEY say where. `transport` is httpx2's, such as one that
    calls an application in this process."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
        patience: Patience | None = None,
        timing: Timing | None = None,
    ) -> None:
        place = Place.find(url, api_key)
        line: Line = WaitingLine(place, timing or Timing(), transport)
        self._link = Link(line, place, patience or Patience())
        self.mailboxes = AsyncMailboxes(self._link)
        self.messages = AsyncMessages(self._link)
        self.emails = AsyncEmails(self._link)
        self.webhooks = AsyncWebhooks(self._link)
        self.domains = AsyncDomains(self._link)
        self.keys = AsyncKeys(self._link)
        self.suppressions = AsyncSuppressions(self._link)
        self.templates = AsyncTemplates(self._link)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close its connections."""
        await self._link.line.close()

    mailbox = _making(PostroomCalls.new_mailbox)

    def events(
        self,
        after: str | None = None,
        *,
        types: Sequence[str] | None = None,
        mailbox: str | None = None,
        email: str | None = None,
    ) -> AsyncEvents:
        """What happens from now on, or behind the cursor `after` ("0" = from the log's beginning)."""
        return AsyncEvents(streams.of_account(self._link, after, types=types, mailbox=mailbox, email=email))

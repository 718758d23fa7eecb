"""Waiting, made of short polls: for a message, for none, for what becomes of an e-mail.

A mailbox's waits keep its creation cursor and skip what they gave out, so that each yields another message, in any
order of arrival. A poll lasts at most 25 s (Heroku's router cuts at 30); a broken connection or a gateway that is away
for a moment ends none of them early.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from . import errors, records
from .transport import Link, Request, query_of

POLL_SECONDS: Final = 25.0
SKIPPED: Final = 100  # message ids that one poll may leave out
TOLD: Final = 20  # messages that a timeout lists
FINISHED: Final = frozenset({"delivered", "canceled", "suppressed", "failed", "bounced", "complained"})
REACHED: Final = {"sent": {"sent", "delivered"}}  # statuses that stand for another one, too


@dataclass(kw_only=True, slots=True)
class Wanted:
    """Which message."""

    from_: str | None = None
    subject: str | None = None
    text: str | None = None
    code: bool = False
    link: bool = False
    kind: records.LinkKind | None = None  # of the link

    def __post_init__(self) -> None:
        if self.code and (self.link or self.kind):
            raise ValueError("a wait is for a code or for a link; wait(code=True) and then message.link has both")

    @property
    def carries(self) -> str:
        return "code" if self.code else "link" if self.link or self.kind else "message"

    def __str__(self) -> str:
        parts = [
            f"from {self.from_!r}" if self.from_ else "",
            f"with {self.subject!r} in its subject" if self.subject else "",
            f"with {self.text!r} in its text" if self.text else "",
            "with a code" if self.code else "",
            f"with a link of kind {self.kind!r}" if self.kind else "with a link" if self.link else "",
        ]
        return " ".join(["message", *(part for part in parts if part)])


@dataclass(slots=True)
class Memory:
    """What waits of one mailbox object gave out."""

    since: str  # the mailbox's creation cursor
    given: dict[str, int] = field(default_factory=dict)  # message ids and their seq

    def skip(self, behind: str) -> list[str]:
        """The oldest of those behind a cursor that one poll can leave out."""
        later = sorted((seq, id) for id, seq in self.given.items() if seq > int(behind))
        return [id for _, id in later[:SKIPPED]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """One wait in one mailbox."""

    link: Link
    box: records.Mailbox
    memory: Memory
    wanted: Wanted
    seconds: float

    async def message(self) -> records.Message:
        """The next one that matches. Raises WaitTimeout."""
        found = await self._look()
        if found is None:
            raise await self._timeout()
        self.memory.given[found.id] = found.seq
        return found

    async def nothing(self) -> None:
        """Returns when the time is over. Raises UnexpectedMail."""
        found = await self._look()
        if found is not None:
            said = f"No {self.wanted} was expected at {self.box.address} within {self.seconds:g} s, but this came:"
            raise errors.UnexpectedMail(f"{said}\n{_line(found, self.memory)}", found)

    async def _look(self) -> records.Message | None:
        """The first that matches and was not given out; None = there was none in time."""
        until, since = self.link.line.now() + self.seconds, self.memory.since
        while True:
            try:
                found = await self._poll(since, until)
            except errors.ApiError as error:
                if error.name != "wait_timeout":
                    raise
                if self.link.line.now() >= until:
                    return None
                continue
            if found.id not in self.memory.given:
                return found
            since = str(found.seq)  # more were given out than one poll skips; up to this one nothing is new

    async def _poll(self, since: str, until: float) -> records.Message:
        wanted, seconds = self.wanted, round(min(POLL_SECONDS, max(0.0, until - self.link.line.now())), 3)
        query = {
            "timeout": seconds,
            "since": since,
            "skip": self.memory.skip(since) or None,
            "from": wanted.from_,
            "subject": wanted.subject,
            "text": wanted.text,
            "for": wanted.carries,
            "kind": wanted.kind,
        }
        request = Request(method="GET", path=f"/mailboxes/{self.box.id}/wait", query=query_of(query), wait=seconds)
        found = (await self.link.ask(request, until=until)).json()
        waited = found.get("link") if wanted.carries == "link" else None
        return records.read(records.Message, {**found["message"], "waited_link": waited})

    async def _timeout(self) -> errors.WaitTimeout:
        """What a failing test shows: what did arrive instead."""
        said = f"No {self.wanted} arrived at {self.box.address} within {self.seconds:g} s."
        path = f"/mailboxes/{self.box.id}"
        try:
            page = await self.link.page(records.Summary, f"{path}/messages", limit=TOLD)
            now = records.read(records.Mailbox, await self.link.get(path))
        except errors.PostroomError as error:
            return errors.WaitTimeout(f"{said} What did arrive cannot be told: {error}")
        if now.status == "expired" and now.expires_at:
            said += f" The mailbox expired at {now.expires_at:%H:%M:%S} UTC and takes no mail since."
        if not page.data:
            return errors.WaitTimeout(f"{said} Nothing arrived there at all.")
        lines = "\n".join(_line(one, self.memory) for one in page.data)
        more = "\n  … and more" if page.next_cursor else ""
        return errors.WaitTimeout(f"{said} What is there, newest first:\n{lines}{more}", page.data)


def _line(message: records.Summary, memory: Memory) -> str:
    at = f"{message.received_at:%H:%M:%S}" if message.received_at else "?"
    codes = f", codes {', '.join(code.value for code in message.codes)}" if message.codes else ""
    given = "  (an earlier wait gave it out)" if message.id in memory.given else ""
    return f"  {at}  {message.subject!r} from {message.from_}{codes}{given}"


async def unread(
    link: Link, box: records.Mailbox, wanted: Wanted, seconds: float, skip: Sequence[str] = ()
) -> tuple[records.Message, bool]:
    """The oldest message that matches and is not marked as seen, and whether it could be marked now.

    Nothing has to be remembered from one call to the next, in whatever process they are made. `skip`: ids of further
    messages to leave out, for a key that may not mark. Raises WaitTimeout."""
    memory = await _seen(link, box)
    memory.given.update(dict.fromkeys(skip, int(memory.since) + 1))
    found = await Wait(link=link, box=box, memory=memory, wanted=wanted, seconds=seconds).message()
    try:
        await link.change(f"/messages/{found.id}", {"seen": True})
    except errors.RestrictedApiKey:
        return found, False
    return found, True


async def _seen(link: Link, box: records.Mailbox) -> Memory:
    """What is marked as seen, as if waits had given it out."""
    path = f"/mailboxes/{box.id}/messages"
    newest = await link.page(records.Summary, path, limit=1)  # asked first: what comes meanwhile is behind it or unread
    oldest = await link.page(records.Summary, path, seen=False, order="asc", limit=1)
    newest_seq = newest.data[0].seq if newest.data else int(box.cursor)
    since = oldest.data[0].seq - 1 if oldest.data else newest_seq
    memory = Memory(str(since))
    async for one in link.each(records.Summary, path, seen=True):
        if one.seq <= since:
            break
        memory.given[one.id] = one.seq
    return memory


async def leave(link: Link, mailbox_id: str, error: BaseException | None) -> None:
    """Delete a mailbox at the end of a block, without hiding the block's own error."""
    try:
        await link.delete(f"/mailboxes/{mailbox_id}")
    except errors.NotFound:
        return
    except errors.PostroomError:
        if error is None:
            raise


# E-mails


async def email(link: Link, id: str) -> records.Email:
    """An e-mail as it is now."""
    return records.read(records.Email, await link.get(f"/emails/{id}"))


async def until(link: Link, id: str, status: str, timeout: float) -> records.Email:
    """The e-mail once it has this status. Raises NotDelivered, WaitTimeout."""
    deadline, good = link.line.now() + timeout, REACHED.get(status, {status})
    async for found in _states(link, id, deadline):
        if found.status in good:
            return found
        if found.status in FINISHED:
            raise errors.NotDelivered(
                f"E-mail {id} ({found.subject!r}) is {found.status}, not {status}:\n{_fates(found)}",
                found,
            )
        last = found
    raise errors.WaitTimeout(
        f"E-mail {id} ({last.subject!r}) is not {status} after {timeout:g} s but {last.status}:\n{_fates(last)}"
        + _beyond(last.status, status)
    )


async def _states(link: Link, id: str, deadline: float) -> AsyncIterator[records.Email]:
    """The e-mail now, and whenever something happened to it, until the deadline; at least once."""
    cursor = await _cursor(link, id)
    while True:
        yield await email(link, id)
        left = deadline - link.line.now()
        if left <= 0:
            return
        cursor = await _news(link, id, cursor, deadline)


async def _cursor(link: Link, id: str) -> str:
    return str((await link.get("/events", email=id, limit=1, types="email.canceled"))["next_cursor"])


async def _news(link: Link, id: str, cursor: str, deadline: float) -> str:
    seconds = round(min(POLL_SECONDS, max(0.0, deadline - link.line.now())), 3)
    query = query_of({"email": id, "after": cursor, "wait": seconds})
    found = await link.ask(Request(method="GET", path="/events", query=query, wait=seconds), until=deadline)
    return str(found.json()["next_cursor"])


def _fates(found: records.Email) -> str:
    return "\n".join(_fate(one) for one in found.recipients) or "  it has no recipients"


def _fate(one: records.Recipient) -> str:
    tried = f", {one.attempts} attempt{'s' * (one.attempts != 1)}" if one.attempts else ", not tried yet"
    by = f" by {one.provider}" if one.provider else ""
    said = f": {one.reply}" if one.reply else ""
    again = f" (again at {one.next_attempt_at:%H:%M:%S} UTC)" if one.next_attempt_at else ""
    return f"  {one.address}: {one.status}{tried}{by}{said}{again}"


def _beyond(status: str, wanted: str) -> str:
    if (status, wanted) == ("sent", "delivered"):
        return '\n  the next hop took it; whether it was delivered is known only where that hop says so: wait("sent")'
    return ""

"""Messages and their contents.

A content is the raw mail, byte for byte, one for each DATA and account; its id is the DATA's receipt id, so that
whether a transaction took effect can be looked up. A message is that content in one mailbox, with what lists and
events show of it. Everything else is made again from the raw bytes when somebody asks.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from asyncpg import Record

from gateway.errors import NotFound
from gateway.storage import db, events
from gateway.storage.sql import load

sql = load("messages")

SLICE_BYTES: Final = (
    134_217_728  # of messages removed together: hundreds of the largest take longer than a statement may
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """Raw mail to be stored."""

    id: UUID  # receipt id (mail in) or e-mail id (mail out)
    raw: bytes  # empty where it is not kept
    size: int  # bytes that came in


class NewMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message to be stored; JSON fields are text already, since the same text goes into several places."""

    id: UUID
    event_id: UUID  # of its message.received
    mailbox_id: UUID
    content_id: UUID
    size: int  # bytes
    mail_from: str  # empty = <>
    envelope: str  # JSON object
    from_name: str | None
    from_address: str | None
    recipients: str  # JSON list
    subject: str
    snippet: str
    codes: str  # JSON list
    links: str  # JSON list
    attachment_count: int
    message_id: str | None  # RFC 5322 header
    thread_id: UUID
    tag: str | None
    parse: str  # ok, repaired, raw_only
    warnings: str  # JSON list
    transcript: str = "[]"  # JSON list of the SMTP dialogue's lines
    data: str  # the summary as a JSON object without its brace, seq and received_at, which the statement puts in front


_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """A message as lists show it."""

    id: UUID
    mailbox_id: UUID
    content_id: UUID
    seq: int  # of its message.received, and so a cursor
    received_at: datetime
    size: int  # bytes
    mail_from: str  # reverse path; empty = <>
    envelope: dict[str, Any]  # rcpt_to of this mailbox, helo, remote_ip, tls
    from_name: str | None
    from_address: str | None
    recipients: list[dict[str, Any]]  # To: name, address
    subject: str
    snippet: str
    codes: list[dict[str, Any]]
    links: list[dict[str, Any]]
    attachment_count: int
    message_id: str | None  # RFC 5322 header
    thread_id: UUID
    tag: str | None
    parse: str  # ok, repaired, raw_only
    warnings: list[str]
    auth: dict[str, Any]  # spf, dkim, dmarc; empty = not judged
    seen: bool
    labels: list[str]
    transcript: list[str]  # of the SMTP dialogue, up to DATA; empty where mail came another way

    @classmethod
    def from_row(cls, row: Record) -> Message:
        return cls(**{one.name: row[one.name] for one in fields(cls)})

    def summary(self) -> dict[str, Any]:
        """What lists, events and waits tell of it."""
        return {
            "seq": self.seq,
            "received_at": self.received_at.astimezone(UTC),
            "id": self.id,
            "mailbox_id": self.mailbox_id,
            "from": {"name": self.from_name, "address": self.from_address},
            "to": self.recipients,
            "subject": self.subject,
            "snippet": self.snippet,
            "size": self.size,
            "seen": self.seen,
            "labels": self.labels,
            "attachment_count": self.attachment_count,
            "codes": self.codes,
            "thread_id": self.thread_id,
        }


async def add_contents(connection: db.Connection, account_id: UUID, contents: Sequence[Content]) -> set[UUID]:
    """Raw mail of one account; ids of those that were not there already (a mail handed in twice is stored once)."""
    rows = await sql.add_contents.fetch(
        connection,
        account_id=account_id,
        ids=[content.id for content in contents],
        raws=[content.raw for content in contents],
        sizes=[content.size for content in contents],
    )
    return {row["id"] for row in rows}


async def content_exists(connection: db.Connection, account_id: UUID, content_id: UUID) -> bool:
    """Whether the content was committed; a transaction that is committing it is waited for.

    Inserts the same row and takes it back: only that way the answer cannot change after it was given."""
    probe = connection.transaction()
    await probe.start()
    try:
        return await sql.probe_content.value(connection, account_id=account_id, id=content_id) is None
    finally:
        await probe.rollback()


async def store(
    connection: db.Connection, account_id: UUID, messages: Sequence[NewMessage], contents: Sequence[Content] = ()
) -> set[UUID]:
    """Store one account's messages with those of their contents that are not there yet, and tell of them, last before
    COMMIT; ids of those whose mailbox was still live and whose content was none of `contents` already there."""
    row = await _store(connection, account_id, messages, contents, whole=False)
    return set(row["stored"])


async def store_whole(
    connection: db.Connection, account_id: UUID, messages: Sequence[NewMessage], contents: Sequence[Content]
) -> bool:
    """The same as a transaction of its own, for mailboxes that nobody has locked; False = nothing was stored, for one
    of them is over."""
    row = await _store(connection, account_id, messages, contents, whole=True)
    return bool(row["held"] == len({message.mailbox_id for message in messages}))


async def _store(
    connection: db.Connection,
    account_id: UUID,
    messages: Sequence[NewMessage],
    contents: Sequence[Content],
    *,
    whole: bool,
) -> Record:
    row = await sql.store.row(
        connection,
        account_id=account_id,
        rows=_encode(messages).decode(),
        mailbox_ids=sorted({message.mailbox_id for message in messages}),
        whole=whole,
        content_ids=[content.id for content in contents],
        raws=[content.raw for content in contents],
        sizes=[content.size for content in contents],
    )
    assert row is not None  # noqa: S101 - a SELECT without FROM returns its row
    return row


async def hold(connection: db.Connection, account_id: UUID, messages: Sequence[tuple[NewMessage, str]]) -> None:
    """Store messages, each with its mailbox's policy, so that nobody sees them before their sender is judged; their
    contents are there already. To be called in a transaction that holds the mailboxes."""
    await sql.hold.run(
        connection,
        account_id=account_id,
        ids=[new.id for new, _ in messages],
        mailbox_ids=[new.mailbox_id for new, _ in messages],
        content_ids=[new.content_id for new, _ in messages],
        messages=[_encode(new).decode() for new, _ in messages],
        policies=[policy for _, policy in messages],
    )


async def hold_whole(
    connection: db.Connection,
    account_id: UUID,
    messages: Sequence[tuple[NewMessage, str]],
    contents: Sequence[Content],
    *,
    void_id: UUID,
) -> bool:
    """The same with their contents, as a transaction of its own, for mailboxes that nobody has locked; False = nothing
    was stored, for one of them is over. It takes as long as `store_whole`: some of it is done in the void."""
    held = await sql.hold_whole.value(
        connection,
        account_id=account_id,
        void_id=void_id,
        ids=[new.id for new, _ in messages],
        mailbox_ids=[new.mailbox_id for new, _ in messages],
        content_ids=[new.content_id for new, _ in messages],
        messages=[_encode(new).decode() for new, _ in messages],
        policies=[policy for _, policy in messages],
        added_ids=[content.id for content in contents],
        raws=[content.raw for content in contents],
        sizes=[content.size for content in contents],
    )
    return bool(held == len({new.mailbox_id for new, _ in messages}))


async def drop_contents(connection: db.Connection, account_id: UUID, content_ids: Sequence[UUID]) -> int:
    """Remove those contents that no message refers to; how many."""
    return await sql.drop_contents.run(connection, account_id=account_id, ids=list(content_ids))


async def get(
    connection: db.Connection, account_id: UUID, message_id: UUID, mailbox_id: UUID | None = None
) -> tuple[Message, bytes] | None:
    """A message and its raw bytes; with `mailbox_id` only if it lies there."""
    row = await sql.get.row(connection, account_id=account_id, id=message_id, mailbox_id=mailbox_id)
    return (Message.from_row(row), row["raw"]) if row else None


async def summary(
    connection: db.Connection, account_id: UUID, message_id: UUID, mailbox_id: UUID | None = None
) -> Message | None:
    """A message without its raw bytes."""
    row = await sql.summary.row(connection, account_id=account_id, id=message_id, mailbox_id=mailbox_id)
    return Message.from_row(row) if row else None


async def raw(
    connection: db.Connection, account_id: UUID, message_id: UUID, mailbox_id: UUID | None = None
) -> bytes | None:
    """The raw bytes alone."""
    found: bytes | None = await sql.raw.value(connection, account_id=account_id, id=message_id, mailbox_id=mailbox_id)
    return found


async def page(
    connection: db.Connection,
    account_id: UUID,
    *,
    mailbox_id: UUID | None = None,
    after: int | None,
    limit: int,
    ascending: bool,
    seen: bool | None = None,
) -> list[Message]:
    """Messages behind the seq `after` in the order asked for, of one mailbox or of the whole account."""
    values: dict[str, Any] = {"account_id": account_id, "after": after, "limit": limit, "seen": seen}
    if mailbox_id is None:
        query = sql.of_account_asc if ascending else sql.of_account_desc
        rows = await query.fetch(connection, **values)
    else:
        query = sql.of_mailbox_asc if ascending else sql.of_mailbox_desc
        rows = await query.fetch(connection, mailbox_id=mailbox_id, **values)
    return [Message.from_row(row) for row in rows]


async def change(
    connection: db.Connection,
    account_id: UUID,
    message_id: UUID,
    *,
    changes: dict[str, Any],  # "seen" and "labels", those that are to change
    mailbox_id: UUID | None = None,
) -> bool:
    """Whether it was not so already: only then something is told. Raises NotFound."""
    row = await sql.lock.row(connection, account_id=account_id, id=message_id, mailbox_id=mailbox_id)
    if row is None:
        raise NotFound
    changes = {name: value for name, value in changes.items() if value != row[name]}
    if not changes:
        return False
    if "seen" in changes:
        await sql.set_seen.run(connection, account_id=account_id, id=message_id, seen=changes["seen"])
    if "labels" in changes:
        await sql.set_labels.run(connection, account_id=account_id, id=message_id, labels=changes["labels"])
    data = events.encode({"id": message_id, **changes})
    event = events.NewEvent(type="message.updated", mailbox_id=row["mailbox_id"], message_id=message_id, data=data)
    await events.append(connection, account_id, [event])
    return True


async def delete(connection: db.Connection, account_id: UUID, message_ids: Sequence[UUID]) -> int:
    """Remove messages, contents nobody refers to any more, and what events told of them; how many messages."""
    rows = await _remove(connection, account_id, message_ids)
    if not rows:
        return 0
    await _redact(connection, account_id, rows)
    await events.append(connection, account_id, [_deleted(row) for row in rows])
    await _free(connection, account_id, rows)
    return len(rows)


async def remove(connection: db.Connection, account_id: UUID, message_ids: Sequence[UUID]) -> list[Record]:
    """Remove messages and contents nobody refers to any more, without a word about it, last before COMMIT; ids of what
    went."""
    rows = await _remove(connection, account_id, message_ids)
    if rows:
        await _free(connection, account_id, rows)
    return rows


async def reclaim(connection: db.Connection, account_id: UUID, message_ids: Sequence[UUID]) -> None:
    """The same, and what events told of them: whoever removes a message blanks its events, in this order, so that two
    who remove the same ones never wait for each other."""
    rows = await _remove(connection, account_id, message_ids)
    if rows:
        await _redact(connection, account_id, rows)
        await _free(connection, account_id, rows)


async def _redact(connection: db.Connection, account_id: UUID, rows: Sequence[Record]) -> None:
    of_mailbox: dict[UUID, list[UUID]] = defaultdict(list)
    for row in rows:
        of_mailbox[row["mailbox_id"]].append(row["id"])
    for mailbox_id, ids in of_mailbox.items():
        await events.redact(connection, account_id, mailbox_id, ids)


async def _free(connection: db.Connection, account_id: UUID, rows: Sequence[Record]) -> None:
    await sql.free.run(connection, account_id=account_id, freed=sum(row["size"] for row in rows))


async def _remove(connection: db.Connection, account_id: UUID, message_ids: Sequence[UUID]) -> list[Record]:
    if not message_ids:
        return []
    rows: list[Record] = await sql.delete.fetch(connection, account_id=account_id, ids=list(message_ids))
    await sql.delete_texts.run(connection, account_id=account_id, seqs=[row["seq"] for row in rows])
    contents = [row["content_id"] for row in rows]
    await sql.lock_contents.fetch(connection, account_id=account_id, ids=contents)
    await drop_contents(connection, account_id, contents)
    return rows


def _deleted(row: Record) -> events.NewEvent:
    data = events.encode({"id": row["id"]})
    return events.NewEvent(type="message.deleted", mailbox_id=row["mailbox_id"], message_id=row["id"], data=data)


async def slice_of(
    connection: db.Connection, account_id: UUID, mailbox_id: UUID, limit: int, *, most_bytes: int = SLICE_BYTES
) -> tuple[list[UUID], bool]:
    """Ids of a mailbox's oldest messages, at least one; and whether that is all of them."""
    rows = await sql.slice.fetch(connection, account_id=account_id, mailbox_id=mailbox_id, limit=limit)
    before = itertools.accumulate((row["size"] for row in rows), initial=0)
    ids = [row["id"] for row, held in zip(rows, before, strict=False) if held < most_bytes]
    return ids, len(ids) < limit and len(ids) == len(rows)


async def old_in_void(connection: db.Connection, void_id: UUID, before: datetime, limit: int) -> list[UUID]:
    """Ids of dropped mail that was stored before `before`."""
    rows = await sql.old_in_void.fetch(connection, account_id=void_id, before=before, limit=limit)
    return [row["id"] for row in rows]


async def bytes_in_void(connection: db.Connection, void_ids: Sequence[UUID]) -> int:
    """Bytes that dropped mail holds."""
    held: int = await sql.bytes_in_void.value(connection, account_ids=list(void_ids))
    return held

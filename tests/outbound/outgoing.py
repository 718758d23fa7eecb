"""Messages to send."""

from __future__ import annotations

import uuid

from uuid_utils.compat import uuid7

from gateway.outbound.providers import contract

ACCOUNT = uuid.UUID("018f0000-0000-7000-8000-000000000001")


def message(
    body: bytes = b"hello\r\n",
    *,
    mail_from: str = "app@sender.example",
    rcpt_to: str = "user@recipient.example",
    smtputf8: bool = False,
) -> contract.Outgoing:
    """A message with a Message-ID of its own."""
    delivery_id = uuid7()
    headers = f"Message-ID: <{delivery_id}@sender.example>\r\nSubject: hello\r\n\r\n".encode()
    return contract.Outgoing(
        delivery_id=delivery_id,
        account_id=ACCOUNT,
        mail_from=mail_from,
        rcpt_to=rcpt_to,
        raw=headers + body,
        smtputf8=smtputf8,
    )

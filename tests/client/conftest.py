"""Clients of an account of the test's own in the shared house."""

from __future__ import annotations

import smtplib
from collections.abc import Callable, Iterator

import pytest

from gateway.client import Postroom
from tests import house

Deliver = Callable[..., None]


@pytest.fixture
def postroom(shared_house: house.House, anyio_backend: str, tenant: house.Tenant) -> Iterator[Postroom]:
    """The blocking client; `anyio_backend` because the tenant is made by a coroutine."""
    with Postroom(shared_house.url, tenant.key) as client:
        yield client


@pytest.fixture
def deliver(shared_house: house.House) -> Deliver:
    """Sends a mail by SMTP; when it returns the mail is stored."""

    def send(to: str, subject: str = "Hello", body: str = "Hello!", sender: str = "shop@example.com") -> None:
        with smtplib.SMTP("127.0.0.1", shared_house.smtp_port) as smtp:
            letter = f"From: Shop <{sender}>\r\nTo: {to}\r\nSubject: {subject}\r\n\r\n{body}\r\n"
            smtp.sendmail(sender, [to], letter.encode())

    return send

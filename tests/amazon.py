"""Amazon SNS as seen from outside: it signs with an RSA key and shows the certificate at an address of its own.

amazon = Amazon(tmp_path)
async with amazon.serving():                  # sns.eu-west-1.amazonaws.com, on loopback
    body = amazon.notification("…")           # what it posts, signed
    await signatures.notification…            # with amazon.fetcher(), the real one but for where connections lead
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpcore2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID
from uuid_utils.compat import uuid7

from gateway import signatures
from tests.notify import certificates

HOST = "sns.eu-west-1.amazonaws.com"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:mail-in"
CERTIFICATE = f"https://{HOST}/SimpleNotificationService-0123456789abcdef.pem"
SUBSCRIBE = f"https://{HOST}/?Action=ConfirmSubscription&TopicArn={TOPIC}&Token=2336412f37"

# Written out here once more, from Amazon's description, so that a mistake in the code is not repeated by its test.
SIGNED = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
    "UnsubscribeConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}


def new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def certificate(key: rsa.RSAPrivateKey, *, days: int = 30) -> bytes:
    """PEM; with negative `days` it has ended."""
    now, name = datetime.now(UTC), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=60)).not_valid_after(now + timedelta(days=days))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class Amazon:
    """One region of SNS."""

    def __init__(self, folder: Path) -> None:
        self.key = new_key()
        self.pages: dict[str, tuple[int, bytes]] = {  # by path: what a GET is answered
            CERTIFICATE.removeprefix(f"https://{HOST}"): (200, certificate(self.key)),
            SUBSCRIBE.removeprefix(f"https://{HOST}"): (200, b"<ConfirmSubscriptionResponse/>"),
        }
        self.asked: list[str] = []  # paths, in order
        self._authority = certificates.Authority(folder)
        self._port = 0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0, ssl=self._authority.server_context(HOST))
        self._port = server.sockets[0].getsockname()[1]
        async with server:
            yield

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ")[1].decode()
        self.asked.append(path)
        status, body = self.pages.get(path, (404, b""))
        location = b"location: https://elsewhere.example/\r\n" if status == 302 else b""
        writer.write(
            b"HTTP/1.1 %d x\r\n%scontent-length: %d\r\nconnection: close\r\n\r\n" % (status, location, len(body))
        )
        writer.write(body)
        await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    def fetcher(self) -> signatures.Fetcher:
        """The real one; names lead to loopback, where the certificate must still be good for the name."""
        return signatures.Fetcher(ssl_context=self._authority.client_context(), network_backend=_Loopback(self._port))

    def notification(self, message: str, **changes: Any) -> dict[str, Any]:
        """What SNS posts for a message; `changes` by member, before it is signed; None takes one out."""
        return self.sign(
            {
                "Type": "Notification",
                "MessageId": str(uuid7()),
                "TopicArn": TOPIC,
                "Subject": "Amazon SES Email Receipt Notification",
                "Message": message,
                "Timestamp": "2026-11-22T02:30:00.000Z",
                "SignatureVersion": "2",
                "SigningCertURL": CERTIFICATE,
                "UnsubscribeURL": f"https://{HOST}/?Action=Unsubscribe",
                **changes,
            }
        )

    def confirmation(self, type: str = "SubscriptionConfirmation", **changes: Any) -> dict[str, Any]:
        """What SNS posts when somebody subscribed the endpoint."""
        said = "You have chosen to subscribe to the topic."
        return self.notification(
            said, **{"Type": type, "Subject": None, "Token": "2336412f37", "SubscribeURL": SUBSCRIBE} | changes
        )

    def sign(self, members: dict[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in members.items() if value is not None}
        signed = _text(given, SIGNED.get(given["Type"], ()))
        algorithm = hashes.SHA1() if given["SignatureVersion"] == "1" else hashes.SHA256()  # noqa: S303
        signature = self.key.sign(signed, padding.PKCS1v15(), algorithm)
        return given | {"Signature": base64.b64encode(signature).decode()}


def _text(given: dict[str, Any], names: Iterable[str]) -> bytes:
    return "".join(f"{name}\n{given[name]}\n" for name in names if name in given).encode()


def body(given: dict[str, Any]) -> bytes:
    return json.dumps(given).encode()


class _Loopback(httpcore2.AsyncNetworkBackend):
    def __init__(self, port: int) -> None:
        self._port = port
        self._real = httpcore2.AnyIOBackend()

    async def connect_tcp(self, host: str, port: int, *args: Any, **options: Any) -> httpcore2.AsyncNetworkStream:
        assert (host, port) == (HOST, 443)
        return await self._real.connect_tcp("127.0.0.1", self._port, *args, **options)

"""Webhook attempts against real servers on loopback, most of them badly behaved."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import anyio
import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st

from gateway import tokens
from gateway.notify import guard, webhooks
from tests.notify import test_guard
from tests.notify.certificates import Authority

pytestmark = pytest.mark.anyio

KEYRING = tokens.Keyring(b"a secret key of thirty-two bytes!")
WEBHOOK = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
BODY = json.dumps({"type": "message.received", "data": {"subject": "Grüße ✉"}}, ensure_ascii=False).encode()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
# As API.md promises them: at once, then after 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h; then dead.
SCHEDULE = ("5", "300", "1800", "7200", "18000", "36000", "50400", "72000", "86400")

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Receiver:
    """A server that answers each request in one way and remembers all it was sent."""

    port: int = 0
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)  # heads
    bodies: list[bytes] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)  # a client has gone
    server_names: list[str | None] = field(default_factory=list)  # of TLS handshakes

    def url(self, host: str = "hook.example", scheme: str = "http", path: str = "/in?x=1") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    def headers(self, which: int = -1) -> dict[str, str]:
        lines = self.requests[which].decode().split("\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}


@contextlib.asynccontextmanager
async def receiving(
    answer: bytes | Answer = OK, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    running: set[asyncio.Task[None]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            receiver.requests.append(head)
            receiver.bodies.append(await reader.readexactly(int(receiver.headers()["content-length"])))
            if not isinstance(answer, bytes):
                return await answer(writer)
            writer.write(answer)
            await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        receiver.connections += 1
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await converse(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()  # the test is over
        finally:
            receiver.closed.set()
            running.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def note_name(_object: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        receiver.server_names.append(name)

    if tls is not None:
        tls.sni_callback = note_name
    server = await asyncio.start_server(serve, host, port, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await server.wait_closed()


@dataclass
class Names:
    """A resolver that gives one answer after the other, the last one for ever, and counts the questions."""

    answers: Sequence[Sequence[str]] = (("127.0.0.1",),)
    asked: list[str] = field(default_factory=list)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers[min(len(self.asked), len(self.answers)) - 1]


def poster(
    names: guard.Resolver | None = None,
    *,
    allow_private: bool = True,
    timeout_seconds: float = 10,
    tls: ssl.SSLContext | None = None,
) -> webhooks.Poster:
    resolver = Names() if names is None else names
    return webhooks.Poster(
        allow_private=allow_private, timeout_seconds=timeout_seconds, resolver=resolver, ssl_context=tls
    )


async def post_once(url: str, names: guard.Resolver | None = None, **options: bool | float) -> webhooks.Attempt:
    async with poster(names, **options) as sender:  # type: ignore[arg-type] # checked by poster itself
        return await sender.post(url, signed(), BODY)


def signed(generation: int = 0) -> dict[str, str]:
    secret = KEYRING.webhook_secret(WEBHOOK, generation)
    return webhooks.sign([secret], "msg_1", datetime.now(UTC), BODY)


# Signatures


def test_the_official_library_verifies_a_signature() -> None:
    secret = KEYRING.webhook_secret(WEBHOOK)
    headers = webhooks.sign([secret], "msg_1", datetime.now(UTC), BODY)
    assert standardwebhooks.Webhook(secret).verify(BODY, headers) == json.loads(BODY)


def test_while_rotating_either_secret_verifies_and_a_third_does_not() -> None:
    old, new, other = (KEYRING.webhook_secret(WEBHOOK, generation) for generation in range(3))
    headers = webhooks.sign([new, old], "msg_1", datetime.now(UTC), BODY)
    for secret in (old, new):
        standardwebhooks.Webhook(secret).verify(BODY, headers)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(other).verify(BODY, headers)


@pytest.mark.parametrize("change", ["webhook-id", "webhook-timestamp"])
def test_a_signature_holds_for_its_id_and_time_alone(change: str) -> None:
    secret = KEYRING.webhook_secret(WEBHOOK)
    headers = webhooks.sign([secret], "1", datetime.now(UTC), BODY)
    headers[change] = str(int(headers[change]) - 1)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(secret).verify(BODY, headers)


async def test_what_arrives_is_the_signed_body_under_the_target_s_name() -> None:
    async with receiving() as receiver:
        attempt = await post_once(receiver.url())
    assert (attempt.outcome, attempt.status, attempt.answer, attempt.error) == ("delivered", 200, "ok", None)
    assert receiver.requests[0].startswith(b"POST /in?x=1 HTTP/1.1\r\n")
    headers = receiver.headers()
    assert headers["host"] == f"hook.example:{receiver.port}"
    assert headers["content-type"] == "application/json"
    standardwebhooks.Webhook(KEYRING.webhook_secret(WEBHOOK)).verify(receiver.bodies[0], headers)


# Outcomes


STATUSES = {
    "delivered": (200, 202, 204, 299),
    "failed": (301, 304, 307, 400, 429, 500, 503),
    "gone": (410,),
}


@pytest.mark.parametrize(
    ("status", "outcome"), [(status, outcome) for outcome, statuses in STATUSES.items() for status in statuses]
)
async def test_the_status_decides_the_outcome(status: int, outcome: str) -> None:
    async with receiving(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status) as receiver:
        attempt = await post_once(receiver.url())
    assert (attempt.status, attempt.outcome) == (status, outcome)


async def test_a_redirect_is_not_followed() -> None:
    async with receiving() as elsewhere:
        answer = b"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n" % elsewhere.port
        async with receiving(answer) as receiver:
            attempt = await post_once(receiver.url())
    assert (attempt.outcome, receiver.connections, elsewhere.connections) == ("failed", 1, 0)


async def test_retry_after_is_heard() -> None:
    async with receiving(b"HTTP/1.1 503 X\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n") as receiver:
        attempt = await post_once(receiver.url())
    assert (attempt.outcome, attempt.retry_after) == ("failed", 120.0)


async def test_the_first_kibibyte_of_the_answer_is_kept_as_text_postgres_can_store() -> None:
    answer = b"\x00\xff" + b"a" * 5000
    head = b"HTTP/1.1 500 X\r\nContent-Length: %d\r\n\r\n" % len(answer)
    async with receiving(head + answer) as receiver:
        attempt = await post_once(receiver.url())
    assert attempt.answer == "��" + "a" * 1022


async def test_of_a_long_answer_64_kib_are_read_and_its_status_counts() -> None:
    """With the bound of 64 KiB taken out, the attempt waited for more until its timeout."""

    async def never_ending(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * webhooks.ANSWER_READ_BYTES)
        await asyncio.Event().wait()

    async with receiving(never_ending) as receiver:
        attempt = await post_once(receiver.url(), timeout_seconds=5)
    assert (attempt.outcome, attempt.answer) == ("delivered", "x" * 1024)
    assert attempt.latency < 5


@pytest.mark.parametrize("status", [200, 500])
async def test_a_body_that_stalls_holds_nobody_up_once_the_status_is_known(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """With the rest of the answer awaited until the attempt's timeout, it took all of the 10 s, and this one 15 s."""
    monkeypatch.setattr(webhooks, "ANSWER_SECONDS", 0.05)

    async def stalling(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 100\r\n\r\nbegun" % status)
        await asyncio.Event().wait()

    async with receiving(stalling) as receiver:
        attempt = await post_once(receiver.url())
    assert (attempt.status, attempt.answer, attempt.error) == (status, "begun", None)
    assert attempt.latency < 5


async def test_a_server_that_never_answers_costs_the_timeout_and_no_more() -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with receiving(silent) as receiver:
        attempt = await post_once(receiver.url(), timeout_seconds=0.05)
    assert (attempt.outcome, attempt.status, attempt.error) == ("failed", None, "no answer within 0.05 s")


async def test_the_timeout_is_a_total_that_steady_dripping_does_not_put_off() -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 500 X\r\n\r\n")
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.001)

    async with receiving(drip) as receiver:
        attempt = await post_once(receiver.url(), timeout_seconds=0.2)
        await receiver.closed.wait()
    assert (attempt.outcome, attempt.status, attempt.error) == ("failed", 500, None)


async def test_a_resolver_that_hangs_is_within_the_timeout() -> None:
    async def hang(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    attempt = await post_once("http://hook.example/", hang, timeout_seconds=0.05)
    assert attempt.error == "no answer within 0.05 s"


@pytest.mark.parametrize(
    "rubbish",
    [
        b"",
        b"\r\n\r\n",
        b"220 mail.example ESMTP\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 999999 X\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
        b"\x00" * 1000,
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 50_000 + b"\r\n",
    ],
)
async def test_rubbish_is_a_failed_attempt(rubbish: bytes) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(rubbish)
        await writer.drain()

    async with receiving(answer) as receiver:
        attempt = await post_once(receiver.url())
    assert (attempt.outcome, attempt.status) == ("failed", None)
    assert attempt.error
    assert len(attempt.error) <= 200


async def test_an_answer_that_breaks_off_counts_by_its_status() -> None:
    async def half(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await writer.drain()

    async with receiving(half) as receiver:
        attempt = await post_once(receiver.url())
    assert (attempt.outcome, attempt.answer, attempt.error) == ("delivered", "half", None)


async def test_nobody_listening_is_a_failed_attempt() -> None:
    async with receiving() as receiver:
        url = receiver.url()
    attempt = await post_once(url)
    assert (attempt.outcome, attempt.status) == ("failed", None)
    assert attempt.error


# Where connections go


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "hook.example", "[::1]", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]", "u@127.0.0.1"],
)
async def test_no_connection_is_made_inside(host: str) -> None:
    """With the check in `guard.resolve` taken out, hook.example was connected to."""
    async with receiving() as receiver:
        attempt = await post_once(receiver.url(host), allow_private=False)
    assert (attempt.outcome, attempt.status, receiver.connections) == ("failed", None, 0)


async def test_no_special_address_is_connected_to_however_it_is_written_and_public_ones_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every connection that would be made is written down instead: to special addresses that a name leads to, alone or
    behind a public one, and that stand in the URL; to odd spellings. Public ones come out as they were looked up.
    """
    made: list[str] = []

    async def connect(*, remote_host: str, **_: object) -> None:
        made.append(remote_host)
        raise ConnectionRefusedError

    monkeypatch.setattr(anyio, "connect_tcp", connect)
    names = Names()
    async with poster(names, allow_private=False) as sender:

        async def post(url: str, answer: list[str]) -> None:
            names.answers = [answer]
            assert (await sender.post(url, {}, BODY)).outcome == "failed"

        for address in test_guard.FORBIDDEN:
            await post("https://hook.example/", [address])
            await post("https://hook.example/", ["8.8.8.8", address])
            await post(f"http://[{address}]/" if ":" in address else f"http://{address}/", [])
        for url in test_guard.REFUSED_URLS:
            await post(url, ["127.0.0.1"])
        assert made == []
        for address in test_guard.PUBLIC:
            await post("https://hook.example/", [address])
    assert made == [str(ipaddress.ip_address(address)) for address in test_guard.PUBLIC]


async def test_the_owner_cannot_tell_an_inner_name_from_one_that_does_not_exist() -> None:
    """With the true latency in the attempt, the two differed."""

    async def unknown(host: str, port: int) -> Sequence[str]:
        raise OSError("Name or service not known")

    inner = Names(answers=[["10.0.0.1"]])
    attempts = [await post_once("https://db.example/", names, allow_private=False) for names in (unknown, inner)]
    assert attempts[0] == attempts[1]
    assert (attempts[0].error, attempts[0].latency) == ("the host does not lead to a public address", 0)


async def test_a_name_that_was_public_at_creation_and_leads_inside_later_is_not_connected_to() -> None:
    names = Names(answers=[["8.8.8.8"], ["127.0.0.1"]])
    async with receiving() as receiver:
        await guard.validate(receiver.url(), names, allow_private=False)
        attempt = await post_once(receiver.url(), names, allow_private=False)
    assert (attempt.error, receiver.connections) == ("the host does not lead to a public address", 0)


async def test_a_connection_goes_to_the_address_that_was_checked_and_nobody_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name server that rebinds: an allowed address first, a forbidden one ever after (127.0.0.2 stands for a public
    address here). With `connect_tcp` looking the name up a second time for the connection, the request went to
    127.0.0.1; with it connecting to the name instead of the address, the system's resolver was asked and failed.
    """
    inside = ipaddress.ip_address("127.0.0.1")
    monkeypatch.setattr(guard, "is_forbidden", lambda address: address == inside)
    names = Names(answers=[["127.0.0.2"], ["127.0.0.1"]])
    async with receiving(host="127.0.0.2") as public, receiving(port=public.port) as inner:
        async with poster(names, allow_private=False) as sender:
            first = await sender.post(public.url(), signed(), BODY)
        second = await post_once(public.url(), names, allow_private=False)
    assert (first.outcome, second.outcome) == ("delivered", "failed")
    assert (public.connections, inner.connections, names.asked) == (1, 0, ["hook.example"] * 2)


async def test_a_second_address_is_tried_where_the_first_is_dead() -> None:
    async with receiving() as receiver:
        attempt = await post_once(receiver.url(), Names(answers=[["127.0.0.3", "127.0.0.1"]]))
    assert attempt.outcome == "delivered"


async def test_a_connection_is_kept_for_the_next_attempt_to_the_same_target() -> None:
    names = Names()
    async with receiving() as receiver, poster(names) as sender:
        outcomes = [(await sender.post(receiver.url(), signed(), BODY)).outcome for _ in range(3)]
    assert (outcomes, receiver.connections, len(names.asked)) == (["delivered"] * 3, 1, 1)


async def test_proxy_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving() as proxy, receiving() as receiver:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        attempt = await post_once(receiver.url())
    assert (attempt.outcome, proxy.connections) == ("delivered", 0)


# TLS


async def test_over_tls_name_and_certificate_are_the_target_s_though_the_connection_goes_to_an_address(
    authority: Authority,
) -> None:
    context = authority.server_context("hook.example")
    async with receiving(tls=context) as receiver, poster(tls=authority.client_context()) as sender:
        attempt = await sender.post(receiver.url(scheme="https"), signed(), BODY)
    assert (attempt.outcome, attempt.error, receiver.server_names) == ("delivered", None, ["hook.example"])


async def test_a_certificate_for_another_name_is_refused_before_anything_is_sent(authority: Authority) -> None:
    """With `check_hostname` off in the client's context, the request was sent."""
    context = authority.server_context("other.example")
    async with receiving(tls=context) as receiver, poster(tls=authority.client_context()) as sender:
        attempt = await sender.post(receiver.url(scheme="https"), signed(), BODY)
    assert (attempt.outcome, receiver.requests) == ("failed", [])
    assert "certificate" in (attempt.error or "")


async def test_an_unknown_authority_is_refused(authority: Authority) -> None:
    async with receiving(tls=authority.server_context("hook.example")) as receiver:
        attempt = await post_once(receiver.url(scheme="https"))
    assert (attempt.outcome, receiver.requests) == ("failed", [])


async def test_two_names_at_one_address_do_not_share_a_connection(authority: Authority) -> None:
    context = authority.server_context("hook.example")
    async with receiving(tls=context) as receiver, poster(tls=authority.client_context()) as sender:
        mine = await sender.post(receiver.url(scheme="https"), signed(), BODY)
        theirs = await sender.post(receiver.url("other.example", scheme="https"), signed(), BODY)
    assert (mine.outcome, theirs.outcome, len(receiver.requests)) == ("delivered", "failed", 1)


# When the next one is due


def test_the_schedule_is_the_promised_one_and_then_the_delivery_is_dead() -> None:
    waits = [webhooks.next_attempt(made, SCHEDULE) for made in range(11)]
    assert waits == [0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400, None]


def test_retry_after_makes_the_next_attempt_later_never_earlier() -> None:
    assert webhooks.next_attempt(1, SCHEDULE, retry_after=60) == 60
    assert webhooks.next_attempt(2, SCHEDULE, retry_after=60) == 300
    assert webhooks.next_attempt(2, SCHEDULE, retry_after=1e9) == 86_400
    assert webhooks.next_attempt(10, SCHEDULE, retry_after=60) is None


@given(st.integers(1, 9), st.floats(-0.2, 0.2))
def test_jitter_spreads_a_wait_by_its_share(made: int, jitter: float) -> None:
    wait = webhooks.next_attempt(made, SCHEDULE, jitter=jitter)
    assert wait is not None
    assert abs(wait - float(SCHEDULE[made - 1])) <= 0.2000001 * float(SCHEDULE[made - 1])


def test_retry_after_may_be_a_date() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    later = email.utils.format_datetime(now + timedelta(minutes=5), usegmt=True)
    assert webhooks.parse_retry_after(later, now) == 300
    assert webhooks.parse_retry_after(email.utils.format_datetime(now - timedelta(1), usegmt=True), now) == 0


@given(st.text() | st.integers().map(str))
def test_any_other_retry_after_is_none_or_at_most_a_day(text: str) -> None:
    seconds = webhooks.parse_retry_after(text, datetime.now(UTC))
    assert seconds is None or 0 <= seconds <= 86_400

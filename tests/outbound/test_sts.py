"""MTA-STS: policies from a web server on loopback, hosts with certificates of every kind."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.errors import Unavailable
from gateway.outbound.providers import exchangers, sts
from gateway.resolving import DnsResolver
from gateway.signatures import Fetched, Fetcher
from tests import nameserver
from tests.outbound import outgoing, sink
from tests.outbound.test_mx import DOMAIN, FIRST, SECOND, directly, hosts, zone_of

pytestmark = pytest.mark.anyio

HOST = f"mta-sts.{DOMAIN}"


def policy_text(mode: str = "enforce", mx: str = f"*.{DOMAIN}", max_age: int = 604_800) -> bytes:
    return f"version: STSv1\r\nmode: {mode}\r\nmx: {mx}\r\nmax_age: {max_age}\r\n".encode()


class Web:
    """What is served, and what was asked for."""

    def __init__(self, body: bytes, status: str = "200 OK") -> None:
        self.body, self.status = body, status
        self.asked: list[bytes] = []
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            self.asked.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
            head = f"HTTP/1.1 {self.status}\r\nContent-Type: text/plain\r\nLocation: /.well-known/mta-sts.txt\r\n"
            writer.write(f"{head}Content-Length: {len(self.body)}\r\nConnection: close\r\n\r\n".encode() + self.body)
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def web(certificate: ssl.SSLContext, body: bytes, status: str = "200 OK") -> AsyncIterator[Web]:
    made = Web(body, status)
    server = await asyncio.start_server(made.answer, "127.0.0.1", 0, ssl=certificate)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


class Certificates:
    """One that is good for the policy's host and mx1, one that is trusted and good for neither, and the trust."""

    def __init__(self, folder: Path) -> None:
        (folder / "good").mkdir()
        (folder / "other").mkdir()
        self.good = sink.server_tls(folder / "good", HOST, f"mx1.{DOMAIN}")
        self.other = sink.server_tls(folder / "other", f"elsewhere.{DOMAIN}")
        self.trusted = ssl.create_default_context(cafile=str(folder / "good" / "ca.pem"))
        self.trusted.load_verify_locations(str(folder / "other" / "ca.pem"))


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def published(*addresses: str, id: str = "1") -> dict[str, nameserver.Records]:
    return zone_of(*addresses) | {f"_mta-sts.{DOMAIN}": {"TXT": [f"v=STSv1; id={id};"]}, HOST: {"A": [FIRST]}}


@pytest.mark.parametrize("mode", ["enforce", "testing", "none"])
async def test_a_host_with_a_good_certificate_is_delivered_to(certificates: Certificates, mode: str) -> None:
    async with web(certificates.good, policy_text(mode)) as site, hosts(certificates.good) as [only]:
        zone = published(FIRST)
        async with directly(zone, only.port, trusted=certificates.trusted, https_port=site.port) as provider:
            verdict = await provider.send(outgoing.message())
            assert (verdict.outcome, verdict.tls, only.count) == ("delivered", True, 1)
            await provider.send(outgoing.message())
        assert site.asked == [b"GET /.well-known/mta-sts.txt HTTP/1.1"]


@pytest.mark.parametrize("mode", ["enforce", "testing", "none"])
@pytest.mark.parametrize("kind", ["another's certificate", "no TLS"])
async def test_a_policy_that_is_enforced_keeps_mail_from_the_wrong_host(
    certificates: Certificates, mode: str, kind: str
) -> None:
    """With `enforced` made False in `_peers`, both took mail that was to be kept from them."""
    tls = certificates.other if kind == "another's certificate" else None
    async with web(certificates.good, policy_text(mode)) as site, hosts(tls) as [only]:
        zone = published(FIRST)
        async with directly(zone, only.port, trusted=certificates.trusted, https_port=site.port) as provider:
            verdict = await provider.send(outgoing.message())
        taken = mode != "enforce"
        assert (verdict.outcome, only.count) == ("delivered" if taken else "deferred", taken)
        assert only.lines("MAIL") == [] or taken


async def test_a_wrong_host_is_passed_over_for_one_that_will_do(certificates: Certificates) -> None:
    zone = published(SECOND, FIRST)
    zone[DOMAIN] = {"MX": [f"10 mx2.{DOMAIN}.", f"20 mx1.{DOMAIN}."]}
    zone[f"mx1.{DOMAIN}"], zone[f"mx2.{DOMAIN}"] = {"A": [FIRST]}, {"A": [SECOND]}
    async with web(certificates.good, policy_text()) as site, hosts(certificates.good, certificates.other) as both:
        async with directly(zone, both[0].port, trusted=certificates.trusted, https_port=site.port) as provider:
            verdict = await provider.send(outgoing.message())
        assert (verdict.outcome, both[0].count, both[1].count) == ("delivered", 1, 0)
        assert both[1].connections == 1


async def test_a_host_that_is_not_listed_is_not_connected_to(certificates: Certificates) -> None:
    text = policy_text(mx="other.example")
    async with web(certificates.good, text) as site, hosts(certificates.good) as [only]:
        zone = published(FIRST)
        async with directly(zone, only.port, trusted=certificates.trusted, https_port=site.port) as provider:
            verdict = await provider.send(outgoing.message())
        assert (verdict.outcome, verdict.enhanced, only.connections) == ("deferred", "4.7.5", 0)


async def test_a_connection_made_without_checking_is_not_used_where_one_must_check(certificates: Certificates) -> None:
    """With `tls` left out of what tells connections apart, the second message went over the unchecked one."""
    zone = published(FIRST) | {"plain.example": {"MX": [f"10 mx1.{DOMAIN}."]}}
    async with web(certificates.good, policy_text()) as site, hosts(certificates.other) as [only]:
        async with directly(zone, only.port, trusted=certificates.trusted, https_port=site.port) as provider:
            first = await provider.send(outgoing.message(rcpt_to="user@plain.example"))
            second = await provider.send(outgoing.message())
        assert (first.outcome, second.outcome, only.count) == ("delivered", "deferred", 1)


@pytest.mark.parametrize("fault", ["status", "redirect", "nonsense", "certificate", "too long"])
async def test_a_policy_that_cannot_be_fetched_is_none(certificates: Certificates, fault: str) -> None:
    body = {"nonsense": b"<html>", "too long": policy_text() + b"x: y\r\n" * 20_000}.get(fault, policy_text())
    status = {"status": "404 Not Found", "redirect": "301 Moved Permanently"}.get(fault, "200 OK")
    certificate = certificates.other if fault == "certificate" else certificates.good
    async with web(certificate, body, status) as site, hosts(None) as [only]:
        zone = published(FIRST)
        async with directly(zone, only.port, trusted=certificates.trusted, https_port=site.port) as provider:
            assert (await provider.send(outgoing.message())).outcome == "delivered"


async def test_policies_are_not_fetched_from_inside(certificates: Certificates) -> None:
    """With `public_addresses` unchecked, the policy was fetched from 127.0.0.1."""
    async with web(certificates.good, policy_text()) as site, nameserver.serving(published(FIRST)) as server:
        resolver = DnsResolver([server.address])
        names = exchangers.Exchangers(resolver, ours=["gateway.example"], allow_private=False)
        connections = sts.PublicConnections(names, port=site.port)
        fetch = Fetcher(ssl_context=certificates.trusted, network_backend=connections)
        assert await sts.Policies(resolver, fetch).policy(DOMAIN) is None
        assert site.asked == []


class Shelf:
    """A fetcher that has one text, or none; and a clock."""

    def __init__(self) -> None:
        self.body: bytes | None = policy_text(max_age=1000)
        self.fetched = 0
        self.now = 0.0

    async def __call__(self, url: str) -> Fetched:
        assert url == f"https://{HOST}/.well-known/mta-sts.txt"
        self.fetched += 1
        if self.body is None:
            raise Unavailable("away")
        return Fetched(status=200, body=self.body)


@contextlib.asynccontextmanager
async def kept(shelf: Shelf, zone: nameserver.Zone) -> AsyncIterator[sts.Policies]:
    async with nameserver.serving(zone) as server:
        yield sts.Policies(DnsResolver([server.address], lifetime=1.0), shelf, clock=lambda: shelf.now)


async def test_a_policy_is_fetched_again_when_its_id_changes_or_its_time_is_over() -> None:
    shelf, zone = Shelf(), published(FIRST)
    async with kept(shelf, zone) as policies:
        for id, now, fetched in [("1", 0.0, 1), ("1", 999.0, 1), ("2", 999.0, 2), ("2", 1998.0, 2), ("2", 1999.0, 3)]:
            zone.update(published(FIRST, id=id))
            shelf.now = now
            assert await policies.policy(DOMAIN) is not None
            assert shelf.fetched == fetched


@pytest.mark.parametrize("gone", ["record", "name servers", "web server"])
async def test_a_kept_policy_outlives_what_it_came_from_until_its_time_is_over(gone: str) -> None:
    """Who can take away the record or the web server must not undo the policy (RFC 8461 section 5).

    With `_fetched`'s failure answered by no policy, the one without its web server failed.
    """
    shelf, zone = Shelf(), published(FIRST)
    async with kept(shelf, zone) as policies:
        await policies.policy(DOMAIN)
        shelf.body = None
        if gone == "web server":
            zone.update(published(FIRST, id="2"))
        else:
            zone[f"_mta-sts.{DOMAIN}"] = {} if gone == "record" else nameserver.SERVFAIL
        shelf.now = 999.0
        held = await policies.policy(DOMAIN)
        assert held is not None
        assert held.mode == "enforce"
        shelf.now = 1000.0
        assert await policies.policy(DOMAIN) is None


async def test_a_policy_that_could_not_be_fetched_is_not_asked_for_with_every_message() -> None:
    shelf = Shelf()
    shelf.body = None
    async with kept(shelf, published(FIRST)) as policies:
        for now in (0.0, 299.0, 301.0):
            shelf.now = now
            assert await policies.policy(DOMAIN) is None
    assert shelf.fetched == 2


@pytest.mark.parametrize("texts", [[], ["v=STSv1; id=1;", "v=STSv1; id=2;"], ["v=STSv2; id=1;"], ["v=STSv1; id=;"]])
async def test_only_one_good_record_tells_of_a_policy(texts: list[str]) -> None:
    shelf, zone = Shelf(), published(FIRST)
    zone[f"_mta-sts.{DOMAIN}"] = {"TXT": texts}
    async with kept(shelf, zone) as policies:
        assert await policies.policy(DOMAIN) is None
    assert shelf.fetched == 0


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"version: STSv2\nmode: none\nmax_age: 1",
        b"version: STSv1\nmode: maybe\nmax_age: 1\nmx: a",
        b"version: STSv1\nmode: enforce\nmax_age: 1",
        b"version: STSv1\nmode: enforce\nmax_age: -1\nmx: a",
        b"version: STSv1\nmode: enforce\nmx: a",
    ],
)
def test_what_is_no_policy_is_refused(text: bytes) -> None:
    with pytest.raises(sts.NoPolicy):
        sts.parse(text)


@pytest.mark.parametrize(
    ("host", "covered"),
    [
        ("mail.example.com", True),
        ("MAIL.example.com", True),
        ("a.example.net", True),
        ("a.b.example.net", False),
        ("example.net", False),
        ("example.com", False),
        ("net", False),
    ],
)
def test_a_star_stands_for_one_label(host: str, covered: bool) -> None:
    text = b"version: STSv1\nmode: enforce\nmx: Mail.Example.com\nmx: *.example.net\nmax_age: 99999999999\n"
    text = text.replace(b"99999999999", b"9999999999")
    made = sts.parse(text)
    assert made.covers(host) is covered
    assert made.max_age == sts.LONGEST_AGE

"""Delivery to the recipient's own hosts: name servers and hosts on loopback."""

from __future__ import annotations

import contextlib
import dataclasses
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway import settings, sockets
from gateway.outbound import route
from gateway.outbound.providers import contract, exchangers, mx, sts, urls
from gateway.resolving import DnsResolver
from gateway.signatures import Fetcher
from tests import nameserver
from tests.outbound import outgoing, sink

pytestmark = pytest.mark.anyio

DOMAIN = "recipient.example"
FIRST, SECOND, THIRD = "127.0.0.1", "127.0.0.2", "127.0.0.3"


@contextlib.asynccontextmanager
async def hosts(*tls: ssl.SSLContext | None) -> AsyncIterator[list[sink.Sink]]:
    """Sinks at 127.0.0.1, .2, …, all on one port."""
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(sink.Sink(tls=tls[0]))]
        for number, context in enumerate(tls[1:], 2):
            other = sink.Sink(host=f"127.0.0.{number}", port=servers[0].port, tls=context)
            servers.append(await stack.enter_async_context(other))
        yield servers


@contextlib.asynccontextmanager
async def directly(
    zone: nameserver.Zone,
    port: int,
    *,
    allow_private: bool = True,
    hostname: str = "gateway.example",
    trusted: ssl.SSLContext | None = None,
    https_port: int | None = None,
) -> AsyncIterator[mx.MxProvider]:
    """A provider that asks a name server with this zone."""
    async with nameserver.serving(zone) as server:
        resolver = DnsResolver([server.address], lifetime=1.0)
        names = exchangers.Exchangers(resolver, ours=[hostname], allow_private=allow_private)
        trusted = trusted or ssl.create_default_context()
        fetch = Fetcher(ssl_context=trusted, network_backend=sts.PublicConnections(names, port=https_port))
        direct = mx.Direct(
            hostname=hostname, port=port, connections=4, step_seconds=10, dot_seconds=10, trusted=trusted
        )
        provider = mx.MxProvider(direct, names, sts.Policies(resolver, fetch))
        try:
            yield provider
        finally:
            await provider.close()


def zone_of(*addresses: str, **more: nameserver.Records) -> dict[str, nameserver.Records]:
    """mx1 at the first address, mx2 at the second, each less preferred than the one before."""
    numbered = list(enumerate(addresses, 1))
    zone: dict[str, nameserver.Records] = {DOMAIN: {"MX": [f"{10 * n} mx{n}.{DOMAIN}." for n, _ in numbered]}}
    zone |= {f"mx{n}.{DOMAIN}": {"AAAA" if ":" in address else "A": [address]} for n, address in numbered}
    return zone | more


async def verdict_of(zone: nameserver.Zone, port: int, **how: object) -> contract.Verdict:
    async with directly(zone, port, **how) as provider:  # type: ignore[arg-type]  # passed on as they come
        return await provider.send(outgoing.message())


async def test_the_preferred_host_takes_it_and_that_is_delivered() -> None:
    async with hosts(None, None) as [first, second]:
        verdict = await verdict_of(zone_of(FIRST, SECOND), first.port)
    assert (verdict.outcome, verdict.code, verdict.provider_id) == ("delivered", 250, "S1")
    assert verdict.remote == f"mx1.{DOMAIN}:{first.port}/127.0.0.1"
    assert first.lines("EHLO") == ["EHLO gateway.example"]
    assert (first.count, second.connections) == (1, 0)


async def test_mail_after_mail_asks_the_dns_once() -> None:
    """Seen to fail with `believed_seconds` 0: the second one found nobody."""
    zone = zone_of(FIRST)
    async with hosts(None) as [first], directly(zone, first.port) as provider:
        assert (await provider.send(outgoing.message())).outcome == "delivered"
        zone.clear()
        assert (await provider.send(outgoing.message())).outcome == "delivered"
    assert first.count == 2


async def test_equal_preferences_share_the_mail() -> None:
    zone = zone_of(FIRST, SECOND)
    zone[DOMAIN] = {"MX": [f"10 mx1.{DOMAIN}.", f"10 mx2.{DOMAIN}."]}
    async with hosts(None, None) as [first, second], directly(zone, first.port) as provider:
        for _ in range(64):
            await provider.send(outgoing.message())
            if first.count and second.count:
                break
        assert first.count
        assert second.count


async def test_a_domain_without_mx_is_its_own_host() -> None:
    async with hosts(None) as [only]:
        verdict = await verdict_of({DOMAIN: {"A": [FIRST]}}, only.port)
    assert (verdict.outcome, only.count) == ("delivered", 1)


async def test_the_domains_own_address_is_no_substitute_for_mx_hosts_that_do_not_answer() -> None:
    zone = zone_of(THIRD)
    zone[DOMAIN] = {"MX": [f"10 mx1.{DOMAIN}."], "A": [FIRST]}
    async with hosts(None) as [own]:
        verdict = await verdict_of(zone, own.port)
    assert (verdict.outcome, verdict.stage, own.connections) == ("deferred", "connect", 0)


async def test_a_null_mx_is_believed() -> None:
    """With the null MX treated as no MX at all, the host at the domain's own address took the message."""
    async with hosts(None) as [own]:
        verdict = await verdict_of({DOMAIN: {"MX": ["0 ."], "A": [FIRST]}}, own.port)
    assert (verdict.outcome, verdict.enhanced, own.connections) == ("bounced", "5.1.10", 0)


async def test_a_domain_that_does_not_exist_bounces() -> None:
    verdict = await verdict_of({}, 25)
    assert (verdict.outcome, verdict.enhanced, verdict.stage) == ("bounced", "5.1.2", None)


@pytest.mark.parametrize("trouble", [nameserver.SERVFAIL, nameserver.SILENCE])
@pytest.mark.parametrize("name", [DOMAIN, f"mx1.{DOMAIN}"])
async def test_names_that_cannot_be_asked_wait(trouble: str, name: str) -> None:
    verdict = await verdict_of(zone_of(FIRST) | {name: trouble}, 25)
    assert (verdict.outcome, verdict.enhanced) == ("deferred", "4.4.3")


async def test_hosts_without_addresses_bounce() -> None:
    verdict = await verdict_of({DOMAIN: {"MX": [f"10 gone.{DOMAIN}."]}}, 25)
    assert (verdict.outcome, verdict.enhanced) == ("bounced", "5.4.4")


async def test_aliases_are_followed() -> None:
    zone = zone_of(FIRST)
    zone["real.example"] = zone.pop(DOMAIN)
    zone[DOMAIN] = {"CNAME": ["real.example."]}
    zone["host.example"] = zone.pop(f"mx1.{DOMAIN}")
    zone[f"mx1.{DOMAIN}"] = {"CNAME": ["host.example."]}
    async with hosts(None) as [only]:
        verdict = await verdict_of(zone, only.port)
    assert (verdict.outcome, only.count) == ("delivered", 1)


async def test_aliases_in_a_ring_end() -> None:
    verdict = await verdict_of({DOMAIN: {"CNAME": ["b.example."]}, "b.example": {"CNAME": [f"{DOMAIN}."]}}, 25)
    assert verdict.outcome == "bounced"


@pytest.mark.parametrize("dead", [THIRD, "::1"], ids=["refused", "IPv6"])
async def test_a_host_that_cannot_be_reached_is_passed_over(dead: str) -> None:
    async with hosts(None) as [living]:
        verdict = await verdict_of(zone_of(dead, FIRST), living.port)
    assert (verdict.outcome, living.count) == ("delivered", 1)
    assert verdict.transcript[0] == f"* connecting to mx1.{DOMAIN}:{living.port}"


@pytest.mark.parametrize(
    ("stage", "act"),
    [
        ("greeting", sink.reply("421 busy")),
        ("greeting", sink.reply("554 5.7.1 not you")),
        ("greeting", sink.cut()),
        ("ehlo", sink.reply("550 5.7.1 who?")),
        ("mail", sink.reply("451 4.7.1 greylisted")),
        ("rcpt", sink.reply("450 4.2.0 later")),
        ("rcpt", sink.reply("503 5.5.1 MAIL first")),
        ("rcpt", sink.cut()),
    ],
)
async def test_not_now_is_a_reason_to_ask_the_next_host(stage: sink.Stage, act: sink.Act) -> None:
    async with hosts(None, None) as [first, second]:
        first.next(stage, act)
        verdict = await verdict_of(zone_of(FIRST, SECOND), first.port)
    assert (verdict.outcome, first.count, second.count) == ("delivered", 0, 1)


@pytest.mark.parametrize(
    ("stage", "act", "outcome"),
    [
        ("mail", sink.reply("550 5.7.1 your sender"), "failed"),
        ("rcpt", sink.reply("550 5.1.1 no such user"), "bounced"),
        ("rcpt", sink.reply("554 5.7.1 Relay access denied"), "bounced"),
        ("data", sink.reply("451 4.3.0 later"), "deferred"),
        ("dot", sink.reply("451 4.3.0 later"), "deferred"),
        ("dot", sink.reply("554 5.7.1 spam"), "bounced"),
        ("dot", sink.cut(), "unknown"),
        ("body", sink.cut(), "unknown"),
    ],
)
async def test_an_opinion_and_a_sent_body_are_final(stage: sink.Stage, act: sink.Act, outcome: str) -> None:
    """With `unknown` no reason to stop, and `_FINAL` left out, the second host took the message in four of these."""
    async with hosts(None, None) as [first, second]:
        first.next(stage, act)
        verdict = await verdict_of(zone_of(FIRST, SECOND), first.port)
    assert (verdict.outcome, second.connections) == (outcome, 0)


async def test_the_point_of_no_return_is_announced_once() -> None:
    told: list[int] = []

    async def about_to_commit() -> None:
        told.append(first.count + second.count)

    async with hosts(None, None) as [first, second], directly(zone_of(FIRST, SECOND), first.port) as provider:
        first.next("rcpt", sink.reply("450 4.2.0 later"))
        await provider.send(outgoing.message(), about_to_commit=about_to_commit)
    assert told == [0]


async def test_where_everybody_says_not_now_it_waits_and_says_what_each_said() -> None:
    async with hosts(None, None) as [first, second]:
        first.next("greeting", sink.reply("554 5.7.1 not you"))
        second.next("rcpt", sink.reply("450 4.2.0 try again in 5 minutes"))
        verdict = await verdict_of(zone_of(FIRST, SECOND), first.port)
    assert (verdict.outcome, verdict.code, verdict.retry_after) == ("deferred", 450, 300.0)
    assert "S: 554 5.7.1 not you" in verdict.transcript
    assert "S: 450 4.2.0 try again in 5 minutes" in verdict.transcript


async def test_no_more_than_five_hosts_are_looked_up() -> None:
    async with nameserver.serving(zone_of(*[THIRD] * 9)) as server:
        names = exchangers.Exchangers(DnsResolver([server.address]), ours=[], allow_private=True)
        found = await names.find(DOMAIN)
        assert [host.name for host in found] == [f"mx{n}.{DOMAIN}" for n in range(1, 6)]
        assert (f"mx6.{DOMAIN}", "A") not in server.asked


@pytest.mark.parametrize("address", [FIRST, "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"])
async def test_a_strangers_name_server_never_makes_us_connect_inside(address: str) -> None:
    """With the check in `_allowed` taken out all four failed: 127.0.0.1 and ::ffff:127.0.0.1 were connected to."""
    async with hosts(None) as [inside]:
        verdict = await verdict_of(zone_of(address), inside.port, allow_private=False)
        assert inside.connections == 0
    assert (verdict.outcome, verdict.enhanced, verdict.transcript) == ("bounced", "5.4.4", ())


async def test_a_public_url_never_leads_inside() -> None:
    async with hosts(None) as [inside], nameserver.serving(zone_of(FIRST)) as server:
        made = settings.load(smtp_hostname="gateway.example", dns_servers=[server.address])
        provider = urls.from_url(f"mx://?port={inside.port}", made)
        assert (await provider.send(outgoing.message())).outcome == "bounced"
        await provider.close()
        allowed = urls.from_url(f"mx://?port={inside.port}&allow_private=1&hostname=out.example", made)
        assert (await allowed.send(outgoing.message())).outcome == "delivered"
        await allowed.close()
    assert inside.lines("EHLO") == ["EHLO out.example"]


@pytest.mark.parametrize("ours", ["name", "address"])
async def test_mail_that_would_come_back_to_us_bounces(ours: str) -> None:
    """Our own host, its equals and the less preferred are left out; where nobody is left it is a loop."""
    hostname = f"mx1.{DOMAIN}" if ours == "name" else "gateway.example"
    zone = zone_of(FIRST, SECOND) | {"gateway.example": {"A": [FIRST]}}
    async with hosts(None, None) as [first, second]:
        verdict = await verdict_of(zone, first.port, hostname=hostname)
        assert (first.connections, second.connections) == (0, 0)
    assert (verdict.outcome, verdict.enhanced) == ("bounced", "5.4.6")


async def test_as_a_backup_we_pass_mail_on_to_better_hosts_alone() -> None:
    async with hosts(None, None) as [first, second]:
        first.next("rcpt", sink.reply("450 4.2.0 later"))
        verdict = await verdict_of(zone_of(FIRST, SECOND), first.port, hostname=f"mx2.{DOMAIN}")
    assert (verdict.outcome, first.connections, second.connections) == ("deferred", 1, 0)


async def test_connections_are_used_again_and_by_other_domains_of_the_host() -> None:
    zone = zone_of(FIRST) | {"other.example": {"MX": [f"5 mx1.{DOMAIN}."]}}
    async with hosts(None) as [only], directly(zone, only.port) as provider:
        for recipient in (f"a@{DOMAIN}", "b@other.example", f"c@{DOMAIN}"):
            assert (await provider.send(outgoing.message(rcpt_to=recipient))).outcome == "delivered"
        assert (only.connections, only.count) == (1, 3)


async def test_tls_is_used_where_it_is_offered_whatever_the_certificate(tmp_path: Path) -> None:
    async with hosts(sink.server_tls(tmp_path)) as [only]:
        verdict = await verdict_of(zone_of(FIRST), only.port)
    assert (verdict.outcome, verdict.tls, only.messages[0].tls) == ("delivered", True, True)


async def test_a_handshake_that_fails_is_followed_by_a_connection_in_the_clear() -> None:
    broken = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # no certificate: nobody agrees with it
    async with hosts(broken) as [only]:
        verdict = await verdict_of(zone_of(FIRST), only.port)
        assert (verdict.outcome, verdict.tls, only.connections) == ("delivered", False, 2)


async def test_one_domains_trouble_does_not_close_the_way_to_all_others() -> None:
    """With the verdicts' `of_one_domain` left out, the message to the living domain was not tried."""
    zone = zone_of(THIRD) | {"living.example": {"A": [FIRST]}}
    async with hosts(None) as [living], directly(zone, living.port) as provider:
        router = route.Router([provider], [], provider)
        for _ in range(route.FAILURES_TO_OPEN):
            [attempt] = await router.send(outgoing.message())
            assert attempt.verdict.outcome == "deferred"
        [attempt] = await router.send(outgoing.message(rcpt_to="user@living.example"))
        assert attempt.verdict.outcome == "delivered"


async def test_where_port_25_is_closed_to_us_everywhere_the_next_provider_takes_over() -> None:
    """Nobody listens at the port of the domains' hosts; then somebody does.

    With `route.Router._record` leaving out what is said of destinations, as before, the relay was never asked."""
    zone: dict[str, nameserver.Records] = {
        f"{name}.example": {"A": [f"127.0.0.{n}"]} for n, name in enumerate("abcd", 2)
    }
    clock = [1000.0]
    with sockets.bind("127.0.0.1", 0, "closed") as held:  # so that nobody else is given the port
        port = sockets.port_of(held)
        async with sink.Sink() as relay, directly(zone, port) as provider:
            by_relay = urls.from_url(relay.url("tls=none"), settings.load())
            by = route.Router([provider, by_relay], [], provider, clock=lambda: clock[0])

            async def way(name: str) -> tuple[str, str]:
                last = (await by.send(outgoing.message(rcpt_to=f"user@{name}.example")))[-1]
                return last.provider.partition(":")[0], last.verdict.outcome

            for name in "aaaab":  # one dead destination, and another
                assert await way(name) == ("mx", "deferred")
            assert [await way(name) for name in "cabcd"] == [("smtp", "sent")] * 5
            clock[0] += route.OPEN_SECONDS
            async with sink.Sink(host="127.0.0.2", port=port):
                assert [await way(name) for name in "aa"] == [("mx", "delivered")] * 2
            assert relay.count == 5
            await by_relay.close()


async def test_what_cannot_be_said_is_not_asked_for() -> None:
    async with directly({}, 25) as provider:
        bad = dataclasses.replace(outgoing.message(), rcpt_to="a b@recipient.example")
        assert (await provider.send(bad)).outcome == "failed"
        literal = dataclasses.replace(outgoing.message(), rcpt_to="a@[127.0.0.1]")
        assert (await provider.send(literal)).outcome == "bounced"

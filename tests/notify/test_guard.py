"""The guard: what a webhook's URL, its name's addresses and their ranges may be."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import errors, resolving
from gateway.notify import guard
from tests import nameserver

pytestmark = pytest.mark.anyio

# One address of every entry of the IANA registries of special-purpose addresses, IPv4 and IPv6, first and last of the
# larger ones; multicast, site-local and v4-compatible, which those registries leave out; clouds' metadata services.
FORBIDDEN = """
0.0.0.0 0.0.0.1 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 100.100.100.200
127.0.0.1 127.255.255.254 169.254.0.1 169.254.169.254 172.16.0.1 172.31.255.255
192.0.0.1 192.0.0.8 192.0.0.9 192.0.0.10 192.0.0.170 192.0.0.171 192.0.0.192 192.0.2.1
192.31.196.1 192.52.193.1 192.88.99.1 192.168.0.1 192.168.255.255 192.175.48.1
198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255
168.63.129.16
:: ::1 ::7f00:1 ::127.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:7f00:1 ::ffff:10.0.0.1 ::ffff:169.254.169.254
::ffff:0:127.0.0.1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b::10.0.0.1 64:ff9b:1::a9fe:a9fe 64:ff9b:1::808:808
64:ff9b:1:ffff:ffff:ffff:ffff:ffff 100::1 100:0:0:1::1
2001::1 2001:0:53aa:64c::1 2001:1::1 2001:1::2 2001:1::3 2001:2::1 2001:3::1 2001:4:112::1 2001:10::1 2001:20::1
2001:2f:ffff::1 2001:30::1 2001:1ff:ffff::1 2001:db8::1 2001:db8:ffff::1 2002:7f00:1:: 2002:a9fe:a9fe:: 2002:808:808::
2620:4f:8000::1 3fff::1 3fff:fff:ffff::1 4000::1 5f00::1 fc00::1 fd00:ec2::254 fdff::1 fe80::1 febf::1 fec0::1
feff::1 ff02::1 ff0e::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff fe80::1%eth0 2606:4700::1%eth0
""".split()  # noqa: SIM905 - a table to read

PUBLIC = """
1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1 172.15.255.255 172.32.0.0
192.0.1.1 192.0.3.1 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 203.0.112.255 203.0.114.0 223.255.255.255
168.63.129.15 168.63.129.17 ::ffff:8.8.8.8 64:ff9b::808:808 2001:200::1 2001:4860:4860::8888 2003::1 2606:4700::1
2620:4f:8001::1 3ffe:ffff::1 3fff:1000::1
""".split()  # noqa: SIM905 - a table to read

# Whose last 32 bits are the IPv4 address that is reached: v4-mapped, NAT64.
CARRIERS = (ipaddress.IPv6Network("::ffff:0:0/96"), ipaddress.IPv6Network("64:ff9b::/96"))

# Ways to write a host that leads inside, or none at all.
REFUSED_URLS = """
http://127.0.0.1/ https://127.0.0.1:8443/x http://10.1.2.3/ http://169.254.169.254/latest/meta-data/ http://0.0.0.0/
http://0/ http://1/ http://127.1/ http://127.0.1/ http://2130706433/ http://017700000001/ http://0177.0.0.1/
http://0x7f000001/ http://0x7f.0.0.1/ http://0x7f.1/ http://0X7F.0x0.0x0.0x1/ http://0x/ http://x.0x/ http://127.0.0.1./
http://256.1.1.1/ http://1.2.3.4.5/ http://00127.0.0.1/ http://127.0.0.01/ http://8.8.8.010/ http://134744072/
http://[::1]/ http://[::]/ http://[::ffff:127.0.0.1]/ http://[::ffff:7f00:1]/ http://[0:0:0:0:0:ffff:7f00:0001]/
http://[64:ff9b::7f00:1]/ http://[2002:7f00:1::]/ http://[fe80::1%25eth0]/ http://[fe80::1%eth0]/ http://[::1/
http://::1/ http://[127.0.0.1]/ http://[v1.x]/ http://127。0。0。1/ http://１２７.0.0.1/ http://①②⑦.0.0.1/
http://localhost/ http://LOCALHOST/ http://localhost./ http://x.localhost/ http://ⓛocalhost/
http://user@example.com/ http://user:pass@example.com/ http://:pass@example.com/ http://example.com@127.0.0.1/
http://127.0.0.1#@example.com/ http://127.0.0.1\\@example.com/ http://example.com%2f@127.0.0.1/
ftp://example.com/ file:///etc/passwd gopher://example.com/ javascript:alert(1) ws://example.com/ //example.com/
http:example.com http:/example.com http:///x http:// https example.com /x
http://example.com:0/ http://example.com:65536/ http://example.com:99999/ http://example.com:-1/ http://example.com:8o/
http://ex%61mple.com/ http://exam%00ple.com/ http://example..com/ http://.example.com/ http://example.com../
http://example.com:25/ https://example.com:587/ http://8.8.8.8:6379/ http://example.com:5432/
http://-example.com/ http://example-.com/ http://exa$mple.com/ http://.../
""".split()  # noqa: SIM905 - a table to read

REFUSED_WITH_BLANKS = [
    "",
    " ",
    "http://example.com/\r\nHost: x",
    "http://exam\nple.com/",
    "http://a b/",
    "http://a\x00b/",
    "http://example.com/\ud800",
    "http://\ud800/",
]


def answering(*addresses: str) -> guard.Resolver:
    async def resolver(host: str, port: int) -> Sequence[str]:
        return addresses

    return resolver


async def never(host: str, port: int) -> Sequence[str]:
    raise AssertionError("asked although the URL holds an address")


async def unknown(host: str, port: int) -> Sequence[str]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize("text", FORBIDDEN)
def test_a_special_address_is_forbidden(text: str) -> None:
    """With `is_forbidden` made `not address.is_global` (Python 3.11.7), 36 of these addresses were let through."""
    assert guard.is_forbidden(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_an_ordinary_address_is_allowed_up_to_the_borders_of_the_special_ones(text: str) -> None:
    assert not guard.is_forbidden(ipaddress.ip_address(text))


@given(st.ip_addresses())
def test_whatever_the_standard_library_calls_private_is_forbidden_too(address: guard.Address) -> None:
    special = address.is_private or address.is_multicast or address.is_reserved or address.is_link_local
    if special and not any(address in carrier for carrier in CARRIERS):
        assert guard.is_forbidden(address)


@given(st.ip_addresses(v=4))
def test_mapped_and_translated_addresses_are_judged_by_the_ipv4_address_they_reach(v4: ipaddress.IPv4Address) -> None:
    for carrier in CARRIERS:
        assert guard.is_forbidden(carrier[int(v4)]) == guard.is_forbidden(v4)


@pytest.mark.parametrize("url", REFUSED_URLS + REFUSED_WITH_BLANKS)
def test_a_url_that_leads_inside_or_nowhere_is_refused(url: str) -> None:
    """With the look at numeric last labels taken out, 16 tests of this module failed: 0x7f.1, 2130706433, 127.1 …"""
    with pytest.raises(guard.ForbiddenTarget):
        guard.check_url(url, allow_private=False)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://example.com", ("https", "example.com", 443, "/", "example.com")),
        ("HTTP://Example.COM.:8080/a/b?c=d#e", ("http", "example.com", 8080, "/a/b?c=d", "example.com:8080")),
        ("http://example.com:80/", ("http", "example.com", 80, "/", "example.com")),
        ("https://bücher.example/ü", ("https", "xn--bcher-kva.example", 443, "/%C3%BC", "xn--bcher-kva.example")),
        ("https://a_b.example/?x", ("https", "a_b.example", 443, "/?x", "a_b.example")),
        ("http://8.8.8.8:443/", ("http", "8.8.8.8", 443, "/", "8.8.8.8:443")),
        ("https://[2606:4700::1]/x", ("https", "2606:4700::1", 443, "/x", "[2606:4700::1]")),
        ("https://127.0.0.1.example.com/", ("https", "127.0.0.1.example.com", 443, "/", "127.0.0.1.example.com")),
    ],
)
def test_an_ordinary_url_is_taken_apart(url: str, parts: tuple[str, str, int, str, str]) -> None:
    target = guard.check_url(url, allow_private=False)
    assert (target.scheme, target.host, target.port, target.path, target.authority) == parts


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "http://[::1]/", "http://localhost/", "http://10.0.0.1/"])
def test_private_targets_are_allowed_where_the_setting_says_so(url: str) -> None:
    assert guard.check_url(url, allow_private=True).scheme == "http"


@pytest.mark.parametrize("url", ["http://0x7f.1/", "http://2130706433/", "http://u@10.0.0.1/", "ftp://10.0.0.1/"])
def test_odd_spellings_are_refused_even_where_private_targets_are_allowed(url: str) -> None:
    with pytest.raises(guard.ForbiddenTarget):
        guard.check_url(url, allow_private=True)


@given(st.text(max_size=60))
def test_no_text_makes_the_guard_fail_otherwise_than_by_refusing(text: str) -> None:
    for url in (text, "http://" + text, "http://example.com/" + text):
        try:
            target = guard.check_url(url, allow_private=False)
        except guard.ForbiddenTarget:
            continue
        assert target.host.isascii()
        assert target.path.isascii()
        assert target.path.isprintable()


async def test_a_name_is_looked_up_once_and_its_addresses_returned_in_order() -> None:
    asked = []

    async def resolver(host: str, port: int) -> Sequence[str]:
        asked.append((host, port))
        return ["8.8.8.8", "1.1.1.1", "8.8.8.8"]

    target = guard.check_url("https://example.com/", allow_private=False)
    addresses = await guard.resolve(target.host, target.port, resolver, allow_private=False)
    assert [str(address) for address in addresses] == ["8.8.8.8", "1.1.1.1"]
    assert asked == [("example.com", 443)]


async def test_an_address_in_the_url_is_not_looked_up() -> None:
    target = guard.check_url("https://8.8.8.8/", allow_private=False)
    assert await guard.resolve(target.host, target.port, never, allow_private=False) == [
        ipaddress.ip_address("8.8.8.8")
    ]


@pytest.mark.parametrize("answer", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["64:ff9b::7f00:1"], ["rubbish"], []])
async def test_one_inner_address_in_the_answer_refuses_the_name(answer: list[str]) -> None:
    """With only the first address checked, ["8.8.8.8", "10.0.0.1"] was let through."""
    target = guard.check_url("https://example.com/", allow_private=False)
    with pytest.raises(guard.ForbiddenTarget):
        await guard.resolve(target.host, target.port, answering(*answer), allow_private=False)


async def test_an_unknown_name_and_an_inner_one_hear_the_same() -> None:
    said = set()
    for resolver in (unknown, answering("10.0.0.1"), answering()):
        with pytest.raises(errors.ValidationFailed) as caught:
            await guard.validate("https://db.example.com/", resolver, allow_private=False)
        said.add(str(caught.value))
    assert said == {"url: the host does not lead to a public address"}


async def test_whoever_creates_a_webhook_hears_a_422_on_its_field() -> None:
    with pytest.raises(errors.ValidationFailed) as caught:
        await guard.validate("ftp://example.com/", never, allow_private=False, field="endpoint")
    assert caught.value.errors == (errors.FieldError(field="endpoint", message="the scheme must be http or https"),)


async def test_a_public_target_passes_at_creation() -> None:
    target = await guard.validate("https://example.com/hook", answering("8.8.8.8"), allow_private=False)
    assert target.path == "/hook"


async def test_over_the_dns_a_name_leads_to_its_records_and_one_without_any_nowhere() -> None:
    zone: nameserver.Zone = {
        "hook.example": {"A": ["8.8.8.8"], "AAAA": ["2606:4700::1"]},
        "alias.example": {"CNAME": ["inner.example."]},
        "inner.example": {"A": ["10.0.0.1"]},
        "broken.example": nameserver.SERVFAIL,
    }
    async with nameserver.serving(zone) as server:
        resolver = guard.over_dns(resolving.DnsResolver([server.address]))
        assert await resolver("hook.example", 443) == ["8.8.8.8", "2606:4700::1"]
        for name in ("alias.example", "inner.example", "broken.example", "nowhere.example"):
            with pytest.raises(guard.ForbiddenTarget, match="does not lead to a public address"):
                await guard.resolve(name, 443, resolver, allow_private=False)


async def test_the_system_s_resolver_knows_localhost() -> None:
    assert "127.0.0.1" in await guard.system_resolver("localhost", 80)

"""What is asked of the DNS, over real packets."""

from __future__ import annotations

import pytest

from gateway.errors import ConfigurationError
from gateway.resolving import DnsResolver, Exchanger, NamesAway, NoSuchName
from tests import nameserver

pytestmark = pytest.mark.anyio

ZONE: nameserver.Zone = {
    "example.com": {"TXT": ["v=spf1 -all", "x" * 600], "MX": ["20 b.example.com.", "10 A.example.com."]},
    "a.example.com": {"A": ["192.0.2.1"], "AAAA": ["2001:db8::1"]},
    "alias.example.com": {"CNAME": ["a.example.com."]},
    "null.example.com": {"MX": ["0 ."]},
    "1.2.0.192.in-addr.arpa": {"PTR": ["a.example.com."]},
    "broken.example.com": nameserver.SERVFAIL,
    "silent.example.com": nameserver.SILENCE,
}


async def test_records_are_told_as_they_are() -> None:
    async with nameserver.serving(dict(ZONE)) as server:
        resolver = DnsResolver([server.address])
        assert sorted(await resolver.txt("example.com")) == [b"v=spf1 -all", b"x" * 600]  # the second came over TCP
        assert await resolver.mx("example.com") == [
            Exchanger(preference=10, host="a.example.com"),
            Exchanger(preference=20, host="b.example.com"),
        ]
        assert await resolver.addresses("a.example.com") == ["192.0.2.1", "2001:db8::1"]
        assert await resolver.cname("alias.example.com") == "a.example.com"
        assert await resolver.names("192.0.2.1") == ["a.example.com"]
        assert await resolver.mx("null.example.com") == [Exchanger(preference=0, host="")]


async def test_no_record_no_name_and_no_answer_are_three_things() -> None:
    async with nameserver.serving(dict(ZONE)) as server:
        resolver = DnsResolver([server.address], lifetime=0.5)
        assert await resolver.mx("a.example.com") == []
        for name in ("nowhere.example.com", "a" * 64 + ".example.com", "..", "a..b"):
            with pytest.raises(NoSuchName):
                await resolver.txt(name)
        for name in ("broken.example.com", "silent.example.com"):
            with pytest.raises(NamesAway):
                await resolver.txt(name)


async def test_servers_are_addresses_with_or_without_a_port() -> None:
    for server in ("127.0.0.1", "127.0.0.1:53", "::1", "[::1]:5353"):
        DnsResolver([server])
    with pytest.raises(ConfigurationError, match=r"ns\.example"):
        DnsResolver(["ns.example"])

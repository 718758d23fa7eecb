"""A DNS server on loopback: answers from a dict, over UDP and TCP, and can fail on purpose.

    async with nameserver.serving({"example.com": {"TXT": ["v=spf1 -all"], "MX": ["10 mx.example.com."]}}) as server:
        resolver = DnsResolver([server.address])

A name in the dict with no such record answers NODATA; one that is not there NXDOMAIN; one whose records are
`nameserver.SERVFAIL` or `nameserver.SILENCE` fails that way. Answers have
TTL 0: the dict may be changed while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, MutableMapping
from typing import Any, Final, cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from tests import talking

SERVFAIL: Final = "SERVFAIL"
SILENCE: Final = "SILENCE"

Records = Mapping[str, list[str]] | str  # by type, in zone-file notation (a TXT is quoted for you); or how to fail
Zone = MutableMapping[str, Records]  # by name: lower case, without the dot at its end


def publish(zone: Zone, records: Iterable[Mapping[str, Any]]) -> None:
    """Put into the zone what the API asks to be set for a domain: `type`, `name`, `value`, `priority` each."""
    for record in records:
        value = f"{record['priority']} {record['value']}." if record["type"] == "MX" else record["value"]
        there = zone.get(record["name"], {})
        assert not isinstance(there, str)
        zone[record["name"]] = {**there, record["type"]: [value]}


class NameServer:
    """What answers, and what it was asked."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.asked: Counter[tuple[str, str]] = Counter()  # (name, type)
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def answer(self, wire: bytes) -> bytes | None:
        """The reply to a question; None = silence."""
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked[(name, kind)] += 1
        records = self.zone.get(name)
        if records == SILENCE:
            return None
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA | dns.flags.RA
        if records == SERVFAIL:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif records is None:
            below = any(other.endswith("." + name) for other in self.zone)  # an empty non-terminal exists
            response.set_rcode(dns.rcode.NOERROR if below else dns.rcode.NXDOMAIN)
        else:
            assert not isinstance(records, str)
            self._fill(response, question, records, kind)
        return response.to_wire()

    @staticmethod
    def _fill(
        response: dns.message.Message, question: dns.rrset.RRset, records: Mapping[str, list[str]], kind: str
    ) -> None:
        found = "CNAME" if kind not in records and "CNAME" in records else kind
        texts = [_quoted(text) if found == "TXT" else text for text in records.get(found, [])]
        if texts:
            response.answer.append(dns.rrset.from_text(question.name, 0, "IN", found, *texts))


def _quoted(text: str) -> str:
    """One TXT record in strings of 255 octets, if it is not quoted already."""
    if text.startswith('"'):
        return text
    pieces = [text[at : at + 255] for at in range(0, len(text), 255)] or [""]
    return " ".join('"' + piece.replace("\\", "\\\\").replace('"', '\\"') + '"' for piece in pieces)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)  # uvloop's is none by inheritance

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = self._server.answer(data)
        if reply is None:
            return
        if len(reply) > 1200:
            short = dns.message.make_response(dns.message.from_wire(data))
            short.flags |= dns.flags.TC
            reply = short.to_wire()
        self._transport.sendto(reply, addr)


async def _stream(server: NameServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            [length] = struct.unpack("!H", await reader.readexactly(2))
            reply = server.answer(await reader.readexactly(length))
            if reply is not None:
                writer.write(struct.pack("!H", len(reply)) + reply)


@contextlib.asynccontextmanager
async def serving(zone: Zone) -> AsyncIterator[NameServer]:
    """A name server at work."""
    server = NameServer(zone)
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as opened:
        for _ in range(20):  # the port must be free for both
            port = await opened.enter_async_context(talking.serving(lambda r, w: _stream(server, r, w)))
            with contextlib.suppress(OSError):
                datagrams, _ = await loop.create_datagram_endpoint(
                    lambda: _Datagrams(server), local_addr=("127.0.0.1", port)
                )
                opened.callback(datagrams.close)
                server.port = port
                break
        else:
            raise OSError("no port is free for both UDP and TCP")
        yield server

"""A port of one's own in front of the gateway's SMTP port: what goes through it is known by its receipts.

Tests run side by side against one gateway; whatever application speaks to this port, mail that it sent, to whichever
addresses, is told from all other mail by the receipt id that stands in the gateway's 250.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading

RECEIPT = re.compile(rb"^250 2\.0\.0 queued as ([0-9a-f-]{36})\r\n", re.MULTILINE)
LONGEST_LINE = 1000  # octets of a reply that may be split between two reads


class Relay:
    """Listens until it is closed. One thread, and two for each connection."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._receipts: list[str] = []
        self._more = threading.Condition()
        self._open: set[socket.socket] = set()
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def receipts(self) -> frozenset[str]:
        """Of all mail that was taken so far."""
        return frozenset(self._receipts)

    def await_more(self, than: int, seconds: float) -> bool:
        """Whether more mail than that was taken, within so many seconds."""
        with self._more:
            return self._more.wait_for(lambda: len(self._receipts) > than, max(0.0, seconds))

    def close(self) -> None:
        """Take no more, and hang up."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()
        for end in list(self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(self._upstream) as server:
            self._open |= {client, server}
            upwards = threading.Thread(target=self._pass_on, args=(client, server), daemon=True)
            upwards.start()
            self._listen(server, client)
            upwards.join()
        self._open.discard(client)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def _listen(self, server: socket.socket, client: socket.socket) -> None:
        """Replies, whose receipts are noted before the client hears of them."""
        rest = b""
        while data := server.recv(65536):
            rest += data
            with self._more:
                self._receipts += [found.decode() for found in RECEIPT.findall(rest)]
                self._more.notify_all()
            rest = rest[rest.rfind(b"\n") + 1 :][-LONGEST_LINE:]
            client.sendall(data)
        client.shutdown(socket.SHUT_RDWR)

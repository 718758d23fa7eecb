"""Listening sockets: bound once, by one process, and handed down to the processes that accept on them.

A parent (`postroom dev`, or `postroom serve` with WEB_CONCURRENCY > 1) binds, so that it alone can find a port taken;
its children inherit the descriptors (`subprocess`'s `pass_fds`) and read from POSTROOM_SOCKETS which is which.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Mapping, Sequence

from gateway.errors import ConfigurationError

BACKLOG = 2048  # connections that may wait to be accepted
NAMES = ("http", "smtp", "smtps", "submission", "submissions")  # what a socket may be for


def bind_all(hosts: Sequence[str], port: int, name: str, purpose: str) -> dict[str, socket.socket]:
    """A socket for each address, all on one port, by name: "smtp", "smtp.2", … ConfigurationError as by `bind`.

    One "::" takes IPv4 connections, too; among several addresses it is IPv6 alone.
    """
    bound: dict[str, socket.socket] = {}
    with contextlib.ExitStack() as opened:
        for number, host in enumerate(hosts, start=1):
            listener = bind(host, port, purpose, dual_stack=len(hosts) == 1)
            bound[name if number == 1 else f"{name}.{number}"] = opened.enter_context(listener)
            port = port_of(listener)
        opened.pop_all()
    return bound


def named(listeners: Mapping[str, socket.socket], name: str) -> list[socket.socket]:
    """Those that are for `name`."""
    return [listener for full, listener in listeners.items() if full.partition(".")[0] == name]


def bind(host: str, port: int, purpose: str, *, dual_stack: bool = True) -> socket.socket:
    """A socket that listens on `host` and `port` (0: any free one) and shares them with nobody.

    ConfigurationError names the port and its `purpose` ("the HTTP listener") where that cannot be had.
    """
    family, kind, protocol, _, address = _resolve(host, port, purpose)
    listener = socket.socket(family, kind, protocol)
    try:
        # Over a closed connection's TIME_WAIT, not over a living listener. Never SO_REUSEPORT: with it, a second bind
        # of a taken port succeeds silently and the kernel splits the mail between the two.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual_stack)  # "::" takes IPv4, too
        listener.bind(address)
        listener.listen(BACKLOG)  # two sockets may be bound to one port; only one may listen
    except OSError as error:
        listener.close()
        raise ConfigurationError(_refusal(host, port, purpose, error)) from error
    listener.setblocking(False)
    return listener


def port_of(listener: socket.socket) -> int:
    """The port a socket really has, where 0 was asked for."""
    return int(listener.getsockname()[1])


def reachable_host(listener: socket.socket) -> str:
    """An address at which this machine reaches the socket: the loopback one, where it listens on all."""
    host = str(listener.getsockname()[0])
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - read, not bound


def describe(listeners: Mapping[str, socket.socket]) -> str:
    """POSTROOM_SOCKETS for children that inherit these: "http=3,smtp=4"."""
    return ",".join(f"{name}={listener.fileno()}" for name, listener in listeners.items())


def receive(described: str) -> dict[str, socket.socket]:
    """The sockets of POSTROOM_SOCKETS by name; none for "". ConfigurationError where one is not a listening socket."""
    listeners: dict[str, socket.socket] = {}
    for word in filter(None, described.split(",")):
        name, _, descriptor = word.partition("=")
        if name.partition(".")[0] not in NAMES or not descriptor.isdigit():
            raise ConfigurationError(f"POSTROOM_SOCKETS: {word!r} is not one of {', '.join(NAMES)} = a descriptor")
        listeners[name] = _adopt(name, int(descriptor))
    return listeners


def _adopt(name: str, descriptor: int) -> socket.socket:
    try:
        listener = socket.socket(fileno=descriptor)
        listener.getsockname()
    except OSError as error:
        raise ConfigurationError(f"POSTROOM_SOCKETS: {name}={descriptor} is not an open socket") from error
    listener.setblocking(False)
    return listener


def _resolve(
    host: str, port: int, purpose: str
) -> tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int] | tuple[str, int, int, int]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigurationError(f"{purpose} cannot listen on {host!r}: {error.strerror}") from error
    return found[0]  # type: ignore[return-value] # the third form of an address is for a Python built without IPv6


def _refusal(host: str, port: int, purpose: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is taken: {purpose} cannot listen on {host}:{port}"
    if error.errno == errno.EACCES:
        return f"port {port} needs privileges that this process lacks: {purpose} cannot listen on {host}:{port}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine: {purpose} cannot listen on {host}:{port}"
    return f"{purpose} cannot listen on {host}:{port}: {error.strerror}"

"""Listening sockets: one owner each, handed down whole; and children that die with their parent."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import lifeline, sockets
from gateway.errors import ConfigurationError
from tests import processes

PROJECT = Path(__file__).parents[1]

# Says which of its inherited sockets has which port, then greets one connection on each.
CHILD = """
import os
from gateway import sockets
for name, listener in sockets.receive(os.environ["POSTROOM_SOCKETS"]).items():
    listener.setblocking(True)
    connection, _ = listener.accept()
    connection.sendall(f"{name} {sockets.port_of(listener)}".encode())
    connection.close()
    listener.close()
"""

# Ties its life to its parent's, then does nothing for ever.
CHILD_OF_PARENT = """
import signal, sys
sys.platform = sys.argv[2]
from gateway import lifeline
lifeline.die_with(int(sys.argv[1]))
print("tied", flush=True)
signal.pause()
"""

# Starts that child, tells its number, and stays.
PARENT = """
import os, subprocess, sys
command = [sys.executable, "-c", sys.argv[1], str(os.getpid()), sys.argv[2]]
child = subprocess.Popen(command, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_a_taken_port_is_named_with_what_it_was_for() -> None:
    """Negative control: with `bind` not listening yet, a second bind of the same port succeeded."""
    with sockets.bind("127.0.0.1", 0, "the HTTP listener") as listener:
        port = sockets.port_of(listener)
        with pytest.raises(ConfigurationError, match=f"port {port} is taken: the SMTP listener"):
            sockets.bind("127.0.0.1", port, "the SMTP listener")


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="this system cannot share ports")
def test_a_port_is_not_shared_even_with_one_who_would() -> None:
    """Negative control: with SO_REUSEPORT in place of SO_REUSEADDR, the bind of the taken port succeeded."""
    with socket.socket() as sharing:
        sharing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sharing.bind(("127.0.0.1", 0))
        sharing.listen()
        with pytest.raises(ConfigurationError, match="is taken"):
            sockets.bind("127.0.0.1", sharing.getsockname()[1], "the SMTP listener")


def test_a_foreign_address_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"192\.0\.2\.1 is not an address of this machine: the HTTP listener"):
        sockets.bind("192.0.2.1", 0, "the HTTP listener")


def test_a_socket_on_all_addresses_is_reached_at_the_loopback_one() -> None:
    with sockets.bind("0.0.0.0", 0, "the HTTP listener") as listener:
        assert sockets.reachable_host(listener) == "127.0.0.1"


def test_children_accept_on_the_sockets_they_inherit() -> None:
    with sockets.bind("127.0.0.1", 0, "HTTP") as http, sockets.bind("127.0.0.1", 0, "SMTP") as smtp:
        handed = {"http": http, "smtp": smtp}
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            cwd=PROJECT,
            env={**os.environ, "POSTROOM_SOCKETS": sockets.describe(handed)},
            pass_fds=[listener.fileno() for listener in handed.values()],
        )
        for name, listener in handed.items():
            with socket.create_connection(listener.getsockname(), timeout=30) as connection:
                assert connection.makefile().read() == f"{name} {sockets.port_of(listener)}"
        assert child.wait(30) == 0


def test_nothing_handed_down_is_no_sockets() -> None:
    assert sockets.receive("") == {}


@pytest.mark.parametrize("described", ["http", "http=x", "imap=3", "http=-1", "http=999999"])
def test_a_description_that_makes_no_sense_is_an_error(described: str) -> None:
    with pytest.raises(ConfigurationError, match="POSTROOM_SOCKETS"):
        sockets.receive(described)


def test_an_open_file_is_not_a_socket(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(ConfigurationError, match="not an open socket"):
        sockets.receive(f"http={file.fileno()}")


@pytest.mark.parametrize("platform", [sys.platform, "another"])
def test_a_child_dies_with_its_killed_parent(platform: str) -> None:
    """Negative control: with `die_with` returning at once, the child still ran after 30 s, on either platform."""
    command = [sys.executable, "-c", PARENT, CHILD_OF_PARENT, platform]
    with subprocess.Popen(command, cwd=PROJECT, stdin=-1, stdout=-1, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not processes.gone(child)
        parent.kill()
        processes.until(lambda: processes.gone(child))


def test_whose_parent_is_already_gone_dies_at_once() -> None:
    program = "from gateway import lifeline; lifeline.die_with(1 << 30)"
    child = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, check=False)
    assert child.returncode == -9


def test_no_parent_to_die_with_changes_nothing() -> None:
    lifeline.die_with(0)

"""HAProxy and nginx in front of a running house, with the configurations that are shipped: what comes through them has
its client's address. They are not brought along: where one is not installed its half is skipped (apt install haproxy
nginx libnginx-mod-stream)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import smtplib
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

import httpx2
import pytest
import websockets

from gateway import sockets
from tests import house
from tests.docs.test_deploy import DEPLOY, certificate
from tests.flows import letters

pytestmark = [pytest.mark.anyio, pytest.mark.faults]

CLIENT: Final = "127.0.0.9"  # whom Postroom should see; the balancer itself connects from 127.0.0.1
PORTS: Final = {"443": "https", "25": "smtp", "587": "submission"}


def _free() -> int:
    with sockets.bind("127.0.0.1", 0, "a balancer") as listener:
        return sockets.port_of(listener)


def _configured(name: str, folder: Path, home: house.House, ports: Mapping[str, int]) -> Path:
    """The file as it is shipped, but for addresses, ports, size and the second host, which there is not here."""
    text = (
        (DEPLOY / name)
        .read_text()
        .replace("maxconn 20000", "maxconn 100")
        .replace("10.0.0.11:8000", f"127.0.0.1:{home.http_port}")
    )
    text = text.replace("10.0.0.11:2525", f"127.0.0.1:{home.smtp_port}")
    text = text.replace("10.0.0.11:1587", f"127.0.0.1:{home.submission_port}")
    text = re.sub(r"^.*10\.0\.0\.12:.*\n", "", text, flags=re.MULTILINE)
    for port, purpose in PORTS.items():
        text = re.sub(rf"(bind :|listen ){port}\b", rf"\g<1>{_at(name)}{ports[purpose]}", text)
    text = re.sub(r"/etc/(haproxy|nginx)/mail", f"{folder}/mail", text)
    if name == "nginx.conf":
        text = f"daemon off;\npid {folder}/pid;\nerror_log stderr;\n{text}".replace(
            "http {", "http {\n    access_log off;", 1
        )
    file = folder / name
    file.write_text(text)
    return file


def _at(name: str) -> str:
    return "127.0.0.1:" if name == "nginx.conf" else ""


@contextlib.asynccontextmanager
async def _balancing(name: str, folder: Path, home: house.House) -> AsyncIterator[dict[str, int]]:
    program = name.partition(".")[0]
    found = shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if found is None:
        pytest.skip(f"{program} is not installed")
    ports = {purpose: _free() for purpose in PORTS.values()}
    option = "-f" if program == "haproxy" else "-c"
    file = _configured(name, folder, home, ports)
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(found, option, str(file), stdout=log, stderr=log)
    try:
        async with asyncio.timeout(60):
            while not all(map(_listens, ports.values())):
                assert process.returncode is None, (folder / "log").read_text()
                await asyncio.sleep(0.05)
        yield ports
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


@pytest.mark.parametrize("name", ["haproxy.cfg", "nginx.conf"])
async def test_mail_and_requests_through_a_balancer_have_their_clients_address(
    name: str, tmp_path: Path, dsn: str, redis_url: str
) -> None:
    """Seen to fail without `send-proxy-v2` (HAProxy) and `proxy_protocol on` (nginx): no mail came through; and without
    `option forwardfor` and `X-Forwarded-For`: the audit told of 127.0.0.1."""
    certificate(tmp_path)
    chain, private = (str(tmp_path / f"mail.example.com.{ending}") for ending in ("pem", "key"))
    settings = {"PROXY_TRUSTED": "127.0.0.1", "TLS_CERT_FILE": chain, "TLS_KEY_FILE": private}
    async with house.standing(dsn, redis_url, settings=settings) as home, _balancing(name, tmp_path, home) as ports:
        tenant = await home.tenant()
        trusting = ssl.create_default_context(cafile=chain)
        trusting.check_hostname = False  # it is of mail.example.com
        transport = httpx2.AsyncHTTPTransport(verify=trusting, local_address=CLIENT)
        base = f"https://127.0.0.1:{ports['https']}/v1"
        async with httpx2.AsyncClient(transport=transport, base_url=base, headers=tenant.headers, timeout=60) as client:
            box = await letters.mailbox(client)
            await asyncio.to_thread(_hand_in, ports["smtp"], box["address"], trusting)
            found = (await client.get(f"/mailboxes/{box['id']}/wait", params={"timeout": 60})).json()["message"]
            message = (await client.get(f"/messages/{found['id']}")).json()
            assert message["envelope"]["remote_ip"] == CLIENT
            await asyncio.to_thread(_submit, ports["submission"], tenant.key, box["address"], trusting)
            made = await client.post("/api-keys", json={"name": "k", "scopes": ["read"]})
            assert made.status_code == 201
            events = (await client.get("/events", params={"types": "api_key.created"})).json()["data"]
            assert events[-1]["data"]["remote_ip"] == CLIENT
            async with client.stream("GET", "/events?after=0", headers={"Accept": "text/event-stream"}) as stream:
                async for line in stream.aiter_lines():
                    if line.startswith("id: "):
                        break
            assert '"seq":1,' in await _first_of_a_socket(ports["https"], tenant.key, trusting)


async def _first_of_a_socket(port: int, key: str, trusting: ssl.SSLContext) -> str:
    url, headers = f"wss://127.0.0.1:{port}/v1/events?after=0", {"Authorization": f"Bearer {key}"}
    async with websockets.connect(url, ssl=trusting, additional_headers=headers, proxy=None) as socket_:
        return str(await socket_.recv())


def _hand_in(port: int, to: str, trusting: ssl.SSLContext) -> None:
    with smtplib.SMTP("127.0.0.1", port, source_address=(CLIENT, 0), timeout=60) as client:
        client.starttls(context=trusting)
        client.sendmail("a@b.example", [to], "Subject: through\r\n\r\nHello.\r\n")


def _submit(port: int, key: str, to: str, trusting: ssl.SSLContext) -> None:
    with smtplib.SMTP("127.0.0.1", port, source_address=(CLIENT, 0), timeout=60) as client:
        client.starttls(context=trusting)
        client.login("anybody", key)
        client.sendmail("a@postroom.test", [to], f"From: a@postroom.test\r\nTo: {to}\r\nSubject: s\r\n\r\nHello.\r\n")

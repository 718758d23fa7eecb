"""What the relay provider costs over a bare aiosmtplib loop on kept connections, against one sink in its own process.

    python -m bench.outbound_provider [--messages 4000] [--senders 20] [--octets 4096] [--rounds 5]

Both sides send the same messages with as many senders in one process and loop; rounds alternate, the median counts.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator

import aiosmtplib
import uvloop

from gateway import settings
from gateway.outbound import providers
from tests.outbound import outgoing

Send = Callable[[providers.Outgoing], Awaitable[object]]


async def _rate(senders: list[Send], messages: list[providers.Outgoing]) -> float:
    """Messages a second."""
    waiting: Iterator[providers.Outgoing] = iter(messages)

    async def work(send: Send) -> None:
        for message in waiting:
            await send(message)

    begun = time.perf_counter()
    await asyncio.gather(*map(work, senders))
    return len(messages) / (time.perf_counter() - begun)


def _bare(client: aiosmtplib.SMTP) -> Send:
    async def send(message: providers.Outgoing) -> None:
        await client.sendmail(message.mail_from, [message.rcpt_to], message.raw)

    return send


def _through(provider: providers.Provider) -> Send:
    async def send(message: providers.Outgoing) -> None:
        verdict = await provider.send(message)
        assert verdict.outcome == "sent", verdict

    return send


async def _compare(port: int, arguments: argparse.Namespace) -> None:
    body = (b"x" * 76 + b"\r\n") * (arguments.octets // 78)
    messages = [outgoing.message(body) for _ in range(arguments.messages)]
    clients = [
        aiosmtplib.SMTP(hostname="127.0.0.1", port=port, local_hostname="bench.example", start_tls=False)
        for _ in range(arguments.senders)
    ]
    for client in clients:
        await client.connect()
    made = settings.load(outbound_concurrency=arguments.senders)
    provider = providers.from_url(f"smtp://127.0.0.1:{port}?tls=none", made)
    bare, through = [_bare(client) for client in clients], [_through(provider)] * arguments.senders
    rates: dict[str, list[float]] = {"bare aiosmtplib": [], "provider": []}
    for _ in range(arguments.rounds):
        rates["bare aiosmtplib"].append(await _rate(bare, messages))
        rates["provider"].append(await _rate(through, messages))
    await provider.close()
    for client in clients:
        await client.quit()
    for name, each in rates.items():
        print(f"{name:16} {statistics.median(each):8.0f} messages/s   ({min(each):.0f} … {max(each):.0f})")
    print(f"{'ratio':16} {statistics.median(rates['provider']) / statistics.median(rates['bare aiosmtplib']):8.2f}")


async def _main(arguments: argparse.Namespace) -> None:
    sink = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.outbound.sink", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert sink.stdout is not None
    port = int(await sink.stdout.readline())
    await _compare(port, arguments)
    taken, _ = await sink.communicate()
    expected = 2 * arguments.rounds * arguments.messages
    print(f"{'taken':16} {int(taken):8} of {expected}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--messages", type=int, default=4000)
    parser.add_argument("--senders", type=int, default=20)
    parser.add_argument("--octets", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    uvloop.run(_main(parser.parse_args()))

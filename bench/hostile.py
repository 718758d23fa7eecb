"""Memory of one `postroom serve` under messages that are made to fill it, from one attacker and from fifty at once.

An attacker sends 60 MB of one kind, or as much as is let through: a line or a command without an end, line ends alone,
stuffed dots, chunks without a last one. The peak is the kernel's own count (VmHWM), taken anew for each kind.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import Any, Final

from bench import setting, tenants
from bench.report import Row
from bench.setting import Setting

NAME = "hostile"
SENT: Final = 60_000_000  # octets of each attacker
MANY: Final = 50
PIECE: Final = 65_536
BEGUN: Final = b"EHLO a\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<box1@postroom.test>\r\n"
DATA: Final = BEGUN + b"DATA\r\n"
CHUNK: Final = b"BDAT %d\r\n" % PIECE
KINDS: Final[dict[str, tuple[bytes, bytes]]] = {  # what is said first, and what is sent then again and again
    "a line without an end": (DATA, b"x" * PIECE),
    "line ends": (DATA, b"\r\n" * (PIECE // 2)),
    "stuffed dots": (DATA, b"..\r\n" * (PIECE // 4)),
    "chunks without a last one": (BEGUN, CHUNK + b"x" * PIECE),
    "a command without an end": (b"", b"x" * PIECE),
}
LIMIT_ONE: Final = 64 * 2**20  # bytes above the base
LIMIT_MANY: Final = 2**30


async def run(setting: Setting) -> list[Row]:
    async with setting.database() as dsn:
        await tenants.mailboxes(dsn, await tenants.account(dsn), 1)
        rows = []
        for count, limit in ((1, LIMIT_ONE), (setting.scaled(MANY, 5), LIMIT_MANY)):
            async with setting.house(dsn) as home:
                grown = await _peaks(home.processes["serve"].pid, home.smtp_port, count)
            rows.append(_row(count, limit, grown))
        return rows


async def _peaks(pid: int, port: int, count: int) -> dict[str, int]:
    """Bytes above what was held before, at most, by kind."""
    grown = {}
    for kind in KINDS:
        before = setting.resident(pid)
        forget_peak(pid)
        async with setting.program("bench.hostile") as process:
            assert process.stdin is not None
            process.stdin.write(json.dumps({"port": port, "kind": kind, "count": count}).encode() + b"\n")
            process.stdin.close()
            await process.wait()
        grown[kind] = peak(pid) - before
    return grown


def forget_peak(pid: int) -> None:
    """Begin to watch for the largest RSS (Linux: proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak(pid: int) -> int:
    """Bytes: the largest RSS since then."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _row(count: int, limit: int, grown: dict[str, int]) -> Row:
    worst = max(grown, key=lambda kind: grown[kind])
    each = ", ".join(f"{kind} {found / 2**20:.0f}" for kind, found in grown.items())
    return Row(
        what=f"peak RSS above the base, {count} hostile sender{'s' if count > 1 else ''} at once",
        ours=f"{grown[worst] / 2**20:.0f} MiB",
        limit_name="",
        limit=f"{limit / 2**20:.0f} MiB",
        ratio=grown[worst] / limit,
        target="≤ 1",
        met=grown[worst] <= limit,
        note=f"{worst}; in MiB: {each}",
    )


async def attack(port: int, kind: str, octets: int = SENT) -> None:
    """One attacker; ends when all is sent and answered, or when it is cut off."""
    said, piece = KINDS[kind]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    draining = asyncio.create_task(_read(reader))
    with contextlib.suppress(OSError):
        writer.write(said)
        for _ in range(octets // len(piece)):
            writer.write(piece)
            await writer.drain()
            if draining.done():
                break
        writer.write_eof()
        await draining
    draining.cancel()
    writer.close()


async def _read(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(PIECE):
            pass


async def _serve() -> None:
    order: dict[str, Any] = json.loads(await asyncio.to_thread(sys.stdin.readline))
    await asyncio.gather(*(attack(order["port"], order["kind"]) for _ in range(order["count"])))


if __name__ == "__main__":
    asyncio.run(_serve())

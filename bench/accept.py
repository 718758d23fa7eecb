"""Durable acceptance of mail: 250s a second of one `postroom serve`, beside stock aiosmtpd that stores nothing.

Both get the same mails from the same sender, in turns; every one of Postroom's is committed to disk when it is
answered, with its message, its event and its parsed codes and links. Sender, Postgres and server share the machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench import client, peer, report, tenants
from bench.report import Row
from bench.setting import Setting

NAME = "accept"
BOXES = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """One way of sending."""

    what: str
    size: int  # octets
    mails: int  # of one round
    fresh: bool
    kind: str
    target: float | None  # ratio to stock aiosmtpd; None = only told


TEXT = Load(what="5 KB, 20 kept sessions", size=5_000, mails=6_000, fresh=False, kind="text", target=0.8)
LOADS = (
    TEXT,
    replace(TEXT, what="100 KB, 20 kept sessions", size=100_000, mails=800, target=2.2),
    replace(TEXT, what="5 KB, 20 at once, a connection for each mail", mails=3_000, fresh=True, target=0.7),
    replace(TEXT, what="5 KB of text and HTML, 20 kept sessions", kind="mixed", target=None),
)


async def run(setting: Setting) -> list[Row]:
    async with setting.database() as dsn:
        account_id = await tenants.account(dsn)
        await tenants.mailboxes(dsn, account_id, BOXES)
        async with setting.house(dsn) as home, peer.running() as port, client.running() as sender:
            return [await _compare(setting, sender, home.smtp_port, port, load) for load in LOADS]


async def _compare(setting: Setting, sender: client.Client, ours: int, theirs: int, load: Load) -> Row:
    rates: dict[int, list[float]] = {ours: [], theirs: []}
    for port in rates:
        await rate(sender, port, load, load.mails // 10)  # warm
    for _ in range(setting.rounds(5)):
        for port, found in rates.items():
            found.append(await rate(sender, port, load, setting.scaled(load.mails, load.mails // 4)))
    return _row(load, rates[ours], rates[theirs])


async def rate(sender: client.Client, port: int, load: Load, mails: int) -> float:
    """Mails answered with 250 a second; RuntimeError where one was not."""
    order = client.Order(
        port=port,
        recipients=tenants.addresses(BOXES),
        mails=mails,
        size=load.size,
        fresh=load.fresh,
        kind=load.kind,
    )
    outcome = await sender.send(order)
    if outcome.refusals:
        raise RuntimeError(f"{len(outcome.refusals)} mails refused: {outcome.refusals[0]}")
    return outcome.rate


def _row(load: Load, ours: list[float], theirs: list[float]) -> Row:
    ratios = report.interval([one / other for one, other in zip(ours, theirs, strict=True)])
    return Row(
        what=f"durable accept, {load.what}",
        ours=f"{report.interval(ours).median:,.0f} mails/s",
        limit_name="stock aiosmtpd, stores nothing",
        limit=f"{report.interval(theirs).median:,.0f} mails/s",
        ratio=ratios.median,
        target="" if load.target is None else f"≥ {load.target}",
        met=None if load.target is None else ratios.median >= load.target,
        note=f"median of {len(ours)} rounds, ratio {ratios.low:.2f} … {ratios.high:.2f}",
    )

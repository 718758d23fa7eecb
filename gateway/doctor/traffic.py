"""What goes through: what waits too long, whom nobody may write to, what readers complained of, and whether they can
unsubscribe with one click.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import httpx2

from gateway.doctor.report import Finding, ok, problem, warning
from gateway.errors import Unavailable
from gateway.mail import dkim
from gateway.mail.auth import dkim as checking
from gateway.settings import Settings
from gateway.storage import condition, db

LATE: Final = timedelta(minutes=1)  # that something waits beyond its time
VERY_LATE: Final = timedelta(minutes=10)
PERIOD: Final = timedelta(days=30)
ENOUGH: Final = 1000  # mails taken; of fewer, a rate says little
MANY_COMPLAINTS: Final = 0.001  # Gmail: stay below 0.1 % …
TOO_MANY_COMPLAINTS: Final = 0.003  # … and never reach 0.3 %
ENOUGH_RECIPIENTS: Final = 100
MANY_SUPPRESSED: Final = 0.05
MOST_ACCOUNTS: Final = 10  # that are named
SECONDS: Final = 5.0  # for an answer of PUBLIC_URL


async def queues(database: db.Database) -> Sequence[Finding]:
    """Recipients and webhooks that are due."""
    try:
        async with database.connection() as connection:
            due, webhook = await condition.oldest_due(connection), await condition.oldest_webhook(connection)
            receivers, dead = await condition.webhooks(connection), await condition.dead(connection)
            now = (await condition.server(connection)).now
    except db.Collided:
        return [_too_long("queue")]
    except Unavailable:
        return []  # what is wrong with the database is a finding of its own
    return [queue(now - due if due else None), webhooks(now - webhook if webhook else None, receivers, dead)]


def _too_long(name: str) -> Finding:
    said = "not known: the database could not count it in time"
    return warning(name, said, "Run the doctor again when the database has less to do.")


def queue(late: timedelta | None) -> Finding:
    """`late`: how long the oldest recipient is beyond its time; None = nobody waits."""
    if late is None or late < LATE:
        return ok("queue", "nobody waits for a worker")
    said, todo = f"a recipient has been waiting {_told(late)} for a worker", "See whether `postroom worker` runs."
    return problem("queue", said, todo) if late >= VERY_LATE else warning("queue", said, todo)


def webhooks(late: timedelta | None, receivers: condition.Webhooks, dead: int) -> Finding:
    """`dead`: deliveries that were given up."""
    if late is not None and late >= VERY_LATE:
        said = f"a webhook has been waiting {_told(late)} for a worker"
        return problem("webhooks", said, "See whether `postroom worker` runs.")
    trouble = [
        f"{receivers.failing} of {receivers.active} fail at the moment" if receivers.failing else "",
        f"{receivers.disabled} are disabled" if receivers.disabled else "",
        f"{'at least ' if dead >= condition.MOST_DEAD else ''}{dead} deliveries were given up" if dead else "",
    ]
    if any(trouble):
        todo = "Look at their deliveries (GET /v1/webhooks/{id}/deliveries), and send them again when they work."
        return warning("webhooks", "; ".join(filter(None, trouble)), todo)
    return ok("webhooks", f"{receivers.active} active, none in trouble")


def _told(time: timedelta) -> str:
    minutes = int(time.total_seconds() // 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"


async def reputation(database: db.Database) -> Sequence[Finding]:
    """What the last 30 days tell of each account's mail."""
    try:
        async with database.connection() as connection:
            fates = await condition.fates(connection, datetime.now(UTC) - PERIOD)
    except db.Collided:
        return [_too_long("complaints")]
    except Unavailable:
        return []
    return [*complaints(fates), suppressed(fates)]


def complaints(fates: Sequence[condition.Fates]) -> list[Finding]:
    """Complaints of each account that sends enough; those in trouble are named, the worst first."""
    judged = [one for one in fates if one.taken >= ENOUGH]
    rates = sorted(((one.complained / one.taken, one) for one in judged), key=lambda pair: pair[0], reverse=True)
    found = [_complained(rate, one) for rate, one in rates[:MOST_ACCOUNTS] if rate >= MANY_COMPLAINTS]
    if found:
        return found
    if not judged:
        taken = sum(one.taken for one in fates)
        return [ok("complaints", f"mails that were taken in 30 days: {taken}, too few to tell a rate")]
    return [ok("complaints", f"at most {rates[0][0]:.2%} of an account's mail in 30 days")]


def _complained(rate: float, one: condition.Fates) -> Finding:
    said = f"{one.complained} of {one.taken} mails of account {one.account_id} in 30 days ({rate:.2%})"
    todo = "Write only to who asked for it, and let them unsubscribe: Gmail wants less than 0.1 %, never 0.3 %."
    made = problem if rate >= TOO_MANY_COMPLAINTS else warning
    return made("complaints", said, todo)


def suppressed(fates: Sequence[condition.Fates]) -> Finding:
    """The share of recipients who were not written to, because they are on a suppression list."""
    judged = [one for one in fates if one.recipients >= ENOUGH_RECIPIENTS]
    worst = max(judged, key=lambda one: one.suppressed / one.recipients, default=None)
    if worst is None:
        return ok("suppressed", "too few recipients in 30 days to tell a share")
    share = worst.suppressed / worst.recipients
    if share >= MANY_SUPPRESSED:
        said = f"{share:.1%} of the recipients of account {worst.account_id} in 30 days are suppressed"
        return warning("suppressed", said, "Take addresses that bounce or complain out of the application's lists.")
    return ok("suppressed", f"at most {share:.1%} of an account's recipients in 30 days")


async def one_click(settings: Settings, trusted: ssl.SSLContext | None = None) -> Sequence[Finding]:
    """RFC 8058: a signature over both fields, and an https:// address that a mail program can post to."""
    name = "one_click"
    if not covers_unsubscribing():
        todo = "Please report this: signatures must cover List-Unsubscribe and List-Unsubscribe-Post."
        return [problem(name, "the signatures leave List-Unsubscribe out (RFC 8058 4)", todo)]
    url = settings.public_url
    if not url:
        said = "PUBLIC_URL is not set: signed where senders bring List-Unsubscribe and -Post of their own, not hosted"
        todo = "Set PUBLIC_URL, or let every bulk mail bring both fields, with an https:// address."
        if settings.postroom_dev:
            return [ok(name, said)]
        return [warning(name, said, todo)]
    if not url.startswith("https://") and not settings.postroom_dev:
        said = f"{url} is not https://, which mail programs want (RFC 8058 3.1)"
        return [warning(name, said, "Set PUBLIC_URL to an https:// address.")]
    return [await _hosted(url, trusted)]


async def _hosted(url: str, trusted: ssl.SSLContext | None) -> Finding:
    todo = "See that it leads to this deployment from outside, too."
    try:
        async with httpx2.AsyncClient(trust_env=False, verify=trusted or True, timeout=SECONDS) as client:
            answer = await client.get(f"{url}/healthz")
    except (httpx2.HTTPError, OSError) as error:
        return problem("one_click", f"PUBLIC_URL cannot be reached: {str(error) or type(error).__name__}", todo)
    if answer.status_code != 200 or answer.text != "ok\n":
        return problem("one_click", f"PUBLIC_URL is somebody else: {answer.status_code} on /healthz", todo)
    return ok("one_click", f"signed, and hosted at {url}")


def covers_unsubscribing() -> bool:
    """Whether what we sign has both fields in h=, by a signature made for this."""
    raw = b"From: a@b.example\r\nList-Unsubscribe: <https://b.example/u>\r\nList-Unsubscribe-Post: x\r\n\r\n\r\n"
    key = dkim.Key(domain="b.example", selector="s", private=dkim.generate("ed25519"))
    [field] = checking.Letter(dkim.sign(raw, [key], datetime.now(UTC))).named(b"dkim-signature")
    return {b"list-unsubscribe", b"list-unsubscribe-post"} <= {name.lower() for name in checking.parse(field).signed}

"""How mail leaves: our name and addresses as receivers see them, and each provider of OUTBOUND, asked without sending.

A test mail is sent only where somebody asks for it: one through each provider, past queue and suppressions, signed as
any other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from uuid_utils.compat import uuid7

from gateway.doctor import own_domains, report
from gateway.doctor.report import Finding, ok, problem, warning
from gateway.errors import ConfigurationError, PostroomError
from gateway.mail import address, compose
from gateway.outbound import rules, signing
from gateway.outbound.providers import contract, urls
from gateway.outbound.providers.capture import CaptureProvider
from gateway.outbound.providers.http import HttpProvider
from gateway.outbound.providers.mx import MxProvider
from gateway.outbound.providers.smtp import SmtpProvider
from gateway.resolving import NamesAway, NoSuchName, Resolver
from gateway.settings import Settings

ASK_SECONDS: Final = 15.0  # for a dialogue with one provider
SEND_SECONDS: Final = 90.0  # for a test mail through one
NAMES_SECONDS: Final = 15.0

_NAMELESS: Final = "OUTBOUND, URL "  # … and its number: a provider whose URL cannot be read
TEXT: Final = (
    "This mail was sent by `postroom doctor --send-test` through {provider}.\n\n"
    "Look at its Authentication-Results: spf, dkim and dmarc should say pass.\n"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Test:
    """A mail to be sent through each provider."""

    to: address.Mailbox
    from_: address.Mailbox
    signer: signing.Signer


async def names(settings: Settings, resolver: Resolver, given: Sequence[str]) -> list[Finding]:
    """Our name, and, where we send from addresses of our own, theirs. `given`: these; none = those of the name."""
    way, host = own_domains.Way.of(settings), settings.hostname
    if own_domains.is_reserved(host):
        return [ok("hostname", f"{host} is a name for tests, which no DNS has")]
    try:
        found = list(dict.fromkeys(await resolver.addresses(host)))
    except NoSuchName:
        found = []
    except NamesAway:
        return [_unasked("hostname", host)]
    told = [_hostname(host, found, needed=way.directly or way.receives)]
    if way.directly and (ours := list(given) or found):
        told += await asyncio.gather(*(_reverse(one, host, resolver) for one in ours))
    return told


def _hostname(host: str, found: Sequence[str], *, needed: bool) -> Finding:
    if found:
        return ok("hostname", f"{host} is {', '.join(found)}")
    said, todo = (
        f"{host} has no address",
        f"Publish an A or AAAA record of {host}, or set SMTP_HOSTNAME to a name that has one.",
    )
    if needed:
        return problem("hostname", f"{said}: MX records that name it lead nowhere, and receivers distrust it", todo)
    return warning("hostname", said, todo)


async def _reverse(ours: str, host: str, resolver: Resolver) -> Finding:
    """Forward-confirmed reverse DNS: the address has a name, and the name that address."""
    check, todo = "reverse_dns", f"Ask who gave you {ours} to point its PTR record to {host}."
    try:
        found = await resolver.names(ours)
    except NoSuchName:
        found = []
    except NamesAway:
        return _unasked(check, ours)
    if not found:
        return problem(check, f"{ours} has no name (PTR): many receivers refuse its mail", todo)
    confirmed = [name for name in found[:10] if await _leads_to(name, ours, resolver)]
    if not confirmed:
        said = f"{ours} is named {', '.join(found[:3])}, which does not lead back to it: receivers refuse its mail"
        return problem(check, said, todo)
    other = "" if host.lower() in confirmed else f", while EHLO says {host}"
    return ok(check, f"{ours} is named {confirmed[0]}, which leads back to it{other}")


async def _leads_to(name: str, ours: str, resolver: Resolver) -> bool:
    try:
        return ours in await resolver.addresses(name)
    except (NoSuchName, NamesAway):
        return False


def _unasked(check: str, name: str) -> Finding:
    return warning(check, f"not known: the DNS did not answer for {name}", "Run the doctor again when it does.")


# Providers


async def providers(settings: Settings, resolver: Resolver, *, reach: str, test: Test | None) -> list[Finding]:
    """Each URL of OUTBOUND. `reach`: a domain whose hosts mx:// is tried with; empty = it is not."""
    if not settings.outbound:
        todo = "Set OUTBOUND to a relay or provider, or to mx://."
        return [warning("provider", "OUTBOUND is not set: mail to others waits until it fails", todo)]
    asked = [_provider(number, settings, resolver, reach, test) for number in range(len(settings.outbound))]
    found = [finding for findings in await asyncio.gather(*asked) for finding in findings]
    sound = not any(finding.subject.startswith(_NAMELESS) for finding in found)
    return [*(await _routes(settings, resolver) if sound else []), *found]


async def _routes(settings: Settings, resolver: Resolver) -> list[Finding]:
    """What is wrong with the providers taken together."""
    if not settings.outbound_routes and not any("only=" in url for url in settings.outbound):
        return []
    try:
        routes = rules.read(settings, resolver)
    except ConfigurationError as error:
        return [problem("routes", str(error), "Correct it: no worker starts with it.")]
    await asyncio.gather(*(provider.close() for provider in routes.providers))
    return [ok("routes", f"{len(routes.rules)} rules")]


async def _provider(
    number: int, settings: Settings, resolver: Resolver, reach: str, test: Test | None
) -> list[Finding]:
    try:
        provider = urls.from_url(settings.outbound[number], settings, resolver)
    except ConfigurationError as error:
        todo = "Correct the URL: no worker starts with it."
        return [problem("provider", str(error), todo, subject=f"{_NAMELESS}{number + 1}")]
    subject = provider.name
    async with contextlib.aclosing(_Closing(provider)):
        found = list(
            await report.bounded(
                *("provider", _asked(provider, settings, reach)),
                seconds=ASK_SECONDS,
                subject=subject,
                silence="problem",
            )
        )
        if test is not None:
            sent = report.bounded("send_test", _sent(provider, test), seconds=SEND_SECONDS, subject=subject)
            found += await sent
    return found


class _Closing:
    """So that a provider is closed as other things are."""

    def __init__(self, provider: contract.Provider) -> None:
        self._provider = provider

    async def aclose(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ASK_SECONDS):
                await self._provider.close()


async def _asked(provider: contract.Provider, settings: Settings, reach: str) -> Sequence[Finding]:
    if isinstance(provider, CaptureProvider):
        return [_captures(settings)]
    if isinstance(provider, SmtpProvider | HttpProvider):
        return [_health(await provider.examine(), provider.name)]
    if isinstance(provider, MxProvider) and reach:
        return [_reached(await provider.examine(reach), reach)]
    todo = "Name a domain with --reach, such as gmail.com: its hosts are greeted and left again."
    said = "not known whether port 25 of others can be reached: many networks close it"
    return [warning("provider", said, todo, subject=provider.name)]


def _captures(settings: Settings) -> Finding:
    said = "mail to others is captured and sent nowhere"
    if settings.postroom_dev:
        return ok("provider", f"{said}, as it should be for development", subject="capture")
    return warning("provider", said, "Set OUTBOUND to a relay or provider, or to mx://.", subject="capture")


def _health(health: contract.Health, name: str) -> Finding:
    if health.standing == "unwell":
        todo = health.advice or "Check host, port, user and password in OUTBOUND."
        return problem("provider", health.said, todo, subject=name)
    if health.standing == "doubtful":
        return warning("provider", health.said, health.advice, subject=name)
    if not health.tls and name.startswith("smtp") and not _is_near(name):
        return warning("provider", health.said, "Let the relay offer STARTTLS: others can read along.", subject=name)
    return ok("provider", health.said, subject=name)


def _is_near(name: str) -> bool:
    """Whether the relay is on this machine, so that nobody reads along."""
    host = name.partition(":")[2].rpartition(":")[0]
    return host in {"localhost", "[::1]"} or host.startswith("127.")


def _reached(health: contract.Health, reach: str) -> Finding:
    if health.standing != "well":
        todo = "Ask your network's provider to open port 25, or send through a relay."
        return problem("provider", f"a host of {reach} cannot be reached: {health.said}", todo, subject="mx")
    return ok("provider", f"a host of {reach} can be reached: {health.said}", subject="mx")


# A test mail


async def _sent(provider: contract.Provider, test: Test) -> Sequence[Finding]:
    name, to = "send_test", str(test.to.address)
    try:
        outgoing = await _outgoing(provider, test)
    except (PostroomError, compose.InvalidDraft) as error:
        return [problem(name, f"it could not be made: {error}", "Choose another --from.", subject=provider.name)]
    verdict = await provider.send(outgoing)
    if verdict.outcome in {"sent", "delivered"}:
        said = f"{verdict.outcome} to {to}: {verdict.reply}"
        return [ok(name, said, subject=provider.name)]
    todo = "Read what it says; nothing was queued, and nothing is tried again."
    return [problem(name, f"{verdict.outcome}: {verdict.reply}", todo, subject=provider.name)]


async def _outgoing(provider: contract.Provider, test: Test) -> contract.Outgoing:
    """The mail, signed as it would be for an account without domains of its own."""
    delivery_id, nobody = uuid7(), UUID(int=0)
    draft = compose.Draft(
        from_=test.from_,
        to=(test.to,),
        subject="Postroom: a test of how mail leaves",
        text=TEXT.format(provider=provider.name),
        message_id=f"<{delivery_id}@{test.from_.address.ascii_domain}>",
        date=datetime.now(UTC),
    )
    return contract.Outgoing(
        delivery_id=delivery_id,
        account_id=nobody,
        mail_from=str(test.from_.address),
        rcpt_to=str(test.to.address),
        raw=await test.signer.signed(nobody, compose.compose(draft)),
    )

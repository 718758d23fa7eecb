"""What strangers connect to: the listeners of this host, and the certificate that they show."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import aiosmtplib
import httpx2
from cryptography import x509

from gateway.doctor.report import Finding, ok, problem, warning
from gateway.errors import ConfigurationError
from gateway.inbound import certificates
from gateway.settings import Settings

SECONDS: Final = 5.0  # for each step of a dialogue
SOON: Final = timedelta(days=14)  # renewal should long have happened
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - listened on, and reached at
_MISMATCH: Final = 62  # X509_V_ERR_HOSTNAME_MISMATCH
_TIMES: Final = frozenset({9, 10})  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED


@dataclass(frozen=True, kw_only=True, slots=True)
class Port:
    """One that is configured."""

    name: str  # http, smtp, smtps, submission, submissions
    host: str  # at which this machine reaches it
    number: int

    @property
    def check(self) -> str:
        return f"listener.{self.name}"

    @property
    def place(self) -> str:
        """`127.0.0.1:25`."""
        return f"[{self.host}]:{self.number}" if ":" in self.host else f"{self.host}:{self.number}"


def ports(settings: Settings) -> list[Port]:
    """Those that the settings name; none that are chosen by the system (0)."""
    numbers = {
        "smtp": settings.smtp_port,
        "smtps": settings.smtps_port,
        "submission": settings.submission_port,
        "submissions": settings.submissions_port,
    }
    found = [Port(name="http", host=settings.host, number=settings.port)]
    for name, number in numbers.items():
        found += [Port(name=name, host=host, number=number or 0) for host in settings.smtp_hosts]
    return [Port(name=one.name, host=_ANY.get(one.host, one.host), number=one.number) for one in found if one.number]


async def listeners(settings: Settings) -> Sequence[Finding]:
    """Each port; where not one is listened on, this host does not serve, and that is that."""
    wanted = ports(settings)
    found = await asyncio.gather(*(_port(port, settings) for port in wanted))
    if wanted and all(finding is None for finding in found):
        places = ", ".join(f"{port.name} {port.place}" for port in wanted)
        todo = "Run the doctor where `postroom serve` runs, if that is elsewhere; else start it."
        return [warning("listeners", f"nothing answers here ({places})", todo)]
    todo = "Look at the log of `postroom serve`: the others answer here."
    return [
        finding or problem(port.check, f"nothing answers on {port.place}", todo)
        for port, finding in zip(wanted, found, strict=True)
    ]


async def _port(port: Port, settings: Settings) -> Finding | None:
    """None where nobody listens."""
    try:
        async with asyncio.timeout(SECONDS * 2):
            return await (_http(port) if port.name == "http" else _smtp(port, settings))
    except (
        OSError,
        aiosmtplib.SMTPConnectError,
        httpx2.ConnectError,
        httpx2.TimeoutException,
    ):  # TimeoutError is an OSError
        return None
    except (aiosmtplib.SMTPException, httpx2.HTTPError) as error:
        todo = "See who has the port: it is not Postroom, or it is in trouble."
        return problem(port.check, f"{port.place} answers strangely: {str(error) or type(error).__name__}", todo)


async def _http(port: Port) -> Finding:
    async with httpx2.AsyncClient(trust_env=False, timeout=SECONDS) as client:
        answer = await client.get(f"http://{port.place}/healthz")
    if answer.status_code != 200 or answer.text != "ok\n":
        todo = "See who has the port: it is not Postroom."
        return problem(port.check, f"{port.place} is somebody else: {answer.status_code} on /healthz", todo)
    return ok(port.check, f"{port.place} answers")


async def _smtp(port: Port, settings: Settings) -> Finding:
    if any(ipaddress.ip_address(_address(port.host)) in network for network in settings.trusted_proxies):
        return ok(port.check, f"{port.place} was not tried: connections from here must begin with a PROXY header")
    all_tls = port.name in {"smtps", "submissions"}
    client = aiosmtplib.SMTP(
        hostname=port.host,
        port=port.number,
        timeout=SECONDS,
        use_tls=all_tls,
        start_tls=False,
        validate_certs=False,  # what it shows is looked at apart, by the name that others use
        local_hostname="localhost",
    )
    async with client:
        await client.ehlo()
        offered = client.supports_extension("starttls")
    if all_tls:
        return ok(port.check, f"{port.place} answers, all TLS")
    if offered:
        return ok(port.check, f"{port.place} answers and offers STARTTLS")
    if settings.tls_cert_file:
        todo = "Start `postroom serve` again: it began with other settings."
        return problem(port.check, f"{port.place} offers no STARTTLS, though a certificate is set", todo)
    return ok(port.check, f"{port.place} answers, without STARTTLS")


def _address(host: str) -> str:
    """Where connections to it come from, as this machine makes them."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "127.0.0.1"
    return host


def certificate(settings: Settings, trusted: ssl.SSLContext | None = None) -> Finding:
    """The certificate, as a strict client sees it. `trusted`: whom it trusts; None = the system's authorities."""
    name = "certificate"
    if not settings.tls_cert_file:
        return _without(settings)
    try:
        found = certificates.of(settings)
        leaf = x509.load_pem_x509_certificates(Path(settings.tls_cert_file).read_bytes())[0]
    except (ConfigurationError, ValueError, OSError) as error:
        return problem(name, str(error), "Correct TLS_CERT_FILE and TLS_KEY_FILE: the listeners do not start so.")
    assert found is not None  # noqa: S101 - the file is set
    shown, hostname = found.context(), settings.hostname
    if refusal := _refused(shown, trusted or ssl.create_default_context(), hostname):
        return (refusal.state == "warning" and _refused(shown, _trusting(settings), hostname)) or refusal
    left = leaf.not_valid_after_utc - datetime.now(UTC)
    if left < SOON:
        said = f"good for {settings.hostname}, but it expires in {left.days} days"
        return warning(name, said, "Renew it; Postroom reads the new file by itself.")
    return ok(name, f"good for {settings.hostname} until {leaf.not_valid_after_utc:%Y-%m-%d}")


def _without(settings: Settings) -> Finding:
    listens = [name for name in ("smtp_port", "submission_port") if getattr(settings, name) is not None]
    if settings.postroom_dev or not listens:
        return ok("certificate", "TLS_CERT_FILE is not set, which does for development or where no SMTP is listened to")
    todo = "Set TLS_CERT_FILE and TLS_KEY_FILE to a certificate for SMTP_HOSTNAME."
    if "submission_port" in listens:
        return problem("certificate", "none is set: nobody can log in at the submission port", todo)
    return warning("certificate", "none is set: mail comes in the clear over the internet", todo)


def _trusting(settings: Settings) -> ssl.SSLContext:
    """A client that asks nobody who signed it, but for whom it is and until when."""
    context = ssl.create_default_context(cafile=settings.tls_cert_file)
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    return context


def _refused(shown: ssl.SSLContext, client: ssl.SSLContext, hostname: str) -> Finding | None:
    """What a client says of it in a handshake; None = it is content."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server, server_hostname=hostname)
    answering = shown.wrap_bio(to_server, to_client, server_side=True)
    try:
        for _ in range(4):
            for side in (asking, answering):
                _step(side)
    except ssl.SSLCertVerificationError as error:
        return _verdict(error, hostname)
    return None


def _step(side: ssl.SSLObject) -> None:
    with contextlib.suppress(ssl.SSLWantReadError):
        side.do_handshake()


def _verdict(error: ssl.SSLCertVerificationError, hostname: str) -> Finding:
    reason = error.verify_message
    if error.verify_code == _MISMATCH:
        said = f"it is not for {hostname}, the name that others connect to ({reason})"
        return problem("certificate", said, "Get one that names SMTP_HOSTNAME, or set that to a name it has.")
    if error.verify_code in _TIMES:
        return problem("certificate", f"{reason}", "Renew it; Postroom reads the new file by itself.")
    said = f"not trusted by this system: {reason}"
    todo = "Put the whole chain into TLS_CERT_FILE, or get one of a public authority; mail still comes, unchecked."
    return warning("certificate", said, todo)

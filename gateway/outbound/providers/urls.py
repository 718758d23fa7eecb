"""Reads the provider URLs of OUTBOUND. No message repeats a URL: it may hold a password."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from gateway import signatures
from gateway.errors import ConfigurationError
from gateway.outbound.providers import exchangers, http, mailgun, mx, postmark, ses, smtp_session, sts
from gateway.outbound.providers.capture import CaptureProvider
from gateway.outbound.providers.contract import Provider
from gateway.outbound.providers.smtp import SmtpProvider
from gateway.resolving import DnsResolver, Resolver
from gateway.settings import Settings

T = TypeVar("T")

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]{0,15}):(?=//)", re.IGNORECASE)
_HOST = re.compile(r"[\w.:-]+")
_TLS: Final[dict[str, smtp_session.Tls]] = {
    "starttls": "starttls",  # or nothing is sent
    "opportunistic": "opportunistic",  # where the relay offers it
    "none": "none",
}
_REGION = re.compile(r"[a-z]{2}(?:-[a-z]+)+-\d")
_WORD = re.compile(r"[\w.-]{1,64}", re.ASCII)
_FLAGS: Final = {"0": False, "1": True}
_COMMON: Final = frozenset({"name", "only"})  # options of every provider
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """A provider of OUTBOUND, and what its URL says of when it is used."""

    provider: Provider
    scheme: str  # in lower case
    name: str  # of `?name=`, what rules of routing call it; empty = it has none
    only_routed: bool  # `?only=routed`: tried where a rule says so, and never else


def way(url: str, settings: Settings, resolver: Resolver | None = None) -> Way:
    """The provider of `from_url`, and the options that all of them have: `name=` and `only=routed`."""
    bare, options = _without_common(url)
    provider = from_url(bare, settings, resolver)
    scheme = url.partition(":")[0].lower()
    name = options.get("name", "")
    if "name" in options and not _NAME.fullmatch(name):
        raise _wrong(scheme, "name= is at most 32 small letters, digits, - and _")
    return Way(
        provider=provider,
        scheme=scheme,
        name=name,
        only_routed=_choice(scheme, options, "only", {"routed": True}, False),
    )


def _without_common(url: str) -> tuple[str, dict[str, str]]:
    """The URL without the options that every provider has, and those; each may stand there once."""
    base, _, query = url.partition("?")
    pairs = [pair for pair in query.split("&") if pair]
    common = [pair.partition("=")[::2] for pair in pairs if pair.partition("=")[0] in _COMMON]
    left = [pair for pair in pairs if pair.partition("=")[0] not in _COMMON]
    if len(dict(common)) != len(common):
        raise ConfigurationError("OUTBOUND: name= and only= stand in a URL at most once")
    return "?".join([base, *(["&".join(left)] if left else [])]), dict(common)


def from_url(url: str, settings: Settings, resolver: Resolver | None = None) -> Provider:
    """The provider that a URL of OUTBOUND names; ConfigurationError says what is wrong with it.

    `resolver`: what finds mail exchangers; None = one of its own, with the settings' name servers.
    """
    found = _SCHEME.match(url)
    if found is None:
        raise ConfigurationError("OUTBOUND: a provider is a URL, such as smtp://user:password@host:587")
    scheme = found[1].lower()
    if scheme not in {*_MAKERS, "mx"}:
        raise _wrong(scheme, f"no such provider; there are {', '.join(f'{name}://' for name in (*_MAKERS, 'mx'))}")
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        raise _wrong(scheme, "not a URL") from None
    if scheme == "mx":
        return _mx(parts, settings, resolver or DnsResolver(settings.dns_servers))
    return _MAKERS[scheme](parts, settings)


def _capture(parts: urllib.parse.SplitResult, _: Settings) -> Provider:
    if parts.netloc or parts.path or parts.query or parts.fragment:
        raise _wrong(parts.scheme, "nothing may follow")
    return CaptureProvider()


def _smtp(parts: urllib.parse.SplitResult, settings: Settings) -> Provider:
    return SmtpProvider(relay_of(parts, settings))


def _mx(parts: urllib.parse.SplitResult, settings: Settings, resolver: Resolver) -> Provider:
    """`mx://?hostname=…&connections=…`; `port` and `allow_private` are for tests."""
    if parts.netloc or parts.path or parts.fragment:
        raise _wrong(parts.scheme, "no host, path or fragment may follow, only options")
    options = _options(parts, ("hostname", "connections", "port", "allow_private"))
    hostname = _ascii_host(options.get("hostname", settings.hostname))
    if not _HOST.fullmatch(hostname):
        raise _wrong(parts.scheme, "hostname= is not a host name")
    allow_private = _choice(parts.scheme, options, "allow_private", _FLAGS, False)
    hosts = exchangers.Exchangers(resolver, ours={hostname, settings.hostname}, allow_private=allow_private)
    fetch = signatures.Fetcher(network_backend=sts.PublicConnections(hosts))
    direct = mx.Direct(
        hostname=hostname,
        port=_mx_port(parts.scheme, options),
        connections=_connections(
            parts.scheme,
            {"connections": str(settings.destination_concurrency)} | options,
            settings.outbound_concurrency,
        ),
        step_seconds=settings.outbound_timeout_seconds,
        dot_seconds=settings.outbound_data_timeout_seconds,
    )
    return mx.MxProvider(direct, hosts, sts.Policies(resolver, fetch))


def _mx_port(scheme: str, options: dict[str, str]) -> int:
    text = options.get("port", "25")  # RFC 5321 section 4.5.4.2
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= 65_535):
        raise _wrong(scheme, "port= is 1 to 65535")
    return int(text)


def _mailgun(parts: urllib.parse.SplitResult, settings: Settings) -> Provider:
    options = _api_options(parts, {"region", "endpoint"})
    endpoint = _choice(parts.scheme, options, "region", mailgun.ENDPOINTS, mailgun.ENDPOINTS["us"])
    dialect = mailgun.Mailgun(key=_token(parts), domain=_host(parts))
    return http.HttpProvider(_service(parts, options, endpoint, settings), dialect)


def _postmark(parts: urllib.parse.SplitResult, settings: Settings) -> Provider:
    options = _api_options(parts, {"stream", "endpoint"})
    if parts.hostname:
        raise _wrong(parts.scheme, "nothing follows the @ (in a token write @ as %40)")
    dialect = postmark.Postmark(token=_token(parts), stream=_word(parts.scheme, options, "stream"))
    return http.HttpProvider(_service(parts, options, postmark.ENDPOINT, settings), dialect)


def _ses(parts: urllib.parse.SplitResult, settings: Settings) -> Provider:
    options = _api_options(parts, {"configuration_set", "session_token", "endpoint"})
    region = _host(parts)
    if not _REGION.fullmatch(region):
        raise _wrong(parts.scheme, "after the @ stands a region, such as eu-west-1")
    access_key, secret_key = _credentials(parts)
    if access_key is None:
        raise _wrong(parts.scheme, "access key and secret are missing")
    told = (access_key, secret_key, options.get("session_token", ""))
    if not all(word.isascii() and word.isprintable() and " " not in word for word in told):
        raise _wrong(parts.scheme, "keys and tokens are printable ASCII")
    service = _service(parts, options, f"https://email.{region}.amazonaws.com", settings)
    dialect = ses.Ses(
        credentials=ses.Credentials(access_key=access_key, secret_key=secret_key, session_token=told[2]),
        region=region,
        host=service.endpoint.partition("://")[2],
        configuration_set=_word(parts.scheme, options, "configuration_set"),
    )
    return http.HttpProvider(service, dialect)


_MAKERS: Final[dict[str, Callable[[urllib.parse.SplitResult, Settings], Provider]]] = {
    "smtp": _smtp,
    "smtps": _smtp,
    "mailgun": _mailgun,
    "postmark": _postmark,
    "ses": _ses,
    "capture": _capture,
}


def relay_of(parts: urllib.parse.SplitResult, settings: Settings) -> smtp_session.Relay:
    """The relay of an smtp:// or smtps:// URL.

    With a password STARTTLS is required unless `tls=` says otherwise, and so it is on port 587; else it is used where
    it is offered. `verify=0` accepts any certificate; an `opportunistic` one is not checked unless `verify=1` asks.
    """
    if parts.path not in {"", "/"} or parts.fragment:
        raise _wrong(parts.scheme, "a path or fragment has no meaning (in a password write / as %2F, # as %23)")
    username, password = _credentials(parts)
    options = _options(parts, ("tls", "verify", "connections"))
    port = _port(parts) or _default_port(parts.scheme, username)
    tls = _tls(parts.scheme, options, username is not None or port == 587)
    return smtp_session.Relay(
        host=_host(parts),
        port=port,
        tls=tls,
        verify=_choice(parts.scheme, options, "verify", _FLAGS, tls != "opportunistic"),
        username=username,
        password=password,
        local_hostname=_ascii_host(settings.hostname),
        connections=_connections(parts.scheme, options, settings.outbound_concurrency),
        step_seconds=settings.outbound_timeout_seconds,
        dot_seconds=settings.outbound_data_timeout_seconds,
    )


def _credentials(parts: urllib.parse.SplitResult) -> tuple[str | None, str]:
    if parts.username is None:
        return None, ""
    if not parts.username or not parts.password:
        raise _wrong(parts.scheme, "a user needs a password, and a password a user")
    try:
        unquoted = [urllib.parse.unquote(word, errors="strict") for word in (parts.username, parts.password)]
    except UnicodeDecodeError:
        raise _wrong(parts.scheme, "user and password must be UTF-8, percent-encoded") from None
    if any("\0" in word for word in unquoted):  # RFC 4616 section 2: NUL separates them
        raise _wrong(parts.scheme, "user and password must not hold NUL")
    return unquoted[0], unquoted[1]


def _options(parts: urllib.parse.SplitResult, known: tuple[str, ...]) -> dict[str, str]:
    pairs = urllib.parse.parse_qsl(parts.query, keep_blank_values=True)
    options = dict(pairs)
    if len(options) != len(pairs) or not options.keys() <= set(known):
        raise _wrong(parts.scheme, f"its options are {', '.join(known)}, each at most once")
    return options


def _api_options(parts: urllib.parse.SplitResult, known: set[str]) -> dict[str, str]:
    if parts.path not in {"", "/"} or parts.fragment or _port(parts):
        raise _wrong(parts.scheme, "a port, path or fragment has no meaning (in a key write / as %2F, # as %23)")
    pairs = urllib.parse.parse_qsl(parts.query, keep_blank_values=True)
    options = dict(pairs)
    if len(options) != len(pairs) or not options.keys() <= known:
        raise _wrong(parts.scheme, f"its options are {', '.join(sorted(known))}, each at most once")
    return options


def _token(parts: urllib.parse.SplitResult) -> str:
    """The one secret that stands before the @."""
    if not parts.username or parts.password is not None:
        raise _wrong(parts.scheme, "a key stands before the @, and nothing else (in it write : as %3A)")
    token = urllib.parse.unquote(parts.username)
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise _wrong(parts.scheme, "a key is printable ASCII")
    return token


def _service(
    parts: urllib.parse.SplitResult, options: dict[str, str], endpoint: str, settings: Settings
) -> http.Service:
    return http.Service(
        endpoint=_endpoint(parts.scheme, options["endpoint"]) if "endpoint" in options else endpoint,
        connections=settings.outbound_concurrency,
        step_seconds=settings.outbound_timeout_seconds,
        answer_seconds=settings.outbound_data_timeout_seconds,
    )


def _endpoint(scheme: str, url: str) -> str:
    """Another base URL, as tests have it; in the clear on this machine only, for the key goes along."""
    try:
        base = urllib.parse.urlsplit(url)
        bare = base.scheme in {"http", "https"} and base.path in {"", "/"} and base.hostname and base.port != 0
    except ValueError:
        raise _wrong(scheme, "endpoint= is no URL") from None
    if not bare or "@" in base.netloc or base.query or base.fragment:
        raise _wrong(scheme, "endpoint= is a URL of scheme, host and port")
    if base.scheme == "http" and not _is_loopback(base.hostname or ""):
        raise _wrong(scheme, "endpoint= is https, but on this machine")
    return f"{base.scheme}://{base.netloc}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _word(scheme: str, options: dict[str, str], name: str) -> str:
    if name in options and not _WORD.fullmatch(options[name]):
        raise _wrong(scheme, f"{name}= is a name of letters, digits, dots, - and _")
    return options.get(name, "")


def _host(parts: urllib.parse.SplitResult) -> str:
    if not parts.hostname or not _HOST.fullmatch(parts.hostname):
        raise _wrong(parts.scheme, "a host is missing (in a password write @ as %40)")
    return _ascii_host(parts.hostname)


def _ascii_host(name: str) -> str:
    try:
        return name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError:
        raise ConfigurationError("OUTBOUND, SMTP_HOSTNAME: not a host name") from None


def _port(parts: urllib.parse.SplitResult) -> int | None:
    try:
        port = parts.port
    except ValueError:  # its text repeats what may be a piece of the password
        raise _wrong(parts.scheme, "the port is not a number (in a password write : as %3A, / as %2F)") from None
    if port == 0:
        raise _wrong(parts.scheme, "the port is 0")
    return port


def _default_port(scheme: str, username: str | None) -> int:
    if scheme == "smtps":
        return 465  # RFC 8314 section 3.3
    return 25 if username is None else 587


def _tls(scheme: str, options: dict[str, str], wanted: bool) -> smtp_session.Tls:
    if scheme == "smtps":
        if "tls" in options:
            raise _wrong(scheme, "tls= belongs to smtp://; smtps:// is encrypted from its first byte")
        return "implicit"
    return _choice(scheme, options, "tls", _TLS, "starttls" if wanted else "opportunistic")


def _connections(scheme: str, options: dict[str, str], limit: int) -> int:
    text = options.get("connections", str(limit))
    if not (text.isascii() and text.isdecimal() and 1 <= len(text) <= 5 and int(text) >= 1):
        raise _wrong(scheme, "connections= is a number of at least 1")
    return min(int(text), limit)


def _choice(scheme: str, options: dict[str, str], name: str, choices: Mapping[str, T], default: T) -> T:
    if name not in options:
        return default
    if options[name] not in choices:
        raise _wrong(scheme, f"{name}= is one of {', '.join(choices)}")
    return choices[options[name]]


def _wrong(scheme: str, what: str) -> ConfigurationError:
    return ConfigurationError(f"OUTBOUND: {scheme}://…: {what}")

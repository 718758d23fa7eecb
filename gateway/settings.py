"""Every setting: its environment variable, type, default and meaning, in one place (`postroom settings` prints it).

Nothing else reads the environment. What may hold a password is left out of the object's repr.
A Settings object is made once per process and handed to what needs it.
"""

from __future__ import annotations

import ipaddress
import os
import re
import urllib.parse
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gateway.errors import ConfigurationError

_PUBLIC_URL = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(/[A-Za-z0-9._~/-]*)?")
Words = Annotated[tuple[str, ...], NoDecode]  # comma- or space-separated in the environment


class Settings(BaseSettings):
    """The environment, read and checked. Field names in upper case are the variables' names."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    # Servers that Postroom uses
    database_url: str = Field(
        "", repr=False, description="Postgres, as libpq reads it: postgresql://user:pass@host:5432/db"
    )
    database_unsafe: bool = Field(
        False, description="Start even where fsync or full_page_writes is off (mail can be lost)"
    )
    db_pool_size: int = Field(10, ge=2, le=200, description="Postgres connections of one process")
    redis_url: str = Field(
        "", repr=False, description="Redis or Valkey: redis://, rediss:// or unix://; empty = poll Postgres instead"
    )
    redis_namespace: str = Field(
        "postroom", pattern=r"^[A-Za-z0-9_.:-]{1,64}$", description="Prefix of all names in Redis"
    )
    redis_tls_verify: bool = Field(
        True, description="Check the server's certificate on rediss:// (off for a private CA)"
    )

    # What listens
    host: str = Field("0.0.0.0", description="Address of the HTTP listener")  # noqa: S104 - a server's default
    port: int = Field(8000, ge=0, le=65535, description="Port of the HTTP listener")
    http_max_connections: int = Field(
        12_000, ge=1, description="HTTP connections of one process, streams among them; more hear 503"
    )
    http_head_seconds: float = Field(30, gt=0, description="Time that the head of an HTTP request may take, then 408")
    http_body_seconds: float = Field(600, gt=0, description="Time that the body of an HTTP request may take, then 408")
    http_min_body_rate: int = Field(
        500, ge=0, description="Bytes a second that the body of an HTTP request must bring over 30 s; fewer hear 408"
    )
    web_concurrency: int = Field(1, ge=1, le=64, description="Web processes; per-process caps are divided by it")
    smtp_host: str = Field(
        "0.0.0.0",  # noqa: S104 - a server's default
        description="Addresses of the SMTP listeners, separated by commas; :: takes IPv4, too",
    )
    smtp_port: int | None = Field(None, ge=0, le=65535, description="Port of the inbound SMTP listener; unset = none")
    submission_port: int | None = Field(
        None, ge=0, le=65535, description="Port of the submission listener; unset = none"
    )
    smtps_port: int | None = Field(
        None, ge=0, le=65535, description="Port of the inbound SMTP listener that is all TLS; unset = none"
    )
    submissions_port: int | None = Field(
        None, ge=0, le=65535, description="Port of the submission listener that is all TLS; unset = none"
    )
    proxy_trusted: Words = Field(
        (),
        description="Addresses or networks of load balancers: their SMTP connections begin with a PROXY header, their "
        "X-Forwarded-For is believed",
    )
    smtp_hostname: str = Field(
        "", description="Name said in the SMTP banner and in EHLO; empty = first of MAIL_DOMAINS"
    )
    tls_cert_file: str = Field(
        "", description="Certificate chain (PEM) of SMTP, read again when the file changes; empty = no TLS"
    )
    tls_key_file: str = Field("", description="Private key (PEM) of TLS_CERT_FILE")

    # Mail in
    mail_domains: Words = Field((), description="Own domains, shared by all accounts; * = every domain (as in dev)")
    unknown_recipients: Literal["drop", "reject", "create"] = Field(
        "drop", description="Mail for an unknown address: drop it after DATA, reject it, or create the mailbox"
    )
    default_ttl_seconds: int = Field(3600, ge=10, description="A mailbox's life where its creator names none")
    max_ttl_seconds: int = Field(2_592_000, ge=10, description="The longest life a mailbox may be given")
    allow_permanent_mailboxes: bool = Field(False, description="Whether ttl_seconds may be null (never expires)")
    retention_seconds: int = Field(86_400, ge=0, description="How long an expired mailbox keeps its messages")
    max_message_bytes: int = Field(26_214_400, ge=1024, description="The largest message taken, in bytes")
    smtp_max_recipients: int = Field(100, ge=1, description="Recipients of one message; more hear 452")
    smtp_max_connections: int = Field(1000, ge=1, description="SMTP connections of one process, in all")
    smtp_max_connections_per_address: int = Field(200, ge=1, description="SMTP connections of one client address")
    smtp_max_messages_per_session: int = Field(1000, ge=1, description="Messages of one SMTP session, then 421")
    smtp_max_errors: int = Field(20, ge=1, description="Errors of one SMTP session, then 421")
    smtp_idle_seconds: float = Field(300, gt=0, description="Silence between SMTP commands, then 421")
    smtp_session_seconds: float = Field(3600, gt=0, description="The longest SMTP session, then 421")
    smtp_data_seconds: float = Field(600, gt=0, description="The longest DATA phase of one message")
    smtp_min_data_rate: int = Field(500, ge=0, description="Bytes a second that DATA must bring on average after 30 s")
    inbound_bytes_in_flight: int = Field(
        268_435_456, ge=1_048_576, description="Bytes that messages being received may hold in memory; more hear 452"
    )
    dns_servers: Words = Field((), description="Name servers to ask, address or address:port; empty = the system's")
    sender_auth: bool = Field(True, description="Whether SPF, DKIM and DMARC are judged on arrival (off in dev)")
    arc_trusted_sealers: Words = Field(
        (), description="Domains whose ARC seal vouches for mail that fails DMARC, such as lists; empty = none"
    )
    max_mailboxes: int = Field(100_000, ge=0, description="Live mailboxes of one account; more hear 429; 0 = any")
    max_stored_bytes: int = Field(
        107_374_182_400,
        ge=0,
        description="Bytes that one account's messages may take; then its mail is refused; 0 = any",
    )
    max_messages_per_minute: int = Field(
        0, ge=0, description="Messages that one account may get in a minute; then its mail is refused; 0 = any"
    )
    allow_faults: bool = Field(
        False, description="Whether owners may have their mailboxes fail on purpose (/faults; on in dev)"
    )
    void_max_bytes: int = Field(268_435_456, ge=0, description="Stored bytes of dropped mail; over it, empty contents")

    # Mail in by HTTP
    mailgun_signing_key: SecretStr = Field(
        SecretStr(""), description="Mailgun's HTTP webhook signing key; empty = Mailgun's posts are not taken"
    )
    postmark_webhook_auth: SecretStr = Field(
        SecretStr(""), description="user:password of the URLs given to Postmark; empty = its posts are not taken"
    )
    sns_topic_arns: Words = Field((), description="SNS topics that are listened to; empty = SNS is not")

    # Mail out
    outbound: Words = Field(
        (),
        repr=False,
        description="Provider URLs in order of preference: smtp(s)://, mx://, mailgun://, postmark://, ses://, capture://",
    )
    outbound_routes: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Rules, spaces between them: to:*.example.com=name,name from:example.org=name tag:bulk=name; "
        "the first that fits decides, by which providers of OUTBOUND (their ?name=, or scheme) a message goes",
    )
    max_queued: int = Field(100_000, ge=1, description="E-mails of one account that may wait; more hear 429")
    retry_schedule: Words = Field(
        ("30", "120", "600", "1800", "3600", "7200", "14400", "28800", "57600"),
        description="Seconds between delivery attempts",
    )
    retry_max_age_seconds: int = Field(172_800, ge=1, description="The last attempt is made at this age, then `failed`")
    retry_jitter: float = Field(0.2, ge=0, le=0.9, description="Share by which each wait is spread, both ways")
    delay_warning_seconds: int = Field(
        14_400, ge=0, description="A recipient that waits for longer is told of, once (email.delayed); 0 = never"
    )
    email_retention_seconds: int = Field(
        7_776_000, ge=0, description="How long an e-mail is kept after the last of its recipients' ends; 0 = for ever"
    )
    attempt_retention_seconds: int = Field(
        3_888_000, ge=0, description="How long attempts at delivery are kept, with their dialogues; 0 = for ever"
    )
    lease_seconds: float = Field(20, gt=0, description="A worker's claim on a delivery; after it another may take over")
    heartbeat_seconds: float = Field(5, gt=0, description="How often a worker renews its claims")
    outbound_concurrency: int = Field(50, ge=1, description="Deliveries under way at once in one worker")
    destination_concurrency: int = Field(
        20,
        ge=1,
        description="Deliveries under way at once to one recipient domain (mx://), and to one of its addresses",
    )
    outbound_timeout_seconds: float = Field(60, gt=0, description="Each step of an SMTP dialogue, but for the last")
    outbound_data_timeout_seconds: float = Field(
        600, gt=0, description="The reply to the final dot (RFC 5321 4.5.3.2.6)"
    )

    return_path_domain: str = Field(
        "",
        max_length=190,
        pattern=r"^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.|$)){2,}$|^$",
        description="Domain of reverse paths by which bounces come back here; empty = the author's own address is used",
    )
    feedback_retention_seconds: int = Field(
        2_592_000,
        ge=432_000,
        description="How long bounces, complaints and callbacks still find the mail they are about",
    )

    dkim_key_file: str = Field(
        "", description="Private key (PEM) that signs mail from MAIL_DOMAINS; empty = it goes out unsigned"
    )
    dkim_selector: str = Field(
        "", pattern=r"^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)?$", description="Selector of DKIM_KEY_FILE"
    )

    public_url: str = Field(
        "",
        max_length=100,
        description="Where links in mail lead: https:// and a host (http:// on loopback); empty = no unsubscribing",
    )

    # Telling
    event_retention_seconds: int = Field(604_800, ge=432_000, description="How long events are kept (at least 5 days)")
    idempotency_seconds: int = Field(86_400, ge=60, description="How long an Idempotency-Key is remembered")
    statistics_retention_seconds: int = Field(
        34_560_000, ge=86_400, description="How long the counts of GET /v1/statistics are kept (400 days)"
    )
    stream_buffer_events: int = Field(1000, ge=10, description="Events a slow stream may lag behind before it is cut")
    webhook_allow_private: bool = Field(False, description="Whether webhooks may go to private and loopback addresses")
    webhook_timeout_seconds: float = Field(15, gt=0, description="One webhook attempt, from look-up to answer")
    webhook_concurrency: int = Field(
        5, ge=1, le=100, description="Deliveries under way at once to one webhook, over all workers"
    )
    webhook_retry_schedule: Words = Field(
        ("5", "300", "1800", "7200", "18000", "36000", "50400", "72000", "86400"),
        description="Seconds between webhook attempts; after the last `dead`",
    )

    # Limits
    rate_limit_per_second: float = Field(
        1000, ge=0, description="Requests a second of one key or mailbox token; more hear 429; 0 = any"
    )
    rate_limit_burst: int = Field(2000, ge=1, description="Requests of one key that may come at once")
    account_rate_limit_per_second: float = Field(
        2000, ge=0, description="Requests a second of one account, by all its keys and tokens; more hear 429; 0 = any"
    )
    account_rate_limit_burst: int = Field(4000, ge=1, description="Requests of one account that may come at once")
    max_api_keys: int = Field(1000, ge=0, description="API keys in use of one account; more hear 429; 0 = any")
    max_domains: int = Field(1000, ge=0, description="Domains that one account claims; more hear 429; 0 = any")
    max_webhooks: int = Field(1000, ge=0, description="Webhooks of one account; more hear 429; 0 = any")
    max_templates: int = Field(10_000, ge=0, description="Templates of one account; more hear 429; 0 = any")
    max_suppressions: int = Field(
        1_000_000,
        ge=0,
        description="Suppressions that one account lists or imports; more hear 429, but bounces and readers list on; "
        "0 = any",
    )
    auth_failures_per_minute: int = Field(
        120,
        ge=0,
        description="Failed authentications of one client address in a minute, by HTTP and SMTP; then 429 (421) for "
        "keys not seen before; 0 = any",
    )

    # Operating
    secret_key: SecretStr = Field(
        SecretStr(""), description="Derives tokens, keys and webhook secrets; required outside dev"
    )
    secret_key_previous: SecretStr = Field(
        SecretStr(""),
        description="SECRET_KEYs before, newest first: what was encrypted under them can be read; empty = none",
    )
    metrics_token: SecretStr = Field(
        SecretStr(""), description="Bearer token for /metrics; empty = an admin key is needed"
    )
    worker_metrics_port: int | None = Field(
        None, ge=0, le=65535, description="Port of a worker's /metrics and /healthz; unset = none"
    )
    drain_seconds: float = Field(25, ge=0, description="Time that running work has to end after SIGTERM")
    expiry_interval_seconds: float = Field(
        60, gt=0, description="How often expired mailboxes are marked, and delays told"
    )
    sweep_interval_seconds: float = Field(1, gt=0, description="How often workers look for work that lost its nudge")
    reclaim_interval_seconds: float = Field(60, gt=0, description="How often expired rows are removed")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What is logged")
    postroom_dev: bool = Field(False, description="Set by `postroom dev`: metrics and docs open, AUTH without TLS")
    postroom_sockets: str = Field("", description="Listening sockets handed down by the parent process: http=3,smtp=4")
    postroom_child: bool = Field(False, description="Set by `postroom serve` for its WEB_CONCURRENCY processes")
    postroom_parent: int = Field(0, ge=0, description="Process id of the parent to die with; 0 = none. Parents set it")

    @field_validator(
        "mail_domains",
        "outbound",
        "retry_schedule",
        "webhook_retry_schedule",
        "sns_topic_arns",
        "proxy_trusted",
        "dns_servers",
        "arc_trusted_sealers",
        mode="before",
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value

    @field_validator("outbound_routes", mode="before")
    @classmethod
    def _rules(cls, value: Any) -> Any:
        return tuple(value.split()) if isinstance(value, str) else value

    @field_validator("mail_domains", "arc_trusted_sealers")
    @classmethod
    def _lower(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(domain.lower().rstrip(".") for domain in value)

    @field_validator("return_path_domain")
    @classmethod
    def _lower_name(cls, value: str) -> str:
        return value.lower().rstrip(".")

    @field_validator("proxy_trusted")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for word in value:
            ipaddress.ip_network(word, strict=False)
        return value

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, value: str) -> str:
        """As far as it can be told without showing a part of a password: the scheme, and ports that are numbers."""
        parts = urllib.parse.urlsplit(value)
        ports = [host.rpartition("]")[2].partition(":")[2] for host in parts.netloc.rpartition("@")[2].split(",")]
        if value and (
            parts.scheme not in {"postgresql", "postgres"} or not all(port.isdigit() for port in ports if port)
        ):
            raise ValueError(
                "postgresql://user:password@host:5432/database is how it is written, with special characters of the "
                "password percent-encoded"
            )
        return value

    @field_validator("public_url")
    @classmethod
    def _base(cls, value: str) -> str:
        if value and not _PUBLIC_URL.fullmatch(value):
            raise ValueError("https://host[:port][/path]")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _is_safe(self) -> Settings:
        host = urllib.parse.urlsplit(self.public_url).hostname or ""
        is_here = self.postroom_dev or host in {"localhost", "127.0.0.1", "::1"}
        if self.public_url.startswith("http://") and not is_here:  # RFC 8058 3.1
            raise ValueError("PUBLIC_URL must be https:// but on loopback")
        return self

    @model_validator(mode="after")
    def _has_certificate(self) -> Settings:
        for name in ("smtps_port", "submissions_port"):
            if getattr(self, name) is not None and not self.tls_cert_file:
                raise ValueError(f"{name.upper()} needs TLS_CERT_FILE")
        return self

    @model_validator(mode="after")
    def _has_selector(self) -> Settings:
        if self.dkim_key_file and not self.dkim_selector:
            raise ValueError("DKIM_KEY_FILE needs DKIM_SELECTOR")
        return self

    @field_validator("retry_schedule", "webhook_retry_schedule")
    @classmethod
    def _seconds(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(float(word) < 0 for word in value):
            raise ValueError("seconds, none of them negative")
        return value

    @field_validator("postmark_webhook_auth")
    @classmethod
    def _pair(cls, value: SecretStr) -> SecretStr:
        user, colon, password = value.get_secret_value().partition(":")
        if value.get_secret_value() and not (user and colon and password):
            raise ValueError("user:password")
        return value

    @property
    def first_domain(self) -> str:
        """The domain of mailboxes whose creator names none."""
        return next((domain for domain in self.mail_domains if domain != "*"), "localhost")

    @property
    def smtp_hosts(self) -> tuple[str, ...]:
        """Every address that the SMTP listeners listen on."""
        return tuple(self.smtp_host.replace(",", " ").split())

    @property
    def trusted_proxies(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        return tuple(ipaddress.ip_network(word, strict=False) for word in self.proxy_trusted)

    @property
    def captures_every_domain(self) -> bool:
        return "*" in self.mail_domains

    @property
    def hostname(self) -> str:
        return self.smtp_hostname or self.first_domain

    def variables(self) -> dict[str, str]:
        """Name of each field's environment variable."""
        return {name: name.upper() for name in type(self).model_fields}


def load(**overrides: Any) -> Settings:
    """The settings of this process; `overrides` win over the environment. ConfigurationError names what is wrong."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise ConfigurationError("; ".join(map(_line, error.errors(include_input=False)))) from None


def _line(error: ErrorDetails) -> str:
    """The variable's name, and what it may be."""
    name = ".".join(str(part) for part in error["loc"]).upper()
    said = error["msg"].removeprefix("Value error, ")
    return f"{name}: {said}" if name else said


def require_secret_key(settings: Settings) -> bytes:
    """The secret's bytes. Outside dev it must be set, and long enough to be one."""
    secret = settings.secret_key.get_secret_value()
    if len(secret) < 32:
        raise ConfigurationError(
            "SECRET_KEY must be set to at least 32 characters: it derives every token. "
            "Make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"
        )
    return secret.encode()


def process_environment() -> dict[str, str]:
    """A copy of this process's environment, for the children it starts."""
    return dict(os.environ)

"""`postroom doctor` over whole deployments: a good one is all well, and each single defect is told as what it is."""

from __future__ import annotations

import contextlib
import functools
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from gateway import keys, settings, tokens
from gateway.doctor import examining
from gateway.mail import dkim
from gateway.mail.auth import dkim as checking
from gateway.storage import accounts, db, dkim_keys, domains, vitals
from tests import nameserver
from tests.notify import certificates
from tests.outbound import api, sink

pytestmark = pytest.mark.anyio

HOST = "mail.gateway.example"
SHARED = "gateway.example"  # of MAIL_DOMAINS, signed with the house's key
OWN = "shop.example"  # an account's
RETURNS = "bounces.gateway.example"
ADDRESS = "127.0.0.2"  # ours, as the DNS says
REVERSE = "2.0.0.127.in-addr.arpa"
SECRET_KEY = "W7mGk2xPq9vTz4RbYc6NfJh8sDaLe3Uo"
PASSWORD = "hunter2-hunter2"
DEFECT = tuple[str, str | None, str]  # name, subject, state


@functools.cache
def house_key() -> dkim.Private:
    return dkim.generate("rsa")


@functools.cache
def pair() -> tuple[dkim_keys.NewKey, ...]:
    return dkim_keys.new_pair(tokens.Keyring(SECRET_KEY.encode()))


@functools.cache
def authority_of(folder: Path) -> certificates.Authority:
    return certificates.Authority(folder)


@dataclass(kw_only=True)
class Place:
    """A deployment that a defect may be put into."""

    zone: dict[str, Any]
    settings: dict[str, Any]
    relay: sink.Sink
    peer: sink.Sink  # a host of peer.example
    inbound: sink.Sink  # stands where our SMTP listener would
    web: api.Api
    public: api.Api  # PUBLIC_URL
    dsn: str
    folder: Path
    authority: certificates.Authority
    options: examining.Options = field(default_factory=examining.Options)

    def txt(self, name: str, *texts: str) -> None:
        self.zone[name] = {**self.zone.get(name, {}), "TXT": list(texts)}

    async def report(self) -> dict[str, Any]:
        found = await examining.examine(settings.load(**self.settings), self.options)
        return found.as_dict()


def zone() -> dict[str, Any]:
    """All that is to stand in the DNS."""
    found: dict[str, Any] = {
        HOST: {"A": [ADDRESS]},
        REVERSE: {"PTR": [f"{HOST}."]},
        "peer.example": {"MX": ["10 mx.peer.example."]},
        "mx.peer.example": {"A": ["127.0.0.1"]},
        f"house._domainkey.{SHARED}": {"TXT": [dkim.public_record(house_key())]},
    }
    found[f"bounces.{OWN}"] = {"CNAME": [f"{RETURNS}."]}
    for name in (SHARED, OWN, RETURNS):
        found[name] = {"MX": [f"10 {HOST}."], "TXT": [f"v=spf1 a:{HOST} -all", "other=1"]}
        found[f"_dmarc.{name}"] = {"TXT": ["v=DMARC1; p=quarantine"]}
    for key in pair():
        found[f"{key.selector}._domainkey.{OWN}"] = {"TXT": [key.record]}
    return found


async def owned(dsn: str) -> None:
    """OWN, verified, with keys in use."""
    database = db.Database(dsn, pool_size=2)
    await database.open()
    async with database.transaction() as connection:
        account_id = await accounts.create(connection, "shop")
        await domains.take_turn(connection, OWN)
        await domains.create(
            connection, account_id, name=OWN, wildcard=False, unknown_recipients="drop", catch_all=None
        )
        await domains.win(connection, account_id, OWN, wildcard=False)
        returns = {"purpose": "return_path", "name": f"bounces.{OWN}", "value": RETURNS, "state": "ok", "found": []}
        await domains.looked(connection, account_id, OWN, [returns])
        await dkim_keys.add(connection, account_id, OWN, pair())
        await dkim_keys.seen(connection, account_id, OWN, [key.selector for key in pair()])
    await vitals.Heart(database).beat()
    await database.close()


@pytest.fixture
async def place(dsn: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Place]:
    """A good deployment."""
    authority = authority_of(tmp_path)
    pem = house_key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "dkim.pem").write_bytes(pem)
    tls = sink.server_tls(tmp_path)
    await owned(dsn)
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(sink.Sink(tls=tls, credentials=("app", PASSWORD)))
        peer = await stack.enter_async_context(sink.Sink(tls=tls))
        inbound = await stack.enter_async_context(sink.Sink(tls=tls))
        web = await stack.enter_async_context(api.Api(api.Act(body=b"ok\n")))
        page = api.Api(api.Act(body=b"ok\n"), tls=authority.server_context("localhost"))
        public = await stack.enter_async_context(page)
        records = zone()
        server = await stack.enter_async_context(nameserver.serving(records))
        given = {
            "database_url": dsn,
            "redis_url": redis_url,
            "secret_key": SECRET_KEY,
            "mail_domains": SHARED,
            "smtp_hostname": HOST,
            "host": "127.0.0.1",
            "port": int(web.url.rpartition(":")[2]),
            "smtp_host": "127.0.0.1",
            "smtp_port": inbound.port,
            "dns_servers": server.address,
            "tls_cert_file": str(authority.server_file(HOST, days=60)),
            "dkim_key_file": str(tmp_path / "dkim.pem"),
            "dkim_selector": "house",
            "return_path_domain": RETURNS,
            "public_url": public.url,
            "outbound": f"mx://?port={peer.port}&allow_private=1 {relay.url('verify=0', user=f'app:{PASSWORD}')}",
        }
        options = examining.Options(reach="peer.example", trusted=authority.client_context())
        yield Place(
            zone=records,
            settings=given,
            relay=relay,
            peer=peer,
            inbound=inbound,
            web=web,
            public=public,
            dsn=dsn,
            folder=tmp_path,
            authority=authority,
            options=options,
        )


def not_well(report: dict[str, Any]) -> set[DEFECT]:
    return {(one["name"], one["subject"], one["state"]) for one in report["findings"] if one["state"] != "ok"}


async def test_a_good_deployment_is_all_well(place: Place) -> None:
    report = await place.report()
    assert not_well(report) == set(), report
    assert (report["status"], report["bulk_senders"]) == ("ok", {"met": True, "lacking": []})
    relay = f"smtp:127.0.0.1:{place.relay.port}"
    assert {one["subject"] for one in report["findings"]} == {None, SHARED, OWN, RETURNS, "mx", relay}
    names = {one["name"] for one in report["findings"]}
    assert names >= {
        *("settings", "secret_key", "database", "database.schema", "database.durability", "database.connections"),
        *(
            "database.size",
            "database.vacuum",
            "database.transactions",
            "database.replication",
            "workers",
            "housekeeping",
        ),
        *(
            "clock",
            "redis",
            "redis.memory",
            "redis.latency",
            "listener.http",
            "listener.smtp",
            "certificate",
            "dns",
            "hostname",
            "reverse_dns",
        ),
        *(
            "mx",
            "spf",
            "dkim",
            "dmarc",
            "alignment",
            "return_path",
            "one_click",
            "provider",
            "queue",
            "webhooks",
            "complaints",
            "suppressed",
        ),
    }
    assert place.relay.messages == place.peer.messages == []
    assert place.relay.lines("MAIL") == place.peer.lines("MAIL") == []


Change = Callable[[Place], object]


def no_mx(place: Place) -> None:
    del place.zone[OWN]["MX"]


def mx_elsewhere(place: Place) -> None:
    place.zone[OWN]["MX"] = ["10 mx.peer.example."]


def second_spf(place: Place) -> None:
    place.txt(OWN, f"v=spf1 a:{HOST} -all", "v=spf1 -all")


def other_dkim(place: Place) -> None:
    place.txt(f"house._domainkey.{SHARED}", dkim.public_record(dkim.generate("ed25519")))


def no_dkim(place: Place) -> None:
    del place.zone[f"{pair()[0].selector}._domainkey.{OWN}"]


def no_ptr(place: Place) -> None:
    del place.zone[REVERSE]


def foreign_ptr(place: Place) -> None:
    place.zone[REVERSE] = {"PTR": ["mx.peer.example."]}


def secret(place: Place, value: str) -> None:
    place.settings["secret_key"] = value


def no_secret(place: Place) -> None:
    """Then there are no keys, and accounts' domains are not looked at."""
    place.settings.pop("secret_key")


def weak_secret(place: Place) -> None:
    """The keys of OWN are under another one: they are not looked at."""
    secret(place, "changeme" * 5)
    place.options = replace(place.options, domains=(SHARED,))


def self_made(place: Place) -> None:
    place.options = replace(place.options, trusted=ssl.create_default_context())


def unreached(place: Place) -> None:
    place.options = replace(place.options, reach="")


def expired(place: Place, days: float) -> None:
    place.settings["tls_cert_file"] = str(place.authority.server_file(HOST, days=days))


def of_another(place: Place) -> None:
    place.settings["tls_cert_file"] = str(place.authority.server_file("other.example", days=60))


def no_listener(place: Place) -> None:
    place.settings["submission_port"] = 1


def without_starttls(place: Place) -> None:
    place.inbound.tls = None


def outbound(place: Place, url: str) -> None:
    place.settings["outbound"] = url


@dataclass(frozen=True, kw_only=True, slots=True)
class Defect:
    """Something that is wrong, and what is to be said of it."""

    name: str
    touches: frozenset[str]  # what two defects of one run must not share
    change: Change
    expected: frozenset[DEFECT]


def defect(name: str, touches: str, change: Change, *expected: DEFECT) -> Defect:
    return Defect(name=name, touches=frozenset(touches.split()), change=change, expected=frozenset(expected))


DEFECTS = [
    defect("no MX", "mx", no_mx, ("mx", OWN, "problem")),
    defect("MX elsewhere", "mx", mx_elsewhere, ("mx", OWN, "problem")),
    defect("no SPF", "spf", lambda place: place.txt(OWN, "other=1"), ("spf", OWN, "problem")),
    defect("two SPF records", "spf", second_spf, ("spf", OWN, "problem")),
    defect("SPF of others", "spf", lambda place: place.txt(OWN, "v=spf1 ip4:192.0.2.1 -all"), ("spf", OWN, "problem")),
    defect("SPF by address", "spf", lambda place: place.txt(OWN, f"v=spf1 ip4:{ADDRESS} -all")),
    defect("SPF by MX", "spf mx", lambda place: place.txt(OWN, "v=spf1 mx -all")),
    defect("another DKIM key", "house", other_dkim, ("dkim", SHARED, "problem")),
    defect(
        "no key to sign with",
        "house",
        lambda place: place.settings.pop("dkim_key_file"),
        ("dkim", SHARED, "warning"),
    ),
    defect("no DKIM key", "dkim", no_dkim, ("dkim", OWN, "problem")),
    defect("no DMARC", "dmarc", lambda place: place.zone.pop(f"_dmarc.{OWN}"), ("dmarc", OWN, "warning")),
    defect(
        "two DMARC records",
        "dmarc",
        lambda place: place.txt(f"_dmarc.{OWN}", "v=DMARC1; p=none", "v=DMARC1; p=reject"),
        ("dmarc", OWN, "warning"),
    ),
    defect(
        "DMARC without a policy",
        "dmarc",
        lambda place: place.txt(f"_dmarc.{OWN}", "v=DMARC1; p=perhaps"),
        ("dmarc", OWN, "warning"),
    ),
    defect("strict DMARC", "dmarc", lambda place: place.txt(f"_dmarc.{OWN}", "v=DMARC1; p=reject; adkim=s; aspf=s")),
    defect(
        "a zone that fails",
        "dmarc",
        lambda place: place.zone.update({f"_dmarc.{OWN}": nameserver.SERVFAIL}),
        ("dmarc", OWN, "warning"),
    ),
    defect("no PTR", "ptr", no_ptr, ("reverse_dns", None, "problem")),
    defect("a PTR that leads elsewhere", "ptr", foreign_ptr, ("reverse_dns", None, "problem")),
    defect("no SECRET_KEY", "secret dkim mx spf dmarc returns", no_secret, ("secret_key", None, "problem")),
    defect("a guessable SECRET_KEY", "secret dkim mx spf dmarc returns", weak_secret, ("secret_key", None, "problem")),
    defect(
        "another SECRET_KEY", "secret dkim", lambda place: secret(place, SECRET_KEY[::-1]), ("dkim", OWN, "problem")
    ),
    defect(
        "no Redis",
        "redis",
        lambda place: place.settings.update(redis_url="redis://127.0.0.1:1"),
        ("redis", None, "warning"),
    ),
    defect("Redis not wanted", "redis", lambda place: place.settings.pop("redis_url")),
    defect(
        "nonsense for Redis",
        "redis",
        lambda place: place.settings.update(redis_url="http://127.0.0.1"),
        ("redis", None, "problem"),
    ),
    defect("an expired certificate", "tls", lambda place: expired(place, -1), ("certificate", None, "problem")),
    defect("one that expires soon", "tls", lambda place: expired(place, 13), ("certificate", None, "warning")),
    defect("a certificate of another", "tls", of_another, ("certificate", None, "problem")),
    defect(
        "an authority of our own",
        "tls public",
        self_made,
        ("certificate", None, "warning"),
        ("one_click", None, "problem"),
    ),
    defect(
        "no such certificate",
        "tls",
        lambda place: place.settings.update(tls_cert_file=str(place.folder / "gone.pem")),
        ("certificate", None, "problem"),
    ),
    defect("a listener that is not there", "submission", no_listener, ("listener.submission", None, "problem")),
    defect("a listener without STARTTLS", "smtp", without_starttls, ("listener.smtp", None, "problem")),
    defect(
        "somebody else's port",
        "http",
        lambda place: setattr(place.web, "usual", api.Act(status=404)),
        ("listener.http", None, "problem"),
    ),
    defect("no way out", "out ptr spf", lambda place: outbound(place, ""), ("provider", None, "warning")),
    defect(
        "a way to nowhere",
        "out ptr spf",
        lambda place: outbound(place, "capture://"),
        ("provider", "capture", "warning"),
    ),
    defect(
        "a URL that is none",
        "out ptr spf",
        lambda place: outbound(place, f"smtp://app:{PASSWORD}@relay.example/path"),
        ("provider", "OUTBOUND, URL 1", "problem"),
    ),
    defect(
        "a rule about nobody",
        "routes out",
        lambda place: place.settings.update(outbound_routes="to:*=nobody"),
        ("routes", None, "problem"),
    ),
    defect(
        "no alias for bounces",
        "returns",
        lambda place: place.zone.pop(f"bounces.{OWN}"),
        ("return_path", OWN, "warning"),
    ),
    defect("nowhere for bounces", "returns", lambda place: place.zone[RETURNS].pop("MX"), ("mx", RETURNS, "problem")),
    defect("no PUBLIC_URL", "public", lambda place: place.settings.pop("public_url"), ("one_click", None, "warning")),
    defect(
        "PUBLIC_URL of somebody else",
        "public",
        lambda place: setattr(place.public, "usual", api.Act(status=404)),
        ("one_click", None, "problem"),
    ),
    defect(
        "PUBLIC_URL in the clear",
        "public",
        lambda place: place.settings.update(public_url=place.web.url),
        ("one_click", None, "warning"),
    ),
    defect(
        "PUBLIC_URL out of reach",
        "public",
        lambda place: place.settings.update(public_url="https://localhost:1"),
        ("one_click", None, "problem"),
    ),
    defect("port 25 not tried", "out", unreached, ("provider", "mx", "warning")),
    defect(
        "port 25 closed",
        "out",
        lambda place: outbound(place, "mx://?port=1&allow_private=1"),
        ("provider", "mx", "problem"),
    ),
]


def together(defects: Iterable[Defect]) -> list[tuple[Defect, ...]]:
    """As few runs as will do, each of defects that have nothing to do with each other."""
    runs: list[list[Defect]] = []
    for one in defects:
        fitting = (run for run in runs if all(one.touches.isdisjoint(other.touches) for other in run))
        run = next(fitting, None)
        if run is None:
            runs.append([one])
        else:
            run.append(one)
    return [tuple(run) for run in runs]


@pytest.mark.parametrize("run", together(DEFECTS), ids=lambda run: ", ".join(one.name for one in run))
async def test_each_defect_is_its_own_finding_and_no_other(place: Place, run: tuple[Defect, ...]) -> None:
    for one in run:
        one.change(place)
    report = await place.report()
    assert not_well(report) == frozenset().union(*(one.expected for one in run)), report
    assert all(one["todo"] for one in report["findings"] if one["state"] != "ok")


async def test_a_domain_that_nobody_has_here_is_not_looked_at(place: Place) -> None:
    place.options = replace(place.options, domains=("odd.example", OWN.upper()))
    report = await place.report()
    assert not_well(report) == {("domain", "odd.example", "warning")}
    assert SHARED not in {one["subject"] for one in report["findings"]}


async def test_a_relay_that_refuses_the_password_is_a_problem_and_never_told_the_password(place: Place) -> None:
    place.relay.always("auth", sink.reply(f"535 5.7.8 no: {PASSWORD}"))
    report = await place.report()
    relay = f"smtp:127.0.0.1:{place.relay.port}"
    assert not_well(report) == {("provider", relay, "problem")}
    assert PASSWORD not in str(report)
    [said] = [one["found"] for one in report["findings"] if one["subject"] == relay]
    assert "535 5.7.8 no: ****" in said


async def test_a_test_mail_goes_signed_through_each_provider_and_nothing_else_does(place: Place) -> None:
    place.options = replace(place.options, send_test="me@peer.example")
    place.peer.always("rcpt", sink.reply("550 5.1.1 no such user"))
    report = await place.report()
    assert not_well(report) == {("send_test", "mx", "problem")}
    [message] = place.relay.messages
    assert (message.mail_from, message.recipients) == (f"postmaster@{SHARED}", ("me@peer.example",))
    fields = checking.Letter(message.raw)
    [signature] = [checking.parse(one) for one in fields.named(b"dkim-signature")]
    assert (signature.domain, signature.selector) == (SHARED, "house")
    assert place.peer.messages == []


async def test_keys_under_a_secret_key_before_are_told_until_they_are_sealed_anew(place: Place) -> None:
    place.settings |= {"secret_key": SECRET_KEY[::-1], "secret_key_previous": SECRET_KEY}
    place.options = replace(place.options, domains=(OWN,))
    report = await place.report()
    assert not_well(report) == {("secret_key.previous", None, "warning")}
    assert SECRET_KEY not in str(report)
    await keys.reseal(place.dsn, tokens.keyring(settings.load(**place.settings)))
    assert not_well(await place.report()) == set()
    place.settings["secret_key_previous"] = "short"
    assert ("secret_key", None, "problem") in not_well(await place.report())

"""OUTBOUND_ROUTES: what its rules ask for, which of them decides, and what is refused at the start."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import pytest

from gateway import errors, lifecycle, settings
from gateway.outbound import route, rules
from gateway.outbound.providers import contract
from tests.outbound import outgoing, sink

pytestmark = pytest.mark.anyio

OUTBOUND = "smtp://one.example?name=one smtp://two.example?tls=none&name=two postmark://token@"


def loaded(routes: str, outbound: str = OUTBOUND) -> settings.Settings:
    return settings.load(outbound=outbound, outbound_routes=routes, smtp_hostname="gateway.example")


def ways(routes: str, outbound: str = OUTBOUND, **message: Any) -> list[str]:
    """By which providers a message goes, in order, by the names of the contract."""
    author, tags = message.pop("author", ""), tuple(message.pop("tags", ()))
    found = rules.read(loaded(routes, outbound))
    wanted = dataclasses.replace(outgoing.message(**message), author=author, tags=tags)
    return [found.providers[position].name for position in found.ways(wanted)]


ONE, TWO, THREE = "smtp:one.example:25", "smtp:two.example:25", "postmark"


def test_without_rules_all_are_tried_in_order() -> None:
    assert ways("") == [ONE, TWO, THREE]


def test_a_rule_names_its_providers_by_name_or_scheme_in_its_own_order() -> None:
    assert ways("to:recipient.example=postmark,two") == [THREE, TWO]


@pytest.mark.parametrize(
    ("pattern", "domain", "fits"),
    [
        ("a.example", "a.example", True),
        ("A.Example", "a.example", True),
        ("a.example", "A.EXAMPLE.", True),
        ("a.example.", "a.example", True),
        ("a.example", "b.a.example", False),
        ("a.example", "xa.example", False),
        ("*.a.example", "b.a.example", True),
        ("*.a.example", "c.B.a.example", True),
        ("*.a.example", "a.example", False),
        ("*.a.example", "xa.example", False),
        ("bücher.example", "xn--bcher-kva.example", True),
        ("xn--bcher-kva.example", "Bücher.example", True),
        ("*.bücher.example", "x.BÜCHER.example", True),
        ("*", "anything.example", True),
        ("example", "a.example", False),
    ],
)
def test_a_domain_fits_in_either_writing_and_below_a_star(pattern: str, domain: str, fits: bool) -> None:
    assert (ways(f"to:{pattern}=two", rcpt_to=f"x@{domain}") == [TWO]) is fits
    assert (ways(f"from:{pattern}=two", author=f"x@{domain}") == [TWO]) is fits


def test_from_is_the_author_and_the_reverse_path_only_where_nobody_is_named() -> None:
    assert ways("from:sender.example=two") == [TWO]
    assert ways("from:sender.example=two", author="x@elsewhere.example") == [ONE, TWO, THREE]
    assert ways("from:sender.example=two", mail_from="", author="x@sender.example") == [TWO]
    assert ways("from:sender.example=two", mail_from="") == [ONE, TWO, THREE]


@pytest.mark.parametrize(
    ("pattern", "fits"), [("kind", True), ("bulk", True), ("kind:bulk", True), ("kind:other", False), ("Kind", False)]
)
def test_a_tag_fits_by_name_value_or_both(pattern: str, fits: bool) -> None:
    assert (ways(f"tag:{pattern}=two", tags=[("other", "x"), ("kind", "bulk")]) == [TWO]) is fits
    assert ways(f"tag:{pattern}=two") == [ONE, TWO, THREE]


def test_the_first_rule_that_fits_decides() -> None:
    routes = "to:a.example=two from:sender.example=one to:*.example=postmark to:*=two,one"
    assert ways(routes, rcpt_to="x@a.example") == [TWO]
    assert ways(routes, rcpt_to="x@b.example") == [ONE]
    assert ways(routes, rcpt_to="x@b.example", author="y@other.test") == [THREE]
    assert ways(routes, rcpt_to="x@b.test", author="y@other.test") == [TWO, ONE]


def test_all_conditions_of_a_rule_must_fit() -> None:
    routes = "from:sender.example&to:a.example&tag:bulk=two"
    assert ways(routes, rcpt_to="x@a.example", tags=[("tag", "bulk")]) == [TWO]
    assert ways(routes, rcpt_to="x@a.example") == [ONE, TWO, THREE]
    assert ways(routes, rcpt_to="x@b.example", tags=[("tag", "bulk")]) == [ONE, TWO, THREE]


def test_a_provider_that_is_only_routed_takes_nothing_else() -> None:
    outbound = "smtp://one.example smtp://two.example?only=routed&name=two"
    assert ways("", outbound) == [ONE]
    assert ways("to:a.example=two", outbound, rcpt_to="x@a.example") == [TWO]
    assert ways("to:a.example=two", outbound, rcpt_to="x@b.example") == [ONE]


def test_where_all_are_only_routed_the_rules_must_end_with_everybody() -> None:
    outbound = "smtp://one.example?only=routed"
    with pytest.raises(errors.ConfigurationError, match=r"to:\*=name"):
        rules.read(loaded("to:a.example=smtp", outbound))
    assert ways("to:a.example=smtp to:*=smtp", outbound) == [ONE]


@pytest.mark.parametrize(
    ("routes", "outbound", "what"),
    [
        ("to:a.example=three", OUTBOUND, "no provider of OUTBOUND is called 'three'; there are: one, postmark, two"),
        ("to:a.example=one,three", OUTBOUND, "is called 'three'"),
        ("to:a.example=smtp", "smtp://one.example smtp://two.example", r"2 providers of OUTBOUND are smtp://"),
        ("to:a.example=smtp", "", "there are: none"),
        ("to:a.example=one,one", OUTBOUND, "named twice"),
        ("to:a.example=", OUTBOUND, "a rule is"),
        ("to:a.example", OUTBOUND, "a rule is"),
        ("to:a.example=one,", OUTBOUND, "is called ''"),
        ("a.example=one", OUTBOUND, "begins with to:, from: or tag:"),
        ("cc:a.example=one", OUTBOUND, "begins with to:"),
        ("to:=one", OUTBOUND, "begins with to:"),
        ("to:a.example&=one", OUTBOUND, "begins with to:"),
        ("to:x@a.example=one", OUTBOUND, "not a domain"),
        ("to:a.*.example=one", OUTBOUND, "not a domain"),
        ("to:*a.example=one", OUTBOUND, "not a domain"),
        ("to:**=one", OUTBOUND, "not a domain"),
        ("tag:a.b=one", OUTBOUND, "a tag is"),
        ("tag:*=one", OUTBOUND, "a tag is"),
        ("", "smtp://one.example?name=x smtp://two.example?name=x", "two providers are called x"),
        ("", "smtp://one.example?name=postmark postmark://token@", "two providers are called postmark"),
        ("", "smtp://one.example?name=Upper", "small letters"),
        ("", "smtp://one.example?name=", "small letters"),
        ("", "smtp://one.example?name=a&name=b", "at most once"),
        ("", "smtp://one.example?only=always", "only= is one of routed"),
    ],
)
def test_what_cannot_be_meant_is_refused(routes: str, outbound: str, what: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=what) as caught:
        rules.read(loaded(routes, outbound))
    assert str(caught.value).startswith("OUTBOUND")


@pytest.mark.parametrize("url", ["capture://?name=x&only=routed", "mx://?only=routed&name=x&connections=2"])
async def test_every_kind_of_provider_can_be_named(url: str) -> None:
    found = rules.read(loaded("to:a.example=x", f"{url} smtp://one.example"))
    assert found.rules[0].ways == (0,)
    assert found.unrouted == (1,)
    for provider in found.providers:
        await provider.close()


def test_a_refused_url_is_not_repeated() -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        rules.read(loaded("", "smtp://user:hunter2@one.example?name=NO"))
    assert "hunter2" not in str(caught.value)


async def test_a_house_does_not_begin_to_send_with_a_rule_that_names_nobody(dsn: str) -> None:
    made = settings.load(
        database_url=dsn, secret_key="x" * 40, outbound="capture://", outbound_routes="to:a.example=relay"
    )
    async with lifecycle.opened(made) as gateway:
        with pytest.raises(errors.ConfigurationError, match="is called 'relay'; there are: capture"):
            gateway.router()


class Local:
    """The own house."""

    name = "local"

    async def send(
        self, message: contract.Outgoing, *, about_to_commit: contract.AboutToCommit | None = None
    ) -> contract.Verdict:
        raise NotImplementedError

    async def close(self) -> None:
        pass


async def test_own_domains_stay_here_whatever_the_rules_say() -> None:
    """Broken on purpose: with the rules asked before `_is_own`, the providers were those of the rule."""

    async def is_custom(domain: str) -> bool:
        return domain == "customer.example"

    found = rules.read(loaded("to:*=two to:own.example=one"))
    by = route.Router(found, ["own.example"], Local(), is_custom_domain=is_custom)
    for rcpt_to in ("x@own.example", "x@OWN.example", "x@customer.example"):
        assert [way.name for way in await by.providers_for(outgoing.message(rcpt_to=rcpt_to))] == ["local"]
    assert [way.name for way in await by.providers_for(outgoing.message(rcpt_to="x@sub.own.example"))] == [TWO]


async def test_a_rules_providers_fail_over_among_themselves_alone() -> None:
    async with contextlib.AsyncExitStack() as stack:
        broken, backup, usual = [
            await stack.enter_async_context(sink.Sink(credentials=("user", "right"))) for _ in range(3)
        ]
        outbound = " ".join(
            [
                usual.url("tls=none", user="user:right"),
                broken.url("tls=none&name=broken", user="user:wrong"),
                backup.url("tls=none&name=backup&only=routed", user="user:right"),
            ]
        )
        by = route.Router(rules.read(loaded("to:a.example=broken,backup to:b.example=broken", outbound)), [], Local())
        tries = await by.send(outgoing.message(rcpt_to="x@a.example"))
        assert [one.verdict.outcome for one in tries] == ["provider_fault", "sent"]
        [alone] = await by.send(outgoing.message(rcpt_to="x@b.example"))
        assert (alone.provider, alone.verdict.outcome) == ("", "deferred")  # broken is left alone; nobody else may
        await by.send(outgoing.message(rcpt_to="x@c.example"))
        assert (broken.count, backup.count, usual.count) == (0, 1, 1)
        await by.close()

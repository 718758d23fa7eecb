"""The way a message takes, and when a provider is left alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from gateway import settings
from gateway.outbound import providers, route
from gateway.outbound.providers import contract
from tests.outbound import outgoing, sink

pytestmark = pytest.mark.anyio

NOW = datetime.now(UTC)
GOOD = contract.Verdict(outcome="sent", reply="250 ok", started_at=NOW, finished_at=NOW, stage="dot", code=250)


def verdict(outcome: contract.Outcome, stage: contract.Stage) -> contract.Verdict:
    return dataclasses.replace(GOOD, outcome=outcome, stage=stage, code=None, reply="told to")


FAULT = verdict("provider_fault", "auth")
UNREACHED = verdict("deferred", "connect")


class Scripted:
    """A provider that answers what it is told to, and then well."""

    def __init__(self, name: str, *verdicts: contract.Verdict) -> None:
        self.name = name
        self.verdicts = list(verdicts)
        self.asked = 0

    async def send(
        self, message: contract.Outgoing, *, about_to_commit: contract.AboutToCommit | None = None
    ) -> contract.Verdict:
        self.asked += 1
        if about_to_commit is not None:
            await about_to_commit()
        return self.verdicts.pop(0) if self.verdicts else GOOD

    async def close(self) -> None:
        self.asked = -1


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def router(*ways: contract.Provider, own: Sequence[str] = (), clock: Clock | None = None) -> route.Router:
    return route.Router(ways, own, Scripted("local"), clock=clock or Clock())


async def tried(by: route.Router, rcpt_to: str = "user@recipient.example") -> list[tuple[str, str]]:
    tries = await by.send(outgoing.message(rcpt_to=rcpt_to))
    return [(one.provider, one.verdict.outcome) for one in tries]


async def ways(by: route.Router, rcpt_to: str) -> list[str]:
    return [way.name for way in await by.providers_for(outgoing.message(rcpt_to=rcpt_to))]


async def test_own_domains_stay_here_and_others_leave_in_order() -> None:
    by = router(Scripted("a"), Scripted("b"), own=["own.example", "*"])
    for address in ("x@own.example", "x@OWN.example.", '"@other.example"@own.example'):
        assert await ways(by, address) == ["local"]
    for address in ("x@other.example", "x@sub.own.example", '"@own.example"@other.example', "x@*"):
        assert await ways(by, address) == ["a", "b"]


async def test_an_own_domain_is_own_in_either_writing() -> None:
    for own in ("bücher.example", "xn--bcher-kva.example"):
        by = router(Scripted("a"), own=[own])
        assert await tried(by, "x@Bücher.example") == [("local", "sent")]
        assert await tried(by, "x@XN--bcher-kva.example") == [("local", "sent")]
        assert await tried(by, "x@\x00ü.example") == [("a", "sent")]


async def test_a_custom_domain_is_looked_up() -> None:
    async def is_custom(domain: str) -> bool:
        return domain == "customer.example"

    by = route.Router([Scripted("a")], [], Scripted("local"), is_custom_domain=is_custom)
    assert await tried(by, "x@Customer.Example") == [("local", "sent")]
    assert await tried(by) == [("a", "sent")]


async def test_the_next_provider_is_tried_where_one_is_at_fault() -> None:
    assert await tried(router(Scripted("a", FAULT), Scripted("b"))) == [("a", "provider_fault"), ("b", "sent")]


@pytest.mark.parametrize("outcome", ["sent", "delivered", "deferred", "bounced", "failed", "unknown"])
async def test_any_other_verdict_is_the_last_word(outcome: contract.Outcome) -> None:
    """Broken on purpose: with `unknown` among the reasons to go on in `Router.send`, the message went on to `b`."""
    second = Scripted("b")
    assert await tried(router(Scripted("a", verdict(outcome, "dot")), second)) == [("a", outcome)]
    assert second.asked == 0


async def test_a_provider_at_fault_is_left_alone_for_half_a_minute_then_tried_by_one() -> None:
    clock = Clock()
    bad = Scripted("a", FAULT, FAULT)
    by = router(bad, Scripted("b"), clock=clock)
    await by.send(outgoing.message())
    clock.now += 29
    assert await tried(by) == [("b", "sent")]
    clock.now += 1
    assert await tried(by) == [("a", "provider_fault"), ("b", "sent")]
    assert await tried(by) == [("b", "sent")]
    clock.now += 30
    assert await tried(by) == [("a", "sent")]
    assert await tried(by) == [("a", "sent")]


async def test_a_half_open_circuit_lets_one_through() -> None:
    clock = Clock()
    circuit = route.Circuit(Scripted("a"), clock)
    circuit.record(FAULT)
    assert not circuit.admits()
    clock.now += 30
    assert [circuit.admits() for _ in range(3)] == [True, False, False]
    clock.now += 30  # the one never came back
    assert circuit.admits()
    circuit.record(GOOD)
    assert [circuit.admits() for _ in range(3)] == [True, True, True]


async def test_failing_to_connect_opens_the_circuit_only_in_a_row() -> None:
    bad = Scripted("a", *[UNREACHED] * 4, GOOD, *[UNREACHED] * 5)
    by = router(bad, Scripted("b"))
    for _ in range(4):
        assert await tried(by) == [("a", "deferred")]
    assert await tried(by) == [("a", "sent")]
    for _ in range(5):
        assert await tried(by) == [("a", "deferred")]
    assert await tried(by) == [("b", "sent")]


async def test_one_sender_that_is_refused_does_not_stop_everybodys_mail() -> None:
    """Broken on purpose: with every fault opening the circuit at once, the second message did not go by `a`."""
    by = router(Scripted("a", verdict("provider_fault", "mail")), Scripted("b"))
    assert await tried(by) == [("a", "provider_fault"), ("b", "sent")]
    assert await tried(by) == [("a", "sent")]


async def test_refused_recipients_never_open_the_circuit() -> None:
    by = router(Scripted("a", *[verdict("bounced", "rcpt")] * 20, *[verdict("deferred", "rcpt")] * 20))
    for _ in range(40):
        await by.send(outgoing.message())
    assert await tried(by) == [("a", "sent")]


def at_a_host(outcome: contract.Outcome, stage: contract.Stage, host: str) -> contract.Verdict:
    return dataclasses.replace(verdict(outcome, stage), of_one_domain=True, remote=f"{host}:25")


def unreached(*hosts: str) -> list[contract.Verdict]:
    return [at_a_host("deferred", "connect", host) for host in hosts]


async def to_each(by: route.Router, *domains: str) -> list[str]:
    """By whom a message to each of the domains went last."""
    return [(await tried(by, f"x@{domain}"))[-1][0] for domain in domains]


async def test_where_nobody_is_reached_the_next_provider_takes_over_until_somebody_is() -> None:
    """Broken on purpose: with `record_at` never opening, the fourth domain's message went by `mx`, too; with `first`
    naming those that are doubted it named `mx`, whose dead destinations hold everything back."""
    clock = Clock()
    by = router(Scripted("mx", *unreached("h1", "h2", "h3", "h4")), Scripted("relay"), clock=clock)
    assert await to_each(by, "a", "b") == ["mx", "mx"]
    assert await tried(by, "x@c") == [("mx", "deferred"), ("relay", "sent")]
    assert await tried(by, "x@d") == [("relay", "sent")]
    clock.now += 30
    assert await by.first(outgoing.message()) == "relay"  # whoever waits for a turn waits there, and not at the dead
    assert await tried(by, "x@d") == [("mx", "deferred"), ("relay", "sent")]  # one tries, and reaches nobody
    assert await tried(by, "x@a") == [("relay", "sent")]
    clock.now += 30
    assert await to_each(by, "d", "a", "b") == ["mx", "mx", "mx"]


async def test_one_dead_destination_keeps_nobody_elses_mail_from_going_its_way() -> None:
    """Nor do domains that share their dead hosts, nor dead ones with living ones between.

    Broken on purpose: with domains alone counted, the fourth of those at one host went by the relay."""
    same = Scripted("mx", *unreached(*["h1"] * 20))
    assert set(await to_each(router(same, Scripted("relay")), *["dead"] * 10)) == {"mx"}
    assert set(await to_each(router(same, Scripted("relay")), *"abcdefghij")) == {"mx"}
    several = Scripted("mx", *unreached(*[f"h{number}" for number in range(5)]))  # hosts of one domain
    assert set(await to_each(router(several, Scripted("relay")), *["dead"] * 5)) == {"mx"}
    reached = at_a_host("bounced", "rcpt", "h9")
    mixed = Scripted("mx", *unreached("h1", "h2"), reached, *unreached("h3", "h4"), reached, *unreached("h5", "h6"))
    assert set(await to_each(router(mixed, Scripted("relay")), *"abcdefgh")) == {"mx"}


async def test_what_is_said_of_names_is_no_sign() -> None:
    nobody_asked = dataclasses.replace(at_a_host("deferred", "connect", ""), stage=None)
    by = router(Scripted("mx", *[nobody_asked] * 10), Scripted("relay"))
    assert set(await to_each(by, *"abcdefghij")) == {"mx"}


async def test_where_nobody_can_take_over_a_doubted_provider_goes_on() -> None:
    """Else one account that writes to dead domains would stop everybody's mail.

    Broken on purpose: without the last lines of `_admitting` the fourth message was not tried."""
    dead = unreached(*[f"h{number}" for number in range(9)])
    assert set(await to_each(router(Scripted("mx", *dead)), *"abcdefghij")) == {"mx"}
    by = router(Scripted("mx", *dead), Scripted("relay", FAULT))
    assert await to_each(by, "a", "b", "c", "d", "e", "living") == ["mx", "mx", "relay", "mx", "mx", "mx"]


async def test_where_every_provider_is_left_alone_the_message_waits_until_one_is_not() -> None:
    clock = Clock()
    by = router(Scripted("a", FAULT), clock=clock)
    assert await tried(by) == [("a", "provider_fault")]
    clock.now += 10
    (only,) = await by.send(outgoing.message())
    assert (only.provider, only.verdict.outcome, only.verdict.retry_after) == ("", "deferred", 20)


async def test_without_any_provider_the_message_waits() -> None:
    (only,) = await router().send(outgoing.message())
    assert (only.provider, only.verdict.outcome, only.verdict.retry_after) == ("", "deferred", None)
    assert "OUTBOUND" in only.verdict.reply


async def test_about_to_commit_is_awaited_for_each_provider() -> None:
    asked: list[str] = []

    async def about_to_commit() -> None:
        asked.append("once")

    await router(Scripted("a", FAULT), Scripted("b")).send(outgoing.message(), about_to_commit=about_to_commit)
    assert asked == ["once", "once"]


async def test_close_closes_all() -> None:
    first, second = Scripted("a"), Scripted("b")
    await router(first, second).close()
    assert (first.asked, second.asked) == (-1, -1)


async def test_real_relays_fail_over_and_the_message_goes_once() -> None:
    async with sink.Sink(credentials=("user", "right")) as broken, sink.Sink() as good:
        made = settings.load()
        ways = [
            providers.from_url(broken.url("tls=none", user="user:wrong"), made),
            providers.from_url(good.url(), made),
        ]
        by = route.Router(ways, [], Scripted("local"))
        assert [outcome for _, outcome in await tried(by)] == ["provider_fault", "sent"]
        assert [outcome for _, outcome in await tried(by)] == ["sent"]
        assert (broken.connections, broken.count, good.count) == (1, 0, 2)
        await by.close()

"""Fixtures for pytest: a gateway for the run, mailboxes for each test, and in the report of a failing one its mails.

    def test_sign_up(mailbox):
        sign_up(email=mailbox.address)
        assert mailbox.wait(code=True).code

    postroom       the gateway: `.http_url`, `.smtp_host`, `.smtp_port`, `.client`, `.env`
    mailbox        a mailbox of the test's own
    mailboxes      makes any number of them: `mailboxes()`, `mailboxes(ttl=60)`
    async_mailbox  the same as `mailbox`, with `await`
    smtp_sink      a mail server of the test's own for the application under test, and what it received

With POSTROOM_URL and POSTROOM_API_KEY (and POSTROOM_SMTP) set, the tests use that gateway. Otherwise they start one
(`postroom dev`) that all of pytest-xdist's workers share, and that is gone when they are, however they end. Mailboxes
of tests that fail are kept until they expire; all others are deleted.

pytest loads this module in each of its runs: nothing else is imported until a fixture is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from . import AsyncMailbox, Mailbox
    from .fixtures import Gateway, Sink

FOLDER = pytest.StashKey[str]()  # of the run's own gateway
INBOXES = pytest.StashKey["list[Mailbox | Sink]"]()  # what the report of a failing test shows
FAILED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    says = "how to start a gateway where POSTROOM_URL is not set: `postroom` of this command; ` dev …` is added"
    group = parser.getgroup("postroom", "Postroom")
    group.addoption("--postroom-command", metavar="COMMAND", help=says)
    parser.addini("postroom_command", says, default="")
    parser.addini("postroom_settings", "settings of a gateway that is started: NAME=value", type="linelist", default=[])


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's: once per worker, in the process that starts them
def pytest_configure_node(node: Any) -> None:
    node.config.stash[FOLDER] = node.workerinput["testrunuid"]


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Nothing is left when pytest ends."""
    if FOLDER in config.stash and not hasattr(config, "workerinput"):
        from . import shared  # noqa: PLC0415 - see the module's docstring

        shared.await_end(shared.folder_of(config.stash[FOLDER]))


@pytest.fixture(scope="session")
def postroom(pytestconfig: pytest.Config) -> Iterator[Gateway]:
    """The gateway that the run's mailboxes are at."""
    from . import fixtures  # noqa: PLC0415 - see the module's docstring

    with fixtures.gateway(pytestconfig, FOLDER) as gateway:
        yield gateway


@pytest.fixture
def mailboxes(postroom: Gateway, request: pytest.FixtureRequest) -> Iterator[Callable[..., Mailbox]]:
    """Makes mailboxes of the test's own, as `Postroom.mailbox` does."""
    from . import fixtures  # noqa: PLC0415 - see the module's docstring

    stash = request.node.stash
    shown = stash.setdefault(INBOXES, [])
    with fixtures.mailboxes(postroom, request.node.nodeid, shown, lambda: FAILED in stash) as make:
        yield make


@pytest.fixture
def mailbox(mailboxes: Callable[..., Mailbox]) -> Mailbox:
    """A mailbox of the test's own."""
    return mailboxes()


@pytest.fixture
def async_mailbox(postroom: Gateway, mailbox: Mailbox) -> AsyncMailbox:
    """The same as `mailbox`, with `await`."""
    from . import fixtures  # noqa: PLC0415 - see the module's docstring

    return fixtures.asynchronous_mailbox(postroom, mailbox)


@pytest.fixture
def smtp_sink(postroom: Gateway, request: pytest.FixtureRequest) -> Iterator[Sink]:
    """A mail server of the test's own: `.host`, `.port`, `.env` for the application under test; `.messages()`."""
    from . import fixtures  # noqa: PLC0415 - see the module's docstring

    with fixtures.sink(postroom) as sink:
        request.node.stash.setdefault(INBOXES, []).append(sink)
        yield sink


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The report of a test that fails shows what arrived in its mailboxes."""
    report = yield
    inboxes = item.stash.get(INBOXES, None)
    if report.failed and inboxes and FAILED not in item.stash:
        from . import fixtures  # noqa: PLC0415 - see the module's docstring

        item.stash[FAILED] = True
        report.sections.append(("mail that arrived", fixtures.told(inboxes)))
    return report

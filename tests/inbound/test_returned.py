"""Return paths at a domain that has mailboxes, too: what each address leads to, genuine, forged or neither."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from gateway import settings, tokens
from gateway.inbound import parsing, receive
from gateway.mail import verp
from gateway.storage import callbacks, db
from tests.inbound.test_receive import dropped, incoming, listed
from tests.outbound import bounces
from tests.storage import rows

pytestmark = pytest.mark.anyio

DOMAIN = "postroom.test"
PATHS = verp.ReturnPaths(tokens.Keyring(b"k" * 32), DOMAIN)
FORGED = f"bounces+{'a' * 42}@{DOMAIN}"


@pytest.fixture
async def pool() -> AsyncIterator[parsing.ParsingPool]:
    opened = parsing.ParsingPool()
    yield opened
    await opened.close()


@pytest.fixture(params=["drop", "reject", "create"])
def desk(database: db.Database, pool: parsing.ParsingPool, request: pytest.FixtureRequest) -> receive.Reception:
    """A desk whose only domain is that of return paths, too."""
    own = settings.Settings(mail_domains=(DOMAIN,), return_path_domain=DOMAIN, unknown_recipients=request.param)
    return receive.Reception(database, own, pool, told=lambda _: None, return_paths=PATHS)


async def test_a_mailbox_of_that_name_gets_its_mail_and_none_that_is_forged(
    desk: receive.Reception, database: db.Database, account_id: UUID
) -> None:
    """Negative control: with forged paths left as they are in `Returned.others` it failed: the mailbox had both."""
    box = await rows.mailbox(database, account_id, address=f"bounces@{DOMAIN}")
    genuine = uuid7()
    for address in (f"bounces@{DOMAIN}", FORGED, PATHS.address(genuine)):
        assert await desk.recipient(address, "") is None
        mail = incoming(address, raw=bounces.report("user@recipient.example"))
        assert await desk.deliver(mail) == f"250 2.0.0 queued as {mail.receipt_id}"
    [message] = await listed(database, account_id, box)
    assert message.envelope["rcpt_to"] == [f"bounces@{DOMAIN}"]
    assert await dropped(database) == 1
    async with database.connection() as connection:
        assert len(await callbacks.reports(connection, [genuine])) == 1
    assert await rows.count(database, "select count(*) from callbacks") == 1


async def test_no_mailbox_is_made_for_a_forged_path(
    desk: receive.Reception, database: db.Database, account_id: UUID
) -> None:
    assert await desk.recipient(FORGED, "") is None
    await desk.deliver(incoming(FORGED))
    assert await rows.count(database, "select count(*) from mailboxes where account_id = $1", account_id) == 0
    assert await dropped(database) == 1


async def test_what_cannot_be_kept_is_not_confirmed(pool: parsing.ParsingPool) -> None:
    away = db.Database("postgresql://nobody@127.0.0.1:1/nothing")
    await away.open()
    own = settings.Settings(mail_domains=(DOMAIN,), return_path_domain=DOMAIN)
    desk = receive.Reception(away, own, pool, told=lambda _: None, return_paths=PATHS)
    assert (await desk.deliver(incoming(PATHS.address(uuid7())))).startswith("451 4.3.0")
    await away.close()

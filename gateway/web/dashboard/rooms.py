"""All pages of the dashboard, in one list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.routing import Route

from gateway.lifecycle import Gateway
from gateway.web import access, api
from gateway.web.dashboard import (
    backlog,
    bounces,
    desk,
    domains,
    entrance,
    happened,
    keys,
    live,
    mail,
    mailboxes,
    outgoing,
    overview,
    seals,
    shell,
    statistics,
    suppressions,
    templates,
    webhooks,
)


def routes(gateway: Gateway, described: api.Api, access: access.Access) -> Sequence[Route]:
    """Every route of the dashboard."""
    around = shell.Shell(gateway.settings, desk.Operations(described, access), access, seals.Seals(gateway.keyring))
    pages: list[Any] = [
        entrance.Entrance(around),
        live.Live(),
        overview.Overview(),
        mail.Mail(),
        mailboxes.Mailboxes(),
        happened.Events(),
        outgoing.Emails(),
        backlog.Queue(),
        bounces.Bounces(),
        statistics.Statistics(),
        templates.Templates(),
        suppressions.Suppressions(),
        webhooks.Webhooks(),
        domains.Domains(),
        keys.Keys(),
    ]
    return around.routes([door for page in pages for door in page.routes()])

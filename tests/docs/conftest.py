"""One gateway for all pages, as `postroom dev` has it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest

from gateway import dev
from gateway.storage import accounts
from tests import databases, house, nameserver

AS_IN_DEV: Final = {"README.md", "pytest.md"}  # read with a key of the account that mail for any address comes to
DEPLOYED: Final = {
    "deployment.md",
    "operations.md",
    "monitoring.md",
    "settings.md",
    "security.md",
    "api.md",
    "events.md",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Gateway:
    """What runs for all pages."""

    home: house.House
    runner: asyncio.Runner
    first: UUID  # the account whose is what comes for nobody

    def environment(self, page: Path, folder: Path) -> dict[str, str]:
        """What a reader of this page has, beside an account of their own."""
        owner = self.first if page.name in AS_IN_DEV else None
        tenant = self.runner.run(self.home.tenant(account_id=owner))
        described = {
            "http_url": self.home.url,
            "smtp_host": "127.0.0.1",
            "smtp_port": self.home.smtp_port,
            "submission_port": self.home.submission_port,
            "api_key": tenant.key,
            "database_url": self.home.dsn,
            "redis_url": self.home.environment["REDIS_URL"],
        }
        (folder / ".postroom").mkdir(parents=True)
        (folder / ".postroom" / "secret_key").write_text(house.SECRET_KEY)
        dev.publish(folder / ".postroom", described)
        settings = {name: value for name, value in self.home.environment.items() if name not in house.PASSED}
        return {**dev.variables(described), **(settings if page.name in DEPLOYED else {})}


@contextlib.asynccontextmanager
async def _standing(dsn: str, redis_url: str) -> AsyncIterator[house.House]:
    """As `postroom dev` has it, with a DNS in which nothing is."""
    ports = {"PORT", "SMTP_PORT", "SUBMISSION_PORT", "HOST", "SMTP_HOST"}
    defaults = {name: value for name, value in dev.DEFAULTS.items() if name not in ports}
    async with nameserver.serving({}) as server, databases.fresh(dsn) as own:
        settings = {**defaults, "POSTROOM_DEV": "1", "DNS_SERVERS": server.address}
        async with house.standing(own, redis_url, settings=settings) as home:
            yield home


async def _account(home: house.House, name: str) -> UUID:
    async with databases.opened(home.dsn) as database, database.transaction() as connection:
        return await accounts.create(connection, name)


@pytest.fixture(scope="session")
def gateway(postgres_dsn: str, redis_url: str) -> Iterator[Gateway]:
    with asyncio.Runner() as runner:
        standing = _standing(postgres_dsn, redis_url)
        home = runner.run(standing.__aenter__())
        try:
            first = runner.run(_account(home, "main"))
            yield Gateway(home=home, runner=runner, first=first)
        finally:
            runner.run(standing.__aexit__(None, None, None))

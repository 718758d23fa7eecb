"""Which tests go to which tester: what starts processes first and one by one, the rest by whole modules.

Tests that start processes take seconds each and wait for half of them; at the end of a run one tester would be left
alone with them. Of the others there are thousands, which take milliseconds: handed out one by one, the process that
hands them out is busy with that alone, and each tester makes anew what a module has for all of its tests.
"""

from __future__ import annotations

from typing import Final

import pytest
from xdist.scheduler import LoadGroupScheduling  # type: ignore[import-untyped] # it ships no type information

QUICK: Final = frozenset({"inbound", "mail", "notify", "outbound", "storage", "web", "workers"})  # folders


def is_quick(nodeid: str) -> bool:
    """Whether hardly a test of its module starts a process."""
    folder, slash, _ = nodeid.removeprefix("tests/").partition("/")
    return bool(slash) and folder in QUICK


def slow_first(items: list[pytest.Item]) -> None:
    """In place."""
    items.sort(key=lambda item: is_quick(item.nodeid))


class ByModule(LoadGroupScheduling):  # type: ignore[misc] # for the same reason
    """`--dist loadgroup` in the order in which tests were collected, quick ones without a group by module."""

    def __init__(self, config: pytest.Config, log: object = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        scope: str = super()._split_scope(nodeid)
        return scope.partition("::")[0] if is_quick(scope) else scope

"""A Resolver over a dict, for suites that bring their own zones."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.resolving import Exchanger, NamesAway, NoSuchName

ALIASES: Final = 8  # followed in one question
TIMEOUT: Final = "TIMEOUT"

Zone = Mapping[str, Sequence[Any]]  # by name: {type: value}, or TIMEOUT for what does not stand before it


class Records:
    """Answers as the DNS would."""

    def __init__(self, zone: Zone) -> None:
        self._zone = {name.lower().rstrip("."): list(records) for name, records in zone.items()}

    def _ask(self, name: str, kind: str, aliases: int = ALIASES) -> list[Any]:
        key = name.lower().rstrip(".")
        if any(not 0 < len(label) <= 63 for label in key.split(".")) or key not in self._zone:
            raise NoSuchName(name)
        found: list[Any] = []
        for record in self._zone[key]:
            if record == TIMEOUT:
                if not found:
                    raise NamesAway(name)
                break
            [(type_, value)] = record.items()
            if type_ == kind and value == TIMEOUT:
                raise NamesAway(name)
            if type_ == kind:
                found.append(value)
            elif type_ == "CNAME" and aliases:
                return self._ask(value, kind, aliases - 1)
        return found

    async def txt(self, name: str) -> list[bytes]:
        texts = self._ask(name, "TXT")
        return [(text if isinstance(text, str) else "".join(text)).encode() for text in texts]

    async def a(self, name: str) -> list[str]:
        return self._ask(name, "A")

    async def aaaa(self, name: str) -> list[str]:
        return self._ask(name, "AAAA")

    async def addresses(self, name: str) -> list[str]:
        return [*await self.a(name), *await self.aaaa(name)]

    async def mx(self, name: str) -> list[Exchanger]:
        return sorted(Exchanger(preference=p, host=host.rstrip(".").lower()) for p, host in self._ask(name, "MX"))

    async def cname(self, name: str) -> str | None:
        return next(iter(self._ask(name, "CNAME", 0)), None)

    async def names(self, address: str) -> list[str]:
        return self._ask(ipaddress.ip_address(address).reverse_pointer, "PTR")

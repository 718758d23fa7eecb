"""How the ways out stand, as one worker process knows it: told with its sign of life, read by whoever wants to look.

A provider is ready, or left alone for a while (gateway.outbound.route). A destination is open, or slowed, asked us to
come later, or closed (gateway.outbound.shaping); those that are open are not told of. What peers said is not told
either: it was said about one account's mail, and destinations are everybody's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, TypeVar

import msgspec

T = TypeVar("T", "Way", "Shaped")
MOST: Final = 500  # destinations that one worker tells of

WayState = Literal["ready", "left_alone"]
DestinationState = Literal["slowed", "asked", "closed"]
_WORST: Final = ("ready", "slowed", "left_alone", "asked", "closed")  # in this order


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """A provider of OUTBOUND."""

    name: str
    state: WayState
    again_in: float = 0.0  # seconds until it is tried again; 0 = now


class Shaped(msgspec.Struct, frozen=True, kw_only=True):
    """A domain whose hosts are not written to freely, or a provider that is slowed."""

    name: str
    state: DestinationState
    again_in: float = 0.0  # seconds until it is written to again; 0 = it is being written to
    per_second: float | None = None  # attempts; None = as they come


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """All that one worker knows."""

    ways: list[Way] = msgspec.field(default_factory=list)
    destinations: list[Shaped] = msgspec.field(default_factory=list)


def written(standing: Standing) -> str:
    """As JSON, bounded."""
    kept = sorted(standing.destinations, key=lambda one: -_WORST.index(one.state))[:MOST]
    return msgspec.json.encode(msgspec.structs.replace(standing, destinations=kept)).decode()


def read(value: object, age: float) -> Standing:
    """What a worker told `age` seconds ago, as it is now; nothing of what another version tells otherwise."""
    try:
        told = msgspec.convert(value, Standing)
    except msgspec.ValidationError:
        return Standing()
    return Standing(
        ways=[_aged(one, age) for one in told.ways], destinations=[_aged(one, age) for one in told.destinations]
    )


def _aged(one: T, age: float) -> T:
    return msgspec.structs.replace(one, again_in=max(0.0, one.again_in - age))


def worst(told: Iterable[Standing]) -> tuple[dict[str, Way], dict[str, Shaped]]:
    """Of all workers, by name, what stands worst: that is where mail waits."""
    ways: dict[str, Way] = {}
    shaped: dict[str, Shaped] = {}
    for standing in told:
        for way in standing.ways:
            ways[way.name] = max(ways.get(way.name, way), way, key=_badness)
        for one in standing.destinations:
            shaped[one.name] = max(shaped.get(one.name, one), one, key=_badness)
    return ways, shaped


def _badness(one: Way | Shaped) -> tuple[int, float]:
    return _WORST.index(one.state), one.again_in

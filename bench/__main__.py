"""`python -m bench [name …] [--quick] [--seconds N]`: measure, and print one table. Nothing is written."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import pkgutil
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import bench
from bench import report, setting

ORDER = (
    "accept",
    "load",
    "everything",
    "arrival",
    "dashboard",
    "sends",
    "delivered",
    "destinations",
    "queue",
    "hot",
    "sockets",
    "sweep",
    "reclaim",
    "search",
    "stored",
    "memory",
    "hostile",
    "bombs",
    "flood",
    "enumeration",
    "soak",
    "extraction",
    "stranger",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One module of this package that measures."""

    name: str
    about: str  # first line of its docstring
    run: Callable[[setting.Setting], Awaitable[list[report.Row]]]


def measurements() -> list[Measurement]:
    """Every module here with a NAME and a `run`, the quick ones first."""
    found = []
    for module in pkgutil.iter_modules(bench.__path__):
        if module.name.startswith("__"):
            continue
        loaded = importlib.import_module(f"bench.{module.name}")
        if hasattr(loaded, "NAME") and hasattr(loaded, "run"):
            about = (loaded.__doc__ or "").partition("\n")[0]
            found.append(Measurement(name=loaded.NAME, about=about, run=loaded.run))
    return sorted(found, key=_place)


def _place(measurement: Measurement) -> tuple[int, str]:
    place = ORDER.index(measurement.name) if measurement.name in ORDER else len(ORDER)
    return place, measurement.name


def _arguments(known: list[Measurement]) -> argparse.Namespace:
    listed = "\n".join(f"  {each.name:12} {each.about}" for each in known)
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=(__doc__ or "").partition(": ")[2],
        epilog=f"names:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [each.name for each in known]
    parser.add_argument("names", nargs="*", metavar="name", help="which measurements; all where none is named")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: does everything still run?")
    parser.add_argument("--seconds", type=float, help="how long a soak takes")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(names)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return arguments


async def _measure(chosen: list[Measurement], where: setting.Setting) -> list[report.Row]:
    rows: list[report.Row] = []
    for each in chosen:
        begun = time.monotonic()
        print(f"{each.name}: {each.about}", file=sys.stderr, flush=True)
        found = await each.run(where)
        for row in found:
            print(f"  {row.what}: {row.ours} ({row.limit_name} {row.limit})", file=sys.stderr, flush=True)
        print(f"  {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
        rows += found
    return rows


def main() -> int:
    """1 where a target was missed."""
    known = measurements()
    arguments = _arguments(known)
    chosen = [each for each in known if not arguments.names or each.name in arguments.names]
    with setting.opened(quick=arguments.quick, seconds=arguments.seconds) as where:
        rows = asyncio.run(_measure(chosen, where))
    print(f"{report.machine()}{' · quick' if arguments.quick else ''}\n\n{report.table(rows)}")
    return int(any(row.met is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())

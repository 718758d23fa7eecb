"""The program `postroom`: under the name `sendmail`, or with that as its first word, it is sendmail(8) and imports
nothing else, for it is called for each mail of somebody's; else the commands of gateway.cli."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """The entry point."""
    name, *arguments = sys.argv
    if os.path.basename(name) == "sendmail":  # noqa: PTH119 - pathlib takes longer to import than the rest
        _sendmail(arguments)
    if arguments[:1] == ["sendmail"]:
        _sendmail(arguments[1:])
    from gateway import cli  # noqa: PLC0415 - see the module's docstring

    cli.main()


def _sendmail(arguments: list[str]) -> None:
    """Never returns."""
    from gateway.client import sendmail as program  # noqa: PLC0415 - likewise

    sys.exit(program.main(arguments))


if __name__ == "__main__":
    main()

"""A Python that is handed block after block, as somebody types them: one namespace, `await` at the top level.

python interpreter.py     reads a JSON object a line {"name", "text"}, answers each with {"out", "error"}
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import json
import sys
import traceback
from collections.abc import Awaitable


def main() -> None:
    """Until there is nothing left to read."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            answer = json.dumps(_run(json.loads(line), namespace, runner))
            sys.stdout.write(answer + "\n")
            sys.stdout.flush()


def _run(block: dict[str, str], namespace: dict[str, object], runner: asyncio.Runner) -> dict[str, str]:
    said, error = io.StringIO(), ""
    with contextlib.redirect_stdout(said):
        try:
            code = compile(block["text"], block["name"], "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(code, namespace)  # noqa: S307 - the project's own pages
            if inspect.isawaitable(result):
                runner.run(_awaited(result))
        except BaseException:  # noqa: BLE001 - whatever it is, the test shows it
            error = traceback.format_exc()
    return {"out": said.getvalue(), "error": error}


async def _awaited(result: Awaitable[object]) -> None:
    await result


if __name__ == "__main__":
    main()

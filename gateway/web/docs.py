"""The API's description for machines (/openapi.json) and for people (/docs), complete without the internet."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from gateway import errors
from gateway.web import edge

_FOLDER: Final = Path(__file__).parent / "static" / "docs"
_FILES: Final = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui-bundle.js.LICENSE.txt": "text/plain; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "start.js": "text/javascript; charset=utf-8",
}
# Scripts come from files alone. Swagger UI sets styles inline and draws its icons from data: URLs.
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_PAGE: Final = b"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Postroom API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="api"><noscript>This page needs JavaScript; <a href="/openapi.json">openapi.json</a> does not.</noscript></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""


def routes(document: bytes) -> list[Route]:
    """/openapi.json, /docs and the files that /docs loads. `document` is the encoded OpenAPI document."""

    async def openapi(request: Request) -> Response:
        edge.exchange(request.scope).route = "/openapi.json"
        return Response(document, media_type="application/json", headers={"cache-control": "no-cache"})

    return [
        Route("/openapi.json", openapi),
        Route("/docs", _page),
        Route("/docs/{name}", _file),
    ]


async def _page(request: Request) -> Response:
    edge.exchange(request.scope).route = "/docs"
    headers = {"content-security-policy": _POLICY, "referrer-policy": "no-referrer", "cache-control": "no-cache"}
    return Response(_PAGE, media_type="text/html", headers=headers)


async def _file(request: Request) -> Response:
    edge.exchange(request.scope).route = "/docs/{name}"
    name = request.path_params["name"]
    if name not in _FILES:
        raise errors.NotFound
    return FileResponse(_FOLDER / name, media_type=_FILES[name], headers={"cache-control": "max-age=86400"})

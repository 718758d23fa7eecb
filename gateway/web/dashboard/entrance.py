"""Signing in, by key or by link, and out; and how the pages look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.responses import Response

from gateway import errors, tokens
from gateway.web.dashboard import seals, shell

_OF_MAILBOX: Final = "That is the token of a mailbox. To sign in, use an API key: it begins with pr_key_."
_NO_KEY: Final = "That key is not valid."
_EXPIRED: Final = "That link has expired. Sign in with an API key, or start `postroom dev` again for a new link."
_NO_LINK: Final = "That link does not work. It may have lost its end on the way."
_YEAR: Final = 365 * 86_400


class Entrance:
    """/sign-in, /sign-out, /theme."""

    def __init__(self, around: shell.Shell) -> None:
        self._shell = around

    def routes(self) -> Sequence[shell.Door]:
        return [
            shell.get("/sign-in", self.ask, is_open=True),
            shell.post("/sign-in", self.sign_in, is_open=True),
            shell.get("/sign-in/{ticket}", self.by_link, is_open=True),
            shell.post("/sign-in/{ticket}", self.by_link_instead, is_open=True),
            shell.post("/sign-out", self.sign_out, is_open=True),
            shell.post("/theme", self.theme, is_open=True),
        ]

    async def ask(self, visit: shell.Visit) -> Response:
        """The form."""
        if visit.is_signed_in:
            return visit.go(shell.local(visit.query("next")))
        return self._asked(visit, shell.local(visit.query("next")))

    def _asked(self, visit: shell.Visit, following: str, *, status: int = 200, problem: str = "") -> Response:
        response = visit.show("sign_in.html", status=status, following=following, problem=problem)
        return self._shell.keep(visit.request, response, visit.session)

    async def sign_in(self, visit: shell.Visit) -> Response:
        """By the key; the browser is given a session, which does not hold it."""
        following, key = shell.local(visit.form["next"]), visit.form["key"]
        try:
            caller = await self._shell.access.admitted(key, visit.request)
        except errors.InvalidApiKey:
            return self._asked(visit, following, status=401, problem=_NO_KEY)
        except (errors.RestrictedApiKey, errors.RateLimitExceeded) as error:
            response = self._asked(visit, following, status=error.status, problem=error.message)
            if error.retry_after is not None:
                response.headers["retry-after"] = str(error.retry_after)
            return response
        if caller.mailbox_id is not None:
            return self._asked(visit, following, status=401, problem=_OF_MAILBOX)
        return self._welcomed(visit, tokens.hash_token(key), following)

    async def by_link(self, visit: shell.Visit) -> Response:
        """By a ticket, which leaves the address bar at once. Who is somebody else already is asked first."""
        try:
            key_hash, holds = self._shell.seals.read_ticket(visit.word("ticket"))
        except tokens.Unreadable:
            self._shell.access.guessed(visit.request)
            return self._asked(visit, "/", status=401, problem=_NO_LINK)
        if not holds:
            return self._asked(visit, "/", status=401, problem=_EXPIRED)
        if visit.is_signed_in and visit.session.key_hash != key_hash:
            return visit.show("sign_in_instead.html")
        return await self._by_hash(visit, key_hash)

    async def by_link_instead(self, visit: shell.Visit) -> Response:
        """Yes, as somebody else."""
        try:
            key_hash, holds = self._shell.seals.read_ticket(visit.word("ticket"))
        except tokens.Unreadable:
            return self._asked(visit, "/", status=401, problem=_NO_LINK)
        return await self._by_hash(visit, key_hash) if holds else self._asked(visit, "/", status=401, problem=_EXPIRED)

    async def _by_hash(self, visit: shell.Visit, key_hash: bytes) -> Response:
        try:
            await self._shell.access.holding(key_hash)
        except (errors.InvalidApiKey, errors.RestrictedApiKey) as error:
            return self._asked(visit, "/", status=401, problem=error.message)
        return self._welcomed(visit, key_hash, "/")

    def _welcomed(self, visit: shell.Visit, key_hash: bytes, following: str) -> Response:
        return self._shell.keep(visit.request, visit.go(following), seals.signed_in(key_hash))

    async def sign_out(self, visit: shell.Visit) -> Response:
        """This browser forgets; what else is open with the key stays."""
        response = visit.go(shell.SIGN_IN, said="You are signed out.")
        return self._shell.keep(visit.request, response, seals.stranger())

    async def theme(self, visit: shell.Visit) -> Response:
        """Light, dark, or as the system has it."""
        wanted = visit.form["theme"]
        response = visit.go(shell.local(visit.form["next"]))
        response.set_cookie("postroom-theme", wanted if wanted in shell.THEMES else "", max_age=_YEAR, samesite="lax")
        return response

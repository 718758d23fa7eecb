"""Mail that leaves: the log of what was sent, a form to send more, and one e-mail with all that became of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.responses import Response

from gateway.storage import emails, events
from gateway.web.dashboard import desk, layout, shell

FILTERS: Final = ("status", "to", "from", "subject", "tag", "since", "until")
EVENTS: Final = 200  # of one e-mail's that are shown
_LOCAL: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d)?")  # as a browser's field for a time has it
# Names in quotes may hold commas. A quote that is never closed takes all the rest, in one look.
_PIECE: Final = re.compile(r'"(?:\\.|[^"\\])*+\\?(?:"|(?P<open>\Z))|(?P<end>[,;\n])|[^,;\n"]+', re.DOTALL)
_END: Final = re.compile(r"[,;\n]")
_MAX_LISTED: Final = 100_000  # characters; the API takes no list of that length
_FIELDS: Final = ("from", "to", "cc", "bcc", "reply_to", "subject", "text", "html", "tags", "scheduled_at", "template")
_HEADERS: Final = {"referrer-policy": "no-referrer", "cross-origin-resource-policy": "same-origin"}
HAPPENS: Final = " ".join(sorted(one for one in events.TYPES if one.startswith("email.")))


class Emails:
    """/emails: the log, the form, and each e-mail."""

    def routes(self) -> Sequence[shell.Door]:
        return [
            shell.get("/emails", self.list),
            shell.post("/emails", self.send, max_body_bytes=4 * shell.MAX_FORM),
            shell.get("/emails/new", self.compose),
            shell.get("/emails/{id}", self.one),
            shell.get("/emails/{id}/html", self.html),
            shell.get("/emails/{id}/raw", self.raw),
            shell.get("/emails/{id}/reports/{report}", self.report),
            shell.post("/emails/{id}/retry", self.retry),
            shell.post("/emails/{id}/cancel", self.cancel),
            shell.post("/emails/{id}/reschedule", self.reschedule),
            shell.post("/emails/{id}/resend", self.resend),
        ]

    # The log

    async def list(self, visit: shell.Visit) -> Response:
        """Newest first. What is asked for wrongly is said beside the form, not instead of it."""
        asked = {name: visit.query(name) for name in FILTERS}
        query = {**asked, "since": _time(asked["since"]), "until": _time(asked["until"])}
        found, wrong = None, ""
        try:
            found = await visit.desk.get("/emails", cursor=visit.query("cursor"), limit=50, **_kept(query))
        except desk.Refused as refused:
            if refused.status != 422:
                raise
            wrong = refused.message
        told: dict[str, Any] = {"page": found, "asked": asked, "wrong": wrong, "is_asked": any(asked.values())}
        return visit.show("emails.html", **told, statuses=emails.ORDER, happens=HAPPENS)

    # Sending

    async def compose(self, visit: shell.Visit) -> Response:
        given = dict.fromkeys(_FIELDS, "") | {"from": _sender(visit)}
        given |= {name: visit.query(name) or given[name] for name in ("to", "template")}
        return await self._form(visit, given, once=layout.once())

    async def send(self, visit: shell.Visit) -> Response:
        """One e-mail for one form, however often it is sent: the form's key is the Idempotency-Key."""
        given = {name: visit.form[name] for name in (*_FIELDS, "variables")}
        once = visit.form["once"]
        try:
            made = await visit.desk.post("/emails", _email(given), once=once)
        except desk.Refused as refused:
            if refused.status not in (409, 422):
                raise
            return await self._form(visit, given, once=once, refused=refused)
        said = "It is scheduled." if made["status"] == "scheduled" else "It is on its way."
        return visit.go(f"/emails/{made['id']}", said=said)

    async def _form(
        self, visit: shell.Visit, given: Mapping[str, str], *, once: str, refused: desk.Refused | None = None
    ) -> Response:
        templates = (await visit.desk.get("/templates", limit=200))["data"] if visit.may("admin", "read") else []
        wrong = {} if refused is None else {name.partition("[")[0]: said for name, said in refused.fields.items()}
        return visit.show(
            "compose.html",
            status=200 if refused is None else refused.status,
            given={"variables": "", **given},
            templates=templates,
            key=once,
            wrong=wrong,
            refused=refused,
        )

    # One e-mail

    async def one(self, visit: shell.Visit) -> Response:
        """What was sent and what became of it; a script asks for the parts that change."""
        path, part = f"/emails/{visit.word('id')}", visit.request.headers.get("x-fragment", "")
        email = await visit.desk.get(path)
        told: dict[str, Any] = {"email": email, "shown": visit.query("show"), "happens": HAPPENS}
        told |= {"timeline": [], "attempts": [], "reports": []}
        if part in ("", "timeline"):
            told["timeline"] = await _timeline(visit, email["id"])
        if part in ("", "attempts"):
            told["attempts"] = (await visit.desk.get(f"{path}/attempts"))["data"]
        if part in ("", "reports"):
            told["reports"] = (await visit.desk.get(f"{path}/reports"))["data"]
        return visit.show("email.html", **told, **_allowed(email), tabs=_tabs(email))

    async def html(self, visit: shell.Visit) -> Response:
        """What the frame shows: made harmless by the API, without a right to run or load anything."""
        path = f"/emails/{visit.word('id')}/html"
        return visit.desk.passed_on(path, {"sanitized": True}, instead=_HEADERS | {"cache-control": "no-store"})

    async def raw(self, visit: shell.Visit) -> Response:
        return visit.desk.passed_on(f"/emails/{visit.word('id')}/raw", instead=_HEADERS)

    async def report(self, visit: shell.Visit) -> Response:
        path = f"/emails/{visit.word('id')}/reports/{visit.word('report')}"
        return visit.desk.passed_on(path, instead=_HEADERS)

    async def retry(self, visit: shell.Visit) -> Response:
        return await self._do(visit, "retry", said="It is tried again now.")

    async def cancel(self, visit: shell.Visit) -> Response:
        return await self._do(visit, "cancel", said="Whoever has not got it yet will not get it.")

    async def reschedule(self, visit: shell.Visit) -> Response:
        here = f"/emails/{visit.word('id')}"
        at = visit.form["scheduled_at"]
        try:
            await visit.desk.patch(here, {"scheduled_at": _time(at) or at})
        except desk.Refused as refused:
            return visit.go(here, refused=refused)
        return visit.go(here, said="It goes out at that time.")

    async def resend(self, visit: shell.Visit) -> Response:
        here = f"/emails/{visit.word('id')}"
        body = {"to": listed(visit.form["to"])} if visit.form["to"] else {}
        try:
            made = await visit.desk.post(f"{here}/resend", body, once=visit.form["once"])
        except desk.Refused as refused:
            return visit.go(here, refused=refused)
        return visit.go(f"/emails/{made['id']}", said="This is the new e-mail; it is on its way.")

    async def _do(self, visit: shell.Visit, what: str, *, said: str) -> Response:
        here = f"/emails/{visit.word('id')}"
        body = {"recipients": visit.form.all("recipient")} if "recipient" in visit.form else {}
        try:
            await visit.desk.post(f"{here}/{what}", body)
        except desk.Refused as refused:
            return visit.go(here, refused=refused)
        return visit.go(here, said=said)


# From forms to the API


def listed(text: str) -> list[str]:
    """Addresses that are separated by commas, semicolons or line ends."""
    pieces = [""]
    for found in _PIECE.finditer(text[:_MAX_LISTED]):
        if found["end"]:
            pieces.append("")
        elif found["open"] is None:
            pieces[-1] += found[0]
        else:
            first, *others = _END.split(found[0])
            pieces[-1:] = [pieces[-1] + first, *others]
    return [one.strip() for one in pieces if one.strip()]


def _time(text: str | None) -> str | None:
    """As the API wants it: a browser's field has no zone, and is labelled as UTC."""
    if text is None or not _LOCAL.fullmatch(text):
        return text
    return f"{text}Z" if text.count(":") == 2 else f"{text}:00Z"


def _kept(query: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}_" if name == "from" else name: value for name, value in query.items()}


def _email(given: Mapping[str, str]) -> dict[str, Any]:
    """The API's body: fields that were left empty are left out."""
    body: dict[str, Any] = {name: given[name] for name in ("from", "text", "html") if given[name]}
    if given["subject"] or not given["template"]:
        body["subject"] = given["subject"]
    body |= {name: people for name in ("to", "cc", "bcc", "reply_to") if (people := listed(given[name]))}
    body.setdefault("to", [])
    if tags := [one.strip().partition(":") for one in re.split(r"[,\n]", given["tags"]) if one.strip()]:
        body["tags"] = [{"name": name.strip(), "value": value.strip()} for name, _, value in tags]
    if at := given["scheduled_at"]:
        body["scheduled_at"] = _time(at)
    if given["template"]:
        body["template"] = {"id": given["template"], "variables": _variables(given["variables"])}
    return body


def _variables(text: str) -> Any:
    """A JSON object; what is none is left to the API to refuse by its field."""
    try:
        return json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return text


def _sender(visit: shell.Visit) -> str:
    """Somebody whom most gateways may send as."""
    domains = [*visit.caller.domains, *(one for one in visit.settings.mail_domains if one != "*")]
    return f"hello@{domains[0]}" if domains else ""


# From the API to the page


def _allowed(email: Mapping[str, Any]) -> dict[str, Any]:
    """What can be done to whom, by the states that the API goes by; it has the last word."""
    statuses = {one["status"] for one in email["recipients"]}
    return {
        "can_retry": bool(statuses & emails.RETRYABLE),
        "can_cancel": bool(statuses & emails.CANCELABLE),
        "can_reschedule": "scheduled" in statuses,
        "cancelable": emails.CANCELABLE,
        "retryable": emails.RETRYABLE,
        "is_held": "unknown" in statuses,
    }


def _tabs(email: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and label of each way to look at what was sent."""
    wanted = (("html", "HTML", email["html"]), ("text", "Text", email["text"]), ("headers", "Headers", True))
    return [(name, label) for name, label, there in wanted if there]


async def _timeline(visit: shell.Visit, email_id: str) -> list[dict[str, Any]]:
    """What the log tells of it, newest last; the log's beginning may be gone."""
    found = await visit.desk.get("/events", email=email_id, limit=EVENTS)
    return [_told(one) for one in found["data"]]


def _told(event: Mapping[str, Any]) -> dict[str, Any]:
    data = event["data"]
    words = {name: data.get(name) or "" for name in ("recipient", "provider", "reply", "attempt")}
    what = event["type"].removeprefix("email.")
    return {"id": event["id"], "what": what, "at": event["created_at"], **words}

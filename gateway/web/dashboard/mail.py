"""/mail: all mail that came in, searched as one types, and each message with all that is known of it."""

from __future__ import annotations

import base64
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from starlette.responses import RedirectResponse, Response

from gateway.web import messages, parts
from gateway.web.dashboard import desk, shell

PAGE: Final = 50  # messages of one page of a list
MAX_TEXT: Final = 500_000  # characters of text shown in a page; /raw has all of it
MAX_SOURCE: Final = 300_000  # octets of the source, likewise
MAX_FILES_BYTES: Final = 20_000_000  # of a form with attachments
MAX_SEVERAL: Final = 500  # mails that one form changes
DONE: Final = {  # what is done with several: what is said then
    "seen": "marked seen",
    "unseen": "marked unseen",
    "label": "labelled",
    "delete": "deleted",
}
VIEWS: Final = ("html", "text", "source", "headers", "parts", "delivery")
HELP: Final = (
    ("invoice", "a word of the subject or the text"),
    ('"your code"', "a phrase"),
    ("from:ann@shop.example", "a sender's whole address; @shop.example for a whole domain"),
    ("to:tests@postroom.test", "a recipient, likewise"),
    ("subject:welcome", "a word of the subject"),
    ("tag:signup", "what stood behind the + of the address"),
    ("label:checked", "a label"),
    ("has:attachment", "with files"),
    ("is:unseen", "not looked at yet; is:seen"),
    ("after:2026-01-31", "received since; before: likewise, also with a time"),
    ("larger:1m", "larger than that; smaller: likewise"),
    ("-from:@shop.example", "a minus in front: not that"),
)
# Content-Security-Policy of a message's HTML: as the API has it, and framed by us alone.
_FRAMED: Final = "; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
# Each is looked at once and back to its tag for so far only: a stranger writes what is searched.
_REMOTE: Final = re.compile(rb"""\bsrc\s{0,8}=\s{0,8}(?:\\?["'])?\s{0,8}https?:""", re.IGNORECASE)
_PICTURE: Final = re.compile(rb"<img\b[^>]*+\Z", re.IGNORECASE)
_ID: Final = re.compile(r"[0-9a-f-]{36}")
_BACK: Final = 2000  # octets
_LOOKED_AT: Final = 1_000_000  # octets of HTML


class _Whole(msgspec.Struct, frozen=True):
    """What a message's page needs of the API's answer; its bodies stay as they are, for they may be large."""

    html: msgspec.Raw
    text: msgspec.Raw


class Mail:
    """The pages."""

    def routes(self) -> Sequence[shell.Door]:
        return [
            shell.get("/mail", self.list),
            shell.post("/mail/several", self.several),
            shell.get("/mail/{id}", self.message),
            shell.get("/mail/{id}/html", self.html),
            shell.get("/mail/{id}/raw", self.raw),
            shell.get("/mail/{id}/parts/{index}", self.part),
            shell.post("/mail/{id}/change", self.change),
            shell.post("/mail/{id}/delete", self.delete),
            shell.get("/mail/{id}/reply", self.ask_reply),
            shell.post("/mail/{id}/reply", self.reply, max_body_bytes=MAX_FILES_BYTES),
            shell.get("/mail/{id}/forward", self.ask_forward),
            shell.post("/mail/{id}/forward", self.forward, max_body_bytes=MAX_FILES_BYTES),
        ]

    # Lists

    async def list(self, visit: shell.Visit) -> Response:
        """Newest first; `q` is the API's query language."""
        found = await listed(visit, "/messages")
        return visit.show("mail.html", **found)

    # One message

    async def message(self, visit: shell.Visit) -> Response:
        """All of it, in tabs; looking at it is having seen it."""
        raw = await self._opened(visit)
        message = msgspec.json.decode(raw)
        bodies = msgspec.json.decode(raw, type=_Whole)
        has_html, has_text = (bytes(body) not in (b"null", b'""') for body in (bodies.html, bodies.text))
        view = visit.query("view") or ("html" if has_html else "text")
        told: dict[str, Any] = {"remote": visit.query("pictures") == "remote"}
        if view == "source":
            told["source"] = await self._source(visit, message["id"])
        if view == "delivery":
            told["transcript"] = (await visit.desk.get(f"/messages/{message['id']}/transcript"))["lines"]
        box = await self._mailbox(visit, message["mailbox_id"])
        return visit.show(
            "message.html",
            mail=message,
            box=box,
            view=view if view in VIEWS else "text",
            has_html=has_html,
            has_text=has_text,
            has_remote=has_html and has_remote(bytes(bodies.html)),
            text=(message["text"] or "")[:MAX_TEXT],
            is_cut=len(message["text"] or "") > MAX_TEXT,
            neighbours=await self._neighbours(visit, message["seq"]),
            links=sorted(message["links"], key=lambda link: link["kind"] in ("other", "unsubscribe")),
            context=context(visit),
            **told,
        )

    async def _opened(self, visit: shell.Visit) -> bytes:
        path = f"/messages/{visit.word('id')}"
        if visit.may("mailboxes") and visit.query("seen") != "no":
            answer = await visit.desk.ask("PATCH", path, body={"seen": True})
        else:
            answer = await visit.desk.ask("GET", path)
        if not answer.is_good:
            raise desk.Refused(answer)
        return answer.content

    async def _mailbox(self, visit: shell.Visit, mailbox_id: str) -> dict[str, Any] | None:
        """None = it is gone."""
        answer = await visit.desk.ask("GET", f"/mailboxes/{mailbox_id}")
        found: dict[str, Any] | None = answer.json if answer.is_good else None
        return found

    async def _source(self, visit: shell.Visit, message_id: str) -> str:
        answer = await visit.desk.ask("GET", f"/messages/{message_id}/raw")
        if not answer.is_good:
            raise desk.Refused(answer)
        return answer.content[:MAX_SOURCE].decode("utf-8", "replace")

    async def _neighbours(self, visit: shell.Visit, seq: int) -> dict[str, str | None]:
        """The messages before and after it in the list that the reader came from."""
        path = f"/mailboxes/{visit.query('mailbox')}/messages" if visit.query("mailbox") else "/messages"
        found: dict[str, str | None] = {}
        for name, order in (("newer", "asc"), ("older", "desc")):
            asked = {"limit": 1, "order": order, "cursor": messages.behind(seq), "q": visit.query("q")}
            answer = await visit.desk.ask("GET", path, query=asked)
            data = answer.json["data"] if answer.is_good else []
            found[name] = data[0]["id"] if data else None
        return found

    async def html(self, visit: shell.Visit) -> Response:
        """The HTML body made harmless, for a frame; pictures of other hosts only when they were asked for."""
        remote = visit.query("pictures") == "remote"
        policy = (parts.REMOTE_PICTURES if remote else parts.LINKS_LEAD_OUT) + _FRAMED
        headers = {**shell.HEADERS, "content-security-policy": policy}
        asked = {"sanitized": True, "remote": True if remote else None}
        return visit.desk.passed_on(f"/messages/{visit.word('id')}/html", asked, instead=headers)

    async def raw(self, visit: shell.Visit) -> Response:
        """The whole message, to be saved."""
        return visit.desk.passed_on(f"/messages/{visit.word('id')}/raw", instead={"cache-control": "no-store"})

    async def part(self, visit: shell.Visit) -> Response:
        """One attachment, to be saved; with `inline` a picture in its place."""
        path = f"/messages/{visit.word('id')}/attachments/{visit.word('index')}"
        headers = {"cross-origin-resource-policy": "same-origin", "referrer-policy": "no-referrer"}
        return visit.desk.passed_on(path, {"inline": visit.query("inline")}, instead=headers)

    # Changes

    async def change(self, visit: shell.Visit) -> Response:
        """Seen or not, and labels."""
        message_id, form = visit.word("id"), visit.form
        here = f"/mail/{message_id}"
        try:
            if form["seen"]:
                await visit.desk.patch(here.replace("/mail", "/messages"), {"seen": form["seen"] == "yes"})
                return visit.go(
                    shell.local(form["next"] or here), said="" if form["seen"] == "yes" else "Marked unseen."
                )
            now = await visit.desk.get(f"/messages/{message_id}")
            labels = [label for label in now["labels"] if label != form["remove"]]
            labels += [form["add"]] if form["add"] else []
            await visit.desk.patch(f"/messages/{message_id}", {"labels": labels})
        except desk.Refused as refused:
            return visit.go(here, refused=refused)
        return visit.go(here)

    async def delete(self, visit: shell.Visit) -> Response:
        back = shell.local(visit.form["next"] or "/mail")
        try:
            await visit.desk.delete(f"/messages/{visit.word('id')}")
        except desk.Refused as refused:
            return visit.go(back, refused=refused)
        return visit.go(back, said="Deleted.")

    async def several(self, visit: shell.Visit) -> Response:
        """The same with each of those that were chosen (`ids`); what is gone meanwhile is left out."""
        form, back = visit.form, shell.local(visit.form["next"] or "/mail")
        chosen = list(dict.fromkeys(id for id in form.all("ids") if _ID.fullmatch(id)))[:MAX_SEVERAL]
        if not chosen or form["do"] not in DONE or (form["do"] == "label" and not form["label"]):
            return visit.go(back, said="Nothing was chosen.")
        done = 0
        for id in chosen:
            try:
                done += await self._with_one(visit, f"/messages/{id}")
            except desk.Refused as refused:
                refused.message = f"{done} of {len(chosen)} done; then: {refused.message}"
                return visit.go(back, refused=refused)
        return visit.go(back, said=f"{done} {'mail' if done == 1 else 'mails'} {DONE[form['do']]}.")

    async def _with_one(self, visit: shell.Visit, path: str) -> bool:
        """Whether it was there. Raises Refused."""
        do = visit.form["do"]
        try:
            if do == "delete":
                await visit.desk.delete(path)
            elif do == "label":
                labels = (await visit.desk.get(path))["labels"]
                await visit.desk.patch(path, {"labels": [*labels, visit.form["label"]]})
            else:
                await visit.desk.patch(path, {"seen": do == "seen"})
        except desk.Refused as refused:
            if refused.status != 404:
                raise
            return False
        return True

    # Answers

    async def ask_reply(self, visit: shell.Visit) -> Response:
        return await self._ask(visit, "reply")

    async def ask_forward(self, visit: shell.Visit) -> Response:
        return await self._ask(visit, "forward")

    async def _ask(
        self, visit: shell.Visit, what: str, refused: desk.Refused | None = None, given: Mapping[str, str] | None = None
    ) -> Response:
        message = await visit.desk.get(f"/messages/{visit.word('id')}")
        status = refused.status if refused is not None else 200
        return visit.show(
            "answer.html",
            status=status,
            what=what,
            mail=message,
            given=given or {},
            problem=shell.explained(refused) if refused is not None else "",
        )

    async def reply(self, visit: shell.Visit) -> Response:
        body = {"text": visit.form["text"], "reply_all": visit.form["reply_all"] == "yes"}
        return await self._answer(visit, "reply", body)

    async def forward(self, visit: shell.Visit) -> Response:
        to = [word for word in re.split(r"[,;\n]", visit.form["to"]) if word.strip()]
        body = {"to": [word.strip() for word in to], "text": visit.form["text"] or None}
        return await self._answer(visit, "forward", body)

    async def _answer(self, visit: shell.Visit, what: str, body: dict[str, Any]) -> Response:
        files = [
            {"filename": file.filename, "content": base64.b64encode(file.content).decode()}
            for file in visit.form.files("files")
        ]
        if files:
            body["attachments"] = files
        try:
            made = await visit.desk.post(f"/messages/{visit.word('id')}/{what}", body, once=visit.form["once"])
        except desk.Refused as refused:
            given = {name: visit.form[name] for name in ("text", "to", "reply_all")}
            return await self._ask(visit, what, refused, given)
        where = f"/emails/{made['id']}" if visit.has_page("/emails") else f"/mail/{visit.word('id')}"
        return visit.go(where, said="Queued: it is on its way." if what == "reply" else "Queued: it goes on its way.")


def has_remote(html: bytes) -> bool:
    """Whether pictures lie elsewhere; `html` is a JSON string."""
    for found in _REMOTE.finditer(html[:_LOOKED_AT]):
        tag = html.rfind(b"<", max(0, found.start() - _BACK), found.start())
        if tag >= 0 and _PICTURE.match(html, tag, found.start()):
            return True
    return False


async def listed(visit: shell.Visit, path: str) -> dict[str, Any]:
    """A page of a list of messages, and what is wrong with the query, if something is."""
    problem, page = "", {"data": [], "has_more": False, "next_cursor": None}
    seen = {"seen": True, "unseen": False}.get(visit.query("show") or "")
    try:
        page = await visit.desk.get(path, q=visit.query("q"), seen=seen, cursor=visit.query("cursor"), limit=PAGE)
    except desk.Refused as refused:
        if "q" not in refused.fields and "cursor" not in refused.fields:
            raise
        problem = "; ".join(refused.fields.values())
    return {"page": page, "problem": problem, "help": HELP, "context": context(visit)}


def context(visit: shell.Visit) -> str:
    """What a message's page must know to find its neighbours in this list: a query string, or nothing."""
    mailbox = visit.request.path_params.get("mailbox") or visit.query("mailbox")
    pairs = [(name, value) for name, value in (("q", visit.query("q")), ("mailbox", mailbox)) if value]
    return "?" + urllib.parse.urlencode(pairs) if pairs else ""


def elsewhere(path: str) -> Response:
    """Another address of the same page."""
    return RedirectResponse(path, 303, headers=dict(shell.HEADERS))

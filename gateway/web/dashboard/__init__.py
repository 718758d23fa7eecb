'''The dashboard: pages for people, over the same API that programs call.

A page never reaches into the gateway. It asks its desk, which carries the API's own operations out in this process, as
the key that signed in: scopes, limits and errors are the API's.

A page is a class, a template and an entry in the navigation:

    class Mailboxes:
        """/mailboxes: the list."""

        def routes(self) -> Sequence[shell.Door]:
            return [shell.get("/mailboxes", self.list), shell.post("/mailboxes", self.create)]

        async def list(self, visit: shell.Visit) -> Response:
            page = await visit.desk.get("/mailboxes", cursor=visit.query("cursor"))    # below /v1; None is left out
            return visit.show("mailboxes.html", page=page)

        async def create(self, visit: shell.Visit) -> Response:
            try:
                made = await visit.desk.post("/mailboxes", {"ttl_seconds": 600}, once=visit.form["once"])
            except desk.Refused as refused:                                            # the API said no: its words
                return visit.go("/mailboxes", refused=refused)
            return visit.go("/mailboxes", said=f"{made['address']} is ready.")         # 303; said on the next page

1. The class goes into the list in `rooms.py`. Its navigation entry stands in `layout.NAVIGATION` already, and shows as
   soon as its address has a route. What is not caught (`Refused`: not found, not allowed, too many requests) becomes a
   page that says so.
2. The template lies in `pages/` and begins `{% extends "base.html" %}`; it fills the blocks `title` and `content`. The
   macros of `macros.html` are `ui`: `ui.form(visit, "/path")` (with `{% call %}`: every POST needs its CSRF field),
   `ui.badge(status)`, `ui.time(text)`, `ui.size(bytes)`, `ui.pager(visit, page)`, `ui.empty(title)`, `ui.copy(text)`.
   `visit.may("send")` says whether the key has one of these scopes; `ui.lacking(visit, "send")` says that it has not.
3. Live: an element with `id`, `data-live="message.received message.deleted"` and `data-fragment="rows"` is fetched
   again when such an event comes: the same address, of which the handler's template renders `{% block rows %}` alone.
   Rows that have an `id` stay as they are while they say the same. Narrow it by `data-live-mailbox`, `data-live-email`
   (an id each). `import { subscribe } from "./live.js"` where more than that is wanted.
4. Scripts are ES modules in `static/dashboard/`, loaded in `{% block scripts %}` by `{{ asset("name.js") }}`. The
   policy of every page allows no inline script, no inline style and no string as HTML (Trusted Types: `swap` of
   `fragment.js` is the one way); charts are drawn as SVG on the server. Each page reads without any script.
5. `<form data-quiet>` is posted without leaving the page: what the handler passes to `visit.go` is shown, and what is
   live on the page is fetched anew. `data-confirm="…"` asks before. `data-key="n"` makes a shortcut of any link or
   button; the sheet behind `?` lists it with `data-key-says`, or its text.
6. A secret that is shown once is shown by answering the POST with a page (`visit.show`); `ui.once()` in the form makes
   a reload show it again, for the API answers the same Idempotency-Key with the same secret.
7. Tests take `page` (signed in, in Chromium) from `tests/web/dashboard/browser.py`.
'''

"""Answers: to whom they go, what ties them to their thread, what they quote."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.mail import answer, parse

OWN = frozenset({"me@postroom.test"})


def original(body: str = "Hello.", *, html: str | None = None, mail_from: str = "a@b.example", **fields: str) -> Any:
    header = {"From": "Ann <a@b.example>", "Subject": "Hi", "Message-ID": "<1@b.example>"} | {
        name.replace("_", "-"): value for name, value in fields.items()
    }
    raw = "".join(f"{name}: {value}\r\n" for name, value in header.items() if value) + f"\r\n{body}\r\n"
    parsed = parse.parse_fast(raw.encode()) or parse.parse_slow(raw.encode())
    return answer.Original(parsed=parsed, mail_from=mail_from, html=html)


def reply(to: answer.Original, *, to_all: bool = False, **words: str) -> answer.Answer:
    return answer.reply(to, answer.Words(**words or {"text": "Thanks."}), own=OWN, to_all=to_all)


def addresses(mailboxes: Any) -> list[str]:
    return [str(mailbox.address) for mailbox in mailboxes]


# To whom


@pytest.mark.parametrize(
    ("fields", "to"),
    [
        ({}, ["a@b.example"]),
        ({"Reply_To": "help@b.example"}, ["help@b.example"]),
        ({"Reply_To": "x@b.example, Y <y@b.example>, x@B.example"}, ["x@b.example", "y@b.example"]),
        ({"Reply_To": "nobody at all"}, ["a@b.example"]),
        ({"From": "me@postroom.test"}, ["me@postroom.test"]),
        ({"Auto_Submitted": "no"}, ["a@b.example"]),
    ],
)
def test_a_reply_goes_to_reply_to_else_to_from(fields: dict[str, str], to: list[str]) -> None:
    made = reply(original(**fields))
    assert (addresses(made.to), made.cc) == (to, ())


def test_a_reply_to_all_leaves_ourselves_and_repetitions_out() -> None:
    made = reply(
        original(
            To="ME+tag@postroom.test, bob@c.example, a@b.example",
            Cc="Bob <BOB@c.example>, Eve <eve@d.example>, not an address",
        ),
        to_all=True,
    )
    assert (addresses(made.to), addresses(made.cc)) == (["a@b.example"], ["bob@c.example", "eve@d.example"])


def test_a_reply_to_all_of_ones_own_mail_goes_to_whom_it_went() -> None:
    made = reply(original(From="me@postroom.test", To="bob@c.example", Cc="me@postroom.test"), to_all=True)
    assert (addresses(made.to), made.cc) == (["bob@c.example"], ())
    alone = reply(original(From="me@postroom.test", To="me@postroom.test"), to_all=True)
    assert addresses(alone.to) == ["me@postroom.test"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mail_from": ""}, "null reverse path"),
        ({"Auto_Submitted": "auto-replied"}, "Auto-Submitted"),
        ({"Auto_Submitted": "AUTO-generated; x=y"}, "Auto-Submitted"),
        ({"From": ""}, "nobody to reply to"),
        ({"From": "nobody"}, "nobody to reply to"),
        ({"From": "x@[192.0.2.1]"}, "nobody to reply to"),
    ],
)
def test_who_takes_no_replies_gets_none(change: dict[str, str], said: str) -> None:
    with pytest.raises(answer.Unanswerable, match=said):
        reply(original(**change))


# The thread


@pytest.mark.parametrize(
    ("fields", "references"),
    [
        ({}, ("<1@b.example>",)),
        ({"References": "<r@x> <0@x>", "In_Reply_To": "<0@x>"}, ("<r@x>", "<0@x>", "<1@b.example>")),
        ({"In_Reply_To": "<0@x>"}, ("<0@x>", "<1@b.example>")),
        ({"References": "<1@b.example> <r@x> <r@x>"}, ("<1@b.example>", "<r@x>")),
        ({"Message_ID": ""}, ()),
        ({"Message_ID": "no brackets", "References": "<r@x>"}, ("<r@x>",)),
    ],
)
def test_a_reply_stands_in_its_thread(fields: dict[str, str], references: tuple[str, ...]) -> None:
    made = reply(original(**fields))
    assert made.references == references
    assert made.in_reply_to == ("<1@b.example>" if "Message_ID" not in fields else None)


def test_of_many_references_the_first_and_the_last_stay() -> None:
    line = " ".join(f"<{n}@x>" for n in range(150))
    made = reply(original(References=line)).references
    assert len(made) == answer.MAX_REFERENCES
    assert (made[0], made[1], made[-2:]) == ("<0@x>", "<102@x>", ("<149@x>", "<1@b.example>"))


@pytest.mark.parametrize(
    ("subject", "replied", "forwarded"),
    [
        ("Hi", "Re: Hi", "Fwd: Hi"),
        ("Re: Hi", "Re: Hi", "Fwd: Re: Hi"),
        ("RE[4]: Hi", "RE[4]: Hi", "Fwd: RE[4]: Hi"),
        ("AW: Hi", "AW: Hi", "Fwd: AW: Hi"),
        ("Fwd: Hi", "Re: Fwd: Hi", "Fwd: Hi"),
        ("WG: Hi", "Re: WG: Hi", "WG: Hi"),
        ("Reply: no", "Re: Reply: no", "Fwd: Reply: no"),
        ("", "Re:", "Fwd:"),
    ],
)
def test_a_subject_says_once_what_it_is(subject: str, replied: str, forwarded: str) -> None:
    about = original(Subject=subject)
    assert reply(about).subject == replied
    assert answer.forward(about, answer.Words()).subject == forwarded


def test_a_long_subject_is_cut() -> None:
    assert len(reply(original(Subject="x" * 5000)).subject) == answer.MAX_SUBJECT


# What is quoted


def test_the_text_is_quoted_below_an_attribution() -> None:
    made = reply(original("One\r\n\r\n> two\r\n>> three", Date="Sat, 31 Jan 2026 13:00:00 +0100"))
    assert made.text == ("Thanks.\n\nOn 2026-01-31 at 12:00 UTC, Ann <a@b.example> wrote:\n> One\n>\n>> two\n>>> three")
    assert made.html is None


def test_html_is_quoted_where_html_is_said() -> None:
    made = reply(original(html="<p>Harmless</p>"), html="<p>Thanks</p>")
    assert made.text is None
    assert made.html is not None
    assert made.html.startswith("<p>Thanks</p>")
    assert "Ann &lt;a@b.example&gt; wrote:" in made.html
    assert made.html.endswith("<p>Harmless</p></blockquote>")
    both = reply(original(html="<p>Harmless</p>"), html="<p>Thanks</p>", text="Thanks")
    assert both.text is not None
    assert "> Hello." in both.text


def test_html_that_could_not_be_made_harmless_is_quoted_as_text() -> None:
    script = "<script>alert(1)</script>"
    made = reply(original(script, From=f'"{script}" <a@b.example>'), html="Thanks")
    assert made.html is not None
    assert "<script" not in made.html
    assert "&lt;script&gt;" in made.html


def test_what_is_quoted_is_bounded() -> None:
    long = original("x\r\n" * 400_000, html="y" * (answer.MAX_QUOTED_HTML + 1))
    made = reply(long, text="Thanks", html="Thanks")
    assert made.text is not None
    assert made.html is not None
    assert made.text.endswith(answer.LEFT_OUT)
    assert len(made.text) < 3 * answer.MAX_QUOTED
    assert len(made.html) < 3 * answer.MAX_QUOTED


def test_a_forward_tells_who_wrote_what_to_whom() -> None:
    about = original(
        "The body.", Date="Sat, 31 Jan 2026 13:00:00 +0100", To="Me <me@postroom.test>, b@c.example", Cc="d@e.example"
    )
    made = answer.forward(about, answer.Words(text="Look:"))
    assert made.text == (
        "Look:\n\n---------- Forwarded message ----------\nFrom: Ann <a@b.example>\n"
        "Date: Sat, 31 Jan 2026 12:00:00 +0000\nSubject: Hi\nTo: Me <me@postroom.test>, b@c.example\n"
        "Cc: d@e.example\n\nThe body."
    )
    assert made.html is None
    assert (made.in_reply_to, made.references) == (None, ("<1@b.example>",))


def test_a_forward_is_html_where_the_original_is() -> None:
    about = original(html="<b>Harmless</b>", Subject="<i>")
    for words in (answer.Words(), answer.Words(text="a < b"), answer.Words(html="<u>Look</u>")):
        made = answer.forward(about, words)
        assert made.html is not None
        assert made.html.endswith("<div><b>Harmless</b></div>")
        assert "Subject: &lt;i&gt;" in made.html
    look = answer.forward(about, answer.Words(html="<u>Look</u>"))
    assert (look.text or "").startswith("Look\n\n")
    assert (look.html or "").startswith("<u>Look</u>")


def test_an_empty_message_can_be_answered() -> None:
    parsed = parse.raw_only(b"From: a@b.example\r\n\r\n")
    about = answer.Original(parsed=parsed, mail_from="a@b.example", html=None)
    assert reply(about).text == "Thanks.\n\na@b.example wrote:\n>"
    assert "From: a@b.example" in (answer.forward(about, answer.Words()).text or "")

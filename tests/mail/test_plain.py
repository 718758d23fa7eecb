"""Plain text made of HTML: what a reader of text alone would want to have."""

from __future__ import annotations

import pytest

from gateway.mail import plain

LETTER = """<!doctype html><html><head><title>not seen</title><style>p { color: red }</style></head><body>
<div style="display:none">Your code is inside</div>
<h1>Welcome,&nbsp;Zo&euml;!</h1>
<p>Thanks for   signing up
   to <b>Acme</b> &amp; friends.</p>
<p><a href="https://acme.example/verify?t=1&amp;u=2">Confirm your address</a></p>
<ul><li>one</li><li>two <i>and</i> a half</li><li></li></ul>
<table><tr><td>Total</td><td>9&nbsp;&euro;</td></tr><tr><td>Tax</td><td>1 &euro;</td></tr></table>
<hr>Write to <a href="mailto:help@acme.example?subject=Hi">help@acme.example</a>
or call <a href="tel:+4930123">us</a>.<br>
See <a href="https://acme.example">https://acme.example</a>, <a href="#top">top</a>,
<a href="https://acme.example/shop"><img src="x.png" alt="the shop"></a>
<a href="https://acme.example/i"><img src="i.png"></a>
<script>alert(1)</script></body></html>"""


def test_a_letter_reads_as_one_would_write_it() -> None:
    assert plain.of_html(LETTER) == (
        "Your code is inside\n\nWelcome, Zoë!\n\nThanks for signing up to Acme & friends.\n\n"
        "Confirm your address (https://acme.example/verify?t=1&u=2)\n\n- one\n- two and a half\n\n"
        "Total 9 €\nTax 1 €\n\nWrite to help@acme.example or call us (+4930123).\n"
        "See https://acme.example, top, the shop (https://acme.example/shop) https://acme.example/i"
    )


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("just words", "just words"),
        ("a<br>b<br/><br>c", "a\nb\nc"),
        ("<p>a</p><p>b", "a\n\nb"),
        ("<div>a</div><div>b</div>", "a\nb"),
        ("a &lt;b&gt; &amp;lt;", "a <b> &lt;"),
        ("<img src='x.png'>", None),
        ("<style>p{}</style>", None),
        ("", None),
        ("<a href='javascript:alert(1)'>x</a>", "x"),
        ("<a href='https://x.example/a'>open", "open (https://x.example/a)"),
        ("1 < 2", "1 < 2"),
    ],
)
def test_small_things(html: str, text: str | None) -> None:
    assert plain.of_html(html) == text


def test_what_is_too_long_has_no_text_rather_than_half_of_one() -> None:
    assert plain.of_html("x" * plain.MAX_HTML) is not None
    assert plain.of_html("x" * (plain.MAX_HTML + 1)) is None


@pytest.mark.parametrize(
    "piece", ["<a href='https://x.example/", "<p>", "<!--", "<a>", "<img alt='", "&", "<li>", "</a>", "\0"]
)
def test_nothing_that_is_repeated_makes_it_slow_or_break(piece: str) -> None:
    """A megabyte of it; quadratic work would take minutes."""
    plain.of_html((piece * (plain.MAX_HTML // len(piece)))[: plain.MAX_HTML])

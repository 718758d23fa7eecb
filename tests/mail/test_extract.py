"""The code, the link and the line that programs wait for; and no number that is something else."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.mail import extract, links


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Your verification code is 482913.", "482913"),
        ("482913 is your Acme code", "482913"),
        ("Use code: 482 913 to sign in", "482913"),
        ("Your code:\n\n  482-913\n\nThanks, 1234 Main Street", "482913"),
        ("G-482913 is your Google verification code.", "482913"),
        ("Sign-in code 12 34 56", "123456"),
        ("Your OTP is 1234. It expires in 10 minutes", "1234"),
        ("your PIN 0042", "0042"),
        ("*Code*: *123456*", "123456"),
        ("Code (482913)", "482913"),
        ("code: 2024", "2024"),  # a year, but called a code
        ("Enter this code to continue: 12345678\n\nAcme Inc, 94107 Anywhere", "12345678"),
        ("Security code\n884213\n\nIf you did not ask for it, call +1 555 123 4567", "884213"),
        ("Invoice 20240101, code 8842", "8842"),
        ("Enter 482913 to verify your account", "482913"),
        ("Dein Bestätigungscode lautet 482913", "482913"),
        ("Votre code de vérification est 123456", "123456"),
        ("Su código es 123456", "123456"),
        ("Il tuo codice è 482913", "482913"),
        ("Ваш код: 4829", "4829"),
        ("验证码：482913，5分钟内有效", "482913"),
        ("認証コード：482913", "482913"),
        ("인증번호 [482913]를 입력", "482913"),
    ],
)
def test_the_code_comes_first_and_surely(text: str, value: str) -> None:
    first, *_ = extract.codes("", text, None)
    assert (first.value, first.source) == (value, "text")
    assert 0.5 <= first.confidence < 1
    assert len(first.context) <= 2 * 48 + 20


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Your code is X7K-29QD.", "X7K-29QD"),
        ("Enter BCDF-GHJK as the code", "BCDF-GHJK"),
        ("Your confirmation code:\n\na8f3k2\n", "a8f3k2"),
        ("ログインコード：Ｋ４Ｔ９ＺＰ", "K4T9ZP"),
        ("FB-48291 is your confirmation code", "48291"),
        ("Use verification code ABC-123 to continue", "ABC-123"),
        ("Your code is 482913.Do not share it", "482913"),
        ("Security code:482913", "482913"),
        ("كود التفعيل: ٥٨٢٠١٣", "582013"),
        ("आपका ओटीपी ४६३८२० है", "463820"),
        ("验证码：４８２９１３。", "482913"),
        ("61904があなたの認証番号です", "61904"),
        ("557310이 확인 코드입니다", "557310"),
        ("Kodunuz 7741'dir", "7741"),
        ("Your code:\n9 8 2 7 1 3\n", "982713"),
        ("Pairing code: 514 908 227", "514908227"),
        ("12-34-56 is your code", "123456"),
    ],
)
def test_a_code_is_given_as_one_types_it(text: str, value: str) -> None:
    first, *_ = extract.codes("", text, None)
    assert first.value == value


@pytest.mark.parametrize(
    ("html", "value"),
    [
        ("<p>Your code</p><table><tr><td>4</td>\n<td>8</td><td>2</td><td>9</td></tr></table>", "4829"),
        ("<p>Your code</p><table><tr><td>K</td><td>4</td><td>T</td><td>9</td></tr></table>", "K4T9"),
        (
            "<p>Your code:<span style='letter-spacing:9px'>4</span><span>8</span><span>2</span><span>9</span></p>",
            "4829",
        ),
        ("<p>Your code: <b>4</b> <b>8</b>&nbsp;<b>2</b> <b>9</b></p>", "4829"),
        ("<p>Your code</p><h1>&#52;829</h1>", "4829"),
    ],
)
def test_characters_that_html_sets_apart_are_one_code(html: str, value: str) -> None:
    (code,) = extract.codes("", None, html)
    assert (code.value, code.source) == (value, "html")


def test_steps_and_ratings_are_no_code() -> None:
    html = "<p>Rate our code</p><table><tr><td>1</td><td>2</td><td>3</td><td>4</td><td>5</td></tr></table>"
    assert extract.codes("Your code", "How was it? 1 2 3 4 5", html) == ()


@pytest.mark.parametrize(
    "text",
    [
        "Copyright 2024 Acme. Confirm your email",
        "Order number 12345678 is confirmed",
        "Confirm your payment of $1234.00, or 1234 EUR, or €1234",
        "Call +1 555 123 4567 for your code",
        "phone 555-123-4567 for a code",
        "Zip code 94107",
        "promo code 123456",
        "on 2024-01-02 your code ends",
        "https://example.com/code/123456 and verify@123456.example",
        "confirm at 12:3456 or 10.1234",
        "card 1234 5678 9012 3456, verify",
        "no cue here, just 482913",
        "Use code SAVE20 at checkout",
        "Use code WELCOME10 on your first order",
        "error code 80070 on version 4.18",
        "Your verification code is ready in the APP",
        "IMPORTANT: your verification code has expired",
        "from 203.0.113.42 on 14 March 2026, code attached",
        "login from DESKTOP-7F3K2QX",
        "优惠码：CHUN2026",
        "İndirim kodu: BAHAR20",
        "Номер заказа: 48120993",
        "the codes are at https://example.com/a-X7K2-29QD",
        "verify that 5000 users are here",
        "no digits at all in this code",
    ],
)
def test_other_numbers_are_no_codes(text: str) -> None:
    assert extract.codes("", text, None) == ()


def test_a_lonely_number_under_a_telling_subject_is_a_code() -> None:
    (code,) = extract.codes("Your verification code", "Hello,\n\n482913\n\nBye", None)
    assert code.value == "482913"
    assert extract.codes("Lunch", "Hello,\n\n482913\n\nBye", None) == ()


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        ("Your code", "It is 482913."),
        ("Your verification code", "Hello Ann,\n\nit is 482913. It works for ten minutes."),
        ("Your sign-in code", "Hi! Here it is: *482913*"),
        ("Ihr Bestätigungscode", "Guten Tag, er lautet 482913."),
        ("Votre code de connexion", "Bonjour,\nc'est 482913."),
        ("Tu código", "Es 482 913."),
        ("Ваш код", "Это 482913."),
    ],
)
def test_it_is_what_the_subject_says(subject: str, text: str) -> None:
    assert [code.value for code in extract.codes(subject, text, None)] == ["482913"]
    assert extract.codes("Lunch", text, None) == ()


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        ("Your order", "It is 482913."),
        ("Confirm your address", "It is 482913."),
        ("Your promo code", "It is 482913."),
        ("Your code", "It is 2026 now, and the code is gone."),
        ("Your code", "It is 4829 km away."),
        ("Your code", "It is $4829."),
        ("Your code", "Last year it was 482913, profit 48291."),
        ("Your code", "Tell us your ticket. It is 482913."),
    ],
)
def test_it_is_something_else(subject: str, text: str) -> None:
    assert extract.codes(subject, text, None) == ()


def test_html_is_asked_where_the_text_has_no_code() -> None:
    html = "<style>p{color:#123456}</style><!-- code 111111 --><p>Your code is</p><p><b>482913</b></p>"
    assert [(code.value, code.source) for code in extract.codes("", "See the HTML part", html)] == [("482913", "html")]
    assert [code.source for code in extract.codes("", "code 482913", html)] == ["text"]
    assert [code.source for code in extract.codes("482913 is your code", None, None)] == ["subject"]


@pytest.mark.parametrize(
    ("url", "label", "kind"),
    [
        ("https://example.com/verify?token=a", "", "verify"),
        ("https://example.com/x", "Confirm your email", "verify"),
        ("https://example.com/password/reset/abc", "", "reset"),
        ("https://example.com/x", "Sign in to Acme", "login"),
        ("https://example.com/magic/abc", "", "login"),
        ("https://example.com/x", "Accept the invitation", "invite"),
        ("https://example.com/unsubscribe/1", "", "unsubscribe"),
        ("https://login.example.com/", "Home", "other"),
    ],
)
def test_a_links_kind_is_by_its_name_and_then_by_its_path(url: str, label: str, kind: str) -> None:
    (link,) = extract.links(None, f'<p><a class="b" href="{url}">{label}</a></p>')
    assert (link.url, link.text, link.kind) == (url, label, kind)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Abmelden: https://example.com/x/1", "unsubscribe"),
        ("To confirm your address, go to:\n\nhttps://example.com/x/1", "verify"),
        ("https://example.com/%E9%80%80%E8%AE%A2", "unsubscribe"),
        ("Have a look: https://example.com/x/1", "other"),
    ],
)
def test_in_plain_text_a_links_kind_is_by_its_path_and_then_by_what_introduces_it(text: str, kind: str) -> None:
    (link,) = extract.links(text, None)
    assert (link.text, link.kind) == ("", kind)


def test_a_link_called_here_is_what_stands_before_it() -> None:
    html = "<p>To unsubscribe, click <a href='https://a.example/1'>here</a> | <a href='https://a.example/2'>Privacy</a></p>"
    assert [link.kind for link in extract.links(None, html)] == ["unsubscribe", "other"]


def test_links_are_found_in_html_and_text_each_once() -> None:
    html = "<A HREF='https://a.example/?x=1&amp;y=2'>A <b>bold</b>\n one</A>"
    html += "<a href=mailto:x@y.z>m</a><a href=javascript:x>j</a>"
    text = "See https://a.example/?x=1&y=2, (https://b.example/c_(d)) and <http://c.example>."
    assert [(link.url, link.text) for link in extract.links(text, html)] == [
        ("https://a.example/?x=1&y=2", "A bold one"),
        ("https://b.example/c_(d)", ""),
        ("http://c.example", ""),
    ]


def test_html_becomes_what_a_reader_sees() -> None:
    html = (
        "<head><title>T</title></head><body><p>One &amp;\n two</p><script>x<p>y</script><div>three<br>four</div>a < b"
    )
    assert extract.html_to_text(html) == "One & two\nthree\nfour\na < b"


def test_the_snippet_is_one_short_line() -> None:
    assert extract.snippet("  Hello\r\n\r\n  you\t\u200b\u200c there ", None) == "Hello you there"
    assert extract.snippet(" \n", "<p>Hi &zwnj;&nbsp;</p><p>all</p>") == "Hi all"
    assert len(extract.snippet("word " * 1000, None)) == extract.MAX_SNIPPET
    assert extract.snippet(None, None) == ""


BAD = [
    "1",
    " ",
    "-",
    "a-",
    "1 ",
    "123 ",
    "code ",
    "code 1234\n",
    "code is ",
    "1234 is ",
    "confirm 123456 ",
    "order no ",
]
BAD += ["\n", " \n", "http://", "http://a.b/ ", "&", "&am", "&#1;", "<", "<a ", "<a href=", "<a href=http://x>", "<!--"]
BAD += [
    "<script>",
    "<div>",
    '<a href="',
    "href  ",
    "kod",
    "verif",
    "a",
    "é",
    "_",
    "(",
    "1,",
    "$1",
    "١",
    "=",
    "<b>1234</b>",
]


@pytest.mark.parametrize("piece", BAD)
def test_a_megabyte_of_anything_is_bounded_in_what_it_gives(piece: str) -> None:
    """A quadratic pattern shows here by minutes: `\\w*code` did, with 59 s for a megabyte of digits."""
    huge = piece * (1_000_000 // len(piece))
    for found in (extract.everything(huge, huge, None), extract.everything("code", None, huge)):
        assert len(found.codes) <= extract.MAX_CODES
        assert len(found.links) <= extract.MAX_LINKS
        assert len(found.snippet) <= extract.MAX_SNIPPET


def test_only_so_many_codes_and_links_are_given() -> None:
    text = "".join(f"your code is {number}\nhttps://example.com/{number}\n" for number in range(3000, 4000))
    found = extract.everything("", text, None)
    assert (len(found.codes), len(found.links)) == (extract.MAX_CODES, extract.MAX_LINKS)


@given(st.text(max_size=200), st.text(max_size=200), st.text(alphabet="<>a/=\"'!- 1&;\n#", max_size=200))
@settings(deadline=None)
def test_nothing_raises_and_the_parts_agree_with_the_whole(subject: str, text: str, html: str) -> None:
    found = extract.everything(subject, text, html)
    assert found.codes == extract.codes(subject, text, html)
    assert found.links == extract.links(text, html)
    assert found.snippet == extract.snippet(text, html)


_URL_PIECES = [*"s/ >#ſ", "://", "http", "https", "HTTP", "a.b"]


@given(st.lists(st.sampled_from(_URL_PIECES), max_size=16).map("".join))
@example("http://a.b/https://a.bhttp://")
@settings(deadline=None)
def test_looking_at_colons_alone_finds_every_link_that_the_pattern_finds(text: str) -> None:
    assert [match[0] for match in links._urls(text)] == links._URL.findall(text)

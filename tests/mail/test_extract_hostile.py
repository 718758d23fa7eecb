"""Finding codes and links does work in proportion to the text, whoever wrote it, and invents nothing."""

from __future__ import annotations

import gc
import sys
import unicodedata
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.mail import codes, extract, page

PIECES = [
    *("1", "12", " ", "-", "1-", "1 ", "12 ", "1\n", "12.", "1(", "a1", "A1B2 ", "a1 ", "AAAA", "AAAA ", "AAA-"),
    *("<", '"', "'", "<a>1</a>", "<td>1</td>", "<a href=http://x>here</a>", "<!--", "&#49;", "code ", "code: 1234\n"),
    *(
        "482913 is your ",
        "order no ",
        "enter 1234 ",
        "http://",
        "https://x/y?a=1 ",
        "٤",
        "验证码1234",
        "１２３４ ",
        "x@1",
    ),
]


def _calls(subject: str, text: str, html: str, *, only: Callable[..., object] | None = None) -> int:
    """How many functions, of Python and of C (each try of a pattern is one), are called; or how often one is."""
    count = 0
    code = None if only is None else only.__code__

    def counted(frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in {"call", "c_call"} if code is None else event == "call" and frame.f_code is code

    before = sys.getprofile()
    gc.disable()  # what it would finalize meanwhile is not this work
    sys.setprofile(counted)
    try:
        extract.everything(subject, text, html)
    finally:
        sys.setprofile(before)
        gc.enable()
    return count


@pytest.mark.parametrize("piece", PIECES)
def test_twice_the_text_is_at_most_twice_the_work(piece: str) -> None:
    """Work is counted in calls: each candidate and each try of a pattern is one, and no pattern looks farther than a
    window of fixed length or the run that is skipped afterwards.

    Control: with what stands before a link gathered from the page's beginning, and as many links as there are, links
    took 3,537,694 calls, 918,350 for half of them.
    """
    half = piece * (extract.MAX_LOOK // 2 // len(piece))
    once, twice = _calls(piece, half, half), _calls(piece, half + half, half + half)
    assert twice <= 2 * once + 2_000
    assert twice <= 12 * extract.MAX_LOOK


@pytest.mark.parametrize("piece", ["1", "a1 ", "<td>1</td>", "code 1234\n"])
def test_what_lies_beyond_the_look_is_no_work(piece: str) -> None:
    """Control: with the whole page looked at, a megabyte of cells took 1,339,291 calls, not 99,898."""
    look, more = (piece * (length // len(piece) + 1) for length in (extract.MAX_LOOK, 1_000_000))
    assert _calls("", more, more) == _calls("", look[: extract.MAX_LOOK], look[: extract.MAX_LOOK])


@pytest.mark.parametrize("piece", ["code 1234\n", "AAAA ", "验证码1234"])
def test_only_so_many_candidates_are_weighed(piece: str) -> None:
    """Each costs a look at the words around it. Control: with MAX_CANDIDATES at 10⁹, 2,048 were."""
    text = piece * (extract.MAX_LOOK // len(piece))
    assert 0 < _calls("", text, "", only=codes._confidence) <= 200


@pytest.mark.parametrize("piece", ["1(", "1a ", "1a1a", "AAA1"])
def test_only_so_many_pieces_are_looked_at(piece: str) -> None:
    """Control: with MAX_LOOKS at 10⁹, 21,845 pieces of "1a " were."""
    text = piece * (extract.MAX_LOOK // len(piece))
    assert _calls("", text, "", only=codes._mixed) <= 4_100


CUES = ["code", "Your code is ", "OTP: ", "код ", "验证码", "رمز ", "कोड ", "order ", "% off", "enter ", "\n\n"]
BITS = [
    "4",
    "82",
    "913",
    "482913",
    "K4T9ZP",
    "AB",
    "x7k",
    " ",
    "-",
    "\n",
    "٤٨",
    "४६",
    "４８２９１３",
    "Ａ",
    "İ",
    ".",
    ":",
]
TAGS = ["<td>", "</td>", "<b>", "<br>", "&nbsp;", "&#52;", "<a href='https://x.example/verify'>", "</a>", "<", ">"]


def _typed(words: str) -> str:
    """Digits and letters alone, of whatever script the digits were."""
    west = "".join(str(unicodedata.decimal(each, each)) for each in unicodedata.normalize("NFKC", words))
    return "".join(filter(str.isalnum, west))


@given(
    st.lists(st.sampled_from(CUES + BITS), max_size=8).map("".join),
    st.lists(st.sampled_from(CUES + BITS), max_size=30).map("".join),
    st.lists(st.sampled_from(CUES + BITS + TAGS), max_size=30).map("".join),
)
@settings(deadline=None)
def test_every_code_stands_in_the_message(subject: str, text: str, html: str) -> None:
    found = extract.everything(subject, text, html)
    sources = {"subject": subject, "text": text, "html": page.Page(html).text}
    for code in found.codes:
        assert _typed(code.value) in _typed(sources[code.source])
        assert 4 <= len(_typed(code.value)) <= 16
        assert code.value.isascii()
        assert 0.5 <= code.confidence < 1
        assert _typed(code.value) in _typed(code.context)
    for link in found.links:
        assert link.url.startswith("http")


@given(st.text(), st.text(), st.text())
@settings(deadline=None)
def test_nothing_that_is_text_raises(subject: str, text: str, html: str) -> None:
    extract.everything(subject, text, html)


def test_lone_surrogates_and_nul_are_text_as_well() -> None:
    odd = "\ud800code: 482913\x00 \udfff"
    assert [code.value for code in extract.everything(odd, odd, f"<p>{odd}</p>").codes] == ["482913"]

"""Words: the same for what is read and what is asked, in every script."""

from __future__ import annotations

import operator
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.mail import terms

TEXTS = st.text(max_size=200)
SCRIPTS = st.text(alphabet="aZ9éßñ İı ЁёйщЖ ΑάςΣ أحمدَ עברית 日本語カナｶﾅ 한국어 ภาษาไทย हिन्दी .,-_@ﬁ①Ⅳ²", max_size=60)


def words(text: str) -> list[str]:
    places = [(place, word) for word, at in terms.of_text(text).items() for place in at]
    return [word for _, word in sorted(places, key=operator.itemgetter(0))]


def found(text: str, wanted: str) -> bool:
    return terms.holds(terms.of_text(text), terms.of_query(wanted))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World! It's 2026", ["hello", "world", "it", "s", "2026"]),
        ("Café CRÈME naïve Ångström", ["cafe", "creme", "naive", "angstrom"]),
        ("Straße STRASSE ﬁn ﬀ", ["strasse", "strasse", "fin", "ff"]),
        ("Ёлка, ещё Мой", ["елка", "еще", "мой"]),
        ("Καλημέρα ΚΌΣΜΕ κόσμος", ["καλημερα", "κοσμε", "κοσμοσ"]),
        ("مَرْحَبًا مرحبا", ["مرحبا", "مرحبا"]),
        ("שָׁלוֹם שלום", ["שלום", "שלום"]),
        ("हिन्दी", ["हिन्दी"]),
        ("ＦＵＬＬ　Ｗｉｄｔｈ １２", ["full", "width", "12"]),
        ("snake_case@x.example", ["snake", "case", "x", "example"]),
        ("日本", ["日本", "日", "本"]),
        ("", []),
        ("--- ... !!", []),
    ],
)
def test_a_text_is_cut_into_these_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "wanted", "is_there"),
    [
        ("東京都に住んでいます", "東京", True),
        ("東京都に住んでいます", "東京都に", True),
        ("東京都に住んでいます", "京東", False),
        ("東京都に住んでいます", "都", True),
        ("東京 都", "東京都", False),
        ("Ihr Code für 東京Tower ist da", "東京tower", True),
        ("สวัสดีครับ", "สวัสดี", True),
        ("안녕하세요", "안녕", True),
        ("reset your password", "your password", True),
        ("reset your password", "reset password", False),
        ("reset your password", "pass", False),
        ("write to alice@x.example today", "alice@x.example", True),
        ("write to malice@x.example", "alice@x.example", False),
        ("Grüße", "GRUSSE", True),
    ],
)
def test_a_text_holds_a_phrase_or_does_not(text: str, wanted: str, is_there: bool) -> None:
    assert found(text, wanted) is is_there


@given(SCRIPTS | TEXTS)
@example("ά")
def test_a_text_holds_what_it_is_itself(text: str) -> None:
    if terms.of_query(text):
        assert found(text, text)
        assert found(f"before {text} after", text)


@given(SCRIPTS | TEXTS)
def test_nothing_is_lost_by_another_way_of_writing_the_same(text: str) -> None:
    for form in ("NFC", "NFD"):
        assert terms.of_text(unicodedata.normalize(form, text)) == terms.of_text(text)


@given(SCRIPTS | TEXTS)
def test_a_word_is_made_of_letters_digits_and_their_marks(text: str) -> None:
    for word in terms.of_text(text):
        assert word
        assert len(word) <= terms.MAX_WORD
        assert not set(word) & set(" \n\t'\"\\:,.@-_|&!()<>*\0")


@given(TEXTS)
def test_words_stand_in_their_order(text: str) -> None:
    for places in terms.of_text(text).values():
        assert places == sorted(set(places))


def test_no_phrase_reaches_from_one_text_into_the_next() -> None:
    both = terms.of_texts(["one two", "", "three four"])
    assert terms.holds(both, terms.of_query("three four"))
    assert not terms.holds(both, terms.of_query("two three"))


def test_an_endless_text_costs_no_more_than_its_beginning() -> None:
    for text in ("a " * 1_000_000, "x" * 1_000_000, "日" * 1_000_000, "é " * 1_000_000):
        places = [place for at in terms.of_texts([text, text]).values() for place in at]
        assert 0 < max(places) <= terms.MAX_PLACE

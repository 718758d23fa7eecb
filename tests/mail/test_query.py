"""The query language: what each term means, and what is said of a broken one."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mail import query, terms
from gateway.mail.query import Condition, Filters

JAN31 = datetime(2026, 1, 31, tzinfo=UTC)


def words(text: str, **fields: Any) -> Condition:
    return Condition(**{"kind": "words", "words": tuple(terms.of_query(text))} | fields)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello", [words("hello")]),
        ("Hello wörld", [words("hello"), words("world")]),
        ('"two words"', [words("two words")]),
        ('-"two words" -one', [words("two words", negated=True), words("one", negated=True)]),
        ("from:Alice@X.example", [Condition(kind="from", value="alice@x.example")]),
        ("from:<alice@x.example>", [Condition(kind="from", value="alice@x.example")]),
        ("FROM:@x.example", [Condition(kind="from_domain", value="x.example")]),
        ("from:x.example", [Condition(kind="from_domain", value="x.example")]),
        ("from:bücher.example", [Condition(kind="from_domain", value="xn--bcher-kva.example")]),
        ("from:Ann", [words("ann", kind="from_name")]),
        ('from:"Ann B. Smith"', [words("ann b smith", kind="from_name")]),
        ("-to:bob@y.example", [Condition(kind="to", value="bob@y.example", negated=True)]),
        ("to:y.example", [Condition(kind="to_domain", value="y.example")]),
        ('subject:"your code"', [words("your code", kind="subject")]),
        ("tag:Signup", [Condition(kind="tag", value="signup")]),
        ("https://x.example/a?b=1", [words("https x example a b 1")]),
        ("foo:bar 12:30", [words("foo bar"), words("12 30")]),
        ('foo:"bar baz"', [words("foo bar baz")]),
        ("tom & - jerry", [words("tom"), words("jerry")]),
        ("東京", [words("東京")]),
        ("  ", []),
    ],
)
def test_words_and_addresses_mean_this(text: str, expected: list[Condition]) -> None:
    read = query.parse(text)
    assert list(read.conditions) == expected
    assert read.filters == Filters()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("label:done", Filters(labelled=("done",))),
        ('label:"To do" -label:done', Filters(labelled=("To do",), unlabelled=("done",))),
        ("has:attachment", Filters(attached=True)),
        ("-has:attachment", Filters(attached=False)),
        ("is:seen", Filters(seen=True)),
        ("is:unseen", Filters(seen=False)),
        ("-is:unseen", Filters(seen=True)),
        ("before:2026-01-31", Filters(until=JAN31)),
        ("-before:2026-01-31", Filters(since=JAN31)),
        ("after:2026-01-31T01:00:00+01:00", Filters(since=JAN31)),
        ('after:"2026-01-31T00:00Z"', Filters(since=JAN31)),
        ("after:2026-01-31 after:2026-01-01", Filters(since=JAN31)),
        ("larger:10k", Filters(size_min=10_241)),
        ("-larger:10k", Filters(size_max=10_240)),
        ("smaller:5MB", Filters(size_max=5 * 1024**2 - 1)),
        ("larger:999g", Filters(size_min=query.MAX_SIZE)),
    ],
)
def test_filters_mean_this(text: str, expected: Filters) -> None:
    assert query.parse(text) == query.Query(filters=expected)


@pytest.mark.parametrize("text", ["is:seen is:unseen", "has:attachment -has:attachment", "smaller:0"])
def test_a_contradiction_is_no_mistake(text: str) -> None:
    assert query.parse(text).filters.impossible


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"', "not closed"),
        ('hello "world', "not closed"),
        ('a"b"', "middle of a word"),
        ("from:", "from: needs a value"),
        ('subject:""', "subject: needs a value"),
        ('""', "nothing"),
        ("from:@", "neither an address nor a domain"),
        ("from:!!", "no letter"),
        ("before:yesterday", "no date"),
        ("after:2026-02-30", "no date"),
        ("after:0001-01-01T00:00:00+23:00", "no date"),
        ("larger:big", "no size"),
        ("smaller:-1", "no size"),
        ("has:feet", "has: knows attachment"),
        ("is:green", "is: knows seen"),
        ("&&", "no letter"),
        ("a\0b", "control"),
        ("a \ud800", "control"),
        ("x" * 501, "500"),
        ("x " * 21, "20 terms"),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    with pytest.raises(query.InvalidQuery, match=said):
        query.parse(text)


@given(
    st.text(max_size=80)
    | st.lists(st.sampled_from(['"', "-", "from:", "a@b.c", " ", "x", ":", "larger:", "9k"])).map("".join)
)
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(query.InvalidQuery):
        query.parse(text)

"""Mailpit's search language, read."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gateway import errors
from gateway.storage.mails import EVERYTHING, Term, Wanted
from gateway.web.mailpit import asking


def wanted(text: str, timezone: str = "") -> Wanted:
    return asking.read(text, timezone).wanted


def test_terms_are_cut_at_spaces_outside_of_quotes_and_lose_those() -> None:
    assert wanted('subject:"Reset your password" from:shop@x !to:"Jane D" message-id:abc').terms == (
        Term(place="subject", value="Reset your password"),
        Term(place="from", value="shop@x"),
        Term(place="to", value="Jane D", negated=True),
        Term(place="message-id", value="abc"),
    )
    assert wanted('"order (4711)," -"no such" - !! unknown:field').terms == (
        Term(place="text", value="order 4711"),
        Term(place="text", value="no such", negated=True),
        Term(place="text", value="unknown:field"),
    )
    assert wanted("to: subject:").terms == ()


def test_what_only_a_header_knows_is_looked_for_where_the_database_can() -> None:
    asked = asking.read('addressed:a@x -cc:b@x reply-to:"Jürgen"')
    assert asked.wanted.terms == (Term(place="anybody", value="a@x"),)
    assert [(term.field, term.value, term.negated) for term in asked.header] == [
        ("addressed", "a@x", False),
        ("cc", "b@x", True),
        ("reply-to", "Jürgen", False),
    ]


def test_states_tags_sizes_and_times_narrow_what_is_wanted() -> None:
    found = wanted("is:unread has:attachments tag:One -tag:two !is:tagged larger:1.5k -larger:2M smaller:4m")
    assert (found.seen, found.attached, found.tagged) == (False, True, False)
    assert (found.with_tags, found.without_tags) == (("one",), ("two",))
    assert (found.larger, found.smaller) == (1536, 2 << 20)
    assert wanted("-is:unread").seen is True
    assert (wanted("x").larger, wanted("x").smaller) == (-1, EVERYTHING)
    found = wanted('after:2026-01-31 -after:2026/02/28 before:"2026-02-01 12:30"', "Europe/Berlin")
    assert found.since == datetime(2026, 1, 30, 23, tzinfo=UTC)
    assert found.until == datetime(2026, 2, 1, 11, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "timezone"),
    [
        ("x" * 1001, ""),
        ("a\x00b", ""),
        (" ".join(["x"] * 21), ""),
        ("larger:big", ""),
        ("after:yesterday", ""),
        ("after:0001-01-01", "Pacific/Auckland"),
        ("has:inline", ""),
        ("x", "Nowhere/At all"),
        ("x", "../../etc/passwd"),
    ],
)
def test_what_cannot_be_meant_is_said(text: str, timezone: str) -> None:
    with pytest.raises(errors.ValidationFailed):
        asking.read(text, timezone)

"""Times, cursors and pages as the API speaks them."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from gateway import errors, models

TIMES: TypeAdapter[datetime] = TypeAdapter(models.Time)
POSITION: models.Cursor[tuple[datetime, UUID]] = models.Cursor(tuple[models.Time, UUID])
AN_ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")


def test_a_time_is_kept_in_utc_and_written_alike_by_both_encoders() -> None:
    """Models are encoded by pydantic, hot paths by msgspec; a client must not see which."""
    elsewhere = datetime(2026, 1, 31, 12, 0, 0, 5, tzinfo=timezone(timedelta(hours=2)))
    for given_time in (elsewhere, elsewhere.isoformat()):
        time = TIMES.validate_python(given_time)
        assert time == elsewhere
        assert time.tzinfo == UTC
        assert TIMES.dump_json(time) == msgspec.json.encode(time) == b'"2026-01-31T10:00:00.000005Z"'
    whole = TIMES.validate_python("2026-01-31T10:00:00Z")
    assert TIMES.dump_json(whole) == msgspec.json.encode(whole) == b'"2026-01-31T10:00:00Z"'


@pytest.mark.parametrize("bad", [datetime(2026, 1, 1), "2026-01-01", "0001-01-01T00:00:00+01:00", 1, 1.5, "1", None])  # noqa: DTZ001 - the point
def test_what_is_no_time_with_an_offset_is_refused(bad: object) -> None:
    with pytest.raises(ValidationError):
        TIMES.validate_python(bad)


@given(st.datetimes(timezones=st.just(UTC)), st.uuids())
@settings(max_examples=100, deadline=None)
def test_a_cursor_comes_back_as_it_went(time: datetime, id_: UUID) -> None:
    cursor = POSITION.encode((time, id_))
    assert cursor.replace("-", "").replace("_", "").isalnum()
    assert POSITION.decode(cursor) == (time, id_)


TEXTS: models.Cursor[tuple[str, int]] = models.Cursor(tuple[str, int])


@pytest.mark.parametrize("position", [("a", 2**63), ("a", -(2**63) - 1), ("a\0", 1)])
def test_a_cursor_holds_nothing_that_postgres_cannot(position: tuple[str, int]) -> None:
    """Negative control: with nothing but the shape looked at, none was refused, and lists answered 500."""
    with pytest.raises(errors.ValidationFailed):
        TEXTS.decode(TEXTS.encode(position))
    assert TEXTS.decode(TEXTS.encode(("\\u0000", 2**63 - 1))) == ("\\u0000", 2**63 - 1)


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "bad",
    ["", "x", "!!!!", "\u00e9", "a" * 500, encoded("[]"), encoded("{}"), encoded('["2026-01-01T00:00:00Z"]'),
     encoded("[" * 1000), encoded(f'["2026-01-01T00:00:00Z","{AN_ID}",1]'), encoded(f'[1,"{AN_ID}"]'),
     encoded(f'["NaN","{AN_ID}"]'), POSITION.encode((datetime(2026, 1, 1, tzinfo=UTC), AN_ID)) + "?", "AAA\n", " "],
)  # fmt: skip
def test_what_no_list_gave_is_no_cursor(bad: str) -> None:
    with pytest.raises(errors.ValidationFailed) as refused:
        POSITION.decode(bad)
    assert [error.field for error in refused.value.errors] == ["cursor"]


@given(st.text(max_size=100))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    try:
        POSITION.decode(text)
    except errors.ValidationFailed as refused:
        assert refused.errors  # noqa: PT017 - either outcome will do


def test_a_page_is_named_after_what_it_lists() -> None:
    class Letter(models.Output):
        id: int

    page = models.Page[Letter](data=[Letter(id=1)])
    assert type(page).__name__ == "LetterPage"
    assert page.model_dump_json() == '{"object":"list","data":[{"id":1}],"has_more":false,"next_cursor":null}'


def test_admin_stands_for_every_scope() -> None:
    account = UUID(int=1)
    assert models.Caller(account_id=account, scopes=frozenset(("admin",))).has_any(("send",))
    assert models.Caller(account_id=account, scopes=frozenset(("send", "read"))).has_any(("send", "mailboxes"))
    assert not models.Caller(account_id=account, scopes=frozenset(("read",))).has_any(("send",))
    assert not models.Caller(account_id=account, mailbox_id=AN_ID).has_any(models.SCOPES)

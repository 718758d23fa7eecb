"""What the finding of codes and links is worth, on mails that are labelled: `python -m bench extraction` prints it.

Of the mails for which a code is given, the first code is right in 97 of 100 (precision); of those that hold a code, it
is given first in 95 of 100 (recall). Both hold for the mails that rules were made by and for those held out from that.
"""

from __future__ import annotations

import pytest

from tests.mail import labelled

LANGUAGES = {"ar", "de", "en", "es", "fr", "hi", "it", "ja", "ko", "nl", "pl", "pt", "ru", "tr", "zh"}


@pytest.mark.parametrize("held_out", [False, True])
def test_the_first_code_is_right_and_there_is_none_where_there_is_none(held_out: bool) -> None:
    """Control: without the words for other numbers (`vocabulary.OTHER`), precision fell to 0.888 (held out: 0.900);
    with English words for codes alone, recall fell to 0.577 (0.619)."""
    found = labelled.score(mail for mail in labelled.mails() if mail.held_out is held_out)
    assert found.precision >= 0.97, f"{found}: {found.faults}"
    assert found.recall >= 0.95, f"{found}: {found.faults}"
    assert found.kinds >= 0.95, f"{found}: {found.faults}"


def test_the_labelled_mails_are_many_and_mixed() -> None:
    mails = labelled.mails()
    assert len(mails) >= 300
    assert {mail.language for mail in mails} == LANGUAGES
    assert sum(mail.code is None for mail in mails) * 3 >= len(mails)
    assert sum(mail.held_out for mail in mails) * 3 >= len(mails)

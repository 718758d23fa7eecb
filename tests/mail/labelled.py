"""Mails of our own making with the code and the links that a program should be told, in tests/corpus/codes/*.txt.

One mail is "## name", its header lines (`code:`, the one that must come first; `link: kind url`, those of kind "other"
may be left out; `subject:`) and its bodies behind "--- text" and "--- html". A mail without `code:` holds none.

A third of them, by a hash of the name, is held out: rules are made by the other two thirds alone, and what they are
worth is what they do on mails they were not made by. Those in later.txt were written when the rules stood, to be hard,
and then improved them: they count as tuned on. Those in unseen.txt were written after that, and improved nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.mail import extract

FOLDER: Final = Path(__file__).resolve().parent.parent / "corpus" / "codes"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mail:
    """One labelled mail."""

    name: str  # "de-tan": its language first
    subject: str
    text: str | None
    html: str | None
    code: str | None  # None = it holds no code
    kinds: dict[str, str]  # URL to kind

    @property
    def language(self) -> str:
        return self.name.partition("-")[0]

    @property
    def held_out(self) -> bool:
        if (file := self.name.split("-")[1]) in {"late", "fresh", "unseen"}:
            return file == "unseen"
        return int(hashlib.sha256(self.name.encode()).hexdigest(), 16) % 3 == 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How the first code of each mail, and the kinds of all links, compare with their labels."""

    mails: int
    right: int  # mails whose first code is the labelled one
    given: int  # mails for which any code was given
    labelled: int  # mails that hold a code
    links_right: int
    links: int  # all that are labelled or were found
    faults: tuple[str, ...]  # each wrong mail and link in words

    @property
    def precision(self) -> float:
        """Of the mails for which a code was given: how many had that code first."""
        return self.right / max(self.given, 1)

    @property
    def recall(self) -> float:
        """Of the mails that hold a code: for how many it was given first."""
        return self.right / max(self.labelled, 1)

    @property
    def kinds(self) -> float:
        """Of the links labelled or found: how many were found with their kind."""
        return self.links_right / max(self.links, 1)

    def __str__(self) -> str:
        return (
            f"{self.mails} mails, {self.labelled} with a code: precision {self.precision:.3f}, recall"
            f" {self.recall:.3f}; kind right for {self.links_right} of {self.links} links"
        )


def mails() -> list[Mail]:
    """All of them, by file and place."""
    found = [mail for path in sorted(FOLDER.glob("*.txt")) for mail in _mails(path.read_text(encoding="utf-8"))]
    if len({mail.name for mail in found}) != len(found):
        raise ValueError("two labelled mails have one name")
    return found


def score(chosen: Iterable[Mail]) -> Score:
    """What `extract.everything` says of them."""
    every = list(chosen)
    right = given = links_right = links = 0
    faults: list[str] = []
    for mail in every:
        found = extract.everything(mail.subject, mail.text, mail.html)
        first = found.codes[0].value if found.codes else None
        right += first is not None and first == mail.code
        given += first is not None
        if first != mail.code:
            faults.append(f"{mail.name}: {first} instead of {mail.code}")
        kinds = {link.url: str(link.kind) for link in found.links}
        for url in kinds | mail.kinds:
            expected, told = mail.kinds.get(url, "other"), kinds.get(url)
            links += 1
            links_right += told == expected
            if told != expected:
                faults.append(f"{mail.name}: {url} is {told} instead of {expected}")
    return Score(
        mails=len(every),
        right=right,
        given=given,
        labelled=sum(mail.code is not None for mail in every),
        links_right=links_right,
        links=links,
        faults=tuple(faults),
    )


def _mails(written: str) -> Iterator[Mail]:
    for one in ("\n" + written).split("\n## ")[1:]:
        name, _, rest = one.partition("\n")
        head, *bodies = rest.split("\n--- ")
        fields = [line.partition(": ") for line in head.splitlines() if line]
        values = {key: value for key, _, value in fields}
        parts = dict(body.split("\n", 1) for body in bodies)
        links = [value.split(" ", 1) for key, _, value in fields if key == "link"]
        yield Mail(
            name=name.strip(),
            subject=values["subject"],
            text=parts.get("text"),
            html=parts.get("html"),
            code=values.get("code"),
            kinds={url: kind for kind, url in links},
        )

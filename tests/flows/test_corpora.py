"""Other projects' test mails, broken on purpose or found in the wild: each goes in by SMTP and comes out whole."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx2
import pytest

from tests import house
from tests.corpus import fetch, octets
from tests.flows import letters

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("corpus", fetch.CORPORA, ids=lambda corpus: corpus.name)
def test_the_corpora_are_there(corpus: fetch.Corpus) -> None:
    """Without them the tests below would be none at all."""
    assert len(fetch.mails(corpus)) == corpus.count, "make corpora"


@pytest.mark.parametrize("path", octets.PATHS, ids=octets.name)
async def test_a_mail_is_stored_byte_for_byte_and_can_be_read(
    shared_house: house.House, client: httpx2.AsyncClient, path: Path
) -> None:
    """Negative control: with parse.attachment_slow's indexes off by one, the three tried of the mails whose attachments
    the fast reader refuses (msg_39, groupwise_03, simple_01) failed here."""
    raw = octets.sent(path)
    made = await letters.mailbox(client)
    await letters.hand_in(shared_house, raw, made["address"])
    message = await letters.only_message(client, made["id"])
    here = f"/messages/{message['id']}"
    assert (await client.get(f"{here}/raw")).content == raw
    assert message["parse"] in {"ok", "repaired"}
    assert (message["parse"] == "ok") <= (not message["warnings"])
    for form in ("text", "html"):
        answer = await client.get(f"{here}/{form}")
        assert answer.status_code == (404 if message[form] is None else 200)
        assert message[form] is None or answer.text == message[form]
    for attachment in message["attachments"]:
        answer = await client.get(f"{here}/attachments/{attachment['index']}")
        assert answer.status_code == 200
        assert len(answer.content) == attachment["size"]
        assert hashlib.sha256(answer.content).hexdigest() == attachment["sha256"]

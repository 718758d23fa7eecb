"""Mailboxes through the blocking client, over the running house."""

from __future__ import annotations

import threading

import pytest

from gateway.client import NoCode, NotFound, Postroom, UnexpectedMail, WaitTimeout
from tests.client.conftest import Deliver


def test_a_mailbox_lives_as_long_as_its_block(postroom: Postroom) -> None:
    with postroom.mailbox(ttl=600, metadata={"test": "this"}) as inbox:
        assert "@" in inbox.address
        assert inbox.metadata == {"test": "this"}
        assert inbox.token is not None
        assert inbox.token not in repr(inbox)
        assert postroom.mailboxes.get(inbox.address).id == inbox.id
    with pytest.raises(NotFound):
        postroom.mailboxes.get(inbox.id)


def test_a_blocks_own_error_is_not_hidden_by_a_mailbox_that_is_gone(postroom: Postroom) -> None:
    with pytest.raises(ZeroDivisionError), postroom.mailbox() as inbox:  # noqa: PT012 - the block is what is tested
        inbox.delete()
        raise ZeroDivisionError


def test_the_code_and_the_link_that_were_waited_for(postroom: Postroom, deliver: Deliver) -> None:
    with postroom.mailbox(ttl=600) as inbox:
        deliver(inbox.address, "News", "Nothing to do. https://shop.example/news")
        deliver(inbox.address, "Your code", "Your verification code is 482913.")
        deliver(inbox.address, "Verify", "Verify your e-mail: https://shop.example/verify?token=abc")
        assert inbox.wait(code=True).code == "482913"
        found = inbox.wait(kind="verify")
        assert found.link == "https://shop.example/verify?token=abc"
        news = inbox.wait(from_="@example.com", subject="nEWs", text="to do")
        assert (news.text or "").startswith("Nothing to do.")
        assert str(news.from_) == "Shop <shop@example.com>"
        assert news.header("subject") == "News"
        with pytest.raises(NoCode, match="no code in 'News'"):
            _ = news.code


def test_each_wait_yields_another_message_in_any_order_of_arrival(postroom: Postroom, deliver: Deliver) -> None:
    with postroom.mailbox() as inbox:
        for subject in ("first", "second", "third"):
            deliver(inbox.address, subject)
        assert [inbox.wait(subject="second").subject, inbox.wait().subject, inbox.wait().subject] == [
            "second",
            "first",
            "third",
        ]


def test_a_message_that_arrives_between_two_waits_is_not_missed(postroom: Postroom, deliver: Deliver) -> None:
    """Seen to fail with waits that begin with what comes after the call, instead of the mailbox's creation cursor."""
    with postroom.mailbox() as inbox:
        for number in range(3):
            deliver(inbox.address, f"mail {number}")
            assert inbox.wait(timeout=5).subject == f"mail {number}"
        sending = threading.Thread(target=deliver, args=(inbox.address, "meanwhile"))
        sending.start()
        assert inbox.wait(timeout=30).subject == "meanwhile"
        sending.join()


def test_more_messages_than_one_poll_can_skip(postroom: Postroom, deliver: Deliver) -> None:
    with postroom.mailbox() as inbox:
        memory = inbox._memory
        deliver(inbox.address, "kept back")
        for number in range(4):
            deliver(inbox.address, f"mail {number}")
            inbox.wait(subject=f"mail {number}")
        first = min(memory.given.values())
        memory.given |= {f"00000000-0000-7000-8000-{n:012d}": first for n in range(150)}  # older than all of them
        with pytest.raises(WaitTimeout):
            inbox.wait(subject="mail", timeout=0)
        assert inbox.wait(timeout=0).subject == "kept back"


def test_a_timeout_lists_what_did_arrive(postroom: Postroom, deliver: Deliver) -> None:
    with postroom.mailbox() as inbox:
        with pytest.raises(WaitTimeout, match="Nothing arrived there at all"):
            inbox.wait(timeout=0)
        deliver(inbox.address, "Welcome")
        deliver(inbox.address, "Your code", "Your verification code is 482913.")
        inbox.wait(subject="Welcome")
        with pytest.raises(WaitTimeout) as caught:
            inbox.wait(subject="Reset", kind="reset", from_="a@b.example", timeout=0)
        told = str(caught.value)
        assert [one.subject for one in caught.value.arrived] == ["Your code", "Welcome"]
    assert f"with 'Reset' in its subject with a link of kind 'reset' arrived at {inbox.address} within 0 s" in told
    assert "'Your code' from Shop <shop@example.com>, codes 482913\n" in told
    assert told.endswith("'Welcome' from Shop <shop@example.com>  (an earlier wait gave it out)")


def test_mail_that_was_not_expected_is_told_with_its_subject(postroom: Postroom, deliver: Deliver) -> None:
    with postroom.mailbox() as inbox:
        inbox.expect_no_mail(0)
        deliver(inbox.address, "Surprise")
        inbox.expect_no_mail(0, subject="something else")
        with pytest.raises(UnexpectedMail, match="'Surprise' from Shop"):
            inbox.expect_no_mail(0)
        assert inbox.wait(timeout=0).subject == "Surprise"
        inbox.expect_no_mail(0)


def test_what_can_be_done_with_a_message(postroom: Postroom, deliver: Deliver) -> None:
    with postroom.mailbox() as inbox, postroom.mailbox() as other:
        sent = postroom.send(
            from_=f"Other <{other.address}>",
            to=inbox.address,
            subject="Files",
            text="See below.",
            attachments=[__file__],
        )
        sent.wait("delivered")
        message = inbox.wait()
        assert [one.filename for one in message.attachments] == ["test_mailboxes.py"]
        with open(__file__, "rb") as file:  # noqa: PTH123
            assert message.download(message.attachments[0]) == file.read()
        assert b"Subject: Files" in message.raw()
        assert message.mark(seen=True, labels=["done"]).labels == ("done",)
        assert [one.subject for one in inbox.messages("label:done", seen=True)] == ["Files"]
        assert inbox.refresh().message_count == 1
        message.reply(text="Thanks!").wait("delivered")
        answer = other.wait(subject="Re: Files")
        assert answer.in_reply_to == message.message_id
        message.forward(other.address, text="Look").wait("delivered")
        assert other.wait(subject="Fwd: Files").attachments[0].filename == "test_mailboxes.py"
        next(inbox.messages()).open().delete()
        assert list(inbox.messages()) == []


def test_lists_turn_their_pages_by_themselves(postroom: Postroom) -> None:
    made = [postroom.mailbox(ttl=600) for _ in range(51)]
    assert [box.id for box in postroom.mailboxes.list()] == [box.id for box in reversed(made)]

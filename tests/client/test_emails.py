"""Sending through the blocking client, and the rest of an account."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from gateway.client import (
    AddressTaken,
    Conflict,
    File,
    InvalidApiKey,
    NewEmail,
    NotDelivered,
    Postroom,
    RecipientSuppressed,
    ValidationError,
    WaitTimeout,
)
from tests import house

SHOP = "shop@postroom.test"


def test_an_e_mail_with_everything(postroom: Postroom) -> None:
    with postroom.mailbox() as inbox:
        sent = postroom.send(
            from_=f"Shop <{SHOP}>",
            to=[f"Jo <{inbox.address}>"],
            subject="Your order",
            html='<b>On its way</b> <img src="cid:logo">',
            reply_to="help@postroom.test",
            headers={"X-Order": "17"},
            attachments=[File(filename="logo.png", content=b"\x89PNG", content_id="logo")],
            tags={"kind": "order"},
            metadata={"order": 17},
            expires_in=600,
        )
        done = sent.wait("delivered")
        assert [(one.address, one.status) for one in done.recipients] == [(inbox.address, "delivered")]
        assert done.metadata == {"order": 17}
        assert [attempt.outcome for attempt in done.attempts()] == ["delivered"]
        came = inbox.wait(subject="Your order")
        assert came.header("x-order") == "17"
        assert [one.id for one in postroom.emails.list(tag="kind:order")] == [sent.id]
        assert b"Your order" in sent.raw()
        again = sent.resend()
        assert again.id != sent.id
        again.wait("sent")
        assert len(list(inbox.messages())) == 2


def test_the_same_idempotency_key_sends_once(postroom: Postroom) -> None:
    email = NewEmail(from_=SHOP, to="jo@postroom.test", subject="Once", text="Once")
    first = postroom.send(idempotency_key="order-17", **email)
    assert postroom.send(idempotency_key="order-17", **email).id == first.id


def test_a_scheduled_e_mail_can_be_moved_and_canceled(postroom: Postroom) -> None:
    at = datetime.now(UTC) + timedelta(days=1)
    sent = postroom.send(from_=SHOP, to="jo@postroom.test", subject="Later", text="…", scheduled_at=at)
    assert sent.status == "scheduled"
    assert sent.refresh().scheduled_at == at
    sent.reschedule(at + timedelta(hours=1))
    with pytest.raises(WaitTimeout, match=r"is not delivered after 0 s but scheduled"):
        sent.wait(timeout=0)
    sent.cancel()
    with pytest.raises(NotDelivered, match="is canceled, not delivered") as caught:
        sent.wait("delivered")
    assert caught.value.email.status == "canceled"
    with pytest.raises(Conflict):
        sent.cancel()
    with pytest.raises(ValueError, match="has no time zone"):
        sent.reschedule(datetime(2030, 1, 1))  # noqa: DTZ001 - that is what is wrong with it


def test_a_batch_and_its_problems(postroom: Postroom) -> None:
    good = NewEmail(from_=SHOP, to="jo@postroom.test", subject="Good", text="…")
    bad = NewEmail(from_=SHOP, to="nobody", subject="Bad", text="…")
    taken = postroom.emails.batch([good, bad], permissive=True)
    assert len(taken.ids) == 1
    assert [one.index for one in taken.errors] == [1]
    with pytest.raises(ValidationError) as caught:
        postroom.emails.batch([good, bad])
    assert caught.value.errors[0].field.startswith("[1]")


def test_errors_say_what_is_wrong_and_never_the_key(
    postroom: Postroom, shared_house: house.House, tenant: house.Tenant
) -> None:
    with pytest.raises(ValidationError) as caught:
        postroom.send(from_=SHOP, to=["jo@postroom.test", "nobody"], subject="…", text="…")
    assert (caught.value.status, caught.value.name) == (422, "validation_error")
    assert [one.field for one in caught.value.errors] == ["to[1]"]
    assert caught.value.request_id
    assert caught.value.request_id in str(caught.value)
    assert "to POST /v1/emails" in str(caught.value)
    box = postroom.mailbox()
    with pytest.raises(AddressTaken):
        postroom.mailbox(box.address)
    postroom.suppressions.create("gone@example.com")
    with pytest.raises(RecipientSuppressed):
        postroom.send(from_=SHOP, to="gone@example.com", subject="…", text="…", on_suppressed="reject")
    secret = tenant.key[:-4] + "AAAA"
    with Postroom(f"{shared_house.url}/v1/", secret) as stranger:
        with pytest.raises(InvalidApiKey, match="POSTROOM_API_KEY") as refused:
            stranger.mailbox()
        assert secret not in f"{refused.value} {stranger!r} {stranger._link!r} {stranger._link.place!r}"


def test_the_rest_of_an_account(postroom: Postroom) -> None:
    hook = postroom.webhooks.create("http://127.0.0.1:9/hook", ["message.received"])
    assert (hook.secret or "").startswith("whsec_")
    assert (hook.secret or "") not in repr(hook)
    assert postroom.webhooks.change(hook.id, status="disabled").status == "disabled"
    assert [one.id for one in postroom.webhooks.list()] == [hook.id]
    assert postroom.webhooks.rotate(hook.id).secret != hook.secret
    assert list(postroom.webhooks.deliveries(hook.id)) == []
    postroom.webhooks.delete(hook.id)
    key = postroom.keys.create("ci", ["read"], expires_at=datetime.now(UTC) + timedelta(days=1))
    with Postroom(postroom.url, key.key) as reader:
        assert list(reader.messages.list()) == []
    assert {one.name for one in postroom.keys.list()} >= {"ci"}
    postroom.keys.revoke(key.id)
    template = postroom.templates.create("hello", subject="Hello {{ name }}", text="Hello {{ name }}!")
    assert postroom.templates.render(template.id, {"name": "Jo"}).text == "Hello Jo!"
    assert postroom.templates.change(template.id, subject="Hi {{ name }}").subject == "Hi {{ name }}"
    with postroom.mailbox() as inbox:
        postroom.send(from_=SHOP, to=inbox.address, template=template.id, variables={"name": "Jo"})
        assert inbox.wait().subject == "Hi Jo"
        postroom.hand_in(b"Subject: by HTTP\r\n\r\n", mail_from="a@example.com", rcpt_to=inbox.address)
        assert inbox.wait().subject == "by HTTP"
    postroom.templates.delete(template.id)
    domain = postroom.domains.create("client.example")
    assert {record.type for record in domain.records} >= {"MX", "TXT"}
    assert [one.name for one in postroom.domains.list()] == ["client.example"]
    postroom.domains.delete("client.example")
    suppressed = postroom.suppressions.create("gone@example.com")
    assert list(postroom.suppressions.list()) == [suppressed]
    postroom.suppressions.delete("gone@example.com")
    assert isinstance(postroom.statistics(), list)

"""Callbacks as Mailgun, Postmark and SES document them, and as they sign them."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

from uuid_utils.compat import uuid7

GONE = "550 5.1.1 The email account that you tried to reach does not exist."


def mailgun_event(event: str, message_id: str, **changes: Any) -> dict[str, Any]:
    """`event-data`; https://documentation.mailgun.com/docs/mailgun/user-manual/events/event-structure"""
    return {
        "id": uuid7().hex,
        "timestamp": 1521472262.908181,
        "log-level": "info",
        "event": event,
        "recipient": "user@recipient.example",
        "message": {"headers": {"to": "user@recipient.example", "message-id": message_id, "subject": "s"}, "size": 111},
        "flags": {"is-routed": False, "is-authenticated": True, "is-system-test": False, "is-test-mode": False},
        "tags": ["a"],
        "user-variables": {},
        **changes,
    }


MAILGUN_GONE: Mapping[str, Any] = {
    "severity": "permanent",
    "reason": "bounce",
    "delivery-status": {
        "attempt-no": 1,
        "message": "5.1.1 The email account that you tried to reach does not exist.",
        "code": 550,
        "enhanced-code": "5.1.1",
        "description": "",
        "session-seconds": 0.0,
    },
}


def mailgun(data: Mapping[str, Any], key: str, *, age: float = 0, token: str = "") -> dict[str, Any]:
    """A webhook's whole body, signed."""
    timestamp, token = str(int(time.time() - age)), token or uuid7().hex + "0" * 18
    signature = hmac.new(key.encode(), (timestamp + token).encode(), hashlib.sha256).hexdigest()
    return {"signature": {"timestamp": timestamp, "token": token, "signature": signature}, "event-data": dict(data)}


def postmark(record: str, message_id: str, **changes: Any) -> dict[str, Any]:
    """https://postmarkapp.com/developer/webhooks/webhooks-overview"""
    common = {"RecordType": record, "MessageID": message_id, "ServerID": 23, "MessageStream": "outbound", "Tag": "a"}
    particular: dict[str, dict[str, Any]] = {
        "Delivery": {
            "Recipient": "user@recipient.example",
            "DeliveredAt": "2026-11-22T02:30:00.1234567Z",
            "Details": "smtp;250 2.0.0 OK",
            "Metadata": {"a": "b"},
        },
        "Bounce": {
            "ID": 4323372036854775807,
            "Type": "HardBounce",
            "TypeCode": 1,
            "Name": "Hard bounce",
            "Description": "The server was unable to deliver your message.",
            "Details": f"smtp;{GONE}",
            "Email": "user@recipient.example",
            "From": "app@sender.example",
            "BouncedAt": "2026-11-22T02:31:00Z",
            "DumpAvailable": True,
            "Inactive": True,
            "CanActivate": True,
            "Subject": "s",
        },
        "SpamComplaint": {
            "ID": 4323372036854775808,
            "Type": "SpamComplaint",
            "TypeCode": 100001,
            "Name": "Spam complaint",
            "Description": "The subscriber explicitly marked this message as spam.",
            "Details": "",
            "Email": "user@recipient.example",
            "BouncedAt": "2026-11-22T02:32:00Z",
        },
        "Open": {
            "Recipient": "user@recipient.example",
            "FirstOpen": True,
            "UserAgent": "Mozilla/5.0",
            "ReceivedAt": "2026-11-22T02:33:00Z",
            "Geo": {"IP": "188.2.95.4", "CountryISOCode": "RS"},
            "Client": {},
            "OS": {},
        },
        "Click": {
            "Recipient": "user@recipient.example",
            "OriginalLink": "https://example.com/a",
            "ClickLocation": "HTML",
            "UserAgent": "Mozilla/5.0",
            "ReceivedAt": "2026-11-22T02:34:00Z",
            "Geo": {},
        },
        "SubscriptionChange": {"Recipient": "user@recipient.example", "SuppressSending": True, "ChangedAt": "x"},
    }
    return {**common, **particular[record], **changes}


def ses(event: str, message_id: str, told: Mapping[str, Any] | None = None, *, key: str = "eventType") -> str:
    """What the SNS message says; https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-examples.html"""
    usual: dict[str, dict[str, Any]] = {
        "Delivery": {
            "delivery": {
                "timestamp": "2026-11-22T02:30:00.000Z",
                "processingTimeMillis": 546,
                "recipients": ["user@recipient.example"],
                "smtpResponse": "250 ok dirdel 1508534478",
                "reportingMTA": "mta.example",
            }
        },
        "Bounce": {
            "bounce": {
                "bounceType": "Permanent",
                "bounceSubType": "General",
                "bouncedRecipients": [
                    {
                        "emailAddress": "user@recipient.example",
                        "action": "failed",
                        "status": "5.1.1",
                        "diagnosticCode": f"smtp; {GONE}",
                    }
                ],
                "timestamp": "2026-11-22T02:31:00.000Z",
                "feedbackId": "00000",
                "reportingMTA": "dsn; mta.example",
            }
        },
        "Complaint": {
            "complaint": {
                "complainedRecipients": [{"emailAddress": "user@recipient.example"}],
                "timestamp": "2026-11-22T02:32:00.000Z",
                "feedbackId": "00001",
                "complaintSubType": None,
                "complaintFeedbackType": "abuse",
            }
        },
        "DeliveryDelay": {
            "deliveryDelay": {
                "timestamp": "2026-11-22T02:33:00.000Z",
                "delayType": "TransientCommunicationFailure",
                "expirationTime": "2026-11-23T02:33:00.000Z",
                "delayedRecipients": [
                    {
                        "emailAddress": "user@recipient.example",
                        "status": "4.4.1",
                        "diagnosticCode": "smtp; 421 4.4.1 Unable to connect to remote host",
                    }
                ],
            }
        },
        "Reject": {"reject": {"reason": "Bad content"}},
        "Rendering Failure": {"failure": {"errorMessage": "Attribute 'a' is not present", "templateName": "t"}},
        "Open": {
            "open": {"ipAddress": "192.0.2.1", "timestamp": "2026-11-22T02:34:00.000Z", "userAgent": "Mozilla/5.0"}
        },
        "Click": {
            "click": {
                "ipAddress": "192.0.2.1",
                "link": "https://example.com/a",
                "timestamp": "2026-11-22T02:35:00.000Z",
                "userAgent": "Mozilla/5.0",
            }
        },
        "Send": {"send": {}},
    }
    mail = {
        "timestamp": "2026-11-22T02:29:00.000Z",
        "source": "app@sender.example",
        "messageId": message_id,
        "destination": ["user@recipient.example"],
        "headersTruncated": False,
        "tags": {},
    }
    return json.dumps({key: event, "mail": mail, **(usual[event] if told is None else told)})

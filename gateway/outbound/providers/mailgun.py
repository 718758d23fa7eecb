"""Provider `mailgun`: raw messages by `POST /v3/{domain}/messages.mime`.

The message arrives as it was composed, its Message-ID included; Mailgun writes a reverse path of its own and adds its
own signature. Opens and clicks are not tracked, for that rewrites the message.
"""

from __future__ import annotations

import base64
import re
import secrets
from dataclasses import dataclass, field
from typing import Final

from gateway.outbound.providers import http
from gateway.outbound.providers.contract import Health, Outgoing

ENDPOINTS: Final = {"us": "https://api.mailgun.net", "eu": "https://api.eu.mailgun.net"}

_RECIPIENT = re.compile(r"'to' parameter is not a valid address|recipient.*\binvalid|invalid recipient", re.IGNORECASE)
# The account, in words that come with 400 as well as with 403
_ACCOUNT = re.compile(
    r"not allowed to send|free accounts are for test|authorized recipients|account.*(?:disabled|suspended)"
    r"|please activate|limit exceeded|exceed\w* .*limit|sending limit|quota",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mailgun:
    """One sending domain."""

    key: str = field(repr=False)  # of the domain, or of the account
    domain: str  # ASCII

    @property
    def name(self) -> str:
        """`mailgun:domain`."""
        return f"mailgun:{self.domain}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The key, and what basic authentication makes of it."""
        return (self.key, f"api:{self.key}")

    @property
    def _authorization(self) -> str:
        return "Basic " + base64.b64encode(f"api:{self.key}".encode()).decode()

    def request(self, outgoing: Outgoing) -> http.Request:
        """The message as a file of a form, beside whom it goes to."""
        boundary = secrets.token_hex(24)
        fields = {"to": outgoing.rcpt_to, "o:tracking": "no"}
        parts = [_field(boundary, name, value) for name, value in fields.items()]
        parts.append(
            f'--{boundary}\r\nContent-Disposition: form-data; name="message"; filename="message.eml"\r\n'
            "Content-Type: message/rfc822\r\n\r\n".encode()
        )
        parts += [outgoing.raw, f"\r\n--{boundary}--\r\n".encode()]
        return http.Request(
            path=f"/v3/{self.domain}/messages.mime",
            headers={
                "authorization": self._authorization,
                "content-type": f"multipart/form-data; boundary={boundary}",
            },
            content=b"".join(parts),
        )

    def is_spent(self, text: str) -> bool:
        """Never: it has other answers for that."""
        return False

    def question(self) -> http.Request:
        """The domain, as Mailgun knows it."""
        return http.Request(
            method="GET", path=f"/v3/domains/{self.domain}", headers={"authorization": self._authorization}, content=b""
        )

    def health(self, answer: http.Answer) -> Health:
        """By `domain.state`. A domain's own sending key may not ask, and hears the same as a wrong one."""
        domain = answer.members().get("domain")
        state = domain.get("state") if isinstance(domain, dict) else None
        if answer.status == 200 and state == "active":
            return Health(standing="well", said=f"Mailgun knows the key, and {self.domain} is active")
        if answer.status == 200:
            advice = "Look at the domain in Mailgun: it sends only once it is active."
            return Health(standing="unwell", said=f"Mailgun knows the key, but {self.domain} is {state}", advice=advice)
        said = f"{answer.status} {answer.text('message')}"
        if answer.status in {401, 403}:
            advice = "Check the key; a sending key may not ask about its domain: use --send-test to be sure."
            return Health(standing="doubtful", said=said, advice=advice)
        return Health(standing="unwell", said=said, advice="Check domain and region in OUTBOUND.")

    def read(self, answer: http.Answer) -> http.Reading:
        """Mailgun tells little more than the status and a sentence."""
        text = answer.text("message")
        if answer.status < 300:
            found = answer.members().get("id")
            return http.Reading(outcome="sent", text=text, provider_id=found if isinstance(found, str) else None)
        if answer.status in {401, 402, 403, 404} or _ACCOUNT.search(text):  # 404: it does not know the domain
            return http.Reading(outcome="provider_fault", text=text, stage="auth")
        if answer.status == 408:
            return http.Reading(outcome="deferred", text=text)
        if _RECIPIENT.search(text):
            return http.Reading(outcome="bounced", text=text, stage="rcpt")
        return http.Reading(outcome="failed", text=text)


def _field(boundary: str, name: str, value: str) -> bytes:
    return f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()

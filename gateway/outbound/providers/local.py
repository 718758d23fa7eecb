"""Provider `local`: mail for our own domains, handed to the inbound pipeline in the same process.

The pipeline is handed in as a function that answers as the SMTP port would. It deduplicates by delivery id, so an
attempt whose outcome nobody saw may be made again: here nothing is ever `unknown`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import structlog

from gateway.outbound.providers import replies
from gateway.outbound.providers.contract import AboutToCommit, Outcome, Outgoing, Verdict

log = structlog.get_logger(__name__)

DeliverLocal = Callable[[Outgoing], Awaitable[str]]  # answers "250 2.0.0 queued as …", "451 4.3.0 …"


class LocalProvider:
    """Hands mail to the inbound pipeline."""

    name = "local"

    def __init__(self, deliver_local: DeliverLocal) -> None:
        self._deliver_local = deliver_local

    async def send(self, outgoing: Outgoing, *, about_to_commit: AboutToCommit | None = None) -> Verdict:
        """Deliver; the pipeline is the final hop, so its 250 is `delivered`."""
        started_at = datetime.now(UTC)
        if about_to_commit is not None:
            await about_to_commit()
        try:
            answer = await self._deliver_local(outgoing)
        except Exception:  # whatever fails in there, a later attempt is deduplicated
            log.exception("local delivery raised", delivery_id=outgoing.delivery_id)
            answer = "451 4.3.0 the inbound pipeline failed"
        return _verdict(answer, started_at)

    async def close(self) -> None:
        """Nothing is held."""


def _verdict(answer: str, started_at: datetime) -> Verdict:
    head, _, text = answer.partition(" ")
    code = int(head) if len(head) == 3 and head.isascii() and head.isdecimal() else None
    enhanced = replies.enhanced_status(text)
    outcome = _outcome(code, enhanced, text)
    return Verdict(
        outcome=outcome,
        reply=replies.one_line(answer),
        started_at=started_at,
        finished_at=datetime.now(UTC),
        stage="dot",
        code=code,
        enhanced=enhanced,
        provider_id=replies.queue_id(text) if outcome == "delivered" else None,
        retry_after=replies.retry_after(text) if outcome == "deferred" else None,
    )


def _outcome(code: int | None, enhanced: str | None, text: str) -> Outcome:
    outcome = replies.classify("dot", code, enhanced, text)
    final: dict[Outcome, Outcome] = {"sent": "delivered", "unknown": "deferred", "provider_fault": "deferred"}
    return final.get(outcome, outcome)

"""Provider `capture`: takes every message and sends it nowhere (development). It stays readable in the gateway."""

from __future__ import annotations

from datetime import UTC, datetime

from gateway.outbound.providers.contract import AboutToCommit, Outgoing, Verdict


class CaptureProvider:
    """Takes everything."""

    name = "capture"

    async def send(self, outgoing: Outgoing, *, about_to_commit: AboutToCommit | None = None) -> Verdict:
        """Say that it was sent; the outgoing bytes are in the gateway already."""
        started_at = datetime.now(UTC)
        if about_to_commit is not None:
            await about_to_commit()
        return Verdict(
            outcome="sent",
            reply="250 2.0.0 captured, not sent",
            started_at=started_at,
            finished_at=datetime.now(UTC),
            code=250,
            enhanced="2.0.0",
            transcript=(f"* captured for <{outgoing.rcpt_to}>: {len(outgoing.raw)} octets, sent nowhere",),
        )

    async def close(self) -> None:
        """Nothing is held."""

"""Reports that come by mail (gateway.mail.dsn), read as news of the one recipient whose return path they came to.

    a report or a bounce that says   failed              bounced
                                     delayed             deferred: somebody else has the mail, and goes on trying
                                     delivered           delivered: by the final hop (RFC 3464 2.3.3)
                                     relayed, expanded   nothing: it went on, and nobody will tell more
    a complaint                      abuse, fraud, …     complained
                                     not-spam            nothing
    any other mail                   vacation notes, answers by people: nothing

The return path decides whom it is about. A report may name other addresses, for mail is forwarded: those that name ours
count alone, where there are any. Of several, the best fate is ours: who reached anybody behind an alias was delivered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.mail import address, classify, dsn
from gateway.outbound.callbacks import News

NO_COMPLAINTS: Final = frozenset({"not-spam", "auth-failure"})  # RFC 5965 7.3, RFC 6591
_BEST_FIRST: Final[Sequence[dsn.Action]] = ("delivered", "relayed", "expanded", "delayed", "failed")


def news(report: dsn.Report, recipient: str, report_id: str) -> tuple[News, ...]:
    """What a report means for this recipient; at most one piece of news."""
    details = {"report": report_id}
    if report.kind == "complaint":
        if report.feedback in NO_COMPLAINTS:
            return ()
        return (News(kind="complained", recipient=recipient, reply=report.feedback, details=details),)
    fate = _fate(report.fates, recipient)
    if fate is None or fate.action in ("relayed", "expanded"):
        return ()
    return (
        News(
            kind="bounced" if fate.action == "failed" else "deferred" if fate.action == "delayed" else "delivered",
            recipient=fate.recipient or recipient,
            reply=fate.diagnostic,
            enhanced=fate.status,
            details=details,
        ),
    )


def _fate(fates: Sequence[dsn.Fate], recipient: str) -> dsn.Fate | None:
    """The one that counts; of failures, rather one that does not suppress the address."""
    ours = address.canonical_of(recipient)
    counted = [fate for fate in fates if fate.recipient and address.canonical_of(fate.recipient) == ours] or fates
    return min(counted, key=_rank, default=None)


def _rank(fate: dsn.Fate) -> tuple[int, bool]:
    failed = fate.action == "failed"
    return _BEST_FIRST.index(fate.action), failed and classify.classify(fate.diagnostic, fate.status).suppresses

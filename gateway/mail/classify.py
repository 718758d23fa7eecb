"""Why mail was refused, told by what the refusing server said: one table of rules, each with a name to be shown.

    hard      the address is at fault and will stay so
    quota     its mailbox is full
    policy    the sender, its server or what it did is not wanted: reputation, authentication, rates, lists
    content   the message itself: size, form, what is in it
    network   it could not be carried there: routes, names, connections
    soft      a fault of the moment, or of the other system
    unknown   none of the rules fits

Only address faults put an address on a suppression list: with RFC 3463's own codes for them, or, where a server gives
no code, with words that leave no doubt. Servers lie: some answer `550 5.1.1` or `550` to those they block for an hour,
so words of blocking come first in the table. Addresses are taken out of the reply before words are looked for in it:
their owners choose them.

Most rules leave it to the server's code whether the mail is tried again. One does not: who says 550 to a rate, as some
large providers do, refuses the moment and not the mail, so that such a refusal is put off as a 450 would be, within the
same schedule. Words of blocking are not trusted so far: lists are left by asking to be, not by coming again.

An account's own rules stand in front of these. They have no regular expressions, so that none can be slow.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["hard", "quota", "policy", "content", "network", "soft", "unknown"]
Action = Literal["bounce", "retry"]  # what is made of the mail

MAX_READ: Final = 2000  # characters of a reply
_ADDRESS: Final = re.compile(r"[^\s<>@,;:\"'()]{1,320}@[^\s<>@,;:\"'()]{1,320}")
_CODE: Final = re.compile(r"(?<![\d.#])([245])\d\d(?=[\s-]|$)")  # RFC 5321 4.2
_ENHANCED: Final = re.compile(r"(?<![\d.])([245])\.(\d{1,3})\.(\d{1,3})(?!\.?\d)")  # RFC 3463 2; no IPv4 address


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One row of the table; what is empty is not asked for."""

    id: str
    kind: Kind
    suppresses: bool = False
    enhanced: str = ""  # regular expression for the whole of an RFC 3463 code
    words: str = ""  # regular expression looked for in the reply, case and addresses left out
    code: str = ""  # regular expression for the whole of the three digits; none given = no match
    bare: bool = False  # only where the reply has no RFC 3463 code that says anything
    action: Action | None = None  # None = as the server's code says

    def fits(self, said: Said) -> bool:
        return (
            (not self.enhanced or _whole(self.enhanced, said.enhanced))
            and (not self.code or _whole(self.code, said.code))
            and (not self.bare or not said.enhanced or said.enhanced.endswith(".0.0"))
            and (not self.words or re.search(self.words, said.words) is not None)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Own:
    """A rule of an account's; what is empty is not asked for, and one of the three patterns is given."""

    id: str
    kind: Kind
    suppresses: bool = False
    enhanced: str = ""  # RFC 3463 code, with x for any number: 5.7.x
    words: str = ""  # in lower case; pieces with * between them that stand in the reply in this order
    code: str = ""  # three digits, with x for any: 55x
    action: Action | None = None  # None = as the server's code says

    def fits(self, said: Said) -> bool:
        return (
            (not self.code or _alike(self.code, said.code))
            and (not self.enhanced or _alike(self.enhanced.split("."), said.enhanced.split(".")))
            and (not self.words or _in_order(self.words.split("*"), said.words))
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """A refusal, taken apart."""

    code: str  # three digits; empty = none
    enhanced: str  # RFC 3463; empty = none
    words: str  # lower case, one line, without addresses


@dataclass(frozen=True, kw_only=True, slots=True)
class Classified:
    """What a refusal means, and which rule says so."""

    rule: str  # id of the rule
    kind: Kind
    suppresses: bool  # whether the address should not be written to again
    code: str  # three digits; empty = the reply has none
    enhanced: str  # RFC 3463; empty = the reply has none
    action: Action  # what is made of the mail, by the rule or by the code
    own: bool = False  # whether the rule is the account's


_NO_SUCH_USER: Final = (
    r"(user|mailbox|recipient|account|address)( \S{1,40})? (is |was )?(unknown|not found|does ?n[o']t exist|"
    r"does not exist|invalid|not known)|(no such|unknown|invalid|nonexistent|non-existent) (local )?(user|mailbox|"
    r"recipient|account)|no (mailbox|such person)( here)?( by that name)?|doesn't have an? \S{1,60} account|"
    r"(user|account|mailbox) (has been|is|was) (disabled|deactivated|closed)|unrouteable address"
)

# The first that fits decides.
RULES: Final[Sequence[Rule]] = (
    Rule(
        id="words.blocked",
        kind="policy",
        words=r"spamhaus|spamcop|barracuda|proofpoint|\b(dns)?[bw]l\b|black ?-?list|block ?-?list|deny ?-?list|"
        r"\bblocked\b|\bbanned\b|reputation|\bspam\b|\bpolicy\b|\bdmarc\b|\bspf\b|\bdkim\b|access denied|"
        r"relay(ing)? (access )?(denied|not permitted)|unauthenticated|authentication required|reverse dns|\bptr\b",
    ),
    Rule(
        id="words.rate",
        kind="policy",
        action="retry",
        words=r"frequency (is )?limited|\brate ?-?limit|too many (concurrent )?(connections|sessions|messages|requests|"
        r"e?-?mails)|too (fast|quickly)|receiving (mail|messages) at a rate|throttl|gr[ea]y ?-?list|"
        r"temporarily (deferred|rejected)",
    ),
    Rule(
        id="words.full",
        kind="quota",
        words=r"mailbox (is )?full|over ?-?quota|quota (is )?(exceeded|full)|exceeded .{0,30}(quota|storage)|"
        r"out of storage|insufficient (system )?storage|not enough (space|storage)",
    ),
    Rule(
        id="words.later",
        kind="policy",
        words=r"too (many|much)|try again|sending limit|exceeded .{0,30}(connections|messages)",
    ),
    Rule(id="4.2.2", kind="quota", enhanced=r"[45]\.2\.2"),
    Rule(id="5.1.1", kind="hard", suppresses=True, enhanced=r"5\.1\.1"),  # bad destination mailbox
    Rule(id="5.1.2", kind="hard", suppresses=True, enhanced=r"5\.1\.2"),  # bad destination system
    Rule(id="5.1.3", kind="hard", suppresses=True, enhanced=r"5\.1\.3"),  # bad syntax
    Rule(id="5.1.6", kind="hard", suppresses=True, enhanced=r"5\.1\.6"),  # mailbox has moved
    Rule(id="5.1.10", kind="hard", suppresses=True, enhanced=r"5\.1\.10"),  # RFC 7505: takes no mail at all
    Rule(id="5.2.1", kind="hard", suppresses=True, enhanced=r"5\.2\.1"),  # disabled
    Rule(id="x.1.sender", kind="policy", enhanced=r"[45]\.1\.[789]"),  # the sender's address
    Rule(id="x.2.3", kind="content", enhanced=r"[45]\.2\.3"),  # longer than this mailbox takes
    Rule(id="x.3.4", kind="content", enhanced=r"[45]\.3\.4"),  # longer than this system takes
    Rule(id="x.6", kind="content", enhanced=r"[45]\.6\.\d+"),
    Rule(id="x.7", kind="policy", enhanced=r"[45]\.7\.\d+"),
    Rule(id="x.4", kind="network", enhanced=r"[45]\.4\.\d+"),
    Rule(id="4.x", kind="soft", enhanced=r"4\.\d+\.\d+"),
    Rule(id="x.3", kind="soft", enhanced=r"5\.3\.\d+"),
    Rule(id="words.no-such-user", kind="hard", suppresses=True, words=_NO_SUCH_USER, code=r"55[0134]", bare=True),
    Rule(id="words.no-such-user-maybe", kind="hard", words=_NO_SUCH_USER, bare=True),
    Rule(id="words.size", kind="content", words=r"(message|size) .{0,30}(too (large|big)|exceeds)|virus|malware"),
    Rule(id="5.1", kind="hard", enhanced=r"5\.1\.\d+"),
    Rule(id="code.4", kind="soft", code=r"4\d\d"),
    Rule(id="code.552", kind="quota", code=r"552"),  # RFC 5321 4.2.3: exceeded storage allocation
    Rule(id="none", kind="unknown"),
)


# What is no reply of a server's.
NO_REPLY: Final = Rule(id="no-reply", kind="network", action="retry")  # nobody answered, or not to the end
UNSENT: Final = Rule(id="unsent", kind="unknown")  # nobody was asked: expired, unsigned, or no provider to be had


def classify(reply: str, enhanced: str = "", own: Sequence[Own] = ()) -> Classified:
    """Which rule fits what a server said; `enhanced` is what a report's Status says, used where the reply has none.

    `own` are an account's rules in their order, looked at first."""
    said = taken_apart(reply, enhanced)
    mine = next((rule for rule in own if rule.fits(said)), None)
    return _by(mine or next(rule for rule in RULES if rule.fits(said)), said)


def by(rule: Rule) -> Classified:
    """The classification that a rule gives to what was not said."""
    return _by(rule, Said(code="", enhanced="", words=""))


def _by(rule: Rule | Own, said: Said) -> Classified:
    temporary = said.code.startswith("4") or (not said.code and said.enhanced.startswith("4"))
    return Classified(
        rule=rule.id,
        kind=rule.kind,
        suppresses=rule.suppresses,
        code=said.code,
        enhanced=said.enhanced,
        action=rule.action or ("retry" if temporary else "bounce"),
        own=isinstance(rule, Own),
    )


def taken_apart(reply: str, enhanced: str = "") -> Said:
    """Code, RFC 3463 code and words of a reply such as `550 5.1.1 <a@b.example>: no such user`."""
    text = " ".join(reply[:MAX_READ].split())
    bare = _ADDRESS.sub(" ", text)
    code = _CODE.search(bare)
    own = _ENHANCED.search(bare)
    if own is None or own[0].endswith(".0.0"):  # RFC 3463 3.1: says nothing
        own = _ENHANCED.fullmatch(enhanced.strip()) or own
    return Said(code=code[0] if code else "", enhanced=own[0] if own else "", words=bare.lower())


def _whole(pattern: str, text: str) -> bool:
    return re.fullmatch(pattern, text) is not None


def _alike(pattern: Sequence[str], given: Sequence[str]) -> bool:
    return len(pattern) == len(given) and all(wanted in ("x", one) for wanted, one in zip(pattern, given, strict=True))


def _in_order(pieces: Sequence[str], text: str) -> bool:
    """Whether the pieces stand in the text one behind the other: the leftmost place of each is never the wrong one."""
    at = 0
    for piece in pieces:
        found = text.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return True

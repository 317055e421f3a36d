"""Books that balance, the log they came from, and the audit over both."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from schemas.topics import Topics
from tally.audit import Audit, audit
from tally.kafka import Extent
from tests.reports.building import NOON, Line, fact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from tally.alert_ledger import Message
    from tests.reports.building import Counted

HORIZON = timedelta(days=35)
TOKENS = (Line("input_tokens", "1000", "0.5"), Line("output_tokens", "10", "0.25"), Line("images", "1", None))


class Place(NamedTuple):
    """Where a partition begins and ends, and up to where it was read."""

    begin: int
    end: int
    committed: int


@dataclass(frozen=True)
class Said:
    """A message of an alert."""

    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int = 0
    partition: int = 0


@dataclass
class AlertTopic:
    """A topic of alerts: its messages, from which offset on they are left, and whether a transaction is open."""

    messages: list[Said] = field(default_factory=list)
    begin: int = 0
    is_open: bool = False

    def say(self, key: str, value: bytes, *, at: datetime = NOON) -> None:
        """One more message."""
        self.messages.append(Said(len(self.messages), key.encode(), value, int(at.timestamp() * 1000)))


@dataclass
class Log:
    """A log of one partition per topic, as values: what the audit sees of Kafka."""

    raw: Place
    priced: Place
    markers: frozenset[int] = frozenset()
    members: tuple[str, ...] = ()
    looked_up: list[tuple[int, int]] = field(default_factory=list)
    alerts: AlertTopic = field(default_factory=AlertTopic)
    alerts_state: AlertTopic = field(default_factory=AlertTopic)

    def positions(self, topic: str) -> Mapping[int, Place]:
        """Partition 0 of either topic."""
        return {0: self.raw if topic == Topics().events else self.priced}

    def held(self, topic: str, spans: Mapping[int, Sequence[tuple[int, int]]]) -> Mapping[int, Sequence[int]]:
        """Every offset from begin to end that is no marker."""
        assert topic == Topics().events
        self.looked_up += spans[0]
        return {
            0: [
                offset
                for start, stop in spans[0]
                for offset in range(max(start, self.raw.begin), min(stop, self.raw.end))
                if offset not in self.markers
            ]
        }

    def read(self, topic: str, take: Callable[[Sequence[Message]], None]) -> Mapping[int, Extent]:
        """The one partition, up to its end."""
        topics = self.alerts, self.alerts_state
        own = topics[topic == Topics().alerts_state]
        take([message for message in own.messages if message.offset >= own.begin])
        return {0: Extent(own.begin, is_open=own.is_open)}

    def live_members(self) -> Sequence[str]:
        """Client ids."""
        return self.members


def balanced_books(counted: Counted) -> Log:
    """Three blocks of two hours and two orgs; a failure, a repeat, a refusal, a batch record; all of it committed.

    Raw offsets: 0–5 facts, 6 a duplicate of 0, 7 refused, 8 a batch of three: two facts and a refusal.
    """
    counted.count(fact(*TOKENS), fact(*TOKENS, status="error"), fact(*TOKENS, org="bolt"))
    counted.count(fact(*TOKENS), fact(*TOKENS, time=NOON + timedelta(hours=1)))
    counted.count(
        fact(Line("requests", "1", "0", name="lookups", state="not_billed"), status="error", operation="lookup"),
    )
    in_batch = {"offset": 8, "of": 3, "org": "bolt"}
    counted.count(
        fact(*TOKENS, **in_batch, index=0, id="batch-0"),
        fact(*TOKENS, **in_batch, index=2, id="batch-2"),
        numbered=False,
    )
    counted.repeat({"offset": 6})
    counted.refuse({"offset": 7}, {**in_batch, "index": 1})
    return Log(raw=Place(0, 9, 9), priced=Place(0, counted.block, counted.block))


def audited(counted: Counted, log: Log, *, org: str = "") -> Audit:
    """The audit over these books; it waits for nothing."""
    return audit(counted.store, log, topics=Topics(), org=org, horizon=HORIZON, timeout_seconds=0)


def failed(found: Audit) -> set[str]:
    """The checks that are not fine."""
    return {check.check for check in found.checks if not check.ok}


def detail(found: Audit, name: str) -> str:
    """What a check says."""
    return next(check.detail for check in found.checks if check.check == name)

"""The audit's look at what readers of alerts get: both topics hold what the store holds, and nothing else.

A worker stores an alert, then publishes it, then commits its block. So three looks, in this order, accuse nobody who
is at work: the committed blocks first, whose alerts are settled and must be in the topics; then the topics, up to the
ends that they have now; then the store, which has everything that stood before those ends. An alert of a block that
is not committed may be there or not; whoever reads the block again publishes it.

``usage.alerts`` is kept for a while: what is no longer in it may have been removed. A record goes only with all before
it, so what was brought about after the oldest record that is left must be there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from aiokafka.partitioner import murmur2

from clickhouse.audit import NAMED_MAX, Check, LogView
from clickhouse.stored_alerts import stored_alerts
from tally.alert_ledger import AlertLedger
from tally.output import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from clickhouse.audit import Fence
    from clickhouse.client import Store
    from schemas.topics import Topics
    from tally.alert_ledger import Absent, Difference, Message
    from tally.kafka import Extent

#: Two brokers, one of which stamps the block and the other the alert, may disagree by so much.
CLOCKS_APART_MS: Final = 5 * 60 * 1000
EVER: Final = float("inf")


class TopicView(LogView, Protocol):
    """What the audit asks Kafka, and all records of a topic."""

    def read(self, topic: str, take: Callable[[Sequence[Message]], None]) -> Mapping[int, Extent]:
        """Hands on all committed records up to the end that the topic has now; gives what was read, by partition."""


def check_published(  # noqa: PLR0913 -- the parts of one question
    store: Store, log: TopicView, *, topics: Topics, org: str, fence: Fence, begins: Mapping[int, int]
) -> list[Check]:
    """``usage.alerts`` has each stored transition, ``usage.alerts.state`` the latest of each alert, and nothing else.

    ``org`` "" is all orgs; a message that names no org is looked at with all of them. ``fence`` was read before.
    ``begins`` are where the partitions of ``usage.priced`` begin now. Nothing is written.
    While workers run, everything is read once more before a difference is believed: one that wakes up late says an
    older transition, and then the newer one again.
    """
    checks = _compared(store, log, topics=topics, org=org, fence=fence, begins=begins)
    if fence.live and not all(check.ok for check in checks):
        checks = _compared(store, log, topics=topics, org=org, fence=fence, begins=begins)
    return checks


def _compared(  # noqa: PLR0913 -- likewise
    store: Store, log: TopicView, *, topics: Topics, org: str, fence: Fence, begins: Mapping[int, int]
) -> list[Check]:
    with AlertLedger() as ledger:
        log_extents = log.read(topics.alerts, ledger.take_log)
        state_extents = log.read(topics.alerts_state, ledger.take_state)
        for alerts in stored_alerts(store, org=org):
            ledger.take_stored(alerts, fences=fence.blocks)
        return [
            _check_log(ledger, _Topic(topics.alerts, log_extents), org=org, priced=_Priced(topics.priced, begins)),
            _check_state(
                ledger, _Topic(topics.alerts_state, state_extents), org=org, priced=_Priced(topics.priced, begins)
            ),
        ]


def _check_log(ledger: AlertLedger, topic: _Topic, *, org: str, priced: _Priced) -> Check:
    """Every settled transition was published and its message is left, unless it may have been removed."""
    gone_until = {
        partition: _gone_until(ledger, partition, begin=extent.begin) for partition, extent in topic.extents.items()
    }

    def may_be_gone(absent: Absent) -> bool:
        return absent.recorded_ms <= gone_until[topic.partition_of(absent.alert_id)]

    found = _Found(topic, priced, expected=ledger.settled())
    found.missing(ledger.missing_in_log(), may_be_gone=may_be_gone)
    found.add("changed", "is not {name} as it is stored", ledger.changed("log"))
    found.add_surplus(ledger.not_stored("log", org=org))
    return found.check("alerts_published")


def _check_state(ledger: AlertLedger, topic: _Topic, *, org: str, priced: _Priced) -> Check:
    """The newest message of every alert is its latest transition: the latest settled one, or one beyond it."""
    found = _Found(topic, priced, expected=ledger.settled_alerts())
    found.missing(ledger.missing_in_state(), may_be_gone=lambda _: False)
    stale = (difference for difference, partition in ledger.stale_in_state() if not topic.extents[partition].is_open)
    found.add("stale", "is behind {name}", stale)
    found.add("changed", "is not {name} as it is stored", ledger.changed("state"))
    found.add_surplus(ledger.not_stored("state", org=org))
    return found.check("alerts_state_is_latest")


def _gone_until(ledger: AlertLedger, partition: int, *, begin: int) -> float:
    """Up to which append a record of ``usage.alerts`` may have been removed, in milliseconds since 1970."""
    if not begin:
        return -EVER
    oldest_left = ledger.first_append_ms(partition, begin=begin)
    return EVER if oldest_left is None else oldest_left + CLOCKS_APART_MS


@dataclass(frozen=True, slots=True)
class _Topic:
    """A topic that was read."""

    name: str
    extents: Mapping[int, Extent]

    def partition_of(self, alert_id: str) -> int:
        """Where a worker's producer puts the messages of an alert."""
        numbers = sorted(self.extents)
        number: int = numbers[(murmur2(alert_id.encode()) & 0x7FFFFFFF) % len(numbers)]
        return number


@dataclass(frozen=True, slots=True)
class _Priced:
    """``usage.priced``, from which alerts can be brought about again, and where its partitions begin."""

    name: str
    begins: Mapping[int, int]


@dataclass
class _Found:
    """The differences of one topic, as they add up."""

    topic: _Topic
    priced: _Priced
    expected: int
    _numbers: dict[str, int] = field(default_factory=dict)
    _names: list[str] = field(default_factory=list)
    _blocks: dict[int, int] = field(default_factory=dict)  # the first block of each partition to be read again
    _removed: int = 0
    _held_up: int = 0

    def missing(self, absent: Iterator[Absent], *, may_be_gone: Callable[[Absent], bool]) -> None:
        """Transitions without a message, but those of which none need be there, or none can be seen now."""

        def accused() -> Iterator[Difference]:
            for one in absent:
                if may_be_gone(one):
                    self._removed += 1
                elif self.topic.extents[self.topic.partition_of(one.alert_id)].is_open:
                    self._held_up += 1
                else:
                    yield one.difference

        self.add("missing", "{name} is missing", accused())

    def add(self, what: str, said: str, differences: Iterator[Difference]) -> None:
        """Differences that reading their blocks again would mend."""
        for one in differences:
            self._count(what, one, said.format(name=one.name))
            if one.block_partition is not None and one.block is not None:
                first = self._blocks.get(one.block_partition, one.block)
                self._blocks[one.block_partition] = min(first, one.block)

    def add_surplus(self, differences: Iterator[Difference]) -> None:
        """Messages that should not be there."""
        for one in differences:
            self._count("not stored", one, "is not stored")

    def _count(self, what: str, one: Difference, said: str) -> None:
        self._numbers[what] = self._numbers.get(what, 0) + 1
        if len(self._names) < NAMED_MAX:
            self._names.append(said if one.place is None else f"{self.topic.name}/{one.place} {said}")

    def check(self, name: str) -> Check:
        """What came out."""
        expected = self.expected - self._removed - self._held_up
        surplus = self._numbers.get("not stored", 0)
        return Check(
            check=name,
            ok=not self._numbers,
            expected=str(expected),
            found=str(expected - sum(self._numbers.values()) + 2 * surplus),
            detail=" ".join(filter(None, [self._differences(), self._advice(), self._limits()])),
        )

    def _differences(self) -> str:
        if not self._numbers:
            return ""
        numbers = ", ".join(f"{number} {what}" for what, number in self._numbers.items())
        more = "; …" if sum(self._numbers.values()) > len(self._names) else ""
        return f"{self.topic.name} is not what is stored ({numbers}): {'; '.join(self._names)}{more}."

    def _advice(self) -> str:
        said = []
        again = {
            partition: max(block, self.priced.begins.get(partition, 0))
            for partition, block in sorted(self._blocks.items())
        }
        if again:
            places = " and ".join(f"{self.priced.name}/{partition} to {block}" for partition, block in again.items())
            said.append(
                f"To publish again what is stored, stop all workers, set the group's offset of {places} and start "
                "them (docs/operating.md)."
            )
        lost = [str(partition) for partition, block in again.items() if block > self._blocks[partition]]
        if lost:
            said.append(
                f"{self.priced.name} no longer has all of these blocks (partition {', '.join(lost)}): "
                "what came of the others can't be published again."
            )
        if "not stored" in self._numbers:
            said.append(f"What is not stored is not from the workers: find out who else writes to {self.topic.name}.")
        return " ".join(said)

    def _limits(self) -> str:
        said = []
        if self._removed:
            said.append(f"{counted(self._removed, 'transition')} may have been removed by retention.")
        if held_up := [str(partition) for partition, extent in self.topic.extents.items() if extent.is_open]:
            said.append(
                f"A transaction is open in {self.topic.name} (partition {', '.join(held_up)}): "
                "what stands behind it was not read."
            )
        return " ".join(said)

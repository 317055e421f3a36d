"""What must be in the store, reckoned with plain dictionaries from what was sent and where Kafka put it.

Which copy of an identity counts is not always decided by what was sent: within a partition the earlier offset wins,
between partitions whichever copy was priced first. So the oracle names the copies that may win, takes the store's word
for which of them did, and then demands that everything else follows from it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from tests.system.prices import Priced, priced

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.system.events import Event, Record
    from tests.system.views import Fact, Reject, Repeat, Views

Key = TypeVar("Key")
Value = TypeVar("Value")

LATE: Final = timedelta(hours=1)
SHOWN_MAX: Final = 5


class Place(NamedTuple):
    """Raw coordinates."""

    partition: int
    offset: int
    item: int  # the event's index within its record


class Appended(NamedTuple):
    """A record as the log holds it: which one it is, where it stands, when the broker took it."""

    number: int
    partition: int
    offset: int
    received_at: datetime


@dataclass(frozen=True)
class Copy:
    """One arrival of a valid event."""

    place: Place
    event: Event
    received_at: datetime

    @cached_property
    def price(self) -> Priced:
        """What it costs if it counts."""
        return priced(self.event)


@dataclass(frozen=True, slots=True)
class Refused:
    """A refusal that must be there."""

    reason: str
    org: str
    id: str
    received_at: datetime
    sha256: str


@dataclass
class Expected:
    """Everything that was sent, by identity, and every refusal, by place."""

    copies: dict[tuple[str, str, str], list[Copy]] = field(default_factory=lambda: defaultdict(list))
    refused: dict[Place, Refused] = field(default_factory=dict)
    digests: dict[tuple[int, int], str] = field(default_factory=dict)  # of the record at (partition, offset)
    numbers: set[int] = field(default_factory=set)  # of the records that stand in the log
    events: int = 0

    @property
    def repeats(self) -> int:
        """Copies beyond the first of each identity."""
        return sum(len(copies) - 1 for copies in self.copies.values())

    @property
    def late(self) -> int:
        """Copies that arrived more than an hour after they happened."""
        every = (copy for copies in self.copies.values() for copy in copies)
        return sum(copy.received_at - copy.event.time > LATE for copy in every)


def expect(sent: Mapping[int, Record], log: Iterable[Appended]) -> Expected:
    """What the store must hold when these records stand in the raw topic."""
    expected = Expected()
    for appended in sorted(log, key=lambda one: (one.partition, one.offset)):
        record = sent[appended.number]
        expected.numbers.add(appended.number)
        digest = hashlib.sha256(record.value or b"").hexdigest()
        expected.digests[appended.partition, appended.offset] = digest
        for index, item in enumerate(record.items):
            place = Place(appended.partition, appended.offset, index)
            expected.events += 1
            if item.event is None:
                expected.refused[place] = Refused(item.reason, item.org, item.id, appended.received_at, digest)
            else:
                expected.copies[item.event.identity].append(Copy(place, item.event, appended.received_at))
    return expected


class Differences:
    """Sentences about what is not as it must be, counted by kind; only the first few of a kind are kept."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._shown: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, sentence: str) -> None:
        """One more of a kind."""
        self.counts[kind] += 1
        if len(self._shown[kind]) < SHOWN_MAX:
            self._shown[kind].append(sentence)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        lines = []
        for kind, count in sorted(self.counts.items()):
            lines.append(f"{kind}: {count}")
            lines += [f"    {sentence}" for sentence in self._shown[kind]]
        return "\n".join(lines)


def differences(expected: Expected, views: Views, *, topic: str) -> Differences:
    """Everything in which the views and ``usage.rejected`` differ from what was sent."""
    found = Differences()
    winners = _winners(expected, views.facts, found)
    conflicts = _check_repeats(expected, winners, views.repeats, found)
    refused = expected.refused | conflicts
    _check_rejected(refused, views.rejected, found, where="rejected")
    _check_rejected(refused, views.rejected_topic, found, where="usage.rejected")
    for key, place in views.rejected_keys:
        if key != f"{topic}/{place.partition}/{place.offset}/{place.item}":
            found.add("usage.rejected: wrong key", f"{key} of {place}")
    for key in views.rejected_contradictions:
        found.add("usage.rejected: one key says two things", key)
    _compare(_totals(winners), views.totals, found, what="totals_hourly")
    _compare(_quantities(winners), views.quantities, found, what="quantities_hourly")
    return found


def _winners(expected: Expected, facts: Iterable[Fact], found: Differences) -> list[Copy]:
    """The copies that the store counted, each checked; where none is, the first stands in, so that totals show it."""
    by_identity: dict[tuple[str, str, str], list[Fact]] = defaultdict(list)
    for fact in facts:
        by_identity[fact.org, fact.source, fact.id].append(fact)
    winners = []
    for identity, copies in expected.copies.items():
        counted = by_identity.pop(identity, [])
        if not counted:
            found.add("facts: missing", f"{identity}, sent at {[tuple(copy.place) for copy in copies]}")
            winners.append(copies[0])
            continue
        if len(counted) > 1:
            found.add("facts: doubled", f"{identity} is counted at {[tuple(fact.place) for fact in counted]}")
        winner = next((copy for copy in _first_of_each_partition(copies) if copy.place == counted[0].place), None)
        if winner is None:
            places = [tuple(copy.place) for copy in copies]
            found.add("facts: wrong winner", f"{identity} is counted at {tuple(counted[0].place)}, sent at {places}")
        winners.append(winner or copies[0])
        _check_fact(winners[-1], counted[0], found)
    for identity, surplus in by_identity.items():
        found.add("facts: surplus", f"{identity} at {[tuple(fact.place) for fact in surplus]} was never sent validly")
    return winners


def _first_of_each_partition(copies: list[Copy]) -> list[Copy]:
    """Copies stand in the order of (partition, offset, index): of each partition only the first may win."""
    first: dict[int, Copy] = {}
    for copy in copies:
        first.setdefault(copy.place.partition, copy)
    return list(first.values())


def _check_fact(copy: Copy, fact: Fact, found: Differences) -> None:
    event, price = copy.event, copy.price
    must = {
        "content": (
            *(event.time, event.project, event.api_key, event.environment, event.user),
            *(event.operation, event.provider, event.model, variant_text(event), event.status),
        ),
        "usage": dict(event.usage),
        "received_at": copy.received_at,
        "cost": price.cost,
        "pricing": price.pricing,
    }
    for name, value in must.items():
        if getattr(fact, name) != value:
            found.add(f"facts: wrong {name}", f"{event.identity}: {getattr(fact, name)}, not {value}")


def _check_repeats(
    expected: Expected, winners: list[Copy], repeats: Iterable[Repeat], found: Differences
) -> dict[Place, Refused]:
    """Every copy that lost is a duplicate or a conflict of the one that won; hands back the refusals of conflicts."""
    must: dict[Place, tuple[str, tuple[str, str, str], datetime, Place]] = {}
    conflicts: dict[Place, Refused] = {}
    for winner in winners:
        for copy in expected.copies[winner.event.identity]:
            if copy.place == winner.place:
                continue
            kind = "duplicate" if _content(copy.event) == _content(winner.event) else "conflict"
            must[copy.place] = (kind, copy.event.identity, copy.event.time, winner.place)
            if kind == "conflict":
                digest = expected.digests[copy.place.partition, copy.place.offset]
                conflicts[copy.place] = Refused(
                    "conflict", copy.event.org, copy.event.id, copy.received_at, digest
                )  # fmt: skip
    there = [(repeat.place, (repeat.kind, repeat.identity, repeat.time, repeat.first)) for repeat in repeats]
    _compare(must, there, found, what="duplicates")
    return conflicts


def variant_text(event: Event) -> str:
    """The column ``variant``: compact JSON with sorted keys, "" when nothing is said."""
    return json.dumps(dict(event.variant), sort_keys=True, separators=(",", ":")) if event.variant else ""


def _content(event: Event) -> tuple[object, ...]:
    return (
        *(event.operation, event.time, event.project, event.api_key, event.environment, event.user),
        *(event.provider, event.model, event.status, frozenset(event.usage), frozenset(event.tags)),
        variant_text(event),
    )


def _check_rejected(
    must: Mapping[Place, Refused], rejects: Iterable[Reject], found: Differences, *, where: str
) -> None:
    there = [
        (reject.place, Refused(reject.reason, reject.org, reject.id, reject.received_at, reject.sha256))
        for reject in rejects
    ]
    _compare(must, there, found, what=where)


def _compare(must: Mapping[Key, Value], rows: Iterable[tuple[Key, Value]], found: Differences, *, what: str) -> None:
    there: dict[Key, Value] = {}
    for key, value in rows:
        if key in there:
            found.add(f"{what}: doubled", f"{key}: {value} beside {there[key]}")
        there[key] = value
    for key, value in must.items():
        if key not in there:
            found.add(f"{what}: missing", f"{key}: {value}")
        elif there[key] != value:
            found.add(f"{what}: wrong", f"{key}: {there[key]}, not {value}")
    for key in there.keys() - must.keys():
        found.add(f"{what}: surplus", f"{key}: {there[key]}")


Lane = tuple[str, ...]


def _lane(event: Event) -> tuple[Lane, datetime]:
    dimensions = (event.org, event.project, event.api_key, event.environment, event.user)
    hour = event.time.replace(minute=0, second=0, microsecond=0)
    return (*dimensions, event.operation, event.provider, event.model), hour


def _totals(winners: Iterable[Copy]) -> dict[tuple[Lane, datetime], tuple[int, int, int, Decimal, int]]:
    """Requests, ok, failed, cost and unpriced by lane and hour."""
    totals: dict[tuple[Lane, datetime], list[int | Decimal]] = {}
    for copy in winners:
        price = copy.price
        total = totals.setdefault(_lane(copy.event), [0, 0, 0, Decimal(0), 0])
        total[0] += 1
        total[1 if copy.event.status == "ok" else 2] += 1
        total[3] += price.cost or 0
        total[4] += price.pricing == "unpriced"
    return {lane: tuple(total) for lane, total in totals.items()}  # type: ignore[misc]


def _quantities(
    winners: Iterable[Copy],
) -> dict[tuple[Lane, datetime, str], tuple[Decimal, Decimal | None]]:
    """Quantity and cost by lane, hour and meter; the cost is None where nothing of it has a price."""
    quantities: dict[tuple[Lane, datetime, str], tuple[Decimal, Decimal | None]] = {}
    for copy in winners:
        lane, hour = _lane(copy.event)
        for meter, quantity, cost in copy.price.meters:
            before, spent = quantities.get((lane, hour, meter), (Decimal(0), None))
            total = spent if cost is None else (spent or Decimal(0)) + cost
            quantities[lane, hour, meter] = (before + quantity, total)
    return quantities

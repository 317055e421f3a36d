"""What must come of a log, said a second time: plain dictionaries and decimals, nothing shared with ``pipeline``."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tests.pipeline.batches import EXACT, TOPIC, cost_of, lines_of, pricing_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import timedelta

    from tests.pipeline.batches import Event, Line, LogBlock

Coordinates = tuple[str, int, int, int]
Lane = tuple[Any, ...]

CONTENT = (
    "time", "operation", "project", "api_key", "environment", "user", "provider", "model", "variant", "status",
    "tags",
)  # fmt: skip
LANE = ("org", "project", "api_key", "environment", "user", "operation", "provider", "model")


@dataclass
class Books:
    """Facts, totals and repeats in a form that can be compared, whoever kept them.

    Everything is exact except where flushes ended: a total's version is only held to be at or after its newest fact.
    """

    facts: dict[Coordinates, Any] = field(default_factory=dict)
    totals: dict[Lane, Any] = field(default_factory=dict)
    repeats: dict[Coordinates, Any] = field(default_factory=dict)


def expected(log: Iterable[LogBlock], *, horizon: timedelta) -> Books:
    """The books of this log: of every identity the first counts, and the next one after the horizon again."""
    books = Books()
    holders: dict[tuple[str, str, str], list[Event]] = defaultdict(list)
    counted: list[tuple[Event, tuple[Line, ...]]] = []
    for block in log:
        for event in block.events:
            if event.coordinates in books.facts or event.coordinates in books.repeats:
                continue  # seen already: delivery does not count
            identity = (event.org, event.source, event.id)
            holding = [one for one in holders[identity] if event.received_at - one.received_at <= horizon]
            if holding:
                first = holding[0]
                kind = "duplicate" if _content(first) == _content(event) else "conflict"
                books.repeats[event.coordinates] = (kind, identity, event.time, first.coordinates, block.offset)
            else:
                lines = lines_of(event, revision=block.revision)
                holders[identity].append(event)
                counted.append((event, lines))
                place = (block.partition, block.offset)
                books.facts[event.coordinates] = _fact(identity, _content(event), lines, place)
    books.totals = _totals(counted)
    return books


def _content(event: Event) -> tuple[Any, ...]:
    return (*(getattr(event, name) for name in CONTENT), dict(event.usage))


def _fact(
    identity: tuple[str, str, str], content: tuple[Any, ...], lines: Iterable[Line], place: tuple[int, int]
) -> tuple[Any, ...]:
    said = sorted((line.meter, line.name, line.price_id, line.state, line.quantity, line.cost) for line in lines)
    return identity, content, said, place


def _totals(counted: Iterable[tuple[Event, tuple[Line, ...]]]) -> dict[Lane, Any]:
    totals: dict[Lane, dict[str, Any]] = {}
    for event, lines in counted:
        lane = (event.time.replace(minute=0, second=0, microsecond=0), *(getattr(event, name) for name in LANE))
        total = totals.setdefault(lane, _nothing())
        cost = cost_of(lines) or Decimal(0)
        total["requests"] += 1
        total["ok" if event.status == "ok" else "failed"] += 1
        total["unpriced"] += pricing_of(lines) == "unpriced"
        total["cost"] = EXACT.add(total["cost"], cost)
        total["failed_cost"] = EXACT.add(total["failed_cost"], cost if event.status != "ok" else Decimal(0))
        total["newest_time"] = max(event.time, total["newest_time"] or event.time)
        for line in lines:
            _add_line(total["quantities"], line)
    return totals


def _nothing() -> dict[str, Any]:
    sums = dict.fromkeys(("requests", "ok", "failed", "unpriced", "cost", "failed_cost"), Decimal(0))
    return {**sums, "newest_time": None, "quantities": {}}


def _add_line(quantities: dict[tuple[str, str], list[Any]], line: Line) -> None:
    own = quantities.setdefault((line.meter, line.name), [Decimal(0), Decimal(0), None, 0])
    own[0] = EXACT.add(own[0], line.quantity)
    own[1] = EXACT.add(own[1], line.quantity if line.state == "billed" else Decimal(0))
    own[2] = own[2] if line.cost is None else EXACT.add(own[2] or Decimal(0), line.cost)
    own[3] += line.state == "unpriced"


def found(
    facts: Iterable[Mapping[str, Any]], totals: Iterable[Mapping[str, Any]], repeats: Iterable[Mapping[str, Any]]
) -> Books:
    """The books that a store holds, by its rows of FACTS, TOTALS and REPEATS. One row twice is a mistake."""
    books = Books()
    for fact in facts:
        identity = (fact["org"], fact["source"], fact["id"])
        lists = ("meters", "names", "price_ids", "states", "quantities", "costs")
        said = sorted(zip(*(fact[name] for name in lists), strict=True))
        usage = dict(zip(fact["meters"], fact["quantities"], strict=True))
        content = (*(fact[name] for name in CONTENT), usage)
        _put(books.facts, _place(fact), (identity, content, said, (fact["block_partition"], fact["block"])))
    for total in totals:
        lane = (total["hour"], *(total[name] for name in LANE))
        _put(books.totals, lane, _total(total))
    for repeat in repeats:
        identity = (repeat["org"], repeat["source"], repeat["id"])
        first = tuple(repeat[f"first_{name}"] for name in ("topic", "partition", "offset", "index"))
        _put(books.repeats, _place(repeat), (repeat["kind"], identity, repeat["time"], first, repeat["block"]))
    return books


def without_blocks(books: Books) -> Books:
    """The same without blocks, which depend on where they were cut."""
    return Books(
        {place: fact[:-1] for place, fact in books.facts.items()},
        books.totals,
        {place: repeat[:-1] for place, repeat in books.repeats.items()},
    )


def _total(row: Mapping[str, Any]) -> dict[str, Any]:
    lists = ("quantities", "billed_quantities", "costs", "unpriced_events")
    keys = zip(row["meters"], row["names"], strict=True)
    quantities = dict(zip(keys, map(list, zip(*(row[name] for name in lists), strict=True)), strict=True))
    names = ("requests", "ok", "failed", "unpriced", "cost", "failed_cost", "newest_time")
    return {**{name: row[name] for name in names}, "quantities": quantities}


def _place(row: Mapping[str, Any]) -> Coordinates:
    assert row["topic"] == TOPIC
    return row["topic"], row["partition"], row["offset"], row["index"]


def _put(rows: dict[Any, Any], key: Any, row: Any) -> None:
    assert key not in rows, f"twice: {key}"
    rows[key] = row

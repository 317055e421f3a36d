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
    """Facts as they cost now, totals, repeats and corrections in a form that can be compared, whoever kept them.

    Everything is exact except where flushes ended: a total's version is only held to be at or after its newest fact.
    """

    facts: dict[Coordinates, Any] = field(default_factory=dict)
    totals: dict[Lane, Any] = field(default_factory=dict)
    repeats: dict[Coordinates, Any] = field(default_factory=dict)
    corrections: dict[tuple[Coordinates, int], Any] = field(default_factory=dict)


def expected(log: Iterable[LogBlock], *, horizon: timedelta) -> Books:
    """The books of this log: of every identity the first counts, and the next one after the horizon again."""
    books = Books()
    holders: dict[tuple[str, str, str], list[Event]] = defaultdict(list)
    counted: dict[Coordinates, tuple[Event, tuple[Line, ...], tuple[int, int]]] = {}
    runs: dict[Coordinates, list[str]] = defaultdict(list)
    for block in log:
        for event in block.events:
            place = event.coordinates
            identity = (event.org, event.source, event.id)
            if block.run:
                _correct(books, counted, runs, block, event)
                continue
            if place in counted or place in books.repeats:
                continue  # seen already: delivery does not count
            holding = [one for one in holders[identity] if event.received_at - one.received_at <= horizon]
            if holding:
                first = holding[0]
                kind = "duplicate" if _content(first) == _content(event) else "conflict"
                books.repeats[place] = (kind, identity, event.time, first.coordinates, block.offset)
            else:
                holders[identity].append(event)
                lines = lines_of(event, revision=block.revision)
                counted[place] = (event, lines, (block.partition, block.offset))
    for place, (event, lines, block_place) in counted.items():
        identity = (event.org, event.source, event.id)
        books.facts[place] = _fact(identity, _content(event), lines, block_place)
    books.totals = _totals((event, lines) for event, lines, _ in counted.values())
    return books


def _correct(
    books: Books,
    counted: dict[Coordinates, tuple[Event, tuple[Line, ...], tuple[int, int]]],
    runs: dict[Coordinates, list[str]],
    block: LogBlock,
    event: Event,
) -> None:
    """The last correction in the log is in force; each run has one, and one that changes no figure is none."""
    place = event.coordinates
    fact, old, counted_at = counted.get(place, (None, (), (0, 0)))
    lines = lines_of(event, revision=block.revision)
    if fact is None or _content(fact) != _content(event) or (fact.org, fact.source, fact.id) != (
        event.org, event.source, event.id,
    ):  # fmt: skip
        return
    if block.run in runs[place] or _figures(old) == _figures(lines):
        return
    runs[place].append(block.run)
    counted[place] = (fact, lines, counted_at)
    key = (place, block.offset)
    books.corrections[key] = (block.run, len(runs[place]), _said(old), _said(lines), _worth(old), _worth(lines))


def _figures(lines: Iterable[Line]) -> list[Any]:
    return [(line.meter, line.name, line.state, line.quantity, line.cost) for line in lines]


def _said(lines: Iterable[Line]) -> list[Any]:
    return sorted((line.meter, line.name, line.price_id, line.state, line.quantity, line.cost) for line in lines)


def _worth(lines: tuple[Line, ...]) -> tuple[Decimal | None, str]:
    return cost_of(lines), pricing_of(lines)


def _content(event: Event) -> tuple[Any, ...]:
    return (*(getattr(event, name) for name in CONTENT), dict(event.usage))


def _fact(
    identity: tuple[str, str, str], content: tuple[Any, ...], lines: Iterable[Line], place: tuple[int, int]
) -> tuple[Any, ...]:
    return identity, content, _said(lines), place


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
    own = quantities.setdefault((line.meter, line.name), [Decimal(0), Decimal(0), None, 0, 0])
    own[0] = EXACT.add(own[0], line.quantity)
    own[1] = EXACT.add(own[1], line.quantity if line.state == "billed" else Decimal(0))
    own[2] = own[2] if line.cost is None else EXACT.add(own[2] or Decimal(0), line.cost)
    own[3] += line.state == "unpriced"
    own[4] += 1


def found(
    facts: Iterable[Mapping[str, Any]],
    totals: Iterable[Mapping[str, Any]],
    repeats: Iterable[Mapping[str, Any]],
    corrections: Iterable[Mapping[str, Any]] = (),
) -> Books:
    """The books that a store holds, by its rows of FACTS, TOTALS, REPEATS and CORRECTIONS, none of them twice."""
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
    for row in corrections:
        old, new = ((row[f"{prefix}cost"], row[f"{prefix}pricing"]) for prefix in ("old_", ""))
        was = (row["run"], row["revision"], _lines_in(row, "old_"), _lines_in(row, ""), old, new)
        _put(books.corrections, (_place(row), row["correction_block"]), was)
    return books


def _lines_in(row: Mapping[str, Any], prefix: str) -> list[Any]:
    words = [tuple(line.split("\t")) for line in row[f"{prefix}lines"].split("\n") if line]
    amounts = zip(row[f"{prefix}quantities"], row[f"{prefix}costs"], strict=True)
    return sorted((*word, *amount) for word, amount in zip(words, amounts, strict=True))


def without_blocks(books: Books) -> Books:
    """The same without blocks, which depend on where they were cut."""
    return Books(
        {place: fact[:-1] for place, fact in books.facts.items()},
        books.totals,
        {place: repeat[:-1] for place, repeat in books.repeats.items()},
        books.corrections,
    )


def _total(row: Mapping[str, Any]) -> dict[str, Any]:
    lists = ("quantities", "billed_quantities", "costs", "unpriced_events", "events")
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

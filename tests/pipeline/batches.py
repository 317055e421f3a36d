"""Priced events, blocks and logs for tests: plain values first, frames made from them."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from functools import reduce
from typing import TYPE_CHECKING, Any, Final

import polars as pl
from hypothesis import strategies as st

from pipeline.block import Block, encode_block
from pipeline.route import partition_of
from schemas.correction import Correction
from schemas.counted import COUNTED_EVENTS, LANE
from schemas.frames import KINDS, LINES, PRICED_EVENTS, PricedBatch
from schemas.price_book import PriceBook
from schemas.records import RawRecord
from schemas.variants import variant_pairs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TOPIC: Final = "usage.events"
NOON: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
HORIZON: Final = timedelta(days=35)
#: Sums of the largest quantities with twelve decimals have more digits than Python keeps by default.
EXACT: Final = Context(prec=60)

#: What a unit costs, by revision of the price book and meter. ``images`` has no price before the third, in which
#: ``output_tokens`` has none; ``reasoning_tokens`` is a memo.
PRICES: Final[dict[int, dict[str, Decimal]]] = {
    1: {"input_tokens": Decimal("0.15"), "output_tokens": Decimal("0.6")},
    2: {"input_tokens": Decimal("0.25"), "output_tokens": Decimal("0.000000000001")},
    3: {"images": Decimal(7), "input_tokens": Decimal("0.15")},
    4: {"input_tokens": Decimal("0.01"), "output_tokens": Decimal("0.01")},
}


@dataclass(frozen=True, slots=True, repr=False)
class Event:
    """A valid event as plain values, with its raw coordinates; ordinary unless a test says otherwise."""

    offset: int = 0
    id: str = "a"
    partition: int = 0
    index: int = 0
    of: int = 1
    received_at: datetime = NOON
    org: str = "acme"
    source: str = "/gateway"
    time: datetime = NOON - timedelta(minutes=5)
    operation: str = "llm.request"
    project: str = "checkout"
    api_key: str = "key_42"
    environment: str = ""
    user: str = ""
    provider: str = "openai"
    model: str = "gpt-4o-mini"
    variant: str = ""
    status: str = "ok"
    tags: str = ""
    usage: tuple[tuple[str, Decimal], ...] = (("input_tokens", Decimal(10)),)

    def __repr__(self) -> str:
        own = {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name) != one.default}
        return f"Event({', '.join(f'{name}={value!r}' for name, value in own.items())})"

    @property
    def coordinates(self) -> tuple[str, int, int, int]:
        """Where in the raw topic it stood."""
        return TOPIC, self.partition, self.offset, self.index


@dataclass(frozen=True, slots=True)
class Line:
    """One priced quantity of an event."""

    meter: str
    name: str
    price_id: str
    state: str
    quantity: Decimal
    cost: Decimal | None


def lines_of(event: Event, *, revision: int) -> tuple[Line, ...]:
    """The event's quantities as the book of that revision prices them."""
    return tuple(_line(meter, quantity, revision) for meter, quantity in event.usage)


def _line(meter: str, quantity: Decimal, revision: int) -> Line:
    price = PRICES[revision].get(meter)
    if price is not None:
        row = 1 + list(PRICES[revision]).index(meter)
        cost = EXACT.quantize(EXACT.multiply(quantity, price), Decimal("1e-12"))  # half-even
        return Line(meter, meter, f"standard@{revision}:{row}", "billed", quantity, cost)
    if meter == "reasoning_tokens":
        return Line(meter, "", "", "memo", quantity, None)
    return Line(meter, "", "", "ignored" if quantity == 0 else "unpriced", quantity, None)


def cost_of(lines: Iterable[Line]) -> Decimal | None:
    """The sum of what has a price; None when nothing has."""
    costs = [line.cost for line in lines if line.cost is not None]
    return reduce(EXACT.add, costs) if costs else None


def pricing_of(lines: Sequence[Line]) -> str:
    """The contract's word for how an event is priced; no price of PRICES is 0."""
    has_price = any(line.cost is not None for line in lines)
    return "unpriced" if not has_price or any(line.state == "unpriced" for line in lines) else "priced"


def make_batch(events: Sequence[Event], *, revision: int = 1) -> PricedBatch:
    """The events as the price stage hands them on."""
    rows, lines = [], []
    kinds: dict[tuple[str, str, str, str], int] = {}
    for row, event in enumerate(events):
        own = lines_of(event, revision=revision)
        rows.append({name: getattr(event, name, None) for name in PRICED_EVENTS})
        rows[-1] |= {"cost": cost_of(own), "pricing": pricing_of(own)}
        for line in own:
            kind = kinds.setdefault((line.meter, line.name, line.price_id, line.state), len(kinds))
            lines.append((row, kind, line.quantity, line.cost))
    return PricedBatch(
        pl.DataFrame(rows, schema=PRICED_EVENTS),
        pl.DataFrame(lines, schema=LINES, orient="row"),
        pl.DataFrame([(code, *kind) for kind, code in kinds.items()], schema=KINDS, orient="row"),
    )


def make_block(
    events: Sequence[Event], *, offset: int = 0, partition: int = 0, revision: int = 1, run: str = ""
) -> Block:
    """The events as one block of ``usage.priced``; with a ``run`` one that corrects what they cost."""
    value = encode_block(make_batch(events, revision=revision), topic=TOPIC)
    return Block(partition, offset, append_time_ms(offset), value, correction=header_of(run, revision))


def header_of(run: str, revision: int) -> bytes | None:
    """The header of a correction block; None without a run."""
    if not run:
        return None
    return Correction(run=run, books=f"standard@{revision}", requested_at="2026-03-01T12:00:00Z").to_header()


def append_time_ms(offset: int) -> int:
    """When the block of this offset was appended; any rule does, as long as one place has one time."""
    return int((NOON + timedelta(seconds=offset)).timestamp() * 1000)


def make_counted(events: Sequence[Event], *, block: int = 0, partition: int = 0, revision: int = 1) -> PricedBatch:
    """The events with their place in the log, without going through bytes."""
    batch = make_batch(events, revision=revision)
    placed = batch.events.with_columns(
        pl.lit(TOPIC).alias("topic"),
        pl.lit(partition, dtype=pl.Int32).alias("block_partition"),
        pl.lit(block, dtype=pl.UInt64).alias("block"),
        pl.lit(NOON + timedelta(seconds=block)).cast(COUNTED_EVENTS["recorded_at"]).alias("recorded_at"),
    )
    return PricedBatch(placed.select(COUNTED_EVENTS.keys()), batch.lines, batch.kinds)


def lanes_of(events: Sequence[Event]) -> pl.DataFrame:
    """The lanes (LANE) of these events, each once."""
    placed = make_batch(events).events.with_columns(pl.col("time").dt.truncate("1h").alias("hour"))
    return placed.select(LANE).unique()


def make_book(revision: int = 1) -> PriceBook:
    """PRICES of one revision as a book."""
    prices = [
        {"operation": "llm.request", "meter": meter, "price": f"{price:f}"} for meter, price in PRICES[revision].items()
    ]
    return PriceBook.model_validate(
        {"name": "standard", "revision": revision, "currency": "USD", "prices": prices, "ignore": ()}
    )


def make_record(events: Sequence[Event]) -> RawRecord:
    """The raw record that holds these events: they share partition, offset and time of receipt."""
    first = events[0]
    envelopes = [_envelope(event) for event in events]
    value = json.dumps(envelopes if first.of > 1 else envelopes[0]).encode()
    return RawRecord(TOPIC, first.partition, first.offset, int(first.received_at.timestamp() * 1000), value)


def _envelope(event: Event) -> dict[str, Any]:
    names = ("project", "api_key", "environment", "user", "provider", "model", "status")
    data: dict[str, Any] = {name: getattr(event, name) for name in names}
    data["variant"] = variant_pairs(event.variant)
    data["usage"] = {meter: f"{quantity:f}" for meter, quantity in event.usage}
    return {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.operation,
        "subject": event.org,
        "time": event.time.isoformat(),
        "data": data,
    }


@dataclass(frozen=True, slots=True)
class LogBlock:
    """A block of ``usage.priced`` as plain values; with a ``run`` it corrects what its events cost."""

    partition: int
    offset: int
    events: tuple[Event, ...]
    revision: int = 1
    run: str = ""

    def encoded(self) -> Block:
        """The block as it is read."""
        return make_block(
            self.events, offset=self.offset, partition=self.partition, revision=self.revision, run=self.run
        )


# What hypothesis draws from: few values each, so that identities meet again, as duplicates and as conflicts.

MOMENTS: Final = tuple(NOON + timedelta(minutes=minutes) for minutes in (-30, -5, 0, 55))
QUANTITIES: Final = (Decimal(0), Decimal(1), Decimal("2.5"), Decimal(1000000000000000), Decimal("0.000000001"))
METERS: Final = ("input_tokens", "output_tokens", "images", "reasoning_tokens")

usages = st.dictionaries(st.sampled_from(METERS), st.sampled_from(QUANTITIES), max_size=3).map(
    lambda usage: tuple(usage.items())
)

events = st.builds(
    Event,
    id=st.sampled_from("abc"),
    org=st.sampled_from(("acme", "zen", "beta")),
    source=st.sampled_from(("/gateway", "/batch")),
    time=st.sampled_from(MOMENTS),
    project=st.sampled_from(("checkout", "search")),
    status=st.sampled_from(("ok", "ok", "error")),
    usage=usages,
)


@st.composite
def raw_events(draw: st.DrawFn, *, partitions: int = 2, events_max: int = 14, seconds_max: int = 20) -> list[Event]:
    """Events of several raw partitions in the order in which they are priced: each partition ascends by itself.

    A received time never goes back within a raw partition, and may between two of them.
    """
    drawn: list[Event] = []
    offsets = [0] * partitions
    clocks = [0] * partitions
    for event in draw(st.lists(events, max_size=events_max)):
        partition = draw(st.integers(0, partitions - 1))
        clocks[partition] += draw(st.integers(0, seconds_max))
        received_at = NOON + timedelta(seconds=clocks[partition])
        drawn.append(replace(event, partition=partition, offset=offsets[partition], received_at=received_at))
        offsets[partition] += draw(st.integers(1, 2))
    return drawn


@st.composite
def logs(draw: st.DrawFn, *, partitions: int = 2, seconds_max: int = 20, restates: bool = True) -> list[LogBlock]:
    """A log as price agents leave it that were killed and began again: blocks in order, some of them twice.

    Each pass prices a run of the raw events that begins at or before what is in the log already, meets the raw
    partitions in another order, cuts anywhere, and may have another revision of the book. So of every raw event the
    copies that come first are in raw order. In between, runs restate events that were counted, were not, or say
    something else.
    """
    raw = draw(raw_events(seconds_max=seconds_max))
    written: list[LogBlock] = []
    ends = [0] * partitions
    reached = 0
    while reached < len(raw):
        start = draw(st.integers(max(0, reached - 4), reached))
        reached = max(reached, draw(st.integers(start + 1, len(raw))))
        revision = draw(st.sampled_from((1, 2)))
        for cut in _cuts(draw, _interleaved(draw, raw[start:reached])):
            for partition in range(partitions):
                own = tuple(event for event in cut if partition_of(event.org, partitions=partitions) == partition)
                if own:
                    written.append(LogBlock(partition, ends[partition], own, revision))
                    ends[partition] += draw(st.integers(1, 2))  # markers of transactions leave holes
        for run, events_of_run in draw(_runs(raw)) if restates else ():
            revision = draw(st.sampled_from((1, 2, 3)))
            for partition in range(partitions):
                own = tuple(
                    event for event in events_of_run if partition_of(event.org, partitions=partitions) == partition
                )
                if own:
                    written.append(LogBlock(partition, ends[partition], own, revision, run))
                    ends[partition] += draw(st.integers(1, 2))
    return written


def _runs(raw: Sequence[Event]) -> st.SearchStrategy[list[tuple[str, list[Event]]]]:
    """Parts of runs of `tally reprice`: some events once each; now and then one says what was never counted."""
    restated = st.sampled_from(raw).flatmap(
        lambda event: st.sampled_from((event, event, event, replace(event, project="other")))
    )
    return st.lists(st.tuples(st.sampled_from(("run-1", "run-2", "run-3")), st.lists(restated, max_size=4)), max_size=2)


def _interleaved(draw: st.DrawFn, run: Sequence[Event]) -> list[Event]:
    """The run in another order in which chunks of several raw partitions may have come in: each still ascends."""
    if not draw(st.booleans()):
        return list(run)
    shuffled = iter(draw(st.permutations([event.partition for event in run])))
    waiting = {partition: [e for e in run if e.partition == partition] for partition in {e.partition for e in run}}
    return [waiting[partition].pop(0) for partition in shuffled]


def _cuts(draw: st.DrawFn, drawn: Sequence[Event]) -> list[Sequence[Event]]:
    parts: list[Sequence[Event]] = []
    at = 0
    while at < len(drawn):
        size = draw(st.integers(1, 5))
        parts.append(drawn[at : at + size])
        at += size
    return parts

"""The price stage over columns: against its scalar specification, and the promises of the contract one by one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.price import compile_catalog, price
from pipeline.price_scalar import ScalarEvent, ScalarLine, ScalarPriced, price_event
from schemas.catalog_file import CatalogError
from schemas.frames import EVENTS, KINDS, LINES, PRICED_EVENTS, USAGE, PricedBatch
from schemas.price_book import Price, PriceBook, overlapping_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def make_price(**fields: Any) -> dict[str, Any]:
    """A price row of which only the interesting fields are said."""
    return {"operation": "llm.request", "meter": "input_tokens", "price": "1"} | fields


def make_book(*prices: dict[str, Any], name: str = "standard", ignore: Sequence[str] = ()) -> PriceBook:
    return PriceBook.model_validate(
        {"name": name, "revision": 7, "currency": "USD", "prices": prices, "ignore": tuple(ignore)}
    )


def make_event(**fields: Any) -> ScalarEvent:
    """An event of which only the interesting fields are said; quantities are given as decimal strings."""
    usage = {meter: Decimal(quantity) for meter, quantity in fields.pop("usage", {"input_tokens": "1"}).items()}
    ordinary = {"org": "acme", "operation": "llm.request", "provider": "openai", "model": "gpt-4o-mini", "status": "ok"}
    return ScalarEvent(**(ordinary | {"time": NOON} | fields), usage=usage)


def frames(events: Sequence[ScalarEvent]) -> tuple[pl.DataFrame, pl.DataFrame]:
    ordinary = {
        "partition": 0, "index": 0, "of": 1, "received_at": NOON, "source": "/gateway", "project": "checkout",
        "api_key": "key_1", "environment": "", "user": "", "tags": "",
    }  # fmt: skip
    names = ("org", "operation", "provider", "model", "status", "time")
    rows = [
        ordinary | {"offset": at, "id": str(at)} | {name: getattr(event, name) for name in names}
        for at, event in enumerate(events)
    ]
    quantities = [(at, meter, quantity) for at, event in enumerate(events) for meter, quantity in event.usage.items()]
    return pl.DataFrame(rows, schema=EVENTS), pl.DataFrame(quantities, schema=USAGE, orient="row")


def read_back(batch: PricedBatch) -> list[ScalarPriced]:
    """The batch as the specification's values, event by event."""
    lines: list[list[ScalarLine]] = [[] for _ in range(batch.events.height)]
    joined = batch.lines.join(batch.kinds, on="kind", how="left", maintain_order="left", validate="m:1")
    for line in joined.iter_rows(named=True):
        lines[line["row"]].append(
            ScalarLine(*(line[name] for name in ("meter", "name", "price_id", "state", "quantity", "cost")))
        )
    priced = batch.events.select("cost", "pricing").iter_rows()
    return [ScalarPriced(cost, pricing, tuple(own)) for (cost, pricing), own in zip(priced, lines, strict=True)]


def price_all(events: Sequence[ScalarEvent], *books: PriceBook) -> list[ScalarPriced]:
    """Prices by columns, after checking that the specification says the same, digit for digit."""
    batch = price(*frames(events), book=compile_catalog(books))
    answer = read_back(batch)
    assert [_digits(priced) for priced in answer] == [_digits(price_event(event, books=books)) for event in events]
    return answer


def price_one(event: ScalarEvent, *books: PriceBook) -> ScalarPriced:
    return price_all([event], *books)[0]


def _digits(priced: ScalarPriced) -> tuple[Any, ...]:
    """Compares costs as text: 0.5 and 0.500000000000 are equal as decimals, but not the same column value."""
    lines = [(*_fields(line)[:4], f"{line.quantity:.12f}", str(line.cost)) for line in priced.lines]
    return str(priced.cost), priced.pricing, lines


def _fields(line: ScalarLine) -> tuple[Any, ...]:
    return line.meter, line.name, line.price_id, line.state, line.quantity, line.cost


# --- against the specification, with anything a book and an event may hold -------------------------------------------

METERS = ("input_tokens", "cache_read_tokens", "cache_write_1h_tokens", "output_tokens", "reasoning_tokens", "seconds")
MODELS = ("gpt-4o", "gpt-4o-mini", "gpt-4o-mini-2024", "claude")
PATTERNS = ("gpt-4o*", "gpt-4o-mini*", "g*", "claude*")
INSTANTS = [NOON + timedelta(hours=hours, microseconds=us) for hours in range(-36, 37, 6) for us in (-1, 0, 1)]
TIMES_OF_DAY = ("00:00", "00:30", "12:00", "16:30", "18:00:01", "23:59:59")

amounts = st.one_of(
    st.sampled_from(["0", "1", "0.15", "0.000000000001", "1000000000", "999999999.999999999999", "2.49"]),
    st.decimals(0, 10**9, places=12).map(lambda value: f"{value:f}"),
    st.decimals(0, 100, places=4).map(lambda value: f"{value:f}"),
)
pers = st.sampled_from([1, 3, 7, 60, 999_983, 1_000_000, 10**12]) | st.integers(1, 10**12)
quantities = st.one_of(
    st.integers(0, 5_000).map(Decimal),
    st.sampled_from(["0", "0.5", "1.5", "2.5", "1e15", "999999999999999.999999999", "0.000000001"]).map(Decimal),
    st.decimals(0, 10**15, places=9),
    st.decimals(0, 100, places=6),
)
tiers = st.lists(
    st.builds(
        lambda threshold, inclusive, amount: {"threshold": threshold, "inclusive": inclusive, "price": amount},
        st.one_of(st.integers(1, 5_000), st.sampled_from(["0.5", "1.5", 10**15])),
        st.booleans(),
        amounts,
    ),
    max_size=3,
    unique_by=lambda tier: Decimal(tier["threshold"]),
)


@st.composite
def price_rows(draw: st.DrawFn) -> dict[str, Any]:
    start, end = sorted(draw(st.lists(st.sampled_from(INSTANTS), min_size=2, max_size=2, unique=True)))
    hours = draw(st.lists(st.sampled_from(TIMES_OF_DAY), min_size=2, max_size=2, unique=True))
    quantity = draw(st.sampled_from(["input_context_tokens", "requests", "seconds", "input_tokens", "images"]))
    fields = {
        "operation": draw(st.sampled_from(["llm.request", "lookup"])),
        "provider": draw(st.sampled_from(["", "", "openai", "azure"])),
        "model": draw(st.sampled_from(["", *MODELS, *PATTERNS])),
        "org": draw(st.sampled_from(["", "", "acme", "umbrella"])),
        "meter": draw(st.sampled_from([*METERS, "requests"])),
        "name": draw(st.sampled_from(["", "lookups"])),
        "price": draw(amounts),
        "per": draw(pers),
        "from": draw(st.sampled_from([None, start])),
        "until": draw(st.sampled_from([None, end])),
        "hours": draw(st.sampled_from([None, None, {"from": hours[0], "until": hours[1]}])),
        "above": [tier | {"quantity": quantity} for tier in draw(tiers)],
        "bill": draw(st.sampled_from(["always", "success"])),
    }
    return {key: value for key, value in fields.items() if value is not None}


@st.composite
def books_in_force(draw: st.DrawFn) -> list[PriceBook]:
    """One or two books; of prices that would contradict each other the first one stays."""
    kept: list[Price] = []
    for fields in draw(st.lists(price_rows(), max_size=30)):
        candidate = Price.model_validate(fields)
        if not any(overlapping_pairs([*kept, candidate])):
            kept.append(candidate)
    cut = draw(st.integers(0, len(kept)))
    ignore = draw(st.sampled_from([(), ("seconds",), ("reasoning_tokens", "output_tokens")]))
    return [
        PriceBook(name="standard", revision=3, currency="USD", prices=tuple(kept[:cut]), ignore=ignore),
        PriceBook(name="compute", revision=12, currency="USD", prices=tuple(kept[cut:])),
    ]


events_of_any_kind = st.builds(
    ScalarEvent,
    org=st.sampled_from(["acme", "umbrella", "initech"]),
    operation=st.sampled_from(["llm.request", "llm.request", "lookup", "report_job"]),
    provider=st.sampled_from(["", "openai", "azure", "local"]),
    model=st.sampled_from(["", *MODELS, "gpt-4o-mini-2025", "g", "unheard-of"]),
    status=st.sampled_from(["ok", "ok", "error"]),
    time=st.sampled_from(INSTANTS) | st.datetimes(datetime(2026, 2, 27), datetime(2026, 3, 4), timezones=st.just(UTC)),  # noqa: DTZ001 -- hypothesis adds the zone
    usage=st.dictionaries(st.sampled_from(METERS), quantities, max_size=5),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(books=books_in_force(), events=st.lists(events_of_any_kind, max_size=25))
def test_columns_say_what_the_specification_says(books: list[PriceBook], events: list[ScalarEvent]) -> None:
    """Costs, states, price ids, names and the order of lines are those of one event priced by itself."""
    price_all(events, *books)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(books=books_in_force(), events=st.lists(events_of_any_kind, min_size=2, max_size=12))
def test_what_was_priced_before_changes_nothing(books: list[PriceBook], events: list[ScalarEvent]) -> None:
    """A catalog remembers what it looked up; a batch is priced the same whatever came before it."""
    used = compile_catalog(books)
    for event in reversed(events):
        price(*frames([event]), book=used)

    again, afresh = price(*frames(events), book=used), price(*frames(events), book=compile_catalog(books))

    assert again.events.equals(afresh.events)
    assert again.lines.equals(afresh.lines)
    assert again.kinds.equals(afresh.kinds)

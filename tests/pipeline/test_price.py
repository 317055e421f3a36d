"""The price stage over columns: against its scalar specification, and the promises of the contract one by one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.price import compile_catalog, price
from pipeline.pricing.scalar import ScalarEvent, ScalarLine, ScalarPriced, price_event
from schemas.books_in_force import dearest_price
from schemas.catalog_file import CatalogError
from schemas.catalog_values import PRICE_MAX
from schemas.frames import EVENTS, KINDS, LINES, PRICED_EVENTS, USAGE, PricedBatch
from schemas.price_book import Adjustment, Price, PriceBook, overlapping_pairs
from schemas.variants import VARIANT_KEYS, variant_text

if TYPE_CHECKING:
    from collections.abc import Sequence

Row = TypeVar("Row", Price, Adjustment)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def make_price(**fields: Any) -> dict[str, Any]:
    """A price row of which only the interesting fields are said."""
    return {"operation": "llm.request", "meter": "input_tokens", "price": "1"} | fields


def make_book(*prices: dict[str, Any], name: str = "standard", **fields: Any) -> PriceBook:
    """A book of such rows in its seventh revision."""
    return PriceBook.model_validate({"name": name, "revision": 7, "currency": "USD", "prices": prices} | fields)


def make_adjustment(multiplier: str, **fields: Any) -> dict[str, Any]:
    """An adjustment for a region, or for the variant that is said."""
    return {"multiplier": multiplier, "variant": {"region": "eu"}} | fields


def make_event(**fields: Any) -> ScalarEvent:
    """An event of which only the interesting fields are said; quantities are given as decimal strings."""
    usage = {meter: Decimal(quantity) for meter, quantity in fields.pop("usage", {"input_tokens": "1"}).items()}
    ordinary = {"org": "acme", "operation": "llm.request", "provider": "openai", "model": "gpt-4o-mini", "status": "ok"}
    return ScalarEvent(**(ordinary | {"time": NOON} | fields), usage=usage)


def frames(events: Sequence[ScalarEvent]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The events as the columns that the stage before pricing gives."""
    ordinary = {
        "partition": 0, "index": 0, "of": 1, "received_at": NOON, "source": "/gateway", "project": "checkout",
        "api_key": "key_1", "environment": "", "user": "", "tags": "",
    }  # fmt: skip
    names = ("org", "operation", "provider", "model", "status", "time")
    rows = [
        ordinary
        | {"offset": at, "id": str(at), "variant": variant_text(event.variant)}
        | {name: getattr(event, name) for name in names}
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
    """Prices one event by columns, likewise checked."""
    return price_all([event], *books)[0]


def _digits(priced: ScalarPriced) -> tuple[Any, ...]:
    """Compares costs as text: 0.5 and 0.500000000000 are equal as decimals, but not the same column value."""
    lines = [(*_fields(line)[:4], f"{line.quantity:.12f}", str(line.cost)) for line in priced.lines]
    return str(priced.cost), priced.pricing, lines


def _fields(line: ScalarLine) -> tuple[Any, ...]:
    return line.meter, line.name, line.price_id, line.state, line.quantity, line.cost


# --- the promises, one by one ---------------------------------------------------------------------------------------


def test_a_cost_is_quantity_times_price_divided_by_per() -> None:
    """The example of the contract: 1,200 tokens at 0.15 per million."""
    book = make_book(make_price(price="0.15", per=1_000_000))

    priced = price_one(make_event(usage={"input_tokens": "1200"}), book)

    assert priced.lines == (
        ScalarLine("input_tokens", "input_tokens", "standard@7:1", "billed", Decimal(1200), Decimal("0.00018")),
    )
    assert (priced.cost, priced.pricing) == (Decimal("0.00018"), "priced")


@pytest.mark.parametrize(
    ("quantity", "price", "per", "cost"),
    [
        ("1", "1", 3, "0.333333333333"),
        ("2", "1", 3, "0.666666666667"),
        ("0.5", "0.000000000001", 1, "0.000000000000"),  # a half goes to the even neighbour: 0
        ("1.5", "0.000000000001", 1, "0.000000000002"),
        ("2.5", "0.000000000001", 1, "0.000000000002"),
        ("0.500000001", "0.000000000001", 1, "0.000000000001"),  # the least above a half goes up
        ("1000000000000000", "0.000000000001", 1, "1000.000000000000"),
        ("999999999999999.999999999", "0.000000000001", 1, "1000.000000000000"),
        ("1000000000000000", "1000000000", 1, "1000000000000000000000000.000000000000"),
        ("0.000000001", "0.001", 1, "0.000000000001"),
        ("7", "1", 999_983, "0.000007000119"),
        ("70", "0.000000000003", 60, "0.000000000004"),  # 3.5 units go to the even 4
        ("50", "0.000000000003", 60, "0.000000000002"),  # 2.5 units go to the even 2
    ],
)
def test_a_cost_is_rounded_half_even_to_twelve_decimals(quantity: str, price: str, per: int, cost: str) -> None:
    """Exact up to the last decimal that is kept, however large or small."""
    priced = price_one(make_event(usage={"input_tokens": quantity}), make_book(make_price(price=price, per=per)))

    assert f"{priced.cost:f}" == cost


def test_the_dearest_event_that_a_book_allows_fits_its_column() -> None:
    """64 quantities of 1e15 and the request at 1e9 each: the bounds of books make an overflow impossible."""
    meters = [f"meter_{number:02}" for number in range(64)]
    book = make_book(*(make_price(meter=meter, price=str(10**9)) for meter in [*meters, "requests"]))

    priced = price_one(make_event(usage=dict.fromkeys(meters, "1000000000000000")), book)

    assert priced.cost == 64 * 10**24 + 10**9


def test_many_costs_that_fit_by_themselves_are_summed_beyond_64_bits() -> None:
    """The sum of an event is exact where its lines are narrow and where they are wide, in one batch."""
    meters = [f"meter_{number:02}" for number in range(64)]
    book = make_book(*(make_price(meter=meter) for meter in meters))
    narrow = make_event(usage=dict.fromkeys(meters, "72057"))
    wide = make_event(usage=dict.fromkeys(meters, "72058.000000001"))

    costs = [priced.cost for priced in price_all([narrow, wide, narrow], book)]

    assert costs == [64 * 72_057, Decimal("4611712.000000064"), 64 * 72_057]


@pytest.mark.parametrize(
    ("time", "cost"),
    [
        (NOON - timedelta(microseconds=1), 1),
        (NOON, 2),
        (NOON + timedelta(hours=1, microseconds=-1), 2),
        (NOON + timedelta(hours=1), 3),
    ],
)
def test_a_price_includes_its_start_and_excludes_its_end(time: datetime, cost: int) -> None:
    """To the microsecond, by the time of the event."""
    book = make_book(
        make_price(price="1", until="2026-03-01T12:00:00Z"),
        make_price(price="2", **{"from": "2026-03-01T12:00:00Z"}, until="2026-03-01T14:00:00+01:00"),
        make_price(price="3", **{"from": "2026-03-01T18:30:00+05:30"}),
    )

    assert price_one(make_event(time=time), book).cost == cost


@pytest.mark.parametrize(
    ("more", "less"),
    [
        ({"org": "acme"}, {"model": "gpt-4o-mini", "provider": "openai"}),
        ({"model": "gpt-4o-mini"}, {"model": "gpt-4o-mini*", "provider": "openai"}),
        ({"model": "gpt-4o-mini*"}, {"model": "gpt-4o*", "provider": "openai"}),
        ({"model": "g*"}, {"provider": "openai"}),
        ({"provider": "openai"}, {}),
        ({"org": "acme", "model": "g*"}, {"org": "acme", "provider": "openai"}),
        ({"org": "acme", "provider": "openai"}, {"org": "acme"}),
    ],
)
def test_the_most_specific_price_wins(more: dict[str, str], less: dict[str, str]) -> None:
    """The org decides first, then the model, then the provider; the order of the rows never does."""
    expensive, cheap = make_price(price="2", **more), make_price(price="1", **less)

    for book in (make_book(expensive, cheap), make_book(cheap, expensive)):
        assert price_one(make_event(), book).cost == 2


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"org": "umbrella"},
        {"model": "gpt-4o"},
        {"model": "gpt-4o-mini-*"},
        {"provider": "azure"},
        {"operation": "lookup"},
    ],
)
def test_a_price_for_somebody_else_does_not_apply(elsewhere: dict[str, str]) -> None:
    """What a row names must be there, exactly or as the beginning of the model."""
    book = make_book(make_price(**elsewhere))

    priced = price_one(make_event(), book)

    assert (priced.cost, priced.pricing, priced.lines[0].state) == (None, "unpriced", "unpriced")


@pytest.mark.parametrize(
    ("clock", "cost"),
    [
        ("16:29:59.999999", 1),
        ("16:30:00", 2),
        ("23:59:59.999999", 2),
        ("00:00:00", 2),
        ("00:29:59.999999", 2),
        ("00:30:00", 1),
    ],
)
def test_hours_are_half_open_and_may_wrap_midnight(clock: str, cost: int) -> None:
    """At night the org's own price applies; by day it is as if it were not there."""
    night = make_price(price="2", org="acme", hours={"from": "16:30", "until": "00:30"})
    book = make_book(make_price(price="1"), night)

    time = datetime.fromisoformat(f"2026-03-01T{clock}+00:00")

    assert price_one(make_event(time=time), book).cost == cost


@pytest.mark.parametrize(
    ("inclusive", "uncached", "cost"),
    [
        (False, 200_000, 200_000 * 3),
        (False, 200_001, 200_001 * 6),
        (True, 199_999, 199_999 * 3),
        (True, 200_000, 200_000 * 6),
    ],
)
def test_past_a_threshold_the_whole_request_moves(inclusive: bool, uncached: int, cost: int) -> None:  # noqa: FBT001
    """A tier is a cliff, not a margin; ``inclusive`` says on which side the threshold itself lies."""
    above = {"quantity": "input_context_tokens", "threshold": 200_000, "inclusive": inclusive, "price": "6"}
    book = make_book(make_price(price="3", above=[above]))

    assert price_one(make_event(usage={"input_tokens": str(uncached)}), book).cost == cost


def test_the_input_context_is_what_was_read_cached_and_written() -> None:
    """Uncached, cache read and both cache writes count; output does not, but is priced in the tier of its request."""
    above = {"quantity": "input_context_tokens", "threshold": 10, "price": "100"}
    parts = ("input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens")
    book = make_book(*(make_price(meter=meter, above=[above]) for meter in (*parts, "output_tokens")))

    at_threshold = make_event(usage=dict.fromkeys(parts, "2.5") | {"output_tokens": "1000"})
    above_threshold = make_event(
        usage=dict.fromkeys(parts, "2.5") | {"input_tokens": "2.500000001", "output_tokens": "1"}
    )

    costs = [priced.cost for priced in price_all([at_threshold, above_threshold], book)]

    assert costs == [1010, Decimal("1100.0000001")]


@pytest.mark.parametrize("kind", ["audio", "image", "video"])
def test_audio_images_and_video_are_input_context_too(kind: str) -> None:
    """They have prices of their own, and are as much of the request's context as its text, cached or not."""
    above = {"quantity": "input_context_tokens", "threshold": 10, "price": "100"}
    meters = ("input_tokens", f"input_{kind}_tokens", f"cache_{kind}_read_tokens", f"output_{kind}_tokens")
    book = make_book(*(make_price(meter=meter, above=[above]) for meter in meters))

    at_threshold = make_event(usage=dict(zip(meters, ("2", "5", "3", "1000"), strict=True)))
    above_threshold = make_event(usage=dict(zip(meters, ("2", "5", "4", "1"), strict=True)))

    assert [priced.cost for priced in price_all([at_threshold, above_threshold], book)] == [1010, 1200]


def test_of_several_thresholds_the_highest_one_passed_counts() -> None:
    """Whatever their order in the file, and whether the tier is dearer or cheaper."""
    tiers = [
        {"quantity": "images", "threshold": threshold, "price": amount, "inclusive": True}
        for threshold, amount in ((100, "0.5"), (10, "0.8"), (1000, "0"))
    ]
    book = make_book(make_price(meter="images", above=tiers))
    events = [make_event(usage={"images": str(count)}) for count in (9, 10, 99, 100, 999, 1000)]

    assert [priced.cost for priced in price_all(events, book)] == [9, 8, Decimal("79.2"), 50, Decimal("499.5"), 0]


def test_a_threshold_may_look_at_a_quantity_that_has_no_price() -> None:
    """A quantity that the event does not name is 0."""
    book = make_book(make_price(above=[{"quantity": "seconds", "threshold": 60, "price": "5"}]), ignore=["seconds"])

    events = [make_event(usage={"input_tokens": "1", "seconds": "60.5"}), make_event(usage={"input_tokens": "1"})]

    assert [priced.cost for priced in price_all(events, book)] == [5, 1]


def test_a_failed_event_costs_nothing_where_only_success_is_billed() -> None:
    """It is still priced, and its other quantities are billed."""
    book = make_book(make_price(meter="requests", bill="success"), make_price(price="2"))

    priced = price_one(make_event(status="error"), book)

    assert [(line.meter, line.state, line.cost) for line in priced.lines] == [
        ("input_tokens", "billed", Decimal(2)),
        ("requests", "not_billed", Decimal(0)),
    ]
    assert (priced.cost, priced.pricing) == (Decimal(2), "priced")


def test_a_failed_event_of_which_nothing_is_billed_is_priced_at_zero() -> None:
    """Not free, since its price is not 0, and not unpriced, since it has one."""
    priced = price_one(make_event(status="error"), make_book(make_price(bill="success")))

    assert (priced.cost, priced.pricing) == (Decimal(0), "priced")


@pytest.mark.parametrize(
    ("prices", "usage", "cost", "pricing"),
    [
        ({"input_tokens": "1"}, {"input_tokens": "5"}, 5, "priced"),
        ({"input_tokens": "0"}, {"input_tokens": "5"}, 0, "free"),
        ({"input_tokens": "0", "requests": "1"}, {"input_tokens": "5"}, 1, "priced"),
        ({"input_tokens": "1"}, {"input_tokens": "0"}, 0, "priced"),  # its price is not 0, whatever it comes to
        ({"input_tokens": "1"}, {"input_tokens": "5", "images": "2"}, 5, "unpriced"),
        ({"input_tokens": "1"}, {"input_tokens": "5", "images": "0"}, 5, "priced"),  # nothing to bill
        ({"input_tokens": "1"}, {"input_tokens": "5", "latency_ms": "2"}, 5, "priced"),  # under ignore
        ({"input_tokens": "1"}, {"input_tokens": "5", "reasoning_tokens": "2"}, 5, "priced"),  # a memo
        ({"input_tokens": "1"}, {"latency_ms": "2", "reasoning_tokens": "2"}, None, "unpriced"),
        ({"input_tokens": "1"}, {"images": "0"}, None, "unpriced"),
        ({"input_tokens": "1"}, {}, None, "unpriced"),
        ({"requests": "1"}, {}, 1, "priced"),
        ({"requests": "0"}, {}, 0, "free"),
        ({"requests": "1"}, {"images": "2"}, 1, "unpriced"),
        ({"requests": "0"}, {"images": "2"}, 0, "unpriced"),
        ({"reasoning_tokens": "1"}, {"reasoning_tokens": "2"}, 2, "priced"),  # a book may price a memo
    ],
)
def test_an_event_is_priced_free_or_unpriced(
    prices: dict[str, str], usage: dict[str, str], cost: int | None, pricing: str
) -> None:
    """Never a silent zero: what lacks a price is told apart from what costs nothing."""
    book = make_book(
        *(make_price(meter=meter, price=amount) for meter, amount in prices.items()), ignore=["latency_ms"]
    )

    priced = price_one(make_event(usage=usage), book)

    assert (priced.cost, priced.pricing) == (cost, pricing)


def test_lines_without_a_price_say_why() -> None:
    """A memo needs none, an ignored one neither; of what is missing the cost is null."""
    book = make_book(make_price(), ignore=["latency_ms", "input_tokens"])
    usage = {"images": "1", "latency_ms": "3", "reasoning_tokens": "1", "audio_seconds": "0", "input_tokens": "1"}

    lines = price_one(make_event(usage=usage), book).lines

    assert [(line.meter, line.state, line.cost, line.price_id, line.name) for line in lines] == [
        ("images", "unpriced", None, "", ""),
        ("latency_ms", "ignored", None, "", ""),
        ("reasoning_tokens", "memo", None, "", ""),
        ("audio_seconds", "ignored", None, "", ""),
        ("input_tokens", "billed", 1, "standard@7:1", "input_tokens"),  # a price counts more than ignore
    ]


def test_requests_is_the_last_line_and_only_where_it_has_a_price() -> None:
    """Events with and without stand side by side, each with its own lines."""
    book = make_book(make_price(), make_price(operation="lookup", meter="requests"), make_price(operation="lookup"))
    events = [make_event(operation=operation) for operation in ("lookup", "llm.request", "lookup")]

    meters = [[line.meter for line in priced.lines] for priced in price_all(events, book)]

    assert meters == [["input_tokens", "requests"], ["input_tokens"], ["input_tokens", "requests"]]


def test_lines_keep_the_order_of_usage_in_a_large_batch() -> None:
    """Quantities as given, then requests, event by event."""
    usage = {f"meter_{number}": str(number) for number in (3, 1, 2)}
    book = compile_catalog([make_book(make_price(meter="requests", org="acme"), make_price(meter="meter_2"))])
    events = [make_event(org=org, usage=usage) for org in ("acme", "umbrella") * 300]

    batch = price(*frames(events), book=book)

    lines = batch.lines.join(batch.kinds, on="kind", how="left", maintain_order="left")
    with_requests = [("meter_3", 3), ("meter_1", 1), ("meter_2", 2), ("requests", 1)]
    assert lines.select("meter", "quantity").rows() == (with_requests + with_requests[:3]) * 300
    assert lines["row"].is_sorted()


@pytest.mark.parametrize(
    ("variant", "cost"),
    [
        ({}, 1),
        ({"region": "eu"}, 2),
        ({"speed": "fast", "region": "eu"}, 3),
        ({"batch": True, "speed": "fast", "region": "eu"}, 4),
        ({"service_tier": "flex", "batch": True}, 5),
        ({"service_tier": "flex", "batch": True, "speed": "fast"}, 6),
        ({"service_tier": "priority"}, 1),
    ],
)
def test_a_price_for_a_variant_is_for_requests_that_say_it(variant: dict[str, Any], cost: int) -> None:
    """Whatever else they say; the service tier decides first, then batch, then the speed, then the region."""
    asked: list[dict[str, Any]] = [{}, {"region": "eu"}, {"speed": "fast"}, {"batch": True}, {"service_tier": "flex"}]
    asked.append({"service_tier": "flex", "speed": "fast"})
    book = make_book(*(make_price(price=str(at), variant=of_row) for at, of_row in enumerate(asked, start=1)))

    assert price_one(make_event(variant=variant), book).cost == cost


@pytest.mark.parametrize("more", [{"org": "acme"}, {"model": "gpt*"}, {"provider": "openai"}])
def test_a_variant_is_compared_last(more: dict[str, str]) -> None:
    """A negotiated price, or one of the model, is not undercut by what is public or for any model."""
    book = make_book(make_price(price="2", **more), make_price(price="1", variant={"batch": True}))

    assert price_one(make_event(variant={"batch": True}), book).cost == 2


def test_adjustments_of_different_variants_are_multiplied() -> None:
    """Exactly, in one product with the price; what is rounded is the cost, once, and each of them is named."""
    book = make_book(
        make_price(price="0.000000000001"),
        adjustments=[make_adjustment("1.1"), make_adjustment("0.5", variant={"batch": True})],
    )
    event = make_event(usage={"input_tokens": "10"}, variant={"batch": True, "region": "eu"})

    line = price_one(event, book).lines[0]

    assert (line.cost, line.price_id) == (Decimal("0.000000000006"), "standard@7:1*standard@7:x1*standard@7:x2")  # 5.5


@pytest.mark.parametrize(
    ("more", "less"),
    [
        ({"org": "acme"}, {"model": "gpt-4o-mini", "provider": "openai"}),
        ({"model": "gpt-4o-mini"}, {"model": "gpt*", "provider": "openai"}),
        ({"model": "g*"}, {"provider": "openai"}),
        ({"provider": "openai"}, {"operation": "llm.request", "meter": "input_tokens"}),
        ({"operation": "llm.request"}, {"meter": "input_tokens"}),
        ({"meter": "input_tokens"}, {}),
    ],
)
def test_of_adjustments_of_one_variant_the_most_specific_counts(more: dict[str, str], less: dict[str, str]) -> None:
    """As with prices, then the operation, then the meter: a discount that a meter is exempt from is one more row."""
    exempt, discount = make_adjustment("1", **more), make_adjustment("0.5", **less)

    for adjusting in ([exempt, discount], [discount, exempt]):
        priced = price_one(make_event(variant={"region": "eu"}), make_book(make_price(), adjustments=adjusting))
        assert priced.cost == 1


def test_a_price_for_a_variant_is_not_adjusted_for_it_again() -> None:
    """It says what a batch costs; the region is another matter."""
    book = make_book(
        make_price(price="3", variant={"batch": True}),
        adjustments=[
            make_adjustment("0.5", variant={"batch": True}),
            make_adjustment("2"),
            make_adjustment("7", variant={"batch": True, "region": "eu"}),
        ],
    )

    assert price_one(make_event(variant={"batch": True, "region": "eu"}), book).cost == 6


def test_an_adjustment_moves_all_tiers_and_keeps_to_its_time() -> None:
    """The threshold stays; `from` is included and `until` is not."""
    above = {"quantity": "input_tokens", "threshold": 10, "price": "2"}
    span = {"from": "2026-03-01T12:00:00Z", "until": "2026-03-01T13:00:00Z"}
    book = make_book(make_price(above=[above]), adjustments=[make_adjustment("10", **span)])
    times = [NOON - timedelta(microseconds=1), NOON, NOON + timedelta(hours=1)]

    costs = [
        price_one(make_event(time=time, usage={"input_tokens": tokens}, variant={"region": "eu"}), book).cost
        for time in times
        for tokens in ("10", "11")
    ]

    assert costs == [10, 22, 100, 220, 10, 22]


def test_adjustments_are_for_the_prices_of_all_books() -> None:
    """So a contract of one's own can adjust public prices that an import replaces now and then."""
    public, own = make_book(make_price()), make_book(name="own", adjustments=[make_adjustment("0.9")])

    line = price_one(make_event(variant={"region": "eu"}), public, own).lines[0]

    assert (line.cost, line.price_id) == (Decimal("0.9"), "standard@7:1*own@7:x1")


def test_a_price_times_zero_is_free() -> None:
    """The adjusted price is what decides, as a price of 0 would."""
    book = make_book(make_price(), adjustments=[make_adjustment("0")])

    assert price_one(make_event(variant={"region": "eu"}), book).pricing == "free"
    assert price_one(make_event(), book).pricing == "priced"


def test_an_event_finds_the_prices_that_its_provider_is_an_alias_for() -> None:
    """Its own name comes first, and a price for any provider last; adjustments are found likewise."""
    aliases = {"gcp.gemini": "google"}
    rows = [
        make_price(price="1"),
        make_price(price="2", provider="google"),
        make_price(price="3", provider="gcp.gemini"),
    ]
    event = make_event(provider="gcp.gemini", variant={"region": "eu"})
    adjusting = [make_adjustment("10", provider="google")]

    costs = [
        price_one(event, make_book(*rows[:count], provider_aliases=aliases, adjustments=adjusting)).cost
        for count in (1, 2, 3)
    ]

    assert costs == [10, 20, 30]


def test_books_whose_adjustments_or_aliases_contradict_each_other_are_not_put_in_force() -> None:
    """Nor such that could bring a cost above what its column holds."""
    one = make_book(make_price(), adjustments=[make_adjustment("2")], provider_aliases={"a": "b"})
    same = make_book(name="same", adjustments=[make_adjustment("3")])
    alias = make_book(name="alias", provider_aliases={"a": "c"})
    chain = make_book(name="chain", provider_aliases={"b": "c"})
    dear = make_book(make_price(price="500000001", meter="images"), name="dear")

    for other, sentence in (
        (same, "the adjustments standard@7:x1 and same@7:x1 are equally specific, and both apply from the beginning"),
        (alias, "a is an alias for c in the book alias, and for b in the book standard"),
        (chain, "a is an alias for b in the book standard, and b is itself one in the book chain"),
        (dear, "the dearest price with all multipliers that could ever meet comes to more than 1000000000"),
    ):
        with pytest.raises(CatalogError, match=sentence):
            compile_catalog([one, other])


def test_a_line_is_named_for_the_invoice() -> None:
    """By the price's name, else by the meter, or by the operation when that is requests."""
    book = make_book(
        make_price(),
        make_price(meter="output_tokens", name="Tokens out"),
        make_price(meter="requests", operation="lookup"),
        make_price(meter="requests", operation="report_job", name="report_jobs"),
    )
    events = [
        make_event(usage={"input_tokens": "1", "output_tokens": "1"}),
        make_event(operation="lookup", usage={}),
        make_event(operation="report_job", usage={}),
    ]

    names = [line.name for priced in price_all(events, book) for line in priced.lines]

    assert names == ["input_tokens", "Tokens out", "lookup", "report_jobs"]


def test_several_books_price_one_event_together() -> None:
    """The most specific price wins across books, and each line says which book and revision it is from."""
    tokens = make_book(make_price(), make_price(meter="output_tokens", price="2"), name="tokens")
    special = make_book(make_price(org="acme", price="0.5"), name="special")

    lines = price_one(make_event(usage={"input_tokens": "1", "output_tokens": "1"}), tokens, special).lines

    assert [(line.price_id, line.cost) for line in lines] == [("special@7:1", Decimal("0.5")), ("tokens@7:2", 2)]


def test_without_any_book_everything_is_unpriced() -> None:
    """An installation that has no prices yet counts, and says that it cannot tell what it costs."""
    priced = price_one(make_event())

    assert (priced.cost, priced.pricing, priced.lines[0].state) == (None, "unpriced", "unpriced")


def test_books_that_contradict_each_other_are_not_put_in_force() -> None:
    """Two prices for one instant, two currencies and one name twice are each said."""
    one, other = make_book(make_price(price="1")), make_book(make_price(price="2"), name="other")
    euros = other.model_copy(update={"currency": "EUR"})

    with pytest.raises(CatalogError, match=r"standard@7:1 and other@7:1 for input_tokens are equally specific"):
        compile_catalog([one, other])
    with pytest.raises(CatalogError, match="EUR and USD"):
        compile_catalog([one, euros])
    with pytest.raises(CatalogError, match="two books are named standard"):
        compile_catalog([one, one])


# --- the columns ------------------------------------------------------------------------------------------------------


def test_a_batch_has_the_columns_of_the_schema() -> None:
    """Names, types and order, for a batch and for an empty one."""
    book = compile_catalog([make_book(make_price())])

    for events in ([make_event()], [make_event(usage={})], []):
        batch = price(*frames(events), book=book)

        assert dict(batch.events.schema) == PRICED_EVENTS
        assert dict(batch.lines.schema) == LINES
        assert dict(batch.kinds.schema) == KINDS


def test_a_kind_stands_once_in_its_dictionary() -> None:
    """The dictionary holds what occurs in the batch, numbered from 0, and nothing else."""
    book = compile_catalog([make_book(make_price(), make_price(meter="output_tokens"))])
    usage = {"input_tokens": "1", "images": "1"}

    batch = price(*frames([make_event(usage=usage)] * 3), book=book)

    assert batch.kinds.rows() == [
        (0, "input_tokens", "input_tokens", "standard@7:1", "billed"),
        (1, "images", "", "", "unpriced"),
    ]
    assert batch.lines["kind"].to_list() == [0, 1, 0, 1, 0, 1]


def test_a_slice_of_a_frame_made_of_pieces_is_priced_like_any_other() -> None:
    """Frames may share memory with larger ones, or consist of chunks."""
    book = compile_catalog([make_book(make_price(), make_price(meter="requests", model="claude*"))])
    events, usage = frames([make_event(usage={"input_tokens": str(n)}, model=f"claude-{n}") for n in range(1, 9)])
    pieces = pl.concat([usage[:3], usage[3:]], rechunk=False)

    batch = price(
        pl.concat([events[:5], events[5:]], rechunk=False)[4:],
        pieces[4:].with_columns(row=pl.col("row") - 4),
        book=book,
    )

    assert batch.events["cost"].to_list() == [6, 7, 8, 9]


def test_a_quantity_that_nobody_validated_is_never_priced() -> None:
    """Out of bounds is a bug of the stage before, and wrapping around would be a wrong bill."""
    book = compile_catalog([make_book(make_price())])
    events, usage = frames([make_event()])

    for quantity in ("-0.000000000001", "1000000000000001", "99999999999999999999999999"):
        unchecked = usage.with_columns(pl.lit(Decimal(quantity), dtype=USAGE["quantity"]).alias("quantity"))
        with pytest.raises(ValueError, match="outside 0 to 1000000000000000"):
            price(events, unchecked, book=book)


def test_a_null_is_never_taken_for_a_value() -> None:
    """An absent model is an empty string; a null is a bug of the stage before."""
    events, usage = frames([make_event()])

    with pytest.raises(ValueError, match="model has nulls"):
        price(events.with_columns(model=pl.lit(None, dtype=pl.String)), usage, book=compile_catalog([]))


def test_more_quantities_than_an_event_may_have_are_refused() -> None:
    """Their sum could not be promised to be exact."""
    usage = {f"meter_{number}": "1" for number in range(128)}

    with pytest.raises(ValueError, match="more than 127 quantities"):
        price(*frames([make_event(usage=usage)]), book=compile_catalog([make_book(make_price())]))


def test_full_memories_begin_anew_and_answer_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered is bounded; reaching the bound costs time and changes nothing."""
    for limit in ("COMBINATIONS_MAX", "CELLS_MAX", "MODELS_MAX", "DIRECT_CODES_MAX"):
        monkeypatch.setattr(f"pipeline.pricing.lookup.{limit}", 3)
    models = [f"gpt-4o-mini-{number}" for number in range(20)]
    prices = [make_price(model=model, price=str(number)) for number, model in enumerate(models[:10])]
    book = compile_catalog([make_book(*prices, make_price(model="gpt*", price="99"))])

    for _ in range(3):
        batch = price(*frames([make_event(model=model) for model in models]), book=book)

        assert batch.events["cost"].to_list() == [*range(10), *[99] * 10]


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


#: Few values, so that rows and events meet: a request that says everything, and what rows ask for.
EVERYTHING = {"service_tier": "flex", "batch": True, "speed": "fast", "region": "eu"}
asked_variants = st.lists(st.sampled_from(VARIANT_KEYS), min_size=1, max_size=2).map(
    lambda keys: {key: EVERYTHING[key] for key in keys}
)
said_variants = st.one_of(
    st.just({}), asked_variants, st.sampled_from([EVERYTHING, EVERYTHING | {"region": "us"}, {"region": "us"}])
)


@st.composite
def price_rows(draw: st.DrawFn) -> dict[str, Any]:
    """A price of any kind, over few values, so that many of them match one event."""
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
        "variant": draw(st.just({}) | st.just({}) | asked_variants),
    }
    return {key: value for key, value in fields.items() if value is not None}


@st.composite
def adjustments(draw: st.DrawFn) -> dict[str, Any]:
    """An adjustment of any kind, over few values, so that several of them meet at one event."""
    start, end = sorted(draw(st.lists(st.sampled_from(INSTANTS), min_size=2, max_size=2, unique=True)))
    fields = {
        "operation": draw(st.sampled_from(["", "", "llm.request"])),
        "provider": draw(st.sampled_from(["", "", "openai", "azure"])),
        "model": draw(st.sampled_from(["", "", "", *MODELS, *PATTERNS])),
        "org": draw(st.sampled_from(["", "", "acme", "umbrella"])),
        "meter": draw(st.sampled_from(["", "", *METERS, "requests"])),
        "variant": draw(asked_variants),
        "multiplier": draw(st.sampled_from(["0", "0.5", "1", "1.1", "0.333333", "2.000001"])),
        "from": draw(st.sampled_from([None, start])),
        "until": draw(st.sampled_from([None, end])),
    }
    return {key: value for key, value in fields.items() if value is not None}


ALIASES: tuple[dict[str, str], ...] = (
    {},
    {"azure.openai": "azure"},
    {"azure.openai": "openai", "azure": "openai", "local": "nobody"},
)


def without_overlaps(row: type[Row], candidates: Sequence[dict[str, Any]]) -> list[Row]:
    """Of rows that would contradict each other the first one stays."""
    kept: list[Row] = []
    for fields in candidates:
        candidate = row.model_validate(fields)
        if not any(overlapping_pairs([*kept, candidate])):
            kept.append(candidate)
    return kept


@st.composite
def books_in_force(draw: st.DrawFn) -> list[PriceBook]:
    """Two books; of prices and adjustments that would contradict each other the first one stays."""
    kept = without_overlaps(Price, draw(st.lists(price_rows(), max_size=30)))
    adjusting = without_overlaps(Adjustment, draw(st.lists(adjustments(), max_size=8)))
    cut, other_cut = draw(st.integers(0, len(kept))), draw(st.integers(0, len(adjusting)))
    ignore = draw(st.sampled_from([(), ("seconds",), ("reasoning_tokens", "output_tokens")]))
    aliases = draw(st.sampled_from(ALIASES))

    def books(adjusting: Sequence[Adjustment]) -> list[PriceBook]:
        first = {"prices": tuple(kept[:cut]), "adjustments": tuple(adjusting[:other_cut]), "ignore": ignore}
        second = {"prices": tuple(kept[cut:]), "adjustments": tuple(adjusting[other_cut:]), "provider_aliases": aliases}
        return [
            PriceBook.model_validate({"name": "standard", "revision": 3, "currency": "USD"} | first),
            PriceBook.model_validate({"name": "compute", "revision": 12, "currency": "USD"} | second),
        ]

    if dearest_price(books(adjusting)) > PRICE_MAX:  # they would be refused
        adjusting = [entry for entry in adjusting if entry.multiplier <= 1]
    return books(adjusting)


events_of_any_kind = st.builds(
    ScalarEvent,
    org=st.sampled_from(["acme", "umbrella", "initech"]),
    operation=st.sampled_from(["llm.request", "llm.request", "lookup", "report_job"]),
    provider=st.sampled_from(["", "openai", "azure", "azure.openai", "local"]),
    model=st.sampled_from(["", *MODELS, "gpt-4o-mini-2025", "g", "unheard-of"]),
    status=st.sampled_from(["ok", "ok", "error"]),
    time=st.sampled_from(INSTANTS) | st.datetimes(datetime(2026, 2, 27), datetime(2026, 3, 4), timezones=st.just(UTC)),  # noqa: DTZ001 -- hypothesis adds the zone
    usage=st.dictionaries(st.sampled_from(METERS), quantities, max_size=5),
    variant=said_variants,
)


@st.composite
def histories(draw: st.DrawFn) -> PriceBook:
    """A book of one operation with few reaches and many dates and hours: prices follow upon each other."""
    kept: list[Price] = []
    for _ in range(draw(st.integers(1, 25))):
        start, end = sorted(draw(st.lists(st.sampled_from(INSTANTS), min_size=2, max_size=2, unique=True)))
        hours = draw(st.lists(st.sampled_from(TIMES_OF_DAY), min_size=2, max_size=2, unique=True))
        fields = make_price(
            price=draw(st.integers(0, 99)),
            org=draw(st.sampled_from(["", "", "acme"])),
            model=draw(st.sampled_from(["", "", "gpt-4o", "gpt-4o*"])),
            until=draw(st.sampled_from([None, end, end, end])),
            hours=draw(st.sampled_from([None, {"from": hours[0], "until": hours[1]}])),
        ) | {"from": draw(st.sampled_from([None, start, start, start]))}
        candidate = Price.model_validate(fields)
        if not any(overlapping_pairs([*kept, candidate])):
            kept.append(candidate)
    return PriceBook(name="standard", revision=1, currency="USD", prices=tuple(draw(st.permutations(kept))))


@st.composite
def adjusted_books(draw: st.DrawFn) -> PriceBook:
    """A book of two meters and one operation, in which nearly every adjustment meets every price of its variant."""
    start, end = "2026-03-01T06:00:00Z", "2026-03-01T18:00:00Z"
    reaches = {
        "org": st.sampled_from(["", "", "acme"]),
        "model": st.sampled_from(["", "", "gpt-4o", "gpt*"]),
        "provider": st.sampled_from(["", "", "openai", "azure"]),
    }
    spans = st.sampled_from([{}, {}, {"from": start}, {"until": end}, {"from": start, "until": end}])
    prices = st.builds(
        lambda where, when, what, variant: make_price(**where, **when, **what, variant=variant),
        st.fixed_dictionaries(reaches),
        spans,
        st.fixed_dictionaries(
            {
                "meter": st.sampled_from(["input_tokens", "output_tokens"]),
                "price": st.sampled_from(["0", "1", "0.15", "0.000000000001"]),
                "per": st.sampled_from([1, 3, 1_000_000]),
                "bill": st.sampled_from(["always", "success"]),
                "above": st.sampled_from([[], [{"quantity": "input_tokens", "threshold": 5, "price": "7.7"}]]),
                "hours": st.sampled_from([None, None, {"from": "16:30", "until": "00:30"}]),
            }
        ),
        st.just({}) | st.just({}) | asked_variants,
    )
    adjusting = st.builds(
        lambda where, when, what, variant: where | when | what | {"variant": variant},
        st.fixed_dictionaries(reaches),
        spans,
        st.fixed_dictionaries(
            {
                "operation": st.sampled_from(["", "llm.request"]),
                "meter": st.sampled_from(["", "", "input_tokens"]),
                "multiplier": st.sampled_from(["0", "0.5", "1", "1.1", "0.333333", "2.000001"]),
            }
        ),
        asked_variants,
    )
    return PriceBook(
        name="standard",
        revision=1,
        currency="USD",
        prices=(
            *without_overlaps(Price, [make_price(), *draw(st.lists(prices, min_size=2, max_size=12))]),
            Price.model_validate(make_price(meter="output_tokens", operation="lookup")),
        ),
        adjustments=tuple(without_overlaps(Adjustment, draw(st.lists(adjusting, min_size=3, max_size=12)))),
        provider_aliases=draw(st.sampled_from([{}, {"azure": "openai"}, {"azure.openai": "openai"}])),
    )


requests_of_a_variant = st.builds(
    make_event,
    org=st.sampled_from(["acme", "umbrella"]),
    operation=st.sampled_from(["llm.request", "llm.request", "lookup"]),
    provider=st.sampled_from(["openai", "azure", "azure.openai"]),
    model=st.sampled_from(["gpt-4o", "gpt-4o-mini", "claude"]),
    status=st.sampled_from(["ok", "ok", "error"]),
    time=st.sampled_from([NOON - timedelta(hours=9), NOON, NOON + timedelta(hours=5), NOON + timedelta(hours=9)]),
    usage=st.fixed_dictionaries(
        {
            meter: st.sampled_from(["1", "5", "5.5", "7", "1234567.000000001"])
            for meter in ("input_tokens", "output_tokens")
        }
    ),
    variant=said_variants,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(book=adjusted_books(), events=st.lists(requests_of_a_variant, min_size=5, max_size=30))
def test_adjustments_meet_as_the_specification_says(book: PriceBook, events: list[ScalarEvent]) -> None:
    """Which of them apply to which price at what time, what they come to, and what the price id says of it."""
    price_all(events, book)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(book=histories(), hours=st.lists(st.integers(0, 47).map(lambda half: timedelta(hours=half / 2)), max_size=5))
def test_a_long_history_of_prices_is_followed_step_by_step(book: PriceBook, hours: list[timedelta]) -> None:
    """At, before and after each instant at which something changes, for the org and the model that have their own."""
    times = [*INSTANTS, *(NOON + shift for shift in hours)]

    for org, model in (("acme", "gpt-4o"), ("umbrella", "gpt-4o-mini"), ("umbrella", "claude")):
        price_all([make_event(org=org, model=model, time=time) for time in times], book)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(books=books_in_force(), events=st.lists(events_of_any_kind, max_size=25))
def test_columns_say_what_the_specification_says(books: list[PriceBook], events: list[ScalarEvent]) -> None:
    """Costs, states, price ids, names and the order of lines are those of one event priced by itself."""
    price_all(events, *books)


def test_threads_may_share_a_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while each of them makes it forget what the other one has just looked up."""
    monkeypatch.setattr("pipeline.pricing.lookup.CELLS_MAX", 3)
    models = [f"gpt-4o-mini-{number}" for number in range(40)]
    book = compile_catalog([make_book(*(make_price(model=model, price=str(n)) for n, model in enumerate(models)))])
    batches = [frames([make_event(model=model) for model in models[start:]]) for start in range(30)]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda batch: price(*batch, book=book).events["cost"].to_list(), batches * 10))

    assert answers == [list(range(start, 40)) for start in range(30)] * 10


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    books=books_in_force() | adjusted_books().map(lambda book: [book]),
    events=st.lists(events_of_any_kind | requests_of_a_variant, min_size=2, max_size=12),
)
def test_what_was_priced_before_changes_nothing(books: list[PriceBook], events: list[ScalarEvent]) -> None:
    """A catalog remembers what it looked up; a batch is priced the same whatever came before it, and however."""
    used = compile_catalog(books)
    for event in reversed(events):
        price(*frames([event]), book=used)

    again = price(*frames(events), book=used)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.pricing.lookup.DIRECT_CODES_MAX", 0)  # as if there were very many combinations
        afresh = price(*frames(events), book=compile_catalog(books))

    assert again.events.equals(afresh.events)
    assert again.lines.equals(afresh.lines)
    assert again.kinds.equals(afresh.kinds)

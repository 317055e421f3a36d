"""Period prices: a month's quantity into its figure, step by step, and the figure back over lines and projects."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline import report
from pipeline.period_price import Cell, Pool, costs_of_month, explained, price_month, steps_of
from schemas.period_prices import PERIOD_TIERS_MAX, PeriodPrice, overlapping_months, with_ids
from schemas.reports import InvoiceSum

SCALE = report.SCALE
MONTH = "2026-03"

TIERS = [{"up_to": "10000", "price": "0.05"}, {"up_to": "100000", "price": "0.04"}, {"price": "0.03"}]


def period_price(**said: Any) -> PeriodPrice:
    """A row of which the interesting keys are said."""
    return PeriodPrice.model_validate({"operation": "lookup", "meter": "lookups", **said})


def figure(price: PeriodPrice, quantity: int | str, *, per_event_cost: str = "0") -> str:
    """What a quantity comes to, as a plain decimal."""
    steps = steps_of(
        price, quantity=report.whole(Decimal(quantity)), per_event_cost=report.whole(Decimal(per_event_cost))
    )
    return report.plain(sum(step.cost for step in steps)) or "0"


def invoice_sum(**said: Any) -> InvoiceSum:
    """A sum of the invoice; its events cost what the line costs."""
    ordinary = {
        "project": "checkout",
        "operation": "lookup",
        "model": "",
        "name": "lookups",
        "quantity": Decimal(1),
        "cost": Decimal(0),
        "events": 1,
        "unpriced": 0,
        "newest_us": 0,
    }
    whole = {**ordinary, **said}
    return InvoiceSum(**{"event_cost": whole["cost"], **whole})


# -- One quantity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantity", "cost"),
    [
        ("0", "0"),
        ("1", "0.05"),
        ("10000", "500"),  # a tier's end belongs to the tier
        ("10001", "500.04"),
        ("100000", "4100"),
        ("100000.5", "4100.015"),
        ("1000000", "31100"),
    ],
)
def test_graduated_prices_each_unit_by_its_own_tier(quantity: str, cost: str) -> None:
    """Nobody pays more for the first unit because of the last."""
    assert figure(period_price(kind="graduated", tiers=TIERS), quantity) == cost


@pytest.mark.parametrize(
    ("quantity", "cost"), [("0", "0"), ("10000", "500"), ("10001", "400.04"), ("100000", "4000"), ("100001", "3000.03")]
)
def test_volume_prices_all_units_by_the_tier_of_the_whole(quantity: str, cost: str) -> None:
    """So one unit more can cost less: a cliff, as everywhere else."""
    assert figure(period_price(kind="volume", tiers=TIERS), quantity) == cost


@pytest.mark.parametrize(
    ("quantity", "cost"),
    [("0", "0"), ("500", "0"), ("500.000000000001", "9.99"), ("1500", "9.99"), ("1501", "19.98"), ("9500", "89.91")],
)
def test_a_package_that_was_begun_is_a_whole_one(quantity: str, cost: str) -> None:
    """What is included comes first and costs nothing."""
    assert figure(period_price(kind="package", package="1000", price="9.99", included="500"), quantity) == cost


@pytest.mark.parametrize(
    ("kind", "quantity", "cost"),
    [
        ("graduated", "0", "0"),
        ("graduated", "1", "12"),  # 10 + 1 × 2
        ("graduated", "2", "14"),
        ("graduated", "3", "35"),  # 10 + 2 × 2 + 20 + 1 × 1
        ("volume", "0", "0"),
        ("volume", "2", "14"),
        ("volume", "3", "23"),  # 20 + 3 × 1
    ],
)
def test_a_flat_fee_is_owed_when_its_tier_is_reached(kind: str, quantity: str, cost: str) -> None:
    """Graduated: of each tier on the way; volume: of the one that decides; at quantity 0 none is reached."""
    tiers = [{"up_to": "2", "price": "2", "flat": "10"}, {"price": "1", "flat": "20"}]

    assert figure(period_price(kind=kind, tiers=tiers), quantity) == cost


@pytest.mark.parametrize(
    ("said", "quantity", "per_event_cost", "cost"),
    [
        ({}, "3", "1.5", "500"),
        ({}, "3", "700", "700"),
        ({}, "0", "0", "0"),  # who used nothing owes nothing
        ({"org": "acme"}, "0", "0", "500"),  # unless the row is this org's own
        ({"kind": "graduated", "tiers": TIERS}, "10", "9", "500"),
        ({"kind": "graduated", "tiers": TIERS}, "20000", "9", "900"),
        ({"kind": "package", "package": 10, "price": 1, "included": 100}, "100", "0", "500"),
    ],
)
def test_a_minimum_fills_up_what_is_missing(
    said: dict[str, Any], quantity: str, per_event_cost: str, cost: str
) -> None:
    """Whole, whatever the part of the month: nothing is prorated."""
    assert figure(period_price(minimum="500", **said), quantity, per_event_cost=per_event_cost) == cost


def test_the_steps_say_how_a_figure_comes_about() -> None:
    """As they stand in the answer; what has no end is null."""
    steps = steps_of(
        period_price(kind="graduated", tiers=TIERS, per=10, minimum="5000"),
        quantity=100_001 * SCALE,
        per_event_cost=0,
    )

    common = {"per": 10, "flat": "0"}
    assert [step.shown() for step in steps] == [
        {
            "step": "tier 1",
            "above": "0",
            "up_to": "10000",
            "quantity": "10000",
            "price": "0.05",
            **common,
            "exact_cost": "50.000000000000",
        },
        {
            "step": "tier 2",
            "above": "10000",
            "up_to": "100000",
            "quantity": "90000",
            "price": "0.04",
            **common,
            "exact_cost": "360.000000000000",
        },
        {
            "step": "tier 3",
            "above": "100000",
            "up_to": None,
            "quantity": "1",
            "price": "0.03",
            **common,
            "exact_cost": "0.003000000000",
        },
        {"step": "minimum", "exact_cost": "4589.997000000000"},
    ]
    packages = steps_of(
        period_price(kind="package", package="1000", price="9.99", included="500"),
        quantity=1501 * SCALE,
        per_event_cost=0,
    )
    assert [step.shown() for step in packages] == [
        {"step": "included", "quantity": "500", "exact_cost": "0.000000000000"},
        {
            "step": "packages",
            "quantity": "1001",
            "packages": 2,
            "price": "9.99",
            "per": "1000",
            "exact_cost": "19.980000000000",
        },
    ]


def test_a_price_per_many_units_is_rounded_once_a_step() -> None:
    """Half to even on 12 decimals, as the cost of an event."""
    third = period_price(kind="graduated", tiers=[{"up_to": "1", "price": "1"}, {"price": "1"}], per=3)

    assert figure(third, 3) == "1"  # 0.333333333333 + 0.666666666667


# -- Any quantity ------------------------------------------------------------------------------------------------------


@st.composite
def tiered(draw: st.DrawFn, *, kind: str, flat: bool = True) -> PeriodPrice:
    """Any tiers with small ends, so that units can be counted one by one."""
    ends = sorted(draw(st.sets(st.integers(1, 60), max_size=5)))
    amounts = st.integers(0, 10**4).map(lambda units: Decimal(units).scaleb(-3))
    tiers = [
        {"price": draw(amounts), "flat": draw(amounts) if flat else Decimal(0), **({"up_to": end} if end else {})}
        for end in [*ends, None]
    ]
    return period_price(kind=kind, tiers=tiers)


def tier_of(unit: int | Decimal, price: PeriodPrice) -> int:
    """The specification of a tier: the first one whose end is not below the unit."""
    return next(at for at, tier in enumerate(price.tiers) if tier.up_to is None or unit <= tier.up_to)


@given(price=tiered(kind="graduated"), quantity=st.integers(0, 80))
def test_graduated_is_what_counting_unit_by_unit_gives(price: PeriodPrice, quantity: int) -> None:
    """The scalar specification: each unit at the price of its tier, and the flat fee of each tier that holds one."""
    tiers = [tier_of(unit, price) for unit in range(1, quantity + 1)]
    units = sum(Fraction(price.tiers[at].price) for at in tiers)
    flats = sum(Fraction(price.tiers[at].flat) for at in set(tiers))

    assert Fraction(figure(price, quantity)) == units + flats


@given(price=tiered(kind="volume"), quantity=st.integers(0, 80))
def test_volume_is_one_price_for_all_units(price: PeriodPrice, quantity: int) -> None:
    """The scalar specification: the tier of the last unit prices them all."""
    tier = price.tiers[tier_of(quantity, price)]

    expected = quantity * Fraction(tier.price) + Fraction(tier.flat) if quantity else 0
    assert Fraction(figure(price, quantity)) == expected


@given(size=st.integers(1, 20), included=st.integers(0, 30), quantity=st.integers(0, 80), price=st.integers(0, 10**4))
def test_packages_are_what_buying_one_by_one_gives(size: int, included: int, quantity: int, price: int) -> None:
    """The scalar specification: buy another package while something is not covered."""
    packages = 0
    while included + packages * size < quantity:
        packages += 1

    row = period_price(kind="package", package=size, price=price, included=included)
    assert figure(row, quantity) == report.plain(packages * price * SCALE)


@given(
    price=tiered(kind="graduated"),
    quantities=st.tuples(st.integers(0, 80 * SCALE), st.integers(0, 80 * SCALE)).map(sorted),
)
def test_graduated_never_falls(price: PeriodPrice, quantities: list[int]) -> None:
    """More never costs less."""
    less, more = (
        sum(step.cost for step in steps_of(price, quantity=quantity, per_event_cost=0)) for quantity in quantities
    )

    assert less <= more


@given(price=tiered(kind="graduated", flat=False), quantity=st.integers(0, 80 * SCALE))
def test_graduated_has_no_cliff(price: PeriodPrice, quantity: int) -> None:
    """Continuous: the least bit more, 10⁻¹² of a unit, costs at most its share of the dearest price, rounded."""
    before, after = (
        sum(step.cost for step in steps_of(price, quantity=at, per_event_cost=0)) for at in (quantity, quantity + 1)
    )

    dearest = max(tier.price for tier in price.tiers)
    assert 0 <= after - before <= dearest + 2  # each of two steps is rounded once


# -- A month -----------------------------------------------------------------------------------------------------------

CELLS = st.lists(
    st.builds(
        Cell,
        operation=st.sampled_from(["lookup", "llm.request"]),
        model=st.sampled_from(["", "gpt-4o", "gpt-4o-mini", "claude"]),
        name=st.sampled_from(["", "lookups", "tokens"]),
        quantity=st.one_of(st.just(0), st.integers(0, 10**18)),
        cost=st.integers(0, 10**18),
    ),
    max_size=12,
)


@st.composite
def books(draw: st.DrawFn) -> list[PeriodPrice]:
    """Any rows, of which no two are equally specific."""
    row = st.builds(
        lambda shape, **reach: PeriodPrice.model_validate({**reach, **shape}),
        operation=st.sampled_from(["lookup", "llm.request"]),
        meter=st.sampled_from(["lookups", "tokens"]),
        model=st.sampled_from(["", "gpt-4o*", "gpt-4o", "gpt-*"]),
        org=st.sampled_from(["", "acme", "umbrella"]),
        shape=st.sampled_from(
            [
                {"minimum": "3"},
                {"kind": "graduated", "tiers": TIERS},
                {"kind": "volume", "tiers": TIERS, "per": 7, "minimum": "0.000000000005"},
                {"kind": "package", "package": "0.5", "price": "0.01"},
            ]
        ),
    )
    return draw(st.lists(row, max_size=6, unique_by=lambda price: price.reach))


@given(cells=CELLS, prices=books())
def test_shares_and_rests_sum_to_the_figures(cells: list[Cell], prices: list[PeriodPrice]) -> None:
    """Nothing is lost or billed twice: the new total is the old one without the pools' events, plus their figures."""
    costs, pools = costs_of_month(cells, rows=with_ids("book", 1, prices), org="acme", month=MONTH)

    outside = [cell.cost for cell in cells if not any(cell.line in pool.lines for pool in pools)]
    assert sum(costs) + sum(pool.rest for pool in pools) == sum(outside) + sum(pool.cost for pool in pools)
    assert sum(pool.per_event_cost for pool in pools) + sum(outside) == sum(cell.cost for cell in cells)
    assert all(cost >= 0 for cost in costs)
    assert all(pool.row.price.org in ("", "acme") for pool in pools)


@given(cells=CELLS, prices=books())
def test_a_line_belongs_to_one_pool_whatever_the_order_of_the_rows(
    cells: list[Cell], prices: list[PeriodPrice]
) -> None:
    """The most specific one: the order of a book says nothing."""
    rows = with_ids("book", 1, prices)
    one_way, pools = costs_of_month(cells, rows=rows, org="acme", month=MONTH)
    other_way, _ = costs_of_month(cells, rows=rows[::-1], org="acme", month=MONTH)

    assert one_way == other_way
    lines = [line for pool in pools for line in pool.lines]
    assert len(lines) == len(set(lines))


def test_a_figure_is_shared_by_billed_quantity() -> None:
    """Of equal remainders the earlier gets the rest; what costs nothing by event can cost something by month."""
    cells = [Cell("lookup", "", "lookups", quantity * SCALE, 0) for quantity in (1, 1, 1, 0)]
    row = period_price(kind="package", package=3, price="0.00000000001")

    costs, (pool,) = costs_of_month(cells, rows=with_ids("book", 1, [row]), org="acme", month=MONTH)

    assert (pool.cost, costs) == (10, [4, 3, 3, 0])


def test_with_a_minimum_alone_the_events_keep_what_they_cost() -> None:
    """A dear model does not pay for a cheap one; only what is missing goes by quantity."""
    cells = [Cell("lookup", "dear", "lookups", SCALE, 90 * SCALE), Cell("lookup", "cheap", "lookups", 3 * SCALE, 0)]

    costs, _ = costs_of_month(cells, rows=with_ids("b", 1, [period_price(minimum="50")]), org="acme", month=MONTH)
    filled, _ = costs_of_month(cells, rows=with_ids("b", 1, [period_price(minimum="98")]), org="acme", month=MONTH)

    assert costs == [90 * SCALE, 0]
    assert filled == [92 * SCALE, 6 * SCALE]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"org": "acme", "model": ""}, "org"),
        ({"model": "gpt-4o-mini"}, "model"),
        ({"model": "gpt-4o*"}, "family"),
    ],
)
def test_the_most_specific_row_prices_a_line(said: dict[str, str], expected: str) -> None:
    """First the org's own, then the exact model, then the longer beginning: as with prices of events."""
    rows = [period_price(minimum="1"), period_price(minimum="1", model="gpt*"), period_price(minimum="1", **said)]
    cell = Cell("lookup", "gpt-4o-mini", "lookups", SCALE, 0)

    _, pools = costs_of_month([cell], rows=with_ids(expected, 1, rows), org="acme", month=MONTH)

    used = [pool for pool in pools if pool.quantity]
    assert [pool.row.id for pool in used] == [f"{expected}@1:period:3"]


@pytest.mark.parametrize(
    ("span", "holds"),
    [
        ({}, True),
        ({"from": "2026-03"}, True),
        ({"from": "2026-04"}, False),
        ({"until": "2026-03"}, False),
        ({"from": "2026-03", "until": "2026-04"}, True),
    ],
)
def test_a_row_holds_from_a_month_until_another(span: dict[str, str], *, holds: bool) -> None:
    """`from` included, `until` excluded."""
    cell = Cell("lookup", "", "lookups", SCALE, 0)

    _, pools = costs_of_month(
        [cell], rows=with_ids("book", 1, [period_price(minimum="1", **span)]), org="acme", month=MONTH
    )

    assert bool(pools) is holds


# -- The invoice -------------------------------------------------------------------------------------------------------


def test_an_invoice_with_period_prices_still_sums_up() -> None:
    """Lines and projects sum to the total; the line names its period price; other lines are as they were."""
    sums = [
        invoice_sum(quantity=Decimal(9000), cost=Decimal(900), event_cost=Decimal(907)),
        invoice_sum(name="rows", quantity=Decimal(7), cost=Decimal(7), event_cost=Decimal(0), events=0),
        invoice_sum(project="search", quantity=Decimal(3000), cost=Decimal(300)),
    ]
    rows = with_ids("standard", 3, [period_price(kind="graduated", tiers=TIERS)])

    priced, pools = price_month(sums, rows=rows, org="acme", month=MONTH)
    invoice = explained(report.invoice(priced), pools)

    assert invoice["total"] == "587.00"  # 500 + 2000 × 0.04, and 7 rows
    assert [(line["meter"], line["exact_cost"], line.get("period_price")) for line in invoice["lines"]] == [
        ("lookups", "580.000000000000", "standard@3:period:1"),
        ("rows", "7.000000000000", None),
    ]
    assert [(row["project"], row["exact_cost"]) for row in invoice["project_breakdown"]] == [
        ("checkout", "442.000000000000"),
        ("search", "145.000000000000"),
    ]
    (shown,) = invoice["period_prices"]
    assert (shown["quantity"], shown["per_event_cost"], shown["exact_cost"]) == (
        *("12000", "1200.000000000000"),
        "580.000000000000",
    )


def test_a_minimum_without_any_use_stands_on_a_line_of_no_project() -> None:
    """The org's own commitment; nobody else's."""
    rows = with_ids("deal", 1, [period_price(org="acme", minimum="500"), period_price(minimum="9")])

    priced, pools = price_month([], rows=rows, org="acme", month=MONTH)
    invoice = explained(report.invoice(priced), pools)

    assert [(line["meter"], line["quantity"], line["cost"]) for line in invoice["lines"]] == [
        ("lookups", "0", "500.00")
    ]
    assert invoice["project_breakdown"][0]["project"] == ""
    assert invoice["total"] == "500.00"
    assert invoice["lines"][0]["period_price"] == "deal@1:period:1"
    assert price_month([], rows=rows, org="umbrella", month=MONTH) == ([], [])


@given(cells=CELLS, prices=books())
def test_any_invoice_with_period_prices_sums_up(cells: list[Cell], prices: list[PeriodPrice]) -> None:
    """Lines and projects, exact and in cents."""
    sums = [
        invoice_sum(
            project=str(at % 3),
            operation=cell.operation,
            model=cell.model,
            name=cell.name or "other",
            quantity=report.decimal(cell.quantity),
            cost=report.decimal(cell.cost),
        )
        for at, cell in enumerate(cells)
    ]

    priced, pools = price_month(sums, rows=with_ids("book", 1, prices), org="acme", month=MONTH)
    invoice = explained(report.invoice(priced), pools)

    for rows in (invoice["lines"], invoice["project_breakdown"]):
        assert sum(Decimal(row["cost"]) for row in rows) == Decimal(invoice["total"])
        assert sum(report.whole(Decimal(row["exact_cost"])) for row in rows) == report.whole(
            Decimal(invoice["exact_total"])
        )
    in_pools = [line for line in invoice["lines"] if "period_price" in line]
    assert sum(report.whole(Decimal(line["exact_cost"])) for line in in_pools) == sum(map(_cost, pools))


def _cost(pool: Pool) -> int:
    return pool.cost


# -- Rows --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({}, "changes nothing"),
        ({"minimum": 0}, "changes nothing"),
        ({"meter": "", "minimum": 1}, "empty `meter`"),
        ({"kind": "volume"}, "has no `tiers`"),
        ({"kind": "volume", "tiers": [{"price": 1, "up_to": 5}]}, "ends its last tier"),
        ({"kind": "volume", "tiers": [{"price": 1}, {"price": 1}]}, "before the last tier"),
        ({"kind": "volume", "tiers": [{"price": 1, "up_to": 0}, {"price": 1}]}, "out of order"),
        ({"kind": "graduated", "tiers": [{"price": 1, "up_to": 5}, {"price": 1, "up_to": 5}, {"price": 1}]}, "order"),
        ({"kind": "volume", "tiers": [{"price": 1}], "price": 1, "included": 1}, "gives `price` and `included`"),
        ({"kind": "package", "package": 10}, "needs `package` above 0, and `price`"),
        ({"kind": "package", "package": 0, "price": 1}, "needs `package` above 0, and `price`"),
        ({"kind": "package", "package": 1, "price": 1, "per": 10}, "gives `per`, which the kind package"),
        ({"minimum": 1, "tiers": []}, "gives `tiers`, which a row without a `kind`"),
        ({"minimum": 1, "from": "2026-03", "until": "2026-03"}, "ends before it begins"),
        ({"minimum": 1, "from": "2026-13"}, "quoted month"),
        ({"minimum": 1, "from": "2026-03-01"}, "quoted month"),
        ({"minimum": 1, "from": "0000-01"}, "quoted month"),
        ({"kind": "volume", "tiers": [{"price": 1}] * (PERIOD_TIERS_MAX + 1)}, f"at most {PERIOD_TIERS_MAX}"),
    ],
)  # fmt: skip
def test_a_row_that_makes_no_sense_is_refused(said: dict[str, Any], sentence: str) -> None:
    """With a sentence that says what to write instead."""
    with pytest.raises(ValidationError) as refused:
        period_price(**said)

    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("one", "other", "month"),
    [
        ({}, {}, "0001-01"),
        ({}, {"from": "2026-03"}, "2026-03"),
        ({"until": "2026-03"}, {"from": "2026-03"}, None),
        ({"from": "2026-01", "until": "2026-06"}, {"from": "2026-05"}, "2026-05"),
        ({"from": "2026-05"}, {"from": "2026-01", "until": "2026-06"}, "2026-05"),
        ({}, {"model": "gpt*"}, None),
        ({}, {"org": "acme"}, None),
        ({}, {"meter": "rows"}, None),
    ],
)
def test_rows_that_contradict_each_other_are_found(
    one: dict[str, str], other: dict[str, str], month: str | None
) -> None:
    """Equally specific for one line and one month; the first such month is said."""
    found = list(overlapping_months([period_price(minimum=1, **one), period_price(minimum=1, **other)]))

    assert found == ([] if month is None else [(0, 1, month)])

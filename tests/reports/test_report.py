"""What sums mean: shares, rates, cents and completeness, from values alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import report
from schemas.reports import Figures, InvoiceSum, LaneSum, Period, Refusals, UnpricedSum, WindowSum

#: Money as it occurs: up to 10²⁰, 12 decimals, many zeros.
UNITS = st.one_of(st.just(0), st.integers(0, 10**15), st.integers(0, 10**32))
MARCH = Period(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))


def _decimal(units: int) -> Decimal:
    return Context(prec=60).scaleb(Decimal(units), -12)


def _lane(lane: str, cost: str | Decimal = "0", **said: Any) -> LaneSum:
    ordinary = {
        "requests": 1,
        "ok": 1,
        "failed": 0,
        "unpriced": 0,
        "cost": Decimal(cost),
        "failed_cost": Decimal(0),
        "newest_us": 0,
    }
    return LaneSum(lane, Figures(**{**ordinary, **said}))


def _invoice_sum(cost: str | Decimal, **said: Any) -> InvoiceSum:
    ordinary = {
        "project": "checkout",
        "operation": "lookup",
        "model": "",
        "name": "lookups",
        "quantity": Decimal(1),
        "cost": Decimal(cost),
        "events": 1,
        "unpriced": 0,
        "event_cost": Decimal(cost),
        "newest_us": 0,
    }
    return InvoiceSum(**{**ordinary, **said})


@given(costs=st.lists(UNITS, max_size=30))
def test_rounded_lines_sum_to_the_rounded_total(costs: list[int]) -> None:
    """Largest remainder: the lines' cents sum to the total rounded half-even, and none is off by a cent or more."""
    cents = report.cents_that_sum(costs)

    assert sum(cents) == round(Fraction(sum(costs), report.CENT))  # Python rounds fractions half-even
    assert all(abs(cent * report.CENT - cost) < report.CENT for cent, cost in zip(cents, costs, strict=True))


@given(costs=st.lists(UNITS, max_size=30).map(lambda costs: sorted(costs, reverse=True)))
def test_rounding_keeps_the_order(costs: list[int]) -> None:
    """A line that costs more never shows fewer cents."""
    cents = report.cents_that_sum(costs)

    assert cents == sorted(cents, reverse=True)


def test_the_missing_cent_goes_to_the_line_that_lost_most() -> None:
    """0.014 + 0.016 + 0.02 = 0.05: the second line gets the cent; of equals it is the first."""
    milli = 10**9

    assert report.cents_that_sum([14 * milli, 16 * milli, 20 * milli]) == [1, 2, 2]
    assert report.cents_that_sum([5 * milli, 5 * milli]) == [1, 0]


@given(part=st.integers(0, 10**30), of=st.integers(1, 10**30))
def test_a_ratio_is_rounded_half_even_once(part: int, of: int) -> None:
    """Exactly what a decimal of unlimited precision would give."""
    exact = round(Fraction(part, of) * 10**6)  # Python rounds fractions half-even

    assert report.ratio(part, of) == f"{exact // 10**6}.{exact % 10**6:06d}"


def test_a_ratio_of_nothing_is_null() -> None:
    """There is nothing to divide by."""
    assert report.ratio(0, 0) is None


@given(units=st.integers(0, 10**38))
def test_money_and_quantities_survive_their_text(units: int) -> None:
    """Twelve decimals for money, none too many for quantities, and no exponent ever."""
    assert report.whole(Decimal(report.money(units))) == units
    assert report.whole(Decimal(report.quantity(_decimal(units)))) == units
    assert len(report.money(units).partition(".")[2]) == 12
    assert "." not in report.quantity(_decimal(units)) or report.quantity(_decimal(units))[-1] not in "0."


@pytest.mark.parametrize(
    ("value", "text"), [("11284", "11284"), ("0.50", "0.5"), ("0", "0"), ("1E+3", "1000"), ("0.000000000001",) * 2]
)
def test_quantities_are_plain(value: str, text: str) -> None:
    """No trailing zeros, no exponent."""
    assert report.quantity(Decimal(value)) == text


@given(costs=st.lists(UNITS, min_size=1, max_size=30))
def test_shares_sum_to_one(costs: list[int]) -> None:
    """Within what rounding of each can do; the running share ends at exactly 1."""
    answer = report.concentration(_lane(str(at), _decimal(cost)) for at, cost in enumerate(costs))

    shares = [lane["share"] for lane in answer["lanes"]]
    if not sum(costs):
        assert shares == [None] * len(costs)
        assert (answer["top_share"], answer["hhi"], answer["lanes_to_80"]) == (None, None, 0)
        return
    assert abs(sum((Fraction(share) for share in shares), Fraction(-1))) * 2 * 10**6 <= len(costs)
    assert answer["lanes"][-1]["running_share"] == "1.000000"
    assert answer["top_share"] == shares[0] == max(shares)


@given(costs=st.lists(st.integers(1, 10**15), min_size=1, max_size=30))
def test_hhi_is_the_sum_of_the_squares_of_exact_shares(costs: list[int]) -> None:
    """Rounded once at the end, so between 1 ÷ lanes and 1."""
    answer = report.concentration(_lane(str(at), _decimal(cost)) for at, cost in enumerate(costs))

    exact = sum(Fraction(cost, sum(costs)) ** 2 for cost in costs)
    assert Fraction(answer["hhi"]) == Fraction(round(exact * 10**6), 10**6)


@given(costs=st.lists(UNITS, min_size=1, max_size=12).filter(any))
def test_lanes_to_80_is_the_fewest_top_lanes_that_hold_80_percent(costs: list[int]) -> None:
    """One lane fewer would hold less than 80 %."""
    answer = report.concentration(_lane(str(at), _decimal(cost)) for at, cost in enumerate(costs))

    top = sorted(costs, reverse=True)
    fewest = answer["lanes_to_80"]
    assert sum(top[:fewest]) * 5 >= sum(top) * 4
    assert sum(top[: fewest - 1]) * 5 < sum(top) * 4


def test_concentration_of_nothing_needs_no_lane() -> None:
    """Zeros where something is counted, null where there is nothing to divide by."""
    answer = report.concentration([])

    assert answer == {"total": "0.000000000000", "top_share": None, "hhi": None, "lanes_to_80": 0, "lanes": []}


def test_concentration_as_the_contract_shows_it() -> None:
    """Lanes by cost, largest first, then by name; free lanes are listed; "" is the lane of events without a value."""
    answer = report.concentration(
        [_lane("b", "1"), _lane("", "0"), _lane("big", "2984.42"), _lane("a", "1"), _lane("rest", "426.11", requests=7)]
    )

    assert answer == {
        "total": "3412.530000000000",
        "top_share": "0.874548",
        "hhi": "0.780425",
        "lanes_to_80": 1,
        "lanes": [
            {
                "lane": "big",
                "requests": 1,
                "cost": "2984.420000000000",
                "share": "0.874548",
                "running_share": "0.874548",
            },
            {
                "lane": "rest",
                "requests": 7,
                "cost": "426.110000000000",
                "share": "0.124866",
                "running_share": "0.999414",
            },
            {"lane": "a", "requests": 1, "cost": "1.000000000000", "share": "0.000293", "running_share": "0.999707"},
            {"lane": "b", "requests": 1, "cost": "1.000000000000", "share": "0.000293", "running_share": "1.000000"},
            {"lane": "", "requests": 1, "cost": "0.000000000000", "share": "0.000000", "running_share": "1.000000"},
        ],
    }


def test_success_shows_the_dearest_failures_first() -> None:
    """Rates are successes by requests; they are never averaged."""
    answer = report.success(
        [
            _lane("good", requests=3, ok=2, failed=1, failed_cost=Decimal("0.01")),
            _lane("bad", requests=100, ok=97, failed=3, failed_cost=Decimal("0.012")),
        ]
    )

    assert answer == {
        "lanes": [
            {
                "lane": "bad",
                "requests": 100,
                "ok": 97,
                "failed": 3,
                "success_rate": "0.970000",
                "failed_cost": "0.012000000000",
            },
            {
                "lane": "good",
                "requests": 3,
                "ok": 2,
                "failed": 1,
                "success_rate": "0.666667",
                "failed_cost": "0.010000000000",
            },
        ]
    }


def test_an_invoice_as_the_contract_shows_it() -> None:
    """One line per operation, model and name; quantities by name; each list sums to the total in cents."""
    answer = report.invoice(
        [
            _invoice_sum("468.286", quantity=Decimal("11284.000"), events=11284),
            _invoice_sum("0.004", project="other", quantity=Decimal("0.5"), event_cost=Decimal("0.004")),
            _invoice_sum("2", operation="report", name="jobs", project="other"),
            _invoice_sum("0", name="", operation="free", project="idle"),
        ]
    )

    assert answer == {
        "quantities": {"jobs": "1", "lookups": "11284.5"},
        "lines": [
            {
                "operation": "lookup",
                "model": "",
                "meter": "lookups",
                "quantity": "11284.5",
                "cost": "468.29",
                "exact_cost": "468.290000000000",
            },
            {
                "operation": "report",
                "model": "",
                "meter": "jobs",
                "quantity": "1",
                "cost": "2.00",
                "exact_cost": "2.000000000000",
            },
        ],
        "project_breakdown": [
            {"project": "checkout", "cost": "468.29", "exact_cost": "468.286000000000", "share": "0.995739"},
            {"project": "other", "cost": "2.00", "exact_cost": "2.004000000000", "share": "0.004261"},
            {"project": "idle", "cost": "0.00", "exact_cost": "0.000000000000", "share": "0.000000"},
        ],
        "total": "470.29",
        "exact_total": "470.290000000000",
    }


@given(
    sums=st.lists(st.tuples(st.sampled_from("pq"), st.sampled_from("xy"), st.sampled_from("mn"), UNITS), max_size=20)
)
def test_each_list_of_an_invoice_sums_to_its_total(sums: list[tuple[str, str, str, int]]) -> None:
    """In cents and exactly, whatever the split."""
    answer = report.invoice(
        [
            _invoice_sum(_decimal(cost), project=project, operation=operation, name=name)
            for project, operation, name, cost in sums
        ]
    )

    for rows in (answer["lines"], answer["project_breakdown"]):
        assert sum(Fraction(row["cost"]) for row in rows) == Fraction(answer["total"])
        assert sum(Fraction(row["exact_cost"]) for row in rows) == Fraction(answer["exact_total"])


def test_the_invoice_of_nobody_is_zero() -> None:
    """No lines, no projects, no money."""
    assert report.invoice([]) == {
        "quantities": {},
        "lines": [],
        "project_breakdown": [],
        "total": "0.00",
        "exact_total": "0.000000000000",
    }


def test_a_summary_of_an_empty_window_is_zeros() -> None:
    """Only the rate is null: there is nothing to divide by."""
    figures = Figures(3, 2, 1, 1, Decimal("0.5"), Decimal(0), 0)

    answer = report.summary({"today": None, "total": WindowSum(figures, Decimal(10), Decimal("2.5"))})

    assert answer == {
        "windows": {
            "today": {
                "requests": 0,
                "ok": 0,
                "failed": 0,
                "success_rate": None,
                "input_tokens": "0",
                "output_tokens": "0",
                "cost": "0.000000000000",
                "unpriced": 0,
            },
            "total": {
                "requests": 3,
                "ok": 2,
                "failed": 1,
                "success_rate": "0.666667",
                "input_tokens": "10",
                "output_tokens": "2.5",
                "cost": "0.500000000000",
                "unpriced": 1,
            },
        }
    }


def test_unpriced_meters_are_listed_by_how_often_they_occur() -> None:
    """Rows of events that lack nothing are not listed, but count for completeness."""
    sums = [
        UnpricedSum("op", "x", "y", "", 90, Decimal(0), 0, 90, 0, 5_000_000),
        UnpricedSum("op", "x", "y", "images", 1, Decimal("2.50"), 1_000_000, 0, 0, 1_000_000),
        UnpricedSum("op", "x", "y", "output_tokens", 3, Decimal(900), 2_000_000, 3, 3, 3_000_000),
    ]

    figures = report.figures_of_unpriced(sums)

    assert (figures.requests, figures.unpriced, figures.newest_us) == (93, 3, 5_000_000)
    assert report.unpriced(sums, org="acme", books=[]) == {
        "unpriced": [
            {
                "operation": "op",
                "provider": "x",
                "model": "y",
                "meter": "output_tokens",
                "events": 3,
                "quantity": "900",
                "since": "1970-01-01T00:00:02.000000Z",
                "fix": '- {operation: op, provider: x, model: y, meter: output_tokens, price: "?", per: 1000000}',
                "nearest": None,
            },
            {
                "operation": "op",
                "provider": "x",
                "model": "y",
                "meter": "images",
                "events": 1,
                "quantity": "2.5",
                "since": "1970-01-01T00:00:01.000000Z",
                "fix": '- {operation: op, provider: x, model: y, meter: images, price: "?", per: 1}',
                "nearest": None,
            },
        ]
    }


def test_completeness_names_what_is_not_in_the_answer() -> None:
    """An unknown lag and a missing watermark are null, never 0."""
    figures = report.figures_of_lanes([_lane("a", requests=2, unpriced=1, newest_us=1_100_000), _lane("b")])

    assert report.completeness(figures, refusals=Refusals(3, 4, 5), lag=None) == {
        "events": 3,
        "unpriced": 1,
        "rejected": 3,
        "duplicates": 4,
        "conflicts": 5,
        "watermark": "1970-01-01T00:00:01.100000Z",
        "lag": None,
    }
    assert report.completeness(report.NOTHING, refusals=Refusals(0, 0, 0), lag=0)["watermark"] is None


@pytest.mark.parametrize(
    ("now", "state"),
    [
        (datetime(2026, 3, 15, tzinfo=UTC), "open"),
        (datetime(2026, 4, 1, tzinfo=UTC), "open"),
        (datetime(2026, 5, 5, 23, 59, 59, 999_999, tzinfo=UTC), "open"),
        (datetime(2026, 5, 6, tzinfo=UTC), "closed"),
    ],
)
def test_a_period_is_closed_when_none_of_its_events_could_still_come_in(now: datetime, state: str) -> None:
    """A closed invoice never changes: 35 days after its end the newest event of March would be too old."""
    assert report.state(MARCH, now=now, max_age=timedelta(days=35)) == state


def test_all_of_time_is_never_closed() -> None:
    """There is always another event."""
    assert report.state(Period(None, None), now=datetime.max.replace(tzinfo=UTC), max_age=timedelta(0)) == "open"


def test_a_span_is_rfc_3339_in_utc() -> None:
    """Both ends are null for all of time."""
    assert report.span(MARCH) == {"start": "2026-03-01T00:00:00Z", "end": "2026-04-01T00:00:00Z"}
    assert report.span(Period(None, None)) == {"start": None, "end": None}

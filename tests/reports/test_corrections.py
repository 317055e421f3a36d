"""What a reader sees of corrections: figures as they are now and as they were, and invoices that stay as they were."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from clickhouse import reports
from clickhouse.corrections import events_to_reprice, invoice_with_corrections, orgs_to_reprice
from pipeline.periods import parse_period
from pipeline.report import invoice, settled
from pipeline.reprice import REPRICEABLE
from schemas.errors import StoreUnavailable
from schemas.reports import Period
from tests.reports.building import Line, fact

if TYPE_CHECKING:
    from clickhouse.client import Store
    from tests.reports.building import Counted

pytestmark = pytest.mark.servers

JANUARY = datetime(2026, 1, 10, 8, 30, tzinfo=UTC)
MARCH = datetime(2026, 3, 10, 8, 30, tzinfo=UTC)
#: January closes 35 days after its end.
MAX_AGE = timedelta(days=35)
BEFORE_THE_CLOSE = datetime(2026, 3, 7, 23, 59, 59, 999_000, tzinfo=UTC)
AT_THE_CLOSE = datetime(2026, 3, 8, tzinfo=UTC)
TOKENS = Line("input_tokens", "1000", "0.5")
DEARER = Line("input_tokens", "1000", "0.75")
NO_PRICE = Line("images", "3", None)
PICTURES = Line("images", "3", "6", name="pictures")


@pytest.fixture
def books(counted: Counted) -> Counted:
    """Two events of January, one of which lacks a price, and one of March."""
    counted.count(fact(TOKENS, NO_PRICE, time=JANUARY), fact(TOKENS, time=JANUARY, project="search"))
    counted.count(fact(TOKENS, time=MARCH))
    return counted


def test_views_show_the_present_figures_and_keep_the_old_ones(books: Counted) -> None:
    """Facts, totals and quantities move by the difference; the view corrections says from what to what."""
    books.correct(_first(TOKENS, PICTURES), run="run-1")
    books.correct(_first(DEARER, PICTURES), run="run-2")

    assert _rows(books, "SELECT id, cost, pricing, revision FROM facts ORDER BY id") == [
        ("id-0", Decimal("6.75"), "priced", 2),
        ("id-1", Decimal("0.5"), "priced", 0),
        ("id-2", Decimal("0.5"), "priced", 0),
    ]
    corrections = "SELECT run, revision, old_cost, new_cost, difference, old_pricing, books, reason FROM corrections"
    assert _rows(books, f"{corrections} ORDER BY revision") == [
        ("run-1", 1, Decimal("0.5"), Decimal("6.5"), Decimal(6), "unpriced", "standard@2", "tested"),
        ("run-2", 2, Decimal("6.5"), Decimal("6.75"), Decimal("0.25"), "priced", "standard@2", "tested"),
    ]
    assert _rows(books, "SELECT sum(cost), sum(unpriced), sum(requests) FROM totals_hourly") == [
        (Decimal("7.75"), 0, 3)
    ]
    quantities = "SELECT meter, name, quantity, cost, events FROM quantities_hourly WHERE project = 'checkout'"
    assert _rows(books, f"{quantities} AND toMonth(hour) = 1 ORDER BY meter") == [
        ("images", "pictures", Decimal(3), Decimal(6), 1),
        ("input_tokens", "input_tokens", Decimal(1000), Decimal("0.75"), 1),
    ]


def test_nothing_is_written_when_a_figure_is_what_it_should_be(books: Counted) -> None:
    """Again, by another run, for an event that was never counted, or with other content: no row."""
    first = books.correct(_first(DEARER, PICTURES), run="run-1")
    again = books.correct(_first(DEARER, PICTURES), run="run-1")
    other_run = books.correct(_first(DEARER, PICTURES), run="run-2")
    other_content = books.correct(_first(DEARER, Line("images", "4", "8", name="pictures")), run="run-3")
    unheard_of = books.correct(fact(TOKENS, time=JANUARY, offset=99, id="id-99"), run="run-3")

    assert first.corrections.height == 1
    assert [(one.unchanged, one.unknown) for one in (again, other_run, other_content, unheard_of)] == [
        (1, 0),
        (1, 0),
        (0, 1),
        (0, 1),
    ]
    assert _rows(books, "SELECT count() FROM corrections") == [(1,)]


@pytest.mark.parametrize("shape", ["hours", "facts"])
def test_a_correction_before_the_close_restates_the_month_itself(books: Counted, shape: str) -> None:
    """The last moment before January closes still changes January."""
    books.correct(_first(DEARER, PICTURES), at=BEFORE_THE_CLOSE)

    assert _invoice(books, "2026-01", shape)["exact_total"] == "7.250000000000"
    assert _invoice(books, "2026-03", shape)["lines"] == [_line("input_tokens", "1000", "0.5")]


@pytest.mark.parametrize("shape", ["hours", "facts"])
def test_a_closed_month_stays_as_it_was_and_the_open_one_shows_the_correction(books: Counted, shape: str) -> None:
    """Lines of January's invoice, quantities and projects are those at its close; March has the difference in lines."""
    closed = _invoice(books, "2026-01", shape)

    books.correct(_first(DEARER, PICTURES), at=AT_THE_CLOSE)

    assert _invoice(books, "2026-01", shape) == closed
    march = _invoice(books, "2026-03", shape)
    assert march["lines"] == [
        _line("input_tokens", "1000", "0.5"),
        {"kind": "correction", "corrects": "2026-01", **_line("pictures", "3", "6")},
        {"kind": "correction", "corrects": "2026-01", **_line("input_tokens", "0", "0.25")},
    ]
    assert (march["total"], march["exact_total"]) == ("6.75", "6.750000000000")
    assert [(row["project"], row["cost"]) for row in march["project_breakdown"]] == [("checkout", "6.75")]
    assert sum(Decimal(line["cost"]) for line in march["lines"]) == Decimal("6.75")
    assert march["quantities"] == {"input_tokens": "1000", "pictures": "3"}
    both = _invoice(books, "2026-01-01T00:00Z/2026-04-01T00:00Z", shape)
    assert both["exact_total"] == "7.750000000000"


def test_a_credit_is_a_line_below_zero(books: Counted) -> None:
    """A closed month that cost too much: the open one is smaller, and its lines still sum to the total."""
    books.correct(_first(Line("input_tokens", "1000", "0.1"), NO_PRICE), at=MARCH)

    march = _invoice(books, "2026-03", "hours")

    assert march["lines"][-1] == {
        "kind": "correction", "corrects": "2026-01", **_line("input_tokens", "0", "-0.4"),
    }  # fmt: skip
    assert march["total"] == "0.10"


def test_the_unpriced_of_a_closed_month_stay_and_those_of_now_fall(books: Counted) -> None:
    """Its invoice is as complete as it was; every other report speaks of now."""
    books.correct(_first(TOKENS, PICTURES), at=MARCH)

    assert sum(row.unpriced for row in _sums(books, "2026-01", "hours")) == 1
    assert sum(lane.figures.unpriced for lane in _lanes(books, "2026-01")) == 0
    assert reports.unpriced_sums(books.store, org="acme", period=_period("2026-01"))[0].meter == ""


def test_a_correction_that_is_in_no_total_yet_is_on_no_invoice(books: Counted) -> None:
    """It is stored a moment before its total; in between, both months are as before."""
    before = [_invoice(books, month, "hours") for month in ("2026-01", "2026-03")]

    books.correct(_first(DEARER, PICTURES), at=AT_THE_CLOSE, with_totals=False)

    assert [_invoice(books, month, "hours") for month in ("2026-01", "2026-03")] == before


def test_an_invoice_is_read_again_when_a_correction_is_counted_meanwhile(
    books: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sums and what is taken back from them are of one moment."""
    closed = _invoice(books, "2026-01", "hours")
    plain = reports.invoice_sums
    runs = iter(["run-1"])

    def meanwhile(store: Store, **asked: Any) -> Any:
        for run in runs:
            books.correct(_first(DEARER, PICTURES), at=AT_THE_CLOSE, run=run)
        return plain(store, **asked)

    monkeypatch.setattr("clickhouse.corrections.invoice_sums", meanwhile)

    assert _invoice(books, "2026-01", "hours") == closed


def test_an_invoice_that_never_stands_still_is_refused(books: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence that says to ask again, after a bounded number of readings."""
    plain, count = reports.invoice_sums, iter(range(1_000))

    def meanwhile(store: Store, **asked: Any) -> Any:
        number = next(count)
        price = Line("input_tokens", "1000", f"0.{number + 6}")
        books.correct(_first(price, NO_PRICE), at=AT_THE_CLOSE, run=f"run-{number}")
        return plain(store, **asked)

    monkeypatch.setattr("clickhouse.corrections.invoice_sums", meanwhile)

    with pytest.raises(StoreUnavailable, match="ask again"):
        _invoice(books, "2026-01", "hours")


@pytest.mark.parametrize("page_events", [1, 2, 50_000])
def test_events_to_reprice_come_in_pages_each_once(
    books: Counted, monkeypatch: pytest.MonkeyPatch, page_events: int
) -> None:
    """As they cost now, within the period to the microsecond; only those without a price if asked."""
    monkeypatch.setattr("clickhouse.corrections.PAGE_EVENTS", page_events)
    books.correct(_first(DEARER, PICTURES))

    assert _to_reprice(books, Period(None, None)) == [("id-0", "priced"), ("id-1", "priced"), ("id-2", "priced")]
    assert _to_reprice(books, Period(JANUARY, JANUARY + timedelta(microseconds=1))) == [
        ("id-0", "priced"),
        ("id-1", "priced"),
    ]
    assert _to_reprice(books, Period(JANUARY + timedelta(microseconds=1), MARCH)) == []
    assert _to_reprice(books, Period(None, None), unpriced_only=True) == []
    assert [of.events for of in orgs_to_reprice(books.store, org="", period=Period(None, None))] == [3]
    assert orgs_to_reprice(books.store, org="zen", period=Period(None, None)) == []


def _first(*lines: Line) -> dict[str, Any]:
    """The first event of January with these lines."""
    return fact(*lines, time=JANUARY, offset=0, id="id-0")


def _period(text: str) -> Period:
    return parse_period(text, now=MARCH)


def _sums(books: Counted, month: str, shape: str) -> Any:
    period = _period(month)
    if shape == "facts":  # a span that no total answers
        assert period.end is not None
        period = Period(period.start, period.end - timedelta(microseconds=1))
    return invoice_with_corrections(books.store, org="acme", period=period, max_age=MAX_AGE)


def _invoice(books: Counted, month: str, shape: str) -> dict[str, Any]:
    own, corrections = settled(_sums(books, month, shape))
    return invoice([*own, *corrections])


def _lanes(books: Counted, month: str) -> Any:
    return reports.lanes(books.store, org="acme", by="project", period=_period(month))


def _line(meter: str, quantity: str, cost: str) -> dict[str, Any]:
    exact = Decimal(cost)
    return {
        "operation": "llm.request",
        "model": "gpt-4o-mini",
        "meter": meter,
        "quantity": quantity,
        "cost": f"{exact:.2f}",
        "exact_cost": f"{exact:.12f}",
    }


def _rows(books: Counted, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in books.store.rows(sql)]


def _to_reprice(books: Counted, period: Period, *, unpriced_only: bool = False) -> list[tuple[str, str]]:
    pages = events_to_reprice(books.store, org="acme", period=period, unpriced_only=unpriced_only, columns=REPRICEABLE)
    return [row for page in pages for row in page.sort("id").select("id", "pricing").rows()]

"""The invoice of a month whose book prices the month as a whole, on the real store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from clickhouse.catalog import write_revision
from clickhouse.reports import period_prices
from pipeline.catalog import load_catalog_file
from pipeline.periods import parse_period
from tests.reports.building import NOON, Line, fact
from tests.reports.conftest import tally_on

if TYPE_CHECKING:
    from clickhouse.client import Store
    from tests.commands.conftest import Tally
    from tests.reports.building import Counted

pytestmark = pytest.mark.servers

APRIL = datetime(2026, 4, 1, tzinfo=UTC)
BOOK = """\
price_book: standard
currency: USD
prices:
  - {operation: lookup, meter: requests, name: lookups, price: "0.05"}
period_prices: """
GRADUATED = (
    '\n  - {operation: lookup, meter: lookups, kind: graduated, tiers: [{up_to: 10, price: "0.05"}, {price: "0.04"}]}'
)
MINIMUM = "\n  - {operation: lookup, meter: lookups, org: acme, minimum: 500}"


def apply(store: Store, rows: str, *, revision: int, at: datetime, name: str = "standard") -> None:
    """A revision of a book, as `tally catalog apply` leaves it in the store."""
    book = load_catalog_file((BOOK + rows).replace("standard", name), filename="prices.yaml").price_book
    assert book is not None
    write_revision(store, book.model_copy(update={"revision": revision}), kind="price_book", applied_at=at)


def lookups(quantity: int, **said: Any) -> dict[str, Any]:
    """An event that looked up some things, at 0.05 each."""
    cost = str(Decimal("0.05") * quantity)
    line = Line("requests", str(quantity), cost, name="lookups")
    return fact(line, **{"operation": "lookup", "model": "", "provider": "", **said})


@pytest.fixture
def march(counted: Counted) -> Counted:
    """Twenty lookups in March by two projects and one in April; the graduated price was applied in February."""
    apply(counted.store, GRADUATED, revision=1, at=datetime(2026, 2, 1, tzinfo=UTC))
    counted.count(
        lookups(15),
        lookups(5, project="search", time=NOON + timedelta(days=20)),
        fact(Line("rows", "7", "7"), operation="lookup", model="", project="search"),
    )
    counted.count(lookups(1, time=APRIL))
    return counted


def invoice(tally: Tally, *, period: str = "2026-03", org: str = "acme") -> Any:
    """The invoice as a machine gets it."""
    answer = tally("report", "invoice", "--org", org, "--period", period, "--format", "json")
    assert answer.code == 0, answer.stderr
    return answer.json


def test_an_invoice_of_a_month_has_its_period_prices(march: Counted) -> None:
    """10 × 0.05 + 10 × 0.04, shared by quantity; what the events cost is said beside it, nothing is billed twice."""
    answer = invoice(tally_on(march.url))

    assert answer["quantities"] == {"lookups": "20", "rows": "7"}
    assert answer["lines"] == [
        {
            "operation": "lookup",
            "model": "",
            "meter": "rows",
            "quantity": "7",
            "cost": "7.00",
            "exact_cost": "7.000000000000",
        },
        {
            "operation": "lookup",
            "model": "",
            "meter": "lookups",
            "quantity": "20",
            "cost": "0.90",
            "exact_cost": "0.900000000000",
            "period_price": "standard@1:period:1",
        },
    ]
    assert answer["project_breakdown"] == [
        {"project": "search", "cost": "7.23", "exact_cost": "7.225000000000", "share": "0.914557"},
        {"project": "checkout", "cost": "0.67", "exact_cost": "0.675000000000", "share": "0.085443"},
    ]
    assert (answer["total"], answer["exact_total"]) == ("7.90", "7.900000000000")
    (pool,) = answer["period_prices"]
    assert (pool["per_event_cost"], pool["exact_cost"]) == ("1.000000000000", "0.900000000000")
    assert [(step["quantity"], step["exact_cost"]) for step in pool["steps"]] == [
        ("10", "0.500000000000"),
        ("10", "0.400000000000"),
    ]
    assert answer["completeness"]["events"] == 3


@pytest.mark.parametrize("period", ["2026-03-01", "total", "2026-03-01T00:00Z/2026-05-01T00:00Z"])
def test_other_spans_cost_what_their_events_cost(march: Counted, period: str) -> None:
    """A part of a month has no tiers; null says that period prices were left out."""
    answer = invoice(tally_on(march.url), period=period)

    assert answer["period_prices"] is None
    assert not [line for line in answer["lines"] if "period_price" in line]


def test_what_is_applied_after_a_month_never_changes_it(march: Counted) -> None:
    """Prices do not change behind one's back: the newest revision applied before the month's end stays in force."""
    tally = tally_on(march.url)
    before = invoice(tally)

    apply(march.store, GRADUATED.replace("0.04", "9"), revision=2, at=APRIL)
    apply(march.store, MINIMUM, revision=1, at=APRIL + timedelta(days=1), name="deal")

    assert invoice(tally) == before
    assert invoice(tally, period="2026-04")["total"] == "500.00"


def test_the_newest_revision_before_the_end_of_the_month_counts(march: Counted) -> None:
    """For the whole month; a revision without period prices ends them."""
    store = march.store
    apply(store, GRADUATED.replace("0.04", "0.03"), revision=2, at=APRIL - timedelta(microseconds=1))
    assert invoice(tally_on(march.url))["total"] == "7.80"

    apply(store, "[]", revision=3, at=APRIL - timedelta(microseconds=1))
    answer = invoice(tally_on(march.url))

    assert (answer["total"], answer["period_prices"]) == ("8.00", [])


def test_an_org_owes_its_own_minimum_without_any_use(march: Counted) -> None:
    """From the month on in which the agreement was applied; nobody else does."""
    apply(march.store, MINIMUM, revision=1, at=datetime(2026, 3, 5, tzinfo=UTC), name="deal")
    tally = tally_on(march.url)

    used, unused = invoice(tally), invoice(tally, period="2026-05")

    assert used["total"] == "507.00"  # the org's own row is more specific than the graduated one
    assert [step["step"] for step in used["period_prices"][0]["steps"]] == ["events", "minimum"]
    assert unused["lines"][0] == {
        "operation": "lookup",
        "model": "",
        "meter": "lookups",
        "quantity": "0",
        "cost": "500.00",
        "exact_cost": "500.000000000000",
        "period_price": "deal@1:period:1",
    }
    assert unused["project_breakdown"] == [
        {"project": "", "cost": "500.00", "exact_cost": "500.000000000000", "share": "1.000000"}
    ]
    assert unused["completeness"]["events"] == 0
    assert invoice(tally, org="umbrella")["total"] == "0.00"


def test_a_table_shows_the_steps(march: Counted) -> None:
    """So that a person sees why a line costs what it costs."""
    tally = tally_on(march.url)
    month = tally("report", "invoice", "--org", "acme", "--period", "2026-03", "--format", "table").stdout
    day = tally("report", "invoice", "--org", "acme", "--period", "2026-03-01", "--format", "table").stdout

    assert "tier 2" in month
    assert "0.400000000000" in month
    assert "Period prices hold for whole months" in day
    assert "tier 2" not in day


def test_ids_name_book_revision_and_row(counted: Counted) -> None:
    """In the order of books and rows; a book of which nothing is known before the end has none."""
    apply(counted.store, GRADUATED + MINIMUM, revision=4, at=NOON)
    apply(counted.store, MINIMUM, revision=1, at=NOON, name="deal")
    february, march = (parse_period(text, now=NOON) for text in ("2026-02", "2026-03"))

    assert [row.id for row in period_prices(counted.store, period=march)] == [
        *("deal@1:period:1", "standard@4:period:1", "standard@4:period:2"),
    ]
    assert period_prices(counted.store, period=february) == []

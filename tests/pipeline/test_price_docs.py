"""The manual of prices cannot lie: its books are loaded, its tables are priced, its refusals are provoked."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline.catalog import load_catalog_file
from pipeline.period_price import Cell, costs_of_month
from pipeline.pricing.scalar import ScalarEvent, price_event
from pipeline.report import money, whole
from schemas.catalog_file import CatalogError
from schemas.currencies import CURRENCIES
from schemas.frames import LINE_STATES
from schemas.period_prices import PERIOD_TIERS_MAX, PeriodPrice, PeriodTier, with_ids
from schemas.price_book import PRICES_MAX, TIERS_MAX, Adjustment, Price, PriceBook, Variant

ROOT = Path(__file__).parents[2]
MANUAL = (ROOT / "docs" / "prices.md").read_text(encoding="utf-8")
_PERIODS = re.compile(
    r"^## Period prices\n.*?```yaml\n(.*?)```\n\n\| org \|.*?\n.*?\n(.*?)\n\n", re.DOTALL | re.MULTILINE
)
_PART = re.compile(r"```(yaml|text)\n(.*?)```|^(\| event \|.*?)\n\n", re.DOTALL | re.MULTILINE)


class Row(NamedTuple):
    """A line of a table: an event, and what the book above makes of it."""

    book: str
    event: str
    cost: str
    pricing: str


def parts() -> list[tuple[str, str, str]]:
    """The books of the manual, each with what follows it: a table of events, or the text of a refusal."""
    found, book = [], ""
    for match in _PART.finditer(MANUAL):
        kind, block, table = match.groups()
        if kind == "yaml":
            book = block
        else:
            found.append((book, kind or "table", block or table))
    return found


def rows() -> list[Row]:
    """All lines of all tables of events."""
    lines = [(book, line) for book, kind, text in parts() if kind == "table" for line in text.splitlines()[2:]]
    return [Row(book, *(cell.strip(" `") for cell in line.strip("|").split("|"))) for book, line in lines]


def refusals() -> list[tuple[str, str]]:
    """Books that are refused, with what is said about them."""
    return [(book, text) for book, kind, text in parts() if kind == "text"]


def load(text: str) -> PriceBook:
    """The price book of a file that is right."""
    book = load_catalog_file(text, filename="prices.yaml").price_book
    assert book is not None
    return book


def read_event(text: str) -> ScalarEvent:
    """An event of which the manual says only the interesting fields."""
    fields: dict[str, Any] = json.loads(text)
    usage = {meter: Decimal(str(quantity)) for meter, quantity in fields.pop("usage", {}).items()}
    time = datetime.fromisoformat(fields.pop("time", "2026-03-01T12:00:00+00:00")).astimezone(UTC)
    ordinary = {"org": "umbrella", "operation": "llm.request", "provider": "", "model": "", "status": "ok"}
    return ScalarEvent(**(ordinary | fields), time=time, usage=usage)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.event)
def test_the_tables_of_the_manual_show_what_happens(row: Row) -> None:
    """Each event costs what stands beside it."""
    priced = price_event(read_event(row.event), books=[load(row.book)])

    assert ("null" if priced.cost is None else f"{priced.cost:f}", priced.pricing) == (row.cost, row.pricing)


@pytest.mark.parametrize(("book", "said"), refusals())
def test_the_refusals_of_the_manual_are_what_is_said(book: str, said: str) -> None:
    """Word by word, with line and column."""
    with pytest.raises(CatalogError) as refused:
        load(book)

    assert str(refused.value).splitlines() == said.splitlines()


def test_the_table_of_period_prices_shows_what_happens() -> None:
    """Each quantity of a month comes to what stands beside it."""
    found = _PERIODS.search(MANUAL)
    assert found is not None
    prices = with_ids("standard", 1, load(found[1]).period_prices)
    shown = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in found[2].splitlines()]
    operations = {price.meter: price.operation for _, price in prices}

    assert len(shown) == 8
    for org, line, quantity, cost in shown:
        cell = Cell(operations[line], "", line, whole(Decimal(quantity)), cost=0)
        (costs, _) = costs_of_month([cell], rows=prices, org=org, month="2026-03")
        assert [money(units) for units in costs] == [cost], (org, line, quantity)


def test_the_manual_has_examples_at_all() -> None:
    """A reader of Markdown that finds nothing would make the other tests empty."""
    assert (len(rows()), len(refusals())) == (41, 2)


def test_the_manual_names_every_key_state_and_limit() -> None:
    """What can be written is explained."""
    models = (Price, PeriodPrice, PeriodTier, Adjustment, Variant)
    names = [field.alias or name for model in models for name, field in model.model_fields.items()]

    for name in [
        *names,
        "price_book",
        "currency",
        "prices",
        "period_prices",
        "adjustments",
        "provider_aliases",
        "ignore",
        "priced",
        "free",
        "unpriced",
        *LINE_STATES,
    ]:
        assert f"`{name}`" in MANUAL, name
    assert f"at most {PRICES_MAX:,}" in MANUAL
    assert f"up to {TIERS_MAX}" in MANUAL
    assert f"up to {PERIOD_TIERS_MAX}, ascending" in MANUAL


def test_the_example_book_is_right_and_says_that_it_is_an_example() -> None:
    """It can be applied as it is, and nobody should bill by it."""
    text = (ROOT / "examples" / "prices.yaml").read_text(encoding="utf-8")
    book = load(text)
    lookups = ScalarEvent("umbrella", "lookup", "", "", "ok", datetime(2026, 3, 1, tzinfo=UTC), {})

    assert text.startswith("# EXAMPLE DATA.")
    assert price_event(lookups, books=[book]).cost == Decimal("0.0415")
    assert {price.operation for price in book.prices} >= {"llm.request", "lookup", "report_job", "training_job"}


def test_currencies_are_codes_of_three_capital_letters() -> None:
    """And no metals, funds, test codes or "no currency" among them."""
    assert all(re.fullmatch("[A-Z]{3}", code) for code in CURRENCIES)
    assert not CURRENCIES & {"XAU", "XAG", "XXX", "XTS", "XDR", "CHE", "CLF"}
    assert {"USD", "EUR", "JPY", "GBP", "INR"} <= CURRENCIES

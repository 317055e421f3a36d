"""Prices a batch: every quantity by the price that applied when the event happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from pipeline.price_scalar import ScalarEvent, price_event
from schemas.catalog_file import check_in_force
from schemas.frames import KINDS, LINES, PRICED_EVENTS, PricedBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.price_book import PriceBook


@dataclass(frozen=True, slots=True)
class CompiledCatalog:
    """The price books in force, made ready for pricing."""

    books: tuple[PriceBook, ...]


def compile_catalog(books: Sequence[PriceBook]) -> CompiledCatalog:
    """Gives the books in force in the form that ``price`` works with.

    Raises:
        CatalogError: the books contradict each other.
    """
    check_in_force(books)
    return CompiledCatalog(tuple(books))


def price(events: pl.DataFrame, usage: pl.DataFrame, *, book: CompiledCatalog) -> PricedBatch:
    """Gives the events with cost and pricing, and one line per quantity."""
    usages: list[dict[str, object]] = [{} for _ in range(events.height)]
    for row, meter, quantity in usage.iter_rows():
        usages[row][meter] = quantity
    costs, pricings, lines = [], [], []
    kinds: dict[tuple[str, str, str, str], int] = {}
    for row, event in enumerate(events.iter_rows(named=True)):
        names = ("org", "operation", "provider", "model", "status", "time")
        priced = price_event(ScalarEvent(**{n: event[n] for n in names}, usage=usages[row]), books=book.books)
        costs.append(priced.cost)
        pricings.append(priced.pricing)
        for line in priced.lines:
            kind = kinds.setdefault((line.meter, line.name, line.price_id, line.state), len(kinds))
            lines.append((row, kind, line.quantity, line.cost))
    return PricedBatch(
        events=events.with_columns(
            pl.Series("cost", costs, dtype=PRICED_EVENTS["cost"]), pl.Series("pricing", pricings, dtype=pl.String)
        ),
        lines=pl.DataFrame(lines, schema=LINES, orient="row"),
        kinds=pl.DataFrame([(number, *kind) for kind, number in kinds.items()], schema=KINDS, orient="row"),
    )

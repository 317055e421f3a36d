"""Every revision of every price book and rule set, in the store: what was applied stays readable for ever.

A revision's rows are a function of its content and its instant, so writing them again changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from schemas.price_book import PriceBook, canonical_json

if TYPE_CHECKING:
    from datetime import datetime

    from clickhouse.client import Store
    from schemas.rules import RuleSet

_INSTANT: Final = pa.timestamp("us", tz="UTC")
_MONEY: Final = pa.decimal128(38, 12)

CATALOG_ROWS: Final = pa.schema(
    [
        ("name", pa.string()),
        ("revision", pa.uint32()),
        ("kind", pa.string()),
        ("applied_at", _INSTANT),
        ("body", pa.string()),
    ]
)
PRICE_ROWS: Final = pa.schema(
    [
        ("book", pa.string()),
        ("revision", pa.uint32()),
        ("row", pa.uint32()),
        ("price_id", pa.string()),
        ("applied_at", _INSTANT),
        ("currency", pa.string()),
        ("org", pa.string()),
        ("operation", pa.string()),
        ("provider", pa.string()),
        ("model", pa.string()),
        ("variant", pa.string()),
        ("meter", pa.string()),
        ("name", pa.string()),
        ("price", _MONEY),
        ("per", _MONEY),
        ("valid_from", _INSTANT),
        ("valid_until", _INSTANT),
        ("bill", pa.string()),
        ("body", pa.string()),
    ]
)

ADJUSTMENT_ROWS: Final = pa.schema(
    [
        ("book", pa.string()),
        ("revision", pa.uint32()),
        ("row", pa.uint32()),
        ("adjustment_id", pa.string()),
        ("applied_at", _INSTANT),
        ("org", pa.string()),
        ("operation", pa.string()),
        ("provider", pa.string()),
        ("model", pa.string()),
        ("variant", pa.string()),
        ("meter", pa.string()),
        ("multiplier", _MONEY),
        ("valid_from", _INSTANT),
        ("valid_until", _INSTANT),
        ("body", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class StoredRevision:
    """One revision as the store has it; ``body`` is the JSON of the book or the set."""

    name: str
    revision: int
    kind: str
    applied_at: datetime
    body: str


def write_revision(store: Store, content: PriceBook | RuleSet, *, kind: str, applied_at: datetime) -> None:
    """Stores one applied revision with its prices and adjustments; twice changes nothing."""
    if isinstance(content, PriceBook) and content.prices:
        store.insert("price_rows", _price_rows(content, applied_at))
    if isinstance(content, PriceBook) and content.adjustments:
        store.insert("adjustment_rows", _adjustment_rows(content, applied_at))
    row = {
        "name": content.name,
        "revision": content.revision,
        "kind": kind,
        "applied_at": applied_at,
        "body": content.to_json(),
    }
    store.insert("catalog_rows", pa.Table.from_pylist([row], schema=CATALOG_ROWS))


def _price_rows(book: PriceBook, applied_at: datetime) -> pa.Table:
    rows = [
        {
            "book": book.name,
            "revision": book.revision,
            "row": place + 1,
            "price_id": book.price_id(place),
            "applied_at": applied_at,
            "currency": book.currency,
            "org": price.org,
            "operation": price.operation,
            "provider": price.provider,
            "model": price.model,
            "variant": price.variant.text,
            "meter": price.meter,
            "name": price.invoice_name,
            "price": price.price,
            "per": price.per,
            "valid_from": price.from_,
            "valid_until": price.until,
            "bill": price.bill,
            "body": canonical_json(price.content()),
        }
        for place, price in enumerate(book.prices)
    ]
    return pa.Table.from_pylist(rows, schema=PRICE_ROWS)


def _adjustment_rows(book: PriceBook, applied_at: datetime) -> pa.Table:
    rows = [
        {
            "book": book.name,
            "revision": book.revision,
            "row": place + 1,
            "adjustment_id": book.adjustment_id(place),
            "applied_at": applied_at,
            "org": entry.org,
            "operation": entry.operation,
            "provider": entry.provider,
            "model": entry.model,
            "variant": entry.variant.text,
            "meter": entry.meter,
            "multiplier": entry.multiplier,
            "valid_from": entry.from_,
            "valid_until": entry.until,
            "body": canonical_json(entry.content()),
        }
        for place, entry in enumerate(book.adjustments)
    ]
    return pa.Table.from_pylist(rows, schema=ADJUSTMENT_ROWS)


def newest_revisions(store: Store) -> dict[str, StoredRevision]:
    """The newest revision of every name that was ever stored."""
    sql = """
        SELECT name, revision, kind, applied_at, body
        FROM catalog_rows FINAL
        ORDER BY name, revision DESC
        LIMIT 1 BY name
    """
    return {row["name"]: StoredRevision(**row) for row in store.rows(sql)}


def books_in_force(store: Store) -> list[PriceBook]:
    """The newest revision of every price book, by name."""
    found = newest_revisions(store).values()
    return [PriceBook.from_json(revision.body) for revision in found if revision.kind == "price_book"]


def stored_revision(store: Store, name: str, *, revision: int) -> StoredRevision | None:
    """One revision, or None when there never was one."""
    sql = """
        SELECT name, revision, kind, applied_at, body
        FROM catalog_rows FINAL
        WHERE name = {name:String} AND revision = {revision:UInt32}
    """
    rows = store.rows(sql, {"name": name, "revision": revision})
    return StoredRevision(**rows[0]) if rows else None

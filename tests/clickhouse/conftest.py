"""A migrated database for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clickhouse.client import Store, parse_store_url
from clickhouse.migrate import migrate_store

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def clickhouse(database: str) -> Iterator[Store]:
    """A connection to a migrated database of one's own."""
    store = Store(parse_store_url(database))
    migrate_store(store)
    yield store
    store.close()

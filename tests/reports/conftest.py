"""A migrated database of the real engine, facts counted into it, and the command line on it."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import pytest

from clickhouse.client import Store, parse_store_url
from clickhouse.migrate import create_database, migrate_store
from tests.commands.conftest import Tally
from tests.reports.building import Counted

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def counted(database: str) -> Iterator[Counted]:
    """An empty, migrated database into which facts can be counted."""
    with _counted(database) as empty:
        yield empty


@pytest.fixture(scope="module")
def read_only(store: str, request: pytest.FixtureRequest) -> Iterator[Counted]:
    """The same, once for all tests of a file that only read what its fixture counts."""
    name = request.module.__name__.rpartition(".")[2]
    url = urlunsplit(urlsplit(store)._replace(path=f"/{name}"))
    create_database(parse_store_url(url))
    with _counted(url) as empty:
        yield empty
        empty.store.command(f"DROP DATABASE {name} SYNC")


@contextmanager
def _counted(url: str) -> Iterator[Counted]:
    with closing(Store(parse_store_url(url))) as store:
        migrate_store(store)
        yield Counted(store, url=url)


@pytest.fixture
def tally(database: str) -> Tally:
    """The command line on a database of one's own; nothing listens where Kafka should be."""
    return tally_on(database)


def tally_on(url: str) -> Tally:
    """The command line on a database; nothing listens where Kafka should be."""
    return Tally({"TALLY_STORE_URL": url, "TALLY_KAFKA_BOOTSTRAP": "127.0.0.1:9"})

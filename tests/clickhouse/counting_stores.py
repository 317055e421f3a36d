"""One protocol for the two stores that counting may run on, so that one suite can hold both to the same behaviour."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from clickhouse import corrections, counting
from pipeline.correct import InsertCorrections
from tests.pipeline.oracle import found

if TYPE_CHECKING:
    from datetime import timedelta

    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from clickhouse.client import Store
    from pipeline.memory_store import MemoryStore
    from schemas.frames import PricedBatch
    from tests.pipeline.oracle import Books


class CountingStore(Protocol):
    """What counting asks and writes, and what a reader sees afterwards."""

    def identities_before(
        self, *, partition: int, before: int, horizon: timedelta, limit: int
    ) -> tuple[NDArray[np.uint64], int]:
        """Hashes of facts, and the block from which on they are complete."""

    def known_facts(
        self,
        *,
        partition: int,
        before: int,
        hashes: NDArray[np.uint64],
        orgs: pl.Series,
        times: pl.Series,
        settled_since: datetime,
    ) -> pl.DataFrame:
        """KNOWN."""

    def totals_before(self, *, partition: int, before: int, pairs: pl.DataFrame) -> pl.DataFrame:
        """TOTALS."""

    def states_before(
        self, *, partition: int, before: int, hashes: NDArray[np.uint64], orgs: pl.Series, times: pl.Series
    ) -> pl.DataFrame:
        """STATES."""

    def insert_corrections(self, rows: pl.DataFrame) -> None:
        """CORRECTIONS."""

    def newest_block(self, *, partition: int) -> int | None:
        """The highest block that left a fact."""

    def insert_facts(self, facts: PricedBatch, hashes: NDArray[np.uint64]) -> None:
        """Facts."""

    def insert_repeats(self, repeats: pl.DataFrame) -> None:
        """REPEATS."""

    def insert_totals(self, totals: pl.DataFrame) -> None:
        """TOTALS."""

    def books(self) -> Books:
        """What a reader sees."""


class InMemory:
    """The model."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.known_facts = store.known_facts
        self.totals_before = store.totals_before
        self.newest_block = store.newest_block
        self.states_before = store.states_before
        self.insert_facts = store.insert_facts
        self.insert_repeats = store.insert_repeats
        self.insert_totals = store.insert_totals

    def insert_corrections(self, rows: pl.DataFrame) -> None:
        """Corrections."""
        self._store.carry_out(InsertCorrections(rows))

    def identities_before(
        self, *, partition: int, before: int, horizon: timedelta, limit: int
    ) -> tuple[NDArray[np.uint64], int]:
        """Without the time since which they are complete."""
        return self._store.identities_before(partition=partition, before=before, horizon=horizon, limit=limit)[:2]

    def books(self) -> Books:
        """What a reader sees."""
        store = self._store
        return found(
            store.facts_now(), store.totals_rows.rows(), store.repeats_rows.rows(), store.corrections_rows.rows()
        )


class InClickHouse:
    """The real store, migrated."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def identities_before(
        self, *, partition: int, before: int, horizon: timedelta, limit: int
    ) -> tuple[NDArray[np.uint64], int]:
        """As the count agent asks it."""
        answer = counting.identities_before(
            self._store, partition=partition, before=before, horizon=horizon, limit=limit
        )
        return answer[0], answer[1]

    def known_facts(self, **question: Any) -> pl.DataFrame:
        """As the count agent asks it."""
        return counting.known_facts(self._store, **question)

    def states_before(self, **question: Any) -> pl.DataFrame:
        """As the count agent asks it."""
        return corrections.states_before(self._store, **question)

    def insert_corrections(self, rows: pl.DataFrame) -> None:
        """As the count agent writes them."""
        corrections.insert_corrections(self._store, rows)

    def totals_before(self, **question: Any) -> pl.DataFrame:
        """As the count agent asks it."""
        return counting.totals_before(self._store, **question)

    def newest_block(self, *, partition: int) -> int | None:
        """As the count agent asks it."""
        return counting.newest_block(self._store, partition=partition)

    def insert_facts(self, facts: PricedBatch, hashes: NDArray[np.uint64]) -> None:
        """As the count agent writes them."""
        counting.insert_facts(self._store, facts, hashes)

    def insert_repeats(self, repeats: pl.DataFrame) -> None:
        """As the count agent writes them."""
        counting.insert_rows(self._store, "duplicates_rows", repeats)

    def insert_totals(self, totals: pl.DataFrame) -> None:
        """As the count agent writes them."""
        counting.insert_totals(self._store, totals)

    def books(self) -> Books:
        """What the public views and the tables under them show."""
        totals = "SELECT *, toDateTime64(hour, 6, 'UTC') AS hour FROM totals_rows FINAL"
        return found(
            self._rows("SELECT * FROM facts"), self._rows(totals), self._rows(_REPEATS), self._rows(_CORRECTIONS)
        )

    def _rows(self, sql: str) -> list[dict[str, Any]]:
        return [{name: _in_utc(value) for name, value in row.items()} for row in self._store.rows(sql)]


_CORRECTIONS = "SELECT * FROM corrections_rows FINAL"
_REPEATS = "SELECT * FROM duplicates_rows FINAL"


def _in_utc(value: Any) -> Any:
    """All instants of the store are UTC; the client hands them over without a zone."""
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value

"""The price agent: raw records in, blocks of priced events by org out; refusals stored and published.

    chunks of usage.events → decode → price → route → usage.priced, awaited in order → refusals, awaited → ack

Killed anywhere, it reads the same records again and may produce a block twice; the first in the log wins.
"""

from __future__ import annotations

import asyncio
import time
from itertools import repeat
from typing import TYPE_CHECKING, Any

import structlog

from agents.rejects import reject_messages, reject_rows
from agents.retrying import until_done
from clickhouse.client import Store
from clickhouse.counting import insert_rows
from pipeline.decode import decode
from pipeline.price import compile_catalog, price
from pipeline.route import route
from schemas.records import RawRecords

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from agents.catalog_follower import CatalogFollower
    from agents.chunks import Chunk
    from agents.metrics import Metrics
    from agents.publishing import Publisher
    from agents.wiring import Wiring
    from pipeline.price import CompiledCatalog
    from schemas.rejects import Reject

log = structlog.get_logger()


class PriceAgent:
    """Works off batches of raw chunks."""

    def __init__(
        self,
        wiring: Wiring,
        *,
        publisher: Publisher,
        catalog: CatalogFollower,
        metrics: Metrics,
        should_stop: Callable[[], bool],
    ) -> None:
        self._wiring = wiring
        self._publisher = publisher
        self._catalog = catalog
        self._metrics = metrics
        self._should_stop = should_stop
        self._store: Store | None = None
        self._partitions = 0
        self._compiled: tuple[Any, CompiledCatalog] | None = None

    async def work(self, chunks: list[Chunk]) -> None:
        """Prices the records of these chunks. Returns when everything that came of them is acknowledged."""
        started = time.monotonic()
        # Read after the records were: a book applied before a record was sent is in force for it.
        catalog = await self._in_force()
        if not self._partitions:
            self._partitions = await self._retry(
                lambda: self._publisher.partition_count(self._wiring.topics.priced), what="usage.priced"
            )
        blocks, rejects, events = await asyncio.to_thread(self._decide, chunks, catalog)
        await self._publisher.send_in_order(
            self._wiring.topics.priced, blocks, retry=lambda send: self._retry(send, what="usage.priced")
        )
        if rejects:
            await self._refuse(rejects)
        log.info(
            "batch_priced",
            records=sum(len(chunk.records) for chunk in chunks),
            events=events,
            rejected=len(rejects),
            blocks=len(blocks),
            duration_seconds=round(time.monotonic() - started, 3),
        )

    def _decide(
        self, chunks: list[Chunk], catalog: CompiledCatalog
    ) -> tuple[list[tuple[int, bytes]], list[Reject], int]:
        topic = self._wiring.topics.events
        cpu = time.thread_time()
        decoded = decode(raw_records(topic, chunks), limits=self._wiring.event_limits)
        cpu = self._spent("decode", cpu)
        priced = price(decoded.events, decoded.usage, book=catalog)
        cpu = self._spent("price", cpu)
        blocks = route(priced, partitions=self._partitions, topic=topic, block_bytes_max=self._wiring.block_bytes_max)
        self._spent("route", cpu)
        return blocks, decoded.rejects, decoded.events.height

    def _spent(self, step: str, since: float) -> float:
        now = time.thread_time()
        self._metrics.step_cpu.labels(step).inc(now - since)
        return now

    async def _refuse(self, rejects: Sequence[Reject]) -> None:
        rows = reject_rows(rejects)
        await self._retry(lambda: asyncio.to_thread(self._insert, rows), what="rejected_rows")
        await self._publisher.send_keyed(
            self._wiring.topics.rejected,
            reject_messages(rejects),
            retry=lambda send: self._retry(send, what="usage.rejected"),
        )
        self._metrics.events.labels("rejected").inc(len(rejects))
        for reject in rejects:
            self._metrics.rejected.labels(reject.reason.value).inc()

    def _insert(self, rows: Any) -> None:
        if self._store is None:
            self._store = Store(self._wiring.store)
        with self._metrics.store_insert_seconds.time():
            insert_rows(self._store, "rejected_rows", rows)

    async def _in_force(self) -> CompiledCatalog:
        books = await self._retry(self._catalog.current, what="usage.catalog")
        if self._compiled is None or self._compiled[0] is not books:
            self._compiled = (books, compile_catalog(books))
            log.info("catalog_in_force", books={book.name: book.revision for book in books})
        return self._compiled[1]

    async def _retry(self, action: Callable[[], Awaitable[Any]], *, what: str) -> Any:
        return await until_done(action, what=what, should_stop=self._should_stop, metrics=self._metrics)


def raw_records(topic: str, chunks: Sequence[Chunk]) -> RawRecords:
    """The records of these chunks by raw partition, those of one partition as they came.

    So the events of a block stand in the order of their raw coordinates, which is all that the store knows of it: what
    is asked of the store by place in the log is what was judged event by event.
    """
    in_order = sorted(chunks, key=lambda chunk: chunk.tp.partition)
    records = [record for chunk in in_order for record in chunk.records]
    return RawRecords(
        topic,
        [partition for chunk in in_order for partition in repeat(chunk.tp.partition, len(chunk.records))],
        [record.offset for record in records],
        [record.timestamp for record in records],
        [record.value for record in records],
        [record.headers for record in records],
    )

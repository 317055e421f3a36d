"""Replay: the specification of the whole pipeline in executable form, without Kafka and without ClickHouse.

It runs the same stages as the agents over raw records, on an ideal log: blocks stand in ``usage.priced`` in the order
in which the records are given, each once. What it hands back is what the running system must arrive at from that log,
whatever was killed, repeated or delayed on the way; ``docs/exactness.md`` says why, and the tests hold both to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from pipeline.block import Block
from pipeline.conflicts import conflict_reject
from pipeline.count import CountLimits, PartitionState, count, fresh
from pipeline.decode import decode
from pipeline.memory_store import MemoryStore, as_state
from pipeline.price import compile_catalog, price
from pipeline.reprice import REPRICEABLE, reprice
from pipeline.route import route
from schemas.correction import Correction

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

    from pipeline.count import Counted, Step
    from pipeline.decode import Limits
    from schemas.alerting import InForce
    from schemas.price_book import PriceBook
    from schemas.records import RawRecord
    from schemas.rejects import Reject

#: How many records are priced, and how many blocks are counted, in one go: the outcome does not depend on it.
RECORDS_PER_BATCH: Final = 10_000
BLOCKS_PER_RUN: Final = 16
BLOCK_BYTES_MAX: Final = 4 * 1024 * 1024

_LONG_AGO: Final = "1970-01-01T00:00:00Z"

Log = dict[int, list[Block]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a log.

    ``facts``, ``totals``, ``repeats`` and ``alerts`` are those of ``MemoryStore``; ``rejects`` are all refusals,
    conflicts among them, by raw coordinates. Where blocks were cut (``block``, ``version``, ``recorded_at``) is no
    part of the promise.
    """

    facts: pl.DataFrame
    totals: pl.DataFrame
    repeats: pl.DataFrame
    rejects: list[Reject]
    alerts: pl.DataFrame


def replay(  # noqa: PLR0913 -- all that the outcome depends on
    records: Sequence[RawRecord],
    *,
    books: Sequence[PriceBook],
    partitions: int,
    limits: Limits,
    count_limits: CountLimits,
    rules: InForce | None = None,
    restated_by: Sequence[PriceBook] = (),
) -> Outcome:
    """What these records come to.

    Args:
        records: of ``usage.events`` in the order in which they are priced; those of one raw partition ascend.
        books: the price books in force, for all of the records.
        partitions: of ``usage.priced``.
        limits: how far an event's time may lie from its record's.
        count_limits: the dedupe horizon, and what memory may hold; only the horizon changes the outcome.
        rules: what is in force from the first block on; without it nothing is alerted.
        restated_by: books by which all of it is restated at the end, as `tally reprice` does.
    """
    log, rejects = priced_log(records, books=books, partitions=partitions, limits=limits, rules=rules)
    store = MemoryStore()
    for partition, blocks in log.items():
        state = fresh(partition, next_block=0, limits=count_limits)
        state = _counted(state, blocks, store=store, limits=count_limits)
        if restated_by:
            own = corrections_of(store, books=restated_by, partition=partition, next_block=state.next_block)
            _counted(state, own, store=store, limits=count_limits)
    repeats = store.repeats()
    rejects = [*rejects, *_conflicts(repeats, records)]
    return Outcome(store.facts(), store.totals(), repeats, sorted(rejects, key=_coordinates), store.alerts())


def priced_log(
    records: Sequence[RawRecord],
    *,
    books: Sequence[PriceBook],
    partitions: int,
    limits: Limits,
    rules: InForce | None = None,
) -> tuple[Log, list[Reject]]:
    """The blocks of ``usage.priced`` by partition, each as old as its newest record, and what was refused before.

    With ``rules`` every partition begins with a control block that puts them into force.
    """
    catalog = compile_catalog(books)
    log: Log = {}
    if rules is not None:
        control = rules.to_json().encode()
        log = {partition: [Block(partition, 0, 0, control, control=True)] for partition in range(partitions)}
    rejects: list[Reject] = []
    for start in range(0, len(records), RECORDS_PER_BATCH):
        batch = records[start : start + RECORDS_PER_BATCH]
        decoded = decode(batch, limits=limits)
        rejects.extend(decoded.rejects)
        priced = price(decoded.events, decoded.usage, book=catalog)
        timestamp_ms = max(record.timestamp_ms for record in batch)
        topic = batch[0].topic
        for partition, value in route(priced, partitions=partitions, topic=topic, block_bytes_max=BLOCK_BYTES_MAX):
            blocks = log.setdefault(partition, [])
            blocks.append(Block(partition, len(blocks), timestamp_ms, value))
    return log, rejects


def _counted(
    state: PartitionState, blocks: Sequence[Block], *, store: MemoryStore, limits: CountLimits
) -> PartitionState:
    for start in range(0, len(blocks), BLOCKS_PER_RUN):
        state, _ = carry_out(count(state, blocks[start : start + BLOCKS_PER_RUN], limits=limits), store=store)
    return state


def corrections_of(store: MemoryStore, *, books: Sequence[PriceBook], partition: int, next_block: int) -> list[Block]:
    """The correction blocks by which `tally reprice` restates all facts of a partition, from ``next_block`` on."""
    facts = [fact for fact in store.facts_now() if fact["block_partition"] == partition]
    if not facts:
        return []
    repriced = reprice(store.frame(map(as_state, facts), REPRICEABLE), book=compile_catalog(books))
    header = Correction(run="replay", books=", ".join(book.name for book in books), requested_at=_LONG_AGO).to_header()
    messages = [
        message
        for topic, batch in repriced.changed.items()
        for _, message in route(batch, partitions=1, topic=topic, block_bytes_max=BLOCK_BYTES_MAX)
    ]
    return [Block(partition, next_block + at, 0, message, correction=header) for at, message in enumerate(messages)]


def carry_out(
    run: Generator[Step, Any, tuple[PartitionState, Counted]], *, store: MemoryStore
) -> tuple[PartitionState, Counted]:
    """Carries out every step of ``count`` on the store, and gives what it returns."""
    answer: Any = None
    while True:
        try:
            step = run.send(answer)
        except StopIteration as stop:
            result: tuple[PartitionState, Counted] = stop.value
            return result
        answer = store.carry_out(step)


def _conflicts(repeats: pl.DataFrame, records: Iterable[RawRecord]) -> list[Reject]:
    conflicts = repeats.filter(pl.col("kind") == "conflict")
    places = {(record.partition, record.offset): record for record in records} if conflicts.height else {}
    return [
        conflict_reject(conflict, record=_record_of(conflict, places)) for conflict in conflicts.iter_rows(named=True)
    ]


def _record_of(conflict: Mapping[str, Any], places: Mapping[tuple[int, int], RawRecord]) -> RawRecord | None:
    return places.get((conflict["partition"], conflict["offset"]))


def _coordinates(reject: Reject) -> tuple[str, int, int, int]:
    return reject.topic, reject.partition, reject.offset, reject.index

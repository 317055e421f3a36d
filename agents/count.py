"""The count agent: blocks in, facts and totals out, each event once.

It carries out the steps of ``pipeline/count.py`` in their order and decides nothing itself. The partitions of a batch
go through the steps side by side, so that each step is one insert:

    chunks of usage.priced → (restore) → dedupe → facts → repeats → conflicts → alerts → totals → swap memory → ack
    control blocks → what is in force → alerts; correction blocks → corrections → totals
"""

from __future__ import annotations

import asyncio
import functools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import structlog

from agents.answers import answer as answer_of
from agents.chunks import REVOKE_WAIT_SECONDS
from agents.rejects import reject_messages, reject_rows
from agents.retrying import until_done
from clickhouse.client import Store
from clickhouse.corrections import insert_corrections
from clickhouse.counting import insert_facts, insert_rows, insert_totals, newest_block
from pipeline.block import CONTROL_HEADER, CORRECTION_HEADER, Block, merge
from pipeline.conflicts import conflict_reject
from pipeline.correct import InsertCorrections
from pipeline.count import (
    WRITES,
    Counted,
    InsertFacts,
    InsertRepeats,
    InsertTotals,
    PartitionState,
    PublishConflicts,
    Question,
    count,
    fresh,
)
from pipeline.judging.alerts import alert_messages, latest_by_id
from pipeline.judging.steps import AskAlerts, InsertAlerts, InsertControls, PublishAlerts
from schemas.errors import LogBroken

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Generator, Sequence

    from agents.chunks import Chunk
    from agents.metrics import Metrics
    from agents.publishing import Publisher
    from agents.raw_log import RawLog
    from agents.wiring import Wiring
    from pipeline.count import Step

log = structlog.get_logger()

LATE_SECONDS = 3_600
#: No block has this number: asked before it, the store answers for all that there are.
NO_BLOCK = 2**63
#: So many alerts are written out and on their way at a time.
ALERTS_AT_ONCE = 2_000


@dataclass(slots=True)
class _Run:
    """One partition's way through the steps: its generator, and the write it waits for, or what came out."""

    partition: int
    steps: Generator[Step, Any, tuple[PartitionState, Counted]]
    pending: Step | None = None
    result: tuple[PartitionState, Counted] | None = None


class CountAgent:
    """Works off batches of priced chunks; owns the memory of the partitions that this worker counts."""

    def __init__(  # noqa: PLR0913 -- everything it touches is handed in
        self,
        wiring: Wiring,
        *,
        publisher: Publisher,
        raw_log: RawLog,
        metrics: Metrics,
        should_stop: Callable[[], bool],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._wiring = wiring
        self._publisher = publisher
        self._raw_log = raw_log
        self._metrics = metrics
        self._should_stop = should_stop
        self._now = now
        self._began = 0.0
        self._states: dict[int, PartitionState] = {}
        self._idle_stores: list[Store] = []

    async def work(self, chunks: list[Chunk]) -> None:
        """Counts the blocks of these chunks. Returns when every row that came of them is acknowledged."""
        started = time.monotonic()
        self._began = self._now()
        blocks = _blocks_by_partition(chunks)
        runs = [_Run(partition, await self._steps(partition, run)) for partition, run in sorted(blocks.items())]
        await self._until_writes(runs)
        # A write of several partitions is one insert; whoever waits for a later one lets the others catch up.
        while waiting := [run for run in runs if run.pending is not None]:
            first = min(WRITES.index(type(run.pending)) for run in waiting)
            together = [run for run in waiting if isinstance(run.pending, WRITES[first])]
            await self._write([run.pending for run in together if run.pending is not None])
            await self._until_writes(together)
        results = [run.result for run in runs if run.result is not None]
        for state, _ in results:
            self._states[state.partition] = state
        self._note([counted for _, counted in results], started=started)

    def keep_only(self, partitions: Collection[int]) -> None:
        """Drops the memory of partitions that are counted elsewhere now. What is kept is used only at its position."""
        for partition in set(self._states) - set(partitions):
            del self._states[partition]

    async def _steps(self, partition: int, blocks: list[Block]) -> Generator[Step, Any, tuple[PartitionState, Counted]]:
        """The steps of these blocks, from memory if it ends exactly where they begin, else from the store."""
        first = blocks[0].offset
        state = self._states.get(partition)
        if state is None or state.next_block != first:
            await self._check_log(partition)
            log.info("partition_restored", partition=partition, before_block=first)
            state = fresh(partition, next_block=first, limits=self._wiring.count_limits)
        return count(state, blocks, limits=self._wiring.count_limits)

    async def _check_log(self, partition: int) -> None:
        """Ends the worker when the log does not fit what was counted: then no number could be trusted any more."""
        topic = self._wiring.topics.priced
        _, end = await self._retry(lambda: self._raw_log.span(topic, partition), what=topic)
        newest = await self._ask(lambda store: newest_block(store, partition=partition))
        if newest is not None and newest >= end:
            raise LogBroken(
                f"{topic} partition {partition} ends at {end}, but block {newest} of it is counted already: the topic "
                "was deleted or recreated; restore it, or migrate to a new database."
            )

    async def _until_writes(self, runs: Sequence[_Run]) -> None:
        """Side by side: while one partition waits for an answer, another one reckons."""
        await asyncio.gather(*(self._until_write(run) for run in runs))

    async def _until_write(self, run: _Run) -> None:
        """Answers the questions of a run until it wants to write something, or is done."""
        run.pending = None
        answer: Any = None
        while True:
            try:
                step = await self._spend("dedupe", run.steps.send, answer)
            except _Done as done:
                run.result = done.result
                return
            if not isinstance(step, Question):
                run.pending = step
                return
            answer = await self._ask(functools.partial(answer_of, step))

    async def _write(self, steps: Sequence[Step]) -> None:
        """Carries out one write of all partitions at once."""
        match steps[0]:
            case InsertFacts():
                own = [step for step in steps if isinstance(step, InsertFacts)]
                facts = merge([step.facts for step in own])
                hashes = np.concatenate([step.hashes for step in own])
                if facts.events.height:
                    await self._insert(lambda store: insert_facts(store, facts, hashes))
            case InsertRepeats():
                repeats = pl.concat([step.repeats for step in steps if isinstance(step, InsertRepeats)])
                if repeats.height:
                    await self._insert(lambda store: insert_rows(store, "duplicates_rows", repeats))
            case PublishConflicts():
                conflicts = pl.concat([step.conflicts for step in steps if isinstance(step, PublishConflicts)])
                if conflicts.height:
                    await self._publish_conflicts(conflicts)
            case InsertCorrections():
                corrections = pl.concat([step.corrections for step in steps if isinstance(step, InsertCorrections)])
                await self._insert(lambda store: insert_corrections(store, corrections))
            case InsertTotals():
                totals = pl.concat([step.totals for step in steps if isinstance(step, InsertTotals)])
                if totals.height:
                    await self._insert(lambda store: insert_totals(store, totals))
            case _:
                await self._write_alerts(steps)

    async def _write_alerts(self, steps: Sequence[Step]) -> None:
        """Likewise, what judging writes."""
        match steps[0]:
            case InsertControls():
                controls = pl.concat([step.controls for step in steps if isinstance(step, InsertControls)])
                await self._insert(lambda store: insert_rows(store, "control_rows", controls))
            case InsertAlerts():
                alerts = pl.concat([step.alerts for step in steps if isinstance(step, InsertAlerts)])
                await self._insert(lambda store: insert_rows(store, "alerts_rows", alerts))
            case PublishAlerts():
                alerts = pl.concat([step.alerts for step in steps if isinstance(step, PublishAlerts)])
                await self._publish_alerts(alerts)
                if self._may_be_overtaken():
                    await self._publish_what_overtook(alerts)
            case _:
                raise AssertionError("a question is no write")

    async def _publish_conflicts(self, conflicts: pl.DataFrame) -> None:
        topic = self._wiring.topics.events
        places = list(conflicts.select("partition", "offset").iter_rows())
        records = await self._retry(lambda: self._raw_log.records(topic, places), what=topic)
        rejects = [
            conflict_reject(conflict, record=records.get((conflict["partition"], conflict["offset"])))
            for conflict in conflicts.iter_rows(named=True)
        ]
        await self._insert(lambda store: insert_rows(store, "rejected_rows", reject_rows(rejects)))
        await self._publisher.send_keyed(
            self._wiring.topics.rejected,
            reject_messages(rejects),
            retry=lambda send: self._retry(send, what="usage.rejected"),
        )

    async def _publish_alerts(self, alerts: pl.DataFrame) -> None:
        """To ``usage.alerts`` every transition, then the latest of each alert to ``usage.alerts.state``.

        A flood goes out in parts, so that it takes longer and not more memory, and what failed is not all sent again.
        """
        for part in alerts.iter_slices(ALERTS_AT_ONCE):
            await self._publish_some_alerts(part)

    async def _publish_some_alerts(self, alerts: pl.DataFrame) -> None:
        messages = await self._spend("produce", alert_messages, alerts)
        topics = self._wiring.topics
        for topic, own in ((topics.alerts, messages), (topics.alerts_state, latest_by_id(messages))):
            await self._publisher.send_keyed(topic, own, retry=functools.partial(self._retry, what=topic))
        for transition, count_ in alerts.group_by("transition").len().iter_rows():
            self._metrics.alerts.labels(transition).inc(count_)

    def _may_be_overtaken(self) -> bool:
        """Whether this batch took so long that the group may have given its partitions to somebody else meanwhile."""
        return self._now() - self._began >= min(self._wiring.session_timeout_seconds, REVOKE_WAIT_SECONDS) / 2

    async def _publish_what_overtook(self, alerts: pl.DataFrame) -> None:
        """Has the last word on ``usage.alerts.state`` again, if others published later transitions of these alerts.

        A worker that slept says what it had to say long after the next owner went on. Alerts are stored before they
        are published: what is not stored once our messages are acknowledged will be published after them.
        """
        said = alerts.group_by("alert_id", "block_partition").agg(pl.col("sequence").max().alias("said"))
        while True:
            questions = [
                AskAlerts(
                    partition,
                    NO_BLOCK,
                    tuple(sorted(own.select("rule", "rule_revision").unique().iter_rows())),
                    tuple(sorted(own.get_column("org").unique())),
                    tuple(sorted(own.get_column("window_start").dt.epoch("us").fill_null(0).unique())),
                )
                for (partition,), own in alerts.group_by("block_partition")
            ]
            latest = pl.concat([await self._ask(functools.partial(answer_of, question)) for question in questions])
            later = latest.join(said, on=["alert_id", "block_partition"]).filter(pl.col("sequence") > pl.col("said"))
            if not later.height:
                return
            log.warning("alerts_overtaken", alerts=later.height)
            messages = await self._spend("produce", alert_messages, later.drop("said"))
            topic = self._wiring.topics.alerts_state
            await self._publisher.send_keyed(topic, messages, retry=functools.partial(self._retry, what=topic))
            said = said.update(
                later.select("alert_id", "block_partition", pl.col("sequence").alias("said")),
                on=["alert_id", "block_partition"],
            )

    async def _ask(self, question: Callable[[Store], Any]) -> Any:
        return await self._retry(lambda: asyncio.to_thread(self._with_store, question), what="store")

    async def _insert(self, insert: Callable[[Store], None]) -> None:
        def timed() -> None:
            with self._metrics.store_insert_seconds.time():
                cpu = time.thread_time()
                self._with_store(insert)
                self._metrics.step_cpu.labels("store").inc(time.thread_time() - cpu)

        await self._retry(lambda: asyncio.to_thread(timed), what="store")

    def _with_store(self, work: Callable[[Store], Any]) -> Any:
        """Work in a thread, with a connection that no other thread uses meanwhile; so there are as many as threads."""
        try:
            store = self._idle_stores.pop()
        except IndexError:
            store = Store(self._wiring.store)
        try:
            return work(store)
        finally:
            self._idle_stores.append(store)

    async def _spend(self, step: str, work: Callable[[Any], Any], argument: Any) -> Any:
        def timed() -> Any:
            cpu = time.thread_time()
            try:
                return work(argument)
            except StopIteration as stop:
                raise _Done(stop.value) from stop  # StopIteration can't leave a thread's future
            finally:
                self._metrics.step_cpu.labels(step).inc(time.thread_time() - cpu)

        return await asyncio.to_thread(timed)

    async def _retry(self, action: Callable[[], Awaitable[Any]], *, what: str) -> Any:
        return await until_done(action, what=what, should_stop=self._should_stop, metrics=self._metrics)

    def _note(self, counted: Sequence[Counted], *, started: float) -> None:
        """Metrics and one log line per batch."""
        metrics, now = self._metrics, self._now()
        new = sum(one.facts.events.height for one in counted)
        duplicates = sum(one.repeats.filter(pl.col("kind") == "duplicate").height for one in counted)
        conflicts = sum(one.repeats.height for one in counted) - duplicates
        metrics.events.labels("counted").inc(new)
        metrics.events.labels("duplicate").inc(duplicates)
        metrics.events.labels("conflict").inc(conflicts)
        metrics.rejected.labels("conflict").inc(conflicts)
        metrics.replays.inc(sum(one.replays for one in counted))
        corrections = {
            "applied": sum(one.corrected.corrections.height for one in counted),
            "unchanged": sum(one.corrected.unchanged for one in counted),
            "unknown": sum(one.corrected.unknown for one in counted),
        }
        for outcome, number in corrections.items():
            metrics.corrections.labels(outcome).inc(number)
        if any(corrections.values()):
            log.info("corrections_counted", **corrections)
        for one in counted:
            events = one.facts.events
            if not events.height:
                continue
            received = events.get_column("received_at").dt.epoch("us").to_numpy() / 1e6
            happened = events.get_column("time").dt.epoch("us").to_numpy() / 1e6
            metrics.event_to_queryable.observe(np.maximum(now - received, 0.0))
            self._note_alerts(one)
            metrics.late_events.inc(int((received - happened > LATE_SECONDS).sum()))
            metrics.unpriced.inc(int((events.get_column("pricing") == "unpriced").sum()))
            metrics.watermark.set(max(metrics.watermark._value.get(), float(happened.max())))  # noqa: SLF001
        alerts = sum(one.alerts.height for one in counted)
        metrics.identities.set(sum(len(state.identities) for state in self._states.values()))
        log.info(
            "batch_counted",
            events=sum(one.events for one in counted),
            counted=new,
            duplicates=duplicates,
            conflicts=conflicts,
            alerts=alerts,
            replays=sum(one.replays for one in counted),
            partitions=len(counted),
            duration_seconds=round(time.monotonic() - started, 3),
        )

    def _note_alerts(self, counted: Counted) -> None:
        """How long after the broker took the event its alerts were out."""
        if not counted.alerts.height:
            return
        causes = counted.facts.events.select("org", "source", "id", "received_at")
        caused = counted.alerts.filter(pl.col("transition").is_in(["fired", "resolved"])).join(
            causes, left_on=["org", "crossed_source", "crossed_id"], right_on=["org", "source", "id"]
        )
        received = caused.get_column("received_at").dt.epoch("us").to_numpy() / 1e6
        self._metrics.event_to_alert.observe(np.maximum(self._now() - received, 0.0))


class _Done(Exception):  # noqa: N818 -- carries a result, is no error
    def __init__(self, result: tuple[PartitionState, Counted]) -> None:
        super().__init__()
        self.result = result


def _blocks_by_partition(chunks: list[Chunk]) -> dict[int, list[Block]]:
    blocks: dict[int, list[Block]] = {}
    for chunk in chunks:
        blocks.setdefault(chunk.tp.partition, []).extend(
            Block(
                chunk.tp.partition,
                record.offset,
                record.timestamp,
                record.value or b"",
                control=any(name == CONTROL_HEADER for name, _ in record.headers),
                correction=next((value for name, value in record.headers if name == CORRECTION_HEADER), None),
            )
            for record in chunk.records
        )
    return blocks

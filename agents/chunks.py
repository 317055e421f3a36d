"""Whole chunks of a partition instead of single records: the transport under both agents.

Stock Faust spends 80-120 µs of asyncio machinery on every record and can commit past a record that was not acked (its
gap arithmetic; github.com/faust-streaming/faust issues 502, 529, 606). Here one Faust ``Event`` stands for a
contiguous run of one partition, and the committed offset is the end of the longest fully acked prefix of runs, so it
never passes work in flight. Offsets for which nothing came are reported before anything behind them is delivered.
Rebalances, queues, supervisors and the commit loop stay Faust's.

It leans on private methods of faust-streaming 0.15.3; ``tests/agents/test_chunks_guard.py`` fails when they change.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import faust
from faust.serializers.schemas import Schema
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import ConsumerMessage, ack_lock
from mode import Service
from mode.utils.futures import notify

from schemas.errors import BrokerUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence

    from faust.types import TP

#: How long a revocation may wait for chunks in flight. Shorter than the group's rebalance timeout, so that a worker
#: whose store hangs gives its partitions up in order instead of being thrown out; what was not acked is read again.
REVOKE_WAIT_SECONDS: Final = 20.0
#: The broker answers when there are so many bytes, or after so long. Without a minimum it answers for every few records
#: that come in, and at 20,000 events a second a worker would fetch, and both would reckon, hundreds of times a second.
FETCH_BYTES_MIN: Final = 1024 * 1024
FETCH_WAIT_MS: Final = 100
WATCHDOG_SECONDS: Final = 2.0
SEEK_AGAIN_SECONDS: Final = 0.1


class Chunk(NamedTuple):
    """A contiguous run of records of one partition, in order."""

    tp: Any
    first: int
    next: int  # the last record's offset + 1
    generation: int
    records: list[Any]  # aiokafka ConsumerRecord: offset, timestamp, headers, value


class ChunkMessage(ConsumerMessage):  # type: ignore[misc]
    """What Faust takes for one message."""

    __slots__ = ("delivered_at", "next_offset", "record_count")


class ChunkSchema(Schema):  # type: ignore[misc]
    """Hands the chunk through. Nothing is decoded here, so that no decoding error can ack a record unseen."""

    def loads_key(self, app: Any, message: Any, *, loads: Any = None, serializer: Any = None) -> None:
        """A chunk has no key."""
        _ = app, message, loads, serializer

    def loads_value(self, app: Any, message: Any, *, loads: Any = None, serializer: Any = None) -> Any:
        """The chunk itself."""
        _ = app, loads, serializer
        return message.value


class ChunkConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """The consumer as Faust makes it, but it reads only what transactions committed, and skips nothing."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"  # noqa: SLF001 -- Faust ties it to its own transactions
        consumer._fetch_min_bytes = FETCH_BYTES_MIN  # noqa: SLF001 -- Faust has no setting for it
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS  # noqa: SLF001 -- likewise
        return consumer

    async def seek_to_committed(self) -> Any:
        """Back to what is committed, and to the first record of a partition of which nothing is.

        Aiokafka leaves a partition without a commit where its fetching has come to: records that were fetched during
        a rebalance, and dropped because of it, would be skipped for ever.
        """
        committed = await super().seek_to_committed()
        untouched = [tp for tp, offset in committed.items() if not offset or offset < 0]
        if untouched:
            await self.seek_to_beginning(*untouched)
        return committed


class ChunkConsumer(driver.Consumer):  # type: ignore[misc]
    """Delivers chunks, and commits the end of the longest acked prefix of them."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._inflight: dict[TP, deque[ChunkMessage]] = {}  # in the order of delivery
        self._next: dict[TP, int] = {}  # next offset to deliver
        self._dropped = False  # fetched records were thrown away: their partitions must be read again
        self._acked_at = 0.0
        self._wake = asyncio.Event()

    def _new_consumer_thread(self) -> Any:
        return ChunkConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def on_buffer_drop(self, tp: TP) -> None:
        """There is room in a queue again: read on at once."""
        super().on_buffer_drop(tp)
        self._wake.set()

    async def _wait_next_records(self, timeout: float) -> tuple[Any, Any]:  # noqa: ASYNC109 -- Faust's signature
        if self.flow_active and not self.app.client_only and not self._get_active_partitions():
            self._wake.clear()  # the base class would sleep a blind second here
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), timeout)
            return {}, set()
        answer: tuple[Any, Any] = await super()._wait_next_records(timeout)
        return answer

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ChunkMessage]]:  # noqa: ASYNC109 -- likewise
        """Chunks as they were fetched. The generation is taken first: what a rebalance overtook is dropped."""
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
        if self._dropped and not await self._seek_back():
            return
        generation = self.app.consumer_generation_id
        records, _active = await self._wait_next_records(timeout)
        if records is None or self.should_stop:
            return
        size = self.app.chunk_records_max
        for raw_tp, fetched in records.items():
            tp = ensure_TP(raw_tp)
            wanted = self._next.get(tp)
            run = fetched
            if wanted is not None and run[0].offset < wanted:
                run = [record for record in run if record.offset >= wanted]
            # What an older generation fetched is dropped below, and is behind where this one begins to read.
            if self._current(generation) and (holes := _holes(run, wanted)):
                await self.app.passed_over(tp, holes)
            for start in range(0, len(run), size):
                if not self._current(generation):
                    self._dropped = True
                    return
                message = self._message(tp, run[start : start + size], generation)
                self._inflight.setdefault(tp, deque()).append(message)
                self._next[tp] = message.next_offset
                self._read_offset[tp] = None  # else Faust might drop it, unseen, when a seek overtook a delivery
                yield tp, message
            self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))

    async def _seek_back(self) -> bool:
        """Reads again what was dropped, once the flow goes on; False when that has to be tried again.

        Not while the group rebalances, as stock Faust does: a seek forgets the chunks in flight, and the revocation
        waits for just these to be acked, so that they can be committed. Without that a group whose batches take
        longer than its rebalances come would count the same batch for ever.
        """
        try:
            await self.perform_seek()
        except Exception as error:  # noqa: BLE001 -- a rebalance that comes in between seeks itself
            self.log.warning("seek to what was dropped: %r", error)
            await self.sleep(SEEK_AGAIN_SECONDS)
            return False
        return True

    def _current(self, generation: int) -> bool:
        return bool(self.flow_active) and generation == self.app.consumer_generation_id

    def _message(self, tp: TP, records: list[Any], generation: int) -> ChunkMessage:
        first, following = records[0].offset, records[-1].offset + 1
        message = ChunkMessage(
            tp.topic,
            tp.partition,
            following - 1,
            records[-1].timestamp / 1000.0,
            0,
            None,
            None,
            Chunk(tp, first, following, generation, records),
            None,
            0,
            0,
            tp,
            generation_id=generation,
        )
        message.next_offset, message.record_count = following, len(records)
        message.delivered_at = time.monotonic()
        return message

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Nothing: holes need no bookkeeping here, a chunk's end is its last record + 1; ``getmany`` reports them."""

    def ack(self, message: Any) -> bool:
        """Marks the chunk as done and lets its payload go."""
        with ack_lock:
            if message.acked:
                return False
            message.acked = True
            message.value = None
            self._unacked_messages.discard(message)
            self._n_acked += message.record_count
            self._acked_at = time.monotonic()
            notify(self._waiting_for_ack)
            return True

    def _new_offset(self, tp: TP) -> int | None:
        queue = self._inflight.get(tp)
        following = None
        while queue and queue[0].acked:
            following = queue.popleft().next_offset
        return following

    async def _commit(self, offsets: Any) -> bool:
        """Commits, and remembers when it last did."""
        committed = bool(await super()._commit(offsets))
        if committed:
            self.app.committed_at = time.time()
        return committed

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterable[TP]:
        return [
            tp
            for tp, queue in self._inflight.items()
            if queue and queue[0].acked and (topics is None or tp in topics or tp.topic in topics)
        ]

    async def wait_empty(self) -> None:
        """Waits for chunks in flight, but not for ever: a store that hangs must not hold up the whole group."""
        try:
            await asyncio.wait_for(super().wait_empty(), REVOKE_WAIT_SECONDS)
        except TimeoutError:
            self.log.warning("gave up waiting for chunks in flight; what was not acked is read again")

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Stop, wait for acks, commit; only then forget the chunks."""
        await super().on_partitions_revoked(revoked)
        for tp in revoked:
            self._inflight.pop(tp, None)
            self._next.pop(tp, None)

    async def perform_seek(self) -> None:
        """Back to the committed offsets: everything that was not acked is read again."""
        self._dropped = False  # first: what a fetch brings, and loses, while the seek is under way is read again too
        try:
            await super().perform_seek()
        except BaseException:
            self._dropped = True
            raise
        self._inflight.clear()
        committed = {tp: self._committed_offset.get(tp) for tp in self.assignment()}
        self._next = {tp: offset for tp, offset in committed.items() if offset is not None}
        await self.app.positioned(committed)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing: Faust's hints at slow streams know no chunks, and fail while a position is being reset."""

    def stalled_seconds(self) -> float:
        """For how long nothing was acked although there is work in flight; 0 when there is none."""
        waiting = [queue[0].delivered_at for queue in list(self._inflight.values()) if queue and not queue[0].acked]
        return time.monotonic() - max(min(waiting), self._acked_at) if waiting else 0.0

    def oldest_inflight_timestamp(self, topic: str) -> float | None:
        """The append time (Unix seconds) of the oldest chunk of a topic that is not acked; None when all are."""
        times = [
            message.value.records[0].timestamp / 1000.0
            for tp, queue in list(self._inflight.items())
            if tp.topic == topic
            for message in list(queue)
            if not message.acked and message.value is not None
        ]
        return min(times, default=None)

    @Service.task  # type: ignore[untyped-decorator]
    async def _coordinator_watchdog(self) -> None:
        # Faust's driver goes round AIOKafkaConsumer.getmany() and so round its check_errors(): a fatal group error
        # would park the coordinator for ever, silently. Here it ends the process.
        async for _ in self.itertimer(WATCHDOG_SECONDS, name="coordinator-watchdog"):
            consumer = self._thread._consumer  # noqa: SLF001 -- there is no public way
            coordinator = consumer and consumer._coordinator  # noqa: SLF001 -- likewise
            if not coordinator:
                continue
            error = getattr(coordinator, "_pending_exception", None)
            task = getattr(coordinator, "_coordination_task", None)
            if error is None and task is not None and task.done():
                error = RuntimeError("the group coordination task died")
            if error is not None:
                await self.crash(BrokerUnavailable(f"The consumer group failed ({error!r}): start the worker again."))


def _holes(run: Sequence[Any], wanted: int | None) -> list[tuple[int, int]]:
    """The half-open spans of offsets that are missing in a run, and before it when its first offset is known."""
    if not run:
        return []
    start = run[0].offset if wanted is None else wanted
    if run[-1].offset + 1 - start == len(run):
        return []
    following = [start, *(record.offset + 1 for record in run[:-1])]
    return [(next_, record.offset) for next_, record in zip(following, run, strict=True) if record.offset > next_]


class ChunkTransport(driver.Transport):  # type: ignore[misc]
    """Faust's aiokafka transport with the chunk consumer."""

    Consumer = ChunkConsumer


class ChunkApp(faust.App):  # type: ignore[misc]
    """A Faust app whose topics are all delivered as chunks of at most ``chunk_records_max`` records."""

    chunk_records_max: int = 5_000
    positioned: Callable[[Mapping[TP, int | None]], Awaitable[None]]
    """Called with the committed offsets whenever reading (re)starts from them, before the first chunk is delivered."""
    passed_over: Callable[[TP, Sequence[tuple[int, int]]], Awaitable[None]]
    """Called with half-open spans of offsets for which nothing came, before the first record behind them is delivered.

    Markers of transactions leave such holes. Raises when records were skipped; then nothing behind them is delivered.
    """
    committed_at: float = 0.0  # Unix seconds; 0 before the first commit

    def _new_transport(self) -> ChunkTransport:
        return ChunkTransport(self.conf.broker_consumer, self)

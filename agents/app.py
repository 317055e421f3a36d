"""The Faust app: two topics as chunks, one agent each, and the life of what they need."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import faust.streams
import structlog

from agents.auditor import Auditor, audit_now_and_then
from agents.batching import Batcher
from agents.catalog_follower import CatalogFollower
from agents.chunks import ChunkApp, ChunkConsumer, ChunkSchema
from agents.count import CountAgent
from agents.price import PriceAgent
from agents.publishing import Publisher
from agents.raw_log import RawLog
from agents.retrying import until_done
from schemas.errors import LogBroken

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from agents.chunks import Chunk
    from agents.metrics import Metrics
    from agents.wiring import Wiring
    from clickhouse.audit import Figures

log = structlog.get_logger()

QUEUE_CHUNKS_MAX = 8
FETCH_BYTES_MAX = 2 * 1024 * 1024  # per partition; memory in flight = partitions x queue x this, at the worst
PRICE_EVENTS_MAX = 20_000
PRICE_WAIT_SECONDS = 0.1
REBALANCE_SECONDS = 60.0
REQUEST_SECONDS = 310.0  # Faust wants it above any session timeout
LAG_SECONDS = 2.0


class Pipeline:
    """One worker: start, run until told to stop or until something breaks, stop."""

    def __init__(self, wiring: Wiring, *, metrics: Metrics) -> None:
        # Without its compiled stream iterator Faust acks events of old generations that it skipped.
        assert faust.streams._CStreamIterator is not None, "install faust-streaming with its wheel"  # noqa: S101, SLF001
        self._wiring = wiring
        self._metrics = metrics
        self._publisher = Publisher(wiring.kafka)
        self._raw_log = RawLog(wiring.kafka)
        self._catalog = CatalogFollower(wiring.topics.catalog, client=wiring.kafka)
        self.app = _chunk_app(wiring)
        self.beat = time.monotonic()
        self.failure: BaseException | None = None
        self._should_stop = False
        self.joined = asyncio.Event()
        self._audits: asyncio.Future[None] | None = None
        self._broken = asyncio.Event()

    async def start(self) -> None:
        """Connects and joins the group. Raises aiokafka's errors when the broker is away."""
        await self._publisher.start()
        await self._raw_log.start()
        await self._catalog.start()
        wiring, app = self._wiring, self.app
        price = PriceAgent(
            wiring,
            publisher=self._publisher,
            catalog=self._catalog,
            metrics=self._metrics,
            should_stop=self._stopping,
        )
        count = CountAgent(
            wiring,
            publisher=self._publisher,
            raw_log=self._raw_log,
            metrics=self._metrics,
            should_stop=self._stopping,
        )
        self._agent(
            "price",
            wiring.topics.events,
            Batcher(app, price.work, weight=_records, weight_max=PRICE_EVENTS_MAX, wait_seconds=PRICE_WAIT_SECONDS),
        )
        self._agent(
            "count",
            wiring.topics.priced,
            Batcher(
                app,
                count.work,
                weight=_events,
                weight_max=wiring.batch_events_max,
                wait_seconds=wiring.batch_wait_seconds,
            ),
        )

        @app.on_partitions_assigned.connect  # type: ignore[untyped-decorator]
        async def assigned(_app: Any, assigned: Any, **_: Any) -> None:
            self._metrics.rebalances.inc()
            self.joined.set()
            count.keep_only({tp.partition for tp in assigned if tp.topic == wiring.topics.priced})
            log.info("partitions_assigned", partitions=sorted(f"{tp.topic}/{tp.partition}" for tp in assigned))

        app.positioned = self._check_start
        app.passed_over = self._check_holes
        app.finalize()
        await app.start()
        if wiring.audit_seconds:
            self._audits = asyncio.ensure_future(self._audit())

    async def run(self) -> None:
        """Returns when the app broke; ``failure`` then says why. Keeps the gauges and the heartbeat meanwhile."""
        while not self._broken.is_set():
            self.beat = time.monotonic()
            self._note_lag()
            crash = self.app.crash_reason
            if crash is not None and self.failure is None:
                self.failure = crash
            if self.failure is not None or self.app.should_stop:
                return
            try:
                await asyncio.wait_for(self._broken.wait(), timeout=LAG_SECONDS / 4)
            except TimeoutError:
                continue

    async def stop(self) -> None:
        """Finishes the batches in flight, commits, leaves the group."""
        self._should_stop = True
        if self._audits is not None:
            self._audits.cancel()
        try:
            await self.app.stop()
        except asyncio.CancelledError:
            # A commit that aiokafka cancelled inside; what broke the worker is what has to be told.
            if self.failure is None:
                raise
        for part in (self._catalog, self._raw_log, self._publisher):
            await part.stop()

    @property
    def assigned(self) -> bool:
        """Whether this worker is a member of the group in good standing."""
        return self.joined.is_set() and not self.app.rebalancing

    @property
    def stalled_seconds(self) -> float:
        """For how long work has waited without any progress: a server is away."""
        consumer = self.app.consumer
        return consumer.stalled_seconds() if isinstance(consumer, ChunkConsumer) else 0.0

    async def _audit(self) -> None:
        """The worker that counts partition 0 proves the newest books now and then."""
        wiring = self._wiring
        auditor = Auditor(
            wiring.store, topics=wiring.topics, log_view=wiring.log_view, should_stop=self._stopping
        )  # fmt: skip

        def show(figures: Figures, found_at: float) -> None:
            self._metrics.unaccounted_events.set(figures.unaccounted_events)
            self._metrics.drift_cost.set(float(figures.drift_cost))
            self._metrics.last_audit.set(found_at)

        def is_mine() -> bool:
            return self.assigned and (wiring.topics.priced, 0) in self.app.consumer.assignment()

        try:
            await audit_now_and_then(auditor, seconds=wiring.audit_seconds, is_mine=is_mine, show=show)
        except Exception as error:  # noqa: BLE001 -- a bug, which must end the worker as any other does
            self._break(error)

    def _stopping(self) -> bool:
        return self._should_stop or self._broken.is_set()

    def _agent(self, name: str, topic: str, batcher: Batcher) -> None:
        channel = self.app.topic(topic, schema=ChunkSchema(), maxsize=QUEUE_CHUNKS_MAX)

        async def agent(stream: Any) -> None:
            try:
                await batcher.run(stream)
            except asyncio.CancelledError:
                raise
            except BaseException as error:
                self._break(error)
                raise

        agent.__name__ = name
        self.app.agent(channel, name=f"tallyhouse.{name}")(agent)

    def _break(self, error: BaseException) -> None:
        if self.failure is None:
            self.failure = error
        self._broken.set()

    async def _check_start(self, committed: Mapping[Any, int | None]) -> None:
        """Records that retention deleted before they were read are lost money: say so and end, never skip them."""
        spans = await self._in_log(lambda: self._raw_log.spans((tp.topic, tp.partition) for tp in committed))
        for tp, offset in committed.items():
            begin, _ = spans[tp.topic, tp.partition]
            if offset is not None and offset < begin:
                self._break(
                    LogBroken(
                        f"{tp.topic} partition {tp.partition} begins at {begin}, but only records below {offset} "
                        "were read: some were deleted unread; reset the group's offsets to accept the loss."
                    )
                )

    async def _check_holes(self, tp: Any, holes: Sequence[tuple[int, int]]) -> None:
        """Offsets for which nothing came must hold nothing: a record that was skipped would be missing in every number.

        Markers and aborted records of transactions hold nothing. Nothing behind the holes was delivered yet, so a
        worker that ends here, and starts again, reads them again.
        """
        skipped = await self._in_log(lambda: self._skipped(tp, holes))
        if skipped:
            error = LogBroken(f"{tp.topic} partition {tp.partition}: {skipped}")
            self._break(error)
            raise error
        self._metrics.empty_offsets.labels(tp.topic).inc(sum(end - start for start, end in holes))

    async def _skipped(self, tp: Any, holes: Sequence[tuple[int, int]]) -> str:
        """What is wrong with these holes; nothing when there is no record in them."""
        first = holes[0][0]
        begin, _ = await self._raw_log.span(tp.topic, tp.partition)
        if begin > first:
            return (
                f"the log begins at {begin} now, but only records below {first} were read: some were deleted unread; "
                "reset the group's offsets to accept the loss."
            )
        held = await self._raw_log.held(tp.topic, tp.partition, holes)
        if not held:
            return ""
        records = "1 record" if len(held) == 1 else f"{len(held)} records"
        return (
            f"{records} that the consumer passed over {'is' if len(held) == 1 else 'are'} not counted, the first at "
            f"{held[0]}; nothing beyond it is committed: start the worker again, which reads it, and report this."
        )

    async def _in_log(self, question: Callable[[], Awaitable[Any]]) -> Any:
        return await until_done(question, what="log", should_stop=self._stopping, metrics=self._metrics)

    def _note_lag(self) -> None:
        consumer = self.app.consumer
        if not isinstance(consumer, ChunkConsumer):
            return
        lags = {}
        for tp in list(consumer.assignment()):
            highwater = consumer.highwater(tp)
            committed = consumer._committed_offset.get(tp)  # noqa: SLF001 -- Faust keeps it for itself
            if highwater is not None:
                lags[tp.topic, tp.partition] = max(0, highwater - (committed or 0))
        self._metrics.show_lags(lags)
        self._metrics.last_commit.set(self.app.committed_at)
        for topic in (self._wiring.topics.events, self._wiring.topics.priced):
            oldest = consumer.oldest_inflight_timestamp(topic)
            self._metrics.oldest_unprocessed.labels(topic).set(0 if oldest is None else max(0, time.time() - oldest))


def _chunk_app(wiring: Wiring) -> ChunkApp:
    return ChunkApp(
        wiring.app_id,
        broker=wiring.faust_broker,
        broker_credentials=wiring.broker_credentials,
        store="memory://",
        datadir=str(wiring.state_dir / "faust"),
        autodiscover=False,
        table_standby_replicas=0,
        topic_disable_leader=True,
        topic_allow_declare=False,
        topic_create_topics=False,
        value_serializer="raw",
        key_serializer="raw",
        web_enabled=False,
        web_tables_enabled=False,
        worker_redirect_stdouts=False,
        consumer_auto_offset_reset="earliest",  # the store makes reading again harmless
        consumer_max_fetch_size=FETCH_BYTES_MAX,
        broker_commit_interval=0.5,
        broker_commit_every=1_000_000_000,
        broker_session_timeout=wiring.session_timeout_seconds,
        broker_heartbeat_interval=min(1.0, wiring.session_timeout_seconds / 6),
        broker_rebalance_timeout=REBALANCE_SECONDS,
        broker_request_timeout=REQUEST_SECONDS,
        stream_wait_empty=True,
        stream_buffer_maxsize=QUEUE_CHUNKS_MAX,
        agent_supervisor="mode.CrashingSupervisor",
    )


def _records(chunk: Chunk) -> int:
    return len(chunk.records)


def _events(chunk: Chunk) -> int:
    """About how many events the blocks of a chunk hold, by their size: opening them is the work itself."""
    return sum(len(record.value or b"") for record in chunk.records) // BYTES_PER_EVENT + len(chunk.records)


BYTES_PER_EVENT = 45


def quiet_libraries(level: int = logging.ERROR) -> None:
    """Keeps rebalances (Faust, mode, aiokafka) and refused connections (urllib3) out; what matters is logged here."""
    for name in ("faust", "mode", "aiokafka", "asyncio", "urllib3", "agents.chunks"):
        logging.getLogger(name).setLevel(level)

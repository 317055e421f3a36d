"""``tally worker``: runs the agents until SIGTERM; as many processes as you like."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import json
import logging
import os
import signal
import socket
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client import CollectorRegistry

from agents.app import Pipeline, quiet_libraries
from agents.health import HealthServer
from agents.metrics import Metrics
from agents.wiring import Wiring
from clickhouse.migrate import installation
from pipeline.count import CountLimits
from pipeline.decode import Limits
from schemas.errors import TallyError, WrongUse
from schemas.topics import DAY_MS
from tally.connect import open_store, store_address
from tally.kafka import LogView, admin, broker_credentials, client_settings, missing_topic, partitions, run
from tally.migrate import PRICED_PARTITIONS, topic_settings
from tally.settings import Settings

if TYPE_CHECKING:
    from aiokafka.admin import AIOKafkaAdminClient

log = structlog.get_logger()

READY_SECONDS_MAX: Final = 120.0
#: Tens of thousands of records are in flight at any time, none of them in a cycle. Python's own 700 would walk through
#: all of them again and again, in vain: 15 % of a worker's CPU time.
GC_THRESHOLDS: Final = (100_000, 20, 20)


def run_worker(settings: Settings) -> int:
    """Runs until SIGTERM or SIGINT, then finishes what is in flight, commits and gives 0.

    Prints one JSON line when it is a member of the group and serves its metrics: ``{"ready": true, "metrics": URL}``.

    Raises:
        WrongUse: the metrics port is taken, a topic or table is missing.
        ServerUnavailable: Kafka or the store can't be reached at start, or the group failed.
        LogBroken: records were deleted unread, or a topic was recreated.
    """
    _configure_logs(settings.log_level)
    faulthandler.enable()
    with contextlib.closing(_bound(settings)) as listener:
        _make_state_dir(settings)
        _check_servers(settings)
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        return asyncio.run(_run(settings, listener))


async def _run(settings: Settings, listener: socket.socket) -> int:
    metrics = Metrics(CollectorRegistry())
    pipeline = Pipeline(_wiring(settings), metrics=metrics)
    health = HealthServer(listener, metrics=metrics, pipeline=pipeline)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await health.start()
    log.info("worker_starting", metrics=f"{health.url}/metrics", app_id=settings.app_id)
    try:
        await pipeline.start()
        running = asyncio.ensure_future(pipeline.run())
        ready = asyncio.ensure_future(_announce(pipeline, health.url))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in (ready, stopping):
            task.cancel()
        failure = pipeline.failure
        log.info("worker_stopping", reason="failure" if failure else "signal")
        with contextlib.suppress(Exception) if failure else contextlib.nullcontext():
            await asyncio.wait_for(pipeline.stop(), timeout=None if failure is None else 10)
        running.cancel()
    finally:
        await health.stop()
    if failure is not None and not stop.is_set():
        _raise_ours(failure)
    log.info("worker_stopped")
    return 0


async def _announce(pipeline: Pipeline, url: str) -> None:
    await pipeline.joined.wait()
    sys.stdout.write(json.dumps({"ready": True, "metrics": f"{url}/metrics"}) + "\n")
    sys.stdout.flush()


def _raise_ours(failure: BaseException) -> None:
    if isinstance(failure, TallyError):
        raise failure
    raise RuntimeError(f"The worker broke: {failure!r}") from failure


def _wiring(settings: Settings) -> Wiring:
    return Wiring(
        app_id=settings.app_id,
        topics=settings.topics,
        kafka=client_settings(settings),
        broker_credentials=broker_credentials(settings),
        store=store_address(settings),
        event_limits=Limits(max_ahead_seconds=settings.max_ahead_seconds, max_age_days=settings.max_age_days),
        count_limits=CountLimits(
            horizon=timedelta(days=settings.dedupe_days),
            identities_max=settings.identities_max,
            totals_rows_max=settings.totals_rows_max,
        ),
        batch_events_max=settings.batch_events_max,
        batch_wait_seconds=settings.batch_wait_seconds,
        session_timeout_seconds=settings.session_timeout_seconds,
        audit_seconds=settings.audit_seconds,
        log_view=LogView(settings),
        state_dir=settings.state_dir,
    )


def _bound(settings: Settings) -> socket.socket:
    try:
        return socket.create_server((settings.metrics_host, settings.metrics_port))
    except OSError as error:
        raise WrongUse(
            f"The metrics port {settings.metrics_host}:{settings.metrics_port} can't be used "
            f"({os.strerror(error.errno or 0)}): set TALLY_METRICS_PORT to another, or to 0 for a free one."
        ) from error


def _make_state_dir(settings: Settings) -> None:
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WrongUse(
            f"TALLY_STATE_DIR ({settings.state_dir}) can't be used ({error.strerror}): name a folder that can be made."
        ) from error


def _check_servers(settings: Settings) -> None:
    """Looks once at both servers before the machinery starts, so that what is wrong is said in one sentence."""
    priced_partitions = run(settings, _check_topics(settings))
    with contextlib.closing(open_store(settings)) as store:
        recorded = installation(store).get(PRICED_PARTITIONS)
    if recorded is None:
        raise WrongUse("The store was never migrated: run `tally migrate` first.")
    if int(recorded) != priced_partitions:
        raise WrongUse(
            f"{settings.topics.priced} has {priced_partitions} partitions, but the store was counted with {recorded}: "
            "an org must stay in its partition; restore the topic, or migrate to a new database."
        )


async def _check_topics(settings: Settings) -> int:
    topics = settings.topics
    wanted = (topics.events, topics.priced, topics.rejected, topics.alerts, topics.catalog)
    async with admin(settings) as client:
        found = await partitions(client, wanted)
        for topic in wanted:
            if not found.get(topic):
                raise missing_topic(settings, topic)
        for topic in (topics.events, topics.priced):
            await _check_retention(settings, client, topic)
    return len(found[topics.priced])


async def _check_retention(settings: Settings, client: AIOKafkaAdminClient, topic: str) -> None:
    """A record that is kept longer than its identity is remembered could be billed twice by a replay."""
    found = await topic_settings(client, topic)
    kept_ms = int(found.get("retention.ms", -1))
    if kept_ms < 0 or kept_ms > settings.dedupe_days * DAY_MS:
        kept = "for ever" if kept_ms < 0 else f"for {kept_ms / DAY_MS:g} days"
        raise WrongUse(
            f"{topic} keeps records {kept}, longer than TALLY_DEDUPE_DAYS ({settings.dedupe_days}), so a replay could "
            "be billed twice: run `tally migrate`, or raise TALLY_DEDUPE_DAYS."
        )
    if found.get("message.timestamp.type") != "LogAppendTime":
        raise WrongUse(f"{topic} takes its times from producers, not from the broker: run `tally migrate`.")


def _configure_logs(level: str) -> None:
    """One JSON object per line on stderr; stdout carries the ready line alone."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    quiet_libraries()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )

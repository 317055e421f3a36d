"""One worker, one promise at a time, seen from outside."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import urllib3
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from tests.system.installation import Installation, Worker
from tests.system.views import rows

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.servers]

#: Contract: the metrics of a worker that exist so far.
METRICS = (
    'tally_events_total{outcome="counted"}',
    'tally_events_total{outcome="duplicate"}',
    'tally_events_total{outcome="conflict"}',
    'tally_events_total{outcome="rejected"}',
    "tally_late_events_total",
    'tally_rejected_total{reason="bad_id"}',
    "tally_unpriced_total",
    'tally_alerts_total{transition="fired"}',
    "tally_oldest_unprocessed_seconds",
    "tally_last_commit_timestamp_seconds",
    "tally_watermark_timestamp_seconds",
    "tally_store_insert_seconds_bucket",
    "tally_store_retries_total",
    "tally_event_to_queryable_seconds_bucket",
    "tally_event_to_alert_seconds_bucket",
    "tally_unaccounted_events",
    "tally_drift_cost",
    "tally_rebalances_total",
    "tally_build_info",
)
BOOK = 'price_book: standard\ncurrency: USD\nprices:\n  - {operation: lookup, meter: requests, price: "%s"}\n'


@pytest.fixture
def installation(tmp_path: Path, broker: str, database: str, topic_prefix: str) -> Installation:
    """An installation of one's own on the shared servers; nothing is there yet."""
    return Installation(tmp_path, broker, database, topic_prefix, topic_prefix.rstrip("."))


@pytest.fixture
def installed(installation: Installation) -> Installation:
    """The same with its topics and tables."""
    installation.set_up()
    return installation


def event(number: int, *, when: datetime | None = None) -> str:
    """One look-up."""
    fields: dict[str, Any] = {
        "specversion": "1.0",
        "id": f"lookup-{number}",
        "source": "/test",
        "type": "lookup",
        "subject": "acme",
        "time": (when or datetime.now(UTC)).isoformat(),
        "data": {"project": "p", "api_key": "k"},
    }
    return json.dumps(fields)


def send(installation: Installation, *lines: str) -> None:
    """Sends the lines as they are."""
    path = installation.folder / "events.ndjson"
    path.write_text("\n".join(lines), encoding="utf-8")
    installation.done("send", str(path))


def refusal(installation: Installation) -> tuple[int, str]:
    """How a worker that can't start ends: its exit code and its last line."""
    with Worker(installation, "refused") as worker:
        code = worker.wait_until_ended()
        return code, worker.server.stderr().strip().splitlines()[-1]


def in_kafka(installation: Installation, work: Callable[[AIOKafkaAdminClient], Awaitable[None]]) -> None:
    """Does something to the topics."""

    async def run() -> None:
        client = AIOKafkaAdminClient(bootstrap_servers=installation.bootstrap)
        await client.start()
        try:
            await work(client)
        finally:
            await client.close()

    asyncio.run(run())


@pytest.fixture
def pool() -> Iterator[urllib3.PoolManager]:
    """For the pages of a worker."""
    with urllib3.PoolManager() as pages:
        yield pages


def test_a_worker_shows_its_health_and_stops_in_order(installed: Installation, pool: urllib3.PoolManager) -> None:
    """The ready line names the metrics; SIGTERM finishes what was read, commits and ends with 0."""
    with Worker(installed, "worker") as worker:
        url = str(worker.wait_until_ready()["metrics"])
        send(installed, *map(event, range(50)))
        installed.done("drain", "--timeout", "60")
        page = pool.request("GET", url).data.decode()
        live, ready = (pool.request("GET", url.replace("/metrics", path)).status for path in ("/livez", "/readyz"))
        worker.signal(signal.SIGTERM)

        assert worker.wait_until_ended() == 0

    assert url.startswith("http://127.0.0.1:")
    assert (live, ready) == (200, 200)
    assert [name for name in METRICS if name not in page] == []
    assert 'tally_events_total{outcome="counted"} 50.0' in page
    assert "acme" not in page
    assert sum(installed.committed(installed.topics.events).values()) == 50


def test_a_book_is_in_force_for_what_is_sent_after_it(installed: Installation) -> None:
    """A worker that runs already takes the new revision before it prices what comes next."""
    with Worker(installed, "worker") as worker:
        worker.wait_until_ready()
        for revision, price in enumerate(("1", "2.5"), start=1):
            (installed.folder / "book.yaml").write_text(BOOK % price, encoding="utf-8")
            installed.done("catalog", "apply", str(installed.folder / "book.yaml"))
            send(installed, event(revision))
        installed.done("drain", "--timeout", "60")

    found = list(rows(installed.store_url, "SELECT id, toString(cost), price_ids[1] FROM facts ORDER BY id"))
    assert found == [["lookup-1", "1", "standard@1:1"], ["lookup-2", "2.5", "standard@2:1"]]


def test_a_batch_may_touch_any_number_of_months(installation: Installation) -> None:
    """A backfill of many years in one batch: totals are there for each of its months."""
    old = Installation(
        **{**vars(installation), "settings": {"TALLY_MAX_AGE_DAYS": "19000", "TALLY_DEDUPE_DAYS": "19000"}}
    )
    old.set_up()
    now = datetime.now(UTC)
    send(old, *(event(month, when=now - timedelta(days=31 * month + 1)) for month in range(150)))

    with Worker(old, "worker") as worker:
        worker.wait_until_ready()
        old.done("drain", "--timeout", "60")

    months = "SELECT toString(sum(requests)), toString(uniqExact(toYYYYMM(hour))) FROM totals_hourly"
    assert list(rows(old.store_url, months)) == [["150", "150"]]
    assert list(rows(old.store_url, "SELECT toString(count()) FROM facts")) == [["150"]]


def test_an_age_limit_beyond_the_dedupe_horizon_is_refused(installed: Installation) -> None:
    """An old repeat could be billed twice."""
    old = Installation(**{**vars(installed), "settings": {"TALLY_MAX_AGE_DAYS": "36"}})

    code, line = refusal(old)

    assert code == 2
    assert "TALLY_DEDUPE_DAYS" in line


def test_a_topic_that_keeps_records_longer_than_identities_is_refused(installed: Installation) -> None:
    """A replay of what Kafka still has could be billed twice."""

    async def keep_longer(client: AIOKafkaAdminClient) -> None:
        settings = {"retention.ms": str(60 * 86_400_000), "message.timestamp.type": "LogAppendTime"}
        await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, installed.topics.events, settings)])

    in_kafka(installed, keep_longer)

    code, line = refusal(installed)

    assert code == 2
    assert "keeps records for 60 days" in line
    assert "TALLY_DEDUPE_DAYS" in line


def test_a_recreated_log_ends_the_worker(installed: Installation) -> None:
    """Blocks that were counted are gone: going on would skip what comes under their offsets."""
    with Worker(installed, "first") as worker:
        worker.wait_until_ready()
        for number in range(3):
            send(installed, event(number))
            installed.done("drain", "--timeout", "60")
        worker.signal(signal.SIGTERM)
        worker.wait_until_ended()

    async def recreate(client: AIOKafkaAdminClient) -> None:
        await client.delete_topics([installed.topics.priced])
        settings = {"message.timestamp.type": "LogAppendTime", "retention.ms": str(35 * 86_400_000)}
        for _ in range(100):
            await asyncio.sleep(0.1)  # a deleted name is free again a moment later
            await client.create_topics([NewTopic(installed.topics.priced, 4, 1, topic_configs=settings)])
            if installed.topics.priced in await client.list_topics():
                return

    in_kafka(installed, recreate)
    with Worker(installed, "second") as worker:
        send(installed, event(99))

        assert worker.wait_until_ended() == 1
        assert "deleted or recreated" in worker.server.stderr().strip().splitlines()[-1]


def test_without_its_topics_a_worker_says_what_to_do(installation: Installation) -> None:
    """Nothing was migrated."""
    code, line = refusal(installation)

    assert code == 2
    assert "tally migrate" in line


def test_without_its_servers_a_worker_says_what_to_do(installed: Installation) -> None:
    """One sentence, naming the setting to look at."""
    no_store = Installation(**{**vars(installed), "store_url": "http://127.0.0.1:9/tally"})
    no_broker = Installation(**{**vars(installed), "bootstrap": "127.0.0.1:9"})

    for away, name in ((no_store, "TALLY_STORE_URL"), (no_broker, "TALLY_KAFKA_BOOTSTRAP")):
        code, line = refusal(away)

        assert code == 3
        assert name in line


def test_a_taken_metrics_port_says_so(installed: Installation) -> None:
    """Another program has it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, line = refusal(Installation(**{**vars(installed), "settings": {"TALLY_METRICS_PORT": port}}))

    assert code == 2
    assert "TALLY_METRICS_PORT" in line

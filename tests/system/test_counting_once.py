"""Which copy of an event counts, and which records count at all, seen from outside."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import pytest
import urllib3
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete
from confluent_kafka import Producer

from agents.chunks import FETCH_WAIT_MS
from tests.processes import store_process
from tests.system.installation import Installation, Worker
from tests.system.views import rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.servers

DRAIN_SECONDS: Final = "120"


@pytest.fixture
def installed(tmp_path: Path, broker: str, database: str, topic_prefix: str) -> Installation:
    """Topics and tables of one's own on the shared servers."""
    installation = Installation(tmp_path, broker, database, topic_prefix, topic_prefix.rstrip("."))
    installation.set_up()
    return installation


@pytest.fixture
def worker(installed: Installation) -> Iterator[Worker]:
    """A worker at work."""
    with Worker(installed, "worker") as running:
        running.wait_until_ready()
        yield running


def event(name: str, *, when: datetime | None = None, tokens: int = 1) -> bytes:
    """An event by its id."""
    fields: dict[str, Any] = {
        "specversion": "1.0",
        "id": name,
        "source": "/test",
        "type": "llm.request",
        "subject": "acme",
        "time": (when or datetime(2026, 11, 1, tzinfo=UTC)).isoformat(),
        "data": {"project": "p", "api_key": "k", "usage": {"input_tokens": tokens}},
    }
    return json.dumps(fields).encode()


def produce(installed: Installation, *values: bytes, partition: int = 0, transaction: str = "") -> None:
    """Sends values to one partition; in a transaction that is committed or aborted, if one is named."""
    options: dict[str, Any] = {"bootstrap.servers": installed.bootstrap, "log_level": 2}
    if transaction:
        options["transactional.id"] = installed.prefix + transaction
    producer = Producer(options)
    if transaction:
        producer.init_transactions(60)
        producer.begin_transaction()
    for value in values:
        producer.produce(installed.topics.events, value, partition=partition)
    producer.flush(60)
    if transaction:
        (producer.abort_transaction if transaction == "abort" else producer.commit_transaction)(60)


def delete_records(installed: Installation, *, before: int) -> None:
    """Deletes the raw records of partition 0 below an offset, as retention does."""

    async def delete() -> None:
        client = AIOKafkaAdminClient(bootstrap_servers=installed.bootstrap)
        await client.start()
        try:
            place = TopicPartition(installed.topics.events, 0)
            await client.delete_records({place: RecordsToDelete(before_offset=before)})
        finally:
            await client.close()

    asyncio.run(delete())


def drain(installed: Installation) -> None:
    """Waits until all of it is counted."""
    installed.done("drain", "--timeout", DRAIN_SECONDS)


def asked(installed: Installation, sql: str) -> list[list[Any]]:
    """The rows of a query."""
    return list(rows(installed.store_url, sql))


def recently() -> datetime:
    """A time that every worker accepts."""
    return datetime.now(UTC) - timedelta(seconds=5)


FACTS: Final = "SELECT id, partition, toString(offset), toString(usage['input_tokens']) FROM facts ORDER BY id"
REPEATS: Final = """
SELECT kind, id, partition, toString(offset), first_partition, toString(first_offset)
FROM duplicates ORDER BY partition, offset
"""


@pytest.mark.usefixtures("worker")
def test_within_a_partition_the_earlier_offset_counts(installed: Installation) -> None:
    """In one batch or much later: a copy with the same content is a duplicate, one with other content a conflict."""
    when = recently()
    produce(installed, event("a", when=when), event("a", when=when), event("a", when=when, tokens=2))
    drain(installed)
    produce(installed, event("a", when=when, tokens=2), event("a", when=when))
    drain(installed)

    assert asked(installed, FACTS) == [["a", 0, "0", "1"]]
    assert asked(installed, REPEATS) == [
        ["duplicate", "a", 0, "1", 0, "0"],
        ["conflict", "a", 0, "2", 0, "0"],
        ["conflict", "a", 0, "3", 0, "0"],
        ["duplicate", "a", 0, "4", 0, "0"],
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_winner_stays_the_winner_after_a_restart(installed: Installation, number: signal.Signals) -> None:
    """Memory is gone, the store is not: a copy in another partition is a repeat of the first one for good."""
    when = recently()
    with Worker(installed, "first") as first:
        first.wait_until_ready()
        produce(installed, event("a", when=when), event("b", when=when), partition=2)
        drain(installed)
        first.signal(number)
        first.wait_until_ended()

    with Worker(installed, "second") as second:
        second.wait_until_ready()
        produce(installed, event("a", when=when), event("b", when=when, tokens=9), partition=1)
        drain(installed)

    assert asked(installed, FACTS) == [["a", 2, "0", "1"], ["b", 2, "1", "1"]]
    assert asked(installed, REPEATS) == [["duplicate", "a", 1, "0", 2, "0"], ["conflict", "b", 1, "1", 2, "1"]]
    assert asked(installed, "SELECT toString(sum(requests)) FROM totals_hourly") == [["2"]]


@pytest.mark.usefixtures("worker")
def test_what_a_transaction_aborts_is_not_counted(installed: Installation) -> None:
    """Not even while it stands in the log before and after records that count; the drain does not wait for it."""
    when = recently()
    produce(installed, event("before", when=when))
    produce(installed, event("aborted", when=when), transaction="abort")
    produce(installed, event("committed", when=when), transaction="commit")
    produce(installed, event("after", when=when))
    drain(installed)

    assert [row[0] for row in asked(installed, FACTS)] == ["after", "before", "committed"]
    assert installed.tally("audit").returncode == 0


def test_a_late_event_lands_in_its_own_hour(installed: Installation, worker: Worker) -> None:
    """Days later its hour's total grows, and the worker counts it as late."""
    happened = datetime.now(UTC) - timedelta(days=3)
    produce(installed, event("early", when=happened), event("now", when=recently()))
    drain(installed)
    produce(installed, event("late", when=happened))
    drain(installed)

    hour = f"{happened:%Y-%m-%d %H}:00:00"
    totals = f"SELECT toString(requests) FROM totals_hourly WHERE hour = toDateTime('{hour}', 'UTC')"  # noqa: S608
    assert asked(installed, totals) == [["2"]]
    assert sum(line["counted"] for line in worker.lines("batch_counted")) == 3


def test_a_store_that_goes_away_is_waited_for(tmp_path: Path, broker: str, topic_prefix: str) -> None:
    """Nothing is lost and nobody restarts the worker: it goes on by itself when the store is back."""
    with store_process(tmp_path / "store") as store:
        url = str(store.wait_until_ready()["url"])
        installation = Installation(tmp_path, broker, url, topic_prefix, topic_prefix.rstrip("."))
        installation.set_up()
        with Worker(installation, "worker") as worker:
            worker.wait_until_ready()
            produce(installation, event("a", when=recently()))
            drain(installation)
            store.kill()
            produce(installation, event("b", when=recently()))
            time.sleep(3)
            with store_process(tmp_path / "store", port=urlsplit(url).port or 0) as again:
                again.wait_until_ready()
                drain(installation)

                assert [row[0] for row in asked(installation, FACTS)] == ["a", "b"]
                assert worker.lines("server_away")
                worker.signal(signal.SIGTERM)
                assert worker.wait_until_ended() == 0


def test_a_worker_can_be_stopped_while_its_store_is_away(tmp_path: Path, broker: str, topic_prefix: str) -> None:
    """SIGTERM is not held up by a store that does not come back; what was not stored is not committed."""
    with store_process(tmp_path / "store") as store:
        installation = Installation(
            tmp_path, broker, str(store.wait_until_ready()["url"]), topic_prefix, topic_prefix.rstrip(".")
        )
        installation.set_up()
        with Worker(installation, "worker") as worker:
            worker.wait_until_ready()
            store.kill()
            produce(installation, event("a", when=recently()))
            while not worker.lines("server_away"):
                time.sleep(0.1)

            worker.signal(signal.SIGTERM)

            assert worker.wait_until_ended() == 0
            assert set(installation.committed(installation.topics.priced).values()) == {0}


def test_records_that_were_deleted_unread_end_the_worker(installed: Installation) -> None:
    """Retention took money: somebody has to know, and skipping it silently would hide it."""
    with Worker(installed, "first") as first:
        first.wait_until_ready()
        produce(installed, event("a", when=recently()))
        drain(installed)
        first.signal(signal.SIGTERM)
        first.wait_until_ended()
    produce(installed, event("lost", when=recently()), event("kept", when=recently()))
    delete_records(installed, before=2)
    with Worker(installed, "second") as second:
        code = second.wait_until_ended()
        sentence = second.server.stderr().strip().splitlines()[-1]

    assert code == 1
    assert sentence.startswith("tally: ")
    assert "deleted unread" in sentence
    assert f"{installed.topics.events} partition 0 begins at 2" in sentence


def test_records_that_are_deleted_under_a_worker_that_is_behind_end_it(installed: Installation) -> None:
    """The client goes on at what the log still has; the worker does not."""
    patient = Installation(**{**vars(installed), "settings": {"TALLY_SESSION_TIMEOUT_SECONDS": "120"}})
    with Worker(patient, "worker") as worker:
        worker.wait_until_ready()
        produce(installed, event("a", when=recently()))
        drain(installed)
        worker.signal(signal.SIGSTOP)
        # The broker still owes an answer to the fetch that is under way, and would put into it what comes in meanwhile.
        time.sleep(10 * FETCH_WAIT_MS / 1000)
        for name in ("on its way at most", "lost", "kept"):
            produce(installed, event(name, when=recently()))
        delete_records(installed, before=3)
        worker.signal(signal.SIGCONT)

        code = worker.wait_until_ended()
        sentence = worker.server.stderr().strip().splitlines()[-1]

    assert code == 1
    assert f"{installed.topics.events} partition 0: the log begins at 3 now" in sentence
    assert "deleted unread" in sentence
    assert installed.committed(installed.topics.events)[0] <= 2


def test_a_record_that_the_client_leaves_out_ends_the_worker_and_is_read_by_the_next(installed: Installation) -> None:
    """A hole is looked up in the log at once, and nothing behind it is committed."""
    names = [f"e{number}" for number in range(5)]
    produce(installed, *(event(name, when=recently()) for name in names))
    with Worker(installed, "planted", entry=("-m", "tests.system.planted", "leave_out_a_record")) as planted:
        code = planted.wait_until_ended()
        sentence = planted.server.stderr().strip().splitlines()[-1]

    assert code == 1
    assert f"{installed.topics.events} partition 0: 1 record that the consumer passed over is not counted" in sentence
    with Worker(installed, "worker") as worker:
        worker.wait_until_ready()
        drain(installed)
    assert sorted(name for (name,) in rows(installed.store_url, "SELECT id FROM facts")) == names


def test_offsets_without_a_record_are_passed_over_and_counted(installed: Installation, worker: Worker) -> None:
    """Aborted records and markers of transactions are looked up, and nothing stops."""
    produce(installed, event("first", when=recently()))
    for transaction in ("abort", "commit", ""):
        produce(installed, event(f"in {transaction}", when=recently()), transaction=transaction)
        produce(installed, event(f"after {transaction}", when=recently()))
    drain(installed)

    with urllib3.PoolManager() as pages:
        page = pages.request("GET", str(worker.wait_until_ready()["metrics"])).data.decode()
    assert f'tally_empty_offsets_total{{topic="{installed.topics.events}"}} 3.0' in page

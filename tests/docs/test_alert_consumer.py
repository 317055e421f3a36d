"""The consumer that billing teams copy (docs/examples/alert_consumer.py), on a real Kafka, killed wherever it hurts."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.structs import TopicPartition

from schemas.generate import ALERT_EXAMPLE
from schemas.published import TRANSITIONS, Alert
from schemas.topics import Topics
from tests.docs.killed_consumer import EXAMPLE
from tests.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytestmark = pytest.mark.servers

PARTITIONS = 2
SECONDS_MAX = 120
#: An alert and one of its transitions, by number.
Transition = tuple[int, int]


class Alerts:
    """The two topics of one installation, and the example's database."""

    def __init__(self, broker: str, prefix: str, folder: Path) -> None:
        self.broker = broker
        self.topics = Topics(prefix)
        self.database = folder / "alerts.db"
        self.arguments = ("--bootstrap", broker, "--database", str(self.database), "--prefix", prefix)

    async def create(self) -> None:
        """Both topics, empty."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.broker)
        await admin.start()
        try:
            compacted = {"cleanup.policy": "compact"}
            await admin.create_topics(
                [
                    NewTopic(self.topics.alerts, PARTITIONS, 1),
                    NewTopic(self.topics.alerts_state, PARTITIONS, 1, topic_configs=compacted),
                ]
            )
        finally:
            await admin.close()

    async def publish(self, topic: str, transitions: Sequence[Transition]) -> None:
        """As workers do: in order per alert, each acknowledged; what was published before may come again."""
        producer = AIOKafkaProducer(bootstrap_servers=self.broker, enable_idempotence=True)
        await producer.start()
        try:
            for number, sequence in transitions:
                alert = alert_of(number, sequence)
                await producer.send_and_wait(topic, key=alert["alert_id"].encode(), value=json.dumps(alert).encode())
        finally:
            await producer.stop()

    async def delete_log(self) -> None:
        """What retention does to a log that nobody adds to."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.broker)
        await admin.start()
        try:
            places = [TopicPartition(self.topics.alerts, number) for number in range(PARTITIONS)]
            await admin.delete_records({place: RecordsToDelete(-1) for place in places})
        finally:
            await admin.close()

    def consume(self, *, killed: tuple[str, int] | None = None) -> subprocess.CompletedProcess[str]:
        """Runs the example up to the present end, or to the moment at which it is killed."""
        program = [str(EXAMPLE)]
        if killed is not None:
            program = [str(EXAMPLE.parents[2] / "tests" / "docs" / "killed_consumer.py"), killed[0], str(killed[1])]
        return subprocess.run(
            [sys.executable, *program, *self.arguments, "--once"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            check=False,
        )

    def applied(self) -> list[Transition]:
        """Every transition that was applied, in order; one that was applied twice stands here twice."""
        with closing(sqlite3.connect(self.database)) as database:
            rows = database.execute("SELECT alert_id, sequence FROM transitions ORDER BY rowid").fetchall()
        return [(int(name, 16), sequence) for name, sequence in rows]


def alert_of(number: int, sequence: int) -> dict[str, Any]:
    """A valid alert."""
    said = {"alert_id": f"{number:032x}", "sequence": sequence, "transition": TRANSITIONS[(sequence - 1) % 2]}
    alert = ALERT_EXAMPLE | said
    Alert.model_validate(alert)
    return alert


def by_alert(transitions: Sequence[Transition]) -> dict[int, list[int]]:
    """The sequences of each alert, in order."""
    found: dict[int, list[int]] = {}
    for number, sequence in transitions:
        found.setdefault(number, []).append(sequence)
    return found


@pytest.fixture
async def alerts(broker: str, topic_prefix: str, tmp_path: Path) -> Alerts:
    """An installation with empty topics."""
    made = Alerts(broker, topic_prefix, tmp_path)
    await made.create()
    return made


#: Each alert fires and resolves; a worker that was killed said part of it again.
FIRST = [(number, 1) for number in range(6)]
AGAIN = [*FIRST[:4], *((number, 2) for number in range(6))]
MORE = [*((number, 2) for number in range(3)), (7, 1), (7, 1)]
ALL = {**{number: [1, 2] for number in range(6)}, 7: [1]}


@pytest.mark.parametrize(
    "moment",
    [
        ("before take_and_move", 1),
        ("after take_and_move", 1),
        ("before take_and_move", 2),
        ("after take_and_move", 2),
        ("before apply", 3),
        ("after apply", 3),
        ("after take", 1),
    ],
    ids=str,
)
async def test_each_transition_is_applied_once_wherever_the_consumer_is_killed(
    alerts: Alerts, moment: tuple[str, int]
) -> None:
    """On its first start and later: between reading, applying, moving on and committing."""
    topics = alerts.topics
    await alerts.publish(topics.alerts, FIRST)
    await alerts.publish(topics.alerts_state, FIRST)

    assert alerts.consume(killed=moment).returncode == -signal.SIGKILL
    done = alerts.consume()
    assert (done.returncode, done.stderr) == (0, "")
    assert by_alert(alerts.applied()) == {number: [1] for number in range(6)}

    await alerts.publish(topics.alerts, [*AGAIN, *MORE])
    nth = min(moment[1], PARTITIONS)
    assert alerts.consume(killed=(moment[0], nth)).returncode == -signal.SIGKILL
    assert alerts.consume().returncode == 0

    assert by_alert(alerts.applied()) == ALL
    assert alerts.consume().returncode == 0
    assert by_alert(alerts.applied()) == ALL


async def test_a_new_consumer_begins_with_what_the_log_no_longer_has(alerts: Alerts) -> None:
    """The state fills in the latest transition; a repeat of an earlier one changes nothing."""
    await alerts.publish(alerts.topics.alerts, [(1, 1), (1, 2), (2, 1)])
    await alerts.publish(alerts.topics.alerts_state, [(1, 1), (1, 2), (2, 1)])
    await alerts.delete_log()
    await alerts.publish(alerts.topics.alerts, [(1, 2), (2, 1), (2, 2), (3, 1)])
    await alerts.publish(alerts.topics.alerts_state, [(2, 2), (3, 1)])

    assert alerts.consume().returncode == 0

    assert by_alert(alerts.applied()) == {1: [2], 2: [1, 2], 3: [1]}


async def test_a_consumer_that_slept_for_too_long_catches_up(alerts: Alerts) -> None:
    """What the log lost meanwhile comes from the state, what it still holds from the log."""
    await alerts.publish(alerts.topics.alerts, [(1, 1), (2, 1)])
    assert alerts.consume().returncode == 0
    await alerts.publish(alerts.topics.alerts, [(1, 2), (3, 1)])
    await alerts.delete_log()
    await alerts.publish(alerts.topics.alerts, [(2, 2), (2, 3)])
    await alerts.publish(alerts.topics.alerts_state, [(1, 2), (2, 3), (3, 1)])

    assert alerts.consume().returncode == 0

    assert by_alert(alerts.applied()) == {1: [1, 2], 2: [1, 2, 3], 3: [1]}


async def test_the_consumer_waits_for_more(alerts: Alerts) -> None:
    """Without --once it goes on; a kill -9 while it waits loses nothing."""
    running = await asyncio.create_subprocess_exec(sys.executable, str(EXAMPLE), *alerts.arguments, cwd=ROOT)
    try:
        await alerts.publish(alerts.topics.alerts, FIRST[:3])
        await _until_applied(alerts, 3)
        await alerts.publish(alerts.topics.alerts, FIRST[3:])
        await _until_applied(alerts, 6)
    finally:
        running.kill()
    assert await running.wait() == -signal.SIGKILL

    assert by_alert(alerts.applied()) == {number: [1] for number in range(6)}


async def _until_applied(alerts: Alerts, count: int) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while not alerts.database.exists() or _count(alerts) < count:  # noqa: ASYNC110 -- another process does it
            await asyncio.sleep(0.1)


def _count(alerts: Alerts) -> int:
    try:
        return len(alerts.applied())
    except sqlite3.OperationalError:  # not made yet, or just being written
        return 0


async def test_an_unknown_schema_stops_the_consumer(alerts: Alerts) -> None:
    """It says so instead of passing over what it can't read, and moves no further."""
    producer = AIOKafkaProducer(bootstrap_servers=alerts.broker)
    await producer.start()
    await producer.send_and_wait(alerts.topics.alerts, value=b'{"schema": "tally.alert.v2"}')
    await producer.stop()

    for _ in range(2):
        done = alerts.consume()
        assert done.returncode == 1
        assert done.stderr.startswith("This is no tally.alert.v1")

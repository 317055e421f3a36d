"""`tally migrate`: from nothing to an installation, again and again, and never over another one."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError

from clickhouse.migrate import MIGRATIONS, migrate_store, pending_migrations
from schemas.errors import WrongUse
from tally.connect import open_store
from tally.kafka import client_settings
from tests.commands.log import alter_topic, delete_topics, partition_count, rows, topic_settings

if TYPE_CHECKING:
    from pathlib import Path

    from tally.settings import Settings
    from tests.commands.conftest import Tally

pytestmark = pytest.mark.servers

DAYS_35_MS = str(35 * 24 * 60 * 60 * 1000)
VIEWS = {"facts", "totals_hourly", "quantities_hourly", "duplicates", "rejected", "price_books", "adjustments"}


@pytest.fixture
def ready(installed: Tally) -> Tally:
    """The command line on an installation with one partition."""
    assert installed("migrate", "--partitions", "1").code == 0
    return installed


def test_everything_is_made_and_said(installed: Tally, settings: Settings) -> None:
    """One run makes the tables, the views and the six topics, and prints each of them."""
    answer = installed("migrate", "--format", "json")

    assert (answer.code, answer.stderr) == (0, "")
    assert answer.json["store"]["applied"] == sorted(path.name for path in MIGRATIONS.glob("*.sql"))
    topics = settings.topics
    assert {topic["topic"]: (topic["partitions"], topic["done"]) for topic in answer.json["topics"]} == {
        topics.events: (4, "created"),
        topics.priced: (4, "created"),
        topics.rejected: (4, "created"),
        topics.alerts: (4, "created"),
        topics.alerts_state: (4, "created"),
        topics.catalog: (1, "created"),
    }
    views = rows(settings, "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine = 'View'")
    assert {row["name"] for row in views} >= VIEWS


def test_twice_changes_nothing(installed: Tally) -> None:
    """A second run finds everything as it should be."""
    installed("migrate")

    answer = installed("migrate", "--format", "json")

    assert answer.code == 0
    assert answer.json["store"]["applied"] == []
    assert {topic["done"] for topic in answer.json["topics"]} == {"unchanged"}


def test_two_at_once_make_one_installation(installed: Tally, settings: Settings) -> None:
    """Both end well, and what they made is what one of them would have made."""
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: installed.apart("migrate", "--partitions", "3"), range(2)))

    assert [(answer.code, answer.stderr) for answer in answers] == [(0, "")] * 2
    assert partition_count(settings, settings.topics.priced) == 3
    assert installed("migrate", "--format", "json").json["store"]["applied"] == []


def test_the_topics_have_the_settings_that_the_promises_need(installed: Tally, settings: Settings) -> None:
    """The broker's clock, 35 days, room for a record too large to be accepted, no producer's compression."""
    installed("migrate")

    events = topic_settings(settings, settings.topics.events)
    assert events["message.timestamp.type"] == "LogAppendTime"
    assert events["retention.ms"] == DAYS_35_MS
    assert events["compression.type"] == "uncompressed"
    assert int(events["max.message.bytes"]) > 1024 * 1024 + 64 * 1024
    priced = topic_settings(settings, settings.topics.priced)
    assert (priced["message.timestamp.type"], priced["retention.ms"]) == ("LogAppendTime", DAYS_35_MS)
    assert int(priced["max.message.bytes"]) > 8 * 1024 * 1024
    assert topic_settings(settings, settings.topics.catalog)["cleanup.policy"] == "compact"


@pytest.mark.usefixtures("ready")
async def test_a_record_that_unfolds_beyond_the_limit_never_gets_into_the_log(settings: Settings) -> None:
    """50 MB of zeros are 50 kB of gzip: the broker unpacks before it judges, so no worker ever has to."""
    producer = AIOKafkaProducer(
        **client_settings(settings), compression_type="gzip", max_request_size=1 << 30, max_batch_size=1 << 27
    )
    await producer.start()
    try:
        with pytest.raises(MessageSizeTooLargeError):
            await producer.send_and_wait(settings.topics.events, b"0" * 50_000_000)
        sent = await producer.send_and_wait(settings.topics.events, b"0" * 1_500_000)
    finally:
        await producer.stop()

    assert sent.offset == 0


def test_a_topic_that_was_changed_is_corrected_and_keeps_the_rest(installed: Tally, settings: Settings) -> None:
    """What the promises need is set again; what an operator added beside it stays."""
    installed("migrate")
    alter_topic(settings, settings.topics.events, {"retention.ms": "1000", "segment.ms": "3600000"})

    answer = installed("migrate", "--format", "json")

    done = {topic["topic"]: topic for topic in answer.json["topics"]}[settings.topics.events]
    assert done["done"] == "corrected"
    assert done["corrected"]["retention.ms"] == DAYS_35_MS
    now = topic_settings(settings, settings.topics.events)
    assert (now["retention.ms"], now["segment.ms"]) == (DAYS_35_MS, "3600000")


def test_the_partition_count_of_the_priced_topic_never_changes(installed: Tally, settings: Settings) -> None:
    """An org must stay in its partition: another count is refused, the same one and none are fine."""
    installed("migrate", "--partitions", "2")

    refused = installed("migrate", "--partitions", "3")

    assert (refused.code, refused.stdout) == (2, "")
    assert "has 2 partitions and can't get 3" in refused.sentence
    assert partition_count(settings, settings.topics.priced) == 2
    assert installed("migrate", "--partitions", "2").code == 0
    assert installed("migrate").code == 0


def test_a_lost_topic_comes_back_with_the_recorded_partition_count(installed: Tally, settings: Settings) -> None:
    """The store knows the count, so a default of another release can't slip in."""
    installed("migrate", "--partitions", "2")
    delete_topics(settings, settings.topics.priced)

    assert installed("migrate", "--partitions", "4").code == 2
    assert installed("migrate").code == 0

    assert partition_count(settings, settings.topics.priced) == 2


def test_a_database_of_another_topic_prefix_is_refused(installed: Tally) -> None:
    """One database holds one installation."""
    installed("migrate")

    refused = installed.given(topic_prefix="other.")("migrate")

    assert refused.code == 2
    assert "TALLY_TOPIC_PREFIX" in refused.sentence


def test_a_database_that_was_filled_from_other_topics_is_refused(installed: Tally, settings: Settings) -> None:
    """The same prefix on another broker with another partition count can't be the same log."""
    installed("migrate", "--partitions", "2")
    delete_topics(settings, settings.topics.priced)
    fresh = installed.given(store_url=settings.store_url.get_secret_value() + "b")
    assert fresh("migrate", "--partitions", "3").code == 0

    refused = installed("migrate")

    assert refused.code == 2
    assert "filled from 2 partitions" in refused.sentence


def test_the_raw_topic_may_grow(installed: Tally, settings: Settings) -> None:
    """Producers may have made it smaller before: it gets at least as many partitions as the priced one."""
    installed("migrate", "--partitions", "1")
    delete_topics(settings, settings.topics.priced, settings.topics.rejected)
    fresh = installed.given(store_url=settings.store_url.get_secret_value() + "b")

    assert fresh("migrate", "--partitions", "3").code == 0

    assert partition_count(settings, settings.topics.events) == 3


def test_a_database_is_made_when_it_is_missing(installed: Tally, settings: Settings) -> None:
    """`TALLY_STORE_URL` may name a database that is not there yet."""
    url = settings.store_url.get_secret_value() + "_new"

    answer = installed.given(store_url=url)("migrate", "--format", "json")

    assert answer.code == 0
    assert answer.json["store"]["database_created"] is True
    assert installed.given(store_url=url)("migrate", "--format", "json").json["store"]["database_created"] is False


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the migrations that may be edited."""
    copied = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, copied)
    return copied


def test_a_migration_that_was_edited_is_refused(installed: Tally, settings: Settings, folder: Path) -> None:
    """History is frozen text: the sentence names the file, and nothing is applied."""
    installed("migrate")
    first = min(folder.glob("*.sql"))
    first.write_text(first.read_text(encoding="utf-8") + "-- a small edit\n", encoding="utf-8")
    (folder / "999_new.sql").write_text("CREATE TABLE never (a UInt8) ENGINE = Memory;", encoding="utf-8")

    with closing(open_store(settings)) as store, pytest.raises(WrongUse, match=first.name):
        migrate_store(store, folder=folder)

    assert rows(settings, "EXISTS TABLE never") == [{"result": 0}]


def test_a_store_of_a_newer_version_is_refused(installed: Tally, settings: Settings, folder: Path) -> None:
    """A migration that this version does not know means that this version is too old."""
    installed("migrate")
    max(folder.glob("*.sql")).unlink()

    with closing(open_store(settings)) as store, pytest.raises(WrongUse, match="newer"):
        migrate_store(store, folder=folder)


def test_a_new_migration_is_applied_alone(installed: Tally, settings: Settings, folder: Path) -> None:
    """An upgrade runs what is pending and nothing else; until then it is known as pending."""
    installed("migrate")
    (folder / "999_new.sql").write_text("CREATE TABLE added (a UInt8) ENGINE = Memory;", encoding="utf-8")

    with closing(open_store(settings)) as store:
        assert pending_migrations(store, folder=folder) == ("999_new.sql",)
        done = migrate_store(store, folder=folder)
        assert pending_migrations(store, folder=folder) == ()

    assert done.applied == ("999_new.sql",)
    assert rows(settings, "EXISTS TABLE added") == [{"result": 1}]


def test_a_migration_that_fails_half_way_is_finished_by_the_next_run(
    installed: Tally, settings: Settings, folder: Path
) -> None:
    """What ran stays, the failure is one sentence, and the corrected file is applied as a whole."""
    installed("migrate")
    path = folder / "999_new.sql"
    good = "CREATE TABLE IF NOT EXISTS first (a UInt8) ENGINE = Memory;\n"
    path.write_text(good + "CREATE TABLE second (a NoSuchType) ENGINE = Memory;", encoding="utf-8")
    with closing(open_store(settings)) as store, pytest.raises(WrongUse, match="NoSuchType"):
        migrate_store(store, folder=folder)

    path.write_text(good + "CREATE TABLE IF NOT EXISTS second (a UInt8) ENGINE = Memory;", encoding="utf-8")
    with closing(open_store(settings)) as store:
        done = migrate_store(store, folder=folder)

    assert done.applied == ("999_new.sql",)
    assert rows(settings, "EXISTS TABLE second") == [{"result": 1}]

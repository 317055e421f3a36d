"""Reads alerts into SQLite, each transition applied exactly once; copy it and put your own work into ``apply``.

    python alert_consumer.py --bootstrap 127.0.0.1:9092 --database alerts.db

Needs Python 3.11 and aiokafka. It may be killed at any moment and started again:

* Kafka delivers each transition at least once, so what is applied is told apart by ``alert_id`` and ``sequence``.
* What is applied and how far the log was read are written in one transaction, so neither can be without the other.
* The first start, and one whose place in the log is gone, reads all that the log holds and fills in from
  ``usage.alerts.state``, which has the latest transition of every alert: also of those that the log no longer has.

One process reads all partitions; the group protocol is not used, since the positions stand in the database.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import sys
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

LOG = "usage.alerts"
STATE = "usage.alerts.state"
SCHEMA = "tally.alert.v1"

TABLES = """
CREATE TABLE IF NOT EXISTS transitions (
    alert_id TEXT, sequence INTEGER, transition TEXT, org TEXT, rule TEXT, value TEXT, body TEXT,
    PRIMARY KEY (alert_id, sequence)
);
CREATE TABLE IF NOT EXISTS alerts (alert_id TEXT PRIMARY KEY, sequence INTEGER, transition TEXT, body TEXT);
CREATE TABLE IF NOT EXISTS positions (partition INTEGER PRIMARY KEY, next_offset INTEGER);
"""


def apply(database: sqlite3.Connection, alert: dict[str, Any], body: str) -> None:
    """Your work: called once per transition, in the transaction that also moves the position.

    What can't be undone with the transaction (a mail, a call) belongs into a table here and is done from there, with
    ``alert_id`` and ``sequence`` as its idempotency key.
    """
    database.execute(
        "INSERT INTO transitions VALUES (?, ?, ?, ?, ?, ?, ?)",
        [*(alert[name] for name in ("alert_id", "sequence", "transition", "org", "rule", "value")), body],
    )


def take(database: sqlite3.Connection, records: Iterable[Any]) -> None:
    """Applies what is new of these records. A sequence at or under the known one is a repeat."""
    for record in records:
        body = record.value.decode()
        alert = json.loads(body)
        if alert["schema"] != SCHEMA:
            raise SystemExit(f"This is no {SCHEMA}, see the changelog before reading on: {body[:200]}")
        known = database.execute("SELECT sequence FROM alerts WHERE alert_id = ?", [alert["alert_id"]]).fetchone()
        if known is None or alert["sequence"] > known[0]:
            apply(database, alert, body)
            database.execute(
                "INSERT OR REPLACE INTO alerts VALUES (?, ?, ?, ?)",
                [alert["alert_id"], alert["sequence"], alert["transition"], body],
            )


def take_and_move(database: sqlite3.Connection, records: list[Any], positions: dict[int, int]) -> None:
    """One transaction: what is new of these records, and which offset of each partition is read next."""
    with database:
        take(database, records)
        database.executemany("INSERT OR REPLACE INTO positions VALUES (?, ?)", positions.items())


async def begin(log: AIOKafkaConsumer, database: sqlite3.Connection, *, bootstrap: str, state_topic: str) -> None:
    """Goes to where the log was left; when that place is gone, or there is none, everything is read once."""
    places = list(log.assignment())
    begins, ends = await log.beginning_offsets(places), await log.end_offsets(places)
    positions = dict(database.execute("SELECT partition, next_offset FROM positions"))
    if all(begins[place] <= positions.get(place.partition, -1) <= ends[place] for place in places):
        for place in places:
            log.seek(place, positions[place.partition])
        return
    # The state first: what it tells is then either in the log up to its end, or no longer in it. It is applied last,
    # so that no transition which the log still holds is passed over. Without positions a kill repeats all of this.
    async with reading(bootstrap, state_topic) as state:
        latest = [record async for records in until_the_end(state) for record in records]
    await log.seek_to_beginning(*places)
    async for records in until_the_end(log):
        take_and_move(database, records, {})
    take_and_move(database, latest, {place.partition: await log.position(place) for place in places})


async def follow(log: AIOKafkaConsumer, database: sqlite3.Connection, *, once: bool) -> None:
    """Takes what comes, one transaction per partition and poll; with ``once`` up to the present end."""
    async for records in until_the_end(log):
        take_and_move(database, records, after(records))
    while not once:
        for records in (await log.getmany(timeout_ms=1000)).values():
            take_and_move(database, records, after(records))


def after(records: list[Any]) -> dict[int, int]:
    """The position after records of one partition."""
    return {records[-1].partition: records[-1].offset + 1}


async def until_the_end(consumer: AIOKafkaConsumer) -> AsyncIterator[list[Any]]:
    """The records of each partition, up to the ends that they have now."""
    ends = await consumer.end_offsets(list(consumer.assignment()))
    while any([await consumer.position(place) < end for place, end in ends.items()]):
        for records in (await consumer.getmany(timeout_ms=1000)).values():
            yield records


@asynccontextmanager
async def reading(bootstrap: str, topic: str) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of all partitions of a topic, from their beginning unless it is moved; it commits nothing."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, group_id=None, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def consume(bootstrap: str, path: str, *, prefix: str = "", once: bool = False) -> None:
    """Reads alerts into the database at ``path``; with ``once`` only what is there now."""
    with closing(sqlite3.connect(path)) as database:
        database.executescript(TABLES)
        async with reading(bootstrap, prefix + LOG) as log:
            await begin(log, database, bootstrap=bootstrap, state_topic=prefix + STATE)
            await follow(log, database, once=once)


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bootstrap", default="127.0.0.1:9092", help="Kafka's address")
    parser.add_argument("--database", default="alerts.db", help="the SQLite file")
    parser.add_argument("--prefix", default="", help="TALLY_TOPIC_PREFIX of the installation")
    parser.add_argument("--once", action="store_true", help="stop at the present end instead of waiting for more")
    given = parser.parse_args(arguments)
    asyncio.run(consume(given.bootstrap, given.database, prefix=given.prefix, once=given.once))


if __name__ == "__main__":
    main(sys.argv[1:])

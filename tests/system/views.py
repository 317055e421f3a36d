"""The public views and ``usage.rejected`` as an outsider reads them: plain SQL over HTTP, and a Kafka consumer."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import urllib3
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from tests.system.oracle import Appended, Place

if TYPE_CHECKING:
    from collections.abc import Iterator

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
NUMBER_HEADER: Final = "number"
READ_SECONDS_MAX: Final = 180.0

LANE: Final = "org, project, api_key, environment, user, operation, provider, model"


class Fact(NamedTuple):
    """A row of ``facts``."""

    org: str
    source: str
    id: str
    place: Place
    content: tuple[datetime, str, str, str, str, str, str, str, str, str]
    usage: dict[str, Decimal]
    received_at: datetime
    cost: Decimal | None
    pricing: str


class Repeat(NamedTuple):
    """A row of ``duplicates``."""

    kind: str
    identity: tuple[str, str, str]
    time: datetime
    place: Place
    first: Place


class Reject(NamedTuple):
    """A row of ``rejected``, or a message of ``usage.rejected``."""

    place: Place
    reason: str
    org: str
    id: str
    received_at: datetime
    sha256: str


@dataclass(frozen=True)
class Views:
    """All that a reader sees."""

    facts: list[Fact]
    repeats: list[Repeat]
    rejected: list[Reject]
    totals: list[tuple[tuple[tuple[str, ...], datetime], tuple[int, int, int, Decimal, int]]]
    quantities: list[tuple[tuple[tuple[str, ...], datetime, str], tuple[Decimal, Decimal | None]]]
    rejected_topic: list[Reject]  # the first message of each key
    rejected_keys: list[tuple[str, Place]]
    rejected_contradictions: list[str]  # keys whose messages differ


def rows(store_url: str, sql: str) -> Iterator[list[Any]]:
    """The rows of a query, decimals as strings."""
    parts = urlsplit(store_url)
    url = urlunsplit(parts._replace(path="/", query=f"database={parts.path.strip('/')}"))
    with urllib3.PoolManager() as pool:
        answer = pool.request("POST", url, body=f"{sql} FORMAT JSONCompactEachRow".encode(), retries=False)
    assert answer.status == 200, answer.data.decode("utf-8", "replace")
    for line in answer.data.splitlines():
        yield json.loads(line)


def read_views(store_url: str, *, bootstrap: str, rejected_topic: str) -> Views:
    """Everything, read once."""
    first: dict[Place, Reject] = {}
    keys, contradictions = [], []
    bodies: dict[str, bytes] = {}
    for message in messages(bootstrap, rejected_topic):
        key, body = message.key().decode(), message.value()
        if bodies.setdefault(key, body) != body:
            contradictions.append(key)
        reject = _message(json.loads(body))
        first.setdefault(reject.place, reject)
        keys.append((key, reject.place))
    return Views(
        facts=[_fact(row) for row in rows(store_url, _FACTS)],
        repeats=[_repeat(row) for row in rows(store_url, _DUPLICATES)],
        rejected=[_reject(row) for row in rows(store_url, _REJECTED)],
        totals=[
            (
                (tuple(row[:8]), _instant(row[8])),
                (int(row[9]), int(row[10]), int(row[11]), Decimal(row[12]), int(row[13])),
            )
            for row in rows(store_url, _TOTALS)
        ],
        quantities=[
            ((tuple(row[:8]), _instant(row[8]), row[9]), (Decimal(row[10]), _decimal(row[11])))
            for row in rows(store_url, _QUANTITIES)
        ],
        rejected_topic=list(first.values()),
        rejected_keys=keys,
        rejected_contradictions=contradictions,
    )


def messages(bootstrap: str, topic: str) -> Iterator[Any]:
    """All committed messages of a topic up to its end as of now."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "reader-of-the-tests",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.message.max.bytes": 16 * 1024 * 1024,
            "log_level": 2,
        }
    )
    try:
        partitions = list(consumer.list_topics(topic, timeout=60).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
        remaining = set(partitions)
        deadline = time.monotonic() + READ_SECONDS_MAX
        while remaining:
            assert time.monotonic() < deadline, f"the end of {topic} was not reached within {READ_SECONDS_MAX} s"
            for message in consumer.consume(10_000, timeout=0.5):
                if message.error() is None:
                    yield message
                else:
                    assert message.error().code() == -191, message.error()  # the partition's end
                    remaining.discard(message.partition())
    finally:
        consumer.close()


def appended(bootstrap: str, topic: str) -> list[Appended]:
    """Every record that stands in the raw topic, by the number that the tests put into a header."""
    found = []
    for message in messages(bootstrap, topic):
        number = int(dict(message.headers())[NUMBER_HEADER])
        received_at = EPOCH + timedelta(milliseconds=message.timestamp()[1])
        found.append(Appended(number, message.partition(), message.offset(), received_at))
    return found


_FACTS: Final = """
SELECT org, source, id, partition, offset, index, toUnixTimestamp64Micro(time), project, api_key, environment, user,
    operation, provider, model, variant, status,
    mapKeys(usage), arrayMap(quantity -> toString(quantity), mapValues(usage)),
    toUnixTimestamp64Micro(received_at), toString(cost), pricing
FROM facts
"""
_DUPLICATES: Final = """
SELECT kind, org, source, id, toUnixTimestamp64Micro(time), partition, offset, index,
    first_partition, first_offset, first_index
FROM duplicates
"""
_REJECTED: Final = """
SELECT partition, offset, index, reason, org, id, toUnixTimestamp64Micro(received_at), payload_sha256 FROM rejected
"""
_TOTALS: Final = f"""
SELECT {LANE}, toUnixTimestamp(hour) * 1000000, requests, ok, failed, toString(cost), unpriced
FROM totals_hourly
"""  # noqa: S608 -- constants
_QUANTITIES: Final = f"""
SELECT {LANE}, toUnixTimestamp(hour) * 1000000 AS hour_us, meter, toString(sum(quantity)), toString(sum(cost))
FROM quantities_hourly
GROUP BY {LANE}, hour_us, meter
"""  # noqa: S608 -- constants


def _fact(row: list[Any]) -> Fact:
    return Fact(
        org=row[0],
        source=row[1],
        id=row[2],
        place=Place(int(row[3]), int(row[4]), int(row[5])),
        content=(_instant(row[6]), row[7], row[8], row[9], *row[10:16]),
        usage={name: Decimal(quantity) for name, quantity in zip(row[16], row[17], strict=True)},
        received_at=_instant(row[18]),
        cost=_decimal(row[19]),
        pricing=row[20],
    )


def _repeat(row: list[Any]) -> Repeat:
    places = [int(number) for number in row[5:]]
    return Repeat(row[0], (row[1], row[2], row[3]), _instant(row[4]), Place(*places[:3]), Place(*places[3:]))


def _reject(row: list[Any]) -> Reject:
    place = Place(int(row[0]), int(row[1]), int(row[2]))
    return Reject(place, row[3], row[4], row[5], _instant(row[6]), row[7])


def _message(fields: dict[str, Any]) -> Reject:
    return Reject(
        place=Place(fields["partition"], fields["offset"], fields["index"]),
        reason=fields["reason"],
        org=fields["org"],
        id=fields["id"],
        received_at=datetime.fromisoformat(fields["received_at"]),
        sha256=fields["payload_sha256"],
    )


def _instant(microseconds: str | int) -> datetime:
    return EPOCH + timedelta(microseconds=int(microseconds))


def _decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)

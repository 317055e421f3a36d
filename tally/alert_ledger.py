"""Two lists side by side, on disk: what the topics say of alerts, and what the store says; and where they differ.

A private SQLite database in a temporary file, gone with the connection: however many alerts there are, memory holds
SQLite's page cache. Of a message and of the message that a stored row makes only a digest is kept, of key and value.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, Self

from pipeline.judging.alerts import alert_messages
from tally.alert_audit import named_transition

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    import polars as pl

#: SQLite's page cache in KiB: what fits in never touches the disk.
CACHE_KIB: Final = 64 * 1024
DIGEST_BYTES: Final = 16
ALERT_ID: Final = re.compile(r"[0-9a-f]{32}")
SEQUENCE_MAX: Final = 2**32 - 1

_TABLES: Final = """
PRAGMA journal_mode = OFF;
CREATE TABLE stored (
    alert_id TEXT, sequence INTEGER, settled INTEGER, recorded_ms INTEGER, block_partition INTEGER, block INTEGER,
    digest BLOB, name TEXT, PRIMARY KEY (alert_id, sequence)
) WITHOUT ROWID;
CREATE TABLE log (
    alert_id TEXT, sequence INTEGER, digest BLOB, org TEXT, partition INTEGER, offset INTEGER, appended_ms INTEGER,
    PRIMARY KEY (alert_id, sequence, digest)
) WITHOUT ROWID;
CREATE TABLE state (
    key TEXT, partition INTEGER, alert_id TEXT, sequence INTEGER, digest BLOB, org TEXT, offset INTEGER,
    PRIMARY KEY (key, partition)
) WITHOUT ROWID;
-- SQLite takes the other columns from the row that has the maximum.
CREATE VIEW latest AS
    SELECT alert_id, max(sequence) AS sequence, name, block_partition, block, recorded_ms FROM stored
    WHERE settled GROUP BY alert_id;
"""

#: The questions. Each answers (place, name, block_partition, block, …) in an order that is always the same.
_MISSING_IN_LOG: Final = """
SELECT NULL, name, block_partition, block, alert_id, recorded_ms FROM stored
WHERE settled AND NOT EXISTS (
    SELECT 1 FROM log WHERE log.alert_id = stored.alert_id AND log.sequence = stored.sequence
)
ORDER BY block_partition, block, alert_id, sequence
"""
_CHANGED: Final = """
SELECT partition || '/' || offset, name, block_partition, block FROM {topic} JOIN stored USING (alert_id, sequence)
WHERE {topic}.digest != stored.digest ORDER BY partition, offset
"""
_NOT_STORED: Final = """
SELECT partition || '/' || offset, '', NULL, NULL FROM {topic}
WHERE :org IN ('', org) AND NOT EXISTS (
    SELECT 1 FROM stored WHERE stored.alert_id = {topic}.alert_id AND stored.sequence = {topic}.sequence
)
ORDER BY partition, offset
"""
_MISSING_IN_STATE: Final = """
SELECT NULL, name, block_partition, block, alert_id, recorded_ms FROM latest
WHERE NOT EXISTS (SELECT 1 FROM state WHERE state.key = latest.alert_id)
ORDER BY block_partition, block, alert_id
"""
_STALE: Final = """
SELECT state.partition || '/' || state.offset, latest.name, latest.block_partition, latest.block, state.partition
FROM latest
JOIN state ON state.alert_id = latest.alert_id
JOIN stored ON stored.alert_id = state.alert_id AND stored.sequence = state.sequence
WHERE state.sequence < latest.sequence AND state.digest = stored.digest
ORDER BY state.partition, state.offset
"""


class Message(Protocol):
    """A record as a reader of Kafka gets it."""

    @property
    def partition(self) -> int: ...  # noqa: D102
    @property
    def offset(self) -> int: ...  # noqa: D102
    @property
    def timestamp(self) -> int: ...  # noqa: D102 -- milliseconds since 1970
    @property
    def key(self) -> bytes | None: ...  # noqa: D102
    @property
    def value(self) -> bytes | None: ...  # noqa: D102


class Difference(NamedTuple):
    """One transition or message that is not as it should be."""

    place: str | None  # partition/offset, when it is a message
    name: str  # of the stored transition, "" when there is none
    block_partition: int | None
    block: int | None


class Absent(NamedTuple):
    """A stored transition of which no message was read."""

    difference: Difference
    alert_id: str
    recorded_ms: int


class _Said(NamedTuple):
    """What a message says of itself; id "" and sequence 0, which nothing stored has, when it is no alert."""

    alert_id: str = ""
    sequence: int = 0
    org: str = ""


class AlertLedger:
    """Takes in messages and stored transitions, then says where they differ. Leaving the ``with`` deletes it."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._database.executescript(_TABLES)
        self._database.execute("BEGIN")  # and never an end: a transaction for each row would take half of the time

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def take_log(self, messages: Sequence[Message]) -> None:
        """Messages of ``usage.alerts``; of equal ones the first is kept."""
        self._database.executemany(
            "INSERT OR IGNORE INTO log (alert_id, sequence, org, digest, partition, offset, appended_ms) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            ((*_said(one), _digest(one.key, one.value), one.partition, one.offset, one.timestamp) for one in messages),
        )

    def take_state(self, messages: Sequence[Message]) -> None:
        """Messages of ``usage.alerts.state``, in the order of their partition; the newest of a key is kept."""
        self._database.executemany(
            "INSERT OR REPLACE INTO state (key, alert_id, sequence, org, digest, partition, offset) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (_text(one.key or b""), *_said(one), _digest(one.key, one.value), one.partition, one.offset)
                for one in messages
            ),
        )

    def take_stored(self, alerts: pl.DataFrame, *, fences: Mapping[int, int]) -> None:
        """Stored transitions (ALERTS); those of blocks before the fence of their partition are settled."""
        self._database.executemany(
            "INSERT OR IGNORE INTO stored VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    row["alert_id"],
                    row["sequence"],
                    row["block"] < fences.get(row["block_partition"], 0),
                    int(row["recorded_at"].timestamp() * 1000),
                    row["block_partition"],
                    row["block"],
                    digest,
                    f"{row['alert_id']} {named_transition(row)}",
                )
                for row, digest in zip(alerts.iter_rows(named=True), _digests(alerts), strict=True)
            ),
        )

    def settled(self) -> int:
        """How many stored transitions are settled."""
        return self._number("SELECT count(*) FROM stored WHERE settled")

    def settled_alerts(self) -> int:
        """How many alerts have a settled transition."""
        return self._number("SELECT count(DISTINCT alert_id) FROM stored WHERE settled")

    def _number(self, sql: str) -> int:
        (number,) = self._database.execute(sql).fetchone()
        return int(number)

    def first_append_ms(self, partition: int, *, begin: int) -> int | None:
        """When the first message of ``usage.alerts`` at or after an offset was appended; None when there is none.

        A repeat of an earlier message does not count, so it may come out later than it was.
        """
        row = self._database.execute(
            "SELECT appended_ms FROM log WHERE partition = ? AND offset >= ? ORDER BY offset LIMIT 1",
            (partition, begin),
        ).fetchone()
        return None if row is None else int(row[0])

    def missing_in_log(self) -> Iterator[Absent]:
        """Settled transitions without a message in ``usage.alerts``."""
        return self._absent(_MISSING_IN_LOG)

    def missing_in_state(self) -> Iterator[Absent]:
        """The latest settled transitions of alerts of which ``usage.alerts.state`` has no message."""
        return self._absent(_MISSING_IN_STATE)

    def stale_in_state(self) -> Iterator[tuple[Difference, int]]:
        """Newest messages that an alert's settled transitions are beyond, named by the latest; and their partition."""
        for *difference, partition in self._database.execute(_STALE):
            yield Difference(*difference), partition

    def changed(self, topic: str) -> Iterator[Difference]:
        """Messages of the ``log`` or the ``state`` that are not what the stored transition of their name makes."""
        return map(Difference._make, self._database.execute(_CHANGED.format(topic=topic)))

    def not_stored(self, topic: str, *, org: str) -> Iterator[Difference]:
        """Messages of the ``log`` or the ``state`` without a stored transition; of one org, or of all ("")."""
        return map(Difference._make, self._database.execute(_NOT_STORED.format(topic=topic), {"org": org}))

    def _absent(self, sql: str) -> Iterator[Absent]:
        for *difference, alert_id, recorded_ms in self._database.execute(sql):
            yield Absent(Difference(*difference), alert_id, recorded_ms)


def _said(message: Message) -> _Said:
    try:
        value = json.loads(message.value or b"")
    except (ValueError, RecursionError):
        return _Said()
    if not isinstance(value, dict):
        return _Said()
    alert_id, sequence, org = (value.get(name) for name in ("alert_id", "sequence", "org"))
    if not isinstance(alert_id, str) or not ALERT_ID.fullmatch(alert_id):
        return _Said()
    if type(sequence) is not int or not 0 < sequence <= SEQUENCE_MAX:
        return _Said()
    return _Said(alert_id, sequence, _text(org.encode(errors="replace")) if isinstance(org, str) else "")


def _text(raw: bytes) -> str:
    """Different bytes become different texts."""
    return raw.decode(errors="backslashreplace")


def _digest(key: bytes | None, value: bytes | None) -> bytes:
    return hashlib.blake2b((key or b"") + b"\0" + (value or b""), digest_size=DIGEST_BYTES).digest()


def _digests(alerts: pl.DataFrame) -> Iterable[bytes]:
    try:
        return [_digest(key.encode(), value) for key, value in alert_messages(alerts)]
    except (ValueError, TypeError, AttributeError):
        if alerts.height == 1:
            return [b""]  # a damaged row makes no message: whatever stands in a topic is another
        return [digest for one in alerts.iter_slices(1) for digest in _digests(one)]

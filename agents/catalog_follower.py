"""Which price books and rule sets are in force: the newest revision of each name in ``usage.catalog``.

A record's key is the name, its value the book or set as JSON (``to_json`` of its model), and its headers say ``kind``,
``applied_at`` (when the revision was first in the log, by the broker's clock) and ``announced`` (all that
`tally catalog apply` does for a revision is done). A name without a value is no longer in force.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from schemas.catalog_values import read_instant, write_instant
from schemas.errors import BrokerUnavailable, LogBroken
from schemas.price_book import PriceBook
from schemas.rules import RuleSet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

#: A fetch that waits blocks the connection for the question after it, so none waits for long.
FETCH_WAIT_MS: Final = 50
RECORD_BYTES_MAX: Final = 16 * 1024 * 1024

PRICE_BOOK: Final = "price_book"
RULE_SET: Final = "rule_set"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One revision as applied. ``announced`` is False while an apply has not finished (or was killed)."""

    content: PriceBook | RuleSet
    applied_at: datetime
    announced: bool = True

    @property
    def kind(self) -> str:
        """``price_book`` or ``rule_set``."""
        return PRICE_BOOK if isinstance(self.content, PriceBook) else RULE_SET

    @property
    def name(self) -> str:
        """The name; a price book and a rule set never share one."""
        return self.content.name

    @property
    def revision(self) -> int:
        """Counts from 1 within the name."""
        return self.content.revision

    def headers(self) -> list[tuple[str, bytes]]:
        """The headers of the record; ``read_entry`` reads them back."""
        return [
            ("kind", self.kind.encode()),
            ("applied_at", write_instant(self.applied_at).encode()),
            ("announced", b"true" if self.announced else b"false"),
        ]


def read_entry(value: bytes, headers: Mapping[str, bytes], *, timestamp_ms: int) -> CatalogEntry:
    """The entry of one record. Without ``applied_at`` it was applied when the broker took the record.

    Raises:
        ValueError: it is neither a price book nor a rule set.
    """
    kind = headers.get("kind", b"").decode("ascii", "replace")
    models: dict[str, type[PriceBook | RuleSet]] = {PRICE_BOOK: PriceBook, RULE_SET: RuleSet}
    if kind not in models:
        raise ValueError(f"its kind is {kind!r}")
    applied_at = headers.get("applied_at")
    return CatalogEntry(
        content=models[kind].from_json(value),
        applied_at=append_time(timestamp_ms) if applied_at is None else read_instant(applied_at.decode("ascii")),
        announced=headers.get("announced") == b"true",
    )


def append_time(timestamp_ms: int) -> datetime:
    """The instant of a record's timestamp."""
    return _EPOCH + timedelta(milliseconds=timestamp_ms)


class CatalogFollower:
    """Follows ``usage.catalog`` without a group. One coroutine at a time may ask it.

    ``client`` holds the keyword arguments of any aiokafka client: address and login.
    """

    def __init__(self, topic: str, *, client: Mapping[str, Any]) -> None:
        self._partition = TopicPartition(topic, 0)
        self._client = client
        self._entries: dict[str, CatalogEntry] = {}
        self._books: tuple[PriceBook, ...] = ()
        self._rule_sets: tuple[RuleSet, ...] = ()
        self._unreadable: dict[str, tuple[int, str]] = {}  # offset and why, by name
        self._consumer: AIOKafkaConsumer | None = None
        self._next_offset = 0

    async def start(self) -> None:
        """Connects; the first question reads the whole topic.

        Raises:
            BrokerUnavailable: Kafka can't be reached.
        """
        self._consumer = AIOKafkaConsumer(
            **self._client,
            group_id=None,
            enable_auto_commit=False,
            isolation_level="read_committed",  # of an apply that was overtaken, nothing may be seen
            auto_offset_reset="earliest",
            fetch_max_wait_ms=FETCH_WAIT_MS,
            max_partition_fetch_bytes=RECORD_BYTES_MAX,
        )
        with self._ours():
            await self._consumer.start()
        self._consumer.assign([self._partition])
        self._consumer.pause(self._partition)

    async def stop(self) -> None:
        """Disconnects; safe to repeat."""
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            await consumer.stop()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def current(self) -> tuple[PriceBook, ...]:
        """The price books in force, by name, as of this call: reads to the topic's end first.

        One request when nothing has changed, and then the very same tuple as before.

        Raises:
            BrokerUnavailable: Kafka can't be reached; ask again.
            LogBroken: the topic was recreated, or the newest record of a name was not written by `tally`.
        """
        await self._catch_up()
        self._refuse_unreadable()
        return self._books

    async def current_rule_sets(self) -> tuple[RuleSet, ...]:
        """The rule sets in force, by name; otherwise like ``current``."""
        await self._catch_up()
        self._refuse_unreadable()
        return self._rule_sets

    async def entries(self) -> dict[str, CatalogEntry]:
        """Everything in force by name; like ``current``, but of a name that can't be read the last readable one."""
        await self._catch_up()
        return dict(self._entries)

    async def _catch_up(self) -> None:
        consumer = self._started()
        with self._ours():
            end = (await consumer.end_offsets([self._partition]))[self._partition]
            if end < self._next_offset:
                raise LogBroken(
                    f"{self._partition.topic} ends at offset {end}, before {self._next_offset}, which was read "
                    "already: it was recreated; stop the workers and apply the catalog again."
                )
            if end > self._next_offset:
                await self._read_to(consumer, end)

    def _started(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise RuntimeError("start() comes first")
        return self._consumer

    async def _read_to(self, consumer: AIOKafkaConsumer, end: int) -> None:
        entries, unreadable = dict(self._entries), dict(self._unreadable)
        consumer.seek(self._partition, self._next_offset)
        consumer.resume(self._partition)
        try:
            # Markers of transactions and what compaction removed move the position without a record.
            while (position := await consumer.position(self._partition)) < end:
                for records in (await consumer.getmany(self._partition, timeout_ms=FETCH_WAIT_MS)).values():
                    for record in records:
                        _take(record, entries=entries, unreadable=unreadable)
        finally:
            consumer.pause(self._partition)
        self._next_offset = position
        self._swap_in(entries)
        self._unreadable = unreadable

    def _swap_in(self, entries: dict[str, CatalogEntry]) -> None:
        contents = [entries[name].content for name in sorted(entries)]
        if contents != [self._entries[name].content for name in sorted(self._entries)]:
            self._books = tuple(content for content in contents if isinstance(content, PriceBook))
            self._rule_sets = tuple(content for content in contents if isinstance(content, RuleSet))
        self._entries = entries

    def _refuse_unreadable(self) -> None:
        for name, (offset, why) in self._unreadable.items():
            raise LogBroken(
                f"{self._partition.topic} holds no price book and no rule set at offset {offset} ({why}): apply "
                f"{name} again with `tally catalog apply`."
            )

    @contextmanager
    def _ours(self) -> Iterator[None]:
        try:
            yield
        except (KafkaError, TimeoutError, OSError) as error:
            raise BrokerUnavailable(
                f"Kafka at {self._client.get('bootstrap_servers')} can't be asked for {self._partition.topic} "
                f"({type(error).__name__}): start it (`tally broker`) or correct TALLY_KAFKA_BOOTSTRAP."
            ) from error


def _take(record: Any, *, entries: dict[str, CatalogEntry], unreadable: dict[str, tuple[int, str]]) -> None:
    """One record into what is in force. A lower revision than the known one comes from an apply that was overtaken."""
    name = (record.key or b"").decode("utf-8", "replace")
    unreadable.pop(name, None)
    if record.value is None:
        entries.pop(name, None)
        return
    try:
        entry = read_entry(record.value, dict(record.headers), timestamp_ms=record.timestamp)
    except ValueError as error:
        unreadable[name] = (record.offset, str(error).splitlines()[0])
        return
    if entry.name != name:
        unreadable[name] = (record.offset, f"it is {entry.name}")
        return
    known = entries.get(name)
    if known is None or entry.revision >= known.revision:
        entries[name] = entry

"""Looks into the log from the side: raw records by their coordinates, and where a partition begins and ends.

A consumer without a group: it moves no committed offset and takes part in no rebalance.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.errors import BrokerUnavailable
from schemas.records import RawRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: Records further apart than this are sought one by one instead of read through.
SEEK_BEYOND: Final = 2_000
#: A record that did not come within this is taken as no longer held (retention).
READ_SECONDS_MAX: Final = 10.0
FETCH_WAIT_MS: Final = 50


class RawLog:
    """Reads single records, and where partitions begin and end.

    Whatever it has assigned is paused unless it is being read: a fetch that waits for new records would hold up every
    other question on the same connection.
    """

    def __init__(self, kafka: Mapping[str, Any]) -> None:
        self._kafka = kafka
        self._consumer: AIOKafkaConsumer | None = None
        self._assigned: set[TopicPartition] = set()
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Connects."""
        consumer = AIOKafkaConsumer(
            **self._kafka,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            fetch_max_wait_ms=FETCH_WAIT_MS,
        )
        await consumer.start()
        self._consumer = consumer

    async def stop(self) -> None:
        """Closes the connection; safe to repeat."""
        if self._consumer is not None:
            await self._consumer.stop()
            self._consumer = None

    async def span(self, topic: str, partition: int) -> tuple[int, int]:
        """The first offset that a partition holds, and the one its next record will get."""
        return (await self.spans([(topic, partition)]))[topic, partition]

    async def spans(self, places: Iterable[tuple[str, int]]) -> dict[tuple[str, int], tuple[int, int]]:
        """Begin and end of many (topic, partition) in two requests."""
        wanted = [TopicPartition(topic, partition) for topic, partition in places]
        begins = await self._reader.beginning_offsets(wanted)
        ends = await self._reader.end_offsets(wanted)
        return {(place.topic, place.partition): (begins[place], ends[place]) for place in wanted}

    async def records(self, topic: str, places: Iterable[tuple[int, int]]) -> dict[tuple[int, int], RawRecord]:
        """The records at these (partition, offset); those that Kafka no longer holds are left out.

        Each must have been read before: where nothing ever stood, or only an aborted record at the end of the log,
        there would be nothing to wait for.

        Raises:
            BrokerUnavailable: nothing came within READ_SECONDS_MAX.
        """
        wanted: dict[int, set[int]] = {}
        for partition, offset in places:
            wanted.setdefault(partition, set()).add(offset)
        found: dict[tuple[int, int], RawRecord] = {}
        async with self._lock:
            spans = await self.spans((topic, partition) for partition in wanted)
            self._assign(TopicPartition(topic, partition) for partition in wanted)
            for partition, offsets in wanted.items():
                begin, end = spans[topic, partition]
                held = sorted(offset for offset in offsets if begin <= offset < end)
                await self._read_partition(TopicPartition(topic, partition), held, found)
        return found

    async def held(self, topic: str, partition: int, spans: Sequence[tuple[int, int]]) -> list[int]:
        """The offsets within ascending half-open spans that hold a committed record, ascending.

        There must be a committed record behind the last span, as there is behind a hole that was passed over.

        Raises:
            OffsetOutOfRangeError: the log no longer holds the first of the spans.
            BrokerUnavailable: nothing came within READ_SECONDS_MAX.
        """
        place, found, left = TopicPartition(topic, partition), list[int](), deque(spans)
        async with self._lock:
            self._assign([place])
            while left:
                self._reader.seek(place, left[0][0])
                self._reader.resume(place)
                try:
                    await self._look_through(place, left, found)
                finally:
                    self._reader.pause(place)
        return found

    async def _look_through(self, place: TopicPartition, left: deque[tuple[int, int]], found: list[int]) -> None:
        """Reads on while the next span is near; takes those that it has gone through off the left."""
        while left:
            answer = await self._reader.getmany(place, timeout_ms=int(READ_SECONDS_MAX * 1_000))
            offsets = [record.offset for record in answer.get(place, ())]
            if not offsets:
                raise BrokerUnavailable(f"Kafka gave no record of {place.topic} partition {place.partition}.")
            for start, end in left:
                found += offsets[bisect_left(offsets, start) : bisect_left(offsets, end)]
            while left and left[0][1] <= offsets[-1] + 1:
                left.popleft()
            if left and left[0][0] - offsets[-1] > SEEK_BEYOND:
                return

    @property
    def _reader(self) -> AIOKafkaConsumer:
        assert self._consumer is not None, "read after start"  # noqa: S101 -- a programmer's mistake
        return self._consumer

    def _assign(self, places: Iterable[TopicPartition]) -> None:
        wanted = self._assigned | set(places)
        if wanted != self._assigned:
            self._reader.assign(list(wanted))
            self._reader.pause(*wanted)
            self._assigned = wanted

    async def _read_partition(
        self, place: TopicPartition, offsets: list[int], found: dict[tuple[int, int], RawRecord]
    ) -> None:
        remaining = offsets
        while remaining:
            self._reader.seek(place, remaining[0])
            self._reader.resume(place)
            try:
                remaining = await self._read_run(place, remaining, found)
            finally:
                self._reader.pause(place)

    async def _read_run(
        self, place: TopicPartition, offsets: list[int], found: dict[tuple[int, int], RawRecord]
    ) -> list[int]:
        """Reads on from the first offset while the next ones are near; gives the offsets still to be sought."""
        wanted = set(offsets)
        while True:
            answer = await self._reader.getmany(place, timeout_ms=int(READ_SECONDS_MAX * 1_000))
            records = answer.get(place, [])
            if not records:  # a broker that is slow or away: what it holds must not be taken for gone
                raise BrokerUnavailable(f"Kafka gave no record of {place.topic} partition {place.partition}.")
            for record in records:
                if record.offset in wanted:
                    found[(place.partition, record.offset)] = RawRecord(
                        place.topic, place.partition, record.offset, record.timestamp, record.value, record.headers
                    )
            offsets = [offset for offset in offsets if offset > records[-1].offset]
            if not offsets or offsets[0] - records[-1].offset > SEEK_BEYOND:
                return offsets

"""``tally drain``: waits until everything that was sent before the call is counted, refused or known as a repeat.

A worker commits an offset of ``usage.events`` when the blocks and rejects of all records before it are acknowledged,
and one of ``usage.priced`` when all that came of the blocks before it is stored and published. So two waits are
enough: for the ends of the raw topic as of the call, then for the ends of the priced topic as of that moment.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiokafka import errors as kafka_errors

from tally.kafka import (
    LogView,
    admin,
    all_partitions,
    committed_offsets,
    readable_offsets,
    reader,
    run,
)
from tally.output import counted

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, TopicPartition
    from aiokafka.admin import AIOKafkaAdminClient

    from tally.settings import Settings

POLL_SECONDS: Final = 0.1
#: How long an offset stands still before it is asked whether anything but markers lies behind it.
STILL_SECONDS: Final = 0.5
RAW: Final = "read_uncommitted"  # an end counts what stands in open transactions too


@dataclass(frozen=True, slots=True)
class Drained:
    """How it ended: what is left of what had been sent before the call, in records by topic."""

    drained: bool
    lag: dict[str, int]
    seconds: float

    def answer(self) -> dict[str, Any]:
        """As JSON values."""
        return {"drained": self.drained, "lag": self.lag, "seconds": round(self.seconds, 3)}


def drain(settings: Settings, *, timeout_seconds: float) -> Drained:
    """Waits, at most ``timeout_seconds``; a broker that goes away meanwhile is waited for.

    Raises:
        BrokerUnavailable: Kafka can't be reached at the start, or is away when the time is over.
        WrongUse: a topic does not exist.
    """
    return run(settings, _drain(settings, timeout_seconds))


def why_not(settings: Settings, drained: Drained, *, timeout_seconds: float) -> str:
    """The sentence for a drain that timed out: what is left, and what to look at."""
    left = " and ".join(f"{counted(count, 'record')} of {topic}" for topic, count in drained.lag.items() if count)
    members = LogView(settings).live_members()
    hint = (
        f"look at the logs and the lag of the {counted(len(members), 'member')} of the group {settings.app_id}"
        if members
        else f"no worker is in the group {settings.app_id}, start `tally worker`"
    )
    return f"Not drained within {timeout_seconds:g} s, {left or 'not all'} left: {hint}."


async def _drain(settings: Settings, timeout_seconds: float) -> Drained:
    clock = asyncio.get_running_loop().time
    started = clock()
    lag: dict[str, int] = {}
    async with admin(settings) as client, reader(settings) as consumer, reader(settings, isolation=RAW) as ends:
        for topic in (settings.topics.events, settings.topics.priced):
            wanted = await all_partitions(settings, client, [topic])
            spans = _spans(await ends.beginning_offsets(wanted), await ends.end_offsets(wanted))
            wait = _Wait(settings, client, consumer, spans)
            await wait.until(started + timeout_seconds)
            lag[topic] = wait.records_left()
    return Drained(drained=not any(lag.values()), lag=lag, seconds=clock() - started)


def _spans(begins: dict[TopicPartition, int], ends: dict[TopicPartition, int]) -> dict[TopicPartition, tuple[int, int]]:
    return {partition: (begins[partition], end) for partition, end in ends.items() if end > begins[partition]}


class _Wait:
    """Waits for the committed offsets of one topic to reach their targets."""

    def __init__(
        self,
        settings: Settings,
        client: AIOKafkaAdminClient,
        consumer: AIOKafkaConsumer,
        spans: dict[TopicPartition, tuple[int, int]],
    ) -> None:
        self._group = settings.app_id
        self._client = client
        self._consumer = consumer
        self._targets = {partition: end for partition, (_, end) in spans.items()}
        self._committed = {partition: begin for partition, (begin, _) in spans.items()}
        self._still_since: dict[TopicPartition, float] = {}

    async def until(self, deadline: float) -> None:
        """Returns when nothing is left, or at the deadline (after one look at least)."""
        clock = asyncio.get_running_loop().time
        while True:
            try:
                await self._look(clock())
            except (kafka_errors.KafkaError, TimeoutError, OSError) as error:
                if clock() > deadline or not getattr(error, "retriable", True):
                    raise
            if not self._targets or clock() > deadline:
                return
            await asyncio.sleep(POLL_SECONDS)

    async def _look(self, now: float) -> None:
        committed = await committed_offsets(self._client, self._group, list(self._targets))
        for partition, target in list(self._targets.items()):
            offset = committed.get(partition, self._committed[partition])
            if offset != self._committed[partition] or partition not in self._still_since:
                self._committed[partition] = offset
                self._still_since[partition] = now
            if offset >= target or (
                now - self._still_since[partition] >= STILL_SECONDS and await self._only_markers(partition, target)
            ):
                del self._targets[partition]

    async def _only_markers(self, partition: TopicPartition, target: int) -> bool:
        """Whether nothing that could be read lies between the committed offset and the target."""
        self._still_since[partition] = asyncio.get_running_loop().time()  # asked again after another while
        stable = (await self._consumer.end_offsets([partition]))[partition]
        if stable < target:
            return False
        span = (self._committed[partition], target)
        return not await readable_offsets(self._consumer, partition, [span], at_most=1)

    def records_left(self) -> int:
        """Offsets that are still missing; a marker among them counts as one."""
        return sum(target - self._committed[partition] for partition, target in self._targets.items())

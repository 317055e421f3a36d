"""Looking into the log from the side while the broker is slow or away: a stand-in for its client."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from agents.raw_log import RawLog
from schemas.errors import BrokerUnavailable

if TYPE_CHECKING:
    from aiokafka import TopicPartition


class SlowReader:
    """A partition with ten records, of which the first question gets none in time."""

    def __init__(self) -> None:
        self._answers: list[list[int]] = [[], [4, 5]]

    async def beginning_offsets(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        """The first offset."""
        return dict.fromkeys(places, 0)

    async def end_offsets(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        """The next offset."""
        return dict.fromkeys(places, 10)

    async def getmany(self, place: TopicPartition, **_: Any) -> dict[TopicPartition, list[Any]]:
        """What came in time."""
        return {place: [_record(offset) for offset in self._answers.pop(0)]}

    def __getattr__(self, name: str) -> Any:
        """Assigning, seeking, pausing and resuming change nothing here."""
        assert name in {"assign", "seek", "pause", "resume"}
        return lambda *_: None


def _record(offset: int) -> Any:
    return SimpleNamespace(offset=offset, timestamp=0, value=b"{}", headers=())


def test_a_record_that_does_not_come_in_time_is_not_taken_for_gone() -> None:
    """Else a conflict would be published without its payload's digest, and again with it: one key, two bodies."""

    async def ask() -> list[int]:
        log = RawLog({})
        log._consumer = SlowReader()
        with pytest.raises(BrokerUnavailable):
            await log.records("usage.events", [(0, 5)])
        return [offset for _, offset in await log.records("usage.events", [(0, 5)])]

    assert asyncio.run(ask()) == [5]

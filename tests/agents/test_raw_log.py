"""Looking into the log from the side: what stands where, on the real broker."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from aiokafka.errors import OffsetOutOfRangeError

from agents import raw_log
from agents.raw_log import RawLog
from tally.kafka import client_settings, run
from tests.commands.log import delete_records, produce, produce_in_transaction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tally.settings import Settings
    from tests.commands.conftest import Tally

pytestmark = pytest.mark.servers


@pytest.fixture
def topic(installed: Tally, settings: Settings) -> str:
    """A topic with one partition."""
    assert installed("migrate", "--partitions", "1").code == 0
    return settings.topics.events


@asynccontextmanager
async def on(settings: Settings) -> AsyncIterator[RawLog]:
    """The log, looked at from the side."""
    log = RawLog(client_settings(settings))
    await log.start()
    try:
        yield log
    finally:
        await log.stop()


def fill(settings: Settings, topic: str) -> None:
    """Records at 0, 1, 4, 6, 7; an aborted one at 2; markers at 3 and 5."""
    produce(settings, topic, [b"a", b"b"])
    produce_in_transaction(settings, topic, [b"c"], commit=False)
    produce_in_transaction(settings, topic, [b"d"], commit=True)
    produce(settings, topic, [b"e", b"f"])


@pytest.mark.parametrize("seek_beyond", [0, 2_000])
def test_markers_and_aborted_records_hold_nothing(
    settings: Settings, topic: str, monkeypatch: pytest.MonkeyPatch, seek_beyond: int
) -> None:
    """Of any spans exactly the offsets are told that a worker gets to see, whether it reads on or seeks."""
    monkeypatch.setattr(raw_log, "SEEK_BEYOND", seek_beyond)
    fill(settings, topic)

    async def ask() -> list[list[int]]:
        async with on(settings) as log:
            spans = ([(2, 4), (5, 6)], [(0, 7)], [(1, 2), (3, 5)], [(2, 3)], [(0, 1), (6, 7)])
            return [await log.held(topic, 0, span) for span in spans]

    assert run(settings, ask()) == [[], [0, 1, 4, 6], [1, 4], [], [0, 6]]


def test_a_span_that_was_deleted_is_not_said_to_be_empty(settings: Settings, topic: str) -> None:
    """Nobody can tell any more what was there."""
    fill(settings, topic)
    delete_records(settings, topic, before=4)

    async def ask() -> None:
        async with on(settings) as log:
            assert await log.span(topic, 0) == (4, 8)
            with pytest.raises(OffsetOutOfRangeError):
                await log.held(topic, 0, [(2, 4)])

    run(settings, ask())

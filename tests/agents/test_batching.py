"""Batches: when they are worked off, in which order, and when their chunks are acked."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from agents.batching import Batcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LONG_SECONDS = 60.0


class Event:
    """A delivered chunk: its weight stands for its records."""

    def __init__(self, weight: int, *, generation: int = 1) -> None:
        self.value = SimpleNamespace(weight=weight, generation=generation)
        self.acked = False

    def ack(self) -> None:
        """Marks it."""
        self.acked = True


class Stream:
    """What Faust gives an agent, as a queue that tests fill."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Event] = asyncio.Queue()
        self.taken = 0

    def noack(self) -> Stream:
        """Acks are the batcher's business."""
        return self

    async def events(self) -> AsyncIterator[Event]:
        """For ever."""
        while True:
            event = await self.queue.get()
            self.taken += 1
            yield event


def _weight(chunk: Any) -> int:
    weight: int = chunk.weight
    return weight


class Rig:
    """A batcher at work on a stream; ``worked`` holds the weights of each batch."""

    def __init__(self, *, weight_max: int = 100, wait_seconds: float = LONG_SECONDS) -> None:
        self.app: Any = SimpleNamespace(consumer_generation_id=1, rebalancing=False, should_stop=False)
        self.stream = Stream()
        self.worked: list[list[int]] = []
        self.acked_before_work: list[bool] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.events: list[Event] = []
        self.passed_seconds = 0.0  # added to the clock
        self.batcher = Batcher(
            cast("Any", self.app),
            self._work,
            weight=_weight,
            weight_max=weight_max,
            wait_seconds=wait_seconds,
            now=lambda: time.monotonic() + self.passed_seconds,
        )
        self.task = asyncio.ensure_future(self.batcher.run(self.stream))

    async def _work(self, chunks: list[Any]) -> None:
        self.acked_before_work.append(any(event.acked for event in self.events if event.value in chunks))
        self.worked.append([chunk.weight for chunk in chunks])
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure

    def give(self, *events: Event) -> None:
        """Delivers chunks."""
        self.events += events
        for event in events:
            self.stream.queue.put_nowait(event)

    async def until(self, condition: Any) -> None:
        """Waits for something that must come."""
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 -- conditions of many kinds
                await asyncio.sleep(0.01)

    async def end(self) -> None:
        """Stops the batcher."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_a_batch_is_worked_off_when_it_is_heavy_enough() -> None:
    """The chunks come in the order of delivery, and are acked after the work."""
    rig = Rig(weight_max=3)

    rig.give(Event(1), Event(2))
    await rig.until(lambda: all(event.acked for event in rig.events))

    assert rig.worked == [[1, 2]]
    assert rig.acked_before_work == [False]
    await rig.end()


async def test_a_light_batch_is_worked_off_when_it_has_waited_long_enough() -> None:
    """Few events are not held back for more."""
    rig = Rig(weight_max=100, wait_seconds=0.05)

    rig.give(Event(1))
    await rig.until(lambda: rig.events[0].acked)

    assert rig.worked == [[1]]
    await rig.end()


async def test_what_waited_behind_the_batch_before_does_not_wait_again() -> None:
    """A chunk is held for so long since it came in, whatever the worker did meanwhile."""
    rig = Rig(weight_max=3, wait_seconds=LONG_SECONDS)
    rig.gate.clear()
    rig.give(Event(3))
    await rig.until(lambda: rig.worked)

    rig.give(Event(1))
    await rig.until(lambda: rig.stream.taken == 2)
    await asyncio.sleep(0)  # it is held now
    rig.passed_seconds = LONG_SECONDS
    rig.gate.set()
    await rig.until(lambda: rig.events[1].acked)

    assert rig.worked == [[3], [1]]
    await rig.end()


@pytest.mark.parametrize("reason", ["rebalancing", "should_stop"])
async def test_a_batch_is_worked_off_at_once_when_others_wait_for_it(reason: str) -> None:
    """The group can't go on before the chunks in flight are acked."""
    rig = Rig(weight_max=100, wait_seconds=LONG_SECONDS)
    rig.give(Event(1))
    await rig.until(lambda: rig.stream.taken)

    setattr(rig.app, reason, True)
    await rig.until(lambda: rig.events[0].acked)

    assert rig.worked == [[1]]
    await rig.end()


async def test_chunks_of_an_older_generation_are_neither_worked_off_nor_acked() -> None:
    """They were given up with their partitions and come again."""
    rig = Rig(weight_max=3)
    old, new = Event(1, generation=0), Event(2)

    rig.give(old, new)
    await rig.until(lambda: new.acked)

    assert rig.worked == [[2]]
    assert not old.acked
    await rig.end()


async def test_an_error_of_the_work_leaves_the_agent_and_acks_nothing() -> None:
    """The worker ends over it; the chunks are read again."""
    rig = Rig(weight_max=1)
    rig.failure = ValueError("a bug")

    rig.give(Event(1))
    async with asyncio.timeout(10):
        with pytest.raises(ValueError, match="a bug"):
            await rig.task

    assert not rig.events[0].acked


async def test_while_a_batch_is_worked_off_no_more_than_one_other_is_taken() -> None:
    """Back-pressure: what lies behind stays in the queue, so that fetching pauses and memory stays bounded."""
    rig = Rig(weight_max=2)
    rig.gate.clear()

    rig.give(*(Event(1) for _ in range(20)))
    await rig.until(lambda: rig.worked)
    await asyncio.sleep(0.2)

    assert rig.stream.taken <= 2 + 2 + 1
    rig.gate.set()
    await rig.until(lambda: all(event.acked for event in rig.events))
    await rig.end()


async def test_stopping_the_agent_acks_nothing_that_was_not_worked_off() -> None:
    """What is cancelled in the middle of its work is read again."""
    rig = Rig(weight_max=1)
    rig.gate.clear()
    rig.give(Event(1))
    await rig.until(lambda: rig.worked)

    await rig.end()

    assert not rig.events[0].acked

"""Holds chunks that came in until there are enough of them, or the oldest has waited long enough, then works them off.

A chunk is acked only after its batch was worked off; what is not acked is read again. When the group rebalances or
the worker stops, a batch is worked off at once, because the group waits for it.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agents.chunks import Chunk, ChunkApp

HURRY_SECONDS = 0.05


class Batcher:
    """Collects the chunk events of one agent. ``work`` gets the chunks of a batch in the order they came in.

    What came in while the batch before was worked off has waited that long already: a worker that is busy does not
    wait on top of it.
    """

    def __init__(  # noqa: PLR0913 -- what it collects, and how long
        self,
        app: ChunkApp,
        work: Callable[[list[Chunk]], Awaitable[None]],
        *,
        weight: Callable[[Chunk], int],
        weight_max: int,
        wait_seconds: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._work = work
        self._weight = weight
        self._weight_max = weight_max
        self._wait_seconds = wait_seconds
        self._now = now
        self._since = 0.0  # when the oldest chunk held came in
        self._events: list[Any] = []
        self._held = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def run(self, stream: Any) -> None:
        """Reads the agent's stream for ever. An exception of ``work`` leaves the agent and ends the worker."""
        worker = asyncio.ensure_future(self._work_off())
        reader = asyncio.ensure_future(self._read(stream))
        try:
            done, _ = await asyncio.wait({worker, reader}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            worker.cancel()
            reader.cancel()

    async def _read(self, stream: Any) -> None:
        async for event in stream.noack().events():
            await self._room.wait()  # back-pressure: the queue behind fills up and fetching pauses
            if not self._events:
                self._since = self._now()
            self._events.append(event)
            self._held += self._weight(event.value)
            if self._held >= self._weight_max:
                self._room.clear()
            self._arrived.set()

    async def _work_off(self) -> None:
        while True:
            await self._arrived.wait()
            await self._until_due()
            events, self._events, self._held = self._events, [], 0
            self._arrived.clear()
            self._room.set()
            # A rebalance gives every partition up and reads on from the commits: what an older generation delivered
            # comes again, here or elsewhere.
            current = [event for event in events if event.value.generation == self._app.consumer_generation_id]
            if current:
                await self._work([event.value for event in current])
            for event in current:
                event.ack()

    async def _until_due(self) -> None:
        due = self._since + self._wait_seconds
        while (left := due - self._now()) > 0 and self._held < self._weight_max:
            if self._app.rebalancing or self._app.should_stop:
                return
            await asyncio.sleep(min(HURRY_SECONDS, left))

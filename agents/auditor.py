"""The auditor: one worker of the group proves the newest books again and again, and shows two figures.

    positions of the log → what is priced is counted → raw records accounted for → totals are their facts → gauges

It is the worker that counts partition 0 of ``usage.priced``. It looks at what was read and counted since its last pass,
and always at the last offsets and blocks; ``tally audit`` proves all of it. A pass that is too much for one round is
continued in the next, so that the store is never busy with it for long. What was found wrong stays in sight.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from clickhouse.audit import Fence, Figures, check_raw_records, check_totals, recent_slices
from clickhouse.client import Store
from schemas.errors import TallyError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clickhouse.audit import LogView, Position, Slice
    from clickhouse.client import StoreAddress
    from schemas.topics import Topics

log = structlog.get_logger()

#: What every pass looks at, however little came since the last: by partition.
RAW_OFFSETS: Final = 100_000
BLOCKS: Final = 1_000
#: Facts and totals that one round compares at most, give or take an hour of an org.
ROWS_PER_ROUND: Final = 2_000_000
QUESTION_SECONDS_MAX: Final = 60.0
COUNTED_SECONDS_MAX: Final = 30.0
POLL_SECONDS: Final = 0.5


class _Proved(NamedTuple):
    """Up to where both logs were looked at, by partition."""

    raw: Mapping[int, int]
    blocks: Mapping[int, int]


class Auditor:
    """Goes round the newest books; ``figures`` are of the last whole pass, or of this one once it has found more."""

    def __init__(
        self, address: StoreAddress, *, topics: Topics, log_view: LogView, should_stop: Callable[[], bool]
    ) -> None:
        self._address = address
        self._topics = topics
        self._log_view = log_view
        self._should_stop = should_stop
        self._left: deque[tuple[Slice, int]] = deque()  # of this pass, with their rows
        self.forget()

    def forget(self) -> None:
        """Begins anew, when another worker has been the auditor meanwhile."""
        self.figures = self._found = Figures()  # _found: by this pass so far
        self._left.clear()
        self._proved = self._reached = _Proved({}, {})  # by the passes before, and once this one is over

    def round(self) -> bool:
        """Goes on with the pass, or begins one; False when it was put off because counting is behind.

        Raises:
            TallyError: a server is away or refused; the next round goes on where this one was.
        """
        with closing(Store(self._address, timeout_seconds=QUESTION_SECONDS_MAX)) as store:
            if not self._left:
                self._found = Figures()
                if not self._begin(store):
                    return False
            self._compare(store)
        if not self._left:
            self.figures = self._found
            if self.figures.are_zero:  # else what is wrong would be out of sight after a while
                self._proved = self._reached
        else:
            self.figures = max(
                self.figures, self._found, key=lambda found: (found.unaccounted_events, found.drift_cost)
            )
        return True

    def _begin(self, store: Store) -> bool:
        """The raw records, and which totals to compare: in this order, so that nothing is judged before it is there."""
        raw = self._log_view.positions(self._topics.events)
        if not self._wait_until_counted():
            return False
        blocks = self._fence().blocks
        self._reached = _Proved({partition: at.committed for partition, at in raw.items()}, blocks)
        window = {partition: _Window(self._begin_of(partition, at), at.committed) for partition, at in raw.items()}
        _, events = check_raw_records(store, topic=self._topics.events, positions=window, held=self._log_view.held)
        self._found = Figures(unaccounted_events=events)
        since = {
            partition: min(max(0, block - BLOCKS), self._proved.blocks.get(partition, block))
            for partition, block in blocks.items()
        }
        self._left.extend(recent_slices(store, since=Fence(since, live=True)))
        return True

    def _begin_of(self, partition: int, at: Position) -> int:
        start = min(at.committed - RAW_OFFSETS, self._proved.raw.get(partition, at.committed))
        return min(max(at.begin, start), at.committed)

    def _wait_until_counted(self) -> bool:
        """Whether the blocks that are in the log now are committed, or were within a while."""
        ends = {partition: at.end for partition, at in self._log_view.positions(self._topics.priced).items()}
        deadline = time.monotonic() + COUNTED_SECONDS_MAX
        while not self._should_stop() and time.monotonic() < deadline:
            positions = self._log_view.positions(self._topics.priced)
            if all(positions[partition].committed >= end for partition, end in ends.items()):
                return True
            time.sleep(POLL_SECONDS)
        return False

    def _compare(self, store: Store) -> None:
        rows_left = ROWS_PER_ROUND
        while self._left and rows_left > 0 and not self._should_stop():
            one, rows = self._left[0]
            _, _, drift = check_totals(store, within=[one], fence=self._fence(), next_fence=self._fence)
            self._left.popleft()
            self._found += Figures(drift_cost=drift)
            rows_left -= rows

    def _fence(self) -> Fence:
        positions = self._log_view.positions(self._topics.priced)
        return Fence({partition: at.committed for partition, at in positions.items()}, live=True)


@dataclass(frozen=True, slots=True)
class _Window:
    """A part of a partition, as the audit looks at one."""

    begin: int
    committed: int

    @property
    def end(self) -> int:
        return self.committed


async def audit_now_and_then(
    auditor: Auditor, *, seconds: float, is_mine: Callable[[], bool], show: Callable[[Figures, float], None]
) -> None:
    """A round every ``seconds`` while this worker is the auditor; ``show`` gets the figures and when they were found.

    Whoever is not the auditor, or no longer, shows zeros and no time. Trouble is logged and tried again; it never ends
    a worker.
    """
    while True:
        await asyncio.sleep(seconds)
        if not is_mine():
            auditor.forget()
            show(Figures(), 0.0)
            continue
        started = time.monotonic()
        try:
            is_done = await asyncio.to_thread(auditor.round)
        except TallyError as error:
            log.warning("audit_failed", error=str(error))
            continue
        if not is_done:
            log.info("audit_put_off", reason="counting is behind")
            continue
        figures = auditor.figures
        show(figures, time.time())
        say = log.info if figures.are_zero else log.error
        say(
            "books_audited",
            balanced=figures.are_zero,
            unaccounted_events=figures.unaccounted_events,
            drift_cost=str(figures.drift_cost),
            duration_seconds=round(time.monotonic() - started, 3),
        )

"""The offset tracker of the chunk transport: whatever is acked, in whatever order, nothing unprocessed is committed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import pytest
from faust.types import TP
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.chunks import ChunkApp, ChunkConsumer
from schemas.errors import LogBroken

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agents.chunks import ChunkMessage

A: Final = TP("usage.events", 0)
B: Final = TP("usage.events", 1)

Step = tuple[Any, ...]
Hook = Callable[[], Coroutine[Any, Any, object]]


class ConsumerOnALog(ChunkConsumer):
    """The real consumer on a log and a group that are dictionaries: what it fetches, seeks and commits goes there."""

    def __init__(self, app: ChunkApp, log: Mapping[TP, Sequence[int]]) -> None:
        super().__init__(app.transport, _ignore, on_partitions_revoked=self._revoke, on_partitions_assigned=_ignore)
        self._thread.thread_loop.close()  # nobody starts the thread here
        self.log_of = log
        self.positions = dict.fromkeys(log, 0)
        self.commits: dict[TP, int] = {}
        self.fetch_records_max = 6
        self.before: Hook = _ignore  # what happens before the next fetch, while it is waited for
        self.after: Hook = _ignore  # and after it
        self.during_seek: Hook = _ignore  # what happens between a seek's first and last partition
        self._set_active_tps(set(log))

    async def _wait_next_records(self, timeout: float) -> tuple[Any, Any]:  # noqa: ASYNC109 -- Faust's signature
        _ = timeout
        before, self.before = self.before, _ignore
        await before()
        records = self._fetched()
        after, self.after = self.after, _ignore
        await after()
        return records, set(self.log_of)

    def _fetched(self) -> dict[TP, list[Any]]:
        found = {}
        for tp, offsets in self.log_of.items():
            run = [offset for offset in offsets if offset >= self.positions[tp]][: self.fetch_records_max]
            if run:
                found[tp] = [SimpleNamespace(offset=offset, timestamp=0) for offset in run]
                self.positions[tp] = run[-1] + 1
        return found

    async def seek_to_committed(self) -> Mapping[TP, int | None]:
        """Back to the commits, and to the beginning without one."""
        self.positions = {tp: self.commits.get(tp, 0) for tp in self.log_of}
        during_seek, self.during_seek = self.during_seek, _ignore
        await during_seek()
        return {tp: self.commits.get(tp) for tp in self.log_of}

    async def _revoke(self, _revoked: set[TP]) -> None:
        self.stop_flow()
        await self.commit()

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:  # noqa: FBT001, FBT002 -- Faust's signature
        _ = start_new_transaction
        for tp, offset in offsets.items():
            assert offset >= self.commits.get(tp, 0), "a commit went back"
            self.commits[tp] = offset
            self._committed_offset[tp] = offset
        return True

    def assignment(self) -> set[TP]:
        """Both partitions."""
        return set(self.log_of)

    def highwater(self, tp: TP) -> int:
        """The log's end."""
        return self.log_of[tp][-1] + 1 if self.log_of[tp] else 0


class Driver:
    """Takes a consumer through deliveries, acks and rebalances, and remembers what was really worked off."""

    def __init__(self, log: Mapping[TP, Sequence[int]], *, chunk_records_max: int = 2) -> None:
        self.app = ChunkApp("tracker", broker="kafka://127.0.0.1:9", store="memory://", autodiscover=False)
        self.app.chunk_records_max = chunk_records_max
        self.app.positioned = _ignore
        self.app.passed_over = self._passed_over
        self.app.finalize()
        self.log = log
        self.consumer = ConsumerOnALog(self.app, log)
        self.outstanding: list[tuple[ChunkMessage, list[int]]] = []
        self.worked_off: set[tuple[TP, int]] = set()
        self.reported: set[tuple[TP, int]] = set()
        self.skipped: list[tuple[TP, int]] = []

    async def deliver(self, *, messages_max: int = 100, then_rebalance: bool = False) -> None:
        """One fetch; after so many chunks of it the group rebalances, if wanted."""
        async for tp, message in self.consumer.getmany(timeout=1.0):
            offsets = [record.offset for record in message.value.records]
            self.outstanding.append((message, offsets))
            empty = {(tp, offset) for offset in range(offsets[0], offsets[-1]) if offset not in self.log[tp]}
            assert empty <= self.reported, "a hole was passed over before it was reported"
            messages_max -= 1
            if not messages_max and then_rebalance:
                await self.rebalance()

    async def _passed_over(self, tp: TP, spans: Sequence[tuple[int, int]]) -> None:
        """What looks the holes up in the log."""
        empty = {(tp, offset) for start, end in spans for offset in range(start, end)}
        self.reported |= empty
        self.skipped += sorted((tp, offset) for _, offset in empty if offset in self.log[tp])
        if self.skipped:
            raise LogBroken("records were skipped")

    def ack(self, which: int) -> None:
        """One of the outstanding chunks is worked off, and acked then."""
        if self.outstanding:
            message, offsets = self.outstanding.pop(which % len(self.outstanding))
            self.worked_off |= {(message.tp, offset) for offset in offsets}
            self.consumer.ack(message)

    async def commit(self) -> None:
        """What Faust does now and then."""
        await self.consumer.commit()

    async def rebalance(self, *, ack_before_commit: int = 0) -> None:
        """All partitions are taken away and given back; so many chunks are worked off while the revocation waits."""

        async def revoke(_revoked: set[TP]) -> None:
            self.consumer.stop_flow()
            for _ in range(ack_before_commit):
                self.ack(0)
            await self.consumer.commit()

        self.consumer._on_partitions_revoked = revoke
        await self.consumer.on_partitions_revoked(set(self.log))
        self.app.consumer_generation_id += 1
        await self.consumer.perform_seek()
        self.consumer.resume_flow()

    async def stop(self) -> None:
        """The flow stops, and goes on by itself a little later."""
        self.consumer.stop_flow()
        asyncio.get_running_loop().call_later(0.001, self.consumer.resume_flow)

    def check(self) -> None:
        """Every record below a commit has been worked off."""
        for tp, committed in self.consumer.commits.items():
            skipped = [offset for offset in self.log[tp] if offset < committed and (tp, offset) not in self.worked_off]
            assert not skipped, f"{tp} is committed at {committed}, but {skipped} were never worked off"

    async def finish(self) -> None:
        """Reads, works off and commits until nothing is left."""
        for _ in range(2 * sum(map(len, self.log.values())) + 10):
            await self.deliver()
            while self.outstanding:
                self.ack(0)
            await self.commit()
        self.check()


async def _ignore(*_: Any, **__: Any) -> None:
    """Nothing."""


OFFSETS = st.lists(st.integers(0, 40), unique=True, min_size=3, max_size=15).map(
    sorted
)  # with holes, as transactions leave them
STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(  # what is listed twice comes twice as often
        st.just(("deliver",)),
        st.tuples(st.just("ack"), st.integers(0, 20)),
        st.tuples(st.just("deliver and rebalance after"), st.integers(1, 3)),
        st.tuples(st.just("ack"), st.integers(0, 20)),
        st.just(("commit",)),
        st.tuples(st.just("rebalance"), st.integers(0, 3)),
        st.just(("stop",)),
        st.tuples(
            st.just("deliver over"), st.sampled_from(("rebalance", "stop")), st.sampled_from(("before", "after"))
        ),
    ),
    min_size=4,
    max_size=30,
)


async def _take(driver: Driver, step: Step) -> None:
    match step:
        case ("deliver",):
            await driver.deliver()
        case ("deliver and rebalance after", after):
            await driver.deliver(messages_max=after, then_rebalance=True)
        case ("ack", which):
            driver.ack(which)
        case ("commit",):
            await driver.commit()
        case ("rebalance", acks):
            await driver.rebalance(ack_before_commit=acks)
        case ("stop",):
            await driver.stop()
        case ("deliver over", what, when):
            setattr(driver.consumer, when, getattr(driver, what))
            await driver.deliver()


@settings(max_examples=300, deadline=None)
@given(a=OFFSETS, b=OFFSETS, steps=STEPS, chunk=st.integers(1, 3))
def test_nothing_is_committed_that_was_not_worked_off_and_in_the_end_all_is(
    a: list[int], b: list[int], steps: list[Step], chunk: int
) -> None:
    """In any order of deliveries, acks, commits and rebalances, with holes in the log; commits never go back."""

    async def history() -> None:
        driver = Driver({A: a, B: b}, chunk_records_max=chunk)
        for step in steps:
            await _take(driver, step)
            driver.check()
        await driver.finish()
        for tp, offsets in driver.log.items():
            assert driver.consumer.commits[tp] == offsets[-1] + 1
        assert driver.skipped == []

    asyncio.run(history())


async def test_the_chunk_at_the_head_holds_the_commit_back() -> None:
    """One missing chunk is enough (stock Faust commits past it: faust-streaming/faust issue 606)."""
    driver = Driver({A: list(range(6))})
    await driver.deliver()

    driver.ack(1)
    driver.ack(1)
    await driver.commit()

    assert driver.consumer.commits == {}
    driver.ack(0)
    await driver.commit()
    assert driver.consumer.commits == {A: 6}


async def test_a_chunk_in_the_middle_holds_the_commit_back() -> None:
    """What is acked beyond it waits for it."""
    driver = Driver({A: list(range(6))})
    await driver.deliver()

    driver.ack(0)
    driver.ack(1)
    await driver.commit()

    assert driver.consumer.commits == {A: 2}


async def test_what_was_fetched_while_the_flow_stood_still_is_read_again() -> None:
    """Even when no rebalance follows that would seek."""
    driver = Driver({A: [0, 1]})
    driver.consumer.after = driver.stop

    await driver.deliver()
    assert driver.outstanding == []
    await driver.deliver()

    assert [offsets for _, offsets in driver.outstanding] == [[0, 1]]


async def test_a_hole_in_the_log_is_no_ack() -> None:
    """Transaction markers leave holes; a chunk in flight behind one stays in flight."""
    driver = Driver({A: [0, 1, 5, 6]})
    await driver.deliver()

    driver.ack(1)
    await driver.commit()

    assert driver.consumer.commits == {}
    driver.ack(0)
    await driver.commit()
    assert driver.consumer.commits == {A: 7}


async def test_a_record_that_a_fetch_leaves_out_is_reported_and_nothing_behind_it_is_delivered() -> None:
    """Whatever moved the reading on (retention, a mistake of the client): nobody may commit past what was not seen."""
    driver = Driver({A: [0, 1, 2, 3, 4, 5]})
    driver.consumer.fetch_records_max = 2
    await driver.deliver()

    driver.consumer.positions[A] = 4
    with pytest.raises(LogBroken):
        await driver.deliver()

    assert driver.skipped == [(A, 2), (A, 3)]
    assert [offsets for _, offsets in driver.outstanding] == [[0, 1]]


async def test_a_record_that_is_left_out_right_behind_the_commit_is_reported() -> None:
    """After a rebalance, or a start, the first record has to be the committed one."""
    driver = Driver({A: [0, 1, 2, 3]})
    driver.consumer.fetch_records_max = 2
    await driver.deliver()
    driver.ack(0)
    await driver.commit()
    await driver.rebalance()

    driver.consumer.positions[A] = 3
    with pytest.raises(LogBroken):
        await driver.deliver()

    assert driver.skipped == [(A, 2)]
    assert driver.outstanding == []


async def test_what_is_worked_off_while_the_group_rebalances_is_committed() -> None:
    """The revocation waits for the chunks in flight so that nobody has to do their work again."""
    driver = Driver({A: [0, 1, 2, 3]})
    await driver.deliver()

    await driver.rebalance(ack_before_commit=1)

    assert driver.consumer.commits == {A: 2}
    assert driver.consumer.positions == {A: 2}


async def test_a_fetch_during_a_rebalance_does_not_forget_the_chunks_in_flight() -> None:
    """A worker whose batches take longer than its rebalances come must get on all the same."""
    driver = Driver({A: [0, 1, 2, 3]})
    await driver.deliver(messages_max=1)
    driver.consumer.stop_flow()
    fetch = asyncio.ensure_future(driver.deliver())
    await asyncio.sleep(0)

    driver.ack(0)
    await driver.commit()

    assert driver.consumer.commits == {A: 2}
    driver.consumer.resume_flow()
    await fetch


async def test_what_a_rebalance_drops_before_the_first_commit_is_read_again() -> None:
    """A new group's first records are not skipped."""
    driver = Driver({A: [0, 1]})
    driver.consumer.before = driver.rebalance

    await driver.deliver()
    assert driver.outstanding == []
    await driver.deliver()

    assert [offsets for _, offsets in driver.outstanding] == [[0, 1]]


async def test_what_a_fetch_brings_in_the_middle_of_a_seek_is_read_again() -> None:
    """A rebalance may be over before the fetch that began before it is."""
    driver = Driver({A: [0, 1]})
    records_come = asyncio.Event()
    driver.consumer.before = records_come.wait
    fetch = asyncio.ensure_future(driver.deliver())
    await asyncio.sleep(0)

    async def records_arrive() -> None:
        records_come.set()
        await fetch

    driver.consumer.during_seek = records_arrive
    await driver.rebalance()
    assert driver.outstanding == []
    await driver.deliver()

    assert [offsets for _, offsets in driver.outstanding] == [[0, 1]]


async def test_a_late_ack_of_an_old_generation_moves_nothing() -> None:
    """Its partition was given up; the same records are in somebody else's hands now."""
    driver = Driver({A: [0, 1, 2, 3]})
    await driver.deliver()
    old = driver.outstanding[0][0]
    await driver.rebalance()

    driver.consumer.ack(old)
    await driver.commit()

    assert driver.consumer.commits == {}


async def test_an_ack_lets_the_payload_go_and_counts_once() -> None:
    """Memory holds the records of chunks in flight and no others."""
    driver = Driver({A: [0, 1]})
    await driver.deliver()
    message = driver.outstanding[0][0]

    assert driver.consumer.ack(message) is True
    assert driver.consumer.ack(message) is False
    assert message.value is None
    assert driver.consumer._n_acked == 2


@pytest.mark.parametrize("offsets", [[0, 1, 2], [3, 7, 8, 20]])
async def test_a_chunk_says_where_the_next_one_begins(offsets: list[int]) -> None:
    """``next`` is the last record's offset + 1, whatever holes are in it."""
    driver = Driver({A: offsets}, chunk_records_max=10)

    await driver.deliver()

    chunk = driver.outstanding[0][0].value
    assert (chunk.first, chunk.next) == (offsets[0], offsets[-1] + 1)

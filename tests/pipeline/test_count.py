"""The steps of counting: what is asked and written, in which order, and what a crash between them leaves."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline import count as count_module
from pipeline.block import Block
from pipeline.count import (
    ASK_AGAIN_MAX,
    WRITES,
    AskIdentities,
    AskKnown,
    AskTotals,
    CountLimits,
    InsertFacts,
    InsertRepeats,
    InsertTotals,
    PublishConflicts,
    Question,
    count,
    fresh,
)
from pipeline.judging.steps import AskInForce, InsertControls
from pipeline.memory_store import MemoryStore
from schemas.alerting import InForce
from schemas.counted import KNOWN
from schemas.errors import StoreUnavailable
from schemas.rules import RuleSet
from tests.pipeline.batches import HORIZON, NOON, Event, LogBlock, lanes_of, make_block
from tests.pipeline.driving import LIMITS, books_of, crash_at, from_the_store, steps_of
from tests.pipeline.oracle import expected

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

    from pipeline.count import PartitionState, Step

FIRST = Event(0)
CONTROL = Block(0, 1, 0, InForce("USD", {"default": RuleSet(revision=1)}).to_json().encode(), control=True)


def test_facts_come_first_and_totals_last() -> None:
    """The one order in which a crash between any two writes is harmless."""
    steps, _, _ = _counted([make_block([FIRST])])

    assert [type(step) for step in steps] == [
        AskIdentities, InsertFacts, InsertRepeats, PublishConflicts, AskTotals, AskInForce, InsertTotals,
    ]  # fmt: skip


def test_every_question_is_as_of_the_first_block_that_will_be_read() -> None:
    """Rows of the block itself and later ones may be there from a worker that died; they don't count."""
    store = MemoryStore()
    from_the_store([make_block([FIRST], offset=4)], store=store)
    blocks = [make_block([replace(FIRST, offset=1)], offset=7), make_block([Event(2, id="b")], offset=8)]

    steps, _, _ = _counted(blocks, store=store)

    asked = [step.before for step in steps if isinstance(step, AskIdentities | AskKnown | AskTotals)]
    assert asked == [7, 7, 7]


def test_facts_already_there_from_a_dead_worker_are_decided_again_and_are_the_same() -> None:
    """A run that died after its facts is repeated: the store's rows of its own blocks are not answered."""
    store = MemoryStore()
    blocks = [make_block([FIRST, replace(FIRST, offset=1)])]
    crash_at(4, fresh(0, next_block=0, limits=LIMITS), blocks, store=store)
    assert store.facts().height == 1

    _, _, counted = _counted(blocks, store=store)

    assert (counted.facts.events.height, counted.repeats.height, counted.replays) == (1, 1, 0)


@pytest.mark.parametrize("steps_before_the_crash", range(8))
def test_a_crash_between_any_two_steps_is_harmless(steps_before_the_crash: int) -> None:
    """Killed anywhere, a restart from the committed block arrives at the same books."""
    first = [make_block([FIRST, Event(1, id="b")])]
    second = [make_block([replace(FIRST, offset=2), Event(3, id="c")], offset=1), make_block([FIRST], offset=2)]
    store = MemoryStore()
    state = from_the_store(first, store=store)

    crash_at(steps_before_the_crash, state, second, store=store)
    from_the_store(second, store=store)

    log = [
        LogBlock(0, 0, (FIRST, Event(1, id="b"))),
        LogBlock(0, 1, (replace(FIRST, offset=2), Event(3, id="c"))),
        LogBlock(0, 2, (FIRST,)),
    ]
    assert expected(log, horizon=HORIZON) == books_of(store)


def test_a_run_that_died_leaves_the_old_state_as_it_was() -> None:
    """Memory is handed back at the end and swapped in by the caller; until then nothing has changed."""
    store = MemoryStore()
    state = from_the_store([make_block([FIRST])], store=store)
    totals = state.totals

    crash_at(6, state, [make_block([Event(1, id="b")], offset=1)], store=store)

    assert (state.next_block, len(state.identities)) == (1, 1)
    assert state.totals is totals
    assert totals.find(lanes_of([FIRST]))[1].get_column("version").to_list() == [0]


def test_totals_are_written_at_the_last_block_of_the_run() -> None:
    """A flush ends on a block boundary, and its version says which."""
    steps, state, _ = _counted([make_block([FIRST], offset=3), make_block([Event(1, id="b")], offset=8)])

    last = steps[-1]
    assert isinstance(last, InsertTotals)
    assert last.totals.get_column("version").to_list() == [8]
    assert state.next_block == 9


def test_a_remembered_identity_is_confirmed_by_the_store() -> None:
    """A memory hit is a question, never an answer."""
    store = MemoryStore()
    state = from_the_store([make_block([FIRST])], store=store)

    steps, _, _ = steps_of(state, [make_block([replace(FIRST, offset=1)], offset=1)], store=store)

    asked = [step for step in steps if isinstance(step, AskKnown)]
    assert [len(step.hashes) for step in asked] == [1]


def test_what_memory_rules_out_is_not_asked() -> None:
    """The ordinary event costs the store no question but the totals' first."""
    store = MemoryStore()
    state = from_the_store([make_block([FIRST])], store=store)

    steps, _, _ = steps_of(state, [make_block([Event(1, id="b")], offset=1)], store=store)

    assert [InsertFacts, InsertRepeats, PublishConflicts, InsertTotals] == [type(step) for step in steps]


def test_a_memory_hit_without_an_answer_is_asked_again_and_never_new() -> None:
    """The store acknowledged that fact: an answer without it is a lagging replica's."""
    store = MemoryStore()
    state = from_the_store([make_block([FIRST])], store=store)
    run = count(state, [make_block([replace(FIRST, offset=1)], offset=1)], limits=LIMITS)
    nothing = MemoryStore()

    first = run.send(None)
    second = run.send(nothing.carry_out(first))
    third = run.send(store.carry_out(second))

    assert isinstance(first, AskKnown)
    assert second is first
    assert isinstance(third, InsertFacts)
    assert third.facts.events.height == 0


def test_a_store_that_never_shows_what_it_acknowledged_stops_the_worker() -> None:
    """After a few questions somebody must look: counting on would double."""
    state = from_the_store([make_block([FIRST])], store=MemoryStore())
    run = count(state, [make_block([replace(FIRST, offset=1)], offset=1)], limits=LIMITS)
    nothing = MemoryStore()
    step = run.send(None)

    with pytest.raises(StoreUnavailable, match="does not show facts"):  # noqa: PT012 -- the last answer raises
        for _ in range(ASK_AGAIN_MAX):
            step = run.send(nothing.carry_out(step))


def test_an_hour_that_is_not_in_memory_is_asked_and_never_taken_as_zero() -> None:
    """Forgotten totals come back from the store before anything is added to them."""
    limits, store = replace(LIMITS, totals_rows_max=0), MemoryStore()
    _, state, _ = steps_of(fresh(0, next_block=0, limits=limits), [make_block([FIRST])], store=store, limits=limits)

    steps, _, _ = steps_of(state, [make_block([Event(1, id="b")], offset=1)], store=store, limits=limits)

    assert [step.pairs.height for step in steps if isinstance(step, AskTotals)] == [1]
    assert store.totals().get_column("requests").to_list() == [2]


def test_the_oldest_hours_are_forgotten_first() -> None:
    """The limit holds for rows; whole hours go, so that what is kept is complete."""
    limits, store = replace(LIMITS, totals_rows_max=2), MemoryStore()
    hours = [Event(hour, id=str(hour), time=NOON - timedelta(hours=hour)) for hour in range(4)]

    _, state, _ = steps_of(fresh(0, next_block=0, limits=limits), [make_block(hours)], store=store, limits=limits)

    kept = [NOON - timedelta(hours=1), NOON]
    assert sorted(state.totals.find(lanes_of(hours))[1].get_column("hour")) == kept
    assert sorted(state.loaded.get_column("hour")) == kept


def test_a_total_newer_than_the_first_block_is_taken_back_to_the_facts_before_it() -> None:
    """What a dead worker wrote for later blocks is not added to; the value before is that of the earlier facts."""
    store = MemoryStore()
    from_the_store([make_block([FIRST]), make_block([Event(1, id="b")], offset=1)], store=store)
    assert store.totals().get_column("version").to_list() == [1]

    from_the_store([make_block([Event(1, id="b")], offset=1)], store=store)

    assert store.totals().select("requests", "version").rows() == [(2, 1)]


def test_a_control_block_is_no_event() -> None:
    """It changes what is in force from its place on, and is counted past."""
    _, state, counted = _counted([make_block([FIRST]), CONTROL])

    assert (counted.events, counted.facts.events.height, state.next_block) == (1, 1, 2)


def test_a_control_block_alone_writes_what_is_in_force() -> None:
    """No events, no facts and no totals; the rules, as they will be asked for after a restart."""
    store = MemoryStore()

    steps, state, counted = _counted([CONTROL], store=store)

    assert (counted.events, state.next_block) == (0, 2)
    assert [type(step) for step in steps if isinstance(step, WRITES)] == [InsertControls]
    assert store.facts().height == store.totals().height == 0
    assert store.carry_out(AskInForce(0, 2)) == InForce.from_json(CONTROL.value)


def test_a_block_that_says_it_is_a_control_block_and_is_none_is_refused() -> None:
    """What is in force can't be guessed: the worker ends instead of judging by other rules."""
    with pytest.raises(ValueError, match="control block"):
        _counted([replace(CONTROL, value=b'{"schema": "tally.control.v2"}')])


@pytest.mark.parametrize(
    "offsets", [(5, 4), (5, 5), (4, 6, 5)], ids=["backwards", "the same again", "one out of order"]
)
def test_blocks_out_of_order_are_a_bug_that_crashes(offsets: tuple[int, ...]) -> None:
    """The last block is the version of all totals: a run that is no run must not be counted."""
    blocks = [make_block([Event(offset, id=str(offset))], offset=offset) for offset in offsets]

    with pytest.raises(AssertionError):
        next(count(fresh(0, next_block=0, limits=LIMITS), blocks, limits=LIMITS))


def test_blocks_before_the_state_are_a_bug_that_crashes() -> None:
    """Memory that is ahead of its position would fold the same blocks again."""
    state = from_the_store([make_block([FIRST], offset=3)], store=MemoryStore())

    with pytest.raises(AssertionError):
        next(count(state, [make_block([FIRST], offset=3)], limits=LIMITS))


# Restored memory reaches back from the newest receipt by the horizon. A raw partition that lags may deliver an event
# that was received before that receipt, and so repeats a fact that memory does not hold:
#
#   fact        event          newest
#   |-------------|--------------|          horizon = 35 days
#   0           34d            36d          memory holds what was received since 1d


def test_a_repeat_from_a_raw_partition_that_lags_is_a_repeat_after_a_restart_too() -> None:
    """Whether memory was restored must not decide."""
    newest = Event(0, id="b", partition=1, received_at=NOON + timedelta(days=36))
    late = replace(FIRST, offset=1, received_at=NOON + timedelta(days=34))
    store = MemoryStore()
    state = from_the_store([make_block([FIRST, newest])], store=store)

    kept = steps_of(state, [make_block([late], offset=1)], store=store)[2]
    restored = _counted([make_block([late], offset=1)], store=store)[2]

    assert kept.repeats.get_column("kind").to_list() == ["duplicate"]
    assert restored.repeats.equals(kept.repeats)


def test_a_colliding_fact_of_the_same_hour_does_not_hide_the_identity_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The store stops looking for a hash that a young fact has; another identity's fact must not settle it."""
    monkeypatch.setattr(count_module, "identity_hashes", _all_alike)
    store = MemoryStore()
    other = Event(1, id="b", time=NOON)
    from_the_store([make_block([FIRST, other])], store=store)

    conflict = replace(FIRST, offset=2, time=NOON)  # near `other`, far from FIRST
    _, _, counted = _counted([make_block([conflict], offset=1)], store=store)

    assert counted.repeats.select("kind", "first_offset").rows() == [("conflict", 0)]


def test_a_later_fact_of_the_same_id_does_not_hide_the_one_that_holds_a_late_copy() -> None:
    """Decided in one run or in two, a late copy belongs to the same fact."""
    second = replace(FIRST, offset=1, received_at=NOON + 2 * HORIZON, time=NOON + 2 * HORIZON)
    late_copy = replace(FIRST, offset=2, partition=1, received_at=NOON + timedelta(days=1), time=second.time)
    store = MemoryStore()
    from_the_store([make_block([FIRST]), make_block([second], offset=1)], store=store)

    apart = _counted([make_block([late_copy], offset=2)], store=store)[2]

    at_once = steps_of(
        fresh(0, next_block=0, limits=LIMITS),
        [make_block([FIRST]), make_block([second], offset=1), make_block([late_copy], offset=2)],
        store=MemoryStore(),
    )[2]
    assert apart.repeats.select("kind", "first_offset").rows() == [("conflict", 0)]
    assert at_once.repeats.equals(apart.repeats)


@pytest.mark.parametrize("identities_max", [1, 2, 5])
def test_repeats_beyond_memory_are_found_in_the_store(identities_max: int) -> None:
    """When memory holds only the newest identities, the store rules out the rest."""
    limits, store = replace(LIMITS, identities_max=identities_max), MemoryStore()
    state = fresh(0, next_block=0, limits=limits)
    for offset in range(6):
        block = make_block([Event(offset, id=str(offset))], offset=offset)
        _, state, _ = steps_of(state, [block], store=store, limits=limits)
    again = [Event(10 + offset, id=str(offset)) for offset in range(6)]

    _, _, counted = steps_of(state, [make_block(again, offset=6)], store=store, limits=limits)

    assert counted.repeats.height == 6


def test_conflicts_alone_are_published() -> None:
    """A duplicate is recorded and told nobody; a conflict goes to its producer."""
    steps, _, _ = _counted([make_block([FIRST, replace(FIRST, offset=1), replace(FIRST, offset=2, status="error")])])

    published = [step.conflicts.get_column("offset").to_list() for step in steps if isinstance(step, PublishConflicts)]
    assert published == [[2]]


def test_every_step_is_a_question_or_a_write() -> None:
    """Whoever carries steps out can tell the two kinds apart."""
    steps, _, _ = _counted([make_block([FIRST])])

    assert all(isinstance(step, (*WRITES, Question)) for step in steps)


def test_known_facts_have_their_columns_even_when_there_are_none() -> None:
    """An answer without rows has the shape of KNOWN."""
    answer = MemoryStore().known_facts(
        partition=0,
        before=0,
        hashes=np.array([1], dtype=np.uint64),
        orgs=_column("org"),
        times=_column("time"),
        settled_since=None,
    )

    assert answer.schema == KNOWN


def _column(name: str) -> pl.Series:
    return MemoryStore().facts().get_column(name)


def _all_alike(events: pl.DataFrame) -> NDArray[np.uint64]:
    return np.zeros(events.height, dtype=np.uint64)


def _counted(
    blocks: list[Block], *, store: MemoryStore | None = None, limits: CountLimits = LIMITS
) -> tuple[list[Step], PartitionState, count_module.Counted]:
    """Counts the blocks with no memory, as after a restart."""
    state = fresh(0, next_block=blocks[0].offset, limits=limits)
    return steps_of(state, blocks, store=store or MemoryStore(), limits=limits)

"""Carries out the steps of ``count`` on a store in memory: straight on, or until a crash."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from pipeline.count import CountLimits, count, fresh
from tests.pipeline.oracle import found

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.block import Block
    from pipeline.count import Counted, PartitionState, Step
    from pipeline.memory_store import MemoryStore
    from tests.pipeline.oracle import Books

LIMITS: Final = CountLimits(horizon=timedelta(days=35))


def steps_of(
    state: PartitionState, blocks: Sequence[Block], *, store: MemoryStore, limits: CountLimits = LIMITS
) -> tuple[list[Step], PartitionState, Counted]:
    """Counts the blocks to the end: the steps that were carried out, and what came of them."""
    steps: list[Step] = []
    run = count(state, blocks, limits=limits)
    answer: Any = None
    while True:
        try:
            step = run.send(answer)
        except StopIteration as stop:
            return steps, *stop.value
        steps.append(step)
        answer = store.carry_out(step)


def crash_at(
    step_number: int,
    state: PartitionState,
    blocks: Sequence[Block],
    *,
    store: MemoryStore,
    limits: CountLimits = LIMITS,
) -> bool:
    """Carries out ``step_number`` steps and dies; False when the run had ended before."""
    run = count(state, blocks, limits=limits)
    answer: Any = None
    for _ in range(step_number):
        try:
            answer = store.carry_out(run.send(answer))
        except StopIteration:
            return False
    return True


def from_the_store(blocks: Sequence[Block], *, store: MemoryStore, limits: CountLimits = LIMITS) -> PartitionState:
    """Counts the blocks with no memory, as after a restart; the state after them."""
    first = blocks[0]
    _, state, _ = steps_of(
        fresh(first.partition, next_block=first.offset, limits=limits), blocks, store=store, limits=limits
    )
    return state


def books_of(store: MemoryStore) -> Books:
    """The books that the store holds."""
    return found(store.facts_now(), store.totals_rows.rows(), store.repeats_rows.rows(), store.corrections_rows.rows())

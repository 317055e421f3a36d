"""Logs with rules, counted into the real store as a worker counts them, by seed."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from agents.answers import answer
from clickhouse.audit import Fence
from clickhouse.corrections import insert_corrections
from clickhouse.counting import insert_facts, insert_rows, insert_totals
from pipeline.correct import InsertCorrections
from pipeline.count import CountLimits, InsertFacts, InsertRepeats, InsertTotals, PublishConflicts, count, fresh
from pipeline.judging.steps import InsertAlerts, InsertControls, PublishAlerts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import polars as pl

    from clickhouse.client import Store
    from pipeline.block import Block
    from pipeline.count import Step

LIMITS = CountLimits(horizon=timedelta(days=35))
TABLES = ("facts_rows", "totals_rows", "alerts_rows", "control_rows", "duplicates_rows", "corrections_rows")


def emptied(store: Store) -> Store:
    """The store without anything that was counted."""
    for table in TABLES:
        store.command(f"TRUNCATE TABLE {table}")
    return store


def count_into(
    store: Store, runs: Sequence[Sequence[Block]], *, publish: Callable[[pl.DataFrame], None] = lambda _: None
) -> Fence:
    """Counts runs of blocks of partition 0, all of them committed; ``publish`` is given the alerts, as often."""
    state = fresh(0, next_block=0, limits=LIMITS)
    for run in runs:
        steps = count(state, run, limits=LIMITS)
        said: Any = None
        while True:
            try:
                said = _carried_out(store, steps.send(said), publish)
            except StopIteration as end:
                state = end.value[0]
                break
    return Fence({0: state.next_block}, live=False)


def _carried_out(store: Store, step: Step, publish: Callable[[pl.DataFrame], None]) -> Any:
    match step:
        case PublishAlerts():
            publish(step.alerts)
        case InsertFacts():
            insert_facts(store, step.facts, step.hashes)
        case InsertTotals():
            insert_totals(store, step.totals)
        case InsertAlerts():
            insert_rows(store, "alerts_rows", step.alerts)
        case InsertControls():
            insert_rows(store, "control_rows", step.controls)
        case InsertRepeats():
            insert_rows(store, "duplicates_rows", step.repeats)
        case InsertCorrections():
            insert_corrections(store, step.corrections)
        case PublishConflicts():
            pass
        case _:
            return answer(step, store)
    return None

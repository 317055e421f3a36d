"""The questions of judging on the real store: as of any block it answers what the model in memory answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.answers import answer
from clickhouse.counting import insert_facts, insert_rows, insert_totals
from pipeline.alert_steps import AlertQuestion, InsertAlerts, InsertControls
from pipeline.count import InsertFacts, InsertTotals, count, fresh
from pipeline.memory_store import MemoryStore
from tests.pipeline.driving import LIMITS, steps_of
from tests.pipeline.test_judge import blocks_of, judged_logs, published, runs_of, told

if TYPE_CHECKING:
    import polars as pl

    from clickhouse.client import Store
    from pipeline.count import Step

TABLES = ("facts_rows", "totals_rows", "alerts_rows", "control_rows")


@pytest.mark.servers
@given(
    log=judged_logs(),
    sizes=st.lists(st.integers(1, 6)),
    runs=st.lists(st.integers(1, 4)),
    crashes=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), max_size=3),
)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_the_model_answers_as_the_real_store_through_crashes(
    clickhouse: Store, log: list[Any], sizes: list[int], runs: list[int], crashes: list[tuple[int, int]]
) -> None:
    """Judged side by side, every answer is the same, with rows of later blocks in the store as well."""
    for table in TABLES:
        clickhouse.command(f"TRUNCATE TABLE {table}")
    both = _SideBySide(clickhouse)
    cut = runs_of(blocks_of(log, sizes), runs)
    said = []

    for number, run in enumerate(cut):
        for at, steps_done in crashes:
            if at == number:
                _dies_after(steps_done, [block for later in cut[number : number + 2] for block in later], store=both)
        state = fresh(0, next_block=run[0].offset, limits=LIMITS)
        steps, state, _ = steps_of(state, run, store=both)
        said += published(steps)

    assert said == told(log)


def _dies_after(number: int, blocks: list[Any], *, store: MemoryStore) -> None:
    run = count(fresh(0, next_block=blocks[0].offset, limits=LIMITS), blocks, limits=LIMITS)
    given_back: Any = None
    for _ in range(number):
        try:
            step = run.send(given_back)
        except StopIteration:
            return
        given_back = store.carry_out(step)


class _SideBySide(MemoryStore):
    """Carries out each step on both stores and compares the answers of judging."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._real = store

    def carry_out(self, step: Step) -> Any:
        said = super().carry_out(step)
        match step:
            case InsertFacts():
                insert_facts(self._real, step.facts, step.hashes)
            case InsertTotals():
                insert_totals(self._real, step.totals)
            case InsertAlerts():
                insert_rows(self._real, "alerts_rows", step.alerts)
            case InsertControls():
                insert_rows(self._real, "control_rows", step.controls)
        if isinstance(step, AlertQuestion):
            real = answer(step, self._real)
            assert real == said if not hasattr(said, "schema") else _same(said, real), (step, said, real)
        return said


def _same(one: pl.DataFrame, other: pl.DataFrame) -> bool:
    assert one.schema == other.schema
    return one.sort(*one.columns[:4]).equals(other.sort(*other.columns[:4]))

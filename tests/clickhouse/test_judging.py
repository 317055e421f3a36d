"""The questions of judging on the real store: as of any block it answers what the model in memory answers."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from agents.answers import answer
from clickhouse.corrections import insert_corrections
from clickhouse.counting import insert_facts, insert_rows, insert_totals
from pipeline.alert_steps import AlertQuestion, InsertAlerts, InsertControls
from pipeline.correct import InsertCorrections
from pipeline.count import InsertFacts, InsertTotals, fresh
from pipeline.memory_store import MemoryStore
from tests.pipeline.driving import LIMITS, steps_of
from tests.pipeline.judged_logs import blocks_of, judged_log, runs_of, sizes_of, told
from tests.pipeline.test_judge import published, until_crash

if TYPE_CHECKING:
    from clickhouse.client import Store
    from pipeline.count import Step

SEEDS = 25
TABLES = ("facts_rows", "corrections_rows", "totals_rows", "alerts_rows", "control_rows")


@pytest.mark.servers
def test_the_model_answers_as_the_real_store_through_crashes(clickhouse: Store) -> None:
    """Judged side by side, every answer is the same, with rows of later blocks in the store as well."""
    asked: Counter[str] = Counter()
    for seed in range(SEEDS):
        for table in TABLES:
            clickhouse.command(f"TRUNCATE TABLE {table}")
        rng = Random(f"judging {seed}")
        both = _SideBySide(clickhouse, asked)
        cut = runs_of(blocks_of(judged_log(seed), sizes_of(seed)), sizes_of(-seed))
        said = []
        for number, run in enumerate(cut):
            if rng.random() < 0.3:
                until_crash(
                    rng.randint(1, 30), [block for later in cut[number : number + 2] for block in later], store=both
                )
            steps, _, _ = steps_of(fresh(0, next_block=run[0].offset, limits=LIMITS), run, store=both)
            said += published(steps)
        assert said == told(judged_log(seed)), f"seed {seed}"
    assert min(asked[kind] for kind in ("AskInForce", "AskNewest", "AskSums", "AskAlerts", "AskLastFacts")) > SEEDS // 4


class _SideBySide(MemoryStore):
    """Carries out each step on both stores and compares the answers of judging."""

    def __init__(self, store: Store, asked: Counter[str]) -> None:
        super().__init__()
        self._real = store
        self._asked = asked

    def carry_out(self, step: Step) -> Any:
        said = super().carry_out(step)
        match step:
            case InsertFacts():
                insert_facts(self._real, step.facts, step.hashes)
            case InsertCorrections():
                insert_corrections(self._real, step.corrections)
            case InsertTotals():
                insert_totals(self._real, step.totals)
            case InsertAlerts():
                insert_rows(self._real, "alerts_rows", step.alerts)
            case InsertControls():
                insert_rows(self._real, "control_rows", step.controls)
        if isinstance(step, AlertQuestion):
            real = answer(step, self._real)
            if isinstance(said, pl.DataFrame):
                assert _sorted(real).equals(_sorted(said)), step
                assert real.schema == said.schema
                self._asked[type(step).__name__] += said.height > 0
            else:
                assert real == said
                self._asked[type(step).__name__] += 1
        return said


def _sorted(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.sort(*frame.columns[:4])

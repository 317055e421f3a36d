"""The questions of judging on the real store: as of any block it answers what the model in memory answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import product
from random import Random
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from agents.answers import answer
from clickhouse.corrections import insert_corrections
from clickhouse.counting import insert_facts, insert_rows, insert_totals
from pipeline.correct import InsertCorrections
from pipeline.count import InsertFacts, InsertTotals, fresh
from pipeline.judging.steps import AlertQuestion, AskSums, InsertAlerts, InsertControls
from pipeline.memory_store import MemoryStore
from tests.pipeline.driving import LIMITS, steps_of
from tests.pipeline.judged_logs import blocks_of, judged_log, runs_of, sizes_of, told
from tests.pipeline.test_judge import published, until_crash

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

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


@pytest.mark.servers
def test_what_is_written_between_two_looks_is_not_believed(clickhouse: Store) -> None:
    """A sum takes more than one look at the store; a worker that slept between them must not see what others wrote."""
    believable, woken = 0, Counter[int]()
    for seed in (3, 5, 6):  # with windows of several hours
        for table in TABLES:
            clickhouse.command(f"TRUNCATE TABLE {table}")
        both = _SideBySide(clickhouse, Counter())
        run = blocks_of(judged_log(seed, events=60), [1, 2] * 60)
        asked: list[tuple[AskSums, pl.DataFrame]] = []
        written: list[pl.DataFrame] = []
        for block in run:
            steps, _, _ = steps_of(fresh(0, next_block=block.offset, limits=LIMITS), [block], store=both)
            written += [step.totals for step in steps if isinstance(step, InsertTotals)]
            sums = [step for step in steps if isinstance(step, AskSums) and step.grain != "minute"]
            asked += [(step, answer(step, clickhouse)) for step in sums[-1:]]
        totals = pl.concat(written)
        for (step, said), looks in product(asked[::2], (1, 2)):
            is_late = pl.col("version") >= step.before
            late = totals.filter(is_late).sample(fraction=1, shuffle=True, seed=seed)
            # With one look nothing late is there before it; with two an hour is, so that there is a second look.
            seen = late.head(0) if looks == 1 else late.filter(pl.col("hour") == pl.col("hour").first())
            clickhouse.command("TRUNCATE TABLE totals_rows")
            insert_totals(clickhouse, pl.concat([totals.filter(~is_late), seen]))
            sleeper = _Sleeper(clickhouse, partial(insert_totals, clickhouse, late), looks=looks)

            assert _sorted(answer(step, sleeper)).equals(_sorted(said)), (seed, step)  # type: ignore[arg-type]
            believable += not _sorted(answer(replace(step, before=2**60), clickhouse)).equals(_sorted(said))
            woken[looks] += sleeper.is_awake
    assert believable > 5, "what was written late would not have changed the answers: the test proves nothing"
    assert min(woken[1], woken[2]) > 5, "nobody slept between two looks: the test proves nothing"


class _Sleeper:
    """The store as a worker sees it that sleeps after some looks, while others write."""

    def __init__(self, store: Store, meanwhile: Callable[[], None], *, looks: int) -> None:
        self._store = store
        self._meanwhile = meanwhile
        self._looks = looks

    @property
    def is_awake(self) -> bool:
        """Whether it has slept."""
        return self._looks <= 0

    def rows(self, sql: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        """As the store's."""
        found = self._store.rows(sql, parameters)
        self._sleep()
        return found

    def arrow(self, sql: str, parameters: dict[str, Any]) -> pa.Table:
        """As the store's."""
        found = self._store.arrow(sql, parameters)
        self._sleep()
        return found

    def _sleep(self) -> None:
        self._looks -= 1
        if self._looks == 0:
            self._meanwhile()


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

"""Corrections decided from values alone: which of them count, and what they add to the totals."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta
from decimal import Decimal
from functools import cache
from random import Random
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.block import Block, decode_blocks
from pipeline.correct import AskStates, InsertCorrections, fold_corrections
from pipeline.count import InsertFacts, fresh
from pipeline.lanes import NO_LANES
from pipeline.memory_store import MemoryStore
from schemas.counted import CORRECTIONS, TOTALS
from schemas.errors import StoreUnavailable
from tests.pipeline.batches import Event, LogBlock, logs, make_block
from tests.pipeline.driving import LIMITS, books_of, steps_of
from tests.pipeline.judged_logs import blocks_of, judged_log, runs_of, sizes_of
from tests.pipeline.oracle import expected
from tests.pipeline.test_judge import published

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.count import Counted, Step
    from schemas.frames import PricedBatch

FIRST = Event(0)
OUTPUT = Event(1, id="b", usage=(("output_tokens", Decimal(2)),))
IMAGES = Event(2, id="c", usage=(("images", Decimal(3)), ("input_tokens", Decimal(10))))


def test_a_correction_keeps_the_old_figures_beside_the_new() -> None:
    """What it cost, what it costs, by which run, and how often it was corrected."""
    store = _counted(
        LogBlock(0, 0, (FIRST,)), LogBlock(0, 3, (FIRST,), 2, "run-1"), LogBlock(0, 5, (FIRST,), 1, "run-2")
    )

    rows = store.corrections()
    assert rows.select("revision", "run", "old_cost", "cost", "books", "block", "correction_block").rows() == [
        (1, "run-1", Decimal("1.5"), Decimal("2.5"), "standard@2", 0, 3),
        (2, "run-2", Decimal("2.5"), Decimal("1.5"), "standard@1", 0, 5),
    ]
    assert rows.schema == CORRECTIONS
    assert store.totals().select("cost", "requests", "version").rows() == [(Decimal("1.5"), 1, 5)]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("an event that was never counted", replace(FIRST, id="z")),
        ("another raw record", replace(FIRST, offset=9)),
        ("other content", replace(FIRST, project="other")),
        ("other quantities", replace(FIRST, usage=(("input_tokens", Decimal(11)),))),
        ("another time", replace(FIRST, time=FIRST.time - timedelta(hours=1))),
    ],
)
def test_a_correction_of_something_else_is_ignored(what: str, said: Event) -> None:
    """It needs the fact of its identity, coordinates and content; else nothing is written at all."""
    store, counted = _last_of(LogBlock(0, 0, (FIRST,)), LogBlock(0, 1, (said,), 2, "run"))

    assert counted is not None
    assert (counted.corrected.unknown, store.corrections().height, what) == (1, 0, what)
    assert store.totals().get_column("cost").to_list() == [Decimal("1.5")]


def test_a_fact_that_stands_behind_its_correction_is_not_corrected() -> None:
    """Log order decides, in one run of blocks as in two."""
    blocks = [LogBlock(0, 0, (FIRST,), 2, "run"), LogBlock(0, 1, (FIRST,))]

    together = MemoryStore()
    steps_of(fresh(0, next_block=0, limits=LIMITS), [block.encoded() for block in blocks], store=together)

    assert books_of(together) == books_of(_counted(*blocks)) == expected(blocks, horizon=LIMITS.horizon)
    assert together.corrections().height == 0


def test_a_run_corrects_a_fact_once_however_often_its_block_comes() -> None:
    """A late copy does not undo what another run said meanwhile."""
    blocks = [LogBlock(0, 0, (FIRST,)), LogBlock(0, 1, (FIRST,), 2, "run-1"), LogBlock(0, 2, (FIRST,), 1, "run-2")]
    late = replace(blocks[1], offset=3)

    assert _counted(*blocks, late).corrections().equals(_counted(*blocks).corrections())
    assert _counted(*blocks).corrections().height == 2


def test_corrections_of_a_block_stand_in_the_order_of_the_raw_log() -> None:
    """Whoever reads them back, without the block, finds the same one to be the last."""
    counted = LogBlock(0, 0, (FIRST, OUTPUT, replace(IMAGES, offset=0, partition=1)))
    blocks = [counted, LogBlock(0, 1, tuple(reversed(counted.events)), 2, "run-1")]

    steps, _, _ = steps_of(
        fresh(0, next_block=0, limits=LIMITS), [block.encoded() for block in blocks], store=MemoryStore()
    )

    (inserted,) = (step.corrections for step in steps if isinstance(step, InsertCorrections))
    assert inserted.get_column("id").to_list() == [event.id for event in counted.events]


def test_the_same_price_under_another_revision_is_no_correction() -> None:
    """Price ids are no figures: the fact keeps the ids of the prices that it was priced by."""
    _, counted = _last_of(LogBlock(0, 0, (FIRST,)), LogBlock(0, 1, (FIRST,), 3, "run"))

    assert counted is not None
    assert (counted.corrected.unchanged, counted.corrected.corrections.height) == (1, 0)


def test_a_line_that_no_event_has_any_more_leaves_the_total() -> None:
    """Images become priced: their line without a name goes, the one with a name comes; output tokens the other way."""
    events = (FIRST, OUTPUT, IMAGES)
    store = _counted(LogBlock(0, 0, events), LogBlock(0, 1, events, 3, "run"))

    ((meters, names, costs, events_of),) = store.totals().select("meters", "names", "costs", "events").rows()
    assert list(zip(meters, names, costs, events_of, strict=True)) == [
        ("images", "images", Decimal(21), 1),
        ("input_tokens", "input_tokens", Decimal(3), 2),
        ("output_tokens", "", None, 1),
    ]


def test_facts_stand_before_their_corrections_in_the_store() -> None:
    """A reader never sees a correction without its fact."""
    blocks = [block.encoded() for block in (LogBlock(0, 0, (FIRST,)), LogBlock(0, 1, (FIRST,), 2, "run"))]

    steps, _, _ = steps_of(fresh(0, next_block=0, limits=LIMITS), blocks, store=MemoryStore())

    kinds = [type(step) for step in steps]
    assert kinds.index(InsertFacts) < kinds.index(AskStates) < kinds.index(InsertCorrections)


def test_a_run_without_corrections_asks_nothing_about_them() -> None:
    """The ordinary way costs no question."""
    steps, _, _ = steps_of(
        fresh(0, next_block=0, limits=LIMITS), [LogBlock(0, 0, (FIRST,)).encoded()], store=MemoryStore()
    )

    assert not any(isinstance(step, AskStates) for step in steps)


def test_a_store_that_hides_a_fact_is_asked_again_and_then_refused() -> None:
    """A fact that was acknowledged and is not shown would be taken for unknown, and its correction lost."""
    store = _Forgetful()
    _, state, _ = steps_of(fresh(0, next_block=0, limits=LIMITS), [LogBlock(0, 0, (FIRST,)).encoded()], store=store)

    with pytest.raises(StoreUnavailable):
        steps_of(state, [LogBlock(0, 1, (FIRST,), 2, "run").encoded()], store=store)

    assert store.asked == 5


def test_a_header_that_is_no_correction_is_a_bug() -> None:
    """It names the mistake; the worker ends instead of guessing."""
    block = replace(LogBlock(0, 0, (FIRST,)).encoded(), correction=b"{}")

    with pytest.raises(ValueError, match="run"):
        steps_of(fresh(0, next_block=0, limits=LIMITS), [block], store=MemoryStore())


@given(log=logs())
@settings(max_examples=60, deadline=None)
def test_totals_after_corrections_are_the_sums_of_the_facts_as_they_are(log: list[LogBlock]) -> None:
    """Σ facts + Σ differences = Σ corrected facts, to the last decimal, by meter and name; nothing else has moved."""
    store = _counted(*log)

    assert books_of(store) == expected(log, horizon=LIMITS.horizon)


@given(log=logs(), length=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_where_runs_are_cut_changes_no_correction(log: list[LogBlock], length: int) -> None:
    """One block at a time, or several: the same corrections, with the same figures before them."""
    assert _counted(*log, length=length).corrections().equals(_counted(*log).corrections())


def test_logs_of_these_tests_do_hold_corrections_that_count() -> None:
    """Else the properties above would say nothing."""
    found: list[int] = []

    @given(log=logs())
    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    def look(log: list[LogBlock]) -> None:
        found.append(_counted(*log).corrections().height)

    look()

    assert sum(height > 0 for height in found) > 5


@pytest.mark.parametrize("how", ["restarts", "longer runs"])
def test_alerts_after_corrections_do_not_depend_on_what_was_remembered(how: str) -> None:
    """Windows hold the figures as corrected at that place of the log, from memory and from the store alike."""
    corrected = fired = 0
    for seed in range(25):
        blocks, block_by_block, store = _block_by_block(seed)

        again, _ = _alerts_of(
            runs_of(blocks, sizes_of(-seed)) if how == "longer runs" else [[block] for block in blocks],
            restarts=how == "restarts",
        )

        assert again == block_by_block, f"seed {seed}"
        corrected += store.corrections().height
        fired += len(again)
    assert corrected > 25
    assert fired > 25


def test_corrections_of_no_event_touch_no_total() -> None:
    """Nothing in, nothing out."""
    folded = fold_corrections(pl.DataFrame(schema=CORRECTIONS), before=NO_LANES, version=1)

    assert (folded.height, folded.schema) == (0, TOTALS)


class _Forgetful(MemoryStore):
    """Shows no fact to a question about figures."""

    asked = 0

    def carry_out(self, step: Step) -> Any:
        if isinstance(step, AskStates):
            self.asked += 1
            return super().carry_out(replace(step, before=0))
        return super().carry_out(step)


def _with_corrections(blocks: Sequence[Block], rng: Random) -> list[Block]:
    """The same blocks with corrections of events of blocks before, now and then."""
    log: list[Block] = []
    seen: list[Block] = []
    for block in blocks:
        log.append(replace(block, offset=len(log)))
        seen += [] if block.control else [block]
        if seen and rng.random() < 0.3:
            revision = rng.choice((2, 3))
            again = decode_blocks([rng.choice(seen)])
            events = [
                Event(**{name: row[name] for name in EVENT_FIELDS}, usage=usage)
                for row, usage in zip(again.events.iter_rows(named=True), _usages(again), strict=True)
            ]
            run = f"run-{len(log)}"
            log.append(make_block(events, offset=len(log), revision=revision, run=run))
    return log


EVENT_FIELDS = tuple(one.name for one in fields(Event) if one.name != "usage")


def _usages(batch: PricedBatch) -> list[tuple[tuple[str, Decimal], ...]]:
    usages: list[list[tuple[str, Decimal]]] = [[] for _ in range(batch.events.height)]
    for row, meter, quantity in (
        batch.lines.join(batch.kinds, on="kind", maintain_order="left").select("row", "meter", "quantity").iter_rows()
    ):
        usages[row].append((meter, quantity))
    return [tuple(usage) for usage in usages]


@cache
def _block_by_block(seed: int) -> tuple[list[Block], list[Any], MemoryStore]:
    """The log of a seed with corrections, what is published for it block by block, and the store after it."""
    blocks = _with_corrections(blocks_of(judged_log(seed), sizes_of(seed)), Random(f"corrections {seed}"))
    return blocks, *_alerts_of([[block] for block in blocks])


def _alerts_of(runs: Sequence[Sequence[Block]], *, restarts: bool = False) -> tuple[list[Any], MemoryStore]:
    store, state, said = MemoryStore(), fresh(0, next_block=0, limits=LIMITS), list[Any]()
    for run in runs:
        if restarts:
            state = fresh(0, next_block=run[0].offset, limits=LIMITS)
        steps, state, _ = steps_of(state, run, store=store)
        said += published(steps)
    return said, store


def _counted(*log: LogBlock, length: int = 1) -> MemoryStore:
    return _last_of(*log, length=length)[0]


def _last_of(*log: LogBlock, length: int = 1) -> tuple[MemoryStore, Counted | None]:
    """The store after the log, each partition in runs of so many blocks, and what came of the last run."""
    store, counted = MemoryStore(), None
    for partition in sorted({block.partition for block in log}):
        own = [block.encoded() for block in log if block.partition == partition]
        state = fresh(partition, next_block=0, limits=LIMITS)
        for run in _runs(own, length):
            _, state, counted = steps_of(state, run, store=store)
    return store, counted


def _runs(blocks: Sequence[Any], length: int) -> list[Sequence[Any]]:
    return [blocks[start : start + length] for start in range(0, len(blocks), length)]

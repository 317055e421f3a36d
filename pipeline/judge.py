"""The judge: which alerts fire, are resolved, or end, by the rules in force at their place in the log.

It is a part of ``pipeline/count.py`` and works like it: a generator of questions to the store, all as of the run's
first block, that hands back new memory and touches nothing itself. So the same log gives the same alerts, whatever
was killed and wherever it was cut into blocks and runs.

    rules in force → sums before the run → candidates → event by event in exact numbers → alerts written out in full

Its parts are in ``judging/``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from pipeline.judging.alerts import written_out
from pipeline.judging.calendar import CalendarJudge, Place
from pipeline.judging.control import ControlJudge
from pipeline.judging.corrections import CorrectedRows, CorrectionJudge
from pipeline.judging.measure import Judged
from pipeline.judging.memory import JudgeMemory
from pipeline.judging.new_facts import NewFacts
from pipeline.judging.rolling import RollingJudge
from pipeline.judging.steps import AskInForce, AskNewest
from schemas.alerting import ALERTS, CONTROLS, InForce
from schemas.frames import INSTANT

if TYPE_CHECKING:
    from collections.abc import Generator

    from pipeline.block import Block
    from schemas.frames import PricedBatch

WINDOWS_MAX: Final = 4_000_000


def judge(
    memory: JudgeMemory, facts: PricedBatch, *, partition: int, before: int, windows_max: int = WINDOWS_MAX
) -> Generator[Any, Any, tuple[JudgeMemory, pl.DataFrame]]:
    """Judges the new facts of a run of blocks that begins with ``before``: memory after it, and ALERTS in order."""
    in_force = memory.in_force
    if in_force is None:
        in_force = yield AskInForce(partition, before)
        memory = replace(memory, in_force=in_force)
    rules = [Judged(rule) for rule in in_force.rules]
    if not rules or not facts.events.height:
        return memory, pl.DataFrame(schema=ALERTS)
    place = Place(partition, before)
    memory = yield from _with_newest(memory, facts, place)
    rows = NewFacts(facts, keys=memory.keys, newest=memory.newest)
    calendar = CalendarJudge(place, memory, rows, dict(memory.pages), dict(memory.retracted))
    yield from calendar.judge([judged for judged in rules if not judged.window.is_rolling])
    rolling = RollingJudge(place, memory, rows, dict(memory.rolling))
    yield from rolling.judge([judged for judged in rules if judged.window.is_rolling])
    alerts = yield from written_out(
        [*calendar.turns, *rolling.turns], place=place, facts=rows, newest=memory.newest, currency=in_force.currency
    )
    newest = {**memory.newest, **rows.newest()}
    after = JudgeMemory(in_force, memory.keys, newest, calendar.pages, rolling.rolling, calendar.retracted)
    return after.within(windows_max), alerts


def judge_control(
    memory: JudgeMemory, block: Block
) -> Generator[Any, Any, tuple[JudgeMemory, pl.DataFrame, pl.DataFrame]]:
    """Judges a control block: memory after it, its row (CONTROLS), and ALERTS in order.

    Raises:
        ValueError: it is no control block of this format.
    """
    place = Place(block.partition, block.offset)
    before = memory.in_force
    if before is None:
        before = yield AskInForce(place.partition, place.before)
    after = before.after(InForce.from_json(block.value))
    recorded_at = pl.Series([block.timestamp_ms * 1000]).cast(INSTANT)
    controls = pl.DataFrame(
        {
            "block_partition": [block.partition],
            "block": [block.offset],
            "body": [after.to_json()],
            "recorded_at": recorded_at,
        },
        schema=CONTROLS,
    )
    judged = ControlJudge(place)
    yield from judged.judge(before, after)
    alerts = yield from written_out(
        judged.turns,
        place=place,
        facts=None,
        newest=judged.newest,
        currency=after.currency,
        block=(block.offset, recorded_at[0]),
    )
    if before.rules == after.rules:
        return replace(memory, in_force=after), controls, alerts
    return JudgeMemory(in_force=after), controls, alerts


def judge_corrections(
    memory: JudgeMemory, corrections: pl.DataFrame, *, partition: int, before: int
) -> Generator[Any, Any, tuple[JudgeMemory, pl.DataFrame]]:
    """Judges a run of correction blocks (CORRECTIONS, in log order): memory after it, and ALERTS in order."""
    in_force = memory.in_force
    if in_force is None:
        in_force = yield AskInForce(partition, before)
    if not in_force.rules or not corrections.height:
        return replace(memory, in_force=in_force), pl.DataFrame(schema=ALERTS)
    place, rows = Place(partition, before), CorrectedRows(corrections)
    judged = CorrectionJudge(place, rows)
    yield from judged.judge([Judged(rule) for rule in in_force.rules])
    alerts = yield from written_out(
        judged.turns, place=place, facts=rows, newest=judged.newest, currency=in_force.currency
    )
    # Windows hold other costs now, and alerts may have been retracted: all of that is asked again when it is touched.
    return JudgeMemory(in_force=in_force), alerts


def _with_newest(memory: JudgeMemory, facts: PricedBatch, place: Place) -> Generator[Any, Any, JudgeMemory]:
    """Memory that knows the newest event before the run of every org that has new facts.

    An org that had none stays unknown, and is asked for again only while it has none.
    """
    orgs = facts.events.get_column("org").unique()
    missing = sorted(org for org in orgs if org not in memory.newest)
    if not missing:
        return memory
    answer: pl.DataFrame = yield AskNewest(place.partition, place.before, tuple(missing))
    known = dict(answer.select("org", "newest").iter_rows())
    return replace(memory, newest={**memory.newest, **known})

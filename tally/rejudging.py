"""Judging again what was counted: the judge of the workers, over the log as the store has it.

The judge asks its questions as of a block, so the store answers them for any place of the log as it did then. What it
is given besides are the facts, corrections and control blocks in the order of the log, in any cut.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

import polars as pl

from agents.answers import answer
from clickhouse.counted_log import CONTROL, CORRECTIONS
from pipeline.block import Block
from pipeline.judge import judge, judge_control, judge_corrections
from pipeline.judging.memory import NOTHING_KNOWN, JudgeMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from clickhouse.client import Store
    from clickhouse.counted_log import CountedLog, Stretch
    from pipeline.judging.steps import AlertQuestion

    Answer = Callable[[AlertQuestion], Any]

Result = TypeVar("Result")

#: Facts that are judged at once: some 2 KB of memory each.
ROWS_AT_ONCE: Final = 50_000


@dataclass
class Rejudging:
    """Judges stretch after stretch; ``answered`` answers the judge's questions, by default the store."""

    log: CountedLog
    memory: JudgeMemory = NOTHING_KNOWN
    answered: Answer | None = None
    _given: Answer = field(init=False)

    def __post_init__(self) -> None:
        self._given = self.answered or stored_answers(self.log.store)

    def judge(self, stretch: Stretch) -> pl.DataFrame:
        """The transitions (ALERTS) that a stretch brings about, in their order."""
        place: dict[str, int] = {"partition": self.log.partition, "before": stretch.first}
        if stretch.kind == CONTROL:
            body, recorded_ms = self.log.control(stretch)
            block = Block(self.log.partition, stretch.first, recorded_ms, body.encode(), control=True)
            self.memory, _, alerts = self._carried_out(judge_control(self.memory, block))
        elif stretch.kind == CORRECTIONS:
            moved = self.log.corrections(stretch)
            self.memory, alerts = self._carried_out(judge_corrections(self.memory, moved, **place))
        else:
            facts = self.log.facts(stretch)
            self.memory, alerts = self._carried_out(judge(self.memory, facts, **place))
        return alerts

    def _carried_out(self, run: Generator[Any, Any, Result]) -> Result:
        said: Any = None
        while True:
            try:
                question = run.send(said)
            except StopIteration as end:
                result: Result = end.value
                return result
            said = self._given(question)


def stored_answers(store: Store) -> Answer:
    """What the store says."""
    return lambda question: answer(question, store)

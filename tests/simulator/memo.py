"""Counting remembered: the real ``count``, run once for each thing it can be asked, and told again from memory.

``count`` is a pure function of its state, its blocks and the answers it is given, so what it does next can be looked
up: a schedule that comes by the same state, blocks and answers as another one gets the same steps. That is what makes
tens of thousands of schedules affordable with the real code. Inputs are known by identity, so everything that goes in
(states, answers, rows) is one object per content, and arrays are frozen, so that a step that changed one would fail.
A batch is looked up as a whole, and where it is new, so is each of its parts: runs of data or of corrections, control
blocks.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
import pytest

from pipeline import count as count_module
from pipeline.block import Block
from pipeline.count import (
    IdentitiesAnswer,
    PublishConflicts,
    count,
    fresh,
)
from pipeline.judging.memory import JudgeMemory
from pipeline.judging.steps import AskAlerts, AskInForce
from pipeline.memory_store import MemoryStore, ReplacingTable
from schemas.alerting import InForce
from schemas.counted import LANE

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from pipeline.count import Counted, CountLimits, PartitionState, Question, Step
    from pipeline.judging.steps import AlertQuestion
    from pipeline.memory_store import Insert, Row, Schema
    from tests.simulator.alerting import Transition

Result = tuple["PartitionState", "Counted"]

#: What ``count`` does with one kind of blocks: each is a generator of steps like itself.
PARTS: Final = ("_count_data", "_count_corrections", "_count_control")


@dataclass
class _Node:
    """What counting does at one point: a step, or its result; and where each answer leads."""

    step: Step | None = None
    result: Result | None = None
    following: dict[int, _Node] = field(default_factory=dict)


@dataclass
class Memo:
    """Everything that the schedules of one world share about counting its logs."""

    limits: CountLimits
    remembers: bool = True  # False counts everything anew, to compare
    runs_counted: int = 0
    _fresh: dict[tuple[int, int], PartitionState] = field(default_factory=dict)
    _states: dict[int, PartitionState] = field(default_factory=dict)
    _state_by_content: dict[Any, PartitionState] = field(default_factory=dict)
    _roots: dict[Any, _Node] = field(default_factory=dict)
    _rows: dict[int, list[Row]] = field(default_factory=dict)
    _row_by_content: dict[Any, Row] = field(default_factory=dict)
    _ones: set[int] = field(default_factory=set)
    _frames: dict[tuple[int, tuple[int, ...]], pl.DataFrame] = field(default_factory=dict)
    _pairs: dict[int, set[Any]] = field(default_factory=dict)
    _conflicts: dict[int, list[Any]] = field(default_factory=dict)
    _answers: dict[Any, IdentitiesAnswer] = field(default_factory=dict)
    _asked: dict[int, Any] = field(default_factory=dict)
    _alert_answers: dict[Any, Any] = field(default_factory=dict)
    _answer_by_content: dict[Any, Any] = field(default_factory=dict)
    _transitions: dict[Any, list[Transition]] = field(default_factory=dict)
    _kept: list[Any] = field(default_factory=list)  # what is known by its id must stay alive

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """``count`` looks up what its parts did before."""
        with pytest.MonkeyPatch.context() as patch:
            for name in PARTS if self.remembers else ():
                patch.setattr(count_module, name, partial(self._part, getattr(count_module, name)))
            yield

    def fresh(self, partition: int, next_block: int) -> PartitionState:
        """The state that remembers nothing."""
        key = (partition, next_block)
        if key not in self._fresh:
            self._fresh[key] = self.state(fresh(partition, next_block=next_block, limits=self.limits))
        return self._fresh[key]

    def state(self, state: PartitionState) -> PartitionState:
        """The one state with this content."""
        if not self.remembers:
            return state
        if id(state) not in self._states:
            self._kept.append(state)
            self._states[id(state)] = self._state_by_content.setdefault(_value(state), state)
        return self._states[id(state)]

    def run(self, state: PartitionState, blocks: list[Block]) -> Run:
        """Counting these blocks from this state."""
        return self._run(self._count, state, blocks)

    def _count(self, state: PartitionState, blocks: list[Block]) -> Generator[Step, Any, Result]:
        self.runs_counted += 1
        return count(state, blocks, limits=self.limits)

    def _part(self, real: Callable[..., Any], state: PartitionState, blocks: Any, **limits: CountLimits) -> Any:
        run = self._run(real, state, blocks, **limits)
        step = run.send(None)
        while run.result is None:
            step = run.send((yield step))
        return run.result

    def _run(self, counts: Callable[..., Any], state: PartitionState, blocks: Any, **limits: CountLimits) -> Run:
        state = self.state(state)
        key = (counts.__name__, id(state), id(blocks) if isinstance(blocks, Block) else tuple(map(id, blocks)))
        root = self._roots.get(key) if self.remembers else None
        if root is None:
            root = self._roots[key] = _Node()
            self._kept.append(blocks)
        return Run(self, root, partial(counts, state, blocks, **limits))

    def rows_of(self, write: Insert, rows: Generator[Row, None, None] | None = None) -> list[Row]:
        """The rows of a write that counting wanted, each one object per content."""
        known = self._rows.get(id(write))
        if known is None:
            assert rows is not None
            self._kept.append(write)
            known = self._rows[id(write)] = [self.one(row) for row in rows]
        return known

    def conflicts_of(self, step: PublishConflicts) -> list[Any]:
        """The coordinates that are published."""
        if id(step) not in self._conflicts:
            self._kept.append(step)
            self._conflicts[id(step)] = step.conflicts.select("topic", "partition", "offset", "index").rows()
        return self._conflicts[id(step)]

    def one(self, row: Row) -> Row:
        """The one object with this content."""
        if id(row) in self._ones:
            return row
        one = self._row_by_content.setdefault(_content(row), row)
        self._ones.add(id(one))
        return one

    def frame(self, rows: list[Row], schema: Schema, build: Any) -> pl.DataFrame:
        """The one frame of these rows."""
        key = (id(schema), tuple(map(id, rows)))
        if key not in self._frames:
            self._frames[key] = build(rows, schema)
        return self._frames[key]

    def pairs(self, pairs: pl.DataFrame) -> set[Any]:
        """The (org, hour) pairs of a question."""
        if id(pairs) not in self._pairs:
            self._kept.append(pairs)
            self._pairs[id(pairs)] = set(pairs.select("org", "hour").rows())
        return self._pairs[id(pairs)]

    def identities(self, answer: IdentitiesAnswer) -> IdentitiesAnswer:
        """The one answer with this content."""
        key = (tuple(answer.hashes.tolist()), answer.covered_from, answer.received_since)
        answer.hashes.flags.writeable = False
        return self._answers.setdefault(key, answer)

    def alert_answer(self, question: AlertQuestion, rows: list[Row], build: Callable[[], Any]) -> Any:
        """The one answer to a question of judging, by what is asked and by the rows that it is found in."""
        key = (self._content_of(question), frozenset(map(id, rows)))
        if key not in self._alert_answers:
            answer = build()
            content = answer.to_json() if isinstance(answer, InForce) else _frame_content(answer)
            self._alert_answers[key] = self._answer_by_content.setdefault((type(question), content), answer)
        return self._alert_answers[key]

    def _content_of(self, question: AlertQuestion) -> Any:
        if id(question) not in self._asked:
            self._kept.append(question)
            asked = [getattr(question, one.name) for one in fields(question)]
            said = tuple(_frame_content(one) if isinstance(one, pl.DataFrame) else one for one in asked)
            self._asked[id(question)] = (type(question), said)
        return self._asked[id(question)]

    def transitions(self, alerts: Any, build: Callable[[], list[Transition]]) -> list[Transition]:
        """What a row or a step that publishes says, as readers get it."""
        if id(alerts) not in self._transitions:
            self._kept.append(alerts)
            self._transitions[id(alerts)] = build()
        return self._transitions[id(alerts)]


class Run:
    """A generator of steps, like ``count`` itself, that looks up what was asked before."""

    def __init__(self, memo: Memo, root: _Node, start: Callable[[], Generator[Step, Any, Result]]) -> None:
        self._memo = memo
        self._node = root
        self._start = start
        self._answers: list[Any] = []
        self._live: Generator[Step, Any, Result] | None = None
        self.result: Result | None = None

    def send(self, answer: Any) -> Step | None:
        """The next step; None when there is none, and then ``result`` is there."""
        self._answers.append(answer)
        following = self._node.following.get(id(answer))
        if following is None:
            following = self._node.following[id(answer)] = self._counted(answer)
        else:
            self._live = None
        self._node = following
        self.result = following.result
        return following.step

    def _counted(self, answer: Any) -> _Node:
        if self._live is None:
            self._live = self._start()
            for earlier in self._answers[:-1]:
                self._live.send(earlier)
        self._memo._kept.append(answer)
        try:
            return _Node(step=self._live.send(answer))
        except StopIteration as stop:
            state, counted = stop.value
            return _Node(result=(self._memo.state(state), counted))


class SimulatedStore(MemoryStore):
    """The store in memory, with everything that costs remembered across schedules."""

    def __init__(self, memo: Memo, *, totals: type[ReplacingTable] = ReplacingTable) -> None:
        super().__init__()
        self._memo = memo
        self.totals_rows = totals(LANE, version="version")

    def answer(self, question: Question) -> Any:
        """One object per content."""
        answer = super().answer(question)
        return self._memo.identities(answer) if isinstance(answer, IdentitiesAnswer) else answer

    def alert_answer(self, question: AlertQuestion) -> Any:
        """One answer per question and rows."""
        partition, before = question.partition, question.before
        match question:
            case AskInForce():
                rows = [row for row in self.control_rows.rows() if _is_before(row, partition, before)]
            case AskAlerts():
                rows = [row for row in self.alerts_rows.rows() if _is_before(row, partition, before)]
            case _:
                rows = [*self._facts_before(partition, before), *self._corrections_before(partition, before)]
        answer = super().alert_answer
        return self._memo.alert_answer(question, rows, lambda: answer(question))

    def totals_before(self, *, partition: int, before: int, pairs: pl.DataFrame) -> pl.DataFrame:
        """Looks the pairs up instead of asking polars."""
        return self.totals_of(self._memo.pairs(pairs), partition=partition, before=before)

    def rows_of(self, write: Insert) -> list[Row]:
        """One object per content."""
        return self._memo.rows_of(write, self._new_rows(write))

    def frame(self, rows: Iterable[Row], schema: Schema) -> pl.DataFrame:
        """One frame per rows."""
        return self._memo.frame([self._memo.one(row) for row in rows], schema, super().frame)

    def _new_rows(self, write: Insert) -> Generator[Row, None, None]:
        yield from super().rows_of(write)


def _is_before(row: Row, partition: int, before: int) -> bool:
    return bool(row["block_partition"] == partition and row["block"] < before)


def _frame_content(frame: pl.DataFrame) -> Any:
    columns = [tuple(column.name for column in frame)]
    rows = [tuple(tuple(value) if isinstance(value, list) else value for value in row) for row in frame.rows()]
    return (*columns, *rows)


def _content(row: Row) -> Any:
    return tuple(tuple(value) if isinstance(value, list) else value for value in row.values())


def _value(value: Any) -> Any:
    """Something that is equal for, and only for, what counting cannot tell apart."""
    match value:
        case pl.DataFrame():
            said = _frame_content(value)
        case np.ndarray():
            said = value.dtype.str, value.shape, value.tobytes()
        case InForce():
            said = value.to_json()
        case JudgeMemory():
            # Numbers mean something to the object that gave them out; where none is remembered, it is like any other.
            keys = id(value.keys) if value.pages or value.rolling else None
            said = keys, *(_value(getattr(value, one.name)) for one in fields(value) if one.name != "keys")
        case dict():
            said = tuple((_value(key), _value(one)) for key, one in value.items())
        case tuple():
            said = tuple(map(_value, value))
        case None | int() | str() | datetime() | frozenset():
            said = value
        case _:
            assert is_dataclass(value), f"a state holds {value!r}, which nothing here compares"
            said = tuple(_value(getattr(value, one.name)) for one in fields(value))
    return said

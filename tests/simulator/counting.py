"""The count side: workers that carry out the steps of the real ``count`` as ``agents/count.py`` does, in any weather.

    chunks of usage.priced → batch → (restore) → steps, all partitions side by side → swap memory → ack → commit

Every question and every write is a step of its own, and between two steps anything may happen: to the worker itself
and to all others. A worker that was paused or thrown out of the group is not told; it goes on with what it had in hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from pipeline.correct import AskStates, InsertCorrections
from pipeline.count import (
    WRITES,
    AskIdentities,
    AskKnown,
    AskTotals,
    IdentitiesAnswer,
    InsertFacts,
    InsertRepeats,
    InsertTotals,
    PublishConflicts,
    Question,
)
from pipeline.judging.steps import AskAlerts, AskInForce, AskSums, InsertAlerts, InsertControls, PublishAlerts
from pipeline.memory_store import Insert, ReplacingTable, summed
from schemas.alerting import ALERTS
from schemas.counted import TOTALS
from tests.pipeline.oracle import found
from tests.simulator.alerting import transitions_in
from tests.simulator.bugs import Bug
from tests.simulator.faults import CALM, Fate, Weather, Wrong
from tests.simulator.group import Group
from tests.simulator.memo import SimulatedStore
from tests.simulator.planted import LastWriteStays, added
from tests.simulator.world import PARTITIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from random import Random

    from pipeline.block import Block
    from pipeline.count import PartitionState, Step
    from pipeline.memory_store import Row
    from tests.simulator.alerting import Name, Transition
    from tests.simulator.memo import Memo, Run
    from tests.simulator.setting import Setting
    from tests.simulator.world import Log, Truth

TICKS_MAX = 4_000
TICKS_BETWEEN_LOOKS = 8
ANY_BLOCK = 1 << 62
#: How often a worker dies between storing alerts and publishing them, for planted bugs that need it.
DIES_WITH_ALERTS_STORED = 0.5
#: Planted bugs: the questions that are asked without ``block < n``.
OF_ANY_BLOCK: Final[dict[Bug | None, tuple[type, ...]]] = {
    Bug.QUESTION_OF_ANY_BLOCK: (AskIdentities, AskKnown),
    Bug.STATES_OF_ANY_BLOCK: (AskStates,),
    Bug.TOTALS_AS_THEY_ARE: (AskTotals,),
    Bug.CORRECTED_BEFORE_COUNTED: (AskStates,),
    Bug.SUMS_OF_ANY_BLOCK: (AskSums,),
    Bug.ALERTS_OF_ANY_BLOCK: (AskAlerts,),
    Bug.RULES_OF_ANY_BLOCK: (AskInForce,),
}
COUNTS = (
    "steps", "crashes", "pauses", "seeks", "aborts", "timeouts", "late_writes", "zombie_writes", "commits_refused",
    "alerts",
)  # fmt: skip


@dataclass
class _Chunk:
    partition: int
    blocks: list[Block]
    end: int  # the place behind it in the log
    generation: int
    seeks: int


@dataclass
class _Run:
    """One partition's way through the steps."""

    partition: int
    first: int
    steps: Run
    pending: Step | None = None
    facts: list[Row] = field(default_factory=list)
    known_alerts: set[Name] = field(default_factory=set)  # of a planted bug: not published again


@dataclass
class _CountWorker:
    """One worker process, as far as counting goes."""

    counting: Counting
    name: str
    generation: int = 0
    seeks: int = 0
    position: dict[int, int] = field(default_factory=dict)
    held: list[_Chunk] = field(default_factory=list)
    acked: dict[int, int] = field(default_factory=dict)
    states: dict[int, PartitionState] = field(default_factory=dict)
    task: Iterator[None] | None = None
    asleep: int = 0

    def join(self) -> None:
        """Learns of the current generation, forgets partitions that it does not own, reads on from the commits."""
        group = self.counting.group
        self.generation = group.generation
        self.position = {partition: group.committed.get(partition, 0) for partition in group.owned_by(self.name)}
        self.acked = {}
        self.states = {partition: state for partition, state in self.states.items() if partition in self.position}

    def seek(self) -> None:
        """Back to the committed offsets within the living process: what was not acked is read again."""
        committed = self.counting.group.committed
        self.seeks += 1
        self.held = []
        self.acked = {}
        self.position = {partition: committed.get(partition, 0) for partition in self.position}

    def abort(self) -> None:
        """The batch in work is cancelled, the process lives on."""
        self.task = None
        self.seek()

    def step(self) -> None:
        """One thing that a worker does."""
        rng = self.counting.rng
        if self.acked and rng.random() < 0.3:
            self._commit()  # the transport commits by itself, whatever is being worked off
        elif self.task is not None:
            if next(self.task, "over") == "over":
                self.task = None
        elif self.held and rng.random() < 0.6:
            self._start()
        else:
            self._fetch()

    def _fetch(self) -> None:
        counting = self.counting
        open_ = [p for p, position in self.position.items() if position < counting.visible[p]]
        if not open_:
            if self.held:
                self._start()
            elif self.generation != counting.group.generation:
                self.join()
            return
        partition = counting.rng.choice(open_)
        start = self.position[partition]
        end = min(start + counting.rng.randint(1, 3), counting.visible[partition])
        blocks = counting.blocks(partition, start, end)
        self.held.append(_Chunk(partition, blocks, end, self.generation, self.seeks))
        self.position[partition] = end
        if counting.bug is Bug.COMMIT_WHAT_WAS_READ:
            self.acked[partition] = end

    def _start(self) -> None:
        # What an older generation delivered comes again, here or elsewhere.
        chunks = [chunk for chunk in self.held if chunk.generation == self.generation]
        self.held = []
        self.task = self._work(chunks)

    def _work(self, chunks: list[_Chunk]) -> Iterator[None]:
        bug = self.counting.bug
        if bug is Bug.ACK_BEFORE_INSERT:
            self._ack(chunks)
        blocks: dict[int, list[Block]] = {}
        for chunk in chunks:
            blocks.setdefault(chunk.partition, []).extend(chunk.blocks)
        runs = [self._run(partition, own) for partition, own in sorted(blocks.items())]
        if bug is Bug.MEMORY_BEFORE_WRITES:
            self._change_in_place(blocks)
        self._note("works on " + ", ".join(f"{run.partition}/{run.first}…" for run in runs))
        for run in runs:
            yield from self._until_write(run)
        # As the agent does: whoever waits for a later write lets the others catch up.
        while waiting := [run for run in runs if run.pending is not None]:
            first = min(WRITES.index(type(run.pending)) for run in waiting)
            together = [run for run in waiting if isinstance(run.pending, WRITES[first])]
            if bug is Bug.ACK_BEFORE_ALERTS and WRITES[first] in (InsertAlerts, PublishAlerts):
                self._ack(chunks)
            yield from self._write(together)
            if WRITES[first] is InsertAlerts and self.counting.dies_with_alerts_stored(self):
                return
            for run in together:
                yield from self._until_write(run)
        self._swap([run.steps for run in runs])
        yield
        if bug is not Bug.ACK_BEFORE_INSERT:
            self._ack(chunks)

    def _run(self, partition: int, blocks: list[Block]) -> _Run:
        """From memory if it ends exactly where the blocks begin, else from the store."""
        first = blocks[0].offset
        state = self.states.get(partition)
        if state is not None and self.counting.bug is Bug.MEMORY_KEPT_AFTER_SEEK:
            state = replace(state, next_block=min(first, state.next_block))
        elif state is None or state.next_block != first:
            self._note(f"restores {partition} as of {first}")
            before, state = state, self.counting.memo.fresh(partition, first)
            if before is not None and self.counting.bug is Bug.JUDGED_KEPT_AFTER_SEEK:
                state = replace(state, judged=before.judged)
        return _Run(partition, first, self.counting.memo.run(state, blocks))

    def _until_write(self, run: _Run) -> Iterator[None]:
        run.pending = None
        answer = None
        while run.steps.result is None:
            step = run.steps.send(answer)
            if not isinstance(step, Question):
                run.pending = step
                return
            yield
            answer = self.counting.answer(step)

    def _write(self, runs: list[_Run]) -> Iterator[None]:
        """One write of all partitions at once, repeated until it is heard of."""
        while True:
            yield
            is_heard = self.counting.write(self, runs)
            if is_heard or self.counting.bug is Bug.TIMEOUT_TAKEN_AS_DONE:
                for run in runs:
                    run.pending = None
                return

    def _change_in_place(self, blocks: dict[int, list[Block]]) -> None:
        """A planted bug: what the batch will come to is in memory at once, while its position is the old one."""
        for partition, own in blocks.items():
            run = self._run(partition, own)
            answer = None
            while run.steps.result is None:
                step = run.steps.send(answer)
                answer = None
                if isinstance(step, Question):
                    answer = self.counting.answer(step)
            self.states[partition] = replace(run.steps.result[0], next_block=run.first)

    def _swap(self, runs: Sequence[Run]) -> None:
        for run in runs:
            assert run.result is not None
            self.states[run.result[0].partition] = run.result[0]

    def _ack(self, chunks: list[_Chunk]) -> None:
        for chunk in chunks:
            if (chunk.generation, chunk.seeks) == (self.generation, self.seeks):
                self.acked[chunk.partition] = chunk.end

    def _commit(self) -> None:
        partition, position = self.acked.popitem()
        is_taken = self.counting.group.commit(self.name, self.generation, partition, position)
        self._note(f"commits {partition} up to place {position}: {'taken' if is_taken else 'refused'}")
        if not is_taken:
            self.counting.counts["commits_refused"] += 1
            self.join()

    def _note(self, text: str) -> None:
        if self.counting.trace is not None:
            self.counting.trace.append(f"{self.name} {text}")


class Counting:
    """One schedule of the count side, over one log."""

    def __init__(
        self,
        log: Log,
        truth: Truth,
        memo: Memo,
        rng: Random,
        *,
        setting: Setting,
        trace: list[str] | None = None,
    ) -> None:
        self.log = log
        self.truth = truth
        self.memo = memo
        self.rng = rng
        self.bug = setting.bug
        self.trace = trace
        self.group = Group(PARTITIONS, takes_commits_of_zombies=setting.zombies_may_commit)
        self.store = SimulatedStore(memo, totals=LastWriteStays if self.bug is Bug.LAST_WRITE_STAYS else ReplacingTable)
        self.published: set[Any] = set()
        self.alerts_published: set[Name] = set()
        self.visible = dict.fromkeys(range(PARTITIONS), 0)
        self.counts = dict.fromkeys(COUNTS, 0)
        self._weather = CALM if setting.is_calm else Weather.drawn(rng)
        self._late: list[tuple[Step, list[Row]]] = []
        self._named = 0
        self._workers = [self._new() for _ in range(1 if setting.is_calm else rng.choice((1, 2, 2, 3)))]

    def run(self) -> None:
        """Counts the log to its end, and compares everything with the truth."""
        self._rebalance()
        for _ in range(self.rng.randint(10, 150)):
            self._tick()
        self._weather = CALM
        if self.group.takes_commits_of_zombies:
            self._weather = replace(CALM, rebalance=0.02)  # else a commit that went back would stay there
        for worker in self._workers:
            worker.asleep = min(worker.asleep, 3)
        for _ in range(TICKS_MAX // TICKS_BETWEEN_LOOKS):
            if self._is_done():
                break
            for _ in range(TICKS_BETWEEN_LOOKS):
                self._tick()
        if not self._is_done():
            raise Wrong("counting does not come to an end")
        self._compare()

    def blocks(self, partition: int, start: int, end: int) -> list[Block]:
        """Some blocks of a partition by their places in the log."""
        return self.log.blocks[partition][start:end]

    def answer(self, question: Question) -> Any:
        """The store's answer."""
        bug = self.bug
        if bug is Bug.NOT_IN_MEMORY_IS_ZERO and isinstance(question, AskTotals):
            return self.store.frame([], TOTALS)
        if isinstance(question, OF_ANY_BLOCK.get(bug, ())):
            question = replace(question, before=ANY_BLOCK)
        answer = self.store.answer(question)
        if isinstance(question, AskAlerts) and bug is Bug.SEQUENCE_IN_MEMORY_ONLY:
            return answer.with_columns(pl.lit(0, dtype=ALERTS["sequence"]).alias("sequence"))
        if isinstance(answer, IdentitiesAnswer):
            if bug is Bug.NOTHING_RESTORED:
                return self.memo.identities(IdentitiesAnswer(np.empty(0, dtype=np.uint64), 0, None))
            if bug is Bug.MEMORY_HAS_NO_BEGINNING:
                return self.memo.identities(replace(answer, hashes=answer.hashes.copy(), received_since=None))
        return answer

    def write(self, worker: _CountWorker, runs: list[_Run]) -> bool:
        """Does one write of some runs, and says whether the worker heard of it."""
        fate = self._weather.fate(self.rng)
        kind = type(runs[0].pending).__name__
        if self.trace is not None:
            self.trace.append(f"{worker.name} {kind} of {[(run.partition, run.first) for run in runs]}: {fate.value}")
        self.counts["timeouts"] += not fate.is_heard
        self.counts["zombie_writes"] += worker.generation != self.group.generation
        for run in runs:
            assert run.pending is not None
            rows = self._rows(run)
            if fate in (Fate.DONE, Fate.UNHEARD):
                self._apply(run.pending, rows)
            elif fate is Fate.LATE and rows:
                self._late.append((run.pending, rows))
            elif fate is Fate.HALF:
                self._apply(run.pending, [row for row in rows if self.rng.random() < 0.5])
        return fate.is_heard

    def dies_with_alerts_stored(self, worker: _CountWorker) -> bool:
        """Whether the worker dies right now, besides what the weather brings: a planted bug needs it."""
        needed = self.bug is not None and self.bug.is_in_unpublished_alerts and self._weather is not CALM
        if not needed or self.rng.random() >= DIES_WITH_ALERTS_STORED:
            return False
        self._crash(worker)
        return True

    def _rows(self, run: _Run) -> list[Any]:
        step = run.pending
        if isinstance(step, PublishConflicts):
            return self.memo.conflicts_of(step)
        if isinstance(step, PublishAlerts):
            transitions = self.memo.transitions(step, lambda: transitions_in(step.alerts))
            return [one for one in transitions if _name(one) not in run.known_alerts]
        assert isinstance(step, Insert)
        rows = self.store.rows_of(step)
        if isinstance(step, InsertFacts):
            run.facts = rows
        elif isinstance(step, InsertAlerts) and self.bug is Bug.STORED_IS_PUBLISHED:
            stored = {(row["alert_id"], row["sequence"]) for row in self.store.alerts_rows.rows()}
            run.known_alerts |= stored
        elif isinstance(step, InsertTotals) and self.bug is Bug.VERSION_OF_FIRST_BLOCK:
            return [{**row, "version": run.first} for row in rows]
        elif isinstance(step, InsertTotals) and self.bug is Bug.INCREMENTS:
            version = rows[0]["version"] if rows else 0
            return [{**row, "version": version} for row in summed(run.facts, (), block_partition=run.partition)]
        return rows

    def _apply(self, step: Step, rows: list[Any]) -> None:
        """Puts rows where they belong, and looks at each: nothing wrong may ever be seen, not even for a while."""
        match step:
            case InsertFacts():
                for row in rows:
                    self._check_fact(row)
                self.store.facts_rows.insert(rows)
            case InsertRepeats():
                for row in rows:
                    self._check_repeat(row)
                self.store.repeats_rows.insert(rows)
            case InsertCorrections():
                for row in rows:
                    self._check_correction(row)
                self.store.corrections_rows.insert(rows)
            case InsertTotals():
                rows = [self._added(row) for row in rows] if self.bug is Bug.INCREMENTS else rows
                for row in rows:
                    self._check_total(row)
                self.store.totals_rows.insert(rows)
            case PublishConflicts():
                self.published.update(rows)
            case _:
                self._apply_alerts(step, rows)

    def _apply_alerts(self, step: Step, rows: list[Any]) -> None:
        match step:
            case InsertControls():
                if self.bug is not Bug.RULES_IN_MEMORY_ONLY:
                    self.store.control_rows.insert(rows)
            case InsertAlerts():
                for row in rows:
                    self._check_alert(row)
                self.store.alerts_rows.insert(rows)
            case PublishAlerts():
                for transition in rows:
                    self.truth.alerts.check(transition, where="published")
                    self.alerts_published.add(_name(transition))

    def _check_fact(self, row: Row) -> None:
        right = self.truth.books.facts.get(_place(row))
        if right is None or right[-1] != (row["block_partition"], row["block"]):
            raise Wrong(f"a fact is written that is none: {_place(row)} of block {row['block']}")

    def _check_repeat(self, row: Row) -> None:
        right = self.truth.books.repeats.get(_place(row))
        first = tuple(row[f"first_{name}"] for name in ("topic", "partition", "offset", "index"))
        if right is None or (right[0], right[3]) != (row["kind"], first):
            raise Wrong(f"{_place(row)} is written as a {row['kind']} of {first}, and is {right}")

    def _check_correction(self, row: Row) -> None:
        ((key, correction),) = found((), (), (), (row,)).corrections.items()
        right = self.truth.books.corrections.get(key)
        if correction != right:
            raise Wrong(f"a correction of {key} is written as {correction}, and is {right}")

    def _check_total(self, row: Row) -> None:
        ((lane, total),) = found((), (row,), ()).totals.items()
        right = self.truth.total(row["block_partition"], lane, row["version"])
        if total != right:
            raise Wrong(f"a total as of block {row['version']} is written as {total}, and is {right}")

    def _check_alert(self, row: Row) -> None:
        (transition,) = self.memo.transitions(row, lambda: transitions_in(self.store.frame([row], ALERTS)))
        self.truth.alerts.check(transition, where="an alert is written")

    def _added(self, row: Row) -> Row:
        table = self.store.totals_rows
        stored = table.at(table.key_of(row))
        return row if stored is None else added(stored, row)

    def _tick(self) -> None:
        rng = self.rng
        self.counts["steps"] += 1
        if self._late and rng.random() < 0.15:
            self._apply_late()
            return
        if rng.random() < 0.2 and self._show_more():
            return
        worker = rng.choice(self._workers)
        if worker.asleep:
            worker.asleep -= 1
        elif rng.random() < self._weather.trouble:
            self._trouble(worker)
        else:
            worker.step()

    def _apply_late(self) -> None:
        self.counts["late_writes"] += 1
        step, rows = self._late.pop(self.rng.randrange(len(self._late)))
        self._note(f"a {type(step).__name__} that had timed out is applied")
        self._apply(step, rows)

    def _trouble(self, worker: _CountWorker) -> None:
        match self._weather.which(self.rng):
            case "crash":
                self._crash(worker)
            case "pause":
                self.counts["pauses"] += 1
                worker.asleep = self.rng.randint(5, 60)
                self._note(f"{worker.name} is paused")
                self._rebalance(without=worker)
            case "rebalance":
                self._rebalance()
            case "seek":
                self.counts["seeks"] += 1
                self._note(f"{worker.name} seeks to the commits")
                worker.seek()
            case "abort" if worker.task is not None:
                self.counts["aborts"] += 1
                self._note(f"{worker.name} drops its batch")
                worker.abort()

    def _show_more(self) -> bool:
        """The price workers have gone on; False when there is nothing more of the partition."""
        partition = self.rng.randrange(PARTITIONS)
        is_more = self.visible[partition] < len(self.log.blocks.get(partition, ()))
        self.visible[partition] += is_more
        return is_more

    def _crash(self, worker: _CountWorker) -> None:
        self.counts["crashes"] += 1
        self._note(f"{worker.name} crashes")
        self._workers[self._workers.index(worker)] = self._new()
        self._rebalance()

    def _rebalance(self, *, without: _CountWorker | None = None) -> None:
        """The group goes on with the others; a worker that sleeps or works on is told when it asks."""
        members = [worker for worker in self._workers if worker is not without] or self._workers
        self.group.rebalance([worker.name for worker in members], self.rng)
        self._note(f"rebalance: {self.group.owners}, committed {self.group.committed}")
        for worker in members:
            if not worker.asleep and self.rng.random() < 0.7:
                worker.join()

    def _new(self) -> _CountWorker:
        self._named += 1
        return _CountWorker(self, f"count-{self._named}")

    def _is_done(self) -> bool:
        return (
            not self._late
            and not any(worker.task is not None or worker.held or worker.asleep for worker in self._workers)
            and all(self.group.committed.get(p, 0) == len(blocks) for p, blocks in self.log.blocks.items())
        )

    def _compare(self) -> None:
        store, right = self.store, self.truth.books
        books = found(
            store.facts_now(), store.totals_rows.rows(), store.repeats_rows.rows(), store.corrections_rows.rows()
        )
        for name in ("facts", "repeats", "corrections", "totals"):
            _compare_one(name, getattr(books, name), getattr(right, name))
        conflicts = {place for place, repeat in right.repeats.items() if repeat[0] == "conflict"}
        if self.published != conflicts:
            raise Wrong(f"conflicts published: {sorted(self.published)}, and there are {sorted(conflicts)}")
        stored = {(row["alert_id"], row["sequence"]) for row in store.alerts_rows.rows()}
        self.truth.alerts.check_all(stored, where="alerts stored")
        self.truth.alerts.check_all(self.alerts_published, where="alerts published")
        self.counts["alerts"] += len(self.truth.alerts.by_name)

    def _note(self, text: str) -> None:
        if self.trace is not None:
            self.trace.append(text)


def _place(row: Row) -> tuple[str, int, int, int]:
    return row["topic"], row["partition"], row["offset"], row["index"]


def _name(transition: Transition) -> Name:
    return transition[0]["alert_id"], transition[0]["sequence"]


def _compare_one(name: str, there: dict[Any, Any], right: dict[Any, Any]) -> None:
    if there == right:
        return
    missing = [key for key in right if key not in there]
    too_many = [key for key in there if key not in right]
    other = [(key, there[key], right[key]) for key in there if key in right and there[key] != right[key]]
    raise Wrong(f"{name}: missing {missing}, too many {too_many}, other than the log says {other}")

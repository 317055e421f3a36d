"""Count: the whole way of a run of blocks [n … m] of one partition, as a list of steps that somebody else carries out.

``count`` is a generator: it yields what must be asked of the store and what must be written, in the one order in
which a crash between any two steps is harmless, and it is sent the answers. It touches nothing itself, so the agent,
the executable specification (pipeline/replay.py) and the crash simulator in the tests drive the very same code.

    identities before n  →  dedupe (questions to the store carry ``block < n``)  →  facts  →  repeats  →  conflicts
    →  fold on a copy  →  judge  →  alerts stored, then published  →  totals at version m  →  new state

Control blocks and correction blocks change the rules and the figures at their place in the log, so they are runs of
their own between the blocks around them:

    control block  →  judge live windows  →  what is in force stored  →  alerts stored, then published  →  new state
    correction blocks  →  corrections  →  fold on a copy  →  judge  →  alerts  →  totals at version m  →  new state

The state is handed back at the end, after every write succeeded; a crash before that leaves the old state untouched.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from pipeline.block import Block, decode_blocks, merge
from pipeline.correct import AskStates, Corrected, InsertCorrections, correct, fold_corrections, together
from pipeline.dedupe import dedupe
from pipeline.fold import fold
from pipeline.identities import Identities, Segment, identity_hashes
from pipeline.judge import WINDOWS_MAX, judge, judge_control, judge_corrections
from pipeline.judging.memory import NOTHING_KNOWN, JudgeMemory
from pipeline.judging.steps import AlertQuestion, InsertAlerts, InsertControls, PublishAlerts
from pipeline.lanes import NO_LANES, Lanes
from pipeline.route import take
from schemas.alerting import ALERTS
from schemas.counted import HOUR, KNOWN, REPEATS, TOTALS
from schemas.errors import StoreUnavailable
from schemas.frames import IDENTITY, PricedBatch

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from numpy.typing import NDArray

#: How often the store is asked again for a fact that it acknowledged and does not show, before the worker gives up.
ASK_AGAIN_MAX = 5

#: How far behind the newest record an event may have been received, beyond the horizon, and still be ruled out from
#: restored memory: raw partitions are read side by side, never at quite the same time. Older ones cost a question.
RESTORE_SLACK = timedelta(hours=1)

#: No fact is received at or after it: asked since then, the store looks for every hash everywhere.
_NOTHING_SETTLED = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class CountLimits:
    """What the memory of one partition may hold, and for how long an identity counts as taken."""

    horizon: timedelta
    identities_max: int = 40_000_000
    totals_rows_max: int = 500_000
    windows_max: int = WINDOWS_MAX


@dataclass(frozen=True, slots=True)
class PartitionState:
    """What is remembered of one partition as of ``next_block``; a cache of the store and nothing else.

    ``totals`` is complete for every (org, hour) in ``loaded``: a lane of such a pair that is not in it is truly zero.
    A pair that is not in ``loaded`` is asked from the store, never taken as zero.
    """

    partition: int
    next_block: int
    identities: Identities
    totals: Lanes = NO_LANES
    loaded: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema={"org": pl.String, "hour": HOUR}))
    judged: JudgeMemory = NOTHING_KNOWN


@dataclass(frozen=True, slots=True)
class AskIdentities:
    """The hashes of facts of blocks < ``before`` within the horizon, newest blocks first up to ``limit``.

    Answer: ``IdentitiesAnswer``.
    """

    partition: int
    before: int
    horizon: timedelta
    limit: int


@dataclass(frozen=True, slots=True)
class IdentitiesAnswer:
    """``hashes`` cover every fact of blocks in [``covered_from``, before) received at or after ``received_since``.

    ``received_since`` is the newest receipt before the block minus the horizon asked for; None covers all times.
    """

    hashes: NDArray[np.uint64]
    covered_from: int
    received_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class AskKnown:
    """The facts of blocks < ``before`` with one of these hashes. Answer: a frame of KNOWN.

    ``orgs`` and ``times`` are those of the events asked for: a true duplicate has its original's, which is the fast
    way to it; a conflict may not. A hash that a fact received at or after ``settled_since`` answers need not be looked
    for further, so its answer may lack other facts with that hash; of every other hash the answer has all facts.
    """

    partition: int
    before: int
    hashes: NDArray[np.uint64]
    orgs: pl.Series
    times: pl.Series
    settled_since: datetime


@dataclass(frozen=True, slots=True)
class AskTotals:
    """The totals of these (org, hour) pairs as they were before block ``before``. Answer: a frame of TOTALS."""

    partition: int
    before: int
    pairs: pl.DataFrame


@dataclass(frozen=True, slots=True)
class InsertFacts:
    """New facts with their identity hashes, to be acknowledged by the store."""

    facts: PricedBatch
    hashes: NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class InsertRepeats:
    """Duplicates and conflicts (REPEATS), to be acknowledged by the store."""

    repeats: pl.DataFrame


@dataclass(frozen=True, slots=True)
class PublishConflicts:
    """Conflicts (REPEATS) for ``usage.rejected``, stored and published; their winner is settled."""

    conflicts: pl.DataFrame


@dataclass(frozen=True, slots=True)
class InsertTotals:
    """Touched totals (TOTALS) at the version of the last block."""

    totals: pl.DataFrame


Question = AskIdentities | AskKnown | AskStates | AskTotals | AlertQuestion
Write = (
    InsertFacts
    | InsertRepeats
    | PublishConflicts
    | InsertCorrections
    | InsertControls
    | InsertAlerts
    | PublishAlerts
    | InsertTotals
)
Step = Question | Write

#: The writes of a run, in their order. A run leaves out what it has nothing for.
WRITES: Final = (
    InsertFacts, InsertRepeats, PublishConflicts, InsertCorrections, InsertControls, InsertAlerts, PublishAlerts,
    InsertTotals,
)  # fmt: skip


def fresh(partition: int, *, next_block: int, limits: CountLimits) -> PartitionState:
    """A state that remembers nothing yet; ``count`` restores it from the store as it was before ``next_block``."""
    return PartitionState(partition, next_block, Identities(limits.identities_max, covered_from=-1))


def count(
    state: PartitionState, blocks: Sequence[Block], *, limits: CountLimits
) -> Generator[Step, Any, tuple[PartitionState, Counted]]:
    """Counts whole blocks that follow the state without a gap; gives the state after them and what came of them."""
    assert blocks[0].offset >= state.next_block, "blocks before the state's position"  # noqa: S101 -- a programmer's mistake
    in_order = all(one.offset < following.offset for one, following in pairwise(blocks))
    assert in_order, "blocks that do not follow each other"  # noqa: S101 -- likewise: m would not be the last one
    counted: list[Counted] = []
    for (is_control, is_correction), run in groupby(blocks, key=lambda block: (block.control, block.is_correction)):
        if is_control:
            for block in run:
                state, one = yield from _count_control(state, block)
                counted.append(one)
        elif is_correction:
            state, one = yield from _count_corrections(state, list(run), limits=limits)
            counted.append(one)
        else:
            state, one = yield from _count_data(state, list(run), limits=limits)
            counted.append(one)
    return state, counted[0] if len(counted) == 1 else _together(counted)


def _count_data(
    state: PartitionState, blocks: Sequence[Block], *, limits: CountLimits
) -> Generator[Step, Any, tuple[PartitionState, Counted]]:
    n, m = blocks[0].offset, blocks[-1].offset
    if state.identities.covered_from < 0:
        identities = yield from _restored(state, before=n, limits=limits)
        state = replace(state, identities=identities)
    batch = decode_blocks(blocks)
    hashes = identity_hashes(batch.events)
    known, suspects = yield from _known_facts(state, batch, hashes, before=n, horizon=limits.horizon)
    decision = dedupe(batch, hashes=hashes, suspects=suspects, known=known, horizon=limits.horizon)
    facts, new_hashes = take(batch, decision.new), hashes[decision.new]

    yield InsertFacts(facts, new_hashes)
    yield InsertRepeats(decision.repeats)
    yield PublishConflicts(decision.repeats.filter(pl.col("kind") == "conflict"))

    totals, loaded = state.totals, state.loaded
    touched = pl.DataFrame(schema=TOTALS)
    if facts.events.height:
        totals, loaded = yield from _with_totals(state, facts.events, before=n)
        touched = fold(facts, before=totals, version=m, block_partition=state.partition)
        totals = totals.with_rows(touched)
    judged, alerts = yield from judge(
        state.judged, facts, partition=state.partition, before=n, windows_max=limits.windows_max
    )
    yield from _alerted(alerts)
    yield InsertTotals(touched)

    totals, loaded = _within_limit(totals, loaded, rows_max=limits.totals_rows_max)
    after = PartitionState(
        state.partition, m + 1, state.identities.with_counted(new_hashes, last_block=m), totals, loaded, judged
    )
    return after, Counted(facts, decision.repeats, decision.replays, batch.events.height, alerts)


def _count_control(state: PartitionState, block: Block) -> Generator[Step, Any, tuple[PartitionState, Counted]]:
    judged, controls, alerts = yield from judge_control(state.judged, block)
    yield InsertControls(controls)
    yield from _alerted(alerts)
    after = replace(state, next_block=block.offset + 1, judged=judged)
    return after, Counted(decode_blocks([]), pl.DataFrame(schema=REPEATS), 0, 0, alerts)


def _count_corrections(
    state: PartitionState, blocks: Sequence[Block], *, limits: CountLimits
) -> Generator[Step, Any, tuple[PartitionState, Counted]]:
    n, m = blocks[0].offset, blocks[-1].offset
    if state.identities.covered_from < 0:
        state = replace(state, identities=(yield from _restored(state, before=n, limits=limits)))
    corrected = yield from correct(blocks, partition=state.partition, before=n, identities=state.identities)
    counted = Counted(decode_blocks([]), pl.DataFrame(schema=REPEATS), 0, 0, corrected=corrected)
    if not corrected.corrections.height:
        return replace(state, next_block=m + 1), counted
    yield InsertCorrections(corrected.corrections)
    totals, loaded = yield from _with_totals(state, corrected.corrections, before=n)
    touched = fold_corrections(corrected.corrections, before=totals, version=m)
    judged, alerts = yield from judge_corrections(
        state.judged, corrected.corrections, partition=state.partition, before=n
    )
    yield from _alerted(alerts)
    yield InsertTotals(touched)
    totals, loaded = _within_limit(totals.with_rows(touched), loaded, rows_max=limits.totals_rows_max)
    after = replace(state, next_block=m + 1, totals=totals, loaded=loaded, judged=judged)
    return after, replace(counted, alerts=alerts)


def _with_totals(
    state: PartitionState, events: pl.DataFrame, *, before: int
) -> Generator[Step, Any, tuple[Lanes, pl.DataFrame]]:
    """Totals and loaded pairs of the state, complete for the hours of these events."""
    missing = _pairs(events).join(state.loaded, on=["org", "hour"], how="anti")
    if not missing.height:
        return state.totals, state.loaded
    asked: pl.DataFrame = yield AskTotals(state.partition, before, missing)
    return state.totals.with_rows(asked), pl.concat([state.loaded, missing])


def _alerted(alerts: pl.DataFrame) -> Generator[Step, Any, None]:
    """Stored before it is published: what is out can always be looked up."""
    if alerts.height:
        yield InsertAlerts(alerts)
        yield PublishAlerts(alerts)


@dataclass(frozen=True, slots=True)
class Counted:
    """What came of a run of blocks: for metrics, logs and the executable specification."""

    facts: PricedBatch
    repeats: pl.DataFrame
    replays: int
    events: int
    alerts: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=ALERTS))
    corrected: Corrected = field(default_factory=Corrected)


def _together(counted: Sequence[Counted]) -> Counted:
    return Counted(
        merge([one.facts for one in counted]),
        pl.concat([one.repeats for one in counted]),
        sum(one.replays for one in counted),
        sum(one.events for one in counted),
        pl.concat([one.alerts for one in counted]),
        together([one.corrected for one in counted]),
    )


def _restored(state: PartitionState, *, before: int, limits: CountLimits) -> Generator[Step, Any, Identities]:
    horizon = limits.horizon + RESTORE_SLACK
    answer: IdentitiesAnswer = yield AskIdentities(state.partition, before, horizon, limits.identities_max)
    segments = (Segment(np.sort(answer.hashes), before - 1),) if len(answer.hashes) else ()
    return Identities(limits.identities_max, segments, answer.covered_from, answer.received_since)


def _known_facts(
    state: PartitionState, batch: PricedBatch, hashes: NDArray[np.uint64], *, before: int, horizon: timedelta
) -> Generator[Step, Any, tuple[pl.DataFrame, NDArray[np.bool_]]]:
    """The store's facts that events of the batch may repeat (KNOWN), and which events had to be asked for."""
    remembered = state.identities.contain(hashes)
    suspects = remembered | _beyond_memory(batch.events, state.identities, horizon=horizon)
    if not suspects.any():
        return pl.DataFrame(schema=KNOWN), suspects
    asked, asked_hashes = batch.events.filter(pl.Series(suspects)), hashes[suspects]
    first = _question(asked, asked_hashes, partition=state.partition, before=before, horizon=horizon)
    known = yield from _answered(first, remembered=hashes[remembered])
    is_open = _cut_short(asked, asked_hashes, known, since=first.settled_since)
    if not is_open.any():
        return known, suspects
    further = _question(
        asked.filter(pl.Series(is_open)), asked_hashes[is_open], partition=state.partition, before=before
    )
    rest = yield from _answered(further, remembered=further.hashes)
    return pl.concat([known, rest]), suspects


def _beyond_memory(events: pl.DataFrame, identities: Identities, *, horizon: timedelta) -> NDArray[np.bool_]:
    """Which events may repeat facts that memory does not cover: only the store can rule these out."""
    if identities.covered_from > 0:
        return np.ones(events.height, dtype=np.bool_)
    if identities.received_since is None:
        return np.zeros(events.height, dtype=np.bool_)
    return (events.get_column("received_at") < identities.received_since + horizon).to_numpy()


def _question(
    asked: pl.DataFrame,
    hashes: NDArray[np.uint64],
    *,
    partition: int,
    before: int,
    horizon: timedelta | None = None,
) -> AskKnown:
    """The question about these events; without a horizon every fact with one of the hashes is wanted."""
    newest = asked.get_column("received_at").max()
    since = newest - horizon if isinstance(newest, datetime) and horizon is not None else _NOTHING_SETTLED
    return AskKnown(partition, before, hashes, asked.get_column("org"), asked.get_column("time"), since)


def _answered(question: AskKnown, *, remembered: NDArray[np.uint64]) -> Generator[Step, Any, pl.DataFrame]:
    """The store's facts that the suspects may repeat.

    A remembered hash without an answer is asked again: the store acknowledged that fact, so not seeing it means that
    the answer is not to be trusted yet.
    """
    for _ in range(ASK_AGAIN_MAX):
        known: pl.DataFrame = yield question
        if np.isin(remembered, known.get_column("identity_hash").to_numpy()).all():
            return known
    raise StoreUnavailable(
        "The store does not show facts that it acknowledged: check that reads go to the replica that is written to."
    )


def _cut_short(
    asked: pl.DataFrame, hashes: NDArray[np.uint64], known: pl.DataFrame, *, since: datetime
) -> NDArray[np.bool_]:
    """Which events an answer does not decide, because it may lack facts with their hash.

    A hash is looked for no further once a young fact has it, but that fact may be another identity's (hashes collide),
    or received after the event, so that an earlier fact holds the event. Both are rare, and worth a question.
    """
    young = known.filter(pl.col("received_at") >= since)
    is_open = np.isin(hashes, young.get_column("identity_hash").to_numpy())
    if not is_open.any():
        return is_open
    decided = (
        asked.select(*IDENTITY, "received_at")
        .with_row_index("row")
        .filter(pl.Series(is_open))
        .join(young.select(*IDENTITY, pl.col("received_at").alias("held_at")), on=list(IDENTITY))
        .filter(pl.col("held_at") <= pl.col("received_at"))
    )
    is_open[decided.get_column("row").to_numpy()] = False
    return is_open


def _pairs(events: pl.DataFrame) -> pl.DataFrame:
    return events.select("org", pl.col("time").dt.truncate("1h").alias("hour")).unique().sort("org", "hour")


def _within_limit(totals: Lanes, loaded: pl.DataFrame, *, rows_max: int) -> tuple[Lanes, pl.DataFrame]:
    """Forgets whole hours, oldest first, until the limit holds; what is forgotten is asked again when touched."""
    totals, hours = totals.within(rows_max)
    return totals, loaded if hours is None else loaded.filter(pl.col("hour").is_in(hours.implode()))

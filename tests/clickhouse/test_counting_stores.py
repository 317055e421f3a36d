"""What counting relies on, held by the model in memory and by the real ClickHouse engine alike."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.correct import AskStates, InsertCorrections
from pipeline.count import (
    AskIdentities,
    AskKnown,
    AskTotals,
    IdentitiesAnswer,
    InsertFacts,
    InsertRepeats,
    InsertTotals,
    PublishConflicts,
    fresh,
)
from pipeline.fold import fold
from pipeline.identities import identity_hashes
from pipeline.lanes import NO_LANES
from pipeline.memory_store import MemoryStore
from schemas.counted import HOUR, KNOWN, REPEATS, TOTALS
from tests.clickhouse.counting_stores import InClickHouse, InMemory
from tests.pipeline.batches import HORIZON, NOON, Event, LogBlock, logs, make_block, make_counted
from tests.pipeline.driving import LIMITS, crash_at, steps_of
from tests.pipeline.oracle import expected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clickhouse.client import Store
    from pipeline.count import Step
    from tests.clickhouse.counting_stores import CountingStore
    from tests.pipeline.oracle import Books

FIRST = Event(0)
LONG_AGO = NOON - 10 * HORIZON
NEVER_SETTLED = datetime.max.replace(tzinfo=NOON.tzinfo)
NO_TOTALS = pl.DataFrame(schema=TOTALS)
TABLES = ("facts_rows", "totals_rows", "duplicates_rows", "corrections_rows")


@pytest.fixture(params=["memory", pytest.param("clickhouse", marks=pytest.mark.servers)])
def counting_store(request: pytest.FixtureRequest) -> CountingStore:
    """The two stores, one after the other."""
    if request.param == "memory":
        return InMemory(MemoryStore())
    return InClickHouse(request.getfixturevalue("clickhouse"))


def test_a_fact_written_again_is_one_fact(counting_store: CountingStore) -> None:
    """An insert whose outcome is unknown is repeated as it is; the rows replace themselves."""
    for _ in range(3):
        _insert(counting_store, [FIRST, Event(1, id="b")])

    assert sorted(offset for _, _, offset, _ in counting_store.books().facts) == [0, 1]


def test_a_fact_keeps_everything_that_was_decided(counting_store: CountingStore) -> None:
    """Every field, exact decimals, absent costs, empty lists: what went in comes out."""
    drawn = [
        replace(FIRST, project="p/1", environment="e", user="u", tags='{"a":"b"}', status="error"),
        Event(4, id="e", variant='{"batch":true,"service_tier":"flex"}'),
        Event(1, id="b", usage=()),
        Event(2, id="c", usage=(("images", Decimal("0.000000001")), ("input_tokens", Decimal(10**15)))),
        Event(3, id="d", usage=(("reasoning_tokens", Decimal(3)),)),
    ]

    _insert(counting_store, drawn, block=4)

    assert _expected([LogBlock(0, 4, tuple(drawn))]).facts == counting_store.books().facts


def test_an_id_received_again_after_the_horizon_is_a_second_row(counting_store: CountingStore) -> None:
    """Same org, source, id and time, another time of receipt: two facts."""
    again = replace(FIRST, offset=1, received_at=NOON + 2 * HORIZON)

    _insert(counting_store, [FIRST])
    _insert(counting_store, [again], block=1)

    assert len(counting_store.books().facts) == 2


# Questions as of a block.


def test_identities_are_those_of_facts_before_the_block(counting_store: CountingStore) -> None:
    """Rows of the block itself and of later ones may stem from a run that died: they are not answered."""
    for block in range(4):
        _insert(counting_store, [Event(block, id=str(block))], block=block)

    hashes, covered_from = _identities(counting_store, before=2)

    assert set(_hashes([Event(id="0"), Event(id="1")]).tolist()) == set(hashes.tolist())
    assert covered_from == 0


def test_identities_of_another_partition_are_not_answered(counting_store: CountingStore) -> None:
    """Blocks of two partitions have the same numbers and nothing to do with each other."""
    _insert(counting_store, [FIRST], partition=1)

    assert _identities(counting_store, before=9)[0].tolist() == []


def test_all_identities_within_the_horizon_are_answered(counting_store: CountingStore) -> None:
    """Reckoned from the newest receipt before the block, both ends included."""
    oldest = replace(FIRST, received_at=NOON - HORIZON)
    _insert(counting_store, [oldest, Event(1, id="b"), Event(2, id="c", received_at=LONG_AGO)])

    hashes, covered_from = _identities(counting_store, before=1)

    assert set(_hashes([FIRST, Event(id="b")]).tolist()) <= set(hashes.tolist())
    assert _hashes([Event(id="c")])[0] not in hashes
    assert covered_from == 0


@pytest.mark.parametrize(("limit", "covered_from"), [(6, 0), (5, 1), (4, 2), (3, 2), (2, 3), (1, 3), (100, 0)])
def test_newest_blocks_come_first_when_there_is_not_room_for_all(
    counting_store: CountingStore, limit: int, covered_from: int
) -> None:
    """From covered_from on nothing is left out; the oldest block that fits may do so in part, and is not covered."""
    for block in range(3):
        _insert(counting_store, [Event(block * 2 + part, id=f"{block}{part}") for part in range(2)], block=block)

    hashes, found_from = _identities(counting_store, before=3, limit=limit)

    covered = [Event(id=f"{block}{part}") for block in range(covered_from, 3) for part in range(2)]
    assert set(_hashes(covered).tolist()) == set(hashes.tolist())
    assert found_from == covered_from


def test_no_facts_are_no_identities(counting_store: CountingStore) -> None:
    """A fresh installation covers everything with nothing."""
    hashes, covered_from = _identities(counting_store, before=5)

    assert (hashes.tolist(), hashes.dtype, covered_from) == ([], np.uint64, 0)


def test_known_facts_are_those_before_the_block(counting_store: CountingStore) -> None:
    """A fact of a later block holds no identity yet."""
    _insert(counting_store, [FIRST], block=1)
    _insert(counting_store, [Event(1, id="b")], block=2)

    known = _known(counting_store, [FIRST, Event(id="b")], before=2)

    assert known.get_column("id").to_list() == ["a"]
    assert known.schema == KNOWN


def test_a_known_fact_says_all_that_a_repeat_is_judged_by(counting_store: CountingStore) -> None:
    """Place, receipt, content and quantities come back as they were stored."""
    fact = replace(FIRST, partition=2, offset=8, index=3, of=4, tags='{"a":"b"}', user="u", variant='{"batch":true}')
    _insert(counting_store, [fact], block=6)

    (row,) = _known(counting_store, [fact], before=7).iter_rows(named=True)

    wanted = {name: getattr(fact, name) for name in KNOWN if hasattr(fact, name)}
    wanted |= {"topic": "usage.events", "block": 6, "identity_hash": int(_hashes([fact])[0])}
    wanted |= {"meters": ["input_tokens"], "quantities": [Decimal(10)]}
    assert wanted == row


def test_a_fact_at_another_time_is_found_by_its_hash(counting_store: CountingStore) -> None:
    """A conflict does not have its original's time, and is no less a conflict."""
    _insert(counting_store, [FIRST])

    known = _known(counting_store, [replace(FIRST, time=NOON + timedelta(hours=9), org="acme")], before=1)

    assert known.height == 1


def test_a_hash_that_nothing_young_answers_is_looked_for_everywhere(counting_store: CountingStore) -> None:
    """All facts with the hash come back, near and far ones, each once."""
    second = replace(FIRST, offset=1, received_at=NOON + 2 * HORIZON, time=FIRST.time + 2 * HORIZON)
    _insert(counting_store, [FIRST])
    _insert(counting_store, [second], block=1)

    known = _known(counting_store, [FIRST], before=2, settled_since=NEVER_SETTLED)

    assert sorted(known.get_column("offset")) == [0, 1]


def test_facts_with_one_hash_are_all_answered(counting_store: CountingStore) -> None:
    """Hashes collide: the answer names identities in full, and the caller compares."""
    events = [FIRST, Event(1, id="b", time=NOON)]
    batch = make_counted(events)
    counting_store.insert_facts(batch, np.array([7, 7], dtype=np.uint64))

    known = counting_store.known_facts(
        partition=0,
        before=1,
        hashes=np.array([7], dtype=np.uint64),
        orgs=pl.Series(["acme"]),
        times=batch.events.get_column("time")[:1],
        settled_since=NEVER_SETTLED,
    )

    assert sorted(known.get_column("id")) == ["a", "b"]


def test_no_question_is_no_answer(counting_store: CountingStore) -> None:
    """Without hashes nothing is asked, and the shape is KNOWN."""
    _insert(counting_store, [FIRST])

    known = _known(counting_store, [], before=9)

    assert (known.height, known.schema) == (0, KNOWN)


def test_the_newest_block_is_that_of_its_partition(counting_store: CountingStore) -> None:
    """None means that nothing was counted yet."""
    assert counting_store.newest_block(partition=0) is None

    _insert(counting_store, [FIRST], block=7)
    _insert(counting_store, [Event(1, id="b")], block=3)
    _insert(counting_store, [Event(2, id="c")], block=90, partition=1)

    assert counting_store.newest_block(partition=0) == 7


# Totals: absolute values, the highest version stays.


def test_an_older_total_that_comes_late_changes_nothing(counting_store: CountingStore) -> None:
    """A paused worker that wakes up writes what was true before; the store compares versions."""
    newer = _folded([FIRST, Event(1, id="b")], version=5)
    counting_store.insert_totals(newer)

    counting_store.insert_totals(_folded([FIRST], version=4))
    counting_store.insert_totals(newer)

    assert _requests(counting_store.books()) == [2]


def test_a_newer_total_replaces_the_older_one(counting_store: CountingStore) -> None:
    """Never added: what is written is what is read."""
    counting_store.insert_totals(_folded([FIRST], version=4))
    counting_store.insert_totals(_folded([FIRST, Event(1, id="b")], version=5))

    assert _requests(counting_store.books()) == [2]


def test_totals_before_a_block_are_the_rows_of_older_versions(counting_store: CountingStore) -> None:
    """What stands there with a lower version is what it was; quantities come in lists by name."""
    drawn = [FIRST, Event(1, id="b", usage=(("images", Decimal(2)),), status="error")]
    _insert(counting_store, drawn, block=3)
    stored = _folded(drawn, version=3)
    counting_store.insert_totals(stored)

    before = counting_store.totals_before(partition=0, before=4, pairs=_pairs([FIRST]))

    assert before.schema == TOTALS
    assert stored.equals(before)


def test_totals_of_a_later_version_are_taken_back_to_the_facts_before(counting_store: CountingStore) -> None:
    """The value before the block is the sum of the facts before it: the same as if the later run had never been."""
    drawn = [
        FIRST,
        Event(1, id="b", usage=(("images", Decimal(2)), ("input_tokens", Decimal("2.5")))),
        Event(2, id="c", status="error", project="search"),
        Event(3, id="d", usage=()),
    ]
    _insert(counting_store, drawn, block=3)
    _insert(counting_store, [Event(9, id="z")], block=5)
    counting_store.insert_totals(_folded([*drawn, Event(9, id="z")], version=5))

    before = counting_store.totals_before(partition=0, before=4, pairs=_pairs([FIRST]))

    assert _folded(drawn, version=3).sort("project").equals(before.sort("project"))


def test_a_lane_that_only_later_blocks_touched_is_nothing_before_them(counting_store: CountingStore) -> None:
    """Taken back to before its first fact, a lane has no row."""
    _insert(counting_store, [FIRST], block=5)
    counting_store.insert_totals(_folded([FIRST], version=5))

    assert counting_store.totals_before(partition=0, before=5, pairs=_pairs([FIRST])).height == 0


def test_only_the_hours_asked_for_are_answered(counting_store: CountingStore) -> None:
    """Two orgs and two hours: an answer holds the pairs, not their product."""
    drawn = [
        Event(0, org="acme", time=NOON),
        Event(1, org="acme", time=NOON + timedelta(hours=1)),
        Event(2, org="zen", time=NOON),
        Event(3, org="zen", time=NOON + timedelta(hours=1)),
    ]
    _insert(counting_store, drawn, block=1)
    counting_store.insert_totals(_folded(drawn[:2], version=1))
    counting_store.insert_totals(_folded(drawn[2:], version=9))

    before = counting_store.totals_before(partition=0, before=5, pairs=_pairs([drawn[0], drawn[3]]))

    wanted = [("acme", NOON, 1), ("zen", NOON + timedelta(hours=1), 1)]
    assert sorted(before.select("org", "hour", "version").rows()) == wanted


def test_no_pairs_are_no_totals(counting_store: CountingStore) -> None:
    """Without a question there is no answer, of the right shape."""
    before = counting_store.totals_before(partition=0, before=5, pairs=_pairs([]))

    assert (before.height, before.schema) == (0, TOTALS)


# Repeats.


def test_a_repeat_written_again_is_one_row_of_its_lowest_block(counting_store: CountingStore) -> None:
    """The key is the repeat's own place; a later copy in the log changes nothing, whichever is written last."""
    for block in (5, 3, 9):
        counting_store.insert_repeats(_repeats(block))

    ((_, repeat),) = counting_store.books().repeats.items()
    assert repeat == ("duplicate", ("acme", "/gateway", "a"), FIRST.time, FIRST.coordinates, 3)


# Both, under any history.


@pytest.mark.servers
@given(log=logs(), crashes=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 8)), max_size=4))
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example empties the tables first
)
def test_the_model_answers_as_the_real_store_through_crashes(
    clickhouse: Store, log: list[LogBlock], crashes: list[tuple[int, int]]
) -> None:
    """Counted side by side, every answer and all books are the same: what holds on the model holds on the store."""
    for table in TABLES:
        clickhouse.command(f"TRUNCATE TABLE {table}")
    both = _SideBySide(clickhouse)
    blocks: dict[int, list[Any]] = {}
    for block in log:
        blocks.setdefault(block.partition, []).append(block.encoded())

    for own in blocks.values():
        for length, steps in crashes:
            crash_at(steps, fresh(own[0].partition, next_block=0, limits=LIMITS), own[:length], store=both)
        steps_of(fresh(own[0].partition, next_block=0, limits=LIMITS), own, store=both)

    assert _expected(log) == InMemory(both.model).books() == InClickHouse(clickhouse).books()


class _SideBySide(MemoryStore):
    """Carries out each step on both stores and compares the answers."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._real = InClickHouse(store)

    @property
    def model(self) -> MemoryStore:
        return self

    def carry_out(self, step: Step) -> Any:
        answer = super().carry_out(step)
        match step:
            case AskIdentities(partition, before, horizon, limit):
                hashes, covered_from = self._real.identities_before(
                    partition=partition, before=before, horizon=horizon, limit=limit
                )
                assert isinstance(answer, IdentitiesAnswer)
                assert (sorted(answer.hashes.tolist()), answer.covered_from) == (sorted(hashes.tolist()), covered_from)
            case AskKnown(partition, before, hashes, orgs, times, since):
                known = self._real.known_facts(
                    partition=partition, before=before, hashes=hashes, orgs=orgs, times=times, settled_since=since
                )
                assert _sorted(answer).equals(_sorted(known))
            case AskStates(partition, before, hashes, orgs, times):
                states = self._real.states_before(
                    partition=partition, before=before, hashes=hashes, orgs=orgs, times=times
                )
                assert _sorted(answer).equals(_sorted(states))
            case AskTotals(partition, before, pairs):
                totals = self._real.totals_before(partition=partition, before=before, pairs=pairs)
                assert _sorted(answer).equals(_sorted(totals))
            case InsertFacts():
                self._real.insert_facts(step.facts, step.hashes)
            case InsertRepeats():
                self._real.insert_repeats(step.repeats)
            case InsertCorrections():
                self._real.insert_corrections(step.corrections)
            case InsertTotals():
                self._real.insert_totals(step.totals)
            case PublishConflicts():
                pass
        return answer


def _sorted(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.sort(pl.all())


def _insert(store: CountingStore, drawn: Sequence[Event], *, block: int = 0, partition: int = 0) -> None:
    batch = make_counted(drawn, block=block, partition=partition)
    store.insert_facts(batch, identity_hashes(batch.events))


def _hashes(drawn: Sequence[Event]) -> Any:
    return identity_hashes(make_counted(drawn).events)


def _identities(store: CountingStore, *, before: int, limit: int = 1_000_000) -> tuple[Any, int]:
    return store.identities_before(partition=0, before=before, horizon=HORIZON, limit=limit)


def _known(
    store: CountingStore, asked: Sequence[Event], *, before: int, settled_since: datetime = LONG_AGO
) -> pl.DataFrame:
    frame = make_counted(asked).events
    return store.known_facts(
        partition=0,
        before=before,
        hashes=_hashes(asked),
        orgs=frame.get_column("org"),
        times=frame.get_column("time"),
        settled_since=settled_since,
    )


def _folded(drawn: Sequence[Event], *, version: int) -> pl.DataFrame:
    return fold(make_counted(drawn), before=NO_LANES, version=version, block_partition=0)


def _pairs(drawn: Sequence[Event]) -> pl.DataFrame:
    rows = {(event.org, event.time.replace(minute=0, second=0, microsecond=0)) for event in drawn}
    return pl.DataFrame(sorted(rows), schema={"org": pl.String, "hour": HOUR}, orient="row")


def _repeats(block: int) -> pl.DataFrame:
    _, _, counted = steps_of(
        fresh(0, next_block=block, limits=LIMITS),
        [make_block([FIRST, replace(FIRST, offset=1)], offset=block)],
        store=MemoryStore(),
    )
    assert counted.repeats.schema == REPEATS
    return counted.repeats


def _requests(books: Books) -> list[int]:
    return [total["requests"] for total in books.totals.values()]


def _expected(log: Sequence[LogBlock]) -> Books:
    return expected(log, horizon=HORIZON)

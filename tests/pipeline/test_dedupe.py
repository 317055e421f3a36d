"""Counting once, case by case: what is new, a replay, a duplicate, a conflict."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline.dedupe import dedupe
from pipeline.identities import identity_hashes
from pipeline.memory_store import MemoryStore
from schemas.counted import KNOWN, REPEATS
from tests.pipeline.batches import HORIZON, NOON, Event, make_counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from pipeline.dedupe import Decision

FIRST = Event(0)


def test_the_first_of_an_identity_is_new_and_the_second_is_not() -> None:
    """Two copies in one batch are compared with each other."""
    decision = _decided([FIRST, replace(FIRST, offset=1)])

    assert decision.new.tolist() == [0]
    assert _repeats(decision) == [("duplicate", 1, 0)]


def test_a_repeat_of_a_stored_fact_is_a_duplicate_with_both_places() -> None:
    """The row says where the repeat stood and where the fact did."""
    decision = _decided([replace(FIRST, offset=7, partition=1)], known=[FIRST])

    assert decision.new.tolist() == []
    assert decision.repeats.select(
        "kind", "topic", "partition", "offset", "index", "first_topic", "first_partition", "first_offset", "first_index"
    ).rows() == [("duplicate", "usage.events", 1, 7, 0, "usage.events", 0, 0, 0)]


def test_the_same_raw_record_again_leaves_no_trace() -> None:
    """A block that a killed price agent produced twice is a replay: no row, no count."""
    decision = _decided([FIRST], known=[FIRST])

    assert (decision.new.tolist(), decision.repeats.height, decision.replays) == ([], 0, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"time": FIRST.time + timedelta(microseconds=1)},
        {"operation": "lookup"},
        {"project": "search"},
        {"api_key": "key_43"},
        {"environment": "staging"},
        {"user": "u_1"},
        {"provider": "anthropic"},
        {"model": "gpt-4o"},
        {"status": "error"},
        {"tags": '{"a":"b"}'},
        {"variant": '{"batch":true}'},
        {"usage": ()},
        {"usage": (("input_tokens", Decimal(11)),)},
        {"usage": (("output_tokens", Decimal(10)),)},
        {"usage": (("input_tokens", Decimal(10)), ("images", Decimal(0)))},
    ],
    ids=lambda change: next(iter(change)),
)
@pytest.mark.parametrize("stored", [False, True], ids=["in one batch", "against the store"])
def test_a_repeat_with_other_content_is_a_conflict(change: dict[str, Any], *, stored: bool) -> None:
    """Neither is billed, both are recorded; every field of the event is content."""
    other = replace(FIRST, offset=1, **change)

    decision = _decided([other], known=[FIRST]) if stored else _decided([FIRST, other])

    assert _repeats(decision) == [("conflict", 1, 0)]


@pytest.mark.parametrize("stored", [False, True], ids=["in one batch", "against the store"])
def test_order_of_quantities_and_way_of_writing_are_not_content(*, stored: bool) -> None:
    """Quantities are compared by name and value: 10.0 is 10."""
    first = replace(FIRST, usage=(("images", Decimal(1)), ("input_tokens", Decimal(10))))
    again = replace(FIRST, offset=1, usage=(("input_tokens", Decimal("10.0")), ("images", Decimal("1.000"))))

    decision = _decided([again], known=[first]) if stored else _decided([first, again])

    assert _repeats(decision) == [("duplicate", 1, 0)]


def test_another_price_does_not_make_a_conflict() -> None:
    """What an event costs is not what it says: a copy priced under a later revision is a duplicate."""
    store = MemoryStore()
    batch = make_counted([FIRST], revision=1)
    store.insert_facts(batch, identity_hashes(batch.events))

    decision = _decided([replace(FIRST, offset=1)], revision=2, store=store)

    assert _repeats(decision) == [("duplicate", 1, 0)]


@pytest.mark.parametrize(
    "other", [{"org": "zen"}, {"source": "/batch"}, {"id": "b"}], ids=lambda other: next(iter(other))
)
def test_org_source_and_id_make_the_identity(other: dict[str, Any]) -> None:
    """Events that differ in one of the three are two facts."""
    assert _decided([FIRST, replace(FIRST, offset=1, **other)]).new.tolist() == [0, 1]


def test_an_identity_with_the_hash_of_another_is_new() -> None:
    """A collision of hashes costs a look and never an event."""
    batch = make_counted([replace(FIRST, offset=1, id="b")], block=1)

    decision = dedupe(
        batch,
        hashes=np.array([7], dtype=np.uint64),
        suspects=np.array([True]),
        known=_known([FIRST]),
        horizon=HORIZON,
    )

    assert decision.new.tolist() == [0]


def test_an_event_that_is_no_suspect_is_new_without_a_look() -> None:
    """What memory rules out is not compared, even if the caller hands over a fact that it would repeat."""
    batch = make_counted([replace(FIRST, offset=1)], block=1)

    decision = dedupe(
        batch,
        hashes=identity_hashes(batch.events),
        suspects=np.array([False]),
        known=_known([FIRST]),
        horizon=HORIZON,
    )

    assert decision.new.tolist() == [0]


# The horizon: an identity is taken from the receipt of its fact until HORIZON after it, both ends included.
#
#   fact        last repeat      next fact
#   |---- 35 days ----|----------|---- 35 days ----|
#   0                35d       35d+1us


@pytest.mark.parametrize(("later", "is_new"), [(HORIZON, False), (HORIZON + timedelta(microseconds=1), True)])
@pytest.mark.parametrize("stored", [False, True], ids=["in one batch", "against the store"])
def test_an_id_used_again_after_the_horizon_is_a_new_fact(later: timedelta, *, is_new: bool, stored: bool) -> None:
    """The horizon is the difference of two times of receipt."""
    again = replace(FIRST, offset=1, received_at=NOON + later)

    decision = _decided([again], known=[FIRST]) if stored else _decided([FIRST, again])

    assert (decision.new.tolist()[-1:] == [0 if stored else 1]) is is_new


def test_an_event_received_before_the_fact_is_its_repeat_however_early() -> None:
    """Between raw partitions the first in usage.priced counts, and it stays so."""
    late = replace(FIRST, offset=1, partition=1, received_at=NOON - 3 * HORIZON)

    assert _repeats(_decided([late], known=[FIRST])) == [("duplicate", 1, 0)]


def test_a_repeat_belongs_to_the_fact_that_held_its_identity_first() -> None:
    """A later fact of the same id does not change what a late copy of the earlier one is told."""
    second = replace(FIRST, offset=1, received_at=NOON + 2 * HORIZON, status="error")
    late_copy = replace(FIRST, offset=2, partition=1, received_at=NOON + timedelta(days=1))

    assert _repeats(_decided([late_copy], known=[FIRST, second])) == [("duplicate", 2, 0)]


def test_a_repeat_that_stands_twice_in_a_batch_is_one_row() -> None:
    """A killed price agent may produce a repeat twice; its coordinates are the key."""
    again = replace(FIRST, offset=1)

    assert _repeats(_decided([FIRST, again, again])) == [("duplicate", 1, 0)]


def test_two_events_of_one_record_are_told_apart_by_their_index() -> None:
    """In a batch of CloudEvents the second copy is a duplicate of the first."""
    decision = _decided([replace(FIRST, of=2), replace(FIRST, index=1, of=2)])

    assert decision.repeats.select("offset", "index", "first_index").rows() == [(0, 1, 0)]


def test_nothing_decided_is_an_empty_decision() -> None:
    """No events, no rows, the right shape."""
    decision = _decided([])

    assert decision.new.tolist() == []
    assert decision.repeats.schema == REPEATS


def _decided(
    events: Sequence[Event], *, known: Sequence[Event] = (), revision: int = 1, store: MemoryStore | None = None
) -> Decision:
    batch = make_counted(events, block=1, revision=revision)
    return dedupe(
        batch,
        hashes=identity_hashes(batch.events),
        suspects=np.ones(batch.events.height, dtype=np.bool_),
        known=_known(known, store=store),
        horizon=HORIZON,
    )


def _known(events: Sequence[Event], *, store: MemoryStore | None = None) -> pl.DataFrame:
    store = store or MemoryStore()
    batch = make_counted(events)
    store.insert_facts(batch, identity_hashes(batch.events))
    return store.facts().select(KNOWN.keys())


def _repeats(decision: Decision) -> list[tuple[Any, ...]]:
    return decision.repeats.select("kind", "offset", "first_offset").rows()

"""Totals as absolute values: folded in any cut, they are the sums of the facts."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.fold import fold
from pipeline.lanes import NO_LANES
from schemas.counted import TOTALS
from tests.pipeline.batches import HORIZON, NOON, Event, LogBlock, lanes_of, make_counted, raw_events
from tests.pipeline.oracle import expected, found

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.lanes import Lanes

ONE = Decimal(1)


@given(drawn=raw_events(), cuts=st.lists(st.integers(0, 14), max_size=3))
@settings(max_examples=60, deadline=None)
def test_totals_folded_piece_by_piece_are_the_sums_of_the_facts(drawn: list[Event], cuts: list[int]) -> None:
    """Incremental equals rebuilt, to the last of twelve decimals, quantities and costs by name included."""
    facts = [replace(event, id=str(row)) for row, event in enumerate(drawn)]
    totals = NO_LANES
    ends = sorted({0, *(min(cut, len(facts)) for cut in cuts), len(facts)})
    for version, (start, end) in enumerate(pairwise(ends)):
        totals = totals.with_rows(_folded(facts[start:end], before=totals, version=version))

    _, rows = totals.find(lanes_of(facts))
    assert expected([LogBlock(0, 0, tuple(facts))], horizon=HORIZON).totals == _found(rows)


def test_a_total_carries_the_version_and_partition_it_is_given() -> None:
    """The version is the last block of the flush, whatever blocks its facts stood in."""
    touched = _folded([Event()], version=9, block_partition=3)

    assert touched.select("version", "block_partition").rows() == [(9, 3)]
    assert touched.schema == TOTALS


def test_only_touched_lanes_come_back() -> None:
    """A lane that no fact touches keeps its row and its version."""
    before = _folded([Event(project="search"), Event(project="checkout")])

    touched = _folded([Event(project="checkout")], before=NO_LANES.with_rows(before), version=1)

    assert touched.select("project", "requests", "version").rows() == [("checkout", 2, 1)]


def test_an_hour_begins_at_its_first_microsecond() -> None:
    """Spans include their start and exclude their end."""
    moments = (NOON - timedelta(microseconds=1), NOON, NOON + timedelta(minutes=59, seconds=59, microseconds=999_999))

    touched = _folded([Event(time=moment) for moment in moments])

    assert sorted(touched.select("hour", "requests").rows()) == [(NOON - timedelta(hours=1), 1), (NOON, 2)]


def test_failed_events_are_counted_apart_with_what_they_cost() -> None:
    """Ok + failed = requests; failed_cost is a part of cost."""
    touched = _folded([Event(), Event(status="error")])

    assert touched.select("requests", "ok", "failed", "cost", "failed_cost").rows() == [
        (2, 1, 1, Decimal("3.0"), Decimal("1.5"))
    ]


def test_what_has_no_price_is_counted_as_unpriced_and_costs_nothing() -> None:
    """An unpriced meter costs null, never a silent 0; the total is the sum of what has a price."""
    touched = _folded([Event(usage=(("images", ONE), ("input_tokens", ONE)))])

    row = touched.row(0, named=True)
    assert (row["unpriced"], row["cost"]) == (1, Decimal("0.15"))
    assert (row["meters"], row["costs"]) == (["images", "input_tokens"], [None, Decimal("0.15")])
    assert (row["unpriced_events"], row["billed_quantities"]) == ([1, 0], [0, 1])


def test_a_meter_without_and_later_with_a_name_is_two_quantities() -> None:
    """Quantities are kept by meter and invoice name: the day a price arrives shows."""
    before = _folded([Event(usage=(("images", ONE),))])
    facts = make_counted([Event(usage=(("images", ONE),))])
    named = facts.kinds.with_columns(name=pl.lit("pictures"), state=pl.lit("billed"))
    priced = type(facts)(facts.events, facts.lines.with_columns(cost=pl.lit(2).cast(pl.Decimal(38, 12))), named)

    row = fold(priced, before=NO_LANES.with_rows(before), version=1, block_partition=0).row(0, named=True)

    assert (row["meters"], row["names"]) == (["images", "images"], ["", "pictures"])
    assert (row["quantities"], row["costs"]) == ([1, 1], [None, 2])


def test_the_newest_time_never_goes_back() -> None:
    """A late event does not age its lane."""
    before = _folded([Event(time=NOON + timedelta(minutes=30))])

    touched = _folded([Event(time=NOON)], before=NO_LANES.with_rows(before))

    assert touched.get_column("newest_time").to_list() == [NOON + timedelta(minutes=30)]


def test_an_event_without_quantities_is_a_request_all_the_same() -> None:
    """A lane may have requests and no quantities."""
    row = _folded([Event(usage=())]).row(0, named=True)

    assert (row["requests"], row["meters"], row["costs"]) == (1, [], [])


def _folded(
    events: Sequence[Event], *, before: Lanes = NO_LANES, version: int = 0, block_partition: int = 0
) -> pl.DataFrame:
    return fold(make_counted(events), before=before, version=version, block_partition=block_partition)


def _found(totals: pl.DataFrame) -> dict[Any, Any]:
    return found((), totals.iter_rows(named=True), ()).totals

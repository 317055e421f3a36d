"""The memory of totals: whatever is added and forgotten, a lane has the last row that it was given."""

from __future__ import annotations

from datetime import timedelta
from random import Random

import numpy as np
import polars as pl
import pytest

from pipeline import lanes as lanes_module
from pipeline.fold import fold
from pipeline.lanes import NO_LANES, Lanes, hashes_of, numbered
from schemas.counted import LANE, TOTALS
from tests.pipeline.batches import NOON, Event, lanes_of, make_counted

#: Each a lane of its own.
EVENTS = [
    Event(id=f"{project} {hour}", project=project, time=NOON - timedelta(hours=hour))
    for project in ("", *map(str, range(30)))
    for hour in range(3)
]
#: How many different hashes there are: with three, nearly every lane has that of others.
HASHES = pytest.mark.parametrize("hashes", [2**64, 40, 3, 1])


@HASHES
def test_a_lane_has_the_last_row_it_was_given(hashes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any order and mixture, and when two lanes have one hash."""
    monkeypatch.setattr(lanes_module, "hashes_of", lambda rows: hashes_of(rows) % np.uint64(hashes - 1 or 1))
    for seed in range(30):
        rng = Random(seed)
        lanes, told, parts = NO_LANES, dict[tuple[object, ...], int](), 0
        for version in range(1, 25):
            rows = _rows(rng.sample(EVENTS, rng.randint(0, 12)), version=version)
            lanes = lanes.with_rows(rows)
            told |= _versions(rows)
            parts = max(parts, len(lanes.parts))
            asked = rng.sample(EVENTS, rng.randint(0, 30))

            assert _found(lanes, asked) == {lane: told[lane] for lane in _lanes(asked) if lane in told}, f"seed {seed}"
        assert 1 < parts < 12, "no parts were made one: the test proves little"


def test_adding_rows_changes_no_memory_that_somebody_else_holds() -> None:
    """A run that dies has changed nothing."""
    before = NO_LANES
    for version in range(10):
        before = before.with_rows(_rows(EVENTS[version : version + 5], version=version))
    held = _found(before, EVENTS)

    after = before.with_rows(_rows(EVENTS[:20], version=99))

    assert _found(before, EVENTS) == held
    assert set(_found(after, EVENTS[:20]).values()) == {99}


def test_the_places_say_which_lanes_the_rows_belong_to() -> None:
    """In no promised order, and without those that are not remembered."""
    asked = lanes_of(EVENTS[:10])

    places, rows = NO_LANES.with_rows(_rows(EVENTS[5:], version=1)).find(asked)

    assert asked[places].equals(rows.select(LANE))
    assert len(places) == 5


def test_nothing_is_found_in_an_empty_memory() -> None:
    """The answer has its columns all the same."""
    places, rows = NO_LANES.find(lanes_of(EVENTS))

    assert (len(places), rows.schema) == (0, TOTALS)


@pytest.mark.parametrize(("rows_max", "hours"), [(93, 3), (92, 2), (62, 2), (61, 1), (31, 1), (30, 0), (0, 0)])
def test_whole_hours_are_forgotten_the_oldest_first(rows_max: int, hours: int) -> None:
    """What is kept is complete for its hours; rows that newer ones replaced don't count."""
    lanes = NO_LANES
    for version in range(3):
        lanes = lanes.with_rows(_rows(EVENTS, version=version))

    kept, left = lanes.within(rows_max)

    stay = [NOON - timedelta(hours=hour) for hour in range(hours)]
    assert sorted(left) == sorted(stay) if left is not None else hours == 3
    assert _found(kept, EVENTS) == {lane: 2 for lane in _lanes(EVENTS) if lane[LANE.index("hour")] in stay}
    assert kept.height <= rows_max


@HASHES
def test_rows_of_one_lane_have_one_number(hashes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And rows of two lanes have two, even if their hashes are the same."""
    monkeypatch.setattr(lanes_module, "hashes_of", lambda rows: hashes_of(rows) % np.uint64(hashes - 1 or 1))
    rows = make_counted(Random(1).choices(EVENTS, k=200)).events.with_columns(hour=pl.col("time").dt.truncate("1h"))

    numbers = numbered(rows)

    pairs = rows.select(LANE).with_columns(numbers).unique()
    assert pairs.height == pairs.get_column("lane").n_unique() == rows.select(LANE).n_unique()
    assert numbers.name == "lane"


def _rows(events: list[Event], *, version: int) -> pl.DataFrame:
    return fold(make_counted(events), before=NO_LANES, version=version, block_partition=0)


def _versions(rows: pl.DataFrame) -> dict[tuple[object, ...], int]:
    return dict(zip(rows.select(LANE).iter_rows(), rows.get_column("version"), strict=True))


def _found(lanes: Lanes, events: list[Event]) -> dict[tuple[object, ...], int]:
    rows = lanes.find(lanes_of(events))[1]
    found = _versions(rows)
    assert len(found) == rows.height
    return found


def _lanes(events: list[Event]) -> list[tuple[object, ...]]:
    return list(lanes_of(events).iter_rows())

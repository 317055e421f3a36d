"""What judging stands on: exact sums of 128 bits, pages of sorted keys, and when windows begin."""

from __future__ import annotations

import gc
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.judging.measure import Judged, Sums, Value, decimal, units_of
from pipeline.judging.new_facts import NEVER, firsts_of, newest_around, stable_order
from pipeline.judging.page import Keys, Page, org_of
from pipeline.judging.wide import approximately, exactly, group_sums, plus, wide_of
from pipeline.judging.window_times import Grain, end_of, instant, start_of, starts_of
from pipeline.memory_alerts import grain_start
from schemas.frames import DECIMAL
from schemas.rules import Rule

#: Whole units of 1e-12, of either sign: a correction may take away.
units = st.integers(-(10**37), 10**37)
instants = st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))  # noqa: DTZ001 -- the zone comes next
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _column(numbers: list[int]) -> np.ndarray:
    return wide_of(pl.Series([Decimal(number).scaleb(-12) for number in numbers], dtype=DECIMAL))


def _small(numbers: list[int]) -> list[int]:
    return [number // 10**10 for number in numbers]  # Python's decimals keep 28 digits by default


@given(one=st.lists(units, min_size=1), other=st.data())
def test_sums_of_128_bits_are_those_of_whole_numbers(one: list[int], other: st.DataObject) -> None:
    """Row by row, whatever the halves carry."""
    one = _small(one)
    two = _small(other.draw(st.lists(units, min_size=len(one), max_size=len(one))))

    sums = plus(_column(one), _column(two))

    assert [exactly(sums, row) for row in range(len(one))] == [a + b for a, b in zip(one, two, strict=True)]
    assert approximately(sums) == pytest.approx([a + b for a, b in zip(one, two, strict=True)], rel=1e-12, abs=1e4)


@given(groups=st.lists(st.lists(units, min_size=1, max_size=5), max_size=5))
def test_groups_of_neighbours_are_summed(groups: list[list[int]]) -> None:
    """Each group by itself; no groups are no sums."""
    groups = [_small(group) for group in groups]
    firsts = np.cumsum([0, *(len(group) for group in groups)])[:-1] if groups else np.zeros(0, dtype=np.int64)

    sums = group_sums(_column([number for group in groups for number in group]), firsts)

    assert [exactly(sums, row) for row in range(len(groups))] == [sum(group) for group in groups]


@given(
    groups=st.lists(st.lists(st.integers(0, 10**4), min_size=1, max_size=50), min_size=1, max_size=5),
    unit=st.integers(1, 10**17),
)
def test_groups_are_summed_the_same_whether_or_not_a_sum_may_outgrow_64_bits(
    groups: list[list[int]], unit: int
) -> None:
    """Small sums have a way of their own; the largest of these lie on both sides of where it ends."""
    groups = [[number * unit // 10**4 * 10**4 for number in group] for group in groups]
    firsts = np.cumsum([0, *(len(group) for group in groups)])[:-1]

    sums = group_sums(_column([number for group in groups for number in group]), firsts)

    assert [exactly(sums, row) for row in range(len(groups))] == [sum(group) for group in groups]


@given(
    numbers=st.lists(st.integers(-(2**62), 2**62) | st.integers(-3, 3)),
    unsigned=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3)),
)
def test_digits_are_sorted_as_numbers_are(numbers: list[int], unsigned: list[int]) -> None:
    """Signed or not, however far apart; equal ones stay in their order."""
    order = stable_order(np.array(numbers, dtype=np.int64)).tolist()
    unsigned_order = stable_order(np.array(unsigned, dtype=np.uint64)).tolist()

    assert order == sorted(range(len(numbers)), key=numbers.__getitem__)
    assert unsigned_order == sorted(range(len(unsigned)), key=unsigned.__getitem__)


@given(
    events=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9) | st.integers(-(2**61), 2**61))),
    known=st.tuples(*[st.just(NEVER) | st.integers(0, 9)] * 4),
)
def test_the_newest_time_of_an_org_is_known_around_every_event(
    events: list[tuple[int, int]], known: tuple[int, ...]
) -> None:
    """Right before and right after each, in the order of the log, however far apart the times are."""
    orgs = np.array([org for org, _ in events], dtype=np.int64)
    rows = stable_order(orgs)
    firsts = firsts_of(orgs[rows]) if events else rows
    own_known = np.array([known[org] for org in orgs[rows][firsts].tolist()], dtype=np.int64)

    times = np.array([time for _, time in events], dtype=np.int64)
    before, after = newest_around(times, own_known, rows=rows, firsts=firsts)

    newest = dict(enumerate(known))
    expected = []
    for org, time in events:
        expected.append((newest[org], max(newest[org], time)))
        newest[org] = max(newest[org], time)
    assert list(zip(before.tolist(), after.tolist(), strict=True)) == expected


@given(first=st.sets(st.integers(0, 30)), second=st.sets(st.integers(0, 30), min_size=1))
def test_a_page_is_a_dictionary_by_key(first: set[int], second: set[int]) -> None:
    """New keys begin at zero, wherever they belong; the page before stays as it was."""
    page = Page()
    known: dict[int, int] = {}
    for keys in (first, second):
        before, there = page, dict(known)
        wanted = np.array(sorted(keys), dtype=np.uint64)
        page, places = page.with_keys(wanted)
        page = page.plus(places, {"cost": _column([key * 10**12 for key in sorted(keys)])})
        known |= {key: known.get(key, 0) + key * 10**12 for key in keys}
        assert {int(key): exactly(before.wide("cost"), at) for at, key in enumerate(before.keys)} == there

    assert {int(key): exactly(page.wide("cost"), at) for at, key in enumerate(page.keys)} == known
    assert page.places(np.array([99], dtype=np.uint64)).tolist() == [-1]


def test_a_key_means_the_same_for_as_long_as_it_is_used() -> None:
    """Polars forgets numbers of words that no column holds any more; a forgotten number would be another key's."""
    keys = Keys()
    first = keys.pairs(pl.Series(["acme", "zen"]), pl.Series(["a", "b"])).tolist()
    for number in range(50):
        keys.of(pl.Series([f"other {number}"]))
        gc.collect(0)  # the youngest are enough: looking through all that a session holds takes a while

    assert keys.pairs(pl.Series(["zen", "acme"]), pl.Series(["b", "a"])).tolist() == first[::-1]
    assert len(set(org_of(np.array(first, dtype=np.uint64)).tolist())) == 2


@given(moments=st.lists(instants, min_size=1), grain=st.sampled_from(Grain))
def test_windows_begin_where_the_calendar_says(moments: list[datetime], grain: Grain) -> None:
    """By columns as by Python's datetime; each instant lies in its window."""
    times = np.array([(moment - EPOCH) // timedelta(microseconds=1) for moment in moments], dtype=np.int64)

    starts = starts_of(grain, times).tolist()

    assert starts == [grain_start(grain, moment) for moment in moments]
    if grain is not Grain.TOTAL:
        assert all(start <= time < end_of(grain, start) for start, time in zip(starts, times.tolist(), strict=True))
        assert all(start_of(grain, end_of(grain, start)) == end_of(grain, start) for start in starts)
    assert [instant(time) for time in times.tolist()] == moments


def test_a_week_begins_on_monday() -> None:
    """In UTC, across years too."""
    sunday = datetime(2027, 1, 3, 23, 59, tzinfo=UTC)

    assert instant(start_of(Grain.WEEK, int(sunday.timestamp()) * 1_000_000)) == datetime(2026, 12, 28, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "shown"), [((1, 2), 0), ((3, 2), 2), ((5, 2), 2), ((7, 3), 2), ((8, 3), 3), ((-3, 2), -2), ((4, 1), 4)]
)
def test_a_value_is_rounded_half_even_where_it_is_shown(value: tuple[int, int], shown: int) -> None:
    """And nowhere else."""
    assert Value(*value).units == shown


def test_a_limit_is_crossed_at_or_above_it_and_below_strictly() -> None:
    """The last unit of 1e-12 decides."""
    budget = Judged(_rule(measure="cost", thresholds=["1"]))
    rate = Judged(_rule(measure="success_rate", below=["0.5"]))
    (limit,), (half,) = budget.limits, rate.limits

    def at(amount: int) -> bool:
        sums = Sums(0, 0, amount)
        return budget.crosses(budget.value(sums), sums, limit)

    def failing(failed: int) -> bool:
        sums = Sums(10 * 10**12, failed * 10**12, failed * 10**12)
        return rate.crosses(rate.value(sums), sums, half)

    assert (at(10**12 - 1), at(10**12)) == (False, True)
    assert (failing(5), failing(6)) == (False, True)
    assert not budget.resolves(Value(98 * 10**10, 1), limit)
    assert budget.resolves(Value(98 * 10**10 - 1, 1), limit)


def _rule(**said: object) -> Rule:
    return Rule.model_validate({"id": "r", "revision": 1, "scope": "project", "window": "day", **said})


@given(number=st.integers(-(10**37), 10**37))
def test_units_and_decimals_are_the_same_number(number: int) -> None:
    """To the last digit, for all that Decimal(38, 12) holds: a limit of 31 digits is not rounded to Python's 28."""
    assert units_of(decimal(number)) == number

"""Exact arithmetic in 64-bit columns: every value a cost or a quantity may have, and the limits of the fast way."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.decimal_columns import UNITS, decimal_column, limbs_of, parts_of, units_column
from pipeline.pricing.rates import NARROW_MAX, Costs, Rates, sum_per_event
from schemas.frames import DECIMAL

#: Quantities in units of 1e-12, as validated: at most 1e15, at most 9 decimals.
quantity_units = st.one_of(
    st.integers(0, 10**15).map(lambda whole: whole * UNITS),
    st.integers(0, 10**24).map(lambda billionths: billionths * 1_000),
    st.integers(0, 10**7).map(lambda billionths: billionths * 1_000),
)
unit_prices = st.builds(
    lambda units, per: Fraction(units, UNITS * per),
    st.one_of(st.integers(0, 10**21), st.integers(0, 10**6), st.sampled_from([0, 1, 10**21, 10**12, 2**62, 2**62 - 1])),
    st.one_of(st.integers(1, 10**12), st.sampled_from([1, 3, 1_000_000, 10**12])),
)


def as_decimal(units: int) -> Decimal:
    """The exact decimal of units of 1e-12."""
    return Decimal((0, tuple(int(digit) for digit in str(units)), -12))


def column_of(units: list[int]) -> pl.Series:
    """A decimal column made by polars, not by the code under test."""
    return pl.Series("units", [as_decimal(unit) for unit in units], dtype=DECIMAL)


@given(units=st.lists(st.one_of(quantity_units, st.integers(0, 10**27)), max_size=20))
@example(units=[10**27, 10**27 - 1, UNITS - 1, UNITS, UNITS // 2, 10**27 - UNITS // 2, 2**63, 2**64, 2**64 - 1])
def test_a_decimal_is_read_as_its_whole_part_and_fraction(units: list[int]) -> None:
    """For every value up to 1e15, although a float guesses the whole part."""
    whole, fraction = parts_of(limbs_of(column_of(units)))

    assert [divmod(unit, UNITS) for unit in units] == list(zip(whole.tolist(), fraction.tolist(), strict=True))


@given(units=st.lists(st.integers(0, 10**38 - 1), max_size=20), data=st.data())
def test_units_become_the_decimals_that_they_are(units: list[int], data: st.DataObject) -> None:
    """Narrow and wide ones, with nulls between them."""
    valid = data.draw(st.lists(st.booleans(), min_size=len(units), max_size=len(units)))
    narrow = np.array([unit if unit < 2**63 else 0 for unit in units], dtype=np.int64)
    wide = {place: unit for place, unit in enumerate(units) if unit >= 2**63}

    column = units_column("cost", narrow, wide=wide, valid=np.array(valid, dtype=np.bool_))

    assert column.dtype == DECIMAL
    expected = [as_decimal(unit) if is_valid else None for unit, is_valid in zip(units, valid, strict=True)]
    assert column.to_list() == expected


def test_units_beyond_the_column_are_an_error_and_never_wrap() -> None:
    """26 digits before the point fit, one more does not."""
    none = np.zeros(1, dtype=np.int64)

    assert units_column("cost", none, wide={0: 10**38 - 1}).item() == as_decimal(10**38 - 1)
    with pytest.raises(OverflowError, match=r"do not fit Decimal\(38, 12\)"):
        units_column("cost", none, wide={0: 10**38})


@given(st.lists(st.integers(0, 10**38 - 1), min_size=1, max_size=9))
def test_raw_integers_survive_there_and_back(units: list[int]) -> None:
    """What is not computed with is handed on bit by bit."""
    column = column_of(units)

    assert decimal_column("units", limbs_of(column)).equals(column)
    assert decimal_column("units", limbs_of(column[1:])).equals(column[1:])


@given(pairs=st.lists(st.tuples(quantity_units, unit_prices), max_size=30))
@example(pairs=[(2**62 // 10**6 * UNITS, Fraction(10**6, UNITS))])
@example(pairs=[(NARROW_MAX // 10**3 * UNITS, Fraction(10**3, UNITS))])
@example(pairs=[((NARROW_MAX + 1) // 10**3 * UNITS, Fraction(10**3, UNITS)), (UNITS // 2, Fraction(3, UNITS))])
@example(pairs=[(units, Fraction(1, UNITS * 2)) for units in (UNITS, 3 * UNITS, 5 * UNITS, UNITS // 2, 10**27)])
def test_a_cost_is_the_exact_product_rounded_half_even(pairs: list[tuple[int, Fraction]]) -> None:
    """Equal to Python's own rounding of the exact fraction, on the fast way and beside it."""
    rates = Rates([price for _, price in pairs])

    costs = rates.costs(parts_of(limbs_of(column_of([units for units, _ in pairs]))), rates=np.arange(len(pairs)))

    found = [costs.wide.get(place, unit) for place, unit in enumerate(costs.units.tolist())]
    assert found == [round(Fraction(units) * price) for units, price in pairs]


@given(
    events=st.lists(
        st.lists(st.one_of(st.integers(0, NARROW_MAX), st.integers(NARROW_MAX + 1, 10**36)), max_size=6), max_size=8
    )
)
@example(events=[[NARROW_MAX] * 127, [10**36, NARROW_MAX], [], [NARROW_MAX] * 127])
def test_the_costs_of_an_event_are_summed_exactly(events: list[list[int]]) -> None:
    """Running sums of a whole batch wrap around 64 bits; the sum of one event does not."""
    flat = [cost for event in events for cost in event]
    row = np.array([at for at, event in enumerate(events) for _ in event], dtype=np.int64)
    wide = {place: cost for place, cost in enumerate(flat) if cost > NARROW_MAX}
    narrow = np.array([cost if cost <= NARROW_MAX else 0 for cost in flat], dtype=np.int64)

    sums = sum_per_event(Costs(narrow, wide), row=row, events=len(events))

    assert [sums.wide.get(at, unit) for at, unit in enumerate(sums.units.tolist())] == [sum(event) for event in events]

"""How much: quantity × unit price, exact, rounded half-even to 12 decimals, for whole columns at once.

A cost is counted in units of 1e-12 of the currency. A unit price is then a fraction ``numerator / denominator`` of such
units per one of the quantity, in lowest terms. Nearly always the product fits 64-bit integers and one integer division
decides the rounding; where a float says that it might not fit, Python's integers do the same without a limit.
"""

from __future__ import annotations

from copy import copy
from fractions import Fraction
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import numpy as np

from pipeline.decimal_columns import UNITS, Parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

#: Products of which a float says that they are under this are computed in int64. The float is off by less than one in
#: 2**50, the limit of int64 is twice as far away.
_FITS: Final = 2.0**62
#: Stands for a numerator that no quantity but 0 can be multiplied with in int64.
_TOO_LARGE: Final = 1e200
#: Units up to this (about 72,000 of the currency) are summed in int64: 127 of them stay under 2**63.
NARROW_MAX: Final = 2**56
LINES_PER_EVENT_MAX: Final = 127
#: Fractions of a quantity are counted in billionths: it has at most 9 decimals.
_BILLION: Final = 10**9


class Costs(NamedTuple):
    """Units of 1e-12 by place; ``wide`` has those above ``NARROW_MAX``, for which ``units`` has a 0."""

    units: Ints
    wide: dict[int, int]


class _Ratios:
    """Fractions as two columns of int64, and what a float says about the numerators."""

    def __init__(self, fractions: Sequence[Fraction]) -> None:
        fits = [max(fraction.numerator, fraction.denominator) < _FITS for fraction in fractions]
        pairs = [fraction if fit else Fraction(0) for fraction, fit in zip(fractions, fits, strict=True)]
        self.numerator: Ints = np.array([pair.numerator for pair in pairs], dtype=np.int64)
        self.denominator: Ints = np.array([pair.denominator for pair in pairs], dtype=np.int64)
        self.size: Floats = np.array(
            [float(pair.numerator) if fit else _TOO_LARGE for pair, fit in zip(pairs, fits, strict=True)],
            dtype=np.float64,
        )

    def joined(self, other: Self) -> Self:
        """These ratios and then the other ones."""
        both = copy(self)
        for name in ("numerator", "denominator", "size"):
            setattr(both, name, np.concatenate([getattr(self, name), getattr(other, name)]))
        return both


class Rates:
    """Unit prices by number: what one of a quantity costs, as exact fractions of the currency."""

    def __init__(self, unit_prices: Sequence[Fraction]) -> None:
        self.exact = [price * UNITS for price in unit_prices]
        self.per_one = _Ratios(self.exact)
        self.per_billionth = _Ratios([price / _BILLION for price in self.exact])
        self.is_zero: NDArray[np.bool_] = np.array([price == 0 for price in unit_prices], dtype=np.bool_)

    def joined(self, other: Self) -> Self:
        """These rates and then the other ones, under the next numbers."""
        both = copy(self)
        both.exact = self.exact + other.exact
        both.per_one = self.per_one.joined(other.per_one)
        both.per_billionth = self.per_billionth.joined(other.per_billionth)
        both.is_zero = np.concatenate([self.is_zero, other.is_zero])
        return both

    def costs(self, quantities: Parts, *, rates: Ints) -> Costs:
        """Gives quantity × unit price in units of 1e-12, rounded half-even, for each place."""
        whole, fraction = quantities
        fits = whole * self.per_one.size.take(rates) < _FITS
        units = whole * self.per_one.numerator.take(rates)
        denominator = self.per_one.denominator.take(rates)
        divided = np.flatnonzero(denominator > 1)
        if divided.size:
            units[divided] = _divide_half_even(units.take(divided), denominator.take(divided))
        broken = np.flatnonzero(fraction)
        if broken.size:
            units[broken], fits[broken] = self._costs_of_fractions(whole[broken], fraction[broken], rates[broken])
        wide: dict[int, int] = {}
        for place in np.flatnonzero(~fits | (units > NARROW_MAX)).tolist():
            quantity = int(whole[place]) * UNITS + int(fraction[place])
            cost = self._cost_in_units(quantity, self.exact[rates[place]])
            units[place] = cost if cost <= NARROW_MAX else 0
            if cost > NARROW_MAX:
                wide[place] = cost
        return Costs(units, wide)

    def _costs_of_fractions(self, whole: Ints, fraction: Ints, rates: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """Gives the units of quantities with decimals, and where they can be relied on."""
        billionths = whole * _BILLION + fraction // (UNITS // _BILLION)
        size = (whole + fraction / UNITS) * _BILLION
        fits = (fraction % (UNITS // _BILLION) == 0) & (size * np.maximum(self.per_billionth.size[rates], 1) < _FITS)
        product = billionths * self.per_billionth.numerator[rates]
        return _divide_half_even(product, self.per_billionth.denominator[rates]), fits

    @staticmethod
    def _cost_in_units(quantity: int, unit_price: Fraction) -> int:
        """The same for one quantity, itself in units of 1e-12, without a limit."""
        divisor = UNITS * unit_price.denominator
        units, rest = divmod(quantity * unit_price.numerator, divisor)
        return units + (2 * rest > divisor or (2 * rest == divisor and units % 2 == 1))


def sum_per_event(costs: Costs, *, row: Ints, events: int) -> Costs:
    """Gives the sum of the costs of each event. ``row`` is the event of each cost, ascending.

    Raises:
        ValueError: an event has more lines than can be summed safely; decode allows 64 quantities.
    """
    ends = np.cumsum(np.bincount(row, minlength=events))
    starts = np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1]]) if events else ends
    if events and (ends - starts).max() > LINES_PER_EVENT_MAX:
        raise ValueError(f"an event has more than {LINES_PER_EVENT_MAX} quantities: decode must refuse it")
    # The running sum may wrap; a difference of two is exact all the same, since each sum by itself fits.
    running = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(costs.units)])
    sums = running[ends] - running[starts]
    wide: dict[int, int] = {}
    for place, cost in costs.wide.items():
        event = int(row[place])
        wide[event] = wide.get(event, int(sums[event])) + cost
    return Costs(sums, wide)


def _divide_half_even(product: Ints, denominator: Ints) -> Ints:
    """Gives product / denominator, rounded to the nearest, halves to the even neighbour."""
    quotient, rest = np.divmod(product, denominator)
    twice = 2 * rest  # rest < denominator < 2**62
    rounded: Ints = quotient + ((twice > denominator) | ((twice == denominator) & (quotient % 2 == 1)))
    return rounded

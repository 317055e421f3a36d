"""What a line may be priced by, numbered: a price row as its book has it, or a price row under adjustments.

Number 0 is "no price", and row r of the books in force, counted from 1, is number r. Terms that adjust a price come to
be when an event first needs them and take the next numbers; so do the tiers of prices, whose numbers are rates only. An
object never changes: who has been given a number and the terms that belong to it may go on with both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import numpy as np
import polars as pl

from pipeline.decimal_columns import UNITS
from pipeline.pricing.rates import Rates
from schemas.frames import KINDS
from schemas.price_book import adjusted_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from schemas.price_book import Adjustment, Price, PriceBook, Tier

    Ints = NDArray[np.int64]
    Flags = NDArray[np.bool_]

#: Kinds of lines by number, two each: billed and not billed.
_KINDS_SCHEMA: Final = {name: kind for name, kind in KINDS.items() if name != "kind"}


class Term(NamedTuple):
    """A price row, counted from 1, and the zero-based places of the adjustments that apply to it, ascending."""

    row: int
    adjustments: tuple[int, ...] = ()


class Rows:
    """The price rows and the adjustments of the books in force, one after another, with their ids."""

    def __init__(self, books: Sequence[PriceBook]) -> None:
        self.prices: Final = [price for book in books for price in book.prices]
        self.price_ids: Final = [book.price_id(at) for book in books for at in range(len(book.prices))]
        self.adjustments: Final[list[Adjustment]] = [entry for book in books for entry in book.adjustments]
        self.adjustment_ids: Final = [book.adjustment_id(at) for book in books for at in range(len(book.adjustments))]
        #: What tiers look at.
        self.quantities: Final = sorted({tier.quantity for price in self.prices for tier in price.above})


@dataclass(frozen=True, slots=True)
class Tiers:
    """Thresholds one after another, ascending within a term; the terms say which of them are theirs."""

    whole: Ints
    fraction: Ints
    rate: Ints


@dataclass(frozen=True, slots=True)
class Terms:
    """All terms by number, as columns."""

    rows: Rows
    rates: Rates
    bills_success_only: Flags
    tier_count: Ints
    tier_first: Ints
    tier_quantity: Ints  # place in ``rows.quantities``, -1 without tiers
    tiers: Tiers
    kinds: pl.DataFrame

    @classmethod
    def of(cls, rows: Rows) -> Self:
        """No price, and the price rows as they stand in the books."""
        nothing = np.zeros(0, dtype=np.int64)
        zero = np.zeros(1, dtype=np.int64)
        none = cls(
            rows=rows,
            rates=Rates([Fraction(0)]),
            bills_success_only=np.zeros(1, dtype=np.bool_),
            tier_count=zero,
            tier_first=zero,
            tier_quantity=zero - 1,
            tiers=Tiers(nothing, nothing, nothing),
            kinds=pl.DataFrame(schema=_KINDS_SCHEMA),
        )
        return none.extended([Term(row) for row in range(1, len(rows.prices) + 1)])

    def __len__(self) -> int:
        return len(self.tier_count)

    def extended(self, new: Sequence[Term]) -> Self:
        """The same with more terms, which take the next numbers; their tiers take those after them."""
        prices = [self.rows.prices[term.row - 1] for term in new]
        multipliers = [self._multiplier(term) for term in new]
        tiers = [sorted(price.above, key=lambda tier: tier.threshold) for price in prices]
        count = np.array([len(own) for own in tiers], dtype=np.int64)
        flat = [tier for own in tiers for tier in own]
        unit_prices = [
            Fraction(price.price) / price.per * multiplier
            for price, multiplier in zip(prices, multipliers, strict=True)
        ]
        unit_prices += [
            Fraction(tier.price) / price.per * multiplier
            for own, price, multiplier in zip(tiers, prices, multipliers, strict=True)
            for tier in own
        ]
        added = len(unit_prices)
        quantity = [self.rows.quantities.index(own[0].quantity) if own else -1 for own in tiers]
        success = [price.bill == "success" for price in prices]
        return replace(
            self,
            rates=self.rates.joined(Rates(unit_prices)),
            bills_success_only=np.concatenate([self.bills_success_only, _filled(success, added, filler=0) > 0]),
            tier_count=np.concatenate([self.tier_count, _filled(count, added, filler=0)]),
            tier_first=np.concatenate(
                [self.tier_first, _filled(len(self.tiers.rate) + np.cumsum(count) - count, added, filler=0)]
            ),
            tier_quantity=np.concatenate([self.tier_quantity, _filled(quantity, added, filler=-1)]),
            tiers=self._more_tiers(flat, first_rate=len(self) + len(new)),
            kinds=self.kinds.vstack(self._kinds(new, added)),
        )

    def _multiplier(self, term: Term) -> Fraction:
        """How the adjustments of a term combine: their product, exact; what is rounded is the cost."""
        return math.prod((Fraction(self.rows.adjustments[at].multiplier) for at in term.adjustments), start=Fraction(1))

    def _more_tiers(self, flat: Sequence[Tier], *, first_rate: int) -> Tiers:
        units = [int(Fraction(tier.threshold) * UNITS) for tier in flat]
        # One unit less turns "at or above" into "above", so that a single comparison serves both.
        fractions = [unit % UNITS - tier.inclusive for unit, tier in zip(units, flat, strict=True)]
        return Tiers(
            whole=np.concatenate([self.tiers.whole, np.array([unit // UNITS for unit in units], dtype=np.int64)]),
            fraction=np.concatenate([self.tiers.fraction, np.array(fractions, dtype=np.int64)]),
            rate=np.concatenate([self.tiers.rate, np.arange(first_rate, first_rate + len(flat), dtype=np.int64)]),
        )

    def _kinds(self, new: Iterable[Term], added: int) -> pl.DataFrame:
        rows = []
        for term in new:
            price: Price = self.rows.prices[term.row - 1]
            applied = [self.rows.adjustment_ids[at] for at in term.adjustments]
            name = adjusted_id(self.rows.price_ids[term.row - 1], applied)
            rows += [(price.meter, price.invoice_name, name, state) for state in ("billed", "not_billed")]
        rows += [("", "", "", "")] * (2 * added - len(rows))
        return pl.DataFrame(rows, schema=_KINDS_SCHEMA, orient="row")


def _filled(values: Sequence[int] | Ints, length: int, *, filler: int) -> Ints:
    """The values, and then the filler for the numbers of tiers, which no line has."""
    filled = np.full(length, filler, dtype=np.int64)
    filled[: len(values)] = values
    return filled

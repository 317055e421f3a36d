"""What pricing means, one event at a time: the specification that ``pipeline/price.py`` must equal digit by digit.

Written to be read. Nothing runs it in production; the property tests hold both against each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from schemas.books_in_force import aliases_of
from schemas.frames import MEMO_METERS, REQUESTS
from schemas.price_book import DAY_US, INPUT_CONTEXT, INPUT_CONTEXT_PARTS, SECOND_US, adjusted_id, microseconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from schemas.price_book import Adjustment, Price, PriceBook

#: Costs are kept in units of 1e-12 of the currency.
COST_SCALE: Final = 10**12


@dataclass(frozen=True, slots=True)
class ScalarEvent:
    """The part of a validated event that its price depends on. Absent optional ids are ``""``."""

    org: str
    operation: str
    provider: str
    model: str
    status: str  # "ok" or "error"
    time: datetime
    usage: Mapping[str, Decimal]  # as given, in the order of the event; the implied requests = 1 is not in it
    variant: Mapping[str, str | bool] = field(default_factory=dict)  # by key; what is not said is not in it


@dataclass(frozen=True, slots=True)
class ScalarLine:
    """One quantity of an event with its cost; null when the quantity has no price."""

    meter: str
    name: str
    price_id: str
    state: str  # one of schemas.frames.LINE_STATES
    quantity: Decimal
    cost: Decimal | None


@dataclass(frozen=True, slots=True)
class ScalarPriced:
    """A priced event: its cost (null when nothing of it has a price), its ``pricing`` and its lines."""

    cost: Decimal | None
    pricing: str
    lines: tuple[ScalarLine, ...]


def price_event(event: ScalarEvent, *, books: Sequence[PriceBook]) -> ScalarPriced:
    """Prices one event by the books in force; no two prices of them may be equally specific at one instant."""
    ignored = {meter for book in books for meter in book.ignore}
    lines: list[ScalarLine] = []
    unit_prices: list[Fraction] = []
    for meter, quantity in [*event.usage.items(), (REQUESTS, Decimal(1))]:
        found = most_specific(event, meter, books)
        if found is not None:
            applied = adjustments_of(event, meter, found[1], books)
            unit_prices.append(adjusted_unit_price(event, found[1], applied))
            lines.append(line_with_price(event, meter, quantity, found, applied))
        elif meter != REQUESTS:  # the implied request is no line unless it has a price
            lines.append(ScalarLine(meter, "", "", state_without_price(meter, quantity, ignored), quantity, None))
    has_price = [line.cost for line in lines if line.cost is not None]
    return ScalarPriced(
        cost=exact_sum(has_price) if has_price else None,
        pricing=pricing_of(lines, unit_prices),
        lines=tuple(lines),
    )


def most_specific(event: ScalarEvent, meter: str, books: Sequence[PriceBook]) -> tuple[str, Price] | None:
    """Gives the price of one meter and its id: org before model, provider, variant; by the event's time."""
    candidates = [
        (book.price_id(row), price)
        for book in books
        for row, price in enumerate(book.prices)
        if price.meter == meter and matches(event, price, books) and applies_at(event.time, price)
    ]
    return max(candidates, key=lambda candidate: rank_of(event, candidate[1]), default=None)


def rank_of(event: ScalarEvent, row: Price | Adjustment) -> tuple[object, ...]:
    """Larger is more specific; of two providers the event's own beats the one that it is an alias for."""
    org, model, provider, *rest = row.specificity
    return org, model, provider, row.provider == event.provider, *rest


def matches(event: ScalarEvent, row: Price | Adjustment, books: Sequence[PriceBook]) -> bool:
    """Whether a price or an adjustment is for such an event at all, whatever the time."""
    if row.model.endswith("*"):
        model_matches = event.model.startswith(row.model[:-1])
    else:
        model_matches = row.model in ("", event.model)
    return (
        row.operation in ("", event.operation)
        and row.org in ("", event.org)
        and row.provider in ("", event.provider, aliases_of(books).get(event.provider))
        and model_matches
        and row.variant.pairs.items() <= event.variant.items()
    )


def adjustments_of(
    event: ScalarEvent, meter: str, price: Price, books: Sequence[PriceBook]
) -> list[tuple[str, Adjustment]]:
    """Gives the adjustments of a price and their ids, in the order of the books: the most specific of each variant.

    A price for a variant has the keys that it names in it already, so an adjustment with one of them does not apply.
    """
    matching = [
        (book.adjustment_id(row), adjustment)
        for book in books
        for row, adjustment in enumerate(book.adjustments)
        if adjustment.meter in ("", meter)
        and matches(event, adjustment, books)
        and applies_at(event.time, adjustment)
        and adjustment.adjusts(price)
    ]
    return [
        (adjustment_id, adjustment)
        for adjustment_id, adjustment in matching
        if all(
            rank_of(event, adjustment) >= rank_of(event, other)
            for _, other in matching
            if other.variant == adjustment.variant
        )
    ]


def applies_at(time: datetime, price: Price | Adjustment) -> bool:
    """Whether a price applies at an instant: ``from`` and ``hours`` include their start and exclude their end."""
    if price.from_ is not None and time < price.from_:
        return False
    if price.until is not None and time >= price.until:
        return False
    if price.hours is None:
        return True
    time_of_day_us = microseconds(time) % DAY_US
    return any(start * SECOND_US <= time_of_day_us < end * SECOND_US for start, end in price.hours.spans)


def unit_price_of(event: ScalarEvent, price: Price) -> Fraction:
    """Gives price ÷ per, by the highest threshold that the event has passed; it holds for the whole request."""
    in_force = price.price
    for tier in sorted(price.above, key=lambda tier: tier.threshold):
        quantity = quantity_of(event, tier.quantity)
        if quantity > tier.threshold or (tier.inclusive and quantity == tier.threshold):
            in_force = tier.price
    return Fraction(in_force) / price.per


def adjusted_unit_price(event: ScalarEvent, price: Price, applied: Sequence[tuple[str, Adjustment]]) -> Fraction:
    """Gives the unit price times all multipliers, exact: nothing is rounded before the cost is."""
    return math.prod((Fraction(adjustment.multiplier) for _, adjustment in applied), start=unit_price_of(event, price))


def quantity_of(event: ScalarEvent, name: str) -> Fraction:
    """Gives a quantity that a threshold may look at; what an event does not name is 0."""
    if name == REQUESTS:
        return Fraction(1)
    parts = INPUT_CONTEXT_PARTS if name == INPUT_CONTEXT else (name,)
    return sum((Fraction(event.usage.get(part, 0)) for part in parts), Fraction(0))


def cost_of(quantity: Decimal, unit_price: Fraction) -> Decimal:
    """Gives quantity × price × multipliers ÷ per, rounded half-even to 12 decimals, as Python rounds a fraction."""
    return _from_units(round(Fraction(quantity) * unit_price * COST_SCALE))


def exact_sum(costs: Sequence[Decimal]) -> Decimal:
    """Gives the sum of costs, each of at most 12 decimals, without the rounding of a decimal context."""
    return _from_units(sum(int(Fraction(cost) * COST_SCALE) for cost in costs))


def line_with_price(
    event: ScalarEvent,
    meter: str,
    quantity: Decimal,
    found: tuple[str, Price],
    applied: Sequence[tuple[str, Adjustment]],
) -> ScalarLine:
    """Gives the line of a quantity that has a price; a failed event costs 0 where only success is billed."""
    price_id, price = adjusted_id(found[0], [adjustment_id for adjustment_id, _ in applied]), found[1]
    if price.bill == "success" and event.status != "ok":
        return ScalarLine(meter, price.invoice_name, price_id, "not_billed", quantity, _from_units(0))
    cost = cost_of(quantity, adjusted_unit_price(event, price, applied))
    return ScalarLine(meter, price.invoice_name, price_id, "billed", quantity, cost)


def state_without_price(meter: str, quantity: Decimal, ignored: set[str]) -> str:
    """Gives the state of a quantity that has no price at the event's time."""
    if meter in MEMO_METERS:
        return "memo"
    return "ignored" if meter in ignored or quantity == 0 else "unpriced"


def pricing_of(lines: Sequence[ScalarLine], unit_prices: Sequence[Fraction]) -> str:
    """Gives ``unpriced``, ``free`` or ``priced``. Prices decide about free, not costs: a quantity of 0 is not free."""
    if not unit_prices or any(line.state == "unpriced" for line in lines):
        return "unpriced"
    return "priced" if any(unit_prices) else "free"


def _from_units(units: int) -> Decimal:
    digits = tuple(int(digit) for digit in str(units))
    return Decimal((0, digits, -12))

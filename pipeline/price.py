"""Prices a batch: every quantity by the price that applied when its event happened, exact to 12 decimals.

What pricing means, one event at a time, is written in ``pricing/scalar.py``; this is the same over columns. The order
of work: find the price row of each quantity (``pricing/lookup.py``), move it to the tier that the whole request is in,
multiply and round once per line (``pricing/rates.py``), and only then sum up per event. Nothing is ever a float. What a
line is priced by is a *term*: a price row, or a price row under adjustments (``pricing/terms.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import polars as pl

from pipeline.decimal_columns import UNITS, Parts, decimal_column, limbs_of, parts_of, units_column
from pipeline.pricing.lookup import Encoded, Lookup
from pipeline.pricing.rates import sum_per_event
from pipeline.pricing.terms import Rows, Terms
from schemas.books_in_force import aliases_of
from schemas.catalog_file import check_in_force
from schemas.frames import LINES, MEMO_METERS, REQUESTS, PricedBatch
from schemas.price_book import INPUT_CONTEXT, INPUT_CONTEXT_PARTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from schemas.price_book import PriceBook

    Ints = NDArray[np.int64]
    Flags = NDArray[np.bool_]

_PRICINGS: Final = pl.Series(["priced", "free", "unpriced"])
_PRICED, _FREE, _UNPRICED = range(3)
#: The states of a line without a price, by number.
_STATES_WITHOUT_PRICE: Final = ("unpriced", "memo", "ignored")
_LINE_UNPRICED, _LINE_MEMO, _LINE_IGNORED = range(3)


def price(events: pl.DataFrame, usage: pl.DataFrame, *, book: CompiledCatalog) -> PricedBatch:
    """Gives the events with cost and pricing, and one line per quantity, in the order of the events.

    ``events`` and ``usage`` are EVENTS and USAGE of ``schemas.frames``, validated: a quantity is at most 1e15 with at
    most 9 decimals. The result depends on the arguments alone, although ``book`` remembers what it has looked up;
    several threads may share it.

    Raises:
        ValueError: a quantity, or how many an event has, is out of bounds, so the batch was never validated.
    """
    lines, terms = _find_prices(events, usage, book)
    rates = _rates_in_tiers(lines, events.height, terms)
    is_failed = (events["status"] != "ok").to_numpy()
    is_not_billed = terms.bills_success_only.take(lines.price) & is_failed.take(lines.row)
    costs = terms.rates.costs(lines.parts, rates=np.where(is_not_billed, 0, rates))
    sums = sum_per_event(costs, row=lines.row, events=events.height)
    state = _states_without_price(lines, book)
    pricing, has_price = _pricing_per_event(lines, rates, state, events.height, terms)
    kind, kinds = _kinds(lines, is_not_billed, state, terms)
    return PricedBatch(
        events=events.hstack(
            [
                units_column("cost", sums.units, wide=sums.wide, valid=has_price),
                _PRICINGS[pricing].alias("pricing"),
            ]
        ),
        lines=pl.DataFrame(
            {
                "row": lines.row.astype(np.uint32),
                "kind": kind.astype(np.uint32),
                "quantity": decimal_column("quantity", lines.limbs),
                "cost": units_column("cost", costs.units, wide=costs.wide, valid=lines.price > 0),
            },
            schema=LINES,
        ),
        kinds=kinds,
    )


def compile_catalog(books: Sequence[PriceBook]) -> CompiledCatalog:
    """Gives the books in force in the form that ``price`` works with; no books at all leave everything unpriced.

    Raises:
        CatalogError: two books have one name or two currencies, or prices of them that are equally specific for one
            instant.
    """
    check_in_force(books)
    return CompiledCatalog(books)


class CompiledCatalog:
    """The price books in force in the form that columns are priced with."""

    def __init__(self, books: Sequence[PriceBook]) -> None:
        self.books: Final = tuple(books)
        self.lookup: Final = Lookup(Rows(books), aliases=aliases_of(books))
        self.ignored: Final = frozenset(meter for book in books for meter in book.ignore)


class _Lines(NamedTuple):
    """The quantities of a batch in the order of the events, those of ``requests`` that have a price included."""

    row: Ints  # place of the event
    name: Ints  # place in names
    names: list[str]
    limbs: Ints
    parts: Parts
    price: Ints  # number of the term that it is priced by; 0 for none


def _find_prices(events: pl.DataFrame, usage: pl.DataFrame, book: CompiledCatalog) -> tuple[_Lines, Terms]:
    row = usage["row"].to_numpy().astype(np.int64)
    meters = Encoded(usage["meter"])
    numbers = meters.classes(book.lookup.meters)
    prices, prices_of_requests, terms = book.lookup.terms_of(events, row=row, meters=numbers)
    limbs = limbs_of(usage["quantity"])
    lines = _Lines(row, meters.codes.astype(np.int64), meters.values, limbs, parts_of(limbs), prices)
    return (_with_requests(lines, prices_of_requests) if prices_of_requests.any() else lines), terms


def _with_requests(lines: _Lines, prices_of_requests: Ints) -> _Lines:
    """Puts a line of quantity 1 behind the lines of each event whose ``requests`` has a price."""
    rows = np.flatnonzero(prices_of_requests)
    ends = np.searchsorted(lines.row, rows, side="right")
    order = np.insert(np.arange(len(lines.row)), ends, len(lines.row) + np.arange(len(rows)))

    def join(of_lines: Ints, of_requests: Ints | int) -> Ints:
        added = np.broadcast_to(np.asarray(of_requests, dtype=np.int64), rows.shape)
        return np.concatenate([of_lines, added]).take(order)

    limbs = np.stack([join(lines.limbs[:, 0], UNITS), join(lines.limbs[:, 1], 0)], axis=1)
    return _Lines(
        row=join(lines.row, rows),
        name=join(lines.name, len(lines.names)),
        names=[*lines.names, REQUESTS],
        limbs=limbs,
        parts=Parts(join(lines.parts.whole, 1), join(lines.parts.fraction, 0)),
        price=join(lines.price, prices_of_requests.take(rows)),
    )


def _rates_in_tiers(lines: _Lines, events: int, terms: Terms) -> Ints:
    """Gives the number of the unit price of each line: of its term, or of the highest tier that its event is in."""
    tiers, rates = terms.tiers, lines.price.copy()
    tiered = np.flatnonzero(terms.tier_count.take(lines.price))
    quantities = terms.tier_quantity.take(lines.price.take(tiered))
    for quantity in np.unique(quantities).tolist():
        places = tiered[quantities == quantity]
        whole, fraction = _quantity_per_event(terms.rows.quantities[quantity], lines, events)
        row, prices = lines.row.take(places), lines.price.take(places)
        whole, fraction, count = whole.take(row), fraction.take(row), terms.tier_count.take(prices)
        for nth in range(int(count.max())):
            tier = terms.tier_first.take(prices) + np.minimum(nth, count - 1)
            threshold = tiers.whole.take(tier)
            is_passed = (whole > threshold) | ((whole == threshold) & (fraction > tiers.fraction.take(tier)))
            passed = np.flatnonzero(is_passed)
            rates[places.take(passed)] = tiers.rate.take(tier.take(passed))
    return rates


def _quantity_per_event(name: str, lines: _Lines, events: int) -> Parts:
    """Gives one quantity of each event, 0 where it is not named; the input context is the sum of its parts."""
    if name == REQUESTS:
        return Parts(np.ones(events, dtype=np.int64), np.zeros(events, dtype=np.int64))
    whole, fraction = np.zeros(events, dtype=np.int64), np.zeros(events, dtype=np.int64)
    for part in INPUT_CONTEXT_PARTS if name == INPUT_CONTEXT else (name,):
        if part in lines.names:
            places = np.flatnonzero(lines.name == lines.names.index(part))
            rows = lines.row.take(places)  # each at most once: the names of one event are distinct
            whole[rows] += lines.parts.whole.take(places)
            fraction[rows] += lines.parts.fraction.take(places)
    return Parts(whole + fraction // UNITS, fraction % UNITS)


def _states_without_price(lines: _Lines, book: CompiledCatalog) -> Ints:
    """Gives the state that each line has if it has no price."""
    by_name = [
        _LINE_MEMO if name in MEMO_METERS else _LINE_IGNORED if name in book.ignored else _LINE_UNPRICED
        for name in lines.names
    ]
    states = np.array(by_name, dtype=np.int64).take(lines.name)
    is_zero = (lines.parts.whole == 0) & (lines.parts.fraction == 0)
    states[is_zero & (states == _LINE_UNPRICED)] = _LINE_IGNORED
    return states


def _pricing_per_event(lines: _Lines, rates: Ints, state: Ints, events: int, terms: Terms) -> tuple[Ints, Flags]:
    """Gives the place of each event's pricing in ``_PRICINGS``, and whether anything of it has a price."""
    is_priced = lines.price > 0
    has_price, costs_something, lacks_price = (np.zeros(events, dtype=np.bool_) for _ in range(3))
    has_price[lines.row[is_priced]] = True
    costs_something[lines.row[is_priced & ~terms.rates.is_zero.take(rates)]] = True
    lacks_price[lines.row[~is_priced & (state == _LINE_UNPRICED)]] = True
    pricing = np.where(lacks_price | ~has_price, _UNPRICED, np.where(costs_something, _PRICED, _FREE))
    return pricing, has_price


def _kinds(lines: _Lines, is_not_billed: Flags, state: Ints, terms: Terms) -> tuple[Ints, pl.DataFrame]:
    """Gives the kind of each line, and the dictionary of those that occur: by price first, then by name.

    Prices stand in the order of the books, adjusted ones behind them in that of the lines.
    """
    with_price = terms.kinds.height
    states = len(_STATES_WITHOUT_PRICE)
    code = np.where(lines.price > 0, 2 * lines.price - 2 + is_not_billed, with_price + lines.name * states + state)
    occurs = np.zeros(with_price + len(lines.names) * states, dtype=np.bool_)
    occurs[code] = True
    codes = _in_order(np.flatnonzero(occurs), code, terms)
    number = np.zeros(len(occurs), dtype=np.int64)
    number[codes] = np.arange(len(codes))
    kinds = terms.kinds[codes[codes < with_price]]
    without_price = [divmod(code, states) for code in (codes[codes >= with_price] - with_price).tolist()]
    if without_price:
        rows = [(lines.names[name], "", "", _STATES_WITHOUT_PRICE[state]) for name, state in without_price]
        kinds = kinds.vstack(pl.DataFrame(rows, schema=kinds.schema, orient="row"))
    return number.take(code), kinds.insert_column(0, pl.Series("kind", np.arange(len(codes), dtype=np.uint32)))


def _in_order(codes: Ints, code: Ints, terms: Terms) -> Ints:
    """The codes, ascending, but those of adjusted prices as they first occur: their numbers depend on what came before.

    ``code`` is the code of each line.
    """
    first, last = np.searchsorted(codes, [2 * len(terms.rows.prices), terms.kinds.height])
    if first == last:
        return codes
    place = np.zeros(int(codes[-1]) + 1, dtype=np.int64)
    place[code[::-1]] = np.arange(len(code) - 1, -1, -1)  # of several lines the first one is written last
    learned = codes[first:last]
    return np.concatenate([codes[:first], learned[np.argsort(place.take(learned))], codes[last:]])

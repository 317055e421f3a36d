"""What the price books in force say together, and what no row of them is wrong about by itself."""

from __future__ import annotations

import math
from collections import defaultdict
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

from schemas.catalog_values import PRICE_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from schemas.price_book import PriceBook


def aliases_of(books: Sequence[PriceBook]) -> dict[str, str]:
    """Gives the provider that each alias of any book leads to."""
    return {alias: provider for book in books for alias, provider in book.provider_aliases.items()}


def contradictions_of(books: Sequence[PriceBook]) -> Iterator[str]:
    """Gives a sentence for each contradiction of the aliases of several books, and when a cost could overflow."""
    owners: dict[str, PriceBook] = {}
    for book in books:
        for alias, provider in book.provider_aliases.items():
            other = owners.setdefault(alias, book)
            if other.provider_aliases[alias] != provider:
                yield (
                    f"{alias} is an alias for {provider} in the book {book.name}, and for "
                    f"{other.provider_aliases[alias]} in the book {other.name}"
                )
    for alias, provider in aliases_of(books).items():
        if provider in owners:
            yield (
                f"{alias} is an alias for {provider} in the book {owners[alias].name}, and {provider} is itself one"
                f" in the book {owners[provider].name}"
            )
    if dearest_price(books) > PRICE_MAX:
        yield (
            f"the dearest price with all multipliers that could ever meet comes to more than {PRICE_MAX}: the cost of "
            "an event might not fit its column"
        )


def dearest_price(books: Sequence[PriceBook]) -> Fraction:
    """Gives a bound: no price of these books, adjusted by all that can apply to one event, is above it.

    A request has one value for each key of a variant, so of each combination of keys at most one adjustment applies.
    """
    prices = [price.price for book in books for price in book.prices]
    prices += [tier.price for book in books for price in book.prices for tier in price.above]
    largest: defaultdict[tuple[str, ...], Decimal] = defaultdict(lambda: Decimal(1))
    for book in books:
        for adjustment in book.adjustments:
            keys = adjustment.variant.keys
            largest[keys] = max(largest[keys], adjustment.multiplier)
    return Fraction(max(prices, default=Decimal(0))) * math.prod(map(Fraction, largest.values()))

"""What would price what has no price: a line for a price book, and the row of a book that nearly matched.

A row nearly matches when it is for the same meter and what it asks for differs little: another spelling, the model
without its suffix, another time. The one with the fewest and smallest differences is told, with all of them in words.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from schemas.books_in_force import aliases_of
from schemas.catalog_values import write_instant
from schemas.providers import PROVIDER_OF

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from schemas.price_book import Price, PriceBook
    from schemas.reports import UnpricedSum

#: How many units the price of a meter is usually for.
TOKENS_PER: Final = 1_000_000
#: A row with more difference than this is another price, and no near one.
DIFFERENCE_MAX: Final = 6

#: How much a difference counts: the smaller, the more likely it is what was overlooked.
_TIME, _SPELLING, _SUFFIX, _VARIANT, _ORG, _PROVIDER = 1, 1, 2, 2, 3, 4

_MATCHES: Final = "it matches: it was put in force after these events had been priced"

_PLAIN_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*", re.ASCII)
_YAML_WORDS: Final = frozenset({"true", "false", "null"})
_NOT_ALPHANUMERIC: Final = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Nearest:
    """The row that nearly matched, and why it did not."""

    price_id: str
    book: str
    revision: int
    row: int
    why: str


def price_line(lacking: UnpricedSum) -> str:
    """Gives a row for the ``prices`` of a book that prices such events, as YAML; only the price is left to fill in."""
    per = TOKENS_PER if lacking.meter.endswith("_tokens") else 1
    fields = {"operation": lacking.operation, "provider": lacking.provider, "model": lacking.model}
    said = [f"{key}: {_scalar(value)}" for key, value in (fields | {"meter": lacking.meter}).items() if value]
    return f'- {{{", ".join(said)}, price: "?", per: {per}}}'


def _scalar(text: str) -> str:
    return text if _PLAIN_WORD.fullmatch(text) and text.lower() not in _YAML_WORDS else json.dumps(text)


class NearRows:
    """The rows of the books in force, arranged so that those near to many events are found quickly."""

    def __init__(self, books: Sequence[PriceBook], *, org: str) -> None:
        self._org = org
        self._aliases = aliases_of(books)
        #: By meter, then by model.
        self._rows: defaultdict[str, defaultdict[str, list[tuple[PriceBook, int]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for book in books:
            for place, price in enumerate(book.prices):
                self._rows[price.meter][price.model].append((book, place))

    def nearest(self, lacking: UnpricedSum) -> Nearest | None:
        """Gives the row with the least difference to events without a price, None when none is near."""
        best: tuple[tuple[int, int], Nearest] | None = None
        for model, rows in self._rows.get(lacking.meter, {}).items():
            of_model = _model_difference(model, lacking.model)
            if of_model is None:
                continue
            for book, place in rows:
                differences = self._differences(book.prices[place], lacking)
                if differences is None:
                    continue
                # Of equally near rows the longest model says most.
                size = of_model[0] + sum(weight for weight, _ in differences), -len(model)
                if size[0] <= DIFFERENCE_MAX and (best is None or size < best[0]):
                    told = "; ".join(text for _, text in (of_model, *differences) if text)
                    best = size, Nearest(book.price_id(place), book.name, book.revision, place + 1, told or _MATCHES)
        return None if best is None else best[1]

    def _differences(self, price: Price, lacking: UnpricedSum) -> list[tuple[int, str]] | None:
        """What besides the model a row asks for otherwise, None when it is for something else altogether."""
        differences = [*_time_differences(price, lacking)]
        if price.operation != lacking.operation:
            if _letters(price.operation) != _letters(lacking.operation):
                return None
            differences.append((_SPELLING, f"its operation is written {price.operation}"))
        if price.provider not in ("", lacking.provider, self._aliases.get(lacking.provider)):
            if not price.model and not _are_spellings(price.provider, lacking.provider):
                return None
            differences.append(_provider_difference(price.provider, lacking.provider))
        if price.variant.keys:
            differences.append((_VARIANT, f"it is only for the variant {price.variant.text}"))
        if price.org not in ("", self._org):
            differences.append((_ORG, f"it is only for the org {price.org}"))
        return differences


def _model_difference(of_row: str, of_event: str) -> tuple[int, str] | None:
    """How the models differ: nothing when they match, None when they have nothing to do with each other."""
    beginning = of_row.removesuffix("*")
    if of_row in ("", of_event) or (of_row != beginning and of_event.startswith(beginning)):
        return 0, ""
    if not of_event:
        return None
    if _letters(of_event) == _letters(beginning):
        return _SPELLING, f"its model is written {of_row}"
    longer, shorter = sorted((of_event.lower(), beginning.lower()), key=len, reverse=True)
    if longer.startswith(shorter) and not longer[len(shorter)].isalnum():
        return _SUFFIX, f"its model is {of_row}, which does not match"
    return None


def _are_spellings(of_row: str, of_event: str) -> bool:
    return PROVIDER_OF.get(of_event) == of_row or _letters(of_event) == _letters(of_row)


def _provider_difference(of_row: str, of_event: str) -> tuple[int, str]:
    if not of_event:
        return _PROVIDER, f"it is for the provider {of_row}, and the events name none"
    if not _are_spellings(of_row, of_event):
        return _PROVIDER, f"its provider is {of_row}"
    alias = f"{_scalar(of_event)}: {_scalar(of_row)}"
    return _SPELLING, f"its provider is {of_row}; with `provider_aliases: {{{alias}}}` it would match"


def _time_differences(price: Price, lacking: UnpricedSum) -> Iterator[tuple[int, str]]:
    """The events happened from ``since_us`` to ``newest_us``: what of this span a row does not hold."""
    if price.until is not None and lacking.newest_us is not None and price.end_us <= lacking.newest_us:
        yield _TIME, f"it ended at {write_instant(price.until)}"
    if price.from_ is not None and lacking.since_us is not None and price.start_us > lacking.since_us:
        yield _TIME, f"it begins at {write_instant(price.from_)}"
    if price.hours is not None:
        yield _TIME, f"it is only for {price.hours.from_} to {price.hours.until} of the day"


@lru_cache(maxsize=100_000)
def _letters(text: str) -> str:
    """What is left of a spelling when case and signs do not matter."""
    return _NOT_ALPHANUMERIC.sub("", text.lower())

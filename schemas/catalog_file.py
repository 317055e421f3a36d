"""What a catalog file holds once it is read, and what is said about one that cannot be applied."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from schemas.books_in_force import contradictions_of
from schemas.catalog_values import write_instant
from schemas.period_prices import overlapping_months, spell_month, with_ids
from schemas.price_book import overlapping_pairs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from schemas.price_book import PriceBook
    from schemas.rules import RuleSet


@dataclass(frozen=True, slots=True)
class CatalogFile:
    """The price book, the rule set, or both, of one file; their revisions are 0 until they are applied.

    The lines of the rows in the file are counted from 1. ``key_places`` are line and column of the keys of the file.
    """

    filename: str
    price_book: PriceBook | None
    rule_set: RuleSet | None
    price_lines: tuple[int, ...] = ()
    period_price_lines: tuple[int, ...] = ()
    rule_lines: tuple[int, ...] = ()
    adjustment_lines: tuple[int, ...] = ()
    key_places: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def mistake(self, key: str, sentence: str) -> Mistake:
        """What is wrong with the value of a key of the file, or with the file as a whole if it has no such key."""
        return Mistake(*self.key_places.get(key, (1, 1)), sentence)


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One thing that is wrong in a file. Line and column count from 1; 0 means "nowhere in particular"."""

    line: int
    column: int
    sentence: str


class CatalogError(ValueError):
    """A catalog that is refused as a whole, with everything that is wrong in it, from top to bottom."""

    def __init__(self, *, filename: str, mistakes: list[Mistake]) -> None:
        self.filename = filename
        self.mistakes = tuple(sorted(mistakes))
        super().__init__("\n".join(self._lines()))

    def _lines(self) -> list[str]:
        return [
            f"{self.filename}:{mistake.line}:{mistake.column}: {mistake.sentence}"
            if mistake.line
            else f"{self.filename}: {mistake.sentence}"
            for mistake in self.mistakes
        ]


def place_after(text: str) -> tuple[int, int]:
    """Line and column, counted from 1, of the character that follows the text."""
    lines = text.split("\n")
    return len(lines), len(lines[-1]) + 1


def check_in_force(books: Iterable[PriceBook], rule_sets: Iterable[RuleSet] = (), *, filename: str = "catalog") -> None:
    """Checks what no single file can: that the books and rule sets which will be in force together agree.

    Raises:
        CatalogError: two books have one name or different currencies, two prices or adjustments of different books
            are equally specific for one instant or one month, their aliases contradict each other, a cost could
            overflow, or a rule id stands in two sets. There are no lines, since there are many files.
    """
    sentences = [*_clashes_of_books(list(books)), *_clashes_of_rules(list(rule_sets))]
    if sentences:
        raise CatalogError(filename=filename, mistakes=[Mistake(0, 0, sentence) for sentence in sentences])


def spell_start(instant: datetime) -> str:
    """Gives the first instant of a contradiction as words; that of the year 1 is no instant anybody chose."""
    return "from the beginning" if instant.year == 1 else f"at {write_instant(instant)}"


def _clashes_of_books(books: list[PriceBook]) -> Iterable[str]:
    names = [book.name for book in books]
    yield from (f"two books are named {name}" for name in sorted({name for name in names if names.count(name) > 1}))
    currencies = sorted({book.currency for book in books})
    if len(currencies) > 1:
        yield f"the books in force are kept in {' and '.join(currencies)}: costs in two currencies have no sum"
    labelled = [(book.price_id(row), price) for book in books for row, price in enumerate(book.prices)]
    for first, second, instant in overlapping_pairs([price for _, price in labelled]):
        yield (
            f"the prices {labelled[first][0]} and {labelled[second][0]} for {labelled[first][1].meter} are equally "
            f"specific, and both apply {spell_start(instant)}"
        )
    periods = [row for book in books for row in with_ids(book.name, book.revision, book.period_prices)]
    for first, second, month in overlapping_months([price for _, price in periods]):
        yield (
            f"the period prices {periods[first].id} and {periods[second].id} for {periods[first].price.meter} are "
            f"equally specific, and both apply {spell_month(month)}"
        )

    adjustments = [(book.adjustment_id(row), entry) for book in books for row, entry in enumerate(book.adjustments)]
    for first, second, instant in overlapping_pairs([entry for _, entry in adjustments]):
        yield (
            f"the adjustments {adjustments[first][0]} and {adjustments[second][0]} are equally specific, and both "
            f"apply {spell_start(instant)}"
        )
    yield from contradictions_of(books)


def _clashes_of_rules(rule_sets: list[RuleSet]) -> Iterable[str]:
    names = [rule_set.name for rule_set in rule_sets]
    yield from (f"two rule sets are named {name}" for name in sorted({name for name in names if names.count(name) > 1}))
    owners: dict[str, str] = {}
    for rule_set in rule_sets:
        for rule in rule_set.rules:
            owner = owners.setdefault(rule.id, rule_set.name)
            if owner != rule_set.name:
                yield f"the rule id {rule.id} stands in the sets {owner} and {rule_set.name}"

"""What applying catalog files would change, and why it can't be done: decided from values alone.

Names are never shared by a price book and a rule set, rule ids are unique over all sets, all books in force have one
currency, no two prices or adjustments of all books in force are equally specific for one event at one instant, and
their aliases do not contradict each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from schemas.books_in_force import contradictions_of
from schemas.catalog_file import CatalogError, Mistake, spell_start
from schemas.period_prices import overlapping_months, spell_month, with_ids
from schemas.price_book import PriceBook, canonical_json, next_revision, overlapping_pairs
from schemas.rules import RuleSet, next_rule_revision

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from schemas.catalog_file import CatalogFile
    from schemas.period_prices import PeriodPrice
    from schemas.price_book import Adjustment, Price

    Content = PriceBook | RuleSet

NEW: Final = "new"
CHANGED: Final = "changed"
ENDED: Final = "ended"
UNCHANGED: Final = "unchanged"


@dataclass(frozen=True, slots=True)
class Change:
    """One name of the applied files: what it was, and what it becomes. Unchanged content keeps its revision."""

    before: Content | None
    after: Content

    @property
    def state(self) -> str:
        """``new``, ``changed`` or ``unchanged``."""
        if self.before is None:
            return NEW
        return UNCHANGED if self.before.revision == self.after.revision else CHANGED

    def answer(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "name": self.after.name,
            "kind": "price_book" if isinstance(self.after, PriceBook) else "rule_set",
            "revision": self.after.revision,
            "state": self.state,
            "rows": self.rows(),
        }

    def rows(self) -> list[dict[str, Any]]:
        """The rows that are new, changed or ended, with their content before and after (None where there is none)."""
        before = {} if self.before is None else _rows_by_key(self.before)
        after = _rows_by_key(self.after)
        rows = [
            {"change": NEW if key not in before else CHANGED, "before": before.get(key), "after": row}
            for key, row in after.items()
            if before.get(key) != row
        ]
        return rows + [
            {"change": ENDED, "before": row, "after": None} for key, row in before.items() if key not in after
        ]


def _rows_by_key(content: Content) -> dict[str, dict[str, Any]]:
    """Rows by what makes two of them "the same row with another price": what they reach, and since when."""
    if isinstance(content, RuleSet):
        return {rule.id: rule.model_dump(mode="json", by_alias=True, exclude_defaults=True) for rule in content.rules}
    rows = {_price_key(price): price.content() for price in content.prices}
    rows |= {_period_price_key(price): {"period_price": price.content()} for price in content.period_prices}
    rows |= {_price_key(entry): {"adjustment": entry.content()} for entry in content.adjustments}
    if content.provider_aliases:
        rows["provider_aliases"] = {"provider_aliases": content.provider_aliases}
    if content.ignore:
        rows["ignore"] = {"ignore": list(content.ignore)}
    return rows


def _price_key(row: Price | Adjustment) -> str:
    hours = None if row.hours is None else row.hours.model_dump()
    return canonical_json([type(row).__name__, *row.reach, str(row.from_), hours])


def _period_price_key(price: PeriodPrice) -> str:
    return canonical_json(["period_price", *price.reach, price.from_])


def plan(
    files: Sequence[CatalogFile], *, in_force: Mapping[str, Content], known: Mapping[str, Content]
) -> tuple[Change, ...]:
    """What each book and set of the files becomes, in the order of the files.

    ``in_force`` is what prices and judges now; ``known`` the newest revision of every name that ever was, which
    counts on from there even if it is no longer in force.

    Raises:
        CatalogError: one or more files can't be applied; nothing may be.
    """
    mistakes = list(_mistakes(files, in_force, {**known, **in_force}))
    if mistakes:
        raise RefusedCatalogError([CatalogError(filename=name, mistakes=found) for name, found in _by_file(mistakes)])
    newest = max((content.revision for content in known.values() if isinstance(content, RuleSet)), default=0)
    return tuple(
        Change(before=in_force.get(content.name), after=_next(content, known.get(content.name), newest=newest))
        for file in files
        for content in contents(file)
    )


class RefusedCatalogError(ValueError):
    """Everything that is wrong in all files."""

    def __init__(self, errors: Sequence[CatalogError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(map(str, errors)))

    @property
    def count(self) -> int:
        """How many mistakes there are."""
        return sum(len(error.mistakes) for error in self.errors)


def contents(file: CatalogFile) -> list[Content]:
    """The book and the set of a file, as far as it has them."""
    return [content for content in (file.price_book, file.rule_set) if content is not None]


def _next(content: Content, known: Content | None, *, newest: int) -> Content:
    if isinstance(content, PriceBook):
        return next_revision(content, in_force=known if isinstance(known, PriceBook) else None)
    return next_rule_revision(content, in_force=known if isinstance(known, RuleSet) else None, newest=newest)


def _by_file(mistakes: Iterable[tuple[str, Mistake]]) -> Iterator[tuple[str, list[Mistake]]]:
    by_file: dict[str, list[Mistake]] = {}
    for filename, mistake in mistakes:
        by_file.setdefault(filename, []).append(mistake)
    yield from by_file.items()


def _mistakes(
    files: Sequence[CatalogFile], in_force: Mapping[str, Content], known: Mapping[str, Content]
) -> Iterator[tuple[str, Mistake]]:
    yield from _shared_names(files, known)
    replaced = {content.name for file in files for content in contents(file)}
    staying = [content for name, content in sorted(in_force.items()) if name not in replaced]
    books = [content for content in staying if isinstance(content, PriceBook)]
    yield from _other_currencies(files, [content for content in in_force.values() if isinstance(content, PriceBook)])
    yield from _ambiguous_prices(files, books)
    yield from _ambiguous_period_prices(files, books)
    yield from _period_prices_of_nothing(files, books)
    yield from _ambiguous_adjustments(files, books)
    yield from _contradictions_of_books(files, books)
    yield from _shared_rule_ids(files, [content for content in staying if isinstance(content, RuleSet)])


def _shared_names(files: Sequence[CatalogFile], known: Mapping[str, Content]) -> Iterator[tuple[str, Mistake]]:
    taken = {name: (_kind(content), "which was applied before") for name, content in known.items()}
    here: set[str] = set()
    for file in files:
        for content in contents(file):
            kind, where = taken.get(content.name, (_kind(content), ""))
            if kind != _kind(content):
                sentence = f"`{content.name}` is the name of a {kind}, {where}: choose another"
                yield file.filename, file.mistake(_name_key(content), sentence)
            elif content.name in here:
                sentence = f"the {kind} `{content.name}` is {where} too: one file per name"
                yield file.filename, file.mistake(_name_key(content), sentence)
            taken[content.name] = (_kind(content), f"in {file.filename}")
            here.add(content.name)


def _name_key(content: Content) -> str:
    return "price_book" if isinstance(content, PriceBook) else "rule_set"


def _kind(content: Content) -> str:
    return "price book" if isinstance(content, PriceBook) else "rule set"


def _other_currencies(files: Sequence[CatalogFile], books: Sequence[PriceBook]) -> Iterator[tuple[str, Mistake]]:
    first = next(((book.currency, f"the book {book.name} in force") for book in books), None)
    for file in files:
        if file.price_book is None:
            continue
        currency, where = first = first or (file.price_book.currency, file.filename)
        if file.price_book.currency != currency:
            sentence = (
                f"`currency` is {file.price_book.currency}, but {where} has {currency}: costs of one installation are "
                "summed, so they need one currency"
            )
            yield file.filename, file.mistake("currency", sentence)


@dataclass(frozen=True, slots=True)
class _Row:
    """A price and where it stands."""

    price: Price
    file: CatalogFile | None
    line: int
    where: str


def _ambiguous_prices(files: Sequence[CatalogFile], books: Sequence[PriceBook]) -> Iterator[tuple[str, Mistake]]:
    """Pairs across books; within a file its reader has looked already."""
    rows = [
        _Row(price, None, 0, f"{book.price_id(place)}, which is in force")
        for book in books
        for place, price in enumerate(book.prices)
    ]
    for file in files:
        prices = () if file.price_book is None else file.price_book.prices
        rows += [
            _Row(price, file, line, f"that in line {line} of {file.filename}")
            for price, line in zip(prices, file.price_lines, strict=True)
        ]
    for first, second, instant in overlapping_pairs([row.price for row in rows]):
        earlier, later = rows[first], rows[second]
        if later.file is None or later.file is earlier.file:
            continue
        sentence = (
            f"this price for {later.price.meter} is as specific as {earlier.where}, and both apply "
            f"{spell_start(instant)}: let one end before the other begins, or make one more specific"
        )
        yield later.file.filename, Mistake(later.line, 1, sentence)


def _ambiguous_period_prices(files: Sequence[CatalogFile], books: Sequence[PriceBook]) -> Iterator[tuple[str, Mistake]]:
    """Pairs across books, like those of prices."""
    rows = [
        (price, None, 0, f"{price_id}, which is in force")
        for book in books
        for price_id, price in with_ids(book.name, book.revision, book.period_prices)
    ] + [(price, file, line, f"that in line {line} of {file.filename}") for file, price, line in _period_prices(files)]
    for first, second, month in overlapping_months([price for price, *_ in rows]):
        (_, earlier, _, where), (price, later, line, _) = rows[first], rows[second]
        if later is None or later is earlier:
            continue
        sentence = (
            f"this period price for {price.meter} is as specific as {where}, and both apply "
            f"{spell_month(month)}: let one end before the other begins, or make one more specific"
        )
        yield later.filename, Mistake(line, 1, sentence)


def _period_prices_of_nothing(
    files: Sequence[CatalogFile], books: Sequence[PriceBook]
) -> Iterator[tuple[str, Mistake]]:
    """A name that no price gives its line can't be on an invoice: a slip of the keyboard that nobody would notice."""
    all_books = [*books, *(file.price_book for file in files if file.price_book is not None)]
    named = {(price.operation, price.invoice_name) for book in all_books for price in book.prices}
    for file, price, line in _period_prices(files):
        if (price.operation, price.meter) not in named:
            sentence = (
                f"no price in force or in these files gives a line of {price.operation} the name {price.meter}: a "
                "period price names a line of the invoice, and each event needs a price, 0 if it has no other"
            )
            yield file.filename, Mistake(line, 1, sentence)


def _period_prices(files: Iterable[CatalogFile]) -> Iterator[tuple[CatalogFile, PeriodPrice, int]]:
    for file in files:
        prices = () if file.price_book is None else file.price_book.period_prices
        for price, line in zip(prices, file.period_price_lines, strict=True):
            yield file, price, line


def _ambiguous_adjustments(files: Sequence[CatalogFile], books: Sequence[PriceBook]) -> Iterator[tuple[str, Mistake]]:
    """The same for adjustments."""
    rows = [
        (entry, "", 0, f"{book.adjustment_id(at)}, which is in force")
        for book in books
        for at, entry in enumerate(book.adjustments)
    ]
    for file in files:
        if file.price_book is not None:
            rows += [
                (entry, file.filename, line, f"that in line {line} of {file.filename}")
                for entry, line in zip(file.price_book.adjustments, file.adjustment_lines, strict=True)
            ]
    for first, second, instant in overlapping_pairs([row[0] for row in rows]):
        _, filename, line, _ = rows[second]
        if filename and filename != rows[first][1]:
            sentence = (
                f"this adjustment is as specific as {rows[first][3]}, and both apply {spell_start(instant)}: "
                "let one end before the other begins, or make one more specific"
            )
            yield filename, Mistake(line, 1, sentence)


def _contradictions_of_books(files: Sequence[CatalogFile], books: Sequence[PriceBook]) -> Iterator[tuple[str, Mistake]]:
    """What no row by itself is wrong about: aliases of several books, and how dear an event could become."""
    together = [*books, *(file.price_book for file in files if file.price_book is not None)]
    last = next((file for file in reversed(files) if file.price_book is not None), None)
    if last is not None:
        yield from ((last.filename, last.mistake("price_book", sentence)) for sentence in contradictions_of(together))


def _shared_rule_ids(files: Sequence[CatalogFile], sets: Sequence[RuleSet]) -> Iterator[tuple[str, Mistake]]:
    taken = {rule.id: f"the rule set {rules.name}, which is in force" for rules in sets for rule in rules.rules}
    for file in files:
        if file.rule_set is None:
            continue
        for rule, line in zip(file.rule_set.rules, file.rule_lines, strict=True):
            if rule.id in taken:
                sentence = f"the rule id {rule.id} is taken by {taken[rule.id]}: ids are unique over all sets"
                yield file.filename, Mistake(line, 1, sentence)
        taken.update({rule.id: f"the rule set of {file.filename}" for rule in file.rule_set.rules})

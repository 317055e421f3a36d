"""What applying a catalog would change: rows that are new, that say something else, or that are gone."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from schemas.price_book import Price, PriceBook
    from schemas.rules import Rule, RuleSet


class Change(StrEnum):
    """What happened to a row between two revisions."""

    NEW = "new"
    CHANGED = "changed"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class PriceChange:
    """One row that differs. ``row_before`` and ``row`` are its places in the two books, counted from 1."""

    change: Change
    before: Price | None
    after: Price | None
    row_before: int | None
    row: int | None

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that say something else, in the order of the schema; empty for a new or an ended row."""
        return _differing_keys(self.before, self.after)


@dataclass(frozen=True, slots=True)
class BookDiff:
    """All that differs between two revisions of a price book; ``is_empty`` when both say the same."""

    prices: tuple[PriceChange, ...]
    ignore_added: tuple[str, ...]
    ignore_removed: tuple[str, ...]
    other_keys: tuple[str, ...]  # of adjustments and provider_aliases those that say something else
    currency_before: str | None  # None when it is the same
    has_other_period_prices: bool
    is_reordered: bool  # the same rows in another order: price ids name other rows than before

    @property
    def is_empty(self) -> bool:
        """Whether applying it would make no new revision."""
        return not (
            self.prices
            or self.ignore_added
            or self.ignore_removed
            or self.other_keys
            or self.currency_before
            or self.has_other_period_prices
            or self.is_reordered
        )


@dataclass(frozen=True, slots=True)
class RuleChange:
    """One rule that differs."""

    change: Change
    before: Rule | None
    after: Rule | None

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that say something else; empty for a new or an ended rule."""
        return _differing_keys(self.before, self.after)


def diff_books(before: PriceBook | None, after: PriceBook) -> BookDiff:
    """Gives what ``after`` changes, in the order of its rows, ended rows last. Without ``before`` all is new."""
    old_rows = list(enumerate(before.prices, start=1)) if before else []
    new_rows = list(enumerate(after.prices, start=1))
    pairs: list[tuple[tuple[int, Price], tuple[int, Price]]] = []
    # The closest likeness first: rows that say the same are not changed, whatever else could be paired with them.
    for likeness in _LIKENESSES:
        found = _paired(old_rows, new_rows, likeness)
        pairs += found
        taken_old, taken_new = {old[0] for old, _ in found}, {new[0] for _, new in found}
        old_rows = [row for row in old_rows if row[0] not in taken_old]
        new_rows = [row for row in new_rows if row[0] not in taken_new]
    changes = [
        PriceChange(Change.CHANGED, old, new, old_row, row) for (old_row, old), (row, new) in pairs if old != new
    ]
    changes += [PriceChange(Change.NEW, None, price, None, row) for row, price in new_rows]
    changes.sort(key=lambda change: change.row or 0)
    changes += [PriceChange(Change.ENDED, price, None, row, None) for row, price in old_rows]
    ignored_before = set(before.ignore) if before else set()
    return BookDiff(
        prices=tuple(changes),
        ignore_added=tuple(sorted(set(after.ignore) - ignored_before)),
        ignore_removed=tuple(sorted(ignored_before - set(after.ignore))),
        other_keys=tuple(
            key
            for key in ("adjustments", "provider_aliases")
            if (getattr(before, key) if before else type(getattr(after, key))()) != getattr(after, key)
        ),
        currency_before=before.currency if before and before.currency != after.currency else None,
        has_other_period_prices=after.period_prices != (before.period_prices if before else ()),
        is_reordered=before is not None and not changes and before.prices != after.prices,
    )


def diff_rules(before: RuleSet | None, after: RuleSet) -> tuple[RuleChange, ...]:
    """Gives what ``after`` changes, by rule id, in the order of its rules, ended rules last."""
    old = {rule.id: rule for rule in before.rules} if before else {}
    new = {rule.id: rule for rule in after.rules}
    changes = [
        RuleChange(Change.CHANGED if rule.id in old else Change.NEW, old.get(rule.id), rule)
        for rule in after.rules
        if rule.id not in old or not rule.same_content(old[rule.id])
    ]
    return (*changes, *(RuleChange(Change.ENDED, rule, None) for rule in old.values() if rule.id not in new))


def _same_row(price: Price) -> Hashable:
    return price


def _same_reach_and_start(price: Price) -> Hashable:
    return (price.reach, price.start_us, price.hours)


def _same_reach(price: Price) -> Hashable:
    return price.reach


_LIKENESSES: Final = (_same_row, _same_reach_and_start, _same_reach)


def _paired(
    old_rows: list[tuple[int, Price]], new_rows: list[tuple[int, Price]], likeness: Callable[[Price], Hashable]
) -> list[tuple[tuple[int, Price], tuple[int, Price]]]:
    waiting: defaultdict[Hashable, list[tuple[int, Price]]] = defaultdict(list)
    for row in reversed(old_rows):
        waiting[likeness(row[1])].append(row)
    return [(waiting[key].pop(), row) for row in new_rows if waiting[key := likeness(row[1])]]


def _differing_keys(before: Price | Rule | None, after: Price | Rule | None) -> tuple[str, ...]:
    if before is None or after is None:
        return ()
    fields = type(after).model_fields
    return tuple(
        field.alias or name
        for name, field in fields.items()
        if name != "revision" and getattr(before, name) != getattr(after, name)
    )

"""A page: sums of many scopes in one window, by key, as sorted columns.

A key is an org and an id of one scope in one number (``Keys``). Pages are handed back changed and never changed in
place, so a run of blocks that dies leaves what was remembered as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from pipeline.judging.wide import plus, taken, zeros

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    Ids = NDArray[np.uint64]
    Places = NDArray[np.int64]

_NO_KEYS: Final[NDArray[np.uint64]] = np.zeros(0, dtype=np.uint64)
ORG_SHIFT: Final = np.uint64(32)


class Keys:
    """Numbers for orgs and ids, given out as they come; a number means the same for as long as the object lives.

    Which number a text gets depends on what came before, so no result may depend on the order of numbers.
    """

    def __init__(self) -> None:
        self._type = pl.Categorical(pl.Categories.random(physical=pl.UInt32))
        # Polars keeps the numbers for as long as a column that uses them is alive: this one is.
        self._alive = pl.Series([""]).cast(self._type)
        #: The number of the empty text: an absent id.
        self.absent: np.uint64 = np.uint64(self._alive.to_physical()[0])

    def of(self, texts: pl.Series) -> Ids:
        """One number per text."""
        return texts.cast(self._type).to_physical().to_numpy().astype(np.uint64)

    def pairs(self, orgs: pl.Series, ids: pl.Series) -> Ids:
        """One key per (org, id)."""
        return (self.of(orgs) << ORG_SHIFT) | self.of(ids)


def org_of(keys: Ids) -> Ids:
    """The org's number of each key."""
    return keys >> ORG_SHIFT


@dataclass(frozen=True, slots=True)
class Page:
    """``keys`` ascend; every column is as long as they are. ``orgs``: those of which nothing is missing here."""

    keys: Ids = field(default_factory=lambda: _NO_KEYS)
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    orgs: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.keys)

    def places(self, keys: Ids) -> Places:
        """Where these keys stand; -1 where they don't."""
        if not len(self.keys):
            return np.full(len(keys), -1, dtype=np.int64)
        at = np.searchsorted(self.keys, keys)
        at[at == len(self.keys)] = 0
        return np.where(self.keys[at] == keys, at, -1)

    def with_keys(self, keys: Ids) -> tuple[Page, Places]:
        """The page with these keys (ascending, distinct) besides its own, and where they stand; new ones are zero."""
        if not len(self.keys) and len(keys):
            return Page(keys, {}, self.orgs), np.arange(len(keys))
        at = np.searchsorted(self.keys, keys)
        fresh = np.take(self.keys, at, mode="clip") != keys
        if not fresh.any():
            return self, at
        places = at + np.cumsum(fresh) - fresh
        new = places[fresh]
        source = np.ones(len(self.keys) + len(new), dtype=np.int64)
        source[new] = 0
        source[0] -= 1
        np.cumsum(source, out=source)
        columns = {name: _spread(column, source, new) for name, column in self.columns.items()}
        everyone = _spread(self.keys, source, new)
        everyone[new] = keys[fresh]
        return replace(self, keys=everyone, columns=columns), places

    def wide(self, name: str) -> NDArray[np.int64]:
        """A column of sums; zeros when nothing was summed yet."""
        column = self.columns.get(name)
        return zeros(len(self.keys)) if column is None else column

    def flat(self, name: str, dtype: type[np.generic]) -> NDArray[Any]:
        """A column of single numbers; zeros when there is none yet."""
        column = self.columns.get(name)
        return np.zeros(len(self.keys), dtype=dtype) if column is None else column

    def plus(self, places: Places, added: Mapping[str, NDArray[np.int64]]) -> Page:
        """The page after sums were added at distinct places."""
        columns = dict(self.columns)
        for name, sums in added.items():
            before = self.columns.get(name)
            column = zeros(len(self.keys)) if before is None else before.copy()
            after = sums if before is None else plus(taken(before, places), sums)
            column[:, 0][places], column[:, 1][places] = after[:, 0], after[:, 1]
            columns[name] = column
        return replace(self, columns=columns)

    def with_column(self, name: str, column: NDArray[Any]) -> Page:
        """The page with one column replaced."""
        return replace(self, columns={**self.columns, name: column})

    def with_orgs(self, orgs: Iterable[int]) -> Page:
        """The page when nothing of these orgs is missing any more."""
        return replace(self, orgs=self.orgs.union(orgs))


def _spread(column: NDArray[Any], source: Places, new: Places) -> NDArray[Any]:
    """The column with zeros at the places ``new``; every other place has what ``source`` points at."""
    spread = np.take(column, source, axis=0, mode="clip")
    spread[new] = 0
    return spread

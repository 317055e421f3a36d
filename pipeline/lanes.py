"""The totals that a partition remembers, by lane: what a run costs depends on the lanes it touches, not on all of them.

Rows are never changed. A run's rows are one more part, in which newer rows stand before those of older parts; when
there are several parts of a size they become one, as in a log-structured merge tree (O'Neil et al., 1996). A lane is
found by the hash of its names in sorted columns of hashes; names decide, so that two lanes of one hash stay two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import polars as pl

from schemas.counted import LANE, TOTALS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]
    Places = NDArray[np.int64]

#: So many parts of a size become one. More would be copied less often, and searched in more places.
PARTS_MERGED: Final = 4
_SEED: Final = 7


class Part(NamedTuple):
    """Rows (TOTALS) of distinct lanes, in the order of their hashes."""

    rows: pl.DataFrame
    hashes: Hashes


@dataclass(frozen=True, slots=True)
class Lanes:
    """Totals by lane. Never changed: adding rows gives another one, and shares what stays."""

    parts: tuple[Part, ...] = ()  # older ones first

    @property
    def height(self) -> int:
        """How many rows are held; older ones of the same lane may be among them."""
        return sum(part.rows.height for part in self.parts)

    def find(self, lanes: pl.DataFrame) -> tuple[Places, pl.DataFrame]:
        """Which of these lanes (distinct, with the columns LANE) are remembered, by their places, and their rows."""
        lanes = lanes.select(LANE)
        hashes = hashes_of(lanes)
        missing = np.arange(len(hashes))
        places, rows = [missing[:0]], [pl.DataFrame(schema=TOTALS)]
        for part in reversed(self.parts):
            at = np.searchsorted(part.hashes, hashes[missing])
            at[at == len(part.hashes)] = 0
            is_here = part.hashes[at] == hashes[missing]
            places.append(missing[is_here])
            rows.append(part.rows[at[is_here]])
            missing = missing[~is_here]
        found, known = np.concatenate(places), pl.concat(rows)
        return (found, known) if _are_same(lanes[found], known) else self._find_by_name(lanes)

    def _find_by_name(self, lanes: pl.DataFrame) -> tuple[Places, pl.DataFrame]:
        """Likewise, if one of the lanes has the hash of another one."""
        rows = pl.concat([part.rows for part in self.parts]).unique(subset=list(LANE), keep="last", maintain_order=True)
        found = lanes.with_row_index("place").join(rows, on=list(LANE))
        return found.get_column("place").to_numpy(), found.select(TOTALS.keys())

    def with_rows(self, rows: pl.DataFrame) -> Lanes:
        """With these rows (TOTALS, of distinct lanes) instead of what their lanes had."""
        if not rows.height:
            return self
        parts = [*self.parts, _part_of(rows)]
        while len(like := _of_last_size(parts)) >= PARTS_MERGED:
            parts[-len(like) :] = [_merged(like)]
        return Lanes(tuple(parts))

    def within(self, rows_max: int) -> tuple[Lanes, pl.Series | None]:
        """Without the oldest hours, as whole hours, until the limit holds; and the hours that stay, if any went."""
        if self.height <= rows_max:
            return self, None
        whole = _merged(self.parts)
        if whole.rows.height <= rows_max:
            return Lanes((whole,)), None
        by_hour = whole.rows.group_by("hour").len().sort("hour", descending=True)
        hours = by_hour.filter(pl.col("len").cum_sum() <= rows_max).get_column("hour")
        is_kept = whole.rows.get_column("hour").is_in(hours.implode())
        kept = Part(whole.rows.filter(is_kept), whole.hashes[is_kept.to_numpy()])
        return Lanes((kept,) if kept.rows.height else ()), hours


NO_LANES: Final = Lanes()


def hashes_of(lanes: pl.DataFrame) -> Hashes:
    """A hash of each lane (LANE); it is the same in all frames of this process."""
    return lanes.hash_rows(seed=_SEED).to_numpy()


def numbered(rows: pl.DataFrame) -> pl.Series:
    """The rows' lanes (LANE) as numbers from 0, in the column ``lane``: the same number for the same lane."""
    names = rows.select(LANE)
    _, first, number = np.unique(hashes_of(names), return_index=True, return_inverse=True)
    if not _are_same(names, names[first[number]]):  # two lanes have one hash
        return names.select(pl.struct(LANE).rank("dense").cast(pl.UInt32).alias("lane")).to_series()
    return pl.Series("lane", number.astype(np.uint32))


def _part_of(rows: pl.DataFrame) -> Part:
    hashes = hashes_of(rows.select(LANE))
    order = np.argsort(hashes, kind="stable")
    return Part(rows[order], hashes[order])


def _of_last_size(parts: Sequence[Part]) -> Sequence[Part]:
    """The last parts of one size, by its order of magnitude; smaller ones never stand before larger ones for long."""
    size = _magnitude(parts[-1])
    first = len(parts) - 1
    while first and _magnitude(parts[first - 1]) <= size:
        first -= 1
    return parts[first:]


def _magnitude(part: Part) -> int:
    return (part.rows.height.bit_length() + 1) // 2  # by powers of 4, as PARTS_MERGED


def _merged(parts: Sequence[Part]) -> Part:
    """One part with the newest row of each lane; of parts, older ones first."""
    rows = pl.concat([part.rows for part in parts])
    hashes = np.concatenate([part.hashes for part in parts])
    order = np.argsort(hashes, kind="stable")  # of one hash the older ones first
    has_next = np.append(hashes[order][:-1] == hashes[order][1:], False)
    replaced, by = order[has_next], order[1:][has_next[:-1]]
    lanes = rows.select(LANE)
    if not _are_same(lanes[replaced], lanes[by]):
        return _part_of(rows.unique(subset=list(LANE), keep="last", maintain_order=True))
    order = order[~has_next]
    return Part(rows[order], hashes[order])


def _are_same(these: pl.DataFrame, those: pl.DataFrame) -> bool:
    """Whether the names (LANE) are the same, row by row."""
    return all(these.get_column(name).equals(those.get_column(name)) for name in LANE)

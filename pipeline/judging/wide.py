"""Sums of 128 bits in columns: exact to the last unit of 1e-12, and fast enough for every event.

A column is an array of shape (n, 2): the low and the high half of a two's complement integer, in units of 1e-12, as
``Decimal(38, 12)`` lies in memory. Counts are kept in the same units, so that every measure is compared alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pipeline.decimal_columns import UNITS, limbs_of
from schemas.frames import DECIMAL

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

    Wide = NDArray[np.int64]

_LOW: Final = (1 << 64) - 1
#: The largest sum that stays in a low half without its top bit.
_MOST: Final = (1 << 63) - 1
_HALF: Final = np.int64(0xFFFF_FFFF)


def zeros(length: int) -> Wide:
    """A column of nothing."""
    return np.zeros((length, 2), dtype=np.int64)


def wide_of(column: pl.Series) -> Wide:
    """A column of decimals or counts; null is 0."""
    return limbs_of(column.fill_null(0).cast(DECIMAL))


def counts(flags: NDArray[np.bool_]) -> Wide:
    """One where the flag is set."""
    column = zeros(len(flags))
    column[:, 0] = flags * np.int64(UNITS)
    return column


def taken(column: Wide, rows: NDArray[np.int64]) -> Wide:
    """The numbers at these rows, in their order; several times as fast as an index in brackets."""
    return np.take(column, rows, axis=0)


def group_sums(column: Wide, starts: NDArray[np.int64]) -> Wide:
    """The sums of neighbouring rows: group g is ``column[starts[g]:starts[g + 1]]``, and no group is empty."""
    if not len(starts):
        return zeros(0)
    low, high = column[:, 0], column[:, 1]
    longest = int(np.diff(starts, append=len(column)).max())
    if not high.any() and low.min() >= 0 and int(low.max()) * longest <= _MOST:
        # As nearly always: no sum outgrows its low half, so nothing is carried.
        sums = zeros(len(starts))
        sums[:, 0] = np.add.reduceat(low, starts)
        return sums
    lowest = np.add.reduceat(low & _HALF, starts)
    middle = np.add.reduceat((low >> 32) & _HALF, starts) + (lowest >> 32)
    sums = np.empty((len(starts), 2), dtype=np.int64)
    sums[:, 0] = (middle << 32) | (lowest & _HALF)
    sums[:, 1] = np.add.reduceat(high, starts) + (middle >> 32)
    return sums


def plus(one: Wide, other: Wide) -> Wide:
    """The sum, row by row."""
    sums = np.empty_like(one)
    low = np.ascontiguousarray(one[:, 0]).view(np.uint64)
    added = low + np.ascontiguousarray(other[:, 0]).view(np.uint64)
    sums[:, 0] = added.view(np.int64)
    sums[:, 1] = one[:, 1] + other[:, 1] + (added < low)
    return sums


def approximately(column: Wide) -> NDArray[np.float64]:
    """The same numbers as floats, in units of 1e-12: to find candidates, never to decide."""
    low = np.ascontiguousarray(column[:, 0]).view(np.uint64).astype(np.float64)
    return column[:, 1] * 2.0**64 + low


def exactly(column: Wide, at: int) -> int:
    """One number, in units of 1e-12."""
    low, high = column.item(at, 0), column.item(at, 1)
    return (high << 64) + (low & _LOW) if high or low < 0 else low

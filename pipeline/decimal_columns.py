"""Exact numbers between ``Decimal(38, 12)`` columns and 64-bit integers, without a float and without a copy per value.

A decimal column is a row of 128-bit integers in units of 1e-12. They are read as a whole part and a fraction, and
written from units that fit 63 bits; the few that do not are passed beside, as Python integers, which have no limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from schemas.frames import DECIMAL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Flags = NDArray[np.bool_]

#: Units per one: 12 decimals.
UNITS: Final = 10**12
#: The largest whole part that is read: a quantity of an event (contract, ``data.usage``).
WHOLE_MAX: Final = 10**15
_ARROW_DECIMAL: Final = pa.decimal128(38, 12)
_LOW_LIMB: Final = 2.0**64


class Parts(NamedTuple):
    """Numbers as ``whole + fraction / 1e12``, with 0 <= fraction < 1e12."""

    whole: Ints
    fraction: Ints


def limbs_of(column: pl.Series) -> Ints:
    """Gives the raw 128-bit integers as pairs (low, high); a view of the column's memory where possible."""
    if column.is_empty():
        return np.zeros((0, 2), dtype=np.int64)
    array = column.to_arrow()
    pairs: Ints = np.frombuffer(array.buffers()[1], dtype=np.int64).reshape(-1, 2)
    return pairs[array.offset : array.offset + len(array)]


def parts_of(limbs: Ints) -> Parts:
    """Gives whole part and fraction of each number.

    Raises:
        ValueError: a number is negative or above 1e15, so it was never validated.
    """
    low, high = limbs[:, 0], limbs[:, 1]
    if high.any():
        return _parts_of_128_bits(low, high)
    whole = low.view(np.uint64) // np.uint64(UNITS)
    return Parts(whole.view(np.int64), low - whole.view(np.int64) * UNITS)


def _parts_of_128_bits(low: Ints, high: Ints) -> Parts:
    """The same for numbers beyond 18 million, too.

    The whole part is guessed by a float division, which is off by at most one for numbers up to 1e15 (their units have
    90 bits, a double keeps 53: the error is under 2**-3, before rounding to the nearest). The remainder is then taken
    modulo 2**64 in integers, where a remainder of a few 1e12 is exact; it corrects the guess.
    """
    approximate = (high.astype(np.float64) * _LOW_LIMB + low.view(np.uint64).astype(np.float64)) / UNITS
    if high.min() < 0 or approximate.max() > WHOLE_MAX:
        raise ValueError(f"a quantity lies outside 0 to {WHOLE_MAX}: decode must refuse it")
    whole = np.rint(approximate).astype(np.int64)
    fraction = low - whole * UNITS  # wraps, and is exact once wrapped
    negative = fraction < 0
    if negative.any():
        whole -= negative
        fraction += negative * UNITS
    return Parts(whole, fraction)


def units_column(name: str, units: Ints, *, wide: Mapping[int, int], valid: Flags | None = None) -> pl.Series:
    """Gives a decimal column from units of 1e-12 that are not negative; null where ``valid`` is false.

    ``wide`` holds, by place, the units that do not fit 63 bits; they stand for what ``units`` has there.

    Raises:
        OverflowError: units do not fit ``Decimal(38, 12)``. The bounds of price books make this impossible.
    """
    limbs = np.zeros((len(units), 2), dtype=np.int64)
    limbs[:, 0] = units
    for place, value in wide.items():
        if not 0 <= value < 10**38:
            raise OverflowError(f"{value} units of 1e-12 do not fit Decimal(38, 12)")
        limbs[place] = np.frombuffer(value.to_bytes(16, "little"), dtype=np.int64)
    bitmap = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return decimal_column(name, limbs, bitmap=bitmap)


def decimal_column(name: str, limbs: Ints, *, bitmap: pa.Buffer | None = None) -> pl.Series:
    """Gives a decimal column over raw 128-bit integers, as ``limbs_of`` gives them."""
    if not len(limbs):
        return pl.Series(name, [], dtype=DECIMAL)
    buffer = pa.py_buffer(np.ascontiguousarray(limbs))
    array = pa.Array.from_buffers(_ARROW_DECIMAL, len(limbs), [bitmap, buffer])
    column = pl.from_arrow(array)
    if not isinstance(column, pl.Series):  # it always is: this is for the type checker
        raise TypeError("an array becomes a column")
    return column.rename(name)

"""The quantities of many events to one column of decimals: whole numbers by machine words, fractions by their text."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from schemas.event_values import QUANTITY_MAX, read_decimal_string, read_number
from schemas.frames import DECIMAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]
    Flags = npt.NDArray[np.bool_]

_ZERO: Final = Decimal(0)
#: What polars reads exactly, and what is a quantity both as a JSON number and as a string. The rest is read one by one.
_PLAIN_DECIMAL: Final = r"^[0-9]{1,15}(\.[0-9]{1,9})?$"


class GrowingQuantities:
    """A column that is being gathered. What is no quantity is 0 in it and flagged."""

    __slots__ = ("_fine", "_slices")

    def __init__(self) -> None:
        self._slices: list[Integers | pl.Series] = []
        self._fine: list[Flags] = []

    def add(self, values: Sequence[Any], *, kinds: set[type]) -> None:
        """Adds quantities as msgspec gives them: int, str, and the bytes that a fraction was written with.

        Args:
            values: of any type; other types are no quantities.
            kinds: the types that occur among them.
        """
        numbers, fine = _whole_numbers(values) if kinds == {int} else _decimals(values)
        self._slices.append(numbers)
        self._fine.append(fine)

    def finished(self) -> tuple[pl.Series, Flags]:
        """The column as decimals, and which of its values are quantities."""
        if not self._slices:
            return pl.Series([], dtype=DECIMAL), np.empty(0, np.bool_)
        fine = np.concatenate(self._fine)
        if all(isinstance(numbers, np.ndarray) for numbers in self._slices):
            return pl.Series(np.concatenate(self._slices)).cast(DECIMAL), fine
        return pl.concat([pl.Series(numbers).cast(DECIMAL) for numbers in self._slices]), fine


def _whole_numbers(values: Sequence[int]) -> tuple[Integers | pl.Series, Flags]:
    try:
        numbers = np.fromiter(values, np.int64, len(values))
    except OverflowError:  # one of them is beyond 64 bits
        return _decimals(values)
    fine = (numbers >= 0) & (numbers <= QUANTITY_MAX)
    return numbers if fine.all() else numbers * fine, fine


def _decimals(values: Sequence[Any]) -> tuple[pl.Series, Flags]:
    texts = pl.Series([_text_of(value) for value in values], dtype=pl.String)
    plain = texts.str.contains(_PLAIN_DECIMAL)
    if plain.all():
        return texts.cast(DECIMAL), plain.to_numpy()
    read = [_quantity(value) for value in values]
    fine = np.array([quantity is not None for quantity in read], np.bool_)
    return pl.Series([quantity or _ZERO for quantity in read], dtype=DECIMAL), fine


def _text_of(value: Any) -> str:  # noqa: ANN401 -- whatever JSON holds
    """The text of a quantity, "" for what is none. The type is compared exactly, because True is an int."""
    kind = type(value)
    if kind is bytes:
        return value.decode()  # type: ignore[no-any-return]
    return str(value) if kind is int or kind is str else ""


def _quantity(value: Any) -> Decimal | None:  # noqa: ANN401 -- whatever JSON holds
    return read_decimal_string(value) if type(value) is str else read_number(_text_of(value))

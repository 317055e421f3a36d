"""Many RFC 3339 texts to instants at once: the shapes that clocks write, by arithmetic on columns of digits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from schemas.event_values import INSTANT_MAX_US, INSTANT_MIN_US

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]
    Instants = npt.NDArray[np.int64]
    Flags = npt.NDArray[np.bool_]

#: "YYYY-MM-DDTHH:MM:SS": what every text begins with, and where its digits and separators stand.
_STEM: Final = 19
_DIGITS: Final = np.array([0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18])
_SEPARATORS: Final = np.array([4, 7, 13, 16])
_SEPARATOR_BYTES: Final = np.frombuffer(b"--::", np.uint8)[:, None]
_T: Final = 10
_LOWER: Final = np.uint8(0x20)  # makes T and Z small, and makes nothing else one of them
_ZONES: Final = {"z": 1, "offset": 6}  # "Z", "+01:00"
#: Longer texts are left to the scalar reader; nothing that a clock writes has more than 9 digits in its fraction.
_LENGTH_MAX: Final = _STEM + 1 + 9 + 6


def read_instants(texts: Sequence[str]) -> tuple[Instants, Flags]:
    """Microseconds since 1970 of each text, and whether it is certain; the scalar reader decides what is not.

    Certain ones are equal to what ``read_instant`` says of them.
    """
    instants = np.zeros(len(texts), np.int64)
    certain = np.zeros(len(texts), np.bool_)
    lengths = set(map(len, texts))
    if len(lengths) == 1:
        _read_equally_long(texts, lengths.pop(), slice(None), instants, certain)
        return instants, certain
    length_of = np.fromiter(map(len, texts), np.int64, len(texts))
    for length in lengths:
        rows = np.flatnonzero(length_of == length)
        _read_equally_long([texts[row] for row in rows.tolist()], length, rows, instants, certain)
    return instants, certain


def _read_equally_long(
    texts: Sequence[str], length: int, rows: slice | npt.NDArray[np.int64], instants: Instants, certain: Flags
) -> None:
    if not _STEM < length <= _LENGTH_MAX:
        return
    joined = "".join(texts)
    if not joined.isascii():  # one odd text must not take its neighbours with it
        joined = "".join([text if text.isascii() else "?" * length for text in texts])
    columns = np.ascontiguousarray(np.frombuffer(joined.encode(), np.uint8).reshape(-1, length).T)
    is_z = (columns[-1] | _LOWER) == ord("z")
    found, sure = _read_columns(columns, zone="z") if is_z.any() else (0, False)
    if not is_z.all():
        found_offset, sure_offset = _read_columns(columns, zone="offset")
        found, sure = np.where(is_z, found, found_offset), np.where(is_z, sure, sure_offset)
    instants[rows] = found
    certain[rows] = sure


def _read_columns(columns: Bytes, *, zone: str) -> tuple[Instants, Flags]:
    """One row of ``columns`` per character, one column per text."""
    fraction_end = len(columns) - _ZONES[zone]
    if fraction_end < _STEM or fraction_end == _STEM + 1:
        return np.zeros(columns.shape[1], np.int64), np.zeros(columns.shape[1], np.bool_)
    fraction_rows = np.arange(_STEM + 1, fraction_end)
    digits = columns[np.concatenate([_DIGITS, fraction_rows])] - np.uint8(ord("0"))
    certain: Flags = (digits <= 9).all(axis=0)
    certain &= (columns[_SEPARATORS] == _SEPARATOR_BYTES).all(axis=0)
    certain &= (columns[_T] | _LOWER) == ord("t")
    if len(fraction_rows):
        certain &= columns[_STEM] == ord(".")
    number = digits.astype(np.int64)
    year = (number[0] * 10 + number[1]) * 100 + number[2] * 10 + number[3]
    month, day, hour, minute, second = (number[at] * 10 + number[at + 1] for at in (4, 6, 8, 10, 12))
    certain &= (month - 1 < 12) & (month >= 1) & (day >= 1) & (hour < 24) & (minute < 60) & (second < 60)
    days, exists = _days_since_1970(year, month, day)
    certain &= exists
    seconds = ((days * 24 + hour) * 60 + minute) * 60 + second
    microseconds = np.zeros_like(seconds)
    for place, digit in enumerate(number[len(_DIGITS) : len(_DIGITS) + 6]):
        microseconds += digit * 10 ** (5 - place)
    if zone == "offset":
        offset_seconds, valid = _offset_seconds(columns[-6:])
        seconds -= offset_seconds
        certain &= valid
    instants = seconds * 1_000_000 + microseconds
    certain &= (instants >= INSTANT_MIN_US) & (instants <= INSTANT_MAX_US)
    return instants, certain


def _days_since_1970(year: Instants, month: Instants, day: Instants) -> tuple[Instants, Flags]:
    """Days, and whether the day exists; the year 0 is left to the scalar reader."""
    months = (year - 1970) * 12 + month - 1
    first = _first_day(months)
    exists = year >= 1
    if (day > 28).any():
        exists &= day <= _first_day(months + 1) - first
    return first + day - 1, exists


def _first_day(months: Instants) -> Instants:
    return months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)


def _offset_seconds(columns: Bytes) -> tuple[Instants, Flags]:
    """Seconds east of Greenwich of "+HH:MM"."""
    digits = (columns[[1, 2, 4, 5]] - np.uint8(ord("0"))).astype(np.int64)
    hours, minutes = digits[0] * 10 + digits[1], digits[2] * 10 + digits[3]
    is_minus = columns[0] == ord("-")
    valid = (digits <= 9).all(axis=0) & (hours < 24) & (minutes < 60) & (columns[3] == ord(":"))
    valid &= is_minus | (columns[0] == ord("+"))
    seconds = (hours * 60 + minutes) * 60
    return np.where(is_minus, -seconds, seconds), valid

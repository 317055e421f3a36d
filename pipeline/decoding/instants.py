"""Many RFC 3339 texts to instants at once: the shapes that clocks write, by arithmetic on columns of digits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from schemas.event_values import INSTANT_MAX_US, INSTANT_MIN_US

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipeline.decoding.texts import Texts

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
_MONTH_1970: Final = 1970 * 12 + 1
#: Longer texts are left to the scalar reader; nothing that a clock writes has more than 9 digits in its fraction.
_LENGTH_MAX: Final = _STEM + 1 + 9 + 6


def read_instants(texts: Texts) -> tuple[Instants, Flags]:
    """Microseconds since 1970 of each text, and whether it is certain; the scalar reader decides what is not.

    Certain ones are equal to what ``read_instant`` says of them.
    """
    lengths = texts.lengths
    instants = np.zeros(len(lengths), np.int64)
    certain = np.zeros(len(lengths), np.bool_)
    data = np.frombuffer(texts.data, np.uint8)
    if len(lengths) and lengths.min() == lengths.max():
        return _read_equally_long(data.reshape(len(lengths), -1))
    for length in np.unique(lengths[(lengths > _STEM) & (lengths <= _LENGTH_MAX)]).tolist():
        rows = np.flatnonzero(lengths == length)
        instants[rows], certain[rows] = _read_equally_long(data[texts.offsets[rows][:, None] + np.arange(length)])
    return instants, certain


def _read_equally_long(rows: Bytes) -> tuple[Instants, Flags]:
    """One row per text, one column per byte."""
    if not _STEM < rows.shape[1] <= _LENGTH_MAX:
        return np.zeros(len(rows), np.int64), np.zeros(len(rows), np.bool_)
    columns = np.ascontiguousarray(rows.T)
    is_z = (columns[-1] | _LOWER) == ord("z")
    if is_z.all():
        return _read_columns(columns, zone="z")
    instants, certain = _read_columns(columns, zone="offset")
    if not is_z.any():
        return instants, certain
    instants_z, certain_z = _read_columns(columns, zone="z")
    return np.where(is_z, instants_z, instants), np.where(is_z, certain_z, certain)


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
    # Two digits at a time stay below 100, so that bytes hold them: what is no digit is not certain and may overflow.
    century, year, month, day, hour, minute, second = digits[0:14:2] * np.uint8(10) + digits[1:14:2]
    certain &= (hour < 24) & (minute < 60) & (second < 60)
    days, exists = _days_since_1970(century * np.int32(100) + year, month, day)
    certain &= exists
    seconds = (hour * np.int32(60) + minute) * np.int32(60) + second
    if zone == "offset":
        offset_seconds, valid = _offset_seconds(columns[-6:])
        seconds -= offset_seconds
        certain &= valid
    instants = (days * 86_400 + seconds) * 1_000_000 + _microseconds(digits[14:20])
    certain &= (instants >= INSTANT_MIN_US) & (instants <= INSTANT_MAX_US)
    return instants, certain


def _microseconds(digits: Bytes) -> npt.NDArray[np.int32]:
    """The first digits of a fraction as microseconds; fewer than six count as if zeros followed."""
    total = np.zeros(digits.shape[1], np.int32)
    for place, digit in enumerate(digits):
        total += digit * np.int32(10 ** (5 - place))
    return total


def _days_since_1970(year: npt.NDArray[np.int32], month: Bytes, day: Bytes) -> tuple[Instants, Flags]:
    """Days, and whether the day exists; the year 0 is left to the scalar reader."""
    months = year * np.int32(12) + month
    exists = (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1)
    first, last = int(months.min()), int(months.max())
    # The first days of all months between; 10,000 years have 120,000, so a hostile year costs a millisecond.
    first_days = np.arange(first - _MONTH_1970, last - _MONTH_1970 + 2).astype("datetime64[M]").astype("datetime64[D]")
    starts = first_days.astype(np.int64)
    at = months - np.int32(first)
    if (day > 28).any():
        exists &= day <= (starts[1:] - starts[:-1])[at]
    return starts[at] + day - 1, exists


def _offset_seconds(columns: Bytes) -> tuple[npt.NDArray[np.int32], Flags]:
    """Seconds east of Greenwich of "+HH:MM"."""
    digits = (columns[[1, 2, 4, 5]] - np.uint8(ord("0"))).astype(np.int32)
    hours, minutes = digits[0] * 10 + digits[1], digits[2] * 10 + digits[3]
    is_minus = columns[0] == ord("-")
    valid: Flags = (digits <= 9).all(axis=0) & (hours < 24) & (minutes < 60) & (columns[3] == ord(":"))
    valid &= is_minus | (columns[0] == ord("+"))
    seconds = (hours * 60 + minutes) * 60
    return np.where(is_minus, -seconds, seconds), valid

"""When windows begin and end, in microseconds since 1970, for one instant or a column of them.

A calendar window is an hour, a day, a week (from Monday), a month or everything, in UTC. A rolling window is a number
of whole steps, minutes or hours, and ends with the step of the newest event. What is summed is summed by *grain*: the
calendar windows themselves, and the steps of the rolling ones.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from schemas.rules import Window

    Times = NDArray[np.int64]

MINUTE_US: Final = 60_000_000
HOUR_US: Final = 60 * MINUTE_US
DAY_US: Final = 24 * HOUR_US
WEEK_US: Final = 7 * DAY_US
#: 1970 began on a Thursday: its first week on the Monday before.
_FIRST_MONDAY_US: Final = -3 * DAY_US
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Grain(StrEnum):
    """What sums are kept for."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"


#: Of grains that are always equally long.
LENGTH_US: Final = {Grain.MINUTE: MINUTE_US, Grain.HOUR: HOUR_US, Grain.DAY: DAY_US}


def grain_of(window: Window) -> Grain:
    """The grain whose sums a window is made of."""
    if window.is_rolling:
        return Grain.MINUTE if window.step_minutes == 1 else Grain.HOUR
    return Grain(window.value)


def starts_of(grain: Grain, times: Times) -> Times:
    """The first microsecond of the grain that holds each instant; 0 for ``total``."""
    match grain:
        case Grain.TOTAL:
            return np.zeros_like(times)
        case Grain.WEEK:
            return times - (times - _FIRST_MONDAY_US) % WEEK_US
        case Grain.MONTH:
            months = times.astype("datetime64[us]").astype("datetime64[M]")
            return months.astype("datetime64[us]").astype(np.int64)
        case _:
            return times - times % LENGTH_US[grain]


def start_of(grain: Grain, time_us: int) -> int:
    """``starts_of`` for one instant."""
    return int(starts_of(grain, np.array([time_us], dtype=np.int64))[0])


def end_of(grain: Grain, start_us: int) -> int:
    """The first microsecond after a calendar window or step that begins at ``start_us``. ``total`` has no end."""
    match grain:
        case Grain.WEEK:
            return start_us + WEEK_US
        case Grain.MONTH:
            return start_of(grain, start_us + 32 * DAY_US)
        case _:
            return start_us + LENGTH_US[grain]


def step_us(window: Window) -> int:
    """The length of a step of a rolling window."""
    return window.step_minutes * MINUTE_US


def rolling_start(window: Window, newest_step_us: int) -> int:
    """The first microsecond of the rolling window whose last step begins at ``newest_step_us``."""
    return newest_step_us - (window.steps - 1) * step_us(window)


def micros(moment: datetime) -> int:
    """The instant in microseconds since 1970; ``instant`` gives it back."""
    return (moment - _EPOCH) // _MICROSECOND


def instant(time_us: int) -> datetime:
    """The instant as Python has it."""
    seconds, micros = divmod(time_us, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=micros)

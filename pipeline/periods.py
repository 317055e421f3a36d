"""Periods as people write them, turned into spans of UTC that include their start and exclude their end.

``2026-03`` a month, ``2026-03-01`` a day, ``2026-W10`` an ISO week (Monday first), ``A/B`` two instants, ``today``,
``week`` and ``month`` those that hold *now*, ``total`` all of time. The clock is the caller's.
"""

from __future__ import annotations

import re
from datetime import MAXYEAR, UTC, date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Final

from schemas.errors import WrongUse
from schemas.reports import Period
from schemas.rules import Window

if TYPE_CHECKING:
    from collections.abc import Callable

_MONTH: Final = re.compile(r"([0-9]{4})-([0-9]{2})")
_DAY: Final = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_WEEK: Final = re.compile(r"([0-9]{4})-W([0-9]{2})")
_INSTANT: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
_SHAPES: Final = (
    "it must be 2026-03, 2026-03-01, 2026-W10, 2026-03-01T00:00Z/2026-03-02T00:00Z, today, week, month or total"
)

ALL_TIME: Final = Period(None, None)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def parse_period(text: str, *, now: datetime) -> Period:
    """The span that ``text`` names, seen from ``now``.

    Raises:
        WrongUse: no such shape, no such date, an end that is not after its start, or an end beyond the year 9999.
    """
    try:
        return _parsed(text, now=now)
    except OverflowError as error:
        raise WrongUse(f"The period {text!r} is not one: it must lie between the years 1 and 9999.") from error
    except ValueError as error:
        raise WrongUse(f"The period {text!r} is not one: {error}.") from error


def parse_instant(text: str) -> datetime:
    """An instant as RFC 3339 writes it, in UTC; seconds may be left out, digits beyond the microsecond are cut.

    Raises:
        WrongUse: no such shape, no zone, or no such instant (also second 60).
    """
    try:
        return _instant(text)
    except (ValueError, OverflowError) as error:
        raise WrongUse(f"The instant {text!r} is not one: {error}.") from error


def day_of(instant: datetime) -> Period:
    """The UTC day that holds the instant."""
    return _day(instant.astimezone(UTC).date())


def week_of(instant: datetime) -> Period:
    """The ISO week, Monday to Monday, that holds the instant."""
    day = instant.astimezone(UTC).date()
    return _days(day - timedelta(days=day.weekday()), days=7)


def month_of(instant: datetime) -> Period:
    """The calendar month that holds the instant."""
    day = instant.astimezone(UTC).date()
    return _month(day.year, day.month)


def calendar_window(window: Window, *, holds: datetime) -> Period:
    """The calendar window of this kind that holds the instant; ``total`` is all of time.

    Raises:
        OverflowError: it ends beyond the year 9999.
    """
    match window:
        case Window.HOUR:
            start = holds.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
            return Period(start, start + timedelta(hours=1))
        case Window.DAY:
            return day_of(holds)
        case Window.WEEK:
            return week_of(holds)
        case Window.MONTH:
            return month_of(holds)
        case Window.TOTAL:
            return ALL_TIME
        case _:
            raise ValueError(f"{window} is no calendar window")


def windows_starting_in(window: Window, period: Period) -> Period:
    """What the calendar windows of this kind that start in the period span together; nothing when none does.

    Raises:
        OverflowError: they end beyond the year 9999.
    """
    if period.start is None or period.end is None or window is Window.TOTAL:
        return period
    first = calendar_window(window, holds=period.start)
    start = first.start if first.start == period.start else first.end
    end = calendar_window(window, holds=period.end - timedelta(microseconds=1)).end
    return Period(start, end)


def rolling_window(window: Window, *, newest: datetime) -> Period:
    """The last steps of a rolling window up to and including the one that holds the newest instant.

    Raises:
        OverflowError: it ends beyond the year 9999.
    """
    step = timedelta(minutes=window.step_minutes)
    end = newest - (newest - _EPOCH) % step + step
    return Period(end - window.steps * step, end)


def month_named(period: Period) -> str | None:
    """The month ``YYYY-MM`` that the span is exactly, or None when it is any other span."""
    start = period.start
    if start is None or (start.year, start.month) == (MAXYEAR, 12) or period != _month(start.year, start.month):
        return None
    return f"{start.year:04}-{start.month:02}"


def _parsed(text: str, *, now: datetime) -> Period:
    if named := _NAMED.get(text):
        return named(now)
    if found := _MONTH.fullmatch(text):
        return _month(int(found[1]), int(found[2]))
    if found := _DAY.fullmatch(text):
        return _day(date(int(found[1]), int(found[2]), int(found[3])))
    if found := _WEEK.fullmatch(text):
        return _days(date.fromisocalendar(int(found[1]), int(found[2]), 1), days=7)
    return _between(text)


def _between(text: str) -> Period:
    sides = text.split("/")
    if len(sides) != 2:
        raise ValueError(_SHAPES)
    start, end = (_instant(side) for side in sides)
    if start >= end:
        raise ValueError("its start must lie before its end")
    return Period(start, end)


_NAMED: Final[dict[str, Callable[[datetime], Period]]] = {
    "today": day_of,
    "week": week_of,
    "month": month_of,
    "total": lambda _: ALL_TIME,
}


def _month(year: int, month: int) -> Period:
    start = date(year, month, 1)
    if (year, month) == (MAXYEAR, 12):
        raise OverflowError("the end of this month has no date")
    following = date(year + month // 12, month % 12 + 1, 1)
    return Period(_midnight(start), _midnight(following))


def _day(day: date) -> Period:
    return _days(day, days=1)


def _days(start: date, *, days: int) -> Period:
    return Period(_midnight(start), _midnight(start + timedelta(days=days)))


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _instant(text: str) -> datetime:
    found = _INSTANT.fullmatch(text)
    if not found:
        raise ValueError("an instant is written like 2026-03-01T12:00:00Z, with its zone")
    year, month, day, hour, minute = (int(found[at]) for at in range(1, 6))
    microsecond = int((found[7] or "")[:6].ljust(6, "0"))
    return datetime(
        year, month, day, hour, minute, int(found[6] or 0), microsecond, tzinfo=_zone(found[8], found[9], found[10])
    ).astimezone(UTC)


def _zone(sign: str | None, hours: str | None, minutes: str | None) -> timezone:
    if sign is None or hours is None or minutes is None:
        return UTC
    if int(hours) > 23 or int(minutes) > 59:
        raise ValueError("a zone is at most 23:59 away from UTC")
    offset = timedelta(hours=int(hours), minutes=int(minutes))
    return timezone(-offset if sign == "-" else offset)

"""Periods: what people write, and the spans it names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.periods import ALL_TIME, day_of, month_of, parse_instant, parse_period, week_of
from schemas.errors import WrongUse
from schemas.reports import Period

if TYPE_CHECKING:
    from collections.abc import Callable

#: A Wednesday.
NOW = datetime(2026, 3, 4, 15, 30, tzinfo=UTC)

INSTANTS = st.datetimes(
    min_value=datetime(1970, 1, 8),  # noqa: DTZ001 -- hypothesis adds the zone
    max_value=datetime(2105, 12, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


def _utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2026-03", _utc(2026, 3, 1), _utc(2026, 4, 1)),
        ("2026-12", _utc(2026, 12, 1), _utc(2027, 1, 1)),
        ("2026-03-01", _utc(2026, 3, 1), _utc(2026, 3, 2)),
        ("2024-02-29", _utc(2024, 2, 29), _utc(2024, 3, 1)),
        ("2026-W10", _utc(2026, 3, 2), _utc(2026, 3, 9)),
        ("2026-W01", _utc(2025, 12, 29), _utc(2026, 1, 5)),
        ("2026-W53", _utc(2026, 12, 28), _utc(2027, 1, 4)),
        ("2026-03-01T00:00Z/2026-03-02T00:00Z", _utc(2026, 3, 1), _utc(2026, 3, 2)),
        (
            "2026-03-01T01:00:00.5+01:00/2026-03-01t00:00:01z",
            _utc(2026, 3, 1, 0, 0, 0, 500_000),
            _utc(2026, 3, 1, 0, 0, 1),
        ),
        ("today", _utc(2026, 3, 4), _utc(2026, 3, 5)),
        ("week", _utc(2026, 3, 2), _utc(2026, 3, 9)),
        ("month", _utc(2026, 3, 1), _utc(2026, 4, 1)),
    ],
)
def test_a_period_is_the_span_it_names(text: str, start: datetime, end: datetime) -> None:
    """Months, days, ISO weeks and pairs of instants, in UTC, start included, end excluded."""
    assert Period(start, end) == parse_period(text, now=NOW)


def test_total_is_all_of_time() -> None:
    """It has neither start nor end."""
    assert Period(None, None) == parse_period("total", now=NOW) == ALL_TIME


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "2026", "2026-3", "2026-13", "2026-00", "2026-02-30", "2026-03-1", "2026-W00", "2026-W54", "2025-W53",
        "2026-w10", "0000-01", "9999-12", "9999-W52", "9999-12-31", "yesterday", "Today", "2026-03 ", "2026-03\n",
        "٢٠٢٦-03", "2026-03-01/2026-03-02", "2026-03-01T00:00/2026-03-02T00:00", "2026-03-01T00:00Z/", "/",
        "2026-03-01T00:00Z/2026-03-02T00:00Z/2026-03-03T00:00Z", "2026-03-02T00:00Z/2026-03-01T00:00Z",
        "2026-03-01T00:00Z/2026-03-01T00:00Z", "2026-03-01T24:00Z/2026-03-03T00:00Z",
        "2026-03-01T00:00:60Z/2026-03-03T00:00Z", "2026-03-01T00:00+24:00/2026-03-03T00:00Z",
    ],
)  # fmt: skip
def test_what_is_no_period_is_refused_in_one_sentence(text: str) -> None:
    """It names what was written and how a period is written, or why this one is none."""
    with pytest.raises(WrongUse, match=r"^The period .* is not one: .*\.$"):
        parse_period(text, now=NOW)


@pytest.mark.parametrize("text", ["9999-12", "9999-12-31", "9999-W52"])
def test_a_period_that_ends_after_the_last_year_says_so(text: str) -> None:
    """Its end can't be written down."""
    with pytest.raises(WrongUse) as refused:
        parse_period(text, now=NOW)

    assert str(refused.value) == f"The period {text!r} is not one: it must lie between the years 1 and 9999."


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-03-01T12:00:00Z", _utc(2026, 3, 1, 12)),
        ("2026-03-01T12:00Z", _utc(2026, 3, 1, 12)),
        ("2026-03-01T12:00:00.1234567Z", _utc(2026, 3, 1, 12, 0, 0, 123_456)),
        ("2026-03-01T12:00:00-05:30", _utc(2026, 3, 1, 17, 30)),
    ],
)
def test_an_instant_is_rfc_3339(text: str, instant: datetime) -> None:
    """Any zone becomes UTC; seconds may be left out, digits beyond the microsecond are cut."""
    assert instant == parse_instant(text)


@pytest.mark.parametrize(
    "text", ["2026-03-01", "2026-03-01T12:00:00", "2026-03-01 12:00:00Z", "now", "0001-01-01T00:00+01:00"]
)
def test_what_is_no_instant_is_refused_in_one_sentence(text: str) -> None:
    """No zone, no time of day, a space, or before the year 1: none of them is guessed at."""
    with pytest.raises(WrongUse, match=r"^The instant .* is not one: .*\.$"):
        parse_instant(text)


@pytest.mark.parametrize("window_of", [day_of, week_of, month_of])
@given(instant=INSTANTS)
def test_every_instant_falls_into_exactly_one_window(
    window_of: Callable[[datetime], Period], instant: datetime
) -> None:
    """Windows hold their instant, and the neighbours begin and end exactly where it ends and begins."""
    window = window_of(instant)

    assert window.start is not None
    assert window.end is not None
    assert window.start <= instant < window.end
    assert window_of(window.start) == window
    assert window_of(window.end).start == window.end
    assert window_of(window.start - timedelta(microseconds=1)).end == window.start


@given(instant=INSTANTS)
def test_a_window_has_the_name_that_calendars_give_it(instant: datetime) -> None:
    """The day, week and month of an instant are what their names parse to."""
    assert day_of(instant) == parse_period(instant.strftime("%Y-%m-%d"), now=NOW)
    assert week_of(instant) == parse_period(instant.strftime("%G-W%V"), now=NOW)
    assert month_of(instant) == parse_period(instant.strftime("%Y-%m"), now=NOW)


@pytest.mark.parametrize(
    ("text", "aligned"),
    [
        ("total", True),
        ("2026-W10", True),
        ("2026-03-01T05:00Z/2026-03-01T06:00Z", True),
        ("2026-03-01T05:30Z/2026-03-01T06:00Z", False),
        ("2026-03-01T05:00Z/2026-03-01T06:00:00.000001Z", False),
        ("2026-03-01T05:30+00:30/2026-03-01T06:00Z", True),
    ],
)
def test_whole_hours_are_recognised(text: str, *, aligned: bool) -> None:
    """Only a period of whole UTC hours can be answered by hourly totals."""
    assert aligned is parse_period(text, now=NOW).is_hour_aligned

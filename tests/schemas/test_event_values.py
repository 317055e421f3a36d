"""Instants and quantities from text, against other ways of reading them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.decoding.instants import read_instants
from pipeline.decoding.texts import GrowingTexts
from schemas.event_values import EPOCH, read_decimal_string, read_instant, read_number

OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
AWARE = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=OFFSETS)  # noqa: DTZ001 -- hypothesis adds it
ALMOST = st.from_regex(
    r"\A[0-9]{4}-[0-3][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-6][0-9]:[0-6][0-9]"
    r"(\.[0-9]{0,8})?([Zz]|[+-][0-2][0-9]:[0-6][0-9])?\Z"
)


@given(AWARE, st.sampled_from(["T", "t"]), st.text("0123456789", max_size=6))
def test_an_instant_is_what_datetime_says(moment: datetime, separator: str, more_digits: str) -> None:
    """For any offset; digits beyond the microsecond are cut."""
    text = moment.isoformat(separator, "microseconds")
    text = text[:26] + more_digits + text[26:]

    assert read_instant(text) == (moment - EPOCH) // timedelta(microseconds=1)


@given(st.integers(0, 999), st.integers(1, 9))
def test_a_short_fraction_counts_as_if_zeros_followed(number: int, digits: int) -> None:
    """.5 is half a second, .05 is not."""
    fraction = f"{number:0{digits}d}"

    assert read_instant(f"1970-01-01T00:00:00.{fraction}Z") == int(fraction.ljust(6, "0")[:6])


def test_an_offset_can_carry_the_year_0_into_the_year_1() -> None:
    """The instant counts, not how it was written; Python's datetime has no year 0."""
    first = (datetime(1, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)

    assert read_instant("0000-12-31T23:59:00-00:01") == first
    assert read_instant("0000-12-31T23:58:59-00:01") is None
    assert read_instant("0000-02-29T00:00:00-23:59") is None
    assert read_instant("9999-12-31T23:59:59.999999Z") is not None
    assert read_instant("9999-12-31T23:59:59-00:01") is None


@given(st.lists(AWARE.map(datetime.isoformat) | ALMOST | st.text(max_size=30), max_size=20))
@example(["2026-03-01T12:00:00Z", "2026-03-01T12:00:00z", "2026-03-01T12:00:0０Z", ""])
@example(["2026-03-01T12:00:00+00:00", "2026-03-01T12:00:00.1234Z", "2026-02-30T12:00:00.1234Z"])
@example(["2026\r03-01T12:00:00Z", "2026-03-01T12\x1a00:00Z"])
def test_many_instants_at_once_are_what_each_is_alone(texts: list[str]) -> None:
    """What the columns are certain of, the scalar reader says too."""
    column = GrowingTexts()
    if texts:
        texts = [text.replace("\n", "") for text in texts]
        column.add(texts, may_hold_newlines=False)

    instants, certain = read_instants(column.finished())

    assert len(instants) == len(texts)
    for text, instant, sure in zip(texts, instants.tolist(), certain.tolist(), strict=True):
        if sure:
            assert read_instant(text) == instant


def test_what_clocks_write_is_read_at_once() -> None:
    """RFC 3339 of common libraries: seconds to nanoseconds, Z or an offset, in one column."""
    moments = [datetime(2026, 3, 1, tzinfo=UTC) + timedelta(hours=hour) for hour in range(100)]
    texts = [
        text
        for moment in moments
        for text in (
            f"{moment:%Y-%m-%dT%H:%M:%S}Z",
            f"{moment:%Y-%m-%dT%H:%M:%S}.123Z",
            f"{moment:%Y-%m-%dT%H:%M:%S}.123456789Z",
            moment.isoformat(),
            moment.isoformat(timespec="microseconds"),
        )
    ]
    column = GrowingTexts()
    column.add(texts, may_hold_newlines=False)

    instants, certain = read_instants(column.finished())

    assert certain.all()
    assert instants.tolist() == [read_instant(text) for text in texts]


def test_no_instants_are_none() -> None:
    """An empty column has no first text to learn a length from."""
    instants, certain = read_instants(GrowingTexts().finished())

    assert instants.dtype == np.int64
    assert len(instants) == len(certain) == 0


JSON_NUMBER = st.from_regex(r"\A-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,14})?([eE][+-]?[0-9]{1,2})?\Z")


@given(JSON_NUMBER)
@example("1000000000000000")
@example("1000000000000000.000000001")
@example("1e15")
@example("0.0000000001")
@example("100000000000000000000e-20")
def test_a_number_is_its_exact_value_or_nothing(text: str) -> None:
    """Between 0 and 1e15 and a multiple of 1e-9: else it is refused, never rounded."""
    with localcontext(prec=200):
        value = Decimal(text)
        allowed = 0 <= value <= 10**15 and value * 10**9 == (value * 10**9).to_integral_value()

    assert read_number(text) == (value if allowed else None)


@given(JSON_NUMBER)
def test_the_callers_decimal_context_rounds_nothing(text: str) -> None:
    """A context of two digits changes no quantity."""
    expected = read_number(text)
    with localcontext(prec=2):
        found = read_number(text)

    assert found == expected


@given(JSON_NUMBER | st.text(max_size=12) | st.from_regex(r"\A[0-9]{1,18}(\.[0-9]{0,12})?\Z"))
def test_a_decimal_string_has_digits_and_a_dot_and_nothing_else(text: str) -> None:
    """No sign, no exponent, no other script's digits."""
    plain = re.fullmatch(r"[0-9]+(\.[0-9]+)?", text)

    assert read_decimal_string(text) == (read_number(text) if plain else None)


@pytest.mark.parametrize("text", ["", "-", "1.", ".5", "1e", "+1", "0x10", "1_0", "NaN", "Infinity", "１", "1\n", " 1"])
def test_what_is_no_json_number_is_no_number(text: str) -> None:
    """Though Python's Decimal takes most of it."""
    assert read_number(text) is None


@pytest.mark.parametrize(
    "text", ["1e" + "9" * 100_000, "1e-" + "9" * 100_000, "9" * 100_000, "0." + "0" * 100_000 + "1"]
)
def test_absurd_numbers_are_refused_by_their_digits(text: str) -> None:
    """Without ever making the number."""
    assert read_number(text) is None


@pytest.mark.parametrize("text", ["0" * 100_000 + "1", "1." + "0" * 100_000, "1e" + "0" * 100_000])
def test_zeros_that_say_nothing_are_allowed(text: str) -> None:
    """Only significant digits count."""
    assert read_number(text) == 1

"""What single values of a price book or a rule may look like: ids, meters, amounts, instants.

Every check ends in a sentence that tells the author of the file what to write instead. A fraction is never read from
a float (``0.1`` is not a tenth there), so decimals arrive as integers, as quoted strings, or as ``Decimal``.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Final

from pydantic import BeforeValidator, PlainSerializer
from pydantic_core import PydanticCustomError

from schemas.event import ID_PATTERN
from schemas.event_values import (
    DECIMAL_PATTERN,
    EPOCH,
    INSTANT_PATTERN,
    QUANTITY_DECIMALS_MAX,
    QUANTITY_MAX,
    USAGE_NAME_PATTERN,
)
from schemas.event_values import read_instant as parse_instant

_ID: Final = re.compile(ID_PATTERN)
_METER: Final = re.compile(USAGE_NAME_PATTERN)
_DECIMAL: Final = re.compile(DECIMAL_PATTERN)
_INSTANT: Final = re.compile(INSTANT_PATTERN)
#: An event's time is cut to the microsecond; in a book digits beyond it are refused, since nothing would come of them.
_FINER_THAN_MICROSECONDS: Final = re.compile(r".*\.[0-9]{7}.*")

#: ``Decimal(38, 12)`` keeps 12 decimals; a price may use all of them.
PRICE_DECIMALS_MAX: Final = 12
#: The largest price for ``per`` units. ``per`` is at least 1 and an event has at most 64 quantities and its
#: ``requests``, so the cost of one event stays at or under 65 * 1e15 * 1e9 = 6.5e25 and fits the 26 integer digits of
#: ``Decimal(38, 12)``: overflow is impossible by construction.
PRICE_MAX: Final = 10**9
#: "1.10" is ten percent more, "0.5" is half.
MULTIPLIER_MAX: Final = 1_000
MULTIPLIER_DECIMALS_MAX: Final = 6
PER_MAX: Final = 10**12
#: Budgets and thresholds of rules: sums over many events, so wider than one quantity.
THRESHOLD_MAX: Final = 10**18
NAME_CHARACTERS_MAX: Final = 128


def mistake(sentence: str) -> PydanticCustomError:
    """Gives the exception that pydantic collects. The sentence begins with a verb: its subject is the key's name."""
    return PydanticCustomError("catalog", sentence)


def plain_decimal(value: Decimal) -> str:
    """Gives a decimal without exponent and without trailing zeros: ``0.15``, ``3``."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def read_decimal(value: object, *, decimals_max: int, limit: int) -> Decimal:
    """Gives the exact decimal of an integer, a decimal string or a Decimal, between 0 and ``limit``.

    Raises:
        PydanticCustomError: it is a float, no plain decimal, negative, above the limit, or has too many decimals.
    """
    if isinstance(value, float):
        raise mistake('is a fraction without quotes: write it as a quoted decimal, like "0.15"')
    if isinstance(value, Decimal):
        value = format(value, "f")
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise mistake('must be an integer or a quoted decimal like "0.15"')
    text = str(value)
    if text.startswith("-"):
        raise mistake("is negative: the least is 0")
    if not _DECIMAL.fullmatch(text):
        raise mistake('must be a plain decimal like "0.15": digits, and digits after a point')
    whole, _, fraction = text.partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    if len(fraction) > decimals_max:
        raise mistake(f"has {len(fraction)} decimals: at most {decimals_max} can be kept exactly")
    # Lengths are compared first, so that a number of a million digits costs nothing.
    number = Decimal(f"{whole}.{fraction}" if fraction else whole) if len(whole) <= len(str(limit)) else None
    if number is None or number > limit:
        raise mistake(f"is above {limit}: a number this large is a slip of the keyboard")
    return number


def read_instant(value: object) -> datetime:
    """Gives the UTC instant of an RFC 3339 string with zone, or of an aware datetime.

    Raises:
        PydanticCustomError: no zone, a date alone, more than microseconds, or no such day.
    """
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC)
    if not isinstance(value, str) or not _INSTANT.fullmatch(value) or _FINER_THAN_MICROSECONDS.fullmatch(value):
        raise mistake('must be a quoted instant with zone, to the microsecond at most, like "2026-03-01T00:00:00Z"')
    instant_us = parse_instant(value)
    if instant_us is None:
        raise mistake("names no instant of the years 1 to 9999: look at day, month and zone")
    return EPOCH + timedelta(microseconds=instant_us)


def write_instant(value: datetime) -> str:
    """Gives RFC 3339 in UTC with ``Z``; the fraction only if there is one."""
    return value.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"


def _read_id(value: object) -> str:
    if not isinstance(value, str):
        raise mistake("must be an id; write it in quotes")
    if not _ID.fullmatch(value):
        raise mistake("is no id: 1 to 128 letters, digits or . _ : / @ ~ ? # % + -")
    return value


def _read_optional_id(value: object) -> str:
    """Absent, null, "" and "*" all mean "any"."""
    return "" if value is None or value in ("", "*") else _read_id(value)


def _read_model(value: object) -> str:
    if not isinstance(value, str) or not value.endswith("*") or value == "*":
        return _read_optional_id(value)
    if not _ID.fullmatch(value[:-1]):
        raise mistake("is no model: an id, or the beginning of one and a * at its end")
    return value


def _read_pattern(value: object) -> str:
    if value == "*":
        return "*"
    if isinstance(value, str) and value.endswith("*"):
        return _read_id(value[:-1]) + "*"
    return _read_id(value)


def _read_meter(value: object) -> str:
    if not isinstance(value, str) or not _METER.fullmatch(value):
        raise mistake("is no name of a quantity: a small letter, then at most 63 small letters, digits or _")
    return value


def _read_optional_meter(value: object) -> str:
    """Absent, null, "" and "*" all mean "any"."""
    return "" if value is None or value in ("", "*") else _read_meter(value)


def _read_name(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or not value.isprintable() or value != value.strip():
        raise mistake("must be one line of text without white space around it; write it in quotes")
    if len(value) > NAME_CHARACTERS_MAX:
        raise mistake(f"is longer than {NAME_CHARACTERS_MAX} characters")
    return value


def _read_whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise mistake("must be a whole number without quotes")
    return value


def _read_per(value: object) -> int:
    per = _read_whole(value)
    if not 1 <= per <= PER_MAX:
        raise mistake(f"must be 1 to {PER_MAX} units")
    return per


def _read_multiplier(value: object) -> Decimal:
    return read_decimal(value, decimals_max=MULTIPLIER_DECIMALS_MAX, limit=MULTIPLIER_MAX)


def _read_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise mistake("must be true or false")
    return value


def _read_price(value: object) -> Decimal:
    return read_decimal(value, decimals_max=PRICE_DECIMALS_MAX, limit=PRICE_MAX)


def _read_quantity(value: object) -> Decimal:
    return read_decimal(value, decimals_max=QUANTITY_DECIMALS_MAX, limit=QUANTITY_MAX)


def _read_threshold(value: object) -> Decimal:
    return read_decimal(value, decimals_max=PRICE_DECIMALS_MAX, limit=THRESHOLD_MAX)


def _read_budget(value: object) -> Decimal:
    # Two decimals fewer, so that a whole percentage of it still fits 12.
    return read_decimal(value, decimals_max=PRICE_DECIMALS_MAX - 2, limit=THRESHOLD_MAX)


_AS_DECIMAL: Final = PlainSerializer(plain_decimal, return_type=str, when_used="json")

Id = Annotated[str, BeforeValidator(_read_id)]
OptionalId = Annotated[str, BeforeValidator(_read_optional_id)]
ModelName = Annotated[str, BeforeValidator(_read_model)]
Pattern = Annotated[str, BeforeValidator(_read_pattern)]
Meter = Annotated[str, BeforeValidator(_read_meter)]
OptionalMeter = Annotated[str, BeforeValidator(_read_optional_meter)]
InvoiceName = Annotated[str, BeforeValidator(_read_name)]
Whole = Annotated[int, BeforeValidator(_read_whole)]
Per = Annotated[int, BeforeValidator(_read_per)]
Flag = Annotated[bool, BeforeValidator(_read_flag)]
Amount = Annotated[Decimal, BeforeValidator(_read_price), _AS_DECIMAL]
Multiplier = Annotated[Decimal, BeforeValidator(_read_multiplier), _AS_DECIMAL]
Quantity = Annotated[Decimal, BeforeValidator(_read_quantity), _AS_DECIMAL]
Budget = Annotated[Decimal, BeforeValidator(_read_budget), _AS_DECIMAL]
Threshold = Annotated[Decimal, BeforeValidator(_read_threshold), _AS_DECIMAL]
Instant = Annotated[
    datetime, BeforeValidator(read_instant), PlainSerializer(write_instant, return_type=str, when_used="json")
]

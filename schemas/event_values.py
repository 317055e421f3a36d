"""The two values of an event that text must be read into: an instant and a quantity. Exact, and never through a float.

The functions answer None for what the contract does not allow; they read ASCII digits only, and take time linear in
the length of the text, whatever the text is.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Final

#: RFC 3339 with a zone: ``T`` and ``Z`` in either case, no space, no second 60 (section 5.6 of the RFC allows it only
#: for leap seconds, which no clock of a Unix system shows). Offsets up to 23:59; ``-00:00`` is UTC.
INSTANT_PATTERN: Final = (
    r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"
    r"[Tt](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?"
    r"(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
#: A quantity that is sent as a string.
DECIMAL_PATTERN: Final = r"[0-9]+(?:\.[0-9]+)?"

USAGE_NAME_PATTERN: Final = r"[a-z][a-z0-9_]{0,63}"
#: ``requests`` is 1 for every event; ``input_context_tokens`` is computed when pricing.
RESERVED_USAGE_NAMES: Final = frozenset({"requests", "input_context_tokens"})

QUANTITY_MAX: Final = 10**15
#: Significant decimals: ``1.50000000000000`` has one.
QUANTITY_DECIMALS_MAX: Final = 9

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
#: Microseconds since the epoch of the first and last instant that count: the years 1 to 9999 in UTC.
INSTANT_MIN_US: Final = (datetime(1, 1, 1, tzinfo=UTC) - EPOCH) // _MICROSECOND
INSTANT_MAX_US: Final = (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC) - EPOCH) // _MICROSECOND

_INSTANT: Final = re.compile(INSTANT_PATTERN)
_DECIMAL: Final = re.compile(DECIMAL_PATTERN)
_NUMBER: Final = re.compile(r"(-?)([0-9]++)(?:\.([0-9]++))?(?:[eE]([+-]?)([0-9]++))?")
#: More digits than this in an exponent put every value that is not 0 out of range: a value is at most 1 MiB long.
_EXPONENT_DIGITS_MAX: Final = 9
_SCALE: Final = 10**QUANTITY_DECIMALS_MAX


def read_instant(text: str) -> int | None:
    """Microseconds since 1970 UTC of an RFC 3339 text; digits beyond the microsecond are cut, not rounded.

    Returns:
        None when the text is not of the allowed form, names a day that does not exist, or lies outside the years 1 to
        9999 once it is converted to UTC.
    """
    if _INSTANT.fullmatch(text) is None:
        return None
    year, month, day = int(text[0:4]), int(text[5:7]), int(text[8:10])
    # datetime has no year 0, but an offset may move its last day into year 1. 400 years repeat the calendar exactly.
    shifted = 400 if year == 0 else 0
    try:
        days = date(year + shifted, month, day).toordinal() - EPOCH.toordinal() - (146_097 if shifted else 0)
    except ValueError:
        return None
    seconds = ((days * 24 + int(text[11:13])) * 60 + int(text[14:16])) * 60 + int(text[17:19])
    zone = text[-1] if text[-1] in "Zz" else text[-6:]
    fraction = text[20 : len(text) - len(zone)][:6]
    if len(zone) > 1:
        offset = (int(zone[1:3]) * 60 + int(zone[4:6])) * 60
        seconds -= offset if zone[0] == "+" else -offset
    instant = seconds * 1_000_000 + (int(fraction.ljust(6, "0")) if fraction else 0)
    return instant if INSTANT_MIN_US <= instant <= INSTANT_MAX_US else None


def read_decimal_string(text: str) -> Decimal | None:
    """The quantity that a string says: digits with an optional fraction, no sign, no exponent."""
    return read_number(text) if _DECIMAL.fullmatch(text) else None


def read_number(text: str) -> Decimal | None:
    """The quantity that a JSON number says, with at most 9 decimals; ``-0`` is 0.

    Returns:
        None below 0, above 1e15, or with more than 9 significant decimals. Judged on the digits: ``1e999999999`` costs
        nothing.
    """
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    sign, whole, fraction, exponent_sign, exponent_digits = found.groups(default="")
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return Decimal(0)
    exponent_digits = exponent_digits.lstrip("0")
    if sign or len(exponent_digits) > _EXPONENT_DIGITS_MAX:
        return None
    exponent = int(exponent_sign + (exponent_digits or "0")) - len(fraction)
    significant = digits.rstrip("0")
    exponent += len(digits) - len(significant)
    if exponent < -QUANTITY_DECIMALS_MAX or len(significant) + exponent > len(str(QUANTITY_MAX)):
        return None
    scaled = int(significant) * 10 ** (exponent + QUANTITY_DECIMALS_MAX)
    if scaled > QUANTITY_MAX * _SCALE:
        return None
    # From text, so that no context of the caller can round it.
    return Decimal(f"{scaled // _SCALE}.{scaled % _SCALE:09d}")

"""The fast path: ordinary records to frames, a column at a time; what is not certain is left to ``decode_one``.

Nothing is refused here: a check that fails makes its rows *unsure*, and a false alarm costs time only. So a check may
be stricter than the contract, never laxer.

Why a repeated name cannot slip through although msgspec silently keeps its last value: in JSON without escapes every
name and every string value brings exactly two quotation marks. Those of the names and strings that came out of the
decoder are counted; when the bytes hold more, a name is there that did not come out (repeated, null or an attribute
that nobody declared), and the row is looked at on its own. The counted ones are never more than those in the bytes, so
one row cannot make up for another, and one comparison of two sums clears a whole batch.
"""

from __future__ import annotations

import re
from decimal import Decimal
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import polars as pl

from pipeline.decoding.frames import Part, place_of
from pipeline.decoding.instants import read_instants
from pipeline.decoding.one import RECEIVED_MS_MAX, canonical_tags
from pipeline.decoding.units import EXTENSIONS, NOT_TAKEN, StructuredEvent, decode_units
from schemas.event import (
    DEPTH_MAX,
    ID_CHARACTERS_MAX,
    RESERVED_USAGE_NAMES,
    TAG_CHARACTERS_MAX,
    TAGS_MAX,
    USAGE_NAME_PATTERN,
    USAGE_NAMES_MAX,
    VALUE_BYTES_MAX,
)
from schemas.event_values import QUANTITY_MAX, read_decimal_string, read_number
from schemas.frames import DECIMAL, EVENTS, INSTANT
from schemas.secrets import is_secret

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from pipeline.decoding.one import Limits
    from pipeline.decoding.units import Data, Left, Units
    from schemas.records import RawRecord

    Flags = npt.NDArray[np.bool_]
    Integers = npt.NDArray[np.int64]

_ID_BYTES: Final = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:/@~?#%+-"
_ID_REGEX: Final = r"^[A-Za-z0-9._:/@~?#%+-]*$"
_USAGE_NAME: Final = re.compile(USAGE_NAME_PATTERN)
_ESCAPE: Final = re.compile(rb"\\.", re.DOTALL)
_QUOTE: Final = ord('"')
#: Names and strings that every structured event has: seven attributes of which six are strings, and in ``data`` the two
#: required ids with their names.
_TEXTS_OF_STRUCTURED: Final = 7 + 6 + 4
_TEXTS_OF_DATA: Final = 4

_decode_any: Final = msgspec.json.Decoder(float_hook=Decimal).decode


def _suspicious_beginnings() -> Flags:
    """For each pair of first bytes, little-endian, whether a secret may begin with it."""
    table = np.zeros(1 << 16, np.bool_)
    for pair in (b"sk", b"rk", b"AK", b"AS", b"gh", b"gi", b"xo", b"AI", b"ey"):
        table[int.from_bytes(pair, "little")] = True
    return table


_NOTHING: Final[dict[str, Any]] = {}
_ZERO: Final = Decimal(0)
_SUSPICIOUS: Final = _suspicious_beginnings()


def read_columns(records: Sequence[RawRecord], *, limits: Limits) -> tuple[list[Part], Left]:
    """The certainly valid events of the records as frames, and what is left of the records."""
    structured, bound, left = decode_units(records)
    parts = [_part(records, units, limits=limits, left=left) for units in (structured, bound) if units.data]
    return parts, left


def _part(records: Sequence[RawRecord], units: Units, *, limits: Limits, left: Left) -> Part:
    """The units as frames without those that are unsure; these are left."""
    check = _Check(len(units.data))
    columns = _coordinates(records, units)
    columns["time"] = _times(units, columns["received_at"], limits=limits, check=check)
    _add_attributes(columns, units, check=check)
    _add_data(columns, units.data, check=check)
    usage = _usage(units.data, check=check)
    _check_bytes(units, check=check)
    for row in np.flatnonzero(~check.sure).tolist():
        left.element(units.position[row], units.index[row])
    place = place_of(np.array(units.position, np.int64), np.array(units.index, np.int64))
    events = pl.DataFrame([columns[name].alias(name) for name in EVENTS])
    return Part(events, usage, place).only(check.sure)


class _Check:
    """Which rows are still sure, and how many names and strings have come out of each row's bytes."""

    def __init__(self, rows: int) -> None:
        self.sure: Flags = np.ones(rows, np.bool_)
        self.texts: list[int | Integers] = []  # what each column contributes: the same for every row, or one per row

    def only(self, sure: Flags) -> None:
        """Keep those sure that are."""
        self.sure &= sure

    def texts_total(self) -> int:
        """The names and strings of all rows."""
        return sum(part * len(self.sure) if isinstance(part, int) else int(part.sum()) for part in self.texts)

    def texts_by_row(self) -> Integers:
        """The names and strings of each row."""
        total = np.zeros(len(self.sure), np.int64)
        for part in self.texts:
            total += part
        return total


def _coordinates(records: Sequence[RawRecord], units: Units) -> dict[str, pl.Series]:
    of_units = [records[position] for position in units.position]
    received_ms = pl.Series([record.timestamp_ms for record in of_units], dtype=pl.Int64)
    return {
        "partition": pl.Series([record.partition for record in of_units], dtype=EVENTS["partition"]),
        "offset": pl.Series([record.offset for record in of_units], dtype=EVENTS["offset"]),
        "index": pl.Series(units.index, dtype=EVENTS["index"]),
        "of": pl.Series(units.of, dtype=EVENTS["of"]),
        "received_at": (received_ms.clip(0, RECEIVED_MS_MAX) * 1000).cast(INSTANT),
    }


def _times(units: Units, received_at: pl.Series, *, limits: Limits, check: _Check) -> pl.Series:
    instants, certain = read_instants([attributes.time for attributes in units.attributes])
    ahead_us = instants - received_at.to_physical().to_numpy()
    check.only(certain)
    check.only((ahead_us <= limits.max_ahead_us) & (ahead_us >= -limits.max_age_us))
    return pl.Series(instants).cast(INSTANT)


def _add_attributes(columns: dict[str, pl.Series], units: Units, *, check: _Check) -> None:
    attributes = units.attributes
    for name, texts in (
        ("id", [event.id for event in attributes]),
        ("source", [event.source for event in attributes]),
        ("org", [event.subject for event in attributes]),
        ("operation", [event.type for event in attributes]),
    ):
        columns[name] = _required_id(texts, check=check)


def _add_data(columns: dict[str, pl.Series], rows: Sequence[Data], *, check: _Check) -> None:
    columns["project"] = _required_id([data.project for data in rows], check=check)
    columns["api_key"] = _required_id([data.api_key for data in rows], check=check)
    for name, texts in (
        ("environment", [data.environment for data in rows]),
        ("user", [data.user for data in rows]),
        ("provider", [data.provider for data in rows]),
        ("model", [data.model for data in rows]),
    ):
        columns[name] = _optional_id(texts, check=check)
    columns["status"] = _counted(pl.Series([data.status for data in rows], dtype=pl.String), check=check, absent="ok")
    columns["tags"] = _tags([data.tags for data in rows], check=check)


def _required_id(texts: list[str], *, check: _Check) -> pl.Series:
    ids = pl.Series(texts, dtype=pl.String)
    _check_ids(ids, "".join(texts), characters_min=1, check=check)
    return ids


def _optional_id(texts: list[str | None], *, check: _Check) -> pl.Series:
    ids = _counted(pl.Series(texts, dtype=pl.String), check=check, absent="")
    _check_ids(ids, "".join(filter(None, texts)), characters_min=0, check=check)
    return ids


def _counted(texts: pl.Series, *, check: _Check, absent: str) -> pl.Series:
    """The texts of an optional field, which bring a name and a string each where they are not null."""
    if not texts.null_count():
        check.texts.append(2)
        return texts
    check.texts.append(texts.is_not_null().to_numpy() * np.int64(2))
    return texts.fill_null(absent)


def _check_ids(ids: pl.Series, joined: str, *, characters_min: int, check: _Check) -> None:
    """Length, characters, and no secret; bytes are characters here, since others than ASCII are unsure anyway."""
    lengths, beginnings = _views(ids)
    if lengths.max() > ID_CHARACTERS_MAX or lengths.min() < characters_min:
        check.only((lengths <= ID_CHARACTERS_MAX) & (lengths >= characters_min))
    if not joined.isascii() or joined.encode().translate(None, _ID_BYTES):
        check.only(ids.str.contains(_ID_REGEX).to_numpy())
    suspicious = _SUSPICIOUS[beginnings & 0xFFFF]
    if suspicious.any():
        check.only(~(suspicious & _are_secrets(ids.to_list())))


def _are_secrets(texts: Sequence[str]) -> Flags:
    return np.fromiter(map(is_secret, texts), np.bool_, len(texts))


def _views(texts: pl.Series) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """The length in bytes and the first four bytes of each text, from Arrow's string views, without a copy.

    A view is four words of 32 bits, the length and the first four bytes foremost (Arrow columnar format,
    "Variable-size Binary View Layout").
    """
    array = texts.rechunk().to_arrow(compat_level=pl.CompatLevel.newest())
    words = np.frombuffer(array.buffers()[1], np.uint32)[4 * array.offset : 4 * (array.offset + len(array))]
    return words[0::4], words[1::4]


def _tags(rows: Sequence[dict[str, str] | None], *, check: _Check) -> pl.Series:
    texts = [""] * len(rows)
    counts = np.zeros(len(rows), np.int64)
    if any(rows):
        for row, tags in enumerate(rows):
            if tags:
                counts[row] = 1 + 2 * len(tags)
                texts[row] = canonical_tags(tags)
                check.sure[row] &= _are_fine_tags(tags)
    check.texts.append(counts)
    return pl.Series(texts, dtype=pl.String)


def _are_fine_tags(tags: dict[str, str]) -> bool:
    both = [*tags, *tags.values()]
    return len(tags) <= TAGS_MAX and max(map(len, both)) <= TAG_CHARACTERS_MAX and not any(map(is_secret, both))


def _usage(rows: Sequence[Data], *, check: _Check) -> pl.DataFrame:
    usages = [data.usage or _NOTHING for data in rows]
    counts = np.fromiter(map(len, usages), np.int64, len(usages))
    check.texts.append(counts + (counts > 0))
    if counts.max() > USAGE_NAMES_MAX:
        check.only(counts <= USAGE_NAMES_MAX)
    row = np.repeat(np.arange(len(usages), dtype=np.uint32), counts)
    names = list(chain.from_iterable(usages))
    if bad := {name for name in set(names) if not _is_fine_name(name)}:
        check.sure[row[[name in bad for name in names]]] = False
    quantities = _quantities(list(chain.from_iterable([usage.values() for usage in usages])), row, check=check)
    return pl.DataFrame([pl.Series("row", row), pl.Series("meter", names, dtype=pl.String), quantities])


def _is_fine_name(name: str) -> bool:
    return _USAGE_NAME.fullmatch(name) is not None and name not in RESERVED_USAGE_NAMES and not is_secret(name)


def _quantities(values: list[Any], row: npt.NDArray[np.uint32], *, check: _Check) -> pl.Series:
    """The quantities of all rows as decimals; 0 stands for those that are not sure."""
    if set(map(type, values)) <= {int}:
        try:
            whole = np.array(values, np.int64)
        except OverflowError:
            pass
        else:
            if len(whole) and (whole.min() < 0 or whole.max() > QUANTITY_MAX):
                check.sure[row[(whole < 0) | (whole > QUANTITY_MAX)]] = False
                whole = whole.clip(0, QUANTITY_MAX)
            return pl.Series("quantity", whole).cast(DECIMAL)
    strings = np.bincount(row[[type(value) is str for value in values]], minlength=len(check.sure))
    check.texts.append(strings.astype(np.int64))
    quantities = [_quantity(value) for value in values]
    check.sure[row[[quantity is None for quantity in quantities]]] = False
    return pl.Series("quantity", [quantity or _ZERO for quantity in quantities], dtype=DECIMAL)


def _quantity(value: object) -> Decimal | None:
    kind = type(value)  # not isinstance: True is an int
    if kind is str:
        return read_decimal_string(value)
    return read_number(str(value)) if kind is int or kind is Decimal else None


def _check_bytes(units: Units, *, check: _Check) -> None:
    """Keeps the rows sure in which no name is repeated; those where counting cannot tell are looked at one by one."""
    structured = isinstance(units.attributes[0], StructuredEvent)
    check.texts.append(_TEXTS_OF_STRUCTURED if structured else _TEXTS_OF_DATA)
    lengths = np.fromiter(map(len, units.values), np.int64, len(units.values))
    if lengths.max() > VALUE_BYTES_MAX:
        check.only(lengths <= VALUE_BYTES_MAX)
    text = b"\n".join(units.values)
    is_quote = np.frombuffer(text, np.uint8) == _QUOTE
    escapes = b"\\" in text
    if not escapes and np.count_nonzero(is_quote) == 2 * check.texts_total():
        return
    if structured:
        check.texts += [_extension_texts(units.attributes, name) for name in EXTENSIONS]
    starts = np.cumsum(lengths + 1) - (lengths + 1)
    doubtful = np.add.reduceat(is_quote, starts, dtype=np.int64) != 2 * check.texts_by_row()
    if escapes:
        doubtful |= np.fromiter((b"\\" in bytes(value) for value in units.values), np.bool_, len(units.values))
    for row in np.flatnonzero(doubtful & check.sure).tolist():
        check.sure[row] = _has_distinct_names(bytes(units.values[row]))


def _extension_texts(events: Sequence[Any], name: str) -> Integers:
    extension = attrgetter(name)
    return np.fromiter((extension(event) is not None for event in events), np.int64, len(events)) * 2


def _has_distinct_names(value: bytes) -> bool:
    """Whether no object in the JSON text repeats a name; False also when it has brackets enough to be too deep."""
    if value.count(b"[") + value.count(b"{") >= DEPTH_MAX:
        return False
    try:
        waiting = [_decode_any(value)]
    except NOT_TAKEN:
        return False
    texts = 0
    for node in waiting:
        if type(node) is str:
            texts += 1
        elif type(node) is dict:
            texts += len(node)
            waiting += node.values()
        elif type(node) is list:
            waiting += node
    plain = _ESCAPE.sub(b"", value) if b"\\" in value else value
    return plain.count(b'"') == 2 * texts

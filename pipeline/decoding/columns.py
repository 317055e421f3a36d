"""The fast path: ordinary records to frames, a column at a time; what is not certain is left to ``decode_one``.

Nothing is refused here: a check that fails makes its rows *unsure*, and a false alarm costs time only. So a check may
be stricter than the contract, never laxer.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from pipeline.decoding.frames import Part, place_of
from pipeline.decoding.gathering import Columns, gather
from pipeline.decoding.instants import read_instants
from pipeline.decoding.one import RECEIVED_MS_MAX, canonical_tags
from pipeline.decoding.reading import Mode
from pipeline.decoding.units import Left, batch_units, binary_units, plain_units, sorted_by_mode
from schemas.event import (
    ID_CHARACTERS_MAX,
    RESERVED_USAGE_NAMES,
    TAG_CHARACTERS_MAX,
    TAGS_MAX,
    USAGE_NAME_PATTERN,
    USAGE_NAMES_MAX,
)
from schemas.event_values import QUANTITY_MAX, read_decimal_string, read_number
from schemas.frames import DECIMAL, EVENTS, INSTANT
from schemas.secrets import is_secret

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from pipeline.decoding.one import Limits
    from schemas.records import RawRecord

    Flags = npt.NDArray[np.bool_]
    Words = npt.NDArray[np.uint32]

_USAGE_NAME: Final = re.compile(USAGE_NAME_PATTERN)
_ZERO: Final = Decimal(0)


def _suspicious_beginnings() -> Flags:
    """For each pair of first bytes, little-endian, whether a secret may begin with it."""
    table = np.zeros(1 << 16, np.bool_)
    for pair in (b"sk", b"rk", b"AK", b"AS", b"gh", b"gi", b"xo", b"AI", b"ey"):
        table[int.from_bytes(pair, "little")] = True
    return table


_SUSPICIOUS: Final = _suspicious_beginnings()


def read_columns(records: Sequence[RawRecord], *, limits: Limits) -> tuple[Part, Left]:
    """The certainly valid events of the records as frames, in no particular order, and what is left of the records."""
    by_mode = sorted_by_mode(records)
    columns, left = Columns(), Left()
    left.records(by_mode[Mode.UNKNOWN_FORMAT])
    left.records(_gather_plain(records, by_mode[Mode.STRUCTURED], into=columns))
    no_events = _gather_plain(records, by_mode[Mode.BY_VALUE], into=columns)
    batches = batch_units(records, [*no_events, *by_mode[Mode.BATCH]], left=left)
    for place in gather(batches, columns):
        left.event(batches.position[place], batches.index[place])
    binary = binary_units(records, by_mode[Mode.BINARY], left=left)
    left.records(binary.position[place] for place in gather(binary, columns))
    return _part(records, columns, limits=limits, left=left), left


def _gather_plain(records: Sequence[RawRecord], positions: Sequence[int], *, into: Columns) -> list[int]:
    return [positions[place] for place in gather(plain_units(records, positions), into)]


def _part(records: Sequence[RawRecord], columns: Columns, *, limits: Limits, left: Left) -> Part:
    """The rows as frames without those that are unsure; these are left."""
    sure = np.ones(len(columns.id), np.bool_)
    sure[columns.unsure] = False
    events = _coordinates(records, columns)
    events["time"] = _times(columns.time, events["received_at"], limits=limits, sure=sure)
    for name in ("id", "source", "org", "operation", "project", "api_key"):
        events[name] = _ids(getattr(columns, name), characters_min=1, sure=sure)
    for name in ("environment", "user", "provider", "model"):
        events[name] = _ids(getattr(columns, name), characters_min=0, sure=sure)
    events["status"] = pl.Series(columns.status, dtype=pl.String).fill_null("ok")
    events["tags"] = _tags(columns.tags, sure=sure)
    usage = _usage(columns, sure=sure)
    for row in np.flatnonzero(~sure).tolist():
        left.event(columns.position[row], columns.index[row])
    place = place_of(np.array(columns.position, np.int64), np.array(columns.index, np.int64))
    return Part(pl.DataFrame([events[name].alias(name) for name in EVENTS]), usage, place).only(sure)


def _coordinates(records: Sequence[RawRecord], columns: Columns) -> dict[str, pl.Series]:
    of_rows = [records[position] for position in columns.position]
    received_ms = pl.Series([record.timestamp_ms for record in of_rows], dtype=pl.Int64)
    return {
        "partition": pl.Series([record.partition for record in of_rows], dtype=EVENTS["partition"]),
        "offset": pl.Series([record.offset for record in of_rows], dtype=EVENTS["offset"]),
        "index": pl.Series(columns.index, dtype=EVENTS["index"]),
        "of": pl.Series(columns.of, dtype=EVENTS["of"]),
        "received_at": (received_ms.clip(0, RECEIVED_MS_MAX) * 1000).cast(INSTANT),
    }


def _times(texts: Sequence[str], received_at: pl.Series, *, limits: Limits, sure: Flags) -> pl.Series:
    instants, certain = read_instants(texts)
    ahead_us = instants - received_at.to_physical().to_numpy()
    sure &= certain & (ahead_us <= limits.max_ahead_us) & (ahead_us >= -limits.max_age_us)
    return pl.Series(instants).cast(INSTANT)


def _ids(texts: Sequence[str | None], *, characters_min: int, sure: Flags) -> pl.Series:
    """Length and secrets; the characters are checked already, so that bytes are characters here."""
    ids = pl.Series(texts, dtype=pl.String).fill_null("")
    lengths, beginnings = _views(ids)
    sure &= (lengths <= ID_CHARACTERS_MAX) & (lengths >= characters_min)
    suspicious = _SUSPICIOUS[beginnings & 0xFFFF]
    if suspicious.any():
        rows = np.flatnonzero(suspicious)
        sure[rows] &= [not is_secret(text) for text in ids[rows]]
    return ids


def _views(texts: pl.Series) -> tuple[Words, Words]:
    """The length in bytes and the first four bytes of each text, from Arrow's string views, without a copy.

    A view is four words of 32 bits, the length and the first four bytes foremost (Arrow columnar format,
    "Variable-size Binary View Layout").
    """
    array = texts.rechunk().to_arrow(compat_level=pl.CompatLevel.newest())
    words = np.frombuffer(array.buffers()[1], np.uint32)[4 * array.offset : 4 * (array.offset + len(array))]
    return words[0::4], words[1::4]


def _tags(rows: Sequence[dict[str, str] | None], *, sure: Flags) -> pl.Series:
    if not any(rows):
        return pl.repeat("", len(rows), eager=True)
    for row, tags in enumerate(rows):
        if tags and not _are_fine_tags(tags):
            sure[row] = False
    return pl.Series([canonical_tags(tags) for tags in rows], dtype=pl.String)


def _are_fine_tags(tags: dict[str, str]) -> bool:
    both = [*tags, *tags.values()]
    return len(tags) <= TAGS_MAX and max(map(len, both)) <= TAG_CHARACTERS_MAX and not any(map(is_secret, both))


def _usage(columns: Columns, *, sure: Flags) -> pl.DataFrame:
    counts = np.array(columns.usage_count, np.int64)
    sure &= counts <= USAGE_NAMES_MAX
    row = np.repeat(np.arange(len(counts), dtype=np.uint32), counts)
    if bad := {name for name in set(columns.meter) if not _is_fine_name(name)}:
        sure[row[[name in bad for name in columns.meter]]] = False
    quantities, fine = _quantities(columns)
    sure[row[~fine]] = False
    meters = pl.Series("meter", columns.meter, dtype=pl.String)
    return pl.DataFrame([pl.Series("row", row), meters, quantities.alias("quantity")])


def _is_fine_name(name: str) -> bool:
    return _USAGE_NAME.fullmatch(name) is not None and name not in RESERVED_USAGE_NAMES and not is_secret(name)


def _quantities(columns: Columns) -> tuple[pl.Series, Flags]:
    """All quantities as decimals, and which of them are fine; a 0 stands in the place of one that is not."""
    if columns.quantity_kinds <= {int}:
        try:
            whole = np.array(columns.quantity, np.int64)
        except OverflowError:
            pass  # one of them is beyond 64 bits
        else:
            fine = (whole >= 0) & (whole <= QUANTITY_MAX)
            return pl.Series(whole if fine.all() else whole * fine).cast(DECIMAL), fine
    quantities = [_quantity(value) for value in columns.quantity]
    fine = np.array([quantity is not None for quantity in quantities], np.bool_)
    return pl.Series([quantity or _ZERO for quantity in quantities], dtype=DECIMAL), fine


def _quantity(value: object) -> Decimal | None:
    kind = type(value)  # not isinstance: True is an int
    if kind is str:
        return read_decimal_string(value)  # type: ignore[arg-type]
    return read_number(str(value)) if kind is int or kind is Decimal else None

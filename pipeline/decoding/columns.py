"""The fast path: ordinary records to frames, a column at a time; what is not certain is left to ``decode_one``.

Nothing is refused here: a check that fails makes its rows *unsure*, and a false alarm costs time only. So a check may
be stricter than the contract, never laxer.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, cast

import msgspec
import numpy as np
import polars as pl

from pipeline.decoding.frames import Part, place_of
from pipeline.decoding.gathering import Columns, gather
from pipeline.decoding.instants import read_instants
from pipeline.decoding.one import RECEIVED_MS_MAX, canonical_tags
from pipeline.decoding.reading import Mode
from pipeline.decoding.units import Left, RecordColumns, batch_units, binary_units, plain_units, sorted_by_mode
from schemas.event import (
    ID_CHARACTERS_MAX,
    ID_PATTERN,
    TAG_CHARACTERS_MAX,
    TAGS_MAX,
    USAGE_NAMES_MAX,
)
from schemas.event_values import RESERVED_USAGE_NAMES, USAGE_NAME_PATTERN
from schemas.frames import EVENTS, INSTANT
from schemas.secrets import is_secret
from schemas.variants import VARIANT_ID_KEYS, variant_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from msgspec import UnsetType

    from pipeline.decoding.gathering import Variant
    from pipeline.decoding.one import Limits
    from pipeline.decoding.texts import Texts
    from schemas.records import RawRecord

    Flags = npt.NDArray[np.bool_]
    Integers = npt.NDArray[np.int64]

_USAGE_NAME: Final = re.compile(USAGE_NAME_PATTERN)
_ID: Final = re.compile(ID_PATTERN)
_ID_BYTES: Final = bytes(byte for byte in range(128) if _ID.fullmatch(chr(byte)))
_IS_ID_BYTE: Final = np.isin(np.arange(256), np.frombuffer(_ID_BYTES, np.uint8))


def _suspicious_beginnings() -> Flags:
    """For each pair of first bytes, little-endian, whether a secret may begin with it."""
    table = np.zeros(1 << 16, np.bool_)
    for pair in (b"sk", b"rk", b"AK", b"AS", b"gh", b"gi", b"xo", b"AI", b"ey"):
        table[int.from_bytes(pair, "little")] = True
    return table


_SUSPICIOUS: Final = _suspicious_beginnings()


def read_columns(records: Sequence[RawRecord], *, limits: Limits) -> tuple[Part, Left]:
    """The certainly valid events of the records as frames, in no particular order, and what is left of the records."""
    turned = RecordColumns.of(records)
    by_mode = sorted_by_mode(turned)
    columns, left = Columns(), Left()
    left.records(by_mode[Mode.UNKNOWN_FORMAT])
    left.records(_gather_plain(turned, by_mode[Mode.STRUCTURED], into=columns))
    no_events = _gather_plain(turned, by_mode[Mode.BY_VALUE], into=columns)
    batches = batch_units(turned, [*no_events, *by_mode[Mode.BATCH]], left=left)
    for place in gather(batches, columns):
        left.event(int(batches.position[place]), int(batches.index[place]))
    binary = binary_units(turned, by_mode[Mode.BINARY], left=left)
    left.records(binary.position[gather(binary, columns)].tolist())
    return _part(turned, columns, limits=limits, left=left), left


def _gather_plain(records: RecordColumns, positions: Sequence[int], *, into: Columns) -> list[int]:
    return [positions[place] for place in gather(plain_units(records, positions), into)]


def _part(records: RecordColumns, columns: Columns, *, limits: Limits, left: Left) -> Part:
    """The rows as frames without those that are unsure; these are left."""
    sure = np.ones(columns.rows, np.bool_)
    sure[columns.unsure] = False
    position, index, of = _places(columns)
    received_us = (
        np.fromiter(records.timestamp_ms, np.int64, len(records.offset))[position].clip(0, RECEIVED_MS_MAX) * 1000
    )
    events = {
        "partition": pl.Series(np.fromiter(records.partition, np.int32, len(records.partition))[position]),
        "offset": pl.Series(np.fromiter(records.offset, np.int64, len(records.offset))[position]),
        "index": pl.Series(index.astype(np.int32)),
        "of": pl.Series(of.astype(np.int32)),
        "received_at": pl.Series(received_us).cast(INSTANT),
        "time": _times(columns.time.finished(), received_us, limits=limits, sure=sure),
    }
    for name in ("id", "source", "org", "operation", "project", "api_key"):
        events[name] = _ids(getattr(columns, name).finished(), bytes_min=1, sure=sure)
    for name in ("environment", "user", "provider", "model"):
        events[name] = _ids(getattr(columns, name).finished(), bytes_min=0, sure=sure)
    events["variant"] = _variants(columns.variants, sure=sure)
    events["status"] = _status(columns)
    events["tags"] = _tags(columns.tags, sure=sure)
    usage = _usage(columns, sure=sure)
    for row in np.flatnonzero(~sure).tolist():
        left.event(int(position[row]), int(index[row]))
    frame = pl.DataFrame([events[name].alias(name) for name in EVENTS])
    return Part(frame, usage, place_of(position, index)).only(sure)


def _places(columns: Columns) -> tuple[Integers, Integers, Integers]:
    """Position of the record, index and of, for each row."""
    none = [np.empty(0, np.int64)]
    return (
        np.concatenate([units.position[places] for units, places in columns.taken] or none),
        np.concatenate([units.index[places] for units, places in columns.taken] or none),
        np.concatenate([units.of[places] for units, places in columns.taken] or none),
    )


def _status(columns: Columns) -> pl.Series:
    succeeded = _constant("ok", columns.rows)
    if not columns.failed:
        return succeeded
    failed = np.zeros(columns.rows, np.bool_)
    failed[columns.failed] = True
    return succeeded.zip_with(pl.Series(~failed), _constant("error", columns.rows))


def _constant(text: str, rows: int) -> pl.Series:
    return pl.Series([text], dtype=pl.String).new_from_index(0, rows)


def _times(texts: Texts, received_us: Integers, *, limits: Limits, sure: Flags) -> pl.Series:
    instants, certain = read_instants(texts)
    ahead_us = instants - received_us
    sure &= certain & (ahead_us <= limits.max_ahead_us) & (ahead_us >= -limits.max_age_us)
    return pl.Series(instants).cast(INSTANT)


def _ids(texts: Texts, *, bytes_min: int, sure: Flags) -> pl.Series:
    """Characters, length and secrets; bytes are characters here, because others than ASCII are not sure anyway."""
    if texts.data.translate(None, _ID_BYTES):
        foreign = np.flatnonzero(~_IS_ID_BYTE[np.frombuffer(texts.data, np.uint8)])
        sure[texts.rows_of(foreign)] = False
    lengths = texts.lengths
    sure &= (lengths >= bytes_min) & (lengths <= ID_CHARACTERS_MAX)
    for row in np.flatnonzero(_SUSPICIOUS[texts.beginnings()]).tolist():
        sure[row] &= not is_secret(texts[row])
    return texts.series()


def _variants(rows: Sequence[Variant | UnsetType | None], *, sure: Flags) -> pl.Series:
    if not any(rows):
        return _constant("", len(rows))
    known: dict[Variant, str | None] = {}  # of this batch only: variants repeat from event to event
    texts = [""] * len(rows)
    for row, variant in enumerate(rows):
        if variant:
            if variant not in known:
                known[variant] = _text_of_fine_variant(variant)
            text = known[variant]
            if text is None:
                sure[row] = False
            else:
                texts[row] = text
    return pl.Series(texts, dtype=pl.String)


def _text_of_fine_variant(variant: Variant) -> str | None:
    """The text of a variant, None when it is not certainly valid."""
    pairs = {key: value for key, value in msgspec.structs.asdict(variant).items() if value}
    ids = [pairs[key] for key in VARIANT_ID_KEYS if key in pairs]
    return variant_text(pairs) if all(_ID.fullmatch(value) and not is_secret(value) for value in ids) else None


def _tags(rows: Sequence[dict[str, str] | UnsetType | None], *, sure: Flags) -> pl.Series:
    if not any(rows):
        return _constant("", len(rows))
    texts = [canonical_tags(tags) if tags else "" for tags in rows]
    known = {"": True}  # of this batch only: tags repeat from event to event
    for row, text in enumerate(texts):
        fine = known.get(text)
        if fine is None:
            fine = known[text] = _are_fine_tags(cast("dict[str, str]", rows[row]))
        if not fine:
            sure[row] = False
    return pl.Series(texts, dtype=pl.String)


def _are_fine_tags(tags: dict[str, str]) -> bool:
    both = [*tags, *tags.values()]
    return len(tags) <= TAGS_MAX and max(map(len, both)) <= TAG_CHARACTERS_MAX and not any(map(is_secret, both))


def _usage(columns: Columns, *, sure: Flags) -> pl.DataFrame:
    counts = np.array(columns.usage_count, np.int64)
    sure &= counts <= USAGE_NAMES_MAX
    row = np.repeat(np.arange(len(counts), dtype=np.uint32), counts)
    if bad := {name for name in set(columns.meter) if not _is_fine_name(name)}:
        sure[row[[name in bad for name in columns.meter]]] = False
    quantities, fine = columns.quantity.finished()
    sure[row[~fine]] = False
    meters = pl.Series("meter", columns.meter, dtype=pl.String)
    return pl.DataFrame([pl.Series("row", row), meters, quantities.alias("quantity")])


def _is_fine_name(name: str) -> bool:
    return _USAGE_NAME.fullmatch(name) is not None and name not in RESERVED_USAGE_NAMES and not is_secret(name)

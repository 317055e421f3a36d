"""Decode: raw records of ``usage.events`` become columns of valid events, and refusals with a reason.

The ordinary case goes through columns (``decoding/columns.py``); whatever is not certain there is decided by the scalar
specification ``decode_one``. Both give the same answer, so which one a record takes is a matter of speed alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.decoding.columns import read_columns
from pipeline.decoding.frames import joined, part_of, place_of
from pipeline.decoding.one import Decoded, Limits, decode_one
from schemas.rejects import Reject

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    import polars as pl

    from pipeline.decoding.frames import Part
    from schemas.records import RawRecord

__all__ = ["Decoded", "DecodedBatch", "Limits", "decode", "decode_one"]


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """What a batch of raw records holds: each of their events stands in exactly one of ``events`` and ``rejects``."""

    events: pl.DataFrame  # EVENTS, in the order of the records, then by index
    usage: pl.DataFrame  # USAGE, ascending by row
    rejects: list[Reject]  # in the order of the records, then by index


def decode(records: Sequence[RawRecord], *, limits: Limits) -> DecodedBatch:
    """The valid events of the records as frames, and why the others were refused.

    Args:
        records: in any order; what comes out keeps it.
        limits: how far an event's time may lie from its record's.

    Never raises on bad data.
    """
    certain, left = read_columns(records, limits=limits)
    outcomes = {
        position: decode_one(records[position], limits=limits, only=only)
        for position, only in sorted(left.indexes.items())
    }
    if outcomes:
        certain = joined(certain.only(_still_readable(certain, outcomes)), _scalar_part(outcomes))
    whole = certain.in_order()
    rejects = [outcome for judged in outcomes.values() for outcome in judged if isinstance(outcome, Reject)]
    return DecodedBatch(whole.events, whole.usage, rejects)


def _still_readable(part: Part, outcomes: Mapping[int, list[Decoded | Reject]]) -> npt.NDArray[np.bool_]:
    """False for events of records that the scalar path judged as a whole: one batch element nests too deep."""
    as_a_whole = [position for position, judged in outcomes.items() if any(outcome.of == 1 for outcome in judged)]
    return ~np.isin(part.position, as_a_whole)


def _scalar_part(outcomes: Mapping[int, list[Decoded | Reject]]) -> Part:
    accepted = [
        (position, event) for position, judged in outcomes.items() for event in judged if isinstance(event, Decoded)
    ]
    position = np.array([position for position, _ in accepted], np.int64)
    index = np.array([event.index for _, event in accepted], np.int64)
    return part_of([event for _, event in accepted], place_of(position, index))

"""Decode: raw records of ``usage.events`` become columns of valid events, and refusals with a reason.

The ordinary case goes through columns (``decoding/columns.py``); whatever is not certain there is decided by the scalar
specification ``decode_one``. Both give the same answer, so which one a record takes is a matter of speed alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.decoding.frames import frames_of
from pipeline.decoding.one import Decoded, Limits, decode_one
from schemas.rejects import Reject

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

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
    outcomes = [outcome for record in records for outcome in decode_one(record, limits=limits)]
    events, usage = frames_of([outcome for outcome in outcomes if isinstance(outcome, Decoded)])
    return DecodedBatch(events, usage, [outcome for outcome in outcomes if isinstance(outcome, Reject)])

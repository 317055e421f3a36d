"""In which order raw records are priced: the order that the store can tell from the facts alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from faust.types import TP

from agents.chunks import Chunk
from agents.price import raw_records


def chunk(partition: int, *offsets: int) -> Chunk:
    """Records at these offsets of a raw partition."""
    records: list[Any] = [SimpleNamespace(offset=offset, timestamp=0, value=b"", headers=()) for offset in offsets]
    return Chunk(TP("usage.events", partition), offsets[0], offsets[-1] + 1, 1, records)


def test_records_are_priced_by_raw_partition_however_their_chunks_came() -> None:
    """Else the last event of a block is another one for the store than for the judge."""
    records = raw_records("usage.events", [chunk(1, 5, 6), chunk(0, 8), chunk(1, 7), chunk(0, 9)])

    assert list(zip(records.partition, records.offset, strict=True)) == [(0, 8), (0, 9), (1, 5), (1, 6), (1, 7)]

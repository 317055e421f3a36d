"""Route: all copies of an identity, from whatever raw partition, go to one partition of ``usage.priced``, by org."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pipeline.block import encode_block
from schemas.frames import PricedBatch

if TYPE_CHECKING:
    from collections.abc import Iterator


def route(batch: PricedBatch, *, partitions: int, topic: str, block_bytes_max: int) -> list[tuple[int, bytes]]:
    """The blocks of a batch as (partition of ``usage.priced``, message), each at most ``block_bytes_max`` long.

    Within a partition the blocks and their rows keep the order of the batch, so that of two copies of an identity in
    one raw partition the earlier one comes first. A batch without events gives no blocks.
    """
    return [
        (partition, message)
        for partition, part in split_by_partition(batch, partitions=partitions)
        for message in _cut(part, topic=topic, block_bytes_max=block_bytes_max)
    ]


def partition_of(org: str, *, partitions: int) -> int:
    """The partition of ``usage.priced`` that an org lives in, for ever: a hash that no library upgrade changes."""
    return int.from_bytes(blake2b(org.encode(), digest_size=8).digest(), "big") % partitions


def split_by_partition(batch: PricedBatch, *, partitions: int) -> Iterator[tuple[int, PricedBatch]]:
    """The batch's parts by partition of ``usage.priced``, ascending, each in the order of the batch."""
    orgs = batch.events.get_column("org")
    of_org = {org: partition_of(org, partitions=partitions) for org in orgs.unique().to_list()}
    targets = orgs.replace_strict(of_org, return_dtype=pl.Int32).to_numpy() if of_org else np.empty(0, np.int32)
    for partition in sorted(set(of_org.values())):
        yield partition, take(batch, np.flatnonzero(targets == partition))


def take(batch: PricedBatch, rows: np.ndarray) -> PricedBatch:
    """The events at these rows (ascending) with their lines, renumbered from 0."""
    if len(rows) == batch.events.height:
        return batch
    new_row = np.full(batch.events.height, -1, dtype=np.int64)
    new_row[rows] = np.arange(len(rows))
    of_line = new_row[batch.lines.get_column("row").to_numpy()]
    keep = np.flatnonzero(of_line >= 0)
    lines = batch.lines[keep].with_columns(pl.Series("row", of_line[keep], dtype=pl.UInt32))
    return PricedBatch(batch.events[rows], lines, batch.kinds)


def _cut(part: PricedBatch, *, topic: str, block_bytes_max: int) -> list[bytes]:
    message = encode_block(part, topic=topic)
    if len(message) <= block_bytes_max or part.events.height == 1:
        return [message]
    half = part.events.height // 2
    rows = np.arange(part.events.height)
    first, second = take(part, rows[:half]), take(part, rows[half:])
    return [
        *_cut(first, topic=topic, block_bytes_max=block_bytes_max),
        *_cut(second, topic=topic, block_bytes_max=block_bytes_max),
    ]

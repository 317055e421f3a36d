"""Which identities were counted already, as 64-bit hashes: a filter in front of the store, never the judge.

A hit is confirmed against the store by the full identity before anything is called a repeat, so a collision of
hashes costs a question and never an event.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl
import xxhash

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

#: A segment never grows beyond this share of the limit, so that dropping the oldest one forgets little.
SEGMENTS_AT_LEAST: Final = 8


def identity_hashes(events: pl.DataFrame) -> NDArray[np.uint64]:
    """One xxh3 hash per event over (org, source, id).

    The three are separated by a line feed, which no id may contain, so different identities never join to one text.
    The hash is stored with each fact and must stay the same for ever; that is why it is not polars' own.
    """
    joined = events.select(pl.concat_str("org", "source", "id", separator="\n").cast(pl.Binary)).to_series()
    return np.fromiter(map(xxhash.xxh3_64_intdigest, joined.to_list()), dtype=np.uint64, count=len(joined))


@dataclass(frozen=True, slots=True)
class Segment:
    """Sorted hashes of one contiguous range of blocks that ends with ``last_block``."""

    hashes: NDArray[np.uint64]
    last_block: int


@dataclass(frozen=True, slots=True)
class Identities:
    """The newest identities of one partition of ``usage.priced``; handed back changed, never changed in place.

    Every identity counted in a block at or above ``covered_from`` and received at or after ``received_since`` (None:
    whenever it was received) is in here; older ones may be in the store only.
    """

    limit: int
    segments: tuple[Segment, ...] = ()
    covered_from: int = 0
    received_since: datetime | None = None

    def __len__(self) -> int:
        return sum(len(segment.hashes) for segment in self.segments)

    def contain(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which of these hashes are remembered."""
        found = np.zeros(len(hashes), dtype=np.bool_)
        if not len(hashes):
            return found
        order = np.argsort(hashes)  # neighbouring look-ups touch neighbouring memory
        asked = hashes[order]
        for segment in self.segments:
            at = np.searchsorted(segment.hashes, asked)
            at[at == len(segment.hashes)] = 0
            found[order] |= segment.hashes[at] == asked
        return found

    def with_counted(self, hashes: NDArray[np.uint64], *, last_block: int) -> Identities:
        """These and the hashes of the events newly counted up to ``last_block``.

        Forgets what exceeds the limit, oldest first, and raises ``covered_from`` accordingly.
        """
        if not len(hashes):
            return self
        segments = [*self.segments, Segment(np.sort(hashes), last_block)]
        largest = max(1, self.limit // SEGMENTS_AT_LEAST)
        # Neighbours of similar size are merged, newest first, so that few segments are searched and none is re-sorted
        # often; only neighbours, so that segments stay in the order of the log.
        while (
            len(segments) > 1
            and len(segments[-2].hashes) <= 2 * len(segments[-1].hashes)
            and len(segments[-2].hashes) + len(segments[-1].hashes) <= largest
        ):
            newer, older = segments.pop(), segments.pop()
            merged = np.concatenate([older.hashes, newer.hashes])
            merged.sort(kind="stable")  # two sorted runs: the stable sort merges them in linear time
            segments.append(Segment(merged, newer.last_block))
        covered_from, total = self.covered_from, sum(len(segment.hashes) for segment in segments)
        while total > self.limit and len(segments) > 1:
            forgotten = segments.pop(0)
            total -= len(forgotten.hashes)
            covered_from = forgotten.last_block + 1
        return replace(self, segments=tuple(segments), covered_from=covered_from)

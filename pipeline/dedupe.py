"""Dedupe: which events of a batch are new, and which repeat one that is counted already.

Identity, not delivery, counts: (org, source, id). The first of an identity in ``usage.priced`` is the fact. A later
one with the same raw coordinates is a replay and leaves no trace; with other coordinates it is a duplicate (same
content) or a conflict (other content). An id used again after the dedupe horizon is a new fact; the horizon is the
difference of two ``received_at``, never "now minus so many days", so that a replay decides the same.

So the facts of one identity follow each other by more than the horizon, and the order of their ``received_at`` is the
order of the log. An event belongs to the first of them that is not older than the horizon: a later fact never changes
whom an earlier repeat is told to repeat, whenever and with whatever else it is decided again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from schemas.counted import CONTENT, REPEATS
from schemas.frames import REQUESTS, PricedBatch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Decision:
    """``new``: the rows of the batch that are facts, ascending. ``repeats``: REPEATS, in log order."""

    new: NDArray[np.int64]
    repeats: pl.DataFrame
    replays: int


class _First(NamedTuple):
    """The fact that holds an identity: where it stood, and what it said."""

    coordinates: tuple[str, int, int, int]
    received_at: Any
    content: tuple[Any, ...]


def dedupe(
    batch: PricedBatch,
    *,
    hashes: NDArray[np.uint64],
    suspects: NDArray[np.bool_],
    known: pl.DataFrame,
    horizon: timedelta,
) -> Decision:
    """Decides every event of ``batch`` (events COUNTED_EVENTS, in log order).

    ``suspects`` marks the events whose hash was found in memory or could not be ruled out; ``known`` are the store's
    facts (KNOWN) that have one of their hashes, from blocks before this batch. An event that is no suspect and has no
    twin in the batch is new without being looked at.
    """
    rows = np.flatnonzero(suspects | _twins(hashes))
    if not len(rows):
        return Decision(np.arange(batch.events.height), pl.DataFrame(schema=REPEATS), 0)
    candidates = batch.events[rows]
    facts: dict[tuple[str, str, str], list[_First]] = {}
    for identity, first in _firsts_of(known):
        facts.setdefault(identity, []).append(first)
    contents = _contents(batch, rows, candidates)

    is_new = np.ones(batch.events.height, dtype=np.bool_)
    repeats: list[dict[str, Any]] = []
    replays = 0
    for row, event, content in zip(rows.tolist(), candidates.iter_rows(named=True), contents, strict=True):
        identity = (event["org"], event["source"], event["id"])
        coordinates = (event["topic"], event["partition"], event["offset"], event["index"])
        earlier = facts.setdefault(identity, [])
        if any(first.coordinates == coordinates for first in earlier):
            is_new[row] = False
            replays += 1
            continue
        holder = next((first for first in earlier if event["received_at"] - first.received_at <= horizon), None)
        if holder is None:
            earlier.append(_First(coordinates, event["received_at"], content))
        else:
            is_new[row] = False
            kind = "duplicate" if holder.content == content else "conflict"
            repeats.append(_repeat(event, kind=kind, first=holder))
    return Decision(np.flatnonzero(is_new), _each_once(repeats), replays)


def _each_once(repeats: list[dict[str, Any]]) -> pl.DataFrame:
    """The repeats (REPEATS), the first of each place: a killed price agent may have produced one twice."""
    frame = pl.DataFrame(repeats, schema=REPEATS)
    if not repeats:
        return frame
    return frame.unique(subset=["topic", "partition", "offset", "index"], keep="first", maintain_order=True)


def _twins(hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which events share their hash with another event of the batch."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    same = ordered[1:] == ordered[:-1]
    twins = np.zeros(len(hashes), dtype=np.bool_)
    twins[order[1:][same]] = True
    twins[order[:-1][same]] = True
    return twins


def _firsts_of(known: pl.DataFrame) -> Sequence[tuple[tuple[str, str, str], _First]]:
    """The store's facts by identity, in log order."""
    firsts = []
    for fact in known.sort("received_at").iter_rows(named=True):
        usage = {m: q for m, q in zip(fact["meters"], fact["quantities"], strict=True) if m != REQUESTS}
        content = (*(fact[name] for name in CONTENT), usage)
        coordinates = (fact["topic"], fact["partition"], fact["offset"], fact["index"])
        firsts.append(((fact["org"], fact["source"], fact["id"]), _First(coordinates, fact["received_at"], content)))
    return firsts


def _contents(batch: PricedBatch, rows: NDArray[np.int64], candidates: pl.DataFrame) -> list[tuple[Any, ...]]:
    """What each candidate says: its fields and its quantities by value."""
    meter_of = dict(batch.kinds.select("kind", "meter").iter_rows())
    place = {row: at for at, row in enumerate(rows.tolist())}
    usages: list[dict[str, Any]] = [{} for _ in range(len(rows))]
    is_candidate = np.zeros(batch.events.height, dtype=np.bool_)
    is_candidate[rows] = True
    own = batch.lines.filter(pl.Series(is_candidate[batch.lines.get_column("row").to_numpy()]))
    for row, kind, quantity in own.select("row", "kind", "quantity").iter_rows():
        if meter_of[kind] != REQUESTS:
            usages[place[row]][meter_of[kind]] = quantity
    fields = candidates.select(CONTENT).rows()
    return [(*values, usage) for values, usage in zip(fields, usages, strict=True)]


def _repeat(event: dict[str, Any], *, kind: str, first: _First) -> dict[str, Any]:
    topic, partition, offset, index = first.coordinates
    return {
        **{name: event[name] for name in REPEATS if name in event},
        "kind": kind,
        "first_topic": topic,
        "first_partition": partition,
        "first_offset": offset,
        "first_index": index,
    }

"""Correct: what correction blocks make of facts that were counted before, and what that adds to the totals.

A correction block holds events at the raw coordinates at which they were counted, with other lines and costs. It is
handled at its place of the log like any other block, so a replay decides the same:

* It corrects the fact of its identity, coordinates and content that stands before it in the log; without such a fact
  it is ignored. The fact's own row is never touched: a correction is a row beside it.
* Of several corrections of one fact the last one in the log is in force. A run corrects a fact once, however often its
  block was produced, even when the copy stands behind another run's block.
* A correction that leaves the figures as they are is none. Price ids are no figures: a fact whose price is the same
  under a later revision keeps the ids of the prices that it was priced by.
* Totals move by the difference, absolutely and at the version of the run of blocks, as with facts (``fold.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import polars as pl

from pipeline.block import decode_blocks
from pipeline.identities import identity_hashes
from schemas.correction import read_correction
from schemas.counted import CONTENT, CORRECTIONS, FIGURES, LANE, QUANTITY_LISTS, STATES, SUMS, TOTALS
from schemas.errors import StoreUnavailable
from schemas.frames import DECIMAL, IDENTITY, REQUESTS

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from numpy.typing import NDArray

    from pipeline.block import Block
    from pipeline.identities import Identities
    from pipeline.lanes import Lanes
    from schemas.correction import Correction
    from schemas.frames import PricedBatch

#: How often the store is asked again for a fact that it acknowledged and does not show, before the worker gives up.
ASK_AGAIN_MAX: Final = 5

#: Distinct texts of lines whose parts are remembered; a batch has a handful.
_TEXTS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class AskStates:
    """The facts with one of these hashes and their corrections, of blocks < ``before``. Answer: a frame of STATES.

    ``orgs`` and ``times`` are those of the correction's events, which are the facts'. A fact whose hash is answered
    nowhere else may stand at another time; the answer has it all the same.
    """

    partition: int
    before: int
    hashes: NDArray[np.uint64]
    orgs: pl.Series
    times: pl.Series


@dataclass(frozen=True, slots=True)
class InsertCorrections:
    """Corrections that count (CORRECTIONS), to be acknowledged by the store."""

    corrections: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Corrected:
    """What came of the correction blocks of a run: ``corrections`` (CORRECTIONS) count, the others change nothing.

    ``unchanged`` have the figures that stand there; ``unknown`` correct no fact, or one with other content.
    """

    corrections: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=CORRECTIONS))
    unchanged: int = 0
    unknown: int = 0


def together(parts: Sequence[Corrected]) -> Corrected:
    """What came of several runs of blocks."""
    return Corrected(
        pl.concat([part.corrections for part in parts]),
        sum(part.unchanged for part in parts),
        sum(part.unknown for part in parts),
    )


def correct(
    blocks: Sequence[Block], *, partition: int, before: int, identities: Identities
) -> Generator[AskStates, Any, Corrected]:
    """Decides every event of these correction blocks, in log order, against what was counted before block ``before``.

    ``identities`` are those counted before: a remembered one without an answer is asked for again.
    """
    batch = decode_blocks(blocks)
    runs = {block.offset: read_correction(block.correction or b"") for block in blocks}
    hashes = identity_hashes(batch.events)
    question = AskStates(partition, before, hashes, batch.events.get_column("org"), batch.events.get_column("time"))
    stored = yield from _answered(question, remembered=hashes[identities.contain(hashes)])
    return _decided(stored, states_of(batch, hashes), runs=runs)


def _answered(question: AskStates, *, remembered: NDArray[np.uint64]) -> Generator[AskStates, Any, pl.DataFrame]:
    """The store's facts and corrections; one that it acknowledged and does not show means: ask again."""
    for _ in range(ASK_AGAIN_MAX):
        stored: pl.DataFrame = yield question
        if np.isin(remembered, stored.get_column("identity_hash").to_numpy()).all():
            return stored
    raise StoreUnavailable(
        "The store does not show facts that it acknowledged: check that reads go to the replica that is written to."
    )


def states_of(batch: PricedBatch, hashes: NDArray[np.uint64]) -> pl.DataFrame:
    """The events of a batch (COUNTED_EVENTS) as they stand there, uncorrected (STATES), in their order."""
    kinds = batch.kinds.select(
        "kind", pl.concat_str("meter", "name", "price_id", "state", separator="\t").alias("lines")
    )
    lists = (
        batch.lines.join(kinds, on="kind", maintain_order="left")
        .group_by("row", maintain_order=True)
        .agg(pl.col("lines").str.join("\n"), pl.col("quantity").alias("quantities"), pl.col("cost").alias("costs"))
    )
    return (
        batch.events.with_row_index("row")
        .join(lists, on="row", how="left", maintain_order="left")
        .with_columns(
            pl.col("lines").fill_null(""),
            pl.col("quantities", "costs").fill_null([]),
            pl.Series("identity_hash", hashes),
            pl.lit(0, dtype=pl.UInt32).alias("revision"),
            pl.lit("").alias("run"),
        )
        .select(pl.col(name).cast(dtype) for name, dtype in STATES.items())
    )


#: Which fact an event is: its identity and its raw coordinates, which one fact has for ever.
_PLACE: Final = (*IDENTITY, "topic", "partition", "offset", "index")

_Place = tuple[Any, ...]


class _Standing(NamedTuple):
    """A fact as of the place of the log that is looked at, by numbers of rows: its own, and that of its figures."""

    fact: int
    figures: int
    revision: int
    runs: frozenset[str]

    def corrected(self, figures: int, *, run: str) -> _Standing:
        """The same with one more correction."""
        return _Standing(self.fact, figures, self.revision + 1, self.runs | {run})


def _decided(before: pl.DataFrame, candidates: pl.DataFrame, *, runs: dict[int, Correction]) -> Corrected:
    """``before`` (STATES): facts and corrections that may stand before the candidates (STATES, in log order)."""
    states = pl.concat([before.sort("revision"), candidates])
    rows = states.rows(named=True)
    standing = _standing(rows[: before.height])
    found: list[_Standing] = []
    taken: list[int] = []
    unchanged = unknown = 0
    for number, row in enumerate(rows[before.height :], start=before.height):
        place = _place(row)
        known = standing.get(place)
        if known is None or rows[known.fact]["block"] >= row["block"] or _content(rows[known.fact]) != _content(row):
            unknown += 1
        elif runs[row["block"]].run in known.runs or _figures(rows[known.figures]) == _figures(row):
            unchanged += 1
        else:
            found.append(known)
            taken.append(number)
            standing[place] = known.corrected(number, run=runs[row["block"]].run)
    return Corrected(_corrections(states, found, taken, runs=runs), unchanged, unknown)


def _standing(rows: Sequence[dict[str, Any]]) -> dict[_Place, _Standing]:
    """Facts and their corrections, those of a fact by revision."""
    standing: dict[_Place, _Standing] = {}
    for number, row in enumerate(rows):
        place = _place(row)
        if row["revision"] == 0:
            standing[place] = _Standing(number, number, 0, frozenset())
        else:
            standing[place] = standing[place].corrected(number, run=row["run"])
    return standing


def _corrections(
    states: pl.DataFrame, before: Sequence[_Standing], taken: Sequence[int], *, runs: dict[int, Correction]
) -> pl.DataFrame:
    """CORRECTIONS: the rows ``taken`` of the states, each of which corrects what stood ``before``.

    By block, and within one by raw coordinates: a block holds its events in any order, which the store does not keep,
    and whoever judges again must find the same one to be the last.
    """
    if not taken:
        return pl.DataFrame(schema=CORRECTIONS)
    facts = states[[known.fact for known in before]]
    old = states[[known.figures for known in before]]
    new = states[taken]
    own = [runs[block] for block in new.get_column("block")]
    corrections = facts.with_columns(
        *(new.get_column(name) for name in FIGURES),
        *(old.get_column(name).alias(f"old_{name}") for name in FIGURES),
        pl.Series("revision", [known.revision + 1 for known in before], dtype=pl.UInt32),
        pl.Series("run", [run.run for run in own], dtype=pl.String),
        pl.Series("books", [run.books for run in own], dtype=pl.String),
        pl.Series("reason", [run.reason for run in own], dtype=pl.String),
        new.get_column("block").alias("correction_block"),
        new.get_column("recorded_at").alias("corrected_at"),
    )
    ordered = corrections.sort("correction_block", "partition", "offset", "index")
    return ordered.select(pl.col(name).cast(dtype) for name, dtype in CORRECTIONS.items())


def _place(row: dict[str, Any]) -> _Place:
    return tuple(row[name] for name in _PLACE)


@lru_cache(maxsize=_TEXTS_MAX)
def _words(lines: str) -> tuple[tuple[str, ...], tuple[tuple[str, str, str], ...]]:
    """The meters of a text of lines, and its lines without the price ids."""
    split = [line.split("\t") for line in lines.split("\n")] if lines else []
    return tuple(words[0] for words in split), tuple((words[0], words[1], words[3]) for words in split)


def _content(row: dict[str, Any]) -> tuple[Any, ...]:
    """What the event says, as a repeat is judged by it."""
    usage = {m: q for m, q in zip(_words(row["lines"])[0], row["quantities"], strict=True) if m != REQUESTS}
    return (*(row[name] for name in CONTENT), usage)


def _figures(figures: dict[str, Any]) -> tuple[Any, ...]:
    """What a correction may change, by value."""
    lines = _words(figures["lines"])[1]
    return figures["cost"], figures["pricing"], lines, figures["quantities"], figures["costs"]


# What corrections add to the totals.


def fold_corrections(corrections: pl.DataFrame, *, before: Lanes, version: int) -> pl.DataFrame:
    """The totals (TOTALS) of every lane that ``corrections`` (CORRECTIONS) touch, after them.

    ``before`` holds these lanes with the corrected facts in them; other lanes in it are not looked at.
    """
    placed = corrections.with_columns(pl.col("time").dt.truncate("1h").alias("hour"))
    _, stood = before.find(placed.select(LANE).unique())
    sums = pl.concat([stood.select(*LANE, *SUMS).cast(_SIGNED), *(_sums(placed, side) for side in _SIDES)])  # type: ignore[arg-type]
    lists = pl.concat([_exploded(stood), *(_lines(placed, side) for side in _SIDES)])
    return (
        stood.select(*LANE, "newest_time", "block_partition")
        .join(sums.group_by(LANE).agg(pl.col(name).sum() for name in SUMS), on=list(LANE))
        .join(_gathered(lists), on=list(LANE), how="left")
        .with_columns(
            *(pl.col(name).fill_null([]) for name in QUANTITY_LISTS), pl.lit(version, dtype=pl.UInt64).alias("version")
        )
        .select(TOTALS.keys())
        .cast(TOTALS)  # type: ignore[arg-type]
    )


#: A correction takes the old figures away and adds the new ones: where each stand, and with which sign.
_SIDES: Final = (("old_", -1), ("", 1))
_COUNTS: Final = ("requests", "ok", "failed", "unpriced")
_SIGNED: Final = dict.fromkeys(_COUNTS, pl.Int64)
_LIST_VALUES: Final = tuple(name for name in QUANTITY_LISTS if name not in {"meters", "names"})


def _sums(placed: pl.DataFrame, side: tuple[str, int]) -> pl.DataFrame:
    """What one side of the corrections adds to SUMS; an event stays one event."""
    prefix, sign = side
    cost = pl.col(f"{prefix}cost").fill_null(0) * sign
    none = pl.lit(0, dtype=pl.Int64)
    return placed.select(
        *LANE,
        *(none.alias(name) for name in ("requests", "ok", "failed")),
        (pl.col(f"{prefix}pricing") == "unpriced").cast(pl.Int64).mul(sign).alias("unpriced"),
        cost.cast(DECIMAL).alias("cost"),
        pl.when(pl.col("status") != "ok").then(cost).otherwise(0).cast(DECIMAL).alias("failed_cost"),
    )


def _lines(placed: pl.DataFrame, side: tuple[str, int]) -> pl.DataFrame:
    """What one side of the corrections adds to QUANTITY_LISTS, one row per line."""
    prefix, sign = side
    lists = [f"{prefix}lines", f"{prefix}quantities", f"{prefix}costs"]
    words = pl.col("lines").str.split_exact("\t", 3).struct
    return (
        placed.filter(pl.col(lists[0]) != "")
        .select(*LANE, pl.col(lists[0]).str.split("\n").alias("lines"), *(pl.col(name) for name in lists[1:]))
        .rename(dict(zip(lists[1:], ("quantity", "cost"), strict=True)))
        .explode("lines", "quantity", "cost")
        .select(
            *LANE,
            words.field("field_0").alias("meters"),
            words.field("field_1").alias("names"),
            (pl.col("quantity") * sign).cast(DECIMAL).alias("quantities"),
            pl.when(words.field("field_3") == "billed")
            .then(pl.col("quantity") * sign)
            .otherwise(0)
            .cast(DECIMAL)
            .alias("billed_quantities"),
            (pl.col("cost") * sign).cast(DECIMAL).alias("costs"),
            (words.field("field_3") == "unpriced").cast(pl.Int64).mul(sign).alias("unpriced_events"),
            pl.lit(sign, dtype=pl.Int64).alias("events"),
        )
    )


def _exploded(totals: pl.DataFrame) -> pl.DataFrame:
    lists = totals.select(*LANE, *QUANTITY_LISTS).explode(list(QUANTITY_LISTS), empty_as_null=False)
    return lists.with_columns(pl.col("unpriced_events", "events").cast(pl.Int64))


def _gathered(lines: pl.DataFrame) -> pl.DataFrame:
    """QUANTITY_LISTS per lane, without the lines that no event has any more."""
    return (
        lines.group_by(*LANE, "meters", "names")
        .agg(
            pl.when(pl.col("costs").is_not_null().any()).then(pl.col("costs").sum()).alias("costs"),
            *(pl.col(name).sum() for name in _LIST_VALUES if name != "costs"),
        )
        .filter(pl.col("events") > 0)
        .sort(*LANE, "meters", "names")
        .group_by(LANE, maintain_order=True)
        .agg(*QUANTITY_LISTS)
    )

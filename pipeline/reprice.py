"""Reprice: what counted events would cost by other prices, and which of them that changes.

The events go through the price stage again, as they were validated when they first came in. What comes of it is a
batch of the changed events for correction blocks (``correct.py`` counts them), and the difference by lane for people.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from pipeline.price import price
from pipeline.route import take
from schemas.counted import COUNTED_EVENTS, FIGURES
from schemas.frames import DECIMAL, EVENTS, REQUESTS, USAGE, PricedBatch

if TYPE_CHECKING:
    from pipeline.price import CompiledCatalog

#: A counted event as it costs now: the columns that ``reprice`` needs.
REPRICEABLE: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    **{name: dtype for name, dtype in COUNTED_EVENTS.items() if name in EVENTS or name == "topic"},
    **FIGURES,
}

#: What a restatement is shown by, and its figures: the cost before and after, and how many events it changes.
LANE_OF_CHANGE: Final = ("org", "project", "operation", "model", "meter")
CHANGES: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    **dict.fromkeys(LANE_OF_CHANGE, pl.String),
    "old_cost": DECIMAL,
    "new_cost": DECIMAL,
    "events": pl.UInt64,
}


@dataclass(frozen=True, slots=True)
class Repriced:
    """``changed``: the events whose figures change, priced anew, by raw topic. ``changes``: CHANGES, by lane."""

    changed: dict[str, PricedBatch]
    changes: pl.DataFrame
    unpriced_before: int
    unpriced_after: int

    @property
    def events(self) -> int:
        """How many events change."""
        return sum(batch.events.height for batch in self.changed.values())


def reprice(facts: pl.DataFrame, *, book: CompiledCatalog) -> Repriced:
    """What these events (REPRICEABLE) cost by ``book``, and what that changes.

    An event changes when its pricing, the name, the state or the cost of one of its quantities does. Price ids alone
    are no change: a price that is the same in a later revision leaves the event as it was priced.
    """
    priced = price(facts.select(EVENTS.keys()), _usage(facts), book=book)
    old, new = _old_lines(facts), _new_lines(priced)
    both = old.join(new, on=["row", "meter"], how="full", coalesce=True, suffix="_new")
    differs = (
        pl.col("name").ne_missing(pl.col("name_new"))
        | pl.col("state").ne_missing(pl.col("state_new"))
        | pl.col("cost").ne_missing(pl.col("cost_new"))
    )
    is_changed = (facts.get_column("pricing") != priced.events.get_column("pricing")).to_numpy().copy()
    is_changed[both.filter(differs).get_column("row").to_numpy()] = True
    rows = np.flatnonzero(is_changed)
    topics = facts.get_column("topic").gather(rows)
    unpriced = [int((batch.get_column("pricing").gather(rows) == "unpriced").sum()) for batch in (facts, priced.events)]
    return Repriced(
        changed={topic: take(priced, rows[(topics == topic).to_numpy()]) for topic in topics.unique().sort()},
        changes=_changes(facts, both.filter(differs)),
        unpriced_before=unpriced[0],
        unpriced_after=unpriced[1],
    )


def _usage(facts: pl.DataFrame) -> pl.DataFrame:
    """The quantities as the events gave them (USAGE): all but the implied ``requests``."""
    lines = _old_lines(facts).filter(pl.col("meter") != REQUESTS)
    return lines.select(pl.col(name).cast(dtype) for name, dtype in USAGE.items())


def _old_lines(facts: pl.DataFrame) -> pl.DataFrame:
    words = pl.col("lines").str.split_exact("\t", 3).struct
    return (
        facts.with_row_index("row")
        .filter(pl.col("lines") != "")
        .select("row", pl.col("lines").str.split("\n"), "quantities", "costs")
        .explode("lines", "quantities", "costs")
        .select(
            "row",
            words.field("field_0").alias("meter"),
            words.field("field_1").alias("name"),
            words.field("field_3").alias("state"),
            pl.col("quantities").alias("quantity"),
            pl.col("costs").alias("cost"),
        )
    )


def _new_lines(priced: PricedBatch) -> pl.DataFrame:
    return priced.lines.join(priced.kinds, on="kind", maintain_order="left").select(
        "row", "meter", "name", "state", "cost"
    )


def _changes(facts: pl.DataFrame, changed: pl.DataFrame) -> pl.DataFrame:
    """The changed lines summed by lane; what had no price counts as nothing."""
    lanes = facts.with_row_index("row").select("row", *(name for name in LANE_OF_CHANGE if name != "meter"))
    return (
        changed.join(lanes, on="row")
        .group_by(LANE_OF_CHANGE)
        .agg(
            pl.col("cost").fill_null(0).sum().alias("old_cost"),
            pl.col("cost_new").fill_null(0).sum().alias("new_cost"),
            pl.col("row").n_unique().alias("events"),
        )
        .select(pl.col(name).cast(dtype) for name, dtype in CHANGES.items())
    )


def sum_of_changes(parts: list[pl.DataFrame]) -> pl.DataFrame:
    """CHANGES of several batches as one, the largest difference first, then by lane."""
    summed = pl.concat([pl.DataFrame(schema=CHANGES), *parts])
    return (
        summed.group_by(LANE_OF_CHANGE)
        .agg(pl.col("old_cost", "new_cost", "events").sum())
        .with_columns((pl.col("new_cost") - pl.col("old_cost")).abs().alias("size"))
        .sort("size", *LANE_OF_CHANGE, descending=[True, *(False for _ in LANE_OF_CHANGE)])
        .select(pl.col(name).cast(dtype) for name, dtype in CHANGES.items())
    )

"""Fold: new facts added to the totals of their hour and lane, as absolute values after the batch's last block.

A total is never an increment: its row says what the sum is after block ``version``, so writing it again, or an older
one late, changes nothing. What a total was before the batch is given by the caller; a lane that is not in ``before``
had nothing, and the caller vouches for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from pipeline.lanes import numbered
from schemas.counted import LANE, QUANTITY_LISTS, SUMS, TOTALS
from schemas.frames import DECIMAL

if TYPE_CHECKING:
    from pipeline.lanes import Lanes
    from schemas.frames import PricedBatch


def fold(facts: PricedBatch, *, before: Lanes, version: int, block_partition: int) -> pl.DataFrame:
    """The totals (TOTALS) of every lane that ``facts`` touch, after them.

    ``before`` holds the touched lanes' values before the batch; other lanes in it are not looked at.
    """
    events = facts.events.with_columns(pl.col("time").dt.truncate("1h").alias("hour"))
    lane_of_row = numbered(events)
    events = events.with_columns(lane_of_row)
    added = events.group_by("lane").agg(
        *(pl.col(name).first() for name in LANE),
        pl.len().cast(pl.UInt64).alias("requests"),
        (pl.col("status") == "ok").sum().cast(pl.UInt64).alias("ok"),
        (pl.col("status") != "ok").sum().cast(pl.UInt64).alias("failed"),
        (pl.col("pricing") == "unpriced").sum().cast(pl.UInt64).alias("unpriced"),
        pl.col("cost").fill_null(0).sum().alias("cost"),
        pl.when(pl.col("status") != "ok").then(pl.col("cost")).fill_null(0).sum().alias("failed_cost"),
        pl.col("time").max().alias("newest_time"),
    )
    found, rows = before.find(added)
    old = rows.with_columns(added.get_column("lane").gather(found))
    sums = (
        pl.concat([added.select("lane", *SUMS, "newest_time"), old.select("lane", *SUMS, "newest_time")])
        .group_by("lane")
        .agg(*(pl.col(name).sum() for name in SUMS), pl.col("newest_time").max())
    )
    quantities = _quantities_after(facts, lane_of_row, old)
    return (
        added.select("lane", *LANE)
        .join(sums, on="lane")
        .join(quantities, on="lane", how="left")
        .with_columns(
            *(pl.col(name).fill_null([]) for name in QUANTITY_LISTS),
            pl.lit(block_partition, dtype=pl.Int32).alias("block_partition"),
            pl.lit(version, dtype=pl.UInt64).alias("version"),
        )
        .select(TOTALS.keys())
        .cast(TOTALS)  # type: ignore[arg-type]
    )


def _quantities_after(facts: PricedBatch, lane_of_row: pl.Series, old: pl.DataFrame) -> pl.DataFrame:
    """QUANTITY_LISTS per lane: what stood there and what the facts add."""
    rows = facts.lines.get_column("row")
    added = (
        facts.lines.select("kind", "quantity", "cost")
        .with_columns(lane_of_row.gather(rows).alias("lane"))
        .group_by("lane", "kind")
        .agg(
            pl.col("quantity").sum(),
            pl.col("cost").sum(),
            pl.col("cost").is_not_null().any().alias("has_price"),
            pl.len().cast(pl.UInt64).alias("events"),
        )
        .join(facts.kinds, on="kind")
        .select(
            "lane",
            pl.col("meter").alias("meters"),
            pl.col("name").alias("names"),
            pl.col("quantity").alias("quantities"),
            _where(pl.col("state") == "billed", pl.col("quantity")).alias("billed_quantities"),
            pl.when(pl.col("has_price")).then(pl.col("cost")).alias("costs"),
            pl.when(pl.col("state") == "unpriced").then(pl.col("events")).otherwise(0).alias("unpriced_events"),
            pl.col("events"),
        )
        .cast({name: dtype.inner for name, dtype in QUANTITY_LISTS.items()})  # type: ignore[union-attr]
    )
    stood = old.select("lane", *QUANTITY_LISTS).explode(list(QUANTITY_LISTS), empty_as_null=False)
    return (
        pl.concat([added, stood])
        .group_by("lane", "meters", "names")
        .agg(
            pl.col("quantities").sum(),
            pl.col("billed_quantities").sum(),
            pl.when(pl.col("costs").is_not_null().any()).then(pl.col("costs").sum()).alias("costs"),
            pl.col("unpriced_events", "events").sum(),
        )
        .sort("lane", "meters", "names")
        .group_by("lane", maintain_order=True)
        .agg(*QUANTITY_LISTS)
    )


def _where(condition: pl.Expr, value: pl.Expr) -> pl.Expr:
    return pl.when(condition).then(value).otherwise(pl.lit(0).cast(DECIMAL))

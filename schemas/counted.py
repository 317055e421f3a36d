"""What counting works on and leaves behind: events with their place in the log, known facts, repeats, totals."""

from __future__ import annotations

from typing import Final

import polars as pl

from schemas.frames import DECIMAL, INSTANT, PRICED_EVENTS

#: What a block's place in the log adds to PRICED_EVENTS: everything right of the log is a function of these columns.
COUNTED_EVENTS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    **PRICED_EVENTS,
    "topic": pl.String,
    "block_partition": pl.Int32,
    "block": pl.UInt64,
    "recorded_at": INSTANT,
}

#: What makes two events of one identity the same event: everything validated, except where and when it arrived and
#: what it cost. Quantities come besides, by name and value.
CONTENT: Final = (
    "time", "operation", "project", "api_key", "environment", "user", "provider", "model", "variant", "status",
    "tags",
)  # fmt: skip

#: A fact as the store remembers it, as far as a repeat is judged by it.
KNOWN: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "identity_hash": pl.UInt64,
    "org": pl.String,
    "source": pl.String,
    "id": pl.String,
    "topic": pl.String,
    "partition": pl.Int32,
    "offset": pl.Int64,
    "index": pl.Int32,
    "received_at": INSTANT,
    "block": pl.UInt64,
    "time": INSTANT,
    **{name: pl.String for name in CONTENT if name != "time"},
    "meters": pl.List(pl.String),
    "quantities": pl.List(DECIMAL),
}

REPEATS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "kind": pl.String,  # "duplicate" or "conflict"
    "org": pl.String,
    "source": pl.String,
    "id": pl.String,
    "time": INSTANT,
    "topic": pl.String,
    "partition": pl.Int32,
    "offset": pl.Int64,
    "index": pl.Int32,
    "of": pl.Int32,
    "received_at": INSTANT,
    "first_topic": pl.String,
    "first_partition": pl.Int32,
    "first_offset": pl.Int64,
    "first_index": pl.Int32,
    "block_partition": pl.Int32,
    "block": pl.UInt64,
    "recorded_at": INSTANT,
}

#: A lane of the hourly totals: every dimension that a fact has, and the hour of its time.
LANE: Final = (
    "org", "hour", "project", "api_key", "environment", "user", "operation", "provider", "model",
)  # fmt: skip

HOUR: Final = pl.Datetime("us", "UTC")

#: Sums of a lane; ``newest_time`` is a maximum.
SUMS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "requests": pl.UInt64,
    "ok": pl.UInt64,
    "failed": pl.UInt64,
    "unpriced": pl.UInt64,
    "cost": DECIMAL,
    "failed_cost": DECIMAL,
}

#: The named quantities of a lane, sorted by (meter, name), in lists of equal length. ``costs`` is null where no event
#: had a price on the meter; ``billed_quantities`` is what a price applied to; ``events`` is how many events have the
#: line, so that a line ends with the last event that a correction takes it from.
QUANTITY_LISTS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "meters": pl.List(pl.String),
    "names": pl.List(pl.String),
    "quantities": pl.List(DECIMAL),
    "billed_quantities": pl.List(DECIMAL),
    "costs": pl.List(DECIMAL),
    "unpriced_events": pl.List(pl.UInt64),
    "events": pl.List(pl.UInt64),
}

#: One row per lane and hour: its absolute value after block ``version``.
TOTALS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    **{name: HOUR if name == "hour" else pl.String for name in LANE},
    **SUMS,
    "newest_time": INSTANT,
    **QUANTITY_LISTS,
    "block_partition": pl.Int32,
    "version": pl.UInt64,
}

#: What an event costs and by which prices. ``lines`` names its quantities in their order, one "meter TAB name TAB
#: price_id TAB state" per line, as the table has it: few distinct texts. ``quantities`` and ``costs`` are as long.
FIGURES: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "cost": DECIMAL,
    "pricing": pl.String,
    "lines": pl.String,
    "quantities": pl.List(DECIMAL),
    "costs": pl.List(DECIMAL),
}

#: A fact as of a block: itself (``revision`` 0, ``run`` ""), or what a correction made of it.
STATES: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    **COUNTED_EVENTS,
    **FIGURES,
    "identity_hash": pl.UInt64,
    "revision": pl.UInt32,
    "run": pl.String,
}

#: A correction that counts: the fact with its new figures, the figures that it replaces, and where it comes from.
#: ``revision`` is the number of corrections of the fact, this one included; ``corrected_at`` is the append time of the
#: correction's block.
CORRECTIONS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    **STATES,
    **{f"old_{name}": dtype for name, dtype in FIGURES.items()},
    "books": pl.String,
    "reason": pl.String,
    "correction_block": pl.UInt64,
    "corrected_at": INSTANT,
}

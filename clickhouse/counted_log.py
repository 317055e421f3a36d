"""The counted log, read back from the store: what each block of ``usage.priced`` left there, in the order of the log.

What was decided once from the log can so be decided again without Kafka, whose records may be gone by now.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from clickhouse.counting import framed
from clickhouse.query import query
from schemas.alerting import ALERTS
from schemas.counted import COUNTED_EVENTS
from schemas.frames import DECIMAL, INSTANT, KINDS, LINES, PricedBatch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from clickhouse.client import Store

FACTS: Final = "facts"
CORRECTIONS: Final = "corrections"
CONTROL: Final = "control"

#: After every block.
NO_END: Final = 2**63 - 1
#: The first instant that the store can hold (1900), in microseconds since 1970.
SINCE_EVER_US: Final = -2_208_988_800_000_000

#: What moves when a cost is restated, as far as judging looks at it.
_MOVED: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    **dict.fromkeys(("org", "source", "id", "project", "api_key", "user", "operation", "model"), pl.String()),
    "time": INSTANT,
    "cost": DECIMAL,
    "old_cost": DECIMAL,
    "pricing": pl.String,
    "old_pricing": pl.String,
    "correction_block": pl.UInt64,
    "corrected_at": INSTANT,
}
_STORED_FACT: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    **COUNTED_EVENTS,
    "lines": pl.String,
    "quantities": pl.List(DECIMAL),
    "costs": pl.List(DECIMAL),
}


@dataclass(frozen=True, slots=True)
class CountedLog:
    """One partition of ``usage.priced`` as it was counted: of one org, or of all (``org`` "").

    Events before ``since_us`` (microseconds since 1970) are left out.
    """

    store: Store
    partition: int
    org: str = ""
    since_us: int = SINCE_EVER_US

    def _asked(self, first: int, end: int) -> dict[str, Any]:
        return {"block_partition": self.partition, "org": self.org, "first": first, "end": end}

    def stretches(self, *, rows_max: int, first: int = 0, end: int = NO_END) -> list[Stretch]:
        """Blocks [first, end) in stretches of one kind with about so many rows; a control block stands alone."""
        asked = {**self._asked(first, end), "since_us": self.since_us}
        blocks = _packed(self.store.arrow(query("log_blocks"), asked).to_pylist(), rows_max=rows_max)
        return list(blocks)

    def facts(self, stretch: Stretch) -> PricedBatch:
        """Its facts, as they were counted."""
        asked = {**self._asked(stretch.first, stretch.last + 1), "since_us": self.since_us}
        return _batch(framed(self.store.arrow(query("log_facts"), asked), _STORED_FACT))

    def corrections(self, stretch: Stretch) -> pl.DataFrame:
        """Its corrections, as far as judging looks at them."""
        asked = {**self._asked(stretch.first, stretch.last + 1), "since_us": self.since_us}
        return framed(self.store.arrow(query("log_corrections"), asked), _MOVED)

    def control(self, stretch: Stretch) -> tuple[str, int]:
        """What was in force after its control block, and when that was appended, in milliseconds since 1970."""
        (row,) = self.store.rows(query("log_control"), {"block_partition": self.partition, "block": stretch.first})
        return row["body"], row["recorded_ms"]

    def alerts(self, *, first: int, end: int) -> pl.DataFrame:
        """The transitions (ALERTS) that are stored for blocks [first, end)."""
        return framed(self.store.arrow(query("log_alerts"), self._asked(first, end)), ALERTS)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Blocks [first, last] that left rows of one kind, about so many of them."""

    kind: str
    first: int
    last: int
    rows: int


def partitions_of(store: Store, *, org: str) -> list[int]:
    """Where the facts of an org were counted: one partition, none if it has no facts."""
    return [row["block_partition"] for row in store.rows(query("log_partitions"), {"org": org})]


def _packed(blocks: Sequence[Mapping[str, Any]], *, rows_max: int) -> Iterator[Stretch]:
    together: Stretch | None = None
    for block in blocks:
        one = Stretch(block["kind"], block["block"], block["block"], block["rows"])
        if together is None:
            together = one
        elif together.kind == one.kind != CONTROL and together.rows + one.rows <= rows_max:
            together = Stretch(one.kind, together.first, one.last, together.rows + one.rows)
        else:
            yield together
            together = one
    if together is not None:
        yield together


def _batch(stored: pl.DataFrame) -> PricedBatch:
    """Rows of ``facts_rows`` as the batch that they were made from: the inverse of ``counting.facts_table``."""
    lines = (
        stored.select(
            pl.int_range(pl.len(), dtype=pl.UInt32).alias("row"),
            pl.col("lines").str.split("\n").alias("words"),
            "lines",
            pl.col("quantities").alias("quantity"),
            pl.col("costs").alias("cost"),
        )
        .filter(pl.col("lines") != "")
        .explode("words", "quantity", "cost")
    )
    words = lines.get_column("words").unique(maintain_order=True)
    kinds = pl.DataFrame({"words": words, "kind": pl.int_range(len(words), dtype=pl.UInt32, eager=True)})
    parts = kinds.get_column("words").str.split("\t").list
    return PricedBatch(
        events=stored.select(COUNTED_EVENTS.keys()),
        lines=lines.join(kinds, on="words", how="left", maintain_order="left").select(
            pl.col(name).cast(dtype) for name, dtype in LINES.items()
        ),
        kinds=kinds.select("kind", *(parts.get(place).alias(name) for place, name in enumerate(list(KINDS)[1:]))),
    )

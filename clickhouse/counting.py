"""What counting asks the store and writes to it. Every question is as of a block: rows of later blocks don't count.

Each function carries out one step of ``pipeline/count.py`` and decides nothing.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl
import pyarrow as pa

from clickhouse.query import query
from schemas.counted import COUNTED_EVENTS, KNOWN, TOTALS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from clickhouse.client import Store
    from schemas.frames import PricedBatch

#: More hashes than this are looked up by reading the whole column: checking them all against the filter of each
#: granule would cost more than it saves.
FILTERED_HASHES_MAX: Final = 5_000

#: Kinds of a batch are numbered below this many bits; 50,000 events of 65 lines have fewer.
_KIND_BITS: Final = 31

#: Dictionary-encoded Arrow strings cost less to send and to read than plain ones.
_DICTIONARY_COLUMNS: Final = (
    "org", "source", "project", "api_key", "environment", "user", "operation", "provider", "model", "variant",
    "status", "pricing", "topic", "kind", "first_topic", "reason", "lines", "old_pricing", "old_lines", "run", "books",
)  # fmt: skip


def identities_before(
    store: Store, *, partition: int, before: int, horizon: timedelta, limit: int
) -> tuple[NDArray[np.uint64], int]:
    """The hashes of the facts of blocks in [covered_from, before) that may still be repeated, and covered_from.

    Facts received up to two horizons before the newest one count: one horizon for the repeat, one for a raw partition
    that lags behind the others (its records are deleted after that). Newest blocks first, up to ``limit``;
    covered_from is 0 when none of them is left out.
    """
    place = {"block_partition": partition, "before": before}
    extent = store.rows(query("identities_extent"), place)[0]
    if not extent["facts"]:
        return np.empty(0, dtype=np.uint64), 0
    covered_from = 0
    if extent["facts"] > limit:
        covered_from = store.rows(query("identities_floor"), {**place, "limit": limit})[0]["covered_from"]
    since = extent["newest_received_us"] - 2 * horizon // timedelta(microseconds=1)
    answer = store.arrow(
        query("identities_before"), {**place, "covered_from": covered_from, "received_since_us": max(since, 0)}
    )
    return answer.column("identity_hash").to_numpy(), covered_from


def known_facts(  # noqa: PLR0913 -- the question's own six parts
    store: Store,
    *,
    partition: int,
    before: int,
    hashes: NDArray[np.uint64],
    orgs: pl.Series,
    times: pl.Series,
    settled_since: datetime | None,
) -> pl.DataFrame:
    """The facts (KNOWN) of blocks < ``before`` with one of these hashes, in log order.

    First looked for at the orgs and times of the events, where a true duplicate's original is; hashes that no fact
    received at or after ``settled_since`` answers are then looked for everywhere.
    """
    if not len(hashes):
        return pl.DataFrame(schema=KNOWN)
    place = {"block_partition": partition, "before": before}
    near = _known(
        store.arrow(
            query("known_by_time"),
            {
                **place,
                "orgs": orgs.unique().to_list(),
                "times_us": times.dt.epoch("us").unique().to_list(),
                "hashes": hashes.tolist(),
            },
        )
    )
    settled = near if settled_since is None else near.filter(pl.col("received_at") >= settled_since)
    open_hashes = np.setdiff1d(hashes, settled.get_column("identity_hash").to_numpy())
    if not len(open_hashes):
        return near
    use_filter = int(len(open_hashes) <= FILTERED_HASHES_MAX)
    far = _known(
        store.arrow(
            f"{query('known_by_hash')} SETTINGS use_skip_indexes = {use_filter:d}",
            {**place, "hashes": open_hashes.tolist()},
        )
    )
    return pl.concat([near, far]).unique(subset=["identity_hash", "block", "partition", "offset", "index"])


def totals_before(store: Store, *, partition: int, before: int, pairs: pl.DataFrame) -> pl.DataFrame:
    """The totals (TOTALS) of these (org, hour) pairs as they were before block ``before``.

    A row whose version is older than the block is what it was. A pair with a newer row was written by a run of blocks
    that will be counted again: its value before them is summed up from the facts of the blocks before, which nobody
    changes any more.
    """
    if not pairs.height:
        return pl.DataFrame(schema=TOTALS)
    place = {"block_partition": partition, **_pair_parameters(pairs)}
    stored = _totals(store.arrow(query("totals_of_hours"), place)).join(pairs, on=["org", "hour"], how="semi")
    ahead = stored.filter(pl.col("version") >= before).select("org", "hour").unique()
    if not ahead.height:
        return stored
    rebuilt = _totals(
        store.arrow(query("totals_from_facts"), {**place, **_pair_parameters(ahead), "before": before})
    ).join(ahead, on=["org", "hour"], how="semi")
    return pl.concat([stored.join(ahead, on=["org", "hour"], how="anti"), rebuilt])


def insert_facts(store: Store, facts: PricedBatch, hashes: NDArray[np.uint64]) -> None:
    """Writes new facts; the same facts again replace themselves. Nothing is sent when there are none."""
    if facts.events.height:
        store.insert("facts_rows", facts_table(facts, hashes))


def insert_rows(store: Store, table: str, rows: pl.DataFrame) -> None:
    """Writes rows whose columns are the table's; nothing is sent when there are none."""
    if rows.height:
        store.insert(table, arrow_table(rows))


def insert_totals(store: Store, totals: pl.DataFrame) -> None:
    """Writes absolute totals (TOTALS) at their version."""
    insert_rows(store, "totals_rows", totals.with_columns(pl.col("hour").dt.epoch("s").cast(pl.UInt32)))


def facts_table(facts: PricedBatch, hashes: NDArray[np.uint64]) -> pa.Table:
    """The rows of ``facts_rows``; what an event's quantities are called is one of a few texts (``lines``)."""
    columns = {name: _column(facts.events.get_column(name)) for name in COUNTED_EVENTS}
    offsets = _plain(pl.Series(facts.line_offsets()))
    columns["lines"] = _line_texts(facts)
    for source, name in (("quantity", "quantities"), ("cost", "costs")):
        columns[name] = pa.ListArray.from_arrays(offsets, _plain(facts.lines.get_column(source)))
    columns["identity_hash"] = _plain(pl.Series(hashes))
    return pa.table(columns)


def _line_texts(facts: PricedBatch) -> pa.Array:
    """Per event one "meter TAB name TAB price_id TAB state" a line, as a dictionary of the distinct texts.

    Events are numbered by the sequence of their kinds, one position after the other, so that a text is put together
    once per distinct sequence and not once per event.
    """
    offsets = facts.line_offsets().astype(np.int64)
    kinds = facts.lines.get_column("kind").to_numpy().astype(np.int64)
    words = {
        kind: "\t".join(rest) for kind, *rest in facts.kinds.select("kind", "meter", "name", "price_id", "state").rows()
    }
    counts = np.diff(offsets)
    sequence = np.zeros(len(counts), dtype=np.int64)
    texts = [""]
    for position in range(int(counts.max(initial=0))):
        rows = np.flatnonzero(counts > position)
        pairs = (sequence[rows] << _KIND_BITS) | kinds[offsets[rows] + position]
        distinct, place = np.unique(pairs, return_inverse=True)
        sequence[rows] = len(texts) + place
        for pair in distinct.tolist():
            before, word = texts[pair >> _KIND_BITS], words[pair & ((1 << _KIND_BITS) - 1)]
            texts.append(f"{before}\n{word}" if before else word)
    return pa.DictionaryArray.from_arrays(_plain(pl.Series(sequence.astype(np.int32))), _plain(pl.Series(texts)))


def arrow_table(rows: pl.DataFrame) -> pa.Table:
    """A frame as an Arrow table whose words are dictionary-encoded."""
    return pa.table({name: _column(rows.get_column(name)) for name in rows.columns})


def _column(series: pl.Series) -> pa.Array:
    column = _plain(series)
    return column.dictionary_encode() if series.name in _DICTIONARY_COLUMNS else column


def _plain(series: pl.Series) -> pa.Array:
    """As Arrow, by polars: pyarrow's own conversion of arrays loads pandas first, for half a second and 60 MB."""
    return series.to_arrow(compat_level=pl.CompatLevel.oldest())


def _known(answer: pa.Table) -> pl.DataFrame:
    return framed(answer, KNOWN)


def _totals(answer: pa.Table) -> pl.DataFrame:
    frame = _from_arrow(answer).with_columns(
        (pl.col("hour_seconds").cast(pl.Int64) * 1_000_000).cast(pl.Datetime("us", "UTC")).alias("hour")
    )
    return frame.select(pl.col(name).cast(dtype) for name, dtype in TOTALS.items())


def framed(answer: pa.Table, schema: Mapping[str, pl.DataType | type[pl.DataType]]) -> pl.DataFrame:
    """An answer as a frame of these columns."""
    return _from_arrow(answer).select(pl.col(name).cast(dtype) for name, dtype in schema.items())


def _from_arrow(answer: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(answer)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 -- a table gives a frame
    return frame


def _pair_parameters(pairs: pl.DataFrame) -> dict[str, list[str] | list[int]]:
    return {
        "orgs": pairs.get_column("org").unique().to_list(),
        "hours": pairs.get_column("hour").dt.epoch("s").unique().to_list(),
    }


def newest_block(store: Store, *, partition: int) -> int | None:
    """The highest block of a partition that left a fact; None when there is none."""
    rows = store.rows(
        "SELECT max(block) AS newest, count() AS facts FROM facts_rows WHERE block_partition = {p:Int32}",
        {"p": partition},
    )
    return int(rows[0]["newest"]) if rows[0]["facts"] else None

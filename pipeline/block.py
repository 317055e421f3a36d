"""The wire form of ``usage.priced``: one message is one immutable block of validated, priced events.

An Arrow IPC stream with zstd bodies, one row per event. The named quantities of an event are three parallel lists:
``line_kinds`` points into the dictionary ``kinds`` in the schema's metadata (meter, invoice name, price id, state),
``quantities`` and ``costs`` are exact decimals. Schema metadata: ``tally`` (format version), ``topic`` (of the raw
coordinates), ``kinds`` (JSON).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl
import pyarrow as pa

from schemas.counted import COUNTED_EVENTS
from schemas.frames import DECIMAL, INSTANT, KINDS, LINES, PRICED_EVENTS, PricedBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMAT: Final = b"priced.v1"
CONTROL_HEADER: Final = "control"
#: Marks a block whose events were counted before: it restates what they cost (``correct.py`` says how).
CORRECTION_HEADER: Final = "correction"

#: Columns with few distinct values per block: written once each, pointed at by the rows.
DICTIONARY_COLUMNS: Final = (
    "org", "source", "operation", "project", "api_key", "environment", "user", "provider", "model", "variant", "status",
    "tags", "pricing",
)  # fmt: skip

_WRITE_OPTIONS: Final = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
_READ_OPTIONS: Final = pa.ipc.IpcReadOptions(use_threads=False)


@dataclass(frozen=True, slots=True)
class Block:
    """One record of ``usage.priced`` as it was read: its place, its append time and its bytes.

    ``correction`` is the value of that header: which run restates, and why; None for every other block.
    """

    partition: int
    offset: int
    timestamp_ms: int
    value: bytes
    control: bool = False
    correction: bytes | None = None

    @property
    def is_correction(self) -> bool:
        """Whether its events were counted before."""
        return self.correction is not None


def encode_block(batch: PricedBatch, *, topic: str) -> bytes:
    """The message for one block. The rows keep their order; ``topic`` is the raw topic of the coordinates."""
    events = batch.events
    columns: list[pa.Array] = []
    names: list[str] = []
    for name in PRICED_EVENTS:
        column = _plain(events.get_column(name))
        columns.append(column.dictionary_encode() if name in DICTIONARY_COLUMNS else column)
        names.append(name)
    offsets = _plain(pl.Series(batch.line_offsets()))
    for source, name in (("kind", "line_kinds"), ("quantity", "quantities"), ("cost", "costs")):
        columns.append(pa.ListArray.from_arrays(offsets, _plain(batch.lines.get_column(source))))
        names.append(name)
    metadata = {b"tally": FORMAT, b"topic": topic.encode(), b"kinds": json.dumps(batch.kinds.to_dicts()).encode()}
    row_batch = pa.RecordBatch.from_arrays(columns, names=names).replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, row_batch.schema, options=_WRITE_OPTIONS) as writer:
        writer.write_batch(row_batch)
    return bytes(sink.getvalue())


def decode_blocks(blocks: Sequence[Block]) -> PricedBatch:
    """The events of data blocks in the order given, with their place in the log (columns COUNTED_EVENTS).

    ``kinds`` is the union of the blocks' dictionaries, each distinct kind once. Control blocks are not allowed here.

    Raises:
        ValueError: a block is not of this format; that is a bug or a foreign producer on ``usage.priced``.
    """
    known: dict[tuple[str, str, str, str], int] = {}
    events: list[pl.DataFrame] = []
    lines: list[pl.DataFrame] = []
    rows = 0
    for block in blocks:
        table = _read(block)
        kind_codes = _global_codes(json.loads(table.schema.metadata[b"kinds"]), known)
        events.append(_events_of(table, block))
        lines.append(_lines_of(table, kind_codes, first_row=rows))
        rows += table.num_rows
    if not events:
        return PricedBatch(pl.DataFrame(schema=COUNTED_EVENTS), pl.DataFrame(schema=LINES), pl.DataFrame(schema=KINDS))
    kinds = pl.DataFrame([(code, *kind) for kind, code in known.items()], schema=KINDS, orient="row")
    return PricedBatch(pl.concat(events), pl.concat(lines), kinds)


def _plain(series: pl.Series) -> pa.Array:
    return series.to_arrow(compat_level=pl.CompatLevel.oldest())


def _read(block: Block) -> pa.Table:
    try:
        with pa.ipc.open_stream(block.value, options=_READ_OPTIONS) as reader:
            table = reader.read_all()
    except pa.ArrowInvalid as error:
        raise ValueError(f"usage.priced {block.partition}/{block.offset} holds no Arrow block: {error}") from error
    if (table.schema.metadata or {}).get(b"tally") != FORMAT:
        raise ValueError(f"usage.priced {block.partition}/{block.offset} is no block of format {FORMAT.decode()}")
    return table.combine_chunks()


def _global_codes(kinds: list[dict[str, str]], known: dict[tuple[str, str, str, str], int]) -> np.ndarray:
    """The block's own kind numbers translated to those of the whole batch."""
    codes = np.zeros(max((int(kind["kind"]) for kind in kinds), default=0) + 1, dtype=np.uint32)
    for kind in kinds:
        key = (kind["meter"], kind["name"], kind["price_id"], kind["state"])
        codes[int(kind["kind"])] = known.setdefault(key, len(known))
    return codes


def _events_of(table: pa.Table, block: Block) -> pl.DataFrame:
    columns = {}
    for name in PRICED_EVENTS:
        column = table.column(name)
        columns[name] = column.cast(pa.large_string()) if pa.types.is_dictionary(column.type) else column
    frame = pl.from_arrow(pa.table(columns), rechunk=False)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 -- a table gives a frame
    return frame.with_columns(
        pl.lit(table.schema.metadata[b"topic"].decode(), dtype=pl.String).alias("topic"),
        pl.lit(block.partition, dtype=pl.Int32).alias("block_partition"),
        pl.lit(block.offset, dtype=pl.UInt64).alias("block"),
        pl.lit(block.timestamp_ms * 1000, dtype=pl.Int64).cast(INSTANT).alias("recorded_at"),
    )


def _lines_of(table: pa.Table, kind_codes: np.ndarray, *, first_row: int) -> pl.DataFrame:
    lists = table.column("line_kinds").combine_chunks()
    offsets = lists.offsets.to_numpy()
    rows = np.repeat(np.arange(first_row, first_row + table.num_rows, dtype=np.uint32), np.diff(offsets))
    return pl.DataFrame(
        {
            "row": rows,
            "kind": kind_codes[lists.flatten().to_numpy()],
            "quantity": pl.Series(table.column("quantities").combine_chunks().flatten(), dtype=DECIMAL),
            "cost": pl.Series(table.column("costs").combine_chunks().flatten(), dtype=DECIMAL),
        },
        schema=LINES,
    )


def merge(batches: Sequence[PricedBatch]) -> PricedBatch:
    """Several batches as one, in the order given; the dictionaries of kinds become one."""
    if len(batches) == 1:
        return batches[0]
    known: dict[tuple[str, str, str, str], int] = {}
    lines: list[pl.DataFrame] = []
    rows = 0
    for batch in batches:
        codes = _global_codes(batch.kinds.to_dicts(), known)
        lines.append(
            batch.lines.with_columns(
                (pl.col("row") + rows).cast(pl.UInt32),
                pl.Series("kind", codes[batch.lines.get_column("kind").to_numpy()], dtype=pl.UInt32),
            )
        )
        rows += batch.events.height
    kinds = pl.DataFrame([(code, *kind) for kind, code in known.items()], schema=KINDS, orient="row")
    return PricedBatch(pl.concat([batch.events for batch in batches]), pl.concat(lines), kinds)

"""The wire form of usage.priced: what goes in comes out, with its place in the log."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.block import Block, decode_blocks, encode_block, merge
from schemas.counted import COUNTED_EVENTS
from schemas.frames import KINDS, LINES, PRICED_EVENTS, PricedBatch
from tests.pipeline.batches import TOPIC, Event, make_batch, make_block, raw_events

Lines = list[tuple[Any, ...]]


@given(drawn=raw_events(), cut=st.integers(0, 14))
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_what_is_read(drawn: list[Event], cut: int) -> None:
    """Events, quantities and costs come back exactly and in order, whatever blocks they were cut into."""
    parts = [part for part in (drawn[:cut], drawn[cut:]) if part]
    blocks = [make_block(part, offset=offset) for offset, part in enumerate(parts)]

    read = decode_blocks(blocks)

    whole = make_batch(drawn)
    assert read.events.select(PRICED_EVENTS.keys()).equals(whole.events)
    assert _lines(read) == _lines(whole)


def test_every_row_says_where_its_block_stood() -> None:
    """Topic, partition, offset and append time of the block are columns: counting needs nothing else."""
    value = encode_block(make_batch([Event()]), topic="eu.usage.events")

    events = decode_blocks([Block(3, 17, 1_772_366_700_000, value)]).events

    assert events.columns == list(COUNTED_EVENTS)
    assert events.select("topic", "block_partition", "block", "recorded_at").row(0) == (
        "eu.usage.events", 3, 17, datetime(2026, 3, 1, 12, 5, tzinfo=UTC),
    )  # fmt: skip


def test_no_blocks_are_an_empty_batch_of_the_right_shape() -> None:
    """Nothing in gives frames without rows, not an error."""
    nothing = decode_blocks([])

    assert nothing.events.schema == COUNTED_EVENTS
    assert (nothing.lines.schema, nothing.kinds.schema) == (LINES, KINDS)
    assert nothing.events.height == nothing.lines.height == 0


def test_an_event_without_quantities_keeps_its_place() -> None:
    """An event whose usage is empty has no line, and its neighbours keep theirs."""
    drawn = [Event(0), replace(Event(1), usage=()), Event(2)]

    read = decode_blocks([make_block(drawn)])

    assert read.lines.get_column("row").to_list() == [0, 2]


def test_the_same_batch_gives_the_same_bytes() -> None:
    """A block is a function of its batch: nothing of the moment is in it."""
    batch = make_batch([Event(0), Event(1, id="b")])

    assert encode_block(batch, topic=TOPIC) == encode_block(batch, topic=TOPIC)


@pytest.mark.parametrize("value", [b"", b"{}", b"ARROW1\0\0"])
def test_bytes_of_another_producer_are_a_mistake_that_names_the_record(value: bytes) -> None:
    """A foreign record on usage.priced is pointed at, never skipped."""
    with pytest.raises(ValueError, match=r"usage\.priced 0/5"):
        decode_blocks([Block(0, 5, 0, value)])


def test_an_arrow_stream_of_another_format_is_refused() -> None:
    """Arrow alone does not make a block: the format's name and version must be there."""
    sink = pa.BufferOutputStream()
    table = pa.table({"a": [1]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)

    with pytest.raises(ValueError, match=r"no block of format priced\.v1"):
        decode_blocks([Block(0, 5, 0, bytes(sink.getvalue()))])


@given(drawn=raw_events(), cut=st.integers(0, 14))
@settings(max_examples=40, deadline=None)
def test_merged_batches_are_one_batch(drawn: list[Event], cut: int) -> None:
    """Merging keeps events, their order and their lines, and writes each kind once."""
    parts = [make_batch(part, revision=revision) for revision, part in ((1, drawn[:cut]), (2, drawn[cut:]))]

    merged = merge(parts)

    first, second = map(_lines, parts)
    shifted = [(row + len(drawn[:cut]), *line) for row, *line in second]
    assert _lines(merged) == [*first, *shifted]
    assert merged.kinds.select("meter", "name", "price_id", "state").is_duplicated().any() is False


def _lines(batch: PricedBatch) -> Lines:
    joined = batch.lines.join(batch.kinds, on="kind", how="left", maintain_order="left")
    return joined.select("row", "meter", "name", "price_id", "state", "quantity", "cost").rows()

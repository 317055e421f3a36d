"""Routing by org: one partition per org, in order, in blocks that fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.block import Block, decode_blocks
from pipeline.route import partition_of, route
from tests.pipeline.batches import TOPIC, Event, make_batch, raw_events

WIDE = 4 * 1024 * 1024


@given(drawn=raw_events(), partitions=st.integers(1, 5), block_bytes_max=st.sampled_from((1, 3_000, WIDE)))
@settings(max_examples=60, deadline=None)
def test_each_partition_holds_its_orgs_in_the_order_of_the_batch(
    drawn: list[Event], partitions: int, block_bytes_max: int
) -> None:
    """Nothing is lost, doubled or overtaken, however small the blocks must be."""
    read = _routed(drawn, partitions=partitions, block_bytes_max=block_bytes_max)

    wanted: dict[int, list[tuple[int, int]]] = {}
    for event in drawn:
        place = partition_of(event.org, partitions=partitions)
        wanted.setdefault(place, []).append((event.partition, event.offset))
    assert wanted == read


def test_a_block_is_no_longer_than_the_limit() -> None:
    """A batch that does not fit is cut in order until it does."""
    drawn = [Event(offset, id=f"request-{offset * 7919}") for offset in range(400)]

    messages = [message for _, message in route(make_batch(drawn), partitions=1, topic=TOPIC, block_bytes_max=8_000)]

    assert len(messages) > 1
    assert max(map(len, messages)) <= 8_000


def test_one_event_is_never_cut() -> None:
    """An event that alone exceeds the limit goes as it is; the topic's own limit is wider than any event."""
    assert len(route(make_batch([Event()]), partitions=1, topic=TOPIC, block_bytes_max=1)) == 1


def test_no_events_give_no_block() -> None:
    """An empty block would be an offset without content."""
    assert route(make_batch([]), partitions=3, topic=TOPIC, block_bytes_max=WIDE) == []


@pytest.mark.parametrize(
    ("org", "partition"), [("acme", 9), ("zen", 0), ("beta", 6), ("a", 11), ("org/with:all@kinds~of?chars#%+-._", 0)]
)
def test_an_org_lives_in_its_partition_for_ever(org: str, partition: int) -> None:
    """The place of an org in twelve partitions, written down: another would split its identities between two."""
    assert partition_of(org, partitions=12) == partition


@given(drawn=raw_events())
@settings(max_examples=30, deadline=None)
def test_the_raw_partition_of_a_copy_does_not_matter(drawn: list[Event]) -> None:
    """All copies of an identity meet in one partition, whatever partition their producers chose."""
    moved = [replace(event, partition=1 - event.partition) for event in drawn]

    here, there = (_routed(events, partitions=4, block_bytes_max=WIDE) for events in (drawn, moved))
    assert here.keys() == there.keys()


def _routed(drawn: list[Event], *, partitions: int, block_bytes_max: int) -> dict[int, list[tuple[int, int]]]:
    """The raw places of the events, by partition of usage.priced, in log order."""
    read: dict[int, list[tuple[int, int]]] = {}
    messages = route(make_batch(drawn), partitions=partitions, topic=TOPIC, block_bytes_max=block_bytes_max)
    for offset, (partition, value) in enumerate(messages):
        events = decode_blocks([Block(partition, offset, 0, value)]).events
        read.setdefault(partition, []).extend(events.select("partition", "offset").iter_rows())
    return read

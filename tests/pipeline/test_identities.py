"""Remembered identities: a filter that never forgets what it says it covers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.identities import Identities, identity_hashes
from tests.pipeline.batches import Event, make_batch

runs = st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=6), max_size=25)


@pytest.mark.parametrize(
    ("identity", "value"),
    [
        (("acme", "/gateway", "a"), 13_593_422_987_083_320_494),
        (("zen", "/batch", "req-7f3a"), 5_606_098_826_430_819_608),
    ],
)
def test_an_identity_has_its_hash_for_ever(identity: tuple[str, str, str], value: int) -> None:
    """Stored hashes are compared with new ones: a library that hashed otherwise would let repeats count."""
    org, source, name = identity

    hashes = identity_hashes(make_batch([Event(org=org, source=source, id=name)]).events)

    assert hashes.tolist() == [value]


def test_parts_of_an_identity_never_run_together() -> None:
    """("ab", "c") and ("a", "bc") are two identities."""
    pairs = [Event(org="ab", source="c"), Event(org="a", source="bc"), Event(org="abc", source="a")]

    hashes = identity_hashes(make_batch(pairs).events)

    assert len(set(hashes.tolist())) == 3


def test_content_and_place_are_no_part_of_an_identity() -> None:
    """A repeat with other content, from another partition, has the hash of the first."""
    first = Event()
    hashes = identity_hashes(make_batch([first, replace(first, partition=1, offset=9, status="error")]).events)

    assert hashes[0] == hashes[1]


@given(runs=runs, limit=st.integers(1, 40))
def test_whatever_was_counted_since_covered_from_is_remembered(runs: list[list[int]], limit: int) -> None:
    """Forgetting is honest: a hash of a block at or above covered_from is always found."""
    identities = _remembering(runs, limit=limit)

    covered = [value for block, run in enumerate(runs) for value in run if block >= identities.covered_from]
    assert identities.contain(np.array(covered, dtype=np.uint64)).all()


@given(runs=runs)
def test_within_the_limit_nothing_is_forgotten_and_nothing_invented(runs: list[list[int]]) -> None:
    """With room for all, memory is a set."""
    identities = _remembering(runs, limit=10_000)
    known = {value for run in runs for value in run}
    asked = [*known, *(value ^ 1 for value in known), 0, 2**64 - 1]

    found = identities.contain(np.array(asked, dtype=np.uint64))

    assert found.tolist() == [value in known for value in asked]
    assert identities.covered_from == 0


@given(runs=runs, limit=st.integers(1, 40))
def test_memory_is_bounded(runs: list[list[int]], limit: int) -> None:
    """At most the limit is held, apart from one run that alone exceeds it."""
    identities = _remembering(runs, limit=limit)

    assert len(identities) <= max(limit, max(map(len, runs), default=0))


def test_few_segments_are_searched_after_many_runs() -> None:
    """Runs of one size are merged, so that a look-up stays a handful of searches."""
    identities = _remembering([[run * 10 + value for value in range(10)] for run in range(1_000)], limit=1_000_000)

    assert len(identities) == 10_000
    assert len(identities.segments) <= 14


def test_a_state_is_handed_back_and_never_changed() -> None:
    """The old memory stays as it was: a batch that dies leaves no trace."""
    before = _remembering([[1, 2], [3]], limit=10)

    before.with_counted(np.array([4], dtype=np.uint64), last_block=9)

    assert before.contain(np.array([1, 2, 3, 4], dtype=np.uint64)).tolist() == [True, True, True, False]


def _remembering(runs: list[list[int]], *, limit: int) -> Identities:
    identities = Identities(limit)
    for block, run in enumerate(runs):
        identities = identities.with_counted(np.array(run, dtype=np.uint64), last_block=block)
    return identities

"""What the producer of a conflict is told."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.conflicts import PREFIX_CHARACTERS_MAX, conflict_reject
from pipeline.memory_store import MemoryStore
from schemas.rejects import Reason
from tests.pipeline.batches import NOON, Event, make_block, make_record
from tests.pipeline.driving import books_of, from_the_store

if TYPE_CHECKING:
    from schemas.records import RawRecord

SECOND = Event(1, status="error")


def test_a_conflict_is_refused_at_its_own_place_and_names_the_fact() -> None:
    """Both coordinates are there: the refused record's as key, the counted one's in the sentence."""
    reject = _reject()

    assert (reject.reason, reject.topic, reject.partition, reject.offset, reject.index, reject.of) == (
        Reason.CONFLICT, "usage.events", 0, 1, 0, 1,
    )  # fmt: skip
    assert "usage.events/0/0/0" in reject.detail
    assert (reject.org, reject.id, reject.received_at) == ("acme", "a", NOON)


def test_the_payload_is_the_refused_record() -> None:
    """Digest and beginning are those of the value in Kafka."""
    record = make_record([SECOND])

    reject = _reject(record=record)

    assert reject.payload_sha256 == hashlib.sha256(record.value or b"").hexdigest()
    assert reject.payload_prefix.startswith('{"specversion"')
    assert len(reject.payload_prefix) <= PREFIX_CHARACTERS_MAX


def test_a_record_that_kafka_no_longer_holds_is_refused_without_its_payload() -> None:
    """Retention does not stop a worker; the sentence says what is missing."""
    reject = _reject(record=None)

    assert (reject.payload_sha256, reject.payload_prefix) == ("", "")
    assert "no longer held by Kafka" in reject.detail


def test_a_secret_in_the_record_is_masked() -> None:
    """Nothing secret-shaped leaves the raw topic, also in what is cut short."""
    secret = "sk-" + "a1" * 20
    padding = "x" * (PREFIX_CHARACTERS_MAX - 10)
    for value in (f'{{"note": "{secret}"}}', padding + secret):
        reject = _reject(record=make_record([SECOND])._replace(value=value.encode()))

        assert "a1a1" not in reject.payload_prefix


def test_the_same_conflict_is_refused_the_same_way_again() -> None:
    """A replay publishes the same key and body."""
    record = make_record([SECOND])

    assert _reject(record=record) == _reject(record=record)


def test_a_conflict_takes_nothing_from_the_fact() -> None:
    """The first event stays counted as it was."""
    store = MemoryStore()
    from_the_store([make_block([Event(0)])], store=store)
    alone = books_of(store).facts

    from_the_store([make_block([SECOND, replace(SECOND, offset=2)], offset=1)], store=store)

    assert alone == books_of(store).facts


def _reject(record: RawRecord | None = make_record([SECOND])) -> Any:  # noqa: B008 -- a value, never changed
    store = MemoryStore()
    from_the_store([make_block([Event(0), SECOND])], store=store)
    (conflict,) = store.repeats().iter_rows(named=True)
    return conflict_reject(conflict, record=record)

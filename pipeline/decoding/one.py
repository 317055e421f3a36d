"""The scalar specification: what one record becomes, in plain Python and in the contract's order.

The fast path in ``columns.py`` is held to this by a property test, and hands everything to it that is not ordinary.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Final, cast

import msgspec

from pipeline.decoding.reading import Unreadable, read_candidates
from pipeline.decoding.reasons import (
    OPTIONAL_DATA_IDS,
    Candidate,
    judge,
    readable_id,
)
from schemas.event import PAYLOAD_PREFIX_CHARACTERS_MAX
from schemas.event_values import EPOCH
from schemas.rejects import Reject
from schemas.secrets import redacted_prefix
from schemas.variants import variant_text

if TYPE_CHECKING:
    from collections.abc import Container
    from decimal import Decimal

    from schemas.records import RawRecord
    from schemas.rejects import Reason

#: A record's time outside of these can only come from a producer's clock on a topic without LogAppendTime.
RECEIVED_MS_MAX: Final = 253_402_300_799_999  # the last millisecond of the year 9999
#: Enough bytes that a secret which begins within the prefix is recognised; longer ones count as cut.
_PREFIX_LOOKED_AT_BYTES_MAX: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How far an event's time may lie from the broker's time of its record (settings; raised for a backfill)."""

    max_ahead_seconds: int = 300
    max_age_days: int = 35

    @property
    def max_ahead_us(self) -> int:
        """``max_ahead_seconds`` in microseconds."""
        return self.max_ahead_seconds * 1_000_000

    @property
    def max_age_us(self) -> int:
        """``max_age_days`` in microseconds."""
        return self.max_age_days * 24 * 60 * 60 * 1_000_000


@dataclass(frozen=True, slots=True)
class Decoded:
    """A valid event with its coordinates: one row of EVENTS, and its rows of USAGE."""

    partition: int
    offset: int
    index: int
    of: int
    received_us: int
    org: str
    source: str
    id: str
    time_us: int
    operation: str
    project: str
    api_key: str
    environment: str
    user: str
    provider: str
    model: str
    variant: str
    status: str
    tags: str
    usage: tuple[tuple[str, Decimal], ...]


def decode_one(record: RawRecord, *, limits: Limits, only: Container[int] | None = None) -> list[Decoded | Reject]:
    """What the record holds, by index: valid events and refusals; one refusal when it can't be read as a whole.

    Args:
        record: as the broker gave it.
        limits: how far an event's time may lie from the record's.
        only: the indexes to look at, all by default; an unreadable record is refused as a whole in any case.
    """
    payload = _Payload(record)
    candidates = read_candidates(record)
    if isinstance(candidates, Unreadable):
        whole = candidates
        return [_refused(payload, (whole.reason, whole.detail), tree=whole.about, index=0, of=1)]
    of = len(candidates.trees)
    received_us = received_at_us(record)
    earliest = received_us - limits.max_age_us
    latest = received_us + limits.max_ahead_us
    outcomes: list[Decoded | Reject] = []
    for index, tree in enumerate(candidates.trees):
        if only is not None and index not in only:
            continue
        candidate = Candidate(tree, earliest, latest, candidates.repeating, candidates.surrogates)
        if found := judge(candidate):
            outcomes.append(_refused(payload, found, tree=tree, index=index, of=of))
        else:
            outcomes.append(_accepted(record, candidate, index=index, of=of))
    return outcomes


def received_at_us(record: RawRecord) -> int:
    """The broker's time of the record in microseconds, brought into the years 1970 to 9999."""
    return min(max(record.timestamp_ms, 0), RECEIVED_MS_MAX) * 1000


def canonical_tags(tags: dict[str, str] | None) -> str:
    """Compact JSON with sorted keys, so that equal tags are equal texts; "" when there are none."""
    return msgspec.json.encode(tags, order="sorted").decode() if tags else ""


def _accepted(record: RawRecord, candidate: Candidate, *, index: int, of: int) -> Decoded:
    event = cast("dict[str, str]", candidate.event)
    data = cast("dict[str, str]", candidate.data)
    environment, user, provider, model = (data.get(name) or "" for name in OPTIONAL_DATA_IDS)
    return Decoded(
        partition=record.partition,
        offset=record.offset,
        index=index,
        of=of,
        received_us=received_at_us(record),
        org=event["subject"],
        source=event["source"],
        id=event["id"],
        time_us=cast("int", candidate.time_us),
        operation=event["type"],
        project=data["project"],
        api_key=data["api_key"],
        environment=environment,
        user=user,
        provider=provider,
        model=model,
        variant=variant_text(candidate.variant),
        status=data.get("status") or "ok",
        tags=canonical_tags(cast("dict[str, str] | None", candidate.data.get("tags"))),
        usage=tuple(candidate.quantities.items()),
    )


class _Payload:
    """What a refusal tells of its record's value; computed once for all refusals of a batch."""

    def __init__(self, record: RawRecord) -> None:
        self.record = record

    @cached_property
    def sha256(self) -> str:
        """Of the value; no value counts as an empty one."""
        return hashlib.sha256(self.record.value or b"").hexdigest()

    @cached_property
    def prefix(self) -> str:
        """Redacted."""
        value = self.record.value or b""
        was_cut = len(value) > _PREFIX_LOOKED_AT_BYTES_MAX
        text = value[:_PREFIX_LOOKED_AT_BYTES_MAX].decode("utf-8", "replace")
        return redacted_prefix(text, PAYLOAD_PREFIX_CHARACTERS_MAX, was_cut=was_cut)


def _refused(payload: _Payload, found: tuple[Reason, str], *, tree: object, index: int, of: int) -> Reject:
    record = payload.record
    return Reject(
        reason=found[0],
        detail=found[1],
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        index=index,
        of=of,
        received_at=EPOCH + timedelta(microseconds=received_at_us(record)),
        org=readable_id(tree, "subject"),
        id=readable_id(tree, "id"),
        payload_sha256=payload.sha256,
        payload_prefix=payload.prefix,
    )

"""Why an event was refused: the closed list of reasons, and the record of one refusal."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


class Reason(StrEnum):
    """The reasons in the order in which they are judged: of several that apply, the first one counts."""

    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"
    NOT_JSON = "not_json"
    DUPLICATE_KEY = "duplicate_key"
    NOT_CLOUDEVENT = "not_cloudevent"
    TOO_MANY_EVENTS = "too_many_events"
    MISSING_FIELD = "missing_field"
    BAD_TYPE = "bad_type"
    BAD_ID = "bad_id"
    RAW_SECRET = "raw_secret"  # noqa: S105 -- the name of a reason, not a secret
    BAD_TIME = "bad_time"
    TIME_IN_FUTURE = "time_in_future"
    TIME_TOO_OLD = "time_too_old"
    UNKNOWN_FIELD = "unknown_field"
    BAD_QUANTITY = "bad_quantity"
    CONFLICT = "conflict"  # found when counting: the identity is taken by an event with other content


@dataclass(frozen=True, slots=True)
class Reject:
    """One refused event (or one record that could not be read as a whole: index 0 of 1).

    ``org`` and ``id`` are "" when they could not be read or are not valid ids. ``payload_prefix`` is at most 256
    characters of the record's value, ``detail`` a sentence; both have every secret-shaped substring masked.
    """

    reason: Reason
    detail: str
    topic: str
    partition: int
    offset: int
    index: int
    of: int
    received_at: datetime
    org: str
    id: str
    payload_sha256: str
    payload_prefix: str

"""A conflict as a refusal: what ``usage.rejected`` says of an event whose identity another one holds."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from schemas.rejects import Reason, Reject
from schemas.secrets import redact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from schemas.records import RawRecord

PREFIX_CHARACTERS_MAX = 256


def conflict_reject(conflict: Mapping[str, Any], *, record: RawRecord | None) -> Reject:
    """The refusal of one conflict (a row of REPEATS).

    ``record`` is its raw record, for the payload's digest and beginning; None when Kafka no longer holds it, then both
    are empty and the detail says so.
    """
    first = "/".join(str(conflict[f"first_{part}"]) for part in ("topic", "partition", "offset", "index"))
    detail = f"The identity is held by the event at {first}, whose content differs; use a new id for a new event."
    value = b"" if record is None else record.value or b""
    if record is None:
        detail += " The record itself is no longer held by Kafka."
    return Reject(
        reason=Reason.CONFLICT,
        detail=detail,
        topic=conflict["topic"],
        partition=conflict["partition"],
        offset=conflict["offset"],
        index=conflict["index"],
        of=conflict["of"],
        received_at=conflict["received_at"],
        org=conflict["org"],
        id=conflict["id"],
        payload_sha256="" if record is None else hashlib.sha256(value).hexdigest(),
        payload_prefix=redact(value.decode("utf-8", "replace"))[:PREFIX_CHARACTERS_MAX],
    )

"""Refusals and conflicts on their way out: a row in the store and a message on ``usage.rejected``, both awaited."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from schemas.frames import INSTANT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.rejects import Reject

#: The columns of ``rejected_rows``.
REJECTED: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "reason": pl.String,
    "detail": pl.String,
    "topic": pl.String,
    "partition": pl.Int32,
    "offset": pl.Int64,
    "index": pl.Int32,
    "of": pl.Int32,
    "received_at": INSTANT,
    "org": pl.String,
    "id": pl.String,
    "payload_sha256": pl.String,
    "payload_prefix": pl.String,
}


def reject_rows(rejects: Sequence[Reject]) -> pl.DataFrame:
    """Refusals as rows of ``rejected_rows``."""
    return pl.DataFrame([{**asdict(reject), "reason": reject.reason.value} for reject in rejects], schema=REJECTED)


def reject_messages(rejects: Sequence[Reject]) -> list[tuple[str, bytes]]:
    """Refusals as (key, value) of ``usage.rejected``; the key is the record's place, the same if it is sent again."""
    return [
        (
            f"{reject.topic}/{reject.partition}/{reject.offset}/{reject.index}",
            json.dumps(_fields(reject), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"),
        )
        for reject in rejects
    ]


def _fields(reject: Reject) -> dict[str, Any]:
    fields = asdict(reject)
    del fields["of"]
    fields["reason"] = reject.reason.value
    fields["received_at"] = f"{reject.received_at:%Y-%m-%dT%H:%M:%S.%f}Z"
    return fields

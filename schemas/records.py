"""A raw record as the broker gave it, without any client library's type."""

from __future__ import annotations

from typing import NamedTuple


class RawRecord(NamedTuple):
    """One record of ``usage.events``. ``timestamp_ms`` is the broker's append time; ``value`` None is "no value"."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()

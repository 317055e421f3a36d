"""A raw record as the broker gave it, without any client library's type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload


class RawRecord(NamedTuple):
    """One record of ``usage.events``. ``timestamp_ms`` is the broker's append time; ``value`` None is "no value"."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class RawRecords(Sequence[RawRecord]):
    """Many records of one topic as columns, which cost a fraction; a single one is made when it is asked for."""

    topic: str
    partition: Sequence[int]
    offset: Sequence[int]
    timestamp_ms: Sequence[int]
    value: Sequence[bytes | None]
    headers: Sequence[tuple[tuple[str, bytes], ...]]

    def __len__(self) -> int:
        return len(self.offset)

    @overload
    def __getitem__(self, at: int) -> RawRecord: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[RawRecord]: ...
    def __getitem__(self, at: int | slice) -> RawRecord | Sequence[RawRecord]:
        if isinstance(at, slice):
            return [self[place] for place in range(*at.indices(len(self)))]
        return RawRecord(
            self.topic, self.partition[at], self.offset[at], self.timestamp_ms[at], self.value[at], self.headers[at]
        )

"""Records apart into units: the JSON text of one event each, and where it stands, whichever mode its record came in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import numpy as np

from pipeline.decoding.reading import Mode, mode_of
from schemas.event import BATCH_EVENTS_MAX, SPEC_VERSION, VALUE_BYTES_MAX
from schemas.records import RawRecords

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from schemas.records import RawRecord

    Integers = npt.NDArray[np.int64]
    Headers = tuple[tuple[str, bytes], ...]


class Attributes(NamedTuple):
    """The attributes of an event in binary mode."""

    id: str
    source: str
    type: str
    subject: str
    time: str


_ATTRIBUTE_HEADERS: Final = tuple(f"ce_{name}" for name in Attributes._fields)
_split: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
#: What msgspec's decoders raise on bytes that they do not take: no UTF-8 is a ValueError, no value at all a TypeError.
NOT_TAKEN: Final = (msgspec.MsgspecError, ValueError, RecursionError, TypeError)


@dataclass(frozen=True, slots=True)
class Units:
    """Texts of events side by side, and where each stands."""

    values: list[bytes | msgspec.Raw | None]
    position: Integers  # of the record among the records
    index: Integers
    of: Integers
    attributes: list[Attributes] | None = None  # binary mode only: then the text is ``data`` alone


@dataclass(slots=True)
class Left:
    """What the fast path leaves to the scalar one: positions of records, with the indexes in them that matter."""

    indexes: dict[int, set[int] | None] = field(default_factory=dict)  # None: the record as a whole

    def records(self, positions: Iterable[int]) -> None:
        """Leave records as a whole."""
        self.indexes.update(dict.fromkeys(positions))

    def event(self, position: int, index: int) -> None:
        """Leave one event of a record."""
        among = self.indexes.setdefault(position, set())
        if among is not None:
            among.add(index)


@dataclass(frozen=True, slots=True)
class RecordColumns:
    """The records of a batch, turned by a quarter."""

    partition: Sequence[int]
    offset: Sequence[int]
    timestamp_ms: Sequence[int]
    value: Sequence[bytes | None]
    headers: Sequence[Headers]

    @classmethod
    def of(cls, records: Sequence[RawRecord]) -> RecordColumns:
        """The columns of the records."""
        if isinstance(records, RawRecords):
            return cls(records.partition, records.offset, records.timestamp_ms, records.value, records.headers)
        if not records:
            return cls((), (), (), (), ())
        _, partition, offset, timestamp_ms, value, headers = zip(*records, strict=True)
        return cls(partition, offset, timestamp_ms, value, headers)


def sorted_by_mode(records: RecordColumns) -> dict[Mode, Sequence[int]]:
    """The positions of the records of each mode."""
    if not any(records.headers):
        return {mode: range(len(records.headers) if mode is Mode.BY_VALUE else 0) for mode in Mode}
    positions: dict[Mode, list[int]] = {mode: [] for mode in Mode}
    known: dict[Headers, Mode] = {}  # lives for one batch only, so hostile headers cannot fill the memory
    for position, headers in enumerate(map(tuple, records.headers)):  # a client may hand out lists
        mode = known.get(headers)
        if mode is None:
            mode = known[headers] = mode_of(headers)
        positions[mode].append(position)
    return dict(positions)


def plain_units(records: RecordColumns, positions: Sequence[int]) -> Units:
    """Records that are taken for one event each."""
    return _alone([records.value[position] for position in positions], positions)


def batch_units(records: RecordColumns, positions: Iterable[int], *, left: Left) -> Units:
    """The elements of batches, each on its own, so that a bad one costs its neighbours nothing."""
    values: list[bytes | msgspec.Raw | None] = []
    lengths: dict[int, int] = {}
    for position in positions:
        elements = _elements(records.value[position])
        if not 1 <= len(elements) <= BATCH_EVENTS_MAX:
            left.records([position])
            continue
        values += elements
        lengths[position] = len(elements)
    of_records = np.array([*lengths.values()], np.int64)
    of = np.repeat(of_records, of_records)
    index = np.arange(len(values)) - np.repeat(np.cumsum(of_records) - of_records, of_records)
    return Units(values, np.repeat(np.array([*lengths], np.int64), of_records), index, of)


def _elements(value: bytes | None) -> list[msgspec.Raw]:
    """The texts of an array's elements, none when the value is no array or too large."""
    if value is None or len(value) > VALUE_BYTES_MAX or value.lstrip()[:1] != b"[":
        return []
    try:
        return _split(value)
    except NOT_TAKEN:
        return []


def binary_units(records: RecordColumns, positions: Iterable[int], *, left: Left) -> Units:
    """Events whose attributes are headers, unless one of them is missing, there twice or no UTF-8."""
    values: list[bytes | msgspec.Raw | None] = []
    taken: list[int] = []
    attributes_of: list[Attributes] = []
    for position in positions:
        headers = dict(records.headers[position])
        try:
            attributes = Attributes(*[headers[name].decode() for name in _ATTRIBUTE_HEADERS])
        except (KeyError, AttributeError, UnicodeDecodeError):  # AttributeError: a header may be null
            left.records([position])
            continue
        if len(headers) != len(records.headers[position]) or headers.get("ce_specversion") != SPEC_VERSION.encode():
            left.records([position])
            continue
        values.append(records.value[position])
        taken.append(position)
        attributes_of.append(attributes)
    return _alone(values, taken, attributes_of)


def _alone(
    values: list[bytes | msgspec.Raw | None], positions: Sequence[int], attributes: list[Attributes] | None = None
) -> Units:
    """Units that are their record's only one."""
    # numpy walks a range one Python integer at a time
    position = (
        np.arange(positions.start, positions.stop) if isinstance(positions, range) else np.array(positions, np.int64)
    )
    zeros = np.zeros(len(positions), np.int64)
    return Units(values, position, zeros, zeros + 1, attributes)

"""Records apart into units: the JSON text of one event each, and where it stands, whichever mode its record came in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from pipeline.decoding.reading import Mode, mode_of
from schemas.event import BATCH_EVENTS_MAX, SPEC_VERSION, VALUE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from schemas.records import RawRecord

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
#: What msgspec's decoders raise on bytes that they do not take: absurd exponents (ArithmeticError), deep nesting and a
#: record without a value (TypeError) included.
NOT_TAKEN: Final = (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError, TypeError)


@dataclass(slots=True)
class Units:
    """Texts of events side by side, and where each stands."""

    values: list[bytes | msgspec.Raw | None] = field(default_factory=list)
    position: list[int] = field(default_factory=list)  # of the record among the records
    index: list[int] = field(default_factory=list)
    of: list[int] = field(default_factory=list)
    attributes: list[Attributes] = field(default_factory=list)  # binary mode only: then the text is ``data`` alone


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


def sorted_by_mode(records: Sequence[RawRecord]) -> dict[Mode, Sequence[int]]:
    """The positions of the records of each mode."""
    if not any([record.headers for record in records]):  # noqa: C419 -- a list is twice as fast here
        return {mode: range(len(records) if mode is Mode.BY_VALUE else 0) for mode in Mode}
    positions: dict[Mode, list[int]] = {mode: [] for mode in Mode}
    known: dict[Headers, Mode] = {}  # lives for one batch only, so hostile headers cannot fill the memory
    for position, record in enumerate(records):
        mode = known.get(record.headers)
        if mode is None:
            mode = known[record.headers] = mode_of(record.headers)
        positions[mode].append(position)
    return dict(positions)


def plain_units(records: Sequence[RawRecord], positions: Sequence[int]) -> Units:
    """Records that are taken for one event each."""
    once = len(positions)
    return Units([records[position].value for position in positions], list(positions), [0] * once, [1] * once)


def batch_units(records: Sequence[RawRecord], positions: Iterable[int], *, left: Left) -> Units:
    """The elements of batches, each on its own, so that a bad one costs its neighbours nothing."""
    units = Units()
    for position in positions:
        elements = _elements(records[position].value)
        if not 1 <= len(elements) <= BATCH_EVENTS_MAX:
            left.records([position])
            continue
        units.values += elements
        units.position += [position] * len(elements)
        units.index += range(len(elements))
        units.of += [len(elements)] * len(elements)
    return units


def _elements(value: bytes | None) -> list[msgspec.Raw]:
    """The texts of an array's elements, none when the value is no array or too large."""
    if value is None or len(value) > VALUE_BYTES_MAX or value.lstrip()[:1] != b"[":
        return []
    try:
        return _split(value)
    except NOT_TAKEN:
        return []


def binary_units(records: Sequence[RawRecord], positions: Iterable[int], *, left: Left) -> Units:
    """Events whose attributes are headers, unless one of them is missing, there twice or no UTF-8."""
    units = Units()
    for position in positions:
        record = records[position]
        headers = dict(record.headers)
        try:
            attributes = Attributes(*[headers[name].decode() for name in _ATTRIBUTE_HEADERS])
        except (KeyError, AttributeError, UnicodeDecodeError):  # AttributeError: a header may be null
            left.records([position])
            continue
        if len(headers) != len(record.headers) or headers.get("ce_specversion") != SPEC_VERSION.encode():
            left.records([position])
            continue
        units.values.append(record.value)
        units.position.append(position)
        units.attributes.append(attributes)
    units.index = [0] * len(units.values)
    units.of = [1] * len(units.values)
    return units

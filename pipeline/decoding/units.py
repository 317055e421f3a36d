"""Bytes to typed structs, one msgspec decode per event, whichever mode the record came in.

What msgspec does not take is left to the scalar path. What it does take is JSON in UTF-8 with the right types and
without lone surrogates; everything else about it is checked by ``columns.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec

from pipeline.decoding.reading import Mode, mode_of
from schemas.event import BATCH_EVENTS_MAX, SPEC_VERSION, VALUE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.records import RawRecord

    Headers = tuple[tuple[str, bytes], ...]


class Data(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """``data``. None stands for absent and for null alike: counting quotation marks tells them apart."""

    project: str
    api_key: str
    environment: str | None = None
    user: str | None = None
    provider: str | None = None
    model: str | None = None
    status: Literal["ok", "error"] | None = None
    usage: dict[str, Any] | None = None
    tags: dict[str, str] | None = None


class StructuredEvent(msgspec.Struct, gc=False):
    """A structured event, with the optional attributes that SDKs and tracing add to every event."""

    specversion: Literal["1.0"]
    id: str
    source: str
    type: str
    subject: str
    time: str
    data: Data
    datacontenttype: str | None = None
    dataschema: str | None = None
    partitionkey: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None


class BoundAttributes(NamedTuple):
    """The attributes of an event in binary mode, named as in ``StructuredEvent``."""

    id: str
    source: str
    type: str
    subject: str
    time: str


_ATTRIBUTE_HEADERS: Final = tuple(f"ce_{name}" for name in BoundAttributes._fields)
EXTENSIONS: Final = ("datacontenttype", "dataschema", "partitionkey", "traceparent", "tracestate")

# float_hook is given the text of a number, so nothing is rounded.
_decode_event: Final = msgspec.json.Decoder(StructuredEvent, float_hook=Decimal).decode
_decode_data: Final = msgspec.json.Decoder(Data, float_hook=Decimal).decode
_split: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode

#: What the decoders raise on bytes that they do not take; absurd exponents (ArithmeticError), deep nesting and a record
#: without a value (TypeError) included.
NOT_TAKEN: Final = (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError, TypeError)


@dataclass(slots=True)
class Units:
    """Decoded events side by side, and where each stands."""

    values: list[bytes | msgspec.Raw] = field(default_factory=list)  # the JSON text that each was decoded from
    attributes: list[Any] = field(default_factory=list)  # StructuredEvent or BoundAttributes
    data: list[Data] = field(default_factory=list)
    position: list[int] = field(default_factory=list)  # of the record among the records
    index: list[int] = field(default_factory=list)
    of: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Left:
    """What the fast path leaves to the scalar one: positions of records, with the indexes in them that matter."""

    indexes: dict[int, set[int] | None] = field(default_factory=dict)  # None: the record as a whole

    def record(self, position: int) -> None:
        """Leave a record as a whole."""
        self.indexes[position] = None

    def element(self, position: int, index: int) -> None:
        """Leave one event of a record."""
        among = self.indexes.setdefault(position, set())
        if among is not None:
            among.add(index)


def decode_units(records: Sequence[RawRecord]) -> tuple[Units, Units, Left]:
    """The events of structured and batch mode, those of binary mode, and what is left."""
    structured, bound, left = Units(), Units(), Left()
    by_mode = _sorted_by_mode(records)
    for position in by_mode[Mode.UNKNOWN_FORMAT]:
        left.record(position)
    for position in _decode_plain(records, by_mode[Mode.STRUCTURED], structured):
        left.record(position)
    for position in _decode_plain(records, by_mode[Mode.BY_VALUE], structured):
        _decode_batch(records[position], position, structured, left)
    for position in by_mode[Mode.BATCH]:
        _decode_batch(records[position], position, structured, left)
    for position in by_mode[Mode.BINARY]:
        _decode_binary(records[position], position, bound, left)
    structured.data = [event.data for event in structured.attributes]
    return structured, bound, left


def _sorted_by_mode(records: Sequence[RawRecord]) -> dict[Mode, Sequence[int]]:
    """The positions of the records of each mode."""
    if not any(record.headers for record in records):
        return {mode: range(len(records) if mode is Mode.BY_VALUE else 0) for mode in Mode}
    positions: dict[Mode, list[int]] = {mode: [] for mode in Mode}
    known: dict[Headers, Mode] = {}  # lives for one batch only, so hostile headers cannot fill the memory
    for position, record in enumerate(records):
        mode = known.get(record.headers)
        if mode is None:
            mode = known[record.headers] = mode_of(record.headers)
        positions[mode].append(position)
    return dict(positions)


def _decode_plain(records: Sequence[RawRecord], positions: Sequence[int], units: Units) -> list[int]:
    """Adds the records that are one event each, and answers with the positions of the others."""
    values: list[Any] = [records[position].value for position in positions]
    events: list[StructuredEvent] = []
    failed: list[int] = []
    for place, value in enumerate(values):
        try:
            events.append(_decode_event(value))
        except NOT_TAKEN:
            failed.append(place)
    taken: Sequence[int] = positions
    if failed:
        gone = set(failed)
        values = [value for place, value in enumerate(values) if place not in gone]
        taken = [position for place, position in enumerate(positions) if place not in gone]
    units.values += values
    units.attributes += events
    units.position += taken
    units.index += [0] * len(events)
    units.of += [1] * len(events)
    return [positions[place] for place in failed]


def _decode_batch(record: RawRecord, position: int, units: Units, left: Left) -> None:
    """Adds the events of a batch one by one, so that a bad one costs its neighbours nothing."""
    value = record.value
    if value is None or len(value) > VALUE_BYTES_MAX or value.lstrip()[:1] != b"[":
        left.record(position)
        return
    try:
        elements = _split(value)
    except NOT_TAKEN:
        left.record(position)
        return
    if not 1 <= len(elements) <= BATCH_EVENTS_MAX:
        left.record(position)
        return
    for index, element in enumerate(elements):
        try:
            units.attributes.append(_decode_event(element))
        except NOT_TAKEN:
            left.element(position, index)
            continue
        units.values.append(element)
        units.position.append(position)
        units.index.append(index)
        units.of.append(len(elements))


def _decode_binary(record: RawRecord, position: int, units: Units, left: Left) -> None:
    """Adds an event whose attributes are headers, unless one of them is there twice or is no UTF-8."""
    headers = dict(record.headers)
    try:
        data = _decode_data(record.value or b"")
        attributes = BoundAttributes(*[headers[name].decode() for name in _ATTRIBUTE_HEADERS])
    except (*NOT_TAKEN, KeyError, AttributeError):  # a header that is missing, or null
        left.record(position)
        return
    if len(headers) != len(record.headers) or headers.get("ce_specversion") != SPEC_VERSION.encode():
        left.record(position)
        return
    units.values.append(record.value or b"")
    units.attributes.append(attributes)
    units.data.append(data)
    units.position.append(position)
    units.index.append(0)
    units.of.append(1)

"""Units to columns of Python values: one typed msgspec decode each, and the checks that need the text itself.

Units are worked on in slices small enough to stay in the processor's cache: decoding ten thousand events first and
collecting their fields afterwards costs a third more.

Why a repeated name cannot slip through although msgspec silently keeps its last value: in JSON without escapes every
name and every string value brings exactly two quotation marks. Those of the names and strings that came out of the
decoder are counted; when the bytes hold more, a name is there that did not come out (repeated, null or an attribute
that nobody declared), and the rows are looked at on their own. The counted ones are never more than those in the bytes,
so one row cannot make up for another, and one comparison of two sums clears a whole slice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
import numpy as np

from pipeline.decoding.units import NOT_TAKEN
from schemas.event import DEPTH_MAX, ID_PATTERN, VALUE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.decoding.units import Units

#: Measured: 128 to 512 are equally good.
_SLICE_UNITS: Final = 256


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


#: Names and strings that every structured event has: seven attributes of which six are strings, and in ``data`` the two
#: required ids with their names.
_TEXTS_OF_EVENT: Final = 7 + 6 + 4
_TEXTS_OF_DATA: Final = 4

# float_hook is given the text of a number, so nothing is rounded.
_decode_event: Final = msgspec.json.Decoder(StructuredEvent, float_hook=Decimal).decode
_decode_data: Final = msgspec.json.Decoder(Data, float_hook=Decimal).decode
_decode_any: Final = msgspec.json.Decoder(float_hook=Decimal).decode

_ID: Final = re.compile(ID_PATTERN)
_ID_BYTES: Final = bytes(byte for byte in range(128) if _ID.fullmatch(chr(byte)))
_ESCAPE: Final = re.compile(rb"\\.", re.DOTALL)
_QUOTE: Final = ord('"')
_NOTHING: Final[dict[str, Any]] = {}


@dataclass(slots=True)
class Columns:
    """Events as columns of Python values, one row each; the quantities of all rows stand one after another."""

    position: list[int] = field(default_factory=list)
    index: list[int] = field(default_factory=list)
    of: list[int] = field(default_factory=list)
    id: list[str] = field(default_factory=list)
    source: list[str] = field(default_factory=list)
    org: list[str] = field(default_factory=list)
    operation: list[str] = field(default_factory=list)
    time: list[str] = field(default_factory=list)
    project: list[str] = field(default_factory=list)
    api_key: list[str] = field(default_factory=list)
    environment: list[str | None] = field(default_factory=list)
    user: list[str | None] = field(default_factory=list)
    provider: list[str | None] = field(default_factory=list)
    model: list[str | None] = field(default_factory=list)
    status: list[str | None] = field(default_factory=list)
    tags: list[dict[str, str] | None] = field(default_factory=list)
    usage_count: list[int] = field(default_factory=list)
    meter: list[str] = field(default_factory=list)
    quantity: list[Any] = field(default_factory=list)
    quantity_kinds: set[type] = field(default_factory=set)
    #: Rows that are not sure to be valid.
    unsure: list[int] = field(default_factory=list)


def gather(units: Units, into: Columns) -> list[int]:
    """Adds the units as rows, and answers with the places of those that msgspec does not take."""
    not_taken: list[int] = []
    for start in range(0, len(units.values), _SLICE_UNITS):
        places = range(start, min(start + _SLICE_UNITS, len(units.values)))
        not_taken += _gather_slice(units, places, into)
    return not_taken


def _gather_slice(units: Units, places: Sequence[int], into: Columns) -> list[int]:
    decode = _decode_data if units.attributes else _decode_event
    decoded: list[Any] = []
    not_taken: list[int] = []
    for place in places:
        try:
            decoded.append(decode(units.values[place]))
        except NOT_TAKEN:
            not_taken.append(place)
    if not_taken:
        gone = set(not_taken)
        places = [place for place in places if place not in gone]
    taken = _Slice(
        [units.values[place] for place in places],
        [units.attributes[place] for place in places] if units.attributes else decoded,
        decoded if units.attributes else [event.data for event in decoded],
    )
    into.position += [units.position[place] for place in places]
    into.index += [units.index[place] for place in places]
    into.of += [units.of[place] for place in places]
    _add_fields(taken, into)
    return not_taken


@dataclass(frozen=True, slots=True)
class _Slice:
    """Some units: their texts, and what came out of them."""

    values: list[Any]  # bytes or msgspec.Raw
    attributes: list[Any]  # StructuredEvent or Attributes
    data: list[Data]


def _add_fields(taken: _Slice, into: Columns) -> None:
    attributes, data = taken.attributes, taken.data
    required = (
        [event.id for event in attributes],
        [event.source for event in attributes],
        [event.subject for event in attributes],
        [event.type for event in attributes],
        [fields.project for fields in data],
        [fields.api_key for fields in data],
    )
    optional = (
        [fields.environment for fields in data],
        [fields.user for fields in data],
        [fields.provider for fields in data],
        [fields.model for fields in data],
    )
    status = [fields.status for fields in data]
    tags = [fields.tags for fields in data]
    usage = [fields.usage or _NOTHING for fields in data]
    meters = list(chain.from_iterable(usage))
    quantities = list(chain.from_iterable(map(dict.values, usage)))
    kinds = set(map(type, quantities))

    # None and "" bring no text that is counted: a lower bound, which is all that the comparison needs.
    given = [list(filter(None, texts)) for texts in optional]
    row = len(into.id)
    if not _are_of_id_characters(chain(*required, *given)):
        into.unsure += [row + at for at, ids in enumerate(zip(*required, *optional, strict=True)) if not _are_ids(ids)]
    texts = 2 * sum(map(len, given)) + 2 * (len(status) - status.count(None))
    texts += len(meters) + sum(map(bool, usage)) + sum(1 + 2 * len(pairs) for pairs in tags if pairs)
    if str in kinds:
        texts += sum(type(quantity) is str for quantity in quantities)
    into.unsure += [row + at for at in _doubtful(taken, texts_counted=texts)]

    into.id += required[0]
    into.source += required[1]
    into.org += required[2]
    into.operation += required[3]
    into.time += [event.time for event in attributes]
    into.project += required[4]
    into.api_key += required[5]
    into.environment += optional[0]
    into.user += optional[1]
    into.provider += optional[2]
    into.model += optional[3]
    into.status += status
    into.tags += tags
    into.usage_count += map(len, usage)
    into.meter += meters
    into.quantity += quantities
    into.quantity_kinds |= kinds


def _are_of_id_characters(texts: Iterable[str]) -> bool:
    joined = "".join(texts)
    return joined.isascii() and not joined.encode().translate(None, _ID_BYTES)


def _are_ids(texts: Iterable[str | None]) -> bool:
    return all(_ID.fullmatch(text) for text in texts if text)


def _doubtful(taken: _Slice, *, texts_counted: int) -> list[int]:
    """Which of the slice's texts may repeat a name or are too large: none of them in the ordinary case."""
    text = b"\n".join(taken.values)
    if len(text) > VALUE_BYTES_MAX and max(map(len, taken.values)) > VALUE_BYTES_MAX:
        return list(range(len(taken.values)))
    structured = bool(taken.attributes) and isinstance(taken.attributes[0], StructuredEvent)
    texts_counted += len(taken.values) * (_TEXTS_OF_EVENT if structured else _TEXTS_OF_DATA)
    if b"\\" not in text:
        quotes = np.count_nonzero(np.frombuffer(text, np.uint8) == _QUOTE)
        if quotes == 2 * texts_counted:
            return []
        if structured and quotes == 2 * (texts_counted + 2 * sum(map(_extensions_in, taken.attributes))):
            return []
    return [at for at, value in enumerate(taken.values) if not _has_distinct_names(bytes(value))]


def _extensions_in(event: StructuredEvent) -> int:
    return (
        (event.datacontenttype is not None)
        + (event.dataschema is not None)
        + (event.partitionkey is not None)
        + (event.traceparent is not None)
        + (event.tracestate is not None)
    )


def _has_distinct_names(value: bytes) -> bool:
    """Whether no object in a JSON text repeats a name; False also when it has brackets enough to be too deep."""
    if value.count(b"[") + value.count(b"{") >= DEPTH_MAX:
        return False
    try:
        waiting = [_decode_any(value)]
    except NOT_TAKEN:
        return False
    texts = 0
    for node in waiting:  # grows as it goes
        if type(node) is str:
            texts += 1
        elif type(node) is dict:
            texts += len(node)
            waiting += node.values()
        elif type(node) is list:
            waiting += node
    plain = _ESCAPE.sub(b"", value) if b"\\" in value else value
    return plain.count(b'"') == 2 * texts

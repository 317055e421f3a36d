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

from pipeline.decoding.texts import GrowingTexts
from pipeline.decoding.units import NOT_TAKEN
from schemas.event import DEPTH_MAX, VALUE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from pipeline.decoding.units import Units

    Places = npt.NDArray[np.int64]

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

_ESCAPE: Final = re.compile(rb"\\.", re.DOTALL)
_QUOTE: Final = ord('"')
_NOTHING: Final[dict[str, Any]] = {}


@dataclass(slots=True)
class Columns:
    """Events as columns, one row each; the quantities of all rows stand one after another."""

    rows: int = 0
    id: GrowingTexts = field(default_factory=GrowingTexts)
    source: GrowingTexts = field(default_factory=GrowingTexts)
    org: GrowingTexts = field(default_factory=GrowingTexts)
    operation: GrowingTexts = field(default_factory=GrowingTexts)
    time: GrowingTexts = field(default_factory=GrowingTexts)
    project: GrowingTexts = field(default_factory=GrowingTexts)
    api_key: GrowingTexts = field(default_factory=GrowingTexts)
    environment: GrowingTexts = field(default_factory=GrowingTexts)  # "" when absent, as in the three that follow
    user: GrowingTexts = field(default_factory=GrowingTexts)
    provider: GrowingTexts = field(default_factory=GrowingTexts)
    model: GrowingTexts = field(default_factory=GrowingTexts)
    failed: list[int] = field(default_factory=list)  # rows with the status "error"
    tags: list[dict[str, str] | None] = field(default_factory=list)
    usage_count: list[int] = field(default_factory=list)
    meter: list[str] = field(default_factory=list)
    quantity: list[Any] = field(default_factory=list)
    quantity_kinds: set[type] = field(default_factory=set)
    #: Where the rows stand: units, and which of them, in the order of the rows.
    taken: list[tuple[Units, Places]] = field(default_factory=list)
    #: Rows that are not sure to be valid.
    unsure: list[int] = field(default_factory=list)


def gather(units: Units, into: Columns) -> list[int]:
    """Adds the units as rows, and answers with the places of those that msgspec does not take."""
    if not units.values:
        return []
    not_taken: list[int] = []
    for start in range(0, len(units.values), _SLICE_UNITS):
        places = range(start, min(start + _SLICE_UNITS, len(units.values)))
        not_taken += _gather_slice(units, places, into)
    into.taken.append((units, np.delete(np.arange(len(units.values)), not_taken)))
    return not_taken


def _gather_slice(units: Units, places: Sequence[int], into: Columns) -> list[int]:
    decode: Callable[[Any], Any] = _decode_event if units.attributes is None else _decode_data
    decoded: list[Any] = []
    not_taken: list[int] = []
    for place in places:
        try:
            decoded.append(decode(units.values[place]))
        except NOT_TAKEN:
            not_taken.append(place)
    if not decoded:
        return not_taken
    if not_taken:
        gone = set(not_taken)
        places = [place for place in places if place not in gone]
    values = [units.values[place] for place in places]
    if units.attributes is None:
        taken = _Slice(values, decoded, [event.data for event in decoded], structured=True)
    else:
        taken = _Slice(values, [units.attributes[place] for place in places], decoded, structured=False)
    _add_fields(taken, into)
    return not_taken


@dataclass(frozen=True, slots=True)
class _Slice:
    """Some units: their texts, and what came out of them."""

    values: list[Any]  # bytes or msgspec.Raw
    attributes: list[Any]  # StructuredEvent or Attributes
    data: list[Data]
    structured: bool


def _add_fields(taken: _Slice, into: Columns) -> None:
    text = b"\n".join(taken.values)
    texts_given = _add_ids(taken, into, has_escapes=b"\\" in text) + _add_usage(taken.data, into)
    status = [fields.status for fields in taken.data]
    texts_given += 2 * len(list(filter(None, status)))
    if "error" in status:
        into.failed += [into.rows + at for at, given in enumerate(status) if given == "error"]
    tags = [fields.tags for fields in taken.data]
    if any(tags):
        texts_given += sum(1 + 2 * len(pairs) for pairs in tags if pairs)
    into.tags += tags
    into.unsure += [into.rows + at for at in _doubtful(taken, text, texts_given=texts_given)]
    into.rows += len(tags)


def _add_ids(taken: _Slice, into: Columns, *, has_escapes: bool) -> int:
    """Adds ids and times, and answers with the number of names and strings that the optional ones bring.

    None and "" are not counted: a lower bound, which is all that the comparison needs.
    """
    attributes, data = taken.attributes, taken.data
    optional = (
        (into.environment, [fields.environment or "" for fields in data]),
        (into.user, [fields.user or "" for fields in data]),
        (into.provider, [fields.provider or "" for fields in data]),
        (into.model, [fields.model or "" for fields in data]),
    )
    required = (
        (into.id, [event.id for event in attributes]),
        (into.source, [event.source for event in attributes]),
        (into.org, [event.subject for event in attributes]),
        (into.operation, [event.type for event in attributes]),
        (into.time, [event.time for event in attributes]),
        (into.project, [fields.project for fields in data]),
        (into.api_key, [fields.api_key for fields in data]),
    )
    may_hold_newlines = has_escapes or not taken.structured
    for column, texts in required + optional:
        broken = column.add(texts, may_hold_newlines=may_hold_newlines)
        into.unsure += [into.rows + at for at in broken]
    return 2 * sum(len(data) - texts.count("") for _, texts in optional)


def _add_usage(data: Sequence[Data], into: Columns) -> int:
    """Adds the quantities, and answers with the number of names and strings that they bring."""
    usage = [fields.usage or _NOTHING for fields in data]
    counts = list(map(len, usage))
    meters = list(chain.from_iterable(usage))
    quantities = list(chain.from_iterable(map(dict.values, usage)))
    kinds = set(map(type, quantities))
    into.usage_count += counts
    into.meter += meters
    into.quantity += quantities
    into.quantity_kinds |= kinds
    texts_given = len(meters) + len(counts) - counts.count(0)
    if str in kinds:
        texts_given += sum(type(quantity) is str for quantity in quantities)
    return texts_given


def _doubtful(taken: _Slice, text: bytes, *, texts_given: int) -> list[int]:
    """Which units may repeat a name or are too large: none of them in the ordinary case."""
    if len(text) > VALUE_BYTES_MAX and max(map(len, taken.values)) > VALUE_BYTES_MAX:
        return list(range(len(taken.values)))
    texts_given += len(taken.values) * (_TEXTS_OF_EVENT if taken.structured else _TEXTS_OF_DATA)
    if b"\\" not in text:
        quotes = np.count_nonzero(np.frombuffer(text, np.uint8) == _QUOTE)
        if quotes == 2 * texts_given:
            return []
        if taken.structured and quotes == 2 * (texts_given + 2 * sum(map(_extensions_in, taken.attributes))):
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

"""Units to columns of Python values: one typed msgspec decode each, and the checks that need the text itself.

Units are worked on in slices small enough to stay in the processor's cache: decoding ten thousand events first and
collecting their fields afterwards costs a third more.

Why a repeated name cannot slip through although msgspec silently keeps its last value: in JSON without escapes every
name and every string value brings exactly two quotation marks. Those of the names and strings that came out of the
decoder are counted; when the bytes hold more, a name is there that did not come out (repeated, or an attribute that
nobody declared), and the rows are looked at on their own. The counted ones are never more than those in the bytes, so
one row cannot make up for another, and one comparison of two sums clears a whole slice.

An event with a vocabulary is not taken at first, so that it costs the others nothing; its usage object is translated
and takes the place of what was sent, while the quotation marks are still those of what was sent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from pipeline.decoding.foreign import certain_translation, count_texts
from pipeline.decoding.quantities import GrowingQuantities
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


class Variant(msgspec.Struct, gc=False, forbid_unknown_fields=True, frozen=True):
    """``data.variant``; frozen, so that the few distinct ones of a batch can be looked up."""

    service_tier: str | UnsetType | None = UNSET
    batch: bool | UnsetType | None = UNSET
    speed: str | UnsetType | None = UNSET
    region: str | UnsetType | None = UNSET


class Data(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """``data``; a field that is not there is UNSET, which is as false as null and "" are."""

    project: str
    api_key: str
    environment: str | UnsetType | None = UNSET
    user: str | UnsetType | None = UNSET
    provider: str | UnsetType | None = UNSET
    model: str | UnsetType | None = UNSET
    variant: Variant | UnsetType | None = UNSET
    status: Literal["ok", "error"] | UnsetType | None = UNSET
    usage: dict[str, Any] | UnsetType | None = UNSET
    tags: dict[str, str] | UnsetType | None = UNSET


class StructuredEvent(msgspec.Struct, gc=False):
    """A structured event, with the optional attributes that SDKs and tracing add to every event."""

    specversion: Literal["1.0"]
    id: str
    source: str
    type: str
    subject: str
    time: str
    data: Data
    datacontenttype: str | UnsetType | None = UNSET
    dataschema: str | UnsetType | None = UNSET
    partitionkey: str | UnsetType | None = UNSET
    traceparent: str | UnsetType | None = UNSET
    tracestate: str | UnsetType | None = UNSET


class ForeignData(Data, gc=False, forbid_unknown_fields=True):
    """``data`` whose usage may have another system's names."""

    vocabulary: str | UnsetType | None = UNSET


class ForeignEvent(StructuredEvent, gc=False):
    """A structured event whose usage may have another system's names."""

    data: ForeignData


#: Names and strings that every structured event has: seven attributes of which six are strings, and in ``data`` the two
#: required ids with their names.
_TEXTS_OF_EVENT: Final = 7 + 6 + 4
_TEXTS_OF_DATA: Final = 4

# float_hook is given the text of a number; as bytes it is no string of the event's, and nothing is rounded.
_decode_event: Final = msgspec.json.Decoder(StructuredEvent, float_hook=str.encode).decode
_decode_data: Final = msgspec.json.Decoder(Data, float_hook=str.encode).decode
_decode_foreign_event: Final = msgspec.json.Decoder(ForeignEvent, float_hook=str.encode).decode
_decode_foreign_data: Final = msgspec.json.Decoder(ForeignData, float_hook=str.encode).decode
_decode_any: Final = msgspec.json.Decoder(float_hook=str.encode).decode

_ESCAPE: Final = re.compile(rb"\\.", re.DOTALL)
_QUOTE: Final = ord('"')
_NO_EXTENSIONS: Final = (UNSET,) * 5
_NOTHING: Final[dict[str, Any]] = {}
_VOCABULARY: Final = b'"vocabulary"'


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
    variants: list[Variant | UnsetType | None] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)  # rows with the status "error"
    tags: list[dict[str, str] | UnsetType | None] = field(default_factory=list)
    usage_count: list[int] = field(default_factory=list)
    meter: list[str] = field(default_factory=list)
    quantity: GrowingQuantities = field(default_factory=GrowingQuantities)
    #: Where the rows stand: units, and which of them, in the order of the rows.
    taken: list[tuple[Units, Places]] = field(default_factory=list)
    #: Rows that are not sure to be valid.
    unsure: list[int] = field(default_factory=list)


def gather(units: Units, into: Columns) -> list[int]:
    """Adds the units as rows, and answers with the places of those that msgspec does not take."""
    not_taken: list[int] = []
    for start in range(0, len(units.values), _SLICE_UNITS):
        not_taken += _gather_slice(units, start, into)
    into.taken.append((units, np.delete(np.arange(len(units.values)), not_taken)))
    foreign = [place for place in not_taken if _VOCABULARY in bytes(units.values[place] or b"")]
    if not foreign:
        return not_taken
    taken = [
        place
        for start in range(0, len(foreign), _SLICE_UNITS)
        for place in _gather_foreign(units, foreign[start : start + _SLICE_UNITS], into)
    ]
    into.taken.append((units, np.array(taken, np.int64)))
    gone = set(taken)
    return [place for place in not_taken if place not in gone]


def _gather_foreign(units: Units, places: Sequence[int], into: Columns) -> list[int]:
    """Adds units with a vocabulary as rows, and answers with the places of those that could be translated."""
    decode = _decode_foreign_event if units.attributes is None else _decode_foreign_data
    decoded, not_taken = _decode_all([units.values[place] for place in places], decode)
    gone = set(not_taken)
    left = [place for at, place in enumerate(places) if at not in gone]
    data: list[ForeignData] = [event.data for event in decoded] if units.attributes is None else decoded
    texts = list(map(_translate, data))
    fine = [at for at, count in enumerate(texts) if count]
    if not fine:
        return []
    taken = [left[at] for at in fine]
    if units.attributes is None:
        attributes: list[Any] = [decoded[at] for at in fine]
    else:
        attributes = [units.attributes[place] for place in taken]
    _add_fields(
        _Slice(
            [units.values[place] for place in taken],
            attributes,
            [data[at] for at in fine],
            structured=units.attributes is None,
            usage_texts=sum(texts[at] for at in fine),
        ),
        into,
    )
    return taken


def _translate(data: ForeignData) -> int:
    """Puts our quantities in the place of the usage that was sent.

    Returns:
        How many names and strings the usage and the vocabulary brought, or fewer; 0 when the scalar path has to judge.
    """
    usage, vocabulary = data.usage, data.vocabulary
    texts = count_texts(usage)
    if texts is None or isinstance(vocabulary, UnsetType):
        return 0
    texts += usage is not UNSET
    if vocabulary is None:
        return texts + 1
    quantities = certain_translation(usage or _NOTHING, vocabulary=vocabulary)
    if quantities is None:
        return 0
    data.usage = quantities
    return texts + 2


def _gather_slice(units: Units, start: int, into: Columns) -> list[int]:
    values: list[Any] = units.values[start : start + _SLICE_UNITS]
    attributes = None if units.attributes is None else units.attributes[start : start + _SLICE_UNITS]
    decoded, not_taken = _decode_all(values, _decode_event if attributes is None else _decode_data)
    if not_taken:
        gone = set(not_taken)
        values = [value for at, value in enumerate(values) if at not in gone]
        attributes = attributes and [of_one for at, of_one in enumerate(attributes) if at not in gone]
    if decoded and attributes is None:
        _add_fields(_Slice(values, decoded, [event.data for event in decoded], structured=True), into)
    elif decoded and attributes is not None:
        _add_fields(_Slice(values, attributes, decoded, structured=False), into)
    return [start + at for at in not_taken]


def _decode_all(values: Sequence[Any], decode: Callable[[Any], Any]) -> tuple[list[Any], list[int]]:
    """What is decoded, and the places of the values that are not taken."""
    decoded: list[Any] = []
    not_taken: list[int] = []
    waiting = iter(values)
    while True:
        try:
            # extend keeps what came before an exception, and the iterator goes on behind the value that raised it.
            decoded.extend(map(decode, waiting))
        except NOT_TAKEN:
            not_taken.append(len(decoded) + len(not_taken))
        else:
            return decoded, not_taken


@dataclass(frozen=True, slots=True)
class _Slice:
    """Some units: their texts, and what came out of them."""

    values: list[Any]  # bytes or msgspec.Raw
    attributes: list[Any]  # StructuredEvent or Attributes
    data: Sequence[Data]
    structured: bool
    usage_texts: int | None = None  # names and strings of the usage as sent, when it was translated


def _add_fields(taken: _Slice, into: Columns) -> None:
    text = b"\n".join(taken.values)
    usage_texts = _add_usage(taken.data, into)
    texts_given = _add_ids(taken, into, has_escapes=b"\\" in text)
    texts_given += usage_texts if taken.usage_texts is None else taken.usage_texts
    variants = [fields.variant for fields in taken.data]
    if any(variants):
        texts_given += sum(map(_texts_of_variant, variants))
    into.variants += variants
    status = [fields.status for fields in taken.data]
    texts_given += 2 * len(list(filter(None, status)))
    if "error" in status:
        into.failed += [into.rows + at for at, given in enumerate(status) if given == "error"]
    tags = [fields.tags for fields in taken.data]
    if any(tags):
        texts_given += sum(1 + 2 * len(pairs) for pairs in tags if pairs)
    into.tags += tags
    doubtful = _too_large(taken, text) + _with_repeated_names(taken, text, texts_given=texts_given)
    into.unsure += [into.rows + at for at in doubtful]
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
    return 2 * sum(len(data) - (0 if all(texts) else texts.count("")) for _, texts in optional)


def _add_usage(data: Sequence[Data], into: Columns) -> int:
    """Adds the quantities, and answers with the number of names and strings that they bring."""
    usage = [fields.usage or _NOTHING for fields in data]
    counts = list(map(len, usage))
    meters = list(chain.from_iterable(usage))
    quantities = list(chain.from_iterable(map(dict.values, usage)))
    kinds = set(map(type, quantities))
    into.usage_count += counts
    into.meter += meters
    if quantities:
        into.quantity.add(quantities, kinds=kinds)
    texts_given = len(meters) + len(counts) - counts.count(0)
    if str in kinds:
        texts_given += sum(type(quantity) is str for quantity in quantities)
    return texts_given


def _too_large(taken: _Slice, text: bytes) -> list[int]:
    if len(text) <= VALUE_BYTES_MAX:
        return []
    return [at for at, value in enumerate(taken.values) if len(value) > VALUE_BYTES_MAX]


def _with_repeated_names(taken: _Slice, text: bytes, *, texts_given: int) -> list[int]:
    """Which units may repeat a name: none of them in the ordinary case.

    Args:
        taken: the units.
        text: all their texts.
        texts_given: how many names and strings came out of the optional fields, or fewer.
    """
    plain = _ESCAPE.sub(b"", text) if b"\\" in text else text
    quotes = np.count_nonzero(np.frombuffer(plain, np.uint8) == _QUOTE)
    texts_always = len(taken.values) * (_TEXTS_OF_EVENT if taken.structured else _TEXTS_OF_DATA)
    if quotes == 2 * (texts_always + texts_given):
        return []
    if taken.structured:
        texts_always += sum(map(_extension_texts, taken.attributes))
        if quotes == 2 * (texts_always + texts_given):
            return []
    # Of a translated usage there are as many names as the table makes of it.
    if taken.usage_texts is None and quotes == 2 * (texts_always + sum(map(_optional_texts_of_data, taken.data))):
        return []
    return [at for at, value in enumerate(taken.values) if not _has_distinct_names(bytes(value))]


def _optional_texts_of_data(data: Data) -> int:
    """The names and strings that the optional fields bring, null and empty ones too."""
    texts = _texts_of_strings((data.environment, data.user, data.provider, data.model, data.status))
    if data.usage:
        texts += len(data.usage) + sum(type(quantity) is str for quantity in data.usage.values())
    if data.tags:
        texts += 2 * len(data.tags)
    texts += _texts_of_variant(data.variant) or data.variant is None
    return texts + (data.usage is not UNSET) + (data.tags is not UNSET)


def _texts_of_variant(variant: Variant | UnsetType | None) -> int:
    """The names and strings of a variant and its own name; none when there is none."""
    if not variant:
        return 0
    texts = _texts_of_strings((variant.service_tier, variant.speed, variant.region))
    return 1 + texts + (variant.batch is not UNSET)


def _extension_texts(event: StructuredEvent) -> int:
    given = (event.datacontenttype, event.dataschema, event.partitionkey, event.traceparent, event.tracestate)
    return 0 if given == _NO_EXTENSIONS else _texts_of_strings(given)


def _texts_of_strings(values: tuple[str | UnsetType | None, ...]) -> int:
    texts = 0
    for value in values:
        if value is not UNSET:
            texts += 1 if value is None else 2
    return texts


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

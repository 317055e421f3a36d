"""From a record's bytes and headers to candidates for events, in whichever CloudEvents mode it came.

The mode is decided by the content-type header (CloudEvents Kafka binding 1.0.2, section 3).
``application/cloudevents+json`` is structured, ``application/cloudevents-batch+json`` is a batch, any other content
type is binary: ``ce_*`` headers are the attributes and the value is ``data``, read as JSON whatever its type says.
Without that header a ``ce_specversion`` header means binary; else an array is a batch, everything else structured.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from pipeline.decoding.json_text import Document, NotJson, Repeating, is_too_deep, read_json, repeated_names
from pipeline.decoding.wording import kind_of, shown
from schemas.event import BATCH_EVENTS_MAX, CONTENT_TYPE_BATCH, CONTENT_TYPE_EVENT, DEPTH_MAX, VALUE_BYTES_MAX
from schemas.rejects import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from schemas.records import RawRecord

_HEADER_PREFIX: Final = "ce_"
_CLOUDEVENTS: Final = "application/cloudevents"


class Mode(Enum):
    """How the record carries its event or events."""

    STRUCTURED = auto()
    BATCH = auto()
    BINARY = auto()
    BY_VALUE = auto()  # an array is a batch, everything else is structured
    UNKNOWN_FORMAT = auto()  # application/cloudevents+avro and the like


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that is refused as a whole; ``about`` is what could be read of it, for the org and the id."""

    reason: Reason
    detail: str
    about: object = None


@dataclass(frozen=True, slots=True)
class UndecodableText:
    """A header whose bytes are no UTF-8."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The JSON trees that claim to be events, in order."""

    trees: list[object]
    repeating: bool  # whether a name is repeated anywhere in them
    surrogates: bool  # whether half a surrogate pair may stand in a string of them


def read_candidates(record: RawRecord) -> Candidates | Unreadable:
    """What claims to be an event in the record: one tree, or those of a batch.

    The reasons up to ``too_many_events`` are judged here when they make the record unreadable as a whole. A repeated
    name is judged per event where the events can be told apart, so that one element of a batch never harms another.
    """
    document = _read_document(record.value)
    if isinstance(document, Unreadable):
        return document
    mode = mode_of(record.headers)
    if mode is Mode.BINARY:
        event = _bound(record, document.tree)
        if event.keys() <= {"data"}:
            return _whole(
                document, Reason.NOT_CLOUDEVENT, f"no ce_* headers; send a whole event as {CONTENT_TYPE_EVENT}"
            )
        return Candidates([event], document.repeating or isinstance(event, Repeating), document.surrogates)
    if detail := _mismatch(mode, document.tree):
        return _whole(document, Reason.NOT_CLOUDEVENT, detail)
    if isinstance(document.tree, list):
        return _read_batch(document, document.tree)
    return Candidates([document.tree], document.repeating, document.surrogates)


def mode_of(headers: Iterable[tuple[str, bytes]]) -> Mode:
    """The mode that the headers decide; of several content-type headers the last one counts, as in Kafka's clients."""
    content_type: str | None = None
    names = set()
    for name, value in headers:
        names.add(name)
        if name.lower() == "content-type" and value is not None:
            content_type = value.decode("utf-8", "replace").partition(";")[0].strip().lower()
    if not content_type:
        return Mode.BINARY if f"{_HEADER_PREFIX}specversion" in names else Mode.BY_VALUE
    if content_type == CONTENT_TYPE_EVENT:
        return Mode.STRUCTURED
    if content_type == CONTENT_TYPE_BATCH:
        return Mode.BATCH
    return Mode.UNKNOWN_FORMAT if content_type.startswith(_CLOUDEVENTS) else Mode.BINARY


def _read_document(value: bytes | None) -> Document | Unreadable:
    if value is None:
        return Unreadable(Reason.NOT_JSON, "the record has no value")
    if len(value) > VALUE_BYTES_MAX:
        return Unreadable(
            Reason.TOO_LARGE, f"the value has {len(value)} bytes; at most {VALUE_BYTES_MAX} (1 MiB) are allowed"
        )
    if is_too_deep(value):
        return Unreadable(Reason.TOO_DEEP, f"brackets nest deeper than {DEPTH_MAX}")
    document = read_json(value)
    return Unreadable(Reason.NOT_JSON, document.detail) if isinstance(document, NotJson) else document


def _mismatch(mode: Mode, tree: object) -> str | None:
    """Why the value is not what its content-type says."""
    if mode is Mode.UNKNOWN_FORMAT:
        return f"the content-type is neither {CONTENT_TYPE_EVENT} nor {CONTENT_TYPE_BATCH}"
    if mode is Mode.STRUCTURED and isinstance(tree, list):
        return f"an array is a batch: send it as {CONTENT_TYPE_BATCH} or without a content-type"
    if mode is Mode.BATCH and not isinstance(tree, list):
        return f"{CONTENT_TYPE_BATCH} needs an array, not {kind_of(tree)}"
    return None


def _read_batch(document: Document, elements: list[object]) -> Candidates | Unreadable:
    if not elements:
        return Unreadable(Reason.NOT_CLOUDEVENT, "the batch is empty; a batch holds 1 to 1000 events")
    if len(elements) > BATCH_EVENTS_MAX:
        detail = f"the batch has {len(elements)} events; at most {BATCH_EVENTS_MAX} are allowed"
        return _whole(document, Reason.TOO_MANY_EVENTS, detail)
    return Candidates(elements, document.repeating, document.surrogates)


def _whole(document: Document, reason: Reason, detail: str) -> Unreadable:
    """Refused as one thing, so of the reasons that apply to it the earliest counts: a repeated name comes first."""
    for name in repeated_names(document.tree) if document.repeating else ():
        return Unreadable(Reason.DUPLICATE_KEY, f"the name {shown(name)} occurs twice in one object", document.tree)
    return Unreadable(reason, detail, document.tree)


def _bound(record: RawRecord, data: object) -> dict[str, object]:
    """The event of binary mode: attributes from ``ce_*`` headers, ``data`` from the value.

    A header that occurs twice is a repeated name like any other. Header values are UTF-8 and are not percent-encoded
    (CloudEvents Kafka binding 1.0.2, section 3.2.3.2).
    """
    event: dict[str, object] = {}
    repeated = set()
    for name, value in record.headers:
        if not name.startswith(_HEADER_PREFIX):
            continue
        attribute = name.removeprefix(_HEADER_PREFIX)
        if attribute in event:
            repeated.add(attribute)
        event[attribute] = _header_text(value)
    event["data"] = data  # after the headers: a stray ce_data is an extension attribute like any other, and is ignored
    repeated.discard("data")
    if not repeated:
        return event
    marked = Repeating(event)
    marked.repeated = frozenset(repeated)
    return marked


def _header_text(value: bytes | None) -> object:
    if value is None:
        return None
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return UndecodableText()

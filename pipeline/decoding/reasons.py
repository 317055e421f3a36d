"""One candidate held against the contract: the reasons in the contract's order, the first that applies counts.

Each judge looks at the whole event for one reason and answers with a sentence, or None when it has nothing to say. A
judge may rely on what the judges before it have established, so none of them is called out of turn.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, cast

from pipeline.decoding.json_text import repeated_names, strings
from pipeline.decoding.wording import kind_of, shown
from schemas.event import (
    ID_CHARACTERS_MAX,
    ID_PATTERN,
    SPEC_VERSION,
    STATUSES,
    TAG_CHARACTERS_MAX,
    TAGS_MAX,
    USAGE_NAMES_MAX,
)
from schemas.event_values import (
    RESERVED_USAGE_NAMES,
    USAGE_NAME_PATTERN,
    read_decimal_string,
    read_instant,
    read_number,
)
from schemas.rejects import Reason
from schemas.secrets import is_secret, redact
from schemas.translation import UntranslatableError, translated
from schemas.variants import BATCH, VARIANT_ID_KEYS, VARIANT_KEYS
from schemas.vocabularies import VOCABULARIES

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal

ID_ATTRIBUTES: Final = ("id", "source", "subject", "type")
REQUIRED_DATA_IDS: Final = ("project", "api_key")
OPTIONAL_DATA_IDS: Final = ("environment", "user", "provider", "model")
DATA_FIELDS: Final = frozenset(
    {*REQUIRED_DATA_IDS, *OPTIONAL_DATA_IDS, "variant", "status", "usage", "vocabulary", "tags"}
)

_ID: Final = re.compile(ID_PATTERN)
_USAGE_NAME: Final = re.compile(USAGE_NAME_PATTERN)
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Candidate:
    """Something that claims to be an event, with the span of instants that its record allows (both ends included)."""

    tree: object
    time_min_us: int
    time_max_us: int
    repeating: bool  # whether any object in the record repeats a name
    surrogates: bool  # whether half a surrogate pair may stand in a string of the record

    @property
    def event(self) -> dict[str, object]:
        """The event's attributes; only when it is an object."""
        return cast("dict[str, object]", self.tree)

    @property
    def data(self) -> dict[str, object]:
        """The event's data; only when it is an object."""
        return cast("dict[str, object]", self.event["data"])

    @property
    def usage(self) -> dict[str, object]:
        """The usage as sent; only when it is an object or absent."""
        return cast("dict[str, object]", self.data.get("usage") or {})

    @property
    def vocabulary(self) -> str | None:
        """Whose names the usage has, None for our own; only when it is one of the list."""
        return cast("str | None", self.data.get("vocabulary"))

    @cached_property
    def quantities(self) -> dict[str, Decimal]:
        """The quantities in our names; only of a valid event, or with a vocabulary."""
        if self.vocabulary is None:
            return {name: cast("Decimal", read_quantity(value)) for name, value in self.usage.items()}
        return cast("dict[str, Decimal]", translated(self.usage, vocabulary=self.vocabulary, read=read_quantity))

    @property
    def variant(self) -> dict[str, object]:
        """The variant as sent; only when it is an object or absent."""
        return cast("dict[str, object]", self.data.get("variant") or {})

    @cached_property
    def time_us(self) -> int | None:
        """The instant in microseconds, None when it is none; only when it is a string."""
        return read_instant(cast("str", self.event["time"]))

    def ids(self) -> list[tuple[str, str]]:
        """Every id that is given, with its path; only when all of them are strings."""
        event, data = self.event, self.data
        given = [(name, event[name]) for name in ID_ATTRIBUTES]
        given += [(f"data.{name}", data[name]) for name in REQUIRED_DATA_IDS]
        given += [(f"data.{name}", data[name]) for name in OPTIONAL_DATA_IDS if data.get(name)]
        given += [(f"data.variant.{key}", self.variant[key]) for key in VARIANT_ID_KEYS if self.variant.get(key)]
        return cast("list[tuple[str, str]]", given)


def judge(candidate: Candidate) -> tuple[Reason, str] | None:
    """The first reason that applies to the candidate with its sentence, None for a valid event."""
    for reason, find in _JUDGES:
        if detail := find(candidate):
            return reason, detail
    return None


def readable_id(tree: object, name: str) -> str:
    """An id attribute of whatever was sent, "" unless it is there once, a valid id and no secret."""
    value = tree.get(name) if isinstance(tree, dict) else None
    if not isinstance(value, str) or name in getattr(tree, "repeated", ()):
        return ""
    return value if _ID.fullmatch(value) and not is_secret(value) else ""


def read_quantity(value: object) -> Decimal | None:
    """The quantity that a JSON value says, None when it says none that the contract allows."""
    if isinstance(value, bytes):
        return read_number(value.decode())
    return read_decimal_string(value) if isinstance(value, str) else None


def _duplicate_key(candidate: Candidate) -> str | None:
    for name in repeated_names(candidate.tree) if candidate.repeating else ():
        return f"the name {shown(name)} occurs twice in one object"
    return None


def _not_cloudevent(candidate: Candidate) -> str | None:
    if not isinstance(candidate.tree, dict):
        return f"an event is a JSON object, not {kind_of(candidate.tree)}"
    version = candidate.event.get("specversion")
    if version == SPEC_VERSION:
        return None
    return f'specversion must be "{SPEC_VERSION}", not {"missing" if version is None else _shown_value(version)}'


def _missing_field(candidate: Candidate) -> str | None:
    event = candidate.event
    for name in (*ID_ATTRIBUTES, "time", "data"):
        if event.get(name) is None:
            return f"{name} is missing"
    if isinstance(event["data"], dict):
        for name in REQUIRED_DATA_IDS:
            if candidate.data.get(name) is None:
                return f"data.{name} is missing"
    return None


def _bad_type(candidate: Candidate) -> str | None:
    event = candidate.event
    for name in (*ID_ATTRIBUTES, "time"):
        if not isinstance(event[name], str):
            return f"{name} must be a string, not {kind_of(event[name])}"
    if not isinstance(event["data"], dict):
        return f"data must be an object, not {kind_of(event['data'])}"
    data = candidate.data
    for name in (*REQUIRED_DATA_IDS, *OPTIONAL_DATA_IDS):
        if not isinstance(data.get(name, ""), str | None):
            return f"data.{name} must be a string, not {kind_of(data[name])}"
    return (
        _bad_variant(data.get("variant"))
        or _bad_status(data.get("status"))
        or _bad_vocabulary(data.get("vocabulary"))
        or _bad_usage(data.get("usage"))
        or _bad_tags(data.get("tags"))
        or (_lone_surrogate(candidate) if candidate.surrogates else None)
    )


def _lone_surrogate(candidate: Candidate) -> str | None:
    for name in (*ID_ATTRIBUTES, "time"):
        if _LONE_SURROGATE.search(cast("str", candidate.event[name])):
            return f"{name} holds half of a surrogate pair"
    if any(map(_LONE_SURROGATE.search, strings(candidate.data))):
        return "a string in data holds half of a surrogate pair"
    return None


def _bad_variant(variant: object) -> str | None:
    if variant is None:
        return None
    if not isinstance(variant, dict):
        return f"data.variant must be an object, not {kind_of(variant)}"
    for key in VARIANT_ID_KEYS:
        if not isinstance(variant.get(key, ""), str | None):
            return f"data.variant.{key} must be a string, not {kind_of(variant[key])}"
    if not isinstance(variant.get(BATCH, False), bool | None):
        return f"data.variant.{BATCH} must be true or false, not {_shown_value(variant[BATCH])}"
    return None


def _bad_status(status: object) -> str | None:
    if status is None or (isinstance(status, str) and status in STATUSES):
        return None
    return f'data.status must be "ok" or "error", not {_shown_value(status)}'


def _bad_vocabulary(vocabulary: object) -> str | None:
    if vocabulary is None or (isinstance(vocabulary, str) and vocabulary in VOCABULARIES):
        return None
    return f"data.vocabulary must be one of {', '.join(VOCABULARIES)}, not {_shown_value(vocabulary)}"


def _bad_usage(usage: object) -> str | None:
    return None if usage is None or isinstance(usage, dict) else f"data.usage must be an object, not {kind_of(usage)}"


def _bad_tags(tags: object) -> str | None:
    if tags is None:
        return None
    if not isinstance(tags, dict):
        return f"data.tags must be an object, not {kind_of(tags)}"
    if len(tags) > TAGS_MAX:
        return f"data.tags has {len(tags)} pairs; at most {TAGS_MAX} are allowed"
    for name, value in tags.items():
        if not isinstance(value, str):
            return f"data.tags[{shown(name)}] must be a string, not {kind_of(value)}"
        if max(len(name), len(value)) > TAG_CHARACTERS_MAX:
            return f"data.tags[{shown(name)}]: names and values have at most {TAG_CHARACTERS_MAX} characters"
    return None


def _bad_id(candidate: Candidate) -> str | None:
    for path, value in candidate.ids():
        if _ID.fullmatch(value) is None:
            return (
                f"{path} is {shown(value)}; an id has 1 to {ID_CHARACTERS_MAX} characters,"
                " letters, digits and . _ : / @ ~ ? # % + -"
            )
    return None


def _raw_secret(candidate: Candidate) -> str | None:
    path = next((path for path, value in candidate.ids() if is_secret(value)), None)
    if path is None and any(map(is_secret, strings(candidate.data))):
        path = "a string in data"
    return None if path is None else f"{path} begins like a secret; send the id of a key, never the key"


def _bad_time(candidate: Candidate) -> str | None:
    if candidate.time_us is not None:
        return None
    return (
        f"time is {shown(cast('str', candidate.event['time']))}; it must be RFC 3339 with a zone,"
        ' such as "2026-03-01T12:00:00.123Z", in the years 1 to 9999'
    )


def _time_in_future(candidate: Candidate) -> str | None:
    ahead_us = cast("int", candidate.time_us) - candidate.time_max_us
    if ahead_us <= 0:
        return None
    return f"time is {_seconds(ahead_us)} s further ahead of the broker's time of the record than is allowed"


def _time_too_old(candidate: Candidate) -> str | None:
    behind_us = candidate.time_min_us - cast("int", candidate.time_us)
    if behind_us <= 0:
        return None
    return f"time is {_seconds(behind_us)} s further behind the broker's time of the record than is allowed"


def _seconds(microseconds: int) -> str:
    return f"{microseconds // 1_000_000}.{microseconds % 1_000_000:06d}"


def _unknown_field(candidate: Candidate) -> str | None:
    for name in candidate.data:
        if name not in DATA_FIELDS:
            return f"data.{shown(name)} is no field of an event; free text belongs into data.tags"
    for name in candidate.variant:
        if name not in VARIANT_KEYS:
            return f"data.variant.{shown(name)} is no key of a variant; the keys are {', '.join(VARIANT_KEYS)}"
    return None


def _bad_quantity(candidate: Candidate) -> str | None:
    usage = candidate.usage
    if len(usage) > USAGE_NAMES_MAX:
        return f"data.usage has {len(usage)} quantities; at most {USAGE_NAMES_MAX} are allowed"
    if candidate.vocabulary is not None:
        return _untranslatable(candidate)
    for name, value in usage.items():
        if _USAGE_NAME.fullmatch(name) is None:
            return f"data.usage[{shown(name)}]: a name matches {USAGE_NAME_PATTERN}"
        if name in RESERVED_USAGE_NAMES:
            return f"data.usage.{name} is a reserved name; leave it out"
        if read_quantity(value) is None:
            return _no_quantity(f"data.usage.{redact(name)}", value)
    return None


def _untranslatable(candidate: Candidate) -> str | None:
    try:
        quantities = candidate.quantities
    except UntranslatableError as error:
        path = f"data.usage.{error.name}" if error.is_known else f"data.usage[{shown(error.name)}]"
        return f"{path} {error.detail}" if error.detail else _no_quantity(path, error.value)
    if len(quantities) > USAGE_NAMES_MAX:
        return f"data.usage makes {len(quantities)} quantities; at most {USAGE_NAMES_MAX} are allowed"
    return None


def _no_quantity(path: str, value: object) -> str:
    return (
        f"{path} is {_shown_value(value)}; a quantity is a number or a decimal string,"
        " 0 to 1e15, with at most 9 decimals"
    )


def _shown_value(value: object) -> str:
    if isinstance(value, bytes):
        return shown(value.decode()).strip("'")
    return shown(value) if isinstance(value, str) else kind_of(value)


_JUDGES: Final[tuple[tuple[Reason, Callable[[Candidate], str | None]], ...]] = (
    (Reason.DUPLICATE_KEY, _duplicate_key),
    (Reason.NOT_CLOUDEVENT, _not_cloudevent),
    (Reason.MISSING_FIELD, _missing_field),
    (Reason.BAD_TYPE, _bad_type),
    (Reason.BAD_ID, _bad_id),
    (Reason.RAW_SECRET, _raw_secret),
    (Reason.BAD_TIME, _bad_time),
    (Reason.TIME_IN_FUTURE, _time_in_future),
    (Reason.TIME_TOO_OLD, _time_too_old),
    (Reason.UNKNOWN_FIELD, _unknown_field),
    (Reason.BAD_QUANTITY, _bad_quantity),
)

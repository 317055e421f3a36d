"""What a service sends to ``usage.events``: one CloudEvent 1.0 per event, as models and as limits.

The models are the contract in the words of a JSON reader: JSON Schema and the AsyncAPI document are generated from
them (``python -m schemas.generate``), and a property test holds that ``pipeline.decode`` accepts exactly the events
that they accept. What only the broker or the raw bytes can tell stands in ``pipeline/decode.py``: size, depth, repeated
keys, and how far the time lies from the moment the broker took the record.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from schemas.event_values import (
    DECIMAL_PATTERN,
    INSTANT_PATTERN,
    QUANTITY_MAX,
    RESERVED_USAGE_NAMES,
    USAGE_NAME_PATTERN,
    read_decimal_string,
    read_instant,
    read_number,
)
from schemas.secrets import is_secret
from schemas.translation import translated
from schemas.vocabularies import VOCABULARIES

#: A record's value, after Kafka's decompression.
VALUE_BYTES_MAX: Final = 1024 * 1024
#: Brackets outside strings; the outermost is depth 1.
DEPTH_MAX: Final = 16
BATCH_EVENTS_MAX: Final = 1_000
ID_CHARACTERS_MAX: Final = 128
USAGE_NAMES_MAX: Final = 64
TAGS_MAX: Final = 16
TAG_CHARACTERS_MAX: Final = 128
#: How much of a refused value is kept for a person to look at.
PAYLOAD_PREFIX_CHARACTERS_MAX: Final = 256

ID_PATTERN: Final = r"[A-Za-z0-9._:/@~?#%+-]{1,128}"
STATUSES: Final = ("ok", "error")
SPEC_VERSION: Final = "1.0"

CONTENT_TYPE_EVENT: Final = "application/cloudevents+json"
CONTENT_TYPE_BATCH: Final = "application/cloudevents-batch+json"

_USAGE_NAME: Final = re.compile(USAGE_NAME_PATTERN)
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def _not_secret(text: str) -> str:
    if is_secret(text):
        raise ValueError("begins like a secret; send the id of a key, never the key")
    return text


def _existing_instant(text: str) -> str:
    if read_instant(text) is None:
        raise ValueError("is no instant of the years 1 to 9999 in RFC 3339 with a zone")
    return text


def _usage_name(name: str) -> str:
    if _USAGE_NAME.fullmatch(name) is None or name in RESERVED_USAGE_NAMES:
        raise ValueError("is no name of a quantity, or is reserved")
    return _not_secret(name)


def _quantity(value: object) -> Decimal:
    """Exact for int, Decimal and str; a float has lost digits before it came here and is refused."""
    quantity = None
    if isinstance(value, str):
        quantity = read_decimal_string(value)
    elif isinstance(value, int | Decimal) and not isinstance(value, bool):
        quantity = read_number(str(value))
    if quantity is None:
        raise ValueError("is no quantity: a JSON number or decimal string, 0 to 1e15, at most 9 decimals")
    return quantity


def _quantity_or_none(value: object) -> Decimal | None:
    try:
        return _quantity(value)
    except ValueError:
        return None


def _check_texts(tree: object) -> None:
    """Raises for a secret or half a surrogate pair anywhere in what was sent."""
    if isinstance(tree, str):
        if _LONE_SURROGATE.search(tree):
            raise ValueError("holds half of a surrogate pair")
        _not_secret(tree)
    elif isinstance(tree, dict):
        for name, value in tree.items():
            _check_texts(name)
            _check_texts(value)
    elif isinstance(tree, list):
        for value in tree:
            _check_texts(value)


def _vocabulary_schema(schema: dict[str, Any]) -> None:
    """Says in JSON Schema that names and values are the other system's when a vocabulary is given."""
    usage = schema["properties"]["usage"]
    ours = {"anyOf": usage.pop("anyOf")}
    schema["properties"]["usage"] = {"type": ["object", "null"], **usage}
    schema["if"] = {"properties": {"vocabulary": {"type": "null"}}}
    schema["then"] = {"properties": {"usage": ours}}
    schema["else"] = {"properties": {"usage": {"maxProperties": USAGE_NAMES_MAX}}}


Id = Annotated[
    str,
    StringConstraints(strict=True, min_length=1, max_length=ID_CHARACTERS_MAX, pattern=f"^{ID_PATTERN}$"),
    AfterValidator(_not_secret),
]
#: Absent, ``null`` and ``""`` say the same: the event has none.
OptionalId = Annotated[Id | Literal[""] | None, Field(default=None)]
Instant = Annotated[
    str,
    StringConstraints(strict=True, pattern=f"^{INSTANT_PATTERN}$"),
    AfterValidator(_existing_instant),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": f"^{INSTANT_PATTERN}$"}),
]
UsageName = Annotated[
    str, StringConstraints(strict=True, pattern=f"^{USAGE_NAME_PATTERN}$"), AfterValidator(_usage_name)
]
Quantity = Annotated[
    Any,
    PlainValidator(_quantity),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": QUANTITY_MAX},
                {"type": "string", "pattern": f"^{DECIMAL_PATTERN}$"},
            ],
            "description": "JSON number or decimal string, kept exactly: 0 to 1e15, at most 9 significant decimals.",
        }
    ),
]
TagText = Annotated[str, StringConstraints(strict=True, max_length=TAG_CHARACTERS_MAX), AfterValidator(_not_secret)]


class Variant(BaseModel):
    """What the request was besides its model. A key that is absent, ``null``, ``""`` or ``false`` says nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    service_tier: OptionalId = Field(description="The tier that answered, `flex` or `priority` for example.")
    batch: Annotated[bool, Field(strict=True)] | None = Field(
        default=None, description="Whether it was part of a batch."
    )
    speed: OptionalId = Field(description="The speed that was asked for, `fast` for example.")
    region: OptionalId = Field(description="Where it was answered, `eu` for example.")


class UsageData(BaseModel):
    """What one operation used, and on whose account. Unknown fields are refused (``unknown_field``)."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_vocabulary_schema)

    project: Id = Field(description="The project's id.")
    api_key: Id = Field(description="The id of the api key, never the key itself: a raw secret is refused.")
    environment: OptionalId = Field(description="Where it ran, `production` for example.")
    user: OptionalId = Field(description="The end user's id; an opaque id, so that it can be erased elsewhere.")
    provider: OptionalId = Field(description="Who answered, `openai` for example.")
    model: OptionalId = Field(description="The model that answered and is priced.")
    variant: Variant | None = Field(
        default=None,
        description="What the request was besides its model: prices and adjustments of a book are selected by it.",
    )
    status: Literal["ok", "error"] | None = Field(
        default=None, description="`ok` when absent. Failed events are counted, and billed or not by the price."
    )
    usage: Annotated[dict[UsageName, Quantity] | None, Field(max_length=USAGE_NAMES_MAX)] = Field(
        default=None,
        description="Name → quantity, at most 64. Token quantities are disjoint: `input_tokens` excludes"
        " `cache_read_tokens`, `cache_write_5m_tokens` and `cache_write_1h_tokens`; `reasoning_tokens` is a memo"
        " inside `output_tokens`. `requests` = 1 is implied; `requests` and `input_context_tokens` are reserved.",
    )
    vocabulary: Literal["otel_genai", "openai", "anthropic", "litellm", "langfuse", "gemini"] | None = Field(
        default=None,
        description="Whose names `usage` has: then it is that system's usage object as it is, and is translated into"
        " disjoint quantities. Our own names when absent.",
    )
    tags: Annotated[dict[TagText, TagText] | None, Field(max_length=TAGS_MAX)] = Field(
        default=None, description="Up to 16 pairs of strings of at most 128 characters each, for people to slice by."
    )

    @model_validator(mode="before")
    @classmethod
    def _translated(cls, given: object) -> object:
        """The quantities in the place of another system's usage object."""
        if not isinstance(given, dict):
            return given
        vocabulary, usage = given.get("vocabulary"), given.get("usage")
        if not isinstance(vocabulary, str) or vocabulary not in VOCABULARIES or not isinstance(usage, dict):
            return given
        _check_texts(usage)
        if len(usage) > USAGE_NAMES_MAX:
            raise ValueError(f"usage has more than {USAGE_NAMES_MAX} names")
        return given | {"usage": translated(usage, vocabulary=vocabulary, read=_quantity_or_none)}


class UsageEvent(BaseModel):
    """One usage event: a CloudEvent 1.0 in structured JSON.

    Its identity is (`subject`, `source`, `id`). Other CloudEvents attributes and extensions are allowed and ignored.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    specversion: Literal["1.0"] = Field(description="The version of CloudEvents.")
    id: Id = Field(
        description="Unique within (`subject`, `source`). Never invented for the producer; repeat it on retry."
    )
    source: Id = Field(description="Who produced the event, a URI reference such as `/gateway/eu-1`.")
    subject: Id = Field(description="The org: the customer that pays.")
    type: Id = Field(description="The operation: what was done, `llm.request` for example.")
    time: Instant = Field(
        description="When it happened: RFC 3339 with a zone, `T` and `Z` in either case, no space, no second 60. Digits"
        " beyond the microsecond are cut. Refused when more than 5 minutes ahead of the broker's time of the record"
        " (`time_in_future`) or more than 35 days behind it (`time_too_old`), unless the settings say otherwise."
    )
    data: UsageData = Field(description="What was used, and on whose account.")

"""What comes out for other systems to read: values of ``usage.rejected`` and ``usage.alerts``, as models."""

from __future__ import annotations

from typing import Annotated, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from schemas.event import PAYLOAD_PREFIX_CHARACTERS_MAX
from schemas.rejects import Reason
from schemas.rules import Scope, Window

FROZEN = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

#: UTC with microseconds and ``Z``.
InstantText = Annotated[
    str, Field(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d{6})?Z$", json_schema_extra={"format": "date-time"})
]
#: What can become of an alert: it fires once, and may then end in one of the other ways.
Transition = Literal["fired", "resolved", "retracted", "superseded"]
TRANSITIONS: Final[tuple[Transition, ...]] = get_args(Transition)

#: Money and quantities are decimals in strings, never floats.
DecimalText = Annotated[str, Field(pattern=r"^-?\d+(?:\.\d+)?$")]


class RejectedEvent(BaseModel):
    """One event that was refused, or a record that could not be read as a whole: then its index is 0.

    The key is `topic/partition/offset/index`; a refusal that is sent again has the same key.
    """

    model_config = FROZEN

    reason: Reason = Field(description="Why, from a closed list; of several reasons the first of the list counts.")
    detail: str = Field(description="A sentence that names the field and what is allowed; secrets are masked.")
    topic: str
    partition: int = Field(ge=0)
    offset: int = Field(ge=0)
    index: int = Field(ge=0, description="The event's place in its record, 0 when the record is one event.")
    received_at: InstantText = Field(description="When the broker took the record.")
    org: str = Field(description='The `subject`, "" unless it could be read and is a valid id.')
    id: str = Field(description='The `id`, "" unless it could be read and is a valid id.')
    payload_sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of the whole value of the record.")
    payload_prefix: str = Field(
        max_length=PAYLOAD_PREFIX_CHARACTERS_MAX,
        description="The beginning of the value as text; everything shaped like a secret is masked.",
    )


class AlertScope(BaseModel):
    """Whose window it is."""

    model_config = FROZEN

    kind: Scope
    id: str


class AlertWindow(BaseModel):
    """Start included, end excluded; both null for `total`. For a rolling window, the one at firing."""

    model_config = FROZEN

    kind: Window
    start: InstantText | None
    end: InstantText | None


class CrossingEvent(BaseModel):
    """The event that carried the value over the threshold."""

    model_config = FROZEN

    source: str
    id: str
    time: InstantText


class AlertLane(BaseModel):
    """A lane of the window with its part of the value."""

    model_config = FROZEN

    kind: str
    id: str
    value: DecimalText


class AlertCompleteness(BaseModel):
    """What the value may lack: events without a price, and nothing newer than the watermark had been counted."""

    model_config = FROZEN

    unpriced: int = Field(ge=0)
    watermark: InstantText


class Alert(BaseModel):
    """One transition of an alert. Delivered at least once: `alert_id` and `sequence` name it."""

    model_config = FROZEN

    schema_: Literal["tally.alert.v1"] = Field(default="tally.alert.v1", alias="schema")
    alert_id: str = Field(
        pattern=r"^[0-9a-f]{32}$",
        description="A hash of org, rule, revision, scope, window start and threshold: the same crossing has the same"
        " id whatever restarts or replays happen.",
    )
    sequence: int = Field(ge=1, description="Counts the transitions of one alert id.")
    transition: Transition = Field(
        description="`resolved`: a rolling window fell under 98 % of the threshold. `retracted`: a correction proves"
        " that it should not have fired. `superseded`: the rule was changed or removed."
    )
    rule: str
    rule_revision: int = Field(ge=1)
    org: str
    scope: AlertScope
    measure: str = Field(description="`cost`, `requests`, `share`, `projected`, `quantity:NAME` and so on.")
    unit: str | None = Field(description="The currency of a cost; null for what is only counted.")
    window: AlertWindow
    threshold: DecimalText
    percent: int | None = Field(description="Of the budget, when the rule has one.")
    budget: DecimalText | None
    value: DecimalText = Field(description="Right after the crossing event.")
    highest: bool = Field(description="Whether no higher threshold was crossed by the same step.")
    crossed_by: CrossingEvent
    top: list[AlertLane] = Field(description="The largest lanes of the window, up to the crossing event.")
    completeness: AlertCompleteness
    method: str | None = Field(
        default=None, description="How the value was found when it is no plain sum: the formula of a projected cost."
    )

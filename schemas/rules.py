"""Alert rules: what is measured, for whom, over which window, and where the limits are.

Rules are data like prices: written as YAML, applied as a whole set, revisioned. A rule keeps its own revision for as
long as it says the same, so changing one rule of a set does not raise the alerts of its neighbours again.
"""

from __future__ import annotations

import hashlib
import json
import re
from decimal import Decimal, localcontext
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final, Self

from pydantic import BaseModel, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from schemas.catalog_values import (
    Budget,
    Id,
    Pattern,
    Threshold,
    Whole,
    mistake,
    plain_decimal,
    write_instant,
)
from schemas.event_values import RESERVED_USAGE_NAMES, USAGE_NAME_PATTERN
from schemas.price_book import FROZEN, canonical_json, content_hash

if TYPE_CHECKING:
    from datetime import datetime

RULES_MAX: Final = 1_000
LIMITS_MAX: Final = 32
PERCENT_MAX: Final = 1_000
#: More digits than any product of a budget and a percentage has, so that the division by 100 is exact.
_EXACT_DIGITS: Final = 60
DEFAULT_RULE_SET: Final = "default"

#: The measures that are always there; besides them any quantity by name, as ``quantity:NAME``.
MEASURES: Final = (
    "cost", "requests", "failures", "success_rate", "share", "projected", "tokens", "input_tokens", "output_tokens",
)  # fmt: skip
QUANTITY_PREFIX: Final = "quantity:"
#: Measures that are kept in the currency of the price books.
MONEY_MEASURES: Final = ("cost", "projected")
#: Measures that mean little before a window has some requests, so that a rule may ask for them (``min_requests``).
RATIO_MEASURES: Final = ("success_rate", "share")
#: The part of its window that must have passed before a cost is projected: less says too little about the rest.
PROJECTED_AFTER: Final = Decimal("0.1")
#: How a projected cost is found, as its alerts say it (``method``).
PROJECTED_METHOD: Final = (
    "cost * window length / elapsed; elapsed is from the window's start to the watermark, at most the window's length"
)


class Scope(StrEnum):
    """What a rule keeps a window for: one per value that occurs; an absent value is no scope."""

    ORG = "org"
    PROJECT = "project"
    API_KEY = "api_key"
    MODEL = "model"
    USER = "user"
    OPERATION = "operation"


class Window(StrEnum):
    """Calendar windows in UTC (a week begins on Monday), and rolling ones: the last N steps of event time."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"
    ROLLING_5M = "5m"
    ROLLING_15M = "15m"
    ROLLING_1H = "1h"
    ROLLING_6H = "6h"
    ROLLING_24H = "24h"
    ROLLING_7D = "7d"

    @property
    def is_rolling(self) -> bool:
        """Whether the window moves with the events instead of with the calendar."""
        return self in _ROLLING

    @property
    def step_minutes(self) -> int:
        """The length of one step of a rolling window; 0 for a calendar window."""
        return _ROLLING[self][0] if self.is_rolling else 0

    @property
    def steps(self) -> int:
        """How many steps a rolling window holds, the unfinished one included; 0 for a calendar window."""
        return _ROLLING[self][1] if self.is_rolling else 0


_ROLLING: Final[dict[Window, tuple[int, int]]] = {
    Window.ROLLING_5M: (1, 5),
    Window.ROLLING_15M: (1, 15),
    Window.ROLLING_1H: (1, 60),
    Window.ROLLING_6H: (60, 6),
    Window.ROLLING_24H: (60, 24),
    Window.ROLLING_7D: (60, 7 * 24),
}


def _read_measure(value: object) -> str:
    if not isinstance(value, str):
        raise mistake("must be a measure like cost")
    quantity = value.removeprefix(QUANTITY_PREFIX)
    if value in MEASURES:
        return value
    if quantity == value or not re.fullmatch(USAGE_NAME_PATTERN, quantity):
        raise mistake(f"is no measure: one of {', '.join(MEASURES)}, or quantity:NAME")
    if quantity in RESERVED_USAGE_NAMES:
        raise mistake(f"names {quantity}, which is never given in `usage`; use another measure")
    return value


def _one_of(kind: type[StrEnum]) -> BeforeValidator:
    def read(value: object) -> StrEnum:
        try:
            return kind(str(value))
        except ValueError:
            raise mistake(f"is none of {', '.join(kind)}") from None

    return BeforeValidator(read)


class Rule(BaseModel):
    """One rule. Exactly one of ``thresholds``, ``budget`` with ``percent``, and ``below`` says where its limits are."""

    model_config = FROZEN

    id: Id
    revision: Annotated[Whole, Field(ge=0)] = 0  # of the set in which the rule last changed; 0 in a file
    scope: Annotated[Scope, _one_of(Scope)]
    match: Pattern = "*"
    org: Pattern = "*"
    measure: Annotated[str, BeforeValidator(_read_measure)]
    window: Annotated[Window, _one_of(Window)]
    thresholds: tuple[Threshold, ...] = Field(default=(), strict=False)
    budget: Budget | None = None
    percent: tuple[Whole, ...] = Field(default=(), strict=False)
    below: tuple[Threshold, ...] = Field(default=(), strict=False)
    min_requests: Whole | None = None

    @field_validator("measure", mode="after")
    @classmethod
    def _measure_fits_scope(cls, measure: str, info: ValidationInfo) -> str:
        if measure == "share" and info.data.get("scope") is Scope.ORG:
            raise mistake("is the share of a part in its org: use another scope")
        return measure

    @field_validator("window", mode="after")
    @classmethod
    def _window_fits_measure(cls, window: Window, info: ValidationInfo) -> Window:
        if info.data.get("measure") == "projected" and (window.is_rolling or window is Window.TOTAL):
            raise mistake("has no end to project a cost to: one of hour, day, week, month")
        return window

    @field_validator("thresholds", "percent", "below", mode="after")
    @classmethod
    def _limits_make_sense(cls, limits: tuple[Decimal | int, ...], info: ValidationInfo) -> tuple[Decimal | int, ...]:
        _check_limits(limits)
        largest = max(limits, default=0)
        if info.field_name == "percent" and largest > PERCENT_MAX:
            raise mistake(f"has a percentage above {PERCENT_MAX}")
        if info.field_name == "below" and info.data.get("measure") == "success_rate" and largest > 1:
            raise mistake('has a success rate above 1: 95 % is written as "0.95"')
        if info.field_name == "thresholds" and info.data.get("measure") == "share" and largest > 1:
            raise mistake('has a share above 1: 80 % is written as "0.8"')
        return limits

    @field_validator("budget", mode="after")
    @classmethod
    def _budget_is_something(cls, budget: Decimal | None) -> Decimal | None:
        if budget == 0:
            raise mistake("is 0, of which every percentage is 0")
        return budget

    @field_validator("min_requests", mode="after")
    @classmethod
    def _min_requests_make_sense(cls, min_requests: int | None, info: ValidationInfo) -> int | None:
        if min_requests is not None and info.data.get("measure", RATIO_MEASURES[0]) not in RATIO_MEASURES:
            raise mistake(f"belongs to {' and '.join(RATIO_MEASURES)}")
        if min_requests is not None and min_requests < 1:
            raise mistake("is under 1")
        return min_requests

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        kinds = [bool(self.thresholds), self.budget is not None or bool(self.percent), bool(self.below)]
        if sum(kinds) != 1:
            raise mistake("needs exactly one of `thresholds`, `budget` with `percent`, and `below`")
        if (self.budget is None) != (not self.percent):
            raise mistake("has only one of `budget` and `percent`: both are needed")
        if bool(self.below) != (self.measure == "success_rate"):
            raise mistake("must use `below` for success_rate, and only for it")
        if self.measure == "share" and not self.thresholds:
            raise mistake("must use `thresholds` for share: a share is of the org's cost, not of a budget")
        return self

    @property
    def quantity(self) -> str:
        """The name of the quantity that is measured, or ``""`` when the measure is not one quantity."""
        if self.measure in ("input_tokens", "output_tokens"):
            return self.measure
        return self.measure.removeprefix(QUANTITY_PREFIX) if self.measure.startswith(QUANTITY_PREFIX) else ""

    @property
    def limits(self) -> tuple[tuple[Decimal, int | None], ...]:
        """The limits, ascending, each with the percentage of the budget that it is, if it is one."""
        if self.budget is not None:
            with localcontext(prec=_EXACT_DIGITS):
                return tuple((self.budget * percent / 100, percent) for percent in sorted(self.percent))
        return tuple((limit, None) for limit in sorted(self.thresholds or self.below))

    def matches(self, *, org: str, scope_id: str) -> bool:
        """Whether the rule watches this scope of this org; an absent value is never watched."""
        return bool(scope_id) and self.watches_org(org) and _matches(self.match, scope_id)

    def watches_org(self, org: str) -> bool:
        """Whether the rule watches scopes of this org at all."""
        return _matches(self.org, org)

    def same_content(self, other: Rule) -> bool:
        """Whether both rules say the same, whatever their revisions."""
        return content_hash(self) == content_hash(other)


def _matches(pattern: str, value: str) -> bool:
    return value.startswith(pattern[:-1]) if pattern.endswith("*") else value == pattern


def _check_limits(limits: tuple[Decimal | int, ...]) -> None:
    if len(limits) > LIMITS_MAX:
        raise mistake(f"has {len(limits)} entries: at most {LIMITS_MAX}")
    if len(set(limits)) < len(limits):
        raise mistake("has the same number twice")
    if limits and min(limits) <= 0:
        raise mistake("has a number that is not above 0")


def alert_id(  # noqa: PLR0913 -- the parts that name one alert
    *,
    org: str,
    rule: str,
    rule_revision: int,
    scope: Scope,
    scope_id: str,
    window_start: datetime | None,
    threshold: Decimal,
) -> str:
    """The id of an alert, 32 hexadecimal digits: the same crossing has the same one after any restart or replay.

    It hashes a JSON array of the parts, which no two alerts share: each part is quoted, an instant is written in UTC
    and a threshold by its value. ``window_start`` is None for the window ``total``.
    """
    start = "" if window_start is None else write_instant(window_start)
    parts = [org, rule, rule_revision, Scope(scope).value, scope_id, start, plain_decimal(threshold)]
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:32]


class RuleSet(BaseModel):
    """All rules of one name. ``revision`` 0 is a set as it stands in a file, not applied yet."""

    model_config = FROZEN

    name: Id = DEFAULT_RULE_SET
    revision: Annotated[Whole, Field(ge=0)] = 0
    rules: tuple[Rule, ...] = Field(default=(), max_length=RULES_MAX, strict=False)

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Self:
        if len({rule.id for rule in self.rules}) < len(self.rules):
            raise mistake("has the same rule id twice")
        return self

    def content_hash(self) -> str:
        """SHA-256 of what the set says, whatever its revision and the revisions of its rules."""
        bare = self.model_copy(update={"rules": tuple(rule.model_copy(update={"revision": 0}) for rule in self.rules)})
        return content_hash(bare)

    def same_content(self, other: RuleSet) -> bool:
        """Whether the other set says the same under the same name, whatever its revision."""
        return self.content_hash() == other.content_hash()

    def to_json(self) -> str:
        """The set as one line of JSON, as it travels on ``usage.catalog``; ``from_json`` reads it back."""
        return canonical_json(self.model_dump(mode="json", by_alias=True, exclude_defaults=True))

    @classmethod
    def from_json(cls, text: str | bytes) -> RuleSet:
        """Reads what ``to_json`` wrote.

        Raises:
            pydantic.ValidationError: it is no rule set.
        """
        return cls.model_validate(json.loads(text))


def next_rule_revision(loaded: RuleSet, *, in_force: RuleSet | None, newest: int = 0) -> RuleSet:
    """Gives the set to apply: ``in_force`` itself when nothing changed, else ``loaded`` under the next revision.

    A rule that says the same as before keeps its revision, and with it the ids of its alerts. ``newest`` is the
    highest revision of any set: the next one is above it, so that a rule which moves from one set to another gets a
    revision that it never had, and its alerts new ids.
    """
    if in_force is not None and in_force.name != loaded.name:
        raise ValueError(f"{loaded.name!r} cannot be a revision of {in_force.name!r}")
    if in_force is not None and loaded.same_content(in_force):
        return in_force
    revision = 1 + max(newest, 0 if in_force is None else in_force.revision)
    before = {} if in_force is None else {rule.id: rule for rule in in_force.rules}
    rules = tuple(
        before[rule.id]
        if rule.id in before and rule.same_content(before[rule.id])
        else rule.model_copy(update={"revision": revision})
        for rule in loaded.rules
    )
    return loaded.model_copy(update={"revision": revision, "rules": rules})

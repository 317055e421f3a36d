"""A price book: what one unit of each quantity costs, for whom, and from when until when.

A book is data: it is written as YAML, applied as a whole, travels as JSON on ``usage.catalog`` and is stored under its
name and revision for ever. All spans include their start and exclude their end, in UTC.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final, Literal, Protocol, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from schemas.catalog_values import (
    Amount,
    Flag,
    Id,
    Instant,
    InvoiceName,
    Meter,
    ModelName,
    Multiplier,
    OptionalId,
    OptionalMeter,
    Per,
    Quantity,
    Whole,
    mistake,
)
from schemas.currencies import CURRENCIES
from schemas.event import ID_CHARACTERS_MAX
from schemas.event_values import EPOCH, INSTANT_MAX_US, INSTANT_MIN_US, RESERVED_USAGE_NAMES
from schemas.frames import REQUESTS
from schemas.period_prices import PERIOD_PRICES_MAX, PeriodPrice
from schemas.variants import VARIANT_KEYS, variant_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Rows of one book, thresholds of one price, entries of ``ignore``.
PRICES_MAX: Final = 20_000
TIERS_MAX: Final = 16
IGNORE_MAX: Final = 1_000
ADJUSTMENTS_MAX: Final = 1_000
ALIASES_MAX: Final = 1_000

#: The derived quantity that context thresholds look at: the whole input of one request, cached or not.
INPUT_CONTEXT: Final = "input_context_tokens"
INPUT_CONTEXT_PARTS: Final = (
    *("input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens"),
    *("input_audio_tokens", "input_image_tokens", "input_video_tokens"),
    *("cache_audio_read_tokens", "cache_image_read_tokens", "cache_video_read_tokens"),
)

DAY_SECONDS: Final = 24 * 60 * 60
SECOND_US: Final = 1_000_000
DAY_US: Final = DAY_SECONDS * SECOND_US
WHOLE_DAY: Final = ((0, DAY_SECONDS),)
#: All instants of the years 1 to 9999, in microseconds since 1970: the first one, and the first one after the last.
FIRST_US: Final = INSTANT_MIN_US
LAST_US: Final = INSTANT_MAX_US + 1

FROZEN: Final = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)


def microseconds(instant: datetime) -> int:
    """Gives the exact microseconds since 1970; never through a float."""
    return (instant - EPOCH) // timedelta(microseconds=1)


def _read_time_of_day(value: object) -> str:
    """Gives a quoted ``HH:MM`` or ``HH:MM:SS`` in its shortest form; ``24:00`` becomes ``00:00``."""
    parts = value.split(":") if isinstance(value, str) else []
    if len(parts) not in (2, 3) or not all(len(part) == 2 and part.isascii() and part.isdecimal() for part in parts):
        raise mistake('must be a quoted UTC time of day like "16:30"')
    hour, minute, second = (int(part) for part in (*parts, "00")[:3])
    if minute > 59 or second > 59 or hour * 3600 + minute * 60 + second > DAY_SECONDS:
        raise mistake("is no time of day: 00:00 to 24:00")
    return f"{hour % 24:02}:{minute:02}" + (f":{second:02}" if second else "")


def _second_of_day(time_of_day: str) -> int:
    hour, minute, second = (int(part) for part in (*time_of_day.split(":"), "00")[:3])
    return hour * 3600 + minute * 60 + second


TimeOfDay = Annotated[str, BeforeValidator(_read_time_of_day)]


class Hours(BaseModel):
    """A UTC time of day: ``from`` included, ``until`` excluded; it may wrap midnight."""

    model_config = FROZEN

    from_: TimeOfDay = Field(alias="from")
    until: TimeOfDay

    @model_validator(mode="after")
    def _some_of_the_day(self) -> Self:
        if self.from_ == self.until:
            raise mistake("begins when it ends: for a whole day leave `hours` out")
        return self

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """The same as half-open spans of seconds of the day, ascending; two of them when it wraps midnight."""
        start, end = _second_of_day(self.from_), _second_of_day(self.until)
        if start < end:
            return ((start, end),)
        return ((0, end), (start, DAY_SECONDS)) if end else ((start, DAY_SECONDS),)


class Tier(BaseModel):
    """Past a threshold of one quantity of a request, the whole request costs another price."""

    model_config = FROZEN

    quantity: Meter
    threshold: Quantity
    inclusive: Flag = False
    price: Amount

    @model_validator(mode="after")
    def _threshold_can_be_missed(self) -> Self:
        if self.inclusive and self.threshold == 0:
            raise mistake("is passed by every event: an inclusive threshold must be above 0")
        return self


def _read_batch(value: object) -> bool:
    if value is not True:
        raise mistake("must be true; what is for every request leaves it out")
    return True


class Variant(BaseModel):
    """What a request must say for a price or an adjustment to be for it; an event that says more matches too."""

    model_config = FROZEN

    service_tier: OptionalId = ""
    batch: Annotated[bool, BeforeValidator(_read_batch)] = False
    speed: OptionalId = ""
    region: OptionalId = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that it names."""
        return tuple(key for key in VARIANT_KEYS if getattr(self, key))

    @property
    def pairs(self) -> dict[str, str | bool]:
        """What it says, by key."""
        return {key: getattr(self, key) for key in self.keys}

    @property
    def text(self) -> str:
        """The same as an event carries it; ``""`` when it names nothing."""
        return variant_text(self.pairs)

    @property
    def specificity(self) -> tuple[bool, ...]:
        """Larger is more specific: the service tier decides first, then batch, then the speed, then the region."""
        return tuple(key in self.keys for key in VARIANT_KEYS)


#: For every request, whatever it says.
ANY_VARIANT: Final = Variant()


class Price(BaseModel):
    """One row of a price book. An absent org, provider or model is ``""`` and means "any"."""

    model_config = FROZEN

    operation: Id
    provider: OptionalId = ""
    model: ModelName = ""  # an exact model, or the beginning of one and "*"
    org: OptionalId = ""
    variant: Variant = ANY_VARIANT
    meter: Meter
    name: InvoiceName = ""  # on the invoice; see `invoice_name`
    price: Amount
    per: Per = 1
    from_: Instant | None = Field(default=None, alias="from")
    until: Instant | None = None
    hours: Hours | None = None
    above: tuple[Tier, ...] = Field(default=(), strict=False)
    bill: Literal["always", "success"] = "always"

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.meter == INPUT_CONTEXT:
            raise mistake(f"prices {INPUT_CONTEXT}, which is the sum of quantities with prices of their own")
        if self.from_ is not None and self.until is not None and self.until <= self.from_:
            raise mistake("ends before it begins: `until` must be later than `from`")
        _check_tiers(self.above)
        return self

    @property
    def invoice_name(self) -> str:
        """The name of the line on the invoice: ``name``, else the meter, or the operation when that is requests."""
        return self.name or (self.operation if self.meter == REQUESTS else self.meter)

    @property
    def start_us(self) -> int:
        """The first instant at which the price may apply, in microseconds since 1970."""
        return FIRST_US if self.from_ is None else microseconds(self.from_)

    @property
    def end_us(self) -> int:
        """The first instant at which it no longer applies, likewise; the year 10000 when it has no end."""
        return LAST_US if self.until is None else microseconds(self.until)

    @property
    def reach(self) -> tuple[str, ...]:
        """What two prices must share to be equally specific for one event: whom it is for, and what is priced.

        Two different models (or suffixes) that match one event have different lengths, so one is more specific; two
        different variants that match one event name different keys, and their order decides.
        """
        return (self.operation, self.meter, self.org, self.model, self.provider, self.variant.text)

    @property
    def specificity(self) -> tuple[object, ...]:
        """Larger is more specific: org, then model (exact, longer suffix, shorter, none), provider, and variant."""
        return (bool(self.org), model_rank(self.model), bool(self.provider), self.variant.specificity)

    def content(self) -> dict[str, object]:
        """The row as JSON values, without what is left at its default."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)


class Adjustment(BaseModel):
    """A percentage on the prices of a variant: what is for its requests costs ``multiplier`` times as much.

    An absent org, operation, provider, model or meter is ``""`` and means "any".
    """

    model_config = FROZEN

    operation: OptionalId = ""
    provider: OptionalId = ""
    model: ModelName = ""
    org: OptionalId = ""
    variant: Variant
    meter: OptionalMeter = ""
    multiplier: Multiplier
    from_: Instant | None = Field(default=None, alias="from")
    until: Instant | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.meter == INPUT_CONTEXT:
            raise mistake(f"is for {INPUT_CONTEXT}, which has no price of its own")
        if not self.variant.keys:
            raise mistake(f"names no variant: it needs one or more of {', '.join(VARIANT_KEYS)}")
        if self.from_ is not None and self.until is not None and self.until <= self.from_:
            raise mistake("ends before it begins: `until` must be later than `from`")
        return self

    @property
    def start_us(self) -> int:
        """The first instant at which it may apply, in microseconds since 1970."""
        return FIRST_US if self.from_ is None else microseconds(self.from_)

    @property
    def end_us(self) -> int:
        """The first instant at which it no longer applies, likewise; the year 10000 when it has no end."""
        return LAST_US if self.until is None else microseconds(self.until)

    @property
    def hours(self) -> None:
        """It applies at all times of the day."""

    @property
    def reach(self) -> tuple[str, ...]:
        """What two adjustments must share to be equally specific for one price of one event."""
        return (self.operation, self.meter, self.org, self.model, self.provider, self.variant.text)

    @property
    def specificity(self) -> tuple[object, ...]:
        """Larger is more specific, among adjustments of one variant: org, model, provider, operation, meter."""
        return (
            bool(self.org),
            model_rank(self.model),
            bool(self.provider),
            bool(self.operation),
            bool(self.meter),
        )

    def adjusts(self, price: Price) -> bool:
        """Whether it may apply to a price: one for a variant has the keys that it names in it already."""
        return not set(self.variant.keys) & set(price.variant.keys)

    def content(self) -> dict[str, object]:
        """The row as JSON values, without what is left at its default."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def model_rank(model: str) -> int:
    """Larger is more specific: an exact model, then a longer suffix, a shorter one, none."""
    return ID_CHARACTERS_MAX + 2 if model and not model.endswith("*") else len(model)


def _check_tiers(tiers: tuple[Tier, ...]) -> None:
    if len(tiers) > TIERS_MAX:
        raise mistake(f"has {len(tiers)} thresholds: at most {TIERS_MAX}")
    if len({tier.quantity for tier in tiers}) > 1:
        raise mistake("has thresholds of several quantities: it would be open which of them decides")
    if len({tier.threshold for tier in tiers}) < len(tiers):
        raise mistake("has the same threshold twice")


def _read_currency(value: object) -> str:
    if not isinstance(value, str) or value not in CURRENCIES:
        raise mistake("is no ISO 4217 currency code like USD")
    return value


def _not_reserved(meter: str) -> str:
    if meter in RESERVED_USAGE_NAMES:
        raise mistake(f"names {meter}, which is never given in `usage`")
    return meter


def _read_aliases(aliases: dict[str, str]) -> dict[str, str]:
    """The aliases, sorted; each leads to a provider in one step."""
    for alias, provider in aliases.items():
        if provider in aliases:
            raise mistake(f"has {alias} for {provider}, which is an alias itself: name the provider of the prices")
    return dict(sorted(aliases.items()))


class PriceBook(BaseModel):
    """All prices of one name. ``revision`` 0 is a book as it stands in a file, not applied yet."""

    model_config = FROZEN

    name: Id
    revision: Annotated[Whole, Field(ge=0)] = 0
    currency: Annotated[str, BeforeValidator(_read_currency)]
    prices: tuple[Price, ...] = Field(default=(), max_length=PRICES_MAX, strict=False)
    period_prices: tuple[PeriodPrice, ...] = Field(default=(), max_length=PERIOD_PRICES_MAX, strict=False)
    adjustments: tuple[Adjustment, ...] = Field(default=(), max_length=ADJUSTMENTS_MAX, strict=False)
    #: Other names of providers: an event of ``gcp.gemini`` finds the prices of ``google``. Kept sorted.
    provider_aliases: Annotated[dict[Id, Id], Field(max_length=ALIASES_MAX), AfterValidator(_read_aliases)] = {}
    #: A set; kept sorted, so that its order in a file makes no revision.
    ignore: Annotated[
        tuple[Annotated[Meter, AfterValidator(_not_reserved)], ...],
        Field(max_length=IGNORE_MAX, strict=False),
        AfterValidator(lambda meters: tuple(sorted(set(meters)))),
    ] = ()

    def price_id(self, row: int) -> str:
        """The id of the price at the zero-based place ``row``: ``BOOK@REVISION:ROW``, counted from 1."""
        return f"{self.name}@{self.revision}:{row + 1}"

    def adjustment_id(self, row: int) -> str:
        """The id of the adjustment at the zero-based place ``row``: ``BOOK@REVISION:xROW``, counted from 1."""
        return f"{self.name}@{self.revision}:x{row + 1}"

    def content_hash(self) -> str:
        """SHA-256 of what the book says. The revision, comments and the way numbers are written do not matter."""
        return content_hash(self)

    def same_content(self, other: PriceBook) -> bool:
        """Whether the other book says the same under the same name, whatever its revision."""
        return self.content_hash() == other.content_hash()

    def to_json(self) -> str:
        """The book as one line of JSON, as it travels on ``usage.catalog``; ``from_json`` reads it back."""
        return canonical_json(self.model_dump(mode="json", by_alias=True, exclude_defaults=True))

    @classmethod
    def from_json(cls, text: str | bytes) -> PriceBook:
        """Reads what ``to_json`` wrote.

        Raises:
            pydantic.ValidationError: it is no price book.
        """
        return cls.model_validate(json.loads(text))


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no white space: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def content_hash(model: BaseModel) -> str:
    """SHA-256 of a model without its revision, in hexadecimal."""
    content = model.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"revision"})
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def next_revision(loaded: PriceBook, *, in_force: PriceBook | None) -> PriceBook:
    """Gives the book to apply: ``in_force`` itself when nothing changed, else ``loaded`` under the next revision."""
    if in_force is None:
        return loaded.model_copy(update={"revision": 1})
    if in_force.name != loaded.name:
        raise ValueError(f"{loaded.name!r} cannot be a revision of {in_force.name!r}")
    if loaded.same_content(in_force):
        return in_force
    return loaded.model_copy(update={"revision": in_force.revision + 1})


#: Stands between the id of a price and those of the adjustments that were applied to it; no id has one.
ADJUSTED_BY: Final = "*"


def adjusted_id(price_id: str, adjustment_ids: Sequence[str]) -> str:
    """Gives what a line says it was priced by: the price, and each adjustment that was applied to it."""
    return ADJUSTED_BY.join([price_id, *adjustment_ids])


class Dated(Protocol):
    """A row of a book that reaches something at some time: a price or an adjustment."""

    @property
    def reach(self) -> tuple[str, ...]:
        """What two rows must share to be equally specific."""

    @property
    def start_us(self) -> int:
        """The first instant at which it may apply."""

    @property
    def end_us(self) -> int:
        """The first instant at which it no longer applies."""

    @property
    def hours(self) -> Hours | None:
        """The time of day, None for all of it."""


def overlapping_pairs(prices: Sequence[Dated]) -> Iterator[tuple[int, int, datetime]]:
    """Gives all pairs of places whose prices are equally specific for one event at one instant, and that instant.

    The prices may come from several books; adjustments are compared likewise, among themselves. Within a pair the
    smaller place comes first.
    """
    by_reach: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, price in enumerate(prices):
        by_reach[price.reach].append(place)
    for places in by_reach.values():
        places.sort(key=lambda place: prices[place].start_us)
        yield from _overlaps_of_one_reach(prices, places)


def _overlaps_of_one_reach(prices: Sequence[Dated], places: list[int]) -> Iterator[tuple[int, int, datetime]]:
    """Sweeps over prices in the order of their start; only those that have not ended yet are compared."""
    running: list[int] = []
    for place in places:
        running = [other for other in running if prices[other].end_us > prices[place].start_us]
        for other in running:
            instant_us = _first_common_instant_us(prices[other], prices[place])
            if instant_us is not None:
                yield min(other, place), max(other, place), EPOCH + timedelta(microseconds=instant_us)
        running.append(place)


def _first_common_instant_us(one: Dated, other: Dated) -> int | None:
    start, end = max(one.start_us, other.start_us), min(one.end_us, other.end_us)
    midnight = start - start % DAY_US
    # The earliest common instant lies within 24 hours of the start: on its day or on the next.
    for day in (midnight, midnight + DAY_US):
        for first, last in _common_spans(one.hours, other.hours):
            instant = max(start, day + first * SECOND_US)
            if instant < min(end, day + last * SECOND_US):
                return instant
    return None


def _common_spans(one: Hours | None, other: Hours | None) -> list[tuple[int, int]]:
    ones, others = one.spans if one else WHOLE_DAY, other.spans if other else WHOLE_DAY
    spans = [(max(a[0], b[0]), min(a[1], b[1])) for a in ones for b in others]
    return sorted(span for span in spans if span[0] < span[1])

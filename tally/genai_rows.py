"""What one model of the ``genai-prices`` package costs, meter by meter and span by span, as a price book says it.

The package counts inclusively (its input holds the cached tokens) and bills what has no price of its own at the price
of what holds it: cached tokens of a model without a cache price cost what input costs. A book counts disjointly, so
that reading is written out as rows. Reasoning tokens are a part of the output in both: their row is the difference.

A variant of a request (a batch, a service tier) has rows for what the package prices for it, from the day on which it
does; all else of such a request has the rows without a variant.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING, Final

from genai_prices.data_units import unit_data
from genai_prices.types import ConditionalPrice, ModelPrice, StartDateConstraint, TieredPrices, TimeOfDateConstraint

from schemas.catalog_values import PRICE_DECIMALS_MAX
from schemas.frames import MEMO_METERS
from schemas.price_book import ANY_VARIANT, INPUT_CONTEXT, Hours, Price, Tier, Variant

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from genai_prices.types import ModelInfo, PriceVariant

#: The operation of all rows, as in every example of events.
OPERATION: Final = "llm.request"
TOKENS: Final = 1_000_000
#: Our meters of tokens, and the keys of the package that price them: the first one that a model has.
TOKEN_KEYS: Final = {
    "input_tokens": ("input_mtok",),
    "cache_read_tokens": ("cache_read_mtok", "input_mtok"),
    "cache_write_5m_tokens": ("cache_write_5m_mtok", "cache_write_mtok", "input_mtok"),
    "cache_write_1h_tokens": ("cache_write_1h_mtok", "cache_write_mtok", "input_mtok"),
    "output_tokens": ("output_mtok",),
}
REASONING_KEY: Final = "output_reasoning_mtok"
(REASONING,) = MEMO_METERS
#: What is no token and has a price (searches, pages, seconds, requests): a meter under the package's name for it.
OTHER_METERS: Final = {
    unit["price_key"]: (meter, unit["per"])
    for meter, unit in unit_data.items()
    if unit["dimensions"]["family"] != "tokens"
}
_KNOWN_KEYS: Final = {REASONING_KEY, *OTHER_METERS, *(key for keys in TOKEN_KEYS.values() for key in keys)}
#: How resellers end the names of models that cost nothing; without it a model without prices is one nobody looked up.
FREE: Final = ":free"
FREE_METERS: Final = ("input_tokens", "cache_read_tokens", "output_tokens")
#: Keys of the package's price context that an event can say, and how; ``processing`` has only one value besides none.
CONTEXT_KEYS: Final = ("service_tier", "speed")
PROCESSING: Final = "processing"
BATCH: Final = "batch"
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Amount:
    """The price of ``per`` units of a meter, and the prices past thresholds of the input."""

    price: Decimal
    tiers: tuple[tuple[int, Decimal], ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """What one meter of a model costs in one span; instants and hours as in a book, None for "always"."""

    meter: str
    per: int
    amount: Amount
    start: date | None
    until: date | None
    hours: tuple[time, time] | None
    variant: Variant = ANY_VARIANT

    def row(self, *, provider: str, model: str) -> Price:
        """The row of a book for a provider and a name of the model."""
        return Price.model_validate(
            {
                "operation": OPERATION,
                "provider": provider,
                "model": model,
                "variant": self.variant,
                "meter": self.meter,
                "price": self.amount.price,
                "per": self.per,
                "from": _midnight(self.start),
                "until": _midnight(self.until),
                "hours": None
                if self.hours is None
                else Hours.model_validate({"from": self.hours[0].isoformat(), "until": self.hours[1].isoformat()}),
                "above": tuple(
                    Tier.model_validate({"quantity": INPUT_CONTEXT, "threshold": start, "price": price})
                    for start, price in self.amount.tiers
                ),
            }
        )


@dataclass(frozen=True, slots=True)
class Tariff:
    """All lines of a model, and what of its prices they do not say: changed numbers, keys without a meter."""

    lines: tuple[Line, ...]
    rounded: tuple[tuple[str, Decimal, Decimal], ...]  # key of the package, before, after
    unsaid: tuple[str, ...]  # keys of the package
    unsaid_variants: tuple[str, ...] = ()  # what they are selected by in the package

    @property
    def meters(self) -> frozenset[str]:
        """The meters that have a price at some time."""
        return frozenset(line.meter for line in self.lines)


def tariff_of(model: ModelInfo, *, with_variants: bool = True) -> Tariff:
    """Gives the prices of a model. Without variants they are those that another provider takes over from its owner."""
    variants = [*(model.price_variants or ())] if with_variants else []
    prices = [model.prices] if isinstance(model.prices, ModelPrice) else [entry.prices for entry in model.prices]
    standard = list(prices)
    prices += [variant.prices for variant in variants if variant_of(variant.when) is not None]
    keys = sorted({key for price in prices for key, value in vars(price).items() if value is not None})
    meters = {meter: TOKENS for meter, ways in TOKEN_KEYS.items() if _is_sold(meter, ways, keys)}
    if REASONING_KEY in keys:
        meters[REASONING] = TOKENS
    meters |= {OTHER_METERS[key][0]: OTHER_METERS[key][1] for key in keys if key in OTHER_METERS}
    unsaid = {key for key in keys if key not in _KNOWN_KEYS}
    if REASONING_KEY in keys and not all(_difference(price) for price in standard):
        # Output would cost too much, and silently: reasoning tokens are a memo, which needs no price.
        unsaid.add(REASONING_KEY)
        meters = {meter: per for meter, per in meters.items() if meter not in ("output_tokens", REASONING)}
    lines = tuple(line for meter, per in meters.items() for line in _lines(model, meter, per))
    for variant in dict.fromkeys(filter(None, (variant_of(entry.when) for entry in variants))):
        lines += tuple(line for meter, per in meters.items() for line in _lines(model, meter, per, variant))
    if not keys and model.id.endswith(FREE):
        lines = tuple(Line(meter, TOKENS, Amount(Decimal(0)), None, None, None) for meter in FREE_METERS)
    unsaid_variants = {_spelled(entry.when) for entry in variants if variant_of(entry.when) is None}
    return Tariff(lines, tuple(_rounded(prices)), tuple(sorted(unsaid)), tuple(sorted(unsaid_variants)))


def variant_of(when: Mapping[str, str]) -> Variant | None:
    """Gives the variant of an event that the package means by a price context, None when an event can't say it."""
    if set(when) - {*CONTEXT_KEYS, PROCESSING} or when.get(PROCESSING, BATCH) != BATCH:
        return None
    said = {key: value for key, value in when.items() if key != PROCESSING}
    return Variant.model_validate(said | ({BATCH: True} if PROCESSING in when else {}))


def context_of(variant: Mapping[str, object]) -> dict[str, str]:
    """Gives the package's price context of a variant, as ``Variant.pairs`` has it."""
    said = {key: str(variant[key]) for key in CONTEXT_KEYS if key in variant}
    return said | ({PROCESSING: BATCH} if variant.get(BATCH) else {})


def _spelled(when: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(when.items()))


def _is_sold(meter: str, ways: Sequence[str], keys: Sequence[str]) -> bool:
    """Whether a model gets rows for a meter of tokens. Nobody reports cache writes who has no price for them."""
    own = [key for key in ways if key != "input_mtok"] if meter.startswith("cache_write") else ways
    return any(key in keys for key in own)


def _lines(model: ModelInfo, meter: str, per: int, variant: Variant = ANY_VARIANT) -> Iterator[Line]:
    """The lines of one meter: spans of days, each cut by hours where the price depends on them."""
    spans = [
        (start, until, _cells(model, meter, per, start or _day_before(until), variant))
        for start, until in _spans(model)
    ]
    merged: list[tuple[date | None, date | None, list[tuple[tuple[time, time] | None, Amount | None]]]] = []
    for start, until, cells in spans:
        if merged and merged[-1][2] == cells:
            merged[-1] = (merged[-1][0], until, cells)
        else:
            merged.append((start, until, cells))
    for start, until, cells in merged:
        yield from (
            Line(meter, per, amount, start, until, hours, variant) for hours, amount in cells if amount is not None
        )


def _spans(model: ModelInfo) -> list[tuple[date | None, date | None]]:
    days = sorted(
        {entry.constraint.start_date for entry in _entries(model) if isinstance(entry.constraint, StartDateConstraint)}
    )
    return list(zip([None, *days], [*days, None], strict=True))


def _entries(model: ModelInfo) -> list[ConditionalPrice | PriceVariant]:
    """All prices that may depend on the time."""
    conditional = [] if isinstance(model.prices, ModelPrice) else model.prices
    return [*conditional, *(model.price_variants or ())]


def _day_before(until: date | None) -> date:
    return date(2000, 1, 1) if until is None else until - _DAY


def _cells(
    model: ModelInfo, meter: str, per: int, day: date, variant: Variant
) -> list[tuple[tuple[time, time] | None, Amount | None]]:
    """What the meter costs at each time of one day; neighbours of one price are one cell, also around midnight."""
    starts = sorted(
        {
            _utc(moment)
            for entry in _entries(model)
            if isinstance(entry.constraint, TimeOfDateConstraint)
            for moment in (entry.constraint.start_time, entry.constraint.end_time)
        }
    ) or [time(0)]
    amounts = [_amount_at(model, meter, per, datetime.combine(day, start, UTC), variant) for start in starts]
    kept = [place for place in range(len(starts)) if amounts[place] != amounts[place - 1]]
    if not kept:
        return [(None, amounts[0])]
    ends = [*kept[1:], kept[0]]
    return [((starts[place], starts[end]), amounts[place]) for place, end in zip(kept, ends, strict=True)]


def _utc(moment: time) -> time:
    """A time of day of the package, which is in UTC when it names no zone."""
    if moment.tzinfo is None:
        return moment
    return datetime.combine(date(2000, 1, 1), moment).astimezone(UTC).time()


def _amount_at(model: ModelInfo, meter: str, per: int, moment: datetime, variant: Variant) -> Amount | None:
    """What a meter costs at a moment; for a variant None where the package has no price for it of its own."""
    if not variant.keys:
        return _amount(model.get_prices(moment), meter, per)
    resolved = model.get_prices(moment, context_of(variant.pairs))
    own = _own_keys(model, moment, variant)
    keys = _keys_of(meter)
    used = keys if meter == REASONING else [key for key in keys if vars(resolved).get(key) is not None][:1]
    return _amount(resolved, meter, per) if own.intersection(used) else None


def _own_keys(model: ModelInfo, moment: datetime, variant: Variant) -> set[str]:
    """The keys that the package prices for a variant at a moment."""
    context = context_of(variant.pairs)
    return {
        key
        for entry in model.price_variants or ()
        if (entry.constraint is None or entry.constraint.active(moment)) and entry.when.items() <= context.items()
        for key, value in vars(entry.prices).items()
        if value is not None
    }


def _keys_of(meter: str) -> Sequence[str]:
    if meter == REASONING:
        return (REASONING_KEY, *TOKEN_KEYS["output_tokens"])
    return TOKEN_KEYS.get(meter) or tuple(key for key, (name, _) in OTHER_METERS.items() if name == meter)


def _amount(prices: ModelPrice, meter: str, per: int) -> Amount | None:
    return _difference(prices) if meter == REASONING else _first(prices, _keys_of(meter), per)


def _first(prices: ModelPrice, keys: Sequence[str], per: int) -> Amount | None:
    found = next((value for value in (vars(prices).get(key) for key in keys) if value is not None), None)
    if found is None:
        return None
    if isinstance(found, TieredPrices):
        tiers = {tier.start: exact(tier.price, per=per) for tier in found.tiers}
        return Amount(exact(found.base, per=per), tuple(sorted(tiers.items())))
    return Amount(exact(found, per=per))


def _difference(prices: ModelPrice) -> Amount | None:
    """What reasoning costs beyond output. None when it costs less, or depends on the input: no row can say that."""
    reasoning, output = _first(prices, (REASONING_KEY,), TOKENS), _first(prices, TOKEN_KEYS["output_tokens"], TOKENS)
    if reasoning is None or output is None or reasoning.tiers or output.tiers or reasoning.price < output.price:
        return None
    return Amount(reasoning.price - output.price)


def exact(price: Decimal, *, per: int) -> Decimal:
    """Gives a price with at most 12 decimals for one unit: more is the noise of a float, not a price.

    Of prices for a number of units that is no power of ten (3600 seconds) it is the price that keeps 12 decimals.
    """
    zeros = len(str(per)) - 1
    decimals = PRICE_DECIMALS_MAX - (zeros if per == 10**zeros else 0)
    return price.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_EVEN).normalize()


def _rounded(prices: Sequence[ModelPrice]) -> Iterator[tuple[str, Decimal, Decimal]]:
    for entry in prices:
        for key, value in sorted(vars(entry).items()):
            per = OTHER_METERS[key][1] if key in OTHER_METERS else TOKENS
            numbers = (
                [value.base, *(tier.price for tier in value.tiers)] if isinstance(value, TieredPrices) else [value]
            )
            for number in numbers:
                if key in _KNOWN_KEYS and number is not None and exact(number, per=per) != number:
                    yield key, number, exact(number, per=per)


def _midnight(day: date | None) -> datetime | None:
    return None if day is None else datetime.combine(day, time(0), UTC)

"""The price book of the system tests, and what it means: written down twice, as a file and as plain arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.system.events import Event

#: Since then output tokens of gpt-4o-mini cost 0.60, before 0.75.
CHEAPER_SINCE: Final = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3)

BOOK: Final = f"""
price_book: standard
currency: USD
prices:
  - {{operation: llm.request, provider: openai, model: gpt-4o-mini, meter: input_tokens, price: "0.15", per: 1000000}}
  - {{operation: llm.request, provider: openai, model: gpt-4o-mini, meter: cache_read_tokens,
      price: "0.075", per: 1000000}}
  - {{operation: llm.request, provider: openai, model: gpt-4o-mini, meter: output_tokens, price: "0.75", per: 1000000,
      until: "{CHEAPER_SINCE:%Y-%m-%dT%H:%M:%SZ}"}}
  - {{operation: llm.request, provider: openai, model: gpt-4o-mini, meter: output_tokens, price: "0.60", per: 1000000,
      from: "{CHEAPER_SINCE:%Y-%m-%dT%H:%M:%SZ}"}}
  - {{operation: llm.request, provider: anthropic, model: "claude-sonnet-4*", meter: input_tokens,
      price: "3", per: 1000000,
      above: {{quantity: input_context_tokens, threshold: 200000, inclusive: false, price: "6"}}}}
  - {{operation: llm.request, provider: anthropic, model: "claude-sonnet-4*", meter: output_tokens,
      price: "15", per: 1000000}}
  - {{operation: lookup, meter: requests, name: lookups, price: "0.0415", per: 1, bill: success}}
  - {{operation: lookup, meter: requests, name: lookups, price: "0.0390", per: 1, bill: success, org: org-1}}
  - {{operation: report_job, meter: pages, price: "0.0333333", per: 7}}
  - {{operation: webhook_delivery, meter: requests, name: webhook_deliveries, price: "0", per: 1}}
  - {{operation: llm.request, provider: anthropic, model: "claude-sonnet-4*", meter: output_tokens,
      price: "7.5", per: 1000000, variant: {{service_tier: flex}}}}
adjustments:
  - {{provider: openai, variant: {{batch: true}}, multiplier: "0.5"}}
  - {{operation: llm.request, variant: {{region: eu}}, multiplier: "1.10"}}
provider_aliases: {{anthropic.claude: anthropic}}
ignore: [latency_ms]
"""

_EXACT: Final = Context(prec=80, rounding=ROUND_HALF_EVEN)
_UNIT: Final = Decimal("0.000000000001")
_MILLION: Final = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class Priced:
    """What an event costs. ``meters`` are (meter, quantity, cost); a cost is None where there is no price."""

    cost: Decimal | None
    pricing: str
    meters: tuple[tuple[str, Decimal, Decimal | None], ...]


def priced(event: Event) -> Priced:
    """The book by hand: quantity × price × multipliers ÷ per, half-even at the twelfth decimal."""
    meters: list[tuple[str, Decimal, Decimal | None]] = []
    unit_prices: list[Decimal] = []
    unpriced = False
    for meter, quantity in (*event.usage, ("requests", Decimal(1))):
        price = _price(event, meter)
        if price is None:
            if meter != "requests":
                meters.append((meter, quantity, None))
                unpriced |= meter not in ("reasoning_tokens", "latency_ms") and quantity != 0
            continue
        rate, per, only_success = price
        unit_prices.append(rate)
        billed = not only_success or event.status == "ok"
        cost = _EXACT.divide(_EXACT.multiply(quantity, rate), per) if billed else Decimal(0)
        meters.append((meter, quantity, cost.quantize(_UNIT, context=_EXACT)))
    costs = [cost for _, _, cost in meters if cost is not None]
    return Priced(
        cost=sum(costs, Decimal(0)) if costs else None,
        pricing="unpriced" if unpriced or not unit_prices else "priced" if any(unit_prices) else "free",
        meters=tuple(meters),
    )


#: The price, what it is per, and whether only successful events pay it, by operation, provider and meter.
_PRICES: Final = {
    ("llm.request", "openai", "input_tokens"): ("0.15", _MILLION, False),
    ("llm.request", "openai", "cache_read_tokens"): ("0.075", _MILLION, False),
    ("llm.request", "openai", "output_tokens"): ("0.60", _MILLION, False),
    ("llm.request", "anthropic", "input_tokens"): ("3", _MILLION, False),
    ("llm.request", "anthropic", "output_tokens"): ("15", _MILLION, False),
    ("lookup", "", "requests"): ("0.0415", Decimal(1), True),
    ("report_job", "", "pages"): ("0.0333333", Decimal(7), False),
    ("webhook_delivery", "", "requests"): ("0", Decimal(1), False),
}


def _price(event: Event, meter: str) -> tuple[Decimal, Decimal, bool] | None:
    provider = "anthropic" if event.provider == "anthropic.claude" else event.provider
    found = _PRICES.get((event.operation, provider, meter))
    if found is None:
        return None
    price, per, only_success = found
    variant = dict(event.variant)
    match provider, meter:
        case "openai", "output_tokens" if event.time < CHEAPER_SINCE:
            price = "0.75"
        case "anthropic", "input_tokens" if dict(event.usage)["input_tokens"] > 200_000:
            price = "6"
        case "", "requests" if event.operation == "lookup" and event.org == "org-1":
            price = "0.0390"
        case "anthropic", "output_tokens" if variant.get("service_tier") == "flex":
            price = "7.5"
    rate = Decimal(price)
    if provider == "openai" and variant.get("batch"):
        rate = _EXACT.multiply(rate, Decimal("0.5"))
    if event.operation == "llm.request" and variant.get("region") == "eu":
        rate = _EXACT.multiply(rate, Decimal("1.10"))
    return rate, per, only_success

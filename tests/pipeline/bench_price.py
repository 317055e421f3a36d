"""How long pricing takes: ``python tests/pipeline/bench_price.py`` prints CPU microseconds per event.

2,000 price rows of all kinds (dated, by the hour, tiered, by suffix, for one org, for a variant, billed on success
only) and 60 adjustments, batches of 10,000 events with 3 quantities each, one thread. The mixtures differ in what the
prices depend on; the book without variants shows what those cost whom they do not concern.
"""

from __future__ import annotations

import os

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # noqa: TID251 -- must be set before polars is imported

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from pipeline.price import compile_catalog, price
from schemas.frames import EVENTS, USAGE
from schemas.price_book import PriceBook

if TYPE_CHECKING:
    from pipeline.price import CompiledCatalog

BATCH = 10_000
ORGS, MODELS = 400, 100
PROVIDERS = ("openai", "anthropic", "google", "mistral")
START = datetime(2026, 3, 1, tzinfo=UTC)


def price_rows(model: str, provider: str, number: int) -> list[dict[str, Any]]:
    """Twenty rows for one model: constant, dated, by the hour, tiered, for one org and for a family of models."""
    row = {"operation": "llm.request", "provider": provider, "model": model, "per": 1_000_000}
    above = {"quantity": "input_context_tokens", "threshold": 3_000, "price": "6"}
    rows: list[dict[str, Any]] = [
        row | {"meter": "input_tokens", "price": "3", "above": [above], "until": "2026-03-02T00:00:00Z"},
        row | {"meter": "input_tokens", "price": "2.5", "above": [above], "from": "2026-03-02T00:00:00Z"},
        row | {"meter": "output_tokens", "price": "0.60", "hours": {"from": "16:30", "until": "00:30"}},
        row | {"meter": "output_tokens", "price": "0.90", "hours": {"from": "00:30", "until": "16:30"}},
        row | {"meter": "cache_write_5m_tokens", "price": "3.75"},
        row | {"meter": "cache_read_tokens", "price": "0.30", "bill": "success"},
    ]
    rows += [row | {"meter": "input_tokens", "price": "2", "org": f"org-{number * 7 + n}"} for n in range(7)]
    rows += [row | {"meter": "output_tokens", "price": "0.5", "org": f"org-{number * 7 + n}"} for n in range(6)]
    requests = {"operation": "lookup", "meter": "requests", "price": "0.0415", "bill": "success"}
    rows[-1] = requests | ({"org": f"org-{number}"} if number else {})
    return [*rows, row | {"meter": "cache_read_tokens", "price": "1", "model": f"{model}*", "per": 3}]


def catalog(*, with_variants: bool) -> CompiledCatalog:
    """A book of 2,000 rows; with variants, two rows of each model are for one, and adjustments are for all kinds."""
    rows = [
        row
        for number in range(MODELS)
        for row in price_rows(f"model-family-{number}", PROVIDERS[number % len(PROVIDERS)], number)
    ]
    fields: dict[str, object] = {}
    if with_variants:
        for number in range(MODELS):
            rows[20 * number + 6] |= {"variant": {"service_tier": "flex"}, "org": ""}
            rows[20 * number + 13] |= {"variant": {"batch": True}, "org": ""}
        fields = {"adjustments": adjustment_rows(), "provider_aliases": {"gcp.gemini": "google", "x_ai": "mistral"}}
    return compile_catalog(
        [PriceBook.model_validate({"name": "bench", "revision": 1, "currency": "USD", "prices": rows} | fields)]
    )


def adjustment_rows() -> list[dict[str, Any]]:
    """Of a region, of batches by provider, for one org, dated, for one meter and for families of models."""
    rows: list[dict[str, Any]] = [
        {"variant": {"region": "eu"}, "multiplier": "1.10"},
        {"variant": {"speed": "fast"}, "multiplier": "2", "until": "2026-03-03T00:00:00Z"},
        {"variant": {"speed": "fast"}, "multiplier": "2.5", "from": "2026-03-03T00:00:00Z"},
        {"variant": {"batch": True}, "multiplier": 1, "meter": "reasoning_tokens"},
    ]
    rows += [{"variant": {"batch": True}, "multiplier": "0.5", "provider": provider} for provider in PROVIDERS]
    rows += [{"variant": {"batch": True}, "multiplier": "0.45", "org": f"org-{number}"} for number in range(26)]
    return rows + [
        {"variant": {"region": "eu"}, "multiplier": "1.05", "model": f"model-family-{number}*"} for number in range(26)
    ]


#: What every second request says of itself, where requests say anything.
VARIANTS = (
    '{"batch":true}',
    '{"service_tier":"flex"}',
    '{"region":"eu"}',
    '{"batch":true,"region":"eu","speed":"fast"}',
    '{"region":"us"}',
)


def batch(
    seed: int, *, decimals: int = 0, is_mixed: bool = False, says_variants: bool = False
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A batch of events over all orgs and models, 3 quantities each.

    Mixed, a quarter of them are lookups priced by the request, another quarter are of models that only a suffix
    matches, and every third quantity is one that has no price.
    """
    dice = np.random.default_rng(seed)
    quarter = dice.integers(0, 4, BATCH) if is_mixed else np.full(BATCH, 3)
    model = dice.integers(0, MODELS, BATCH)
    seconds = dice.integers(0, 4 * 86_400, BATCH).tolist()
    events = pl.DataFrame(
        {
            "partition": 0,
            "offset": np.arange(BATCH),
            "index": 0,
            "of": 1,
            "received_at": START,
            "org": [f"org-{number}" for number in dice.integers(0, ORGS, BATCH)],
            "source": "/gateway",
            "id": [f"{seed}-{number}" for number in range(BATCH)],
            "time": [START + timedelta(seconds=second) for second in seconds],
            "operation": np.where(quarter == 0, "lookup", "llm.request"),
            "project": "checkout",
            "api_key": "key_1",
            "environment": "production",
            "user": "",
            "provider": [PROVIDERS[number % len(PROVIDERS)] for number in model],
            "model": [
                f"model-family-{number}" + ("-2026-03-01" if part == 1 else "")
                for number, part in zip(model.tolist(), quarter.tolist(), strict=True)
            ],
            "variant": [
                VARIANTS[number] if says_variants and number < len(VARIANTS) else ""
                for number in dice.integers(0, 2 * len(VARIANTS), BATCH).tolist()
            ],
            "status": np.where(dice.random(BATCH) < 0.03, "error", "ok"),
            "tags": "",
        },
        schema=EVENTS,
    )
    quantities = pl.Series(dice.integers(0, 5_000 * 10**decimals, 3 * BATCH)).cast(pl.Decimal(38, decimals))
    usage = pl.DataFrame(
        {
            "row": np.repeat(np.arange(BATCH), 3),
            "meter": ["input_tokens", "cache_read_tokens", "reasoning_tokens" if is_mixed else "output_tokens"] * BATCH,
            "quantity": quantities.cast(pl.Decimal(38, 12)),
        },
        schema=USAGE,
    )
    return events, usage


MIXTURES: dict[str, dict[str, Any]] = {
    "whole quantities": {},
    "quantities with 6 decimals": {"decimals": 6},
    "mixed events": {"is_mixed": True},
}


def measure(name: str, batches: list[tuple[pl.DataFrame, pl.DataFrame]], book: CompiledCatalog) -> None:
    """Prints CPU microseconds per event: of the first batch, which learns, and median and best of all later ones."""
    took = []
    for events, usage in batches * 3:
        before = time.process_time()
        price(events, usage, book=book)
        took.append((time.process_time() - before) / BATCH * 1e6)
    later = took[len(batches) :]
    print(  # noqa: T201
        f"{name:48} first {took[0]:5.2f}, then {np.median(later):4.2f}, at best {min(later):4.2f} µs CPU per event"
    )


def main() -> None:
    """Measures whole quantities, quantities with six decimals, and mixed events, with and without variants."""
    plain, adjusting = catalog(with_variants=False), catalog(with_variants=True)
    rows = sum(len(each.prices) for each in adjusting.books)
    print(f"{rows} price rows, {BATCH} events a batch, 3 quantities each")  # noqa: T201
    for name, options in MIXTURES.items():
        batches = [batch(seed, **options) for seed in range(40)]
        measure(name, batches, plain)
        measure(f"{name}, book of variants", batches, adjusting)
    for name, options in MIXTURES.items():
        batches = [batch(seed, says_variants=True, **options) for seed in range(40)]
        measure(f"{name}, half say a variant", batches, adjusting)


if __name__ == "__main__":
    main()

"""How long pricing takes: ``python tests/pipeline/bench_price.py`` prints CPU microseconds per event.

2,000 price rows of all kinds (dated, by the hour, tiered, by suffix, for one org, billed on success only), batches of
10,000 events with 3 quantities each, one thread. The mixtures differ in what the prices depend on.
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


def catalog() -> CompiledCatalog:
    """A book of 2,000 rows."""
    rows = [
        row
        for number in range(MODELS)
        for row in price_rows(f"model-family-{number}", PROVIDERS[number % len(PROVIDERS)], number)
    ]
    return compile_catalog(
        [PriceBook.model_validate({"name": "bench", "revision": 1, "currency": "USD", "prices": rows})]
    )


def batch(seed: int, *, decimals: int = 0, is_mixed: bool = False) -> tuple[pl.DataFrame, pl.DataFrame]:
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


def measure(name: str, batches: list[tuple[pl.DataFrame, pl.DataFrame]], book: CompiledCatalog) -> None:
    """Prints CPU microseconds per event: of the first batch, which learns, and median and best of all later ones."""
    took = []
    for events, usage in batches * 3:
        before = time.process_time()
        price(events, usage, book=book)
        took.append((time.process_time() - before) / BATCH * 1e6)
    later = took[len(batches) :]
    print(  # noqa: T201
        f"{name:30} first {took[0]:5.2f}, then {np.median(later):4.2f}, at best {min(later):4.2f} µs CPU per event"
    )


def main() -> None:
    """Measures whole quantities, quantities with six decimals, and a mixture of events."""
    book = catalog()
    print(f"{sum(len(each.prices) for each in book.books)} price rows, {BATCH} events a batch, 3 quantities each")  # noqa: T201
    measure("whole quantities", [batch(seed) for seed in range(40)], book)
    measure("quantities with 6 decimals", [batch(seed, decimals=6) for seed in range(40)], book)
    measure("mixed events", [batch(seed, is_mixed=True) for seed in range(40)], book)


if __name__ == "__main__":
    main()

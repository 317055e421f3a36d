"""`tally catalog import genai-prices`: the book that is written prices as the package does, or says where it does not."""

from __future__ import annotations

import random
import re
import socket
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import genai_prices
import pytest
from genai_prices.data import providers as PROVIDERS  # noqa: N812 -- it is a constant there
from genai_prices.data_units import unit_data
from genai_prices.types import (
    ClauseContains,
    ClauseEquals,
    ClauseOr,
    ClauseRegex,
    ClauseStartsWith,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)

from pipeline.catalog import load_catalog_file
from pipeline.price_scalar import ScalarEvent, price_event
from schemas.price_book import INPUT_CONTEXT, INPUT_CONTEXT_PARTS, PRICES_MAX, Price, PriceBook
from tally.genai_models import models_of, names_of, offers_of, winner_of
from tally.genai_rows import TOKEN_KEYS, exact, tariff_of
from tally.import_prices import ALIASES, import_book
from tests.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.commands.conftest import Tally

MANUAL = (ROOT / "docs" / "prices.md").read_text(encoding="utf-8")
IMPORT = ("catalog", "import", "genai-prices")
EVENTS: Final = 800
CENT_OF_A_TRILLIONTH: Final = Decimal("1e-12")

#: Where the book and the package differ, in the words of the manual. Each is provoked by a test below.
DIFFERENCES: Final = (
    "cache writes of a model that has no price for them",
    "a quantity that the model has no price for at all",
    "the float noise of a price",
    "a name that only a regular expression, or the middle or the end of a name, would find",
    "a name in other letters, upper or lower, than the package writes it",
    "a name with a compact date, `-20251211`, where the package knows `-2025-12-11`",
    "a new name that begins like one model and contains the name of another",
    "batch, flex, priority and other variants of a request",
    "tokens of audio, images and video, citations",
    "a model whose reasoning costs less than its output",
    "a model without any price",
    "audio of less than ten seconds at Groq",
)


@pytest.fixture(scope="module")
def whole() -> PriceBook:
    """The book of everything, as it is loaded from the text that is written."""
    book = load_catalog_file(import_book().text(), filename="prices.yaml").price_book
    assert book is not None
    return book


@pytest.fixture(scope="module")
def by_provider(whole: PriceBook) -> dict[str, PriceBook]:
    """The same, cut by provider: no other row can match an event of it, and a search takes less time."""
    rows: defaultdict[str, list[Price]] = defaultdict(list)
    for price in whole.prices:
        rows[price.provider].append(price)
    return {provider: whole.model_copy(update={"prices": tuple(prices)}) for provider, prices in rows.items()}


@dataclass(frozen=True)
class Request:
    """A request in our words; the package gets the same one in its own."""

    provider: str
    model: str
    time: datetime
    usage: dict[str, int]

    def ours(self, book: PriceBook) -> Decimal | None:
        """What it costs by the book; null unless everything of it has a price."""
        usage = {meter: Decimal(quantity) for meter, quantity in self.usage.items()}
        event = ScalarEvent("acme", "llm.request", self.provider, self.model, "ok", self.time, usage)
        priced = price_event(event, books=[book])
        return None if priced.pricing == "unpriced" else priced.cost

    def theirs(self) -> Decimal:
        """What it costs by the package, to 12 decimals."""
        result = genai_prices.calc_price(
            genai_prices.Usage(**inclusive(self.usage)),
            self.model,
            provider_id=self.provider,
            genai_request_timestamp=self.time,
        )
        return result.total_price.quantize(CENT_OF_A_TRILLIONTH)


def inclusive(usage: dict[str, int]) -> dict[str, int]:
    """Disjoint quantities as the package counts: every total holds its parts."""
    totals = {"output_reasoning_tokens" if key == "reasoning_tokens" else key: count for key, count in usage.items()}
    totals["input_tokens"] = sum(usage.get(part, 0) for part in INPUT_CONTEXT_PARTS)
    totals["cache_write_tokens"] = sum(count for key, count in usage.items() if key.startswith("cache_write"))
    totals["input_document_pages"] = usage.get("input_document_pages", 0) + usage.get(
        "input_annotated_document_pages", 0
    )
    totals["audio_seconds"] = max(usage.get("audio_seconds", 0), usage.get("input_audio_seconds", 0))
    return totals


def requests(book: dict[str, PriceBook], *, seed: int) -> Iterator[Request]:
    """Random requests to every provider in turn: around thresholds, changes of price and times of day."""
    chance = random.Random(seed)
    names = {provider: sorted({price.model for price in rows.prices}) for provider, rows in book.items()}
    providers = sorted(book)
    for number in range(EVENTS):
        provider = providers[number % len(providers)]
        written = chance.choice(names[provider])
        rows = [price for price in book[provider].prices if price.model == written]
        yield Request(
            provider,
            written.removesuffix("*")
            + (chance.choice(("", "-latest", "-v9", "@20990101")) if written[-1] == "*" else ""),
            _time(chance, rows),
            _usage(chance, rows),
        )


def _time(chance: random.Random, rows: list[Price]) -> datetime:
    """Any moment of some years, or one at the edge of a span or of hours."""
    anywhere = datetime(2023, 1, 1, tzinfo=UTC) + timedelta(microseconds=chance.randrange(5 * 365 * 86_400 * 10**6))
    edges = [edge for row in rows for edge in (row.from_, row.until) if edge is not None]
    moment = chance.choice(edges) if edges and chance.random() < 0.5 else anywhere
    hours = [span for row in rows if row.hours is not None for span in row.hours.spans]
    if hours and chance.random() < 0.7:
        midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        moment = midnight + timedelta(seconds=chance.choice(hours)[0])
    return moment + timedelta(microseconds=chance.choice((-1, 0, 0, 1)))


def _usage(chance: random.Random, rows: list[Price]) -> dict[str, int]:
    """Counts for the meters of a model; where there are thresholds its input lies at one of them."""
    usage = {meter: chance.choice((0, 1, chance.randrange(10**6))) for meter in {row.meter: None for row in rows}}
    usage.pop("requests", None)
    if "audio_seconds" in usage:
        usage["audio_seconds"] += 10
    thresholds = sorted({int(tier.threshold) for row in rows for tier in row.above if tier.quantity == INPUT_CONTEXT})
    if thresholds and "input_tokens" in usage:
        parts = [part for part in INPUT_CONTEXT_PARTS if part in usage]
        total = max(chance.choice(thresholds) + chance.choice((-1, 0, 1)), 0)
        for part in parts[1:]:
            usage[part] = chance.randrange(total + 1)
            total -= usage[part]
        usage["input_tokens"] = total
    return usage


def noisy(provider: str, name: str) -> bool:
    """Whether a price of the model has the noise of a float."""
    owner = next(candidate for candidate in PROVIDERS if candidate.id == provider)
    model = winner_of(name, models=models_of(owner, providers=PROVIDERS))
    return model is not None and bool(tariff_of(model).rounded)


def test_random_requests_cost_what_the_package_says(by_provider: dict[str, PriceBook]) -> None:
    """To the last of 12 decimals, for every provider, at thresholds, at changes of price and through the day."""
    asked = [request for request in requests(by_provider, seed=20261120) if not noisy(request.provider, request.model)]

    different = [
        (request, ours, theirs)
        for request in asked
        if (ours := request.ours(by_provider[request.provider])) != (theirs := request.theirs())
    ]

    assert len(asked) > 0.9 * EVENTS
    assert different == []

"""The imported book against the package itself: thousands of random requests, and every difference is a listed one."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Final

import genai_prices
import pytest
from genai_prices.data import providers as PROVIDERS  # noqa: N812 -- it is a constant there
from genai_prices.types import ClauseContains, ClauseEndsWith, ClauseOr

from pipeline.catalog import load_catalog_file
from pipeline.price import compile_catalog, price
from pipeline.pricing.scalar import ScalarEvent
from schemas.price_book import INPUT_CONTEXT_PARTS, Price, PriceBook, microseconds
from schemas.providers import OTHER_NAMES, PROVIDER_OF
from tally.genai_models import models_of, winner_of
from tally.genai_rows import REASONING_KEY, TOKEN_KEYS, context_of, tariff_of
from tally.import_prices import import_book
from tests.pipeline.test_price import frames
from tests.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from genai_prices.types import ModelInfo

    from pipeline.price import CompiledCatalog
    from tally.genai_rows import Tariff

MANUAL = (ROOT / "docs" / "prices.md").read_text(encoding="utf-8")
PLAIN_REQUESTS: Final = 4_000
ODD_REQUESTS: Final = 150  # of each kind
SMALLEST: Final = Decimal("1e-12")
OWN_PROVIDERS: Final = {provider.id: provider for provider in PROVIDERS}
#: When the package has all its prices; the version is of this month.
NOW: Final = datetime(2026, 11, 25, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Request:
    """A request in our words; the package gets the same one in its own."""

    provider: str
    model: str
    time: datetime
    usage: dict[str, int]
    variant: dict[str, str | bool] = field(default_factory=dict)
    more_context: dict[str, str] = field(default_factory=dict)  # what only the package understands

    @property
    def event(self) -> ScalarEvent:
        """The request as an event."""
        usage = {meter: Decimal(quantity) for meter, quantity in self.usage.items()}
        return ScalarEvent("acme", "llm.request", self.provider, self.model, "ok", self.time, usage, self.variant)

    def theirs(self) -> Decimal | None:
        """What it costs by the package, to 12 decimals; null when the package does not know provider or model."""
        try:
            result = genai_prices.calc_price(
                genai_prices.Usage(**inclusive(self.usage)),
                self.model,
                provider_id=self.provider,
                genai_request_timestamp=self.time,
                price_context=context_of(self.variant) | self.more_context,
            )
        except LookupError:
            return None
        return result.total_price.quantize(SMALLEST)

    def found(self) -> ModelInfo | None:
        """The model that the package has for the name, None when it has none."""
        owner = OWN_PROVIDERS[PROVIDER_OF.get(self.provider, self.provider)]
        return winner_of(self.model, models=models_of(owner, providers=PROVIDERS))


def inclusive(usage: dict[str, int]) -> dict[str, int]:
    """Disjoint quantities as the package counts: every total holds its parts."""
    totals = {"output_reasoning_tokens" if key == "reasoning_tokens" else key: count for key, count in usage.items()}
    totals["input_tokens"] = sum(usage.get(part, 0) for part in INPUT_CONTEXT_PARTS)
    totals["cache_write_tokens"] = sum(count for key, count in usage.items() if key.startswith("cache_write"))
    totals["input_document_pages"] = usage.get("input_document_pages", 0) + usage.get(
        "input_annotated_document_pages", 0
    )
    totals["audio_seconds"] = usage.get("audio_seconds", 0) + usage.get("input_audio_seconds", 0)
    return totals


def ours(requests: Sequence[Request], catalog: CompiledCatalog) -> list[Decimal | None]:
    """What each request costs by the book; null unless everything of it has a price."""
    events = price(*frames([request.event for request in requests]), book=catalog).events
    return [None if pricing == "unpriced" else cost for cost, pricing in events.select("cost", "pricing").iter_rows()]


# -- Plain requests: what a book can say -------------------------------------------------------------------------------


class World:
    """The rows of the book by provider and model, and a source of chance."""

    def __init__(self, book: PriceBook, *, seed: int) -> None:
        self.chance = random.Random(seed)
        self.rows: defaultdict[str, defaultdict[str, list[Price]]] = defaultdict(lambda: defaultdict(list))
        for row in book.prices:
            self.rows[row.provider][row.model].append(row)

    def models(self, wanted: Callable[[Sequence[Price]], bool]) -> list[tuple[str, str]]:
        """The providers and models of whose rows something is true."""
        return [
            (provider, model)
            for provider, models in sorted(self.rows.items())
            for model, rows in sorted(models.items())
            if wanted(rows)
        ]

    def request(self, provider: str = "", model: str = "") -> Request:
        """A request to the model of a row, around thresholds, changes of price and times of day."""
        chance = self.chance
        provider = provider or chance.choice(sorted(self.rows))
        written = model or chance.choice(sorted(self.rows[provider]))
        rows = self.rows[provider][written]
        suffix = chance.choice(("", "-latest", "-v9", "@20990101")) if written.endswith("*") else ""
        time = self.time(rows)
        at_that_time = [row for row in rows if row.start_us <= microseconds(time) < row.end_us]
        return Request(provider, written.removesuffix("*") + suffix, time, self.usage(at_that_time), self.variant(rows))

    def time(self, rows: Sequence[Price]) -> datetime:
        """Any moment of some years, or one at the edge of a span or of hours."""
        chance = self.chance
        anywhere = datetime(2023, 1, 1, tzinfo=UTC) + timedelta(microseconds=chance.randrange(5 * 365 * 86_400 * 10**6))
        edges = [edge for row in rows for edge in (row.from_, row.until) if edge is not None]
        moment = chance.choice(edges) if edges and chance.random() < 0.5 else anywhere
        hours = [span for row in rows if row.hours is not None for span in row.hours.spans]
        if hours and chance.random() < 0.7:
            midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
            moment = midnight + timedelta(seconds=chance.choice(hours)[0])
        return moment + timedelta(microseconds=chance.choice((-1, 0, 0, 1)))

    def usage(self, rows: Sequence[Price]) -> dict[str, int]:
        """Counts for the meters of a model; where there are thresholds its input lies at one of them."""
        chance = self.chance
        meters = {row.meter: None for row in rows if not row.variant.keys}
        usage = {meter: chance.choice((0, 1, chance.randrange(10**6))) for meter in meters}
        usage.pop("requests", None)
        if "audio_seconds" in usage:
            usage["audio_seconds"] += 10
            usage.pop("input_audio_seconds", None)
        thresholds = sorted({int(tier.threshold) for row in rows for tier in row.above})
        if thresholds and "input_tokens" in usage:
            parts = [part for part in INPUT_CONTEXT_PARTS if part in usage]
            total = max(chance.choice(thresholds) + chance.choice((-1, 0, 1)), 0)
            for part in parts[1:]:
                usage[part] = chance.randrange(total + 1)
                total -= usage[part]
            usage["input_tokens"] = total
        return usage

    def variant(self, rows: Sequence[Price]) -> dict[str, str | bool]:
        """One that rows are for, several of them at once, one that none is for, or none."""
        known = [dict(row.variant.pairs) for row in rows if row.variant.keys]
        if not known or self.chance.random() < 0.3:
            unpriced: list[dict[str, str | bool]] = [{}, {}, {"region": "eu"}, {"service_tier": "default"}]
            return self.chance.choice(unpriced)
        merged: dict[str, str | bool] = {}
        for variant in self.chance.sample(known, self.chance.randint(1, min(3, len(known)))):
            merged |= variant
        return merged


# -- Odd requests: each kind of difference, and what it must come to ---------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """How requests of a kind are made (None when chance found nothing to make one of), and when a difference is it."""

    make: Callable[[World], Request | None]
    explains: Callable[[Request, Decimal | None, Decimal | None], bool]


def unpriced(_: Request, our: Decimal | None, their: Decimal | None) -> bool:
    """The book has no price where the package has one."""
    return our is None and their is not None


def with_usage(request: Request, **usage: int) -> Request:
    """The same at a time of all prices and in no variant, with more quantities."""
    return replace(request, time=NOW, variant={}, usage=request.usage | usage)


def meters_of(request: Request, world: World) -> set[str]:
    """The meters that the book has any row for, for the provider and any model that begins like this one."""
    return {
        row.meter
        for model, rows in world.rows[request.provider].items()
        if request.model == model or (model.endswith("*") and request.model.startswith(model[:-1]))
        for row in rows
    }


def unsold_cache_writes(world: World) -> Request | None:
    """Cache writes of a model that sells none."""
    request = world.request()
    sold = meters_of(request, world)
    if "input_tokens" not in sold or "cache_write_5m_tokens" in sold:
        return None
    return with_usage(request, cache_write_5m_tokens=1_000)


def quantity_without_price(world: World) -> Request | None:
    """Searches of a model that has no price for them."""
    request = world.request()
    return None if "web_searches" in meters_of(request, world) else with_usage(request, web_searches=3)


def name_with_something_before_it(world: World) -> Request | None:
    """A name that only the middle or the end of leads to a model."""
    provider = world.chance.choice(PROVIDERS)
    model = world.chance.choice(provider.models)
    rules = model.match.or_ if isinstance(model.match, ClauseOr) else [model.match]
    texts = [rule.contains for rule in rules if isinstance(rule, ClauseContains)]
    texts += [rule.ends_with for rule in rules if isinstance(rule, ClauseEndsWith)]
    if not texts or not tariff_of(model).lines:
        return None
    return Request(provider.id, f"zz-{world.chance.choice(texts)}", NOW, {"output_tokens": 5})


def capital_letters(world: World) -> Request | None:
    """A name in other letters than it is written in."""
    request = world.request()
    return None if request.model == request.model.upper() else replace(request, model=request.model.upper())


def compact_date(world: World) -> Request | None:
    """A name that ends with a date without its hyphens."""
    request = world.request()
    short = re.sub(r"-(20\d\d)-(\d\d)-(\d\d)$", r"-\1\2\3", request.model)
    return None if short == request.model else replace(request, model=short)


def name_of_two_models(world: World) -> Request | None:
    """A new name that begins like one model and contains the name of another."""
    provider = world.chance.choice(PROVIDERS)
    beginnings = sorted(model for model in world.rows[provider.id] if model.endswith("*"))
    rules = [rule for model in provider.models for rule in getattr(model.match, "or_", [model.match])]
    inner = sorted({rule.contains for rule in rules if isinstance(rule, ClauseContains)})
    if not beginnings or not inner:
        return None
    name = f"{world.chance.choice(beginnings)[:-1]}-{world.chance.choice(inner)}"
    return Request(provider.id, name, NOW, {"output_tokens": 1_000})


def unsaid_variant(world: World) -> Request | None:
    """A variant by a key that an event does not have."""
    provider, model, context = world.chance.choice(
        (
            ("openrouter", "mistralai/mistral-large-4-0", {"route": "mistral/eu"}),
            ("perplexity", "perplexity/sonar", {"search_type": "fast"}),
        )
    )
    searches = {"web_searches": 7} if provider == "perplexity" else {}
    return replace(with_usage(world.request(provider, model), **searches), more_context=context)


def two_variants(world: World) -> Request | None:
    """A request that says two or more variants for which its model has prices."""
    models = world.models(lambda rows: len({row.variant.keys for row in rows}) > 2)
    provider = world.chance.choice(sorted({provider for provider, _ in models}))
    request = world.request(*world.chance.choice([pair for pair in models if pair[0] == provider]))
    return request if len(request.variant) > 1 else None


def audio_tokens(world: World) -> Request | None:
    """Tokens of audio of a model that prices them apart."""
    provider = world.chance.choice(PROVIDERS)
    model = world.chance.choice(provider.models)
    if "input_audio_mtok" not in tariff_of(model).unsaid:
        return None
    return Request(provider.id, model.id, NOW, {"input_tokens": 50, "input_audio_tokens": 20})


@cache
def _models_of_package(wanted: Callable[[Tariff], bool]) -> list[tuple[str, str]]:
    return [(provider.id, model.id) for provider in PROVIDERS for model in provider.models if wanted(tariff_of(model))]


def _reasons_cheaply(tariff: Tariff) -> bool:
    return REASONING_KEY in tariff.unsaid


def _has_no_lines(tariff: Tariff) -> bool:
    return not tariff.lines


def reasoning_below_output(world: World) -> Request | None:
    """Output of a model whose reasoning costs less."""
    provider, model = world.chance.choice(_models_of_package(_reasons_cheaply))
    return Request(provider, model, NOW, {"output_tokens": 500, "reasoning_tokens": 200})


def model_without_price(world: World) -> Request | None:
    """A model that the package lists without a price."""
    provider, model = world.chance.choice(_models_of_package(_has_no_lines))
    return Request(provider, model, NOW, {"output_tokens": 5})


def short_audio(world: World) -> Request | None:
    """Seconds at Groq, fewer than ten."""
    return Request("groq", "whisper-large-v3", NOW, {"audio_seconds": world.chance.randrange(1, 10)})


def two_kinds_of_seconds(world: World) -> Request | None:
    """Seconds as two quantities of one request."""
    seconds = {"audio_seconds": world.chance.randrange(10, 100), "input_audio_seconds": world.chance.randrange(1, 100)}
    return Request("groq", "whisper-large-v3", NOW, seconds)


def noisy_price(world: World) -> Request | None:
    """A model of which a price has the noise of a float."""
    request = world.request("openrouter")
    model = request.found()
    if model is None or not tariff_of(model).rounded:
        return None
    return with_usage(request, **dict.fromkeys(tariff_of(model).meters & set(TOKEN_KEYS), 10**6))


def provider_by_another_name(world: World) -> Request | None:
    """A request under another name of its provider."""
    request = world.request(world.chance.choice(sorted(OTHER_NAMES)))
    return replace(request, provider=world.chance.choice(OTHER_NAMES[request.provider]))


#: By the words of the manual.
KINDS: Final = {
    "cache writes of a model that has no price for them": Kind(unsold_cache_writes, unpriced),
    "a quantity that the model has no price for at all": Kind(quantity_without_price, unpriced),
    "the float noise of a price": Kind(
        noisy_price,
        lambda request, our, their: (
            our is not None
            and their is not None
            and abs(our - their) <= sum(request.usage.values()) * SMALLEST / 2
            and bool((model := request.found()) and tariff_of(model).rounded)
        ),
    ),
    "a name that only a regular expression, or the middle or the end of a name, would find": Kind(
        name_with_something_before_it, unpriced
    ),
    "a name in other letters, upper or lower, than the package writes it": Kind(capital_letters, unpriced),
    "a name with a compact date, `-20251211`, where the package knows `-2025-12-11`": Kind(compact_date, unpriced),
    "a new name that begins like one model and contains the name of another": Kind(
        name_of_two_models, lambda _, our, their: our is not None and their is not None
    ),
    "a variant that is selected by something else than the four keys": Kind(
        unsaid_variant,
        lambda request, our, _: our == replace(request, more_context={}).theirs(),
    ),
    "a request that says two variants, of which the package lists another one first": Kind(
        two_variants,
        lambda request, our, _: any(
            our == replace(request, variant={key: value}).theirs() for key, value in request.variant.items()
        ),
    ),
    "tokens of audio, images and video, citations": Kind(audio_tokens, unpriced),
    "a model whose reasoning costs less than its output": Kind(reasoning_below_output, unpriced),
    "a model without any price": Kind(model_without_price, lambda _, our, their: our is None and their == 0),
    "audio of less than ten seconds at Groq": Kind(
        short_audio,
        lambda request, our, their: (
            our is not None
            and their == replace(request, usage={"audio_seconds": 10}).theirs()
            and abs(our * 10 - (their or 0) * request.usage["audio_seconds"]) < 10 * SMALLEST
        ),
    ),
    "two quantities of seconds in one request": Kind(
        two_kinds_of_seconds,
        lambda _, our, their: our is not None and their is not None and abs(our - their) == SMALLEST,
    ),
    "a name of a provider that the package does not know, or takes for another provider's": Kind(
        provider_by_another_name,
        lambda request, our, _: our == replace(request, provider=PROVIDER_OF[request.provider]).theirs(),
    ),
}


@pytest.fixture(scope="module")
def book() -> PriceBook:
    """The book of everything, as it is loaded from the text that is written."""
    loaded = load_catalog_file(import_book().text(), filename="prices.yaml").price_book
    assert loaded is not None
    return loaded


@pytest.fixture(scope="module")
def catalog(book: PriceBook) -> CompiledCatalog:
    """The book in force."""
    return compile_catalog([book])


@pytest.fixture
def world(book: PriceBook) -> World:
    """The same chance for every test."""
    return World(book, seed=20261120)


def differing(
    requests: Sequence[Request], catalog: CompiledCatalog
) -> Iterator[tuple[Request, Decimal | None, Decimal | None]]:
    """The requests that cost another amount in both, with what they cost here and there."""
    for request, our in zip(requests, ours(requests, catalog), strict=True):
        their = request.theirs()
        if our != their:
            yield request, our, their


def test_thousands_of_random_requests_cost_what_the_package_says(catalog: CompiledCatalog, world: World) -> None:
    """To the last of 12 decimals: every provider, at thresholds, at changes of price, through the day, in variants."""
    requests = [world.request() for _ in range(PLAIN_REQUESTS)]
    in_variants = world.models(_is_sold_in_variants)
    requests += [world.request(*world.chance.choice(in_variants)) for _ in range(PLAIN_REQUESTS // 2)]
    plain = [request for request in requests if not tariff_of(_known(request)).rounded and len(request.variant) < 2]

    assert [*differing(plain, catalog)] == []
    assert len(plain) > 5_000
    assert {request.provider for request in plain} == {provider.id for provider in PROVIDERS}
    said = Counter(key for request in plain for key in request.variant)
    assert min(said[key] for key in ("service_tier", "batch", "speed")) > 20


def _is_sold_in_variants(rows: Sequence[Price]) -> bool:
    return any(row.variant.keys for row in rows)


def _known(request: Request) -> ModelInfo:
    model = request.found()
    assert model is not None
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_every_difference_is_a_listed_one(kind: str, catalog: CompiledCatalog, world: World) -> None:
    """Of each kind there are differences, and each of them is what the manual says of the kind."""
    requests: list[Request] = []
    for _ in range(40 * ODD_REQUESTS):
        if len(requests) < ODD_REQUESTS and (request := KINDS[kind].make(world)) is not None:
            requests.append(request)

    found = [*differing(requests, catalog)]

    assert found != []
    assert [difference for difference in found if not KINDS[kind].explains(*difference)] == []


def test_the_manual_lists_these_differences_and_no_others() -> None:
    """Each of them with what happens here, and why."""
    table = MANUAL.partition("| where they differ |")[2].partition("\n\n")[0]

    assert [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()[2:]] == [*KINDS]

"""`tally catalog import genai-prices`: a book that prices as the package does, or says where it does not."""

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
from schemas.price_book import INPUT_CONTEXT, INPUT_CONTEXT_PARTS, PRICES_MAX, Price, PriceBook, microseconds
from tally.genai_models import models_of, names_of, offers_of, winner_of
from tally.genai_rows import TOKEN_KEYS, exact, tariff_of
from tally.import_prices import ALIASES, _kept, _Listing, import_book
from tests.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.commands.conftest import Tally

MANUAL = (ROOT / "docs" / "prices.md").read_text(encoding="utf-8")
IMPORT = ("catalog", "import", "genai-prices")
EVENTS: Final = 1_500
SMALLEST: Final = Decimal("1e-12")

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
    "two quantities of seconds in one request",
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
        return result.total_price.quantize(SMALLEST)


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


def requests(book: dict[str, PriceBook], *, seed: int) -> Iterator[Request]:
    """Random requests to every provider in turn: around thresholds, changes of price and times of day."""
    chance = random.Random(seed)
    names = {provider: sorted({price.model for price in rows.prices}) for provider, rows in book.items()}
    providers = sorted(book)
    for number in range(EVENTS):
        provider = providers[number % len(providers)]
        written = chance.choice(names[provider])
        rows = [price for price in book[provider].prices if price.model == written]
        time = _time(chance, rows)
        at_that_time = [row for row in rows if row.start_us <= microseconds(time) < row.end_us]
        yield Request(
            provider,
            written.removesuffix("*")
            + (chance.choice(("", "-latest", "-v9", "@20990101")) if written[-1] == "*" else ""),
            time,
            _usage(chance, at_that_time),
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
        usage.pop("input_audio_seconds", None)
    thresholds = sorted({int(tier.threshold) for row in rows for tier in row.above if tier.quantity == INPUT_CONTEXT})
    if thresholds and "input_tokens" in usage:
        parts = [part for part in INPUT_CONTEXT_PARTS if part in usage]
        total = max(chance.choice(thresholds) + chance.choice((-1, 0, 1)), 0)
        for part in parts[1:]:
            usage[part] = chance.randrange(total + 1)
            total -= usage[part]
        usage["input_tokens"] = total
    return usage


def model_of(provider: str, name: str) -> ModelInfo:
    """The model that the package has for a name."""
    owner = next(candidate for candidate in PROVIDERS if candidate.id == provider)
    model = winner_of(name, models=models_of(owner, providers=PROVIDERS))
    assert model is not None
    return model


def test_random_requests_cost_what_the_package_says(by_provider: dict[str, PriceBook]) -> None:
    """To the last of 12 decimals, for every provider, at thresholds, at changes of price and through the day."""
    asked = [
        request
        for request in requests(by_provider, seed=20261120)
        if not tariff_of(model_of(request.provider, request.model)).rounded
    ]

    different = [
        (request, ours, theirs)
        for request in asked
        if (ours := request.ours(by_provider[request.provider])) != (theirs := request.theirs())
    ]

    assert len(asked) > 0.9 * EVENTS
    assert {request.provider for request in asked} == {provider.id for provider in PROVIDERS}
    assert different == []


def priced_rows(text: str) -> tuple[Price, ...]:
    """The rows of a book as it is loaded from its text."""
    book = load_catalog_file(text, filename="prices.yaml").price_book
    assert book is not None
    return book.prices


def test_the_whole_import_is_a_book_that_can_be_applied(whole: PriceBook) -> None:
    """It fits into one book, has no two rows for one event, says its version, and has no price that is too fine."""
    assert whole.name == f"genai-prices-{version('genai-prices')}" == "genai-prices-0.2.3"
    assert whole.currency == "USD"
    assert 15_000 < len(whole.prices) <= PRICES_MAX
    assert {price.operation for price in whole.prices} == {"llm.request"}
    assert {price.provider for price in whole.prices} == {provider.id for provider in PROVIDERS}
    assert all(price.price / price.per % SMALLEST == 0 for price in whole.prices if price.per != 3600)


def test_the_same_import_gives_the_same_bytes() -> None:
    """A review of the next version shows prices that changed, and nothing else; no order depends on hashes."""
    patterns = ["--models", "google/*", "--models", "x_ai/grok-*"]
    texts = {
        subprocess.run(
            [sys.executable, "-m", "tally", *IMPORT, *patterns],
            env={"PYTHONHASHSEED": seed},
            cwd=ROOT,
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert len(texts) == 1


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """No socket is opened: prices are those of the pinned package, whatever its feed says today."""

    def refuse(*_: object) -> None:
        raise AssertionError("the import wants a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)

    assert import_book(["openai/gpt-4o-mini"]).prices


def test_a_row_of_a_beginning_prices_nothing_of_another_model() -> None:
    """A model whose name begins like another's has prices of its own for all that the other has, at every time."""
    leaks = []
    for provider in PROVIDERS:
        offers = offers_of(models_of(provider, providers=PROVIDERS))
        for outer in (offer for offer in offers if offer.name.endswith("*")):
            for inner in offers:
                if inner is outer or not inner.name.startswith(outer.name[:-1]):
                    continue
                leaks += [
                    (provider.id, outer.name, inner.name, line)
                    for line in tariff_of(outer.model).lines
                    if not any(own.meter == line.meter for own in tariff_of(inner.model).lines)
                ]

    assert leaks == []


def test_every_name_that_the_package_lists_leads_to_its_model() -> None:
    """Exactly or by the longest beginning, as a book looks it up: the model that the package finds, or none."""
    wrong, found = [], 0
    for provider in PROVIDERS:
        models = models_of(provider, providers=PROVIDERS)
        offers = {offer.name: offer.model for offer in offers_of(models)}
        for name in sorted({name for model in models for name in names_of(model) if not name.endswith("*")}):
            beginnings = [name[:length] + "*" for length in range(len(name), 0, -1)]
            ours = next((offers[key] for key in (name, *beginnings) if key in offers), None)
            found += ours is not None
            if ours is not winner_of(name, models=models):
                wrong.append((provider.id, name))

    assert found > 3_500
    assert wrong == []


# -- Where book and package differ -------------------------------------------------------------------------------------


def test_the_manual_lists_every_difference() -> None:
    """Each of them stands in the manual with its reason, and the manual has no other ones."""
    table = MANUAL.partition("| where they differ |")[2].partition("\n\n")[0]

    assert tuple(line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()[2:]) == DIFFERENCES


def test_float_noise_moves_a_cost_by_at_most_half_a_trillionth_for_each_unit(by_provider: dict[str, PriceBook]) -> None:
    """A price of 0.08333333333333334 a million is no price; what it is rounded to is listed in the book."""
    time = datetime(2026, 11, 1, tzinfo=UTC)
    moved = {}
    for model in next(provider for provider in PROVIDERS if provider.id == "openrouter").models:
        if tariff_of(model).rounded:
            request = Request(
                "openrouter", model.id, time, dict.fromkeys(tariff_of(model).meters & set(TOKEN_KEYS), 10**6)
            )
            moved[model.id] = abs((request.ours(by_provider["openrouter"]) or 0) - request.theirs())

    assert 0 < max(moved.values()) <= 10**6 * len(TOKEN_KEYS) * SMALLEST / 2
    assert (
        "cache_write_mtok: 0.0833333333333333 -> 0.083333" in import_book(["openrouter/google/gemini-2.5-flash"]).text()
    )


@pytest.mark.parametrize(
    ("provider", "model", "time", "usage"),
    [
        ("openai", "gpt-4o", "2026-03-01", {"input_tokens": 5, "cache_write_5m_tokens": 5}),
        ("openai", "text-embedding-3-small", "2026-03-01", {"input_tokens": 5, "output_tokens": 5}),
        ("google", "gemini-3-pro-image", "2025-12-01", {"web_searches": 3}),
        ("openai", "gpt-6-astra-2026-09-09", "2026-10-01", {"output_tokens": 5}),
        ("google", "models/gemini-1.5-flash", "2026-03-01", {"output_tokens": 5}),
        ("openai", "GPT-4o", "2026-03-01", {"output_tokens": 5}),
        ("openai", "gpt-4o-20241120", "2026-03-01", {"output_tokens": 5}),
        ("perplexity", "sonar-deep-research", "2026-03-01", {"output_tokens": 5, "reasoning_tokens": 2}),
        ("google", "gemma-3", "2026-03-01", {"output_tokens": 5}),
        ("openai", "gpt-4o-audio-preview", "2026-03-01", {"input_tokens": 5, "input_audio_tokens": 5}),
    ],
)
def test_what_a_book_cannot_say_is_unpriced(
    by_provider: dict[str, PriceBook], provider: str, model: str, time: str, usage: dict[str, int]
) -> None:
    """Never a guess and never a silent 0: the event is counted, shown as unpriced, and a row can be written for it."""
    request = Request(provider, model, datetime.fromisoformat(time).replace(tzinfo=UTC), usage)

    assert request.ours(by_provider[provider]) is None
    assert request.theirs() >= 0  # the package knows the model


def test_a_row_of_a_beginning_takes_new_names_that_contain_another_model(by_provider: dict[str, PriceBook]) -> None:
    """The package asks an earlier rule whether the name contains something; a book knows beginnings only."""
    request = Request(
        "anthropic", "claude-3-haiku-claude-v2", datetime(2026, 3, 1, tzinfo=UTC), {"input_tokens": 10**6}
    )

    assert (request.ours(by_provider["anthropic"]), request.theirs()) == (Decimal("0.25"), Decimal(8))


def test_short_audio_has_no_least_length(by_provider: dict[str, PriceBook]) -> None:
    """Groq bills ten seconds at least, which is a rule of one vendor and no price."""
    request = Request("groq", "whisper-large-v3", datetime(2026, 3, 1, tzinfo=UTC), {"audio_seconds": 9})

    assert (request.ours(by_provider["groq"]), request.theirs()) == (Decimal("0.0002775"), Decimal("0.000308333333"))


def test_two_quantities_of_seconds_are_rounded_each_for_itself(by_provider: dict[str, PriceBook]) -> None:
    """A price per hour has no end in decimals; two roundings differ from one in the last of 12 digits."""
    usage = {"audio_seconds": 10, "input_audio_seconds": 1}
    request = Request("groq", "whisper-large-v3", datetime(2026, 3, 1, tzinfo=UTC), usage)

    assert (request.ours(by_provider["groq"]), request.theirs()) == (
        Decimal("0.000339166666"),
        Decimal("0.000339166667"),
    )


def test_variants_of_a_request_are_left_out_and_listed() -> None:
    """An event does not say that it was a batch: it costs the full price, and the book says so."""
    assert "#   openai/gpt-4o-mini  processing=batch\n" in import_book(["openai/gpt-4o-mini"]).text()


# -- Single rules, on models made up for them --------------------------------------------------------------------------


def equals(name: str, **prices: Decimal | TieredPrices) -> ModelInfo:
    """A model with one name."""
    return ModelInfo(id=name, match=ClauseEquals(name), prices=ModelPrice(**prices))


def test_reasoning_with_a_higher_price_is_a_row_of_the_difference() -> None:
    """Output holds reasoning, so together they cost what the package says."""
    model = equals("thinker", output_mtok=Decimal(8), output_reasoning_mtok=Decimal(11))

    assert {line.meter: line.amount.price for line in tariff_of(model).lines} == {
        "output_tokens": Decimal(8),
        "reasoning_tokens": Decimal(3),
    }


def test_cached_tokens_without_a_price_cost_what_input_costs() -> None:
    """That is how the package reads a model without a cache price; cache writes get a row only where they are sold."""
    plain = equals("plain", input_mtok=Decimal(2))
    writing = equals("writing", input_mtok=Decimal(2), cache_write_mtok=Decimal("2.5"), cache_write_1h_mtok=Decimal(4))

    assert {line.meter: line.amount.price for line in tariff_of(plain).lines} == {
        "input_tokens": 2,
        "cache_read_tokens": 2,
    }
    assert {line.meter: line.amount.price for line in tariff_of(writing).lines} == {
        "input_tokens": 2,
        "cache_read_tokens": 2,
        "cache_write_5m_tokens": Decimal("2.5"),
        "cache_write_1h_tokens": 4,
    }


def test_days_become_spans_and_times_of_day_become_hours() -> None:
    """Midnight in UTC, the start included; hours that wrap it are one row; equal neighbours are one span."""
    model = ModelInfo(
        id="night",
        match=ClauseEquals("night"),
        prices=[
            ConditionalPrice(prices=ModelPrice(input_mtok=Decimal(4))),
            ConditionalPrice(
                StartDateConstraint(datetime(2026, 2, 1, tzinfo=UTC).date()), prices=ModelPrice(input_mtok=Decimal(3))
            ),
            ConditionalPrice(
                StartDateConstraint(datetime(2026, 3, 1, tzinfo=UTC).date()), prices=ModelPrice(input_mtok=Decimal(3))
            ),
            ConditionalPrice(
                TimeOfDateConstraint(
                    datetime(2026, 1, 1, 22, 30, tzinfo=UTC).timetz(), datetime(2026, 1, 1, 6, tzinfo=UTC).timetz()
                ),
                prices=ModelPrice(input_mtok=Decimal(1)),
            ),
        ],
    )
    rows = [line.row(provider="p", model="night").content() for line in tariff_of(model).lines]

    assert [
        (row["price"], row.get("from"), row.get("until"), row["hours"])
        for row in rows
        if row["meter"] == "input_tokens"
    ] == [
        ("4", None, "2026-02-01T00:00:00Z", {"from": "06:00", "until": "22:30"}),
        ("1", None, "2026-02-01T00:00:00Z", {"from": "22:30", "until": "06:00"}),
        ("3", "2026-02-01T00:00:00Z", None, {"from": "06:00", "until": "22:30"}),
        ("1", "2026-02-01T00:00:00Z", None, {"from": "22:30", "until": "06:00"}),
    ]


def test_the_first_rule_that_takes_a_name_has_it() -> None:
    """Also the names below a beginning: what an earlier model takes, a later and longer name never gets."""
    first = ModelInfo(id="a", match=ClauseOr([ClauseStartsWith("a-"), ClauseRegex("^z$")]))
    second = ModelInfo(id="a-b", match=ClauseOr([ClauseEquals("a-b"), ClauseStartsWith("a-b-"), ClauseContains("mid")]))
    third = ModelInfo(id="mid", match=ClauseOr([ClauseEquals("mid-1"), ClauseEquals("A-B"), ClauseEquals("far away")]))

    offers = {offer.name: offer.model.id for offer in offers_of([first, second, third])}

    assert offers == {"a-*": "a", "mid*": "a-b", "A-B": "a"}
    assert names_of(third) == ["A-B", "far away", "mid", "mid-1"]


@pytest.mark.parametrize(
    ("price", "per", "kept"),
    [
        ("0.041666666666666664", 10**6, "0.041667"),
        ("0.0000005", 10**6, "0"),
        ("0.0000015", 10**6, "0.000002"),
        ("2.50", 10**6, "2.5"),
        ("0.1234567891239", 3600, "0.123456789124"),
    ],
)
def test_a_price_keeps_twelve_decimals_for_one_unit(price: str, per: int, kept: str) -> None:
    """Half to even, as everything here is rounded."""
    assert exact(Decimal(price), per=per) == Decimal(kept)


def test_every_meter_of_tokens_has_a_key_of_the_package() -> None:
    """A renamed key of the next version fails here, and not as a price that is missing."""
    keys = {str(unit["price_key"]) for unit in unit_data.values()}

    assert {key for ways in TOKEN_KEYS.values() for key in ways} <= keys


# -- The command -------------------------------------------------------------------------------------------------------


def test_the_help_shows_how_to_pick_models(tally: Tally) -> None:
    """Each example on a line of its own, as it can be typed."""
    answer = tally("catalog", "import", "--help")

    assert answer.code == 0
    assert '  tally catalog import genai-prices --models "gcp.gemini/gemini-2.5-*"\n' in answer.stdout


def test_models_are_picked_by_globs_and_regular_expressions(tally: Tally) -> None:
    """Upper and lower case are the same; patterns add up."""
    answer = tally(*IMPORT, "--models", "OpenAI/gpt-4o-mini", "--models", r"re:^x_ai/grok-3(-mini)?$")
    rows = priced_rows(answer.stdout)

    assert (answer.code, answer.stderr) == (0, "")
    assert {(row.provider, row.model) for row in rows} >= {("openai", "gpt-4o-mini"), ("x_ai", "grok-3-mini")}
    assert {row.provider for row in rows} == {"openai", "x_ai"}


def test_an_exception_from_a_beginning_comes_along() -> None:
    """Else a model that was not asked for would get the price of the one that was."""
    models = [
        ModelInfo(id="small", match=ClauseEquals("gpt-small")),
        ModelInfo(id="gpt", match=ClauseStartsWith("gpt")),
        ModelInfo(id="other", match=ClauseEquals("other")),
    ]

    assert [offer.name for offer in _kept(_Listing("p", models, wanted=frozenset({1})))] == ["gpt*", "gpt-small"]
    assert [offer.name for offer in _kept(_Listing("p", models, wanted=frozenset({0})))] == ["gpt-small"]


@pytest.mark.parametrize("provider", sorted(ALIASES))
def test_the_names_of_opentelemetry_have_the_same_rows(provider: str) -> None:
    """An event's provider must match as it is sent, so a pattern names the provider that events name."""
    own = [row.model_copy(update={"provider": ""}) for row in import_book([f"{provider}/*"]).prices]

    for alias in ALIASES[provider]:
        rows = import_book([f"{alias}/*"]).prices
        assert {row.provider for row in rows} == {alias}
        assert [row.model_copy(update={"provider": ""}) for row in rows] == own


def test_the_manual_names_the_opentelemetry_names() -> None:
    """All of them, each beside the provider of the package."""
    for provider, aliases in ALIASES.items():
        assert f"| `{provider}` | {', '.join(f'`{alias}`' for alias in aliases)} |" in MANUAL


def test_a_book_is_written_to_a_file(tally: Tally, tmp_path: Path) -> None:
    """The answer tells what was written; the file holds what stdout would have."""
    out = tmp_path / "prices.yaml"
    answer = tally(*IMPORT, "--models", "groq/*", "--out", str(out))
    book = import_book(["groq/*"])

    assert answer.json == {"written": str(out), **book.answer()}
    assert out.read_text(encoding="utf-8") == book.text() == tally(*IMPORT, "--models", "groq/*").stdout
    assert len(priced_rows(book.text())) == book.answer()["rows"]
    assert len(re.findall("^#   ", book.text(), re.MULTILINE)) == book.answer()["left_out"]
    assert tally("catalog", "check", str(out)).code == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("--models", "openia/gpt-4o"),
            (
                "--models openia/gpt-4o matches no model of genai-prices 0.2.3; "
                "near it: openai/gpt-4o, openai/gpt-4, openai/ft:gpt-4o."
            ),
        ),
        (
            ("--models", "openai/gpt-4o", "--models", "zzzzzzzz"),
            (
                "--models zzzzzzzz matches no model of genai-prices 0.2.3; "
                'patterns look like "openai/*" or "anthropic/claude-*".'
            ),
        ),
        (
            ("--models", "re:("),
            "--models re:( is no regular expression (missing ), unterminated subpattern at position 0).",
        ),
        (
            ("--models", "*"),
            "The book would have 24,154 rows, and 20,000 is the most: name fewer models with --models.",
        ),
        (
            ("--models", "groq/*", "--out", "/nowhere/prices.yaml"),
            "/nowhere/prices.yaml can't be written (No such file or directory): name a file in a folder that exists.",
        ),
    ],
)
def test_what_cannot_be_imported_is_one_sentence(tally: Tally, arguments: tuple[str, ...], sentence: str) -> None:
    """And exit code 2, with nothing on stdout."""
    answer = tally(*IMPORT, *arguments)

    assert (answer.code, answer.stdout, answer.sentence) == (2, "", sentence)

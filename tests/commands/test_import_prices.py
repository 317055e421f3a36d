"""`tally catalog import genai-prices`: a book that prices as the package does, or says where it does not."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

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
from schemas.errors import WrongUse
from schemas.price_book import PRICES_MAX, Price, PriceBook
from schemas.providers import OTHER_NAMES, PROVIDER_OF
from tally.genai_models import models_of, names_of, offers_of, winner_of
from tally.genai_rows import TOKEN_KEYS, exact, tariff_of
from tally.import_prices import _kept, _Listing, import_book
from tests.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.commands.conftest import Tally

MANUAL = (ROOT / "docs" / "prices.md").read_text(encoding="utf-8")
IMPORT = ("catalog", "import", "genai-prices")
SMALLEST: Final = Decimal("1e-12")


@pytest.fixture(scope="module")
def whole() -> PriceBook:
    """The book of everything, as it is loaded from the text that is written."""
    book = load_catalog_file(import_book().text(), filename="prices.yaml").price_book
    assert book is not None
    return book


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


def test_variants_become_rows_from_the_day_on_which_they_have_a_price() -> None:
    """What the package does not price for a batch has no row for one, and costs what it always costs."""
    rows = [row for row in import_book(["openai/gpt-4o-mini"]).prices if row.model == "gpt-4o-mini"]

    assert [
        (row.meter, f"{row.price:f}", row.variant.text, row.from_)
        for row in rows
        if row.meter in ("input_tokens", "cache_read_tokens") and row.variant.text in ("", '{"batch":true}')
    ] == [
        ("input_tokens", "0.15", "", None),
        ("cache_read_tokens", "0.075", "", None),
        ("input_tokens", "0.075", '{"batch":true}', datetime(2026, 10, 14, tzinfo=UTC)),
    ]


def test_a_variant_that_no_event_can_say_is_left_out_and_listed() -> None:
    """The keys of a variant are a closed list; such a request has the price without a variant."""
    text = import_book(["openrouter/mistralai/mistral-large-4-0"]).text()

    assert "#   openrouter/mistralai/mistral-large-4-0  route=mistral/eu\n" in text


def test_another_provider_takes_over_no_variants() -> None:
    """Azure sells models of OpenAI; what they cost in a batch there is not known."""
    assert not any(row.variant.keys for row in import_book(["azure/gpt-4o-mini"]).prices)


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
    assert {(row.provider, row.model) for row in rows} >= {("openai", "gpt-4o-mini"), ("x-ai", "grok-3-mini")}
    assert {row.provider for row in rows} == {"openai", "x-ai"}


def test_an_exception_from_a_beginning_comes_along() -> None:
    """Else a model that was not asked for would get the price of the one that was."""
    models = [
        ModelInfo(id="small", match=ClauseEquals("gpt-small")),
        ModelInfo(id="gpt", match=ClauseStartsWith("gpt")),
        ModelInfo(id="other", match=ClauseEquals("other")),
    ]

    assert [offer.name for offer in _kept(_Listing("p", models, wanted=frozenset({1}), own=3))] == ["gpt*", "gpt-small"]
    assert [offer.name for offer in _kept(_Listing("p", models, wanted=frozenset({0}), own=3))] == ["gpt-small"]


@pytest.mark.parametrize("provider", sorted(OTHER_NAMES))
def test_other_names_of_a_provider_find_the_same_rows(provider: str) -> None:
    """A pattern may name the provider as events do; the rows have one name, and the book has the others as aliases."""
    own = import_book([f"{provider}/*"])

    assert own.provider_aliases == dict.fromkeys(sorted(OTHER_NAMES[provider]), provider)
    for alias in OTHER_NAMES[provider]:
        named = import_book([f"{alias}/*"])
        assert (named.prices, named.provider_aliases) == (own.prices, own.provider_aliases)


def test_a_book_has_aliases_for_the_providers_of_its_rows_only() -> None:
    """And the ones of the package have no other name that is a provider of its own."""
    assert import_book(["openai/gpt-4o-mini"]).provider_aliases == {}
    assert "provider_aliases" not in import_book(["openai/gpt-4o-mini"]).text()
    assert not set(PROVIDER_OF) & {provider.id for provider in PROVIDERS}


def test_the_manual_names_the_other_names() -> None:
    """All of them, each beside the provider of the package."""
    for provider, names in OTHER_NAMES.items():
        assert f"| `{provider}` | {', '.join(f'`{name}`' for name in names)} |" in MANUAL


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
            ("--models", "groq/*", "--out", "/nowhere/prices.yaml"),
            "/nowhere/prices.yaml can't be written (No such file or directory): name a file in a folder that exists.",
        ),
    ],
)
def test_what_cannot_be_imported_is_one_sentence(tally: Tally, arguments: tuple[str, ...], sentence: str) -> None:
    """And exit code 2, with nothing on stdout."""
    answer = tally(*IMPORT, *arguments)

    assert (answer.code, answer.stdout, answer.sentence) == (2, "", sentence)


def test_more_rows_than_a_book_can_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the number of rows and what to do."""
    monkeypatch.setattr("tally.import_prices.PRICES_MAX", 10)

    with pytest.raises(WrongUse, match=r"would have \d+ rows, and 10 is the most: name fewer models with --models\."):
        import_book(["groq/*"])

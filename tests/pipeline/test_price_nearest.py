"""What an event without a price is told: a line that prices it, and the row that nearly matched."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog import load_catalog_file
from pipeline.pricing.nearest import NearRows, price_line
from pipeline.pricing.scalar import ScalarEvent, price_event
from schemas.event import ID_PATTERN
from schemas.event_values import USAGE_NAME_PATTERN
from schemas.price_book import INPUT_CONTEXT, PriceBook, microseconds
from schemas.reports import UnpricedSum

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ids = st.from_regex(rf"\A(?:{ID_PATTERN})\Z") | st.sampled_from(["true", "null", "5", "1.5", "a:", "#a", "12:30", "-"])


def make_sum(**fields: Any) -> UnpricedSum:
    """Events of one model that lacked a price for their output, an hour long from noon on."""
    ordinary = {"operation": "llm.request", "provider": "openai", "model": "gpt-4o-mini", "meter": "output_tokens"}
    since = microseconds(NOON)
    counts: dict[str, Any] = {"events": 3, "quantity": Decimal(900), "facts": 3, "unpriced": 3}
    return UnpricedSum(**(ordinary | counts | {"since_us": since, "newest_us": since + 3_600_000_000} | fields))


def make_book(*rows: dict[str, Any], **fields: Any) -> PriceBook:
    """A book in its third revision; a row is for the output of the model unless it says otherwise."""
    ordinary = {"operation": "llm.request", "provider": "openai", "model": "gpt-4o-mini", "meter": "output_tokens"}
    prices = [ordinary | {"price": 1} | row for row in rows]
    return PriceBook.model_validate({"name": "standard", "revision": 3, "currency": "USD", "prices": prices} | fields)


def nearest(lacking: UnpricedSum, *books: PriceBook) -> tuple[str, str] | None:
    """The id of the nearest row and why it did not match."""
    found = NearRows(books, org="acme").nearest(lacking)
    return None if found is None else (found.price_id, found.why)


@given(
    operation=ids,
    provider=ids | st.just(""),
    model=ids | st.just(""),
    meter=st.from_regex(rf"\A(?:{USAGE_NAME_PATTERN})\Z").filter(lambda name: name != INPUT_CONTEXT),
)
def test_the_line_prices_the_events_once_its_price_is_filled_in(
    operation: str, provider: str, model: str, meter: str
) -> None:
    """Pasted as it is: whatever ids an event may have, YAML reads them as they are meant."""
    line = price_line(make_sum(operation=operation, provider=provider, model=model, meter=meter))
    text = f"price_book: fix\ncurrency: USD\nprices:\n  {line}\n"
    book = load_catalog_file(text.replace('price: "?"', 'price: "2"'), filename="fix.yaml").price_book
    assert book is not None
    usage = {} if meter == "requests" else {meter: Decimal(1)}

    priced = price_event(ScalarEvent("acme", operation, provider, model, "ok", NOON, usage), books=[book])

    assert priced.cost is not None
    assert priced.cost > 0


def test_tokens_are_priced_by_the_million() -> None:
    """As every vendor lists them; everything else by the piece."""
    assert price_line(make_sum()) == (
        "- {operation: llm.request, provider: openai, model: gpt-4o-mini, meter: output_tokens, "
        'price: "?", per: 1000000}'
    )
    assert price_line(make_sum(operation="lookup", provider="", model="", meter="requests")) == (
        '- {operation: lookup, meter: requests, price: "?", per: 1}'
    )


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"until": "2026-03-01T12:30:00Z"}, "it ended at 2026-03-01T12:30:00Z"),
        ({"from": "2026-03-01T12:30:00Z"}, "it begins at 2026-03-01T12:30:00Z"),
        ({"hours": {"from": "16:30", "until": "00:30"}}, "it is only for 16:30 to 00:30 of the day"),
        ({"model": "GPT-4o-mini"}, "its model is written GPT-4o-mini"),
        ({"model": "gpt-4o"}, "its model is gpt-4o, which does not match"),
        ({"model": "gpt-4o-mini-2024*"}, "its model is gpt-4o-mini-2024*, which does not match"),
        ({"provider": "OpenAI"}, "its provider is OpenAI; with `provider_aliases: {openai: OpenAI}` it would match"),
        ({"provider": "azure"}, "its provider is azure"),
        ({"variant": {"batch": True}}, 'it is only for the variant {"batch":true}'),
        ({"org": "umbrella"}, "it is only for the org umbrella"),
        ({"operation": "LLM_request"}, "its operation is written LLM_request"),
        ({"org": "acme"}, "it matches: it was put in force after these events had been priced"),
        (
            {"model": "gpt-4o", "until": "2026-03-01T00:00:00Z"},
            "its model is gpt-4o, which does not match; it ended at 2026-03-01T00:00:00Z",
        ),
    ],
)
def test_the_nearest_row_says_why_it_does_not_match(row: dict[str, Any], why: str) -> None:
    """In the words of the book, with everything that is different."""
    assert nearest(make_sum(), make_book(row)) == ("standard@3:1", why)


def test_an_alias_that_is_known_but_not_in_the_book_is_named() -> None:
    """With the line that would make it match; once it is in the book, the row matches."""
    lacking = make_sum(provider="gcp.gemini", model="gemini-2.5-pro")
    row = {"provider": "google", "model": "gemini-2.5*"}

    assert nearest(lacking, make_book(row)) == (
        "standard@3:1",
        "its provider is google; with `provider_aliases: {gcp.gemini: google}` it would match",
    )
    assert nearest(lacking, make_book(row, provider_aliases={"gcp.gemini": "google"})) == (
        "standard@3:1",
        "it matches: it was put in force after these events had been priced",
    )


@pytest.mark.parametrize(
    "row",
    [
        {"meter": "input_tokens"},
        {"operation": "lookup"},
        {"model": "claude-haiku"},
        {"model": "gpt-4"},  # another model, and no beginning of a name with a suffix
        {"provider": "anthropic", "model": ""},
        {"model": "gpt-4o", "provider": "azure", "org": "umbrella"},
    ],
)
def test_a_row_for_something_else_is_not_near(row: dict[str, Any]) -> None:
    """A far row would send its reader the wrong way."""
    assert nearest(make_sum(), make_book(row)) is None


def test_the_smallest_difference_wins() -> None:
    """An ended price before another provider's; of equally near rows the longer model; the first book otherwise."""
    ended, other = {"until": "2026-03-01T00:00:00Z"}, {"provider": "azure"}
    short, long = {"model": "gpt"}, {"model": "gpt-4o"}

    assert nearest(make_sum(), make_book(other, ended)) == ("standard@3:2", "it ended at 2026-03-01T00:00:00Z")
    assert nearest(make_sum(), make_book(short, long)) == ("standard@3:2", "its model is gpt-4o, which does not match")
    assert nearest(make_sum(), make_book(ended), make_book(ended, name="second")) == (
        "standard@3:1",
        "it ended at 2026-03-01T00:00:00Z",
    )

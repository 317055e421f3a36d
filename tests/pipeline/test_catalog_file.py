"""Reading catalog files: what is taken, and where and why a file is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.catalog import load_catalog_file
from pipeline.catalog_yaml import FILE_BYTES_MAX, MISTAKES_MAX
from schemas.catalog_file import CatalogError, CatalogFile, check_in_force
from schemas.price_book import PRICES_MAX, Price, PriceBook
from schemas.rules import RULES_MAX, Rule, RuleSet, Scope, Window

BOOK = """\
price_book: standard            # name; applying a changed file makes a new revision, old ones stay readable
currency: USD
prices:
  - {operation: llm.request, provider: openai, model: gpt-4o-mini, meter: input_tokens, price: "0.15", per: 1000000}
  - {operation: llm.request, provider: openai, model: gpt-4o-mini, meter: output_tokens, price: "0.60", per: 1000000, from: "2024-07-18T00:00:00Z"}
  - {operation: llm.request, provider: anthropic, model: claude-sonnet-4-5, meter: input_tokens, price: "3", per: 1000000,
     above: {quantity: input_context_tokens, threshold: 200000, inclusive: false, price: "6"}}   # the whole request moves
  - {operation: lookup, meter: requests, name: lookups, price: "0.0415", per: 1, bill: success}
  - {operation: lookup, meter: requests, name: lookups, price: "0.0390", per: 1, bill: success, org: acme}   # override
ignore: [latency_ms]
"""  # noqa: E501 -- as the contract prints it

RULES = """\
rule_set: default
rules:
  - {id: project-day-budget, scope: project, match: "*", org: acme, measure: cost, window: day,
     thresholds: ["50", "100"]}
  - {id: key-burst, scope: api_key, measure: requests, window: 5m, thresholds: ["1000"]}
  - {id: month-budget, scope: org, measure: cost, window: month, budget: "5000", percent: [50, 80, 100]}
  - {id: errors, scope: project, measure: success_rate, window: 1h, below: ["0.95"], min_requests: 100}
"""


def load(text: str) -> CatalogFile:
    """Reads a file whose text is indented for the eye."""
    return load_catalog_file(dedent(text), filename="prices.yaml")


def load_price(row: str) -> PriceBook:
    """Reads a book with one ordinary row, of which the interesting keys are said; they stand in line 4."""
    text = f"price_book: standard\ncurrency: USD\nprices:\n  - {{operation: lookup, meter: requests, {row}}}\n"
    book = load(text).price_book
    assert book is not None
    return book


def mistakes_of(text: str) -> list[str]:
    """All that is wrong in a file, as it is printed."""
    with pytest.raises(CatalogError) as refused:
        load(text)
    return str(refused.value).splitlines()


def mistake_of_price(row: str) -> str:
    """The only thing that is wrong in an otherwise ordinary row."""
    with pytest.raises(CatalogError) as refused:
        load_price(row)
    (mistake,) = refused.value.mistakes
    assert mistake.line == 4
    return mistake.sentence


def test_the_book_of_the_contract_is_read() -> None:
    """Every key of it, with the lines of its rows."""
    file = load(BOOK)

    assert file.price_book is not None
    assert file.rule_set is None
    assert (file.price_book.name, file.price_book.currency, file.price_book.revision) == ("standard", "USD", 0)
    assert file.price_book.ignore == ("latency_ms",)
    assert file.price_lines == (4, 5, 6, 8, 9)
    tokens, output, tiered, lookups, override = file.price_book.prices
    assert (tokens.model, tokens.price, tokens.per) == ("gpt-4o-mini", Decimal("0.15"), 1_000_000)
    assert output.from_ == datetime(2024, 7, 18, tzinfo=UTC)
    assert [(tier.threshold, tier.inclusive, tier.price) for tier in tiered.above] == [
        (Decimal(200_000), False, Decimal(6))
    ]
    assert (lookups.invoice_name, lookups.bill, override.org) == ("lookups", "success", "acme")


def test_the_rules_of_the_contract_are_read() -> None:
    """In a file of their own."""
    file = load(RULES)

    assert file.price_book is None
    assert file.rule_set == RuleSet(
        name="default",
        rules=(
            Rule(
                id="project-day-budget", scope=Scope.PROJECT, org="acme", measure="cost", window=Window.DAY,
                thresholds=(Decimal(50), Decimal(100)),
            ),
            Rule(
                id="key-burst", scope=Scope.API_KEY, measure="requests", window=Window.ROLLING_5M,
                thresholds=(Decimal(1000),),
            ),
            Rule(
                id="month-budget", scope=Scope.ORG, measure="cost", window=Window.MONTH, budget=Decimal(5000),
                percent=(50, 80, 100),
            ),
            Rule(
                id="errors", scope=Scope.PROJECT, measure="success_rate", window=Window.ROLLING_1H,
                below=(Decimal("0.95"),), min_requests=100,
            ),
        ),
    )  # fmt: skip
    assert file.rule_lines == (3, 5, 6, 7)


def test_one_file_may_hold_both_and_a_set_of_rules_needs_no_name() -> None:
    """The name is then `default`."""
    file = load(BOOK + RULES.removeprefix("rule_set: default\n"))

    assert file.price_book == load(BOOK).price_book
    assert file.rule_set == load(RULES).rule_set


def test_block_style_and_flow_style_say_the_same() -> None:
    """So do several thresholds in a list, and quotes around words."""
    flow = load("""
        price_book: standard
        currency: USD
        prices:
          - {operation: lookup, meter: requests, price: 1, above: [{quantity: seconds, threshold: "1.5", price: "2"}]}
    """)
    block = load("""
        "price_book": 'standard'
        currency: "USD"
        prices:
          - operation: lookup
            meter: requests
            price: '1'
            above:
              quantity: seconds
              threshold: "1.5"
              price: "2.0"
    """)

    assert flow.price_book == block.price_book


def test_an_empty_book_or_set_is_written_with_brackets() -> None:
    """That is how all prices of a name are ended."""
    file = load("{price_book: standard, currency: USD, prices: [], rules: []}")

    assert (file.price_book, file.rule_set) == (PriceBook(name="standard", currency="USD"), RuleSet())


@pytest.mark.parametrize("word", ['""', "null", '"*"', "~"])
def test_any_org_provider_or_model_may_be_said_in_several_ways(word: str) -> None:
    """Leaving it out, an empty string, null and a star are the same."""
    assert load_price(f"price: 1, org: {word}, provider: {word}, model: {word}") == load_price("price: 1")


def test_all_mistakes_are_told_at_once_from_top_to_bottom() -> None:
    """Each with line, column and a sentence; what is right is not repeated."""
    assert mistakes_of("""\
        price_book: standard price
        currency: USX
        discount: 5
        prices:
          - {operation: lookup, meter: requests, price: 0.5}
          - {operation: lookup, meter: requests, price: "0.5", per: 0, from: 2026-03-01T00:00:00Z}
          - {operation: lookup, meter: Requests, price: "-1", colour: red,
             above: {quantity: seconds, limit: 5, price: "-3"}}
          - {operation: lookup, meter: requests, price: "1"}
          - {operation: lookup, meter: requests, price: "2", hours: {from: "16:30", until: "00:30"}}
          - just a word
        ignore: [latency ms]
        rules:
          - {id: a, scope: team, measure: cost, window: day, thresholds: [5], match: 5}
          - {id: a, scope: org, measure: cost, window: day, thresholds: [5]}
          - {id: a, scope: org, measure: cost, window: day, thresholds: [5], revision: 3}
    """) == [
        "prices.yaml:1:1: `price_book` is no id: 1 to 128 letters, digits or . _ : / @ ~ ? # % + -",
        "prices.yaml:2:1: `currency` is no ISO 4217 currency code like USD",
        (
            "prices.yaml:3:1: `discount` is no key here; the keys are "
            "price_book, currency, prices, period_prices, adjustments, provider_aliases, ignore, rule_set, rules"
        ),
        'prices.yaml:5:49: this number is not kept exactly without quotes: put it in quotes, "0.5"',
        "prices.yaml:6:56: `per` must be 1 to 1000000000000 units",
        (
            "prices.yaml:6:70: a time without quotes means different things to different readers: "
            'write "2026-03-01T00:00:00Z"'
        ),
        (
            "prices.yaml:7:25: `meter` is no name of a quantity: "
            "a small letter, then at most 63 small letters, digits or _"
        ),
        "prices.yaml:7:42: `price` is negative: the least is 0",
        (
            "prices.yaml:7:55: `colour` is no key here; the keys are "
            "operation, provider, model, org, variant, meter, name, price, per, from, until, hours, above, bill"
        ),
        "prices.yaml:8:6: `above.threshold` is missing",
        "prices.yaml:8:33: `above.limit` is no key here; the keys are quantity, threshold, inclusive, price",
        "prices.yaml:8:43: `above.price` is negative: the least is 0",
        (
            "prices.yaml:10:5: this price for requests is as specific as the one in line 9; "
            "both apply from the beginning: let one end (`until`) when the other begins (`from`), "
            "or make it more specific"
        ),
        "prices.yaml:11:5: a row must be a mapping like {operation: ..., meter: ..., price: ...}",
        (
            "prices.yaml:12:10: `ignore` is no name of a quantity: "
            "a small letter, then at most 63 small letters, digits or _"
        ),
        "prices.yaml:14:13: `scope` is none of org, project, api_key, model, user, operation",
        "prices.yaml:14:71: `match` must be an id; write it in quotes",
        "prices.yaml:15:6: the rule id a is taken by the rule in line 14",
        "prices.yaml:16:6: the rule id a is taken by the rule in line 14",
        "prices.yaml:16:70: `revision` is given when the file is applied: leave it out",
    ]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("price: 0.5", 'this number is not kept exactly without quotes: put it in quotes, "0.5"'),
        ("price: 1e3", 'this number is not kept exactly without quotes: put it in quotes, "1e3"'),
        ("price: .5", 'this number is not kept exactly without quotes: put it in quotes, ".5"'),
        ("price: 010", 'this number is not kept exactly without quotes: put it in quotes, "010"'),
        ("price: 1_000", 'this number is not kept exactly without quotes: put it in quotes, "1_000"'),
        ("price: 0x10", 'this number is not kept exactly without quotes: put it in quotes, "0x10"'),
        ("price: .inf", 'this number is not kept exactly without quotes: put it in quotes, ".inf"'),
        ("price: .nan", 'this number is not kept exactly without quotes: put it in quotes, ".nan"'),
        (f"price: {'9' * 41}", "this number is not kept exactly without quotes: put it in quotes"),
        ("price: -1", "`price` is negative: the least is 0"),
        ('price: "-0.5"', "`price` is negative: the least is 0"),
        ('price: "1e3"', '`price` must be a plain decimal like "0.15": digits, and digits after a point'),
        ('price: "1,5"', '`price` must be a plain decimal like "0.15": digits, and digits after a point'),
        ('price: " 1"', '`price` must be a plain decimal like "0.15": digits, and digits after a point'),
        ('price: "١"', '`price` must be a plain decimal like "0.15": digits, and digits after a point'),
        ('price: "NaN"', '`price` must be a plain decimal like "0.15": digits, and digits after a point'),
        ("price: true", '`price` must be an integer or a quoted decimal like "0.15"'),
        ("price: null", '`price` must be an integer or a quoted decimal like "0.15"'),
        ("price: [1]", '`price` must be an integer or a quoted decimal like "0.15"'),
        ("price: 1000000001", "`price` is above 1000000000: a number this large is a slip of the keyboard"),
        (
            'price: "1000000000.000000000001"',
            "`price` is above 1000000000: a number this large is a slip of the keyboard",
        ),
        (f'price: "{"9" * 5000}"', "`price` is above 1000000000: a number this large is a slip of the keyboard"),
        ('price: "0.0000000000001"', "`price` has 13 decimals: at most 12 can be kept exactly"),
        ("provider: openai", "`price` is missing"),
        ('price: 1, per: "1000"', "`per` must be a whole number without quotes"),
        ("price: 1, per: 0", "`per` must be 1 to 1000000000000 units"),
        ("price: 1, per: -5", "`per` must be 1 to 1000000000000 units"),
        ("price: 1, per: 1000000000001", "`per` must be 1 to 1000000000000 units"),
        ("price: 1, per: 1000000.0", 'this number is not kept exactly without quotes: put it in quotes, "1000000.0"'),
        ("price: 1, per: true", "`per` must be a whole number without quotes"),
        ("price: 1, bill: never", "`bill` must be 'always' or 'success'"),
        ("price: 1, tier: flex", None),
        ("price: 1, variant: batch", "`variant` must be a mapping"),
        (
            "price: 1, variant: {tier: flex}",
            "`variant.tier` is no key here; the keys are service_tier, batch, speed, region",
        ),
        ("price: 1, variant: {batch: 1}", "`variant.batch` must be true; what is for every request leaves it out"),
        (
            "price: 1, variant: {batch: false}",
            "`variant.batch` must be true; what is for every request leaves it out",
        ),
        (
            'price: 1, variant: {region: "e u"}',
            "`variant.region` is no id: 1 to 128 letters, digits or . _ : / @ ~ ? # % + -",
        ),
        (
            "price: 1, from: 2026-03-01",
            'a time without quotes means different things to different readers: write "2026-03-01"',
        ),
        ('price: 1, from: "2026-03-01"', None),
        ('price: 1, from: "2026-03-01T00:00:00"', None),
        ('price: 1, from: "2026-03-01 00:00:00Z"', None),
        ('price: 1, from: "2026-03-01T00:00:00.0000001Z"', None),
        ("price: 1, from: 20260301", None),
        (
            'price: 1, from: "2026-02-29T00:00:00Z"',
            "`from` names no instant of the years 1 to 9999: look at day, month and zone",
        ),
        ('price: 1, from: "2026-03-01T00:00:60Z"', None),
        ('price: 1, from: "0001-01-01T00:00:00+01:00"', None),
        (
            'price: 1, from: "2026-03-01T00:00:00Z", until: "2026-03-01T01:00:00+01:00"',
            "this price ends before it begins: `until` must be later than `from`",
        ),
        (
            'price: 1, hours: {from: 16:30, until: "00:30"}',
            'a time without quotes means different things to different readers: write "16:30"',
        ),
        ('price: 1, hours: {from: "16:30"}', "`hours.until` is missing"),
        ('price: 1, hours: {from: "16:30", until: "24:01"}', "`hours.until` is no time of day: 00:00 to 24:00"),
        ('price: 1, hours: {from: "16:60", until: "18:00"}', "`hours.from` is no time of day: 00:00 to 24:00"),
        (
            'price: 1, hours: {from: "4:30", until: "18:00"}',
            '`hours.from` must be a quoted UTC time of day like "16:30"',
        ),
        (
            'price: 1, hours: {from: "00:00", until: "24:00"}',
            "`hours` begins when it ends: for a whole day leave `hours` out",
        ),
        ("price: 1, hours: night", "`hours` must be a mapping"),
        ("price: 1, above: 5", "`above` must be a list"),
        ("price: 1, above: [5]", "`above` must be a mapping"),
        (
            "price: 1, above: {quantity: seconds, threshold: 0, inclusive: true, price: 1}",
            "`above` is passed by every event: an inclusive threshold must be above 0",
        ),
        (
            "price: 1, above: {quantity: seconds, threshold: 1, inclusive: yes, price: 1}",
            "`above.inclusive` must be true or false",
        ),
        (
            'price: 1, above: {quantity: seconds, threshold: "0.0000000001", price: 1}',
            "`above.threshold` has 10 decimals: at most 9 can be kept exactly",
        ),
        (
            "price: 1, above: [{quantity: a, threshold: 5, price: 1}, {quantity: a, threshold: 5, price: 2}]",
            "this price has the same threshold twice",
        ),
        (
            "price: 1, above: [{quantity: a, threshold: 5, price: 1}, {quantity: b, threshold: 6, price: 2}]",
            "this price has thresholds of several quantities: it would be open which of them decides",
        ),
        (
            f"price: 1, above: [{', '.join(f'{{quantity: a, threshold: {n}, price: 1}}' for n in range(17))}]",
            "this price has 17 thresholds: at most 16",
        ),
        ("price: 1, org: acme*", "`org` is no id: 1 to 128 letters, digits or . _ : / @ ~ ? # % + -"),
        ('price: 1, model: "gpt * mini*"', "`model` is no model: an id, or the beginning of one and a * at its end"),
        ("price: 1, model: 4.5", 'this number is not kept exactly without quotes: put it in quotes, "4.5"'),
        ("price: 1, model: 4", "`model` must be an id; write it in quotes"),
        ('price: 1, name: " x"', "`name` must be one line of text without white space around it; write it in quotes"),
        (
            'price: 1, name: "a\\nb"',
            "`name` must be one line of text without white space around it; write it in quotes",
        ),
        (f"price: 1, name: {'x' * 129}", "`name` is longer than 128 characters"),
        ("price: 1, price: 2", "`price` is given twice, first in line 4"),
        ("price: !!float 1", "tags like tag:yaml.org,2002:float are not read: a value is what it looks like"),
        ("price: &one 1", "anchors are not read: write the value out where it is needed"),
        ("price: *one", "aliases are not read: write the value out, so that a line says what it means"),
        ("price: 1, <<: {per: 5}", None),
        ("price: 1, 5: 5", "the key of an entry must be a word"),
    ],
)
def test_a_price_that_cannot_be_meant_is_refused(row: str, sentence: str | None) -> None:
    """One sentence that says what to write instead."""
    found = mistake_of_price(row)

    if sentence is None:  # one of two sentences that many rows share
        assert (
            "is no key here; the keys are" in found
            or "must be a quoted instant with zone" in found
            or ("names no instant" in found)
        )
    else:
        assert found == sentence


def test_adjustments_and_aliases_are_read() -> None:
    """Under the names of the schema; aliases are a mapping, kept sorted."""
    book = load("""\
        price_book: standard
        currency: USD
        prices: []
        adjustments:
          - {provider: anthropic, model: claude-*, variant: {batch: true}, multiplier: "0.5",
             from: "2026-03-01T00:00:00Z"}
          - {variant: {region: eu}, meter: "*", multiplier: "1.10"}
        provider_aliases: {gcp.vertex_ai: google, gcp.gemini: google}
    """)

    assert book.price_book is not None
    assert [entry.content() for entry in book.price_book.adjustments] == [
        {
            "provider": "anthropic",
            "model": "claude-*",
            "variant": {"batch": True},
            "multiplier": "0.5",
            "from": "2026-03-01T00:00:00Z",
        },
        {"variant": {"region": "eu"}, "multiplier": "1.1"},
    ]
    assert book.adjustment_lines == (5, 7)
    assert list(book.price_book.provider_aliases) == ["gcp.gemini", "gcp.vertex_ai"]


def test_a_variant_or_an_alias_that_is_empty_says_nothing() -> None:
    """The content and so the revision are those of a book without them."""
    plain = load_price("price: 1")
    empty = load(
        "{price_book: standard, currency: USD, prices: [{operation: lookup, meter: requests, price: 1, variant: {}}],"
        " adjustments: [], provider_aliases: {}}"
    ).price_book

    assert empty is not None
    assert empty.same_content(plain)


def test_all_that_is_wrong_with_adjustments_and_aliases_is_told() -> None:
    """Two that are equally specific with both lines, like prices."""
    assert mistakes_of("""\
        price_book: standard
        currency: USD
        prices: []
        adjustments:
          - {variant: {region: eu, batch: true}, multiplier: "0.5"}
          - {variant: {batch: true, region: eu}, multiplier: "0.6", from: "2026-03-01T00:00:00Z"}
          - {variant: {region: eu}, multiplier: "0.5", model: "*"}
          - {variant: {}, multiplier: "0.5"}
          - {multiplier: "1001"}
          - {variant: {region: eu}, multiplier: "0.0000001", price: 5, meter: input_context_tokens}
          - {variant: {speed: fast}, multiplier: 2, until: "2026-03-01T00:00:00Z", from: "2026-03-01T00:00:00Z"}
        provider_aliases: {a: b, b: c, "d e": c, e: "f g"}
    """) == [
        (
            "prices.yaml:6:5: this adjustment is as specific as the one in line 5, for the same variant; both apply at "
            "2026-03-01T00:00:00Z: let one end (`until`) when the other begins (`from`), or make it more specific"
        ),
        "prices.yaml:8:5: this adjustment names no variant: it needs one or more of service_tier, batch, speed, region",
        "prices.yaml:9:5: `variant` is missing",
        "prices.yaml:9:6: `multiplier` is above 1000: a number this large is a slip of the keyboard",
        "prices.yaml:10:29: `multiplier` has 7 decimals: at most 6 can be kept exactly",
        (
            "prices.yaml:10:54: `price` is no key here; the keys are "
            "operation, provider, model, org, variant, meter, multiplier, from, until"
        ),
        "prices.yaml:11:5: this adjustment ends before it begins: `until` must be later than `from`",
        "prices.yaml:12:32: `provider_aliases.d e` is no id: 1 to 128 letters, digits or . _ : / @ ~ ? # % + -",
        "prices.yaml:12:42: `provider_aliases.e` is no id: 1 to 128 letters, digits or . _ : / @ ~ ? # % + -",
    ]


def test_an_alias_leads_to_its_provider_in_one_step() -> None:
    """Else it would depend on the book what a second name means."""
    for aliases in ("{a: b, b: c}", "{a: a}"):
        (mistake,) = mistakes_of(f"{{price_book: x, currency: USD, prices: [], provider_aliases: {aliases}}}")

        assert "which is an alias itself: name the provider of the prices" in mistake


def test_a_meter_that_repeats_other_meters_has_no_price() -> None:
    """The input context would be billed a second time."""
    text = "{price_book: a, currency: USD, prices: [{operation: a, meter: input_context_tokens, price: 1}]}"

    assert "which is the sum of quantities with prices of their own" in mistakes_of(text)[0]


@pytest.mark.parametrize("meter", ["requests", "input_context_tokens"])
def test_a_reserved_name_is_not_ignored(meter: str) -> None:
    """It is never given in `usage`, so ignoring it would do nothing."""
    (mistake,) = mistakes_of(f"{{price_book: a, currency: USD, prices: [], ignore: [{meter}]}}")

    assert mistake == f"prices.yaml:1:53: `ignore` names {meter}, which is never given in `usage`"


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ("thresholds: []", "this rule needs exactly one of `thresholds`, `budget` with `percent`, and `below`"),
        ("thresholds: [1], budget: 5, percent: [50]", "this rule needs exactly one of"),
        ("budget: 5", "this rule has only one of `budget` and `percent`: both are needed"),
        ("percent: [5]", "this rule has only one of `budget` and `percent`: both are needed"),
        ("budget: 0, percent: [5]", "`budget` is 0, of which every percentage is 0"),
        ("budget: 5, percent: [1001]", "`percent` has a percentage above 1000"),
        ("budget: 5, percent: [50, 50]", "`percent` has the same number twice"),
        ('budget: 5, percent: ["50"]', "`percent` must be a whole number without quotes"),
        ('budget: "0.00000000001", percent: [5]', "`budget` has 11 decimals: at most 10 can be kept exactly"),
        ("thresholds: [0]", "`thresholds` has a number that is not above 0"),
        ('thresholds: ["50", "50.0"]', "`thresholds` has the same number twice"),
        ("thresholds: [50.5]", 'this number is not kept exactly without quotes: put it in quotes, "50.5"'),
        ("thresholds: 50", "`thresholds` must be a list"),
        (f"thresholds: {list(range(1, 34))}", "`thresholds` has 33 entries: at most 32"),
        ('below: ["0.95"]', "this rule must use `below` for success_rate, and only for it"),
        ("thresholds: [1], measure: success_rate", "this rule must use `below` for success_rate, and only for it"),
        ("below: [95], measure: success_rate", "`below` has a success rate above 1"),
        ("below: [95], measure: cost", "this rule must use `below` for success_rate, and only for it"),
        ('below: ["0.9"], measure: success_rate, min_requests: 0', "`min_requests` is under 1"),
        ("thresholds: [1], min_requests: 5", "`min_requests` belongs to success_rate and share"),
        (
            'thresholds: ["1.01"], measure: share, scope: project',
            '`thresholds` has a share above 1: 80 % is written as "0.8"',
        ),
        ("thresholds: [1], measure: share, scope: org", "`measure` is the share of a part in its org"),
        ("budget: 5, percent: [50], measure: share, scope: project", "this rule must use `thresholds` for share"),
        (
            'below: ["0.5"], measure: share, scope: project',
            "this rule must use `below` for success_rate, and only for it",
        ),
        ("thresholds: [1], measure: projected, min_requests: 5", "`min_requests` belongs to success_rate and share"),
        ("thresholds: [1], measure: projected, window: total", "`window` has no end to project a cost to"),
        ("thresholds: [1], measure: projected, window: 24h", "`window` has no end to project a cost to"),
        ("thresholds: [1], measure: profit", "`measure` is no measure: one of cost, requests, failures"),
        ("thresholds: [1], measure: 'quantity:Seconds'", "`measure` is no measure"),
        ("thresholds: [1], measure: 'quantity:requests'", "`measure` names requests, which is never given in `usage`"),
        ("thresholds: [1], window: 2h", "`window` is none of hour, day, week, month, total, 5m, 15m, 1h, 6h, 24h, 7d"),
        ("thresholds: [1], scope: environment", "`scope` is none of org, project, api_key, model, user, operation"),
        ("thresholds: [1], match: 'a b*'", "`match` is no id"),
        ("thresholds: [1], org: ''", "`org` is no id"),
        ("thresholds: [1], id: 'a b'", "`id` is no id"),
        ("thresholds: [1], severity: page", "`severity` is no key here; the keys are id, scope, match, org, measure"),
        ("thresholds: [1], match: *", "this is no YAML"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(rule: str, sentence: str) -> None:
    """One sentence that says what to write instead."""
    ordinary = {"id": "a", "scope": "org", "measure": "cost", "window": "day"}
    said = ", ".join(f"{key}: {value}" for key, value in ordinary.items() if f"{key}:" not in rule.partition("'")[0])

    (mistake,) = mistakes_of(f"rules:\n  - {{{said}, {rule}}}")

    assert mistake.startswith("prices.yaml:2:")
    assert sentence in mistake


def test_all_mistakes_of_all_rules_are_listed_with_their_places() -> None:
    """The author sees everything at once, also an id that is taken by a rule that is wrong itself."""
    text = """\
    rules:
      - {id: a, scope: team, measure: profit, window: year, thresholds: [0]}
      - {id: a, scope: org, measure: cost, window: day, thresholds: [5]}
      - {id: b, scope: org, measure: share, window: day, thresholds: [1]}
      - {id: c, scope: model, measure: share, window: day,
         thresholds: [2]}
    """

    measures = "cost, requests, failures, success_rate, share, projected, tokens, input_tokens, output_tokens"
    assert mistakes_of(text) == [
        "prices.yaml:2:13: `scope` is none of org, project, api_key, model, user, operation",
        f"prices.yaml:2:26: `measure` is no measure: one of {measures}, or quantity:NAME",
        "prices.yaml:2:43: `window` is none of hour, day, week, month, total, 5m, 15m, 1h, 6h, 24h, 7d",
        "prices.yaml:2:57: `thresholds` has a number that is not above 0",
        "prices.yaml:3:6: the rule id a is taken by the rule in line 2",
        "prices.yaml:4:25: `measure` is the share of a part in its org: use another scope",
        'prices.yaml:6:6: `thresholds` has a share above 1: 80 % is written as "0.8"',
    ]


def test_a_share_and_a_projected_cost_are_measures() -> None:
    """A share may wait for some requests; a projected cost may have a budget."""
    text = """\
    rules:
      - {id: whale, scope: project, measure: share, window: day, thresholds: ["0.8"], min_requests: 100}
      - {id: month-end, scope: org, measure: projected, window: month, budget: "5000", percent: [100]}
    """

    rule_set = load(text).rule_set

    assert rule_set is not None
    share, projected = rule_set.rules
    assert (share.measure, share.min_requests, share.limits) == ("share", 100, ((Decimal("0.8"), None),))
    assert (projected.measure, projected.limits) == ("projected", ((Decimal(5000), 100),))


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        ("", ["prices.yaml:1:1: the file is empty: it needs a `price_book`, `rules`, or both"]),
        ("# only a remark\n", ["prices.yaml:1:1: the file is empty: it needs a `price_book`, `rules`, or both"]),
        ("hello", ["prices.yaml:1:1: a catalog is a mapping: `price_book: NAME`, `prices:` and so on"]),
        ("- a", ["prices.yaml:1:1: a catalog is a mapping: `price_book: NAME`, `prices:` and so on"]),
        ("{}", ["prices.yaml:1:1: there is neither a `price_book` nor `rules` in this file"]),
        ("prices: [", ["prices.yaml:1:10: this is no YAML: expected the node content, but found '<stream end>'"]),
        ("rules: []\n---\nrules: []", ["prices.yaml:2:1: a second document begins here: one file is one document"]),
        ("rules: [[[[[[[[[]]]]]]]]]", ["prices.yaml:1:15: this is nested more than 8 deep"]),
        ("rules: {}", ["prices.yaml:1:1: `rules` must be a list of rows; an empty one is written []"]),
        ("rule_set: a", ["prices.yaml:1:1: `rules` is missing: a rule set without rules is written `rules: []`"]),
        (
            "price_book: a",
            [
                "prices.yaml:1:1: `currency` is missing: a price book has a name, a currency and prices",
                "prices.yaml:1:1: `prices` is missing: a price book has a name, a currency and prices",
            ],
        ),
        (
            "currency: USX\nprices: []",
            [
                "prices.yaml:1:1: `currency` is no ISO 4217 currency code like USD",
                "prices.yaml:1:1: `price_book` is missing: a price book has a name, a currency and prices",
            ],
        ),
        ("rules:\n  - {match: *}", [("prices.yaml:2:14: this is no YAML: expected alphabetic or numeric character, "
         "but found '}'; write \"*\" in quotes")]),
    ],
)  # fmt: skip
def test_a_file_that_is_no_catalog_is_refused(text: str, mistakes: list[str]) -> None:
    """With a place where there is one."""
    assert mistakes_of(text) == mistakes


@pytest.mark.parametrize("text", ["price_book: a\0", "price_book: \ud800", "price_book: \x1b[31m"])
def test_a_character_that_yaml_forbids_is_refused(text: str) -> None:
    """Half a surrogate and control characters among them; its place is named."""
    (mistake,) = mistakes_of(f"currency: USD\n{text}")

    column = next(place for place, character in enumerate(text, 1) if not (" " <= character <= "z"))
    assert mistake.startswith(f"prices.yaml:2:{column}: this is no YAML: the character U+")


def test_a_file_that_is_too_large_is_not_looked_at() -> None:
    """The bound is on bytes."""
    assert mistakes_of("€" * (FILE_BYTES_MAX // 3 + 1)) == [
        "prices.yaml:1:1: the file is larger than 8388608 bytes: split it into several books"
    ]


def test_a_bomb_of_aliases_is_refused_at_its_first_anchor() -> None:
    """Nothing is ever expanded."""
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))

    assert any("anchors are not read" in mistake for mistake in mistakes_of(bomb))


def test_reading_ends_where_nobody_would_read_on() -> None:
    """A file of another kind does not give a million mistakes."""
    rows = "  - {operation: lookup, meter: requests, price: 1}\n" * (MISTAKES_MAX + 10)

    mistakes = mistakes_of("price_book: a\ncurrency: USD\nprices:\n" + rows)

    assert len(mistakes) == MISTAKES_MAX + 1
    assert f"more than {MISTAKES_MAX} mistakes up to here" in str(mistakes)


def test_a_book_has_a_largest_size() -> None:
    """So has a rule set; more belong into several."""
    price = Price(operation="lookup", meter="requests", price=Decimal(1))
    rule = "  - {{id: r{}, scope: org, measure: cost, window: day, thresholds: [1]}}\n"

    (mistake,) = mistakes_of("rules:\n" + "".join(rule.format(number) for number in range(RULES_MAX + 1)))

    assert mistake == "prices.yaml:1:1: `rules` has more than 1000 entries: split it into several books or sets"
    with pytest.raises(ValidationError, match="at most 20000 items"):
        PriceBook(name="a", currency="USD", prices=(price,) * (PRICES_MAX + 1))


def test_books_and_rule_sets_in_force_together_must_agree() -> None:
    """Rule ids are unique over all sets, and names over each kind."""
    rules = load(RULES).rule_set
    assert rules is not None
    other = rules.model_copy(update={"name": "other", "rules": rules.rules[:1]})

    check_in_force([], [rules, other.model_copy(update={"rules": ()})])
    with pytest.raises(CatalogError, match="the rule id project-day-budget stands in the sets default and other"):
        check_in_force([], [rules, other])
    with pytest.raises(CatalogError, match="two rule sets are named default"):
        check_in_force([], [rules, rules])


@given(st.text(alphabet=st.sampled_from("pricesbook:_ -{}[]\"'\n&*!#,|>%@?~.0159aT\t\\"), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes the reader fail in another way."""
    try:
        load_catalog_file(f"price_book: a\ncurrency: USD\nprices: {text}", filename="prices.yaml")
    except CatalogError as refused:
        assert refused.mistakes  # noqa: PT017 -- both ways are right


PERIOD_PRICES = """
period_prices:
  - operation: lookup
    meter: lookups
    kind: graduated
    tiers:
      - {up_to: 10000, price: "0.05"}
      - {up_to: "100000.5", price: "0.04", flat: 10}
      - {price: "0.03"}
  - {operation: lookup, meter: lookups, org: acme, from: "2026-03", kind: package, package: 1000, price: "9.99",
     included: 500, minimum: "500.00"}
"""


def test_period_prices_are_read_and_travel() -> None:
    """With the lines of their rows; a book without them says what it always said."""
    file = load(BOOK + PERIOD_PRICES)
    book = file.price_book
    assert book is not None

    graduated, packages = book.period_prices
    assert [(tier.up_to, tier.price, tier.flat) for tier in graduated.tiers] == [
        (Decimal(10000), Decimal("0.05"), Decimal(0)),
        (Decimal("100000.5"), Decimal("0.04"), Decimal(10)),
        (None, Decimal("0.03"), Decimal(0)),
    ]
    assert (packages.from_, packages.package, packages.minimum) == ("2026-03", Decimal(1000), Decimal(500))
    assert file.period_price_lines == (13, 20)
    assert PriceBook.from_json(book.to_json()) == book
    plain = load(BOOK).price_book
    assert plain is not None
    assert "period_prices" not in plain.to_json()
    assert not book.same_content(plain)


def test_all_mistakes_of_period_prices_are_told() -> None:
    """Each with its place, beside those of other rows."""
    told = mistakes_of("""
        price_book: standard
        currency: USD
        prices:
          - {operation: lookup, meter: requests, name: lookups, price: "-1"}
        period_prices:
          - {operation: lookup, meter: lookups, kind: volume, tiers: [{up_to: 5, price: 0.1}, {price: "x"}]}
          - {operation: lookup, meter: lookups, kind: tiered, until: 2026-13}
          - {operation: lookup, meter: lookups, minimum: 5, maximum: 9}
          - {operation: lookup, meter: lookups, minimum: 5}
          - {operation: lookup, meter: lookups, minimum: 6, from: "2026-03"}
    """)

    assert told == [
        "prices.yaml:5:57: `price` is negative: the least is 0",
        'prices.yaml:7:81: this number is not kept exactly without quotes: put it in quotes, "0.1"',
        'prices.yaml:7:88: `tiers.price` must be a plain decimal like "0.15": digits, and digits after a point',
        "prices.yaml:8:41: `kind` must be 'graduated', 'volume' or 'package'",
        'prices.yaml:8:55: `until` must be a quoted month like "2026-03": a period price holds for whole months',
        (
            "prices.yaml:9:53: `maximum` is no key here; the keys are "
            "operation, meter, model, org, from, until, kind, tiers, per, package, price, included, minimum"
        ),
        (
            "prices.yaml:11:5: this period price for lookups is as specific as the one in line 10; "
            "both apply in 2026-03: let one end (`until`) when the other begins (`from`), or make it more specific"
        ),
    ]


def test_books_with_period_prices_must_agree() -> None:
    """No book can see it alone."""
    book = load(BOOK + PERIOD_PRICES).price_book
    assert book is not None
    other = book.model_copy(update={"name": "other", "prices": ()})

    with pytest.raises(CatalogError, match="standard@0:period:1 and other@0:period:1 for lookups are equally specific"):
        check_in_force([book, other])

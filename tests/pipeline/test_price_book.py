"""Price books as values: what contradicts what, what a revision is, and what applying one would change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.pricing.scalar import applies_at
from schemas.catalog_diff import Change, diff_books, diff_rules
from schemas.price_book import Price, PriceBook, next_revision, overlapping_pairs
from schemas.rules import RuleSet, next_rule_revision

MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)
#: A coarse clock: all starts and ends lie on it, so that looking at each tick, a day more on both sides, sees every
#: instant at which two prices apply.
TICKS = [MIDNIGHT + timedelta(hours=hours) for hours in range(0, 24 * 4, 2)]
LOOKS = [MIDNIGHT + timedelta(hours=hours) for hours in range(-24, 24 * 5, 2)]


def make_price(**fields: Any) -> dict[str, Any]:
    """A price row of which only the interesting fields are said."""
    return {"operation": "llm.request", "meter": "input_tokens", "price": "1"} | fields


def make_book(*prices: dict[str, Any], **fields: Any) -> PriceBook:
    """A book as it stands in a file."""
    return PriceBook.model_validate({"name": "standard", "currency": "USD", "prices": prices} | fields)


def make_rules(*rules: dict[str, Any]) -> RuleSet:
    """A rule set as it stands in a file."""
    ordinary = {"scope": "org", "measure": "cost", "window": "day", "thresholds": ["50"]}
    return RuleSet.model_validate({"rules": [ordinary | rule for rule in rules]})


@st.composite
def prices_on_the_clock(draw: st.DrawFn) -> Price:
    """A price whose start, end and hours lie on the ticks."""
    start, end = sorted(draw(st.lists(st.sampled_from(TICKS), min_size=2, max_size=2, unique=True)))
    clock = st.integers(0, 11).map(lambda half: f"{2 * half:02}:00")
    hours = draw(st.lists(clock, min_size=2, max_size=2, unique=True))
    fields = {
        "from": draw(st.sampled_from([None, start])),
        "until": draw(st.sampled_from([None, end])),
        "hours": draw(st.sampled_from([None, {"from": hours[0], "until": hours[1]}])),
        "model": draw(st.sampled_from(["", "gpt-4o", "gpt-4o*"])),
        "org": draw(st.sampled_from(["", "acme"])),
    }
    return Price.model_validate(make_price(**{key: value for key, value in fields.items() if value is not None}))


@settings(max_examples=300)
@given(prices=st.lists(prices_on_the_clock(), max_size=8))
def test_every_pair_of_contradicting_prices_is_found(prices: list[Price]) -> None:
    """Pairs that are equally specific and share an instant: all of them, and no others."""
    found = {(first, second) for first, second, _ in overlapping_pairs(prices)}

    expected = {
        (first, second)
        for first, second in combinations(range(len(prices)), 2)
        if (prices[first].model, prices[first].org) == (prices[second].model, prices[second].org)
        and any(applies_at(tick, prices[first]) and applies_at(tick, prices[second]) for tick in LOOKS)
    }
    assert found == expected


@settings(max_examples=300)
@given(prices=st.lists(prices_on_the_clock(), max_size=8))
def test_the_instant_of_a_contradiction_is_one_at_which_both_apply(prices: list[Price]) -> None:
    """What the message names can be looked up."""
    for first, second, instant in overlapping_pairs(prices):
        assert applies_at(instant, prices[first])
        assert applies_at(instant, prices[second])


@pytest.mark.parametrize(
    "other",
    [
        {"org": "acme"},
        {"model": "gpt-4o"},
        {"model": "gpt-4o*"},
        {"provider": "openai"},
        {"meter": "output_tokens"},
        {"operation": "lookup"},
        {"from": None, "until": "2026-03-01T00:00:00Z"},
        {"hours": {"from": "00:00", "until": "12:00"}},
    ],
)
def test_prices_that_differ_in_reach_or_time_do_not_contradict_each_other(other: dict[str, Any]) -> None:
    """One is more specific, or for something else, or for another time."""
    half_day = {"from": "2026-03-01T00:00:00Z", "hours": {"from": "12:00", "until": "24:00"}}
    prices = [Price.model_validate(make_price(**half_day)), Price.model_validate(make_price(**(half_day | other)))]

    assert list(overlapping_pairs(prices)) == []


def test_a_book_survives_to_json_and_back() -> None:
    """Nothing of it is lost on `usage.catalog`, and money travels as strings."""
    tier = {"quantity": "input_context_tokens", "threshold": 200_000, "inclusive": True, "price": "6.50"}
    row = make_price(
        price="0.000000000001", per=3, org="acme", model="gpt*", provider="openai", name="Tokens in", above=[tier],
        hours={"from": "16:30", "until": "00:30"}, until="2026-03-01T00:00:00.000001+02:00", bill="success",
    )  # fmt: skip
    book = make_book(row | {"from": "2026-01-01T00:00:00Z"}, ignore=["latency_ms"], revision=4)

    text = book.to_json()

    assert PriceBook.from_json(text) == book
    assert '"price":"0.000000000001"' in text
    assert '"until":"2026-02-28T22:00:00.000001Z"' in text


def test_how_a_number_or_an_instant_is_written_makes_no_revision() -> None:
    """Content is what a book says: zeros, zones, the order of ignored names and the revision are not."""
    one = make_book(make_price(price="3.00", until="2026-03-01T00:00:00Z", per=1), ignore=["b", "a"], revision=3)
    same = make_book(make_price(price=3, until="2026-03-01T01:00:00+01:00"), ignore=["a", "b", "a"])
    other = make_book(make_price(price="3.01", until="2026-03-01T00:00:00Z"), ignore=["a", "b"])

    assert one.same_content(same)
    assert not one.same_content(other)


def test_an_unchanged_book_keeps_its_revision_and_a_changed_one_gets_the_next() -> None:
    """The first revision is 1."""
    first = next_revision(make_book(make_price()), in_force=None)
    unchanged = next_revision(make_book(make_price()), in_force=first)
    changed = next_revision(make_book(make_price(price="2")), in_force=unchanged)
    back = next_revision(make_book(make_price()), in_force=changed)

    assert [book.revision for book in (first, unchanged, changed, back)] == [1, 1, 2, 3]
    with pytest.raises(ValueError, match="cannot be a revision"):
        next_revision(make_book(name="other"), in_force=first)


def test_a_price_id_names_book_revision_and_row() -> None:
    """Rows are counted from 1, as a person counts them."""
    assert make_book(make_price(), revision=12).price_id(0) == "standard@12:1"


def test_a_changed_book_is_told_row_by_row() -> None:
    """What says the same is not listed, even if it moved; a new date is a change of its row."""
    before = make_book(
        make_price(),
        make_price(meter="output_tokens", price="4"),
        make_price(meter="images"),
        ignore=["latency_ms"],
    )
    after = make_book(
        make_price(meter="output_tokens", price="5"),
        make_price(),
        make_price(meter="seconds"),
        make_price(meter="images", until="2026-03-01T00:00:00Z"),
        make_price(meter="images", price="2", **{"from": "2026-03-01T00:00:00Z"}),
        ignore=["size"],
        currency="EUR",
    )

    diff = diff_books(before, after)

    assert [(change.change, change.row_before, change.row, change.keys) for change in diff.prices] == [
        (Change.CHANGED, 2, 1, ("price",)),
        (Change.NEW, None, 3, ()),
        (Change.CHANGED, 3, 4, ("until",)),
        (Change.NEW, None, 5, ()),
    ]
    assert (diff.ignore_added, diff.ignore_removed, diff.currency_before) == (("size",), ("latency_ms",), "USD")


def test_rows_that_are_gone_are_told_last() -> None:
    """With their places in the old book."""
    diff = diff_books(make_book(make_price(), make_price(meter="images")), make_book(make_price(meter="seconds")))

    assert [(change.change, change.row_before, change.row) for change in diff.prices] == [
        (Change.NEW, None, 1),
        (Change.ENDED, 1, None),
        (Change.ENDED, 2, None),
    ]


@given(
    before=st.lists(prices_on_the_clock(), max_size=5),
    after=st.lists(prices_on_the_clock(), max_size=5),
    ignores=st.lists(st.sampled_from([(), ("a",)]), min_size=2, max_size=2),
)
def test_a_difference_is_told_exactly_when_there_is_one(
    before: list[Price], after: list[Price], ignores: list[tuple[str, ...]]
) -> None:
    """No revision without a reason that can be printed, and every row of both books is accounted for."""
    old, new = (
        PriceBook(name="standard", currency="USD", prices=tuple(prices), ignore=ignore)
        for prices, ignore in zip((before, after), ignores, strict=True)
    )

    diff = diff_books(old, new)

    assert diff.is_empty == old.same_content(new)
    news = sum(change.change is Change.NEW for change in diff.prices)
    ended = sum(change.change is Change.ENDED for change in diff.prices)
    assert len(old.prices) - ended == len(new.prices) - news


def test_a_rule_that_says_the_same_keeps_its_revision() -> None:
    """Its alerts keep their ids when a neighbour is changed; a rule that comes back is a new one."""
    first = next_rule_revision(make_rules({"id": "a"}, {"id": "b"}), in_force=None)
    second = next_rule_revision(make_rules({"id": "a"}, {"id": "b", "thresholds": ["60"]}), in_force=first)
    third = next_rule_revision(make_rules({"id": "b", "thresholds": ["60.0"]}), in_force=second)
    fourth = next_rule_revision(make_rules({"id": "a"}, {"id": "b", "thresholds": [60]}), in_force=third)

    revisions = [[set_.revision, {rule.id: rule.revision for rule in set_.rules}] for set_ in (second, third, fourth)]

    assert revisions == [[2, {"a": 1, "b": 2}], [3, {"b": 2}], [4, {"a": 4, "b": 2}]]
    assert next_rule_revision(make_rules({"id": "a"}, {"id": "b"}), in_force=first) is first
    with pytest.raises(ValueError, match="cannot be a revision"):
        next_rule_revision(RuleSet(name="other"), in_force=first)


def test_changed_rules_are_told_by_id() -> None:
    """New and changed ones in the order of the file, ended ones last."""
    before = make_rules({"id": "a"}, {"id": "b"}, {"id": "gone"})
    after = make_rules({"id": "new"}, {"id": "b", "window": "month", "thresholds": ["9"]}, {"id": "a"})

    changes = diff_rules(before, after)

    assert [
        (change.change, (change.after or change.before or after.rules[0]).id, change.keys) for change in changes
    ] == [
        (Change.NEW, "new", ()),
        (Change.CHANGED, "b", ("window", "thresholds")),
        (Change.ENDED, "gone", ()),
    ]
    assert diff_rules(after, after) == ()


def test_a_rule_set_survives_to_json_and_back() -> None:
    """Revisions of rules travel with it."""
    rules = next_rule_revision(
        make_rules(
            {"id": "a"},
            {"id": "b", "thresholds": (), "budget": "5000", "percent": [100, 50]},
            {"id": "c", "thresholds": (), "measure": "success_rate", "below": ["0.95"], "min_requests": 100},
        ),
        in_force=None,
    )

    assert RuleSet.from_json(rules.to_json()) == rules


def test_limits_ascend_whatever_their_order_in_the_file() -> None:
    """A step over several thresholds fires them all, ascending; percentages of a budget are exact."""
    rules = make_rules(
        {"id": "a", "thresholds": ["100", "50", "50.5"]},
        {"id": "b", "thresholds": (), "budget": "999999999999999999.0000000003", "percent": [100, 33]},
    )

    assert rules.rules[0].limits == ((Decimal(50), None), (Decimal("50.5"), None), (Decimal(100), None))
    assert rules.rules[1].limits == (
        (Decimal("329999999999999999.670000000099"), 33),
        (Decimal("999999999999999999.0000000003"), 100),
    )


@pytest.mark.parametrize(
    ("rule", "org", "scope_id", "watches"),
    [
        ({}, "acme", "acme", True),
        ({}, "acme", "", False),
        ({"match": "prod-*"}, "acme", "prod-eu", True),
        ({"match": "prod-*"}, "acme", "test", False),
        ({"match": "prod"}, "acme", "prod-eu", False),
        ({"org": "acme"}, "acme", "x", True),
        ({"org": "acme"}, "acme-2", "x", False),
        ({"org": "acme*"}, "acme-2", "x", True),
    ],
)
def test_a_rule_watches_what_it_matches(rule: dict[str, str], org: str, scope_id: str, watches: bool) -> None:  # noqa: FBT001
    """By exact id or by its beginning; an absent value is no scope."""
    (only,) = make_rules({"id": "a"} | rule).rules

    assert only.matches(org=org, scope_id=scope_id) is watches


@pytest.mark.parametrize(
    ("measure", "quantity"),
    [("cost", ""), ("tokens", ""), ("input_tokens", "input_tokens"), ("quantity:seconds", "seconds")],
)
def test_a_rule_says_which_quantity_it_measures(measure: str, quantity: str) -> None:
    """The two short names stand for theirs."""
    (rule,) = make_rules({"id": "a", "measure": measure}).rules

    assert rule.quantity == quantity


def test_windows_know_their_steps() -> None:
    """Up to an hour in minutes, beyond in hours; calendar windows have none."""
    steps = {rule.window: (rule.window.step_minutes, rule.window.steps) for rule in _one_rule_per_window().rules}

    assert steps == {
        "hour": (0, 0), "day": (0, 0), "week": (0, 0), "month": (0, 0), "total": (0, 0),
        "5m": (1, 5), "15m": (1, 15), "1h": (1, 60), "6h": (60, 6), "24h": (60, 24), "7d": (60, 168),
    }  # fmt: skip


def _one_rule_per_window() -> RuleSet:
    windows = ("hour", "day", "week", "month", "total", "5m", "15m", "1h", "6h", "24h", "7d")
    return make_rules(*({"id": window, "window": window} for window in windows))


def test_json_that_is_no_book_is_refused() -> None:
    """What comes from a topic is checked like what comes from a file."""
    with pytest.raises(ValidationError):
        PriceBook.from_json('{"name": "standard", "currency": "USD", "prices": [{"price": 0.1}]}')

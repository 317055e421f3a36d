"""Why one span cost more than another: parts that sum to the difference, each with one cause."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import report
from pipeline.bridge import Side, Use, bridge, figures_of_bridge, parts_of, side
from schemas.period_prices import PeriodPrice, PeriodPriceRow, with_ids
from schemas.reports import BridgeSum

SCALE = report.SCALE
MONTH = "2026-03"


def bridge_sum(**said: Any) -> BridgeSum:
    """A sum of one cell; all of it is billed unless it is said, and everything used has been given."""
    ordinary = {
        "lane": "checkout",
        "operation": "llm.request",
        "provider": "openai",
        "model": "gpt-4o-mini",
        "meter": "input_tokens",
        "cost": "1",
        "events": 10,
        "unpriced": 0,
        "newest_us": 0,
    }
    whole = {**ordinary, **said}
    whole = {"name": whole["meter"], "billed": whole.get("used", "1000"), **whole}
    whole = {"used": whole["billed"], **whole}
    whole = {"quantity": whole["used"], **whole}
    for name in ("used", "quantity", "billed", "cost"):
        whole[name] = Decimal(whole[name])
    return BridgeSum(**whole)


def span(*sums: BridgeSum, rows: tuple[PeriodPriceRow, ...] = (), month: str | None = None) -> Side:
    """One of the two spans."""
    return side(sums, rows=rows, org="acme", month=month)


def parts(before: Side, after: Side) -> dict[tuple[str, str], str]:
    """The parts by name and lane, as plain decimals."""
    return {
        (row["part"], row["lane"]): report.plain(report.whole(Decimal(row["amount"])))
        for row in bridge(before, after)["parts"]
    }


# -- One cause ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        # twice the requests with twice the tokens at the same price
        ({}, {"events": 20, "billed": "2000", "cost": "2"}, {"volume": "1"}),
        # as many requests, each with half more tokens
        ({}, {"billed": "1500", "cost": "1.5"}, {"mix": "0.5"}),
        # the same use at another price
        ({}, {"cost": "0.75"}, {"price": "-0.25"}),
        ({"cost": "0"}, {"cost": "1"}, {"price": "1"}),  # free before
        ({"cost": "0"}, {"cost": "0", "events": 20, "billed": "9"}, {}),
        # half of what was used had no price
        ({"used": "1000", "billed": "500", "cost": "0.5"}, {"used": "1000"}, {"unpriced": "0.5"}),
        ({"name": "", "used": "1000", "billed": "0", "cost": "0", "unpriced": 10}, {}, {"unpriced": "1"}),
        ({}, {"name": "", "used": "1000", "billed": "0", "cost": "0", "unpriced": 10}, {"unpriced": "-1"}),
    ],
)
def test_what_has_one_cause_has_one_part(
    before: dict[str, Any], after: dict[str, Any], expected: dict[str, str]
) -> None:
    """Nothing else moves, so nothing else is said."""
    found = parts(span(bridge_sum(**before)), span(bridge_sum(**after)))

    assert found == {(part, "checkout"): amount for part, amount in expected.items()}


def test_several_causes_follow_each_other() -> None:
    """Volume at the old use and price, then mix, then price at the new use: 1 → 2 → 3 → 6."""
    after = bridge_sum(events=20, billed="3000", cost="6")

    assert parts(span(bridge_sum()), span(after)) == {
        ("price", "checkout"): "3",
        ("volume", "checkout"): "1",
        ("mix", "checkout"): "1",
    }


def test_another_model_in_the_same_lane_is_mix_and_new() -> None:
    """By project, half of the requests went to a model that was not used before; by model, one lane shrank."""
    mini = bridge_sum(events=10)
    half, other = bridge_sum(events=5, billed="500", cost="0.5"), bridge_sum(events=5, model="claude", cost="3")

    assert parts(span(mini), span(half, other)) == {("new", "checkout"): "3", ("mix", "checkout"): "-0.5"}
    by_model = [row._replace(lane=row.model) for row in (mini, half, other)]
    assert parts(span(by_model[0]), span(*by_model[1:])) == {("new", "claude"): "3", ("volume", "gpt-4o-mini"): "-0.5"}


def test_lanes_of_one_span_are_new_or_gone() -> None:
    """As a whole; an empty lane is one as any other."""
    assert parts(span(bridge_sum(lane="old")), span(bridge_sum(lane="", cost="2"))) == {
        ("new", ""): "2",
        ("gone", "old"): "-1",
    }


def test_requests_without_a_price_are_unpriced_although_no_line_names_them() -> None:
    """They are implied, so the events say it; a fee on requests that had other prices is new."""
    nothing = bridge_sum(meter="", name="", used="0", cost="0", unpriced=10)
    priced = bridge_sum(meter="requests", billed="10", cost="5")
    tokens, fee = bridge_sum(), bridge_sum(meter="requests", billed="10", cost="5", events=0)

    assert parts(span(nothing), span(priced)) == {("unpriced", "checkout"): "5"}
    assert parts(span(tokens), span(tokens, fee)) == {("new", "checkout"): "5"}


def test_failures_that_are_not_billed_are_mix() -> None:
    """As many requests, fewer of them billed: given, but not used as the price sees it."""
    before = bridge_sum(meter="requests", billed="10", quantity="10", cost="10")
    after = bridge_sum(meter="requests", billed="5", quantity="10", cost="5")

    assert parts(span(before), span(after)) == {("mix", "checkout"): "-5"}


# -- Whole months ------------------------------------------------------------------------------------------------------

TIERS = PeriodPrice.model_validate(
    {
        "operation": "llm.request",
        "meter": "input_tokens",
        "kind": "graduated",
        "tiers": [{"up_to": 1000, "price": "2"}, {"price": 1}],
        "per": 1000,
    }
)
MINIMUM = PeriodPrice.model_validate(
    {"operation": "llm.request", "meter": "input_tokens", "org": "acme", "minimum": "9"}
)


def test_a_month_costs_what_its_invoice_says() -> None:
    """1000 tokens for 2, 3000 for 4: twice and half again, and the second tier makes a unit cheaper."""
    rows = tuple(with_ids("standard", 1, [TIERS]))
    before = span(bridge_sum(), rows=rows, month=MONTH)
    after = span(bridge_sum(events=20, billed="3000", cost="7"), rows=rows, month=MONTH)

    answer = bridge(before, after)

    assert (answer["from"], answer["to"]) == ("2.000000000000", "4.000000000000")
    assert parts(before, after) == {
        ("volume", "checkout"): "2",
        ("mix", "checkout"): "2",
        ("price", "checkout"): "-2",
    }
    assert parts(span(bridge_sum(), rows=rows), before) == {("price", "checkout"): "1"}  # no month: what events cost


def test_a_minimum_without_use_is_of_no_lane() -> None:
    """It comes and goes with the use, and changes its price when it is another."""
    dearer = MINIMUM.model_copy(update={"minimum": Decimal(11)})
    unused = span(rows=tuple(with_ids("deal", 1, [MINIMUM])), month=MONTH)
    later = span(rows=tuple(with_ids("deal", 2, [dearer])), month=MONTH)
    used = span(bridge_sum(cost="10"), rows=tuple(with_ids("deal", 1, [MINIMUM])), month=MONTH)

    assert parts(unused, used) == {("new", "checkout"): "10", ("gone", ""): "-9"}
    assert parts(unused, later) == {("price", ""): "2"}


# -- Any two spans -----------------------------------------------------------------------------------------------------

QUANTITIES = st.one_of(st.just(0), st.integers(1, 9), st.integers(1, 10**24))


@st.composite
def spans(draw: st.DrawFn) -> Side:
    """Any sums of events; several rows may be of one cell."""
    row = st.builds(
        lambda cell, billed, lacking, not_billed, cost, events: BridgeSum(
            **cell,
            used=report.decimal(billed + lacking),
            quantity=report.decimal(billed + lacking + not_billed),
            billed=report.decimal(billed),
            cost=report.decimal(cost if billed else 0),
            events=events,
            unpriced=min(events, lacking),
            newest_us=None,
        ),
        cell=st.fixed_dictionaries(
            {
                "lane": st.sampled_from(["", "checkout", "search"]),
                "operation": st.sampled_from(["llm.request", "lookup"]),
                "provider": st.just("openai"),
                "model": st.sampled_from(["", "gpt-4o"]),
                "meter": st.sampled_from(["", "requests", "input_tokens"]),
                "name": st.sampled_from(["", "input_tokens"]),
            }
        ),
        billed=QUANTITIES,
        lacking=QUANTITIES,
        not_billed=QUANTITIES,
        cost=QUANTITIES,
        events=st.integers(1, 50),
    )
    sums = draw(st.lists(row, max_size=8))
    prices = draw(st.sampled_from([[], [TIERS], [MINIMUM], [TIERS, MINIMUM]]))
    return span(*sums, rows=tuple(with_ids("book", 1, prices)), month=draw(st.sampled_from([None, MONTH])))


@given(before=spans(), after=spans())
def test_the_parts_always_sum_to_the_difference(before: Side, after: Side) -> None:
    """To the last digit, largest first, none twice and none of 0."""
    answer = bridge(before, after)

    amounts = [report.whole(Decimal(row["amount"])) for row in answer["parts"]]
    assert sum(amounts) == after.cost - before.cost == report.whole(Decimal(answer["difference"]))
    assert report.whole(Decimal(answer["to"])) - report.whole(Decimal(answer["from"])) == sum(amounts)
    assert amounts == sorted(amounts, reverse=True)
    assert 0 not in amounts
    assert len({(row["part"], row["lane"]) for row in answer["parts"]}) == len(amounts)


@given(either=spans())
def test_a_span_against_itself_has_no_parts(either: Side) -> None:
    """Nothing changed."""
    assert bridge(either, either)["parts"] == []


POSITIVE = st.integers(1, 10**24)


@given(use=st.tuples(POSITIVE, POSITIVE, st.integers(0, 10**24)), cost=st.integers(0, 10**24), requests=POSITIVE)
def test_another_price_alone_is_price_alone(use: tuple[int, int, int], cost: int, requests: int) -> None:
    """Whatever was used, priced or not."""
    billed, lacking, before = use
    used = billed + lacking

    found = parts_of(Use(used, billed, before), Use(used, billed, cost), requests=(requests, requests))

    assert [(part, amount) for part, amount in found if amount] == (
        [("price", cost - before)] if cost != before else []
    )


@given(use=st.tuples(POSITIVE, POSITIVE), price=st.integers(0, 10**6), factor=st.integers(2, 9), requests=POSITIVE)
def test_more_of_the_same_is_volume_alone(use: tuple[int, int], price: int, factor: int, requests: int) -> None:
    """Each request uses and costs what it did."""
    billed, lacking = use
    before = Use(billed + lacking, billed, billed * price)
    after = Use(before.used * factor, billed * factor, before.cost * factor)

    found = parts_of(before, after, requests=(requests, requests * factor))

    grown = before.cost * (factor - 1)
    assert [(part, amount) for part, amount in found if amount] == ([("volume", grown)] if grown else [])


@given(
    before=st.tuples(POSITIVE, POSITIVE, POSITIVE),
    after=st.tuples(POSITIVE, POSITIVE, POSITIVE),
    requests=st.tuples(POSITIVE, POSITIVE),
)
def test_the_parts_are_the_variances_of_the_textbook(
    before: tuple[int, int, int], after: tuple[int, int, int], requests: tuple[int, int]
) -> None:
    """The scalar specification, in fractions: each part within what rounding two values to 10⁻¹² can do."""
    (billed, lacking, cost), (billed_now, lacking_now, cost_now) = before, after
    used, used_now = billed + lacking, billed_now + lacking_now
    price, share_billed = Fraction(cost, billed), Fraction(billed, used)
    volume = price * billed * (Fraction(requests[1], requests[0]) - 1)
    mix = price * share_billed * (used_now - used * Fraction(requests[1], requests[0]))
    unpriced = price * (billed_now - share_billed * used_now)
    price_change = (Fraction(cost_now, billed_now) - price) * billed_now

    found = dict(parts_of(Use(used, billed, cost), Use(used_now, billed_now, cost_now), requests=requests))

    exact = {"volume": volume, "mix": mix, "unpriced": unpriced, "price": price_change}
    assert found.keys() == exact.keys()
    assert all(abs(found[part] - exact[part]) <= 1 for part in exact)


def test_a_bridge_knows_how_complete_it_is() -> None:
    """Events and unpriced ones once each, and the newest instant."""
    sums = [
        bridge_sum(events=3, unpriced=1, newest_us=5),
        bridge_sum(events=2, newest_us=9),
        bridge_sum(newest_us=None, events=0),
    ]

    figures = figures_of_bridge(sums)

    assert (figures.requests, figures.unpriced, figures.newest_us) == (5, 1, 9)

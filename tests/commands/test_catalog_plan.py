"""What applying files would change, and why it can't be done: from values alone, without a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.catalog import load_catalog_file
from schemas.price_book import PriceBook
from schemas.rules import RuleSet
from tally.catalog_plan import Change, RefusedCatalogError, plan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from schemas.catalog_file import CatalogFile

PRICES = """\
price_book: standard
currency: USD
prices:
  - {operation: lookup, meter: requests, name: lookups, price: "0.05"}
"""
DEAL = """\
price_book: deal
currency: USD
prices: []
period_prices:
  - {operation: lookup, meter: lookups, org: acme, minimum: 500}
"""


def load(text: str, *, filename: str = "prices.yaml") -> CatalogFile:
    """A file as it is read."""
    return load_catalog_file(text, filename=filename)


def applied(*texts: str) -> dict[str, PriceBook]:
    """The books of some files, in force at revision 1."""
    books = [load(text).price_book for text in texts]
    return {book.name: book.model_copy(update={"revision": 1}) for book in books if book is not None}


def planned(*texts: str, in_force: Mapping[str, PriceBook | RuleSet]) -> tuple[Change, ...]:
    """What the files become."""
    files = [load(text, filename=f"{at}.yaml") for at, text in enumerate(texts)]
    return plan(files, in_force=in_force, known=in_force)


def told(*texts: str, in_force: dict[str, PriceBook]) -> list[str]:
    """All that is wrong with applying the files."""
    with pytest.raises(RefusedCatalogError) as refused:
        planned(*texts, in_force=in_force)
    return str(refused.value).splitlines()


def test_a_period_price_is_a_row_of_the_change() -> None:
    """New, changed or ended like a price; a row that begins in another month is another row."""
    before = applied(PRICES + "period_prices:\n  - {operation: lookup, meter: lookups, minimum: 5}\n")
    text = PRICES + (
        'period_prices:\n  - {operation: lookup, meter: lookups, minimum: 6, until: "2026-03"}\n'
        '  - {operation: lookup, meter: lookups, minimum: 7, from: "2026-03"}\n'
    )

    (change,) = planned(text, in_force=before)
    (back,) = planned(PRICES, in_force={"standard": change.after} if isinstance(change.after, PriceBook) else {})

    assert (change.state, change.after.revision) == ("changed", 2)
    rows = [(row["change"], row["after"]["period_price"]["minimum"]) for row in change.rows()]
    assert rows == [("changed", "6"), ("new", "7")]
    assert [row["change"] for row in back.rows()] == ["ended", "ended"]


def test_a_book_of_period_prices_stands_beside_the_prices() -> None:
    """An agreement of its own, over lines that another book in force prices event by event."""
    (change,) = planned(DEAL, in_force=applied(PRICES))

    assert change.state == "new"


def test_period_prices_of_two_books_may_not_contradict_each_other() -> None:
    """Neither with a book in force nor with another file."""
    copy = DEAL.replace("deal", "copy")

    assert told(copy, in_force=applied(PRICES, DEAL)) == [
        (
            "0.yaml:5:1: this period price for lookups is as specific as deal@1:period:1, which is in force, and both "
            "apply from the beginning: let one end before the other begins, or make one more specific"
        )
    ]
    assert told(DEAL, copy, in_force=applied(PRICES)) == [
        (
            "1.yaml:5:1: this period price for lookups is as specific as that in line 5 of 0.yaml, and both apply "
            "from the beginning: let one end before the other begins, or make one more specific"
        )
    ]


def test_a_period_price_of_a_name_that_no_line_has_is_refused() -> None:
    """It would never apply, and nobody would notice."""
    (sentence,) = told(DEAL.replace("lookups", "lokups"), in_force=applied(PRICES))

    assert sentence.startswith("0.yaml:5:1: no price in force or in these files gives a line of lookup the name lokups")
    assert told(DEAL, in_force={}) == [sentence.replace("lokups", "lookups")]


ADJUSTED = (
    PRICES
    + """\
adjustments:
  - {variant: {batch: true}, multiplier: "0.5"}
provider_aliases: {gcp.gemini: google}
"""
)


def test_adjustments_and_aliases_are_rows_of_the_change() -> None:
    """New, changed or ended like a price; all aliases of a book are one row."""
    more = ADJUSTED.replace("0.5", "0.6").replace("google}", "google, x_ai: x-ai}")

    (new,) = planned(ADJUSTED, in_force=applied(PRICES))
    (changed,) = planned(more, in_force=applied(ADJUSTED))
    (back,) = planned(PRICES, in_force=applied(ADJUSTED))

    assert [row["after"] for row in new.rows()] == [
        {"adjustment": {"variant": {"batch": True}, "multiplier": "0.5"}},
        {"provider_aliases": {"gcp.gemini": "google"}},
    ]
    assert [row["change"] for row in changed.rows()] == ["changed", "changed"]
    assert [row["change"] for row in back.rows()] == ["ended", "ended"]


def test_adjustments_and_aliases_of_two_books_may_not_contradict_each_other() -> None:
    """Neither with a book in force nor with another file; aliases that agree may stand in both."""
    other = "price_book: other\ncurrency: USD\nprices: []\n"
    adjusting = other + 'adjustments: [{variant: {batch: true}, multiplier: "0.4"}]\n'

    assert told(adjusting, in_force=applied(ADJUSTED)) == [
        (
            "0.yaml:4:1: this adjustment is as specific as standard@1:x1, which is in force, and both apply "
            "from the beginning: let one end before the other begins, or make one more specific"
        )
    ]
    assert told(ADJUSTED, adjusting, in_force={}) == [
        (
            "1.yaml:4:1: this adjustment is as specific as that in line 6 of 0.yaml, and both apply from the "
            "beginning: let one end before the other begins, or make one more specific"
        )
    ]
    assert told(other + "provider_aliases: {gcp.gemini: vertex}\n", in_force=applied(ADJUSTED)) == [
        "0.yaml:1:1: gcp.gemini is an alias for vertex in the book other, and for google in the book standard"
    ]
    assert planned(other + "provider_aliases: {gcp.gemini: google}\n", in_force=applied(ADJUSTED))


def test_prices_and_multipliers_that_could_overflow_are_refused() -> None:
    """Whoever brings the last of both; a worker must never meet a cost that does not fit."""
    dear = PRICES.replace('"0.05"', "600000000")
    doubled = "price_book: other\ncurrency: USD\nprices: []\nadjustments: [{variant: {speed: fast}, multiplier: 2}]\n"

    (sentence,) = told(doubled, in_force=applied(dear))

    assert sentence == (
        "0.yaml:1:1: the dearest price with all multipliers that could ever meet comes to more than 1000000000: the "
        "cost of an event might not fit its column"
    )
    assert told(dear.replace("standard", "third"), in_force=applied(doubled)) == [sentence]


def test_a_rule_that_moves_to_another_set_gets_a_revision_that_it_never_had() -> None:
    """Rule and revision name its alerts: two rules in one would be silent where the first one fired."""
    rule = "  - {{id: burst, scope: project, measure: requests, window: day, thresholds: [{limit}]}}\n"
    ours, theirs = ("rule_set: ours\nrules:\n" + rule.format(limit=5)), "rule_set: theirs\nrules:\n"
    in_force: dict[str, PriceBook | RuleSet] = {}
    revisions = []

    for texts in ((ours,), ("rule_set: ours\nrules: []\n", theirs + rule.format(limit=9))):
        for change in planned(*texts, in_force=in_force):
            in_force[change.after.name] = change.after
        rules = [rule for content in in_force.values() if isinstance(content, RuleSet) for rule in content.rules]
        revisions += [rule.revision for rule in rules if rule.id == "burst"]

    assert revisions == [1, 2]

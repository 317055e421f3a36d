"""`tally report why` on the real store: two periods, and the parts of their difference."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from clickhouse import reports
from clickhouse.catalog import write_revision
from pipeline.catalog import load_catalog_file
from pipeline.periods import parse_period
from schemas.reports import LANES_BY, BridgeSum
from tests.reports.building import NOON, Line, fact
from tests.reports.conftest import tally_on

if TYPE_CHECKING:
    from tests.commands.conftest import Answer, Tally
    from tests.reports.building import Counted

pytestmark = pytest.mark.servers

FEBRUARY = NOON - timedelta(days=14)
#: The two months by whole hours, and the same events in spans that only facts can answer for.
MONTHS = ("2026-03", "2026-02")
ODD = ("2026-03-01T00:00Z/2026-04-01T00:00:00.5Z", "2026-02-01T00:00Z/2026-02-28T23:59:59Z")
BOOK = """\
price_book: standard
currency: USD
prices:
  - {operation: lookup, meter: requests, name: lookups, price: "0.04"}
period_prices:
  - {operation: lookup, meter: lookups, kind: volume, tiers: [{up_to: 2, price: 1}, {price: "0.5"}]}
"""


def tokens(quantity: int, cost: str, **said: Any) -> dict[str, Any]:
    """An event with tokens."""
    return fact(Line("input_tokens", str(quantity), cost), **said)


def lookup(cost: str | None = "0.04", *, state: str | None = None, **said: Any) -> dict[str, Any]:
    """A lookup; without a cost nothing of it has a price."""
    lines = () if cost is None else (Line("requests", "1", cost, name="lookups", state=state),)
    return fact(*lines, **{"operation": "lookup", "model": "", "provider": "", **said})


@pytest.fixture(scope="module")
def counted_months(read_only: Counted) -> Counted:
    """February and March of two orgs.

    checkout makes twice the requests, each with half more tokens, at another price; search comes and old goes; what
    lookups cost was unknown in February.
    """
    read_only.count(
        tokens(1000, "1", time=FEBRUARY),
        tokens(500, "0.5", time=FEBRUARY, project="old", user="u1", status="error"),
        lookup(None, time=FEBRUARY, project="lookups", api_key="key_2"),
        tokens(7, "7", time=FEBRUARY, org="other"),
    )
    read_only.count(
        tokens(1500, "3"),
        tokens(1500, "3", time=NOON + timedelta(hours=1)),
        tokens(100, "0.1", project="search", model="claude"),
        lookup(project="lookups", api_key="key_2"),
        lookup("0", state="not_billed", project="lookups", status="error", api_key="key_2"),
        fact(Line("latency_ms", "9", None, state="ignored"), Line("input_tokens", "1", "0"), project="search"),
    )
    read_only.refuse({"offset": 50, "received_at": FEBRUARY})
    return read_only


@pytest.fixture(scope="module")
def months(counted_months: Counted) -> Tally:
    """The command line on them."""
    return tally_on(counted_months.url)


def why(tally: Tally, *more: str, periods: tuple[str, str] = MONTHS, org: str = "acme", form: str = "json") -> Answer:
    """The first of the periods against the second."""
    period, against = periods
    return tally(
        *("report", "why", "--org", org, "--period", period, "--against", against, *more),
        *("--now", "2026-03-01T18:00:00Z", "--format", form),
    )


@pytest.mark.parametrize("periods", [MONTHS, ODD], ids=["hours", "facts"])
def test_the_bridge_names_what_changed(months: Tally, periods: tuple[str, str]) -> None:
    """The document of the contract, with how complete both sides are; the same from totals and from facts."""
    answer = why(months, periods=periods).json

    spans = answer.pop("period"), answer.pop("against")
    assert [span["start"] for span in spans] == ["2026-03-01T00:00:00Z", "2026-02-01T00:00:00Z"]
    assert answer == {
        "org": "acme",
        "by": "project",
        "currency": "USD",
        "from": "1.500000000000",
        "to": "6.140000000000",
        "difference": "4.640000000000",
        "parts": [
            {"part": "price", "lane": "checkout", "amount": "3.000000000000"},
            {"part": "mix", "lane": "checkout", "amount": "1.000000000000"},
            {"part": "volume", "lane": "checkout", "amount": "1.000000000000"},
            {"part": "new", "lane": "search", "amount": "0.100000000000"},
            {"part": "unpriced", "lane": "lookups", "amount": "0.040000000000"},
            {"part": "gone", "lane": "old", "amount": "-0.500000000000"},
        ],
        "completeness": {
            "events": 6,
            "unpriced": 0,
            "rejected": 0,
            "duplicates": 0,
            "conflicts": 0,
            "watermark": "2026-03-01T13:00:00.000000Z",
            "lag": None,
        },
        "against_completeness": {
            "events": 3,
            "unpriced": 1,
            "rejected": 1,
            "duplicates": 0,
            "conflicts": 0,
            "watermark": "2026-02-15T12:00:00.000000Z",
            "lag": None,
        },
    }


@pytest.mark.parametrize("by", LANES_BY)
@pytest.mark.parametrize("periods", [MONTHS, MONTHS[::-1], ODD], ids=["hours", "back", "facts"])
def test_the_parts_sum_to_the_difference_of_the_invoices(months: Tally, periods: tuple[str, str], by: str) -> None:
    """Whatever the lanes are, to the last digit."""
    answer = why(months, "--by", by, periods=periods).json
    totals = [
        Decimal(
            months("report", "invoice", "--org", "acme", "--period", period, "--format", "json").json["exact_total"]
        )
        for period in periods
    ]

    assert [Decimal(answer["to"]), Decimal(answer["from"])] == totals
    assert sum(Decimal(row["amount"]) for row in answer["parts"]) == totals[0] - totals[1] != 0
    assert Decimal(answer["difference"]) == totals[0] - totals[1]


def test_lanes_can_be_what_people_compare(months: Tally) -> None:
    """By model the new one is a lane of its own."""
    answer = why(months, "--by", "model").json

    assert {"part": "new", "lane": "claude", "amount": "0.100000000000"} in answer["parts"]


def test_an_org_without_events_has_no_parts(months: Tally) -> None:
    """Zeros, exit 0."""
    answer = why(months, org="nobody")

    assert answer.code == 0
    assert (answer.json["difference"], answer.json["parts"]) == ("0.000000000000", [])


def test_people_get_a_table_and_machines_csv(months: Tally) -> None:
    """The difference in the title, how complete it is below."""
    table = why(months, form="table").stdout.splitlines()
    rows = list(csv.DictReader(io.StringIO(why(months, form="csv").stdout)))

    assert table[0].endswith("1.500000000000 to 6.140000000000, difference 4.640000000000 USD")
    assert table[-1].startswith("6 events (0 unpriced)")
    assert rows[0] == {"part": "price", "lane": "checkout", "amount": "3.000000000000"}


@pytest.mark.parametrize("more", [(), ("--against", "2026-13"), ("--against", "2026-02", "--by", "provider")])
def test_wrong_use_is_noticed_before_any_server_is_asked(months: Tally, more: tuple[str, ...]) -> None:
    """One sentence and exit 2."""
    answer = months.given(store_url="http://127.0.0.1:9/tally")("report", "why", "--org", "acme", *more)

    assert (answer.code, answer.stdout) == (2, "")
    assert len(answer.stderr.splitlines()) == 1
    assert "--by" in answer.sentence or "against" in answer.sentence or "2026-13" in answer.sentence


@pytest.mark.parametrize("periods", [MONTHS, ODD], ids=["hours", "facts"])
def test_sums_say_what_was_used_and_what_of_it_was_billed(counted_months: Counted, periods: tuple[str, str]) -> None:
    """The same from totals and from facts: what is ignored or not billed is given, not used."""
    march, february = (parse_period(text, now=NOON) for text in periods)

    sums = reports.bridge_sums(counted_months.store, org="acme", by="api_key", period=march)
    before = reports.bridge_sums(counted_months.store, org="acme", by="api_key", period=february)

    lookups = {row.lane: row for row in sums if row.operation == "lookup"}
    assert lookups == {
        "key_2": BridgeSum(
            lane="key_2",
            operation="lookup",
            provider="",
            model="",
            meter="requests",
            name="lookups",
            used=Decimal(1),
            quantity=Decimal(2),
            billed=Decimal(1),
            cost=Decimal("0.04"),
            events=2,
            unpriced=0,
            newest_us=int(NOON.timestamp()) * 10**6,
        )
    }
    (latency,) = [row for row in sums if row.meter == "latency_ms"]
    assert (latency.used, latency.quantity, latency.billed) == (Decimal(0), Decimal(9), Decimal(0))
    assert sum(row.events for row in sums) == 6
    assert [(row.meter, row.events, row.unpriced) for row in before if row.operation == "lookup"] == [("", 1, 1)]


def test_whole_months_are_compared_as_they_are_invoiced(counted: Counted) -> None:
    """March is in a cheaper tier: 1.50 against the 2 of February, while its events alone cost more."""
    book = load_catalog_file(BOOK, filename="prices.yaml").price_book
    assert book is not None
    write_revision(counted.store, book, kind="price_book", applied_at=datetime(2026, 1, 1, tzinfo=UTC))
    counted.count(*(lookup(time=FEBRUARY) for _ in range(2)), *(lookup(user="u1") for _ in range(3)))
    tally = tally_on(counted.url)

    months, spans = why(tally).json, why(tally, periods=ODD).json

    assert (months["from"], months["to"]) == ("2.000000000000", "1.500000000000")
    assert months["parts"] == [
        {"part": "volume", "lane": "checkout", "amount": "1.000000000000"},
        {"part": "price", "lane": "checkout", "amount": "-1.500000000000"},
    ]
    assert (spans["from"], spans["to"]) == ("0.080000000000", "0.120000000000")
    assert spans["parts"] == [{"part": "volume", "lane": "checkout", "amount": "0.040000000000"}]

"""`tally report` as people and programs meet it: documents, tables, CSV, exit codes."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from clickhouse.catalog import write_revision
from schemas.price_book import PriceBook
from schemas.reports import LANES_BY
from tally.report import TABLE_ROWS, By
from tests.reports.building import NOON, Line, fact
from tests.reports.conftest import tally_on

if TYPE_CHECKING:
    from tests.commands.conftest import Answer, Tally
    from tests.reports.building import Counted

pytestmark = pytest.mark.servers

MARCH = {"start": "2026-03-01T00:00:00Z", "end": "2026-04-01T00:00:00Z"}
NOW = "2026-03-01T18:00:00Z"
KAFKA_IS_AWAY = "Kafka can't be asked how many records are still on their way: lag is null (`tally drain` says why)."

#: Every report with what it needs on the line.
REPORTS = (
    ("summary", "--org", "acme"),
    ("concentration", "--org", "acme"),
    ("success", "--org", "acme"),
    ("invoice", "--org", "acme"),
    ("why", "--org", "acme", "--against", "2026-02"),
    ("unpriced", "--org", "acme"),
    ("rejected",),
    ("duplicates", "--org", "acme"),
    ("alerts", "--org", "acme"),
)


def _report(tally: Tally, *arguments: str, period: str = "2026-03", form: str = "json") -> Answer:
    span = () if arguments[0] == "summary" else ("--period", period)
    return tally("report", *arguments, *span, "--now", NOW, "--format", form)


def _completeness(**said: Any) -> dict[str, Any]:
    ordinary = {
        "events": 0,
        "unpriced": 0,
        "rejected": 0,
        "duplicates": 0,
        "conflicts": 0,
        "watermark": None,
        "lag": None,
    }
    return {**ordinary, **said}


@pytest.fixture(scope="module")
def day(read_only: Counted) -> Tally:
    """Four events in March, one failed, one unpriced, and one before; two refusals, a duplicate and a conflict."""
    counted = read_only
    counted.count(
        fact(Line("input_tokens", "1200", "0.018"), Line("output_tokens", "10", "0.006")),
        fact(Line("input_tokens", "100", "0.0015"), project="other", status="error", user="u1"),
        fact(Line("requests", "1", "0.0415", name="lookups"), operation="lookup", model="", provider=""),
        fact(Line("images", "2", None), model="flux", time=NOON + timedelta(hours=2, microseconds=100_000)),
    )
    counted.refuse({"offset": 10, "id": "bad"}, {"offset": 11, "org": "", "reason": "not_json"})
    counted.repeat({"offset": 12}, {"offset": 13, "kind": "conflict"})
    counted.count(fact(Line("input_tokens", "1", "1"), time=NOON - timedelta(days=1)))
    for revision, until in ((1, None), (2, "2026-03-01T00:00:00Z")):
        price = {"operation": "llm.request", "model": "flux", "meter": "images", "price": 1, "until": until}
        book = PriceBook.model_validate(
            {"name": "pictures", "revision": revision, "currency": "USD", "prices": [price]}
        )
        write_revision(counted.store, book, kind="price_book", applied_at=NOON)
    return tally_on(counted.url)


#: What each report of ``day`` says about itself.
OF_THE_DAY = _completeness(
    events=4, unpriced=1, rejected=1, duplicates=1, conflicts=1, watermark="2026-03-01T14:00:00.100000Z"
)


def test_a_summary_has_four_windows(day: Tally) -> None:
    """Today, week, month and total as seen from --now; its completeness is of all time."""
    answer = _report(day, "summary", "--org", "acme")

    today = {
        "requests": 4,
        "ok": 3,
        "failed": 1,
        "success_rate": "0.750000",
        "input_tokens": "1300",
        "output_tokens": "10",
        "cost": "0.067000000000",
        "unpriced": 1,
    }
    longer = {
        **today,
        "requests": 5,
        "ok": 4,
        "success_rate": "0.800000",
        "input_tokens": "1301",
        "cost": "1.067000000000",
    }
    assert answer.json == {
        "org": "acme",
        # The first of March was a Sunday, so the week holds the day before and the month does not.
        "windows": {"today": today, "week": longer, "month": today, "total": longer},
        "completeness": {**OF_THE_DAY, "events": 5},
    }


def test_a_concentration_names_lanes_and_shares(day: Tally) -> None:
    """The document of the contract, with completeness."""
    answer = _report(day, "concentration", "--org", "acme", "--by", "operation")

    assert answer.json == {
        "org": "acme",
        "by": "operation",
        "period": MARCH,
        "total": "0.067000000000",
        "top_share": "0.619403",
        "hhi": "0.528514",
        "lanes_to_80": 2,
        "lanes": [
            {
                "lane": "lookup",
                "requests": 1,
                "cost": "0.041500000000",
                "share": "0.619403",
                "running_share": "0.619403",
            },
            {
                "lane": "llm.request",
                "requests": 3,
                "cost": "0.025500000000",
                "share": "0.380597",
                "running_share": "1.000000",
            },
        ],
        "completeness": OF_THE_DAY,
    }


def test_success_names_rates_and_failed_costs(day: Tally) -> None:
    """The document of the contract, with completeness."""
    answer = _report(day, "success", "--org", "acme", "--by", "user", period="2026-W09")

    assert answer.json == {
        "org": "acme",
        "by": "user",
        "period": {"start": "2026-02-23T00:00:00Z", "end": "2026-03-02T00:00:00Z"},
        "lanes": [
            {
                "lane": "u1",
                "requests": 1,
                "ok": 0,
                "failed": 1,
                "success_rate": "0.000000",
                "failed_cost": "0.001500000000",
            },
            {
                "lane": "",
                "requests": 4,
                "ok": 4,
                "failed": 0,
                "success_rate": "1.000000",
                "failed_cost": "0.000000000000",
            },
        ],
        "completeness": {**OF_THE_DAY, "events": 5},
    }


@pytest.mark.parametrize("period", ["2026-03", "2026-03-01T00:00Z/2026-04-01T00:00:00.5Z"])
def test_an_invoice_is_the_same_from_hours_and_from_facts(day: Tally, period: str) -> None:
    """The document of the contract, with completeness."""
    answer = _report(day, "invoice", "--org", "acme", period=period)

    assert answer.json == {
        "org": "acme",
        "period": MARCH if period == "2026-03" else {**MARCH, "end": "2026-04-01T00:00:00.500000Z"},
        "currency": "USD",
        "state": "open",
        "quantities": {"input_tokens": "1300", "lookups": "1", "output_tokens": "10"},
        "lines": [
            {
                "operation": "lookup",
                "model": "",
                "meter": "lookups",
                "quantity": "1",
                "cost": "0.04",
                "exact_cost": "0.041500000000",
            },
            {
                "operation": "llm.request",
                "model": "gpt-4o-mini",
                "meter": "input_tokens",
                "quantity": "1300",
                "cost": "0.02",
                "exact_cost": "0.019500000000",
            },
            {
                "operation": "llm.request",
                "model": "gpt-4o-mini",
                "meter": "output_tokens",
                "quantity": "10",
                "cost": "0.01",
                "exact_cost": "0.006000000000",
            },
        ],
        "project_breakdown": [
            {"project": "checkout", "cost": "0.07", "exact_cost": "0.065500000000", "share": "0.977612"},
            {"project": "other", "cost": "0.00", "exact_cost": "0.001500000000", "share": "0.022388"},
        ],
        "total": "0.07",
        "exact_total": "0.067000000000",
        "period_prices": [],
        "completeness": OF_THE_DAY,
    }


def test_unpriced_names_what_has_no_price(day: Tally) -> None:
    """The document of the contract, with completeness."""
    answer = _report(day, "unpriced", "--org", "acme")

    assert answer.json == {
        "org": "acme",
        "period": MARCH,
        "unpriced": [
            {
                "operation": "llm.request",
                "provider": "openai",
                "model": "flux",
                "meter": "images",
                "events": 1,
                "quantity": "2",
                "since": "2026-03-01T14:00:00.100000Z",
                "fix": '- {operation: llm.request, provider: openai, model: flux, meter: images, price: "?", per: 1}',
                "nearest": {
                    "price_id": "pictures@2:1",
                    "book": "pictures",
                    "revision": 2,
                    "row": 1,
                    "why": "it ended at 2026-03-01T00:00:00Z",
                },
            }
        ],
        "completeness": OF_THE_DAY,
    }


def test_the_table_of_unpriced_ends_with_lines_to_paste(day: Tally) -> None:
    """Each is a row of a book, what stands under it a comment in one."""
    lines = _report(day, "unpriced", "--org", "acme", form="table").stdout.splitlines()

    at = lines.index("These lines under `prices` of a book would price it from now on, with the price filled in:")
    assert lines[at + 1 : at + 3] == [
        '  - {operation: llm.request, provider: openai, model: flux, meter: images, price: "?", per: 1}',
        "    # nearly matches: pictures@2:1; it ended at 2026-03-01T00:00:00Z",
    ]


def test_rejected_without_an_org_names_all_that_was_refused(day: Tally) -> None:
    """Also what names no readable org; with an org only its own."""
    everything = _report(day, "rejected").json
    own = _report(day, "rejected", "--org", "acme").json

    assert everything["org"] is None
    assert [row["reason"] for row in everything["rejected"]] == ["not_json", "bad_time"]
    assert everything["completeness"] == {**OF_THE_DAY, "rejected": 2}
    assert own == {
        "org": "acme",
        "period": MARCH,
        "rejected": [
            {
                "reason": "bad_time",
                "detail": "The time is no instant.",
                "topic": "usage.events",
                "partition": 0,
                "offset": 10,
                "index": 0,
                "received_at": "2026-03-01T12:00:00.000000Z",
                "org": "acme",
                "id": "bad",
                "payload_sha256": "0" * 64,
                "payload_prefix": "{",
            }
        ],
        "completeness": OF_THE_DAY,
    }


def test_duplicates_name_both_records(day: Tally) -> None:
    """The fields of the view, with completeness."""
    answer = _report(day, "duplicates", "--org", "acme", "--limit", "1")

    assert answer.json == {
        "org": "acme",
        "period": MARCH,
        "duplicates": [
            {
                "kind": "conflict",
                "org": "acme",
                "source": "/gateway",
                "id": "id-0",
                "time": "2026-03-01T12:00:00.000000Z",
                "topic": "usage.events",
                "partition": 0,
                "offset": 13,
                "index": 0,
                "first_topic": "usage.events",
                "first_partition": 0,
                "first_offset": 0,
                "first_index": 0,
            }
        ],
        "completeness": OF_THE_DAY,
    }


@pytest.mark.parametrize("arguments", REPORTS, ids=lambda arguments: arguments[0])
def test_an_org_without_events_answers_with_zeros(day: Tally, arguments: tuple[str, ...]) -> None:
    """Exit 0; Kafka being away costs one warning and the lag, not the answer."""
    answer = _report(day, *arguments, "--org", "nobody")

    assert answer.code == 0
    assert answer.json["completeness"] == _completeness()
    assert answer.sentence == KAFKA_IS_AWAY


@pytest.mark.parametrize("arguments", REPORTS, ids=lambda arguments: arguments[0])
def test_a_table_ends_with_how_complete_it_is(day: Tally, arguments: tuple[str, ...]) -> None:
    """A title above, aligned rows, and what the answer can be relied on for below."""
    answer = _report(day, *arguments, form="table")

    lines = answer.stdout.splitlines()
    assert answer.code == 0
    assert "acme" in lines[0] or arguments[0] == "rejected"
    events = 5 if arguments[0] == "summary" else 4
    assert lines[-1].startswith(f"{events} events (1 unpriced) up to 2026-03-01T14:00:00.100000Z; not counted: ")
    assert lines[-1].endswith("1 duplicate, 1 conflict; an unknown number of records on the way.")


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        (("summary", "--org", "acme"), {"window": "today", "requests": "4", "cost": "0.067000000000"}),
        (("concentration", "--org", "acme"), {"lane": "checkout", "requests": "3", "share": "0.977612"}),
        (("success", "--org", "acme", "--by", "model"), {"lane": "gpt-4o-mini", "failed": "1"}),
        (("invoice", "--org", "acme"), {"meter": "lookups", "cost": "0.04"}),
        (("unpriced", "--org", "acme"), {"meter": "images", "quantity": "2"}),
        (("rejected", "--org", "acme"), {"reason": "bad_time", "offset": "10"}),
        (("duplicates", "--org", "acme"), {"kind": "conflict", "first_offset": "0"}),
    ],
    ids=lambda part: part[0] if isinstance(part, tuple) else "",
)
def test_csv_has_the_rows_of_the_main_list(day: Tally, arguments: tuple[str, ...], first: dict[str, str]) -> None:
    """A header line and one line per row."""
    answer = _report(day, *arguments, form="csv")

    row = next(csv.DictReader(io.StringIO(answer.stdout)))
    assert first == {name: row[name] for name in first}


def test_a_table_of_many_rows_shows_the_newest_and_says_so(tally: Tally, counted: Counted) -> None:
    """Machines get them all; a person asks for more with --limit."""
    counted.refuse(*({"offset": at} for at in range(TABLE_ROWS + 1)))

    table = _report(tally, "rejected", form="table").stdout
    longer = _report(tally, "rejected", "--limit", "500", form="table").stdout

    assert table.count("bad_time") == TABLE_ROWS
    assert f"These are the newest {TABLE_ROWS}; --limit shows more." in table
    assert longer.count("bad_time") == TABLE_ROWS + 1
    assert "--limit" not in longer
    assert len(_report(tally, "rejected").json["rejected"]) == TABLE_ROWS + 1


def test_what_producers_sent_does_not_steer_a_terminal(tally: Tally, counted: Counted) -> None:
    """Control characters and markup are shown as they are written, and a row stays one line."""
    counted.refuse({"offset": 1, "detail": "a\x1b[31mred\nline [bold]text[/bold]"})

    table = _report(tally, "rejected", form="table").stdout

    assert r"a\x1b[31mred\nline [bold]text[/bold]" in table
    assert "\x1b" not in table


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("invoice", "--org", "acme", "--period", "2026-13"), "2026-13"),
        (("invoice", "--org", "acme", "--now", "noon"), "noon"),
        (("invoice", "--org", ""), "--org"),
        (("invoice", "--org", "x" * 129), "--org"),
        (("invoice", "--org", "\udcff"), "--org"),
        (("invoice",), "--org"),
        (("concentration", "--org", "acme", "--by", "id"), "--by"),
        (("concentration", "--org", "acme", "--format", "xml"), "--format"),
        (("rejected", "--limit", "0"), "--limit"),
        (("bill", "--org", "acme"), "bill"),
    ],
    ids=lambda part: "" if isinstance(part, str) else part[0],
)
def test_wrong_use_is_one_sentence_and_exit_2(tally: Tally, arguments: tuple[str, ...], word: str) -> None:
    """It is noticed before any server is asked."""
    answer = tally.given(store_url="http://127.0.0.1:9/tally")("report", *arguments)

    assert (answer.code, answer.stdout) == (2, "")
    assert word in answer.sentence


def test_a_store_that_is_away_is_exit_3(tally: Tally) -> None:
    """Without the store there is no answer, and nothing is said of a lag that it would lack."""
    answer = tally.given(store_url="http://127.0.0.1:9/tally")("report", "summary", "--org", "acme")

    assert (answer.code, answer.stdout) == (3, "")
    assert answer.sentence.startswith("ClickHouse at http://127.0.0.1:9/tally can't be reached")


def test_lanes_are_made_of_what_queries_allow() -> None:
    """--by offers exactly the columns that a query may be given."""
    assert tuple(by.value for by in By) == LANES_BY

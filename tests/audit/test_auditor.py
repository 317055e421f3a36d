"""The auditor's rounds: what is wrong with the newest books is in the figures, and stays there until it is mended."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from agents import auditor as rounds
from agents.auditor import Auditor
from clickhouse.audit import Figures, rebuild_totals
from clickhouse.client import parse_store_url
from schemas.topics import Topics
from tests.audit.books import TOKENS, Log, Place, audited, balanced_books
from tests.reports.building import NOON, fact

if TYPE_CHECKING:
    from tests.reports.building import Counted

pytestmark = pytest.mark.servers

WRONG_TOTAL = (
    "INSERT INTO totals_rows SELECT * REPLACE (cost {} AS cost) FROM totals_rows FINAL WHERE org = '{}' "
    "AND operation = 'llm.request' AND toHour(hour) = 12"
)


def auditor_of(counted: Counted, log: Log) -> Auditor:
    """The auditor of these books."""
    return Auditor(parse_store_url(counted.url), topics=Topics(), log_view=log, should_stop=lambda: False)


def test_books_in_order_have_no_figures(counted: Counted) -> None:
    """Both are 0, and all was looked at."""
    auditor = auditor_of(counted, balanced_books(counted))

    assert auditor.round() is True
    assert auditor.figures == Figures(0, Decimal(0))


def test_figures_are_those_of_the_audit(counted: Counted) -> None:
    """A lost fact, a lost refusal in a batch and two wrong totals: errors of both signs add up."""
    log = balanced_books(counted)
    counted.store.command("DELETE FROM facts_rows WHERE id = 'id-4'")  # 0.75, the only one of its hour
    counted.store.command("DELETE FROM rejected_rows WHERE offset = 8")
    counted.store.command(WRONG_TOTAL.format("+ toDecimal128('0.000000000001', 12)", "acme"))
    counted.store.command(WRONG_TOTAL.format("- 2", "bolt"))
    auditor = auditor_of(counted, log)

    auditor.round()

    assert auditor.figures == Figures(2, Decimal("2.750000000001"))
    assert audited(counted, log).figures == auditor.figures


def test_a_record_of_which_nothing_is_there_is_one_event(counted: Counted) -> None:
    """Nobody knows how many it held."""
    log = balanced_books(counted)
    counted.store.command("DELETE FROM rejected_rows WHERE offset = 7")
    auditor = auditor_of(counted, log)

    auditor.round()

    assert auditor.figures == Figures(1, Decimal(0))


def test_what_is_wrong_stays_in_sight_until_it_is_mended(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much comes after it."""
    monkeypatch.setattr(rounds, "RAW_OFFSETS", 1)
    monkeypatch.setattr(rounds, "BLOCKS", 1)
    log = balanced_books(counted)
    auditor = auditor_of(counted, log)
    auditor.round()
    for hour in (1, 2, 3):
        log.raw = Place(0, 9 + hour, 9 + hour)
        counted.offset = 8 + hour
        counted.count(fact(*TOKENS, time=NOON + timedelta(hours=hour)))
        log.priced = Place(0, counted.block, counted.block)
        if hour == 1:
            counted.store.command("DELETE FROM facts_rows WHERE id = 'id-9'")
        auditor.round()
        assert auditor.figures == Figures(1, Decimal("0.75")), hour

    log.markers = frozenset({9})
    rebuild_totals(counted.store, within=audited(counted, log).differing, fence=audited(counted, log).fence)
    auditor.round()

    assert auditor.figures == Figures(0, Decimal(0))


def test_a_pass_goes_on_in_the_next_round(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round asks the store for little; what it found is shown before the pass is over."""
    monkeypatch.setattr(rounds, "ROWS_PER_ROUND", 1)
    log = balanced_books(counted)
    counted.store.command(WRONG_TOTAL.format("+ 1", "acme"))
    counted.store.command(WRONG_TOTAL.format("+ 2", "bolt"))
    auditor = auditor_of(counted, log)

    found = [auditor.figures.drift_cost for _ in range(4) if auditor.round()]

    assert found == [1, 3, 3, 3]


def test_a_total_of_a_block_that_is_not_committed_is_no_drift(counted: Counted) -> None:
    """A worker may be in the middle of writing it."""
    log = balanced_books(counted)
    counted.count(fact(*TOKENS), with_totals=False)
    log.priced = Place(0, counted.block - 1, counted.block - 1)  # its end as it was a moment ago
    auditor = auditor_of(counted, log)

    auditor.round()

    assert auditor.figures == Figures(0, Decimal(0))


def test_a_round_is_put_off_while_counting_is_behind(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is priced and not counted yet would look lost."""
    monkeypatch.setattr(rounds, "COUNTED_SECONDS_MAX", 0.1)
    log = balanced_books(counted)
    counted.store.command(WRONG_TOTAL.format("+ 1", "acme"))
    log.priced = log.priced._replace(end=log.priced.end + 1)
    auditor = auditor_of(counted, log)

    assert auditor.round() is False
    assert auditor.figures == Figures(0, Decimal(0))
    log.priced = log.priced._replace(committed=log.priced.end)
    assert auditor.round() is True
    assert auditor.figures == Figures(0, Decimal(1))


def test_another_auditor_meanwhile_begins_anew(counted: Counted) -> None:
    """Figures of long ago are nobody's."""
    log = balanced_books(counted)
    counted.store.command(WRONG_TOTAL.format("+ 1", "acme"))
    auditor = auditor_of(counted, log)
    auditor.round()

    auditor.forget()

    assert auditor.figures == Figures(0, Decimal(0))

"""The audit judges alerts again: what is stored must be what the rules say, no more and no less."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from clickhouse.audit import Fence
from tally.alert_audit import check_alerts
from tests.audit.judged_books import count_into, emptied
from tests.pipeline.judged_logs import blocks_of, judged_log, runs_of, sizes_of, told

if TYPE_CHECKING:
    from clickhouse.client import Store
    from tests.reports.building import Counted

pytestmark = pytest.mark.servers

#: Logs in which alerts fire, are resolved, superseded and retracted.
SEEDS = (0, 11, 13)
#: A log in which alerts of several kinds fire and are resolved.
SEED = 3

WRITE_ALERT = "INSERT INTO alerts_rows SELECT * REPLACE ({}) FROM alerts_rows FINAL ORDER BY block, alert_id LIMIT 1"
ONE_ALERT = (
    "(alert_id, sequence) IN (SELECT alert_id, sequence FROM alerts_rows WHERE transition = 'fired' "
    "ORDER BY block DESC, alert_id LIMIT 1)"
)
DELETE_ALERT = f"ALTER TABLE alerts_rows DELETE WHERE {ONE_ALERT} SETTINGS mutations_sync = 2"
CHANGE_ALERT = f"ALTER TABLE alerts_rows UPDATE {{}} WHERE {ONE_ALERT} SETTINGS mutations_sync = 2"
#: What was done to the alerts, by how many more or fewer there are, and what the check says of it.
DAMAGE = {
    "one is gone": (DELETE_ALERT, -1, "is missing"),
    "one too many": (WRITE_ALERT.format("repeat('f', 32) AS alert_id"), 1, "is not by the rules"),
    "a transition too many": (WRITE_ALERT.format("99 AS sequence"), 1, "is not by the rules"),
    "a value is another": (
        CHANGE_ALERT.format("value = value + toDecimal128('0.000000000001', 12)"),
        -1,
        ": value is ",
    ),
    "crossed by another event": (
        CHANGE_ALERT.format("crossed_id = 'another'"),
        -1,
        ": crossed_id is another, by the rules ",
    ),
    "resolved instead of fired": (
        CHANGE_ALERT.format("transition = 'resolved'"),
        -1,
        ": transition is resolved, by the rules fired",
    ),
    "another contributor": (CHANGE_ALERT.format("top_ids = arrayMap(id -> 'x', top_ids)"), -1, ": top_ids is "),
}


def _counted(store: Store, seed: int) -> Fence:
    return count_into(emptied(store), runs_of(blocks_of(judged_log(seed), sizes_of(seed)), sizes_of(-seed)))


@pytest.mark.parametrize("rows_at_once", [4, 50_000])
def test_alerts_as_the_workers_judged_them_are_fine(
    counted: Counted, monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    """Every kind of rule, however the log is cut when it is judged again; all are looked at."""
    monkeypatch.setattr("tally.alert_audit.ROWS_AT_ONCE", rows_at_once)
    met: Counter[str] = Counter()
    for seed in SEEDS:
        fence = _counted(counted.store, seed)

        check = check_alerts(counted.store, org="", fence=fence)

        right = told(judged_log(seed))
        assert (check.ok, check.expected, check.found, check.detail) == (True, str(len(right)), str(len(right)), "")
        met.update(alert["transition"] for alert in right)
    assert min(met[turn] for turn in ("fired", "resolved", "superseded", "retracted")) > 0


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_alert_that_is_not_by_the_rules_is_found(counted: Counted, damage: str) -> None:
    """Missing, extra or different in any field: the check fails and names it."""
    fence = _counted(counted.store, SEED)
    right = len(told(judged_log(SEED)))
    statement, difference, sentence = DAMAGE[damage]
    counted.store.command(statement)

    check = check_alerts(counted.store, org="", fence=fence)

    assert (check.ok, check.expected, check.found) == (False, str(right), str(right + difference))
    assert sentence in check.detail


def test_one_org_alone_can_be_looked_at(counted: Counted) -> None:
    """Its alerts are judged as among all others, and damage of others is not its own."""
    fence = _counted(counted.store, SEED)
    right = Counter(alert["org"] for alert in told(judged_log(SEED)))
    assert min(right["acme"], right["zen"]) > 0
    counted.store.command("DELETE FROM alerts_rows WHERE org = 'zen'")

    acme, zen = (check_alerts(counted.store, org=org, fence=fence) for org in ("acme", "zen"))

    assert (acme.ok, acme.expected, acme.found) == (True, str(right["acme"]), str(right["acme"]))
    assert (zen.ok, zen.expected, zen.found) == (False, str(right["zen"]), "0")


def test_blocks_that_are_not_committed_are_not_judged(counted: Counted) -> None:
    """Neither what they would bring about nor what a worker that died left of them."""
    _counted(counted.store, SEED)
    (row,) = counted.store.rows("SELECT max(block) AS last FROM alerts_rows")
    counted.store.command("DELETE FROM alerts_rows WHERE block = {last:UInt64} AND sequence % 2", row)

    assert check_alerts(counted.store, org="", fence=Fence({0: row["last"]}, live=True)).ok
    assert not check_alerts(counted.store, org="", fence=Fence({0: row["last"] + 1}, live=True)).ok


def test_only_the_newest_facts_are_judged_and_that_is_said(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands before them is taken as it is."""
    monkeypatch.setattr("tally.alert_audit.ROWS_AT_ONCE", 2)
    limited = 0
    for seed in SEEDS:
        fence = _counted(counted.store, seed)

        check = check_alerts(counted.store, org="", fence=fence, facts_max=8)

        assert check.ok, check.detail
        limited += "Judged again: the newest 8 facts of partition 0." in check.detail
    assert limited


def test_without_rules_there_is_nothing_to_find(counted: Counted) -> None:
    """And an alert that stands there all the same is one too many."""
    fence = Fence({0: 10}, live=False)
    assert check_alerts(counted.store, org="", fence=fence).ok

    counted.alert({})

    check = check_alerts(counted.store, org="", fence=fence)
    assert (check.ok, check.expected, check.found) == (False, "0", "1")

"""`tally rules backtest` says what the workers would have said, or did say, for the same rules and events."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from clickhouse.counted_log import CountedLog
from pipeline.judging.alerts import alert_messages
from schemas.rules import RuleSet
from tests.audit.judged_books import count_into, emptied
from tests.pipeline.batches import NOON, Event
from tests.pipeline.judged_logs import blocks_of, judged_log, runs_of, sizes_of, told

if TYPE_CHECKING:
    from pathlib import Path

    from clickhouse.client import Store
    from tests.commands.conftest import Tally
    from tests.pipeline.judged_logs import Log
    from tests.reports.building import Counted

pytestmark = pytest.mark.servers

#: Logs in which alerts fire and are resolved.
SEEDS = (0, 8, 13)


def _rules_first(log: Log) -> Log:
    """The log under its first rules alone, with its corrections."""
    return [log[0], *(one for one in log if not isinstance(one, RuleSet))]


def _count(store: Store, log: Log, seed: int) -> None:
    count_into(emptied(store), runs_of(blocks_of(log, sizes_of(seed)), sizes_of(-seed)))


def _file(folder: Path, rules: RuleSet) -> str:
    """The rules as a person writes them: without revisions."""
    written = rules.model_dump(mode="json", exclude_defaults=True, exclude={"revision"})
    bare = [{name: value for name, value in rule.items() if name != "revision"} for rule in written["rules"]]
    path = folder / "rules.yaml"
    path.write_text(json.dumps({"rules": bare}), encoding="utf-8")
    return str(path)


def _live(store: Store) -> list[dict[str, Any]]:
    """What the workers said of acme, in the order of the log."""
    stored = CountedLog(store, 0, "acme").alerts(first=0, end=2**62)
    return [json.loads(value) for _, value in alert_messages(stored)]


def _name(alert: dict[str, Any]) -> tuple[str, int]:
    return alert["alert_id"], alert["sequence"]


def _backtest(tally: Tally, file: str, *arguments: str, form: str = "json") -> Any:
    return tally("rules", "backtest", file, "--org", "acme", *arguments, "--format", form)


@pytest.mark.parametrize("rows_at_once", [3, 50_000])
def test_rules_in_force_are_told_as_the_workers_told_them(
    counted: Counted, tally: Tally, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    """The very same transitions: ids, sequences, values, contributors."""
    monkeypatch.setattr("tally.backtest.ROWS_AT_ONCE", rows_at_once)
    turns: Counter[str] = Counter()
    for seed in SEEDS:
        log = _rules_first(judged_log(seed))
        assert isinstance(log[0], RuleSet)
        _count(counted.store, log, seed)

        answer = _backtest(tally, _file(tmp_path, log[0]), "--period", "total").json

        live = _live(counted.store)
        assert sorted(answer["alerts"], key=_name) == sorted(live, key=_name), f"seed {seed}"
        assert answer["rules"] == [
            {
                "rule": rule.id,
                **{
                    turn: sum((alert["rule"], alert["transition"]) == (rule.id, turn) for alert in live)
                    for turn in ("fired", "resolved")
                },
            }
            for rule in log[0].rules
        ]
        turns.update(alert["transition"] for alert in live)
    assert min(turns["fired"], turns["resolved"]) > 0


def test_rules_that_were_never_in_force_are_told_as_if_they_had_been(
    counted: Counted, tally: Tally, tmp_path: Path
) -> None:
    """By the model of alerts, in its order; a period narrows it down to the events in it."""
    within: Counter[bool] = Counter()
    for seed in SEEDS:
        log = _rules_first(judged_log(seed))
        assert isinstance(log[0], RuleSet)
        events = [one for one in log if isinstance(one, Event)]
        _count(counted.store, [*events], seed)
        right = told([log[0], *(event for event in events if event.org == "acme")])

        file = _file(tmp_path, log[0])
        whole = _backtest(tally, file, "--period", "total").json
        day = _backtest(tally, file, "--period", "2026-03-01").json

        assert whole["alerts"] == right, f"seed {seed}"
        of_day = [alert for alert in right if alert["crossed_by"]["time"].startswith("2026-03-01T")]
        assert day["alerts"] == of_day, f"seed {seed}"
        within.update({True: len(of_day), False: len(right) - len(of_day)})
    assert min(within[True], within[False]) > 0


@pytest.mark.parametrize("window", ["hour", "day", "week", "month"])
def test_a_period_in_the_middle_knows_what_came_before_it(
    counted: Counted, tally: Tally, tmp_path: Path, window: str
) -> None:
    """A window that began before the period is judged with all that is in it."""
    events = [
        Event(number, id=f"e{number}", time=NOON + timedelta(minutes=20 * number), api_key=f"key_{number % 3}")
        for number in range(90)
    ]
    _count(counted.store, [*events], 3)
    rules = RuleSet.model_validate(
        {
            "rules": [
                {"id": "spend", "scope": "project", "measure": "requests", "window": window, "thresholds": ["3", "50"]}
            ]
        }
    )
    right = told(
        [
            rules.model_copy(update={"revision": 1, "rules": (rules.rules[0].model_copy(update={"revision": 1}),)}),
            *events,
        ]
    )
    period = "2026-03-01T12:30Z/2026-03-02T14:30Z"

    answer = _backtest(tally, _file(tmp_path, rules), "--period", period).json

    assert answer["alerts"] == [
        alert for alert in right if "2026-03-01T12:30" <= alert["crossed_by"]["time"] < "2026-03-02T14:30"
    ]
    assert answer["alerts"]
    assert answer["period"] == {"start": "2026-03-01T12:30:00Z", "end": "2026-03-02T14:30:00Z"}


def test_a_person_and_a_spreadsheet_get_the_same(counted: Counted, tally: Tally, tmp_path: Path) -> None:
    """A line per transition and one per rule; CSV has the fields of `report alerts`."""
    log = _rules_first(judged_log(0))
    assert isinstance(log[0], RuleSet)
    _count(counted.store, log, 0)
    file = _file(tmp_path, log[0])

    told_json = _backtest(tally, file, "--period", "total").json
    table = _backtest(tally, file, "--period", "total", form="table")
    rows = list(csv.DictReader(io.StringIO(_backtest(tally, file, "--period", "total", form="csv").stdout)))

    assert (table.code, table.stderr) == (0, "")
    assert table.stdout.startswith("What these rules would have told of acme, all of time\n")
    fired = sum(rule["fired"] for rule in told_json["rules"])
    assert table.stdout.count(" fired ") == fired + 1  # the heading of the sums
    assert table.stdout.endswith(f"\n{len(told_json['alerts'])} transitions of 1 rule.\n")
    assert [row["alert_id"] for row in rows] == [alert["alert_id"] for alert in told_json["alerts"]]


def test_mistakes_in_the_file_are_told_as_a_check_tells_them(tally: Tally, tmp_path: Path) -> None:
    """Each on a line of its own with its place; without rules there is nothing to judge."""
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("rules:\n  - {id: a, scope: team, measure: cost, window: day, thresholds: ['1']}\n")
    check = tally("catalog", "check", str(wrong))
    prices = tmp_path / "prices.yaml"
    prices.write_text("prices: []\n")

    answer = _backtest(tally, str(wrong), "--period", "total")
    nothing = _backtest(tally, str(prices), "--period", "total")

    assert answer.code == check.code == 2
    assert answer.stderr.splitlines()[:-1] == check.stderr.splitlines()[:-1]
    assert answer.stderr.splitlines()[-1] == "tally: 1 mistake: nothing was judged."
    assert nothing.code == 2


def test_an_org_without_events_has_no_alerts(counted: Counted, tally: Tally, tmp_path: Path) -> None:
    """And its rules are listed all the same."""
    assert counted.store
    log = judged_log(0)
    assert isinstance(log[0], RuleSet)

    answer = _backtest(tally, _file(tmp_path, log[0]), "--period", "2026-03").json

    assert answer["alerts"] == []
    assert answer["rules"] == [{"rule": rule.id, "fired": 0, "resolved": 0} for rule in log[0].rules]

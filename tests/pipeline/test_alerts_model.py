"""The model of alerts, sentence by sentence of what was promised, so that it can be trusted to judge the judge."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import pytest

from schemas.published import Alert
from schemas.rules import Rule, Scope, alert_id
from tests.alerts_model import events_of, transitions
from tests.pipeline.batches import Event, make_batch

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)  # a Wednesday
MINUTE = timedelta(minutes=1)
_numbers = count()


def event(minute: float = 0, cost: str | None = "10", **said: Any) -> dict[str, Any]:
    """One event so many minutes after noon; of project checkout unless said otherwise."""
    ordinary = {
        "org": "acme",
        "source": "/gateway",
        "id": f"e{next(_numbers)}",
        "time": NOON + minute * MINUTE,
        "project": "checkout",
        "api_key": "key_1",
        "user": "",
        "operation": "llm.request",
        "model": "gpt",
        "status": "ok",
        "cost": None if cost is None else Decimal(cost),
        "pricing": "unpriced" if cost is None else "priced",
        "lines": [],
    }
    return ordinary | said


def rule(**said: Any) -> dict[str, Any]:
    """A rule on the cost of projects, as it is in force."""
    ordinary = {"id": "a", "revision": 1, "scope": "project", "measure": "cost", "window": "day"}
    limits = {} if {"below", "budget"} & set(said) else {"thresholds": (50,)}
    return Rule.model_validate({**ordinary, **limits, **said}).model_dump()


def alerts(*entries: dict[str, Any]) -> list[dict[str, Any]]:
    """The alerts of a log of single events and of ``{"rules": [...]}``; each is what the schema says."""
    log = [entry if "rules" in entry else {"events": [entry]} for entry in entries]
    said = transitions(log)
    for alert in said:
        Alert.model_validate(alert)
    names = [(alert["alert_id"], alert["sequence"]) for alert in said]
    assert len(set(names)) == len(names)
    return said


def brief(said: list[dict[str, Any]], *fields: str) -> list[tuple[Any, ...]]:
    """Some fields of each alert."""
    return [tuple(alert[field] for field in fields) for alert in said]


def what(said: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Transition, scope id, threshold and value (shortened) of each alert."""
    return [
        (alert["transition"], alert["scope"]["id"], alert["threshold"], Decimal(alert["value"]).normalize().__str__())
        for alert in said
    ]


def test_an_alert_says_what_the_contract_says() -> None:
    """Every field, of the event that carried the value to its threshold."""
    crossing = event(5, "20.000125", id="x", source="/s", api_key="key_2")

    (said,) = alerts({"rules": [rule(revision=3)]}, event(0, "30"), event(1, None), crossing)

    assert said == {
        "schema": "tally.alert.v1",
        "alert_id": alert_id(
            org="acme", rule="a", rule_revision=3, scope=Scope.PROJECT, scope_id="checkout",
            window_start=datetime(2026, 3, 4, tzinfo=UTC), threshold=Decimal(50),
        ),
        "sequence": 1,
        "transition": "fired",
        "rule": "a",
        "rule_revision": 3,
        "org": "acme",
        "scope": {"kind": "project", "id": "checkout"},
        "measure": "cost",
        "unit": "USD",
        "window": {"kind": "day", "start": "2026-03-04T00:00:00Z", "end": "2026-03-05T00:00:00Z"},
        "threshold": "50",
        "percent": None,
        "budget": None,
        "value": "50.000125000000",
        "highest": True,
        "crossed_by": {"source": "/s", "id": "x", "time": "2026-03-04T12:05:00.000000Z"},
        "top": [
            {"kind": "api_key", "id": "key_1", "value": "30.000000000000"},
            {"kind": "api_key", "id": "key_2", "value": "20.000125000000"},
        ],
        "completeness": {"unpriced": 1, "watermark": "2026-03-04T12:05:00.000000Z"},
    }  # fmt: skip


def test_crossing_means_at_or_above() -> None:
    """Exactly the threshold is enough, a trillionth less is not."""
    assert what(alerts({"rules": [rule()]}, event(cost="50"))) == [("fired", "checkout", "50", "5E+1")]
    assert alerts({"rules": [rule()]}, event(cost="49.999999999999")) == []


def test_below_means_strictly_under_once_min_requests_is_reached() -> None:
    """Half of the requests succeeding is not under a half, and one failure alone says nothing yet."""
    watched = rule(measure="success_rate", below=("0.5",), min_requests=4)
    failed: dict[str, Any] = {"status": "error"}

    assert alerts({"rules": [watched]}, event(**failed), event(**failed), event(**failed)) == []
    assert alerts({"rules": [watched]}, event(**failed), event(**failed), event(), event()) == []
    said = alerts({"rules": [watched]}, event(**failed), event(**failed), event(**failed), event())
    assert brief(said, "value", "unit") == [("0.250000000000", None)]


def test_a_step_over_several_thresholds_fires_all_ascending_and_the_top_is_the_highest() -> None:
    """One event, two alerts; the third threshold was not reached."""
    said = alerts({"rules": [rule(thresholds=(100, 10, 50))]}, event(cost="60"))

    assert brief(said, "threshold", "highest") == [("10", False), ("50", True)]


def test_a_calendar_rule_fires_once_per_window_and_threshold() -> None:
    """The next day it may fire again."""
    said = alerts({"rules": [rule()]}, event(cost="60"), event(1, "60"), event(24 * 60, "60"), event(24 * 60, "60"))

    assert [alert["window"]["start"] for alert in said] == ["2026-03-04T00:00:00Z", "2026-03-05T00:00:00Z"]


def test_a_late_event_can_fire_in_its_own_window() -> None:
    """It is named as the crossing event; the watermark is the org's newest time."""
    late = event(-24 * 60, "60", id="late")

    (said,) = alerts({"rules": [rule()]}, event(0, "1"), late)

    assert said["window"]["start"] == "2026-03-03T00:00:00Z"
    assert (said["crossed_by"]["id"], said["crossed_by"]["time"]) == ("late", "2026-03-03T12:00:00.000000Z")
    assert said["completeness"]["watermark"] == "2026-03-04T12:00:00.000000Z"


@pytest.mark.parametrize(
    ("window", "start", "end"),
    [
        ("hour", "2026-03-04T12:00:00Z", "2026-03-04T13:00:00Z"),
        ("day", "2026-03-04T00:00:00Z", "2026-03-05T00:00:00Z"),
        ("week", "2026-03-02T00:00:00Z", "2026-03-09T00:00:00Z"),
        ("month", "2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z"),
        ("total", None, None),
        ("5m", "2026-03-04T11:56:00Z", "2026-03-04T12:01:00Z"),
        ("15m", "2026-03-04T11:46:00Z", "2026-03-04T12:01:00Z"),
        ("1h", "2026-03-04T11:01:00Z", "2026-03-04T12:01:00Z"),
        ("6h", "2026-03-04T07:00:00Z", "2026-03-04T13:00:00Z"),
        ("24h", "2026-03-03T13:00:00Z", "2026-03-04T13:00:00Z"),
        ("7d", "2026-02-25T13:00:00Z", "2026-03-04T13:00:00Z"),
    ],
)
def test_windows_are_of_the_calendar_or_the_last_steps_with_the_unfinished_one(
    window: str, start: str | None, end: str | None
) -> None:
    """A week begins on Monday; the start is included, the end is not."""
    first = timedelta(0) if start is None else datetime.fromisoformat(start) - NOON
    inside = event(first / MINUTE, "25")
    outside = event(first / MINUTE - 0.001, "25")

    (said,) = alerts({"rules": [rule(window=window)]}, inside, event(0.5, "25"))

    assert said["window"] == {"kind": window, "start": start, "end": end}
    if start is not None:
        assert alerts({"rules": [rule(window=window)]}, outside, event(0.5, "25")) == []


@pytest.mark.parametrize("scope", list(Scope))
def test_each_scope_value_has_a_window_of_its_own_and_an_absent_one_has_none(scope: Scope) -> None:
    """A rule without `match` watches every value that occurs."""
    one, other, absent = event(), event(), event()
    one[scope], other[scope], absent[scope] = "one", "other", ""
    if scope is Scope.ORG:
        absent = event(org="third", cost="1")
    watched = rule(scope=scope, thresholds=(15,))

    said = alerts({"rules": [watched]}, one, other, absent, absent | {"id": "b"}, one | {"id": "c"})

    assert [(alert["scope"]["kind"], alert["scope"]["id"], alert["value"]) for alert in said] == [
        (scope.value, "one", "20.000000000000")
    ]


@pytest.mark.parametrize(
    ("said", "fires"),
    [
        ({"match": "*"}, True),
        ({"match": "check*"}, True),
        ({"match": "checkout"}, True),
        ({"match": "check"}, False),
        ({"match": "checkout2*"}, False),
        ({"org": "ac*"}, True),
        ({"org": "acm"}, False),
    ],
)
def test_match_and_org_say_who_is_watched(said: dict[str, str], fires: bool) -> None:  # noqa: FBT001
    """A star, the beginning and a star, or the exact id."""
    assert bool(alerts({"rules": [rule(**said)]}, event(cost="60"))) is fires


@pytest.mark.parametrize(
    ("measure", "value"),
    [
        ("cost", "5.500000000000"),
        ("requests", "3.000000000000"),
        ("failures", "1.000000000000"),
        ("tokens", "127.000000000000"),
        ("input_tokens", "120.000000000000"),
        ("output_tokens", "7.000000000000"),
        ("quantity:images", "0.500000000000"),
        ("quantity:reasoning_tokens", "5.000000000000"),
    ],
)
def test_a_measure_sums_what_its_name_says(measure: str, value: str) -> None:
    """An unpriced event costs nothing; a memo is no token, but can be asked for by its name."""
    lines = [
        {"meter": "input_tokens", "quantity": Decimal(120), "state": "billed"},
        {"meter": "output_tokens", "quantity": Decimal(7), "state": "unpriced"},
        {"meter": "reasoning_tokens", "quantity": Decimal(5), "state": "memo"},
        {"meter": "images", "quantity": Decimal("0.5"), "state": "ignored"},
    ]
    log = (event(cost="5.5", lines=lines, status="error"), event(cost=None), event(cost="0"))

    (said,) = alerts(*log, {"rules": [rule(measure=measure, thresholds=("0.1",))]})

    assert said["value"] == value


def test_a_percentage_is_of_the_budget() -> None:
    """Exactly, whatever its decimals; the alert says both."""
    watched = rule(budget="0.0000000001", percent=(33, 100))

    said = alerts({"rules": [watched]}, event(cost="0.000000000033"))

    assert brief(said, "threshold", "percent", "budget") == [("0.000000000033", 33, "0.0000000001")]


def test_a_rolling_rule_is_silent_while_it_fires_and_resolves_under_98_percent() -> None:
    """49 of 50 is not under it; a trillionth less is."""
    step = [event(0, "50"), event(2, "49"), event(5, "0"), event(7, "48.999999999999"), event(8, "0")]

    said = alerts({"rules": [rule(window="5m")]}, *step)

    assert what(said) == [
        ("fired", "checkout", "50", "5E+1"),
        ("resolved", "checkout", "50", "48.999999999999"),
    ]
    assert brief(said, "sequence", "highest") == [(1, True), (2, False)]
    assert said[0]["alert_id"] == said[1]["alert_id"]
    assert said[0]["window"] == said[1]["window"]  # the one at firing
    assert said[1]["crossed_by"]["id"] == step[3]["id"]


def test_a_rolling_rule_fires_again_in_another_window() -> None:
    """With another id, since the window starts elsewhere."""
    said = alerts({"rules": [rule(window="5m")]}, event(0, "60"), event(10, "1"), event(11, "60"))

    assert brief(said, "transition", "sequence") == [("fired", 1), ("resolved", 2), ("fired", 1)]
    assert len({alert["alert_id"] for alert in said}) == 2


def test_a_second_crossing_with_the_same_window_start_is_silent() -> None:
    """A success rate falls, rises and falls within one minute: told once; in the next minute it fires anew."""
    bad: dict[str, Any] = {"status": "error"}
    good: dict[str, Any] = {"status": "ok"}
    watched = rule(measure="success_rate", below=("0.5",), window="5m")
    in_a_minute = [event(0, **bad), event(0.1, **good), event(0.2, **bad), event(0.3, **bad)]

    said = alerts({"rules": [watched]}, *in_a_minute, event(1, **bad))

    assert brief(said, "transition", "sequence", "value") == [
        ("fired", 1, "0.000000000000"),
        ("resolved", 2, "0.500000000000"),
        ("fired", 1, "0.200000000000"),
    ]


def test_an_event_of_another_scope_resolves_what_its_step_has_moved_past_and_fires_nothing() -> None:
    """At the first event of the org that moves the window past it, and not before."""
    other: dict[str, Any] = {"project": "other", "cost": "0"}
    first, same_step, moves = event(0, "60"), event(0.9, **other), event(5, **other)

    said = alerts({"rules": [rule(window="5m")]}, first, same_step, event(4.9, **other), moves)

    assert what(said) == [("fired", "checkout", "50", "6E+1"), ("resolved", "checkout", "50", "0")]
    assert said[1]["crossed_by"]["id"] == moves["id"]
    assert said[1]["top"] == []


def test_an_empty_window_resolves_a_success_rate() -> None:
    """There is nothing left that fails."""
    watched = rule(measure="success_rate", below=("0.5",), window="5m")

    said = alerts({"rules": [watched]}, event(status="error"), event(9, project="other"))

    assert brief(said, "transition", "value") == [("fired", "0.000000000000"), ("resolved", "1.000000000000")]


def test_an_event_of_another_org_moves_nothing() -> None:
    """Each org has its own newest time."""
    said = alerts({"rules": [rule(window="5m")]}, event(0, "60"), event(60, "0", org="zen"))

    assert brief(said, "transition") == [("fired",)]


def test_a_late_event_counts_in_a_rolling_window_and_is_not_evaluated() -> None:
    """The next event of its scope that is not older finds it there; one of the same time is not older."""
    late = event(0, "60")
    seen = event(1, "0")

    assert alerts({"rules": [rule(window="5m")]}, event(1, "0"), late) == []
    (said,) = alerts({"rules": [rule(window="5m")]}, event(1, "0"), late, seen)
    assert said["crossed_by"]["id"] == seen["id"]


def test_two_rolling_thresholds_live_apart() -> None:
    """The upper one resolves while the lower one goes on."""
    said = alerts({"rules": [rule(window="5m", thresholds=(10, 50))]}, event(0, "30"), event(3, "30"), event(6, "0"))

    assert what(said) == [
        ("fired", "checkout", "10", "3E+1"),
        ("fired", "checkout", "50", "6E+1"),
        ("resolved", "checkout", "50", "3E+1"),
    ]


def test_a_new_rule_is_judged_at_once_on_live_windows() -> None:
    """Windows that hold the org's newest time, for scopes in order; crossed by the last event of scope and window."""
    log = [
        event(-24 * 60, "99", project="old"),
        event(1, "30", project="b"),
        event(2, "60", project="a"),
        event(1, "30", project="b"),
    ]  # the last one is late

    said = alerts(*log, {"rules": [rule()]})

    assert [(alert["scope"]["id"], alert["crossed_by"]["id"]) for alert in said] == [
        ("a", log[2]["id"]),
        ("b", log[3]["id"]),
    ]


def test_a_new_rolling_rule_is_judged_at_once_on_the_present_window() -> None:
    """It fires there, and its state goes on from there."""
    said = alerts(event(0, "60"), event(2, "0", project="b"), {"rules": [rule(window="5m")]}, event(5, "0"))

    assert what(said) == [("fired", "checkout", "50", "6E+1"), ("resolved", "checkout", "50", "0")]
    assert said[0]["window"]["end"] == "2026-03-04T12:03:00Z"


def test_a_changed_rule_supersedes_what_is_live_and_is_judged_anew() -> None:
    """The old one first, by what had crossed it; its value is the present one."""
    old, new = rule(revision=1), rule(revision=2, thresholds=(55,))
    crossing = event(0, "50")

    said = alerts({"rules": [old]}, crossing, event(1, "10"), {"rules": [new]})

    assert what(said) == [
        ("fired", "checkout", "50", "5E+1"),
        ("superseded", "checkout", "50", "6E+1"),
        ("fired", "checkout", "55", "6E+1"),
    ]
    assert brief(said, "sequence", "rule_revision") == [(1, 1), (2, 1), (1, 2)]
    assert said[1]["crossed_by"]["id"] == crossing["id"]


def test_a_removed_rule_is_superseded_only_where_its_window_is_live() -> None:
    """What fired yesterday stays as it was."""
    said = alerts({"rules": [rule()]}, event(-24 * 60, "60"), event(0, "60"), {"rules": []}, event(1, "60"))

    assert [(alert["transition"], alert["window"]["start"]) for alert in said] == [
        ("fired", "2026-03-03T00:00:00Z"),
        ("fired", "2026-03-04T00:00:00Z"),
        ("superseded", "2026-03-04T00:00:00Z"),
    ]


def test_a_resolved_alert_is_not_superseded() -> None:
    """A rolling one is, while it fires."""
    log = [{"rules": [rule(window="5m")]}, event(0, "60")]

    firing = alerts(*log, {"rules": []})
    resolved = alerts(*log, event(9, "0"), {"rules": []})

    assert brief(firing, "transition") == [("fired",), ("superseded",)]
    assert brief(resolved, "transition") == [("fired",), ("resolved",)]


def test_a_rule_that_keeps_its_revision_is_left_alone() -> None:
    """Whatever happens to its neighbours."""
    kept, neighbour = rule(), rule(id="b", revision=2)

    said = alerts({"rules": [kept]}, event(0, "60"), {"rules": [kept, neighbour]})

    assert brief(said, "rule", "transition") == [("a", "fired"), ("b", "fired")]


def test_a_share_is_of_the_cost_of_the_org() -> None:
    """Evaluated at the events of its own scope, from min_requests on; nothing has no share."""
    watched = rule(measure="share", thresholds=("0.6",), min_requests=2)
    log = [event(0, "0"), event(1, "60"), event(2, "40", project="b"), event(3, "0", project="b"), event(4, "0")]

    said = alerts({"rules": [watched]}, log[0] | {"id": "z"}, *log[2:])
    assert [(alert["scope"]["id"], alert["value"]) for alert in said] == [("b", "1.000000000000")]

    said = alerts({"rules": [watched]}, *log[2:], log[0], log[1])
    assert [(alert["scope"]["id"], alert["value"], alert["unit"]) for alert in said] == [
        ("b", "1.000000000000", None),
        ("checkout", "0.600000000000", None),
    ]


def test_a_share_is_compared_exactly_and_written_with_twelve_decimals() -> None:
    """Two thirds are not yet 0.666666666667."""
    log = [event(0, "1", project="b"), event(1, "2")]
    just_over, just_under = (
        rule(measure="share", thresholds=("0.666666666667",)),
        rule(measure="share", thresholds=("0.666666666666",)),
    )

    assert alerts(*log, {"rules": [just_over]}) == []
    assert brief(alerts(*log, {"rules": [just_under]}), "value") == [("0.666666666667",)]


def test_a_projected_cost_follows_the_run_rate_once_a_tenth_has_passed() -> None:
    """At noon half of the day has passed, so what was spent doubles; the alert says how."""
    watched = rule(measure="projected", thresholds=(100,))

    assert alerts({"rules": [watched]}, event(-11 * 60, "40")) == []  # 1 of 24 hours
    (said,) = alerts({"rules": [watched]}, event(-11 * 60, "40"), event(0, "10"))
    assert (said["value"], said["unit"]) == ("100.000000000000", "USD")
    assert "window length / elapsed" in said["method"]


def test_a_late_event_projects_a_past_window_to_what_it_cost() -> None:
    """All of it has passed."""
    watched = rule(measure="projected", thresholds=(100,))

    assert alerts({"rules": [watched]}, event(0, "1"), event(-24 * 60, "99")) == []
    (said,) = alerts({"rules": [watched]}, event(0, "1"), event(-24 * 60, "100"))
    assert said["value"] == "100.000000000000"


@pytest.mark.parametrize(
    ("scope", "kind"),
    [
        ("org", "project"),
        ("project", "api_key"),
        ("api_key", "model"),
        ("model", "api_key"),
        ("user", "api_key"),
        ("operation", "project"),
    ],
)
def test_the_top_are_the_five_largest_contributors(scope: str, kind: str) -> None:
    """Largest first, then by id; neither zero nor the absent one is named."""
    ids = ["f", "a", "b", "c", "d", "e", "zero", ""]
    costs = ["9", "1", "1", "7", "1", "1", "0", "5"]
    log = [event(0, cost, user="u") | {kind: name} for name, cost in zip(ids, costs, strict=True)]

    (said,) = alerts(*log, {"rules": [rule(scope=scope, thresholds=(20,))]})

    assert [(lane["kind"], lane["id"]) for lane in said["top"]] == [(kind, name) for name in "fcabd"]


def test_the_top_of_a_success_rate_are_those_that_fail() -> None:
    """Not those that cost."""
    watched = rule(measure="success_rate", below=("1",))

    (said,) = alerts({"rules": [watched]}, event(api_key="good"), event(api_key="bad", status="error"))

    assert said["top"] == [{"kind": "api_key", "id": "bad", "value": "1.000000000000"}]


def test_the_events_of_a_batch_are_read_with_their_lines() -> None:
    """What the stages hand on becomes what the model takes."""
    said = events_of(make_batch([Event(), Event(usage=(("reasoning_tokens", Decimal(3)),))]))

    assert [one["lines"] for one in said] == [
        [{"meter": "input_tokens", "quantity": Decimal(10), "state": "billed"}],
        [{"meter": "reasoning_tokens", "quantity": Decimal(3), "state": "memo"}],
    ]
    assert (said[0]["org"], said[0]["cost"], said[1]["cost"]) == ("acme", Decimal("1.5"), None)


def test_the_end_of_a_window_belongs_to_the_next_one() -> None:
    """Midnight is a new day."""
    log = [event(11 * 60, "30"), event(12 * 60, "30"), event(12 * 60, "30"), event(11 * 60, "0")]

    said = alerts({"rules": [rule()]}, *log)

    assert [(alert["window"]["start"], alert["value"]) for alert in said] == [
        ("2026-03-05T00:00:00Z", "60.000000000000")
    ]


def test_a_cost_is_projected_from_exactly_a_tenth_of_the_window_on() -> None:
    """That is 02:24 of a day, not a microsecond before."""
    tenth = -12 * 60 + 2 * 60 + 24
    watched = rule(measure="projected", thresholds=(100,))
    just_before = event(tenth) | {"time": NOON + tenth * MINUTE - timedelta(microseconds=1)}

    assert alerts({"rules": [watched]}, just_before) == []
    assert brief(alerts({"rules": [watched]}, event(tenth)), "value") == [("100.000000000000",)]


def test_a_late_event_moves_no_window() -> None:
    """It lowers the share of another, which is looked at only when the window moves."""
    watched = rule(measure="share", window="5m", thresholds=("0.9",))
    late = event(-1, "100", project="b")

    log = [{"rules": [watched]}, event(0, "10"), late]

    assert brief(alerts(*log), "transition") == [("fired",)]
    assert brief(alerts(*log, event(1, "0", project="b")), "transition") == [("fired",), ("resolved",), ("fired",)]


def test_new_rules_are_judged_by_id_and_scope_values_in_order() -> None:
    """Whatever the order in which rules stand or values first occurred."""
    values = "hgfedcba"
    log = [event(0, "60", project=value) for value in values]

    said = alerts(*log, {"rules": [rule(id="z"), rule(id="b")]})

    assert [(alert["rule"], alert["scope"]["id"]) for alert in said] == [
        (name, value) for name in ("b", "z") for value in sorted(values)
    ]

"""Alerts on the real thing: rules that a short load reaches, and a comparison with the independent model.

What must be alerted follows from ``usage.priced`` alone, so the topic is read back and given to the model
(``tests/alerts_model.py``): of every identity the first event, and the control blocks at their places.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pipeline.block import CONTROL_HEADER, Block, decode_blocks
from pipeline.route import take
from schemas.alerting import InForce
from tests.alerts_model import events_of, transitions
from tests.system.views import messages, rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from schemas.rules import RuleSet
    from schemas.topics import Topics
    from tests.system.oracle import Differences

#: The orgs that the rules watch: large enough to fire often, small enough for a model that sums everything anew.
WATCHED: Final = ("org-5", "org-7")

_KEPT: Final = """
  - {id: cost-of-day, scope: org, org: org-5, measure: cost, window: day,
      thresholds: ["0.01", "0.05", "0.1", "0.5", "1", "2", "4", "8", "16", "32", "64"]}
  - {id: burst, scope: project, org: org-7, measure: requests, window: 5m, thresholds: [2, 5, 10, 20, 40, 80, 160]}
  - {id: errors, scope: api_key, org: org-5, measure: success_rate, window: total, below: ["0.97", "0.9", "0.8"],
      min_requests: 5}
"""
RULES: Final = f"""
rule_set: default
rules: {_KEPT}
  - {{id: key-requests, scope: api_key, org: org-5, measure: requests, window: hour, thresholds: [1, 3, 6, 12, 24, 48]}}
  - {{id: key-total, scope: api_key, org: org-7, measure: cost, window: total, thresholds: ["0.001", "0.02", "0.3"]}}
"""
#: One rule is kept to the letter by each part of it, one changes, one goes, one comes.
EDITED_RULES: Final = f"""
rule_set: default
rules: {_KEPT}
  - {{id: key-requests, scope: api_key, org: org-5, measure: requests, window: hour, thresholds: [2, 4, 8, 16, 32, 64]}}
  - {{id: project-requests, scope: project, org: org-7, measure: requests, window: total, thresholds: [1, 7, 20, 90]}}
"""

Name = tuple[str, int]
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def check_alerts(found: Differences, *, bootstrap: str, store_url: str, topics: Topics) -> list[dict[str, Any]]:
    """Adds everything in which the view and the topics differ from the model, and gives what the model says."""
    must = expected_alerts(bootstrap, topics.priced)
    _compare(_by_name(must), stored_alerts(store_url), found, where="alerts")
    check_published(found, must, bootstrap=bootstrap, topics=topics)
    return must


def check_published(found: Differences, must: Sequence[dict[str, Any]], *, bootstrap: str, topics: Topics) -> None:
    """Adds everything in which ``usage.alerts`` and ``usage.alerts.state`` differ from these transitions."""
    right = _by_name(must)
    published: dict[Name, dict[str, Any]] = {}
    for key, alert in _messages(bootstrap, topics.alerts):
        if published.setdefault(_name(alert), alert) != alert:
            found.add("usage.alerts: one name says two things", f"{published[_name(alert)]} and {alert}")
        if key != alert["alert_id"]:
            found.add("usage.alerts: wrong key", f"{key} of {alert}")
    _compare(right, published.values(), found, where="usage.alerts")
    kept = dict(_messages(bootstrap, topics.alerts_state))
    latest = dict(sorted(right))
    for key, alert in kept.items():
        if right.get(_name(alert)) != alert or key != alert["alert_id"]:
            found.add("usage.alerts.state: wrong", f"{key}: {alert}")
        elif alert["sequence"] != latest[key]:
            found.add("usage.alerts.state: behind", f"{key}: {alert}")
    for alert_id in {alert["alert_id"] for alert in must} - set(kept):
        found.add("usage.alerts.state: missing", alert_id)


def stored_alerts(store_url: str) -> list[dict[str, Any]]:
    """The rows of the view ``alerts`` in the words of ``usage.alerts``."""
    return [_of_view(row) for row in rows(store_url, _ALERTS)]


def expected_alerts(bootstrap: str, topic: str) -> list[dict[str, Any]]:
    """What the model says of all partitions of the log."""
    log: dict[int, list[Block]] = {}
    for message in messages(bootstrap, topic):
        is_control = any(name == CONTROL_HEADER for name, _ in message.headers() or ())
        block = Block(message.partition(), message.offset(), message.timestamp()[1], message.value(), is_control)
        log.setdefault(block.partition, []).append(block)
    said: list[dict[str, Any]] = []
    for _, blocks in sorted(log.items()):
        said += transitions(_entries(sorted(blocks, key=lambda block: block.offset)))
    return said


def _entries(blocks: Sequence[Block]) -> list[dict[str, Any]]:
    """A partition as the model reads it; events of orgs that no rule watches change nothing and are left out."""
    entries: list[dict[str, Any]] = []
    in_force: dict[str, RuleSet] = {}
    seen: set[tuple[str, str, str]] = set()
    for block in blocks:
        if block.control:
            for name, announced in InForce.from_json(block.value).rule_sets.items():
                if name not in in_force or announced.revision > in_force[name].revision:
                    in_force[name] = announced
            entries.append({"rules": [rule.model_dump() for own in in_force.values() for rule in own.rules]})
            continue
        batch = decode_blocks([block])
        watched = np.flatnonzero(batch.events.get_column("org").is_in(WATCHED).to_numpy())
        events = []
        for event in events_of(take(batch, watched)):
            identity = event["org"], event["source"], event["id"]
            if identity not in seen:
                seen.add(identity)
                events.append(event)
        entries.append({"events": events})
    return entries


def _name(alert: dict[str, Any]) -> Name:
    return alert["alert_id"], alert["sequence"]


def _by_name(alerts: Iterable[dict[str, Any]]) -> dict[Name, dict[str, Any]]:
    return {_name(alert): alert for alert in alerts}


def _messages(bootstrap: str, topic: str) -> list[tuple[str, dict[str, Any]]]:
    return [(message.key().decode(), json.loads(message.value())) for message in messages(bootstrap, topic)]


def _compare(
    right: dict[Name, dict[str, Any]], alerts: Iterable[dict[str, Any]], found: Differences, *, where: str
) -> None:
    there: dict[Name, dict[str, Any]] = {}
    for alert in alerts:
        if _name(alert) in there:
            found.add(f"{where}: doubled", f"{alert} beside {there[_name(alert)]}")
        there[_name(alert)] = alert
    for name, alert in right.items():
        if name not in there:
            found.add(f"{where}: missing", str(alert))
        elif there[name] != alert:
            found.add(f"{where}: wrong", f"{there[name]}, not {alert}")
    for name in there.keys() - right.keys():
        found.add(f"{where}: surplus", str(there[name]))


_ALERTS: Final = """
SELECT alert_id, sequence, transition, rule, rule_revision, org, scope, scope_id, measure, unit,
    window, toUnixTimestamp64Micro(window_start), toUnixTimestamp64Micro(window_end),
    toString(threshold), toString(percent), toString(budget), toString(value), highest,
    crossed_source, crossed_id, toUnixTimestamp64Micro(crossed_time),
    top_kinds, top_ids, arrayMap(value -> toString(value), top_values),
    toUInt32(unpriced), toUnixTimestamp64Micro(watermark), method
FROM alerts
"""


def _of_view(row: list[Any]) -> dict[str, Any]:
    """A row of the view in the words of ``usage.alerts``."""
    tops = zip(row[21], row[22], row[23], strict=True)
    method = {"method": row[26]} if row[26] else {}
    return {
        "schema": "tally.alert.v1",
        "alert_id": row[0],
        "sequence": int(row[1]),
        "transition": row[2],
        "rule": row[3],
        "rule_revision": int(row[4]),
        "org": row[5],
        "scope": {"kind": row[6], "id": row[7]},
        "measure": row[8],
        "unit": row[9] or None,
        "window": {"kind": row[10], "start": _second(row[11]), "end": _second(row[12])},
        "threshold": _plain(row[13]),
        "percent": None if row[14] is None else int(Decimal(row[14])),
        "budget": _plain(row[15]),
        "value": f"{Decimal(row[16]):.12f}",
        "highest": bool(row[17]),
        "crossed_by": {"source": row[18], "id": row[19], "time": _instant(row[20])},
        "top": [{"kind": kind, "id": lane, "value": f"{Decimal(value):.12f}"} for kind, lane, value in tops],
        "completeness": {"unpriced": int(row[24]), "watermark": _instant(row[25])},
        **method,
    }


def _plain(text: str | None) -> str | None:
    if text is None:
        return None
    return text.rstrip("0").rstrip(".") if "." in text else text


def _second(microseconds: str | int | None) -> str | None:
    return None if microseconds is None else f"{_moment(microseconds):%Y-%m-%dT%H:%M:%SZ}"


def _instant(microseconds: str | int) -> str:
    return f"{_moment(microseconds):%Y-%m-%dT%H:%M:%S.%fZ}"


def _moment(microseconds: str | int) -> datetime:
    return _EPOCH + timedelta(microseconds=int(microseconds))

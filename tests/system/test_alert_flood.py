"""A flood: a rule that every key reaches at the same time. It is told in full, and stops nothing else."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import pytest
import urllib3
from confluent_kafka import Producer

from schemas.rules import Scope, alert_id
from tests.system.alerting import check_published, stored_alerts
from tests.system.installation import Installation, Worker
from tests.system.oracle import Differences
from tests.system.views import rows

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.servers

KEYS: Final = 20_000
#: Of every ten events one is of another org, in any partition of the log; no rule watches these.
CALM_ORGS: Final = tuple(f"calm-{number}" for number in range(20))
CALM_EVENTS: Final = 2_000
RULES: Final = """
rule_set: default
rules:
  - {id: first-use, scope: api_key, org: flooded, measure: requests, window: day, thresholds: [1]}
"""
#: All in one day, and no event too old.
WHEN: Final = datetime.now(UTC).replace(hour=0, minute=1, second=0, microsecond=0) - timedelta(days=1)


@pytest.fixture
def installed(tmp_path: Path, broker: str, database: str, topic_prefix: str) -> Installation:
    """Topics, tables and the rule of one's own on the shared servers; slowness puts no worker out of its group."""
    patience = {"TALLY_SESSION_TIMEOUT_SECONDS": "60"}
    installation = Installation(tmp_path, broker, database, topic_prefix, topic_prefix.rstrip("."), patience)
    installation.set_up(catalog=RULES)
    return installation


def test_a_flood_is_published_counted_and_reported_while_others_are_counted(installed: Installation) -> None:
    """Each key's alert is in the topic, the view, the metric and the report, once; no event of any org is left out."""
    with Worker(installed, "worker") as worker, urllib3.PoolManager() as pages:
        url = str(worker.wait_until_ready()["metrics"])
        _flood(installed)
        installed.done("drain", "--timeout", "120")
        metrics = pages.request("GET", url).data.decode()
        batches = worker.lines("batch_counted")
        assert worker.server.stop() == 0

    found = Differences()
    stored = stored_alerts(installed.store_url)
    check_published(found, stored, bootstrap=installed.bootstrap, topics=installed.topics)
    assert not found, str(found)
    assert {(alert["alert_id"], alert["sequence"]) for alert in stored} == {(_id(key), 1) for key in range(KEYS)}
    assert len(stored) == KEYS
    assert f'tally_alerts_total{{transition="fired"}} {float(KEYS)}' in metrics
    assert sum(line["alerts"] for line in batches) == KEYS

    document = json.loads(installed.done("report", "alerts", "--org", "flooded", "--format", "json"))
    assert _by_id(document["alerts"]) == _by_id(stored)
    counted = "SELECT org = 'flooded', toUInt32(sum(requests)) FROM totals_hourly GROUP BY 1 ORDER BY 1"
    assert list(rows(installed.store_url, counted)) == [[0, CALM_EVENTS], [1, KEYS]]
    installed.done("audit")


def _flood(installed: Installation) -> None:
    """One event of each key, and others of other orgs between them."""
    producer = Producer({"bootstrap.servers": installed.bootstrap, "linger.ms": 20, "log_level": 2})
    for number in range(KEYS):
        producer.produce(installed.topics.events, _event("flooded", number, api_key=f"key-{number}"))
        if number % (KEYS // CALM_EVENTS) == 0:
            producer.produce(installed.topics.events, _event(CALM_ORGS[number // 10 % len(CALM_ORGS)], number))
        producer.poll(0)
    assert not producer.flush(60)


def _event(org: str, number: int, *, api_key: str = "key") -> bytes:
    when = WHEN + timedelta(seconds=number)
    fields: dict[str, Any] = {
        "specversion": "1.0",
        "id": f"{org}-{number}",
        "source": "/test",
        "type": "lookup",
        "subject": org,
        "time": when.isoformat(),
        "data": {"project": f"p-{number % 7}", "api_key": api_key},
    }
    return json.dumps(fields).encode()


def _id(key: int) -> str:
    """The id that the alert of a key must have."""
    return alert_id(
        org="flooded", rule="first-use", rule_revision=1, scope=Scope.API_KEY, scope_id=f"key-{key}",
        window_start=WHEN.replace(minute=0), threshold=Decimal(1),
    )  # fmt: skip


def _by_id(alerts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(alerts, key=lambda alert: str(alert["alert_id"]))

"""`tally audit` on a real installation: a real log with transactions, a real worker, a real store."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import urllib3
from confluent_kafka import Producer

from tally.settings import Settings
from tests.commands.log import commit, delete_topics, produce_keyed, records
from tests.system.installation import Installation, Worker, wait_until
from tests.system.prices import BOOK
from tests.system.views import rows

if TYPE_CHECKING:
    from pathlib import Path
    from subprocess import CompletedProcess

pytestmark = pytest.mark.servers

RULES = """
rules:
  - {id: requests, scope: project, measure: requests, window: total, thresholds: [1, 10, 50]}
  - {id: hours, scope: org, measure: requests, window: hour, thresholds: [1, 5]}
"""
EVENTS = 300
COMMITTED, ABORTED = 5, 7
ALERT_CHECKS = {"alerts_published", "alerts_state_is_latest"}


def _event(number: int) -> dict[str, Any]:
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3600 * (number % 30)))
    data = {"project": f"p{number % 3}", "api_key": "key_1", "status": "error" if number % 10 == 0 else "ok"}
    return {
        "specversion": "1.0",
        "id": f"id-{number}",
        "source": "/s",
        "subject": f"org-{number % 2}",
        "type": "lookup",
        "time": moment,
        "data": data,
    }


@pytest.fixture
def installation(tmp_path: Path, broker: str, database: str, topic_prefix: str) -> Installation:
    """Prices and rules in force, and events sent: some twice, some refused, some in transactions, some aborted."""
    own = Installation(tmp_path, broker, database, prefix=topic_prefix, app_id=topic_prefix.rstrip("."))
    own.set_up(catalog=BOOK + RULES, partitions=2)
    lines = [json.dumps(_event(number)) for number in (*range(EVENTS), *range(10))]
    path = tmp_path / "events.ndjson"
    path.write_text("\n".join([*lines, "garbage", json.dumps([_event(1), _event(-1), {}])]) + "\n", encoding="utf-8")
    own.done("send", str(path))
    producer = Producer({"bootstrap.servers": broker, "transactional.id": topic_prefix, "log_level": 2})
    producer.init_transactions(60)
    for count, end in ((COMMITTED, producer.commit_transaction), (ABORTED, producer.abort_transaction)):
        producer.begin_transaction()
        for number in range(count):
            event = json.dumps(_event(EVENTS + number if count == COMMITTED else 1_000 + number))
            producer.produce(own.topics.events, event.encode(), partition=number % 2)
        producer.flush(60)
        end(60)
    return own


def _audit(installation: Installation, *arguments: str) -> tuple[int, dict[str, Any], str]:
    answer: CompletedProcess[str] = installation.tally("audit", *arguments, "--format", "json")
    return answer.returncode, json.loads(answer.stdout) if answer.stdout else {}, answer.stderr


def _by_name(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {check["check"]: check for check in found["checks"]}


def _stored_alerts(installation: Installation) -> str:
    ((number,),) = rows(installation.store_url, "SELECT toString(count()) FROM alerts")
    return str(number)


def _statement(installation: Installation, sql: str) -> None:
    server, _, database = installation.store_url.rpartition("/")
    with urllib3.PoolManager() as pool:
        answer = pool.request("POST", f"{server}/?database={database}", body=sql)
    assert answer.status == 200, answer.data


def test_a_running_installation_balances_and_is_not_healed(installation: Installation) -> None:
    """Aborted records and markers are no records; totals are not rebuilt under a worker's hands."""
    with Worker(installation, "worker") as worker:
        worker.server.wait_until_ready()
        installation.done("drain", "--timeout", "120")
        code, found, _ = _audit(installation)
        refused, nothing, sentence = _audit(installation, "--heal")
        summary = json.loads(installation.done("report", "summary", "--org", "org-0", "--format", "json"))

    records = EVENTS + 10 + 2 + COMMITTED
    checks = _by_name(found)
    assert (code, found["balanced"]) == (0, True)
    assert checks["raw_records_accounted_for"]["found"] == str(records)
    assert checks["counted_once"]["found"] == str(EVENTS + COMMITTED + 1)
    assert {name: checks[name]["found"] for name in ALERT_CHECKS} == {
        "alerts_published": _stored_alerts(installation), "alerts_state_is_latest": _stored_alerts(installation),
    }  # fmt: skip
    assert (refused, nothing) == (2, {})
    assert "1 worker is running, so totals can't be rebuilt" in sentence
    assert summary["completeness"]["lag"] == 0


def test_an_alert_that_a_worker_has_stored_and_not_published_yet_is_no_difference(installation: Installation) -> None:
    """Its block is not committed; once it is, the message must be there."""
    patient = replace(installation, settings={"TALLY_SESSION_TIMEOUT_SECONDS": "60"})
    goes_on = installation.folder / "go-on"
    with Worker(patient, "held", entry=("-m", "tests.system.held_worker", str(goes_on))) as worker:
        worker.wait_until_ready()
        wait_until(lambda: _stored_alerts(installation) != "0", what="alerts are stored")
        code, between, _ = _audit(installation, "--timeout", "0")
        stored = _stored_alerts(installation)
        goes_on.touch()
        installation.done("drain", "--timeout", "120")
        after = _audit(installation)
        assert worker.server.stop() == 0

    assert (code, stored != "0") == (1, True)
    assert [check["check"] for check in between["checks"] if not check["ok"]] == ["priced_blocks_counted"]
    assert {_by_name(between)[name]["found"] for name in ALERT_CHECKS} == {"0"}
    assert (after[0], _by_name(after[1])["alerts_published"]["found"]) == (0, _stored_alerts(installation))


def test_what_is_missing_is_published_again_as_the_audit_advises(installation: Installation) -> None:
    """A lost topic and an overwritten state: named, with exit 1; going back to the blocks that it names mends both."""
    topics = installation.topics
    with Worker(installation, "worker") as worker:
        worker.wait_until_ready()
        installation.done("drain", "--timeout", "120")
        assert worker.server.stop() == 0
    settings = Settings(kafka_bootstrap=installation.bootstrap, topic_prefix=topics.prefix, app_id=installation.app_id)
    (told, *_) = records(settings, topics.alerts_state)
    produce_keyed(settings, topics.alerts_state, [(told.key.decode(), told.value.replace(b'"fired"', b'"burnt"'))])
    delete_topics(settings, topics.alerts)
    installation.done("migrate")

    code, found, sentence = _audit(installation)
    wrong = {check["check"]: check for check in found["checks"] if not check["ok"]}
    advice = wrong["alerts_published"]["detail"] + wrong["alerts_state_is_latest"]["detail"]
    blocks: dict[int, int] = {}
    for partition, block in re.findall(rf"{re.escape(topics.priced)}/(\d+) to (\d+)", advice):
        blocks[int(partition)] = min(int(block), blocks.get(int(partition), int(block)))
    commit(settings, topics.priced, blocks)
    with Worker(installation, "again") as worker:
        worker.wait_until_ready()
        installation.done("drain", "--timeout", "120")
        assert worker.server.stop() == 0
    after = _audit(installation)

    stored = _stored_alerts(installation)
    assert (code, set(wrong)) == (1, ALERT_CHECKS)
    assert "The books do not balance: alerts_published (expected " in sentence
    assert (wrong["alerts_published"]["expected"], wrong["alerts_published"]["found"]) == (stored, "0")
    assert f"{topics.alerts_state} is not what is stored (1 changed): {topics.alerts_state}/" in advice
    assert (after[0], after[1]["balanced"]) == (0, True)


def test_a_stopped_installation_is_healed(installation: Installation) -> None:
    """Damaged totals are found, with exit 1 and both figures, and rebuilt; what was not read yet is no difference."""
    with Worker(installation, "worker") as worker:
        worker.server.wait_until_ready()
        installation.done("drain", "--timeout", "120")
        assert worker.server.stop() == 0
    _statement(
        installation,
        "INSERT INTO totals_rows SELECT * REPLACE (cost + 1 AS cost) FROM totals_rows FINAL WHERE project = 'p1'",
    )
    _statement(installation, "DELETE FROM totals_rows WHERE project = 'p2'")
    later = installation.folder / "later.ndjson"
    later.write_text(json.dumps(_event(-2)) + "\n", encoding="utf-8")
    installation.done("send", str(later))

    code, found, sentence = _audit(installation)
    healed = _audit(installation, "--heal")
    after = _audit(installation)
    summary = json.loads(installation.done("report", "summary", "--org", "org-0", "--format", "json"))

    wrong = {check["check"]: (check["expected"], check["found"]) for check in found["checks"] if not check["ok"]}
    assert (code, found["balanced"]) == (1, False)
    assert wrong.keys() == {"totals_equal_facts", "totals_not_behind"}
    assert all(expected != figure for expected, figure in wrong.values())
    assert sentence.startswith("tally: The books do not balance: totals_equal_facts (expected ")
    assert (healed[0], healed[1]["balanced"]) == (0, True)
    assert (after[0], after[1]["balanced"]) == (0, True)
    assert summary["completeness"]["lag"] == 1


def test_a_worker_shows_what_is_wrong_with_the_newest_books(installation: Installation) -> None:
    """Both gauges are 0, and say what `tally audit` says once a fact is lost and a total is wrong; counting goes on."""
    audits_often = replace(installation, settings={"TALLY_AUDIT_SECONDS": "0.5"})
    with Worker(audits_often, "worker") as worker:
        metrics = str(worker.wait_until_ready()["metrics"])
        installation.done("drain", "--timeout", "120")
        wait_until(lambda: _gauges(metrics)["last_audit_timestamp_seconds"] > 0, what="an audit")
        before = _gauges(metrics)
        _statement(installation, "DELETE FROM facts_rows WHERE id = 'id-7'")
        _statement(
            installation,
            "INSERT INTO totals_rows SELECT * REPLACE (cost + 0.25 AS cost) FROM totals_rows FINAL "
            "ORDER BY hour, org, project LIMIT 1",
        )
        wait_until(lambda: _gauges(metrics)["unaccounted_events"] > 0, what="the lost fact is seen")
        wait_until(lambda: _gauges(metrics)["drift_cost"] > 0.25, what="the wrong total is seen")
        _, found, _ = _audit(installation)
        assert worker.server.stop() == 0
        lines = worker.lines("books_audited")

    assert (before["unaccounted_events"], before["drift_cost"]) == (0, 0)
    assert (found["unaccounted_events"], Decimal(found["drift_cost"])) == (1, Decimal("0.289"))
    assert {name: lines[-1][name] for name in ("balanced", "unaccounted_events", "level")} == {
        "balanced": False, "unaccounted_events": 1, "level": "error",
    }  # fmt: skip
    assert Decimal(lines[-1]["drift_cost"]) == Decimal("0.289")


def _gauges(url: str) -> dict[str, float]:
    with urllib3.PoolManager() as pool:
        lines = pool.request("GET", url).data.decode().splitlines()
    return {
        name.removeprefix("tally_"): float(value)
        for name, _, value in (line.partition(" ") for line in lines)
        if name in {"tally_unaccounted_events", "tally_drift_cost", "tally_last_audit_timestamp_seconds"}
    }


def test_kafka_being_away_is_exit_3(installation: Installation) -> None:
    """Without the log nothing can be proved."""
    away = Installation(installation.folder, "127.0.0.1:9", installation.store_url)

    code, found, sentence = _audit(away)

    assert (code, found) == (3, {})
    assert sentence.startswith("tally: Kafka at 127.0.0.1:9 can't be reached")

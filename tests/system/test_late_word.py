"""A worker that slept between storing an alert and publishing it: what it says late is not the last word."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import pytest
from confluent_kafka import Producer

from tests.system.installation import Installation, Worker, wait_until
from tests.system.views import messages, rows

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.servers

RULES: Final = "rule_set: default\nrules:\n  - {{id: first, scope: org, measure: requests, window: total, {limits}}}\n"
EVENT: Final = {
    "specversion": "1.0", "id": "e-1", "source": "/late", "type": "lookup", "subject": "acme",
    "time": datetime.now(UTC).isoformat(),
    "data": {"project": "checkout", "api_key": "key_1", "status": "ok", "usage": {"lookups": 1}},
}  # fmt: skip


@pytest.fixture
def installed(tmp_path: Path, broker: str, database: str, topic_prefix: str) -> Installation:
    """One rule in force, and one event that fires it."""
    installation = Installation(tmp_path, broker, database, topic_prefix, topic_prefix.rstrip("."))
    installation.set_up(catalog=RULES.format(limits="thresholds: [1]"), partitions=1)
    producer = Producer({"bootstrap.servers": broker, "log_level": 2})
    producer.produce(installation.topics.events, json.dumps(EVENT))
    assert producer.flush(30) == 0
    return installation


def test_what_a_worker_says_after_it_slept_is_not_the_last_word(installed: Installation) -> None:
    """The next owner has ended the alert meanwhile; a reader who begins with the state must not find it fired."""
    go_on = installed.folder / "go-on"
    with Worker(installed, "sleeper", entry=("-m", "tests.system.held_worker", str(go_on))) as sleeper:
        sleeper.wait_until_ready()
        wait_until(lambda: _stored(installed) == ["fired"], what="the sleeper stored the alert")
        sleeper.signal(signal.SIGSTOP)
        with Worker(installed, "next") as following:
            following.wait_until_ready()
            installed.apply(RULES.format(limits="thresholds: [2]"))
            wait_until(lambda: _said(installed)[-1:] == ["superseded"], what="the next owner ended the alert")
            before = len(_said(installed))
            go_on.touch()
            sleeper.signal(signal.SIGCONT)
            wait_until(lambda: len(_said(installed)) > before, what="the sleeper said what it had to say")
            wait_until(lambda: _said(installed)[-1] == "superseded", what="the last word is the right one again")
            late = _said(installed)[before:]
            installed.done("drain", "--timeout", "120")
            installed.done("audit")
            assert following.server.stop() == 0

    assert late[0] == "fired", "the sleeper was not late: the test proves nothing"
    assert _stored(installed) == ["fired", "superseded"]


def _stored(installed: Installation) -> list[str]:
    sql = "SELECT transition FROM alerts ORDER BY sequence"
    return [transition for (transition,) in rows(installed.store_url, sql)]


def _said(installed: Installation) -> list[str]:
    """The transitions in ``usage.alerts.state``, in their order, as nothing is compacted yet."""
    said = messages(installed.bootstrap, installed.topics.alerts_state)
    return [json.loads(message.value())["transition"] for message in said]

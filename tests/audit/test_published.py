"""What readers of alerts get is what is stored: on a real Kafka and a real store, every other message is found."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from clickhouse.audit import Fence
from pipeline.judging.alerts import alert_messages, latest_by_id
from schemas.errors import BrokerUnavailable
from tally import alert_ledger
from tally.kafka import LogView
from tally.migrate import topic_plans
from tally.publication_audit import check_published
from tally.settings import Settings
from tests.audit.judged_books import count_into, emptied
from tests.commands.log import create_topics, delete_records, produce, produce_in_transaction, produce_keyed
from tests.pipeline.judged_logs import blocks_of, judged_log, runs_of, sizes_of
from tests.processes import broker_process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import polars as pl

    from clickhouse.audit import Check
    from clickhouse.client import Store
    from tests.reports.building import Counted as Database

pytestmark = pytest.mark.servers

#: A log in which alerts fire, are resolved, superseded and retracted.
SEED = 11

Message = tuple[str, bytes | None]


@dataclass(frozen=True)
class Counted:
    """A log that was counted: what is stored of it, and the messages that came of it."""

    store: Store
    fence: Fence
    log: tuple[Message, ...]
    state: tuple[Message, ...]


@pytest.fixture(scope="module")
def counted_log(read_only: Database) -> Counted:
    """The log of the seed, in which everything happens that is needed here."""
    log: list[Message] = []
    state: list[Message] = []

    def publish(alerts: pl.DataFrame) -> None:
        messages = alert_messages(alerts)
        log.extend(messages)
        state.extend(latest_by_id(messages))

    runs = runs_of(blocks_of(judged_log(SEED), sizes_of(SEED)), sizes_of(-SEED))
    fence = count_into(emptied(read_only.store), runs, publish=publish)
    assert {json.loads(body or b"")["transition"] for _, body in log} >= {"fired", "superseded"}
    assert len(dict(log)) < len(log), "an alert with two transitions is needed"
    return Counted(read_only.store, fence, tuple(log), tuple(state))


@dataclass
class Published:
    """Topics of one's own for the messages of a counted log; damage is done to them before they are sent."""

    settings: Settings
    counted: Counted
    log: list[Message]
    state: list[Message]

    def send(self) -> None:
        """To both topics."""
        produce_keyed(self.settings, self.settings.topics.alerts, self.log)
        produce_keyed(self.settings, self.settings.topics.alerts_state, self.state)

    def checks(self, *, org: str = "", fence: Fence | None = None, begin: int = 0) -> tuple[Check, Check]:
        """What the audit says: of the log, and of the state."""
        log, state = check_published(
            self.counted.store,
            LogView(self.settings),
            topics=self.settings.topics,
            org=org,
            fence=fence or self.counted.fence,
            begins={0: begin},
        )
        return log, state


@pytest.fixture
def published(settings: Settings, counted_log: Counted) -> Published:
    """Both topics, still empty, as `tally migrate` makes them."""
    both = {settings.topics.alerts, settings.topics.alerts_state}
    create_topics(settings, [plan for plan in topic_plans(settings, priced_partitions=2) if plan.name in both])
    return Published(settings, counted_log, list(counted_log.log), list(counted_log.state))


def _last(messages: list[Message]) -> int:
    """Where an alert's last message stands that has one before it."""
    keys = [key for key, _ in messages]
    return max(at for at, key in enumerate(keys) if key in keys[:at])


def _changed(message: Message, **said: Any) -> Message:
    key, body = message
    return key, json.dumps(json.loads(body or b"") | said, separators=(",", ":")).encode()


def _drop_last(messages: list[Message]) -> None:
    del messages[_last(messages)]


def _drop_alert(messages: list[Message]) -> None:
    key, _ = messages[0]
    messages[:] = [message for message in messages if message[0] != key]


def _change_value(messages: list[Message]) -> None:
    messages[-1] = _changed(messages[-1], value="0.000000000001")


def _change_spelling(messages: list[Message]) -> None:
    key, body = messages[-1]
    messages[-1] = key, (body or b"").replace(b'","', b'", "', 1)


def _say_first_again(messages: list[Message]) -> None:
    """As a worker does that wakes up after others went on."""
    key, _ = messages[_last(messages)]
    messages.append(next(message for message in messages if message[0] == key))


def _invent(messages: list[Message]) -> None:
    messages.append(("f" * 32, _changed(messages[-1], alert_id="f" * 32)[1]))


def _invent_transition(messages: list[Message]) -> None:
    messages.append(_changed(messages[-1], sequence=99))


def _delete(messages: list[Message]) -> None:
    messages.append((messages[-1][0], None))


def _say_under_another_key(messages: list[Message]) -> None:
    messages.append(("e" * 32, messages[-1][1]))


LOG, STATE = "alerts_published", "alerts_state_is_latest"
#: What is done to the messages of which topic, by how many more or fewer are right then, and what the check says of it.
DAMAGE: dict[str, tuple[str, Callable[[list[Message]], None], int, str]] = {
    "a transition is missing": (LOG, _drop_last, -1, " is missing"),
    "an alert's state is missing": (STATE, _drop_alert, -1, " is missing"),
    "the state is stale": (STATE, _drop_last, -1, " is behind "),
    "the state was told a first time again": (STATE, _say_first_again, -1, " is behind "),
    "a value is another": (LOG, _change_value, -1, " as it is stored"),
    "a value of the state is another": (STATE, _change_value, -1, " as it is stored"),
    "a body is spelled otherwise": (LOG, _change_spelling, -1, " as it is stored"),
    "a body of the state is spelled otherwise": (STATE, _change_spelling, -1, " as it is stored"),
    "an alert is invented": (LOG, _invent, 1, " is not stored"),
    "an alert is invented in the state": (STATE, _invent, 1, " is not stored"),
    "a transition is invented": (LOG, _invent_transition, 1, " is not stored"),
    "a transition is invented in the state": (STATE, _invent_transition, 1, " is not stored"),
    "a message is empty": (LOG, _delete, 1, " is not stored"),
    "a state is deleted": (STATE, _delete, 1, " is not stored"),
    "a message has another key": (LOG, _say_under_another_key, -1, " as it is stored"),
    "a message of the state has another key": (STATE, _say_under_another_key, -1, " as it is stored"),
}


def test_what_was_published_as_it_is_stored_is_fine(published: Published) -> None:
    """Each transition counts on usage.alerts, each alert in the state."""
    published.send()

    log, state = published.checks()

    assert (log.check, log.ok, log.expected, log.found, log.detail) == (
        LOG, True, str(len(published.log)), str(len(published.log)), "",
    )  # fmt: skip
    alerts = str(len(dict(published.log)))
    assert (state.check, state.ok, state.expected, state.found, state.detail) == (STATE, True, alerts, alerts, "")


def test_what_was_said_again_after_a_crash_is_fine(published: Published) -> None:
    """At least once: equal messages again, in both topics, from any place on."""
    published.log += published.log[3:]
    published.state += published.state[3:]
    published.send()

    assert [check.ok for check in published.checks()] == [True, True]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_message_that_is_not_what_is_stored_is_found(published: Published, damage: str) -> None:
    """By its own check alone, with its coordinates or the alert's name, and what to do."""
    name, harm, difference, sentence = DAMAGE[damage]
    topic = published.settings.topics.alerts if name == LOG else published.settings.topics.alerts_state
    harm(published.log if name == LOG else published.state)
    published.send()

    by_name = {check.check: check for check in published.checks()}

    wrong = by_name.pop(name)
    (right,) = by_name.values()
    assert (wrong.ok, int(wrong.found) - int(wrong.expected)) == (False, difference)
    assert sentence in wrong.detail
    assert f"{topic}/" in wrong.detail or " (block " in wrong.detail
    if difference < 0:
        assert f"set the group's offset of {published.settings.topics.priced}/0 to " in wrong.detail
    else:
        assert f"find out who else writes to {topic}." in wrong.detail
    assert (right.ok, right.detail) == (True, "")


def test_an_alert_of_a_block_that_is_not_committed_need_not_be_published(published: Published) -> None:
    """A worker has stored it and not published it yet, or published it in one topic only, or anew."""
    (last,) = published.counted.store.rows(
        "SELECT block, count() AS new FROM alerts GROUP BY block ORDER BY block DESC LIMIT 1"
    )
    published.log = published.log[: -last["new"]]
    published.send()

    at_work = published.checks(fence=Fence({0: last["block"]}, live=True))
    committed = published.checks(fence=Fence({0: last["block"] + 1}, live=True))

    assert [(check.ok, check.detail) for check in at_work] == [(True, ""), (True, "")]
    assert [(check.ok, int(check.expected) - int(check.found)) for check in committed] == [
        (False, last["new"]), (True, 0),
    ]  # fmt: skip
    assert f"/0 to {last['block']} and start them" in committed[0].detail


def test_records_of_aborted_transactions_are_no_messages(published: Published) -> None:
    """No reader that reads what is committed gets them."""
    published.send()
    topic = published.settings.topics.alerts
    produce_in_transaction(published.settings, topic, [b"{}"], commit=False)

    assert [check.ok for check in published.checks()] == [True, True]
    produce_in_transaction(published.settings, topic, [b"{}"], commit=True)
    assert [check.ok for check in published.checks()] == [False, True]


def test_what_retention_has_removed_is_not_looked_for(published: Published) -> None:
    """It is said how many; the state is kept for ever, and has them all."""
    published.send()
    delete_records(published.settings, published.settings.topics.alerts, before=1)

    log, state = published.checks()

    assert (log.ok, log.expected, log.found) == (True, str(len(published.log) - 1), str(len(published.log) - 1))
    assert log.detail == "1 transition may have been removed by retention."
    assert (state.ok, state.detail) == (True, "")


def test_one_org_alone_can_be_looked_at(published: Published) -> None:
    """Its alerts and messages; damage of others is not its own."""
    orgs = [json.loads(body or b"")["org"] for _, body in published.log]
    assert min(orgs.count("acme"), orgs.count("zen")) > 0
    del published.log[orgs.index("zen")]
    published.send()

    acme, zen = (published.checks(org=org)[0] for org in ("acme", "zen"))

    assert (acme.ok, acme.expected, acme.found) == (True, str(orgs.count("acme")), str(orgs.count("acme")))
    assert (zen.ok, zen.expected, zen.found) == (False, str(orgs.count("zen")), str(orgs.count("zen") - 1))


def test_many_alerts_take_no_more_memory(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is read in frames, and the lists are on disk: with the smallest frames and cache nothing changes."""
    monkeypatch.setattr(alert_ledger, "CACHE_KIB", 1)
    monkeypatch.setattr("clickhouse.stored_alerts.stored_alerts.__kwdefaults__", {"rows_max": 2})
    published.send()

    log, state = published.checks()

    assert (log.ok, log.expected) == (True, str(len(published.log)))
    assert (state.ok, state.expected) == (True, str(len(dict(published.log))))


def test_a_broker_that_goes_away_in_between_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading does not wait for it for ever."""
    monkeypatch.setattr("tally.kafka.REQUEST_SECONDS_MAX", 3.0)
    with broker_process(tmp_path / "broker") as broker:
        settings = Settings(kafka_bootstrap=broker.wait_until_ready()["bootstrap"])
        topic = settings.topics.rejected
        create_topics(settings, [plan for plan in topic_plans(settings, priced_partitions=1) if plan.name == topic])
        produce(settings, topic, [b"x" * 500_000] * 20)
        taken: list[int] = []

        def take(messages: Sequence[Any]) -> None:
            broker.kill()
            taken.extend(message.offset for message in messages)

        with pytest.raises(BrokerUnavailable, match=f"Kafka at {settings.kafka_bootstrap} can't be reached"):
            LogView(settings).read(topic, take)

    assert taken == list(range(len(taken)))
    assert 0 < len(taken) < 20


def test_what_is_gone_from_the_log_of_blocks_can_not_be_said_again(published: Published) -> None:
    """The advice goes no further back than the log does, and says so."""
    del published.log[0]
    published.send()

    log, _ = published.checks(begin=1_000)

    assert "/0 to 1000 and start them" in log.detail
    assert "no longer has all of these blocks (partition 0)" in log.detail

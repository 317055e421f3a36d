"""`tally drain` and the lag: positions of a group on the real log, with commits put there as a worker puts them."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from tally.kafka import LogView, lag, total_lag
from tests.commands.log import commit, produce, produce_in_transaction
from tests.processes import broker_process

if TYPE_CHECKING:
    from pathlib import Path

    from tally.settings import Settings
    from tests.commands.conftest import Tally

pytestmark = pytest.mark.servers


@pytest.fixture
def ready(installed: Tally) -> Tally:
    """The command line on an installation with one partition."""
    assert installed("migrate", "--partitions", "1").code == 0
    return installed


def test_nothing_sent_is_drained_at_once(ready: Tally, settings: Settings) -> None:
    """An installation without events has nothing to wait for, also without any worker ever."""
    answer = ready("drain", "--timeout", "1", "--format", "json")

    assert answer.code == 0
    assert answer.json["drained"] is True
    assert answer.json["lag"] == {settings.topics.events: 0, settings.topics.priced: 0}


def test_a_time_out_says_what_is_left_and_what_to_look_at(ready: Tally, settings: Settings) -> None:
    """Exit 1, the lag of each topic on stdout, and one sentence that names the missing worker."""
    produce(settings, settings.topics.events, [b"a", b"b", b"c"])
    commit(settings, settings.topics.events, {0: 1})

    answer = ready("drain", "--timeout", "0.3", "--format", "json")

    assert answer.code == 1
    assert answer.json["drained"] is False
    assert answer.json["lag"] == {settings.topics.events: 2, settings.topics.priced: 0}
    assert f"2 records of {settings.topics.events}" in answer.sentence
    assert "start `tally worker`" in answer.sentence


def test_raw_records_that_are_finished_are_not_enough(ready: Tally, settings: Settings) -> None:
    """What was priced must be counted too: both topics have to be finished."""
    produce(settings, settings.topics.events, [b"a"])
    commit(settings, settings.topics.events, {0: 1})
    produce(settings, settings.topics.priced, [b"block"])

    assert ready("drain", "--timeout", "0.3").code == 1
    commit(settings, settings.topics.priced, {0: 1})
    assert ready("drain", "--timeout", "0.3").code == 0


def test_what_is_sent_after_the_call_is_not_waited_for(ready: Tally, settings: Settings) -> None:
    """The ends are taken when it is called, so that a steady stream can be drained."""
    produce(settings, settings.topics.events, [b"a"])

    def go_on() -> None:
        time.sleep(1.0)
        produce(settings, settings.topics.events, [b"b"])
        commit(settings, settings.topics.events, {0: 1})

    sender = threading.Thread(target=go_on)
    sender.start()
    answer = ready("drain", "--timeout", "60")
    sender.join()

    assert answer.code == 0
    assert lag(settings)[settings.topics.events] == {0: 1}


@pytest.mark.parametrize("committed", [True, False])
def test_the_marker_of_a_transaction_never_hangs_it(ready: Tally, settings: Settings, *, committed: bool) -> None:
    """A worker commits past the last record it can read: markers and aborted records behind it are no wait."""
    produce(settings, settings.topics.events, [b"a"])
    produce_in_transaction(settings, settings.topics.events, [b"b"], commit=committed)
    commit(settings, settings.topics.events, {0: 2 if committed else 1})

    answer = ready("drain", "--timeout", "10")

    assert answer.code == 0
    assert lag(settings)[settings.topics.events] == {0: 0}


def test_a_committed_record_behind_a_marker_is_waited_for(ready: Tally, settings: Settings) -> None:
    """Only what can't be read is no reason to wait."""
    produce_in_transaction(settings, settings.topics.events, [b"a"], commit=True)
    produce(settings, settings.topics.events, [b"b"])
    commit(settings, settings.topics.events, {0: 1})

    assert ready("drain", "--timeout", "1.5").code == 1
    assert lag(settings)[settings.topics.events] == {0: 1}


def test_a_broker_that_is_restarted_meanwhile_is_waited_for(ready: Tally, settings: Settings, tmp_path: Path) -> None:
    """A drain over a restart of Kafka ends with the right answer."""
    data = tmp_path / "restarted"
    with broker_process(data) as process:
        bootstrap = str(process.wait_until_ready()["bootstrap"])
        there = settings.model_copy(update={"kafka_bootstrap": bootstrap})
        tally = ready.given(kafka_bootstrap=bootstrap)
        assert tally("migrate", "--partitions", "1").code == 0
        produce(there, there.topics.events, [b"a"])
        answers: list[int] = []
        waiting = threading.Thread(target=lambda: answers.append(tally.apart("drain", "--timeout", "120").code))
        waiting.start()
        time.sleep(3.0)
        process.kill()
    with broker_process(data, port=int(bootstrap.rpartition(":")[2])) as process:
        process.wait_until_ready()
        commit(there, there.topics.events, {0: 1})
        waiting.join()

    assert answers == [0]


def test_the_lag_is_counted_by_topic_and_partition(installed: Tally, settings: Settings) -> None:
    """Records that the group has not finished; a partition without a commit counts from its begin."""
    installed("migrate", "--partitions", "2")
    produce(settings, settings.topics.events, [b"a", b"b"])
    produce(settings, settings.topics.priced, [b"block"])
    commit(settings, settings.topics.events, {0: 1})

    assert lag(settings) == {settings.topics.events: {0: 1, 1: 0}, settings.topics.priced: {0: 1, 1: 0}}
    assert total_lag(settings) == 2


def test_a_lag_that_can_not_be_asked_is_unknown(settings: Settings) -> None:
    """Neither a missing broker nor missing topics make a zero."""
    assert total_lag(settings) is None
    assert total_lag(settings.model_copy(update={"kafka_bootstrap": "127.0.0.1:9"})) is None


@pytest.mark.usefixtures("ready")
def test_the_log_is_seen_as_the_audit_needs_it(settings: Settings) -> None:
    """Where the group is, and which offsets hold a committed record: neither markers nor aborted records do."""
    topic = settings.topics.events
    produce(settings, topic, [b"a", b"b"])  # 0, 1
    produce_in_transaction(settings, topic, [b"c"], commit=False)  # 2, and its marker 3
    produce_in_transaction(settings, topic, [b"d"], commit=True)  # 4, and its marker 5
    produce(settings, topic, [b"e"])  # 6
    commit(settings, topic, {0: 2})
    view = LogView(settings)

    (position,) = view.positions(topic).values()

    assert (position.begin, position.end, position.committed) == (0, 7, 2)
    assert view.held(topic, {0: [(0, 100)]}) == {0: [0, 1, 4, 6]}
    assert view.held(topic, {0: [(1, 2), (2, 4), (5, 7)]}) == {0: [1, 6]}
    assert view.live_members() == []

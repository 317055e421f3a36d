"""Where the messages of alerts and the stored alerts differ, on a real store and topics that are values."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from clickhouse.audit import Fence
from clickhouse.stored_alerts import stored_alerts
from pipeline.judging.alerts import alert_messages, latest_by_id
from schemas.topics import Topics
from tally.publication_audit import CLOCKS_APART_MS, check_published
from tests.audit.books import Log, Place
from tests.reports.building import NOON

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from clickhouse.audit import Check
    from tally.alert_ledger import Message
    from tally.kafka import Extent
    from tests.reports.building import Counted

pytestmark = pytest.mark.servers

APART = timedelta(milliseconds=CLOCKS_APART_MS)
DAY = timedelta(days=1)


def _stored(counted: Counted, *moments: datetime) -> Log:
    """An alert in each block, brought about at these moments, and published at once."""
    counted.alert(
        *({"alert_id": f"{at:032x}", "block": at, "recorded_at": moment} for at, moment in enumerate(moments))
    )
    log = Log(raw=Place(0, 0, 0), priced=Place(0, len(moments), len(moments)))
    for alerts in stored_alerts(counted.store, org=""):
        for (key, value), moment in zip(alert_messages(alerts), moments, strict=True):
            log.alerts.say(key, value, at=moment)
        for key, value in latest_by_id(alert_messages(alerts)):
            log.alerts_state.say(key, value)
    return log


def _checks(counted: Counted, log: Log) -> tuple[Check, Check]:
    fence = Fence({0: log.priced.committed}, live=False)
    published, state = check_published(counted.store, log, topics=Topics(), org="", fence=fence, begins={0: 0})
    return published, state


def test_only_what_is_older_than_the_oldest_message_left_may_be_gone(counted: Counted) -> None:
    """A record goes with all before it; clocks of two brokers may be apart by minutes."""
    # appended:   NOON  |   + 1 day    + 1 day, 5 min   + 2 days
    #              gone | oldest left      never said    never said
    log = _stored(counted, NOON, NOON + DAY, NOON + DAY + APART, NOON + 2 * DAY)
    log.alerts.begin = 1
    del log.alerts.messages[2:]

    published, state = _checks(counted, log)

    assert (published.ok, published.expected, published.found) == (False, "2", "1")
    assert "(1 missing)" in published.detail
    assert "(block 3) is missing" in published.detail
    assert published.detail.endswith("2 transitions may have been removed by retention.")
    assert (state.ok, state.expected, state.found, state.detail) == (True, "4", "4", "")


def test_of_a_log_that_is_empty_by_now_all_may_be_gone(counted: Counted) -> None:
    """And of one that never held anything, nothing."""
    log = _stored(counted, NOON, NOON + DAY)
    log.alerts.begin = 2

    published, _ = _checks(counted, log)
    assert (published.ok, published.expected, published.detail) == (
        True, "0", "2 transitions may have been removed by retention.",
    )  # fmt: skip

    log.alerts.messages, log.alerts.begin = [], 0
    published, _ = _checks(counted, log)
    assert (published.ok, published.expected, published.found) == (False, "2", "0")


def test_while_workers_run_a_difference_is_looked_at_twice(counted: Counted) -> None:
    """A worker that woke up late says an older transition, and the newer one again at once: no false alarm."""
    log = _stored(counted, NOON)
    counted.alert({"alert_id": f"{0:032x}", "sequence": 2, "transition": "resolved"})
    (alerts,) = stored_alerts(counted.store, org="")
    older, newer = alert_messages(alerts)
    log.alerts.say(*newer)
    log.alerts_state.say(*newer)
    log.alerts_state.say(*older)
    looks = _LooksAgain(log, newer)

    assert [check.ok for check in _checks(counted, log)] == [True, False]
    for live, ok in ((False, False), (True, True)):
        fence = Fence({0: 1}, live=live)
        looks.looks = 0
        _, state = check_published(counted.store, looks, topics=Topics(), org="", fence=fence, begins={0: 0})
        assert state.ok is ok


class _LooksAgain(Log):
    """A log in which the newer transition is said again between the first look at the state and the second."""

    def __init__(self, log: Log, newer: tuple[str, bytes]) -> None:
        super().__init__(log.raw, log.priced, alerts=log.alerts, alerts_state=log.alerts_state)
        self.newer = newer
        self.looks = 0

    def read(self, topic: str, take: Callable[[Sequence[Message]], None]) -> Mapping[int, Extent]:
        """The topic as it is now."""
        self.looks += topic == Topics().alerts_state
        if self.looks == 2:
            self.alerts_state.say(*self.newer)
        return super().read(topic, take)


def test_what_stands_behind_an_open_transaction_is_not_judged(counted: Counted) -> None:
    """Readers get it once the transaction ends; what they can read is judged."""
    log = _stored(counted, NOON, NOON + DAY)
    for held_up in (log.alerts, log.alerts_state):
        held_up.is_open = True
        del held_up.messages[1:]

    published, state = _checks(counted, log)

    for check, topic in ((published, "usage.alerts"), (state, "usage.alerts.state")):
        assert (check.ok, check.expected, check.found) == (True, "1", "1")
        assert check.detail == f"A transaction is open in {topic} (partition 0): what stands behind it was not read."
    log.alerts.say("b" * 32, b"{}")
    assert not _checks(counted, log)[0].ok


@pytest.mark.parametrize(
    "value",
    [
        None, b"", b"\xff", b"[]", b"[" * 100_000, b"1" * 5_000, b'{"alert_id": 7, "sequence": 1}',
        b'{"alert_id": "\\ud800", "sequence": 1}', b'{"alert_id": "%s", "sequence": true}' % (b"0" * 32),
        b'{"alert_id": "%s", "sequence": 99999999999999999999}' % (b"0" * 32),
        b'{"alert_id": "%s", "sequence": 7, "org": "\\ud800"}' % (b"0" * 32),
    ],
    ids=lambda value: repr(value)[:70],
)  # fmt: skip
def test_a_message_of_any_kind_is_named_by_its_place(counted: Counted, value: bytes | None) -> None:
    """Whatever it is, it is no stored alert, and nothing breaks."""
    log = _stored(counted, NOON)
    log.alerts.say("b" * 32, value)  # type: ignore[arg-type]
    log.alerts_state.say("b" * 32, value)  # type: ignore[arg-type]

    for check, topic in zip(_checks(counted, log), ("usage.alerts", "usage.alerts.state"), strict=True):
        assert (check.ok, check.expected, check.found) == (False, "1", "2")
        assert f"{topic} is not what is stored (1 not stored): {topic}/0/1 is not stored." in check.detail


def test_only_a_few_differences_are_named_and_all_are_counted(counted: Counted) -> None:
    """Places are given in their order."""
    log = _stored(counted, NOON)
    for _ in range(7):
        log.alerts.say("b" * 32, json.dumps({"n": len(log.alerts.messages)}).encode())

    published, _ = _checks(counted, log)

    assert "(7 not stored): usage.alerts/0/1 is not stored; usage.alerts/0/2 is not stored; " in published.detail
    assert "usage.alerts/0/5 is not stored; …." in published.detail


@pytest.mark.parametrize("damage", [{"transition": "burnt"}, {"crossed_time": None}, {"sequence": 0}], ids=str)
def test_a_stored_row_that_makes_no_message_is_a_difference(counted: Counted, damage: dict[str, Any]) -> None:
    """It is named, and the others are compared all the same."""
    log = _stored(counted, NOON, NOON + DAY)
    counted.store.command("TRUNCATE TABLE alerts_rows")
    counted.alert({"alert_id": f"{0:032x}", "recorded_at": NOON}, {"alert_id": f"{1:032x}", "block": 1, **damage})

    published, state = _checks(counted, log)

    assert not published.ok
    assert not state.ok
    assert "usage.alerts/0/1 is not " in published.detail
    assert "usage.alerts/0/0" not in published.detail


@pytest.mark.parametrize("rows_max", [1, 2, 3, 7, 1_000])
def test_every_stored_alert_is_read_once(counted: Counted, rows_max: int) -> None:
    """However small the frames: many orgs, one with many alerts, an id of any shape; all of an alert in one frame."""
    ids = [f"{at * 0x1111:04x}{at:028x}" for at in range(16)] + ["", "zz"]
    rows = [{"org": "acme", "alert_id": one, "sequence": sequence} for one in ids for sequence in (1, 2)]
    rows += [{"org": f"org-{at}", "alert_id": f"{at:032x}"} for at in range(5)]
    counted.alert(*rows)
    counted.alert(*rows)  # as a replay does

    frames = list(stored_alerts(counted.store, org="", rows_max=rows_max))
    of_one = list(stored_alerts(counted.store, org="acme", rows_max=rows_max))

    names = [name for frame in frames for name in frame.select("org", "alert_id", "sequence").iter_rows()]
    assert sorted(names) == sorted((row["org"], row["alert_id"], row.get("sequence", 1)) for row in rows)
    assert sum(frame.height for frame in of_one) == 2 * len(ids)
    assert all(frame.filter(alert_id=one).height in {0, 2} for frame in of_one for one in ids)

"""The numbers are right whatever is killed: what was sent is compared with what the views say, row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.system.chaos import Aim, Fault, Plan, Run, Verdict
from tests.system.events import REASONS

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.servers, pytest.mark.chaos, pytest.mark.timeout(1_800)]

EVERY_FAULT: Final = {
    Fault.WORKER_KILLED: 3,
    Fault.WORKER_TERMINATED: 1,
    Fault.WORKER_PAUSED: 1,
    Fault.STORE_KILLED: 1,
    Fault.BROKER_RESTARTED: 1,
}
MANY_FAULTS: Final = {
    Fault.WORKER_KILLED: 13,
    Fault.WORKER_TERMINATED: 2,
    Fault.WORKER_PAUSED: 2,
    Fault.STORE_KILLED: 1,
    Fault.BROKER_RESTARTED: 1,
}


def judged(folder: Path, plan: Plan) -> Verdict:
    """Runs the plan; what came out is printed, which pytest shows on failure and with -s."""
    with Run(folder, plan) as run:
        verdict = run.verdict()
    print(f"\n{verdict}")  # noqa: T201
    return verdict


def holds(verdict: Verdict) -> None:
    """Nothing differs, both commands agree, and every worker that was told to stop did so in order."""
    assert not verdict.differences, f"seed {verdict.seed}\n{verdict.differences}"
    assert not verdict.drain
    assert not verdict.audit
    assert set(verdict.exit_codes) == {0}
    assert verdict.alerts["fired"] > 100
    assert verdict.alerts["superseded"] > 0


def test_without_faults_the_numbers_are_right_and_nothing_is_read_twice(tmp_path: Path) -> None:
    """The control: the same checks on a quiet day; they pass, and no replay happens that the faults did not cause."""
    verdict = judged(tmp_path, Plan(seed=20_261_120, workers=2, events=20_000, events_per_second=2_000))

    holds(verdict)
    assert verdict.replays == 0
    assert verdict.unasked_ends == []
    assert {refused.reason for refused in verdict.expected.refused.values()} == REASONS
    assert verdict.expected.repeats > 200
    assert verdict.expected.late > 100
    assert verdict.aborted > 0


def test_the_numbers_are_right_after_every_kind_of_fault(tmp_path: Path) -> None:
    """Workers killed, stopped, paused, the store killed, the broker restarted under load: nothing lost or doubled."""
    plan = Plan(seed=4, workers=2, events=30_000, events_per_second=1_000, faults=EVERY_FAULT)

    verdict = judged(tmp_path, plan)

    holds(verdict)
    assert set(verdict.blows) == set(Fault)
    assert max(verdict.hits) > 0, "no kill hit work in flight: the run proves nothing"
    assert verdict.taken_back > 0
    assert verdict.replays > 0


@pytest.mark.parametrize(
    ("bug", "fault", "aim", "kind"),
    [
        ("acknowledge_before_insert", Fault.WORKER_KILLED, Aim.COMMITTED, "facts: missing"),
        ("insert_facts_once", Fault.STORE_KILLED, Aim.INSERTS, "facts: missing"),
        ("restore_beyond_the_fence", Fault.WORKER_KILLED, Aim.STORED, "totals_hourly: wrong"),
    ],
)
def test_a_planted_bug_is_found(tmp_path: Path, bug: str, fault: Fault, aim: Aim, kind: str) -> None:
    """The same run with a plausible mistake in the worker must be judged wrong, or the others prove nothing."""
    entry = ("-m", "tests.system.planted", bug)
    plan = Plan(
        seed=11, workers=2, events=5_000, events_per_second=1_000, faults={fault: 1},
        aim=aim, is_repeated=True, entry=entry, has_rules=False,
    )  # fmt: skip

    verdict = judged(tmp_path, plan)

    assert verdict.hits[-1] > 0, "no blow hit what the bug is about: the run proves nothing"
    assert verdict.differences.counts[kind] > 0
    assert verdict.audit


def test_a_planted_bug_of_publishing_is_found_by_the_topics_alone(tmp_path: Path) -> None:
    """Every number is right and the view has every alert: readers of the topics miss some, and the audit says so."""
    entry = ("-m", "tests.system.planted", "publish_what_is_new_to_the_store")
    plan = Plan(
        seed=11, workers=1, events=5_000, events_per_second=1_000, faults={Fault.WORKER_KILLED: 1},
        aim=Aim.ALERTS, is_repeated=True, entry=entry,
    )  # fmt: skip

    verdict = judged(tmp_path, plan)

    assert verdict.hits[-1] > 0, "no kill hit what the bug is about: the run proves nothing"
    assert verdict.differences.counts["usage.alerts: missing"] > 0
    places = {kind.partition(":")[0] for kind in verdict.differences.counts}
    assert places <= {"usage.alerts", "usage.alerts.state"}
    assert not verdict.drain
    assert "alerts_published (expected " in verdict.audit


@pytest.mark.soak
def test_the_numbers_are_right_after_many_faults(tmp_path: Path) -> None:
    """The long form: hundreds of thousands of events on three workers, and thirteen kills."""
    plan = Plan(seed=7, workers=3, events=200_000, events_per_second=700, faults=MANY_FAULTS)

    verdict = judged(tmp_path, plan)

    holds(verdict)
    assert verdict.expected.events >= 200_000
    assert sum(count > 0 for count in verdict.hits) >= 6
    assert verdict.replays > 0

"""The protocol under attack: no schedule gives a wrong number, and every planted bug is found."""

from __future__ import annotations

from typing import Final

import pytest

from tests.simulator.bugs import Bug
from tests.simulator.processes import ROOT, reproduced_by, run_in_processes, simulator_output
from tests.simulator.schedules import Tally, run_schedules, trace_of
from tests.simulator.setting import PLAIN, Setting

SCHEDULES: Final = 20_000
PARTS: Final = 5  # which can be played side by side
SOAK_SCHEDULES: Final = 300_000
#: Many worlds with few schedules each: most bugs need a certain world more than a certain schedule.
PER_LOG_OF_BUGS: Final = 20
#: No planted bug may need more schedules than this; the one that hides best needs about a fifth of it.
FOUND_WITHIN: Final = 3_000
#: The first schedules that find the bugs that hide best. They are looked at first, which saves minutes and proves the
#: same; where a change of the code moved one, all are looked at, and this line should follow.
FOUND_AT: Final = {
    Bug.NOT_IN_MEMORY_IS_ZERO: 60,
    Bug.FORGOTTEN_IS_ZERO: 61,
    Bug.ANSWER_CUT_SHORT: 589,
    Bug.STATES_OF_ANY_BLOCK: 401,
    Bug.TOTALS_WITHOUT_CORRECTIONS: 240,
    Bug.LAST_WRITE_STAYS: 270,
    Bug.CORRECTED_AGAIN: 140,
    Bug.CORRECTED_BEFORE_COUNTED: 122,
    Bug.ACK_BEFORE_ALERTS: 115,
    Bug.STORED_IS_PUBLISHED: 117,
    Bug.SUMS_OF_ANY_BLOCK: 228,
    Bug.ALERTS_OF_ANY_BLOCK: 49,
    Bug.RULES_OF_ANY_BLOCK: 223,
    Bug.RULES_IN_MEMORY_ONLY: 100,
    Bug.JUDGED_KEPT_AFTER_SEEK: 223,
    Bug.SEQUENCE_IN_MEMORY_ONLY: 100,
    Bug.JUDGED_AT_THE_END: 100,
    Bug.SENDS_PAST_UNRESOLVED: 100,
    Bug.TIMEOUT_TAKEN_AS_SENT: 100,
    Bug.ACK_BEFORE_SENT: 100,
}

#: Bugs that show even when nothing is interrupted; all others are right on a good day, or they would be no test.
#: (A restore happens on good days too: after the marker of a transaction in the log.)
SHOW_ON_A_GOOD_DAY: Final = {
    Bug.VERSION_OF_FIRST_BLOCK,
    Bug.NOT_IN_MEMORY_IS_ZERO,
    Bug.NOTHING_RESTORED,
    Bug.FORGOTTEN_IS_ZERO,
    Bug.HASH_ALONE,
    Bug.ROUTED_BY_RAW_PARTITION,
    Bug.ANSWER_CUT_SHORT,
    Bug.SEQUENCE_IN_MEMORY_ONLY,
    Bug.MEMORY_BEFORE_WRITES,
    Bug.MEMORY_HAS_NO_BEGINNING,
    Bug.RULES_IN_MEMORY_ONLY,
}


@pytest.mark.parametrize("part", range(PARTS))
def test_no_schedule_gives_a_wrong_number(part: int) -> None:
    """Crashes, zombies, timeouts applied or not, late writes, seeks, rebalances: 0 missing, 0 doubled, 0 wrong."""
    share = SCHEDULES // PARTS

    tally = run_in_processes(part * share, share, PLAIN, processes=1)

    assert _told(tally, PLAIN) == []
    assert tally.schedules == share
    _assert_stormy(tally)


@pytest.mark.soak
def test_no_schedule_of_a_long_night_gives_a_wrong_number() -> None:
    """The same with other seeds and far more worlds."""
    setting = Setting(per_log=100)

    tally = run_in_processes(10_000_000, SOAK_SCHEDULES, setting)

    assert _told(tally, setting) == []
    assert tally.schedules == SOAK_SCHEDULES


@pytest.mark.parametrize("bug", Bug)
def test_every_planted_bug_is_found(bug: Bug) -> None:
    """A simulator that finds nothing proves something only if it finds what is there."""
    setting = Setting(per_log=PER_LOG_OF_BUGS, pricings_per_log=6, bug=bug)

    tally = run_schedules(FOUND_AT.get(bug, 0), 1, setting)
    if not tally.failures:
        tally = run_schedules(0, FOUND_WITHIN, setting)

    assert [seed for seed, _ in tally.failures if seed < FOUND_WITHIN] != []


@pytest.mark.parametrize("bug", [bug for bug in Bug if bug not in SHOW_ON_A_GOOD_DAY])
def test_a_planted_bug_does_not_show_on_a_good_day(bug: Bug) -> None:
    """It is the trouble that brings it out: the bug is a mistake of the protocol, not nonsense."""
    tally = run_schedules(0, 20, Setting(per_log=2, pricings_per_log=1, bug=bug, is_calm=True))

    assert _told(tally, Setting(bug=bug)) == []


def test_the_page_names_every_planted_bug() -> None:
    """What the simulator is said to find is what it is tried on."""
    page = (ROOT / "docs" / "exactness.md").read_text(encoding="utf-8")

    assert [bug.name for bug in Bug if f"| `{bug.name}` | {bug.value} |" not in page] == []


def test_a_broker_that_takes_commits_of_zombies_changes_no_number() -> None:
    """The refusal of old generations is a courtesy: what is acked is stored, so no commit can be too far."""
    tally = run_schedules(0, 600, Setting(zombies_may_commit=True))

    assert tally.failures == []
    assert tally.met["commits_refused"] > 0


@pytest.mark.parametrize("options", [["--trace", "7"], ["--trace", "207", "--bug", "MEMORY_KEPT_AFTER_SEEK"]])
def test_a_seed_says_everything(options: list[str]) -> None:
    """The same schedule in another process, with sets in another order, is the same line by line."""
    one, other = (simulator_output(options, hash_seed=seed) for seed in ("1", "2"))

    assert one == other
    assert one.count("\n") > 30


def test_a_failure_can_be_read() -> None:
    """Its trace begins with the world, tells who did what, and ends with what was wrong."""
    setting = Setting(per_log=PER_LOG_OF_BUGS, bug=Bug.ACK_BEFORE_INSERT)
    ((seed, what),) = run_schedules(0, FOUND_WITHIN, setting).failures

    trace = trace_of(seed, setting)

    assert trace[0].startswith(f"schedule {seed} of world")
    assert trace[-1] == what
    assert any("InsertFacts" in line for line in trace)
    assert any("commits" in line for line in trace)


def test_what_is_remembered_is_what_would_be_counted() -> None:
    """Looking up what ``count`` did before gives the very schedules that counting everything anew gives."""
    seeds = range(3)

    anew = [trace_of(seed, Setting(remembers=False)) for seed in seeds]
    run_schedules(0, 3, Setting())

    assert [trace_of(seed) for seed in seeds] == anew
    remembered, counted = (run_schedules(0, 32, Setting(per_log=4, remembers=remembers)) for remembers in (True, False))
    assert remembered.met["alerts"] > 0
    assert remembered.met["restatements"] > 0
    assert (remembered.met, remembered.failures) == (counted.met, counted.failures)
    assert remembered.runs_counted < counted.runs_counted


def _told(tally: Tally, setting: Setting) -> list[str]:
    """Every failure with the command that shows how it came about."""
    return [f"{what[:500]} -- {reproduced_by(seed, setting)}" for seed, what in tally.failures[:5]]


def _assert_stormy(tally: Tally) -> None:
    """Trouble of every kind did happen, and often."""
    for kind in ("crashes", "pauses", "seeks", "aborts", "timeouts", "late_writes", "zombie_writes", "commits_refused"):
        assert tally.met[kind] > tally.schedules / 10, kind
    assert tally.met["late_sends"] > 0
    assert tally.met["alerts"] > tally.schedules / 2
    assert tally.met["price_crashes"] > 0

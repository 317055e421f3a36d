"""Every kind of difference is found by its check, named, and mended where the facts say how."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickhouse import audit as checks
from tests.audit.books import TOKENS, Log, Place, audited, balanced_books, detail, failed
from tests.reports.building import NOON, Line, fact

if TYPE_CHECKING:
    from tests.reports.building import Counted

pytestmark = pytest.mark.servers

WRITE_TOTAL = (
    "INSERT INTO totals_rows SELECT * REPLACE ({}) FROM totals_rows FINAL "
    "WHERE org = 'acme' AND operation = 'llm.request' AND toHour(hour) = 12"
)
COUNT_AGAIN = "INSERT INTO facts_rows SELECT * REPLACE ({}) FROM facts_rows AS stored WHERE stored.id = 'id-3'"
CHANGE_FACT = "ALTER TABLE facts_rows UPDATE {} WHERE id = 'id-3' SETTINGS mutations_sync = 2"
FORGET = "DELETE FROM {} WHERE {}"

SUMS, QUANTITIES, BEHIND = "totals_equal_facts", "quantities_equal_facts", "totals_not_behind"
ACCOUNTED, USED_ONCE, PRICED = "raw_records_accounted_for", "raw_events_used_once", "facts_priced"

#: What was done to the books, and which checks must say so.
DAMAGE: dict[str, tuple[str, set[str]]] = {
    "a total costs more": (WRITE_TOTAL.format("cost + toDecimal128('0.000000000001', 12) AS cost"), {SUMS}),
    "a total's failures cost more": (WRITE_TOTAL.format("failed_cost + 1 AS failed_cost"), {SUMS}),
    "a total has one request more": (WRITE_TOTAL.format("requests + 1 AS requests"), {SUMS}),
    "a success is called a failure": (WRITE_TOTAL.format("ok - 1 AS ok, failed + 1 AS failed"), {SUMS}),
    "a total has too many unpriced": (WRITE_TOTAL.format("unpriced + 1 AS unpriced"), {SUMS}),
    "a total's newest time is off": (WRITE_TOTAL.format("newest_time + 1 AS newest_time"), {SUMS}),
    "a quantity is off": (WRITE_TOTAL.format("arrayMap(q -> q + 1, quantities) AS quantities"), {QUANTITIES}),
    "a billed quantity is off": (
        WRITE_TOTAL.format("arrayMap(q -> q + 1, billed_quantities) AS billed_quantities"),
        {QUANTITIES},
    ),
    "a meter's cost is off": (WRITE_TOTAL.format("arrayMap(c -> c + 1, costs) AS costs"), {QUANTITIES}),
    "an unpriced meter costs nothing": (
        WRITE_TOTAL.format("arrayMap(c -> ifNull(c, 0), costs) AS costs"),
        {QUANTITIES},
    ),
    "two meters are swapped": (WRITE_TOTAL.format("arrayReverse(meters) AS meters"), {QUANTITIES}),
    "a name is another": (WRITE_TOTAL.format("arrayMap(n -> concat(n, 'x'), names) AS names"), {QUANTITIES}),
    "unpriced events of a meter are off": (
        WRITE_TOTAL.format("arrayMap(e -> e + 1, unpriced_events) AS unpriced_events"),
        {QUANTITIES},
    ),
    "a total of nothing": (WRITE_TOTAL.format("'ghost' AS project"), {SUMS, QUANTITIES}),
    "a total is gone": (FORGET.format("totals_rows", "org = 'bolt'"), {BEHIND}),
    "a fact is gone": (FORGET.format("facts_rows", "id = 'id-3'"), {ACCOUNTED, SUMS, QUANTITIES}),
    "the first of a repeat is gone": (
        FORGET.format("facts_rows", "id = 'id-0'"),
        {ACCOUNTED, SUMS, QUANTITIES, "repeats_have_their_first"},
    ),
    "a repeat is gone": (FORGET.format("duplicates_rows", "1"), {ACCOUNTED}),
    "a refusal is gone": (FORGET.format("rejected_rows", "offset = 7"), {ACCOUNTED}),
    "an event of a batch is gone": (FORGET.format("rejected_rows", "offset = 8"), {ACCOUNTED}),
    "a fact costs more than its lines": (CHANGE_FACT.format("cost = cost + 1"), {PRICED, SUMS}),
    "a fact has lost its cost": (CHANGE_FACT.format("cost = NULL"), {PRICED, SUMS}),
    "a line of a fact costs more": (CHANGE_FACT.format("costs = arrayMap(c -> c + 1, costs)"), {PRICED, QUANTITIES}),
    "a line of a fact without a price costs nothing": (
        CHANGE_FACT.format("costs = arrayMap(c -> ifNull(c, 0), costs)"),
        {PRICED},
    ),
    "an unpriced fact is called priced": (CHANGE_FACT.format("pricing = 'priced'"), {PRICED, SUMS}),
    "a fact costs something and is called free": (CHANGE_FACT.format("pricing = 'free'"), {PRICED, SUMS}),
    "a quantity of a fact is off": (
        CHANGE_FACT.format("quantities = arrayMap(q -> q + 1, quantities)"),
        {QUANTITIES},
    ),
    "a fact is counted again at another time": (
        COUNT_AGAIN.format("time + toIntervalMinute(1) AS time"),
        {USED_ONCE, "counted_once", SUMS, QUANTITIES},
    ),
    "a repeat is counted as a fact": (
        COUNT_AGAIN.replace("id-3", "id-0").format("6 AS offset, received_at + 1 AS received_at"),
        {USED_ONCE, "counted_once", SUMS, QUANTITIES},
    ),
    "a fact is counted under a second id": (
        COUNT_AGAIN.format("'other' AS id"),
        {USED_ONCE, SUMS, QUANTITIES},
    ),
    "a fact comes from beyond the log": (
        COUNT_AGAIN.format("'other' AS id, 9 AS offset"),
        {"facts_within_the_log", SUMS, QUANTITIES},
    ),
}


def test_books_in_order_balance(counted: Counted) -> None:
    """Every check is fine and says with how much it is."""
    found = audited(counted, balanced_books(counted))

    assert found.balanced
    assert [(check.check, check.expected, check.found, check.detail) for check in found.checks] == [
        ("priced_blocks_counted", "4", "4", ""),
        ("raw_records_accounted_for", "9", "9", ""),
        ("raw_events_used_once", "9", "9", ""),
        ("facts_within_the_log", "0", "0", ""),
        ("counted_once", "8", "8", ""),
        ("repeats_have_their_first", "0", "0", ""),
        ("facts_priced", "8", "8", ""),
        ("corrections_follow", "0", "0", ""),
        ("totals_equal_facts", "4", "4", ""),
        ("quantities_equal_facts", "4", "4", ""),
        ("totals_not_behind", "4", "4", ""),
        ("alerts_equal_rules", "0", "0", ""),
        ("alerts_published", "0", "0", ""),
        ("alerts_state_is_latest", "0", "0", ""),
    ]


def test_empty_books_balance(counted: Counted) -> None:
    """Nothing was sent and nothing is missing."""
    assert audited(counted, Log(raw=Place(0, 0, 0), priced=Place(0, 0, 0))).balanced


VIEWS = (
    "SELECT * EXCEPT version FROM totals_hourly ORDER BY ALL",
    "SELECT * EXCEPT version FROM quantities_hourly ORDER BY ALL",
)


def _corrected_books(counted: Counted) -> Log:
    """The same books; id-3 was corrected twice, the failure of id-1 got a price for its images."""
    log = balanced_books(counted)
    dearer = Line("input_tokens", "1000", "0.75")
    pictures = Line("images", "1", "2", name="pictures")
    counted.correct(fact(dearer, *TOKENS[1:], offset=3, id="id-3"), run="run-1")
    counted.correct(
        fact(*TOKENS[:2], pictures, offset=3, id="id-3"),
        fact(*TOKENS[:2], pictures, offset=1, id="id-1", status="error"),
        run="run-2",
    )
    return replace(log, priced=Place(0, counted.block, counted.block))


CHANGE_CORRECTION = "ALTER TABLE corrections_rows UPDATE {} WHERE revision = {} SETTINGS mutations_sync = 2"
FOLLOWS = "corrections_follow"

DAMAGED_CORRECTIONS: dict[str, tuple[str, set[str]]] = {
    "the last correction is gone": (FORGET.format("corrections_rows", "revision = 2"), {SUMS, QUANTITIES}),
    "an earlier correction is gone": (
        FORGET.format("corrections_rows", "revision = 1 AND id = 'id-3'"),
        {FOLLOWS, SUMS, QUANTITIES},
    ),
    "the new cost is off": (CHANGE_CORRECTION.format("cost = cost + 1", 2), {PRICED, SUMS}),
    "the old cost is off": (CHANGE_CORRECTION.format("old_cost = old_cost + 1", 2), {FOLLOWS, SUMS}),
    "a line of the old figures is off": (
        CHANGE_CORRECTION.format("old_costs = arrayMap(c -> c + 1, old_costs)", 2),
        {FOLLOWS, QUANTITIES},
    ),
    "the old pricing is another": (CHANGE_CORRECTION.format("old_pricing = 'free'", 2), {FOLLOWS, SUMS}),
}


def test_corrected_books_balance(counted: Counted) -> None:
    """Totals are the facts and what corrections moved them by; lines that no event has any more are gone."""
    found = audited(counted, _corrected_books(counted))

    assert failed(found) == set()
    assert found.figures == checks.Figures()
    assert detail(found, FOLLOWS) == ""


@pytest.mark.parametrize("damage", DAMAGED_CORRECTIONS)
def test_every_difference_of_a_correction_is_found(counted: Counted, damage: str) -> None:
    """A correction that is gone or says something else leaves totals that are not their figures."""
    log = _corrected_books(counted)
    statement, checks_that_fail = DAMAGED_CORRECTIONS[damage]
    counted.store.command(statement)

    assert failed(audited(counted, log)) == checks_that_fail


def test_totals_are_rebuilt_with_their_corrections(counted: Counted) -> None:
    """What was lost of a total comes back as facts and corrections say, to the last line."""
    log = _corrected_books(counted)
    before = [counted.store.rows(sql) for sql in VIEWS]
    counted.store.command("TRUNCATE TABLE totals_rows")
    found = audited(counted, log)
    assert failed(found) == {BEHIND}

    checks.rebuild_totals(counted.store, within=found.differing, fence=found.fence)

    assert [counted.store.rows(sql) for sql in VIEWS] == before
    assert audited(counted, log).balanced


@pytest.mark.parametrize("damage", DAMAGE)
def test_each_damage_is_found_and_damaged_totals_are_rebuilt(counted: Counted, damage: str) -> None:
    """Exactly the checks that can tell fail, and name it; totals then follow the facts, and the views with them."""
    log = balanced_books(counted)
    before = [counted.store.rows(view) for view in VIEWS]
    statement, expected = DAMAGE[damage]
    counted.store.command(statement)

    found = audited(counted, log)
    checks.rebuild_totals(counted.store, within=found.differing, fence=found.fence)
    healed = audited(counted, log)

    assert failed(found) == expected
    assert all(bool(check.detail) is not check.ok for check in found.checks)
    assert failed(healed) == expected - {SUMS, QUANTITIES, BEHIND}
    if "fact" not in damage and "first" not in damage:
        assert before == [counted.store.rows(view) for view in VIEWS]


def test_differences_are_named(counted: Counted) -> None:
    """Who, when, what is stored, and what the facts say."""
    log = balanced_books(counted)
    counted.store.command(DAMAGE["a total has one request more"][0])
    counted.store.command(DAMAGE["a fact is gone"][0])
    counted.store.command(DAMAGE["an event of a batch is gone"][0])

    found = audited(counted, log)

    assert "usage.events/0/3, usage.events/0/8 (of its 3 events: 1)" in detail(found, ACCOUNTED)
    assert "org=acme project=checkout api_key=key_1 operation=llm.request" in detail(found, SUMS)
    assert "images as '': 3.000000000000 used" in detail(found, QUANTITIES)


def test_quantities_of_zero_are_kept_when_totals_are_compared_and_rebuilt(counted: Counted) -> None:
    """One damaged total is one difference among lanes with zero quantities, and healing it loses no line of any."""
    zeros = (
        Line("cache_read_tokens", "0", "0"),
        Line("cache_write_tokens", "0", None, state="ignored"),  # what pricing calls a zero without a price
        Line("audio_tokens", "0", None, state="memo"),
        Line("images", "0", "0", state="not_billed"),
        Line("input_tokens", "1000", "0.5"),
    )
    counted.count(*(fact(*zeros, project=f"p{number}") for number in range(5)), fact(*zeros[:4], project="all zero"))
    log = Log(raw=Place(0, 6, 6), priced=Place(0, 1, 1))
    before = [counted.store.rows(view) for view in VIEWS]
    assert len(before[1]) == 5 * len(zeros) + 4
    counted.store.command(
        "INSERT INTO totals_rows SELECT * REPLACE (requests + 1 AS requests) FROM totals_rows FINAL "
        "WHERE project = 'p2'"
    )

    found = audited(counted, log)
    checks.rebuild_totals(counted.store, within=found.differing, fence=found.fence)

    assert failed(found) == {SUMS}
    assert detail(found, SUMS).count("org=") == 1
    assert detail(found, QUANTITIES) == ""
    assert audited(counted, log).balanced
    assert before == [counted.store.rows(view) for view in VIEWS]


def test_a_total_that_is_ahead_of_the_commits_balances_with_quantities_of_zero(counted: Counted) -> None:
    """The detailed comparison, which judges totals at their own version, sees the same lines as the quick one."""
    counted.count(fact(Line("cache_read_tokens", "0", None, state="ignored"), Line("input_tokens", "1", "1")))

    found = audited(counted, Log(raw=Place(0, 1, 0), priced=Place(0, 1, 0)))

    assert failed(found) == {"priced_blocks_counted"}


def test_markers_of_transactions_are_no_records(counted: Counted) -> None:
    """Offsets that Kafka does not hold are excused; one that it holds is missing."""
    log = balanced_books(counted)
    markers = replace(log, raw=Place(0, 13, 12), markers=frozenset({9, 10, 11}))
    lost = replace(markers, markers=frozenset({9, 11}))

    assert audited(counted, markers).balanced
    assert detail(audited(counted, markers), ACCOUNTED) == "3 offsets hold no record (markers of transactions)."
    found = audited(counted, lost)
    assert failed(found) == {ACCOUNTED}
    assert "usage.events/0/10" in detail(found, ACCOUNTED)


def test_only_what_is_committed_and_still_in_the_log_is_looked_for(counted: Counted) -> None:
    """Records that nobody has finished, and those that retention has removed, say nothing."""
    log = balanced_books(counted)
    counted.store.command("DELETE FROM facts_rows WHERE id = 'id-0'")

    assert ACCOUNTED not in failed(audited(counted, replace(log, raw=Place(1, 50, 9))))


def test_gaps_are_found_across_stretches(counted: Counted) -> None:
    """The books of a long log are checked in stretches of 65,536 offsets; a gap at any edge is found."""
    log = balanced_books(counted)
    edge = checks.STRETCH_OFFSETS
    counted.refuse(*({"offset": at} for at in (edge - 1, edge, 5 * edge)))
    held = {edge - 1, edge, edge + 1, 5 * edge}
    whole = replace(log, raw=Place(0, 5 * edge + 1, 5 * edge + 1), markers=frozenset(range(9, 5 * edge)) - held)

    found = audited(counted, whole)

    assert failed(found) == {ACCOUNTED}
    assert detail(found, ACCOUNTED).startswith(f"Not accounted for: usage.events/0/{edge + 1}. ")
    (check,) = (check for check in found.checks if check.check == ACCOUNTED)
    assert (check.expected, check.found) == ("13", "12")


def test_the_search_for_missing_records_ends(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand missing records prove the point as well as a hundred million."""
    monkeypatch.setattr(checks, "MISSING_MAX", 5)
    monkeypatch.setattr(checks, "STRETCHES_AT_ONCE", 1)
    edge = checks.STRETCH_OFFSETS
    log = Log(raw=Place(0, 10 * edge, 10 * edge), priced=Place(0, 0, 0))

    found = audited(counted, log)

    assert "The search ended there; more may be missing." in detail(found, ACCOUNTED)
    assert len(log.looked_up) == 1


def test_an_id_used_again_after_the_horizon_is_a_new_fact(counted: Counted) -> None:
    """Within the horizon it would be a repeat that was counted."""
    received = NOON + timedelta(seconds=1)
    later = received + timedelta(days=35, microseconds=1)
    counted.count(fact(*TOKENS, id="again"), numbered=False)
    counted.count(
        fact(*TOKENS, id="again", offset=1, time=NOON + timedelta(days=35), received_at=later), numbered=False
    )
    log = Log(raw=Place(0, 2, 2), priced=Place(0, 2, 2))

    assert audited(counted, log).balanced
    counted.count(
        fact(*TOKENS, id="again", offset=2, time=NOON + timedelta(days=36), received_at=later + timedelta(days=35)),
        numbered=False,
    )
    assert failed(audited(counted, replace(log, raw=Place(0, 3, 3), priced=Place(0, 3, 3)))) == {"counted_once"}


def test_rows_that_a_replay_wrote_again_are_no_difference(counted: Counted) -> None:
    """Equal rows replace themselves, merged or not."""
    log = _corrected_books(counted)
    for table in ("facts_rows", "totals_rows", "duplicates_rows", "rejected_rows", "corrections_rows"):
        counted.store.command(f"SYSTEM STOP MERGES {table}")
        counted.store.command(f"INSERT INTO {table} SELECT * FROM {table}")  # noqa: S608

    assert audited(counted, log).balanced


def test_what_is_priced_and_not_counted_is_said(counted: Counted) -> None:
    """With no worker running there is nothing to wait for."""
    log = balanced_books(counted)

    found = audited(counted, replace(log, priced=Place(0, 6, 4)))

    assert failed(found) == {"priced_blocks_counted"}
    assert detail(found, "priced_blocks_counted").startswith("2 blocks of usage.priced are not counted yet")


def test_facts_of_a_block_that_is_not_committed_are_no_difference(counted: Counted) -> None:
    """A worker that was killed between the facts and their totals leaves nothing wrong: the block is counted again."""
    log = balanced_books(counted)
    counted.count(fact(*TOKENS, offset=9, id="x"), with_totals=False, numbered=False)

    found = audited(counted, replace(log, raw=Place(0, 10, 9), priced=Place(0, 5, 4)))

    assert failed(found) == {"priced_blocks_counted"}


def test_a_total_of_a_block_that_is_not_committed_is_judged_when_nobody_writes(counted: Counted) -> None:
    """It must be the sum of its facts up to its own version; when it is not, it is rebuilt at that version."""
    log = replace(balanced_books(counted), priced=Place(0, 4, 1))
    assert failed(audited(counted, log)) == {"priced_blocks_counted"}

    counted.store.command(DAMAGE["a total costs more"][0])
    found = audited(counted, log)
    assert failed(found) == {"priced_blocks_counted", SUMS}

    checks.rebuild_totals(counted.store, within=found.differing, fence=found.fence)
    assert failed(audited(counted, log)) == {"priced_blocks_counted"}


def test_a_total_that_is_being_written_is_not_judged(counted: Counted) -> None:
    """While workers run, a total beyond the fence may be newer than the facts that were read: no false alarm."""
    log = replace(balanced_books(counted), priced=Place(0, 4, 3), members=("worker-1",))
    counted.store.command("DELETE FROM facts_rows WHERE id = 'batch-2'")

    found = audited(counted, log)

    assert failed(found) == {"priced_blocks_counted", ACCOUNTED}
    assert detail(found, SUMS) == "1 totals were being written and are not judged."
    (check,) = (check for check in found.checks if check.check == SUMS)
    assert (check.expected, check.found) == ("3", "3")


def test_a_damaged_total_is_found_while_workers_run(counted: Counted) -> None:
    """Totals before the fence are judged as always, and only they are named."""
    log = replace(balanced_books(counted), priced=Place(0, 4, 3), members=("worker-1",))
    counted.store.command("DELETE FROM facts_rows WHERE id = 'batch-2'")
    counted.store.command(DAMAGE["a total costs more"][0])

    found = audited(counted, log)

    assert failed(found) == {"priced_blocks_counted", ACCOUNTED, SUMS}
    assert "org=acme" in detail(found, SUMS)
    assert "org=bolt" not in detail(found, SUMS)


def test_an_org_can_be_audited_alone(counted: Counted) -> None:
    """Another org's differences are not its own; raw records are everybody's."""
    log = balanced_books(counted)
    counted.store.command(DAMAGE["a total costs more"][0])

    assert audited(counted, log, org="bolt").balanced
    assert failed(audited(counted, log, org="acme")) == {SUMS}


@pytest.mark.parametrize("rows_max", [1, 2, 3, 5, 100])
def test_slices_hold_everything_once(counted: Counted, monkeypatch: pytest.MonkeyPatch, rows_max: int) -> None:
    """However small the slices, the sums over them are the same, and a difference is found in one of them."""
    monkeypatch.setattr(checks.slices, "__kwdefaults__", {"rows_max": rows_max})
    log = balanced_books(counted)
    for hours in range(4):
        counted.count(
            fact(*TOKENS, time=NOON + timedelta(hours=hours), offset=9 + hours, id=f"x{hours}"), numbered=False
        )
    log = replace(log, raw=Place(0, 13, 13), priced=Place(0, 8, 8))

    found = audited(counted, log)
    assert found.balanced
    assert [check.found for check in found.checks if check.check in {PRICED, SUMS}] == ["12", "6"]

    counted.store.command(DAMAGE["a total is gone"][0])
    found = audited(counted, log)
    assert failed(found) == {BEHIND}
    assert len(found.differing) == 1


def test_identities_are_compared_in_buckets(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the buckets, a second fact of an identity is found once."""
    monkeypatch.setattr(checks, "IDENTITIES_PER_BUCKET", 2)
    log = balanced_books(counted)
    counted.store.command(DAMAGE["a fact is counted again at another time"][0])

    found = audited(counted, log)

    assert detail(found, "counted_once") == "Counted more than once: acme /gateway id-3."


@given(offsets=st.sets(st.integers(0, 20_000), max_size=30))
def test_look_ups_cover_every_offset_and_no_long_way_between(offsets: set[int]) -> None:
    """Spans ascend, hold all offsets, begin and end at one, and do not reach over gaps of 1,000."""
    spans = checks.merged_spans(sorted(offsets))

    assert all(any(start <= offset < stop for start, stop in spans) for offset in offsets)
    assert all(start in offsets and stop - 1 in offsets for start, stop in spans)
    assert all(later[0] - earlier[1] >= checks.LOOK_UP_GAP for earlier, later in pairwise(spans))


def test_a_line_that_is_not_billed_costs_nothing(counted: Counted) -> None:
    """A failed event whose price bills successes is priced, at 0; anything else is a mistake of pricing."""
    log = balanced_books(counted)
    counted.count(
        fact(Line("requests", "1", "1", name="lookups", state="not_billed"), offset=9, id="x"), numbered=False
    )

    found = audited(counted, replace(log, raw=Place(0, 10, 10), priced=Place(0, 5, 5)))

    assert failed(found) == {PRICED}

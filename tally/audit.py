"""``tally audit``: proves that the books balance, check by check with both figures, and mends totals on request.

The order of the questions is the proof: the committed raw offsets first, then the end of the priced log (so all blocks
of those records lie before it), then waiting until that end is counted, and only then the store.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from clickhouse.audit import (
    COST_DECIMALS,
    Check,
    Fence,
    Figures,
    check_counted_once,
    check_facts_priced,
    check_raw_records,
    check_repeats,
    check_totals,
    check_within_log,
    newest_in_store,
    rebuild_totals,
    slices,
)
from clickhouse.client import Store
from clickhouse.corrections import check_corrections
from schemas.errors import AnswerIsNo, WrongUse
from tally.alert_audit import check_alerts
from tally.connect import store_address
from tally.kafka import LogView as KafkaLog
from tally.output import Format, FormatOption, counted, default_format, print_csv, print_json, print_line, print_table
from tally.publication_audit import check_published
from tally.report import checked_org

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clickhouse.audit import LogView, Position, Slice
    from schemas.topics import Topics
    from tally.publication_audit import TopicView
    from tally.settings import Settings

#: A question about many facts may take long; it is bounded by the number of facts in a slice.
QUESTION_SECONDS_MAX: Final = 3_600.0
POLL_SECONDS: Final = 0.5
COLUMNS: Final = ("check", "ok", "expected", "found", "detail")


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found: its checks, and where totals differ from their facts."""

    checks: list[Check]
    figures: Figures
    differing: list[Slice]
    fence: Fence

    @property
    def balanced(self) -> bool:
        """Whether every check is fine."""
        return all(check.ok for check in self.checks)


def audit_command(
    context: typer.Context,
    *,
    org: Annotated[str | None, typer.Option("--org", help="Only this org's facts and totals, else all.")] = None,
    heal: Annotated[
        bool, typer.Option("--heal", help="Rebuild differing totals from the facts; workers must be stopped.")
    ] = False,
    timeout_seconds: Annotated[
        float, typer.Option("--timeout", min=0, help="How long to wait until what is priced is counted, in seconds.")
    ] = 60.0,
    form: FormatOption = None,
) -> None:
    r"""Prove that raw records are accounted for, totals are their facts, alerts right and published; 1 on a difference.

    Raw records have no org until they are read, so they are always checked for all orgs.
    What alerts' topics lack is published again by workers that go back in the log; docs/operating.md says how.

    \b
    Examples:
      tally audit
      tally audit --org acme --format json
      tally audit --heal
    """
    settings: Settings = context.obj.settings()
    whose = "" if org is None else checked_org(org)
    log = KafkaLog(settings)
    horizon = timedelta(days=settings.dedupe_days)
    with closing(Store(store_address(settings), timeout_seconds=QUESTION_SECONDS_MAX)) as store:
        if heal:
            _refuse_while_workers_run(log)
        found = audit(store, log, topics=settings.topics, org=whose, horizon=horizon, timeout_seconds=timeout_seconds)
        if heal and found.differing:
            _refuse_while_workers_run(log)
            rebuild_totals(store, within=found.differing, fence=found.fence)
            found = audit(
                store, log, topics=settings.topics, org=whose, horizon=horizon, timeout_seconds=timeout_seconds
            )
    _print(found, form=form or default_format())
    if not found.balanced:
        wrong = ", ".join(
            f"{check.check} (expected {check.expected}, found {check.found})" for check in found.checks if not check.ok
        )
        raise AnswerIsNo(f"The books do not balance: {wrong}.")


def audit(  # noqa: PLR0913 -- the parts of one question
    store: Store, log: TopicView, *, topics: Topics, org: str, horizon: timedelta, timeout_seconds: float
) -> Audit:
    """Runs every check; ``org`` "" is all of them. Nothing is written."""
    raw = log.positions(topics.events)
    waited_for = _wait_until_counted(log, topic=topics.priced, timeout_seconds=timeout_seconds)
    fence = _fence(log, topic=topics.priced)
    newest = newest_in_store(store, topic=topics.events)
    positions = {"raw": log.positions(topics.events), "priced": log.positions(topics.priced)}
    begins = {partition: at.begin for partition, at in positions["priced"].items()}
    within = slices(store, org=org)
    facts_priced, facts = check_facts_priced(store, within=within)
    accounted, unaccounted_events = check_raw_records(store, topic=topics.events, positions=raw, held=log.held)
    totals, differing, drift_cost = check_totals(
        store, within=within, fence=fence, next_fence=lambda: _fence(log, topic=topics.priced)
    )
    checks = [
        waited_for,
        *accounted,
        check_within_log(newest, positions=positions),
        check_counted_once(store, org=org, facts=facts, horizon=horizon),
        check_repeats(store, org=org, fence=fence),
        facts_priced,
        check_corrections(store, within=within),
        *totals,
        check_alerts(store, org=org, fence=fence),
        *check_published(store, log, topics=topics, org=org, fence=fence, begins=begins),
    ]
    return Audit(checks, Figures(unaccounted_events, drift_cost), differing, fence)


def _wait_until_counted(log: LogView, *, topic: str, timeout_seconds: float) -> Check:
    """Waits until the blocks that are in the log now are committed; gives up at once when no worker runs."""
    positions = log.positions(topic)
    ends = {partition: at.end for partition, at in positions.items()}
    deadline = time.monotonic() + timeout_seconds
    while (behind := _behind(positions, ends)) and time.monotonic() < deadline and log.live_members():
        time.sleep(POLL_SECONDS)
        positions = log.positions(topic)
    blocks = sum(ends[partition] - at.begin for partition, at in positions.items())
    return Check(
        check="priced_blocks_counted",
        ok=not behind,
        expected=str(blocks),
        found=str(blocks - behind),
        detail=f"{counted(behind, 'block')} of {topic} {'is' if behind == 1 else 'are'} not counted yet: "
        "run `tally worker`, or wait longer (--timeout)."
        if behind
        else "",
    )


def _behind(positions: Mapping[int, Position], ends: Mapping[int, int]) -> int:
    return sum(max(0, end - positions[partition].committed) for partition, end in ends.items())


def _fence(log: LogView, *, topic: str) -> Fence:
    # The members first: a worker that starts after the look writes nothing before the offsets that are read then.
    live = bool(log.live_members())
    return Fence({partition: at.committed for partition, at in log.positions(topic).items()}, live=live)


def _refuse_while_workers_run(log: LogView) -> None:
    if members := log.live_members():
        raise WrongUse(
            f"{counted(len(members), 'worker')} {'is' if len(members) == 1 else 'are'} running, "
            "so totals can't be rebuilt: stop all workers (a killed one is forgotten "
            "after TALLY_SESSION_TIMEOUT_SECONDS), then repeat `tally audit --heal`."
        )


def _print(found: Audit, *, form: Format) -> None:
    rows = [asdict(check) for check in found.checks]
    figures = {
        "unaccounted_events": found.figures.unaccounted_events,
        "drift_cost": f"{found.figures.drift_cost:.{COST_DECIMALS}f}",
    }
    match form:
        case Format.JSON:
            print_json({"balanced": found.balanced, **figures, "checks": rows})
        case Format.CSV:
            print_csv(rows, columns=COLUMNS)
        case Format.TABLE:
            title = "The books balance." if found.balanced else "The books do not balance."
            # Details are sentences: under the table, where they may be long.
            print_table(rows, columns=COLUMNS[:-1], title=title)
            print_line(
                f"{counted(found.figures.unaccounted_events, 'event')} unaccounted for; "
                f"costs of totals and facts differ by {figures['drift_cost']}."
            )
            for check in found.checks:
                if check.detail:
                    print_line(f"{check.check}: {check.detail}")

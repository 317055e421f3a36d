"""``tally rules backtest``: when rules would have fired, by the judge of the workers over what was counted.

The log of one org is judged again from the store, as if the rules had been in force from its beginning. Calendar
windows need no more of it than the windows that the period touches; an alert of a rolling window lasts from event to
event, so for these it is read from its first fact.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import polars as pl
import typer

from agents.answers import answer
from agents.catalog_follower import RULE_SET
from clickhouse import reports
from clickhouse.catalog import newest_revisions
from clickhouse.counted_log import CONTROL, NO_END, SINCE_EVER_US, CountedLog, partitions_of
from clickhouse.judging import in_force_before
from pipeline import report
from pipeline.judging.alerts import alert_messages
from pipeline.judging.memory import JudgeMemory
from pipeline.judging.steps import AskAlerts
from pipeline.memory_alerts import alert_answer
from pipeline.periods import calendar_window, parse_instant, parse_period
from schemas.alerting import InForce
from schemas.errors import WrongUse
from schemas.rules import next_rule_revision
from tally.catalog import load_files
from tally.catalog_plan import RefusedCatalogError
from tally.commands import examples, refuse
from tally.connect import open_store
from tally.output import Format, FormatOption, counted, default_format, print_csv, print_json, print_line, print_table
from tally.rejudging import ROWS_AT_ONCE, Rejudging
from tally.report import ALERTS, NowOption, OrgOption, checked_org

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from clickhouse.client import Store
    from pipeline.judging.steps import AlertQuestion
    from schemas.reports import Period
    from schemas.rules import Rule, RuleSet

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
RULE_COLUMNS: Final = ("rule", "fired", "resolved")

rules_app = typer.Typer(
    name="rules",
    help="Rules before they are in force.",
    epilog=examples("tally rules backtest rules.yaml --org acme --period 2026-03"),
    no_args_is_help=True,
    rich_markup_mode=None,
)


class Backtest(NamedTuple):
    """What rules would have said: ``alerts`` as ``usage.alerts`` would have them, in the order of the log."""

    alerts: list[dict[str, Any]]
    rules: list[dict[str, Any]]


@rules_app.callback()
def _rules() -> None:
    """Rules before they are in force."""


@rules_app.command("backtest", short_help="When rules would have fired.")
def backtest_command(  # noqa: PLR0913 -- options of a command
    context: typer.Context,
    *,
    file: Annotated[Path, typer.Argument(help="A YAML file of rules.")],
    org: OrgOption,
    period: Annotated[str, typer.Option("--period", help="Of the events behind the alerts (see `report alerts`).")],
    now: NowOption = None,
    form: FormatOption = None,
) -> None:
    r"""When the rules of a file would have fired for one org, by what was counted.

    They are judged as by the workers, as if they had been in force from the first event on. Nothing is written.

    \b
    Examples:
      tally rules backtest rules.yaml --org acme --period 2026-03
      tally rules backtest rules.yaml --org acme --period month --format json
    """
    checked_org(org)
    span = parse_period(period, now=datetime.now(UTC) if now is None else parse_instant(now))
    rules = _rules_of(file)
    with closing(open_store(context.obj.settings())) as store:
        found = backtest(store, rules, org=org, period=span, progress=_progress)
    _print(found, org=org, period=span, form=form or default_format())


def _rules_of(path: Path) -> RuleSet:
    try:
        (file,) = load_files([path])
    except RefusedCatalogError as error:
        refuse(error, "nothing was judged")
    if file.rule_set is None:
        raise WrongUse(f"{path} has no `rules`: name a file of rules, as `tally catalog apply` takes it.")
    return file.rule_set


def backtest(
    store: Store, rules: RuleSet, *, org: str, period: Period, progress: Callable[[int], AbstractContextManager[Bar]]
) -> Backtest:
    """Judges the counted log of an org by these rules; transitions whose event happened in the period.

    A rule that is in force with the same content keeps its revision, so that its alerts have the ids that they have;
    any other gets the next one.
    """
    stretches_of = {
        log: [stretch for stretch in log.stretches(rows_max=ROWS_AT_ONCE) if stretch.kind != CONTROL]
        for log in (
            CountedLog(store, partition, org, _since_us(rules.rules, org=org, period=period))
            for partition in partitions_of(store, org=org)
        )
    }
    alerts: list[dict[str, Any]] = []
    tried = rules
    with progress(sum(stretch.rows for stretches in stretches_of.values() for stretch in stretches)) as bar:
        for log, stretches in stretches_of.items():
            in_force = in_force_before(store, partition=log.partition, before=NO_END)
            tried = _revised(store, rules, in_force=in_force)
            currency = in_force.currency or reports.currency(store)
            said = _Said(store)
            judging = Rejudging(log, JudgeMemory(InForce(currency, {tried.name: tried})), said.answered)
            for stretch in stretches:
                told = judging.judge(stretch)
                said.add(told)
                alerts += _within(told, period)
                bar.advance(stretch.rows)
    turns = Counter((alert["rule"], alert["transition"]) for alert in alerts)
    sums = [
        {"rule": rule.id, "fired": turns[rule.id, "fired"], "resolved": turns[rule.id, "resolved"]}
        for rule in tried.rules
    ]
    return Backtest(alerts, sums)


@dataclass
class _Said:
    """Answers by the store, but for alerts: those are what was said in this run."""

    store: Store
    _latest: dict[str, dict[str, Any]] = field(default_factory=dict)

    def answered(self, question: AlertQuestion) -> Any:  # noqa: ANN401 -- by the question
        """As the judge expects it."""
        if isinstance(question, AskAlerts):
            return alert_answer(question, facts=(), alerts=self._latest.values(), controls=())
        return answer(question, self.store)

    def add(self, alerts: pl.DataFrame) -> None:
        """Notes transitions, in their order."""
        self._latest.update((row["alert_id"], row) for row in alerts.iter_rows(named=True))


def _revised(store: Store, rules: RuleSet, *, in_force: InForce) -> RuleSet:
    """The rules as an apply would number them."""
    applied = (stored.revision for stored in newest_revisions(store).values() if stored.kind == RULE_SET)
    newest = max((*applied, *(known.revision for known in in_force.rule_sets.values())), default=0)
    return next_rule_revision(rules, in_force=in_force.rule_sets.get(rules.name), newest=newest)


def _since_us(rules: Sequence[Rule], *, org: str, period: Period) -> int:
    """From where on events can be behind what the rules say in the period, in microseconds since 1970."""
    windows = {rule.window for rule in rules if rule.watches_org(org)}
    if period.start is None or any(window.is_rolling for window in windows):
        return SINCE_EVER_US
    starts = [calendar_window(window, holds=period.start).start for window in windows]
    if not all(starts):
        return SINCE_EVER_US
    earliest = min((start for start in starts if start is not None), default=period.start)
    return max(SINCE_EVER_US, (earliest - _EPOCH) // timedelta(microseconds=1))


def _within(alerts: pl.DataFrame, period: Period) -> list[dict[str, Any]]:
    times = alerts.get_column("crossed_time").to_list()
    own = [
        (period.start is None or period.start <= time) and (period.end is None or time < period.end) for time in times
    ]
    return [json.loads(value) for _, value in alert_messages(alerts.filter(pl.Series(own, dtype=pl.Boolean)))]


class Bar:
    """A bar on a terminal, nothing elsewhere."""

    def advance(self, rows: int) -> None:
        """Moves on by so many facts."""


def _progress(rows: int) -> AbstractContextManager[Bar]:
    return _bar(rows) if rows and sys.stderr.isatty() else nullcontext(Bar())


@contextmanager
def _bar(rows: int) -> Iterator[Bar]:
    from rich.console import Console  # noqa: PLC0415 -- only where a person looks
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("judging facts"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as shown:
        task = shown.add_task("", total=rows)

        class Moving(Bar):
            def advance(self, rows: int) -> None:
                shown.advance(task, rows)

        yield Moving()


def _print(found: Backtest, *, org: str, period: Period, form: Format) -> None:
    match form:
        case Format.JSON:
            print_json({"org": org, "period": report.span(period), "alerts": found.alerts, "rules": found.rules})
        case Format.CSV:
            print_csv(found.alerts, columns=ALERTS.fields)
        case Format.TABLE:
            span = report.span(period)
            when = f"{span['start']} to {span['end']}" if span["start"] else "all of time"
            title = f"What these rules would have told of {org}, {when}"
            print_table(map(ALERTS.told, found.alerts), columns=ALERTS.columns, title=title)
            print_table(found.rules, columns=RULE_COLUMNS)
            print_line(f"{counted(len(found.alerts), 'transition')} of {counted(len(found.rules), 'rule')}.")

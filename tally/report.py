"""``tally report``: answers for people, finance and machines, each with how complete it is.

Gather (clickhouse/reports.py), decide (pipeline/report.py), print. The lag is read before the store is: what had been
counted by then is in the answer, so a lag of 0 means that nothing sent before the question is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from clickhouse import reports
from clickhouse.catalog import books_in_force
from clickhouse.corrections import invoice_with_corrections
from pipeline import bridge, report
from pipeline.period_price import explained, price_month
from pipeline.periods import (
    ALL_TIME,
    calendar_window,
    day_of,
    month_named,
    month_of,
    parse_instant,
    parse_period,
    rolling_window,
    week_of,
    windows_starting_in,
)
from schemas.errors import WrongUse
from schemas.reports import Period
from schemas.rules import Scope, Window
from tally.commands import examples
from tally.connect import open_store
from tally.kafka import total_lag
from tally.output import (
    Format,
    FormatOption,
    counted,
    default_format,
    print_csv,
    print_json,
    print_json_list,
    print_line,
    print_table,
    warn,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from clickhouse.client import Store
    from schemas.reports import Figures, InvoiceSum, LaneSum
    from tally.settings import Settings

#: An org has at most this many characters (contract of the event); a longer one can't be meant.
ORG_CHARACTERS_MAX: Final = 128

#: Rows of a list that a person gets to see unless asked for more; machines get all.
TABLE_ROWS: Final = 100

LANE_COLUMNS: Final = ("lane", "requests", "cost", "share", "running_share")
SUCCESS_COLUMNS: Final = ("lane", "requests", "ok", "failed", "success_rate", "failed_cost")
LINE_COLUMNS: Final = ("operation", "model", "meter", "quantity", "cost", "exact_cost")
CORRECTION_COLUMNS: Final = ("kind", "corrects", *LINE_COLUMNS)
PROJECT_COLUMNS: Final = ("project", "cost", "exact_cost", "share")
PART_COLUMNS: Final = ("part", "lane", "amount")
STEP_COLUMNS: Final = (
    *("period_price", "meter", "step", "above", "up_to", "quantity", "price", "per", "flat", "packages", "exact_cost"),
)
UNPRICED_COLUMNS: Final = ("operation", "provider", "model", "meter", "events", "quantity", "since")
UNPRICED_CSV_COLUMNS: Final = (*UNPRICED_COLUMNS, "fix", "nearest")
WINDOW_COLUMNS: Final = (
    "window", "requests", "ok", "failed", "success_rate", "input_tokens", "output_tokens", "cost", "unpriced",
)  # fmt: skip
SCOPE_WINDOW_COLUMNS: Final = ("id", "start", "requests", "ok", "failed", "tokens", "cost", "unpriced")


class Listing(NamedTuple):
    """A report that is a list of rows: how it is read, what machines get of a row, which columns people see.

    ``shown`` makes of a row of the store what a machine gets, with these ``fields``; ``told`` of that what a person
    gets, with these ``columns``.
    """

    name: str
    title: str
    read: Callable[..., Iterator[dict[str, Any]]]
    fields: Sequence[str]
    columns: Sequence[str]
    shown: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    told: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict


def _with_instant(row: Mapping[str, Any], *, fields: Sequence[str], instant: str, stored_as: str) -> dict[str, Any]:
    """The fields of a row as they are stored, but for its instant."""
    return {field: report.instant(row[stored_as]) if field == instant else row[field] for field in fields}


def _told_alert(alert: Mapping[str, Any]) -> dict[str, Any]:
    """An alert in the few columns that a person reads."""
    return {
        **alert,
        "time": (alert["crossed_by"] or {}).get("time"),
        "scope": f"{alert['scope']['kind']} {alert['scope']['id']}",
        "window": " ".join(filter(None, (alert["window"]["kind"], alert["window"]["start"]))),
        "measure": " ".join(filter(None, (alert["measure"], alert["unit"]))),
    }


REJECTED_FIELDS: Final = (
    *("reason", "detail", "topic", "partition", "offset", "index", "received_at", "org", "id"),
    *("payload_sha256", "payload_prefix"),
)
DUPLICATES_FIELDS: Final = (
    *("kind", "org", "source", "id", "time", "topic", "partition", "offset", "index"),
    *("first_topic", "first_partition", "first_offset", "first_index"),
)


REJECTED: Final = Listing(
    name="rejected",
    title="Refused",
    read=reports.rejected,
    fields=REJECTED_FIELDS,
    columns=("received_at", "reason", "org", "id", "detail", "partition", "offset", "index"),
    shown=partial(_with_instant, fields=REJECTED_FIELDS, instant="received_at", stored_as="received_us"),
)
DUPLICATES: Final = Listing(
    name="duplicates",
    title="Repeats",
    read=reports.duplicates,
    fields=DUPLICATES_FIELDS,
    columns=(
        *("kind", "source", "id", "time", "partition", "offset", "index"),
        *("first_partition", "first_offset", "first_index"),
    ),
    shown=partial(_with_instant, fields=DUPLICATES_FIELDS, instant="time", stored_as="time_us"),
)
ALERTS: Final = Listing(
    name="alerts",
    title="Alerts",
    read=reports.alerts,
    fields=(
        *("alert_id", "sequence", "transition", "rule", "rule_revision", "org", "scope", "measure", "unit", "window"),
        *("threshold", "percent", "budget", "value", "highest", "crossed_by", "top", "completeness", "method"),
    ),
    columns=("time", "transition", "rule", "scope", "measure", "window", "threshold", "value", "highest"),
    shown=report.alert,
    told=_told_alert,
)


class By(StrEnum):
    """What lanes are made of (``--by``)."""

    PROJECT = "project"
    API_KEY = "api_key"
    MODEL = "model"
    OPERATION = "operation"
    USER = "user"


OrgOption = Annotated[str, typer.Option("--org", help="The org that pays.")]
ByOption = Annotated[By, typer.Option("--by", help="What the lanes are.")]
PeriodOption = Annotated[
    str,
    typer.Option(
        "--period",
        help="2026-03, 2026-03-01, 2026-W10, 2026-03-01T00:00Z/2026-03-02T00:00Z, today, week, month or total (UTC).",
    ),
]
NowOption = Annotated[
    str | None, typer.Option("--now", help="The instant that today, week and month are seen from, else the clock's.")
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, help=f"At most so many rows; {TABLE_ROWS} in a table, else all.")
]

report_app = typer.Typer(
    name="report",
    help="Answers from what was counted; each says how complete it is.",
    epilog=examples(
        "tally report summary --org acme",
        "tally report concentration --org acme --by model --period 2026-03",
        "tally report invoice --org acme --period 2026-03 --format json",
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
)


@dataclass(frozen=True, slots=True)
class Question:
    """What every report starts from: whose figures, of which span, in which form; and what was still on the way."""

    settings: Settings
    store: Store
    org: str
    period: Period
    now: datetime
    form: Format
    lag: int | None

    @property
    def max_age(self) -> timedelta:
        """How late an event may still come in."""
        return timedelta(days=self.settings.max_age_days)

    def completeness(self, figures: Figures) -> report.Json:
        """How far an answer with these figures can be relied on."""
        refusals = reports.refusals(self.store, org=self.org, period=self.period)
        return report.completeness(figures, refusals=refusals, lag=self.lag)

    def lanes(self, by: By) -> list[LaneSum]:
        """The sums of each lane."""
        return reports.lanes(self.store, org=self.org, by=by.value, period=self.period)


@report_app.command("summary", short_help="Today, this week, this month and all of time.")
def summary_command(
    context: typer.Context, *, org: OrgOption, now: NowOption = None, form: FormatOption = None
) -> None:
    r"""Today, this week, this month and all of time: requests, successes, tokens, cost.

    \b
    Examples:
      tally report summary --org acme
    """
    with _question(context, org=org, period="total", now=now, form=form) as asked:
        spans = {"today": day_of(asked.now), "week": week_of(asked.now), "month": month_of(asked.now)}
        spans["total"] = ALL_TIME
        sums = dict(zip(spans, reports.windows(asked.store, org=org, periods=list(spans.values())), strict=True))
        total = sums["total"]
        figures = total.figures if total else report.NOTHING
        document = {"org": org, **report.summary(sums), "completeness": asked.completeness(figures)}
        rows = [{"window": name, **window} for name, window in document["windows"].items()]
        _print(asked.form, document, rows, columns=WINDOW_COLUMNS, title=f"Summary of {org} at {_at(asked.now)}")


@report_app.command("windows", short_help="The windows that rules watch, each with its sums.")
def windows_command(  # noqa: PLR0913 -- options of a command
    context: typer.Context,
    *,
    org: OrgOption,
    scope: Annotated[Scope, typer.Option("--scope", help="Whose windows: one per value; no value, no window.")],
    window: Annotated[Window, typer.Option("--window", help="Of the calendar (UTC), or rolling: 5m to 7d.")],
    period: Annotated[
        str | None,
        typer.Option("--period", help="All windows that start in it (see `report invoice`), else the current one."),
    ] = None,
    now: NowOption = None,
    form: FormatOption = None,
) -> None:
    r"""The current window of each project, key and so on; with a period, all that start in it.

    The current calendar window is the one that holds now. A rolling window moves with the events, as for a rule: it is
    the last steps up to that of the org's newest event, or of the newest one up to the step of now.

    \b
    Examples:
      tally report windows --org acme --scope project --window day
      tally report windows --org acme --scope api_key --window 5m
    """
    _check_window_period(window, period)
    with _question(context, org=org, period=period or "total", now=now, form=form) as question:
        span = _span_of_windows(question, window, of_period=period is not None)
        asked = replace(question, period=span)
        sums = reports.scope_windows(asked.store, org=org, scope=scope, window=window, period=span)
        document = {
            "org": org,
            "scope": scope.value,
            "window": window.value,
            **report.windows(sums),
            "completeness": asked.completeness(report.figures_of_lanes(sums)),
        }
        title = f"Windows ({window.value}) of {org} by {scope.value}, {_span(span)}"
        _print(asked.form, document, document["windows"], columns=SCOPE_WINDOW_COLUMNS, title=title)


@report_app.command("alerts", short_help="What the rules have told.")
def alerts_command(  # noqa: PLR0913 -- options of a command
    context: typer.Context,
    *,
    org: OrgOption,
    period: PeriodOption = "total",
    limit: LimitOption = None,
    now: NowOption = None,
    form: FormatOption = None,
) -> None:
    r"""What the rules have told, each transition as it is on usage.alerts, newest first.

    A transition belongs to the period in which the event behind it happened.

    \b
    Examples:
      tally report alerts --org acme --period 2026-03
    """
    with _question(context, org=org, period=period, now=now, form=form) as asked:
        _print_listing(asked, ALERTS, limit=limit)


@report_app.command("concentration", short_help="Where the cost goes: lanes, shares, hhi.")
def concentration_command(  # noqa: PLR0913 -- options of a command
    context: typer.Context,
    *,
    org: OrgOption,
    by: ByOption = By.PROJECT,
    period: PeriodOption = "month",
    now: NowOption = None,
    form: FormatOption = None,
) -> None:
    r"""Where the cost goes: lanes by cost, their shares, and how few of them hold 80 %.

    \b
    Examples:
      tally report concentration --org acme --by project --period 2026-03
    """
    with _question(context, org=org, period=period, now=now, form=form) as asked:
        document = _lanes_document(asked, by=by, shape=report.concentration)
        title = f"Cost of {org} by {by.value}, {_span(asked.period)}: {document['total']}"
        if document["lanes_to_80"]:
            title += f"; 80 % of it in {document['lanes_to_80']} of {len(document['lanes'])}, hhi {document['hhi']}"
        _print(asked.form, document, document["lanes"], columns=LANE_COLUMNS, title=title)


@report_app.command("success", short_help="What succeeded, what failed, and what that cost.")
def success_command(  # noqa: PLR0913 -- options of a command
    context: typer.Context,
    *,
    org: OrgOption,
    by: ByOption = By.PROJECT,
    period: PeriodOption = "month",
    now: NowOption = None,
    form: FormatOption = None,
) -> None:
    r"""What succeeded and what failed in each lane, and what the failures cost; the dearest failures first.

    \b
    Examples:
      tally report success --org acme --by model --period 2026-03
    """
    with _question(context, org=org, period=period, now=now, form=form) as asked:
        document = _lanes_document(asked, by=by, shape=report.success)
        title = f"Success of {org} by {by.value}, {_span(asked.period)}"
        _print(asked.form, document, document["lanes"], columns=SUCCESS_COLUMNS, title=title)


@report_app.command("invoice", short_help="The invoice's shape, live.")
def invoice_command(
    context: typer.Context,
    *,
    org: OrgOption,
    period: PeriodOption = "month",
    now: NowOption = None,
    form: FormatOption = None,
) -> None:
    r"""The invoice's shape, live: lines and projects in cents that sum to the total.

    Of a whole month with its period prices, and the steps to them. It is open as long as an event of its month could
    still come in (TALLY_MAX_AGE_DAYS after its end), then closed: what is corrected later stands on the invoice of the
    month in which it was corrected.

    \b
    Examples:
      tally report invoice --org acme --period 2026-03
    """
    with _question(context, org=org, period=period, now=now, form=form) as asked:
        sums = invoice_with_corrections(asked.store, org=org, period=asked.period, max_age=asked.max_age)
        document = {
            "org": org,
            "period": report.span(asked.period),
            "currency": reports.currency(asked.store),
            "state": report.state(asked.period, now=asked.now, max_age=asked.max_age),
            **_invoice(asked, sums),
            "completeness": asked.completeness(report.figures_of_invoice(sums)),
        }
        columns = CORRECTION_COLUMNS if any("kind" in line for line in document["lines"]) else LINE_COLUMNS
        if asked.form is not Format.TABLE:
            _print(asked.form, document, document["lines"], columns=columns, title="")
            return
        due = f"{document['total']} {document['currency']} ({document['state']})"
        print_table(document["lines"], columns=columns, title=f"Invoice of {org}, {_span(asked.period)}: {due}")
        print_table(document["project_breakdown"], columns=PROJECT_COLUMNS)
        _print_steps(document["period_prices"])
        print_line(_relied_on(document["completeness"]))


@report_app.command("why", short_help="Why it costs more or less than before.")
def why_command(  # noqa: PLR0913 -- options of a command
    context: typer.Context,
    *,
    org: OrgOption,
    against: Annotated[str, typer.Option("--against", help="The period to compare with, written like --period.")],
    period: PeriodOption = "month",
    by: ByOption = By.PROJECT,
    now: NowOption = None,
    form: FormatOption = None,
) -> None:
    r"""Why a period costs more or less than another: parts that sum to the difference exactly, by lane.

    volume: more requests; mix: other models, or more per request; price: other prices of a unit; new and gone: used in
    one period only; unpriced: a price that came or went. Of whole months the costs are those of their invoices.

    \b
    Examples:
      tally report why --org acme --period 2026-03 --against 2026-02 --by model
    """
    now = now or datetime.now(UTC).isoformat()  # one clock for both periods
    against_period = parse_period(against, now=parse_instant(now))
    with _question(context, org=org, period=period, now=now, form=form) as asked:
        compared = replace(asked, period=against_period)
        (before, before_figures), (after, after_figures) = (_side(side, by=by) for side in (compared, asked))
        document = {
            "org": org,
            "by": by.value,
            "period": report.span(asked.period),
            "against": report.span(compared.period),
            "currency": reports.currency(asked.store),
            **bridge.bridge(before, after),
            "completeness": asked.completeness(after_figures),
            "against_completeness": compared.completeness(before_figures),
        }
        title = (
            f"Cost of {org} by {by.value}, {_span(asked.period)} against {_span(compared.period)}: "
            f"{document['from']} to {document['to']}, difference {document['difference']} {document['currency']}"
        )
        _print(asked.form, document, document["parts"], columns=PART_COLUMNS, title=title)


@report_app.command("unpriced", short_help="What was used without a price.")
def unpriced_command(
    context: typer.Context,
    *,
    org: OrgOption,
    period: PeriodOption = "total",
    now: NowOption = None,
    form: FormatOption = None,
) -> None:
    r"""What was used without a price, by meter and since when; nothing of it is in any cost.

    And what would price it: a line for a price book, with the price to fill in, and the row that nearly matched.

    \b
    Examples:
      tally report unpriced --org acme --period 2026-03
    """
    with _question(context, org=org, period=period, now=now, form=form) as asked:
        sums = reports.unpriced_sums(asked.store, org=org, period=asked.period)
        document = {
            "org": org,
            "period": report.span(asked.period),
            **report.unpriced(sums, org=org, books=books_in_force(asked.store)),
            "completeness": asked.completeness(report.figures_of_unpriced(sums)),
        }
        if asked.form is not Format.TABLE:
            _print(asked.form, document, document["unpriced"], columns=UNPRICED_CSV_COLUMNS, title="")
            return
        title = f"Used by {org} without a price, {_span(asked.period)}"
        print_table(document["unpriced"], columns=UNPRICED_COLUMNS, title=title)
        if document["unpriced"]:
            print_line("These lines under `prices` of a book would price it from now on, with the price filled in:")
        for row in document["unpriced"]:
            print_line(f"  {row['fix']}")
            if row["nearest"]:
                print_line(f"    # nearly matches: {row['nearest']['price_id']}; {row['nearest']['why']}")
        print_line(_relied_on(document["completeness"]))


@report_app.command("rejected", short_help="What was refused, and why.")
def rejected_command(  # noqa: PLR0913 -- options of a command
    context: typer.Context,
    *,
    org: Annotated[str | None, typer.Option("--org", help="Only this org, else all of them.")] = None,
    period: PeriodOption = "total",
    limit: LimitOption = None,
    now: NowOption = None,
    form: FormatOption = None,
) -> None:
    r"""What was refused and why, conflicts included, newest first; without --org also what names no readable org.

    The period is that of the record's arrival, since a refused event may have no readable time.

    \b
    Examples:
      tally report rejected --org acme --period today
    """
    with _question(context, org=org, period=period, now=now, form=form) as asked:
        _print_listing(asked, REJECTED, limit=limit)


@report_app.command("duplicates", short_help="Repeats of counted events.")
def duplicates_command(  # noqa: PLR0913 -- options of a command
    context: typer.Context,
    *,
    org: OrgOption,
    period: PeriodOption = "total",
    limit: LimitOption = None,
    now: NowOption = None,
    form: FormatOption = None,
) -> None:
    r"""Repeats of counted events, with the coordinates of both records, newest event first; none of them is billed.

    \b
    Examples:
      tally report duplicates --org acme --period 2026-03
    """
    with _question(context, org=org, period=period, now=now, form=form) as asked:
        _print_listing(asked, DUPLICATES, limit=limit)


@contextmanager
def _question(
    context: typer.Context, *, org: str | None, period: str, now: str | None, form: Format | None
) -> Iterator[Question]:
    """Looks at the words first, then at the lag, and only then opens the store and warns of a lag that is unknown."""
    if org is not None:
        checked_org(org)
    seen_from = datetime.now(UTC) if now is None else parse_instant(now)
    span = parse_period(period, now=seen_from)
    settings: Settings = context.obj.settings()
    lag = total_lag(settings)
    with closing(open_store(settings)) as store:
        if lag is None:  # said only now: without the store there is no answer that could lack it
            warn("Kafka can't be asked how many records are still on their way: lag is null (`tally drain` says why).")
        yield Question(
            settings=settings,
            store=store,
            org=reports.EVERY_ORG if org is None else org,
            period=span,
            now=seen_from,
            form=form or default_format(),
            lag=lag,
        )


def _check_window_period(window: Window, period: str | None) -> None:
    """Refuses a period for windows that start in none."""
    if period is not None and window.is_rolling:
        raise WrongUse(f"A rolling window ends with the newest event: leave --period out, or see --now ({window}).")
    if period not in (None, "total") and window is Window.TOTAL:
        raise WrongUse("The window total is all of time and starts in no period: leave --period out.")


def _span_of_windows(asked: Question, window: Window, *, of_period: bool) -> Period:
    """What the asked windows span together.

    Raises:
        WrongUse: a window would end beyond the year 9999.
    """
    try:
        if of_period:
            return windows_starting_in(window, asked.period)
        if not window.is_rolling:
            return calendar_window(window, holds=asked.now)
        latest = rolling_window(window, newest=asked.now)
        assert latest.end is not None  # noqa: S101 -- a rolling window has an end
        newest = reports.newest_time(asked.store, org=asked.org, before=latest.end)
        return latest if newest is None else rolling_window(window, newest=newest)
    except OverflowError as error:
        raise WrongUse("A window must end before the year 10000: choose an earlier --now or --period.") from error


def checked_org(org: str) -> str:
    """The org as given.

    Raises:
        WrongUse: it is empty, longer than any org, or not text.
    """
    if not org:
        raise WrongUse("--org is empty: name the org that pays.")
    if len(org) > ORG_CHARACTERS_MAX:
        raise WrongUse(f"--org is longer than an org can be ({ORG_CHARACTERS_MAX} characters).")
    if any("\ud800" <= character <= "\udfff" for character in org):
        raise WrongUse("--org holds bytes that are no UTF-8: no org can have this name.")
    return org


def _lanes_document(asked: Question, *, by: By, shape: Callable[[Iterable[LaneSum]], report.Json]) -> report.Json:
    lanes = asked.lanes(by)
    return {
        "org": asked.org,
        "by": by.value,
        "period": report.span(asked.period),
        **shape(lanes),
        "completeness": asked.completeness(report.figures_of_lanes(lanes)),
    }


def _invoice(asked: Question, sums: Sequence[InvoiceSum]) -> report.Json:
    """Lines and projects: of a whole month with its period prices, of any other span with what the events cost."""
    rows = reports.period_prices(asked.store, period=asked.period)
    month = month_named(asked.period)
    own, corrections = report.settled(sums)
    if month is None:
        return {**report.invoice([*own, *corrections]), "period_prices": None if rows else []}
    priced, pools = price_month(own, rows=rows, org=asked.org, month=month)
    return explained(report.invoice([*priced, *corrections]), pools)


def _side(asked: Question, *, by: By) -> tuple[bridge.Side, Figures]:
    """One period of a bridge, with what its completeness needs."""
    sums = reports.bridge_sums(asked.store, org=asked.org, by=by.value, period=asked.period)
    rows = reports.period_prices(asked.store, period=asked.period)
    side = bridge.side(sums, rows=rows, org=asked.org, month=month_named(asked.period))
    return side, bridge.figures_of_bridge(sums)


def _print_steps(pools: Sequence[report.Json] | None) -> None:
    """How the lines of period prices come about."""
    if pools is None:
        print_line("Period prices hold for whole months: in this span each line is what its events cost.")
    elif pools:
        named = [({"period_price": pool["id"], "meter": pool["meter"]}, pool["steps"]) for pool in pools]
        print_table(({**names, **step} for names, steps in named for step in steps), columns=STEP_COLUMNS)


def _print_listing(asked: Question, listing: Listing, *, limit: int | None) -> None:
    """The rows as they are read, so that a long list is never held in memory; a table shows the newest few."""
    # Completeness wants the sum of all lanes, so any lane does.
    completeness = asked.completeness(report.figures_of_lanes(asked.lanes(By.OPERATION)))
    if asked.form is Format.TABLE:
        limit = limit or TABLE_ROWS
    # One more than is printed, so that a table can say that there are more.
    found = listing.read(asked.store, org=asked.org, period=asked.period, limit=None if limit is None else limit + 1)
    rows = map(listing.shown, found)
    first_rows = islice(rows, limit)
    match asked.form:
        case Format.JSON:
            before = {"org": asked.org or None, "period": report.span(asked.period)}
            print_json_list(listing.name, first_rows, before=before, after={"completeness": completeness})
        case Format.CSV:
            print_csv(first_rows, columns=listing.fields)
        case Format.TABLE:
            title = f"{listing.title} of {asked.org or 'every org'}, {_span(asked.period)}"
            print_table(map(listing.told, first_rows), columns=listing.columns, title=title)
            if next(rows, None) is not None:
                print_line(f"These are the newest {limit}; --limit shows more.")
            print_line(_relied_on(completeness))


def _print(
    form: Format, document: report.Json, rows: Iterable[Mapping[str, Any]], *, columns: Sequence[str], title: str
) -> None:
    """The whole document as JSON, its main list as CSV, or a table with its completeness under it."""
    match form:
        case Format.JSON:
            print_json(document)
        case Format.CSV:
            print_csv(rows, columns=columns)
        case Format.TABLE:
            print_table(rows, columns=columns, title=title)
            print_line(_relied_on(document["completeness"]))


def _relied_on(completeness: report.Json) -> str:
    """The completeness as one line for a person."""
    lag = completeness["lag"]
    return (
        f"{counted(completeness['events'], 'event')} ({completeness['unpriced']} unpriced) up to "
        f"{completeness['watermark'] or 'no instant'}; not counted: {completeness['rejected']} rejected, "
        f"{counted(completeness['duplicates'], 'duplicate')}, {counted(completeness['conflicts'], 'conflict')}; "
        f"{'an unknown number of records' if lag is None else counted(lag, 'record')} on the way."
    )


def _span(period: Period) -> str:
    if period.start is None or period.end is None:
        return "all of time"
    return f"{_at(period.start)} to {_at(period.end)}"


def _at(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z").removesuffix("T00:00:00Z")

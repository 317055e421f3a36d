"""``tally reprice``: restates on purpose what counted events cost, as visible corrections through the log.

    counted events, page by page → price stage, by other books → what changes → correction blocks in usage.priced

Nothing is changed in place. The workers count the blocks in log order (pipeline/correct.py), so restating is as exact
under crashes as counting is. Killed in the middle, it is simply run again: what was corrected already costs what it
should and is not written a second time.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors

from agents.publishing import MESSAGE_BYTES_MAX
from agents.wiring import BLOCK_BYTES_MAX
from clickhouse import reports
from clickhouse.corrections import OrgEvents, events_to_reprice, orgs_to_reprice
from pipeline.block import CORRECTION_HEADER
from pipeline.periods import parse_instant, parse_period
from pipeline.price import compile_catalog
from pipeline.report import money, span, whole
from pipeline.reprice import LANE_OF_CHANGE, REPRICEABLE, reprice, sum_of_changes
from pipeline.route import route
from schemas.catalog_file import CatalogError
from schemas.correction import REASON_CHARACTERS_MAX, Correction
from schemas.errors import BrokerUnavailable, WrongUse
from schemas.price_book import PriceBook
from schemas.topics import MIB
from tally.catalog import read_catalog, read_revision
from tally.connect import open_store
from tally.kafka import admin, client_settings, close, missing_topic, partitions, run, start, total_lag
from tally.output import (
    Format,
    FormatOption,
    counted,
    default_format,
    print_csv,
    print_json,
    print_line,
    print_table,
    warn,
)
from tally.report import NowOption, checked_org

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    import polars as pl

    from clickhouse.client import Store
    from pipeline.price import CompiledCatalog
    from pipeline.reprice import Repriced
    from schemas.reports import Period
    from tally.settings import Settings

_SIDES: Final = ("old_cost", "new_cost")
SEND_SECONDS_MAX: Final = 60.0
COLUMNS: Final = (
    "org", "project", "operation", "model", "meter", "events", "old_cost", "new_cost", "difference",
)  # fmt: skip


def reprice_command(  # noqa: PLR0913 -- options of a command
    context: typer.Context,
    *,
    org: Annotated[
        str | None, typer.Option("--org", help="The org that pays; with --unpriced all orgs without it.")
    ] = (None),
    period: Annotated[
        str | None, typer.Option("--period", help="As in reports: 2026-03, 2026-03-01, …; with --unpriced total.")
    ] = None,
    book: Annotated[
        str | None, typer.Option("--book", help="NAME@REVISION to price by, beside the other books in force.")
    ] = None,
    unpriced: Annotated[
        bool, typer.Option("--unpriced", help="Only events that lack a price, by the books in force.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and write nothing.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why; it stands with every correction.")] = "",
    now: NowOption = None,
    form: FormatOption = None,
) -> None:
    r"""Price counted events again, on purpose, and show what that changes by lane.

    Corrections go through the log: facts gain a revision, totals move by the exact difference, the old figures stay
    in the view corrections. Twice changes nothing.

    \b
    Examples:
      tally reprice --org acme --period 2026-03 --book standard@4 --dry-run
      tally reprice --unpriced --reason "price of gpt-4o-mini was missing"
    """
    if (book is None) is not unpriced:
        raise WrongUse("Say --book NAME@REVISION to price by it, or --unpriced to fill what lacks a price; not both.")
    if book is not None and (org is None or period is None):
        raise WrongUse("--book restates figures: name the --org and the --period that it is for.")
    if len(reason) > REASON_CHARACTERS_MAX:
        raise WrongUse(f"--reason is longer than {REASON_CHARACTERS_MAX} characters.")
    seen_from = datetime.now(UTC) if now is None else parse_instant(now)
    asked = Restatement(
        org=reports.EVERY_ORG if org is None else checked_org(org),
        period=parse_period(period or "total", now=seen_from),
        book=book,
        reason=reason,
        dry_run=dry_run,
        requested_at=datetime.now(UTC),
    )
    answer = restate(context.obj.settings(), asked)
    _print(answer, form or default_format())


@dataclass(frozen=True, slots=True)
class Restatement:
    """What is to be restated; ``book`` None fills what lacks a price by the books in force."""

    org: str
    period: Period
    book: str | None
    reason: str
    dry_run: bool
    requested_at: datetime


@dataclass
class _Sums:
    """What the pages came to."""

    events: int = 0
    changed: int = 0
    unpriced_before: int = 0
    unpriced_after: int = 0
    changes: list[pl.DataFrame] = field(default_factory=list)

    def add(self, page: pl.DataFrame, repriced: Repriced) -> None:
        """One more page."""
        self.events += page.height
        self.changed += repriced.events
        self.unpriced_before += repriced.unpriced_before
        self.unpriced_after += repriced.unpriced_after
        self.changes = [sum_of_changes([*self.changes, repriced.changes])]


def restate(settings: Settings, asked: Restatement) -> dict[str, Any]:
    """Prices the events again and, unless it is a dry run, puts what changes into the log; gives the answer as JSON.

    Raises:
        WrongUse: no such book or revision, books that contradict each other, no event in the period, or no topics.
        ServerUnavailable: Kafka or ClickHouse is away; run it again, what was written is not written twice.
    """
    books = _books(settings, asked.book)
    catalog = _compiled(books)
    lag = total_lag(settings)
    with closing(open_store(settings)) as store:
        orgs = orgs_to_reprice(store, org=asked.org, period=asked.period)
        if not orgs:
            whose = f"{asked.org} has" if asked.org else "There are"
            raise WrongUse(f"{whose} no counted events in this period: there is nothing to restate.")
        if lag:  # said only now: a refusal is one sentence
            warn(f"{counted(lag, 'record')} on the way may hold events that are not looked at: `tally drain`, repeat.")
        correction = Correction(
            run=uuid.uuid4().hex,
            books=", ".join(f"{book.name}@{book.revision}" for book in books),
            reason=asked.reason,
            requested_at=asked.requested_at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        )
        sums = run(settings, _restate(settings, store, asked, orgs, catalog=catalog, correction=correction))
    return _answer(asked, correction, sums)


def _books(settings: Settings, named: str | None) -> list[PriceBook]:
    """The books to price by: those in force, with the named revision in place of its own."""
    books = {
        name: entry.content for name, entry in read_catalog(settings).items() if isinstance(entry.content, PriceBook)
    }
    if named is not None:
        name, _, revision = named.partition("@")
        if not name or not revision.isdecimal() or not int(revision):
            raise WrongUse(f"--book {named!r} is no NAME@REVISION, as in standard@4: see `tally catalog show`.")
        content = read_revision(settings, name, revision=int(revision)).content
        if not isinstance(content, PriceBook):
            raise WrongUse(f"{name} is a rule set: --book names a price book.")
        books[name] = content
    if not books:
        raise WrongUse("No price book is in force: `tally catalog apply` one first.")
    return [books[name] for name in sorted(books)]


def _compiled(books: Sequence[PriceBook]) -> CompiledCatalog:
    try:
        return compile_catalog(books)
    except CatalogError as error:
        raise WrongUse(f"These books can't be in force together: {error.mistakes[0].sentence}") from error


async def _restate(  # noqa: PLR0913 -- everything it touches is handed in
    settings: Settings,
    store: Store,
    asked: Restatement,
    orgs: Sequence[OrgEvents],
    *,
    catalog: CompiledCatalog,
    correction: Correction,
) -> _Sums:
    sums = _Sums()
    unpriced_only = asked.book is None
    events = sum(of.unpriced if unpriced_only else of.events for of in orgs)
    async with _outbox(settings, correction, dry_run=asked.dry_run) as send:
        with _progress(events) as advance:
            for of in orgs:
                pages = events_to_reprice(
                    store, org=of.org, period=asked.period, unpriced_only=unpriced_only, columns=REPRICEABLE
                )
                while (page := await asyncio.to_thread(next, pages, None)) is not None:
                    repriced = await asyncio.to_thread(reprice, page, book=catalog)
                    await send(repriced)
                    sums.add(page, repriced)
                    advance(page.height)
    return sums


@asynccontextmanager
async def _outbox(
    settings: Settings, correction: Correction, *, dry_run: bool
) -> AsyncIterator[Callable[[Repriced], Awaitable[None]]]:
    """What puts the changed events of a page into the log, acknowledged by all replicas; a dry run puts nothing."""

    async def nothing(_: Repriced) -> None:
        return

    if dry_run:
        yield nothing
        return
    topic = settings.topics.priced
    async with admin(settings) as client:
        numbers = (await partitions(client, [topic]))[topic]
    if not numbers:
        raise missing_topic(settings, topic)
    producer = AIOKafkaProducer(
        **client_settings(settings),
        acks="all",
        enable_idempotence=True,
        max_batch_size=MIB,
        max_request_size=MESSAGE_BYTES_MAX,
    )
    await start(producer, settings)
    headers = [(CORRECTION_HEADER, correction.to_header())]

    async def send(repriced: Repriced) -> None:
        for raw_topic, batch in repriced.changed.items():
            blocks = await asyncio.to_thread(
                route, batch, partitions=len(numbers), topic=raw_topic, block_bytes_max=BLOCK_BYTES_MAX
            )
            # An idempotent producer of aiokafka never gives up by itself.
            async with asyncio.timeout(SEND_SECONDS_MAX):
                sent = [
                    await producer.send(topic, value=value, partition=partition, headers=headers)
                    for partition, value in blocks
                ]
                await asyncio.gather(*sent)

    try:
        yield send
    except (kafka_errors.KafkaError, TimeoutError) as error:
        raise BrokerUnavailable(
            f"Kafka at {settings.kafka_bootstrap} stopped answering ({type(error).__name__}): run it again when Kafka "
            "is back, what is corrected already is not corrected twice."
        ) from error
    finally:
        await close(producer)


@contextmanager
def _progress(events: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere; what is given moves it by so many events."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415 -- only where a person looks
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(file=sys.stderr), transient=True) as shown:
        task = shown.add_task("pricing again", total=events)
        yield lambda more: shown.advance(task, more)


def _answer(asked: Restatement, correction: Correction, sums: _Sums) -> dict[str, Any]:
    lanes = [
        {
            **{name: lane[name] for name in LANE_OF_CHANGE},
            "events": lane["events"],
            "old_cost": money(whole(lane["old_cost"])),
            "new_cost": money(whole(lane["new_cost"])),
            "difference": money(whole(lane["new_cost"]) - whole(lane["old_cost"])),
        }
        for changes in sums.changes
        for lane in changes.iter_rows(named=True)
    ]
    old, new = (sum(whole(row[side]) for part in sums.changes for row in part.iter_rows(named=True)) for side in _SIDES)
    return {
        "org": asked.org,
        "period": span(asked.period),
        "books": correction.books,
        "run": None if asked.dry_run else correction.run,
        "dry_run": asked.dry_run,
        "events": sums.events,
        "changed": sums.changed,
        "unpriced_before": sums.unpriced_before,
        "unpriced_after": sums.unpriced_after,
        "old_cost": money(old),
        "new_cost": money(new),
        "difference": money(new - old),
        "lanes": lanes,
    }


def _print(answer: dict[str, Any], form: Format) -> None:
    match form:
        case Format.JSON:
            print_json(answer)
        case Format.CSV:
            print_csv(answer["lanes"], columns=COLUMNS)
        case Format.TABLE:
            title = (
                f"By {answer['books']}: {counted(answer['changed'], 'event')} of {answer['events']} change, "
                f"by {answer['difference']} in all"
            )
            print_table(answer["lanes"], columns=COLUMNS, title=title)
            if answer["unpriced_before"]:
                print_line(f"Without a price: {answer['unpriced_before']} before, {answer['unpriced_after']} after.")
            if answer["dry_run"]:
                print_line("Nothing was written (--dry-run).")
            elif answer["changed"]:
                print_line(f"Run {answer['run']} is in the log; `tally drain` waits until the workers have counted it.")

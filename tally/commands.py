"""The commands by name: what each takes and prints. What they do lives in the modules they import when they run.

Imports stand inside the functions, so that `tally --help` and the help of a command come at once.
"""

# ruff: noqa: PLC0415 -- imported when a command runs, see above

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from schemas.errors import AnswerIsNo, WrongUse
from tally.output import Format, FormatOption, default_format, print_csv, print_json, print_line, print_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from agents.catalog_follower import CatalogEntry
    from tally.catalog_plan import RefusedCatalogError
    from tally.settings import Settings

DATA: Final = Path("tally-data")


class Key(StrEnum):
    """What ``tally send --key`` takes."""

    ORG = "org"
    NONE = "none"


PartitionsOption = Annotated[
    int | None, typer.Option("--partitions", min=1, help="Of usage.priced, for ever; 4 when it is new.")
]


@dataclass(frozen=True, slots=True)
class Context:
    """What every command gets: where the settings come from."""

    config: Path | None
    given: Settings | None = None  # instead of any file and variable (`tally demo`)

    def settings(self) -> Settings:
        """The settings, read when a command first wants them."""
        from tally.settings import load_settings

        return self.given or load_settings(self.config)


def examples(*lines: str) -> str:
    """The end of a help text; each example keeps its own line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def add_commands(app: typer.Typer) -> None:
    """Puts the commands of this module on the app."""
    add = _adder(app)
    add(broker, "tally broker", "tally broker --data /tmp/kafka --port 0")
    add(store, "tally store", "tally store --data /tmp/clickhouse --port 0")
    add(migrate, "tally migrate", "tally migrate --partitions 8 --format json")
    app.add_typer(catalog_app, name="catalog")
    add(worker, "tally worker", "TALLY_METRICS_PORT=0 tally worker")
    add(send, "tally send events.ndjson", "zcat events.ndjson.gz | tally send - --key none --rate 5000")
    add(drain, "tally drain", "tally drain --timeout 300")
    add(config, "tally config", "tally --config tally.yaml config --format json")
    add(up, "tally up", "tally up --data /tmp/tally --partitions 2")


def _adder(app: typer.Typer) -> Callable[..., None]:
    def add(function: Callable[..., Any], *lines: str) -> None:
        app.command(function.__name__, epilog=examples(*lines))(function)

    return add


def broker(
    data: Annotated[Path, typer.Option(help="The folder of the broker.")] = DATA / "broker",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="On 127.0.0.1; 0 takes a free one.")] = 9092,
) -> int:
    """Run a real single-node Apache Kafka until interrupted.

    Prints {"ready": true, "bootstrap": "..."} when it serves. For development and tests: it has no authentication and
    listens on this machine only. Needs Java 17 or newer, and Maven the first time.
    """
    from tally.broker import run_broker

    return run_broker(data, port)


def store(
    context: typer.Context,
    data: Annotated[Path, typer.Option(help="The folder of the store.")] = DATA / "store",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one.")] = 8123,
    host: Annotated[str, typer.Option(help="Address to listen on; others than this machine's need a login.")] = (
        "127.0.0.1"
    ),
) -> int:
    """Run the embedded ClickHouse engine until interrupted.

    It speaks ClickHouse's HTTP protocol. Prints {"ready": true, "url": "..."} when it serves; the URL is a
    TALLY_STORE_URL as it is. With TALLY_STORE_USER and TALLY_STORE_PASSWORD set, clients have to log in with them.
    """
    from tally.store import run_store

    settings: Settings = context.obj.settings()
    password = settings.store_password
    return run_store(
        data,
        port,
        host=host,
        user=settings.store_user,
        password=None if password is None else password.get_secret_value(),
    )


def migrate(context: typer.Context, partitions: PartitionsOption = None, form: FormatOption = None) -> None:
    """Create or upgrade tables, views and topics; safe to repeat.

    Settings of existing topics are corrected. The partition count of usage.priced never changes.
    """
    from tally.migrate import migrate as run_migrate
    from tally.migrate import migration_rows

    answer = run_migrate(context.obj.settings(), priced_partitions=partitions)
    _print(form, answer, migration_rows(answer), columns=["what", "done"])


def worker(context: typer.Context) -> int:
    """Run the agents: price events, count them once, write totals.

    As many processes as you like. Prints {"ready": true, "metrics": "..."} when it takes part. SIGTERM finishes
    what is in flight, commits and exits 0.
    """
    from tally.worker import run_worker

    return run_worker(context.obj.settings())


def send(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="NDJSON: one event, or one array of events, per line; - is stdin.")],
    key: Annotated[Key, typer.Option(help="The record's key: the org of the event, or none.")] = Key.ORG,
    rate: Annotated[float | None, typer.Option(help="Records per second; as fast as possible without it.")] = None,
) -> None:
    """Send events, each line of a file as it is.

    Prints {"sent": N} when all are acknowledged, and nothing on stdout otherwise. Broken lines are sent too:
    the pipeline refuses them visibly. Sending a file twice is harmless: repeats are not counted.
    """
    from tally.send import send as run_send

    source = None if file == "-" else Path(file)
    sent = run_send(context.obj.settings(), source, by_org=key is Key.ORG, rate=rate)
    print_json({"sent": sent})


def drain(
    context: typer.Context,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait at most.")] = 60.0,
    form: FormatOption = None,
) -> None:
    """Wait until everything that was sent before is counted.

    It is in the store then, and its rejects and alerts are in their topics. Prints the lag that is left by
    topic; exit 1 on time-out.
    """
    from tally.drain import drain as run_drain
    from tally.drain import why_not

    settings: Settings = context.obj.settings()
    drained = run_drain(settings, timeout_seconds=timeout)
    rows = [{"topic": topic, "lag": count} for topic, count in drained.lag.items()]
    _print(form, drained.answer(), rows, columns=["topic", "lag"])
    if not drained.drained:
        raise AnswerIsNo(why_not(settings, drained, timeout_seconds=timeout))


def config(context: typer.Context, form: FormatOption = None) -> None:
    """Print every setting with its value; secrets are masked."""
    settings: dict[str, str] = context.obj.settings().masked()
    rows = [{"setting": name, "value": value} for name, value in settings.items()]
    _print(form, settings, rows, columns=["setting", "value"])


def up(
    context: typer.Context,
    data: Annotated[Path, typer.Option(help="The folder of broker and store.")] = DATA,
    partitions: PartitionsOption = None,
) -> int:
    """Run broker, store and a worker together (development).

    Migrates too, and runs until interrupted. Ports are those of TALLY_KAFKA_BOOTSTRAP, TALLY_STORE_URL and
    TALLY_METRICS_PORT. If one of them dies, the rest is stopped.
    """
    from tally.up import run_up

    return run_up(context.obj.settings(), data, config=context.obj.config, priced_partitions=partitions)


catalog_app = typer.Typer(
    name="catalog",
    help="Prices and rules: check files, put them into force, look at them.",
    epilog=examples(
        "tally catalog check prices.yaml",
        "tally catalog apply prices.yaml rules.yaml",
        "tally catalog show standard",
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
)

FilesArgument = Annotated[list[Path], typer.Argument(help="YAML files of prices and rules.")]


@catalog_app.command("apply", epilog=examples("tally catalog apply prices.yaml rules.yaml"))
def catalog_apply(context: typer.Context, files: FilesArgument, form: FormatOption = None) -> None:
    """Put files into force, all of them or none, and print what changes.

    A changed file makes a new revision of its name; old ones stay readable, and what was priced stays priced. Twice
    changes nothing. An apply that was killed is finished by the next one.
    """
    from tally.catalog import apply
    from tally.catalog_plan import RefusedCatalogError

    try:
        applied = [done.answer() for done in apply(context.obj.settings(), files)]
    except RefusedCatalogError as error:
        refuse(error, "nothing was applied")
    _print_changes(form, {"applied": applied}, applied)


@catalog_app.command("check", epilog=examples("tally catalog check prices.yaml"))
def catalog_check(files: FilesArgument, form: FormatOption = None) -> None:
    """Read files and say what is wrong in them; needs no server."""
    from tally.catalog import check
    from tally.catalog_plan import RefusedCatalogError

    try:
        checked = [change.answer() for change in check(files)]
    except RefusedCatalogError as error:
        refuse(error, "the files can't be applied")
    _print(form, {"ok": True, "found": checked}, checked, columns=["name", "kind", "state"])


def refuse(error: RefusedCatalogError, consequence: str) -> NoReturn:
    """Every mistake on a line of its own, so that an editor can jump to it, then the sentence."""
    sys.stderr.writelines(f"{line}\n" for line in str(error).splitlines())
    raise WrongUse(f"{error.count} mistake{'s' if error.count > 1 else ''}: {consequence}.")


@catalog_app.command(
    "show",
    epilog=examples(
        "tally catalog show",
        "tally catalog show standard --at 2026-03-01T12:00:00Z",
        "tally catalog show standard --revision 2 --format json",
    ),
)
def catalog_show(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Of a price book or a rule set; all names without it.")] = None,
    at: Annotated[str | None, typer.Option(help="Only the prices that apply at this instant.")] = None,
    revision: Annotated[
        int | None, typer.Option(min=1, help="Any revision that ever was, not the one in force.")
    ] = None,
    form: FormatOption = None,
) -> None:
    """Show what is in force, or one book or rule set with its rows."""
    from tally.catalog import describe, read_catalog, read_revision, summarize

    settings: Settings = context.obj.settings()
    if name is None:
        if at is not None or revision is not None:
            raise WrongUse("--at and --revision need the NAME of a price book or a rule set.")
        names = [summarize(entry) for _, entry in sorted(read_catalog(settings).items())]
        _print(
            form, {"in_force": names}, names, columns=["name", "kind", "revision", "applied_at", "rows", "announced"]
        )
        return
    entry: CatalogEntry = read_revision(settings, name, revision=revision)
    document = describe(entry, at=at)
    rows = document["prices"] if "prices" in document else document["rules"]
    _print(form, document, rows, columns=_columns(rows))
    period_prices = document.get("period_prices", [])
    if period_prices and (form or default_format()) is Format.TABLE:
        print_table(period_prices, columns=_columns(period_prices))
    if document.get("adjustments") and (form or default_format()) is Format.TABLE:
        print_table(document["adjustments"], columns=_columns(document["adjustments"]), title="Adjustments")


class Source(StrEnum):
    """What ``tally catalog import`` takes."""

    GENAI_PRICES = "genai-prices"


@catalog_app.command(
    "import",
    epilog=examples(
        'tally catalog import genai-prices --models "openai/*" --models "anthropic/claude-*" --out prices.yaml',
        'tally catalog import genai-prices --models "gcp.gemini/gemini-2.5-*"',
        'tally catalog import genai-prices --models "re:^(openai|azure)/gpt-4o(-mini)?$"',
    ),
)
def catalog_import(
    source: Annotated[Source, typer.Argument(help="The only one so far: public prices of the pinned package.")],
    models: Annotated[
        list[str] | None,
        typer.Option(help="PROVIDER/MODEL as a glob, or re: and a regular expression; may be repeated."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A file to write, replaced if it is there; else stdout.")] = None,
) -> None:
    """Write public prices as a price book to review, from a package and without any network.

    Nothing is put into force. PROVIDER is the name that your events send; without --models it is all models under the
    package's own names of providers. What is left out or changed stands at the end of the book.
    """
    from tally.import_prices import import_book, write_book

    _ = source
    book = import_book(models or [])
    if out is None:
        sys.stdout.write(book.text())
        return
    write_book(book, out)
    print_json({"written": str(out), **book.answer()})


def _columns(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Every key that one of the rows has, in the order of their first appearance."""
    return list(dict.fromkeys(key for row in rows for key in row))


def _print_changes(form: Format | None, document: dict[str, Any], applied: Sequence[dict[str, Any]]) -> None:
    rows = [
        {
            "name": done["name"],
            "revision": done["revision"],
            "change": row["change"],
            "before": _plain(row["before"]),
            "after": _plain(row["after"]),
        }
        for done in applied
        for row in done["rows"]
    ]
    form = form or default_format()
    if form is Format.TABLE:
        for done in applied:
            print_line(f"{done['kind'].replace('_', ' ')} {done['name']}, revision {done['revision']}: {done['state']}")
        if not rows:
            return
    _print(form, document, rows, columns=["name", "revision", "change", "before", "after"])


def _plain(row: dict[str, Any] | None) -> str:
    """A row of a catalog in one line, without the braces of JSON."""
    return "" if row is None else " ".join(f"{key}={value}" for key, value in row.items())


def _print(
    form: Format | None, document: dict[str, Any], rows: Iterable[dict[str, Any]], *, columns: Sequence[str]
) -> None:
    """The whole document as JSON, its rows as CSV or as a table."""
    match form or default_format():
        case Format.JSON:
            print_json(document)
        case Format.CSV:
            print_csv(rows, columns=columns)
        case Format.TABLE:
            print_table(rows, columns=columns)

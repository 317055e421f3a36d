"""``tally demo``: the whole pipeline once, on real requests, and the proof that nothing was lost or counted twice.

It starts its own servers on free ports in a scratch folder, reads no setting of the environment, and leaves nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from pydantic import SecretStr

from agents.catalog_follower import PRICE_BOOK
from schemas.errors import AnswerIsNo, TallyError
from tally.catalog import apply
from tally.commands import Context
from tally.connect import open_store
from tally.demo_events import NOW, PERIOD, PRICES, RULE, Expected, write
from tally.drain import drain, why_not
from tally.main import app
from tally.migrate import migrate
from tally.output import counted, print_line, print_table
from tally.send import send
from tally.settings import Settings
from tally.up import InterruptedStart, Stop, Together

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ORG: Final = "northwind"
DRAIN_SECONDS_MAX: Final = 300.0
INTERRUPTED: Final = 130
PARTITIONS: Final = 2
#: The requests are of 2023: nothing is too old here, and an identity is remembered for as long.
DAYS: Final = 20_000


def demo_command(
    *, keep: Annotated[bool, typer.Option("--keep", help="Leave everything running until interrupted.")] = False
) -> int:
    r"""Run the whole pipeline once on real sample data.

    In, out, proved, stopped, in a scratch folder. Starts its own servers on free ports and needs no setting.
    Exit 0 when the books balance.

    \b
    Examples:
      tally demo
      tally demo --keep
    """
    return run_demo(keep=keep)


def run_demo(*, keep: bool = False) -> int:
    """Runs it; 0 when the audit balances and the counts are what was sent.

    Raises:
        AnswerIsNo: they are not.
        TallyError: a server could not be started, or broke.
    """
    folder = Path(tempfile.mkdtemp(prefix="tally-demo-"))
    try:
        with Stop() as stop, Together.on(folder, environment=_environment(), stop=stop) as together:
            show = Show(stop)
            there = _run(show, together, folder)
            if keep:
                _keep(there, together)
            print_line("")
            show.times()
    except InterruptedStart:
        shutil.rmtree(folder, ignore_errors=True)
        return INTERRUPTED
    except TallyError:
        print_line(f"The logs are in {folder / 'logs'}.")
        raise
    shutil.rmtree(folder, ignore_errors=True)
    print_line("Every server is stopped, and the scratch folder is gone.")
    return 0


@dataclass
class Show:
    """What a person sees: a heading per step, and how long each took."""

    stop: Stop
    steps: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """A heading, and then what is printed within. Raises InterruptedStart when a signal came."""
        if self.stop.asked:
            raise InterruptedStart
        heading = f"{len(self.steps) + 1}. {what}"
        bold = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
        sys.stdout.write(f"\n{bold[0]}{heading}{bold[1]}\n{'-' * len(heading)}\n")
        sys.stdout.flush()
        started = time.monotonic()
        yield
        self.steps.append((what, time.monotonic() - started))
        sys.stdout.flush()

    def times(self) -> None:
        """How long each step took."""
        rows = [{"step": what, "seconds": f"{seconds:.1f}"} for what, seconds in self.steps]
        rows.append({"step": "all", "seconds": f"{sum(seconds for _, seconds in self.steps):.1f}"})
        print_table(rows, columns=["step", "seconds"])


def _run(show: Show, together: Together, folder: Path) -> Settings:
    with show.step("A real Kafka, a ClickHouse engine and a worker"):
        with _waiting("starting"):
            there = together.start_servers(_settings(), broker_port=0, store_port=0)
            migrate(there, priced_partitions=PARTITIONS)
            metrics = together.start_worker(there)
        print_line(f"Kafka {there.kafka_bootstrap}, store {there.masked()['TALLY_STORE_URL']}, metrics {metrics}")
    with show.step("Prices and rules into force"):
        for applied in apply(there, [PRICES]):
            answer = applied.answer()
            rows = "prices" if answer["kind"] == PRICE_BOOK else "rules"
            print_line(f"{answer['name']}, revision {answer['revision']}: {len(answer['rows'])} {rows}, made up")
    with show.step("8,819 real requests, sent"):
        expected = _send(there, folder)
    with show.step("Counted"):
        _drain(there)
    _report(show, there)
    with show.step("The proof"):
        _ask(there, "audit", "--format", "table")
        _compare(there, expected)
    return there


def _environment() -> dict[str, str]:
    """The environment of the children: nothing of the person's settings, all of the demo's."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")}  # noqa: TID251
    return {
        **own,
        "TALLY_MAX_AGE_DAYS": str(DAYS),
        "TALLY_DEDUPE_DAYS": str(DAYS),
        "TALLY_METRICS_PORT": "0",
    }


def _settings() -> Settings:
    """The demo's settings; the prefix of variables that nobody sets keeps the environment out."""
    return Settings(
        _env_prefix="TALLY_DEMO_READS_NO_SETTING_",
        store_url=SecretStr("http://127.0.0.1:0/tally"),
        max_age_days=DAYS,
        dedupe_days=DAYS,
        metrics_port=0,
    )


def _send(there: Settings, folder: Path) -> Expected:
    path = folder / "events.ndjson"
    expected = write(path)
    print_line("Azure LLM inference trace 2023 (code), CC-BY 4.0, published with Splitwise (ISCA 2024).")
    print_line("The trace has no customers, keys or outcomes; a fixed rule assigns them:")
    for line in RULE:
        print_line(f"  {line}")
    sent = send(there, path)
    repeats = f"{counted(expected.duplicates, 'duplicate')}, {counted(expected.conflicts, 'conflict')}"
    broken = sum(expected.rejected.values()) - expected.conflicts
    print_line(
        f"{counted(sent, 'record')} acknowledged: {counted(sum(expected.facts.values()), 'request')}, {repeats}, "
        f"{counted(broken, 'broken line')}"
    )
    return expected


def _drain(there: Settings) -> None:
    with _waiting("counting"):
        drained = drain(there, timeout_seconds=DRAIN_SECONDS_MAX)
    if not drained.drained:
        raise AnswerIsNo(why_not(there, drained, timeout_seconds=DRAIN_SECONDS_MAX))
    print_line("Nothing is on its way any more: priced, counted once, totals written.")


@contextmanager
def _waiting(what: str) -> Iterator[None]:
    """Something that moves on a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console  # noqa: PLC0415 -- only where a person looks

    with Console(file=sys.stderr).status(what):
        yield


def _report(show: Show, there: Settings) -> None:
    """The answers that a person would ask for first, as the commands give them."""
    of_org = ("--org", ORG)
    in_november = ("--period", PERIOD)
    now = ("--now", NOW)
    questions: Sequence[tuple[str, tuple[str, ...]]] = (
        ("What did northwind use?", ("summary", *of_org, *now)),
        ("Where does its money go?", ("concentration", *of_org, "--by", "project", *in_november, *now)),
        ("What will be on its invoice?", ("invoice", *of_org, *in_november, *now)),
        ("Who crossed a limit, and when?", ("alerts", *of_org, *in_november, *now)),
        ("What has no price?", ("unpriced", *of_org, *in_november, *now)),
        ("What was sent twice?", ("duplicates", *of_org, *in_november, *now, "--limit", "3")),
        ("What was refused, and why?", ("rejected", "--period", "total", "--limit", "12")),
    )
    for what, arguments in questions:
        with show.step(what):
            print_line(f"$ tally report {' '.join(arguments)}")
            _ask(there, "report", *arguments, "--format", "table")


def _ask(there: Settings, *arguments: str) -> None:
    """Runs one command in this process, with the settings of the demo."""
    app(list(arguments), prog_name="tally", standalone_mode=False, obj=Context(None, given=there))


def _compare(there: Settings, expected: Expected) -> None:
    """What was sent against what is there, figure by figure."""
    with closing(open_store(there)) as store:

        def by(column: str, sql: str) -> Counter[str]:
            return Counter({row[column]: row["counted"] for row in store.rows(sql)})

        found = Expected(
            lines=expected.lines,
            facts=by("org", "SELECT org, count() AS counted FROM facts GROUP BY org"),
            rejected=by("reason", "SELECT reason, count() AS counted FROM rejected GROUP BY reason"),
            **by("kind", "SELECT concat(kind, 's') AS kind, count() AS counted FROM duplicates GROUP BY kind"),
            **by(
                "pricing", "SELECT pricing, count() AS counted FROM facts WHERE pricing = 'unpriced' GROUP BY pricing"
            ),
        )
    rows = [
        {"what": what, "sent": sent, "found": there, "": "ok" if sent == there else "DIFFERENT"}
        for what, sent, there in _figures(expected, found)
    ]
    print_table(rows, columns=["what", "sent", "found", ""])
    wrong = [row["what"] for row in rows if row["sent"] != row["found"]]
    if wrong:
        raise AnswerIsNo(f"What was counted is not what was sent: {', '.join(map(str, wrong))}.")


def _figures(expected: Expected, found: Expected) -> Iterator[tuple[str, Any, Any]]:
    for org in sorted({*expected.facts, *found.facts}):
        yield f"requests of {org}", expected.facts[org], found.facts[org]
    yield "duplicates", expected.duplicates, found.duplicates
    yield "conflicts", expected.conflicts, found.conflicts
    yield "unpriced", expected.unpriced, found.unpriced
    for reason in sorted({*expected.rejected, *found.rejected}):
        yield f"refused as {reason}", expected.rejected[reason], found.rejected[reason]


def _keep(there: Settings, together: Together) -> None:
    print_line("")
    print_line("Everything keeps running until interrupted. In another terminal:")
    print_line(f"  export TALLY_KAFKA_BOOTSTRAP={there.kafka_bootstrap}")
    print_line(f"  export TALLY_STORE_URL={there.masked()['TALLY_STORE_URL']}")
    print_line(f"  export TALLY_MAX_AGE_DAYS={DAYS} TALLY_DEDUPE_DAYS={DAYS}")
    print_line(f"  tally report invoice --org {ORG} --period {PERIOD}")
    sys.stdout.flush()
    together.wait()

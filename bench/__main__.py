"""``python -m bench``: the pipeline, the same job by hand and in stock Faust, on this machine, in one run.

Prints a table; ``--json FILE`` writes the figures too. Rates count from the first worker's ready line to the moment
the last event is in the totals, so they include the rebalance when the second worker joins.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
import urllib3
from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from bench import alert_latency
from bench.load import BOOK, RULES, events, prefill
from bench.machine import Meter, processor
from clickhouse.client import Store, parse_store_url
from tests.processes import ROOT, ServerProcess, broker_process, store_process

GIVE_UP_SECONDS = 900.0


class Bench:
    """The servers of one run, and what it found."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self.figures: dict[str, Any] = {}
        self.workers: list[ServerProcess] = []
        self.pages: list[str] = []  # the metrics of each worker
        self.broker = stack.enter_context(broker_process(folder / "broker"))
        self.store = stack.enter_context(store_process(folder / "store"))
        self.bootstrap = str(self.broker.wait_until_ready()["bootstrap"])
        self.store_url = str(self.store.wait_until_ready()["url"])
        self.query = Store(parse_store_url(self.store_url))
        self.environment = {
            "TALLY_KAFKA_BOOTSTRAP": self.bootstrap,
            "TALLY_STORE_URL": self.store_url,
            "TALLY_METRICS_PORT": "0",
            "TALLY_STATE_DIR": str(folder / "state"),
            "POLARS_MAX_THREADS": "1",
        }

    def tally(self, *arguments: str) -> None:
        """One command to its end."""
        with ServerProcess(
            "-m", "tally", *arguments, log=self.folder / "tally.log", environment=self.environment
        ) as it:
            if it.process.wait(120):
                raise RuntimeError(it.stderr())

    def worker(self, number: int) -> ServerProcess:
        """A worker process; not waited for."""
        log = self.folder / f"worker{number}.log"
        return self._stack.enter_context(ServerProcess("-m", "tally", "worker", log=log, environment=self.environment))

    def wait_until_ready(self) -> list[float]:
        """When each worker was ready, by the monotonic clock."""
        ready = []
        self.pages = []
        for worker in self.workers:
            self.pages.append(str(worker.wait_until_ready()["metrics"]))
            ready.append(time.monotonic())
        return ready

    def stop_workers(self) -> None:
        """SIGTERM to all, and waits until they have ended."""
        for worker in self.workers:
            worker.stop()

    def pids(self) -> dict[str, int]:
        """The processes to watch, by name."""
        workers = {f"worker {number + 1}": worker.process.pid for number, worker in enumerate(self.workers)}
        return {"broker": self.broker.process.pid, "store": self.store.process.pid} | workers

    def counted(self) -> int:
        """How many events the totals hold."""
        rows = self.query.rows("SELECT sum(requests) AS counted FROM totals_hourly")
        return int(rows[0]["counted"])


def main(  # noqa: PLR0913 -- one argument per option
    *,
    count: Annotated[int, typer.Option("--events", min=1, help="Pre-filled events for the pipeline.")] = 1_000_000,
    polars_count: Annotated[
        int, typer.Option("--polars-events", help="Events for the hand-written peer; 0 leaves it out.")
    ] = 1_000_000,
    faust_count: Annotated[
        int, typer.Option("--faust-events", help="Events for stock Faust, which is slow; 0 leaves it out.")
    ] = 50_000,
    workers: Annotated[int, typer.Option(help="Worker processes of the pipeline.")] = 2,
    latency_seconds: Annotated[int, typer.Option(help="How long 5,000 events/s are sent; 0 leaves it out.")] = 30,
    alert_seconds: Annotated[int, typer.Option(help="How long 20,000 events/s are judged; 0 leaves it out.")] = 30,
    with_judging: Annotated[
        bool, typer.Option("--judging/--no-judging", help="What rules cost the count stage.")
    ] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where to write the figures.")] = None,
) -> None:
    """Measure the pipeline and its peers."""
    note = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="tally-bench-") as folder, ExitStack() as stack:
        note.print("Starting a broker and a store.")
        bench = Bench(Path(folder), stack)
        bench.tally("migrate", "--partitions", "4")
        (bench.folder / "book.yaml").write_text(BOOK, encoding="utf-8")
        bench.tally("catalog", "apply", str(bench.folder / "book.yaml"))
        largest = max(count, polars_count, faust_count)
        note.print(f"Producing {largest:,} events.")
        bytes_mean = prefill(bench.bootstrap, "usage.events", largest)
        note.print(f"The pipeline, {workers} workers.")
        bench.figures["pipeline"] = pipeline(bench, largest, workers=workers)
        bench.stop_workers()
        if polars_count:
            note.print("The same job by hand: confluent-kafka and polars, one process.")
            bench.figures["confluent-kafka + polars"] = peer(bench, "bench.peer_polars", polars_count)
        if faust_count:
            note.print("The same job in stock Faust, one process.")
            bench.figures["stock Faust"] = peer(bench, "bench.peer_faust", faust_count)
        check_sums(bench.figures)
        if latency_seconds:
            note.print(
                f"Latency at 5,000 events/s for {latency_seconds} s, with everything counted so far in the store."
            )
            bench.figures["latency"] = latency(bench, seconds=latency_seconds, rate=5_000, workers=workers)
            bench.stop_workers()
        if alert_seconds:
            note.print(f"Event to alert at 20,000 events/s for {alert_seconds} s.")
            bench.figures["alerts"] = event_to_alert(bench, seconds=alert_seconds, rate=20_000, workers=workers)
            bench.stop_workers()
        if with_judging:
            note.print("The count stage with rules and without, 100,000 active keys.")
            bench.figures["judging"] = judging(bench)
        bench.figures["conditions"] = {
            "cpus": psutil.cpu_count(),
            "load_1m_at_end": psutil.getloadavg()[0],
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "processor": processor(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30),
            "python": platform.python_version(),
            "event_bytes_mean": round(bytes_mean),
            "workers": workers,
        }
    show(bench.figures)
    if json_file:
        json_file.write_text(json.dumps(bench.figures, indent=1) + "\n", encoding="utf-8")


def pipeline(bench: Bench, count: int, *, workers: int) -> dict[str, Any]:
    """The workers from their start until every event is in the totals."""
    started = time.monotonic()
    bench.workers = [bench.worker(number) for number in range(workers)]
    with Meter(bench.pids()) as meter:
        ready = bench.wait_until_ready()
        while (done := bench.counted()) < count:
            if time.monotonic() - started > GIVE_UP_SECONDS:
                raise RuntimeError(f"only {done} of {count} events were counted")
            time.sleep(0.1)
        ended = time.monotonic()
    rows = bench.query.rows("SELECT count() AS facts, toFloat64(sum(cost)) AS cost FROM facts")[0]
    return {
        "events": count,
        "facts": int(rows["facts"]),
        "cost": rows["cost"],
        "events_per_second": count / (ended - ready[0]),
        "seconds_from_process_start": ended - started,
        "ready_seconds": [when - started for when in ready],
        "cpu_us_per_event": {name: used / count * 1e6 for name, used in meter.cpu_seconds.items()},
        "step_cpu_us_per_event": {name: used / count * 1e6 for name, used in steps(bench.pages).items()},
        "peak_mib": meter.peak_mib,
        "memory_mib_over_time": {name: thinned(values) for name, values in meter.memory_mib.items()},
    }


def steps(urls: list[str]) -> dict[str, float]:
    """CPU seconds by step, all workers together."""
    spent: dict[str, float] = {}
    with urllib3.PoolManager() as pool:
        for url in urls:
            text = pool.request("GET", url).data.decode()
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if sample.name == "tally_step_cpu_seconds_total":
                        spent[sample.labels["step"]] = spent.get(sample.labels["step"], 0.0) + sample.value
    return {name: value for name, value in spent.items() if value}


def waited(urls: list[str], what: str = "queryable") -> dict[float, float]:
    """The histogram of the workers' own measurements, append to queryable or alert: by upper edge, cumulative."""
    counts: dict[float, float] = {}
    with urllib3.PoolManager() as pool:
        for url in urls:
            text = pool.request("GET", url).data.decode()
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if sample.name == f"tally_event_to_{what}_seconds_bucket":
                        edge = float(sample.labels["le"])
                        counts[edge] = counts.get(edge, 0.0) + sample.value
    return counts


def quantile(counts: dict[float, float], share: float) -> float:
    """As Prometheus reckons it: by a straight line within the bucket."""
    below, lower = 0.0, 0.0
    wanted = share * max(counts.values(), default=0.0)
    if not wanted:
        return 0.0
    for edge, count in sorted(counts.items()):
        if count >= wanted:
            return lower if edge == float("inf") else lower + (edge - lower) * (wanted - below) / (count - below)
        below, lower = count, edge
    return lower


def latency(bench: Bench, *, seconds: int, rate: int, workers: int) -> dict[str, Any]:
    """How long after it was produced the n-th event was in the totals, for every n, asked about 20 times a second."""
    started = time.monotonic()
    bench.workers = [bench.worker(number) for number in range(workers)]
    ready = [when - started for when in bench.wait_until_ready()]
    with Meter(bench.pids()) as meter:
        waits, counted = _waits(bench, seconds=seconds, rate=rate)
    inside = waited(bench.pages)
    return {
        "events_per_second": rate,
        "events": len(waits),
        "counted": counted,
        "ready_seconds": ready,
        "p50_seconds": waits[len(waits) // 2],
        "p99_seconds": waits[len(waits) * 99 // 100],
        "max_seconds": waits[-1],
        "histogram_p50_seconds": quantile(inside, 0.5),
        "histogram_p99_seconds": quantile(inside, 0.99),
        "cpu_us_per_event": {name: used / len(waits) * 1e6 for name, used in meter.cpu_seconds.items()},
        "memory_mib_over_time": {name: thinned(values) for name, values in meter.memory_mib.items()},
    }


def event_to_alert(bench: Bench, *, seconds: int, rate: int, workers: int) -> dict[str, Any]:
    """From an event to its alert, under rules that fire all the time; what the processes cost meanwhile."""
    (bench.folder / "rules.yaml").write_text(RULES, encoding="utf-8")
    bench.tally("catalog", "apply", str(bench.folder / "rules.yaml"))
    bench.workers = [bench.worker(number) for number in range(workers)]
    bench.wait_until_ready()
    bench.tally("drain", "--timeout", "100")  # the rules are in force, and what they find in the store is told
    with Meter(bench.pids()) as meter:
        figures = alert_latency.measure(
            bench.bootstrap, bench.query, seconds=seconds, rate=rate, topics=("usage.events", "usage.alerts")
        )  # fmt: skip
    alerts = waited(bench.pages, "alert")
    return {
        **figures,
        "histogram_p50_seconds": quantile(alerts, 0.5),
        "histogram_p99_seconds": quantile(alerts, 0.99),
        "cpu_us_per_event": {name: used / figures["events"] * 1e6 for name, used in meter.cpu_seconds.items()},
        "peak_mib": meter.peak_mib,
    }


def _waits(bench: Bench, *, seconds: int, rate: int) -> tuple[list[float], int]:
    """The seconds that each event took, sorted, and how many were counted in the end."""
    producer = Producer({"bootstrap.servers": bench.bootstrap, "linger.ms": 5, "acks": "all"})
    base = bench.counted()
    produced: list[float] = []
    seen: list[tuple[float, int]] = []
    load = events(seconds * rate, seed=2, span_seconds=1.0)
    began = time.monotonic()
    while len(produced) < seconds * rate:
        due = min(int((time.monotonic() - began) * rate), seconds * rate)
        for event in [next(load) for _ in range(due - len(produced))]:
            producer.produce("usage.events", event)
            produced.append(time.monotonic())
        producer.poll(0)
        seen.append((time.monotonic(), bench.counted() - base))
        time.sleep(0.03)
    producer.flush()
    while seen[-1][1] < len(produced) and time.monotonic() - produced[-1] < 60:
        time.sleep(0.03)
        seen.append((time.monotonic(), bench.counted() - base))
    waits = []
    at = 0
    for number, when in enumerate(produced):
        while at < len(seen) - 1 and seen[at][1] <= number:
            at += 1
        waits.append(seen[at][0] - when)
    return sorted(waits), seen[-1][1]


def judging(bench: Bench) -> dict[str, Any]:
    """What rules cost the count stage, by a process of its own."""
    command = [sys.executable, "-m", "bench.judging"]
    environment = {**os.environ, "POLARS_MAX_THREADS": bench.environment["POLARS_MAX_THREADS"]}  # noqa: TID251 -- handed on
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, env=environment)  # noqa: S603 -- our own
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def peer(bench: Bench, module: str, count: int) -> dict[str, Any]:
    """A peer from its ready line until it has stored ``count`` events."""
    for table in ("peer_facts", "peer_totals"):
        bench.query.command(f"DROP TABLE IF EXISTS {table} SYNC")
    command = [sys.executable, "-m", module, bench.bootstrap, "usage.events", bench.store_url, str(count)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:  # noqa: S603 -- our own program
        assert process.stdout is not None  # noqa: S101 -- it was asked for
        pids = {"broker": bench.broker.process.pid, "store": bench.store.process.pid, "peer": process.pid}
        with Meter(pids) as meter:
            process.stdout.readline()
            started = time.monotonic()
            done = process.stdout.readline().strip()
            seconds = time.monotonic() - started
    if done != b"done":
        raise RuntimeError(f"{module} ended without being done")
    totals = bench.query.rows("SELECT sum(requests) AS events, sum(cost) AS cost FROM peer_totals")[0]
    return {
        "events": count,
        "counted": int(totals["events"]),
        "cost": totals["cost"],
        "events_per_second": count / seconds,
        "cpu_us_per_event": {name: used / count * 1e6 for name, used in meter.cpu_seconds.items()},
        "peak_mib": meter.peak_mib,
    }


def check_sums(figures: dict[str, Any]) -> None:
    """Who counted the same events must have reckoned the same cost: code is compared, not luck."""
    ours, theirs = figures["pipeline"], figures.get("confluent-kafka + polars")
    if ours["events"] != ours["facts"]:
        raise RuntimeError(f"{ours['events']} events gave {ours['facts']} facts")
    if theirs and theirs["counted"] == ours["events"] and abs(theirs["cost"] - ours["cost"]) > 1e-6 * ours["cost"]:
        raise RuntimeError(f"the pipeline reckons {ours['cost']}, the peer {theirs['cost']}")


def thinned(values: list[float]) -> list[int]:
    """About ten of them, evenly spread."""
    return [round(value) for value in values[:: max(1, len(values) // 10)]]


def show(figures: dict[str, Any]) -> None:
    """The tables."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    rates = Table(title="One machine, one run", title_justify="left")
    for column in ("", "events", "events/s", "CPU us/event", "its own", "broker", "store", "pipeline is"):
        rates.add_column(column, justify="left" if not column else "right")
    ours = figures["pipeline"]["events_per_second"]
    for name in ("pipeline", "confluent-kafka + polars", "stock Faust"):
        if name not in figures:
            continue
        one = figures[name]
        cpu = one["cpu_us_per_event"]
        own = sum(value for who, value in cpu.items() if who not in {"broker", "store"})
        ratio = "" if name == "pipeline" else f"{ours / one['events_per_second']:.2f} x as fast"
        cells = (f"{sum(cpu.values()):.1f}", f"{own:.1f}", f"{cpu['broker']:.1f}", f"{cpu['store']:.1f}")
        rates.add_row(name, f"{one['events']:,}", f"{one['events_per_second']:,.0f}", *cells, ratio)
    console.print(rates)
    inside = Table(title="The pipeline's workers, CPU us per event by step", title_justify="left")
    for step in figures["pipeline"]["step_cpu_us_per_event"]:
        inside.add_column(step, justify="right")
    inside.add_row(*(f"{value:.2f}" for value in figures["pipeline"]["step_cpu_us_per_event"].values()))
    console.print(inside)
    for name, peak in figures["pipeline"]["peak_mib"].items():
        console.print(f"{name}: at most {peak:.0f} MiB while it counted them", highlight=False)
    console.print(f"workers ready after {_seconds(figures['pipeline']['ready_seconds'])}", highlight=False)
    if "latency" in figures:
        _show_latency(console, figures["latency"])
    if "alerts" in figures:
        console.print(alert_latency.shown(figures["alerts"]), highlight=False)
    for name, one in figures.get("judging", {}).items():
        console.print(f"count stage, {name}: {one}", highlight=False)
    console.print(json.dumps(figures["conditions"]), highlight=False)


def _show_latency(console: Console, waits: dict[str, Any]) -> None:
    console.print(
        f"at {waits['events_per_second']:,} events/s one is in the totals after {waits['p50_seconds']:.2f} s (p50), "
        f" {waits['p99_seconds']:.2f} s (p99), {waits['max_seconds']:.2f} s (max), from outside; "
        f"{waits['histogram_p50_seconds']:.2f} s and {waits['histogram_p99_seconds']:.2f} s by the workers' histogram",
        highlight=False,
    )
    for name, values in waits["memory_mib_over_time"].items():
        console.print(f"{name}: MiB over that time {' '.join(map(str, values))}", highlight=False)
    console.print(
        f"workers ready after {_seconds(waits['ready_seconds'])}, with the events above in the store", highlight=False
    )


def _seconds(values: list[float]) -> str:
    return ", ".join(f"{value:.1f} s" for value in values)


if __name__ == "__main__":
    typer.run(main)

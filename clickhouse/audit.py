"""Proofs over the store: every raw record is accounted for, nothing counted twice, totals are the sums of their facts.

Each check is one question per slice, answered inside ClickHouse: slices are cut so that a question's memory stays
bounded, whatever the number of facts. The log is seen through ``LogView``. While workers run, only what lies before
the fence (the blocks that were committed when it was read) is judged, so that a running system is never accused.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from clickhouse.client import INSERT_SETTINGS
from clickhouse.query import query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import timedelta

    from clickhouse.client import Store

#: Rows (facts and totals) that one question sums up lane by lane: a few hundred bytes of memory each, or a kilobyte
#: where totals are rebuilt. The embedded engine has 2 GB for everything.
SLICE_ROWS: Final = 500_000

#: Facts whose identities are compared at once: about a hundred bytes of memory each.
IDENTITIES_PER_BUCKET: Final = 4_000_000

#: Offsets per stretch (as the page audit_raw has it), and stretches that are looked at in detail at once.
STRETCH_OFFSETS: Final = 65_536
STRETCHES_AT_ONCE: Final = 4

#: Unaccounted offsets this near to each other are looked up in Kafka by reading from one to the other.
LOOK_UP_GAP: Final = 1_000

#: Records found missing before the search ends, and differences that are named.
MISSING_MAX: Final = 10_000
NAMED_MAX: Final = 5

#: How often slices are compared again whose totals were written meanwhile.
PASSES: Final = 3

LATEST_SECONDS: Final = 4_291_747_200  # 2106-01-01, as far as ClickHouse's DateTime goes in whole years
MICROSECONDS: Final = 1_000_000
SECONDS_PER_HOUR: Final = 3_600
COST_DECIMALS: Final = 12

#: The columns of totals_rows, in the order in which a rebuilt row is written.
TOTAL_COLUMNS: Final = (
    *("org", "hour", "project", "api_key", "environment", "`user`", "operation", "provider", "model"),
    *("requests", "ok", "failed", "unpriced", "cost", "failed_cost", "newest_time"),
    *("meters", "names", "quantities", "billed_quantities", "costs", "unpriced_events", "events"),
    *("block_partition", "version"),
)
DIFFERS: Final = "(facts_behind > 0 OR NOT sums_equal OR NOT quantities_equal)"
SETTLED: Final = "version < transform(block_partition, {partitions:Array(Int32)}, {fences:Array(UInt64)}, toUInt64(0))"


class Position(Protocol):
    """Where a partition begins and ends, and up to where the group has finished it."""

    @property
    def begin(self) -> int: ...  # noqa: D102
    @property
    def end(self) -> int: ...  # noqa: D102
    @property
    def committed(self) -> int: ...  # noqa: D102


class LogView(Protocol):
    """What the audit asks Kafka; nothing it does moves an offset."""

    def positions(self, topic: str) -> Mapping[int, Position]:
        """Begin, end and the group's committed offset by partition."""

    def held(self, topic: str, spans: Mapping[int, Sequence[tuple[int, int]]]) -> Mapping[int, Sequence[int]]:
        """Which offsets of these half-open spans, by partition, hold a record that a worker gets to see."""

    def live_members(self) -> Sequence[str]:
        """The group's live members."""


@dataclass(frozen=True, slots=True)
class Check:
    """One proof: what should be, what is, and a few of the differences by name."""

    check: str
    ok: bool
    expected: str
    found: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Fence:
    """The first block of each partition of ``usage.priced`` that is not committed; ``live`` while workers run."""

    blocks: Mapping[int, int]
    live: bool

    def parameters(self) -> dict[str, list[int]]:
        """As queries take it."""
        return {"partitions": list(self.blocks), "fences": list(self.blocks.values())}


@dataclass(frozen=True, slots=True)
class Figures:
    """What is wrong with the books in two numbers; both are 0 when they balance."""

    unaccounted_events: int = 0  # committed raw events that are neither facts nor repeats nor refusals
    drift_cost: Decimal = Decimal(0)  # Σ |cost of a total - cost of its facts|

    @property
    def are_zero(self) -> bool:
        """Whether nothing is wrong."""
        return not self.unaccounted_events and not self.drift_cost

    def __add__(self, other: Figures) -> Figures:
        return Figures(self.unaccounted_events + other.unaccounted_events, self.drift_cost + other.drift_cost)


class Slice(NamedTuple):
    """Neighbouring orgs over all of time, or some hours of one org; ``end_seconds`` is excluded."""

    org_first: str
    org_last: str
    start_seconds: int
    end_seconds: int

    def parameters(self) -> dict[str, str | int]:
        """As queries take it."""
        return {
            "org_first": self.org_first,
            "org_last": self.org_last,
            "start": self.start_seconds,
            "end": self.end_seconds,
        }


def check_raw_records(
    store: Store, *, topic: str, positions: Mapping[int, Position], held: Callable[..., Mapping[int, Sequence[int]]]
) -> tuple[list[Check], int]:
    """Every record between the log's begin and the committed offset is accounted for, each event in one way only.

    Hands back the checks, and how many events are missing: at least one of a record of which nothing is there.

    Offsets below the log's begin can no longer be looked up and say nothing. ``held`` is LogView.held; an offset that
    Kafka does not hold (a transaction's marker) is no record.
    """
    spans = {partition: (at.begin, max(at.begin, at.committed)) for partition, at in positions.items()}
    stretches = store.rows(
        query("audit_raw"),
        {
            "topic": topic,
            "partitions": list(spans),
            "begins": [begin for begin, _ in spans.values()],
            "ends": [end for _, end in spans.values()],
        },
    )
    gaps = _Gaps(store, topic=topic, held=held)
    for partition, span in spans.items():
        known = {row["stretch"]: row for row in stretches if row["partition"] == partition}
        gaps.look_at(
            partition, span, [stretch for stretch in _stretches(span) if _is_open(known.get(stretch), span, stretch)]
        )
    offsets = sum(end - begin for begin, end in spans.values())
    uses = sum(row["uses"] for row in stretches)
    used = sum(row["used"] for row in stretches)
    checks = [
        Check(
            check="raw_records_accounted_for",
            ok=not gaps.missing,
            expected=str(offsets - gaps.excused),
            found=str(offsets - gaps.excused - gaps.missing),
            detail=gaps.detail(),
        ),
        Check(
            check="raw_events_used_once",
            ok=uses == used,
            expected=str(uses),
            found=str(used),
            detail="" if uses == used else "Some events are counted, or recorded as repeats, more than once.",
        ),
    ]
    return checks, gaps.missing_events


def _stretches(span: tuple[int, int]) -> range:
    begin, end = span
    return range(begin // STRETCH_OFFSETS, -(-end // STRETCH_OFFSETS)) if begin < end else range(0)


def _is_open(row: Mapping[str, Any] | None, span: tuple[int, int], stretch: int) -> bool:
    """Whether a stretch needs a closer look."""
    begin, end = max(span[0], stretch * STRETCH_OFFSETS), min(span[1], (stretch + 1) * STRETCH_OFFSETS)
    return (
        row is None
        or row["records"] != end - begin
        or row["events"] != row["events_expected"]
        or row["events_misplaced"] > 0
    )


class _Gaps:
    """Looks closely at stretches that do not add up: what is missing, and what was never a record."""

    def __init__(self, store: Store, *, topic: str, held: Callable[..., Mapping[int, Sequence[int]]]) -> None:
        self._store = store
        self._topic = topic
        self._held = held
        self._names: list[str] = []
        self.missing = 0
        self.missing_events = 0
        self.excused = 0

    def look_at(self, partition: int, span: tuple[int, int], stretches: Sequence[int]) -> None:
        """Adds what is missing in these stretches of a partition; ends when enough was found missing."""
        for first in range(0, len(stretches), STRETCHES_AT_ONCE):
            if self.missing >= MISSING_MAX:
                return
            self._look(partition, span, stretches[first : first + STRETCHES_AT_ONCE])

    def _look(self, partition: int, span: tuple[int, int], stretches: Sequence[int]) -> None:
        rows = self._store.arrow(
            query("audit_raw_gaps"),
            {
                "topic": self._topic,
                "partition": partition,
                "stretches": list(stretches),
                "begin": span[0],
                "end": span[1],
            },
        ).to_pylist()
        unknown = [row["offset"] for row in rows if not row["of"]]
        held: set[int] = set()
        if unknown:
            held.update(self._held(self._topic, {partition: merged_spans(unknown)}).get(partition, ()))
        self.excused += sum(offset not in held for offset in unknown)
        for row in rows:
            if not row["of"] and row["offset"] not in held:
                continue
            self.missing += 1
            self.missing_events += max(1, row["of"] - len(row["indexes"]))
            if len(self._names) < NAMED_MAX:
                self._names.append(f"{self._topic}/{partition}/{row['offset']}{_which_events(row)}")

    def detail(self) -> str:
        """What is missing by name, and how many offsets are no records."""
        said = []
        if self.missing:
            more = ", …" if self.missing > len(self._names) else ""
            said.append(f"Not accounted for: {', '.join(self._names)}{more}.")
        if self.missing >= MISSING_MAX:
            said.append("The search ended there; more may be missing.")
        if self.excused:
            said.append(f"{self.excused} offsets hold no record (markers of transactions).")
        return " ".join(said)


def _which_events(row: Mapping[str, Any]) -> str:
    if not row["of"]:
        return ""
    lost = sorted(set(range(row["of"])) - set(row["indexes"]))
    return f" (of its {row['of']} events: {', '.join(map(str, lost[:NAMED_MAX]))})"


def merged_spans(offsets: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending offsets as half-open spans; offsets nearer than LOOK_UP_GAP share one."""
    spans: list[tuple[int, int]] = []
    for offset in offsets:
        if spans and offset - spans[-1][1] < LOOK_UP_GAP:
            spans[-1] = (spans[-1][0], offset + 1)
        else:
            spans.append((offset, offset + 1))
    return spans


def newest_in_store(store: Store, *, topic: str) -> dict[str, dict[int, int]]:
    """The newest offset of the raw log (``raw``) and the newest block (``priced``) of which the store holds facts."""
    newest: dict[str, dict[int, int]] = {"raw": {}, "priced": {}}
    for row in store.rows(query("audit_newest"), {"topic": topic}):
        newest[row["log"]][row["partition"]] = row["newest"]
    return newest


def check_within_log(
    newest: Mapping[str, Mapping[int, int]], *, positions: Mapping[str, Mapping[int, Position]]
) -> Check:
    """No fact stands at or beyond the end of its log; one that does comes from a log that was deleted or recreated."""
    beyond = [
        f"{log} partition {partition} ends before {last}"
        for log, by_partition in newest.items()
        for partition, last in by_partition.items()
        if partition not in positions[log] or last >= positions[log][partition].end
    ]
    return Check(
        check="facts_within_the_log",
        ok=not beyond,
        expected="0",
        found=str(len(beyond)),
        detail=f"The log does not reach what was counted: {'; '.join(beyond[:NAMED_MAX])}." if beyond else "",
    )


def check_counted_once(store: Store, *, org: str, facts: int, horizon: timedelta) -> Check:
    """No identity has two facts within the dedupe horizon. ``facts`` is about how many there are."""
    buckets = facts // IDENTITIES_PER_BUCKET + 1
    extra, names = 0, list[str]()
    for bucket in range(buckets):
        rows = store.rows(
            query("audit_identities"),
            {
                "org": org,
                "buckets": buckets,
                "bucket": bucket,
                "horizon_us": int(horizon.total_seconds() * MICROSECONDS),
            },
        )
        extra += sum(row["extra"] for row in rows)
        names += [f"{row['org']} {row['source']} {row['id']}" for row in rows[:NAMED_MAX]]
    return Check(
        check="counted_once",
        ok=not extra,
        expected=str(facts),
        found=str(facts - extra),
        detail=_named("Counted more than once", names, of=extra),
    )


def check_repeats(store: Store, *, org: str, fence: Fence) -> Check:
    """Every duplicate and conflict names a fact that was counted; else its event would be lost."""
    rows = store.rows(query("audit_repeats"), {"org": org, "limit": MISSING_MAX, **fence.parameters()})
    names = [f"{row['topic']}/{row['partition']}/{row['offset']}/{row['index']}" for row in rows]
    return Check(
        check="repeats_have_their_first",
        ok=not rows,
        expected="0",
        found=str(len(rows)),
        detail=_named("Repeats of events that were never counted", names, of=len(rows)),
    )


def slices(store: Store, *, org: str, rows_max: int = SLICE_ROWS) -> list[Slice]:
    """The facts and totals of all orgs (or of one) in slices of about ``rows_max`` rows; an hour is never cut."""
    found: list[Slice] = []
    weights = ((row["org"], row["rows"]) for row in store.rows(query("audit_orgs"), {"org": org}))
    for orgs, rows in packed(weights, rows_max=rows_max):
        if len(orgs) == 1 and rows > rows_max:
            found += _slices_of_hours(store, org=orgs[0], rows_max=rows_max)
        else:
            found.append(Slice(orgs[0], orgs[-1], 0, LATEST_SECONDS))
    return found


def recent_slices(store: Store, *, since: Fence, rows_max: int = SLICE_ROWS) -> list[tuple[Slice, int]]:
    """What was written since a fence, in slices of one org with about so many rows each; an hour is never cut."""
    hours: dict[str, list[tuple[int, int]]] = {}
    for row in store.rows(
        query("audit_recent"), {"partitions": list(since.blocks), "since": list(since.blocks.values())}
    ):
        hours.setdefault(row["org"], []).append((row["start"], row["rows"]))
    return [
        (Slice(org, org, starts[0], starts[-1] + SECONDS_PER_HOUR), rows)
        for org, weights in hours.items()
        for starts, rows in packed(weights, rows_max=rows_max)
    ]


def _slices_of_hours(store: Store, *, org: str, rows_max: int) -> list[Slice]:
    weights = ((row["start"], row["rows"]) for row in store.rows(query("audit_hours"), {"org": org}))
    starts = [hours[0] for hours, _ in packed(weights, rows_max=rows_max)]
    # The first begins with time and the last ends with it, so that an hour that appears meanwhile is in one of them.
    bounds = [0, *starts[1:], LATEST_SECONDS]
    return [Slice(org, org, start, end) for start, end in pairwise(bounds)]


def packed(weights: Iterable[tuple[Any, int]], *, rows_max: int) -> Iterator[tuple[list[Any], int]]:
    """Neighbours put together up to a weight; what is heavier by itself stands alone."""
    together: list[Any] = []
    sum_of_rows = 0
    for key, rows in weights:
        if together and sum_of_rows + rows > rows_max:
            yield together, sum_of_rows
            together, sum_of_rows = [], 0
        together.append(key)
        sum_of_rows += rows
    if together:
        yield together, sum_of_rows


def check_facts_priced(store: Store, *, within: Sequence[Slice]) -> tuple[Check, int]:
    """Every fact costs what its lines cost and is called priced, free or unpriced accordingly; and their number."""
    facts, odd, names = 0, 0, list[str]()
    for one in within:
        (row,) = store.rows(query("audit_facts"), one.parameters())
        facts += row["facts"]
        odd += row["odd_facts"]
        names += row["examples"]
    check = Check(
        check="facts_priced",
        ok=not odd,
        expected=str(facts),
        found=str(facts - odd),
        detail=_named("Facts whose cost is not that of their lines", names, of=odd),
    )
    return check, facts


@dataclass
class _Lanes:
    """What the comparison of totals with facts adds up to."""

    lanes: int = 0
    behind: int = 0
    unequal: int = 0
    unequal_in_quantities: int = 0
    moving: int = 0
    drift_units: int = 0  # of 10⁻¹²


def check_totals(
    store: Store, *, within: Sequence[Slice], fence: Fence, next_fence: Callable[[], Fence]
) -> tuple[list[Check], list[Slice], Decimal]:
    """Every total is the sum of its facts up to its version, and no counted block is missing.

    Hands back the checks, the slices that differ, and what their costs differ by (Figures.drift_cost).
    While workers run, totals that they write at this moment are compared a little later, with the fence of then.
    """
    sums = _Lanes()
    differing: list[Slice] = []
    waiting = list(within)
    for last in (False,) * (PASSES - 1) + (True,):
        again: list[Slice] = []
        for one in waiting:
            found = _compared(store, one, fence=fence)
            if found.moving and not last:
                again.append(one)
                continue
            sums.lanes += found.lanes
            sums.moving += found.moving
            sums.behind += found.behind
            sums.unequal += found.unequal
            sums.unequal_in_quantities += found.unequal_in_quantities
            sums.drift_units += found.drift_units
            if found.behind or found.unequal or found.unequal_in_quantities:
                differing.append(one)
        if not again:
            break
        waiting, fence = again, next_fence()
    checks = _total_checks(sums, _differences(store, differing, fence=fence))
    return checks, differing, Decimal(sums.drift_units).scaleb(-COST_DECIMALS)


def _compared(store: Store, one: Slice, *, fence: Fence) -> _Lanes:
    parameters = {**one.parameters(), **fence.parameters()}
    (row,) = store.rows(query("audit_totals"), parameters)
    if row["lanes_ahead"] and not fence.live:
        # Nobody writes now, so a total of a block that was not committed can be compared at its own version.
        (row,) = store.rows(
            "SELECT count() AS lanes, 0 AS lanes_ahead, countIf(facts_behind > 0) AS lanes_behind, "  # noqa: S608
            "countIf(facts_behind = 0 AND NOT sums_equal) AS lanes_unequal, "
            "countIf(facts_behind = 0 AND NOT quantities_equal) AS lanes_unequal_in_quantities, "
            "toString(sum(abs(reinterpret(cost, 'Int128') - reinterpret(stored_cost, 'Int128')))) AS drift_units "
            f"FROM ({query('audit_rebuilt')})",
            parameters,
        )
    return _Lanes(
        lanes=row["lanes"] - row["lanes_ahead"],
        moving=row["lanes_ahead"],
        behind=row["lanes_behind"],
        unequal=row["lanes_unequal"],
        unequal_in_quantities=row["lanes_unequal_in_quantities"],
        drift_units=int(row["drift_units"]),
    )


def _differences(store: Store, differing: Sequence[Slice], *, fence: Fence) -> dict[str, list[str]]:
    """A few differing totals by name, for each check that they fail."""
    condition = f"{DIFFERS} AND {SETTLED}" if fence.live else DIFFERS
    page = (
        f"SELECT *, toString(hour) AS hour_text FROM ({query('audit_rebuilt')}) WHERE {condition} "  # noqa: S608
        f"LIMIT {NAMED_MAX} BY facts_behind > 0, sums_equal, quantities_equal"
    )
    named: dict[str, list[str]] = {"sums": [], "quantities": [], "behind": []}
    for one in differing:
        for row in store.rows(page, {**one.parameters(), **fence.parameters()}):
            if row["facts_behind"]:
                named["behind"].append(f"{_lane(row)} ({row['facts_behind']} facts missing)")
                continue
            if not row["sums_equal"]:
                named["sums"].append(f"{_lane(row)} ({_sums(row)})")
            if not row["quantities_equal"]:
                named["quantities"].append(f"{_lane(row)} ({_first_line(row)})")
        if all(len(names) >= NAMED_MAX for names in named.values()):
            break
    return named


def _lane(row: Mapping[str, Any]) -> str:
    lane = " ".join(
        f"{name}={row[name]}"
        for name in ("org", "project", "api_key", "environment", "user", "operation", "provider", "model")
        if row[name]
    )
    return f"{lane} at {row['hour_text']}"


def _sums(row: Mapping[str, Any]) -> str:
    return (
        f"{row['stored_requests']} requests, cost {row['stored_cost']:f}; "
        f"by the facts {row['requests']} requests, cost {row['cost']:f}"
    )


def _first_line(row: Mapping[str, Any]) -> str:
    columns = ("meters", "names", "quantities", "billed_quantities", "costs", "unpriced_events", "events")
    rebuilt = {line[:2]: line for line in zip(*(row[column] for column in columns), strict=True)}
    stored = {tuple(line[:2]): tuple(line) for line in row["stored_lines"]}
    meter, name = next(key for key in sorted(stored | rebuilt) if stored.get(key) != rebuilt.get(key))
    return f"{meter} as {name!r}: {_line(stored.get((meter, name)))}; by the facts {_line(rebuilt.get((meter, name)))}"


def _line(line: Sequence[Any] | None) -> str:
    if line is None:
        return "nothing"
    _, _, quantity, billed, cost, unpriced_events, events = line
    money = "no cost" if cost is None else f"cost {cost:f}"
    return f"{quantity:f} used, {billed:f} billed, {money}, {unpriced_events} of {events} events unpriced"


def _total_checks(sums: _Lanes, differences: Mapping[str, Sequence[str]]) -> list[Check]:
    moving = f"{sums.moving} totals were being written and are not judged." if sums.moving else ""
    return [
        Check(
            check=check,
            ok=not wrong,
            expected=str(sums.lanes),
            found=str(sums.lanes - wrong),
            detail=" ".join(filter(None, [_named(what, differences[kind], of=wrong), moving])),
        )
        for check, wrong, what, kind in (
            ("totals_equal_facts", sums.unequal, "Totals that are not their facts", "sums"),
            ("quantities_equal_facts", sums.unequal_in_quantities, "Totals that are not their facts", "quantities"),
            ("totals_not_behind", sums.behind, "Totals that miss counted blocks", "behind"),
        )
    ]


def rebuild_totals(store: Store, *, within: Sequence[Slice], fence: Fence) -> None:
    """Writes every differing total of these slices as its facts say; only while no worker runs.

    A row is written as of the newest committed block, which wins over what is there; a row that is newer than that,
    after a crash, keeps its own version, and among rows of one version the last one written stays.
    """
    assert not fence.live  # noqa: S101 -- the caller has looked
    columns = ", ".join(TOTAL_COLUMNS)
    settings = ", ".join(f"{name} = {value}" for name, value in INSERT_SETTINGS.items())
    for one in within:
        store.command(
            f"INSERT INTO totals_rows ({columns}) SETTINGS {settings} "  # noqa: S608 -- constants of this module
            f"SELECT {columns} FROM ({query('audit_rebuilt')}) WHERE {DIFFERS}",
            {**one.parameters(), **fence.parameters()},
        )


def _named(what: str, names: Sequence[str], *, of: int) -> str:
    if not of:
        return ""
    shown = "; ".join(names[:NAMED_MAX])
    return f"{what}: {shown}{'; …' if of > min(len(names), NAMED_MAX) else ''}."

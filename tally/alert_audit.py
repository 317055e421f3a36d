"""The audit's look at alerts: those that are stored are those that the rules bring about.

Alerts depend on the order of the log, so no sum proves them: the judge of the workers judges the counted log again,
from the first control block on, with every question answered as of its place. What it says of a stretch is compared
with what is stored for its blocks. Each stretch builds on what is stored of those before, as a worker does after a
restart; so when all of them agree, the whole does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from clickhouse.audit import NAMED_MAX, Check
from clickhouse.counted_log import CONTROL, CountedLog
from schemas.alerting import ALERTS
from tally.output import counted
from tally.rejudging import ROWS_AT_ONCE, Rejudging

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clickhouse.audit import Fence
    from clickhouse.client import Store
    from clickhouse.counted_log import Stretch

#: The newest facts of each partition are judged again, so many at most: a minute at 36,000 facts a second (measured
#: with two rules on a busy machine of two cores).
FACTS_MAX: Final = 2_000_000

KEY: Final = ("alert_id", "sequence")
_STORED: Final = " stored"
_NOTHING: Final = pl.DataFrame(schema=ALERTS)


@dataclass
class _Compared:
    """What comparing adds up to."""

    expected: int = 0
    missing: int = 0
    extra: int = 0
    other: int = 0
    names: list[str] = field(default_factory=list)

    def compare(self, judged: pl.DataFrame, stored: pl.DataFrame) -> None:
        """Takes in the transitions (ALERTS) of some blocks, by the rules and as they are stored."""
        self.expected += judged.height
        missing = judged.join(stored, on=KEY, how="anti")
        extra = stored.join(judged, on=KEY, how="anti")
        pairs = judged.join(stored, on=KEY, how="inner", suffix=_STORED)
        rest = [name for name in judged.columns if name not in KEY]
        differs = pl.any_horizontal(pl.col(name).ne_missing(pl.col(name + _STORED)) for name in rest)
        other = pairs.filter(differs)
        self.missing += missing.height
        self.extra += extra.height
        self.other += other.height
        self._name("missing", missing)
        self._name("not by the rules", extra)
        for row in other.iter_rows(named=True):
            first = next(name for name in rest if row[name] != row[name + _STORED])
            self._add(
                f"{named_transition(row)}: {first} is {_text(row[first + _STORED])}, by the rules {_text(row[first])}"
            )

    def _name(self, what: str, alerts: pl.DataFrame) -> None:
        for row in alerts.head(NAMED_MAX).iter_rows(named=True):
            self._add(f"{named_transition(row)} is {what}")

    def _add(self, name: str) -> None:
        if len(self.names) < NAMED_MAX:
            self.names.append(name)

    @property
    def wrong(self) -> int:
        """How many transitions differ."""
        return self.missing + self.extra + self.other


def check_alerts(store: Store, *, org: str, fence: Fence, facts_max: int = FACTS_MAX) -> Check:
    """The alerts of committed blocks are those that the rules bring about; ``org`` "" is all orgs. Nothing is written.

    Of each partition the newest ``facts_max`` facts are judged again; what came before is taken as it stands.
    """
    compared = _Compared()
    left_out: list[int] = []
    for partition, end in sorted(fence.blocks.items()):
        log = CountedLog(store, partition, org)
        stretches = log.stretches(rows_max=ROWS_AT_ONCE, end=end)
        ruled = _since_rules(stretches)
        judged = _newest(ruled, rows_max=facts_max)
        if len(judged) < len(ruled):
            left_out.append(partition)
        _compare(log, judged, compared, first=judged[0].first if len(judged) < len(ruled) else 0, end=end)
    return Check(
        check="alerts_equal_rules",
        ok=not compared.wrong,
        expected=str(compared.expected),
        found=str(compared.expected - compared.missing - compared.other + compared.extra),
        detail=" ".join(filter(None, [_differences(compared), _extent(left_out, facts_max)])),
    )


def _since_rules(stretches: Sequence[Stretch]) -> Sequence[Stretch]:
    """From the first control block on: before it there are no rules."""
    first = next((place for place, stretch in enumerate(stretches) if stretch.kind == CONTROL), len(stretches))
    return stretches[first:]


def _newest(stretches: Sequence[Stretch], *, rows_max: int) -> Sequence[Stretch]:
    """The last of them, with so many rows at most, but one."""
    rows = 0
    for place in range(len(stretches) - 1, -1, -1):
        rows += stretches[place].rows
        if rows > rows_max:
            return stretches[place:] if place == len(stretches) - 1 else stretches[place + 1 :]
    return stretches


def _compare(log: CountedLog, stretches: Sequence[Stretch], compared: _Compared, *, first: int, end: int) -> None:
    """Judges the stretches; the stored alerts of all blocks [first, end) are compared, also of those in between."""
    judging = Rejudging(log)
    if not stretches or first < stretches[0].first:
        compared.compare(_NOTHING, log.alerts(first=first, end=stretches[0].first if stretches else end))
    ends = [stretch.first for stretch in stretches[1:]]
    for stretch, stop in zip(stretches, [*ends, end], strict=False):
        alerts = judging.judge(stretch)
        # A control block ends alerts of every org.
        own = alerts if not log.org else alerts.filter(pl.col("org") == log.org)
        compared.compare(own, log.alerts(first=stretch.first, end=stop))


def named_transition(row: Mapping[str, Any]) -> str:
    """A row of ALERTS in the words of a person who looks for it."""
    start = "" if row["window_start"] is None else f" of {row['window_start']:%Y-%m-%dT%H:%M}Z"
    return (
        f"{row['transition']} {row['sequence']} of {row['rule']} for {row['org']}, {row['scope']} {row['scope_id']}, "
        f"{row['window']}{start} (block {row['block']})"
    )


def _text(value: Any) -> str:  # noqa: ANN401 -- any value of a column
    return f"{value.normalize():f}" if hasattr(value, "normalize") else str(value)


def _differences(compared: _Compared) -> str:
    if not compared.wrong:
        return ""
    counts = ((compared.missing, "missing"), (compared.extra, "not by the rules"), (compared.other, "different"))
    said = ", ".join(f"{count} {what}" for count, what in counts if count)
    more = "; …" if compared.wrong > len(compared.names) else ""
    return f"Alerts that are not what the rules say ({said}): {'; '.join(compared.names)}{more}."


def _extent(partitions: Sequence[int], facts_max: int) -> str:
    if not partitions:
        return ""
    which = f"partition {partitions[0]}" if len(partitions) == 1 else f"each of {counted(len(partitions), 'partition')}"
    return f"Judged again: the newest {facts_max} facts of {which}."

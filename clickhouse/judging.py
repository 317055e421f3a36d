"""What judging asks the store: windows, newest times, alerts and rules, all as of a block.

Each function answers one question of ``pipeline/judging/steps.py`` and decides nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import polars as pl

from clickhouse.counting import framed
from clickhouse.query import query
from schemas.alerting import ALERTS, LAST_FACTS, NEWEST, WINDOW_SUMS, InForce
from schemas.frames import MEMO_METERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from clickhouse.client import Store

HOUR_SECONDS: Final = 3_600
#: No window but ``total`` is longer than a month.
WINDOW_SECONDS_MAX: Final = 31 * 24 * HOUR_SECONDS
#: The last second of ClickHouse's DateTime.
_LAST_SECOND: Final = 2**32 - 1
_MICRO: Final = 1_000_000


def in_force_before(store: Store, *, partition: int, before: int) -> InForce:
    """What the newest control block before the block put into force; nothing when there was none."""
    rows = store.rows(query("in_force"), {"block_partition": partition, "before": before})
    return InForce.from_json(rows[0]["body"]) if rows else InForce()


def newest_times(store: Store, *, partition: int, before: int, orgs: Sequence[str] | None) -> pl.DataFrame:
    """The time of the newest event of each org (NEWEST) before the block; all orgs when ``orgs`` is None."""
    asked = {"block_partition": partition, "every_org": orgs is None, "orgs": list(orgs or ())}
    totals = framed(store.arrow(query("newest_of_totals"), asked), {**NEWEST, "last_block": pl.UInt64})
    settled = totals.filter(pl.col("last_block") < before).select(NEWEST.keys())
    ahead = totals.filter(pl.col("last_block") >= before).get_column("org").to_list()
    if not ahead:
        return settled
    place = {"block_partition": partition, "before": before, "orgs": ahead}
    return pl.concat([settled, framed(store.arrow(query("newest_of_facts"), place), NEWEST)]).sort("org")


def window_sums(  # noqa: PLR0913 -- the question's own parts
    store: Store,
    *,
    partition: int,
    before: int,
    scope: str,
    grain: str,
    windows: pl.DataFrame,
    with_tokens: bool = False,
    names: Sequence[str] = (),
    ids: Sequence[str] | None = None,
    by: str | None = None,
) -> pl.DataFrame:
    """The sums of windows by scope (WINDOW_SUMS) as they were before the block, by org, id, start and lane.

    By the hourly totals, except hours that a later block wrote already and steps of a minute: these by the facts.
    Tokens, which cost more to read and add up than all the rest, are 0 unless they are wanted; so are ``names``, the
    quantities.
    """
    if not windows.height:
        return pl.DataFrame(schema=WINDOW_SUMS)
    starts = windows.get_column("start").to_list()
    is_total = grain == "total"
    first = 0 if is_total else min(starts) // _MICRO
    last = _LAST_SECOND if is_total else max(starts) // _MICRO + WINDOW_SECONDS_MAX
    asked: dict[str, Any] = {
        "block_partition": partition,
        "before": before,
        "scope": scope,
        "grain": grain,
        "is_split": by is not None,
        "by": by or scope,
        "orgs": windows.get_column("org").unique().to_list(),
        "window_orgs": windows.get_column("org").to_list(),
        "window_starts": starts,
        "with_tokens": with_tokens,
        "with_quantities": bool(names),
        "names": list(names),
        "every_id": ids is None,
        "ids": list(ids or ()),
        "memo_meters": sorted(MEMO_METERS),
        "from_seconds": max(first, 0),
        "to_seconds": min(last, _LAST_SECOND),
    }
    if grain == "minute":
        asked |= {"to_seconds": max(starts) // _MICRO + 60, "in_hours": False, "ahead_orgs": [], "ahead_hours": []}
        return _added(_sums_of_changes(store, asked), names=names)
    settled, ahead = _settled_sums(store, asked, before=before)
    if not ahead:
        return settled
    hours = [row["hour_seconds"] for row in ahead]
    asked |= {"ahead_orgs": [row["org"] for row in ahead], "ahead_hours": hours, "in_hours": True}
    asked |= {"from_seconds": min(hours), "to_seconds": max(hours) + HOUR_SECONDS}
    return _added([settled, *_sums_of_changes(store, asked)], names=names)


def _sums_of_changes(store: Store, asked: dict[str, Any]) -> list[pl.DataFrame]:
    """The sums by facts, and what corrections changed in them; nearly always there are none of these to ask for.

    Nobody changes what blocks before this one wrote, so the answers belong together.
    """
    queries = ["window_sums_of_facts"]
    if store.rows(query("has_corrections"), asked):
        queries.append("window_sums_of_corrections")
    return [_sums(store.arrow(query(name), asked)) for name in queries]


def _settled_sums(store: Store, asked: dict[str, Any], *, before: int) -> tuple[pl.DataFrame, Sequence[dict[str, Any]]]:
    """The sums by totals without the hours that a later block wrote, and these hours.

    Nearly always there are none, and one look is enough. Otherwise it takes several, and between two of them somebody
    may write: the new owner of the partition while this worker sleeps, or a late write of the old one. So what a look
    shows of a later block is never believed: one asks again which hours these are.
    """
    ahead: list[dict[str, Any]] = []
    while True:
        hours = {"ahead_orgs": [row["org"] for row in ahead], "ahead_hours": [row["hour_seconds"] for row in ahead]}
        answer = store.arrow(query("window_sums"), {**asked, **hours})
        if not answer.num_rows or answer.column("last_block").to_numpy().max() < before:
            return _sums(answer), ahead
        ahead = store.rows(query("hours_ahead"), asked)


def latest_alerts(  # noqa: PLR0913 -- the question's own parts
    store: Store,
    *,
    partition: int,
    before: int,
    rules: Sequence[tuple[str, int]],
    orgs: Sequence[str] | None,
    starts: Sequence[int] | None,
    since: int,
) -> pl.DataFrame:
    """The latest transition of alerts (ALERTS) before the block, by alert id."""
    if not rules:
        return pl.DataFrame(schema=ALERTS)
    answer = store.arrow(
        query("latest_alerts"),
        {
            "block_partition": partition,
            "before": before,
            "rules": [rule for rule, _ in rules],
            "revisions": [revision for _, revision in rules],
            "every_org": orgs is None,
            "orgs": list(orgs or ()),
            "at_starts": starts is not None,
            "starts": list(starts or ()),
            "since": since,
        },
    )
    return framed(answer, ALERTS)


def last_facts(store: Store, *, partition: int, before: int, scope: str, spans: pl.DataFrame) -> pl.DataFrame:
    """The event of each scope that stands last in the log (LAST_FACTS); an org's scopes share one span."""
    by_org = spans.select("org", "start", "end").unique(subset=["org"])
    answer = store.arrow(
        query("last_facts"),
        {
            "block_partition": partition,
            "before": before,
            "scope": scope,
            "orgs": by_org.get_column("org").to_list(),
            "starts": by_org.get_column("start").to_list(),
            "ends": by_org.get_column("end").to_list(),
            "scope_orgs": spans.get_column("org").to_list(),
            "scope_ids": spans.get_column("id").to_list(),
        },
    )
    names = {"last_source": "fact_source", "last_id": "fact_id", "last_time": "fact_time"}
    return framed(answer.rename_columns([names.get(name, name) for name in answer.column_names]), LAST_FACTS)


def _sums(answer: pa.Table) -> pl.DataFrame:
    return framed(answer.rename_columns([column.removesuffix("_sum") for column in answer.column_names]), WINDOW_SUMS)


def _added(parts: Sequence[pl.DataFrame], *, names: Sequence[str]) -> pl.DataFrame:
    """The parts of each window as one row."""
    if sum(part.height > 0 for part in parts) <= 1:
        return max(parts, key=lambda part: part.height)
    quantities = [pl.col("quantities").list.get(place).sum().alias(f"quantity {place}") for place in range(len(names))]
    together = (
        pl.concat(parts)
        .group_by("org", "id", "start", "lane")
        .agg(*(pl.col(name).sum() for name in ("requests", "failed", "unpriced", "cost", "tokens")), *quantities)
    )
    listed = pl.concat_list([column.meta.output_name() for column in quantities]) if quantities else pl.lit([])
    return (
        together.with_columns(listed.cast(WINDOW_SUMS["quantities"]).alias("quantities"))
        .select(WINDOW_SUMS.keys())
        .sort("org", "id", "start", "lane")
    )

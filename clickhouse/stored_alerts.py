"""The view ``alerts`` read from one end to the other, in frames of bounded size."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from clickhouse.audit import packed
from clickhouse.counting import framed
from clickhouse.query import query
from schemas.alerting import ALERTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

    from clickhouse.client import Store

#: Transitions in one frame, give or take: some 3 KB of memory each while their messages are written out.
ROWS_AT_ONCE: Final = 20_000
#: Alert ids are hexadecimal hashes: ranges of their first four digits cut those of an org evenly.
_DIGITS: Final = 4


def stored_alerts(store: Store, *, org: str, rows_max: int = ROWS_AT_ONCE) -> Iterator[pl.DataFrame]:
    """Every transition (ALERTS) that the view shows, once, in frames of about ``rows_max``; ``org`` "" is all orgs.

    What is stored when the first frame is asked for is in one of them; what is stored later may be.
    """
    weights = ((row["org"], row["rows"]) for row in store.rows(query("audit_alert_orgs"), {"org": org}))
    for orgs, rows in list(packed(weights, rows_max=rows_max)):
        for first, end in _id_ranges(rows, rows_max=rows_max):
            asked = {"org_first": orgs[0], "org_last": orgs[-1], "id_first": first, "id_end": end}
            yield framed(store.arrow(query("audit_alerts"), asked), ALERTS)


def _id_ranges(rows: int, *, rows_max: int) -> Iterator[tuple[str, str]]:
    """Half-open ranges of alert ids that leave none out, whatever it looks like, with about so many rows each."""
    places = 16**_DIGITS
    parts = min(-(-rows // rows_max), places)
    inner = [f"{part * places // parts:0{_DIGITS}x}" for part in range(1, parts)]
    return pairwise(["", *inner, ""])

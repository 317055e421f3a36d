"""Workers with a bug planted on purpose: ``python -m tests.system.planted BUG`` runs one in place of ``tally worker``.

A harness that never fails proves nothing. Each bug here is a plausible mistake, and the run that is judged right with
``tally worker`` must be judged wrong with it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import polars as pl
import structlog

import agents.answers
from agents.chunks import ChunkConsumer
from agents.count import CountAgent
from clickhouse.client import Store
from pipeline.judging.steps import InsertAlerts, PublishAlerts
from schemas.errors import StoreUnavailable
from tally.main import main

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.count import Step

log = structlog.get_logger()

#: How long a step takes here, so that a fault finds it under way.
LATE_SECONDS: Final = 1.0
EVERY_BLOCK: Final = 2**63 - 1

#: What a worker that inserts facts once logs, so that the store can be killed meanwhile and the loss is known.
INSERT_BEGUN: Final = "planted_insert_begun"
INSERT_ENDED: Final = "planted_insert_ended"
INSERT_GIVEN_UP: Final = "planted_insert_given_up"

#: What a worker that holds alerts back logs, so that it can be killed while they are stored and not yet published.
PUBLISH_AWAITED: Final = "planted_publish_awaited"
PUBLISH_BEGUN: Final = "planted_publish_begun"


def acknowledge_before_insert() -> None:
    """Offsets are committed for blocks that are not stored yet; a kill in between loses them."""
    work = CountAgent.work

    async def acknowledged_at_once(self: Any, chunks: Any) -> None:
        before = getattr(self, "planted", None)

        async def later() -> None:
            if before is not None:
                await before
            await asyncio.sleep(LATE_SECONDS)
            await work(self, chunks)

        self.planted = asyncio.ensure_future(later())

    CountAgent.work = acknowledged_at_once  # type: ignore[method-assign]


def insert_facts_once() -> None:
    """An insert of facts whose outcome is unknown is taken for done instead of repeated; it says when it is at it."""
    insert = Store.insert

    def tried_once(self: Store, table: str, rows: Any) -> None:
        if table != "facts_rows":
            insert(self, table, rows)
            return
        log.info(INSERT_BEGUN)
        time.sleep(LATE_SECONDS)
        try:
            insert(self, table, rows)
            log.info(INSERT_ENDED)
        except StoreUnavailable:
            log.info(INSERT_GIVEN_UP)

    Store.insert = tried_once  # type: ignore[method-assign]


def restore_beyond_the_fence() -> None:
    """Memory is restored with the facts of blocks that will be read again, so these are taken for replays."""
    for name in ("identities_before", "known_facts"):
        question: Callable[..., Any] = getattr(agents.answers, name)

        def unfenced(store: Any, *, before: int, question: Callable[..., Any] = question, **rest: Any) -> Any:
            _ = before
            return question(store, before=EVERY_BLOCK, **rest)

        setattr(agents.answers, name, unfenced)


def publish_what_is_new_to_the_store() -> None:
    """Alerts that the store has already are taken for published; it says when there are some that are only stored."""
    write = CountAgent._write_alerts
    stored: set[tuple[str, int]] = set()

    async def stored_is_published(self: Any, steps: Sequence[Step]) -> None:
        if isinstance(steps[0], InsertAlerts):
            there = await self._ask(lambda store: store.rows("SELECT alert_id, sequence FROM alerts"))
            stored.update((row["alert_id"], row["sequence"]) for row in there)
        elif isinstance(steps[0], PublishAlerts):
            alerts = pl.concat([step.alerts for step in steps if isinstance(step, PublishAlerts)])
            names = alerts.select("alert_id", "sequence").iter_rows()
            alerts = alerts.filter(pl.Series([name not in stored for name in names], dtype=pl.Boolean))
            steps = [PublishAlerts(alerts)]
            if alerts.height:
                log.info(PUBLISH_AWAITED)
                await asyncio.sleep(LATE_SECONDS)
                log.info(PUBLISH_BEGUN)
        await write(self, steps)

    CountAgent._write_alerts = stored_is_published  # type: ignore[method-assign]


def leave_out_a_record() -> None:
    """A record that was fetched is not handed on: the second of each fetch that has three of a partition."""
    wait = ChunkConsumer._wait_next_records

    async def without_one(self: Any, timeout: float) -> Any:  # noqa: ASYNC109 -- Faust's signature
        records, active = await wait(self, timeout)
        for tp, run in (records or {}).items():
            if len(run) >= 3 and tp.topic.endswith("usage.events"):
                records[tp] = [run[0], *run[2:]]
        return records, active

    ChunkConsumer._wait_next_records = without_one  # type: ignore[method-assign]


BUGS: Final = {
    "acknowledge_before_insert": acknowledge_before_insert,
    "insert_facts_once": insert_facts_once,
    "restore_beyond_the_fence": restore_beyond_the_fence,
    "publish_what_is_new_to_the_store": publish_what_is_new_to_the_store,
    "leave_out_a_record": leave_out_a_record,
}

if __name__ == "__main__":
    BUGS[sys.argv[1]]()
    main(["worker"])

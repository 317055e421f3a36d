"""A worker that stores alerts and publishes them only once a file is there: ``python -m tests.audit.held_worker FILE``.

So an audit can look while a worker is in between.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.count import CountAgent
from tally.main import main

if TYPE_CHECKING:
    import polars as pl


def hold_alerts_until(there: Path) -> None:
    """Publishing waits for the file."""
    publish = CountAgent._publish_alerts

    async def held(self: Any, alerts: pl.DataFrame) -> None:
        while not there.exists():  # noqa: ASYNC110, ASYNC240 -- another process makes it
            await asyncio.sleep(0.05)
        await publish(self, alerts)

    CountAgent._publish_alerts = held  # type: ignore[method-assign]


if __name__ == "__main__":
    hold_alerts_until(Path(sys.argv[1]))
    main(["worker"])

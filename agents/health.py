"""``/metrics``, ``/livez`` and ``/readyz`` on one port, served by the worker's own loop.

A loop that hangs does not answer, which is what ``/livez`` is for; it never asks Kafka or the store. ``/readyz`` says
whether the worker is a member of its group and works its partitions off.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

if TYPE_CHECKING:
    import socket

    from agents.app import Pipeline
    from agents.metrics import Metrics

BEAT_SECONDS_MAX: Final = 30.0
STALLED_SECONDS_MAX: Final = 15.0


class HealthServer:
    """Serves the three pages on a socket that is bound already."""

    def __init__(self, listener: socket.socket, *, metrics: Metrics, pipeline: Pipeline) -> None:
        self._listener = listener
        self._metrics = metrics
        self._pipeline = pipeline
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where the pages are."""
        host, port = self._listener.getsockname()[:2]
        return f"http://{host}:{port}"

    async def start(self) -> None:
        """Starts to answer."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics_page)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.SockSite(self._runner, self._listener).start()

    async def stop(self) -> None:
        """Stops answering and closes the port."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics_page(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _livez(self, _request: web.Request) -> web.Response:
        age = time.monotonic() - self._pipeline.beat
        return _answer(ok=age < BEAT_SECONDS_MAX, text=f"last turn {age:.1f} s ago")

    async def _readyz(self, _request: web.Request) -> web.Response:
        if not self._pipeline.assigned:
            return _answer(ok=False, text="not assigned yet, or the group rebalances")
        stalled = self._pipeline.stalled_seconds
        return _answer(ok=stalled < STALLED_SECONDS_MAX, text=f"member of the group, {stalled:.1f} s without progress")


def _answer(*, ok: bool, text: str) -> web.Response:
    return web.Response(status=200 if ok else 503, text=f"{'ok' if ok else 'not ok'}: {text}\n")

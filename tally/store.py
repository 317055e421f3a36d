"""``tally store``: the embedded ClickHouse engine behind ClickHouse's HTTP protocol, in the foreground.

For development, tests and small installations. What it acknowledged is there after a kill; a real ClickHouse server
is a drop-in replacement.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Final

from clickhouse.embedded import Engine, EngineLimits
from clickhouse.http_server import LOOPBACK_NAMES, HttpServer, Login, ServerLimits
from schemas.errors import ServerUnavailable, TallyError, WrongUse
from tally.foreground import LOCALHOST, bound_socket, owned_folder

if TYPE_CHECKING:
    from pathlib import Path

STOP_SECONDS_MAX: Final = 20.0
DATABASE: Final = "tally"

#: Blocked in every thread and waited for: the engine installs handlers of its own, which would swallow ctrl-C.
STOP_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT})


def run_store(  # noqa: PLR0913 -- a command's options
    data: Path,
    port: int,
    *,
    host: str = LOCALHOST,
    user: str | None = None,
    password: str | None = None,
    engine_limits: EngineLimits | None = None,
    server_limits: ServerLimits | None = None,
) -> int:
    """Runs the store until SIGTERM or SIGINT, and hands back the exit code for the process.

    Prints one JSON line on stdout once it serves; the URL in it names the database ``tally``, which is made here.
    ``port`` 0 takes a free one. With ``password`` every request but the health check has to log in as ``user``
    (default: ``default``).

    Exit codes: 0 stopped as asked; 2 with one sentence on stderr when it cannot run here (port or folder taken, an
    address that others can reach without a password); 3 when the engine ended by itself.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        login = _login(host, user, password)
        with owned_folder(data, server="store") as folder, bound_socket(host, port) as bound:
            engine = Engine(folder, engine_limits)
            with engine.session() as session:
                session.ask(f"CREATE DATABASE IF NOT EXISTS {DATABASE}", "Null")
            return _serve(HttpServer(bound, engine, login=login, limits=server_limits))
    except TallyError as error:
        sys.stderr.write(f"tally: {error}\n")
        return error.exit_code
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _login(host: str, user: str | None, password: str | None) -> Login | None:
    if password:
        return Login(user or "default", password)
    if host not in LOOPBACK_NAMES:
        raise WrongUse(
            f"{host} can be reached from other machines: set a password for the store with TALLY_STORE_USER and "
            f"TALLY_STORE_PASSWORD, or use {LOCALHOST}."
        )
    return None


def _serve(server: HttpServer) -> int:
    engine_died = threading.Event()

    def end_without_engine() -> None:
        engine_died.set()
        os.kill(os.getpid(), signal.SIGTERM)

    server.on_engine_death = end_without_engine
    threading.Thread(target=server.serve_forever, name="accept", daemon=True).start()
    host, port = server.server_address[:2]
    sys.stdout.write(json.dumps({"ready": True, "url": f"http://{_in_url(str(host))}:{port}/{DATABASE}"}) + "\n")
    sys.stdout.flush()
    signal.sigwait(STOP_SIGNALS)
    server.stopping.set()
    threading.Thread(target=_end_at_once, name="second signal", daemon=True).start()
    server.shutdown()
    if not server.engine.close(wait_seconds=STOP_SECONDS_MAX):
        sys.stderr.write(f"tally: queries still ran after {STOP_SECONDS_MAX:.0f} s and were given up.\n")
    if engine_died.is_set():
        raise ServerUnavailable("The engine ended by itself: start the store again, what it acknowledged is there.")
    return 0


def _end_at_once() -> None:
    """A second signal does not wait for running queries: they were not acknowledged, and their writers will repeat."""
    signal.sigwait(STOP_SIGNALS)
    os._exit(1)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
